"""Figures of the cells of `benchmarks.training`, and the rows and detail lines that are made of them. Runs nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from benchmarks.report import Row
from benchmarks.training_cells import Mark

DROPPED = 2
"""First steps of a process: they are slow from page faults."""
GIB = 2**30
SAME_LOSS = {"fp32": 1e-3, "bf16": 2e-2}
UNITS = {"cpu": "tokens/cpu-s", "cuda": "tokens/gpu-s"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Targets:
    """Least ratios to TRL; None where none is set.

    Attributes:
        cached: to TRL's best flags without the reference's pass on both sides.
        memory: most of TRL's memory at its best flags.
    """

    defaults: float | None = None
    best: float | None = None
    cached: float | None = None
    memory: float | None = None


TARGETS: Mapping[str, Mapping[str, Targets]] = {
    "cpu": {
        "reward": Targets(defaults=2.0, best=1.5, memory=0.7),
        "dpo": Targets(defaults=2.7, best=1.5, cached=2.2, memory=0.6),
        "sft": Targets(defaults=2.2, best=1.5, memory=0.6),
        "rloo": Targets(defaults=2.0, best=1.5, memory=0.6),
        "grpo": Targets(defaults=2.0, best=1.5, memory=0.6),
        "ppo": Targets(defaults=2.0, best=1.5, memory=0.6),
    },
    "cuda": {
        "reward": Targets(defaults=2.0, best=1.5),
        "dpo": Targets(defaults=2.5, best=1.5),
        "sft": Targets(defaults=2.0, best=1.1),
        "rloo": Targets(defaults=3.0, best=1.5),
        "grpo": Targets(defaults=3.0, best=1.5),
        "ppo": Targets(),
    },
}
"""ENGINE 7."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """Of one cell.

    Attributes:
        rate: tokens per second of the processors (CPU) or of the clock (CUDA: one GPU's seconds).
        step_seconds: of the clock, the median of the steps that count.
        reference_cost: the reference's seconds (as in `rate`) per token where it has a pass of its own, else 0.
        padded: share of the positions of a batch that are padding; None where it is not known.
    """

    rate: float
    per_wall: float
    best_per_wall: float
    step_seconds: float
    reference_cost: float
    peak_bytes: int
    first_loss: float | None
    padded: float | None
    phases: Mapping[str, float]

    def with_reference(self) -> float:
        """`rate` with the reference's pass over each token counted."""
        return 1 / (1 / self.rate + self.reference_cost)


def speed_of(
    marks: Sequence[Mark],
    tokens: Sequence[float],
    entries: Sequence[tuple[Mark, int]],
    *,
    device: str,
    peak_bytes: int,
    first_loss: float | None,
    padded: float | None,
    phases: Mapping[str, float],
) -> Speed:
    """`marks` hold the start and the end of each step, `entries` the parts of the reference's pass and their tokens."""

    def cost(before: Mark, after: Mark) -> float:
        return after.wall - before.wall if device == "cuda" else after.cpu - before.cpu

    timed = list(zip(tokens, pairwise(marks), strict=False))[DROPPED:]
    count = sum(number for number, _ in timed)
    walls = [(number, after.wall - before.wall) for number, (before, after) in timed]
    reference = 0.0
    if entries:  # what came first is as slow as the first steps, and its beginning is not known
        first, last = entries[0][0], entries[-1][0]
        later = [number for mark, number in entries if mark.wall > first.wall]
        reference = cost(first, last) / sum(later) if later else 0.0
    return Speed(
        rate=count / sum(cost(before, after) for _, (before, after) in timed),
        per_wall=count / sum(seconds for _, seconds in walls),
        best_per_wall=max(number / seconds for number, seconds in walls),
        step_seconds=median(seconds for _, seconds in walls),
        reference_cost=reference,
        peak_bytes=peak_bytes,
        first_loss=first_loss,
        padded=padded,
        phases=phases,
    )


def detail(speed: Speed, *, device: str) -> str:
    """One cell in a line."""
    parts = [
        f"{speed.rate:.1f} {UNITS[device]}",
        f"{speed.per_wall:.1f} tokens/s (best step {speed.best_per_wall:.1f})",
        f"{speed.step_seconds:.2f} s a step",
        f"{speed.peak_bytes / GIB:.2f} GiB",
    ]
    if speed.padded is not None:
        parts.append(f"{speed.padded:.0%} padding")
    if speed.reference_cost:
        parts.append(f"reference {1 / speed.reference_cost:.1f} {UNITS[device]}")
    if speed.first_loss is not None:
        parts.append(f"first loss {speed.first_loss:.4f}")
    parts += [f"{key} {value:.2f} s" for key, value in speed.phases.items()]
    return ", ".join(parts)


def rows_of(name: str, found: Mapping[str, Sequence[Speed]], *, device: str, suffix: str = "") -> list[Row]:
    """The rows of a method; without a peer those of our own figures.

    Args:
        found: the cells of "ours" and of each peer, turn by turn.
        suffix: what ends the name of every row.
    """
    unit, targets, ours = UNITS[device], TARGETS[device][name], found["ours"]
    whole = [speed.with_reference() if name == "dpo" else speed.rate for speed in ours]
    memory = [speed.peak_bytes / GIB for speed in ours]
    rows: list[Row] = []

    def compare(what: str, side: str, rates: Sequence[float], peer: Sequence[float], target: float | None) -> None:
        ratios = [a / b for a, b in zip(rates, peer, strict=True)]
        rows.append(_row(what + suffix, unit, rates, peer, ratios, side=side, target=target))

    if "defaults" in found:
        compare(name, "defaults", whole, _rates(name, found["defaults"]), targets.defaults)
    if "best" in found:
        compare(f"{name}, best flags", "best", whole, _rates(name, found["best"]), targets.best)
        if name == "dpo":
            rates, peer = ([speed.rate for speed in found[side]] for side in ("ours", "best"))
            compare("dpo cached reference", "best", rates, peer, targets.cached)
        theirs = [speed.peak_bytes / GIB for speed in found["best"]]
        ratios = [b / a for a, b in zip(memory, theirs, strict=True)]
        target = None if targets.memory is None else round(1 / targets.memory, 3)
        rows.append(_row(f"{name}, memory{suffix}", "GiB", memory, theirs, ratios, side="best", target=target))
    if len(found) == 1:
        rows.append(Row(what=name + suffix, unit=unit, ours=round(median(whole), 3)))
        rows.append(Row(what=f"{name}, memory{suffix}", unit="GiB", ours=round(median(memory), 3)))
    return rows


def _rates(name: str, speeds: Sequence[Speed]) -> list[float]:
    return [speed.with_reference() if name == "dpo" else speed.rate for speed in speeds]


def _row(
    what: str,
    unit: str,
    ours: Sequence[float],
    peer: Sequence[float],
    ratios: Sequence[float],
    *,
    side: str,
    target: float | None,
) -> Row:
    """Medians of both sides, and the median of the turns' own ratios: what slows a machine slows both of one turn."""
    ratio = median(ratios)
    return Row(
        what=what, unit=unit, ours=round(median(ours), 3), peer=round(median(peer), 3), peer_name=f"TRL, {side}",
        ratio=round(ratio, 3), target=target, ok=target is None or ratio >= target,
    )  # fmt: skip


def comparisons(name: str, found: Mapping[str, Sequence[Speed]], *, device: str) -> list[str]:
    """A line for each peer: the range of its ratios over the turns, step times and memory of both."""
    lines = []
    for side, peers in found.items():
        if side == "ours":
            continue
        turns = list(zip(found["ours"], peers, strict=True))
        shown = [
            _range(
                UNITS[device], [a / b for a, b in zip(_rates(name, found["ours"]), _rates(name, peers), strict=True)]
            ),
            _range("step time", [b.step_seconds / a.step_seconds for a, b in turns]),
            _range("memory", [b.peak_bytes / a.peak_bytes for a, b in turns]),
        ]
        steps, memory = (
            f"{median(ours):.2f} and {median(theirs):.2f}"
            for ours, theirs in (
                ([a.step_seconds for a, _ in turns], [b.step_seconds for _, b in turns]),
                ([a.peak_bytes / GIB for a, _ in turns], [b.peak_bytes / GIB for _, b in turns]),
            )
        )
        lines.append(f"{name}, ours and TRL, {side}: {steps} s a step, {memory} GiB; ratios of {', '.join(shown)}")
    return lines


def _range(what: str, ratios: Sequence[float]) -> str:
    return f"{what} {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def check_first_losses(name: str, found: Mapping[str, Sequence[Speed]], *, dtype: str) -> None:
    """Both sides compute one loss of one batch with the same weights.

    Raises:
        AssertionError: some cell has another, or none.
    """
    losses = [speed.first_loss for speeds in found.values() for speed in speeds]
    known = [loss for loss in losses if loss is not None]
    allowed = SAME_LOSS[dtype]
    if len(known) < len(losses) or not all(math.isclose(loss, known[0], rel_tol=allowed) for loss in known):
        raise AssertionError(f"first losses of {name} differ: {losses}")
