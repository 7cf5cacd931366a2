"""Likelihood of contests between two systems with win, tie and loss, and its maximum by Newton's method.

A model says how probable each outcome is, given d = s_i − s_j + zᵀβ and a tie parameter; the rest is the same for all
of them. Every model here is concave in all its parameters, so what Newton finds is the maximum, and where it does not
settle there is none.

Shapes: P cells, m systems, k covariates; parameters are (s [m], β [k], t if the model has ties). Outcomes in the rows
of [3, P]: first wins, tie, second wins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, minimize
from scipy.sparse import csr_array
from scipy.special import expit, log_expit, log_softmax, softmax

from annotation.statistics.contests import TIE, A, B, Contests, VoteCells
from annotation.statistics.estimates import FloatArray, IntArray

DENSE_SYSTEMS = 2000  # more than these, and no m × m matrix is built
STEP_LIMIT = 3.0  # logits; a full step from afar would overshoot
MAX_STEPS = 100
TOLERANCE = 1e-10  # of the last step
LAST_STEP = 1e-6  # of Newton's: each is about the square of the one before, so that the next would be below TOLERANCE
FARTHEST = (
    30.0  # logits of an effect in a usual vote; 10¹³ votes could not tell it from infinity: it is on its way there
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Slopes:
    """Derivatives of the log-probability of each outcome, [3, P]: first ones, and second ones with their sign turned.

    `d` is the difference of the strengths, `t` the tie parameter on its log scale; [1, P] where all outcomes are alike.
    """

    d: FloatArray
    t: FloatArray
    dd: FloatArray
    dt: FloatArray
    tt: FloatArray


@dataclass(frozen=True, kw_only=True, slots=True)
class OutcomeModel:
    """One way in which votes come out.

    Attributes:
        has_tie: whether it has a tie parameter.
        log_p, slopes: of d [P] and t; log-probabilities are [3, P].
        start: t at which equal systems tie as often as a given share of the votes.
        floor: t stays above it.
    """

    has_tie: bool
    log_p: Callable[[FloatArray, float], FloatArray]
    slopes: Callable[[FloatArray, float], Slopes]
    start: Callable[[float], float]
    floor: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """The maximum: parameters, log-likelihood without the prior, and whether the steps came to rest."""

    theta: FloatArray
    loglik: float
    converged: bool


def _plain_log_p(d: FloatArray, _: float) -> FloatArray:
    won = log_expit(d)
    return np.array([won, won - d / 2, won - d])


def _plain_slopes(d: FloatArray, _: float) -> Slopes:
    p, q = expit(d), expit(-d)  # 1 − p would lose the digits by which a large d is found
    none = np.zeros((1, 1))
    return Slopes(d=np.array([q, 0.5 - p, -p]), t=none, dd=(p * q)[None, :], dt=none, tt=none)


def _davidson_logits(d: FloatArray, t: float) -> FloatArray:
    return np.array([d / 2, np.full_like(d, t), -d / 2])


def _davidson_log_p(d: FloatArray, t: float) -> FloatArray:
    return np.asarray(log_softmax(_davidson_logits(d, t), axis=0))


def _davidson_slopes(d: FloatArray, t: float) -> Slopes:
    p = np.asarray(softmax(_davidson_logits(d, t), axis=0))
    lean = (p[A] - p[B]) / 2
    return Slopes(
        d=np.array([[0.5], [0.0], [-0.5]]) - lean,
        t=np.array([[0.0], [1.0], [0.0]]) - p[TIE],
        dd=((p[A] + p[B]) / 4 - lean**2)[None, :],
        dt=(-lean * p[TIE])[None, :],
        tt=(p[TIE] * (1 - p[TIE]))[None, :],
    )


def _rao_kupper_log_p(d: FloatArray, t: float) -> FloatArray:
    won, lost = log_expit(d - t), log_expit(-d - t)
    return np.array([won, 2 * t + np.log(-np.expm1(-2 * t)) + won + lost, lost])


def _rao_kupper_slopes(d: FloatArray, t: float) -> Slopes:
    short, shy = expit(t - d), expit(t + d)  # 1 − P(first wins), 1 − P(second wins)
    bend, twist = short * (1 - short), shy * (1 - shy)
    none = np.zeros_like(d)
    return Slopes(
        d=np.stack([short, short - shy, -shy]),
        t=np.stack([-short, -2 / np.expm1(-2 * t) - short - shy, -shy]),
        dd=np.stack([bend, bend + twist, twist]),
        dt=np.stack([-bend, twist - bend, twist]),
        tt=np.stack([bend, bend + twist + 1 / np.sinh(t) ** 2 + none, twist]),
    )


def _davidson_start(share: float) -> float:
    return float(np.log(2 * share / (1 - share)))


def _rao_kupper_start(share: float) -> float:
    return float(2 * np.arctanh(share))


BRADLEY_TERRY = OutcomeModel(
    has_tie=False, log_p=_plain_log_p, slopes=_plain_slopes, start=lambda _: 0.0, floor=-np.inf
)
DAVIDSON = OutcomeModel(
    has_tie=True, log_p=_davidson_log_p, slopes=_davidson_slopes, start=_davidson_start, floor=-np.inf
)
RAO_KUPPER = OutcomeModel(
    has_tie=True, log_p=_rao_kupper_log_p, slopes=_rao_kupper_slopes, start=_rao_kupper_start, floor=0.0
)


def parameters(contests: Contests, model: OutcomeModel) -> int:
    """How many parameters the model has on these contests."""
    return contests.m + int(contests.z.shape[1]) + model.has_tie


def differences(contests: Contests, theta: FloatArray) -> FloatArray:
    """d = s_i − s_j + zᵀβ of each cell: [P]."""
    m, k = contests.m, contests.z.shape[1]
    d = theta[contests.first] - theta[contests.second]
    return d + contests.z @ theta[m : m + k] if k else d


def log_likelihood(contests: Contests, model: OutcomeModel, theta: FloatArray) -> float:
    """Σ votes · log P(outcome), without the prior."""
    return float(np.sum(contests.counts * model.log_p(differences(contests, theta), float(theta[-1]))))


def gradient(contests: Contests, model: OutcomeModel, slopes: Slopes) -> FloatArray:
    """Of the log-likelihood, without the prior: [parameters]."""
    by_d = (contests.counts * slopes.d).sum(axis=0)
    parts = [contests.pull(by_d), contests.z.T @ by_d]
    if model.has_tie:
        parts.append(np.array([np.sum(contests.counts * slopes.t)]))
    return np.concatenate(parts)


def _assemble(contests: Contests, model: OutcomeModel, dd: FloatArray, dt: FloatArray, tt: FloatArray) -> FloatArray:
    """Σ_votes of the outer products of (∂d/∂θ, ∂t/∂θ), weighted [3, P] each: [parameters, parameters]."""
    m, k = contests.m, contests.z.shape[1]
    out = np.zeros((parameters(contests, model),) * 2)
    by_d = (contests.counts * dd).sum(axis=0)
    out[:m, :m] = laplacian(contests, by_d)
    for column in range(k):
        weighted = by_d * contests.z[:, column]
        out[:m, m + column] = out[m + column, :m] = contests.pull(weighted)
        out[m : m + k, m + column] = contests.z.T @ weighted
    if model.has_tie:
        by_both = (contests.counts * dt).sum(axis=0)
        out[:m, -1] = out[-1, :m] = contests.pull(by_both)
        out[m : m + k, -1] = out[-1, m : m + k] = contests.z.T @ by_both
        out[-1, -1] = np.sum(contests.counts * tt)
    return out


def laplacian(contests: Contests, weight: FloatArray) -> FloatArray:
    """Xᵀ diag(weight) X, X the difference design: [m, m] from [P]."""
    m = contests.m
    pairs = np.bincount(contests.first * m + contests.second, weights=weight, minlength=m * m).reshape(m, m)
    out = np.negative(pairs + pairs.T, dtype=np.float64)
    out.ravel()[:: m + 1] = -out.sum(axis=1)
    return np.asarray(out)


def information(contests: Contests, model: OutcomeModel, slopes: Slopes) -> FloatArray:
    """Observed information, without the prior: [parameters, parameters]."""
    return _assemble(contests, model, slopes.dd, slopes.dt, slopes.tt)


def constrained(info: FloatArray, *, m: int, l2: float) -> FloatArray:
    """Information with the prior on the m strengths, and with 11ᵀ/m, which fixes their sum: a matrix to invert."""
    out = info.copy()
    out[:m, :m] += 1 / m
    out.ravel()[: m * len(out) : len(out) + 1] += l2
    return out


def free_covariance(info: FloatArray, *, m: int, l2: float) -> FloatArray:
    """Σ₀ = (H + 11ᵀ/m)⁻¹ − 11ᵀ/(m(1+l2)) on the strengths, H with the prior: covariance given that they sum to zero."""
    out = np.asarray(np.linalg.inv(constrained(info, m=m, l2=l2)), dtype=np.float64)
    out[:m, :m] -= 1 / (m * (1 + l2))
    return out


def sandwich_meat(
    contests: Contests, model: OutcomeModel, slopes: Slopes, *, votes: VoteCells | None, group: IntArray | None
) -> FloatArray:
    """Σ_g u_g u_gᵀ, u_g the score of group g: [parameters, parameters]. Without groups each vote is its own."""
    if votes is None or group is None:
        return _assemble(contests, model, slopes.d**2, slopes.d * slopes.t, slopes.t**2)
    scores = vote_scores(contests, model, slopes, votes, group)
    return np.asarray((scores.T @ scores).toarray())


def vote_scores(
    contests: Contests, model: OutcomeModel, slopes: Slopes, votes: VoteCells, group: IntArray
) -> csr_array:
    """Score u_g of each group at `slopes`: sparse [G, parameters]."""
    m, k = contests.m, contests.z.shape[1]
    by_d = slopes.d[votes.outcome, votes.cell]
    parts = [(contests.first[votes.cell], by_d), (contests.second[votes.cell], -by_d)]
    parts += [(np.full_like(group, m + c), by_d * contests.z[votes.cell, c]) for c in range(k)]
    if model.has_tie:
        parts.append((np.full_like(group, m + k), slopes.t[votes.outcome, votes.cell]))
    return group_scores(group, parts, size=parameters(contests, model))


def group_scores(group: IntArray, parts: list[tuple[IntArray, FloatArray]], *, size: int) -> csr_array:
    """Scores of all groups: sparse [G, size].

    Args:
        group: [V] codes from 0.
        parts: of each vote's score, the parameters that they belong to and their values, [V] both.
    """
    rows = np.tile(group, len(parts))
    places = np.concatenate([place for place, _ in parts])
    values = np.concatenate([value for _, value in parts])
    scores = csr_array((values, (rows, places)), shape=(int(group.max(initial=-1)) + 1, size))
    scores.sum_duplicates()
    return scores


def maximise(contests: Contests, model: OutcomeModel, *, l2: float) -> Fit:
    """The parameters of greatest likelihood, less (l2/2)Σs², with Σs = 0. Covariates have a root mean square of 1."""
    theta = np.zeros(parameters(contests, model))
    if model.has_tie:
        theta[-1] = model.start(contests.ties / (contests.ties + contests.decisive))
    search = _newton if contests.m <= DENSE_SYSTEMS else _limited_memory
    theta, converged = search(contests, model, theta, l2=l2)
    theta[: contests.m] -= theta[: contests.m].mean()
    return Fit(
        theta=theta,
        loglik=log_likelihood(contests, model, theta),
        converged=converged and _farthest(contests, model, theta, l2=l2) < FARTHEST,
    )


def _farthest(contests: Contests, model: OutcomeModel, theta: FloatArray, *, l2: float) -> float:
    """The longest, in logits, of what may be on its way to infinity: effects, and with them or ties free strengths.

    Of single votes it says nothing: an outlying covariate may make one of them certain. Plain strengths are finite
    wherever the graph of wins says so, however long its chains.
    """
    m, k = contests.m, contests.z.shape[1]
    free = l2 == 0 and (k > 0 or model.has_tie)
    strengths = theta[contests.first] - theta[contests.second] if free else np.zeros(1)
    return float(np.abs(np.concatenate([theta[m : m + k], strengths])).max())


def _newton(contests: Contests, model: OutcomeModel, theta: FloatArray, *, l2: float) -> tuple[FloatArray, bool]:
    """Newton's steps, at most 3 logits long and shortened where they lead well past the summit."""
    m = contests.m

    def look(at: FloatArray) -> tuple[Slopes, FloatArray]:
        slopes = model.slopes(differences(contests, at), float(at[-1]))
        uphill = gradient(contests, model, slopes)
        uphill[:m] -= l2 * at[:m]
        return slopes, uphill

    slopes, uphill = look(theta)
    for _ in range(MAX_STEPS):
        try:
            step = np.linalg.solve(constrained(information(contests, model, slopes), m=m, l2=l2), uphill)
        except np.linalg.LinAlgError:  # flat: the likelihood rises for ever
            return theta, False
        longest = float(np.abs(step).max())
        if not np.isfinite(longest):
            return theta, False
        if longest < LAST_STEP:
            return theta + step, True
        step *= min(1.0, STEP_LIMIT / longest)
        while model.has_tie and theta[-1] + step[-1] <= model.floor:
            step *= 0.5
        rise = float(uphill @ step)
        slopes, uphill = look(theta + step)
        while float(uphill @ step) < -0.9 * rise:
            step *= 0.5
            rise *= 0.5
            slopes, uphill = look(theta + step)
        theta = theta + step
    return theta, False


