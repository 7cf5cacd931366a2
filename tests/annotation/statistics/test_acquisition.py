"""When to stop asking: the sequential rule and its expected length."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from annotation.statistics.acquisition import Decision, expected_votes, overlap_decision
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
