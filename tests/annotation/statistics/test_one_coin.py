"""One number a person, and the posterior that grows vote by vote."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from annotation.statistics.aggregation import coin_confusion, one_coin, update_posterior
from annotation.statistics.estimates import Reason


@st.composite
def cases(draw: st.DrawFn) -> dict[str, object]:
    K, n, W = draw(st.sampled_from([2, 3, 5])), draw(st.integers(1, 6)), draw(st.integers(1, 5))
    V = draw(st.integers(0, 30))
    return {
        "item": draw(arrays(np.int64, V, elements=st.integers(0, n - 1))),
        "annotator": draw(arrays(np.int64, V, elements=st.integers(0, W - 1))),
        "label": draw(arrays(np.int64, V, elements=st.integers(0, K - 1))),
        "n_items": n, "n_annotators": W, "K": K,
    }  # fmt: skip


def solve(case, **changes):
    merged = {**case, **changes}
    arrays_ = [merged.pop(name) for name in ("item", "annotator", "label")]
    return one_coin(*arrays_, **merged)


def test_bluebirds_mislead_it_as_published(test_data):
    """Errors there are not symmetric: 41.7 % wrong, where the majority has 24.1 %."""
    folder = test_data / "statistics"
    rows = np.loadtxt(folder / "bluebirds.csv", delimiter=",", skiprows=2, dtype=np.int64)
    truth = np.loadtxt(folder / "bluebirds_truth.csv", delimiter=",", skiprows=2, dtype=np.int64)
    found = one_coin(*rows.T, n_items=108, n_annotators=39, K=2)
    assert found.converged
    assert 100 * np.mean(found.q.argmax(axis=1) != truth[:, 1]) == pytest.approx(41.7, abs=0.05)


@given(cases(), st.data())
def test_names_and_order_do_not_matter(case, data):
    found = solve(case)
    people = np.array(data.draw(st.permutations(range(case["n_annotators"]))))
    items = np.array(data.draw(st.permutations(range(case["n_items"]))))
    order = np.array(data.draw(st.permutations(range(len(case["item"])))), dtype=np.int64)
    again = solve(
        case, item=items[case["item"]][order], annotator=people[case["annotator"]][order], label=case["label"][order]
    )
    assert again.q[items] == pytest.approx(found.q, abs=1e-9)
    assert again.accuracy[people] == pytest.approx(found.accuracy, abs=1e-9)


@given(cases(), st.data())
def test_renaming_the_classes_renames_the_posterior(case, data):
    classes = np.array(data.draw(st.permutations(range(case["K"]))))
    found, again = solve(case), solve(case, label=classes[case["label"]])
    assert again.q[:, classes] == pytest.approx(found.q, abs=1e-9)


@given(cases())
def test_nothing_is_undefined_without_a_reason(case):
    found = solve(case)
    assert found.q.sum(axis=1) == pytest.approx(np.ones(case["n_items"]))
    assert np.all(np.isfinite(found.q)) and np.all((found.accuracy > 0) & (found.accuracy < 1))
    voted = np.bincount(case["item"], minlength=case["n_items"]) > 0
    assert np.array_equal(found.reason, np.where(voted, 0, Reason.NO_VOTES.number))


def test_a_person_without_votes_has_the_accuracy_of_the_prior():
    found = one_coin([0, 1], [0, 0], [0, 1], n_items=2, n_annotators=2, K=2)
    assert found.accuracy[1] == pytest.approx(4 / 6)


@given(cases(), st.data())
def test_vote_by_vote_is_the_same_as_all_at_once(case, data):
    W, K, n = case["n_annotators"], case["K"], case["n_items"]
    theta = coin_confusion(data.draw(arrays(np.float64, W, elements=st.floats(0.05, 0.95))), K=K)
    prior = np.full((n, K), 1 / K)
    item, annotator, label = case["item"], case["annotator"], case["label"]
    whole = update_posterior(prior, theta, item, annotator, label)
    step = prior
    for one in range(len(item)):
        cut = slice(one, one + 1)
        step = update_posterior(step, theta, item[cut], annotator[cut], label[cut])
    assert step == pytest.approx(whole, abs=1e-12)
    assert prior == pytest.approx(np.full((n, K), 1 / K))  # inputs are not written to


def test_a_vote_moves_the_odds_by_its_likelihood_ratio():
    q = update_posterior([[0.5, 0.5]], coin_confusion([0.8], K=2), [0], [0], [1])
    assert q[0, 1] / q[0, 0] == pytest.approx(0.8 / 0.2)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"q": [[0.0, 0.0]]}, "q"), ({"theta": np.ones((1, 3, 3))}, "theta"), ({"item": [2]}, "item"),
        ({"annotator": [1]}, "annotator"), ({"label": [2]}, "label"),
        ({"theta": np.array([[[1.0, 0.0], [1.0, 0.0]]]), "label": [1]}, "theta"),
    ],
)  # fmt: skip
def test_malformed_arguments_are_refused_by_name(arguments, name):
    good = {"q": [[0.5, 0.5]], "theta": coin_confusion([0.8], K=2), "item": [0], "annotator": [0], "label": [0]}
    with pytest.raises(ValueError, match=f"^{name} "):
        update_posterior(**(good | arguments))
