"""KTO: a policy from completions that are desirable or not, held near its reference, without pairs or reward model.

    d(y) = log π(y|x) − log π_ref(y|x);   z0 = max(0, mean_i d(x_i, y_i')), no gradient
    L = Σ_i w_i v_i [1 − σ(±β (d(y_i) − z0))] / Σ_i w_i,   + where y_i is desirable, − where it is not

y_i' is the completion of the next different prompt in the optimizer batch, so that z0 is an estimate of KL(π‖π_ref)
from texts at hand; it is one number for the whole batch, known before the first backward pass. v balances the two
kinds: v_D n_D = v_U n_U over the training part, mean 1, unless the config gives one of them. A preference is two
examples; a tie says nothing about either side and is left out.

The reference is the model that training starts from; its log-probabilities, those of mismatched texts too, are
computed once, before step 1. There π = π_ref, z0 = 0, and every example's loss is ½ before v.
Source: Ethayarajh et al. 2024, eq. 8; the mismatched pairs as in section 4.1 there.

B examples of an optimizer step; K = B completions of a pack, all of different items; C scored tokens.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.engine import loop, losses, starting
from training.engine.config import KtoConfig, KtoOptions
from training.engine.errors import ConfigError
from training.engine.evaluate import clustered_mean, clustered_share, with_interval
from training.engine.examples import Loaded, Rated, load_ratings
from training.engine.logprobs import completion_logprobs, sum_by_completion, target_logprobs, target_statistics
from training.engine.loop import Batch, Run
from training.engine.models import lm_head_weight
from training.engine.packing import Pack, Sharing, hidden_states
from training.engine.pairs import check_scored_tokens
from training.engine.reference import TOLERANCE, References, open_cache
from training.engine.rollouts import watch_held_out
from training.engine.supervision import Supervision

LEAST_PROMPTS = 4
"""Different prompts of a batch: the mean of fewer mismatched texts is mostly noise, and of one prompt there is none."""
FIRST_LOSS = 0.5
FIRST_LOSS_TOLERANCE = 1e-6
SIZES_TRIED = 32
"""Batch sizes that are looked at for one to advise."""
WATCHED = ("falling_share", "logp_chosen_change", "changed_pairs")
"""Held-out figures that ring alarms."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassWeights:
    """v of desirable and of undesirable examples."""

    desirable: float
    undesirable: float


def run(config: KtoConfig, out: Path, *, resume: Path | None, supervision: Supervision) -> None:
    """Train, evaluate and write everything to `out`; go on from `resume`, or from `out`'s own newest checkpoint.

    Raises:
        ConfigError, SnapshotError, ModelError, Diverged; StopRun when a stop comes before the first step.
    """
    opening = starting.open_run(config, out, resume=resume, supervision=supervision, kinds=("ratings", "preferences"))
    training, validation, test = (
        load_ratings(part, data=config.data, text=opening.text) for part in ("train", "validation", "test")
    )
    check_scored_tokens(training.examples, opening.text)
    batches = planned_batches(config, training.examples)
    model, reference = starting.load_policies(opening, config, training.examples)
    held_out = validation.examples[: config.eval.pairs]
    parts = [*batches, mixed(held_out, seed=config.seed), mixed(test.examples, seed=config.seed)]
    texts = [text for part in parts for text in (part, mismatched(part, max_tokens=config.data.max_tokens))]
    cache = open_cache(config, opening, model, reference, [[item.sharing for item in part] for part in texts])
    weights = class_weights(config.kto, training.examples)
    session = starting.start_run(
        config,
        opening,
        kind="policy",
        trained={"policy": starting.make_trained(model, config.optim)},
        reference=reference,
        items=training.examples,
        size=config.batch.examples,
        facts=_data_figures(training, weights),
    )
    starting.check_packing(session, lambda pack: completion_logprobs(session.model, pack))
    starting.check_split(
        session,
        lambda items: forward(
            session, config.kto, items, cache=cache, weights=weights, reference_point=torch.zeros(()), train=False
        ),
    )
    with session.ending():
        train(session, config, cache=cache, weights=weights, held_out=held_out, test=test.examples)


