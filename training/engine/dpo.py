"""Direct preference optimisation: a policy from pairs, held near its reference, without a reward model.

    d(y) = log π(y|x) − log π_ref(y|x);  Δ = d(y_w) − d(y_l);  u = βΔ
    L = Σ_i w_i link(u_i, q_i) / Σ_i w_i  +  α Σ_{q_i > ½} w_i (−log π(y_w)/T_w) / Σ_{q_i > ½} w_i

The reference is the model that training starts from; its log-probabilities are computed once, before step 1.
Source: Rafailov et al. 2023, eq. 7; the links are in `losses.py`.

B pairs; K = 2B completions of a pack.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, assert_never

import torch
from torch import Tensor

from training.engine import loop, losses, starting
from training.engine.config import DpoConfig, DpoOptions, Link
from training.engine.diagnostics import policy_alarms
from training.engine.evaluate import Judged, accuracy_metrics, vote_accuracy_metrics
from training.engine.logprobs import completion_logprobs
from training.engine.loop import Batch, Run
from training.engine.packing import Pack
from training.engine.pairs import Pair, check_scored_tokens, data_figures, load_part
from training.engine.reference import ReferenceCache
from training.engine.rollouts import as_reference, sample_held_out
from training.engine.sections import Dtype
from training.engine.starting import Opening
from training.engine.supervision import Supervision

FIRST_LOSS_TOLERANCE = 1e-6
"""How far the first loss may be from its exact value in fp32; bf16 rounds a log-probability by up to 2⁻⁸ of it."""


def run(config: DpoConfig, out: Path, *, resume: Path | None, supervision: Supervision) -> None:
    """Train, evaluate and write everything to `out`; go on from `resume`, or from `out`'s own newest checkpoint.

    Raises:
        SnapshotError, ModelError, Diverged; StopRun when a stop comes before the first step.
    """
    opening = starting.open_run(config, out, resume=resume, supervision=supervision, kinds=("preferences",))
    train, validation, test = (
        load_part(part, data=config.data, labels=config.dpo.labels, text=opening.text)
        for part in ("train", "validation", "test")
    )
    check_scored_tokens(train.pairs, opening.text)
    model, reference = starting.load_policies(opening, config)
    held_out = validation.pairs[: config.eval.pairs]
    cache = _fill(config, opening, model, reference, [*_first_epoch(config, train.pairs), held_out, test.pairs])
    session = starting.start_run(
        config,
        opening,
        kind="policy",
        trained={"policy": starting.make_trained(model, config.optim)},
        reference=reference,
        items=train.pairs,
        size=config.batch.pairs,
        facts=data_figures(train),
    )
    starting.check_packing(session, lambda pack: completion_logprobs(session.model, pack))
    with session.ending():
        while not session.is_over:
            if not session.is_open:
                session.open_step(_take_step(session, config, cache, session.next_batch()))
            elif session.evaluation_is_due:
                figures, changes = _evaluate(session, config, cache, held_out=held_out, test=test.pairs)
                session.close_step(figures, alarms=policy_alarms(changes))
            else:
                session.close_step({})


def link_loss(options: DpoOptions, delta: Tensor, q: Tensor) -> Tensor:
    """The loss of each pair, [B], given Δ and q."""
    match options.link:
        case Link.NLL:
            return losses.preference_nll(options.beta * delta, q)
        case Link.SMOOTHED:
            return losses.smoothed_nll(options.beta * delta, q, epsilon=options.epsilon)
        case Link.ROBUST:
            return losses.robust_nll(options.beta * delta, q, epsilon=options.epsilon)
        case Link.IPO:
            return losses.ipo(delta, q, tau=options.tau)
        case Link.HINGE:
            return losses.hinge(options.beta * delta, q)
        case _:
            raise NotImplementedError(options.link)


def first_loss(options: DpoOptions) -> float:
    """The loss where π = π_ref, the same for every q."""
    match options.link:
        case Link.NLL | Link.SMOOTHED | Link.ROBUST:
            return math.log(2)
        case Link.IPO:
            return 1 / (4 * options.tau**2)
        case Link.HINGE:
            return 1.0
        case Link.MARGIN:
            return math.log1p(math.exp(options.gamma))
        case _:
            assert_never(options.link)


def _first_epoch(config: DpoConfig, pairs: list[Pair]) -> list[list[Pair]]:
    """The batches of the first epoch: together all pairs that the run will see."""
    plan = loop.plan_batches(
        len(pairs), size=config.batch.pairs, epochs=1, seed=config.seed, max_steps=config.stop.max_steps
    )
    return [[pairs[index] for index in batch] for batch in plan]


def _fill(
    config: DpoConfig, opening: Opening, model: Any, reference: Any | None, batches: list[list[Pair]]
) -> ReferenceCache:
    """The reference's log-probabilities of all pairs that the run will see."""
    cache = ReferenceCache(
        Path(config.memory.reference_cache or opening.out / "reference"),
        identity={
            "model": opening.lineage.models["base"],
            "tokenizer": opening.text.tokenizer_sha256,
            "template": opening.text.template_sha256,
            "dtype": config.precision.dtype.value,
            "device": opening.device.type,
        },
    )

    def values_of(pack: Pack) -> Tensor:
        with torch.no_grad(), loop.precision(config, opening.device), as_reference(model, reference) as frozen:
            return completion_logprobs(frozen, pack)

    def between(_done: int, _count: int) -> None:
        opening.supervision.raise_if_overdue(grace_seconds=config.stop.grace_seconds)
        opening.status.update("reference")  # no steps: these are packs of the cache, not optimizer steps

    groups = [[pair.sharing for pair in batch] for batch in batches]
    everything = [group for batch in groups for group in batch]
    cache.check(everything, values_of, dtype=config.precision.dtype.value, device=opening.device)
    cache.fill(groups, values_of, micro_tokens=config.memory.micro_tokens, device=opening.device, between=between)
    return cache


