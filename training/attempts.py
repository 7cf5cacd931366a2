"""The directory of one attempt, `<runs>/<job>/<attempt>/`: what the engine left there, read with distrust.

Files only: this module knows no database and no process. A line that is still being written, a checkpoint without a
manifest, a value that no database can store: none of them gets out of here.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from annotation.redaction import redact

MANIFEST = "manifest.json"
TAIL_LINES = 200
_TAIL_BYTES = 256 * 1024
_READ_BYTES = 4 * 1024 * 1024
_STEP = re.compile(r"step-(\d{1,9})")
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")  # PostgreSQL refuses NUL in JSON, UTF-8 lone surrogates


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One whole line of a JSON Lines file; `end` is the byte offset after it, `record` None if it is no JSON object."""

    end: int
    record: dict[str, Any] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointFiles:
    """A checkpoint that has its manifest; `sha256` is the manifest's, which holds those of the files."""

    step: int
    directory: Path
    sha256: str
    size_bytes: int


def attempt_directory(runs_dir: Path, job: uuid.UUID, attempt: int) -> Path:
    """Where an attempt writes. An attempt reads those of earlier ones, and writes only its own."""
    return runs_dir / str(job) / str(attempt)


def read_lines(file: Path, *, offset: int, limit: int) -> list[Line]:
    """At most `limit` whole lines from a byte offset on. A last line without its newline waits for the next call."""
    try:
        with file.open("rb") as source:
            source.seek(offset)
            data = source.read(_READ_BYTES)
            if b"\n" not in data:
                data += source.read()  # a single line that is longer than the piece
    except FileNotFoundError:
        return []
    lines: list[Line] = []
    start = 0
    while len(lines) < limit and (stop := data.find(b"\n", start)) >= 0:
        lines.append(Line(end=offset + stop + 1, record=_object(data[start:stop])))
        start = stop + 1
    return lines


def read_object(file: Path) -> dict[str, Any] | None:
    """The JSON object in a file that is replaced as a whole; None if it is not there or not one."""
    try:
        return _object(file.read_bytes())
    except OSError:
        return None


def _object(raw: bytes) -> dict[str, Any] | None:
    try:
        record = _storable(json.loads(raw.decode("utf-8", "replace")))
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _storable(value: Any) -> Any:
    """The value as every database can keep it; raises ValueError for a number that is not finite."""
    if isinstance(value, str):
        return _UNSTORABLE.sub("\ufffd", value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"not finite: {value}")
    if isinstance(value, dict):
        return {_storable(key): _storable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_storable(item) for item in value]
    return value


def error_tail(directory: Path) -> str:
    """The last 200 lines of standard error, secrets filtered."""
    try:
        with (directory / "stderr.log").open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    return redact(_UNSTORABLE.sub("\ufffd", "\n".join(text.splitlines()[-TAIL_LINES:])))


def sweep(directory: Path) -> None:
    """Remove what a dead child left half written, which on a full disk is what fills it.

    A whole checkpoint (it has its manifest) that only lacks its name stays.
    """
    halves = [*directory.glob(".*partial*"), *directory.glob("checkpoints/.partial-*")]
    for half in halves:
        if half.is_dir():
            if not (half / MANIFEST).exists():
                shutil.rmtree(half, ignore_errors=True)
        else:
            half.unlink(missing_ok=True)


def checkpoints(directory: Path) -> list[CheckpointFiles]:
    """The whole checkpoints of an attempt, oldest first: those with a manifest, whose hashes are not checked here."""
    found = []
    for manifest in (directory / "checkpoints").glob(f"step-*/{MANIFEST}"):
        step = _STEP.fullmatch(manifest.parent.name)
        try:
            raw = manifest.read_bytes()
        except FileNotFoundError:
            continue  # the engine removed an old one just now
        if step is None or (files := _manifest_files(raw)) is None:
            continue
        found.append(
            CheckpointFiles(
                step=int(step[1]),
                directory=manifest.parent,
                sha256=hashlib.sha256(raw).hexdigest(),
                size_bytes=sum(size for _, size, _ in files),
            )
        )
    return sorted(found, key=lambda item: item.step)


def verifies(directory: Path, *, alive: Callable[[], object]) -> bool:
    """Whether every file of a checkpoint has the size and sha256 of its manifest. Reads all of it.

    Args:
        alive: called every few megabytes, since a large checkpoint takes longer to read than a lease lasts.
    """
    try:
        files = _manifest_files((directory / MANIFEST).read_bytes())
        return files is not None and all(
            _matches(directory / name, size, sha256, alive) for name, size, sha256 in files
        )
    except OSError:
        return False


def _matches(file: Path, size: int, sha256: str, alive: Callable[[], object]) -> bool:
    if file.stat().st_size != size:
        return False
    digest = hashlib.sha256()
    with file.open("rb") as source:
        while piece := source.read(_READ_BYTES):
            digest.update(piece)
            alive()
    return digest.hexdigest() == sha256


def _manifest_files(raw: bytes) -> list[tuple[str, int, str]] | None:
    """(path, bytes, sha256) of each file; None for a manifest that is none. Paths stay inside the directory."""
    manifest = _object(raw)
    entries = manifest.get("files") if manifest else None
    if not isinstance(entries, list) or not entries:
        return None
    files = [
        (entry.get("path"), entry.get("bytes"), entry.get("sha256")) for entry in entries if isinstance(entry, dict)
    ]
    whole = len(files) == len(entries) and all(
        isinstance(name, str) and isinstance(size, int) and isinstance(sha256, str) and _is_inside(name)
        for name, size, sha256 in files
    )
    return files if whole else None  # type: ignore[return-value]  # checked just above


def _is_inside(name: str) -> bool:
    path = Path(name)
    return not path.is_absolute() and ".." not in path.parts


def starts_directory(runs_dir: Path, job: uuid.UUID) -> Path:
    """Where a job keeps what other jobs would prune."""
    return runs_dir / str(job) / "start"


def start_directory(runs_dir: Path, job: uuid.UUID, step: int) -> Path:
    """Where a job keeps the checkpoint of another job that it starts from, if it was kept for it."""
    return starts_directory(runs_dir, job) / f"step-{step}"


def keep_start(source: Path, target: Path) -> None:
    """Keep a checkpoint from being pruned by the job that made it: by hard links where the disk allows. Once.

    Raises:
        OSError: it is being pruned in this moment.
    """
    if target.is_dir():
        return
    partial = target.with_name(f".partial-{target.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    shutil.copytree(source, partial, copy_function=_link_or_copy)
    partial.rename(target)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # another disk, or one that knows no hard links
        shutil.copy2(source, target)


def earlier_attempts(runs_dir: Path, job: uuid.UUID, *, before: int) -> Iterator[tuple[int, Path]]:
    """(attempt, directory) of the attempts before this one that have left a directory, newest first."""
    for attempt in range(before - 1, 0, -1):
        directory = attempt_directory(runs_dir, job, attempt)
        if directory.is_dir():
            yield attempt, directory
