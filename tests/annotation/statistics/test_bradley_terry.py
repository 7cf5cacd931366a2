"""Bradley-Terry against published values, against evalica, and against its own definition."""

from __future__ import annotations

from pathlib import Path

import evalica
import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import t

from annotation.statistics.estimates import Caution, Reason
from annotation.statistics.ranking import (
    bootstrap_bradley_terry,
    bradley_terry,
    strength_intervals,
    win_matrix,
    win_probability,
)
from tests.annotation.statistics.contest_votes import draw_votes
from tests.annotation.statistics.published import Llmfao, baseball, llmfao, stigler

TEAMS = ("Boston", "Cleveland", "Detroit", "Milwaukee", "New York", "Toronto")
SMALL = 1e-9


def against(ranking, reference: int) -> tuple[np.ndarray, np.ndarray]:
    """Strengths less that of one system, and the standard errors of those differences."""
    cov = ranking.cov
    variance = np.diag(cov) + cov[reference, reference] - 2 * cov[reference]
    return ranking.strength - ranking.strength[reference], np.sqrt(np.maximum(variance, 0))


def votes_on_systems(data: Llmfao) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return data.left, data.right, 1 - data.votes.label / 2


def test_baseball_gives_the_published_abilities_against_baltimore(test_data: Path):
    data = baseball(test_data)
    value, se = against(bradley_terry(*data.given, n=7, l2=0), data.place("Baltimore"))
    places = [data.place(team) for team in TEAMS]
    assert value[places] == pytest.approx([1.11, 0.68, 1.44, 1.58, 1.25, 1.29], abs=0.005)
    assert se[places] == pytest.approx([0.334, 0.332, 0.340, 0.343, 0.336, 0.337], abs=5e-4)


def test_the_home_effect_of_baseball_is_a_covariate_that_is_always_one(test_data: Path):
    data = baseball(test_data)
    ranking = bradley_terry(*data.given, n=7, l2=0, covariates=np.ones((len(data.a), 1)))
    (home,) = ranking.coefficients
    assert home.value == pytest.approx(0.302, abs=5e-4)
    assert home.se == pytest.approx(0.131, abs=1e-3)
    ability = np.exp(ranking.strength) / np.exp(ranking.strength).sum()
    order = ("Baltimore", "Boston", "Cleveland", "Detroit", "Milwaukee", "New York", "Toronto")
    published = [0.044, 0.137, 0.088, 0.190, 0.220, 0.157, 0.164]
    assert ability[[data.place(team) for team in order]] == pytest.approx(published, abs=5e-4)


def test_the_default_prior_draws_baseball_together(test_data: Path):
    data = baseball(test_data)
    value, _ = against(bradley_terry(*data.given, n=7), data.place("Baltimore"))
    places = [data.place(team) for team in TEAMS]
    assert value[places] == pytest.approx([1.0405, 0.6385, 1.3526, 1.4897, 1.1735, 1.2180], abs=1e-4)


def test_citations_give_the_published_scores_of_journals(test_data: Path):
    data = stigler(test_data)
    value, se = against(bradley_terry(*data.given, n=4, l2=0), data.place("Biometrika"))
    places = [data.place(name) for name in ("Comm_Statist", "JASA", "JRSS_B")]
    assert value[places] == pytest.approx([-2.949, -0.480, 0.269], abs=5e-4)
    assert se[places] == pytest.approx([0.1025, 0.0606, 0.0708], abs=1e-4)


def test_llmfao_gives_the_strengths_and_standard_errors_of_the_specification(test_data: Path):
    data = llmfao(test_data)
    group = data.votes.group[data.votes.item]
    ranking = bradley_terry(*votes_on_systems(data), n=len(data.systems), l2=0, group=group)
    names = ("GPT 4", "Platypus-2 Instruct (70B)", "command-nightly", "Luminous Extended")
    strengths = ranking.strength[[data.systems.index(name) for name in names]]
    assert strengths == pytest.approx([0.6585, 0.5454, 0.5270, -0.9966], abs=1e-4)
    assert np.sqrt(np.diag(ranking.cov)).mean() == pytest.approx(0.1888, abs=1e-3)
    assert ranking.se.mean() == pytest.approx(0.1992, abs=1e-3)
    assert ranking.n_groups == 9
    assert Caution.FEW_GROUPS in ranking.warnings
    assert (ranking.high - ranking.strength) / ranking.se == pytest.approx(t.ppf(0.975, 8))


