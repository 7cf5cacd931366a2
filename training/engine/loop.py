"""What every training run shares: its state, optimizer steps, evaluation points, checkpoints, results. Knows no loss.

A run alternates between two states, so that it can be cut anywhere and go on alike: *open*, `progress.pending` holds
the figures of the last step, whose evaluation may be due and whose line is not written; and *closed*, the line is
written and the next batch may begin. A method's loop reads

    while not run.is_over:
        if run.is_open: run.close_step(evaluate(...) if run.evaluation_is_due else {})
        else:           run.open_step(take_step(...))

B pairs of an optimizer step; K completions of a pack.
"""

from __future__ import annotations

import contextlib
import math
import random
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.engine import checkpoint as checkpoints
from training.engine.checkpoint import Progress, Saved
from training.engine.config import RunConfig, to_dict
from training.engine.errors import Diverged
from training.engine.files import LineFile, Status, check_values, write_json
from training.engine.packing import Pack, build_pack, plan_packs
from training.engine.pairs import Pair
from training.engine.sections import Dtype, OptimConfig, Schedule
from training.engine.supervision import StopRun, Supervision
from training.engine.text import Text

EVALUATIONS = 4
"""Evaluations after step 0 when `eval.every` is null."""

Terms = Callable[[Pack, list[Pair]], tuple[Tensor, dict[str, Tensor]]]
"""A micro-batch → its losses [B] (with gradient) and figures by name, [B] each (without)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lineage:
    """Hashes of what a run was made from."""

    snapshot: str
    base: str


@dataclass(kw_only=True, slots=True)
class Run:
    """One training run on one device: its parts, open files and progress."""

    config: RunConfig
    kind: str
    out: Path
    supervision: Supervision
    status: Status
    text: Text
    model: Any
    optimizer: torch.optim.Optimizer
    pairs: list[Pair]
    plan: list[list[int]]
    lineage: Lineage
    progress: Progress
    metrics: LineFile
    samples: LineFile
    device: torch.device
    started_at: float
    """`time.monotonic()` at the first step of this attempt, for the time that is left."""
    first_step: int
    saved: Saved | None = None
    """The newest checkpoint."""
    dropped: int = 0
    """Training pairs that were too long."""

    # --- where it stands ----------------------------------------------------------------------------------------------

    @property
    def steps(self) -> int:
        return len(self.plan)

    @property
    def is_open(self) -> bool:
        return self.progress.pending is not None

    @property
    def is_last(self) -> bool:
        return self.progress.step == self.steps

    @property
    def is_over(self) -> bool:
        """All steps are closed, or a stop was asked for and only an evaluation or a further step is ahead."""
        if self.is_open:
            return self.supervision.stop_requested and self.evaluation_is_due
        return self.is_last or self.supervision.stop_requested

    @property
    def evaluation_is_due(self) -> bool:
        every = self.config.eval.every or math.ceil(self.steps / EVALUATIONS)
        return self.is_last or self.progress.step % every == 0

    @property
    def folder(self) -> Path:
        return self.out / "checkpoints"

    def next_batch(self) -> list[Pair]:
        return [self.pairs[index] for index in self.plan[self.progress.step]]

    def check_stop(self) -> None:
        """Between micro-batches and token batches. Raises StopRun when the grace after a stop is over."""
        self.supervision.raise_if_overdue(grace_seconds=self.config.stop.grace_seconds)

    def tell(self, phase: str) -> None:
        done = self.progress.step - self.first_step
        eta = (time.monotonic() - self.started_at) / done * (self.steps - self.progress.step) if done else None
        self.status.update(
            phase,
            step=self.progress.step,
            steps=self.steps,
            tokens_per_second=self.progress.latest.get("speed/tokens_per_second"),
            eta_seconds=eta,
        )

    # --- what it does -------------------------------------------------------------------------------------------------

    def open_step(self, values: dict[str, float]) -> None:
        """Count an optimizer step that was taken; its line waits for the evaluation."""
        self.progress.step += 1
        self.progress.pending = values

    def close_step(self, evaluated: dict[str, float], *, alarms: Sequence[str] = ()) -> None:
        """Write the step's line, and a checkpoint where one is due, asked for, or the best so far."""
        progress = self.progress
        assert progress.pending is not None
        values = {**progress.pending, **evaluated, **{f"alarm/{name}": 1.0 for name in alarms}}
        if progress.step == 0:
            values |= {
                "data/pairs": float(len(self.pairs)),
                "data/ties": float(sum(pair.q == 0.5 for pair in self.pairs)),
                "data/dropped_too_long": float(self.dropped),
            }
        check_values(values, step=progress.step, examples=[])
        line = {"step": progress.step, "time": round(time.time(), 3), "tokens": progress.tokens}
        self.metrics.write({**line, **values})
        progress.pending = None
        progress.latest.update(values)
        progress.alarms += [{"name": name, "step": progress.step} for name in alarms]
        best = self._note_best(values)
        asked = self.supervision.take_checkpoint_request()
        if asked:
            progress.asked.append(progress.step)
        every = progress.step % self.config.checkpoint.every == 0
        if progress.step and (every or self.is_last or best or asked):
            self.save()
        self.tell("training")

    def _note_best(self, values: dict[str, float]) -> bool:
        """The least held-out loss of a trained model; without a validation part there is no best."""
        loss = values.get("eval/loss")
        progress = self.progress
        if loss is None or not progress.step or (progress.best is not None and loss >= progress.best["value"]):
            return False
        progress.best = {"step": progress.step, "value": loss}
        return True

    def save(self) -> None:
        """Write a checkpoint of the present state and delete the ones that are no longer wanted."""
        self.tell("saving")
        progress = self.progress
        following = [] if self.is_last else [pair.id for pair in self.next_batch()]
        version, internal, gauss = random.getstate()
        scores = progress.scores
        self.saved = checkpoints.save_checkpoint(
            self.folder,
            model=self.model,
            text=self.text,
            optimizer=self.optimizer,
            step=progress.step,
            adapter=self.config.adapter is not None,
            facts={
                "method": self.config.method,
                "kind": self.kind,
                "base_sha256": self.lineage.base,
                "snapshot_sha256": self.lineage.snapshot,
                "template_sha256": self.text.template_sha256,
                "reward": scores if scores is not None and scores["step"] == progress.step else None,
            },
            state={
                "progress": checkpoints.progress_to_dict(progress),
                "next_batch": following,
                "config": to_dict(self.config),
                "python_generator": [version, list(internal), gauss],
            },
        )
        kept = {int(progress.best["step"])} if progress.best else set()
        checkpoints.prune_checkpoints(
            self.folder, keep_last=self.config.checkpoint.keep, keep_steps=kept | set(progress.asked)
        )

    def write_result(self, status: str, *, reason: str | None = None) -> None:
        """`result.json`, the last file that a run writes."""
        progress = self.progress
        best = None
        if progress.best is not None:
            path = self.folder / f"step-{int(progress.best['step'])}"
            best = checkpoints.verify_checkpoint(path) if path.is_dir() else None
        write_json(
            self.out / "result.json",
            {
                "status": status,
                "reason": reason,
                "step": progress.step,
                "checkpoints": {"best": self._named(best), "last": self._named(self.saved)},
                "metrics": progress.latest,
                "alarms": progress.alarms,
                "lineage": {"snapshot": self.lineage.snapshot, "models": {"base": self.lineage.base}},
            },
        )
        self.tell(status)

    def _named(self, saved: Saved | None) -> dict[str, Any] | None:
        if saved is None:
            return None
        return {"path": saved.path.relative_to(self.out).as_posix(), "step": saved.step, "sha256": saved.sha256}

    @contextlib.contextmanager
    def ending(self) -> Iterator[None]:
        """Around a method's loop: whatever ends it, `result.json` says so. Diverged and defects go on upwards."""
        try:
            with contextlib.suppress(StopRun):
                yield
        except Diverged as error:
            self.optimizer.zero_grad(set_to_none=True)
            self.write_result("diverged", reason=str(error))
            raise
        if self.is_last and not self.is_open:
            self.write_result("done")
            return
        # A step that was given up left its gradients behind, the weights are those of the step before.
        self.optimizer.zero_grad(set_to_none=True)
        if self.saved is None or self.saved.step != self.progress.step or self.is_open:
            self.save()
        self.write_result("stopped", reason="a stop was asked for")


