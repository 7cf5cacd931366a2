"""Bradley-Terry, Davidson and Rao-Kupper: strengths of systems from comparisons, with clustered intervals.

Whether a maximum exists is asked before it is sought. Knows how votes make a ranking, not how the likelihood is
maximised (`likelihood`) nor how a result is laid out (`strengths`).

Shapes: V votes, n systems, m of them with votes, k covariates, G groups, B bootstrap replicates, P pairs that met.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array, diags_array
from scipy.sparse.linalg import cg
from scipy.special import expit

from annotation.statistics.contests import (
    TIE,
    A,
    B,
    Contests,
    VoteCells,
    check_groups,
    contest_components,
    count_contests,
)
from annotation.statistics.estimates import (
    BoolArray,
    Caution,
    Estimate,
    FloatArray,
    IntArray,
    Reason,
    check_codes,
    check_not_negative,
    check_size,
    missing,
    reason_of,
)
from annotation.statistics.likelihood import (
    BRADLEY_TERRY,
    DAVIDSON,
    DENSE_SYSTEMS,
    LAST_STEP,
    MAX_STEPS,
    RAO_KUPPER,
    STEP_LIMIT,
    Fit,
    OutcomeModel,
    differences,
    free_covariance,
    information,
    laplacian,
    maximise,
    sandwich_meat,
    vote_scores,
)
from annotation.statistics.strengths import (
    Ranking,
    Roster,
    make_ranking,
    percentile_intervals,
    sandwich_estimate,
    sandwich_intervals,
    without_strengths,
)

BLOCK = 2**23  # numbers in a block of bootstrap replicates
LARGEST_LOG = 700.0  # whose exponential is still a number
ALIKE = 1e-9  # a covariate that keeps less of its variation than this is a sum of others


def bradley_terry(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    outcome: npt.ArrayLike,
    *,
    n: int,
    l2: float = 1.0,
    group: npt.ArrayLike | None = None,
    covariates: npt.ArrayLike | None = None,
    rng: int | np.random.Generator | None = 0,
) -> Ranking:
    """Strengths with P(a) = σ(s_a − s_b + zᵀβ), ties as half a win for each; the display model.

    Maximises the log-likelihood less (l2/2)Σs². Without a prior the maximum exists only where every system has, by way
    of others, beaten every other: else `not_connected` or `separated`, with the component of each system. With a prior
    all is finite, but strengths of unconnected systems cannot be compared, and `warnings` says so. Counting is O(V),
    each step O(n³); above 2,000 systems L-BFGS on the pairs that met, without covariance and intervals.

    Args:
        a, b, outcome: [V] systems and 1, ½ or 0.
        n: systems, with votes or without.
        l2: precision of the prior on strengths, ≥ 0; 1 is a standard deviation of one logit.
        group: [V] prompt group of each vote; without it each vote is its own.
        covariates: [V, k] that a has over b (side ±1, log2 ratios of length, of marks): their effects β have no prior,
            and strengths are those at z = 0. One that does not vary beyond the systems has the reason `one_class`.
        rng: seed of the draws for rank intervals; None leaves those out, which is faster.

    Raises:
        ValueError: naming the argument that is malformed.

    Source: Zermelo 1929; Bradley & Terry 1952; Ford 1957 on existence; Agresti 2002, 10.6 for the covariates.
    """
    return _rank(BRADLEY_TERRY, a, b, outcome, n=n, l2=l2, group=group, covariates=covariates, rng=rng)


def davidson(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    outcome: npt.ArrayLike,
    *,
    n: int,
    l2: float = 1.0,
    group: npt.ArrayLike | None = None,
    rng: int | np.random.Generator | None = 0,
) -> Ranking:
    """P(a) : P(tie) : P(b) = e^{d/2} : ν : e^{−d/2}; `tie_parameter` is ν, which has no prior.

    Arguments and errors are those of `bradley_terry`. Without ties it is that model with ν = 0 and the warning
    `no_ties`; with nothing but ties `one_class`.

    Source: Davidson 1970.
    """
    return _rank(DAVIDSON, a, b, outcome, n=n, l2=l2, group=group, covariates=None, rng=rng)


def rao_kupper(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    outcome: npt.ArrayLike,
    *,
    n: int,
    l2: float = 1.0,
    group: npt.ArrayLike | None = None,
    rng: int | np.random.Generator | None = 0,
) -> Ranking:
    """P(a) = σ(d − ln θ), P(b) = σ(−d − ln θ), else a tie; `tie_parameter` is θ ≥ 1, which has no prior.

    The default where ties matter: on real votes it fits better than Davidson's model. Arguments and errors are
    those of `bradley_terry`. Without ties it is that model with θ = 1 and the warning `no_ties`; with nothing but ties
    `one_class`.

    Source: Rao & Kupper 1967.
    """
    return _rank(RAO_KUPPER, a, b, outcome, n=n, l2=l2, group=group, covariates=None, rng=rng)


def _rank(
    model: OutcomeModel,
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    outcome: npt.ArrayLike,
    *,
    n: int,
    l2: float,
    group: npt.ArrayLike | None,
    covariates: npt.ArrayLike | None,
    rng: int | np.random.Generator | None,
) -> Ranking:
    """Count, see whether the maximum exists, find it, and say how sure it is."""
    l2 = check_not_negative(l2, name="l2")
    contests, votes = count_contests(a, b, outcome, n=n, covariates=covariates, trace=group is not None)
    codes, n_groups = check_groups(group, length=int(contests.counts.sum()))
    roster = Roster(n=contests.n, present=contests.present, n_votes=votes_of(contests), n_groups=n_groups)
    weak, strong = contest_components(contests)
    if not contests.m:
        nothing = make_ranking(np.empty(0), roster, component=weak, cov=np.empty((0, 0)), l2=l2)
        return replace(nothing, coefficients=(missing(Reason.NO_VOTES, method="sandwich"),) * contests.z.shape[1])
    kept = identified(contests, weak)
    size = sizes(contests)[kept]
    chosen = replace(contests, z=contests.z[:, kept] / size)
    used = model if contests.ties else BRADLEY_TERRY
    reason, component = _why_none(contests, weak, strong, l2=l2)
    fit = maximise(chosen, used, l2=l2) if reason is None else None
    if fit is None or (not fit.converged and contests.m <= DENSE_SYSTEMS):
        reason = reason or Reason.SEPARATED
        nothing = without_strengths(reason, roster, component=component)
        return replace(nothing, coefficients=tuple(missing(reason, method="sandwich") for _ in kept))
    cov, clustered = _covariances(chosen, used, fit, l2=l2, votes=votes, group=codes, n_groups=n_groups)
    m = contests.m
    strength, ends = fit.theta[:m], None if clustered is None else clustered[:m, :m]
    ranking = make_ranking(
        strength,
        roster,
        component=component,
        cov=None if cov is None else cov[:m, :m],
        intervals=None if ends is None else sandwich_intervals(strength, ends, component, n_groups=n_groups, rng=rng),
        l2=l2,
        converged=fit.converged,
        loglik=fit.loglik,
        warnings=(Caution.NO_TIES,) if used is not model else (),
    )
    effects = _effects(fit.theta, clustered, roster, begin=m, size=size)
    ranking = _with_tie(ranking, model, effects.pop() if used.has_tie else None)
    return replace(ranking, coefficients=_coefficients(effects, kept))


def _effects(
    theta: FloatArray, clustered: FloatArray | None, roster: Roster, *, begin: int, size: FloatArray
) -> list[Estimate]:
    """The parameters from `begin` on, those beside the strengths; effects of covariates in the units these came in."""
    votes = int(roster.n_votes.sum()) // 2
    unit = np.ones(len(theta) - begin)
    unit[: len(size)] = size
    variances = [None] * len(unit) if clustered is None else (np.diag(clustered)[begin:] / unit**2).tolist()
    return [
        sandwich_estimate(value, variance=variance, n=votes, n_groups=roster.n_groups)
        for value, variance in zip((theta[begin:] / unit).tolist(), variances, strict=True)
    ]


def votes_of(contests: Contests) -> IntArray:
    """Votes that each of the n systems took part in."""
    total = contests.counts.sum(axis=0)
    votes = np.bincount(contests.first, weights=total, minlength=contests.m)
    votes += np.bincount(contests.second, weights=total, minlength=contests.m)
    out = np.zeros(contests.n, dtype=np.int64)
    out[contests.present] = votes
    return out


def _why_none(contests: Contests, weak: IntArray, strong: IntArray, *, l2: float) -> tuple[Reason | None, IntArray]:
    """Why there are no strengths, if so, and the components [m] that this speaks of."""
    if not contests.decisive:
        return Reason.ONE_CLASS, weak
    if l2 > 0:
        return None, weak
    if weak.max() > 0:
        return Reason.NOT_CONNECTED, weak
    return (Reason.SEPARATED, strong) if strong.max() > 0 else (None, weak)


def sizes(contests: Contests) -> FloatArray:
    """Root mean square of each covariate over the votes: [k]. In its units nothing depends on how it was measured."""
    votes = contests.counts.sum(axis=0)
    return np.asarray(np.sqrt(votes @ contests.z**2 / votes.sum()))


def identified(contests: Contests, weak: IntArray) -> BoolArray:
    """Which covariates [k] vary beyond the systems and those before them; the others have no effect to estimate."""
    m, k = contests.m, contests.z.shape[1]
    kept = np.zeros(k, dtype=bool)
    if not k:
        return kept
    votes = contests.counts.sum(axis=0)
    weighted = contests.z * votes[:, None]
    left = contests.z.T @ weighted
    size = np.sqrt(np.diag(left))
    if m <= DENSE_SYSTEMS:
        of_pairs = laplacian(contests, votes) + (weak[:, None] == weak[None, :])
        cross = np.stack([contests.pull(column) for column in weighted.T], axis=1)
        left = left - cross.T @ np.linalg.solve(of_pairs, cross)
    for column in np.flatnonzero(size > 0):
        trial = np.append(np.flatnonzero(kept), column)
        scaled = left[np.ix_(trial, trial)] / np.outer(size[trial], size[trial])
        kept[column] = np.linalg.eigvalsh(scaled)[0] > ALIKE
    return kept


def _covariances(
    contests: Contests,
    model: OutcomeModel,
    fit: Fit,
    *,
    l2: float,
    votes: VoteCells | None,
    group: IntArray | None,
    n_groups: int,
) -> tuple[FloatArray | None, FloatArray | None]:
    """Σ₀ and the cluster sandwich Σ₀(Σ_g u_g u_gᵀ)Σ₀·G/(G−1) of all parameters, as far as they exist."""
    if contests.m > DENSE_SYSTEMS:
        return None, None
    slopes = model.slopes(differences(contests, fit.theta), float(fit.theta[-1]))
    cov = free_covariance(information(contests, model, slopes), m=contests.m, l2=l2)
    if n_groups < 2:
        return cov, None
    meat = sandwich_meat(contests, model, slopes, votes=votes, group=group)
    return cov, cov @ meat @ cov * (n_groups / (n_groups - 1))


def _with_tie(ranking: Ranking, model: OutcomeModel, log_tie: Estimate | None) -> Ranking:
    """The tie parameter e^t with the interval of t; without ties the value at which the model has none."""
    if not model.has_tie:
        return ranking
    lowest = float(np.exp(model.floor))
    if log_tie is None or log_tie.value is None:
        return replace(ranking, tie_parameter=lowest)
    if log_tie.low is None or log_tie.high is None:
        return replace(ranking, tie_parameter=float(np.exp(log_tie.value)))
    low, high = np.exp(np.minimum([log_tie.low, log_tie.high], LARGEST_LOG))
    return replace(
        ranking,
        tie_parameter=float(np.exp(log_tie.value)),
        tie_low=max(float(low), lowest),
        tie_high=float(high),
    )


def _coefficients(effects: list[Estimate], kept: BoolArray) -> tuple[Estimate, ...]:
    """One estimate a covariate, `one_class` for those that had to be left out."""
    found = iter(effects)
    return tuple(next(found) if keep else missing(Reason.ONE_CLASS, method="sandwich") for keep in kept)


def strength_intervals(
    ranking: Ranking,
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    outcome: npt.ArrayLike,
    *,
    systems: npt.ArrayLike,
    l2: float = 1.0,
    group: npt.ArrayLike | None = None,
) -> tuple[Estimate, ...]:
    """Strengths of some systems with the intervals that `bradley_terry` leaves out above 2,000, one estimate each.

    A row of Σ₀ at a time by conjugate gradients on the pairs that met; O(V) a step, and no n × n matrix.

    Args:
        ranking: `bradley_terry` of the same votes, with the same l2 and group, without covariates.
        systems: codes of those asked for.

    Raises:
        ValueError: naming the argument that is malformed.
    """
    n = len(ranking.strength)
    asked = check_codes(systems, name="systems", size=n)
    contests, votes = count_contests(a, b, outcome, n=n, trace=True)
    assert votes is not None  # it was asked to trace
    codes, n_groups = check_groups(group, length=len(votes.cell))
    m = contests.m
    s = ranking.strength[contests.present]
    slopes = BRADLEY_TERRY.slopes(differences(contests, s), 0.0)
    weight = np.repeat((contests.counts * slopes.dd).sum(axis=0), 2)
    ends = np.stack([contests.first, contests.second], axis=1)
    off = csr_array((-weight, (ends.ravel(), ends[:, ::-1].ravel())), shape=(m, m))
    info = off + diags_array(np.bincount(ends.ravel(), weights=weight, minlength=m) + check_not_negative(l2, name="l2"))
    scores = vote_scores(contests, BRADLEY_TERRY, slopes, votes, np.arange(len(votes.cell)) if codes is None else codes)
    out = []
    for system, place in zip(asked.tolist(), np.searchsorted(contests.present, asked).tolist(), strict=True):
        why = reason_of(int(ranking.reason[system]))
        if why not in (None, Reason.TOO_FEW_GROUPS):
            out.append(missing(why, method="sandwich", n_groups=n_groups))
            continue
        variance = None
        if n_groups > 1:
            row, _ = cg(info, (np.arange(m) == place) - 1 / m, rtol=1e-10)
            variance = float(np.sum((scores @ row) ** 2)) * n_groups / (n_groups - 1)
        votes_of_system = int(ranking.n_votes[system])
        out.append(sandwich_estimate(float(s[place]), variance=variance, n=votes_of_system, n_groups=n_groups))
    return tuple(out)


def bootstrap_bradley_terry(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    outcome: npt.ArrayLike,
    *,
    n: int,
    l2: float = 1.0,
    group: npt.ArrayLike | None = None,
    B: int = 2000,
    rng: int | np.random.Generator = 0,
) -> Ranking:
    """`bradley_terry` with percentile intervals of strengths and ranks from B bootstrap replicates, for comparison.

    Groups are drawn with replacement as multinomial weights on their vote counts, so that no vote is touched again;
    without groups the weights fall on distinct votes. All replicates are fitted at once from the estimate on.
    `cov_clustered` is the covariance of the replicates. The sandwich of `bradley_terry` covers better with few groups.

    Args:
        l2: above 0: a replicate may lack the wins that a maximum without prior needs.

    Raises:
        ValueError: naming the argument that is malformed.
    """
    if not check_not_negative(l2, name="l2") > 0:
        raise ValueError("l2 must be positive: without a prior a replicate may have no maximum")
    check_size(B, name="B", at_least=2)
    ranking = bradley_terry(a, b, outcome, n=n, l2=l2, group=group, rng=None)
    if ranking.cov is None or ranking.se is None:
        return ranking
    contests, votes = count_contests(a, b, outcome, n=n, trace=group is not None)
    codes, n_groups = check_groups(group, length=int(contests.counts.sum()))
    present = contests.present
    replicates = _replicates(contests, votes, codes, ranking.strength[present], l2=l2, B=B, rng=rng)
    return make_ranking(
        ranking.strength[present],
        Roster(n=n, present=present, n_votes=ranking.n_votes, n_groups=n_groups),
        component=ranking.component[present],
        cov=ranking.cov[np.ix_(present, present)],
        intervals=percentile_intervals(replicates, ranking.component[present]),
        l2=l2,
        loglik=ranking.loglik,
    )


def _replicates(
    contests: Contests,
    votes: VoteCells | None,
    group: IntArray | None,
    start: FloatArray,
    *,
    l2: float,
    B: int,
    rng: int | np.random.Generator,
) -> FloatArray:
    """Strengths [B, m] of redrawn votes, as many at a time as memory is meant for."""
    generator = np.random.default_rng(rng)
    at_once = max(1, BLOCK // max(contests.counts.size, contests.m**2))
    blocks = []
    for begin in range(0, B, at_once):
        draws = min(at_once, B - begin)
        if votes is None or group is None:
            won, met = _redraw_votes(contests, draws, generator)
        else:
            won, met = _redraw_groups(contests, votes, group, draws, generator)
        blocks.append(_refit(contests, won, met, start, l2=l2))
    return np.concatenate(blocks)


def _redraw_votes(contests: Contests, draws: int, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Wins of the first with ties half, and meetings, of each pair in each replicate: [draws, P] both."""
    total = int(contests.counts.sum())
    seen = np.flatnonzero(contests.counts)
    drawn = np.zeros((draws, contests.counts.size))
    drawn[:, seen] = rng.multinomial(total, contests.counts.ravel()[seen] / total, size=draws)
    outcomes = drawn.reshape(draws, 3, -1)
    return outcomes[:, A] + outcomes[:, TIE] / 2, outcomes.sum(axis=1)