def train(
    session: Run[Rated],
    config: KtoConfig,
    *,
    cache: References,
    weights: ClassWeights,
    held_out: Sequence[Rated],
    test: Sequence[Rated],
) -> None:
    """The loop, to the end of the plan or a stop.

    Args:
        cache: log π_ref of all examples and of all mismatched texts.
    """
    while not session.is_over:
        if not session.is_open:
            session.open_step(_take_step(session, config, session.next_batch(), cache=cache, weights=weights))
        elif session.evaluation_is_due:
            figures, alarms = _evaluate(session, config, cache=cache, weights=weights, held_out=held_out, test=test)
            session.close_step(figures, alarms=alarms)
        else:
            session.close_step({})


# --- loss -------------------------------------------------------------------------------------------------------------


def mismatched(items: Sequence[Rated], *, max_tokens: int) -> list[Rated]:
    """Each item's prompt with the completion of the next item, in a circle, that has another prompt.

    A completion that would make the text longer than `max_tokens` is passed over; an item for which there is none is
    left out.
    """
    found = []
    for place, item in enumerate(items):
        prompt = item.sharing.prompt
        for other in (*items[place + 1 :], *items[:place]):
            if other.sharing.prompt != prompt and len(prompt) + other.length <= max_tokens:
                found.append(replace(item, sharing=Sharing(prompt=prompt, completions=other.sharing.completions)))
                break
    return found


def mixed(items: Sequence[Rated], *, seed: int) -> list[Rated]:
    """Held-out items in an order drawn by the seed: in that of their ids the sides of a preference are neighbours, and
    every mismatched completion would be a desirable one.
    """
    order = list(items)
    random.Random(f"{seed}:held out").shuffle(order)  # noqa: S311 - an order, no secret
    return order


def reference_point(session: Run[Any], items: Sequence[Rated], *, cache: References, max_tokens: int) -> Tensor:
    """z0 of a whole optimizer batch, a scalar on the host, without gradient: one forward pass over mismatched texts."""
    others = mismatched(items, max_tokens=max_tokens)
    if not others:
        return torch.zeros((), dtype=torch.float64)
    ours = loop.infer(session, others, lambda pack: completion_logprobs(session.model, pack), per="completion")
    return losses.kto_reference_point(torch.cat(ours).double() - cache.lookup([other.sharing for other in others]))


def forward(
    session: Run[Any],
    options: KtoOptions,
    items: Sequence[Rated],
    *,
    cache: References,
    weights: ClassWeights,
    reference_point: Tensor,
    train: bool,
    measure: bool = False,
) -> Batch:
    """Losses [B], v included, and figures [B]: `bare` (without v), `change` d(y), nats; with `measure` the `entropy`
    summed over the scored tokens.
    """

    def terms(pack: Pack, chosen: list[Rated]) -> tuple[Tensor, dict[str, Tensor]]:
        hidden, head = hidden_states(session.model, pack)[pack.rows], lm_head_weight(session.model)
        logp = sum_by_completion(target_logprobs(hidden, head, pack.targets), pack)  # [B]
        change = logp - cache.lookup([item.sharing for item in chosen]).to(logp.device)
        desirable = torch.tensor([item.desirable for item in chosen], device=logp.device)
        z0 = reference_point.to(logp.device)
        bare = losses.kto(change, reference_point=z0, beta=options.beta, desirable=desirable)
        weight = losses.kto_weights(
            desirable,
            desirable_weight=weights.desirable,
            undesirable_weight=weights.undesirable,
            dtype=logp.dtype,
        )
        figures = {"bare": bare, "change": change}
        if measure:
            entropy = target_statistics(hidden.detach(), head.detach(), pack.targets).entropy
            figures["entropy"] = sum_by_completion(entropy, pack)
        return weight * bare, figures

    return loop.forward_batch(session, items, terms, train=train)


