"""What a ranking is: strengths with intervals, ranks, and why some of them do not exist.

Every model of rankings ends here, so that systems without votes, single groups and unconnected graphs are answered
in one way. Knows nothing of likelihoods.

Shapes: n systems, m of them with votes, W annotators.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import expit, stdtrit

from annotation.statistics.estimates import (
    FEW_GROUPS,
    LEVEL,
    Caution,
    Estimate,
    FloatArray,
    IntArray,
    Reason,
    interval,
    missing,
    reason_of,
)

RANK_DRAWS = 2000
ELO_START = 1000.0
ELO_PER_LOGIT = 400 / math.log(10)


@dataclass(frozen=True, kw_only=True, slots=True)
class AnnotatorFit:
    """What annotator-aware Bradley-Terry says of people; NaN where `reason` is not 0.

    Attributes:
        eta: [W] probability that a vote follows the strengths; below ½ the person reverses.
        bias: [W] logits in favour of the side shown left; None where it was not asked for.
        eta_low, eta_high, bias_low, bias_high: [W] intervals; None where there is no proper mode, or too many systems.
        reason: [W] 0, or the number of `no_votes`, or of `one_class` where all votes are ties.
    """

    eta: FloatArray
    eta_low: FloatArray | None
    eta_high: FloatArray | None
    bias: FloatArray | None
    bias_low: FloatArray | None
    bias_high: FloatArray | None
    reason: IntArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranking:
    """Strengths of n systems in logits, sum zero over the systems that have one.

    Attributes:
        strength: [n]; NaN where `reason` is neither 0 nor `too_few_groups`.
        cov: [n, n] Σ₀, the model's covariance (inverse information under the sum-zero constraint); with a prior
            also of systems without votes, whose variance is the prior's. None where the model has none.
        cov_clustered: [n, n] what the intervals are made of: answers within a group may resemble each other. NaN in
            rows and columns of systems without strength; None where there is no interval.
        se, low, high: [n] standard error from `cov_clustered`, interval at 95 %; None where there is no interval,
            which is with one group (`too_few_groups`) or in a method that has none.
        rank_low, rank_high: [n] interval of the rank among the systems of the same component, 1 = strongest;
            −1 without strength; None where there is no interval or none was asked for.
        component: [n] systems with the same number can be compared; −1 without votes.
        tie_parameter: Davidson's ν or Rao and Kupper's θ, with its interval; None in models without ties.
        coefficients: effect of each covariate in logits a unit.
        loglik: log-likelihood of the votes, without the prior.
        reason: [n] 0, or the number of the `Reason`.
        warnings: cautions, and `not_connected` where only systems of the same component can be compared.
        n_votes: [n] votes a system took part in (orders, in Plackett-Luce); n_groups: independent groups of votes.
        annotators: of `crowd_bt` alone.
    """

    strength: FloatArray
    cov: FloatArray | None = None
    cov_clustered: FloatArray | None = None
    se: FloatArray | None = None
    low: FloatArray | None = None
    high: FloatArray | None = None
    rank_low: IntArray | None = None
    rank_high: IntArray | None = None
    component: IntArray
    tie_parameter: float | None = None
    tie_low: float | None = None
    tie_high: float | None = None
    coefficients: tuple[Estimate, ...] = ()
    loglik: float | None = None
    converged: bool
    reason: IntArray
    warnings: tuple[Caution | Reason, ...] = ()
    n_votes: IntArray
    n_groups: int
    annotators: AnnotatorFit | None = None

    def difference(self, i: int, j: int) -> Estimate:
        """s_i − s_j with its own interval, √(Σ_ii + Σ_jj − 2Σ_ij): two separate SEs would leave out what they share.

        Without interval and without a reason where the ranking has no covariance: Elo, Rank Centrality, more than 2,000
        systems, or a mode that was not reached.
        """
        votes = int(self.n_votes[i] + self.n_votes[j])
        why = reason_of(max(int(self.reason[i]), int(self.reason[j])))
        if why not in (None, Reason.TOO_FEW_GROUPS):
            return missing(why, method="sandwich", n=votes, n_groups=self.n_groups)
        if self.component[i] != self.component[j]:
            return missing(Reason.NOT_CONNECTED, method="sandwich", n=votes, n_groups=self.n_groups)
        value = float(self.strength[i] - self.strength[j])
        if self.cov is None:
            return Estimate(value=value, method="none", n=votes, n_groups=self.n_groups)
        x = np.zeros(len(self.strength))
        x[i], x[j] = x[i] + 1, x[j] - 1
        cov = None if self.cov_clustered is None else np.where(np.isnan(self.cov_clustered), 0.0, self.cov_clustered)
        variance = None if cov is None else float(x @ cov @ x)
        return sandwich_estimate(value, variance=variance, n=votes, n_groups=self.n_groups)


@dataclass(frozen=True, kw_only=True, slots=True)
class Roster:
    """Who is ranked, and on how many votes.

    Attributes:
        n: systems; present: [m] those with votes; n_votes: [n] of each; n_groups: independent groups of votes.
    """

    n: int
    present: IntArray
    n_votes: IntArray
    n_groups: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Intervals:
    """Uncertainty of the m strengths that exist; the fields are those of `Ranking`."""

    clustered: FloatArray
    se: FloatArray
    low: FloatArray
    high: FloatArray
    rank_low: IntArray | None
    rank_high: IntArray | None


def elo_scale(strength: FloatArray) -> FloatArray:
    """Logits on the scale that Elo made familiar, 1000 + 173.718 s: for display only."""
    return ELO_START + ELO_PER_LOGIT * strength


def win_probability(ranking: Ranking) -> FloatArray:
    """σ(s_i − s_j), P(i beats j) with ties half: [n, n]; NaN where one has no strength or they cannot be compared."""
    chance = expit(ranking.strength[:, None] - ranking.strength[None, :])
    return np.where(ranking.component[:, None] == ranking.component[None, :], chance, np.nan)


def sandwich_estimate(value: float, *, variance: float | None, n: int, n_groups: int) -> Estimate:
    """A parameter with the t interval of its clustered variance, or without one where that does not exist."""
    if variance is None:
        why = Reason.TOO_FEW_GROUPS if n_groups < 2 else None  # else there were too many systems for a covariance
        return Estimate(value=value, method="sandwich", n=n, n_groups=n_groups, reason=why)
    se = math.sqrt(max(variance, 0.0))
    low, high, warnings = interval(value, se=se, df=n_groups - 1, bounds=(-math.inf, math.inf))
    return Estimate(
        value=value, se=se, low=low, high=high, method="sandwich", n=n, n_groups=n_groups, warnings=warnings
    )


def _rank_interval(draws: FloatArray, component: IntArray) -> tuple[IntArray, IntArray]:
    """Ranks [m], lowest and highest, that hold 95 % of the draws [D, m]; among systems of the same component."""
    low, high = np.empty(draws.shape[1], dtype=np.int64), np.empty(draws.shape[1], dtype=np.int64)
    for label in range(component.max(initial=-1) + 1):
        members = np.flatnonzero(component == label)
        size = len(members)
        order = np.argsort(-draws[:, members], axis=1)
        held = np.bincount((order * size + np.arange(size)).ravel(), minlength=size * size).reshape(size, size)
        below = held.cumsum(axis=1) / len(draws)  # [member, rank]: share of draws in which it stands so or better
        low[members] = 1 + (below < (1 - LEVEL) / 2).sum(axis=1)
        high[members] = 1 + (below < (1 + LEVEL) / 2).sum(axis=1)
    return low, high


def sandwich_intervals(
    strength: FloatArray,
    clustered: FloatArray,
    component: IntArray,
    *,
    n_groups: int,
    rng: int | np.random.Generator | None,
) -> Intervals:
    """s ± t_{G−1} SE, and rank intervals from 2,000 normal draws (None: left out) of strengths [m]."""
    se = np.sqrt(np.maximum(np.diag(clustered), 0.0))
    half = float(stdtrit(n_groups - 1, (1 + LEVEL) / 2)) * se
    ranks: tuple[IntArray | None, IntArray | None] = (None, None)
    if rng is not None:
        values, vectors = np.linalg.eigh(clustered)
        root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T  # symmetric, so that it is continuous
        normal = np.random.default_rng(rng).standard_normal((RANK_DRAWS, len(strength)))
        ranks = _rank_interval(strength + normal @ root, component)
    return Intervals(
        clustered=clustered, se=se, low=strength - half, high=strength + half, rank_low=ranks[0], rank_high=ranks[1]
    )


def percentile_intervals(replicates: FloatArray, component: IntArray) -> Intervals:
    """Percentiles of bootstrap replicates [B, m] and of the ranks within them."""
    clustered = np.cov(replicates, rowvar=False)
    low, high = np.quantile(replicates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    rank_low, rank_high = _rank_interval(replicates, component)
    return Intervals(
        clustered=clustered, se=np.sqrt(np.diag(clustered)), low=low, high=high, rank_low=rank_low, rank_high=rank_high
    )


def _fill(values: FloatArray, present: IntArray, *, n: int) -> FloatArray:
    """A vector [m] or matrix [m, m] of the systems with votes as [n] or [n, n], NaN elsewhere."""
    if len(present) == n:
        return values
    out = np.full((n,) * values.ndim, np.nan)
    out[np.ix_(*(present,) * values.ndim)] = values
    return out


def _fill_codes(values: IntArray, present: IntArray, *, n: int) -> IntArray:
    """Integers [m] of the systems with votes as [n], −1 elsewhere."""
    if len(present) == n:
        return values
    out = np.full(n, -1, dtype=np.int64)
    out[present] = values
    return out


def _fill_cov(cov: FloatArray, present: IntArray, *, n: int, l2: float) -> FloatArray:
    """Σ₀ [m, m] as [n, n]; systems without votes have the prior's variance about the mean of the others."""
    m = len(present)
    if m == n or l2 == 0:
        return _fill(cov, present, n=n)
    absent = np.setdiff1d(np.arange(n), present)
    out = np.zeros((n, n))
    out[np.ix_(present, present)] = cov
    mean = 1 / m if m else -1 / n  # without any votes they are centred among themselves
    out[np.ix_(absent, absent)] = (np.eye(n - m) + mean) / l2
    return out