# --- the plan ---------------------------------------------------------------------------------------------------------


def plan_batches(count: int, *, size: int, epochs: int, seed: int, max_steps: int | None) -> list[list[int]]:
    """Indices of the pairs of each optimizer step; the last batch of an epoch may be smaller.

    The order of an epoch depends on the seed and its number alone.
    """
    plan: list[list[int]] = []
    for epoch in range(epochs):
        order = list(range(count))
        random.Random(f"{seed}:{epoch}").shuffle(order)  # noqa: S311 - an order, no secret
        plan += [order[start : start + size] for start in range(0, count, size)]
        if max_steps is not None and len(plan) >= max_steps:
            return plan[:max_steps]
    return plan


def learning_rate(step: int, *, steps: int, optim: OptimConfig) -> float:
    """Rate of optimizer step 1 … steps: linear warm-up, then the schedule down to its floor at the last step."""
    warmup = math.ceil(optim.warmup_share * steps)
    if step <= warmup:
        return optim.learning_rate * step / warmup
    if optim.schedule is Schedule.CONSTANT:
        return optim.learning_rate
    share = (step - warmup) / max(steps - warmup, 1)
    fall = (1 - math.cos(math.pi * share)) / 2 if optim.schedule is Schedule.COSINE else share
    return optim.learning_rate * (1 - (1 - optim.floor_share) * fall)


