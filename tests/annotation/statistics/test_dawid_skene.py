"""Dawid and Skene's model: published values, priors, gold, warm starts, and what is said of each annotator."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta

from annotation.statistics.aggregation import (
    Method,
    annotator_accuracy,
    dawid_skene,
    default_prior,
    held_out_log_loss,
    leave_one_out,
    majority,
    one_coin,
    prior_confusion,
    soft_labels,
    update_posterior,
    vote_counts,
)
from annotation.statistics.estimates import Caution, Reason
from tests.annotation.statistics.planted import planted
from tests.annotation.statistics.published import bluebirds, dawid_skene_1979, llmfao, multi_annotator, pandalm

TIGHT = 1e-13  # of V nats: as far as float64 goes
NO_VOTES = Reason.NO_VOTES.number


def test_the_published_maximum_likelihood_is_found(test_data):
    """Dawid & Skene 1979, tables 3 and 4 (page 25): class shares, observer 1, and the first patients' classes."""
    votes = dawid_skene_1979(test_data)
    found = dawid_skene(*votes.given, **votes.sizes, prior=None)
    assert found.pi == pytest.approx([0.40, 0.42, 0.11, 0.07], abs=0.005)
    observer_1 = [[0.89, 0.11, 0, 0], [0.07, 0.88, 0.05, 0], [0, 0.34, 0.66, 0], [0, 0, 0.56, 0.44]]
    assert found.theta[0] == pytest.approx(np.array(observer_1), abs=0.005)
    assert votes.ids[:6] == ["1", "2", "3", "4", "5", "6"]
    assert found.q.argmax(axis=1)[:6].tolist() == [0, 3, 1, 1, 1, 1]
    assert found.objective[-1] == pytest.approx(-192.891, abs=1e-3)
    assert found.converged and found.warnings == ()


def test_the_default_prior_on_the_published_table(test_data):
    votes = dawid_skene_1979(test_data)
    found = dawid_skene(*votes.given, **votes.sizes)
    assert found.pi == pytest.approx([0.3997, 0.4358, 0.1231, 0.0414], abs=1e-3)
    assert found.objective[-1] == pytest.approx(-393.7545, abs=1e-3)


def test_clean_annotators_get_the_label_of_their_majority(test_data):
    votes = pandalm(test_data)
    counts = vote_counts(votes.item, votes.label, n_items=votes.n_items, K=3)
    most = majority(counts)
    assert np.bincount(most.label).tolist() == [274, 65, 347]
    found = dawid_skene(*votes.given, **votes.sizes)
    assert np.array_equal(found.q.argmax(axis=1), most.label)
    assert found.objective[-1] == pytest.approx(-1119.073, abs=1e-2)
    assert found.q.max(axis=1).min() == pytest.approx(0.925, abs=1e-3)


def test_the_full_model_errs_least_on_bluebirds(test_data):
    """11.11 % after two steps is that of Zhang et al. 2014."""
    votes, truth = bluebirds(test_data)

    def error(found) -> float:
        return 100 * np.mean(found.q.argmax(axis=1) != truth)

    most = majority(vote_counts(votes.item, votes.label, n_items=votes.n_items, K=2))
    assert 100 * np.mean(most.label != truth) == pytest.approx(24.07, abs=0.01)
    two_steps = dawid_skene(*votes.given, **votes.sizes, prior=None, max_iter=2)
    assert error(two_steps) == pytest.approx(11.11, abs=0.01)
    assert two_steps.warnings == (Caution.NOT_CONVERGED,) and not two_steps.converged and two_steps.n_iter == 2
    assert error(dawid_skene(*votes.given, **votes.sizes, prior=None)) == pytest.approx(10.19, abs=0.01)
    assert error(dawid_skene(*votes.given, **votes.sizes)) == pytest.approx(11.11, abs=0.01)


