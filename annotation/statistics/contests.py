"""Votes between two systems, counted once: the input check of every ranking, and which systems can be compared at all.

Votes that are alike (same pair, same outcome, same covariates) are one cell with a count, so that no model touches a
single vote again. Knows nothing of models.

Shapes: V votes, P cells, m systems with votes, k covariates. Outcomes are 0 = first wins, 1 = tie, 2 = second wins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from annotation.statistics.estimates import FloatArray, IntArray, as_numbers, check_codes, check_size

A, TIE, B = 0, 1, 2
FEW_STEPS = 3  # of a search that is quicker than building the graph, where it suffices


@dataclass(frozen=True, kw_only=True, slots=True)
class Contests:
    """Cells of equal votes. Only systems with votes are numbered here, 0..m−1 in their old order.

    Attributes:
        n: systems; present: [m] the number of each system that has votes.
        first, second: [P] systems of a cell, first < second.
        counts: [3, P] votes for the first, ties, votes for the second.
        z: [P, k] covariates, seen from the first.
    """

    n: int
    present: IntArray
    first: IntArray
    second: IntArray
    counts: FloatArray
    z: FloatArray

    @property
    def m(self) -> int:
        """Systems with votes."""
        return len(self.present)

    @property
    def decisive(self) -> float:
        """Votes that are not ties."""
        return float(self.counts[A].sum() + self.counts[B].sum())

    @property
    def ties(self) -> float:
        """Votes that are."""
        return float(self.counts[TIE].sum())

    def halves(self) -> tuple[FloatArray, FloatArray]:
        """Votes for the first and for the second of each cell [P], a tie as half a vote for each."""
        return self.counts[A] + self.counts[TIE] / 2, self.counts[B] + self.counts[TIE] / 2

    def pull(self, values: FloatArray) -> FloatArray:
        """Xᵀ·values, X [P, m] the difference design: + for the first of a cell, − for the second. [P] to [m]."""
        forward = np.bincount(self.first, weights=values, minlength=self.m)
        backward = np.bincount(self.second, weights=values, minlength=self.m)
        return np.subtract(forward, backward, dtype=np.float64)


@dataclass(frozen=True, kw_only=True, slots=True)
class VoteCells:
    """Where each vote went: its cell and its outcome seen from the first of the cell, both [V]."""

    cell: IntArray
    outcome: IntArray


def check_contests(
    a: npt.ArrayLike, b: npt.ArrayLike, outcome: npt.ArrayLike, *, n: int
) -> tuple[IntArray, IntArray, npt.NDArray[np.int8]]:
    """Systems [V] of each vote and its outcome [V] as 0 = a, 1 = tie, 2 = b; else ValueError naming the argument."""
    n = check_size(n, name="n")
    first = check_codes(a, name="a", size=n)
    second = check_codes(b, name="b", size=n, length=len(first))
    given = as_numbers(outcome, name="outcome")
    if given.shape != first.shape:
        raise ValueError(f"outcome must have length {len(first)}, got shape {given.shape}")
    doubled = given * 2
    with np.errstate(invalid="ignore"):  # NaN becomes some integer, which then differs from it
        kind = doubled.astype(np.int8)
    if len(kind) and (np.any(kind != doubled) or kind.min() < 0 or kind.max() > 2):
        raise ValueError("outcome must be 1 for a, 0.5 for a tie or 0 for b")
    if np.any(first == second):
        raise ValueError("b must differ from a: a system compared with itself says nothing about its strength")
    return first, second, np.subtract(2, kind, dtype=np.int8)


def check_groups(group: npt.ArrayLike | None, *, length: int) -> tuple[IntArray | None, int]:
    """Codes 0..G−1 of the groups of `length` votes, and G; without groups each vote is its own, and codes are None."""
    if group is None:
        return None, length
    names, codes = np.unique(check_codes(group, name="group", length=length), return_inverse=True)
    return codes.astype(np.int64, copy=False), len(names)


def _check_covariates(covariates: npt.ArrayLike | None, *, length: int) -> FloatArray | None:
    """Covariates [V, k] of finite numbers, seen from a: positive where they should favour a; else ValueError."""
    if covariates is None:
        return None
    z = as_numbers(covariates, name="covariates")
    if z.ndim != 2 or len(z) != length:
        raise ValueError(f"covariates must have shape ({length}, columns), got {z.shape}")
    if not np.all(np.isfinite(z)):
        raise ValueError("covariates must be finite")
    return z


def count_contests(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    outcome: npt.ArrayLike,
    *,
    n: int,
    covariates: npt.ArrayLike | None = None,
    trace: bool = False,
) -> tuple[Contests, VoteCells | None]:
    """Cells of equal votes, and with `trace` where each vote went. O(V), with covariates O(V log V).

    Raises:
        ValueError: naming the argument that is malformed.
    """
    n = check_size(n, name="n")
    first, second, kind = check_contests(a, b, outcome, n=n)
    z = _check_covariates(covariates, length=len(first))
    if z is None and not trace and 3 * n * n <= 8 * len(first) + 4096:
        return _count_by_pair(first, second, kind, n=n), None
    swapped = first > second
    low, high = np.where(swapped, second, first), np.where(swapped, first, second)
    seen = np.where(swapped, 2 - kind, kind).astype(np.int64)
    z = np.zeros((len(low), 0)) if z is None else np.where(swapped[:, None], -z, z) + 0.0  # no −0, which sorts as 0
    code = low * n + high
    for column in z.T:
        values, place = np.unique(column, return_inverse=True)
        code = np.unique(code * len(values) + place, return_inverse=True)[1]
    _, representative, cell = np.unique(code, return_index=True, return_inverse=True)
    counts = np.bincount(seen * len(representative) + cell, minlength=3 * len(representative))
    contests = _among_present(low[representative], high[representative], counts.reshape(3, -1), z[representative], n=n)
    return contests, VoteCells(cell=cell.astype(np.int64, copy=False), outcome=seen) if trace else None


def _count_by_pair(first: IntArray, second: IntArray, kind: npt.NDArray[np.int8], *, n: int) -> Contests:
    """The same without sorting, by one table of all pairs: worth it where votes outnumber the pairs."""
    code = kind * np.int64(n)
    code += first
    code *= n
    code += second
    table = np.bincount(code, minlength=3 * n * n).reshape(3, n, n)
    both = (table + table[::-1].transpose(0, 2, 1)).reshape(3, n * n)
    above = np.arange(n)[:, None] < np.arange(n)
    pairs = np.flatnonzero(both.any(axis=0) & above.ravel())
    low, high = np.divmod(pairs, n)
    return _among_present(low, high, both[:, pairs], np.zeros((len(pairs), 0)), n=n)


def _among_present(low: IntArray, high: IntArray, counts: IntArray, z: FloatArray, *, n: int) -> Contests:
    """Cells renumbered to the systems that have votes."""
    has_votes = np.zeros(n, dtype=bool)
    has_votes[low] = True
    has_votes[high] = True
    place = np.cumsum(has_votes) - 1
    return Contests(
        n=n,
        present=np.flatnonzero(has_votes),
        first=place[low],
        second=place[high],
        counts=np.ascontiguousarray(counts, dtype=np.float64),
        z=z,
    )


def components(winner: IntArray, loser: IntArray, *, m: int) -> tuple[IntArray, IntArray]:
    """Weak and strong component of each of m systems, [m] both, numbered from 0 as they first appear.

    Two are weakly together where contests link them, strongly where each has beaten the other by way of others.
    """
    if _reaches_all(winner, loser, m=m) and _reaches_all(loser, winner, m=m):
        whole = np.zeros(m, dtype=np.int64)
        return whole, whole
    graph = csr_array((np.ones(len(winner), dtype=np.int8), (winner, loser)), shape=(m, m))
    weak, strong = (connected_components(graph, connection=kind)[1] for kind in ("weak", "strong"))
    return _in_order(weak), _in_order(strong)


def _reaches_all(source: IntArray, target: IntArray, *, m: int) -> bool:
    """Whether all can be reached from the first within a few steps, as in any graph with many links."""
    reached = np.zeros(m, dtype=bool)
    reached[:1] = True
    for _ in range(FEW_STEPS):
        reached[target[reached[source]]] = True
    return bool(reached.all())


def _in_order(labels: npt.NDArray[np.integer]) -> IntArray:
    """Labels renumbered from 0 as they first appear."""
    _, start, code = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(start), dtype=np.int64)
    rank[np.argsort(start)] = np.arange(len(start))
    return rank[code]


def contest_components(contests: Contests) -> tuple[IntArray, IntArray]:
    """`components` of the systems with votes; a tie connects both ways."""
    for_first = contests.counts[A] + contests.counts[TIE] > 0
    for_second = contests.counts[B] + contests.counts[TIE] > 0
    winner = np.concatenate([contests.first[for_first], contests.second[for_second]])
    loser = np.concatenate([contests.second[for_first], contests.first[for_second]])
    return components(winner, loser, m=contests.m)
