"""Runs for tests: in this process by `run_here`, or as a child with the supervisor's pipe by `start_child`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

import pytest
import torch

from tests.engine.planted import planted_snapshot
from tests.engine.tiny import tiny_model
from training.engine.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 120
torch.set_num_threads(1)  # a tiny model gains nothing from two, and threads that wait for each other spin


@contextlib.contextmanager
def own_signals() -> Iterator[None]:
    """`main` listens to signals; give pytest its own handlers back."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny model and a snapshot with a planted preference."""
    root = tmp_path_factory.mktemp("engine")
    tiny_model(root / "model")
    planted_snapshot(root / "snapshot", ties=3)
    return {"base": root / "model", "snapshot": root / "snapshot"}


def run_here(config: dict[str, Any], out: Path, *, resume: Path | None = None) -> int:
    out.parent.mkdir(parents=True, exist_ok=True)
    path = out.parent / f"{out.name}.request.json"
    path.write_text(json.dumps(config))
    with own_signals():
        return main(["run", str(path), "--out", str(out), *(["--resume", str(resume)] if resume else [])])


def start_child(config: dict[str, Any], out: Path, *flags: str) -> subprocess.Popen[bytes]:
    """The engine as the platform starts it, in a process group of its own."""
    path = out.parent / f"{out.name}.request.json"
    path.write_text(json.dumps(config))
    return subprocess.Popen(
        [sys.executable, "-m", "training.engine", "run", str(path), "--out", str(out), *flags],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def stdin_of(child: subprocess.Popen[bytes]) -> IO[bytes]:
    return cast(IO[bytes], child.stdin)


def lines_of(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def steps_of(out: Path) -> list[int]:
    return [line["step"] for line in lines_of(out / "metrics.jsonl")]


def result_of(out: Path) -> dict[str, Any]:
    return cast(dict[str, Any], json.loads((out / "result.json").read_text()))


def error_of(out: Path) -> dict[str, str]:
    return cast(dict[str, str], json.loads((out / "error.json").read_text()))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


def same_numbers(first: Path, second: Path) -> bool:
    """Equal metrics but for what a clock or the memory of the process decides."""
    return [_timeless(line) for line in lines_of(first)] == [_timeless(line) for line in lines_of(second)]


def _timeless(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key.split("/")[0] not in ("time", "speed", "memory")}