def test_llmfao_by_vote_annotator_and_pair_gives_the_standard_errors_of_the_specification(test_data: Path):
    data = llmfao(test_data)

    def mean_se(group: np.ndarray | None) -> float:
        ranking = bradley_terry(*votes_on_systems(data), n=len(data.systems), l2=0, group=group, rng=None)
        return float(ranking.se.mean())

    assert mean_se(None) == pytest.approx(0.143, abs=1e-3)
    assert mean_se(data.votes.annotator) == pytest.approx(0.157, abs=1e-3)
    assert mean_se(data.votes.item) == pytest.approx(0.164, abs=1e-3)


def test_llmfao_equals_evalica(test_data: Path):
    data = llmfao(test_data)
    a, b, outcome = votes_on_systems(data)
    kinds = {1.0: evalica.Winner.X, 0.5: evalica.Winner.Draw, 0.0: evalica.Winner.Y}
    theirs = evalica.bradley_terry(a, b, [kinds[x] for x in outcome], tolerance=1e-14, limit=10_000)
    log = np.log(theirs.scores.loc[np.arange(len(data.systems))].to_numpy())
    ours = bradley_terry(a, b, outcome, n=len(data.systems), l2=0)
    assert ours.strength == pytest.approx(log - log.mean(), abs=SMALL)


def test_two_systems_have_the_log_odds_of_their_wins_and_its_standard_error():
    a, b, outcome = [0] * 30, [1] * 30, [1.0] * 20 + [0.0] * 10
    ranking = bradley_terry(a, b, outcome, n=2, l2=0)
    value, se = against(ranking, 1)
    assert value[0] == pytest.approx(np.log(2))
    assert se[0] == pytest.approx(np.sqrt(1 / 20 + 1 / 10))
    # By vote the sandwich is the same, for binary outcomes of one pair, but for G/(G−1).
    assert ranking.difference(0, 1).se == pytest.approx(se[0] * np.sqrt(30 / 29))


def test_ties_are_half_a_win_for_each():
    ranking = bradley_terry([0] * 4, [1] * 4, [1.0, 0.5, 0.5, 0.0], n=2, l2=0)
    assert ranking.strength == pytest.approx([0, 0], abs=SMALL)
    doubled = bradley_terry([0] * 8, [1] * 8, [1.0] * 6 + [0.0] * 2, n=2, l2=0)
    mixed = bradley_terry([0] * 4, [1] * 4, [1.0, 1.0, 0.5, 0.5], n=2, l2=0)
    assert mixed.strength == pytest.approx(doubled.strength, abs=SMALL)


def test_the_covariance_is_the_inverse_information_in_directions_that_sum_to_zero():
    a, b, outcome = draw_votes(400, 5, seed=1)
    ranking = bradley_terry(a, b, outcome, n=5, l2=0.7)
    p = win_probability(ranking)
    met = win_matrix(a, b, outcome, n=5)
    weight = (met + met.T) * p * (1 - p)
    information = np.diag(weight.sum(axis=1)) - weight + 0.7 * np.eye(5)
    basis = np.linalg.qr(np.eye(5) - 1 / 5)[0][:, :4]
    expected = basis @ np.linalg.inv(basis.T @ information @ basis) @ basis.T
    assert ranking.cov == pytest.approx(expected, abs=SMALL)
    assert ranking.strength.sum() == pytest.approx(0, abs=SMALL)


def test_the_sandwich_sums_the_scores_of_groups():
    a, b, outcome = draw_votes(300, 4, seed=2, ties=0.2)
    group = np.random.default_rng(3).integers(12, size=300)
    ranking = bradley_terry(a, b, outcome, n=4, group=group)
    residual = outcome - win_probability(ranking)[a, b]
    scores = np.zeros((12, 4))
    np.add.at(scores, (group, a), residual)
    np.add.at(scores, (group, b), -residual)
    expected = ranking.cov @ scores.T @ scores @ ranking.cov * 12 / 11
    assert ranking.cov_clustered == pytest.approx(expected, abs=SMALL)


def test_a_difference_has_its_own_interval():
    a, b, outcome = draw_votes(300, 4, seed=4)
    ranking = bradley_terry(a, b, outcome, n=4)
    cov = ranking.cov_clustered
    difference = ranking.difference(0, 2)
    assert difference.value == pytest.approx(ranking.strength[0] - ranking.strength[2])
    assert difference.se == pytest.approx(np.sqrt(cov[0, 0] + cov[2, 2] - 2 * cov[0, 2]))
    assert ranking.difference(2, 0).low == pytest.approx(-difference.high)


