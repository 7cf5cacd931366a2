"""Evaluations of PPO, RLOO and GRPO: held-out prompts sampled and scored, with alarms; the reward models to ask.

The same prompts with the same random numbers at every evaluation, one completion each, at temperature 1. A snapshot
without a validation part has none that are held out: then training prompts are asked, so that alarms and samples are
there, `data/held_out_prompts` is 0, and no checkpoint is called the best.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from training.engine.advantages import replace_missing_end
from training.engine.diagnostics import Watched
from training.engine.examples import Loaded, PromptItem
from training.engine.experience import PolicyGradientConfig, check_token_ids
from training.engine.files import read_json
from training.engine.loop import Best, Run
from training.engine.rollout_figures import Limits
from training.engine.rollouts import (
    Asked,
    Group,
    Sampler,
    Scorer,
    first_of_groups,
    policy_columns,
    reference_logprobs,
    sample_line,
    watch,
)
from training.engine.scoring import RewardModels, load_reward_models
from training.engine.sections import Combine

BEST = Best(metric="eval/score", higher=True)
OWN_NAMES = ("score", "held_out_score", "kl", "entropy", "length_mean", "length_p95", "unfinished_share", "samples")
"""Figures that an iteration has of its own completions, as `rollout/`; those of an evaluation are `eval/`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOut:
    """What evaluations ask: prompts that training does not use, reward models that it never sees, limits."""

    prompts: Sequence[Asked]
    of_training: bool = False
    """Whether there are no such prompts, and these are those of training: no figure then says which policy is best."""
    scorer: Scorer | None = None
    limits: Limits = field(default_factory=Limits)


def close_step(
    session: Run[Any],
    config: PolicyGradientConfig,
    *,
    sampler: Sampler,
    scorer: Scorer,
    held_out: HeldOut,
    missing_end_score: float | None,
) -> None:
    """Close the open step, evaluated where that is due. A policy above the KL budget is never the best one."""
    asked = first_of_groups(held_out.prompts, count=config.eval.prompts)
    if not (asked and session.evaluation_is_due):
        session.close_step({})
        return
    started = time.monotonic()
    session.tell("evaluating")
    watched = _evaluate(
        session,
        config,
        groups=sampler(asked, per_prompt=1, stream="evaluation"),
        scorer=scorer,
        held_out=held_out,
        missing_end_score=missing_end_score,
    )
    figures = held_out_names(watched.figures)
    budget = config.kl.budget
    session.close_step(
        {**figures, "time/eval": time.monotonic() - started},
        alarms=watched.alarms,
        figures=watched.figures,
        may_be_best=not held_out.of_training and (budget is None or figures["eval/kl"] <= budget),
    )


def _evaluate(
    session: Run[Any],
    config: PolicyGradientConfig,
    *,
    groups: list[Group],
    scorer: Scorer,
    held_out: HeldOut,
    missing_end_score: float | None,
) -> Watched:
    """Figures and alarms of one completion a prompt; their lines in `samples.jsonl`."""
    check_token_ids(groups)
    scores = scorer(groups)
    others = held_out.scorer(groups).tolist() if held_out.scorer is not None else None
    columns = policy_columns(session, groups, entropy=True)
    ratios = [own["logp"] - theirs for own, theirs in zip(columns, reference_logprobs(session, groups), strict=True)]
    watched = watch(
        session,
        groups,
        entropies=[own["entropy"] for own in columns],
        ratios=ratios,
        scores=scores.tolist(),
        held_out_scores=others,
        limits=held_out.limits,
        figures=_of_the_steps(session),
    )
    finished = torch.tensor([group.completions[0].finish == "end" for group in groups])
    counted = replace_missing_end(scores, finished, missing_end_score=missing_end_score)
    for number, group in enumerate(groups):
        kl = math.fsum(ratios[number].tolist())
        line = {**sample_line(session, group, 0), "score": float(scores[number]), "kl": kl}
        if others is not None:
            line["held_out_score"] = others[number]
        session.samples.write({**line, "reward": float(counted[number]) - session.state["beta"] * kl})
    return watched


def _of_the_steps(session: Run[Any]) -> dict[str, float]:
    """The figures of training itself that alarms read, as new as they are."""
    known = {**session.progress.latest, **(session.progress.pending or {})}
    wanted = ("ppo/explained_variance", "ppo/clip_share", "rollout/groups_without_spread", "rollout/sampler_gap")
    return {name: known[name] for name in wanted if name in known}


def held_out_names(figures: Mapping[str, float], *, own: Collection[str] = OWN_NAMES) -> dict[str, float]:
    """Figures of an evaluation as `eval/`, with their intervals, where an iteration has its own under `rollout/`."""
    ends = ("", "_low", "_high")
    renamed = {f"rollout/{name}{end}": f"eval/{name}{end}" for name in own for end in ends}
    return {renamed.get(name, name): value for name, value in figures.items()}


# --- opening ----------------------------------------------------------------------------------------------------------


def prompt_facts(prompts: Loaded[PromptItem], validation: Loaded[PromptItem], *, asked: int) -> dict[str, float]:
    """The data of a run that samples, for the line of step 0. `asked`: the most prompts of an evaluation."""
    return {
        "data/prompts": float(len(prompts.examples)),
        "data/held_out_prompts": float(len(first_of_groups(validation.examples, count=asked))),
        "data/dropped_too_long": float(prompts.dropped),
    }


def load_rewards(session: Run[Any], directories: Sequence[str], *, combine: Combine) -> RewardModels:
    """Reward models that read the session's completions as they were sampled."""
    return load_reward_models(
        directories,
        device=session.device.type,
        combine=combine,
        own=session.text,
        dtype=session.config.precision.dtype,
        micro_tokens=session.config.memory.micro_tokens,
        between=session.check_stop,
    )


def load_held_out(
    session: Run[Any],
    directories: Sequence[str],
    *,
    validation: Sequence[Asked],
    rewards: RewardModels | None,
    budget: float | None = None,
) -> HeldOut:
    """What evaluations ask; of held-out models the least score counts. Without validation prompts, training's."""
    return HeldOut(
        prompts=validation or session.items,
        of_training=not validation,
        scorer=load_rewards(session, directories, combine=Combine.WORST) if directories else None,
        limits=limits_of(rewards, budget=budget) if rewards is not None else Limits(kl_budget=budget),
    )


def limits_of(rewards: RewardModels, *, budget: float | None) -> Limits:
    """What the reward models' own training said: where each did, combined as their scores are."""
    stored: list[Mapping[str, Any]] = []
    for member in rewards.members:
        path = member.directory / "winnow.json"
        stored.append((read_json(path).get("reward") if path.is_file() else None) or {})
    tops = [facts["p99"] - facts["mean"] for facts in stored if facts.get("p99") is not None]
    slopes = [facts["length_slope"] for facts in stored if facts.get("length_slope") is not None]
    whole = len(stored)
    p99 = None
    if len(tops) == whole:
        p99 = min(tops) if rewards.combine is Combine.WORST else sum(tops) / whole
    return Limits(p99=p99, length_slope=sum(slopes) / whole if len(slopes) == whole else None, kl_budget=budget)
