"""Quark: sample, score, and learn the completions under a control that says how well they scored. Controls are text.

The scored completions are cut into parts c, the best first (Lu et al. 2022, eq. 3):

    L = Σ m [−log π(y_t|c, x, y_<t) + β KL_t − c_H H_t] / Σ m                          over the whole minibatch
    KL_t = Σ_v π(v|c, x, y_<t) log(π(v|c, x, y_<t) / π_ref(v|x, y_<t))                 the reference knows no control

With `quantiles: "best"` (AlpacaFarm's) it trains on the best part of each pass alone, without a control. With "all"
every completion is trained on under the control of its part, the completions of former passes stay in the pool, which
is sorted anew at each pass, and from the second pass on one samples under the best control, which `winnow.json` keeps.
A pass of training takes as many completions of the pool, drawn without replacement, as were sampled.

B lessons of an optimizer step: a prompt under one control with some completions; C their tokens in a pack; D hidden
size, V vocabulary, K completions.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.engine import loop, sft, starting
from training.engine.conditioning import check_controls, prompt_of
from training.engine.config import Quantiles, QuarkConfig, QuarkOptions
from training.engine.examples import PromptItem, load_prompts, with_control
from training.engine.experience import check_gap
from training.engine.held_out import BEST, HeldOut, held_out_names, load_held_out, load_rewards, prompt_facts
from training.engine.logprobs import entropy, target_logprobs, target_statistics, vocabulary_kl
from training.engine.loop import Run
from training.engine.models import lm_head_weight
from training.engine.packing import Pack, Sharing, build_pack, hidden_states
from training.engine.records import KINDS
from training.engine.rollouts import (
    Asked,
    Group,
    Sampler,
    Scorer,
    as_reference,
    first_of_groups,
    length_figures,
    own_sampler,
    policy_columns,
    reference_logprobs,
    sample_line,
    watch,
    with_prompts,
)
from training.engine.scoring import reward_roles
from training.engine.sections import Dtype
from training.engine.supervision import Supervision
from training.engine.text import Text

Under = Callable[[Asked, str | None], Asked]
"""A prompt as the policy reads it under a control; its messages stay those that a reward model reads."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lesson:
    """A prompt under one control with completions to learn; `bare`: the prompt's ids as the reference reads them."""

    id: str
    sharing: Sharing
    bare: tuple[int, ...]
    weight: float = 1.0


def run(config: QuarkConfig, out: Path, *, resume: Path | None, supervision: Supervision) -> None:
    """Train, evaluate and write everything to `out`; go on from `resume`, or from `out`'s own newest checkpoint.

    Raises:
        SnapshotError, ModelError, Diverged; StopRun when a stop comes before the first step.
    """
    opening = starting.open_run(
        config,
        out,
        resume=resume,
        supervision=supervision,
        kinds=KINDS,
        models=reward_roles(config.models.rewards, config.models.held_out),
    )
    text, best = opening.text, best_control(config.quark)
    check_controls(text, controls_of(config.quark) if best is not None else ())
    train_part, validation = (load_prompts(part, data=config.data, text=text) for part in ("train", "validation"))
    model, reference = starting.load_policies(opening, config, train_part.examples)
    session = starting.start_run(
        config,
        opening,
        kind="policy",
        trained={"policy": starting.make_trained(model, config.optim)},
        reference=reference,
        items=train_part.examples,
        size=config.batch.prompts,
        inner=inner_steps(config),
        facts=prompt_facts(train_part, validation, asked=config.eval.prompts),
        best_by=BEST,
    )
    session.card = {} if best is None else {"control": best}

    scorer = load_rewards(session, config.models.rewards, combine=config.models.combine)
    held_out = load_held_out(session, config.models.held_out, validation=validation.examples, rewards=scorer)
    sampler = own_sampler(session, config.sampling)
    with session.ending():
        train(session, config, sampler=sampler, scorer=scorer, held_out=held_out, under=_under(text))