def without_strengths(reason: Reason, roster: Roster, *, component: IntArray) -> Ranking:
    """The ranking that does not exist, for one reason; systems without votes keep theirs. `component` is [m]."""
    reasons = np.full(roster.n, Reason.NO_VOTES.number, dtype=np.int64)
    reasons[roster.present] = reason.number
    return Ranking(
        strength=np.full(roster.n, np.nan),
        component=_fill_codes(component, roster.present, n=roster.n),
        converged=False,
        reason=reasons,
        n_votes=roster.n_votes,
        n_groups=roster.n_groups,
    )


def make_ranking(
    strength: FloatArray,
    roster: Roster,
    *,
    component: IntArray,
    cov: FloatArray | None = None,
    intervals: Intervals | None = None,
    l2: float = 0.0,
    converged: bool = True,
    loglik: float | None = None,
    warnings: tuple[Caution | Reason, ...] = (),
) -> Ranking:
    """The ranking of all systems from the strengths [m] of those with votes.

    Args:
        component: [m].
        cov: Σ₀ [m, m]; None: the method has neither covariance nor intervals.
        intervals: None: it has none, or there are not enough groups for it.
        l2: precision of the prior, which is all that is known of systems without votes.
    """
    n, present = roster.n, roster.present
    reason = np.full(n, Reason.NO_VOTES.number, dtype=np.int64)
    reason[present] = Reason.TOO_FEW_GROUPS.number if cov is not None and intervals is None else 0
    notes: dict[Caution | Reason, bool] = {
        Caution.FEW_GROUPS: intervals is not None and roster.n_groups < FEW_GROUPS,
        Caution.NOT_CONVERGED: not converged,
        Reason.NOT_CONNECTED: component.max(initial=0) > 0,
    }
    ranking = Ranking(
        strength=_fill(strength, present, n=n),
        cov=None if cov is None else _fill_cov(cov, present, n=n, l2=l2),
        component=_fill_codes(component, present, n=n),
        loglik=loglik,
        converged=converged,
        reason=reason,
        warnings=(*warnings, *(note for note, applies in notes.items() if applies)),
        n_votes=roster.n_votes,
        n_groups=roster.n_groups,
    )
    return ranking if intervals is None else _with_intervals(ranking, intervals, present, n=n)


def _with_intervals(ranking: Ranking, intervals: Intervals, present: IntArray, *, n: int) -> Ranking:
    low, high = intervals.rank_low, intervals.rank_high
    return replace(
        ranking,
        cov_clustered=_fill(intervals.clustered, present, n=n),
        se=_fill(intervals.se, present, n=n),
        low=_fill(intervals.low, present, n=n),
        high=_fill(intervals.high, present, n=n),
        rank_low=None if low is None else _fill_codes(low, present, n=n),
        rank_high=None if high is None else _fill_codes(high, present, n=n),
    )
