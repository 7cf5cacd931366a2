"""Davidson and Rao-Kupper against published values and evalica, and where they have nothing to say."""

from __future__ import annotations

from pathlib import Path

import evalica
import numpy as np
import pytest

from annotation.statistics.estimates import Caution, Reason
from annotation.statistics.ranking import bradley_terry, davidson, rao_kupper
from tests.annotation.statistics.contest_votes import draw_votes
from tests.annotation.statistics.published import llmfao, pandalm, pudding, rows_of

MODELS = [davidson, rao_kupper]


def test_pudding_gives_davidsons_published_shares_and_tie_parameter(test_data: Path):
    ranking = davidson(*pudding(test_data).given, n=6, l2=0)
    shares = np.exp(ranking.strength) / np.exp(ranking.strength).sum()
    published = [0.1388005, 0.1729985, 0.1617420, 0.1653930, 0.1586805, 0.2023855]  # stopped after seven steps
    assert shares == pytest.approx(published, abs=3e-5)
    assert ranking.tie_parameter == pytest.approx(0.7468147, abs=3e-5)


def test_pudding_converges_where_the_specification_says(test_data: Path):
    votes = pudding(test_data).given
    first, second = davidson(*votes, n=6, l2=0), rao_kupper(*votes, n=6, l2=0)
    assert first.tie_parameter == pytest.approx(0.746823, abs=1e-5)
    assert first.loglik == pytest.approx(-809.7095, abs=1e-3)
    assert second.tie_parameter == pytest.approx(1.748457, abs=1e-5)
    assert second.loglik == pytest.approx(-809.6971, abs=1e-3)


def test_llmfao_gives_the_tie_parameters_of_the_specification(test_data: Path):
    data = llmfao(test_data)
    votes = (data.left, data.right, 1 - data.votes.label / 2)
    first, second = (model(*votes, n=len(data.systems), l2=0) for model in MODELS)
    assert first.tie_parameter == pytest.approx(1.36290, abs=1e-4)
    assert first.loglik == pytest.approx(-5445.268, abs=0.01)
    assert second.tie_parameter == pytest.approx(2.43099, abs=1e-4)
    assert second.loglik == pytest.approx(-5437.304, abs=0.01)


def test_llmfao_equals_evalicas_newman_whose_v_is_half_of_nu(test_data: Path):
    data = llmfao(test_data)
    kinds = (evalica.Winner.X, evalica.Winner.Draw, evalica.Winner.Y)
    theirs = evalica.newman(data.left, data.right, [kinds[x] for x in data.votes.label], tolerance=1e-13, limit=100_000)
    ours = davidson(data.left, data.right, 1 - data.votes.label / 2, n=len(data.systems), l2=0)
    log = np.log(theirs.scores.loc[np.arange(len(data.systems))].to_numpy())
    assert ours.strength == pytest.approx(log - log.mean(), abs=1e-6)
    assert ours.tie_parameter == pytest.approx(2 * theirs.v, abs=1e-6)


def test_rao_kupper_fits_pandalm_better_than_davidson(test_data: Path):
    rows = rows_of(test_data / "statistics" / "pandalm_votes.csv")
    names = sorted({row[side] for row in rows for side in ("model_1", "model_2")})
    votes = pandalm(test_data)
    a, b = (np.array([names.index(row[side]) for row in rows])[votes.item] for side in ("model_1", "model_2"))
    first, second = (model(a, b, 1 - votes.label / 2, n=len(names), l2=0) for model in MODELS)
    assert first.loglik == pytest.approx(-1783.0, abs=0.05)
    assert second.loglik == pytest.approx(-1782.2, abs=0.05)


@pytest.mark.parametrize("model", MODELS)
def test_equal_systems_tie_as_often_as_the_votes_do(model):
    votes = ([0, 1] * 50, [1, 0] * 50, [1.0] * 60 + [0.5] * 40)
    ranking = model(*votes, n=2, l2=0)
    assert ranking.strength == pytest.approx([0, 0], abs=1e-9)
    if model is davidson:
        assert ranking.tie_parameter == pytest.approx(4 / 3)  # ν/(2 + ν) = .4
    else:
        assert ranking.tie_parameter == pytest.approx(1.4 / 0.6)  # (θ − 1)/(θ + 1) = .4
    assert ranking.tie_low < ranking.tie_parameter < ranking.tie_high


@pytest.mark.parametrize(("model", "without"), [(davidson, 0.0), (rao_kupper, 1.0)])
def test_without_ties_it_is_bradley_terry(model, without: float):
    votes = draw_votes(300, 5, seed=1)
    ranking, plain = model(*votes, n=5), bradley_terry(*votes, n=5)
    for name in ("strength", "cov", "se", "low", "rank_low"):
        assert getattr(ranking, name) == pytest.approx(getattr(plain, name), abs=1e-9)
    assert (ranking.tie_parameter, ranking.tie_low) == (without, None)
    assert Caution.NO_TIES in ranking.warnings


@pytest.mark.parametrize("model", [bradley_terry, *MODELS])
def test_only_ties_say_nothing(model):
    ranking = model([0, 1], [1, 2], [0.5, 0.5], n=3)
    assert set(ranking.reason.tolist()) == {Reason.ONE_CLASS.number}
    assert np.all(np.isnan(ranking.strength))
    assert ranking.tie_parameter is None


@pytest.mark.parametrize("model", MODELS)
def test_a_win_and_a_tie_alone_have_no_maximum_without_a_prior(model):
    # d → ∞ with the tie parameter growing alongside gives both outcomes probability one half.
    votes = ([0, 0], [1, 1], [1.0, 0.5])
    assert set(model(*votes, n=2, l2=0).reason.tolist()) == {Reason.SEPARATED.number}
    assert np.all(np.isfinite(model(*votes, n=2).strength))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("model", MODELS)
def test_the_interval_of_the_tie_parameter_is_finite_with_two_groups_that_disagree(model):
    # One group never ties and the other always does: t₁ = 12.7 times a large standard error of a logarithm.
    n = 2_000
    ranking = model(
        [0] * n, [1] * n, [1.0, 0.0] * (n // 4) + [0.5] * (n // 2), n=2, group=[0] * (n // 2) + [1] * (n // 2)
    )
    assert 0 <= ranking.tie_low < ranking.tie_parameter < ranking.tie_high < np.inf


@pytest.mark.parametrize("model", MODELS)
def test_strengths_are_recovered(model):
    rng = np.random.default_rng(2)
    s, V = np.array([-1.0, -0.3, 0.3, 1.0]), 60_000
    a = rng.integers(4, size=V)
    b = (a + rng.integers(1, 4, size=V)) % 4
    d = s[a] - s[b]
    if model is davidson:
        weights = np.stack([np.exp(d / 2), np.full(V, 0.8), np.exp(-d / 2)])
        share, parameter = weights / weights.sum(axis=0), 0.8
    else:
        won, lost = 1 / (1 + 1.8 * np.exp(-d)), 1 / (1 + 1.8 * np.exp(d))
        share, parameter = np.stack([won, 1 - won - lost, lost]), 1.8
    u = rng.random(V)
    outcome = 1 - (u[None, :] > np.cumsum(share, axis=0)).sum(axis=0) / 2
    ranking = model(a, b, outcome, n=4)
    assert ranking.strength == pytest.approx(s, abs=4 * ranking.se.max())
    assert ranking.tie_low < parameter < ranking.tie_high
