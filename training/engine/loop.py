"""What every training run shares: its state, optimizer steps, evaluation points, checkpoints, results. Knows no loss.

A run alternates between two states, so that it can be cut anywhere and go on alike: *open*, `progress.pending` holds
the figures of the last step, whose evaluation may be due and whose line is not written; and *closed*, the line is
written and the next batch may begin. A method's loop reads

    while not run.is_over:
        if run.is_open: run.close_step(evaluate(...) if run.evaluation_is_due else {})
        else:           run.open_step(take_step(...))

Its plan is a list of iterations, each with the items that it begins with. Offline an iteration is one optimizer step;
a method that samples takes `inner` steps on what it sampled, and may skip the rest of them. The file is long because
the life of a run and of a step are told in one place.

B items of an optimizer step; K completions and C scored tokens of a pack.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import random
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

import torch
from torch import Tensor

from training.engine import checkpoint as checkpoints
from training.engine import ranks
from training.engine.alarms import raised
from training.engine.checkpoint import Progress, Saved, Trained
from training.engine.config import RunConfig, to_dict
from training.engine.errors import Diverged
from training.engine.files import Lines, Status, check_values, write_json
from training.engine.models import recompute_activations
from training.engine.packing import Pack, Sharing, build_pack, plan_packs
from training.engine.ranks import Root
from training.engine.sections import Dtype, OnAlarm, OptimConfig, Recompute, Schedule
from training.engine.supervision import StopRun, Supervision
from training.engine.text import Text

EVALUATIONS = 4
"""Evaluations after step 0 when `eval.every` is null."""
MEASURED_EVERY = 10
"""Optimizer steps between figures that cost another pass over the vocabulary, such as the entropy of a batch."""


class Item(Protocol):
    """What a pack is made of: a prompt with its completions, and what it weighs in a loss."""

    @property
    def id(self) -> str: ...
    @property
    def sharing(self) -> Sharing: ...
    @property
    def weight(self) -> float: ...


ItemT = TypeVar("ItemT", bound=Item)
Terms = Callable[[Pack, list[ItemT]], tuple[Tensor, dict[str, Tensor]]]
"""A micro-batch → its losses [B] (with gradient) and figures by name, [B] each (without)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lineage:
    """Hashes of what a run was made from; `models` by role, `base` among them."""

    snapshot: str
    models: dict[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Best:
    """Which held-out metric says that one checkpoint is better than another."""

    metric: str = "eval/loss"
    higher: bool = False


@dataclass(kw_only=True, slots=True)
class Run(Generic[ItemT]):
    """One training run: its parts, open files and progress."""

    config: RunConfig
    kind: str
    """`policy` or `reward`: what its checkpoints are."""
    out: Path
    supervision: Supervision
    status: Status
    text: Text
    trained: dict[str, Trained]
    """Models in training by role; the first is what the run is for."""
    reference: Any | None = None
    """The frozen policy that KL is measured to; None: the trained one with its adapter off."""
    items: Sequence[ItemT]
    plan: list[list[int]]
    """Indices of the items that each iteration begins with."""
    inner: int = 1
    """Optimizer steps of an iteration, when none is skipped."""
    epoch_iterations: float
    """Iterations that go once over the items."""
    most_steps: int | None = None
    """Planned steps at which the run ends, though the plan goes on."""
    lineage: Lineage
    progress: Progress
    metrics: Lines
    samples: Lines
    device: torch.device
    started_at: float
    """`time.monotonic()` at the first step of this attempt, for the time that is left."""
    first_step: int
    saved: Saved | None = None
    """The newest checkpoint."""
    best_by: Best = field(default_factory=Best)
    facts: dict[str, float] = field(default_factory=dict)
    """Metrics about the data, written once, with the line of step 0."""
    details: dict[str, Any] = field(default_factory=dict)
    """Further entries of `result.json`."""
    card: dict[str, Any] = field(default_factory=dict)
    """What `winnow.json` of a checkpoint says beyond what every run knows."""
    state: dict[str, Any] = field(default_factory=dict)
    """What the method itself must find again after a kill, as JSON."""
    tensors: dict[str, Tensor] = field(default_factory=dict)
    """The same as tensors."""
    ended: tuple[str, str] | None = None
    """Status and reason of an end that the method asked for."""

    # --- where it stands ----------------------------------------------------------------------------------------------

    @property
    def model(self) -> Any:
        return next(iter(self.trained.values())).model

    @property
    def roots(self) -> list[Root | None]:
        """The sharded models, which a forward pass must go through."""
        return [part.root for part in self.trained.values()]

    @property
    def planned(self) -> int:
        """Optimizer steps, those included that were skipped: the schedule is laid over them."""
        whole = len(self.plan) * self.inner
        return whole if self.most_steps is None else min(whole, self.most_steps)

    @property
    def position(self) -> int:
        """Planned steps that are behind."""
        return self.progress.step + self.progress.skipped

    @property
    def steps(self) -> int:
        """Optimizer steps of the run, as far as one can know."""
        return self.planned - self.progress.skipped

    @property
    def iteration(self) -> int:
        """Number of the iteration that the next step belongs to, from 0."""
        return self.position // self.inner

    @property
    def inner_step(self) -> int:
        """Number of the next step within its iteration, from 0."""
        return self.position % self.inner

    @property
    def is_open(self) -> bool:
        return self.progress.pending is not None

    @property
    def is_last(self) -> bool:
        return self.position == self.planned

    @property
    def is_over(self) -> bool:
        """All is closed, or an end was asked for: by the method, or from outside with an evaluation or a step ahead.

        The ranks of a run agree on it here: a stop that one of them has heard of holds for all.
        """
        stop = ranks.any_rank(self.supervision.stop_requested)
        if self.ended is not None and not self.is_open:
            return True
        if self.is_open:
            return stop and self.evaluation_is_due
        return self.is_last or stop

    @property
    def evaluation_is_due(self) -> bool:
        every = self.config.eval.every or math.ceil(self.planned / EVALUATIONS)
        return self.is_last or self.progress.step % every == 0

    @property
    def folder(self) -> Path:
        return self.out / "checkpoints"

    def next_batch(self) -> list[ItemT]:
        """The items of the iteration that the next step belongs to."""
        return [self.items[index] for index in self.plan[self.iteration]]

    def check_stop(self) -> None:
        """Between micro-batches and token batches. Raises StopRun when the grace after a stop is over.

        One of several ranks finishes its step instead: the others are waiting for its part of it.
        """
        if ranks.world() == 1:
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

    def skip_rest(self) -> None:
        """Leave out the steps of the present iteration that are ahead. Call it before the step is opened or after."""
        if self.position % self.inner:
            following = (self.iteration + 1) * self.inner
            self.progress.skipped += min(following, self.planned) - self.position

    def end(self, status: str, *, reason: str) -> None:
        """End the run after the present step with a status of the method's own, such as `stopped_kl`."""
        self.ended = (status, reason)

    def close_step(
        self,
        evaluated: dict[str, float],
        *,
        alarms: Sequence[str] = (),
        figures: Mapping[str, float] | None = None,
        may_be_best: bool = True,
    ) -> None:
        """Write the step's line, and a checkpoint where one is due, asked for, or the best so far.

        Args:
            figures: what the alarms read, where the line has it under other names.
        """
        progress = self.progress
        assert progress.pending is not None
        values = {**progress.pending, **evaluated, **{f"alarm/{name}": 1.0 for name in alarms}}
        if progress.step == 0:
            values |= self.facts
        check_values(values, step=progress.step, examples=[])
        line = {"step": progress.step, "time": round(time.time(), 3), "tokens": progress.tokens}
        self.metrics.write({**line, **values})
        progress.pending = None
        progress.latest.update(values)
        evidence = raised({**progress.latest, **values, **(figures or {}), "train/step": float(progress.step)})
        progress.alarms += [
            {"name": name, "step": progress.step, "evidence": evidence.get(name, [])} for name in alarms
        ]
        if alarms and self.config.stop.on_alarm is OnAlarm.PAUSE and not self.is_last:
            self.end("paused", reason=f"alarm {', '.join(alarms)} at step {progress.step}")
        best = may_be_best and self._note_best(values)
        asked = ranks.any_rank(self.supervision.take_checkpoint_request())
        if asked:
            progress.asked.append(progress.step)
        every = progress.step % self.config.checkpoint.every == 0
        if progress.step and (every or self.is_last or best or asked):
            self.save()
        self.tell("training")

    def _note_best(self, values: dict[str, float]) -> bool:
        """The best held-out figure of a trained model; without a held-out part there is no best."""
        value = values.get(self.best_by.metric)
        progress = self.progress
        if value is None or not progress.step:
            return False
        sign = 1 if self.best_by.higher else -1
        if progress.best is not None and sign * value <= sign * progress.best["value"]:
            return False
        progress.best = {"step": progress.step, "value": value}
        return True

    def save(self) -> None:
        """Write a checkpoint of the present state and delete the ones that are no longer wanted."""
        self.tell("saving")
        progress = self.progress
        following = [] if self.is_last else [item.id for item in self.next_batch()]
        version, internal, gauss = random.getstate()
        scores = progress.scores
        self.saved = checkpoints.save_checkpoint(
            self.folder,
            trained=self.trained,
            text=self.text,
            step=progress.step,
            adapter=self.config.adapter is not None,
            facts={
                "method": self.config.method,
                "kind": self.kind,
                "base_sha256": self.lineage.models["base"],
                "snapshot_sha256": self.lineage.snapshot,
                "template_sha256": self.text.template_sha256,
                "reward": scores if scores is not None and scores["step"] == progress.step else None,
                **self.card,
            },
            state={
                "progress": checkpoints.progress_to_dict(progress),
                "next_batch": following,
                "config": to_dict(self.config),
                "lineage": dataclasses.asdict(self.lineage),
                "python_generator": [version, list(internal), gauss],
                "method": self.state,
            },
            tensors=self.tensors,
        )
        kept = {int(progress.best["step"])} if progress.best else set()
        checkpoints.prune_checkpoints(
            self.folder, keep_last=self.config.checkpoint.keep, keep_steps=kept | set(progress.asked)
        )

    def write_result(self, status: str, *, reason: str | None = None) -> None:
        """`result.json`, the last file that a run writes."""
        if not ranks.is_main():
            return
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
                "lineage": {"snapshot": self.lineage.snapshot, "models": self.lineage.models},
                **self.details,
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
            self._forget_gradients()
            self.details["diverged"] = {"metric": error.metric, "step": error.step, "examples": list(error.examples)}
            self.write_result("diverged", reason=str(error))
            raise
        if self.is_last and not self.is_open:
            self.write_result("done")
            return
        # A step that was given up left its gradients behind, the weights are those of the step before.
        self._forget_gradients()
        if self.saved is None or self.saved.step != self.progress.step or self.is_open:
            self.save()
        status, reason = self.ended or ("stopped", "a stop was asked for")
        self.write_result(status, reason=reason)

    def _forget_gradients(self) -> None:
        for part in self.trained.values():
            part.optimizer.zero_grad(set_to_none=True)


# --- the plan ---------------------------------------------------------------------------------------------------------


def plan_batches(count: int, *, size: int, epochs: int, seed: int, max_steps: int | None) -> list[list[int]]:
    """Indices of the items of each iteration; the last batch of an epoch may be smaller.

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


def plan_rollouts(count: int, *, prompts: int, iterations: int, seed: int) -> list[list[int]]:
    """Indices of the prompts of each iteration: epoch after epoch, each in an order of its own, none left over.

    Where an iteration wants more prompts than there are, it takes some of them twice.
    """
    order: list[int] = []
    for epoch in range(math.ceil(iterations * prompts / count)):
        part = list(range(count))
        random.Random(f"{seed}:{epoch}").shuffle(part)  # noqa: S311 - an order, no secret
        order += part
    return [order[start : start + prompts] for start in range(0, iterations * prompts, prompts)]


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
    """What the forward passes of an optimizer step gave, in the order of its items; [B] each, on the host."""

    losses: Tensor
    weights: Tensor
    figures: dict[str, Tensor]
    tokens: int


def micro_batches(run: Run[Any], items: Sequence[ItemT]) -> Iterator[tuple[tuple[list[int], list[ItemT], Pack], bool]]:
    """This rank's packs of some items, and whether each counts (one that does not keeps the ranks in step).

    A pack comes with the indices of its items, the items, and the completions of each in turn.
    """
    plan = plan_packs([item.sharing.positions for item in items], micro_tokens=run.config.memory.micro_tokens)
    for indices, counts in ranks.own_share(plan):
        chosen = [items[index] for index in indices]
        yield (indices, chosen, build_pack([item.sharing for item in chosen], device=run.device)), counts


def precision(config: RunConfig, device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Around every forward pass."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.precision.dtype is Dtype.BF16)


def forward_batch(
    run: Run[Any], items: Sequence[ItemT], terms: Terms[ItemT], *, train: bool, divisor: float | None = None
) -> Batch:
    """Losses and figures of all items; with `train`, gradients of Σ w·loss / divisor are left in the parameters.

    The divisor is known before the first backward pass, so the split into micro-batches changes nothing beyond
    rounding.

    Args:
        divisor: what the sum of weighted losses is divided by; None: the weight of all items.

    A GPU that has too little memory makes the run compute activations again from here on, and the batch is repeated.

    Raises:
        Diverged: a loss or figure is not finite.
        StopRun: the grace after a stop is over; gradients are then incomplete.
    """
    # A model that waits for its update (a policy, while its critic is passed) keeps what it has.
    passed = [part for part in run.trained.values() if all(p.grad is None for p in part.parameters)] if train else []
    try:
        return _forward_packs(run, items, terms, train=train, divisor=divisor)
    except torch.OutOfMemoryError:
        if not (passed and _may_recompute(run)):
            raise
    # Only here is the failed pass, which the exception held, out of memory.
    for part in passed:
        part.optimizer.zero_grad(set_to_none=True)
    recompute_from_now(run)
    return _forward_packs(run, items, terms, train=train, divisor=divisor)


def _may_recompute(run: Run[Any]) -> bool:
    """Once, and not with several ranks: the others would wait in the middle of their passes."""
    return run.config.memory.recompute is Recompute.AUTO and not run.progress.recomputes and ranks.world() == 1


def recompute_from_now(run: Run[Any]) -> None:
    """Compute activations again in every later backward pass; a checkpoint remembers it."""
    run.progress.recomputes = True
    for part in run.trained.values():
        recompute_activations(part.model)
    torch.cuda.empty_cache()


def _forward_packs(
    run: Run[Any], items: Sequence[ItemT], terms: Terms[ItemT], *, train: bool, divisor: float | None
) -> Batch:
    total = sum(item.weight for item in items) if divisor is None else divisor
    columns: dict[str, Tensor] = {}
    tokens = torch.zeros(1, dtype=torch.float64)
    for (indices, chosen, pack), counts in micro_batches(run, items):
        run.check_stop()
        found = _forward_pack(run, chosen, pack, terms, scale=ranks.world() * counts / total if train else None)
        for name, value in found.items() if counts else ():
            column = columns.setdefault(name, torch.zeros(len(items), dtype=torch.float64))
            column[indices] = value.double().cpu()
        tokens += pack.tokens * counts
        run.tell("training" if train else "evaluating")
    columns = {name: ranks.sum_over_ranks(column) for name, column in _on_all_ranks(columns, len(items)).items()}
    for name, column in columns.items():
        _check_finite(run, name, column, items, train=train)
    return Batch(
        losses=columns.pop("loss", torch.zeros(0, dtype=torch.float64)),
        weights=torch.tensor([item.weight for item in items], dtype=torch.float64),
        figures=columns,
        tokens=int(ranks.sum_over_ranks(tokens)),
    )


def _forward_pack(
    run: Run[Any], items: list[ItemT], pack: Pack, terms: Terms[ItemT], *, scale: float | None
) -> dict[str, Tensor]:
    """Figures and losses of one pack; with `scale`, the gradient of Σ w·loss·scale is added to the parameters'."""

    def passed() -> tuple[Tensor, dict[str, Tensor]]:
        loss, found = terms(pack, items)
        weights = torch.tensor([item.weight for item in items], device=loss.device, dtype=loss.dtype)
        # The sum comes first: what leaves a sharded model is what its backward pass begins with.
        return (loss * weights).sum(), {**found, "loss": loss.detach()}

    with torch.set_grad_enabled(scale is not None):
        with precision(run.config, run.device):
            total, found = ranks.call(run.roots, passed)
        if scale is not None:
            (total * scale).backward()  # type: ignore[no-untyped-call]
    return {name: value.detach() for name, value in found.items()}


def _on_all_ranks(columns: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    """The columns under the names that every rank has, in one order: a rank without a pack of its own has none."""
    names = ranks.gather_dict({ranks.rank(): list(columns)})
    longest = max(names.values(), key=len, default=[])
    return {name: columns.get(name, torch.zeros(count, dtype=torch.float64)) for name in longest}


def _check_finite(run: Run[Any], name: str, values: Tensor, items: Sequence[Item], *, train: bool) -> None:
    if bool(torch.isfinite(values).all()):
        return
    bad = [(item.id, x) for item, x in zip(items, values.tolist(), strict=True) if not math.isfinite(x)]
    raise Diverged(
        metric=f"{'train' if train else 'eval'}/{name}",
        value=bad[0][1],
        step=run.progress.step + int(train),
        examples=[identity for identity, _ in bad],
    )


def infer(
    run: Run[Any], items: Sequence[ItemT], values_of: Callable[[Pack], Tensor], *, per: Literal["token", "completion"]
) -> list[Tensor]:
    """One tensor an item, without gradient, on the host, in the packs of a training step over the same items.

    Args:
        values_of: a pack → a value for each scored token [C] or each completion [K], as `per` says.

    Returns:
        For each item the values of its completions, one after the other: [tokens] or [completions].

    Raises:
        Diverged: a value is not finite.
        StopRun: the grace after a stop is over.
    """
    found: dict[int, Tensor] = {}
    for (indices, chosen, pack), counts in micro_batches(run, items):
        run.check_stop()
        with torch.no_grad(), precision(run.config, run.device):
            values = ranks.call(run.roots, functools.partial(values_of, pack)).cpu()
        sizes = [len(item.sharing.completions) for item in chosen]
        if per == "token":
            sizes = [int(lengths.sum()) for lengths in torch.split(pack.lengths.cpu(), sizes)]
        if counts:
            found |= dict(zip(indices, torch.split(values, sizes), strict=True))
        run.tell("evaluating")
    found = ranks.gather_dict(found)
    for index, part in found.items():
        if not bool(torch.isfinite(part).all()):
            bad = float(part[~torch.isfinite(part)][0])
            step = run.progress.step
            raise Diverged(metric=f"inference per {per}", value=bad, step=step, examples=[items[index].id])
    return [found[index] for index in range(len(items))]


def update_weights(run: Run[Any], items: Sequence[Item], *, name: str | None = None) -> dict[str, float]:
    """Clip, check and apply the gradients of one model in training; the figures that every method writes.

    Args:
        name: the model's role in `run.trained`; None: the first. Figures of another carry its role in their names.

    Raises:
        Diverged: the gradient norm is not finite; the weights are untouched.
    """
    first = next(iter(run.trained))
    part = run.trained[name or first]
    suffix = "" if name in (None, first) else f"{name}_"
    rate = learning_rate(run.position + 1, steps=run.planned, optim=part.optim)
    norm = ranks.clip(part.parameters, limit=part.optim.clip_norm)
    if not math.isfinite(norm):
        step = run.progress.step + 1
        raise Diverged(metric=f"train/{suffix}grad_norm", value=norm, step=step, examples=[item.id for item in items])
    for group in part.optimizer.param_groups:
        group["lr"] = rate
    part.optimizer.step()
    part.optimizer.zero_grad(set_to_none=True)
    return {f"train/{suffix}learning_rate": rate, f"train/{suffix}grad_norm": norm}


def step_figures(run: Run[Any], *, tokens: int, seconds: float) -> dict[str, float]:
    """Counters and speed of a step that took `seconds`. Call it before the step is opened."""
    run.progress.tokens += tokens
    return {
        "train/tokens": float(run.progress.tokens),
        "train/epoch": (run.position + 1) / (run.inner * run.epoch_iterations),
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
