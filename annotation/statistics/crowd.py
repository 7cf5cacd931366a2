"""Annotator-aware Bradley-Terry: strengths of systems together with how far each person's votes follow them.

Knows nothing of roles or names; it reports people whose votes run backwards and never turns them round.

Shapes: V votes, P cells (pair, person, side), m systems with votes, W annotators (here those with votes), E parameters
a person: logit η, and the side bias if asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.special import expit, log_expit, logit, ndtri

from annotation.statistics.contests import Contests, VoteCells, check_groups, contest_components, count_contests
from annotation.statistics.estimates import (
    LEVEL,
    FloatArray,
    IntArray,
    Reason,
    check_codes,
    check_flags,
    check_not_negative,
    check_numbers,
    check_size,
)
from annotation.statistics.likelihood import (
    BRADLEY_TERRY,
    DENSE_SYSTEMS,
    TOLERANCE,
    ascend,
    constrained,
    free_covariance,
    group_scores,
    laplacian,
    maximise,
)
from annotation.statistics.paired_models import votes_of
from annotation.statistics.strengths import (
    AnnotatorFit,
    Ranking,
    Roster,
    make_ranking,
    sandwich_intervals,
    without_strengths,
)

ROUNDS = 500
POLISH = 20  # Newton steps after L-BFGS, so that the order of the votes leaves no trace
EQUAL_HEIGHTS = 1e-9  # relative; rounding alone makes such a difference
ESCAPES = 10  # from saddles, one after another
STRAY = 0.1  # logits off a saddle, far enough for the ground to slope
BLOCK = 2**22  # numbers in a dense block of scores


@dataclass(frozen=True, kw_only=True, slots=True)
class Crowd:
    """Cells of equal votes of one person on one pair, shown one way round.

    Attributes:
        contests: the cells; their `z` [P, 1] is +1 where the first was shown left, else −1.
        person: [P] of 0..W−1. W: people with votes.
        prior: exponents (for, against) of η and 1 − η in the prior density of logit η.
        l2: precision of the prior on strengths. biased: whether people have a side bias.
    """

    contests: Contests
    person: IntArray
    W: int
    prior: tuple[float, float]
    l2: float
    biased: bool

    @property
    def E(self) -> int:  # noqa: N802
        """Parameters a person."""
        return 1 + self.biased

    def split(self, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Strengths [m], and [E, W] of logit η and bias."""
        m = self.contests.m
        return theta[:m], theta[m:].reshape(self.E, self.W)

    def join(self, strengths: FloatArray, people: FloatArray) -> FloatArray:
        """The inverse of `split`."""
        return np.concatenate([strengths, people.ravel()])

    def by_person(self, values: FloatArray) -> FloatArray:
        """Sums over the cells of each person: [P] to [W]."""
        return np.bincount(self.person, weights=values, minlength=self.W).astype(np.float64, copy=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Chances:
    """What theta says of each cell, [P]: σ(x) and 1 − σ(x), η and 1 − η, P(first wins) and P(second wins)."""

    p: FloatArray
    p_not: FloatArray
    eta: FloatArray
    eta_not: FloatArray
    won: FloatArray
    lost: FloatArray


def crowd_bt(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    outcome: npt.ArrayLike,
    annotator: npt.ArrayLike,
    a_left: npt.ArrayLike | None = None,
    *,
    n: int,
    n_annotators: int,
    l2: float = 1.0,
    prior: tuple[float, float] = (4.0, 1.0),
    bias: bool = False,
    group: npt.ArrayLike | None = None,
    rng: int | np.random.Generator | None = 0,
) -> Ranking:
    """P(a) = η_w σ(d + c_w z) + (1 − η_w) σ(−d − c_w z), z = +1 where a was shown left, else −1; ties half of each.

    The posterior mode; the likelihood has several, and the one found is the nearest to plain Bradley-Terry with
    η at the mode of its prior. Where votes balance, that start is a saddle between two modes: the higher is taken, of
    equal ones that in which the first of the people follows the strengths. If none is reached there are no intervals
    and `not_converged`. An η whose interval lies below ½ means that a person answers systematically the wrong
    way round. O(V) a step. `annotators` of the result has η and c with Laplace intervals.

    Each person's η is fitted with the strengths, so that with few votes a person the strengths come out too far apart
    (simulated: 1.8 times with 20 votes each, 1.1 times with 500; plain Bradley-Terry .55 times). Trust their order.

    Args:
        a, b, outcome: [V] systems and 1, ½ or 0. annotator: [V] codes. a_left: [V] booleans, needed for `bias`.
        n, n_annotators: systems and annotators, with votes or without.
        l2: precision of the prior on strengths, above 0.
        prior: exponents of η and 1 − η in the density of logit η; the mode is their share, .8.
        bias: whether people have a side bias c_w, of prior N(0, 1).
        group, rng: as in `bradley_terry`.

    Raises:
        ValueError: naming the argument that is malformed.

    Source: Chen, Bennett, Collins-Thompson & Horvitz 2013, eq. 6; the side bias is added here.
    """
    if not check_not_negative(l2, name="l2") > 0:
        raise ValueError("l2 must be positive: strengths and η are not identified together without a prior")
    exponents = check_numbers(prior, name="prior", shape=(2,))
    if np.any(exponents <= 0):
        raise ValueError(f"prior must hold two positive numbers, got {prior}")
    crowd, votes, people = count_crowd(
        a, b, outcome, annotator, a_left, n=n, n_annotators=n_annotators, l2=l2, prior=prior, bias=bias
    )
    return _rank_crowd(crowd, votes, people, group=group, n_annotators=n_annotators, rng=rng)


def _rank_crowd(
    crowd: Crowd,
    votes: VoteCells,
    people: IntArray,
    *,
    group: npt.ArrayLike | None,
    n_annotators: int,
    rng: int | np.random.Generator | None,
) -> Ranking:
    """See whether there is something to find, find it, and say how sure it is."""
    contests, l2 = crowd.contests, crowd.l2
    codes, n_groups = check_groups(group, length=len(votes.cell))
    roster = Roster(n=contests.n, present=contests.present, n_votes=votes_of(contests), n_groups=n_groups)
    component, _ = contest_components(contests)
    if not contests.m:
        empty = make_ranking(np.empty(0), roster, component=component, cov=np.empty((0, 0)), l2=l2)
        return replace(empty, annotators=_people(crowd, np.empty((crowd.E, 0)), None, people, n_annotators))
    if not contests.decisive:
        nothing = without_strengths(Reason.ONE_CLASS, roster, component=component)
        return replace(nothing, annotators=_nobody_fitted(crowd, people, n_annotators))
    theta, joint, converged = _maximise(crowd)
    strength, fitted = crowd.split(theta)
    intervals = None
    if joint is not None and n_groups > 1:
        clustered = joint.cov @ _meat(crowd, theta, joint, votes, codes) @ joint.cov * (n_groups / (n_groups - 1))
        intervals = sandwich_intervals(strength, clustered, component, n_groups=n_groups, rng=rng)
    ranking = make_ranking(
        strength,
        roster,
        component=component,
        cov=None if joint is None else joint.cov,
        intervals=intervals,
        l2=l2,
        converged=converged,
        loglik=_log_likelihood(crowd, _chances(crowd, theta)),
    )
    return replace(ranking, annotators=_people(crowd, fitted, joint, people, n_annotators))


def count_crowd(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    outcome: npt.ArrayLike,
    annotator: npt.ArrayLike,
    a_left: npt.ArrayLike | None,
    *,
    n: int,
    n_annotators: int,
    l2: float,
    prior: tuple[float, float],
    bias: bool,
) -> tuple[Crowd, VoteCells, IntArray]:
    """Cells by pair, person and side, where each vote went, and the people with votes [W]."""
    contests, votes = count_contests(a, b, outcome, n=n, trace=True)
    assert votes is not None  # it was asked to trace
    length = len(votes.cell)
    W = check_size(n_annotators, name="n_annotators")
    given = check_codes(annotator, name="annotator", size=W, length=length)
    people, person = np.unique(given, return_inverse=True)
    side = np.zeros(length, dtype=np.int64)
    if bias:
        left = check_flags([] if a_left is None else a_left, name="a_left", length=length)
        side = (left == (np.asarray(a) < np.asarray(b))).astype(np.int64)
    code = (votes.cell * max(1, len(people)) + person) * 2 + side
    _, start, cell = np.unique(code, return_index=True, return_inverse=True)
    pairs = votes.cell[start]
    cells = Contests(
        n=contests.n,
        present=contests.present,
        first=contests.first[pairs],
        second=contests.second[pairs],
        counts=np.bincount(votes.outcome * len(start) + cell, minlength=3 * len(start))
        .reshape(3, -1)
        .astype(np.float64),
        z=np.where(side[start] == 1, 1.0, -1.0)[:, None],
    )
    crowd = Crowd(contests=cells, person=person[start], W=len(people), prior=prior, l2=l2, biased=bias)
    return crowd, VoteCells(cell=cell, outcome=votes.outcome), people


def _chances(crowd: Crowd, theta: FloatArray) -> Chances:
    strength, people = crowd.split(theta)
    x = strength[crowd.contests.first] - strength[crowd.contests.second]
    if crowd.biased:
        x = x + people[1][crowd.person] * crowd.contests.z[:, 0]
    p, p_not = expit(x), expit(-x)
    eta, eta_not = expit(people[0])[crowd.person], expit(-people[0])[crowd.person]
    won, lost = eta * p + eta_not * p_not, eta * p_not + eta_not * p
    return Chances(p=p, p_not=p_not, eta=eta, eta_not=eta_not, won=won, lost=lost)


def _log_likelihood(crowd: Crowd, chance: Chances) -> float:
    first, second = crowd.contests.halves()
    return float(first @ np.log(chance.won) + second @ np.log(chance.lost))


def log_posterior(crowd: Crowd, theta: FloatArray) -> tuple[float, FloatArray]:
    """Log-likelihood and log-prior together, and their gradient."""
    strength, people = crowd.split(theta)
    chance = _chances(crowd, theta)
    first, second = crowd.contests.halves()
    pressure = first / chance.won - second / chance.lost
    by_x, by_eta = _vote_slopes(chance)
    right, wrong = crowd.prior
    rows = [crowd.by_person(pressure * by_eta) + right * expit(-people[0]) - wrong * expit(people[0])]
    if crowd.biased:
        rows.append(crowd.by_person(pressure * by_x * crowd.contests.z[:, 0]) - people[1])
    density = float(np.sum(right * log_expit(people[0]) + wrong * log_expit(-people[0])))
    density -= (crowd.l2 * float(strength @ strength) + float(np.sum(people[1:] ** 2))) / 2
    slope = crowd.join(crowd.contests.pull(pressure * by_x) - crowd.l2 * strength, np.stack(rows))
    return _log_likelihood(crowd, chance) + density, slope


def _vote_slopes(chance: Chances) -> tuple[FloatArray, FloatArray]:
    """∂P(first wins)/∂x and /∂ logit η: [P] both."""
    by_x = (chance.eta - chance.eta_not) * chance.p * chance.p_not
    return by_x, (chance.p - chance.p_not) * chance.eta * chance.eta_not


@dataclass(frozen=True, kw_only=True, slots=True)
class Joint:
    """The information at the mode, people eliminated.

    Attributes:
        cov: [m, m] Σ₀ of the strengths, people's uncertainty included.
        own: [W, E, E] inverse information on a person given the strengths.
        leverage: [m, W, E] strengths × people, times `own`.
    """

    cov: FloatArray
    own: FloatArray
    leverage: FloatArray


def information_blocks(crowd: Crowd, theta: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Observed information: [m, m] without the prior on strengths, [m, W, E] and [W, E, E] with that on people."""
    chance, contests, side = _chances(crowd, theta), crowd.contests, crowd.contests.z[:, 0]
    first, second = crowd.contests.halves()
    pressure = first / chance.won - second / chance.lost
    stiffness = first / chance.won**2 + second / chance.lost**2
    by_x, by_eta = _vote_slopes(chance)
    spread, doubt = chance.p * chance.p_not, chance.eta * chance.eta_not
    xx = stiffness * by_x**2 - pressure * by_x * (chance.p_not - chance.p)
    xe = stiffness * by_x * by_eta - pressure * 2 * spread * doubt
    ee = stiffness * by_eta**2 - pressure * by_eta * (chance.eta_not - chance.eta)
    own = np.empty((crowd.W, crowd.E, crowd.E))
    eta = expit(crowd.split(theta)[1][0])
    own[:, 0, 0] = crowd.by_person(ee) + sum(crowd.prior) * eta * (1 - eta)
    shared = [xe]
    if crowd.biased:
        own[:, 0, 1] = own[:, 1, 0] = crowd.by_person(xe * side)
        own[:, 1, 1] = crowd.by_person(xx) + 1
        shared.append(xx * side)
    cross = np.stack([_by_system_and_person(crowd, values) for values in shared], axis=2)
    return laplacian(contests, xx), cross, own


def _by_system_and_person(crowd: Crowd, values: FloatArray) -> FloatArray:
    """Sums [m, W], + for the first of a cell and − for the second."""
    m, W, contests = crowd.contests.m, crowd.W, crowd.contests
    forward = np.bincount(contests.first * W + crowd.person, weights=values, minlength=m * W)
    backward = np.bincount(contests.second * W + crowd.person, weights=values, minlength=m * W)
    return np.subtract(forward, backward, dtype=np.float64).reshape(m, W)


def _joint(crowd: Crowd, theta: FloatArray) -> Joint:
    strengths, cross, people = information_blocks(crowd, theta)
    own = np.asarray(np.linalg.inv(people), dtype=np.float64)
    leverage, reduced = _without_people(strengths, cross, own)
    return Joint(cov=free_covariance(reduced, m=crowd.contests.m, l2=crowd.l2), own=own, leverage=leverage)


def _without_people(strengths: FloatArray, cross: FloatArray, own: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Leverage [m, W, E], and the information [m, m] that is left on the strengths once people follow them."""
    leverage = np.einsum("mwe,wef->mwf", cross, own)
    return leverage, strengths - np.einsum("mwe,nwe->mn", leverage, cross, optimize=True)


def _maximise(crowd: Crowd) -> tuple[FloatArray, Joint | None, bool]:
    """The mode, the information there if it is a proper one (and not too many systems), and whether it was reached."""
    right, wrong = crowd.prior
    plain = replace(crowd.contests, z=np.empty((len(crowd.person), 0)))
    people = np.zeros((crowd.E, crowd.W))
    people[0] = logit(right / (right + wrong))
    start = crowd.join(maximise(plain, BRADLEY_TERRY, l2=crowd.l2).theta, people)
    theta, converged = _climb(crowd, start)
    if crowd.contests.m > DENSE_SYSTEMS:
        return theta, None, converged
    for _ in range(ESCAPES):
        way = _way_up(crowd, theta)
        if way is None:
            return theta, _joint(crowd, theta), converged
        theta, converged = _leave_saddle(crowd, theta, way)
    return theta, None, False


def _climb(crowd: Crowd, start: FloatArray) -> tuple[FloatArray, bool]:
    """L-BFGS, then Newton's steps while they are small; where it ends need not be a maximum."""
    theta, converged = ascend(lambda theta: log_posterior(crowd, theta), start, rounds=ROUNDS, tolerance=1e-10)
    if crowd.contests.m > DENSE_SYSTEMS:
        return theta, converged
    for _ in range(POLISH):
        step = _newton_step(crowd, theta)
        longest = float(np.abs(step).max())
        if not longest < 1:
            break
        theta = theta + step
        if longest < TOLERANCE:
            return theta, True
    return theta, converged


def _leave_saddle(crowd: Crowd, theta: FloatArray, way: FloatArray) -> tuple[FloatArray, bool]:
    """The higher of what lies on either side; of equal ones that along `way`."""
    along, against = (_climb(crowd, theta + step) for step in (STRAY * way, -STRAY * way))
    heights = [log_posterior(crowd, found[0])[0] for found in (along, against)]
    return against if heights[1] > heights[0] + EQUAL_HEIGHTS * abs(heights[0]) else along


def _way_up(crowd: Crowd, theta: FloatArray) -> FloatArray | None:
    """A direction along which the posterior does not bend down at theta, None at a proper maximum.

    Of length 1 in its largest entry, and positive in the first person who has a large part in it.
    """
    strengths, cross, people = information_blocks(crowd, theta)
    bends, axes = np.linalg.eigh(people)
    flattest = int(bends[:, 0].argmin())
    parts = np.zeros((crowd.E, crowd.W))
    if not bends[flattest, 0] > 0:
        parts[:, flattest] = axes[flattest, :, 0]
        return _oriented(crowd, np.zeros(crowd.contests.m), parts)
    leverage, reduced = _without_people(strengths, cross, np.asarray(np.linalg.inv(people), dtype=np.float64))
    bend = constrained(reduced, m=crowd.contests.m, l2=crowd.l2)
    margin = np.finfo(np.float64).eps * float(np.trace(np.abs(bend)))
    try:
        np.linalg.cholesky(bend - margin * np.eye(len(bend)))
    except np.linalg.LinAlgError:
        lowest = np.linalg.eigh(bend)[1][:, 0]
        return _oriented(crowd, lowest, -np.einsum("mwe,m->ew", leverage, lowest))
    return None


def _oriented(crowd: Crowd, strengths: FloatArray, people: FloatArray) -> FloatArray:
    way = np.concatenate([people.ravel(), strengths])
    first = int(np.argmax(np.abs(way) > np.abs(way).max() / 2))
    return crowd.join(strengths, people) * float(np.sign(way[first]) / np.abs(way).max())


def _newton_step(crowd: Crowd, theta: FloatArray) -> FloatArray:
    """Information⁻¹ · gradient, with people eliminated; the sum of the strengths stays."""
    joint = _joint(crowd, theta)
    by_strength, by_people = crowd.split(log_posterior(crowd, theta)[1])
    strengths = joint.cov @ (by_strength - np.einsum("mwe,ew->m", joint.leverage, by_people))
    people = np.einsum("wef,fw->ew", joint.own, by_people) - np.einsum("mwe,m->ew", joint.leverage, strengths)
    return crowd.join(strengths, people)


def _meat(crowd: Crowd, theta: FloatArray, joint: Joint, votes: VoteCells, group: IntArray | None) -> FloatArray:
    """Σ_g v_g v_gᵀ [m, m] of the groups' scores on the strengths, less what people's parameters take up of them."""
    chance, m, W = _chances(crowd, theta), crowd.contests.m, crowd.W
    cell, seen = votes.cell, votes.outcome
    pressure = np.stack([1 / chance.won, (1 / chance.won - 1 / chance.lost) / 2, -1 / chance.lost])
    if group is None:  # equal votes are one row, by the root of their number
        seen, cell = np.nonzero(crowd.contests.counts)
        pressure = pressure * np.sqrt(crowd.contests.counts)
        group = np.arange(len(cell))
    by_x, by_eta = (pressure[seen, cell] * slope[cell] for slope in _vote_slopes(chance))
    person = m + crowd.person[cell]
    parts = [(crowd.contests.first[cell], by_x), (crowd.contests.second[cell], -by_x), (person, by_eta)]
    if crowd.biased:
        parts.append((person + W, by_x * crowd.contests.z[cell, 0]))
    scores: csr_array = group_scores(group, parts, size=m + crowd.E * W)
    change = np.concatenate([np.eye(m), -joint.leverage.transpose(2, 1, 0).reshape(-1, m)])
    out = np.zeros((m, m))
    rows = max(1, BLOCK // m)
    for begin in range(0, scores.shape[0], rows):
        block = scores[begin : begin + rows] @ change
        out += block.T @ block
    return out


def _people(crowd: Crowd, fitted: FloatArray, joint: Joint | None, people: IntArray, n_annotators: int) -> AnnotatorFit:
    """η and bias of all annotators from those [E, W] of the people with votes, with Laplace intervals."""

    def among_all(values: FloatArray) -> FloatArray:
        out = np.full(n_annotators, np.nan)
        out[people] = values
        return out

    low: list[FloatArray | None] = [None] * crowd.E
    high = list(low)
    if joint is not None:
        spread = np.einsum("mwe,mn,nwe->we", joint.leverage, joint.cov, joint.leverage, optimize=True)
        variance = np.diagonal(joint.own, axis1=1, axis2=2) + spread
        half = float(ndtri((1 + LEVEL) / 2)) * np.sqrt(variance.T)
        low = [among_all(expit(fitted[0] - half[0])), *map(among_all, fitted[1:] - half[1:])]
        high = [among_all(expit(fitted[0] + half[0])), *map(among_all, fitted[1:] + half[1:])]
    reason = np.full(n_annotators, Reason.NO_VOTES.number, dtype=np.int64)
    reason[people] = 0
    return AnnotatorFit(
        eta=among_all(expit(fitted[0])),
        eta_low=low[0],
        eta_high=high[0],
        bias=among_all(fitted[1]) if crowd.biased else None,
        bias_low=low[1] if crowd.biased else None,
        bias_high=high[1] if crowd.biased else None,
        reason=reason,
    )


def _nobody_fitted(crowd: Crowd, people: IntArray, n_annotators: int) -> AnnotatorFit:
    """Of votes that are all ties, which everybody gives alike whatever their η."""
    fit = _people(crowd, np.full((crowd.E, crowd.W), np.nan), None, people, n_annotators)
    return replace(fit, reason=np.where(fit.reason == 0, Reason.ONE_CLASS.number, fit.reason))
