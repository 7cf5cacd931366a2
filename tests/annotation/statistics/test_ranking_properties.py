"""What must hold for every ranking: invariance, identities, derivatives, edges, coverage."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import expit

from annotation.statistics.contests import count_contests
from annotation.statistics.crowd import count_crowd, information_blocks, log_posterior
from annotation.statistics.estimates import Reason
from annotation.statistics.likelihood import (
    BRADLEY_TERRY,
    DAVIDSON,
    RAO_KUPPER,
    OutcomeModel,
    differences,
    gradient,
    information,
    log_likelihood,
    parameters,
)
from annotation.statistics.orders import log_likelihood as log_likelihood_of_orders
from annotation.statistics.orders import order_information, order_scores, read_orders
from annotation.statistics.ranking import (
    Ranking,
    bootstrap_bradley_terry,
    bradley_terry,
    crowd_bt,
    davidson,
    elo,
    plackett_luce,
    rank_centrality,
    rao_kupper,
    win_matrix,
    win_rates,
)
from tests.annotation.statistics.contest_votes import assert_explained, draw_votes

N = 6
V = 400
PEOPLE = np.arange(V) % 5
SIDE = np.random.default_rng(0).random(V) < 0.5
GROUP = np.random.default_rng(1).integers(25, size=V)


def crowd(a, b, outcome, *, annotator=PEOPLE, a_left=SIDE, **options) -> Ranking:
    return crowd_bt(a, b, outcome, annotator[: len(a)], a_left[: len(a)], n_annotators=5, bias=True, **options)


def orders(a, b, outcome, **options) -> Ranking:
    """Ties are broken for a, since orders have none."""
    first = np.asarray(outcome) >= 0.5
    pairs = np.where(first[:, None], np.column_stack([a, b]), np.column_stack([b, a]))
    return plackett_luce(pairs, **options)


def spectral(a, b, outcome, *, n: int, group: object = None) -> Ranking:
    return rank_centrality(win_matrix(a, b, outcome, n=n))


MODELS = [bradley_terry, davidson, rao_kupper, crowd, orders, spectral]
SYMMETRIC = [bradley_terry, davidson, rao_kupper, crowd, spectral]
LIKELIHOODS = [bradley_terry, davidson, rao_kupper, orders]
CLOSE = 1e-9


def same(first: Ranking, second: Ranking, *, names=("strength", "se", "low", "high", "cov")) -> None:
    for name in names:
        one, other = getattr(first, name), getattr(second, name)
        assert (one is None) == (other is None)
        if one is not None:
            assert one == pytest.approx(other, abs=CLOSE)


@pytest.mark.parametrize("model", MODELS)
def test_the_order_of_votes_does_not_matter(model: Callable[..., Ranking]):
    votes = draw_votes(V, N, seed=1, ties=0.2)
    order = np.random.default_rng(2).permutation(V)
    people = {"annotator": PEOPLE[order], "a_left": SIDE[order]} if model is crowd else {}
    shuffled = model(*(x[order] for x in votes), n=N, group=GROUP[order], **people)
    same(model(*votes, n=N, group=GROUP), shuffled)


@pytest.mark.parametrize("model", MODELS)
def test_names_of_groups_do_not_matter(model: Callable[..., Ranking]):
    votes = draw_votes(V, N, seed=3, ties=0.2)
    names = np.random.default_rng(4).permutation(1000)[:25] - 500
    same(model(*votes, n=N, group=GROUP), model(*votes, n=N, group=names[GROUP]))


def test_names_of_annotators_do_not_matter():
    votes = draw_votes(V, N, seed=5, ties=0.2)
    names = np.array([3, 0, 4, 1, 2])
    first, second = crowd(*votes, n=N, group=GROUP), crowd(*votes, n=N, group=GROUP, annotator=names[PEOPLE])
    same(first, second)
    assert second.annotators.eta[names] == pytest.approx(first.annotators.eta, abs=CLOSE)
    assert second.annotators.bias_low[names] == pytest.approx(first.annotators.bias_low, abs=CLOSE)


@pytest.mark.parametrize("model", MODELS)
def test_names_of_systems_permute_the_strengths(model: Callable[..., Ranking]):
    a, b, outcome = draw_votes(V, N, seed=6, ties=0.2)
    names = np.random.default_rng(7).permutation(N)
    first, second = model(a, b, outcome, n=N, group=GROUP), model(names[a], names[b], outcome, n=N, group=GROUP)
    assert second.strength[names] == pytest.approx(first.strength, abs=CLOSE)
    if first.se is not None:
        assert second.se[names] == pytest.approx(first.se, abs=CLOSE)


@pytest.mark.parametrize("model", SYMMETRIC)
def test_writing_a_vote_the_other_way_round_does_not_matter(model: Callable[..., Ranking]):
    a, b, outcome = draw_votes(V, N, seed=8, ties=0.2)
    people = {"a_left": ~SIDE} if model is crowd else {}
    same(model(a, b, outcome, n=N, group=GROUP), model(b, a, 1 - outcome, n=N, group=GROUP, **people))


@pytest.mark.parametrize("model", [bradley_terry, davidson, rao_kupper])
def test_swapping_winners_and_losers_negates_strengths(model: Callable[..., Ranking]):
    a, b, outcome = draw_votes(V, N, seed=9, ties=0.2)
    first, second = model(a, b, outcome, n=N, group=GROUP), model(a, b, 1 - outcome, n=N, group=GROUP)
    assert second.strength == pytest.approx(-first.strength, abs=CLOSE)
    assert second.low == pytest.approx(-first.high, abs=CLOSE)
    assert second.tie_parameter == (None if first.tie_parameter is None else pytest.approx(first.tie_parameter))


def test_swapping_winners_and_losers_negates_covariate_effects():
    a, b, outcome = draw_votes(V, N, seed=10, ties=0.2)
    z = np.random.default_rng(11).normal(size=(V, 2))
    first = bradley_terry(a, b, outcome, n=N, covariates=z)
    second = bradley_terry(a, b, 1 - outcome, n=N, covariates=z)
    turned = bradley_terry(b, a, 1 - outcome, n=N, covariates=-z)
    same(first, turned)
    for one, negated, equal in zip(first.coefficients, second.coefficients, turned.coefficients, strict=True):
        assert negated.value == pytest.approx(-one.value, abs=CLOSE)
        assert equal.value == pytest.approx(one.value, abs=CLOSE)


@pytest.mark.parametrize("model", LIKELIHOODS)
def test_copies_leave_the_maximum_and_halve_the_models_covariance(model: Callable[..., Ranking]):
    votes = draw_votes(V, N, seed=12, ties=0.2)
    twice = tuple(np.tile(x, 2) for x in votes)
    once = model(*votes, n=N, l2=0, group=GROUP)
    double = model(*twice, n=N, l2=0, group=np.tile(GROUP, 2))
    same(once, double, names=("strength", "se", "low", "high"))
    assert double.cov == pytest.approx(once.cov / 2, abs=CLOSE)
    assert double.loglik == pytest.approx(2 * once.loglik)


@pytest.mark.parametrize("model", LIKELIHOODS)
def test_a_vanishing_prior_gives_the_maximum_without_one(model: Callable[..., Ranking]):
    votes = draw_votes(V, N, seed=13, ties=0.2)
    same(model(*votes, n=N, l2=1e-12, group=GROUP), model(*votes, n=N, l2=0, group=GROUP))


@pytest.mark.parametrize("model", [DAVIDSON, RAO_KUPPER, BRADLEY_TERRY])
def test_slopes_and_information_of_paired_models_are_those_of_the_likelihood(model: OutcomeModel):
    a, b, outcome = draw_votes(V, N, seed=14, ties=0.3)
    z = np.random.default_rng(15).normal(size=(V, 2))
    contests, _ = count_contests(a, b, outcome, n=N, covariates=z)
    theta = np.random.default_rng(16).normal(size=parameters(contests, model))
    theta[-1] = 0.7

    def slope(at: np.ndarray) -> np.ndarray:
        return gradient(contests, model, model.slopes(differences(contests, at), float(at[-1])))

    slopes = model.slopes(differences(contests, theta), float(theta[-1]))
    assert_derivative(lambda at: log_likelihood(contests, model, at), theta, slope(theta))
    assert_derivative(slope, theta, -information(contests, model, slopes))


def test_slopes_and_information_of_the_crowd_model_are_those_of_its_posterior():
    votes = draw_votes(V, N, seed=17, ties=0.2)
    cells, _, _ = count_crowd(*votes, PEOPLE, SIDE, n=N, n_annotators=5, l2=0.5, prior=(4.0, 1.0), bias=True)
    theta = np.random.default_rng(18).normal(size=N + 2 * 5)
    assert_derivative(lambda at: log_posterior(cells, at)[0], theta, log_posterior(cells, theta)[1])
    strengths, cross, people = information_blocks(cells, theta)
    whole = np.zeros((len(theta), len(theta)))
    whole[:N, :N] = strengths + 0.5 * np.eye(N)
    for e in range(2):
        rows = slice(N + 5 * e, N + 5 * e + 5)
        whole[:N, rows], whole[rows, :N] = cross[:, :, e], cross[:, :, e].T
        for f in range(2):
            whole[rows, N + 5 * f : N + 5 * f + 5] = np.diag(people[:, e, f])
    assert_derivative(lambda at: log_posterior(cells, at)[1], theta, -whole)


def test_slopes_and_information_of_orders_are_those_of_the_likelihood():
    rng = np.random.default_rng(19)
    given = read_orders([rng.permutation(N)[: rng.integers(2, N + 1)].tolist() for _ in range(60)], n=N)
    s = rng.normal(size=N)

    def slope(at: np.ndarray) -> np.ndarray:
        return given.per_system(order_scores(given, at))

    assert_derivative(lambda at: log_likelihood_of_orders(given, at), s, slope(s))
    assert_derivative(slope, s, -order_information(given, s))


def assert_derivative(function: Callable[[np.ndarray], object], at: np.ndarray, expected: np.ndarray) -> None:
    """Central differences agree to one in a million of the largest entry."""
    step = 1e-5
    moves = step * np.eye(len(at))
    found = np.array([(np.asarray(function(at + x)) - np.asarray(function(at - x))) / (2 * step) for x in moves])
    assert np.abs(found - expected).max() < 1e-6 * np.abs(expected).max()


EDGES = {
    "empty": ([], [], [], 3),
    "no systems": ([], [], [], 0),
    "one system": ([], [], [], 1),
    "one vote": ([0], [1], [1.0], 2),
    "one tie": ([0], [1], [0.5], 2),
    "two components": ([0, 1, 2, 3], [1, 0, 3, 2], [1.0] * 4, 4),
    "undefeated": ([0, 0, 1, 2], [1, 2, 2, 1], [1.0] * 4, 3),
    "only ties": ([0, 1, 0], [1, 2, 2], [0.5] * 3, 3),
    "a win and ties": ([0, 1, 0], [1, 2, 2], [0.5, 0.5, 1.0], 3),
    "without votes": ([0, 3, 0], [3, 0, 3], [1.0, 1.0, 0.5], 5),
    "all alike": ([0] * 50, [1] * 50, [1.0] * 50, 2),
    "a chain": (list(range(30)), list(range(1, 31)), [1.0] * 30, 31),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("one_group", [False, True])
@pytest.mark.parametrize("l2", [0.0, 1.0])
def test_at_the_edges_nothing_is_undefined_without_a_reason(edge: str, one_group: bool, l2: float):
    a, b, outcome, n = EDGES[edge]
    votes = tuple(np.array(x, dtype=kind) for x, kind in ((a, int), (b, int), (outcome, float)))
    options = {"n": n, "l2": l2, "group": np.zeros(len(a), dtype=int) if one_group else None}
    results = [model(*votes, **options) for model in (bradley_terry, davidson, rao_kupper, orders)]
    results.append(bradley_terry(*votes, **options, covariates=np.ones((len(a), 1))))
    if l2 > 0:
        results += [crowd(*votes, **options), bootstrap_bradley_terry(*votes, **options, B=20)]
    wins = win_matrix(*votes, n=n)
    results += [rank_centrality(wins), rank_centrality(wins, reg=0), elo(*votes, n=n)]
    for result in results:
        assert_explained(result)
        assert len(result.strength) == n
        for i, j in ((0, n - 1), (n - 1, 0)) if n else ():
            assert_explained(result.difference(i, j))
    assert_explained(win_rates(*votes, n=n, group=options["group"]))


def test_one_group_gives_strengths_without_intervals():
    votes = draw_votes(50, 3, seed=20)
    for model in (bradley_terry, davidson, rao_kupper, orders, crowd):
        ranking = model(*votes, n=3, group=np.zeros(50, dtype=int))
        assert set(ranking.reason.tolist()) == {Reason.TOO_FEW_GROUPS.number}
        assert np.all(np.isfinite(ranking.strength))
        assert (ranking.se, ranking.low, ranking.rank_low, ranking.cov_clustered) == (None,) * 4
        assert ranking.difference(0, 1).reason is Reason.TOO_FEW_GROUPS


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("model", [bradley_terry, davidson, rao_kupper])
def test_no_result_is_undefined_without_a_reason_on_small_random_votes(model: Callable[..., Ranking]):
    for seed in range(60):
        rng = np.random.default_rng(seed)
        votes = draw_votes(int(rng.integers(1, 12)), int(rng.integers(2, 6)), seed=seed, ties=0.3)
        n = int(max(votes[0].max(), votes[1].max())) + 1
        for l2 in (0.0, 1.0):
            assert_explained(model(*votes, n=n, l2=l2))


def test_inputs_are_not_written_to():
    votes = draw_votes(V, N, seed=21, ties=0.2)
    before = [x.copy() for x in votes]
    for model in MODELS:
        model(*votes, n=N, group=GROUP)
    elo(*votes, n=N)
    assert all(np.array_equal(x, y) for x, y in zip(votes, before, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("G", [20, 40])
def test_the_sandwich_covers_where_prompts_have_their_own_effects(G: int):
    # Ten votes a prompt on eight systems, whose strengths shift by N(0, .6²) from prompt to prompt.
    n, per_group, trials = 8, 10, 1500
    s = np.linspace(-0.7, 0.7, n)
    rng = np.random.default_rng(22)

    def draw(groups: int) -> tuple[np.ndarray, ...]:
        group = np.repeat(np.arange(groups), per_group)
        a = rng.integers(n, size=len(group))
        b = (a + rng.integers(1, n, size=len(group))) % n
        shifted = s + rng.normal(scale=0.6, size=(groups, n))
        won = rng.random(len(group)) < expit(shifted[group, a] - shifted[group, b])
        return a, b, won.astype(float), group

    *votes, _ = draw(100_000)
    truth = bradley_terry(*votes, n=n, l2=0, rng=None).strength  # what is estimated once prompts are averaged over
    clustered, plain = [], []
    for _ in range(trials):
        a, b, outcome, group = draw(G)
        ranking = bradley_terry(a, b, outcome, n=n, l2=0, group=group, rng=None)
        if ranking.se is not None:
            clustered.append((ranking.low < truth) & (truth < ranking.high))
            plain.append(np.abs(ranking.strength - truth) < 1.96 * np.sqrt(np.diag(ranking.cov)))
    assert len(clustered) > 0.99 * trials
    assert np.mean(clustered) == pytest.approx(0.95, abs=0.02)
    assert np.mean(plain) < np.mean(clustered) - 0.01
