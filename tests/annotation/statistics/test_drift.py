"""Agreement with the others over a person's votes: windows, slopes, and who is flagged."""

from __future__ import annotations

import math

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.special import expit

from annotation.statistics.bias import drift
from annotation.statistics.estimates import Reason, wilson
from tests.annotation.statistics.scanning import assert_every_number_is_there_or_has_a_reason


def fading(*, people: int = 20, votes: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All agree with odds of e; the last person's logit falls by 1 in 100 votes. Agreed, annotator, prompt."""
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(people), votes)
    place = np.tile(np.arange(votes), people)
    logit = np.where(who == people - 1, 1 - place / 100, 1.0)
    return (rng.random(len(who)) < expit(logit)).astype(float), who, rng.integers(0, 50, len(who))


def test_who_fades_is_flagged_and_nobody_else():
    agreed, who, prompt = fading()
    found = drift(agreed, who, n_annotators=20, group=prompt)
    assert found.flagged.nonzero()[0].tolist() == [19]
    assert found.slope.low[19] < -1 < found.slope.high[19]
    assert_every_number_is_there_or_has_a_reason(found)


def test_the_slope_is_statsmodels_with_clusters_without_its_further_factor():
    agreed, who, prompt = fading(people=3)
    found = drift(agreed, who, n_annotators=3, group=prompt)
    for person in range(3):
        own = who == person
        design = sm.add_constant(np.arange(own.sum()) / 100)
        theirs = sm.Logit(agreed[own], design).fit(disp=0, cov_type="cluster", cov_kwds={"groups": prompt[own]})
        n = own.sum()
        assert found.slope.value[person] == pytest.approx(theirs.params[1], abs=1e-8)
        assert found.slope.se[person] == pytest.approx(theirs.bse[1] * math.sqrt((n - 2) / (n - 1)), rel=1e-8)


def test_windows_hold_thirty_votes_or_more_and_cover_all():
    agreed = np.arange(95) % 2.0
    found = drift(agreed, np.zeros(95, dtype=int), n_annotators=1)
    assert found.agreement.n.tolist() == [32, 32, 31]
    assert found.window_first.tolist() == [0, 32, 64]
    assert found.window_last.tolist() == [31, 63, 94]
    first = wilson(16, 32)
    assert (found.agreement.low[0], found.agreement.high[0]) == pytest.approx((first.low, first.high))


def test_time_orders_the_votes_and_people_may_be_mixed():
    agreed, who, prompt = fading(people=3, votes=90)
    straight = drift(agreed, who, n_annotators=3, group=prompt)
    order = np.random.default_rng(1).permutation(len(who))
    mixed = drift(agreed[order], who[order], n_annotators=3, time=np.arange(len(who))[order], group=prompt[order])
    np.testing.assert_allclose(mixed.slope.value, straight.slope.value, atol=1e-9)
    np.testing.assert_allclose(mixed.slope.se, straight.slope.se, atol=1e-9)
    np.testing.assert_array_equal(mixed.agreement.value, straight.agreement.value)
    np.testing.assert_array_equal(order[mixed.window_first], straight.window_first)


def test_who_has_fewer_than_two_windows_is_never_flagged():
    agreed = np.concatenate([np.ones(27), np.zeros(27), [1, 0, 1, 0, 0]])
    found = drift(agreed, np.zeros(59, dtype=int), n_annotators=1)
    assert found.slope.p_value[0] < 0.05
    assert (found.few_votes[0], found.flagged[0]) == (True, False)


def test_slopes_that_do_not_exist_say_why():
    who = np.repeat([0, 2, 3], [40, 40, 1])
    agreed = np.concatenate([np.ones(40), np.arange(40) % 2, [1.0]])
    found = drift(agreed, who, n_annotators=4, group=np.zeros(81, dtype=int))
    expected = (Reason.SEPARATED, Reason.NO_VOTES, Reason.TOO_FEW_GROUPS, Reason.SEPARATED)
    assert found.slope.reason.tolist() == [reason.number for reason in expected]
    assert_every_number_is_there_or_has_a_reason(found)
    nothing = drift([], [], n_annotators=2)
    assert nothing.slope.reason.tolist() == [Reason.NO_VOTES.number] * 2
    assert len(nothing.agreement.value) == 0


def test_agreement_outside_nought_to_one_is_refused():
    with pytest.raises(ValueError, match=r"^agreed "):
        drift([1.5], [0], n_annotators=1)