def class_weights(options: KtoOptions, items: Sequence[Rated]) -> ClassWeights:
    """v_D and v_U; one that the config does not give balances the other: v_D n_D = v_U n_U over these items."""
    desirable = sum(item.desirable for item in items)
    undesirable = len(items) - desirable
    given = options.desirable_weight, options.undesirable_weight
    if given == (None, None) or not desirable or not undesirable:
        both = losses.balanced_weights(desirable=desirable, undesirable=undesirable)
    elif given[0] is None:
        both = ((given[1] or 1.0) * undesirable / desirable, 1.0)
    else:
        both = (1.0, given[0] * desirable / undesirable)
    heavy, light = (auto if own is None else own for own, auto in zip(given, both, strict=True))
    return ClassWeights(desirable=heavy, undesirable=light)


# --- steps and evaluations --------------------------------------------------------------------------------------------


def _take_step(
    session: Run[Rated], config: KtoConfig, items: Sequence[Rated], *, cache: References, weights: ClassWeights
) -> dict[str, float]:
    started = time.monotonic()
    measure = session.progress.step % loop.MEASURED_EVERY == 0
    z0 = reference_point(session, items, cache=cache, max_tokens=config.data.max_tokens)
    batch = forward(
        session, config.kto, items, cache=cache, weights=weights, reference_point=z0, train=True, measure=measure
    )
    if session.progress.step == 0:
        _check_first_loss(session, config.kto, batch, z0)
    updated = loop.update_weights(session, items)
    figures = {
        "train/loss": loop.weighted_mean(batch.losses, batch.weights),
        "train/accuracy": _mean(_right(batch, items, z0)),
        "kto/reference_point": float(z0),
    }
    if measure:
        figures["train/entropy"] = float(batch.figures["entropy"].sum()) / max(1, sum(item.length for item in items))
    desirable, undesirable = _changes(batch, items)
    if desirable:
        figures["policy/logp_chosen_change"] = _mean(desirable)
        figures["policy/falling_share"] = _mean([float(change < 0) for change in desirable])
    if undesirable:
        figures["policy/logp_rejected_change"] = _mean(undesirable)
    if desirable and undesirable:
        figures["policy/margin"] = _mean(desirable) - _mean(undesirable)
    return {
        **figures,
        **updated,
        **loop.step_figures(session, tokens=batch.tokens, seconds=time.monotonic() - started),
    }


def _check_first_loss(session: Run[Rated], options: KtoOptions, batch: Batch, z0: Tensor) -> None:
    """Before step 1 policy and reference are equal, so every example's loss is ½; anything else is a bug.

    Values of the cache that were computed in other packs differ by rounding; the loss may be off by what that makes.
    """
    off = max(float(batch.figures["change"].abs().max()), float(z0))
    wrong = float((batch.figures["bare"] - FIRST_LOSS).abs().max())
    dtype = session.config.precision.dtype.value
    # The slope of a sigmoid is a quarter at most, and d and z0 may both be off.
    if off > TOLERANCE[dtype] or wrong > FIRST_LOSS_TOLERANCE + options.beta * off / 2:
        raise AssertionError(
            f"a first loss is {wrong:.2e} off ½: π is not π_ref, some log-probability is {off:.2e} nats off"
        )


def _evaluate(
    session: Run[Rated],
    config: KtoConfig,
    *,
    cache: References,
    weights: ClassWeights,
    held_out: Sequence[Rated],
    test: Sequence[Rated],
) -> tuple[dict[str, float], list[str]]:
    """`eval/*`, at the end `test/*` too, and sampled completions; and the alarms that they ring."""
    started = time.monotonic()
    session.tell("evaluating")
    values: dict[str, float] = {}
    for part, items in [("eval", held_out)] + ([("test", test)] if session.is_last else []):
        if items:
            order = mixed(items, seed=config.seed)
            z0 = reference_point(session, order, cache=cache, max_tokens=config.data.max_tokens)
            batch = forward(session, config.kto, items, cache=cache, weights=weights, reference_point=z0, train=False)
            values |= _held_out_figures(batch, items, z0, part=part)
    watched = {f"eval/{name}": values[f"eval/{name}"] for name in WATCHED if f"eval/{name}" in values}
    sampled, alarms = watch_held_out(
        session, held_out or session.items, config.eval, reward_per_nat=config.kto.beta, figures=watched
    )
    return {**values, **sampled, "time/eval": time.monotonic() - started}, alarms


