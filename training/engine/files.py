"""The files that a run writes for its supervisor: JSON replaced atomically, and lines that survive a kill. No torch."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.engine.errors import Diverged, ModelError
from training.engine.metrics import METRICS

STATUS_SECONDS = 1.0
"""`status.json` is replaced at most this often; the contract asks for every 5 s at least."""


def write_json(path: Path, value: object) -> None:
    """Replace a JSON file in one step: a reader sees the former or the new text, never a part."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, ensure_ascii=False, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def sha256_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def directory_hash(directory: Path) -> str:
    """sha256 over the names and the sha256 of all files of a model directory, in order of the names.

    `winnow.json` counts: it holds no times.
    """
    digest = hashlib.sha256()
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(directory).as_posix()}\0{sha256_of_file(path)}\n".encode())
    return digest.hexdigest()


def stored_parameters(directory: Path) -> int:
    """Parameters of a model directory, by the headers of its safetensors files; a tied head counts once.

    Raises:
        ModelError: no safetensors, or not readable as such.
    """
    total = 0
    paths = sorted(directory.glob("*.safetensors"))
    if not paths:
        raise ModelError(f"{directory}: holds no .safetensors file")
    for path in paths:
        try:
            with path.open("rb") as file:
                header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            total += sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
        except (ValueError, KeyError, TypeError, AttributeError, MemoryError) as error:
            raise ModelError(f"{path}: no safetensors file: {error}") from None
    return total


class LineFile:
    """JSON Lines that are only appended, each line in one write; `size` is where the next one begins."""

    def __init__(self, path: Path, *, keep_bytes: int) -> None:
        """Open for appending after the first `keep_bytes` bytes; what a killed attempt wrote after them is cut off."""
        self._file = path.open("ab", buffering=0)
        self._file.truncate(min(keep_bytes, path.stat().st_size))
        self.size = path.stat().st_size

    def write(self, record: Mapping[str, Any]) -> None:
        line = json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        self._file.write(line)
        self.size += len(line)

    def close(self) -> None:
        self._file.close()


class NoLines:
    """In the place of a `LineFile` where somebody else writes the file."""

    def write(self, record: Mapping[str, Any]) -> None:
        """Nothing."""


Lines = LineFile | NoLines


def open_lines(path: Path, *, before_step: int, writes: bool = True) -> Lines:
    """Open a file of steps for appending after the last whole line whose `step` is below `before_step`."""
    if not writes:
        return NoLines()
    kept = 0
    if path.exists():
        with path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n") or json.loads(line)["step"] >= before_step:
                    break
                kept += len(line)
    return LineFile(path, keep_bytes=kept)


class Status:
    """`status.json`: what a run is doing now, for the supervisor and the run page."""

    def __init__(self, directory: Path, *, writes: bool = True) -> None:
        self._writes = writes
        self._path = directory / "status.json"
        self._written_at = -math.inf
        self._phase = ""

    def update(
        self,
        phase: str,
        *,
        step: int = 0,
        steps: int | None = None,
        tokens_per_second: float | None = None,
        eta_seconds: float | None = None,
    ) -> None:
        """Write, unless the same phase was written a moment ago. Call it as often as you like."""
        now = time.monotonic()
        if not self._writes or (phase == self._phase and now - self._written_at < STATUS_SECONDS):
            return
        self._phase, self._written_at = phase, now
        write_json(
            self._path,
            {
                "phase": phase,
                "step": step,
                "steps": steps,
                "tokens_per_second": tokens_per_second,
                "eta_seconds": eta_seconds,
            },
        )


def check_values(values: Mapping[str, float], *, step: int, examples: list[str]) -> None:
    """Refuse a metric that has no name in `METRICS` (a bug) or no finite value.

    Raises:
        Diverged: a value is NaN or infinite.
    """
    for name, value in values.items():
        assert name in METRICS, f"metric {name} is not in METRICS"
        if not math.isfinite(value):
            raise Diverged(metric=name, value=value, step=step, examples=examples)
