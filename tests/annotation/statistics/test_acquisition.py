"""When to stop asking, and what to ask next: the sequential rule, the information of a vote, batches of pairs."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from annotation.statistics.acquisition import (
    Decision,
    expected_votes,
    overlap_decision,
    pair_gain,
    select_pairs,
    select_top,
    vote_information,
)
from annotation.statistics.aggregation import coin_confusion, update_posterior


@pytest.mark.parametrize(
    ("accuracy", "tau", "printed"),
    [(0.78, 0.90, 2.5), (0.78, 0.95, 3.7), (0.78, 0.98, 5.3), (0.85, 0.95, 2.2), (0.70, 0.95, 7.8)],
)
def test_expected_votes_are_as_printed(accuracy, tau, printed):
    assert expected_votes(accuracy, tau=tau) == pytest.approx(printed, abs=0.05)


@pytest.mark.parametrize(("accuracy", "tau"), [(0.5, 0.9), (1.0, 0.9), (0.8, 0.5), (0.8, 1.0)])
def test_a_coin_flipper_or_a_certain_bound_has_no_expected_length(accuracy, tau):
    with pytest.raises(ValueError, match=r"must be above 0\.5"):
        expected_votes(accuracy, tau=tau)


def test_each_reason_to_stop():
    q = [[0.99, 0.01, 0], [0.99, 0.01, 0], [0.5, 0.5, 0], [0.5, 0.5, 0], [0.5, 0.5, 0]]
    found = overlap_decision(q, [1, 2, 9, 3, 3], eligible=[9, 9, 99, 3, 4])
    assert list(found) == [
        Decision.MORE, Decision.STOP_CONFIDENT, Decision.STOP_CAP, Decision.STOP_NO_ANNOTATOR, Decision.MORE,
    ]  # fmt: skip


def test_the_posterior_of_the_leading_class_says_the_same_as_all_of_them():
    q = np.array([[0.96, 0.04], [0.6, 0.4]])
    assert list(overlap_decision(q, [2, 2])) == list(overlap_decision(q.max(axis=1), [2, 2]))


@given(st.integers(1, 9), st.data())
def test_more_only_below_the_cap_and_always_below_the_start(cap, data):
    start, n = data.draw(st.integers(1, cap)), data.draw(st.integers(0, 20))
    votes = data.draw(arrays(np.int64, n, elements=st.integers(0, 12)))
    q = data.draw(arrays(np.float64, n, elements=st.floats(0, 1)))
    tau = data.draw(st.floats(0.01, 1))
    more = overlap_decision(q, votes, tau=tau, start=start, cap=cap) == Decision.MORE
    assert np.all(more[votes < start])
    assert not np.any(more[votes >= max(cap, start)])
    assert np.array_equal(more, (votes < start) | ((votes < cap) & (q < tau)))


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"q": [[1.2, -0.2]]}, "q"), ({"n_votes": [1, 2]}, "n_votes"), ({"tau": 0.0}, "tau"), ({"start": 0}, "start"),
        ({"start": 5, "cap": 4}, "start"), ({"eligible": [1, 2]}, "eligible"),
    ],
)  # fmt: skip
def test_malformed_arguments_are_refused_by_name(arguments, name):
    merged = {"q": [[0.5, 0.5]], "n_votes": [3], **arguments}
    with pytest.raises(ValueError, match=f"^{name} "):
        overlap_decision(merged.pop("q"), merged.pop("n_votes"), **merged)


def test_the_rule_takes_as_many_votes_as_it_should_and_keeps_its_promise():
    """People right with .78, bound .95: at least the expected length (votes come whole), and errors below .05."""
    rng = np.random.default_rng(0)
    n, accuracy, tau = 20_000, 0.78, 0.95
    q, votes = np.full((n, 2), 0.5), np.zeros(n, dtype=np.int64)
    theta = coin_confusion([accuracy], K=2)
    while True:
        more = np.flatnonzero(overlap_decision(q, votes, tau=tau, start=1, cap=99) == Decision.MORE)
        if not len(more):
            break
        label = (rng.random(len(more)) >= accuracy).astype(np.int64)  # the truth is 0
        q[more] = update_posterior(q[more], theta, np.arange(len(more)), np.zeros(len(more), dtype=np.int64), label)
        votes[more] += 1
    assert expected_votes(accuracy, tau=tau) <= votes.mean() <= expected_votes(accuracy, tau=tau) + 1.5
    assert (q.argmax(axis=1) != 0).mean() < 1 - tau


# --- what the next vote would tell ------------------------------------------------------------------------------------


def entropy(p):
    p = np.asarray(p, dtype=float)
    return -np.sum(np.where(p > 0, p * np.log(np.where(p > 0, p, 1.0)), 0.0), axis=-1)


def distributions(rng, *shape):
    return rng.dirichlet(np.ones(shape[-1]), size=shape[:-1])


def test_the_information_of_a_vote_is_that_of_the_binary_formula():
    q, p = 0.7, 0.85
    mixed = q * p + (1 - q) * (1 - p)
    expected = entropy([mixed, 1 - mixed]) - entropy([p, 1 - p])
    found = vote_information([[q, 1 - q]], coin_confusion([p], K=2))
    assert found == pytest.approx(np.array([[expected]]), abs=1e-12)


@pytest.mark.parametrize("K", [2, 3, 5])
@given(seed=st.integers(0, 2**32 - 1))
def test_the_information_of_a_vote_is_the_mean_fall_of_the_posteriors_entropy(K, seed):
    rng = np.random.default_rng(seed)
    q, theta = distributions(rng, 4, K), distributions(rng, 3, K, K)
    joint = q[:, None, :, None] * theta[None]  # [n, W, true, observed]
    after = joint / joint.sum(axis=2, keepdims=True)
    fall = entropy(q)[:, None] - np.sum(joint.sum(axis=2) * entropy(np.moveaxis(after, 2, 3)), axis=2)
    found = vote_information(q, theta)
    assert found.shape == (4, 3)
    assert np.all(found >= 0)
    assert found == pytest.approx(fall, abs=1e-9)


@pytest.mark.parametrize("K", [2, 3, 5])
def test_a_coin_flipper_and_a_certain_item_tell_nothing(K):
    rng = np.random.default_rng(K)
    anybody, coin = distributions(rng, 5, K, K), coin_confusion([1 / K], K=K)
    assert vote_information(np.eye(K), anybody) == pytest.approx(np.zeros((K, 5)), abs=1e-12)
    assert vote_information(distributions(rng, 6, K), coin) == pytest.approx(np.zeros((6, 1)), abs=1e-12)


def test_a_better_annotator_tells_more_and_an_open_item_is_told_more_of():
    found = vote_information([[0.5, 0.5], [0.9, 0.1]], coin_confusion([0.6, 0.8, 0.95], K=2))
    assert np.all(np.diff(found, axis=1) > 0)
    assert np.all(found[0] > found[1])


def model(rng, *, n, d):
    x, root = rng.normal(size=(n, d)), rng.normal(size=(d, d))
    return x, rng.normal(size=d), root @ root.T / d + 0.1 * np.eye(d)


@given(seed=st.integers(0, 2**32 - 1))
def test_the_strength_gain_is_the_growth_of_half_the_log_determinant(seed):
    x, mean, cov = model(np.random.default_rng(seed), n=6, d=3)
    difference = x @ mean
    p = 1 / (1 + np.exp(-difference))
    gain = pair_gain(difference, np.einsum("nd,de,ne->n", x, cov, x))
    before = np.linalg.inv(cov)
    for i in range(len(x)):
        after = before + p[i] * (1 - p[i]) * np.outer(x[i], x[i])
        growth = np.linalg.slogdet(after)[1] - np.linalg.slogdet(before)[1]
        assert gain[i] == pytest.approx(growth / 2, rel=1e-8, abs=1e-10)


def test_the_order_gain_is_greatest_for_equals_and_none_for_what_is_known():
    gain = pair_gain([0.0, 1.0, 3.0, 0.0], [1.0, 1.0, 1.0, 0.0], objective="order")
    assert gain[0] == pytest.approx(0.5 * 0.25)  # Φ(0) · ¼ · 1
    assert gain[0] > gain[1] > gain[2] > 0
    assert gain[3] == 0


def test_an_ensemble_that_agrees_tells_nothing_and_one_that_is_split_a_bit():
    far = 40.0  # σ(40) is 1 up to rounding
    gain = pair_gain([[1.0, far], [1.0, -far]], objective="bald")
    assert gain == pytest.approx([0, math.log(2)], abs=1e-9)


@given(seed=st.integers(0, 2**32 - 1), objective=st.sampled_from(["strength", "order"]))
def test_swapping_the_two_of_a_pair_changes_no_gain(seed, objective):
    rng = np.random.default_rng(seed)
    d, v = rng.normal(size=5), rng.gamma(1.0, size=5)
    assert pair_gain(d, v, objective=objective) == pytest.approx(pair_gain(-d, v, objective=objective))
    ensemble = rng.normal(size=(4, 5))
    assert pair_gain(ensemble, objective="bald") == pytest.approx(pair_gain(-ensemble, objective="bald"))


def refitted(x, mean, cov, chosen):
    """The covariance with the votes on `chosen` in it, by inversion."""
    p = 1 / (1 + np.exp(-(x[chosen] @ mean)))
    return np.linalg.inv(np.linalg.inv(cov) + (x[chosen].T * (p * (1 - p))) @ x[chosen])


@pytest.mark.parametrize("objective", ["strength", "order"])
def test_the_batch_is_the_greedy_one_of_the_refitted_covariance(objective):
    rng = np.random.default_rng(7)
    x, mean, cov = model(rng, n=9, d=4)
    found = select_pairs(x, mean=mean, cov=cov, size=5, objective=objective, explore=0.0, rng=1)
    chosen: list[int] = []
    for _ in range(5):
        now = refitted(x, mean, cov, chosen)
        gain = pair_gain(x @ mean, np.einsum("nd,de,ne->n", x, now, x), objective=objective)
        gain[chosen] = -1
        chosen.append(int(gain.argmax()))
    assert list(found.index) == chosen
    assert not found.explored.any()


def test_greedy_comes_close_to_the_best_of_all_batches():
    """At least 1 − 1/e of the best batch's gain, the bound of Nemhauser, Wolsey and Fisher 1978."""
    for seed in range(10):
        x, mean, cov = model(np.random.default_rng(seed), n=8, d=3)

        def growth(chosen, x=x, mean=mean, cov=cov):
            return -np.linalg.slogdet(refitted(x, mean, cov, list(chosen)))[1] + np.linalg.slogdet(cov)[1]

        best = max(growth(batch) for batch in itertools.combinations(range(8), 3))
        found = select_pairs(x, mean=mean, cov=cov, size=3, explore=0.0, rng=seed)
        assert (1 - math.exp(-1)) * best <= growth(found.index) <= best + 1e-9


