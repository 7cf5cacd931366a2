"""Files as records with line numbers: JSON Lines, CSV, Parquet and JSON arrays, streamed in constant memory.

A file is hostile until it is read. What is wrong with one record is that record's refusal and reading goes on; what
makes the rest unreadable refuses the file. Nothing here knows what the records mean.
"""

from __future__ import annotations

import codecs
import csv
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from enum import Enum
from pathlib import Path
from typing import IO, Any, assert_never

import pyarrow as pa
import pyarrow.parquet as pq

from annotation import strict_json
from annotation.errors import DomainError
from annotation.importing import cells
from annotation.importing.rows import BadRow

MOST_LINE = 1_000_000  # bytes of one record
MOST_BYTES = 2_000_000_000  # of a file, decompressed
MOST_RATIO = 100
MOST_ROW_GROUP = 512_000_000  # decompressed; a dictionary of this size is the most that a batch can hold
MOST_COLUMNS = 500
_SMALL = 10_000_000  # below this nothing can be a bomb
_PARQUET_ROWS = 200
_CHUNK = 1 << 20


class FileFormat(Enum):
    """How the records of a file are written down. `json` is one array, as Label Studio and Argilla export."""

    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"
    JSON = "json"

    @classmethod
    def of(cls, name: str) -> FileFormat:
        """The format that a file's name ends with; JSON Lines without a known ending."""
        ending = Path(name).suffix.lower().lstrip(".")
        return {"csv": cls.CSV, "parquet": cls.PARQUET, "json": cls.JSON}.get(ending, cls.JSONL)