def test_the_default_on_llmfao_and_its_leave_one_out_agreement(test_data):
    votes = llmfao(test_data).votes
    found = dawid_skene(*votes.given, **votes.sizes, tol=1e-9)
    assert found.pi == pytest.approx([0.3401, 0.3557, 0.3042], abs=1e-3)
    assert found.objective[-1] == pytest.approx(-6553.27, abs=0.05)
    most = majority(vote_counts(votes.item, votes.label, n_items=votes.n_items, K=3))
    assert np.mean(most.top.sum(axis=1) > 1) == pytest.approx(0.1646, abs=1e-4)
    others = leave_one_out(found, *votes.given, **votes.sizes)
    assert np.mean(others.argmax(axis=1) == votes.label) == pytest.approx(0.594, abs=2e-3)
    assert np.mean(found.q[votes.item].argmax(axis=1) == votes.label) == pytest.approx(0.691, abs=2e-3)


def test_the_default_agrees_with_an_outside_judge_as_the_majority_does_and_decides_its_ties(test_data):
    """STATISTICS 3.4: 622 pairs that both and GPT-4 decide, and 145 that tie at the top of the votes."""
    data = llmfao(test_data)
    votes, judge = data.votes, data.gpt4
    most = majority(vote_counts(votes.item, votes.label, n_items=votes.n_items, K=3)).label
    label = dawid_skene(*votes.given, **votes.sizes, tol=1e-9).q.argmax(axis=1)
    decided = (judge != 1) & (label != 1)
    both, tied = decided & (most >= 0) & (most != 1), decided & (most < 0)
    assert (both.sum(), tied.sum()) == (622, 145)
    assert np.mean(label[both] == judge[both]) == pytest.approx(0.686, abs=1e-3)
    assert np.mean(most[both] == judge[both]) == pytest.approx(0.685, abs=1e-3)
    assert np.mean(label[tied] == judge[tied]) == pytest.approx(0.648, abs=1e-3)


def test_the_default_on_debate_with_thousands_of_annotators(test_data):
    votes = multi_annotator(test_data, "debate")
    assert dawid_skene(*votes.given, **votes.sizes).objective[-1] == pytest.approx(-78344.8, abs=0.5)
    most = majority(vote_counts(votes.item, votes.label, n_items=votes.n_items, K=3))
    assert np.mean(most.top.sum(axis=1) > 1) == pytest.approx(0.1419, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llmfao", [1.093, 0.952, 0.927, 1.150, 0.856]),
        ("pandalm", [0.941, 0.517, 0.276, 0.296, 0.266]),
    ],
)
def test_hidden_votes_are_foretold_as_well_as_measured(test_data, name, expected):
    """STATISTICS 3.4; a mean over five draws has a standard error of up to .02 there and here."""
    votes = pandalm(test_data) if name == "pandalm" else llmfao(test_data).votes
    methods = [Method.CLASS_SHARES, Method.VOTE_SHARE, Method.ONE_COIN, Method.MLE, Method.DAWID_SKENE]
    losses = [
        [held_out_log_loss(*votes.given, **votes.sizes, method=method, rng=seed).value for seed in range(5)]
        for method in methods
    ]
    assert np.mean(losses, axis=1) == pytest.approx(expected, abs=2 * np.hypot(0.02, 0.02))
    assert np.mean(losses, axis=1).argmin() == methods.index(Method.DAWID_SKENE)


def test_the_interval_of_the_held_out_loss_is_over_prompts(test_data):
    votes = llmfao(test_data).votes
    args = {**votes.sizes, "method": Method.DAWID_SKENE, "rng": 0}
    by_prompt = held_out_log_loss(*votes.given, **args, group=votes.group)
    by_item = held_out_log_loss(*votes.given, **args)
    assert by_prompt.value == pytest.approx(by_item.value)
    assert (by_prompt.n_groups, by_item.n_groups) == (9, by_item.n)
    assert by_item.n == np.sum(np.bincount(votes.item) >= 3)
    assert held_out_log_loss(*votes.given, **args) == by_item  # the same seed draws the same votes
    assert held_out_log_loss(*votes.given, **{**args, "rng": np.random.default_rng(0)}) == by_item