def test_rank_intervals_follow_from_normal_draws():
    a, b, outcome = draw_votes(3000, 5, seed=5, scale=3)  # far apart: every rank is certain
    ranking = bradley_terry(a, b, outcome, n=5)
    places = 1 + np.argsort(np.argsort(-ranking.strength))
    assert ranking.rank_low.tolist() == ranking.rank_high.tolist() == places.tolist()
    level = bradley_terry([0, 1] * 50, [1, 0] * 50, [1.0] * 100, n=2)
    assert (level.rank_low.tolist(), level.rank_high.tolist()) == ([1, 1], [2, 2])


def test_the_same_seed_gives_the_same_ranks_and_none_leaves_them_out():
    votes = draw_votes(60, 6, seed=6)
    first, second = bradley_terry(*votes, n=6, rng=3), bradley_terry(*votes, n=6, rng=np.random.default_rng(3))
    assert first.rank_low.tolist() == second.rank_low.tolist()
    assert bradley_terry(*votes, n=6, rng=None).rank_low is None


def test_an_effect_of_length_is_taken_out_of_the_strengths():
    rng = np.random.default_rng(7)
    V = 40_000
    a, b = np.zeros(V, dtype=int), np.ones(V, dtype=int)
    length = rng.normal(loc=1.0, size=V)  # system 0 writes twice as long, and is no better
    outcome = (rng.random(V) < 1 / (1 + np.exp(-0.5 * length))).astype(float)
    ranking = bradley_terry(a, b, outcome, n=2, covariates=length[:, None])
    (effect,) = ranking.coefficients
    assert effect.low < 0.5 < effect.high
    assert ranking.difference(0, 1).low < 0 < ranking.difference(0, 1).high
    assert bradley_terry(a, b, outcome, n=2).difference(0, 1).low > 0.3


def test_a_covariate_that_adds_nothing_is_left_out_with_a_reason():
    a, b, outcome = draw_votes(200, 4, seed=8)
    side = np.where(np.random.default_rng(9).random(200) < 0.5, 1.0, -1.0)
    ranking = bradley_terry(a, b, outcome, n=4, covariates=np.column_stack([np.zeros(200), side, 2 * side]))
    zero, effect, copy = ranking.coefficients
    assert (zero.reason, copy.reason) == (Reason.ONE_CLASS, Reason.ONE_CLASS)
    alone = bradley_terry(a, b, outcome, n=4, covariates=side[:, None]).coefficients[0]
    assert effect.value == pytest.approx(alone.value, abs=SMALL)


def test_a_covariate_that_explains_every_vote_is_separated():
    a, b, outcome = draw_votes(200, 4, seed=10)
    ranking = bradley_terry(a, b, outcome, n=4, covariates=(2 * outcome - 1)[:, None])
    assert set(ranking.reason.tolist()) == {Reason.SEPARATED.number}
    assert np.all(np.isnan(ranking.strength))


def test_one_vote_with_an_outlying_covariate_does_not_erase_the_ranking():
    a, b, outcome = draw_votes(400, 5, seed=11)
    z = np.random.default_rng(12).normal(size=(400, 1))
    outcome = np.where(np.random.default_rng(13).random(400) < expit(z[:, 0]), 1.0, outcome)
    z[0], outcome[0] = 100, 1.0
    ranking = bradley_terry(a, b, outcome, n=5, covariates=z)
    without = bradley_terry(a[1:], b[1:], outcome[1:], n=5, covariates=z[1:])
    assert ranking.strength == pytest.approx(without.strength, abs=1e-6)  # the vote was certain already
    assert ranking.coefficients[0].value == pytest.approx(without.coefficients[0].value, abs=1e-6)


@pytest.mark.parametrize("unit", [1e7, 1e-7])
def test_the_unit_of_a_covariate_changes_nothing_but_the_unit_of_its_effect(unit: float):
    a, b, outcome = draw_votes(300, 4, seed=14)
    z = np.random.default_rng(15).normal(size=(300, 1))
    group = np.arange(300) % 40
    given, scaled = (bradley_terry(a, b, outcome, n=4, l2=0, covariates=x, group=group) for x in (z, z * unit))
    assert scaled.strength == pytest.approx(given.strength, abs=1e-7)
    for name in ("value", "se", "low", "high"):
        found, expected = (getattr(ranking.coefficients[0], name) for ranking in (scaled, given))
        assert found * unit == pytest.approx(expected, abs=1e-7)


def test_with_a_weak_prior_many_wins_in_a_row_are_far_apart_and_finite():
    votes = np.repeat(np.arange(6), 20_000), np.full(120_000, 6), np.ones(120_000)
    ranking = bradley_terry(*votes, n=7, l2=1e-8)
    assert ranking.converged
    assert set(ranking.reason.tolist()) == {0}
    d = ranking.strength[0] - ranking.strength[6]
    assert 20_000 * expit(-d) == pytest.approx(1e-8 * d / 7, rel=1e-6)  # the score of a winner, s = d/7


