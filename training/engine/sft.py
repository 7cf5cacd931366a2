"""Supervised fine-tuning: a policy that imitates demonstrations. Knows nothing of preferences.

    L = − Σ_i w_i Σ_t log π(y_{i,t} | x_i, y_{i,<t}) / Σ_i w_i T_i

over the whole optimizer batch: a mean over tokens. With `average: "sequence"` every completion counts as one, whatever
its length: − Σ_i w_i (1/T_i) Σ_t … / Σ_i w_i, another objective. Scored are the assistant's turns and their end tokens,
nothing else. There is no reference in the loss; KL at evaluations is from the policy that training starts from. Methods
that make their own demonstrations (FeedME, conditioning, expert iteration) call `train_on`.

B examples of an optimizer step, a completion each; C scored tokens of a pack; T_i those of example i.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unicodedata import normalize

import torch
from torch import Tensor

from training.engine import loop, starting
from training.engine.config import (
    Average,
    BinaryConditioningConfig,
    ExpertIterationConfig,
    FeedMeConfig,
    SftConfig,
)
from training.engine.errors import SnapshotError
from training.engine.examples import Demonstration, Loaded, PromptItem, load_demonstrations
from training.engine.logprobs import completion_logprobs, sum_by_completion, target_logprobs, target_statistics
from training.engine.loop import Batch, Run
from training.engine.models import lm_head_weight
from training.engine.packing import Pack, Sharing, hidden_states
from training.engine.rollouts import Asked, watch_held_out
from training.engine.sections import Dtype
from training.engine.starting import Opening
from training.engine.supervision import Supervision
from training.engine.text import Text

ImitationConfig = SftConfig | FeedMeConfig | BinaryConditioningConfig | ExpertIterationConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOutPrompts:
    """What is sampled at evaluations.

    Attributes:
        plain: the prompts as the reference reads them; at step 0 they are what is sampled.
        controlled: the same prompts as the policy reads them from then on, where that is under a control.
    """

    plain: Sequence[Asked]
    controlled: Sequence[Asked] | None = None


def run(config: SftConfig, out: Path, *, resume: Path | None, supervision: Supervision) -> None:
    """Train, evaluate and write everything to `out`; go on from `resume`, or from `out`'s own newest checkpoint.

    Raises:
        SnapshotError, ModelError, Diverged; StopRun when a stop comes before the first step.
    """
    opening = starting.open_run(config, out, resume=resume, supervision=supervision, kinds=("demonstrations",))
    train_part, validation, test = (
        load_demonstrations(part, data=config.data, text=opening.text) for part in ("train", "validation", "test")
    )
    check_scored_turns(train_part.examples, opening.text)
    train_on(
        config,
        opening,
        train_part=train_part,
        validation=validation.examples,
        test=test.examples,
        average=config.sft.average,
    )


def train_on(
    config: ImitationConfig,
    opening: Opening,
    *,
    train_part: Loaded[Demonstration],
    validation: Sequence[Demonstration] = (),
    test: Sequence[Demonstration] = (),
    average: Average = Average.TOKEN,
    asked: HeldOutPrompts | None = None,
    card: Mapping[str, Any] | None = None,
    facts: Mapping[str, float] | None = None,
) -> None:
    """The whole run on demonstrations that are ready: load the policies, check, train, write the result.

    Args:
        asked: what is sampled at evaluations; None: prompts of the held-out examples, else of the training's.
        card: what `winnow.json` of the checkpoints says besides; `facts`: more figures for the line of step 0.

    Raises:
        SnapshotError, ModelError, Diverged; StopRun when a stop comes before the first step.
    """
    (examples, empty), (held_out, _), (tested, _) = map(_with_tokens, (train_part.examples, validation, test))
    # The reference is for KL at evaluations alone: where nothing is sampled, no second copy is held.
    if config.eval.prompts:
        model, reference = starting.load_policies(opening, config, examples)
    else:
        model, reference = starting.load_policy_alone(opening, config, examples), None
    session = starting.start_run(
        config,
        opening,
        kind="policy",
        trained={"policy": starting.make_trained(model, config.optim)},
        reference=reference,
        items=examples,
        size=config.batch.examples,
        facts={
            "data/examples": float(len(examples)),
            "data/dropped_too_long": float(train_part.dropped),
            "data/dropped_empty": float(empty),
            **(facts or {}),
        },
    )
    session.card = dict(card or {})
    starting.check_packing(session, lambda pack: completion_logprobs(session.model, pack))
    check_split(session, average=average)
    _show_scored(session, opening.text)
    if asked is None:
        asked = HeldOutPrompts(plain=prompts_of(held_out or examples, text=opening.text, count=config.eval.prompts))
    with session.ending():
        train(session, config, held_out=held_out[: config.eval.pairs], test=tested, asked=asked, average=average)


def train(
    session: Run[Demonstration],
    config: ImitationConfig,
    *,
    held_out: Sequence[Demonstration],
    test: Sequence[Demonstration],
    asked: HeldOutPrompts | None = None,
    average: Average = Average.TOKEN,
) -> None:
    """The loop, to the end of the plan or a stop. Without `asked` nothing is sampled."""
    while not session.is_over:
        if not session.is_open:
            session.open_step(_take_step(session, session.next_batch(), average=average))
        elif session.evaluation_is_due:
            figures, alarms = _evaluate(session, config, held_out=held_out, test=test, asked=asked, average=average)
            session.close_step(figures, alarms=alarms)
        else:
            session.close_step({})


# --- loss -------------------------------------------------------------------------------------------------------------


def divisor_of(examples: Sequence[Demonstration], *, average: Average) -> float:
    """What the summed losses of an optimizer batch are divided by: Σ w_i T_i, or Σ w_i."""
    if average is Average.SEQUENCE:
        return sum(example.weight for example in examples)
    return sum(example.weight * scored_tokens(example.sharing) for example in examples)


def scored_tokens(sharing: Sharing) -> int:
    """T of an example: the tokens of its completions that are scored."""
    if sharing.scored is None:
        return sum(map(len, sharing.completions))
    return sum(sum(flags) for flags in sharing.scored)


def forward(
    session: Run[Any], examples: Sequence[Demonstration], *, average: Average, train: bool, measure: bool = False
) -> Batch:
    """Losses [B], − Σ_t log π (a mean over t for `sequence`), and figures [B]: `end` = p of the end token where the
    text ended, else 0; with `measure`, `entropy` and `correct` summed over the scored tokens.
    """

    def terms(pack: Pack, chosen: list[Demonstration]) -> tuple[Tensor, dict[str, Tensor]]:
        hidden, head = hidden_states(session.model, pack)[pack.rows], lm_head_weight(session.model)
        logp = target_logprobs(hidden, head, pack.targets)  # [C]
        loss = -sum_by_completion(logp, pack)  # [B]
        if average is Average.SEQUENCE:
            loss = loss / pack.lengths.clamp(min=1)
        ended = torch.tensor([example.finish == "end" for example in chosen], device=logp.device)
        figures = {"end": logp.detach()[pack.lengths.cumsum(0) - 1].double().exp() * ended}
        if measure:
            found = target_statistics(hidden.detach(), head.detach(), pack.targets)
            figures["entropy"] = sum_by_completion(found.entropy, pack)
            figures["correct"] = sum_by_completion(found.correct.double(), pack)
        return loss, figures

    return loop.forward_batch(session, examples, terms, train=train, divisor=divisor_of(examples, average=average))


def mean_loss(batch: Batch, examples: Sequence[Demonstration], *, average: Average) -> float:
    """The loss of the batch as it is trained: nats a token, or a completion's nats a token."""
    return float((batch.losses * batch.weights).sum()) / divisor_of(examples, average=average)


