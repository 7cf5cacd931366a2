"""Votes and pairs with a planted truth, in the shape of STATISTICS 13, and in the form that each library wants."""

from __future__ import annotations

from dataclasses import dataclass

import evalica
import numpy as np

from annotation.statistics.aggregation import vote_counts
from annotation.statistics.estimates import FloatArray, IntArray

K = 3
OVERLAP = 5
SYSTEMS = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class Votes:
    """Five different annotators on each item, in the order of items; `sizes` are the keywords of our functions."""

    item: IntArray
    annotator: IntArray
    label: IntArray
    truth: IntArray
    sizes: dict[str, int]

    @property
    def arrays(self) -> tuple[IntArray, IntArray, IntArray]:
        return self.item, self.annotator, self.label

    @property
    def named(self) -> dict[str, IntArray]:
        return {"item": self.item, "annotator": self.annotator, "label": self.label}

    @property
    def counts(self) -> FloatArray:
        return vote_counts(self.item, self.label, n_items=self.sizes["n_items"], K=K)


def plant_votes(size: int) -> Votes:
    """`size` votes of annotators with accuracies Beta(8, 3) who otherwise take any other class alike."""
    rng = np.random.default_rng(0)
    n, people = size // OVERLAP, max(20, size // 1000)
    truth = rng.choice(K, size=n, p=(0.42, 0.16, 0.42))  # a, tie, b
    accuracy = rng.beta(8, 3, size=people)
    annotator = rng.integers(people, size=(n, OVERLAP))
    while len(twice := np.flatnonzero((np.diff(np.sort(annotator, axis=1), axis=1) == 0).any(axis=1))):
        annotator[twice] = rng.integers(people, size=(len(twice), OVERLAP))
    right = rng.random((n, OVERLAP)) < accuracy[annotator]
    label = np.where(right, truth[:, None], (truth[:, None] + rng.integers(1, K, size=(n, OVERLAP))) % K)
    return Votes(
        item=np.repeat(np.arange(n), OVERLAP),
        annotator=annotator.ravel(),
        label=label.ravel(),
        truth=truth,
        sizes={"n_items": n, "n_annotators": people, "K": K},
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Pairs:
    """Comparisons of two systems out of n: outcome 1 a, ½ tie, 0 b."""

    a: IntArray
    b: IntArray
    outcome: FloatArray
    n: int

    @property
    def wins(self) -> FloatArray:
        """Wins of the row over the column without ties: [n, n]."""
        decisive = self.decisive
        winner = np.where(decisive.outcome == 1, decisive.a, decisive.b)
        loser = np.where(decisive.outcome == 1, decisive.b, decisive.a)
        return np.bincount(winner * self.n + loser, minlength=self.n**2).reshape(self.n, self.n).astype(np.float64)

    @property
    def ties(self) -> FloatArray:
        """Ties of the row with the column, symmetric: [n, n]."""
        tied = self.outcome == 0.5
        once = np.bincount(self.a[tied] * self.n + self.b[tied], minlength=self.n**2).reshape(self.n, self.n)
        return (once + once.T).astype(np.float64)

    @property
    def decisive(self) -> Pairs:
        kept = self.outcome != 0.5
        return Pairs(a=self.a[kept], b=self.b[kept], outcome=self.outcome[kept], n=self.n)

    @property
    def evalica(self) -> tuple[list[str], list[str], list[evalica.Winner]]:
        """Names of both systems and who won, as lists."""
        names = np.array([f"system {code}" for code in range(self.n)])
        winner = {1.0: evalica.Winner.X, 0.5: evalica.Winner.Draw, 0.0: evalica.Winner.Y}
        return names[self.a].tolist(), names[self.b].tolist(), [winner[value] for value in self.outcome.tolist()]

    @property
    def choix(self) -> list[tuple[int, int]]:
        """Winner and loser of each decisive comparison; ties are not in that library's data."""
        first = self.outcome == 1
        kept = self.outcome != 0.5
        winner, loser = np.where(first, self.a, self.b)[kept], np.where(first, self.b, self.a)[kept]
        return list(zip(winner.tolist(), loser.tolist(), strict=True))


def plant_pairs(size: int, *, systems: int = SYSTEMS) -> Pairs:
    """`size` comparisons of systems with strengths N(0, 1), of which 15 % are ties."""
    rng = np.random.default_rng(0)
    strength = rng.normal(size=systems)
    a = rng.integers(systems, size=size)
    b = (a + rng.integers(1, systems, size=size)) % systems
    won = rng.random(size) < 1 / (1 + np.exp(strength[b] - strength[a]))
    return Pairs(a=a, b=b, outcome=np.where(rng.random(size) < 0.15, 0.5, won), n=systems)