def _forward(
    session: Run[Pair], config: DpoConfig, cache: ReferenceCache, pairs: Sequence[Pair], *, train: bool
) -> Batch:
    weight = sum(pair.weight for pair in pairs)
    decided = sum(pair.weight for pair in pairs if pair.q > 0.5)

    def terms(pack: Pack, chosen: list[Pair]) -> tuple[Tensor, dict[str, Tensor]]:
        logp = completion_logprobs(session.model, pack)  # [K]
        change = logp - cache.lookup([pair.sharing for pair in chosen]).to(logp.device)
        change_w, change_l = change.view(-1, 2).unbind(dim=1)  # [B] each
        q = torch.tensor([pair.q for pair in chosen], device=logp.device, dtype=logp.dtype)
        loss = linked = link_loss(config.dpo, change_w - change_l, q)
        if config.dpo.nll_weight and decided:
            # The batch mean divides by the weight of all pairs, this term by that of the decided ones.
            lengths = pack.lengths.view(-1, 2)[:, 0].clamp(min=1)
            nll = -logp.view(-1, 2)[:, 0] / lengths * (q > 0.5)
            loss = loss + config.dpo.nll_weight * nll * (weight / decided)
        return loss, {"linked": linked, "change_chosen": change_w, "change_rejected": change_l}

    return loop.forward_batch(session, pairs, terms, train=train)


def _take_step(session: Run[Pair], config: DpoConfig, cache: ReferenceCache, pairs: Sequence[Pair]) -> dict[str, float]:
    started = time.monotonic()
    batch = _forward(session, config, cache, pairs, train=True)
    if session.progress.step == 0:
        _check_first_loss(config, batch)
    updated = loop.update_weights(session, pairs)
    chosen, rejected = batch.figures["change_chosen"], batch.figures["change_rejected"]
    accuracy = accuracy_metrics(_judge(batch, pairs), part="train")
    return {
        "train/loss": loop.weighted_mean(batch.losses, batch.weights),
        **({"train/accuracy": accuracy["train/accuracy"]} if "train/accuracy" in accuracy else {}),
        "policy/margin": float((chosen - rejected).mean()),
        "policy/logp_chosen_change": float(chosen.mean()),
        "policy/logp_rejected_change": float(rejected.mean()),
        "policy/falling_share": float((chosen < 0).double().mean()),
        **updated,
        **loop.step_figures(session, tokens=batch.tokens, seconds=time.monotonic() - started),
    }


def _check_first_loss(config: DpoConfig, batch: Batch) -> None:
    """Before step 1 policy and reference are equal, so the loss is known exactly; anything else is a bug."""
    found, expected = loop.weighted_mean(batch.figures["linked"], batch.weights), first_loss(config.dpo)
    tolerance = FIRST_LOSS_TOLERANCE if config.precision.dtype is Dtype.FP32 else 1e-2
    if abs(found - expected) > tolerance * max(expected, 1.0):
        raise AssertionError(f"the first loss is {found:.9f}, it must be {expected:.9f}: π is not π_ref")


def _judge(batch: Batch, pairs: Sequence[Pair]) -> list[Judged]:
    margins = (batch.figures["change_chosen"] - batch.figures["change_rejected"]).tolist()
    return [
        Judged(group=p.group, margin=m, q=p.q, tokens_chosen=p.lengths[0], tokens_rejected=p.lengths[1], votes=p.votes)
        for p, m in zip(pairs, margins, strict=True)
    ]


def _evaluate(
    session: Run[Pair], config: DpoConfig, cache: ReferenceCache, *, held_out: list[Pair], test: list[Pair]
) -> tuple[dict[str, float], list[float]]:
    """`eval/*`, at the end `test/*` too, and sampled completions; also the changes of held-out chosen completions."""
    started = time.monotonic()
    session.tell("evaluating")
    values: dict[str, float] = {}
    changes: list[float] = []
    for part, pairs in [("eval", held_out)] + ([("test", test)] if session.is_last else []):
        if not pairs:
            continue
        batch = _forward(session, config, cache, pairs, train=False)
        judged = _judge(batch, pairs)
        values[f"{part}/loss"] = loop.weighted_mean(batch.losses, batch.weights)
        values[f"{part}/margin"] = sum(pair.margin for pair in judged) / len(judged)
        values |= accuracy_metrics(judged, part=part)
        values |= vote_accuracy_metrics(judged, part=part)
        if part == "eval":
            changes = batch.figures["change_chosen"].tolist()
    values |= sample_held_out(session, held_out or session.items, config.eval, reward_per_nat=config.dpo.beta)
    return {**values, "time/eval": time.monotonic() - started}, changes