def _take_step(session: Run[Demonstration], examples: list[Demonstration], *, average: Average) -> dict[str, float]:
    started = time.monotonic()
    measure = session.progress.step % loop.MEASURED_EVERY == 0
    batch = forward(session, examples, average=average, train=True, measure=measure)
    updated = loop.update_weights(session, examples)
    figures = {"train/loss": mean_loss(batch, examples, average=average)}
    if measure:
        tokens = sum(scored_tokens(example.sharing) for example in examples)
        figures["train/token_accuracy"] = float(batch.figures["correct"].sum()) / tokens
        figures["train/entropy"] = float(batch.figures["entropy"].sum()) / tokens
    return {
        **figures,
        **updated,
        **loop.step_figures(session, tokens=batch.tokens, seconds=time.monotonic() - started),
    }


def _evaluate(
    session: Run[Demonstration],
    config: ImitationConfig,
    *,
    held_out: Sequence[Demonstration],
    test: Sequence[Demonstration],
    asked: HeldOutPrompts | None,
    average: Average,
) -> tuple[dict[str, float], list[str]]:
    """`eval/*`, at the end `test/*` too, and sampled completions with their alarms."""
    started = time.monotonic()
    session.tell("evaluating")
    values: dict[str, float] = {}
    for part, examples in [("eval", held_out)] + ([("test", test)] if session.is_last else []):
        if not examples:
            continue
        batch = forward(session, examples, average=average, train=False)
        values[f"{part}/loss"] = mean_loss(batch, examples, average=average)
        finished = sum(example.finish == "end" for example in examples)
        if finished:
            values[f"{part}/end_probability"] = float(batch.figures["end"].sum()) / finished
    sampled, alarms = _sample(session, config, asked) if asked is not None else ({}, [])
    return {**values, **sampled, "time/eval": time.monotonic() - started}, alarms