@pytest.mark.parametrize("method", list(Method))
def test_a_foretold_vote_counts_by_the_logarithm_of_its_chance(method):
    """Everybody says 0: every method foretells that with more than ½, hence a loss between 0 and log 2."""
    item = np.repeat(np.arange(10), 4)
    found = held_out_log_loss(
        item, np.tile(np.arange(4), 10), np.zeros(40, int), n_items=10, n_annotators=4, K=2, method=method, rng=0
    )
    assert 0 <= found.value < np.log(2)
    assert found.n == 10


def test_the_held_out_loss_needs_items_with_three_votes():
    args = {"n_items": 2, "n_annotators": 2, "K": 2, "method": Method.VOTE_SHARE, "rng": 0}
    assert held_out_log_loss([0, 0, 1, 1], [0, 1, 0, 1], [0, 0, 1, 1], **args).reason is Reason.NO_OVERLAP
    assert held_out_log_loss([], [], [], **args).reason is Reason.NO_VOTES


def test_the_default_prior_is_three_right_one_each_wrong():
    gamma, c = default_prior(3)
    assert gamma.tolist() == [[3, 1, 1], [1, 3, 1], [1, 1, 3]] and c == 1
    assert prior_confusion(3).tolist() == [[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.25, 0.25, 0.5]]


def test_one_vote_by_hand():
    """One step from q = (1, 0): counts (3+1, 1 | 1, 3), so θ_00 = 4/5, θ_10 = 1/4; π = (2/3, 1/3)."""
    found = dawid_skene([0], [0], [0], n_items=1, n_annotators=1, K=2, max_iter=1)
    assert found.theta[0] == pytest.approx(np.array([[4 / 5, 1 / 5], [1 / 4, 3 / 4]]))
    assert found.pi == pytest.approx([2 / 3, 1 / 3])
    joint = np.array([2 / 3 * 4 / 5, 1 / 3 * 1 / 4])
    assert found.q[0] == pytest.approx(joint / joint.sum())
    log_prior = 3 * np.log(4 / 5) + np.log(1 / 5) + np.log(1 / 4) + 3 * np.log(3 / 4) + np.log(2 / 3) + np.log(1 / 3)
    assert found.objective[0] == pytest.approx(np.log(joint.sum()) + log_prior)


def test_gold_stays_as_it_is_and_teaches():
    """Two people of opposite opinion: gold on a few items says whom to believe on the others."""
    n = 40
    truth = np.arange(n) % 2
    item, annotator = np.tile(np.arange(n), 2), np.repeat([0, 1], n)
    label = np.concatenate([truth, 1 - truth])
    gold = np.where(np.arange(n) < 10, truth, -1)
    found = dawid_skene(item, annotator, label, n_items=n, n_annotators=2, K=2, gold=gold)
    assert np.array_equal(found.q[:10], np.eye(2)[truth[:10]])
    assert np.array_equal(found.q.argmax(axis=1), truth)
    others = leave_one_out(found, item, annotator, label, n_items=n, n_annotators=2, K=2, gold=gold)
    assert np.array_equal(others[:10], np.eye(2)[truth[:10]])


@pytest.mark.filterwarnings("error")
def test_gold_of_a_class_that_no_vote_leaves_possible_stays_gold():
    found = dawid_skene([0, 0], [0, 1], [0, 0], n_items=2, n_annotators=2, K=2, gold=[-1, 1], prior=None)
    assert found.pi.tolist() == [1, 0]
    assert found.q.tolist() == [[1, 0], [0, 1]]


def test_gold_without_votes_is_known_and_does_not_enter():
    votes = planted(0)
    plain = dawid_skene(*votes.given, **votes.sizes)
    gold = np.full(votes.n_items + 1, -1)
    gold[-1] = 2
    more = dawid_skene(*votes.given, **{**votes.sizes, "n_items": votes.n_items + 1}, gold=gold)
    assert more.q[-1].tolist() == [0, 0, 1] and more.reason[-1] == NO_VOTES
    assert more.objective == pytest.approx(plain.objective, abs=1e-9)
    assert more.q[:-1] == pytest.approx(plain.q, abs=1e-12)


