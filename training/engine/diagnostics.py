"""Alarms: what a person should look at before trusting a run. Pure functions of an evaluation's figures.

An alarm that is raised is the metric `alarm/<name>` = 1 at its step and an entry of `result.json`; the run goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

LEAST_PAIRS = 30
"""Below this one pair moves a share by more than three points, and alarms would be noise."""
LENGTH_CORRELATION = 0.5
CALIBRATION_ERROR = 0.05
FALLING_SHARE = 0.5
FALL_NATS = -1.0


def reward_alarms(metrics: Mapping[str, float], *, part: str) -> list[str]:
    """Alarms of a reward model on held-out pairs: `length_bias` and `calibration`.

    Length bias: scores that follow length (correlation above 0.5), or an accuracy no better than “pick the longer”.
    """
    if metrics.get(f"{part}/pairs", 0.0) < LEAST_PAIRS:
        return []
    follows = metrics[f"{part}/length_correlation"] > LENGTH_CORRELATION
    no_better = metrics[f"{part}/accuracy"] <= metrics[f"{part}/longer_wins"]
    raised = ["length_bias"] if follows or no_better else []
    if metrics[f"{part}/calibration_error"] > CALIBRATION_ERROR:
        raised.append("calibration")
    return raised


def policy_alarms(chosen_changes: Sequence[float]) -> list[str]:
    """`displacement`: most chosen completions lose likelihood, by more than 1 nat in the mean (Razin et al. 2024).

    Args:
        chosen_changes: log π − log π_ref of held-out chosen completions, nats.
    """
    if len(chosen_changes) < LEAST_PAIRS:
        return []
    falling = sum(change < 0 for change in chosen_changes) / len(chosen_changes)
    mean = sum(chosen_changes) / len(chosen_changes)
    return ["displacement"] if falling > FALLING_SHARE and mean < FALL_NATS else []