def _redraw_groups(
    contests: Contests, votes: VoteCells, group: IntArray, draws: int, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """The same with whole groups drawn."""
    n_groups = int(group.max()) + 1
    weights = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=draws).astype(np.float64)
    shape = (contests.counts.shape[1], n_groups)
    won = csr_array(((B - votes.outcome) / 2, (votes.cell, group)), shape=shape)
    met = csr_array((np.ones(len(group)), (votes.cell, group)), shape=shape)
    return np.asarray(won @ weights.T).T, np.asarray(met @ weights.T).T


def _refit(contests: Contests, won: FloatArray, met: FloatArray, start: FloatArray, *, l2: float) -> FloatArray:
    """Strengths [draws, m] of every replicate by Newton's method on all of them at once."""
    m, pairs, draws = contests.m, contests.counts.shape[1], len(won)
    which = np.arange(pairs)
    design = csr_array(
        (
            np.repeat([1.0, -1.0], pairs),
            (np.concatenate([contests.first, contests.second]), np.concatenate([which, which])),
        ),
        shape=(m, pairs),
    )
    s = np.tile(start, (draws, 1))
    bend = np.empty((draws, m, m))
    for _ in range(MAX_STEPS):
        p = expit(s[:, contests.first] - s[:, contests.second])
        expected = met * p
        uphill = (design @ (won - expected).T).T - l2 * s
        weight = expected * (1 - p)
        bend.fill(1 / m)
        bend[:, contests.first, contests.second] -= weight
        bend[:, contests.second, contests.first] -= weight
        bend[:, np.arange(m), np.arange(m)] += (abs(design) @ weight.T).T + l2
        step = np.linalg.solve(bend, uphill[:, :, None])[:, :, 0]
        longest = float(np.abs(step).max())
        s += step * min(1.0, STEP_LIMIT / longest)
        if longest < LAST_STEP:
            break
    return s