def test_the_first_pair_of_a_ranking_is_of_those_that_are_least_known():
    x = np.array([[1.0, -1, 0], [1, 0, -1], [0, 1, -1]])
    found = select_pairs(x, mean=np.zeros(3), cov=np.diag([0.1, 1.0, 2.0]), size=1, explore=0.0, rng=0)
    assert list(found.index) == [2]


def test_the_control_arm_is_uniform_and_as_large_as_was_said():
    x, mean, cov = model(np.random.default_rng(3), n=40, d=3)
    times = np.zeros(40)
    for seed in range(400):
        found = select_pairs(x, mean=mean, cov=cov, size=20, explore=0.1, rng=seed)
        assert found.explored.sum() == 2
        times += np.bincount(found.index[found.explored], minlength=40)
    assert stats.chisquare(times).pvalue > 1e-3
    sizes = [select_pairs(x, mean=mean, cov=cov, size=5, rng=seed).explored.sum() for seed in range(400)]
    assert set(sizes) == {0, 1}  # half a pair of five is one in every second batch
    assert np.mean(sizes) == pytest.approx(0.5, abs=0.1)


@given(seed=st.integers(0, 2**32 - 1), size=st.integers(0, 30), explore=st.floats(0, 1))
def test_no_candidate_is_chosen_more_often_than_it_has_room(seed, size, explore):
    rng = np.random.default_rng(seed)
    x, mean, cov = model(rng, n=6, d=3)
    room = rng.integers(0, 4, size=6)
    found = select_pairs(x, mean=mean, cov=cov, size=size, explore=explore, room=room, rng=rng)
    assert len(found.index) == len(found.explored) == min(size, room.sum())
    assert np.all(np.bincount(found.index, minlength=6) <= room)
    top = select_top(rng.normal(size=6), size=size, explore=explore, rng=rng)
    assert len(set(top.index.tolist())) == len(top.index) == min(size, 6)


