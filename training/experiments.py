"""Which results of experiments there are: those that come with the code, and those of this machine's own runs.

Both directories hold files of one format (`training.experiment_format`). Of an experiment and setting the newer result
counts. A file that cannot be read is named with the reason, and the others are shown all the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from training.experiment_format import InvalidResult, Result, parse

LARGEST_BYTES = 5_000_000  # tables and charts of one page; what is larger is no result


class Origin(StrEnum):
    """Where a result was measured."""

    SHIPPED = "shipped"
    HERE = "here"


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """A result, and whether it was measured here."""

    result: Result
    origin: Origin


@dataclass(frozen=True, kw_only=True, slots=True)
class Broken:
    """A file that is no result: its name, and why not."""

    file: str
    origin: Origin
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """All that the directories hold; results by experiment, the full setting first."""

    shown: list[Shown]
    broken: list[Broken]


def find(directories: Mapping[Origin, Path]) -> Found:
    """Read both directories; one that does not exist is empty."""
    newest: dict[str, Shown] = {}
    broken: list[Broken] = []
    for origin, directory in directories.items():
        for one in _files(directory, origin):
            if isinstance(one, Broken):
                broken.append(one)
                continue
            known = newest.get(one.result.file_name)
            if known is None or known.result.finished < one.result.finished:
                newest[one.result.file_name] = one
    return Found(shown=sorted(newest.values(), key=lambda one: one.result.file_name), broken=broken)


def find_one(directories: Mapping[Origin, Path], *, experiment: str, setting: str) -> Shown | None:
    """The newer result of an experiment and setting; None where no directory has one that can be read."""
    found = find(directories).shown
    return next((one for one in found if (one.result.experiment, one.result.setting) == (experiment, setting)), None)


def _files(directory: Path, origin: Origin) -> Iterator[Shown | Broken]:
    for file in sorted(directory.glob("*.json")):
        if file.name.startswith("."):  # a draft that is being written
            continue
        try:
            yield Shown(result=_read(file), origin=origin)
        except OSError as error:  # without its path, which is no business of a reader's
            yield Broken(file=file.name, origin=origin, reason=error.strerror or type(error).__name__)
        except (InvalidResult, UnicodeDecodeError) as error:
            yield Broken(file=file.name, origin=origin, reason=str(error))


def _read(file: Path) -> Result:
    size = file.stat().st_size
    if size > LARGEST_BYTES:
        raise InvalidResult("", f"holds {size:,} bytes, more than the {LARGEST_BYTES:,} that are read")
    result = parse(file.read_text(encoding="utf-8"))
    if file.name != result.file_name:
        raise InvalidResult("", f"should be named {result.file_name} by what it holds")
    return result
