"""Rankings of systems from comparisons: the models, the win matrix they rest on, and two cross-checks.

Arrays in, frozen results out; knows nothing of policies, votes as rows, or screens. `a`, `b` are system codes 0..n−1,
`outcome` is 1 where a won, ½ for a tie and 0 where b won; a system is never compared with itself. Strengths are in
logits with sum zero.

Shapes: V votes, n systems, P pairs that met.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from annotation.statistics.contests import (
    TIE,
    A,
    B,
    Contests,
    VoteCells,
    check_contests,
    check_groups,
    components,
    contest_components,
    count_contests,
)
from annotation.statistics.crowd import crowd_bt
from annotation.statistics.estimates import (
    FloatArray,
    IntArray,
    Reason,
    as_numbers,
    check_not_negative,
    check_size,
    wilson_ends,
)
from annotation.statistics.orders import plackett_luce
from annotation.statistics.paired_models import (
    bootstrap_bradley_terry,
    bradley_terry,
    davidson,
    rao_kupper,
    strength_intervals,
    votes_of,
)
from annotation.statistics.strengths import (
    ELO_PER_LOGIT,
    ELO_START,
    AnnotatorFit,
    Ranking,
    Roster,
    elo_scale,
    make_ranking,
    win_probability,
    without_strengths,
)

__all__ = [
    "AnnotatorFit",
    "Ranking",
    "WinRates",
    "bootstrap_bradley_terry",
    "bradley_terry",
    "crowd_bt",
    "davidson",
    "elo",
    "elo_curve",
    "elo_scale",
    "plackett_luce",
    "rank_centrality",
    "rao_kupper",
    "strength_intervals",
    "win_matrix",
    "win_probability",
    "win_rates",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class WinRates:
    """How often the system of a row beat that of a column, ties half; all [n, n].

    Attributes:
        rate: NaN where `reason` is `no_votes`.
        low, high: Wilson interval for the design effect of the groups; NaN where `reason` is not 0.
        n_votes, n_groups: behind a rate; below 20 groups its interval is a rough one.
        model: σ(s_i − s_j) of the ranking; NaN where `model_reason` is not 0.
        reason: 0, or the number of `no_votes` (also on the diagonal) or, for the interval alone, `too_few_groups`.
        model_reason: 0, or the number of the reason.
    """

    rate: FloatArray
    low: FloatArray
    high: FloatArray
    n_votes: IntArray
    n_groups: IntArray
    model: FloatArray
    reason: IntArray
    model_reason: IntArray


def win_matrix(a: npt.ArrayLike, b: npt.ArrayLike, outcome: npt.ArrayLike, *, n: int) -> FloatArray:
    """W[i, j], wins of i over j with ties as half a win for each: [n, n]. O(V).

    Raises:
        ValueError: naming the argument that is malformed.
    """
    n = check_size(n, name="n")
    first, second, kind = check_contests(a, b, outcome, n=n)
    table = np.bincount((first * n + second) * 3 + kind, minlength=3 * n * n).reshape(n, n, 3)
    return table[:, :, A] + table[:, :, B].T + (table[:, :, TIE] + table[:, :, TIE].T) / 2


def win_rates(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    outcome: npt.ArrayLike,
    *,
    n: int,
    group: npt.ArrayLike | None = None,
    ranking: Ranking | None = None,
) -> WinRates:
    """The share of wins in each pair of systems, with its interval, beside what a ranking expects.

    Args:
        group: [V] prompt group of each vote; without it each vote is its own.
        ranking: of the same systems; by default `bradley_terry` of these votes.

    Raises:
        ValueError: naming the argument that is malformed.

    Source: Wilson 1927, on n / max(1, design effect), which is the jackknife's variance over the binomial one.
    """
    n = check_size(n, name="n")
    contests, votes = count_contests(a, b, outcome, n=n, trace=group is not None)
    codes, _ = check_groups(group, length=int(contests.counts.sum()))
    if ranking is None:
        ranking = bradley_terry(a, b, outcome, n=n, group=group, rng=None)
    if len(ranking.strength) != n:
        raise ValueError(f"ranking must be of {n} systems, got {len(ranking.strength)}")
    met = contests.counts.sum(axis=0)
    rate = contests.halves()[0] / met
    groups, low, high = _clustered_ends(contests, votes, codes)
    first, second = contests.present[contests.first], contests.present[contests.second]

    def square(above: FloatArray, below: FloatArray, empty: float) -> FloatArray:
        out = np.full((n, n), empty)
        out[first, second], out[second, first] = above, below
        return out

    n_groups = square(groups, groups, 0).astype(np.int64)
    reasons = (Reason.NO_VOTES.number, Reason.TOO_FEW_GROUPS.number)
    model_reason = _model_reason(ranking)
    return WinRates(
        rate=square(rate, 1 - rate, np.nan),
        low=square(low, 1 - high, np.nan),
        high=square(high, 1 - low, np.nan),
        n_votes=square(met, met, 0).astype(np.int64),
        n_groups=n_groups,
        model=np.where(model_reason == 0, win_probability(ranking), np.nan),
        reason=np.select([n_groups == 0, n_groups == 1], reasons, 0),
        model_reason=model_reason,
    )


def _clustered_ends(
    contests: Contests, votes: VoteCells | None, group: IntArray | None
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Groups in each cell, and both ends of the interval of its share of wins, NaN with one group: [P] each."""
    met = contests.counts.sum(axis=0)
    rate = contests.halves()[0] / met
    groups, variance = _jackknife_variance(contests, votes, group)
    binomial = rate * (1 - rate) / met
    deff = np.divide(variance, binomial, out=np.ones_like(met), where=binomial > 0)
    low, high = np.where(groups < 2, np.nan, wilson_ends(rate, met / np.maximum(1.0, deff)))
    return groups, low, high