def _under(text: Text) -> Under:
    def under(prompt: Asked, control: str | None) -> Asked:
        if control is None:
            return prompt
        sharing = prompt_of(with_control(prompt.prompt, control), text)
        return PromptItem(id=prompt.id, group=prompt.group, prompt=list(map(dict, prompt.prompt)), sharing=sharing)

    return under


def train(
    session: Run[PromptItem],
    config: QuarkConfig,
    *,
    sampler: Sampler,
    scorer: Scorer,
    held_out: HeldOut,
    under: Under,
) -> None:
    """The loop, to the end of the plan or a stop. `under` is asked for a control only where quantiles is "all"."""
    while not session.is_over:
        if not session.is_open:
            started = time.monotonic()
            if session.state.get("sampled") != session.iteration:
                _fill_pool(session, config, sampler=sampler, scorer=scorer, under=under)
            session.open_step(_take_step(session, config, under=under, started=started))
        elif session.evaluation_is_due:
            figures, alarms = _evaluate(session, config, held_out, sampler=sampler, scorer=scorer, under=under)
            session.close_step(figures, alarms=alarms, may_be_best=not held_out.of_training)
        else:
            session.close_step({})


# --- controls and pool ------------------------------------------------------------------------------------------------


def controls_of(options: QuarkOptions) -> tuple[str, ...]:
    """The control of each part, the best first."""
    return options.controls or tuple(f"Quality: {part} of {options.parts}." for part in range(1, options.parts + 1))


def best_control(options: QuarkOptions) -> str | None:
    """What a trained policy is sampled under; None where it is trained without controls."""
    return controls_of(options)[0] if options.quantiles is Quantiles.ALL else None