def _limited_memory(
    contests: Contests, model: OutcomeModel, theta: FloatArray, *, l2: float
) -> tuple[FloatArray, bool]:
    """L-BFGS, which needs no m × m matrix."""
    m = contests.m

    def objective(at: FloatArray) -> tuple[float, FloatArray]:
        slopes = model.slopes(differences(contests, at), float(at[-1]))
        uphill = gradient(contests, model, slopes)
        uphill[:m] -= l2 * at[:m]
        return log_likelihood(contests, model, at) - l2 / 2 * float(at[:m] @ at[:m]), uphill

    lowest = np.full(len(theta), -np.inf)
    if model.has_tie:
        lowest[-1] = model.floor + 1e-9
    return ascend(objective, theta, rounds=5000, tolerance=1e-15, lowest=lowest)


def ascend(
    objective: Callable[[FloatArray], tuple[float, FloatArray]],
    start: FloatArray,
    *,
    rounds: int,
    tolerance: float,
    lowest: FloatArray | None = None,
) -> tuple[FloatArray, bool]:
    """A maximum by L-BFGS, and whether it came to rest.

    Args:
        objective: the value and its gradient.
        tolerance: relative gain below which a step is the last.
        lowest: bounds of the parameters.
    """

    def downhill(at: FloatArray) -> tuple[float, FloatArray]:
        value, slope = objective(at)
        return -value, -slope

    found = minimize(
        downhill,
        start.ravel(),
        jac=True,
        method="L-BFGS-B",
        bounds=None if lowest is None else Bounds(lb=lowest),
        options={"maxiter": rounds, "maxfun": 2 * rounds, "ftol": tolerance, "gtol": 1e-8},
    )
    return np.asarray(found.x, dtype=np.float64), bool(found.success)
