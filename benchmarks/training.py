"""`python -m benchmarks.training --json [--method …] [--dtype …] [--repeats 3] [--small]`: our training beside TRL's.

Whole steps of the engine, run as the platform runs it (`python -m training.engine run`), and of TRL's trainers on the
same model, examples, order, batch sizes, precision and threads; all weights are trained. A cell is one engine with one
set of flags in a process of its own; cells take turns, the first two steps of a process are dropped (page faults), and
the rest are judged by tokens per second of processor time: prompt and completion tokens without padding, a prompt
counted once per completion. Lines before the JSON hold the wall clock too, and the range over the repeats.

    reward, dpo, sft, rloo, grpo, ppo     to TRL at its defaults
    …, best flags                         to TRL without recomputation and padding, its reference beforehand
    …, memory                             highest resident memory, to TRL without recomputation (the same work as ours)
    dpo cached reference                  without the reference's pass on both sides; in the other rows of dpo with it

TRL is a dev dependency. It dropped PPO after 1.12: `--ppo-trl DIR` (or $WINNOW_PPO_TRL) names a directory that holds
that one alone, made by

    pip install --no-deps --target DIR trl==1.12.0

Without it, or while a method of the engine is not there, the rows of that method are absent.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.report import Row, faster, shorter, show
from benchmarks.training_cells import ROOT, Cell, Mark, watch
from benchmarks.training_data import PROMPT, SEED, Task, make_task
from training.engine.models import load_reward_model, save_model
from training.engine.text import load_text

DROPPED = 2
"""First steps of a process: they are slow from page faults."""
MODEL = ROOT / "var" / "models" / "smollm2-135m-instruct"
RESPONSE = 64
SAME_LOSS = 1e-3
BEST_FLOOR, CACHED_FLOOR = 1.5, 2.2
MEMORY_SHARE = 0.6


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """What a method's cells do.

    Attributes:
        batch: pairs (reward, dpo), demonstrations (sft), or prompts (RL) of a step.
        per_prompt: completions sampled of a prompt; 0 where none are.
        lines: lines of the engine's `metrics.jsonl` for one step of TRL.
        floor: least ratio to TRL's defaults; `memory`: most of TRL's memory.
    """

    batch: int
    floor: float
    memory: float = MEMORY_SHARE
    per_prompt: int = 0
    beta: float = 0.0
    inner_epochs: int = 1
    first_loss: bool = True

    @property
    def lines(self) -> int:
        return self.inner_epochs


METHODS = {
    "reward": Method(batch=4, floor=2.0, memory=0.7),
    "dpo": Method(batch=4, floor=2.7),
    "sft": Method(batch=8, floor=2.2),
    "rloo": Method(batch=2, floor=2.0, per_prompt=4, beta=0.05, first_loss=False),
    "grpo": Method(batch=1, floor=2.0, per_prompt=8, first_loss=False),
    "ppo": Method(batch=8, floor=2.0, per_prompt=1, beta=0.05, inner_epochs=4, first_loss=False),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What all cells of one run of the benchmark share."""

    model: Path
    reward_model: Path
    directory: Path
    dtype: str
    threads: int
    timed: int
    shortest: int
    longest: int
    ppo_trl: str | None

    @property
    def steps(self) -> int:
        return DROPPED + self.timed


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """Of one cell: tokens per second, and the reference's processor seconds per token where it has a pass."""

    per_cpu: float
    per_wall: float
    best_per_wall: float
    reference_cpu: float
    peak_bytes: int
    first_loss: float | None
    phases: dict[str, float]

    def with_reference(self) -> float:
        """Tokens per processor second, the reference's pass over each token counted."""
        return 1 / (1 / self.per_cpu + self.reference_cpu)


# --- cells ------------------------------------------------------------------------------------------------------------


