"""`python -m benchmarks.training --json [--method …] [--device cpu|cuda] [--dtype …] [--repeats 3] [--small]`: our
training beside TRL's.

Whole steps of the engine, run as the platform runs it (`python -m training.engine run`), and of TRL's trainers on the
same model, examples, order, batch sizes, precision and threads; all weights are trained. A cell is one engine with one
set of flags in a process of its own; cells take turns, the first two steps of a process are dropped (page faults), and
the rest are judged by tokens per second of processor time: prompt and completion tokens without padding, a prompt
counted once per completion. A ratio is the median of the turns' own. Lines before the JSON hold the wall clock too,
step times, memory, TRL's padding where its collator tells it, and the range over the repeats.

    reward, dpo, sft, rloo, grpo, ppo     to TRL at its defaults
    …, best flags                         to TRL without recomputation and padding, its reference beforehand
    …, memory                             highest resident memory, to TRL without recomputation (the same work as ours)
    dpo cached reference                  without the reference's pass on both sides; in the other rows of dpo with it

On `cpu` neither side sees a GPU. On `cuda`, which no figure of ours comes from yet, both use the first one: batches are
larger, tokens are counted by the seconds of the clock (TRL's steps end with a synchronisation, the engine's with values
read from the device), and memory is the most that PyTorch has allocated. Rows in bf16 need a processor with bf16
instructions (avx512_bf16 or amx_bf16), or `cuda`; elsewhere they are left out.

`--small` has as many repeats, with 2 steps that count, completions of 32 to 64 tokens (32 sampled ones), in fp32, and
RL beside TRL's defaults alone; `--dtype`, `--flags`, `--timed` and `--repeats` overrule it.

TRL is a dev dependency; without it the rows hold our own figures. It dropped PPO after 1.12: `--ppo-trl DIR` (or
$WINNOW_PPO_TRL) names a directory that holds that one alone, made by

    pip install --no-deps --target DIR trl==1.12.0
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import distributions, version
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.report import Row, show
from benchmarks.training_cells import ROOT, Cell, has_bf16, watch
from benchmarks.training_data import PROMPT, SEED, Task, make_task
from benchmarks.training_rows import DROPPED, Speed, check_first_losses, comparisons, detail, rows_of, speed_of
from training.engine.models import load_reward_model, save_model
from training.engine.text import load_text

MODEL = ROOT / "var" / "models" / "smollm2-135m-instruct"
CUDA_BATCH = 8
"""A GPU takes this many times the batch: steps of 135M below some 30k tokens are bound by the start of kernels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """What a method's cells do.

    Attributes:
        batch: pairs (reward, dpo), demonstrations (sft), or prompts (RL) of a step.
        per_prompt: completions sampled of a prompt; 0 where none are.
        inner_epochs: also lines of the engine's `metrics.jsonl` for one step of TRL.
    """

    batch: int
    per_prompt: int = 0
    beta: float = 0.0
    inner_epochs: int = 1


