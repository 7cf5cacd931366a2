"""Votes drawn from a known model, for tests that must find it again or must not care how it is written down."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Planted:
    """Votes and what they were drawn from: the class of each item [n] and θ [W, true, observed]."""

    item: np.ndarray
    annotator: np.ndarray
    label: np.ndarray
    n_items: int
    n_annotators: int
    K: int
    truth: np.ndarray
    theta: np.ndarray

    @property
    def given(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The positional arguments of the statistics."""
        return self.item, self.annotator, self.label

    @property
    def sizes(self) -> dict[str, int]:
        """Their keyword arguments."""
        return {"n_items": self.n_items, "n_annotators": self.n_annotators, "K": self.K}

    def but(self, **changes: Any) -> Planted:
        """The same with other arrays or sizes."""
        return replace(self, **changes)


def planted(seed: int, *, K: int = 3, n: int = 60, W: int = 8, votes: int = 5, equal: bool = True) -> Planted:
    """`votes` an item (from 1 to twice as many if not `equal`), right with .55 to .9, errors at random."""
    rng = np.random.default_rng(seed)
    per_item = np.full(n, votes) if equal else rng.integers(1, 2 * votes, n)
    item = np.repeat(np.arange(n), per_item)
    annotator = rng.integers(0, W, len(item))
    theta = rng.dirichlet(np.ones(K), (W, K)) * (1 - (right := rng.uniform(0.4, 0.85, (W, 1, 1)))) + right * np.eye(K)
    truth = rng.integers(0, K, n)
    chance = theta[annotator, truth[item]].cumsum(axis=1)
    label = np.minimum((rng.random((len(item), 1)) > chance).sum(axis=1), K - 1)
    return Planted(
        item=item, annotator=annotator, label=label, n_items=n, n_annotators=W, K=K, truth=truth, theta=theta
    )
