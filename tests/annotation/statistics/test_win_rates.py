"""Win matrix and win rates, with intervals that know of groups."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from annotation.statistics.estimates import Reason, wilson
from annotation.statistics.ranking import bradley_terry, win_matrix, win_probability, win_rates
from tests.annotation.statistics.contest_votes import draw_votes


def test_the_win_matrix_counts_ties_half():
    wins = win_matrix([0, 1, 0, 2], [1, 0, 1, 1], [1.0, 1.0, 0.5, 0.0], n=4)
    assert wins.tolist() == [[0, 1.5, 0, 0], [1.5, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_rates_are_wins_and_half_the_ties():
    rates = win_rates([0, 1, 0], [1, 0, 1], [1.0, 1.0, 0.5], n=2)
    assert rates.rate[0, 1] == rates.rate[1, 0] == 0.5
    assert rates.n_votes.tolist() == [[0, 3], [3, 0]]


def test_the_interval_is_wilsons_for_the_votes_that_independence_would_be_worth():
    outcome = np.array([1.0] * 7 + [0.0] * 3)
    rates = win_rates([0] * 10, [1] * 10, outcome, n=2)
    estimate = wilson(7, 10, deff=10 / 9)  # by vote the jackknife's variance is the binomial one times n/(n−1)
    assert (rates.low[0, 1], rates.high[0, 1]) == (pytest.approx(estimate.low), pytest.approx(estimate.high))
    assert (rates.low[1, 0], rates.high[1, 0]) == (pytest.approx(1 - estimate.high), pytest.approx(1 - estimate.low))


def test_each_vote_as_its_own_group_is_the_same_as_no_groups():
    votes = draw_votes(300, 4, seed=1, ties=0.2)
    without, single = win_rates(*votes, n=4), win_rates(*votes, n=4, group=np.arange(300))
    for name in ("rate", "low", "high", "n_groups", "model"):
        assert getattr(without, name) == pytest.approx(getattr(single, name), abs=1e-9, nan_ok=True)


def test_copies_within_a_group_do_not_narrow_the_interval():
    votes = draw_votes(200, 3, seed=2)
    group = np.random.default_rng(3).integers(30, size=200)
    few = win_rates(*(np.tile(x, 5) for x in votes), n=3, group=np.tile(group, 5))
    many = win_rates(*(np.tile(x, 50) for x in votes), n=3, group=np.tile(group, 50))
    assert many.low == pytest.approx(few.low, abs=1e-9, nan_ok=True)
    assert many.high == pytest.approx(few.high, abs=1e-9, nan_ok=True)


def test_a_pair_that_never_met_and_a_single_group_have_reasons():
    rates = win_rates([0, 0, 1], [1, 1, 2], [1.0, 0.0, 1.0], n=3, group=[0, 1, 1])
    none, few = Reason.NO_VOTES.number, Reason.TOO_FEW_GROUPS.number
    assert rates.reason.tolist() == [[none, 0, none], [0, none, few], [none, few, none]]
    assert (rates.rate[1, 2], rates.rate[2, 1]) == (1.0, 0.0)
    assert np.isnan(rates.low[1, 2])
    assert np.isnan(rates.rate[0, 2])


def test_the_model_speaks_of_pairs_that_never_met():
    votes = ([0, 0, 1, 1], [1, 1, 2, 2], [1.0, 0.0, 1.0, 1.0])
    rates, ranking = win_rates(*votes, n=3), bradley_terry(*votes, n=3)
    assert rates.model[0, 2] == pytest.approx(expit(ranking.strength[0] - ranking.strength[2]))
    assert rates.model[0, 2] == win_probability(ranking)[0, 2]
    assert rates.model_reason[0, 2] == 0


def test_the_model_is_silent_across_components_and_where_it_does_not_exist():
    votes = ([0, 1, 2, 3], [1, 0, 3, 2], [1.0] * 4)
    assert win_rates(*votes, n=5).model_reason[0, 2] == Reason.NOT_CONNECTED.number
    assert win_rates(*votes, n=5).model_reason[0, 4] == Reason.NO_VOTES.number
    without = win_rates(*votes, n=5, ranking=bradley_terry(*votes, n=5, l2=0))
    assert without.model_reason[0, 1] == Reason.NOT_CONNECTED.number
    assert np.isnan(without.model[0, 1])


def test_a_ranking_of_other_systems_raises():
    with pytest.raises(ValueError, match="ranking"):
        win_rates([0], [1], [1.0], n=2, ranking=bradley_terry([0], [1], [1.0], n=3))