def test_a_warm_start_and_a_cold_one_reach_the_same_point(test_data):
    """The last twentieth of the votes is new, as in the background refit."""
    votes = llmfao(test_data).votes
    old = slice(0, len(votes.item) * 19 // 20)
    before = dawid_skene(*(array[old] for array in votes.given), **votes.sizes)
    warm = dawid_skene(*votes.given, **votes.sizes, init=before.q, tol=TIGHT)
    cold = dawid_skene(*votes.given, **votes.sizes, tol=TIGHT)
    assert warm.q == pytest.approx(cold.q, abs=1e-4)


def test_one_person_alone_gets_labels_and_a_warning():
    found = dawid_skene([0, 1, 2], [0, 0, 0], [0, 1, 1], n_items=3, n_annotators=1, K=2)
    assert Caution.FEW_VOTES in found.warnings
    assert found.q.argmax(axis=1).tolist() == [0, 1, 1]


@pytest.mark.parametrize("prior", ["default", None])
def test_one_class_throughout_is_that_class(prior):
    item = np.repeat(np.arange(5), 3)
    found = dawid_skene(item, np.tile(np.arange(3), 5), np.ones(15, int), n_items=5, n_annotators=3, K=3, prior=prior)
    assert (found.q.argmax(axis=1) == 1).all()
    assert found.pi == pytest.approx(np.array([0, 1, 0]) if prior is None else np.array([1, 6, 1]) / 8, abs=0.02)
    assert found.theta[:, 0] == pytest.approx(np.full((3, 3), 1 / 3) if prior is None else found.theta[:, 0])


@pytest.mark.parametrize("n", [0, 2])
def test_no_votes_at_all_leave_the_prior(n):
    found = dawid_skene([], [], [], n_items=n, n_annotators=1, K=2)
    assert found.q == pytest.approx(np.full((n, 2), 0.5))
    assert found.theta[0] == pytest.approx(prior_confusion(2))
    assert found.reason.tolist() == [NO_VOTES] * n
    assert found.converged and found.n_iter == 0 and found.objective.shape == (0,)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"prior": "none"}, "prior"), ({"prior": (np.ones((2, 2)), 1.0)}, "prior"),
        ({"prior": (-np.eye(3), 1)}, "prior"), ({"prior": (np.eye(3), -1.0)}, "prior"),
        ({"prior": (np.eye(3), np.nan)}, "prior"),
        ({"gold": [3]}, "gold"), ({"gold": [-2]}, "gold"), ({"gold": [0, 0]}, "gold"),
        ({"weight": [-1.0]}, "weight"), ({"init": np.ones((2, 3))}, "init"), ({"init": np.zeros((1, 3))}, "init"),
        ({"item": [1]}, "item"), ({"annotator": [1]}, "annotator"), ({"label": [0.5]}, "label"), ({"K": 1}, "K"),
    ],
)  # fmt: skip
def test_malformed_arguments_are_refused_by_name(arguments, name):
    good = {"item": [0], "annotator": [0], "label": [0], "n_items": 1, "n_annotators": 1, "K": 3}
    merged = {**good, **arguments}
    votes = [merged.pop(array) for array in ("item", "annotator", "label")]
    with pytest.raises(ValueError, match=f"^{name} "):
        dawid_skene(*votes, **merged)


