"""Results, input checks and the clustered interval."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import t

from annotation.statistics.estimates import (
    Caution,
    Estimate,
    Reason,
    check_codes,
    check_counts,
    check_weight,
    group_totals,
    jackknife,
    missing,
    ratio,
    reason_of,
)


def mean(totals: np.ndarray) -> np.ndarray:
    return ratio(totals[:, 0], totals[:, 1])


def mean_estimate(x: list[float], group: list[int] | None = None, **options: object) -> Estimate:
    totals = group_totals(np.column_stack([x, np.ones(len(x))]), None if group is None else np.array(group))
    defaults = {"n": len(x), "bounds": (-math.inf, math.inf), "undefined": Reason.NO_VOTES}
    return jackknife(totals, mean, **{**defaults, **options})


def test_the_jackknife_of_a_mean_is_the_textbook_interval():
    x = [1.0, 2.0, 4.0, 9.0]
    estimate = mean_estimate(x)
    se = np.std(x, ddof=1) / 2  # s/√n
    half = t.ppf(0.975, 3) * se
    assert estimate.value == pytest.approx(4.0)
    assert estimate.se == pytest.approx(se)
    assert (estimate.low, estimate.high) == (pytest.approx(4 - half), pytest.approx(4 + half))
    assert estimate.warnings == (Caution.FEW_GROUPS,)


def test_copies_of_items_in_the_same_group_do_not_narrow_the_interval():
    x, group = [1.0, 2.0, 4.0, 9.0], [0, 1, 2, 3]
    assert mean_estimate(x * 5, group * 5).se == pytest.approx(mean_estimate(x, group).se)
    assert mean_estimate(x * 5).se < 0.6 * mean_estimate(x).se


def test_names_of_groups_do_not_matter():
    x = [1.0, 2.0, 4.0, 9.0, 3.0]
    first, second = mean_estimate(x, [0, 0, 1, 2, 2]), mean_estimate(x, [70, 70, -3, 5, 5])
    assert (first.value, first.n_groups) == (second.value, second.n_groups)
    assert first.se == pytest.approx(second.se)


def test_the_interval_is_cut_to_the_range_and_says_so():
    estimate = mean_estimate([0.0, 1.0, 1.0], bounds=(0.0, 1.0))
    assert (estimate.low, estimate.high) == (0.0, 1.0)
    assert Caution.CLIPPED in estimate.warnings


def test_twenty_groups_are_enough():
    assert mean_estimate([float(i) for i in range(20)]).warnings == ()


def test_one_group_gives_a_value_without_interval():
    estimate = mean_estimate([1.0, 3.0], [0, 0])
    assert (estimate.value, estimate.se, estimate.low, estimate.high) == (2.0, None, None, None)
    assert estimate.reason is Reason.TOO_FEW_GROUPS


def test_a_value_that_hangs_on_one_group_has_no_interval():
    totals = np.array([[1.0, 1.0], [0.0, 0.0]])
    estimate = jackknife(totals, mean, n=1, bounds=(0.0, 1.0), undefined=Reason.NO_VOTES)
    assert (estimate.value, estimate.low, estimate.reason) == (1.0, None, Reason.TOO_FEW_GROUPS)


def test_what_does_not_exist_says_why():
    estimate = jackknife(np.zeros((3, 2)), mean, n=0, bounds=(0.0, 1.0), undefined=Reason.ONE_CLASS)
    assert (estimate.value, estimate.reason, estimate.n_groups) == (None, Reason.ONE_CLASS, 3)


@pytest.mark.parametrize(
    "fields",
    [
        {"value": math.nan},
        {"value": 0.5, "low": math.inf},
        {"value": None},
        {"value": 0.5, "reason": Reason.ONE_CLASS},
    ],
)
def test_an_estimate_refuses_numbers_that_are_none(fields):
    with pytest.raises(ValueError, match="estimate"):
        Estimate(method="jackknife", n=1, n_groups=1, **fields)


def test_reasons_and_their_numbers_are_one_to_one():
    assert [reason_of(reason.number) for reason in Reason] == list(Reason)
    assert reason_of(0) is None
    assert missing(Reason.NO_OVERLAP).reason == "no_overlap"


@pytest.mark.parametrize(
    ("codes", "options", "message"),
    [
        ([0, 3], {"size": 3}, "label must lie in 0..2, got 3"),
        ([0, -1], {"size": 3}, "label must lie in 0..2, got -1"),
        ([0.0, 1.0], {}, "label must hold integers"),
        ([True, False], {}, "label must hold integers"),
        ([0, 1], {"length": 3}, "label must have length 3, got 2"),
        ([[0, 1]], {}, "label must have one dimension"),
    ],
)
def test_malformed_codes_are_refused_by_name(codes, options, message):
    with pytest.raises(ValueError, match=message):
        check_codes(codes, name="label", **options)


def test_an_empty_list_of_codes_is_fine():
    assert check_codes([], name="label", size=3).dtype == np.int64


@pytest.mark.parametrize("weight", [[1.0, -1.0], [1.0, math.nan], [1.0, math.inf], [1.0]])
def test_malformed_weights_are_refused(weight):
    with pytest.raises(ValueError, match="weight"):
        check_weight(weight, length=2)


@pytest.mark.parametrize("counts", [[1, 2], [[1], [2]], [[1, -1]], [[1, math.nan]], [[0.5, 1]]])
def test_malformed_counts_are_refused(counts):
    with pytest.raises(ValueError, match="counts"):
        check_counts(counts, whole=True)
