"""Reward models: s(x, y) = w·h at the last completion token, trained so that σ(s_w − s_l) is the share of the votes.

    L = Σ_i w_i [preference_nll(Δs_i, q_i) + c (s_w + s_l)²] / Σ_i w_i

The head has no bias and starts at N(0, 1/(D+1)); scores are log-odds. Whatever c, a checkpoint whose weights were
evaluated stores the mean and spread of its held-out scores, and every user of the model subtracts the mean.

B pairs; K = 2B completions of a pack; N its rows; D hidden size.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.engine import loop, losses, starting
from training.engine.checkpoint import load_head
from training.engine.config import RewardConfig
from training.engine.diagnostics import reward_alarms
from training.engine.evaluate import (
    Judged,
    accuracy_metrics,
    correlation,
    mean_and_spread,
    probability_metrics,
    vote_accuracy_metrics,
)
from training.engine.loop import Batch, Run
from training.engine.models import load_reward_model, score_head
from training.engine.packing import Pack, use_packed_attention
from training.engine.pairs import Pair, check_scored_tokens, data_figures, load_part
from training.engine.scoring import scores
from training.engine.starting import Opening
from training.engine.supervision import Supervision


def run(config: RewardConfig, out: Path, *, resume: Path | None, supervision: Supervision) -> None:
    """Train, evaluate and write everything to `out`; go on from `resume`, or from `out`'s own newest checkpoint.

    Raises:
        SnapshotError, ModelError, Diverged.
    """
    opening = starting.open_run(config, out, resume=resume, supervision=supervision, kinds=("preferences",))
    text = opening.text
    train, validation, test = (
        load_part(part, data=config.data, labels=config.reward.labels, text=text)
        for part in ("train", "validation", "test")
    )
    check_scored_tokens(train.pairs, text)
    model = _load(config, opening)
    session = starting.start_run(
        config,
        opening,
        kind="reward",
        trained={"reward": starting.make_trained(model, config.optim)},
        items=train.pairs,
        size=config.batch.pairs,
        facts=data_figures(train),
    )
    starting.check_packing(session, lambda pack: scores(model, pack))
    with session.ending():
        while not session.is_over:
            if not session.is_open:
                session.open_step(_take_step(session, config, session.next_batch()))
            elif session.evaluation_is_due:
                figures = _evaluate(session, config, validation.pairs, test.pairs)
                session.close_step(figures, alarms=reward_alarms(figures, part="eval"))
            else:
                session.close_step({})


def _load(config: RewardConfig, opening: Opening) -> Any:
    """The trunk with its head: from the base, or from the checkpoint that the run goes on from."""
    saved = opening.saved
    whole = saved is not None and config.adapter is None
    place = saved.path / "model" if saved is not None and whole else opening.base
    model = load_reward_model(place, seed=config.seed, device=opening.device.type)
    use_packed_attention(model)
    model = starting.make_trainable(model, config, saved)
    score_head(model).weight.requires_grad_(True)
    if saved is not None and not whole:
        load_head(model, saved.path)
    return model


def _forward(session: Run[Pair], config: RewardConfig, pairs: Sequence[Pair], *, train: bool) -> Batch:
    def terms(pack: Pack, chosen: list[Pair]) -> tuple[Tensor, dict[str, Tensor]]:
        score_w, score_l = scores(session.model, pack).view(-1, 2).unbind(dim=1)  # [B] each
        q = torch.tensor([pair.q for pair in chosen], device=score_w.device)
        loss = losses.preference_nll(score_w - score_l, q)
        if config.reward.centring:
            loss = loss + config.reward.centring * losses.centring(score_w, score_l)
        return loss, {"score_chosen": score_w, "score_rejected": score_l}

    return loop.forward_batch(session, pairs, terms, train=train)


def _take_step(session: Run[Pair], config: RewardConfig, pairs: Sequence[Pair]) -> dict[str, float]:
    started = time.monotonic()
    batch = _forward(session, config, pairs, train=True)
    updated = loop.update_weights(session, pairs)
    judged = _judge(batch, pairs)
    mean, spread = mean_and_spread(_all_scores(batch))
    accuracy = accuracy_metrics(judged, part="train")
    return {
        "train/loss": loop.weighted_mean(batch.losses, batch.weights),
        **({"train/accuracy": accuracy["train/accuracy"]} if "train/accuracy" in accuracy else {}),
        "train/margin": sum(pair.margin for pair in judged) / len(judged),
        "train/score_mean": mean,
        "train/score_std": spread,
        **updated,
        **loop.step_figures(session, tokens=batch.tokens, seconds=time.monotonic() - started),
    }


def _evaluate(
    session: Run[Pair], config: RewardConfig, validation: Sequence[Pair], test: Sequence[Pair]
) -> dict[str, float]:
    """`eval/*` on the first validation pairs; at the end `test/*` too, and the scores' mean and spread."""
    started = time.monotonic()
    session.tell("evaluating")
    values: dict[str, float] = {}
    held_out = validation[: config.eval.pairs]
    parts = [("eval", held_out)] + ([("test", test)] if session.is_last else [])
    batches: dict[str, Batch] = {}
    for part, pairs in parts:
        if pairs:
            batch = batches[part] = _forward(session, config, pairs, train=False)
            values |= _held_out_metrics(batch, pairs, part=part)
    shown_pairs = held_out or session.items[: config.eval.pairs]
    shown = batches["eval"] if held_out else _forward(session, config, shown_pairs, train=False)
    mean, spread = mean_and_spread(_all_scores(shown))
    step = session.progress.step
    session.progress.scores = {"mean": mean, "std": spread, "count": 2.0 * len(shown_pairs), "step": float(step)}
    _write_samples(session, shown_pairs[: config.eval.prompts], shown)
    return {**values, "time/eval": time.monotonic() - started}


def _held_out_metrics(batch: Batch, pairs: Sequence[Pair], *, part: str) -> dict[str, float]:
    judged = _judge(batch, pairs)
    lengths = [float(length) for pair in pairs for length in pair.lengths]
    return {
        f"{part}/loss": loop.weighted_mean(batch.losses, batch.weights),
        f"{part}/margin": sum(pair.margin for pair in judged) / len(judged),
        f"{part}/length_correlation": correlation(_all_scores(batch), lengths),
        **accuracy_metrics(judged, part=part),
        **vote_accuracy_metrics(judged, part=part),
        **probability_metrics(judged, part=part),
    }


def _judge(batch: Batch, pairs: Sequence[Pair]) -> list[Judged]:
    margins = (batch.figures["score_chosen"] - batch.figures["score_rejected"]).tolist()
    return [
        Judged(group=p.group, margin=m, q=p.q, tokens_chosen=p.lengths[0], tokens_rejected=p.lengths[1], votes=p.votes)
        for p, m in zip(pairs, margins, strict=True)
    ]


def _all_scores(batch: Batch) -> list[float]:
    """Chosen and rejected of each pair in turn."""
    both = torch.stack([batch.figures["score_chosen"], batch.figures["score_rejected"]], dim=1)
    values: list[float] = both.flatten().tolist()
    return values


def _write_samples(session: Run[Pair], pairs: Sequence[Pair], batch: Batch) -> None:
    found = _all_scores(batch)
    for number, pair in enumerate(pairs):
        for side in (0, 1):
            session.samples.write(
                {
                    "step": session.progress.step,
                    "prompt_id": pair.id,
                    "prompt": pair.prompt,
                    "completion": pair.texts[side],
                    "finish": pair.finishes[side],
                    "score": found[2 * number + side],
                    "length": pair.lengths[side],
                }
            )
