"""Votes between made-up systems, and the scan that no result may fail, for the tests of rankings."""

from __future__ import annotations

import dataclasses
import math

import numpy as np


def draw_votes(
    V: int, n: int, *, seed: int = 0, ties: float = 0.0, scale: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """V votes among n systems of strengths N(0, scale²), a share of them ties."""
    rng = np.random.default_rng(seed)
    s = rng.normal(scale=scale, size=n)
    a = rng.integers(n, size=V)
    b = (a + rng.integers(1, n, size=V)) % n
    won = rng.random(V) < 1 / (1 + np.exp(s[b] - s[a]))
    return a, b, np.where(rng.random(V) < ties, 0.5, won.astype(float))


def assert_explained(result: object, *, explained: np.ndarray | None = None, where: str = "result") -> None:
    """No NaN or inf in any field, except where an integer `reason` array beside it says why.

    An entry of a vector is explained by its own reason, an entry of a matrix by its own or by that of its row or
    column. Nested results are scanned with their own reasons.
    """
    if dataclasses.is_dataclass(result):
        fields = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
        reason = fields.get("reason")
        own = reason if isinstance(reason, np.ndarray) else None
        for name, value in fields.items():
            specific = fields.get(f"{name}_reason")
            assert_explained(value, explained=own if specific is None else specific, where=f"{where}.{name}")
    elif isinstance(result, np.ndarray) and result.dtype.kind == "f":
        _assert_array_explained(result, explained, where)
    elif isinstance(result, float):
        assert math.isfinite(result), where
    elif isinstance(result, tuple | list):
        for index, value in enumerate(result):
            assert_explained(value, explained=explained, where=f"{where}[{index}]")


def _assert_array_explained(values: np.ndarray, reason: np.ndarray | None, where: str) -> None:
    bad = ~np.isfinite(values)
    if not bad.any():
        return
    assert reason is not None, f"{where} holds {values[bad]} without a reason"
    known = reason != 0
    if values.ndim == 2 and known.ndim == 1:
        known = known[:, None] | known[None, :]
    assert not np.any(bad & ~known), f"{where} holds {values[bad & ~known]} without a reason"