def test_the_accuracy_of_an_annotator_by_hand():
    """Two people each say 0 of item 0: q^(−v) is what the other's vote makes of the class shares."""
    votes = ([0, 0, 1], [0, 1, 1], [0, 0, 1])
    sizes = {"n_items": 2, "n_annotators": 3, "K": 2}
    found = one_coin(*votes, **sizes, max_iter=2)
    p = found.accuracy[1]
    others = leave_one_out(found, *votes, **sizes)
    odds = found.pi[0] / found.pi[1] * p / (1 - p)
    assert others[0] == pytest.approx([odds / (1 + odds), 1 / (1 + odds)])
    assert others[2] == pytest.approx(found.pi)
    accuracy = annotator_accuracy(found, *votes, **sizes)
    right = found.q[0, 0]
    assert accuracy.value[:2] == pytest.approx(found.accuracy[:2])
    assert [accuracy.low[0], accuracy.high[0]] == pytest.approx(beta.ppf([0.025, 0.975], right + 4, 1 - right + 2))
    # Row 0 of the confusion matrix: Dirichlet(4, 2) and the expected vote.
    assert [accuracy.cell_low[0, 0, 1], accuracy.cell_high[0, 0, 1]] == pytest.approx(
        beta.ppf([0.025, 0.975], 2, right + 4)
    )
    assert accuracy.n.tolist() == [1, 2, 0]
    assert accuracy.reason.tolist() == [0, 0, NO_VOTES]
    for array in (accuracy.value, accuracy.low, accuracy.high, accuracy.cell_low, accuracy.cell_high):
        assert np.isnan(array[2]).all() and np.isfinite(array[:2]).all()


@pytest.mark.parametrize(("votes_an_item", "covered"), [(3, 0.8), (5, 0.85), (25, 0.9)])
def test_the_interval_of_an_accuracy_holds_the_true_one(votes_an_item, covered):
    """160 people with about 200 votes each; with few votes an item the posterior itself is in doubt."""
    inside = []
    for seed in range(4):
        votes = planted(seed, n=8000 // votes_an_item, W=40, votes=votes_an_item)
        found = dawid_skene(*votes.given, **votes.sizes)
        accuracy = annotator_accuracy(found, *votes.given, **votes.sizes)
        assert np.all((accuracy.low < accuracy.value) & (accuracy.value < accuracy.high))
        true = votes.theta.diagonal(axis1=1, axis2=2).mean(axis=1)
        inside.append((accuracy.low < true) & (true < accuracy.high))
    assert np.mean(inside) > covered


def test_a_result_of_other_votes_is_refused():
    votes = planted(2)
    found = dawid_skene(*votes.given, **votes.sizes)
    with pytest.raises(ValueError, match=r"^result "):
        leave_one_out(found, *votes.given, **{**votes.sizes, "n_annotators": votes.n_annotators + 1})


def test_leaving_out_a_vote_of_weight_two_leaves_out_both_copies():
    votes = planted(3, n=20)
    weight = np.ones(len(votes.item))
    weight[0] = 2
    found = dawid_skene(*votes.given, **votes.sizes, weight=weight)
    others = leave_one_out(found, *votes.given, **votes.sizes, weight=weight)
    rest = tuple(array[1:] for array in votes.given)
    again = update_posterior(np.tile(found.pi, (votes.n_items, 1)), found.theta, *rest)
    assert others[0] == pytest.approx(again[votes.item[0]], abs=1e-12)


def test_soft_labels_of_a_model_are_its_posterior():
    votes = planted(4, n=10)
    counts = vote_counts(votes.item, votes.label, n_items=11, K=3)
    found = dawid_skene(*votes.given, **{**votes.sizes, "n_items": 11})
    labels = soft_labels(found, counts)
    assert labels.prob[:10] == pytest.approx(found.q[:10, 0] + found.q[:10, 1] / 2)
    assert labels.p_tie[:10] == pytest.approx(found.q[:10, 1])
    assert labels.confidence[:10] == pytest.approx(found.q[:10].max(axis=1))
    assert labels.share == pytest.approx(soft_labels(majority(counts), counts).share, nan_ok=True)
    assert labels.reason.tolist() == [0] * 10 + [NO_VOTES]
    assert all(np.isnan(values[10]) for values in (labels.prob, labels.share, labels.p_tie, labels.confidence))


@pytest.mark.slow
@pytest.mark.parametrize("K", [2, 3, 5])
def test_the_planted_confusion_matrices_are_recovered(K):
    """200 votes a person, ten an item."""
    votes = planted(5, K=K, n=1000, W=50, votes=10)
    found = dawid_skene(*votes.given, **votes.sizes)
    assert np.corrcoef(found.theta.ravel(), votes.theta.ravel())[0, 1] > 0.95