def test_the_top_is_the_greatest_gain_beside_the_control():
    gain = np.arange(100.0)
    found = select_top(gain, size=10, explore=0.2, rng=0)
    assert found.explored.sum() == 2
    rest = np.setdiff1d(np.arange(100), found.index[found.explored])
    assert list(found.index[~found.explored]) == list(rest[::-1][:8])


def test_the_same_seed_chooses_the_same_and_the_arguments_are_left_alone():
    x, mean, cov = model(np.random.default_rng(5), n=30, d=4)
    room = np.full(30, 2)
    copies = [array.copy() for array in (x, mean, cov, room)]
    one, other = (select_pairs(x, mean=mean, cov=cov, size=12, room=room, rng=9) for _ in range(2))
    assert np.array_equal(one.index, other.index)
    assert np.array_equal(one.explored, other.explored)
    assert all(np.array_equal(*both) for both in zip(copies, (x, mean, cov, room), strict=True))


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: vote_information([[0.5, 0.6]], np.eye(2)[None]), "q"),
        (lambda: vote_information([[0.5, 0.5]], np.eye(3)[None]), "theta"),
        (lambda: vote_information([[0.5, 0.5]], 0.5 * np.eye(2)[None]), "theta"),
        (lambda: pair_gain([np.inf], [1.0]), "difference"),
        (lambda: pair_gain([0.0], [1.0, 2.0]), "variance"),
        (lambda: pair_gain([0.0], [-1.0]), "variance"),
        (lambda: pair_gain([0.0]), "variance"),
        (lambda: pair_gain([0.0], objective="bald"), "difference"),
        (lambda: pair_gain(np.zeros((0, 2)), objective="bald"), "difference"),
        (lambda: select_pairs([1.0], mean=[0.0], cov=[[1.0]], size=1, rng=0), "x"),
        (lambda: select_pairs([[1.0]], mean=[0.0, 1.0], cov=[[1.0]], size=1, rng=0), "mean"),
        (lambda: select_pairs([[1.0]], mean=[0.0], cov=[[np.nan]], size=1, rng=0), "cov"),
        (lambda: select_pairs([[1.0]], mean=[0.0], cov=[[1.0]], size=-1, rng=0), "size"),
        (lambda: select_pairs([[1.0]], mean=[0.0], cov=[[1.0]], size=1, explore=1.5, rng=0), "explore"),
        (lambda: select_pairs([[1.0]], mean=[0.0], cov=[[1.0]], size=1, room=[-1], rng=0), "room"),
        (lambda: select_pairs([[1.0]], mean=[0.0], cov=[[1.0]], size=1, objective="bald", rng=0), "objective"),
        (lambda: select_top([np.nan], size=1, rng=0), "gain"),
    ],
)
def test_what_is_malformed_is_refused_by_name(call, name):
    with pytest.raises(ValueError, match=f"^{name} "):
        call()


def test_an_item_on_which_nobody_may_vote_stops_also_below_the_fewest_votes():
    assert overlap_decision([[0.6, 0.4]], [1], eligible=[1]).tolist() == ["stop_no_annotator"]
    assert overlap_decision([[0.99, 0.01]], [1], eligible=[1]).tolist() == ["stop_no_annotator"]
    assert overlap_decision([[0.6, 0.4]], [1], eligible=[2]).tolist() == ["more"]