def our_config(name: str, task: Task, setting: Setting) -> dict[str, Any]:
    """All weights trained, nothing evaluated or saved between the steps; the rest is the engine's default."""
    method = METHODS[name]
    config: dict[str, Any] = {
        "method": name,
        "seed": SEED,
        "models": {"base": str(setting.reward_model if name == "reward" else setting.model)},
        "data": {"snapshot": str(task.snapshot)},
        "optim": {"learning_rate": 1e-6},
        "adapter": None,
        "precision": {"dtype": setting.dtype},
        "eval": {"every": 10**6, "prompts": 0},
        "checkpoint": {"every": 10**6},
    }
    if method.per_prompt:
        config["models"]["rewards"] = [str(setting.reward_model)]
        config["batch"] = {
            "iterations": task.steps,
            "completions": method.batch * method.per_prompt,
            "per_prompt": method.per_prompt,
            "inner_epochs": method.inner_epochs,
            **({"minibatch": method.batch} if name == "ppo" else {}),
        }
        config["sampling"] = {"max_new_tokens": RESPONSE}
        config["kl"] = {"beta": method.beta}
    else:
        config["batch"] = {"examples" if name == "sft" else "pairs": task.batch, "epochs": 1}
        config["eval"]["pairs"] = 1
    return config


def run_ours(name: str, task: Task, setting: Setting, out: Path) -> Speed:
    request = out.with_suffix(".json")
    request.write_text(json.dumps(our_config(name, task, setting)))
    command = [sys.executable, "-m", "training.engine", "run", str(request), "--out", str(out)]
    cell = watch(
        command,
        metrics=out / "metrics.jsonl",
        lines=1 + setting.steps * METHODS[name].lines,
        threads=setting.threads,
        log=out.with_suffix(".log"),
        extra=out / "reference",
    )
    marks = cell.steps[:: METHODS[name].lines]
    seen = [mark.line.get("train/tokens", 0.0) for mark in marks]
    # Every inner epoch counts its tokens; TRL's figures, and the rows, count what was sampled once.
    sampled = [(after - before) / METHODS[name].inner_epochs for before, after in pairwise(seen)]
    tokens = list(task.tokens) if task.tokens[0] else sampled
    if task.tokens[0] and any(a - b != t for (b, a), t in zip(pairwise(seen), tokens, strict=False)):
        raise AssertionError(f"the engine counts {seen}, the lines hold {tokens}")
    _check_sampled(name, task, tokens)
    entries = [(mark.cpu, int(mark.line["tokens"]) + PROMPT) for mark in cell.extra]
    timed = marks[DROPPED + 1 :]
    phases = {
        key: median(mark.line[key] for mark in timed)
        for key in sorted(timed[0].line)
        if key.startswith("time/") and all(key in mark.line for mark in timed)
    }
    first = cell.steps[1].line.get("train/loss")
    return _speed(cell, marks, tokens, entries, first_loss=first, phases=phases)


def run_trl(name: str, flags: str, task: Task, setting: Setting, out: Path) -> Speed:
    method = METHODS[name]
    out.mkdir()
    spec = {
        "method": name,
        "flags": flags,
        "model": str(setting.model),
        "reward_model": str(setting.reward_model),
        "lines": str(task.lines),
        "per_device": task.batch * max(1, method.per_prompt),
        "per_prompt": method.per_prompt,
        "beta": method.beta,
        "inner_epochs": method.inner_epochs,
        "steps": setting.steps,
        "dtype": setting.dtype,
        "threads": setting.threads,
        "out": str(out),
    }
    request = out / "spec.json"
    request.write_text(json.dumps(spec))
    path = {"PYTHONPATH": f"{setting.ppo_trl}{os.pathsep}{ROOT}"} if name == "ppo" else None
    cell = watch(
        [sys.executable, "-m", "benchmarks.training_trl", str(request)],
        metrics=out / "metrics.jsonl",
        lines=1 + setting.steps,
        threads=setting.threads,
        log=out.with_suffix(".log"),
        extra=out / "reference",
        environment=path,
    )
    seen = [mark.line.get("train/tokens", 0) for mark in cell.steps]
    tokens = list(task.tokens) if task.tokens[0] else [after - before for before, after in pairwise(seen)]
    if name == "ppo":  # it stops at no end token and counts none
        tokens = [method.batch * (PROMPT + RESPONSE)] * setting.steps
    _check_sampled(name, task, tokens)
    began = cell.steps[0].cpu
    entries = [(mark.cpu, int(mark.line["tokens"])) for mark in cell.extra if mark.cpu <= began]
    losses = out / "losses.jsonl"
    first = json.loads(losses.read_text().splitlines()[0])["loss"] if losses.exists() else None
    return _speed(cell, cell.steps, tokens, entries, first_loss=first, phases={})