def _jackknife_variance(
    contests: Contests, votes: VoteCells | None, group: IntArray | None
) -> tuple[FloatArray, FloatArray]:
    """Groups in each cell, and the delete-one-group variance of its share of wins (0 with one group): [P] both."""
    met, won = contests.counts.sum(axis=0), contests.halves()[0]
    if votes is None or group is None:
        share = won / met
        scatter = sum(contests.counts[k] * (value - share) ** 2 for k, value in ((A, 1.0), (TIE, 0.5), (B, 0.0)))
        return met, scatter / (met * np.maximum(met - 1, 1))
    code, place = np.unique(votes.cell * (group.max(initial=0) + 1) + group, return_inverse=True)
    cell = code // (group.max(initial=0) + 1)
    met_in = np.bincount(place, minlength=len(code))
    won_in = np.bincount(place, weights=(B - votes.outcome) / 2, minlength=len(code))
    groups = np.bincount(cell, minlength=len(met)).astype(np.float64)
    several = groups[cell] > 1
    left_out = np.zeros(len(code))
    np.divide(won[cell] - won_in, met[cell] - met_in, out=left_out, where=several)
    mean = np.bincount(cell, weights=left_out, minlength=len(met)) / np.maximum(groups, 1)
    scatter = np.bincount(cell, weights=(left_out - mean[cell]) ** 2, minlength=len(met))
    return groups, scatter * (groups - 1) / np.maximum(groups, 1)


def _model_reason(ranking: Ranking) -> IntArray:
    """Why the ranking says nothing of a pair: [n, n]."""
    own = np.where(np.isnan(ranking.strength), ranking.reason, 0)
    out = np.maximum(own[:, None], own[None, :])
    apart = ranking.component[:, None] != ranking.component[None, :]
    out[(out == 0) & apart] = Reason.NOT_CONNECTED.number
    np.fill_diagonal(out, Reason.NO_VOTES.number)
    return np.asarray(out)


def rank_centrality(wins: npt.ArrayLike, *, reg: float = 0.5) -> Ranking:
    """Log stationary probabilities of a walk that leaves a system for those that beat it: a check on Bradley-Terry.

    It has no standard error, for it ignores how often a pair met. O(n³), once.

    Args:
        wins: [n, n] of `win_matrix`; the diagonal is ignored.
        reg: wins added to each side of every pair that met, ≥ 0; at 0 every system must have beaten every other by way
            of others (else `separated`), above it they need only be connected (else `not_connected`).

    Raises:
        ValueError: naming the argument that is malformed.

    Source: Negahban, Oh & Shah 2012, section 2.
    """
    W = as_numbers(wins, name="wins").copy()
    if W.ndim != 2 or W.shape[0] != W.shape[1]:
        raise ValueError(f"wins must be a square matrix, got shape {W.shape}")
    if not np.all(np.isfinite(W)) or np.any(W < 0):
        raise ValueError("wins must be finite and not negative")
    reg = check_not_negative(reg, name="reg")
    np.fill_diagonal(W, 0.0)
    total = W.sum(axis=0) + W.sum(axis=1)
    present = np.flatnonzero(total > 0)
    W = W[np.ix_(present, present)]
    roster = Roster(n=len(total), present=present, n_votes=np.rint(total).astype(np.int64), n_groups=0)
    winner, loser = np.nonzero(W)
    weak, strong = components(winner, loser, m=len(present))
    if weak.max(initial=0) > 0:
        return without_strengths(Reason.NOT_CONNECTED, roster, component=weak)
    if reg == 0 and strong.max(initial=0) > 0:
        return without_strengths(Reason.SEPARATED, roster, component=strong)
    met = W + W.T
    lost = np.divide(W.T + reg, met + 2 * reg, out=np.zeros_like(met), where=met > 0)
    s = np.log(_stationary(lost / max(1, int((met > 0).sum(axis=1).max(initial=0)))))
    return make_ranking(s - s.mean() if len(s) else s, roster, component=weak)


def _stationary(P: FloatArray) -> FloatArray:
    """Stationary probabilities, up to a factor, of an irreducible walk with steps P off the diagonal.

    Systems are taken out one by one, without a subtraction, so that small ones keep all their digits.

    Source: Grassmann, Taksar & Heyman 1985.
    """
    P = P.copy()
    m = len(P)
    for k in range(m - 1, 0, -1):
        P[:k, k] /= P[k, :k].sum()
        P[:k, :k] += P[:k, k, None] * P[k, :k]
    pi = np.ones(m)
    for k in range(1, m):
        pi[k] = pi[:k] @ P[:k, k]
    return pi


def elo(a: npt.ArrayLike, b: npt.ArrayLike, outcome: npt.ArrayLike, *, n: int, K: float = 4.0) -> Ranking:
    """Ratings after all votes in the order given, R ± K(outcome − 1/(1 + 10^{ΔR/400})), for display only.

    They depend on the order of the votes, have no interval, and are never exported. `strength` is in logits like all
    others; `elo_scale` of it gives the ratings, which start at 1000. O(V).

    Raises:
        ValueError: naming the argument that is malformed.

    Source: Elo 1978.
    """
    n = check_size(n, name="n")
    first, second, kind = check_contests(a, b, outcome, n=n)
    ratings = [ELO_START] * n
    _play(ratings, first, second, kind, K=K)
    contests, _ = count_contests(a, b, outcome, n=n)
    roster = Roster(n=n, present=contests.present, n_votes=votes_of(contests), n_groups=len(first))
    strength = (np.array(ratings)[contests.present] - ELO_START) / ELO_PER_LOGIT
    return make_ranking(strength, roster, component=contest_components(contests)[0])


def elo_curve(
    a: npt.ArrayLike, b: npt.ArrayLike, outcome: npt.ArrayLike, *, n: int, points: int, K: float = 4.0
) -> tuple[IntArray, FloatArray]:
    """How the ratings of `elo` came about, for display only: after so many votes [M], those of all systems [M, n].

    Args:
        points: M at most; evenly spaced over the votes, the last one after all of them.

    Raises:
        ValueError: naming the argument that is malformed.
    """
    n = check_size(n, name="n")
    first, second, kind = check_contests(a, b, outcome, n=n)
    spaced = np.linspace(0, len(first), check_size(points, name="points", at_least=1) + 1)
    after = np.unique(spaced.astype(np.int64))[1:]  # the first is before all votes
    ratings = [ELO_START] * n
    curve = np.empty((len(after), n))
    start = 0
    for row, end in enumerate(after.tolist()):
        _play(ratings, first[start:end], second[start:end], kind[start:end], K=K)
        curve[row], start = ratings, end
    return after, curve


def _play(ratings: list[float], first: IntArray, second: IntArray, kind: npt.NDArray[np.int8], *, K: float) -> None:
    """Change the ratings by votes, one after another."""
    if not (np.isfinite(K) and K > 0):
        raise ValueError(f"K must be finite and positive, got {K}")
    for i, j, k in zip(first.tolist(), second.tolist(), kind.tolist(), strict=True):  # each needs the one before
        expected = 1 / (1 + 10 ** ((ratings[j] - ratings[i]) / 400))
        gain = K * (1 - k / 2 - expected)
        ratings[i] += gain
        ratings[j] -= gain