def _sample(
    session: Run[Demonstration], config: ImitationConfig, asked: HeldOutPrompts
) -> tuple[dict[str, float], list[str]]:
    """`rollout/*` and alarms: before step 1 of the policy as it was, afterwards under its control, if it learns one."""
    if session.progress.step == 0:
        values, alarms = watch_held_out(session, asked.plain, config.eval)
        _check_start(session, values)
        return values, alarms
    if asked.controlled is None:
        return watch_held_out(session, asked.plain, config.eval)
    bare = {prompt.id: prompt.sharing.prompt for prompt in asked.plain}
    return watch_held_out(session, asked.controlled, config.eval, bare=bare)


def _check_start(session: Run[Demonstration], values: Mapping[str, float]) -> None:
    """Before step 1 policy and reference are equal, so their KL is known exactly; anything else is a bug."""
    kl = values.get("rollout/kl_k3", 0.0)
    if abs(kl) > (1e-6 if session.config.precision.dtype is Dtype.FP32 else 1e-2):
        raise AssertionError(f"KL is {kl:.9f} before the first step, it must be 0: π is not π_ref")


# --- data and checks --------------------------------------------------------------------------------------------------


def prompts_of(examples: Sequence[Demonstration], *, text: Text, count: int) -> list[PromptItem]:
    """The prompts of the first `count` groups, each up to its last turn, for samples at evaluations."""
    first = {example.group: example for example in reversed(examples)}
    chosen = sorted(first.values(), key=lambda example: example.id)[:count]
    return [
        PromptItem(
            id=example.id,
            group=example.group,
            sharing=Sharing(prompt=tuple(text.prompt_ids(example.prompt)), completions=()),
            prompt=example.prompt,
        )
        for example in chosen
    ]