def _check_sampled(name: str, task: Task, tokens: Sequence[float]) -> None:
    """Sampled completions nearly all reach their limit, so both sides have the same work within a tenth."""
    method = METHODS[name]
    most = method.batch * method.per_prompt * (PROMPT + RESPONSE)
    if not task.tokens[0] and not all(0.9 * most <= number <= most for number in tokens):
        raise AssertionError(f"{name}: {tokens} tokens a step, {most} were asked for")


def _speed(
    cell: Cell,
    marks: Sequence[Mark],
    tokens: Sequence[float],
    entries: Sequence[tuple[float, int]],
    *,
    first_loss: float | None,
    phases: dict[str, float],
) -> Speed:
    """`marks` hold the start and the end of each step, `entries` the parts of the reference's pass."""
    timed = list(zip(tokens, pairwise(marks), strict=False))[DROPPED:]
    count = sum(number for number, _ in timed)
    cpu = sum(after.cpu - before.cpu for _, (before, after) in timed)
    walls = [(number, after.wall - before.wall) for number, (before, after) in timed]
    reference = 0.0
    if entries:  # what came first is as slow as the first steps, and its beginning is not known
        later = [number for at, number in entries if at > entries[0][0]]
        reference = (entries[-1][0] - entries[0][0]) / sum(later) if later else 0.0
    return Speed(
        per_cpu=count / cpu,
        per_wall=count / sum(seconds for _, seconds in walls),
        best_per_wall=max(number / seconds for number, seconds in walls),
        reference_cpu=reference,
        peak_bytes=cell.peak_bytes,
        first_loss=first_loss,
        phases=phases,
    )


# --- rows -------------------------------------------------------------------------------------------------------------


def contest(name: str, setting: Setting, *, repeats: int, peers: Sequence[str]) -> list[Row]:
    """All cells of a method in turn, `repeats` times, then its rows."""
    task = make_task(
        setting.directory,
        method=name,
        model=setting.model,
        batch=METHODS[name].batch,
        steps=setting.steps + 1,
        shortest=setting.shortest,
        longest=setting.longest,
    )
    found: dict[str, list[Speed]] = {side: [] for side in ("ours", *peers)}
    for number in range(repeats):
        for side, speeds in found.items():
            out = setting.directory / f"{name}-{side}-{number}"
            speed = run_ours(name, task, setting, out) if side == "ours" else run_trl(name, side, task, setting, out)
            shutil.rmtree(out, ignore_errors=True)
            speeds.append(speed)
            load = f"load {os.getloadavg()[0]:.1f}"
            print(f"{name} {setting.dtype} {side} {number + 1}: {_detail(speed)}, {load}", flush=True)
    if METHODS[name].first_loss:
        _check_first_losses(name, setting, found)
    suffix = "" if setting.dtype == "fp32" else f", {setting.dtype}"
    return [replace(row, what=row.what + suffix) for row in _rows(name, found)]