def pass_size(config: QuarkConfig) -> int:
    """Completions that one pass of training takes: those of the best part, or as many as were sampled."""
    if config.quark.quantiles is Quantiles.BEST:
        return max(1, config.batch.completions // config.quark.parts)
    return config.batch.completions


def inner_steps(config: QuarkConfig) -> int:
    """Optimizer steps of an iteration."""
    return config.batch.inner_epochs * _steps_of_a_pass(config)


def _steps_of_a_pass(config: QuarkConfig) -> int:
    return math.ceil(pass_size(config) / (config.batch.minibatch or pass_size(config)))


def parts_of(scores: Sequence[float], *, parts: int) -> list[int]:
    """The part of each score, 0 the best; equally many in each as far as that goes, equal scores in their order."""
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    found = [0] * len(scores)
    for rank, index in enumerate(order):
        found[index] = rank * parts // len(scores)
    return found


def minibatch_of(config: QuarkConfig, scores: Sequence[float], *, iteration: int, step: int) -> list[tuple[int, int]]:
    """Index and part of the pool's completions that an inner step trains on; of the config and the scores alone."""
    part = parts_of(scores, parts=config.quark.parts)
    wanted = range(len(scores))
    if config.quark.quantiles is Quantiles.BEST:
        best_first = sorted(wanted, key=lambda index: -scores[index])
        eligible = best_first[: pass_size(config)]
    else:
        eligible = list(wanted)
    number, place = divmod(step, _steps_of_a_pass(config))
    random.Random(f"{config.seed}:{iteration}:{number}").shuffle(eligible)  # noqa: S311 - an order, no secret
    size = config.batch.minibatch or pass_size(config)
    chosen = eligible[: pass_size(config)][place * size : (place + 1) * size]
    return [(index, part[index]) for index in chosen]


def _fill_pool(
    session: Run[PromptItem], config: QuarkConfig, *, sampler: Sampler, scorer: Scorer, under: Under
) -> None:
    """Sample and score the completions of an iteration; they, and their figures, are kept until it is over."""
    started = time.monotonic()
    control = best_control(config.quark) if session.iteration else None
    asked = [under(prompt, control) for prompt in session.next_batch()]
    groups = sampler(asked, per_prompt=config.batch.per_prompt, stream=f"iteration {session.iteration}")
    sampled = time.monotonic()
    session.tell("scoring")
    scores: list[float] = scorer(groups).tolist()
    completions = [(group.id, c) for group in groups for c in group.completions]
    fresh = [
        {"prompt_id": name, "token_ids": list(c.token_ids), "score": score}
        for (name, c), score in zip(completions, scores, strict=True)
    ]
    former = session.state.get("pool", []) if config.quark.quantiles is Quantiles.ALL else []
    session.state |= {
        "sampled": session.iteration,
        "pool": [*former, *fresh],
        "figures": {
            "rollout/score": sum(scores) / len(scores),
            **length_figures(groups),
            "quark/pool": float(len(former) + len(fresh)),
            "time/sample": sampled - started,
            "time/score": time.monotonic() - sampled,
        },
    }


def _lessons(session: Run[PromptItem], config: QuarkConfig, *, under: Under) -> tuple[list[Lesson], list[float]]:
    """What the next step trains on, completions of one prompt and control together; and their scores."""
    pool = session.state["pool"]
    prompts = {item.id: item for item in session.items}
    scores = [entry["score"] for entry in pool]
    chosen = minibatch_of(config, scores, iteration=session.iteration, step=session.inner_step)
    controls = controls_of(config.quark) if config.quark.quantiles is Quantiles.ALL else None
    together: dict[tuple[str, int], list[tuple[int, ...]]] = {}
    for index, part in chosen:
        together.setdefault((pool[index]["prompt_id"], part), []).append(tuple(pool[index]["token_ids"]))
    lessons = []
    for (name, part), completions in together.items():
        read = under(prompts[name], controls[part] if controls is not None else None)
        sharing = Sharing(prompt=read.sharing.prompt, completions=tuple(completions))
        lessons.append(Lesson(id=name, sharing=sharing, bare=prompts[name].sharing.prompt))
    return lessons, [scores[index] for index, _ in chosen]


# --- a step and an evaluation -----------------------------------------------------------------------------------------


def forward(
    session: Run[Any], options: QuarkOptions, lessons: Sequence[Lesson], *, train: bool, measure: bool = False
) -> loop.Batch:
    """Losses [B] and figures [B], all summed over the tokens of a lesson: `nll`, `kl`, `entropy` (with `measure`)."""

    def terms(pack: Pack, chosen: list[Lesson]) -> tuple[Tensor, dict[str, Tensor]]:
        hidden, head = hidden_states(session.model, pack)[pack.rows], lm_head_weight(session.model)
        loss = nll = -target_logprobs(hidden, head, pack.targets)  # [C]
        found = {"nll": nll.detach()}
        if options.beta:
            kl = vocabulary_kl(hidden, head, *_reference_states(session, pack, chosen))
            loss, found["kl"] = loss + options.beta * kl, kl.detach()
        if options.entropy_weight:
            spread = entropy(hidden, head)
            loss, found["entropy"] = loss - options.entropy_weight * spread, spread.detach()
        elif measure:
            found["entropy"] = target_statistics(hidden.detach(), head.detach(), pack.targets).entropy
        return _by_lesson(loss, pack, chosen), {name: _by_lesson(x, pack, chosen) for name, x in found.items()}

    return loop.forward_batch(session, lessons, terms, train=train, divisor=float(_tokens(lessons)))


def _reference_states(session: Run[Any], pack: Pack, chosen: Sequence[Lesson]) -> tuple[Tensor, Tensor]:
    """The reference's hidden states [C, D] at the same tokens after the bare prompts, and its head [V, D].

    Scored rows are in the order of the completions in either pack, so they line up whatever the prompts' lengths.
    """
    if any(lesson.bare != lesson.sharing.prompt for lesson in chosen):
        bare = [replace(lesson.sharing, prompt=lesson.bare) for lesson in chosen]
        pack = build_pack(bare, device=session.device)
    with torch.no_grad(), as_reference(session.model, session.reference) as reference:
        return hidden_states(reference, pack)[pack.rows], lm_head_weight(reference)


def _by_lesson(values: Tensor, pack: Pack, chosen: Sequence[Lesson]) -> Tensor:
    """Sums of values [C] over the tokens of each lesson, [B] fp64."""
    counts = torch.tensor([len(lesson.sharing.completions) for lesson in chosen], device=values.device)
    lesson_of = torch.repeat_interleave(torch.arange(len(chosen), device=values.device), counts)  # [K]
    sums = torch.zeros(len(chosen), dtype=torch.float64, device=values.device)
    return sums.index_add(0, lesson_of[pack.owner], values.double())


def _tokens(lessons: Sequence[Lesson]) -> int:
    return sum(sft.scored_tokens(lesson.sharing) for lesson in lessons)


def _take_step(session: Run[PromptItem], config: QuarkConfig, *, under: Under, started: float) -> dict[str, float]:
    began = time.monotonic()
    lessons, scores = _lessons(session, config, under=under)
    measure = session.progress.step % loop.MEASURED_EVERY == 0
    batch = forward(session, config.quark, lessons, train=True, measure=measure)
    updated = loop.update_weights(session, lessons)
    tokens = _tokens(lessons)
    names = {"nll": "quark/nll", "kl": "quark/kl_per_token", "entropy": "train/entropy"}
    return {
        "train/loss": float(batch.losses.sum()) / tokens,
        **{name: float(batch.figures[key].sum()) / tokens for key, name in names.items() if key in batch.figures},
        "quark/trained_score": sum(scores) / len(scores),
        **(session.state["figures"] if session.inner_step == 0 else {}),
        **updated,
        "time/train": time.monotonic() - began,
        **loop.step_figures(session, tokens=batch.tokens, seconds=time.monotonic() - started),
    }


def _evaluate(
    session: Run[PromptItem],
    config: QuarkConfig,
    held_out: HeldOut,
    *,
    sampler: Sampler,
    scorer: Scorer,
    under: Under,
) -> tuple[dict[str, float], list[str]]:
    """Figures and alarms of one completion of each held-out prompt: at step 0 of the policy as it was, then under the
    best control. KL is from the reference without a control. Where no prompt is held out, training's are asked.
    """
    asked = first_of_groups(held_out.prompts, count=config.eval.prompts)
    if not asked:
        return {}, []
    started = time.monotonic()
    session.tell("evaluating")
    step = session.progress.step
    control = best_control(config.quark) if step else None
    groups = sampler([under(prompt, control) for prompt in asked], per_prompt=1, stream="evaluation")
    scores: list[float] = scorer(groups).tolist()
    judged: list[float] | None = held_out.scorer(groups).tolist() if held_out.scorer is not None else None
    ours = policy_columns(session, groups, entropy=True)
    theirs = reference_logprobs(session, with_prompts(groups, {prompt.id: prompt.sharing.prompt for prompt in asked}))
    ratios = [own["logp"] - other for own, other in zip(ours, theirs, strict=True)]
    if step == 0:
        _check_start(session, groups, [own["logp"] for own in ours], ratios)
    watched = watch(
        session,
        groups,
        entropies=[own["entropy"] for own in ours],
        ratios=ratios,
        scores=scores,
        held_out_scores=judged,
        limits=held_out.limits,
    )
    for number, group in enumerate(groups):
        line = {**sample_line(session, group, 0), "score": scores[number], "kl": float(ratios[number].double().sum())}
        if judged is not None:
            line["held_out_score"] = judged[number]
        session.samples.write(line if control is None else {**line, "control": control})
    return {**held_out_names(watched.figures), "time/eval": time.monotonic() - started}, watched.alarms


def _check_start(session: Run[Any], groups: Sequence[Group], logp: list[Tensor], ratios: list[Tensor]) -> None:
    """Before step 1 policy and reference are equal, and the decoder says what training says; else it is a bug."""
    apart = max((float(ratio.abs().max()) for ratio in ratios if len(ratio)), default=0.0)
    if apart > (1e-6 if session.config.precision.dtype is Dtype.FP32 else 1e-2):
        raise AssertionError(f"log π and log π_ref differ by {apart:.2e} nats before the first step")
    drawn = [logprob for group in groups for c in group.completions for logprob in c.token_logprobs]
    computed = torch.cat(logp).double()
    if len(drawn) == len(computed):  # a sampler that gives text only says nothing
        gaps = (computed - torch.tensor(drawn, dtype=torch.float64)).abs()
        check_gap(session, largest=float(gaps.max()), mean=float(gaps.mean()))