def check_split(session: Run[Demonstration], *, average: Average) -> None:
    """Four examples have the same loss in one micro-batch and in one each (before step 1).

    Raises:
        AssertionError: it is not; the loss would depend on `memory.micro_tokens`.
    """
    examples = [session.items[index] for index in session.plan[0]][:4]
    together = forward(session, examples, average=average, train=False)
    apart = [float(forward(session, [example], average=average, train=False).losses) for example in examples]
    alone = replace(together, losses=together.losses.new_tensor(apart))
    found = [mean_loss(batch, examples, average=average) for batch in (together, alone)]
    tolerance = 1e-5 if session.config.precision.dtype is Dtype.FP32 else 1e-2
    if not abs(found[0] - found[1]) <= tolerance * abs(found[0]):
        raise AssertionError(f"the loss of a batch is {found[0]:.9f} or {found[1]:.9f}, as it is split")


def _with_tokens(examples: Sequence[Demonstration]) -> tuple[list[Demonstration], int]:
    """The examples that have something to learn, and how many have not (an empty text that was cut)."""
    kept = [example for example in examples if scored_tokens(example.sharing)]
    return kept, len(examples) - len(kept)


def check_scored_turns(examples: Sequence[Demonstration], text: Text) -> None:
    """The runs of scored tokens of four examples are the assistant's turns with their end tokens, and nothing else.

    As strict as `pairs.check_scored_tokens`, turn by turn.

    Raises:
        SnapshotError: decoding gives another text; both are shown.
    """
    shown_end = str(text.tokenizer.decode([text.end_id]))
    for example in examples[:4]:
        (ids,), flags = example.sharing.completions, example.sharing.scored
        runs = _scored_runs(ids, (True,) * len(ids) if flags is None else flags[0])
        shown = [text.tokenizer.decode(run, clean_up_tokenization_spaces=False) for run in runs]
        answers = [turn["content"] for number, turn in enumerate(example.prompt) if number and _is_answer(turn)]
        turns = answers if flags is not None else []  # else the text alone is imitated
        turns = [turn + shown_end for turn in turns] + [example.text + (shown_end if example.finish == "end" else "")]
        turns = [turn for turn in turns if turn]  # an empty text that was cut has no token
        if [_trimmed(turn, shown_end) for turn in shown] != [_trimmed(turn, shown_end) for turn in turns]:
            raise SnapshotError(
                f"example {example.id}: the scored tokens are {''.join(shown)[:200]!r}, not {''.join(turns)[:200]!r}"
            )


def _scored_runs(ids: Sequence[int], flags: Sequence[bool]) -> list[list[int]]:
    runs = itertools.groupby(zip(ids, flags, strict=True), key=lambda token: token[1])
    return [[token for token, _ in run] for is_scored, run in runs if is_scored]


def _is_answer(turn: Mapping[str, str]) -> bool:
    return turn["role"] == "assistant"


def _trimmed(turn: str, end: str) -> str:
    """Some tokenizers normalise and some templates trim; a lost or an added word or space is what is looked for."""
    return normalize("NFC", turn.removesuffix(end)).strip() + (end if turn.endswith(end) else "")


def _show_scored(session: Run[Demonstration], text: Text) -> None:
    """Four training examples in `samples.jsonl`, with what of them is scored: the mask, for people to read."""
    if session.progress.step or not session.is_open:
        return
    for example in session.items[:4]:
        (ids,), flags = example.sharing.completions, example.sharing.scored
        session.samples.write(
            {
                "step": 0,
                "prompt_id": example.id,
                "prompt": example.prompt,
                "completion": example.text,
                "finish": example.finish,
                "length": scored_tokens(example.sharing),
                "scored": _runs(text.tokenizer.decode, ids, flags[0] if flags is not None else (True,) * len(ids)),
            }
        )


def _runs(decode: Callable[[list[int]], str], ids: Sequence[int], flags: Sequence[bool]) -> list[dict[str, Any]]:
    """Tokens as runs of one kind, [{"text", "scored"}]."""
    runs: list[tuple[bool, list[int]]] = []
    for token, flag in zip(ids, flags, strict=True):
        if not runs or runs[-1][0] is not flag:
            runs.append((flag, []))
        runs[-1][1].append(token)
    return [{"text": decode(tokens), "scored": flag} for flag, tokens in runs]
