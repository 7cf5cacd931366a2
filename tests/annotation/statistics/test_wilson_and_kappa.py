"""A proportion's interval, and Cohen's kappa of two annotators."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from annotation.statistics.agreement import cohen_kappa
from annotation.statistics.estimates import Reason, clustered_share, wilson, wilson_shares
from tests.annotation.statistics.published import rows_of

PRINT = 5e-5  # half a unit of the fourth digit, as printed


@given(st.integers(1, 400), st.floats(0, 1))
def test_wilson_is_the_interval_that_scipy_gives(n, share):
    right = round(share * n)
    ours, theirs = wilson(right, n), binomtest(right, n).proportion_ci(method="wilson")
    assert (ours.value, ours.n) == (right / n, n)
    assert ours.low == pytest.approx(theirs.low, abs=1e-12)
    assert ours.high == pytest.approx(theirs.high, abs=1e-12)


def test_wilson_with_a_design_effect_is_that_of_fewer_answers():
    clustered, fewer = wilson(60, 80, deff=2.0), wilson(30, 40)
    assert (clustered.low, clustered.high) == pytest.approx((fewer.low, fewer.high))
    assert wilson(60, 80, deff=0.5) == wilson(60, 80)


def test_wilson_of_nothing_says_so_and_of_too_much_is_refused():
    assert wilson(0, 0).reason == Reason.NO_VOTES
    with pytest.raises(ValueError, match="right"):
        wilson(3, 2)


def test_shares_of_many_people_are_each_ones_own_wilson():
    holds = np.array([1, 0, 1, 1, 0, 0, 1])
    found = wilson_shares(np.array([0, 0, 0, 2, 2, 2, 2]), holds, size=3)
    for person, (right, n) in {0: (2, 3), 2: (2, 4)}.items():
        one = wilson(right, n)
        assert (found.value[person], found.low[person], found.high[person]) == (one.value, one.low, one.high)
    assert (found.n.tolist(), found.reason.tolist()) == ([3, 0, 4], [0, Reason.NO_VOTES.number, 0])
    assert np.isnan(found.low[1])


def test_a_share_over_groups_has_the_width_of_as_many_answers_as_the_groups_leave_independent():
    groups = np.array([0.0, 1.0] * 10)  # ten answers a group, all equal within it: twenty independent answers
    clustered = clustered_share(10 * groups, np.full(20, 10.0))
    assert (clustered.value, clustered.n, clustered.n_groups) == (0.5, 200, 20)
    free = wilson(9.5, 19)  # the jackknife's variance is p(1 − p)/(G − 1)
    assert (clustered.low, clustered.high) == pytest.approx((free.low, free.high))


def test_a_share_over_one_group_or_none_has_no_interval():
    assert clustered_share(np.zeros(2), np.zeros(2)).reason is Reason.NO_VOTES
    alone = clustered_share(np.array([3.0, 0.0]), np.array([4.0, 0.0]))
    assert (alone.value, alone.low, alone.reason) == (0.75, None, Reason.TOO_FEW_GROUPS)


def table(test_data: Path, name: str) -> np.ndarray:
    return np.array([[int(n) for n in row.values()] for row in rows_of(test_data / "statistics" / name)])


def test_cohens_own_table(test_data):
    """Printed: kappa .492; with disagreements 0 1 3 / 1 0 6 / 3 6 0 it is .348."""
    counts = table(test_data, "cohen_1960.csv")
    assert cohen_kappa(counts).value == pytest.approx(0.492, abs=5e-4)
    weights = 1 - np.array([[0, 1, 3], [1, 0, 6], [3, 6, 0]]) / 6
    assert cohen_kappa(counts, weights=weights).value == pytest.approx(0.348, abs=5e-4)


def test_the_table_with_published_standard_errors(test_data):
    counts = table(test_data, "cohen_3x3_sas.csv")
    for weights, value, se in (("identity", 0.4842, 0.1380), ("linear", 0.4701, 0.1457)):
        kappa = cohen_kappa(counts, weights=weights)
        assert kappa.value == pytest.approx(value, abs=PRINT)
        assert kappa.se == pytest.approx(se, abs=PRINT)


def test_kappa_where_it_does_not_exist():
    assert cohen_kappa([[0, 0], [0, 0]]).reason == Reason.NO_OVERLAP
    assert cohen_kappa([[7, 0], [0, 0]]).reason == Reason.ONE_CLASS
    with pytest.raises(ValueError, match="square"):
        cohen_kappa([[1, 2], [3, 4], [5, 6]])


@given(st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3), min_size=3, max_size=3))
def test_kappa_does_not_care_who_is_first_nor_what_the_classes_are_called(rows):
    counts = np.array(rows)
    straight = cohen_kappa(counts)
    order = [2, 0, 1]
    for other in (cohen_kappa(counts.T), cohen_kappa(counts[np.ix_(order, order)])):
        assert other.reason == straight.reason
        assert other.value == pytest.approx(straight.value, abs=1e-12)
