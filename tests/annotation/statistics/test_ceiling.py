"""How well a model can do against votes that disagree, and what noisy labels do to a measured accuracy."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import beta

from annotation.statistics.agreement import accuracy_ceiling, accuracy_without_label_noise
from annotation.statistics.estimates import Caution, Estimate, Reason, missing

PRINTED = [
    (0.63, 0.717, 0.755),
    (0.674, 0.756, 0.795),
    (0.726, 0.799, 0.836),
    (0.77, 0.834, 0.867),
    (0.81, 0.864, 0.894),
    (0.92, 0.944, 0.958),
]
PRINT = 5e-4  # half a unit of the third digit


def agreement(value: float, low: float | None = None, high: float | None = None) -> Estimate:
    return Estimate(value=value, low=low, high=high, method="jackknife", n=50, n_groups=50)


@pytest.mark.parametrize(("value", "ceiling", "upper"), PRINTED)
def test_the_printed_ceilings(value, ceiling, upper):
    found = accuracy_ceiling(agreement(value))
    assert found.ceiling.value == pytest.approx(ceiling, abs=PRINT)
    assert found.upper.value == pytest.approx(upper, abs=PRINT)


@given(st.floats(0.51, 0.98))
def test_the_ceiling_is_the_mean_of_the_larger_share_under_beta(value):
    a = (1 / (2 * value - 1) - 1) / 2
    better_half, _ = quad(lambda p: 2 * p * beta.pdf(p, a, a), 0.5, 1)
    assert accuracy_ceiling(agreement(value)).ceiling.value == pytest.approx(better_half, abs=1e-6)


@given(st.floats(0.5, 1))
def test_the_ceiling_lies_between_the_agreement_and_the_upper_bound(value):
    found = accuracy_ceiling(agreement(value))
    assert value - 1e-12 <= found.ceiling.value <= found.upper.value + 1e-12
    assert found.upper.value == pytest.approx((1 + math.sqrt(2 * value - 1)) / 2)


def test_the_ends_of_the_range_are_a_coin_and_certainty():
    assert accuracy_ceiling(agreement(1.0)).ceiling.value == pytest.approx(1)
    assert accuracy_ceiling(agreement(0.5)).ceiling.value == 0.5
    assert accuracy_ceiling(agreement(0.5 + 1e-15)).ceiling.value == pytest.approx(0.5, abs=1e-6)


def test_the_interval_is_that_of_the_agreement_transformed():
    found = accuracy_ceiling(agreement(0.77, 0.63, 0.92))
    assert (found.ceiling.low, found.ceiling.high) == pytest.approx((0.717, 0.944), abs=PRINT)
    assert (found.upper.low, found.upper.high) == pytest.approx((0.755, 0.958), abs=PRINT)
    assert found.ceiling.method == "jackknife"


def test_an_interval_that_reaches_below_chance_stops_there_and_says_so():
    found = accuracy_ceiling(agreement(0.6, 0.45, 0.75))
    assert found.ceiling.low == 0.5
    assert Caution.CLIPPED in found.ceiling.warnings


def test_without_agreement_there_is_no_ceiling():
    below = accuracy_ceiling(agreement(0.49))
    assert (below.ceiling.value, below.ceiling.reason) == (None, Reason.BELOW_CHANCE)
    assert (below.upper.value, below.upper.reason) == (None, Reason.BELOW_CHANCE)
    assert accuracy_ceiling(missing(Reason.NO_OVERLAP)).upper.reason is Reason.NO_OVERLAP
    alone = Estimate(value=0.8, method="jackknife", n=9, n_groups=1, reason=Reason.TOO_FEW_GROUPS)
    assert accuracy_ceiling(alone).ceiling.reason is Reason.TOO_FEW_GROUPS


@given(st.floats(0, 1), st.floats(0.51, 1))
def test_the_correction_undoes_independent_label_errors(true, right):
    observed = true * right + (1 - true) * (1 - right)
    found = accuracy_without_label_noise(agreement(observed, observed, observed), right)
    assert (found.value, found.low, found.high) == pytest.approx((true, true, true), abs=1e-9)


def test_the_correction_stays_in_its_range_and_refuses_labels_that_say_nothing():
    found = accuracy_without_label_noise(agreement(0.85, 0.7, 0.95), 0.9)
    assert found.high == 1
    assert Caution.CLIPPED in found.warnings
    assert accuracy_without_label_noise(agreement(0.6), 0.5).reason is Reason.BELOW_CHANCE
    with pytest.raises(ValueError, match="label_accuracy"):
        accuracy_without_label_noise(agreement(0.6), 1.5)