METHODS = {
    "reward": Method(batch=4),
    "dpo": Method(batch=4),
    "sft": Method(batch=8),
    "rloo": Method(batch=2, per_prompt=4, beta=0.05),
    "grpo": Method(batch=1, per_prompt=8),
    "ppo": Method(batch=8, per_prompt=1, beta=0.05, inner_epochs=4),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What all cells of one run of the benchmark share. `response`: tokens of a sampled completion."""

    model: Path
    reward_model: Path
    directory: Path
    device: str
    dtype: str
    threads: int
    timed: int
    shortest: int
    longest: int
    response: int
    ppo_trl: str | None

    @property
    def steps(self) -> int:
        return DROPPED + self.timed

    def method(self, name: str) -> Method:
        known = METHODS[name]
        return replace(known, batch=CUDA_BATCH * known.batch) if self.device == "cuda" else known

    @property
    def environment(self) -> dict[str, str]:
        """A GPU that is there would be taken by both sides."""
        return {"CUDA_VISIBLE_DEVICES": ""} if self.device == "cpu" else {}


# --- cells ------------------------------------------------------------------------------------------------------------


def our_config(name: str, task: Task, setting: Setting) -> dict[str, Any]:
    """All weights trained, nothing evaluated or saved between the steps; the rest is the engine's default."""
    method = setting.method(name)
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
        config["sampling"] = {"max_new_tokens": setting.response}
        config["kl"] = {"beta": method.beta}
    else:
        config["batch"] = {"examples" if name == "sft" else "pairs": task.batch, "epochs": 1}
        config["eval"]["pairs"] = 1
    return config


def run_ours(name: str, task: Task, setting: Setting, out: Path) -> Speed:
    inner = setting.method(name).inner_epochs
    request = out.with_suffix(".json")
    request.write_text(json.dumps(our_config(name, task, setting)))
    command = [sys.executable, "-m", "training.engine", "run", str(request), "--out", str(out)]
    cell = watch(
        command,
        metrics=out / "metrics.jsonl",
        lines=1 + setting.steps * inner,
        threads=setting.threads,
        log=out.with_suffix(".log"),
        extra=out / "reference",
        environment=setting.environment,
    )
    marks = cell.steps[::inner]
    seen = [mark.line.get("train/tokens", 0.0) for mark in marks]
    # Every inner epoch counts its tokens; TRL's figures, and the rows, count what was sampled once.
    sampled = [(after - before) / inner for before, after in pairwise(seen)]
    tokens = list(task.tokens) if task.tokens[0] else sampled
    if task.tokens[0] and any(a - b != t for (b, a), t in zip(pairwise(seen), tokens, strict=False)):
        raise AssertionError(f"the engine counts {seen}, the lines hold {tokens}")
    _check_sampled(name, task, setting, tokens)
    entries = [(mark, int(mark.line["tokens"]) + PROMPT) for mark in cell.extra]
    timed = marks[DROPPED + 1 :]
    phases = {
        key: median(mark.line[key] for mark in timed)
        for key in sorted(timed[0].line)
        if key.startswith("time/") and all(key in mark.line for mark in timed)
    }
    first = cell.steps[1].line.get("train/loss")
    return speed_of(
        marks,
        tokens,
        entries,
        device=setting.device,
        peak_bytes=_peak_bytes(cell, setting),
        first_loss=first,
        padded=None,
        phases=phases,
    )


def run_trl(name: str, flags: str, task: Task, setting: Setting, out: Path) -> Speed:
    method = setting.method(name)
    out.mkdir()
    spec = {
        "method": name,
        "flags": flags,
        "model": str(setting.model),
        "reward_model": str(setting.reward_model),
        "lines": str(task.lines),
        "per_device": task.batch * max(1, method.per_prompt),
        "per_prompt": method.per_prompt,
        "response": setting.response,
        "beta": method.beta,
        "inner_epochs": method.inner_epochs,
        "steps": setting.steps,
        "device": setting.device,
        "dtype": setting.dtype,
        "threads": setting.threads,
        "out": str(out),
    }
    request = out / "spec.json"
    request.write_text(json.dumps(spec))
    path = {"PYTHONPATH": f"{setting.ppo_trl}{os.pathsep}{ROOT}"} if name == "ppo" else {}
    cell = watch(
        [sys.executable, "-m", "benchmarks.training_trl", str(request)],
        metrics=out / "metrics.jsonl",
        lines=1 + setting.steps,
        threads=setting.threads,
        log=out.with_suffix(".log"),
        extra=out / "reference",
        environment={**setting.environment, **path},
    )
    seen = [mark.line.get("train/tokens", 0) for mark in cell.steps]
    tokens = list(task.tokens) if task.tokens[0] else [after - before for before, after in pairwise(seen)]
    if name == "ppo":  # it stops at no end token and counts none
        tokens = [method.batch * (PROMPT + setting.response)] * setting.steps
    _check_sampled(name, task, setting, tokens)
    began = cell.steps[0].wall
    entries = [(mark, int(mark.line["tokens"])) for mark in cell.extra if mark.wall <= began]
    losses = out / "losses.jsonl"
    first = json.loads(losses.read_text().splitlines()[0])["loss"] if losses.exists() else None
    return speed_of(
        cell.steps,
        tokens,
        entries,
        device=setting.device,
        peak_bytes=_peak_bytes(cell, setting),
        first_loss=first,
        padded=_padded_share(out / "padding.jsonl"),
        phases={},
    )


def _check_sampled(name: str, task: Task, setting: Setting, tokens: Sequence[float]) -> None:
    """Sampled completions nearly all reach their limit, so both sides have the same work within a tenth."""
    method = setting.method(name)
    most = method.batch * method.per_prompt * (PROMPT + setting.response)
    if not task.tokens[0] and not all(0.9 * most <= number <= most for number in tokens):
        raise AssertionError(f"{name}: {tokens} tokens a step, {most} were asked for")


def _peak_bytes(cell: Cell, setting: Setting) -> int:
    """Resident memory, seen from outside; of a GPU what both sides say that PyTorch has allocated."""
    if setting.device == "cpu":
        return cell.peak_bytes
    return int(max(mark.line.get("memory/peak_bytes", 0) for mark in cell.steps))


def _padded_share(path: Path) -> float | None:
    if not path.exists():
        return None
    seen = [json.loads(line) for line in path.read_text().splitlines()]
    tokens, positions = (sum(int(line[key]) for line in seen) for key in ("tokens", "positions"))
    return 1 - tokens / positions


# --- the run ----------------------------------------------------------------------------------------------------------


def contest(name: str, setting: Setting, *, repeats: int, peers: Sequence[str]) -> list[Row]:
    """All cells of a method in turn, `repeats` times, then its rows."""
    task = make_task(
        setting.directory,
        method=name,
        model=setting.model,
        batch=setting.method(name).batch,
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
            told = detail(speed, device=setting.device)
            print(f"{name} {setting.dtype} {side} {number + 1}: {told}, {load}", flush=True)
    if task.tokens[0]:  # else each side trains on what it has sampled
        check_first_losses(name, found, dtype=setting.dtype)
    for line in comparisons(name, found, device=setting.device):
        print(line, flush=True)
    return rows_of(name, found, device=setting.device, suffix="" if setting.dtype == "fp32" else f", {setting.dtype}")


def make_reward_model(model: Path, directory: Path) -> Path:
    """The policy's trunk with a head drawn from a seed: both sides start from it."""
    save_model(load_reward_model(model, seed=SEED), load_text(model), directory, winnow={"kind": "reward"})
    return directory


def peers_of(name: str, arguments: argparse.Namespace) -> list[str]:
    """TRL's flags that a method is run beside; none, with a line that says why, where that TRL is not there."""
    asked = [flags for flags in (arguments.flags or "").split(",") if flags]
    if arguments.flags is None:
        asked = ["defaults"] if arguments.small and METHODS[name].per_prompt else ["defaults", "best"]
    if asked and find_spec("trl") is None:
        print(f"{name}: TRL is not installed, so our own figures alone")
        return []
    if asked and name == "ppo" and not arguments.ppo_trl:
        print("ppo: no TRL that has it was named (--ppo-trl), so our own figures alone")
        return []
    return asked


def dtypes_of(arguments: argparse.Namespace) -> list[str]:
    """What --dtype asks for, without bf16 where the processor would only imitate it."""
    asked = (arguments.dtype or ("fp32" if arguments.small else "fp32,bf16")).split(",")
    if arguments.device == "cpu" and "bf16" in asked and not has_bf16():
        print("bf16: this processor has neither avx512_bf16 nor amx_bf16, so its rows are left out")
        asked.remove("bf16")
    return asked


def versions_of(rows: Sequence[Row], ppo_trl: str | None) -> dict[str, str]:
    """Of the libraries that ran."""
    found = {name: version(name) for name in ("transformers", "torch")}
    beside = {row.what.partition(",")[0].partition(" ")[0] for row in rows if row.peer is not None}
    if beside - {"ppo"}:
        found["trl"] = version("trl")
    if "ppo" in beside:
        found["trl of ppo"] = next(iter(distributions(name="trl", path=[str(ppo_trl)]))).version
    return found


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--small", action="store_true", help="less of everything but repeats: some 40 minutes")
    parser.add_argument("--method", default=",".join(METHODS), help="names with commas between them")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", help="fp32, bf16 or both (bf16 where the processor has it)")
    parser.add_argument("--flags", help="TRL's: defaults, best or both; empty for ours alone")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--timed", type=int, help="steps of a cell that count; 3, with --small 2")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", type=Path, default=MODEL, help="directory with safetensors (`make model` makes it)")
    parser.add_argument("--ppo-trl", default=os.environ.get("WINNOW_PPO_TRL"), metavar="DIR", help="see above")
    arguments = parser.parse_args(given)
    peers = {name: peers_of(name, arguments) for name in arguments.method.split(",")}
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        for dtype in dtypes_of(arguments):
            (directory / dtype).mkdir()
            setting = Setting(
                model=arguments.model,
                reward_model=directory / "reward-model",
                directory=directory / dtype,
                device=arguments.device,
                dtype=dtype,
                threads=arguments.threads,
                timed=arguments.timed or (2 if arguments.small else 3),
                shortest=32,
                longest=64 if arguments.small else 256,
                response=32 if arguments.small else 64,
                ppo_trl=arguments.ppo_trl,
            )
            if not setting.reward_model.exists():
                make_reward_model(setting.model, setting.reward_model)
            for name, sides in peers.items():
                rows += contest(name, setting, repeats=arguments.repeats, peers=sides)
    versions = versions_of(rows, arguments.ppo_trl)
    about = {"device": arguments.device, "threads": arguments.threads, "versions": versions}
    show("training", rows, as_json=arguments.json, **about)
    return 0 if all(row.ok for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