def _held_out_figures(batch: Batch, items: Sequence[Rated], z0: Tensor, *, part: str) -> dict[str, float]:
    groups = [item.group for item in items]
    found = {
        f"{part}/loss": loop.weighted_mean(batch.losses, batch.weights),
        f"{part}/examples": float(len(items)),
        f"{part}/groups": float(len(set(groups))),
        **with_interval(f"{part}/accuracy", clustered_share(_right(batch, items, z0), groups)),
    }
    desirable, undesirable = _changes(batch, items)
    for side, changes, wanted in (("chosen", desirable, True), ("rejected", undesirable, False)):
        if changes:
            own = [item.group for item in items if item.desirable is wanted]
            found |= with_interval(f"{part}/logp_{side}_change", clustered_mean(changes, own))
    if desirable:
        own = [item.group for item in items if item.desirable]
        falling = [float(change < 0) for change in desirable]
        found |= with_interval(f"{part}/falling_share", clustered_share(falling, own))
        found[f"{part}/changed_pairs"] = float(len(desirable))
    if desirable and undesirable:
        found[f"{part}/margin"] = _mean(desirable) - _mean(undesirable)
    return found


def _changes(batch: Batch, items: Sequence[Rated]) -> tuple[list[float], list[float]]:
    """d(y) of the desirable and of the undesirable examples, nats."""
    both = list(zip(items, batch.figures["change"].tolist(), strict=True))
    return [d for item, d in both if item.desirable], [d for item, d in both if not item.desirable]


def _right(batch: Batch, items: Sequence[Rated], z0: Tensor) -> list[float]:
    """Whether each example is on its side of z0; upon it counts one half."""
    sides = torch.sign(batch.figures["change"] - z0).tolist()
    return [(1 + (side if item.desirable else -side)) / 2 for item, side in zip(items, sides, strict=True)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


# --- data -------------------------------------------------------------------------------------------------------------


def planned_batches(config: KtoConfig, items: Sequence[Rated]) -> list[list[Rated]]:
    """The batches of the run, each with prompts enough for its reference point.

    Raises:
        ConfigError: one has fewer than `LEAST_PROMPTS`; a size that would do is named.
    """
    batches = _batches(config, items, size=config.batch.examples)
    for number, batch in enumerate(batches, start=1):
        if _prompts(batch) < LEAST_PROMPTS:
            size = config.batch.examples
            sizes = [
                *range(size + 1, size + SIZES_TRIED),
                *range(size - 1, max(LEAST_PROMPTS, size - SIZES_TRIED) - 1, -1),
            ]
            fits = (s for s in sizes if all(_prompts(b) >= LEAST_PROMPTS for b in _batches(config, items, size=s)))
            advice = next((f"; {s} would do" for s in fits), "")
            raise ConfigError(
                key="batch.examples",
                value=size,
                message=f"batch.examples = {size} leaves batch {number} with {_prompts(batch)} different prompts of "
                f"{len(items)} examples, and kto needs {LEAST_PROMPTS} for its reference point{advice}",
            )
    return batches


def _batches(config: KtoConfig, items: Sequence[Rated], *, size: int) -> list[list[Rated]]:
    plan, _ = starting.plan_of(config, len(items), size=size, inner=1)
    return [[items[index] for index in batch] for batch in plan]


def _prompts(batch: Sequence[Rated]) -> int:
    return len({item.sharing.prompt for item in batch})


def _data_figures(part: Loaded[Rated], weights: ClassWeights) -> dict[str, float]:
    return {
        "data/examples": float(len(part.examples)),
        "data/desirable": float(sum(item.desirable for item in part.examples)),
        "data/ties": float(part.ties),
        "data/dropped_too_long": float(part.dropped),
        "kto/desirable_weight": weights.desirable,
        "kto/undesirable_weight": weights.undesirable,
    }
