"""What an experiment writes: a result as one file, in the format that the page of experiments reads.

The format itself is the application's (`training.experiment_format`), since it cannot import a benchmark; its classes
are named here again, so that an experiment imports all it needs from one place.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from training.experiment_format import (
    Across,
    Cell,
    Chart,
    Claim,
    Column,
    Estimate,
    InvalidResult,
    Kind,
    Line,
    Point,
    Provenance,
    Result,
    Scale,
    Series,
    Setting,
    Table,
    XAxis,
    YAxis,
    document,
    parse,
)

__all__ = [
    "COMMITTED",
    "Across",
    "Cell",
    "Chart",
    "Claim",
    "Column",
    "Estimate",
    "InvalidResult",
    "Kind",
    "Line",
    "Point",
    "Provenance",
    "Result",
    "Scale",
    "Series",
    "Setting",
    "Table",
    "XAxis",
    "YAxis",
    "read",
    "write",
]

COMMITTED = Path(__file__).with_name("results")


def write(result: Result, directory: Path) -> Path:
    """The result's file, whole or not at all; one of the same experiment and setting is replaced.

    Raises:
        InvalidResult: a value in it that the file could not give back.
    """
    text = json.dumps(document(result), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    parse(text)
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / result.file_name
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    draft.replace(file)
    return file


def read(file: Path) -> Result:
    """The result that a file holds.

    Raises:
        InvalidResult: the file breaks the format. OSError: it cannot be read.
    """
    return parse(file.read_text(encoding="utf-8"))