def test_a_long_chain_of_strong_systems_has_its_maximum_without_a_prior():
    links = 19  # each beats the next 1,000 times, and the last the first once: a flow of one win through every link
    a, b = np.append(np.repeat(np.arange(links), 1000), links), np.append(np.repeat(np.arange(1, links + 1), 1000), 0)
    ranking = bradley_terry(a, b, np.ones(len(a)), n=links + 1, l2=0)
    assert ranking.strength[0] - ranking.strength[links] == pytest.approx(links * np.log(999), abs=1e-6)


def test_without_votes_each_covariate_says_so():
    ranking = bradley_terry([], [], [], n=2, covariates=np.empty((0, 2)))
    assert [effect.reason for effect in ranking.coefficients] == [Reason.NO_VOTES] * 2


def test_without_a_prior_unconnected_systems_have_no_strengths():
    ranking = bradley_terry([0, 1, 3, 4], [1, 0, 4, 3], [1.0] * 4, n=6, l2=0)
    assert ranking.component.tolist() == [0, 0, -1, 1, 1, -1]
    missing = [Reason.NOT_CONNECTED.number] * 2 + [Reason.NO_VOTES.number]
    assert ranking.reason.tolist() == missing * 2
    assert np.all(np.isnan(ranking.strength))


def test_without_a_prior_an_undefeated_system_separates_the_votes():
    ranking = bradley_terry([0, 0, 1, 2], [1, 2, 2, 1], [1.0] * 4, n=3, l2=0)
    assert set(ranking.reason.tolist()) == {Reason.SEPARATED.number}
    assert ranking.component.tolist() == [0, 1, 1]


def test_with_a_prior_an_undefeated_system_is_finite():
    ranking = bradley_terry([0, 0, 1, 2], [1, 2, 2, 1], [1.0] * 4, n=3)
    assert np.all(np.isfinite(ranking.strength))
    assert ranking.strength.argmax() == 0
    assert ranking.warnings == (Caution.FEW_GROUPS,)


def test_with_a_prior_ranks_are_within_components_and_a_warning_says_so():
    a, b = [0, 1, 2, 3] * 30, [1, 0, 3, 2] * 30
    outcome = ([1.0, 0.0] * 2) * 29 + [0.0, 1.0] * 2
    ranking = bradley_terry(a, b, outcome, n=4)
    assert Reason.NOT_CONNECTED in ranking.warnings
    assert ranking.component.tolist() == [0, 0, 1, 1]
    assert ranking.rank_low.tolist() == ranking.rank_high.tolist() == [1, 2, 1, 2]
    assert ranking.difference(0, 2).reason is Reason.NOT_CONNECTED


def test_a_system_without_votes_changes_nothing_and_keeps_the_variance_of_the_prior():
    a, b, outcome = draw_votes(200, 4, seed=11)
    without = bradley_terry(a, b, outcome, n=4, l2=2)
    ranking = bradley_terry(a + (a > 1), b + (b > 1), outcome, n=5, l2=2)
    others = [0, 1, 3, 4]
    for name in ("strength", "se", "low", "high"):
        assert getattr(ranking, name)[others] == pytest.approx(getattr(without, name), abs=SMALL)
    assert ranking.rank_low[others].tolist() == without.rank_low.tolist()
    assert ranking.cov[np.ix_(others, others)] == pytest.approx(without.cov, abs=SMALL)
    # It scatters with variance ½ about 0, the mean of the others with ½/4: together ⅝ about that mean.
    assert ranking.cov[2] == pytest.approx([0, 0, 0.625, 0, 0], abs=SMALL)
    assert ranking.reason.tolist() == [0, 0, Reason.NO_VOTES.number, 0, 0]


def test_many_systems_are_fitted_without_a_dense_matrix():
    a, b, outcome = draw_votes(12_000, 2001, seed=12)
    ranking = bradley_terry(a, b, outcome, n=2001)
    assert ranking.converged
    assert (ranking.cov, ranking.se) == (None, None)
    p = 1 / (1 + np.exp(ranking.strength[b] - ranking.strength[a]))
    score = np.bincount(a, outcome - p, 2001) - np.bincount(b, outcome - p, 2001) - np.nan_to_num(ranking.strength)
    assert np.abs(score).max() < 1e-4