# --- a step -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """What the forward passes of an optimizer step gave, in the order of its pairs; [B] each, on the host."""

    losses: Tensor
    weights: Tensor
    figures: dict[str, Tensor]
    tokens: int


def micro_batches(run: Run, pairs: list[Pair]) -> Iterator[tuple[list[int], list[Pair], Pack]]:
    """The packs of some pairs: their indices, the pairs, and the pack with chosen and rejected of each in turn."""
    for indices in plan_packs([pair.sharing.positions for pair in pairs], micro_tokens=run.config.memory.micro_tokens):
        chosen = [pairs[index] for index in indices]
        yield indices, chosen, build_pack([pair.sharing for pair in chosen], device=run.device)


def precision(config: RunConfig, device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Around every forward pass."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.precision.dtype is Dtype.BF16)


def forward_batch(run: Run, pairs: list[Pair], terms: Terms, *, train: bool) -> Batch:
    """Losses and figures of all pairs; with `train`, gradients of Σ w·loss / Σ w are left in the parameters.

    The divisor is the weight of the whole batch, known before the first backward pass, so the split into micro-batches
    changes nothing beyond rounding.

    Raises:
        Diverged: a loss or figure is not finite.
        StopRun: the grace after a stop is over; gradients are then incomplete.
    """
    total = sum(pair.weight for pair in pairs)
    losses = torch.zeros(len(pairs), dtype=torch.float64)
    figures: dict[str, Tensor] = {}
    tokens = 0
    for indices, chosen, pack in micro_batches(run, pairs):
        run.check_stop()
        with torch.set_grad_enabled(train):
            with precision(run.config, run.device):
                loss, found = terms(pack, chosen)
            weights = torch.tensor([pair.weight for pair in chosen], device=loss.device, dtype=loss.dtype)
            if train:
                ((loss * weights).sum() / total).backward()  # type: ignore[no-untyped-call]
        found["loss"] = loss.detach()
        for name, value in found.items():
            column = figures.setdefault(name, torch.zeros(len(pairs), dtype=torch.float64))
            column[indices] = value.detach().double().cpu()
            if not bool(torch.isfinite(column[indices]).all()):
                bad = [
                    pair.id for pair, x in zip(chosen, column[indices].tolist(), strict=True) if not math.isfinite(x)
                ]
                worst = next(x for x in column[indices].tolist() if not math.isfinite(x))
                step = run.progress.step + int(train)
                raise Diverged(metric=f"{'train' if train else 'eval'}/{name}", value=worst, step=step, examples=bad)
        tokens += pack.tokens
        run.tell("training" if train else "evaluating")
    losses = figures.pop("loss")
    weights = torch.tensor([pair.weight for pair in pairs], dtype=torch.float64)
    return Batch(losses=losses, weights=weights, figures=figures, tokens=tokens)


def update_weights(run: Run, pairs: list[Pair]) -> dict[str, float]:
    """Clip, check and apply the gradients; the figures that every method writes.

    Raises:
        Diverged: the gradient norm is not finite; the weights are untouched.
    """
    step = run.progress.step + 1
    rate = learning_rate(step, steps=run.steps, optim=run.config.optim)
    trained = [parameter for parameter in run.model.parameters() if parameter.requires_grad]
    norm = float(torch.nn.utils.clip_grad_norm_(trained, run.config.optim.clip_norm))
    if not math.isfinite(norm):
        raise Diverged(metric="train/grad_norm", value=norm, step=step, examples=[pair.id for pair in pairs])
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    return {"train/learning_rate": rate, "train/grad_norm": norm}


def step_figures(run: Run, *, tokens: int, seconds: float) -> dict[str, float]:
    """Counters and speed of a step that took `seconds`."""
    run.progress.tokens += tokens
    batches = math.ceil(len(run.pairs) / run.config.batch.pairs)
    return {
        "train/tokens": float(run.progress.tokens),
        "train/epoch": (run.progress.step + 1) / batches,
        "time/step": seconds,
        "speed/tokens_per_second": tokens / seconds,
        "memory/peak_bytes": float(peak_bytes(run.device)),
    }


def peak_bytes(device: torch.device) -> int:
    """Highest memory of the process so far: allocated on the GPU, resident otherwise."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def weighted_mean(values: Tensor, weights: Tensor) -> float:
    return float((values * weights).sum() / weights.sum())