def _rows(name: str, found: dict[str, list[Speed]]) -> list[Row]:
    method = METHODS[name]
    rows: list[Row] = []

    def compare(what: str, side: str, target: float, *, reference: bool) -> None:
        ours, peer = (
            [speed.with_reference() if reference else speed.per_cpu for speed in found[key]] for key in ("ours", side)
        )
        ratios = [a / b for a, b in zip(ours, peer, strict=True)]
        print(f"{what}: ratios {min(ratios):.2f} to {max(ratios):.2f}")
        rows.append(
            faster(what, "tokens/cpu-s", median(ours), peer=median(peer), peer_name=f"TRL, {side}", target=target)
        )

    if "defaults" in found:
        compare(name, "defaults", method.floor, reference=name == "dpo")
    if "best" in found:
        compare(f"{name}, best flags", "best", BEST_FLOOR, reference=name == "dpo")
        if name == "dpo":
            compare("dpo cached reference", "best", CACHED_FLOOR, reference=False)
    side = "best" if "best" in found else "defaults"
    if side in found:
        ours, peer = (median(speed.peak_bytes for speed in found[key]) / 2**30 for key in ("ours", side))
        rows.append(
            shorter(
                f"{name}, memory", "GiB", ours, peer=peer, peer_name=f"TRL, {side}", target=round(1 / method.memory, 3)
            )
        )
    return rows


def _detail(speed: Speed) -> str:
    parts = [
        f"{speed.per_cpu:.1f} tokens/cpu-s",
        f"{speed.per_wall:.1f} tokens/s (best step {speed.best_per_wall:.1f})",
        f"{speed.peak_bytes / 2**30:.2f} GiB",
    ]
    if speed.reference_cpu:
        parts.append(f"reference {1 / speed.reference_cpu:.1f} tokens/cpu-s")
    if speed.first_loss is not None:
        parts.append(f"first loss {speed.first_loss:.4f}")
    parts += [f"{key} {value:.2f} s" for key, value in speed.phases.items()]
    return ", ".join(parts)


def _check_first_losses(name: str, setting: Setting, found: dict[str, list[Speed]]) -> None:
    """Both sides compute one loss of one batch with the same weights."""
    losses = [speed.first_loss for speeds in found.values() for speed in speeds]
    known = [loss for loss in losses if loss is not None]
    allowed = SAME_LOSS if setting.dtype == "fp32" else 2e-2
    if len(known) < len(losses) or not all(math.isclose(loss, known[0], rel_tol=allowed) for loss in known):
        raise AssertionError(f"first losses of {name} differ: {losses}")


# --- the run ----------------------------------------------------------------------------------------------------------


def make_reward_model(model: Path, directory: Path) -> Path:
    """The policy's trunk with a head drawn from a seed: both sides start from it."""
    save_model(load_reward_model(model, seed=SEED), load_text(model), directory, winnow={"kind": "reward"})
    return directory


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--small", action="store_true", help="one repeat, completions of 32 to 128 tokens: 40 minutes")
    parser.add_argument("--method", default=",".join(METHODS), help="names with commas between them")
    parser.add_argument("--dtype", default="fp32,bf16", help="fp32, bf16 or both (bf16 where the processor has it)")
    parser.add_argument("--flags", default="defaults,best", help="TRL's: defaults, best or both; empty for ours alone")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--timed", type=int, default=3, help="steps of a cell that count")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", type=Path, default=MODEL, help="directory with safetensors (`make model` makes it)")
    parser.add_argument("--ppo-trl", default=os.environ.get("WINNOW_PPO_TRL"), metavar="DIR", help="see above")
    arguments = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        for dtype in arguments.dtype.split(","):
            (directory / dtype).mkdir()
            setting = Setting(
                model=arguments.model,
                reward_model=directory / "reward-model",
                directory=directory / dtype,
                dtype=dtype,
                threads=arguments.threads,
                timed=arguments.timed,
                shortest=32,
                longest=128 if arguments.small else 256,
                ppo_trl=arguments.ppo_trl,
            )
            if not setting.reward_model.exists():
                make_reward_model(setting.model, setting.reward_model)
            for name in arguments.method.split(","):
                if name == "ppo" and not arguments.ppo_trl:
                    print("ppo: no TRL that has it was named, see --ppo-trl")
                    continue
                peers = [flags for flags in arguments.flags.split(",") if flags]
                rows += contest(name, setting, repeats=1 if arguments.small else arguments.repeats, peers=peers)
    versions = {name: version(name) for name in ("trl", "transformers", "torch")}
    show("training", rows, as_json=arguments.json, threads=arguments.threads, versions=versions)
    return 0 if all(row.ok for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
