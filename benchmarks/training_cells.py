"""A cell: one engine with one set of flags in a process of its own, watched from outside while it takes its steps.

Both sides are watched alike: a step ends when the process writes its line to `metrics.jsonl`, and what it has cost is
the processor time that the kernel has counted for the process by then. Nothing of a side's own clock is used. Knows
neither engines nor methods.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POLL_SECONDS = 0.01
TICKS = os.sysconf("SC_CLK_TCK")
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """When a line was written: seconds of the clock and of the processors, both since the process began."""

    wall: float
    cpu: float
    line: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """What was seen of one process.

    Attributes:
        steps: one mark each; a first one with step 0 is the start of step 1.
        extra: marks of the lines of the other file that was asked for (the engine's reference cache).
        peak_bytes: highest resident memory of the process.
    """

    steps: tuple[Mark, ...]
    extra: tuple[Mark, ...]
    peak_bytes: int


def watch(
    command: Sequence[str],
    *,
    metrics: Path,
    lines: int,
    threads: int,
    log: Path,
    extra: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Cell:
    """Run a command until it has written `lines` lines of steps, then end it: what follows is not measured.

    Args:
        extra: a directory whose `*.jsonl` are watched too.

    Raises:
        RuntimeError: it ended before; the end of its log is shown.
    """
    threading = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    began = time.monotonic()
    with log.open("wb") as output:
        child = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **threading, "TOKENIZERS_PARALLELISM": "false", **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        marks: list[Mark] = []
        extras: list[Mark] = []
        ended = False
        while not ended and len(marks) < lines:
            time.sleep(POLL_SECONDS)
            # WNOWAIT leaves the dead process where it is, so that its figures can still be read below.
            ended = os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
            now = time.monotonic() - began, _cpu_seconds(child.pid)
            marks += _new(marks, _lines(metrics), *now)
            if extra is not None:
                found = [line for path in sorted(extra.glob("*.jsonl")) for line in _lines(path)]
                extras += _new(extras, found, *now)
        if not ended:
            child.kill()
        _, _, usage = os.wait4(child.pid, 0)
        child.returncode = 0  # reaped here, for the figures that Popen does not give
    if len(marks) < lines:
        end = log.read_text(errors="replace")[-3000:]
        raise RuntimeError(f"{' '.join(command)} ended after {len(marks)} of {lines} lines:\n{end}")
    return Cell(steps=tuple(marks), extra=tuple(extras), peak_bytes=usage.ru_maxrss * 1024)


def has_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor multiplies in bf16 itself; one that does not is slower with it than in fp32."""
    if not cpuinfo.exists():
        return False
    lines = cpuinfo.read_text().splitlines()
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags)


def _new(known: Sequence[Mark], lines: Sequence[dict[str, Any]], wall: float, cpu: float) -> list[Mark]:
    return [Mark(wall=wall, cpu=cpu, line=line) for line in lines[len(known) :]]


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def _cpu_seconds(pid: int) -> float:
    """User and system time of all threads of a process, ended ones included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS
