"""Plackett-Luce: strengths of systems from orders of several, best first.

Knows nothing of pairs or ties: equal ranks are split into comparisons before, for a model that has them.

Shapes: R orders, L places of an order, m systems in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

from annotation.statistics.contests import check_groups, components
from annotation.statistics.estimates import FloatArray, IntArray, Reason, check_codes, check_not_negative, check_size
from annotation.statistics.likelihood import (
    DENSE_SYSTEMS,
    TOLERANCE,
    ascend,
    constrained,
    free_covariance,
    group_scores,
)
from annotation.statistics.strengths import (
    Ranking,
    Roster,
    make_ranking,
    sandwich_intervals,
    without_strengths,
)

MM_STEPS = 10_000
POLISH = 20  # Newton steps at the end, so that what came before leaves no trace
BLOCK = 2**22  # numbers in a block of outer products


@dataclass(frozen=True, kw_only=True, slots=True)
class Orders:
    """Orders of two systems or more, those of equal length together. Only systems in them are numbered, 0..m−1.

    Attributes:
        present: [m] the number of each system in some order.
        blocks: [R, L] systems, best first, one block a length.
        rows: [R] of each block, where its orders stood among those of two or more.
        kept: where those stood among all that were given.
    """

    present: IntArray
    blocks: tuple[IntArray, ...]
    rows: tuple[IntArray, ...]
    kept: IntArray

    @property
    def m(self) -> int:
        """Systems in some order."""
        return len(self.present)

    def per_system(self, values: list[FloatArray]) -> FloatArray:
        """Sums of one number a place, given block by block: [m]."""
        out = np.zeros(self.m)
        for block, value in zip(self.blocks, values, strict=True):
            out += np.bincount(block.ravel(), weights=value.ravel(), minlength=self.m)
        return out


def plackett_luce(
    rankings: Sequence[Sequence[int]] | npt.NDArray[np.integer],
    *,
    n: int,
    l2: float = 1.0,
    group: npt.ArrayLike | None = None,
    rng: int | np.random.Generator | None = 0,
) -> Ranking:
    """The best of those that remain is drawn with e^s/Σe^s, again and again, down to the last.

    Maximises the log-likelihood less (l2/2)Σs²: by MM without the prior, by L-BFGS with it. On pairs it is
    Bradley-Terry. Existence as there: `separated` if, say, some system is last wherever it appears. O(total length) a
    step; the covariance costs O(Σ L²).

    Args:
        rankings: orders of system codes, best first, each over the systems that were shown; orders of fewer than two
            say nothing.
        n: systems, in some order or in none. l2: precision of the prior on strengths, ≥ 0.
        group: [orders] prompt group of each; without it each order is its own.
        rng: as in `bradley_terry`.

    Raises:
        ValueError: naming the argument that is malformed; also where an order holds a system twice.

    Source: Luce 1959; Plackett 1975; Hunter 2004, section 5.
    """
    l2, n = check_not_negative(l2, name="l2"), check_size(n, name="n")
    orders = read_orders(rankings, n=n)
    codes = None if group is None else check_codes(group, name="group", length=len(rankings))[orders.kept]
    groups, n_groups = check_groups(codes, length=len(orders.kept))
    n_votes = np.zeros(n, dtype=np.int64)
    n_votes[orders.present] = np.rint(orders.per_system([np.ones(block.shape) for block in orders.blocks]))
    roster = Roster(n=n, present=orders.present, n_votes=n_votes, n_groups=n_groups)
    weak, strong = _components(orders)
    if not orders.m:
        return make_ranking(np.empty(0), roster, component=weak, cov=np.empty((0, 0)), l2=l2)
    if l2 == 0 and weak.max() > 0:
        return without_strengths(Reason.NOT_CONNECTED, roster, component=weak)
    if l2 == 0 and strong.max() > 0:
        return without_strengths(Reason.SEPARATED, roster, component=strong)
    return _rank_orders(orders, roster, groups, weak, l2=l2, rng=rng)


def _rank_orders(
    orders: Orders,
    roster: Roster,
    group: IntArray | None,
    component: IntArray,
    *,
    l2: float,
    rng: int | np.random.Generator | None,
) -> Ranking:
    """The ranking where there is one."""
    n_groups = roster.n_groups
    s, converged = _limited_memory(orders, l2=l2) if l2 > 0 else _minorise_maximise(orders)
    cov, intervals = None, None
    if orders.m <= DENSE_SYSTEMS:
        s, converged = _polish(orders, s, l2=l2, converged=converged)
        cov = free_covariance(order_information(orders, s), m=orders.m, l2=l2)
        if n_groups > 1:
            clustered = cov @ _meat(orders, s, group) @ cov * (n_groups / (n_groups - 1))
            intervals = sandwich_intervals(s, clustered, component, n_groups=n_groups, rng=rng)
    return make_ranking(
        s,
        roster,
        component=component,
        cov=cov,
        intervals=intervals,
        l2=l2,
        converged=converged,
        loglik=log_likelihood(orders, s),
    )


def read_orders(rankings: Sequence[Sequence[int]] | npt.NDArray[np.integer], *, n: int) -> Orders:
    """Orders of two or more, checked and sorted by length."""
    try:
        lengths = np.fromiter(map(len, rankings), dtype=np.int64, count=len(rankings))
    except TypeError:
        raise ValueError("rankings must hold orders, each a sequence of systems") from None
    flat = check_codes(np.array(list(chain.from_iterable(rankings))), name="rankings", size=n)
    blocks, rows = [], []
    kept = np.flatnonzero(lengths > 1)
    for length in np.unique(lengths[kept]):
        block = flat[np.repeat(lengths == length, lengths)].reshape(-1, length)
        if np.any(np.diff(np.sort(block, axis=1), axis=1) == 0):
            raise ValueError("rankings must not hold a system twice: ties are not in this model")
        blocks.append(block)
        rows.append(np.flatnonzero(lengths[kept] == length))
    used = np.zeros(n, dtype=bool)
    for block in blocks:
        used[block] = True
    place = np.cumsum(used) - 1
    return Orders(
        present=np.flatnonzero(used), blocks=tuple(place[block] for block in blocks), rows=tuple(rows), kept=kept
    )


def _components(orders: Orders) -> tuple[IntArray, IntArray]:
    """Weak and strong components [m] of the graph in which each system of an order has beaten the next."""
    none = [np.empty(0, dtype=np.int64)]
    winner = np.concatenate(none + [block[:, :-1].ravel() for block in orders.blocks])
    loser = np.concatenate(none + [block[:, 1:].ravel() for block in orders.blocks])
    return components(winner, loser, m=orders.m)


def _remaining(gamma: FloatArray, block: IntArray) -> FloatArray:
    """Σ γ over the systems that remain at each place but the last: [R, L−1]."""
    return np.cumsum(gamma[block][:, ::-1], axis=1)[:, :0:-1]


def _reach(stages: FloatArray) -> FloatArray:
    """Sums of [R, L−1] over the stages at which the system of each place still remains: [R, L]."""
    sums = np.cumsum(stages, axis=1)
    return np.concatenate([sums, sums[:, -1:]], axis=1)


def log_likelihood(orders: Orders, s: FloatArray) -> float:
    top = float(s.max())
    gamma = np.exp(s - top)
    return sum(
        float(np.sum(s[block[:, :-1]]) - np.sum(np.log(_remaining(gamma, block)) + top)) for block in orders.blocks
    )


def order_scores(orders: Orders, s: FloatArray) -> list[FloatArray]:
    """∂ log-likelihood of each order / ∂s of the system at each place: [R, L] a block."""
    gamma = np.exp(s - s.max())
    out = []
    for block in orders.blocks:
        score = -gamma[block] * _reach(1 / _remaining(gamma, block))
        score[:, :-1] += 1
        out.append(score)
    return out


def _minorise_maximise(orders: Orders) -> tuple[FloatArray, bool]:
    """Hunter's steps γ ← w / Σ 1/(Σ γ remaining), with geometric mean 1."""
    not_last = [np.broadcast_to(np.arange(L) < L - 1, (R, L)) for R, L in (block.shape for block in orders.blocks)]
    wins = orders.per_system([place.astype(np.float64) for place in not_last])
    s = np.zeros(orders.m)
    for _ in range(MM_STEPS):
        gamma = np.exp(s - s.max())
        fresh = np.log(wins / orders.per_system([_reach(1 / _remaining(gamma, block)) for block in orders.blocks]))
        fresh -= fresh.mean()
        change = float(np.abs(fresh - s).max())
        s = fresh
        if change < TOLERANCE:
            return s, True
    return s, False


def _limited_memory(orders: Orders, *, l2: float) -> tuple[FloatArray, bool]:
    def objective(s: FloatArray) -> tuple[float, FloatArray]:
        slope = orders.per_system(order_scores(orders, s)) - l2 * s
        return log_likelihood(orders, s) - l2 / 2 * float(s @ s), slope

    s, converged = ascend(objective, np.zeros(orders.m), rounds=5000, tolerance=1e-13)
    return s - s.mean(), converged


def _polish(orders: Orders, s: FloatArray, *, l2: float, converged: bool) -> tuple[FloatArray, bool]:
    """Newton's steps from where the other method came to rest, while they are short."""
    for _ in range(POLISH):
        uphill = orders.per_system(order_scores(orders, s)) - l2 * s
        step = np.linalg.solve(constrained(order_information(orders, s), m=orders.m, l2=l2), uphill)
        longest = float(np.abs(step).max())
        if not longest < 1:
            return s, converged
        s = s + step
        if longest < TOLERANCE:
            return s - s.mean(), True
    return s, converged


def order_information(orders: Orders, s: FloatArray) -> FloatArray:
    """Σ over stages of diag p − ppᵀ: [m, m]. Systems u, v of an order share γ_u γ_v Σ 1/(Σ γ remaining)²."""
    m, gamma = orders.m, np.exp(s - s.max())
    shared = np.zeros(m * m)
    for whole in orders.blocks:
        length = whole.shape[1]
        first_out = np.minimum.outer(np.arange(length), np.arange(length))
        rows = max(1, BLOCK // length**2)
        for begin in range(0, len(whole), rows):
            block = whole[begin : begin + rows]
            reach = _reach(1 / _remaining(gamma, block) ** 2)
            weight = gamma[block][:, :, None] * gamma[block][:, None, :] * reach[:, first_out]
            pairs = block[:, :, None] * m + block[:, None, :]
            shared += np.bincount(pairs.ravel(), weights=weight.ravel(), minlength=m * m)
    once = orders.per_system([gamma[block] * _reach(1 / _remaining(gamma, block)) for block in orders.blocks])
    return np.diag(once) - shared.reshape(m, m)


def _meat(orders: Orders, s: FloatArray, group: IntArray | None) -> FloatArray:
    """Σ_g u_g u_gᵀ [m, m]; without `group`, a code for each order of two or more, each is its own."""
    given = [rows if group is None else group[rows] for rows in orders.rows]
    codes = np.concatenate([np.repeat(g, block.shape[1]) for g, block in zip(given, orders.blocks, strict=True)])
    places = np.concatenate([block.ravel() for block in orders.blocks])
    values = np.concatenate([score.ravel() for score in order_scores(orders, s)])
    scores = group_scores(codes, [(places, values)], size=orders.m)
    return np.asarray((scores.T @ scores).toarray())