class BadFile(DomainError):
    """The file as a whole cannot be read."""

    code = "bad_file"


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One record: where it starts (a line; in Parquet and arrays its number), its size, and its fields or why none."""

    line: int
    size_bytes: int
    value: dict[str, Any] | BadRow


def read_records(path: Path, file_format: FileFormat, *, columns: Mapping[str, str] | None = None) -> Iterator[Record]:
    """Every record of a file in order; blank lines are none.

    Args:
        columns: our field by the file's: {"prompt": "question"} reads the column `question` as `prompt`.

    Raises:
        BadFile: the rest of the file cannot be read.
    """
    renames = dict(columns or {})
    match file_format:
        case FileFormat.JSONL:
            found = _read_lines(path)
        case FileFormat.CSV:
            found = _read_csv(path, renames)
        case FileFormat.PARQUET:
            found = _read_parquet(path, renames)
        case FileFormat.JSON:
            found = _read_array(path)
        case _:
            assert_never(file_format)
    if not renames or file_format in {FileFormat.CSV, FileFormat.PARQUET}:
        yield from found
        return
    for record in found:
        value = record.value
        yield (
            record
            if isinstance(value, BadRow)
            else Record(line=record.line, size_bytes=record.size_bytes, value=_renamed(value, renames))
        )


def check_columns(columns: object) -> dict[str, str]:
    """A column mapping from JSON.

    Raises:
        BadFile: it is no object of names.
    """
    if not isinstance(columns, dict) or len(columns) > MOST_COLUMNS:
        raise BadFile(f"columns must be an object of names, got {columns!r:.120}", details={"columns": ["no object"]})
    for ours, theirs in columns.items():
        if not isinstance(theirs, str) or not 0 < len(theirs) <= 200 or not 0 < len(ours) <= 80:
            rule = "must be the name of a column in the file"
            raise BadFile(f"columns.{ours:.80} {rule}, got {theirs!r:.120}", details={f"columns.{ours:.80}": [rule]})
    return dict(columns)


def _renamed(record: Mapping[str, Any], renames: Mapping[str, str]) -> dict[str, Any]:
    """The record with our names; a name with dots goes into objects (`data.question`)."""
    taken = set(renames.values())
    found = {key: value for key, value in record.items() if key not in taken and key not in renames}
    for ours, theirs in renames.items():
        value: Any = record.get(theirs)
        if theirs not in record and "." in theirs:
            value = record
            for part in theirs.split("."):
                value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            found[ours] = value
    return found


# --- JSON Lines -------------------------------------------------------------------------------------------------------


def _lines(handle: IO[bytes]) -> Iterator[tuple[int, bytes | int]]:
    """Number and bytes of each line; a line that is too long is never held: its number and length come instead."""
    number = 0
    while line := handle.readline(MOST_LINE + 2):
        number += 1
        if len(line) <= MOST_LINE + 1 and (line.endswith(b"\n") or len(line) <= MOST_LINE):
            yield number, line
            continue
        length = len(line)
        while not line.endswith(b"\n") and (line := handle.readline(_CHUNK)):
            length += len(line)
        yield number, length


def _read_lines(path: Path) -> Iterator[Record]:
    with path.open("rb") as handle:
        for number, line in _lines(handle):
            if isinstance(line, int):
                yield Record(line=number, size_bytes=line, value=_too_long(line))
                continue
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)  # noqa: PLW2901
            if line.strip():
                yield Record(line=number, size_bytes=len(line), value=_parsed(line))


def _too_long(length: int) -> BadRow:
    return BadRow("", f"{length} bytes", f"the line is longer than {MOST_LINE} bytes")


def _parsed(line: bytes | str) -> dict[str, Any] | BadRow:
    try:
        value = strict_json.loads(line)
    except strict_json.BadJSON as error:
        shown = line.decode(errors="replace") if isinstance(line, bytes) else line
        return BadRow(error.path, shown.strip(), error.message)
    if not isinstance(value, dict):
        return BadRow("", value, "the line must be a JSON object")
    return value


# --- JSON arrays ------------------------------------------------------------------------------------------------------


def _read_array(path: Path) -> Iterator[Record]:
    """The elements of one big array, one at a time; the file is never held whole."""
    decoder = json.JSONDecoder()
    number = 0
    with path.open("r", encoding="utf-8-sig", errors="surrogateescape", newline="") as handle:
        buffer, at, is_end = "", 0, False

        def more() -> None:
            nonlocal buffer, at, is_end
            chunk = handle.read(_CHUNK)
            buffer, at, is_end = buffer[at:] + chunk, 0, not chunk

        def skip(characters: str) -> str:
            """The next character that is none of these, without taking it; "" at the end."""
            nonlocal at
            while True:
                while at < len(buffer) and buffer[at] in characters:
                    at += 1
                if at < len(buffer) or is_end:
                    return buffer[at : at + 1]
                more()

        first = skip(" \t\r\n")
        if first == "":
            return
        if first != "[":
            raise BadFile("The file is no JSON array: it must start with [.")
        at += 1
        while True:
            start = skip(" \t\r\n,")
            if start == "]":
                at += 1
                if skip(" \t\r\n"):
                    raise BadFile("There is something after the end of the array.")
                return
            number += 1
            while True:
                try:
                    _, end = decoder.raw_decode(buffer, at)
                except RecursionError:
                    raise BadFile(f"Element {number} of the array is nested too deep.") from None
                except ValueError as error:
                    if is_end or len(buffer) - at > MOST_LINE + _CHUNK:
                        raise BadFile(f"Element {number} of the array is not JSON: {error!s:.200}") from None
                    more()
                    continue
                if end == len(buffer) and not is_end:  # a number may go on in the next chunk
                    more()
                    continue
                break
            text = buffer[at:end]
            at = end
            size = len(text)
            yield Record(line=number, size_bytes=size, value=_too_long(size) if size > MOST_LINE else _parsed(text))


# --- CSV --------------------------------------------------------------------------------------------------------------


def _read_csv(path: Path, renames: Mapping[str, str]) -> Iterator[Record]:
    """Comma-separated with a header; a byte that is no UTF-8 spoils its own row only."""
    csv.field_size_limit(MOST_LINE)
    with path.open("rb") as handle:
        # surrogateescape, because an exception from within would end csv's reader
        decoded = (
            line.decode(errors="surrogateescape") if isinstance(line, bytes) else "x" * (MOST_LINE + 1)
            for _, line in _lines(handle)
        )
        reader = csv.reader(decoded, strict=True)
        header = _header(reader)
        while True:
            line = reader.line_num + 1
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield Record(line=line, size_bytes=MOST_LINE, value=BadRow("", "", f"not CSV: {error}"))
                continue
            if row and any(row):
                yield Record(line=line, size_bytes=sum(map(len, row)), value=_csv_row(header, row, renames))


def _header(reader: Any) -> list[str]:
    try:
        header = [name.strip().removeprefix("\ufeff") for name in next(reader, [])]
    except csv.Error as error:
        raise BadFile(f"The first line is no CSV header: {error}.") from None
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise BadFile(f"The header names {repeated[0]!r:.80} twice.")
    if len(header) > MOST_COLUMNS:
        raise BadFile(f"The header has {len(header)} columns; at most {MOST_COLUMNS} are taken.")
    return header


def _csv_row(header: list[str], row: list[str], renames: Mapping[str, str]) -> dict[str, Any] | BadRow:
    if len(row) != len(header):
        return BadRow("", f"{len(row)} cells", f"the row has {len(row)} cells and the header {len(header)}")
    if sum(map(len, row)) > MOST_LINE:
        return _too_long(sum(map(len, row)))
    for name, cell in zip(header, row, strict=True):
        if "\x00" in cell:
            return BadRow(name, cell, f"{name} contains a NUL character")
        if any("\udc80" <= c <= "\udcff" for c in cell):
            return BadRow(name, cell, f"{name} is not UTF-8")
    try:
        return cells.from_csv(_renamed(dict(zip(header, row, strict=True)), renames))
    except BadRow as error:
        return error


# --- Parquet ----------------------------------------------------------------------------------------------------------


def _read_parquet(path: Path, renames: Mapping[str, str]) -> Iterator[Record]:
    """Row by row. Texts stay dictionary-encoded until their row is read: one value a million times over is small."""
    try:
        with pq.ParquetFile(path) as probe:
            _check_parquet(probe.metadata, path.stat().st_size)
            _check_schema(probe.schema_arrow)
            texts = [
                probe.schema.column(i).path
                for i in range(len(probe.schema))
                if probe.schema.column(i).physical_type == "BYTE_ARRAY"
            ]
        number = 0
        with pq.ParquetFile(path, read_dictionary=texts, buffer_size=_CHUNK, pre_buffer=False) as file:
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS, use_threads=False):
                names = batch.schema.names
                for i in range(batch.num_rows):
                    number += 1
                    yield _parquet_row(number, names, [batch.column(k)[i] for k in range(len(names))], renames)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise BadFile(f"The file is no Parquet that can be read: {error!s:.200}") from None


def _check_parquet(metadata: Any, size: int) -> None:
    groups = [metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)]
    total = sum(groups)
    if total > MOST_BYTES or total < 0:
        raise BadFile(f"The file holds {total} bytes when decompressed; at most {MOST_BYTES} are taken.")
    if total > max(_SMALL, MOST_RATIO * size):
        raise BadFile(f"The file grows {total // max(size, 1)} times when decompressed; at most {MOST_RATIO} is taken.")
    if max(groups, default=0) > MOST_ROW_GROUP:
        raise BadFile(f"A row group holds {max(groups)} bytes; write groups of at most {MOST_ROW_GROUP}.")
    if metadata.num_columns > MOST_COLUMNS:
        raise BadFile(f"The file has {metadata.num_columns} columns; at most {MOST_COLUMNS} are taken.")


def _check_schema(schema: pa.Schema) -> None:
    for item in schema:
        if not _is_plain(item.type):
            raise BadFile(f"The column {item.name!r:.80} holds {item.type!s:.80}, which is no text, number or list.")


def _is_plain(kind: pa.DataType) -> bool:
    types = pa.types
    if types.is_dictionary(kind):
        return _is_plain(kind.value_type)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _is_plain(kind.value_type)
    if types.is_struct(kind):
        return all(_is_plain(kind.field(i).type) for i in range(kind.num_fields))
    if types.is_map(kind):
        return types.is_string(kind.key_type) and _is_plain(kind.item_type)
    return bool(
        types.is_string(kind) or types.is_large_string(kind) or types.is_boolean(kind) or types.is_integer(kind)
        or types.is_floating(kind) or types.is_null(kind) or types.is_timestamp(kind) or types.is_date(kind)
    )  # fmt: skip


def _parquet_row(number: int, names: list[str], values: list[Any], renames: Mapping[str, str]) -> Record:
    found: dict[str, Any] = {}
    size = 0
    try:
        for name, value in zip(names, values, strict=True):
            found[name], cost = _plain(name, value.as_py(), 0)
            size += cost
            if size > MOST_LINE:
                return Record(line=number, size_bytes=size, value=_too_long(size))
        return Record(line=number, size_bytes=size, value=cells.from_texts(_renamed(found, renames)))
    except BadRow as error:
        return Record(line=number, size_bytes=size, value=error)


def _plain(name: str, value: Any, depth: int) -> tuple[Any, int]:
    """A value as JSON has it, checked as `strict_json` does, and its size."""
    if depth > strict_json.MOST_DEPTH:
        raise BadRow(name[:80], "", f"nested deeper than {strict_json.MOST_DEPTH}")
    if isinstance(value, str):
        if "\x00" in value:
            raise BadRow(name, value, f"{name} contains a NUL character")
        return value, len(value)
    if isinstance(value, float):
        return (None, 8) if math.isnan(value) else (_finite(name, value), 8)  # pandas writes what is missing as NaN
    if isinstance(value, datetime | date):
        return value.isoformat(), 32
    if isinstance(value, dict):
        pairs = {key: _plain(f"{name}.{key}", item, depth + 1) for key, item in value.items()}
        return {key: item for key, (item, _) in pairs.items()}, sum(cost for _, cost in pairs.values())
    if isinstance(value, tuple):  # an entry of a map
        value = list(value)
    if isinstance(value, list):
        items = [_plain(f"{name}[{i}]", item, depth + 1) for i, item in enumerate(value)]
        return [item for item, _ in items], sum(cost for _, cost in items) + 8 * len(items)
    return value, 8


def _finite(name: str, value: float) -> float:
    if not math.isfinite(value):
        raise BadRow(name, str(value), f"{name}: the number is too large")
    return value
