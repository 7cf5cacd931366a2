"""How much to ask for: the values that STATISTICS 6.5 prints, and what follows from the formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from annotation.statistics.acquisition import (
    design_effect,
    groups_for_half_width,
    items_for_accuracy,
    votes_for_bt_se,
    votes_for_win_rate,
)

ELO = 400 / math.log(10)  # points a logit


@pytest.mark.parametrize(("win_rate", "printed"), [(0.52, 4906), (0.55, 785), (0.60, 197), (0.65, 88)])
def test_the_votes_that_tell_a_win_rate_from_a_half_are_as_printed(win_rate, printed):
    assert votes_for_win_rate(win_rate) == printed == votes_for_win_rate(1 - win_rate)


def test_the_constant_of_the_win_rate_is_as_printed():
    quantiles = stats.norm.ppf(0.975) + stats.norm.ppf(0.8)
    assert quantiles**2 == pytest.approx(7.849, abs=5e-4)


def test_so_many_votes_have_the_power_that_they_promise():
    """The exact binomial test of 197 votes at a win rate of .6: near 80 %, and it rejects a half in 5 % or less."""
    n = votes_for_win_rate(0.6)
    edge = stats.binom.isf(0.025, n, 0.5)  # more wins than this are significant
    assert stats.binom.sf(edge, n, 0.5) <= 0.025
    assert stats.binom.sf(edge, n, 0.6) == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize(("half_width", "printed"), [(0.02, 2017), (0.03, 897)])
def test_the_items_that_an_accuracy_needs_are_as_printed(half_width, printed):
    assert items_for_accuracy(0.7, half_width=half_width) == printed
    assert stats.norm.ppf(0.975) ** 2 == pytest.approx(3.8415, abs=5e-5)


@pytest.mark.parametrize(("systems", "votes"), [(2, 400), (7, 546), (20, 3000)])
def test_the_error_of_a_balanced_ranking_is_that_of_its_information(systems, votes):
    """SE(s_i − s_j) = 2√((C−1)/N) for equals, from the inverse of N times the mean information of a vote."""
    pairs = systems * (systems - 1) // 2
    information = votes / pairs * 0.25 * (systems * np.eye(systems) - 1)
    cov = np.linalg.pinv(information)
    se = math.sqrt(cov[0, 0] + cov[1, 1] - 2 * cov[0, 1])
    assert se == pytest.approx(2 * math.sqrt((systems - 1) / votes))
    assert abs(votes_for_bt_se(se, n_systems=systems) - votes) <= 1  # the ceiling of what is whole up to rounding


def test_unequal_systems_need_more_votes_and_elo_is_a_unit():
    half = votes_for_bt_se(0.2, n_systems=20, mean_variance=0.125)
    assert half == pytest.approx(2 * votes_for_bt_se(0.2, n_systems=20), abs=1)
    assert pytest.approx(173.718, abs=5e-4) == ELO
    assert votes_for_bt_se(20 / ELO, n_systems=20) == math.ceil(4 * 19 * (ELO / 20) ** 2)


def test_pairs_of_a_prompt_that_resemble_each_other_count_for_less():
    assert design_effect(1, icc=0.9) == 1
    assert design_effect(10, icc=0.0) == 1
    assert design_effect(10, icc=1.0) == 10
    assert design_effect(5, icc=0.25) == 2


def test_an_interval_half_as_wide_takes_four_times_the_prompts():
    assert groups_for_half_width(30, half_width=0.1, wanted=0.05) == 120
    assert groups_for_half_width(30, half_width=0.1, wanted=0.1) == 30


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: votes_for_win_rate(0.5), "win_rate"), (lambda: votes_for_win_rate(1.0), "win_rate"),
        (lambda: votes_for_win_rate(math.nan), "win_rate"), (lambda: votes_for_win_rate(0.6, power=1.0), "power"),
        (lambda: votes_for_win_rate(0.6, level=0.0), "level"),
        (lambda: items_for_accuracy(1.0, half_width=0.1), "accuracy"),
        (lambda: items_for_accuracy(0.7, half_width=0.0), "half_width"),
        (lambda: votes_for_bt_se(0.0, n_systems=3), "se"), (lambda: votes_for_bt_se(0.1, n_systems=1), "n_systems"),
        (lambda: votes_for_bt_se(0.1, n_systems=3, mean_variance=0.3), "mean_variance"),
        (lambda: design_effect(0.5, icc=0.1), "items_per_group"), (lambda: design_effect(2, icc=-0.1), "icc"),
        (lambda: groups_for_half_width(0, half_width=0.1, wanted=0.1), "n_groups"),
        (lambda: groups_for_half_width(3, half_width=0.1, wanted=0.0), "wanted"),
    ],
)  # fmt: skip
def test_malformed_plans_are_refused_by_name(call, name):
    with pytest.raises(ValueError, match=f"^{name} "):
        call()
