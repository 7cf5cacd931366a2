"""Win rates of one policy over another, as they stand and with length taken out. Knows no judge and no model.

A win is 1, a tie ½, a loss 0, always from the side of the policy that is looked at. Intervals are clustered by prompt.
n contests; G prompt groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.engine.calibration import sigmoid
from training.engine.evaluate import Estimate, clustered_share, jackknife_reach, with_interval

RIDGE = 0.01
"""Weight of the pull towards 0, in observations: where all contests are won, or length decides every one, the
likelihood has no maximum."""
NEWTON_STEPS = 50
CONVERGED = 1e-9
"""Logits; a loss that is summed in fp64 cannot tell smaller steps from its rounding."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Contest:
    """Two completions of one prompt: `outcome` 1, ½ or 0 (or between, where a judge was asked in both orders)."""

    group: str
    outcome: float
    tokens: int
    other_tokens: int


def outcome_of_scores(score: float, other: float) -> float:
    return 0.5 if score == other else float(score > other)


def win_rate(contests: Sequence[Contest]) -> Estimate:
    """Mean outcome with its interval."""
    return clustered_share([contest.outcome for contest in contests], [contest.group for contest in contests])


def length_controlled_win_rate(contests: Sequence[Contest]) -> Estimate:
    """The win rate between completions of one length: σ(a) of P(win) = σ(a + b z), z the length difference by its
    spread (not centred, so z = 0 is equal length).

    The interval is the jackknife's on a, then mapped. With one group it is [0, 1]. A quality that only shows in length
    is taken out with it; where all differences are 0, this is the win rate.
    Source: Dubois et al. 2024 (length-controlled AlpacaEval), with one pair of policies and no term per prompt.
    """
    outcomes = np.array([contest.outcome for contest in contests], dtype=np.float64)  # [n]
    differences = np.array([c.tokens - c.other_tokens for c in contests], dtype=np.float64)  # [n]
    spread = differences.std()
    z = differences / spread if spread > 0 else np.zeros_like(differences)
    names, group = np.unique([contest.group for contest in contests], return_inverse=True)
    fitted = _fit(z, outcomes, start=np.zeros(2))
    level = float(fitted[0])
    if len(names) < 2:
        return Estimate(value=sigmoid(level), low=0.0, high=1.0)
    without = [float(_fit(z[group != g], outcomes[group != g], start=fitted)[0]) for g in range(len(names))]
    reach = jackknife_reach(without)
    return Estimate(value=sigmoid(level), low=sigmoid(level - reach), high=sigmoid(level + reach))


def win_metrics(contests: Sequence[Contest], *, name: str = "win") -> dict[str, float]:
    """`<name>/win_rate` and `<name>/win_rate_length_controlled` with their intervals, and the count."""
    if not contests:
        return {}
    return {
        f"{name}/contests": float(len(contests)),
        **with_interval(f"{name}/win_rate", win_rate(contests)),
        **with_interval(f"{name}/win_rate_length_controlled", length_controlled_win_rate(contests)),
    }


def _fit(z: Floats, outcomes: Floats, *, start: Floats) -> Floats:
    """(a, b) of the ridge logistic regression of outcomes in [0, 1] on (1, z), by Newton's method with halved steps."""
    x = np.stack([np.ones_like(z), z], axis=1)  # [n, 2]
    weights, loss = start, _loss(x, outcomes, start)
    for _ in range(NEWTON_STEPS):
        p = np.exp(-np.logaddexp(0, -(x @ weights)))
        gradient = x.T @ (p - outcomes) + RIDGE * weights
        curvature = (x * (p * (1 - p))[:, None]).T @ x + RIDGE * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        while (tried := _loss(x, outcomes, weights - step)) > loss and np.abs(step).max() > CONVERGED:
            step = step / 2
        weights, loss = weights - step, tried
        if np.abs(step).max() < CONVERGED:
            break
    return weights


def _loss(x: Floats, outcomes: Floats, weights: Floats) -> float:
    logits = x @ weights
    return float(np.sum(np.logaddexp(0, logits) - outcomes * logits) + RIDGE / 2 * (weights @ weights))
