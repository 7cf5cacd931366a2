"""Steps of an experiment: programs of the engine, each with a directory named by its config, so none is done twice.

A step is one run of `python -m training.engine`: the same program that the product's workers start. Its directory holds
the hash of its config in its name, and what it reads lies in directories named the same way; so an experiment that was
interrupted goes on where it was, and two experiments that need the same model train it once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.engine.presets import default_config, merge

COMMANDS = {"sample": "sample", "score": "score", "evaluate": "evaluate"}
"""Of the methods that are programs of their own; all others are trained by `run`."""
_ENDINGS = {"done", "stopped_kl"}
_SPENT = "spent.json"
_LEASE_SECONDS = 86_400


class StepError(RuntimeError):
    """A program of the engine failed; the message holds its name and its last words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spent:
    """What a step took: `seconds` by the clock, `processor_seconds` of all its threads."""

    name: str
    seconds: float
    processor_seconds: float


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Where steps lie and how many run at a time.

    Attributes:
        directory: of all steps, below it one directory each.
        base: directory of the base model.
        slots: steps at one time; each has `threads` threads.
        on_gpu: without a GPU the steps see none, so that a figure of the CPU is one.
    """

    directory: Path
    base: Path
    slots: int = 2
    threads: int = 1
    on_gpu: bool = False
    _free: threading.Semaphore = field(init=False, repr=False)
    _spent: dict[Path, Spent] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_free", threading.Semaphore(self.slots))

    def train(self, name: str, method: str, **overrides: Any) -> Path:
        """Train by a method's defaults for a small model with an adapter, `overrides` laid over them; the directory."""
        defaults = default_config(method, parameters=1)
        models = {"models": {"base": str(self.base)}}
        return self.run(name, merge(merge(defaults, models), {"method": defaults["method"], **overrides}))

    def policy(self, name: str, method: str, **overrides: Any) -> Path:
        """The same, and the directory of the whole model that came of it: the adapter of the last step, merged."""
        trained = self.train(name, method, **overrides)
        base = json.loads((trained / "config.json").read_text(encoding="utf-8"))["models"]["base"]
        last = json.loads((trained / "result.json").read_text(encoding="utf-8"))["checkpoints"]["last"]
        out = trained / "merged"
        if not (out / "result.json").is_file():
            shutil.rmtree(out, ignore_errors=True)
            self._engine(name, "convert", [str(trained / last["path"]), "--base", base], out)
        self._count(out)
        return out / "model"

    def run(self, name: str, config: Mapping[str, Any]) -> Path:
        """The directory of the step with this config, done now unless it was done before.

        Raises:
            StepError: the engine refused it or failed.
        """
        out = self._place(name, json.dumps(config, sort_keys=True))
        if _is_done(out):
            self._count(out)
            return out
        out.mkdir(parents=True, exist_ok=True)
        file = out / "wanted.json"
        file.write_text(json.dumps(config, indent=1), encoding="utf-8")
        self._engine(name, COMMANDS.get(config["method"], "run"), [str(file)], out)
        if not _is_done(out):
            raise StepError(f"{name}: ended as {(out / 'result.json').read_text(encoding='utf-8')[:300]}")
        return out

    def snapshot(self, name: str, lines: Iterable[Mapping[str, Any]]) -> Path:
        """A snapshot of these lines (layouts of `engine snapshot`), named by their content."""
        text = "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines)
        out = self._place(name, text)
        if not (out / "snapshot" / "manifest.json").is_file():
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir(parents=True)
            (out / "lines.jsonl").write_text(text, encoding="utf-8")
            self._engine(name, "snapshot", [str(out / "lines.jsonl")], out / "snapshot")
        return out / "snapshot"

    def file(self, name: str, lines: Iterable[Mapping[str, Any]]) -> Path:
        """A JSON Lines file named by its content, for the programs that read one."""
        text = "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines)
        out = self._place(name, text).with_suffix(".jsonl")
        if not out.is_file():
            self.directory.mkdir(parents=True, exist_ok=True)
            draft = out.with_suffix(f".{threading.get_ident()}")
            draft.write_text(text, encoding="utf-8")
            draft.replace(out)
        return out

    def spent(self) -> list[Spent]:
        """Of every step that was asked for, also of those that were done before: then it took what it took then."""
        return sorted(self._spent.values(), key=lambda one: one.name)

    def _place(self, name: str, content: str) -> Path:
        return self.directory / f"{name.replace(' ', '-')}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"

    def _count(self, out: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._spent[out] = Spent(**json.loads((out / _SPENT).read_text(encoding="utf-8")))

    def _engine(self, name: str, command: str, arguments: Sequence[str], out: Path) -> None:
        environ = {**os.environ, "OMP_NUM_THREADS": str(self.threads), "TOKENIZERS_PARALLELISM": "false"}
        if not self.on_gpu:
            environ["CUDA_VISIBLE_DEVICES"] = ""
        words = [sys.executable, "-m", "training.engine", command, *arguments, "--out", str(out)]
        if command != "snapshot":  # the pipe's end, not silence on it, ends the step: it dies with the experiment
            words += ["--supervised", "--lease", str(_LEASE_SECONDS)]
        with self._free:
            print(f"  {name}: {command} …", flush=True)
            begun = time.monotonic()
            process = subprocess.Popen(
                words,
                env=environ,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
            try:
                said = process.stdout.read() if process.stdout else ""
                _, status, usage = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
            except BaseException:
                process.kill()
                process.wait()
                raise
        seconds = time.monotonic() - begun
        if process.returncode:
            raise StepError(f"{name}: {command} ended with {process.returncode}: {said[-1500:]}")
        spent = {"name": name, "seconds": seconds, "processor_seconds": usage.ru_utime + usage.ru_stime}
        if out.is_dir():
            (out / _SPENT).write_text(json.dumps(spent), encoding="utf-8")
            self._count(out)
        print(f"  {name}: {command} took {seconds:.0f} s", flush=True)


def for_each(items: Sequence[Any], work: Any) -> list[Any]:
    """`work` of every item, all at the same time (their steps wait for free slots); the first error is raised."""
    with ThreadPoolExecutor(max_workers=max(1, len(items))) as pool:
        return [future.result() for future in [pool.submit(work, item) for item in items]]


def _is_done(out: Path) -> bool:
    try:
        return json.loads((out / "result.json").read_text(encoding="utf-8")).get("status") in _ENDINGS
    except (OSError, ValueError):
        return False
