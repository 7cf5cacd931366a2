"""What a training method asks at an evaluation: figures, alarms, and what the alarms remember. No torch, no files.

A method that samples keeps one `Watch` and calls `watch_rollouts` at every evaluation from step 0 on:

    rollouts = rollouts_of(groups, log_ratios=…, scores=…, held_out_scores=…, entropies=…)
    watched = watch_rollouts(state, rollouts, limits=limits, step=step, figures=figures_of_the_step)
    state = watched.state                      # `state.to_dict()` goes into the checkpoint
    session.close_step({**figures, **watched.figures}, alarms=watched.alarms)

A model that has not been trained rings nothing: at step 0 a method calls no alarms but those of `watch_rollouts`.
Figures that a method adds itself, for the alarm `optimisation`: `ppo/explained_variance`, `ppo/clip_share`,
`rollout/groups_without_spread` (a share), `rollout/sampler_gap`; of DPO for `displacement`: `displacement_metrics`.
A reward model calls `reward_alarms`. The rules, thresholds and remedies are in `alarms.py`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from training.engine.alarms import CUSUM_SLACK, raised
from training.engine.evaluate import mean_and_spread
from training.engine.rollout_figures import Limits, Rollout, reference_metrics, rollout_metrics

ROUNDING = 1e-9
"""A standard error below this, in spreads of the score, is rounding: the changes of all prompts are one number."""
REWARD_ALARMS = ("length_bias", "calibration", "noise_ceiling")


def reward_alarms(metrics: Mapping[str, float], *, part: str) -> list[str]:
    """Alarms of a reward model on held-out pairs: `length_bias`, `calibration` and `noise_ceiling`.

    Reads, where there: `<part>/pairs`, `length_correlation`, `accuracy`, `longer_wins`, `calibration_error`,
    `calibration_noise`, `vote_accuracy_low`, `ceiling_upper` (all but the correlation are of `preference_metrics` and
    `probability_metrics`).
    """
    own = {f"eval/{name.removeprefix(f'{part}/')}": x for name, x in metrics.items() if name.startswith(f"{part}/")}
    return [name for name in raised(own) if name in REWARD_ALARMS]


# --- over-optimisation ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Cusum:
    """Whether a proxy score has left a held-out one behind, over the evaluations so far.

        S ← max(0, S + (Δproxy − Δheld_out)/SE − k),    S = 0 at first

    Δ is the change since the evaluation before, mean over prompt groups, each score in units of its spread over the
    reference's completions (two reward models need not have one scale); SE is that of the difference, over groups. Both
    are measured on the same prompts, so what a prompt is worth cancels.
    Source: Page 1954; k half of the shift that is looked for.

    Attributes:
        value: S.
        streak: evaluations in a row in which the proxy rose and the held-out score fell.
        last: proxy and held-out score of each group at the evaluation before.
    """

    value: float = 0.0
    streak: int = 0
    last: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def update(self, scores: Mapping[str, tuple[float, float]]) -> Cusum:
        """The state after one more evaluation. Args: scores: group → (proxy, held out), in those units."""
        both = [(scores[group], self.last[group]) for group in scores if group in self.last]
        if len(both) < 2:  # the first evaluation, or nothing that could say how sure a change is
            return Cusum(value=self.value, streak=self.streak, last=dict(scores))
        rises = [now[0] - before[0] for now, before in both]
        held_out_rises = [now[1] - before[1] for now, before in both]
        gaps = [rise - held_out for rise, held_out in zip(rises, held_out_rises, strict=True)]
        mean, spread = mean_and_spread(gaps)
        error = spread / math.sqrt(len(gaps) - 1)
        shift = mean / error if error > ROUNDING else 0.0
        parted = sum(rises) > 0 > sum(held_out_rises)
        return Cusum(
            value=max(0.0, self.value + shift - CUSUM_SLACK),
            streak=self.streak + 1 if parted else 0,
            last=dict(scores),
        )

    def to_dict(self) -> dict[str, Any]:
        return {"value": self.value, "streak": self.streak, "last": {group: list(x) for group, x in self.last.items()}}

    @staticmethod
    def from_dict(stored: Mapping[str, Any]) -> Cusum:
        last = {group: (float(proxy), float(held_out)) for group, (proxy, held_out) in stored["last"].items()}
        return Cusum(value=stored["value"], streak=stored["streak"], last=last)


# --- policies that sample ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Watch:
    """What the alarms of a policy remember between evaluations: JSON by `to_dict`, the same again by `from_dict`.

    `reference`: figures of the first evaluation (`reference_metrics`), when the policy was the reference.
    """

    reference: Mapping[str, float]
    cusum: Cusum

    def to_dict(self) -> dict[str, Any]:
        return {"reference": dict(self.reference), "cusum": self.cusum.to_dict()}

    @staticmethod
    def from_dict(stored: Mapping[str, Any]) -> Watch:
        return Watch(reference=dict(stored["reference"]), cusum=Cusum.from_dict(stored["cusum"]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Watched:
    """One evaluation: the state to keep, `rollout/*` and `reference/*` to write, and the alarms."""

    state: Watch
    figures: dict[str, float]
    alarms: list[str]


def watch_rollouts(
    state: Watch | None,
    rollouts: Sequence[Rollout],
    *,
    limits: Limits,
    step: int,
    figures: Mapping[str, float] | None = None,
) -> Watched:
    """Figures and alarms of completions sampled at an evaluation, on the same prompts each time.

    Args:
        state: that of the evaluation before; None at step 0, whose completions are the reference's: they ring nothing,
            since nothing has been trained yet.
        rollouts: all completions of the evaluation, at temperature 1; not empty.
        step: optimizer steps taken.
        figures: others of this evaluation or its step, that alarms read; they are not in the result's figures.
    """
    reference = dict(state.reference) if state is not None else reference_metrics(rollouts)
    own = rollout_metrics(rollouts, limits=limits, reference=reference if state is not None else None)
    cusum = state.cusum if state is not None else Cusum()
    if scores := _scores_by_group(rollouts, reference):
        cusum = cusum.update(scores)
        own |= {"rollout/cusum": cusum.value, "rollout/parting_streak": float(cusum.streak)}
    kept = Watch(reference=reference, cusum=cusum)
    if state is None:  # the reference's figures are constants of the run: they are written once
        return Watched(state=kept, figures={**own, **reference}, alarms=[])
    alarms = rollout_alarms({**(figures or {}), **own}, reference=reference, step=step)
    return Watched(state=kept, figures=own, alarms=alarms)


def rollout_alarms(
    figures: Mapping[str, float], *, reference: Mapping[str, float] | None = None, step: int
) -> list[str]:
    """Every alarm that these figures ring; `watch_rollouts` calls it with all that it knows."""
    return list(raised({**figures, **(reference or {}), "train/step": float(step)}))


def _scores_by_group(rollouts: Sequence[Rollout], reference: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Mean proxy and held-out score of each prompt group, by their spreads; nothing where one of them is missing."""
    units = (reference.get("reference/score_std", 0.0), reference.get("reference/held_out_score_std", 0.0))
    if not all(units):
        return {}
    by_group: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for rollout in rollouts:
        if rollout.score is None or rollout.held_out_score is None:
            return {}
        by_group[rollout.group].append((rollout.score / units[0], rollout.held_out_score / units[1]))
    return {
        group: (sum(proxy for proxy, _ in both) / len(both), sum(held_out for _, held_out in both) / len(both))
        for group, both in by_group.items()
    }