@pytest.mark.parametrize("l2", [0.0, 1.0])
@pytest.mark.parametrize("grouped", [False, True])
def test_intervals_without_a_matrix_are_those_of_the_matrix(l2: float, grouped: bool):
    votes = draw_votes(500, 8, seed=16, ties=0.2)
    group = np.arange(500) % 40 if grouped else None
    ranking = bradley_terry(*votes, n=9, l2=l2, group=group)
    first, last, absent = strength_intervals(ranking, *votes, systems=[0, 7, 8], l2=l2, group=group)
    for estimate, system in ((first, 0), (last, 7)):
        expected = [getattr(ranking, name)[system] for name in ("strength", "se", "low", "high")]
        assert [estimate.value, estimate.se, estimate.low, estimate.high] == pytest.approx(expected, abs=1e-8)
    assert absent.reason is Reason.NO_VOTES
    alone = bradley_terry(*votes, n=9, l2=l2, group=np.zeros(500, dtype=int))
    (estimate,) = strength_intervals(alone, *votes, systems=[0], l2=l2, group=np.zeros(500, dtype=int))
    assert (estimate.value, estimate.reason) == (alone.strength[0], Reason.TOO_FEW_GROUPS)


def test_bootstrap_replicates_scatter_as_the_sandwich_says():
    a, b, outcome = draw_votes(4000, 5, seed=13, ties=0.2)
    group = np.random.default_rng(14).integers(200, size=4000)
    for codes in (None, group):
        sandwich = bradley_terry(a, b, outcome, n=5, group=codes)
        replicates = bootstrap_bradley_terry(a, b, outcome, n=5, group=codes, B=2000)
        assert replicates.strength == pytest.approx(sandwich.strength, abs=SMALL)
        assert replicates.se == pytest.approx(sandwich.se, rel=0.1)
        assert replicates.low == pytest.approx(sandwich.low, abs=0.02)


def test_bootstrap_with_every_group_alike_has_no_width():
    a, b, outcome = (np.tile(x, 10) for x in draw_votes(50, 4, seed=15))
    ranking = bootstrap_bradley_terry(a, b, outcome, n=4, group=np.repeat(np.arange(10), 50), B=5)
    assert ranking.low == pytest.approx(ranking.strength, abs=1e-8)
    assert ranking.high == pytest.approx(ranking.strength, abs=1e-8)


def test_bootstrap_needs_a_prior():
    with pytest.raises(ValueError, match="l2"):
        bootstrap_bradley_terry([0, 1], [1, 0], [1.0, 1.0], n=2, l2=0)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"a": [0, 2]}, "a must"),
        ({"b": [1]}, "b must"),
        ({"b": [0, 0]}, "b must differ"),
        ({"outcome": [1.0, 0.7]}, "outcome"),
        ({"outcome": [1.0, np.nan]}, "outcome"),
        ({"outcome": [1.0]}, "outcome"),
        ({"n": -1}, "n must"),
        ({"l2": -1.0}, "l2"),
        ({"l2": np.inf}, "l2"),
        ({"group": [0]}, "group"),
        ({"covariates": [1.0, 1.0]}, "covariates"),
        ({"covariates": [[1.0], [np.nan]]}, "covariates"),
    ],
)
def test_malformed_votes_raise_and_name_the_argument(changed: dict[str, object], named: str):
    arguments = {"a": [0, 1], "b": [1, 0], "outcome": [1.0, 0.0], "n": 2, **changed}
    with pytest.raises(ValueError, match=named):
        bradley_terry(arguments.pop("a"), arguments.pop("b"), arguments.pop("outcome"), **arguments)


def test_without_a_covariance_a_difference_and_an_effect_are_there_without_interval():
    a = np.arange(2001)
    votes = np.tile(a, 2), np.tile((a + 1) % 2001, 2), np.repeat([1.0, 0.0], 2001)
    z = np.random.default_rng(0).normal(size=(4002, 1))
    ranking = bradley_terry(*votes, n=2001, covariates=z)
    for found in (ranking.difference(0, 1), *ranking.coefficients):
        assert (found.value is None, found.low, found.reason) == (False, None, None)
    one_group = bradley_terry(*votes, n=2001, group=np.zeros(4002, dtype=int)).difference(0, 1)
    assert (one_group.low, one_group.reason) == (None, None)


def test_with_one_group_a_difference_has_no_interval_for_that_reason():
    found = bradley_terry([0, 0], [1, 1], [1.0, 0.0], n=2, group=[0, 0]).difference(0, 1)
    assert (found.value, found.low, found.reason) == (0, None, Reason.TOO_FEW_GROUPS)
