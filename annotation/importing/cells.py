"""Cells of tables: which columns hold JSON or numbers, and the guard against formulas in CSV. Both ways.

A spreadsheet runs a cell that starts with = + − @ TAB or CR as a formula, so such a text leaves with an apostrophe in
front. So does a text that already starts with apostrophes before one of these: then taking one off restores both.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from annotation import strict_json
from annotation.importing.rows import BadRow

JSON_COLUMNS = frozenset({
    "messages", "completions", "completion_ids", "votes", "answer", "sampling", "scores", "meta", "retracted",
    "responses", "ratings", "rankings", "pairwise", "details", "request", "choices", "skills",
})  # fmt: skip
NUMBER_COLUMNS = frozenset({"tokens", "logprob", "overlap", "priority", "repetition", "guideline", "active_ms"})
BOOLEAN_COLUMNS = frozenset({"counted", "full_overlap"})
_GUARDED = re.compile(r"'+[=+\-@\t\r\n]")
_UNSAFE = re.compile(r"'*[=+\-@\t\r\n]")


def guard(text: str) -> str:
    """The text as a CSV cell may hold it."""
    return "'" + text if _UNSAFE.match(text) else text


def unguard(cell: str) -> str:
    """The text that `guard` was given."""
    return cell[1:] if _GUARDED.match(cell) else cell


def canonical(value: object) -> str:
    """JSON with sorted keys: PostgreSQL keeps no order of keys, and an export must not depend on it."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)


def csv_cell(value: object) -> str:
    """A value as a CSV cell; only texts are guarded, a number may start with its sign."""
    if value is None:
        return ""
    if isinstance(value, str):
        return guard(value)
    if isinstance(value, dict | list):
        return guard(canonical(value))
    return canonical(value)


def from_csv(record: Mapping[str, str]) -> dict[str, Any]:
    """A CSV row as JSON would have it; an empty cell is a field that was left out."""
    found: dict[str, Any] = {}
    for name, cell in record.items():
        if cell == "":
            continue
        if name in NUMBER_COLUMNS or name in BOOLEAN_COLUMNS:
            found[name] = _json(name, cell.strip().lower())
        else:
            found[name] = unguard(cell)
    return from_texts(found)


def from_texts(record: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that hold JSON, read where they are texts (in CSV always, in Parquet where nesting has no schema)."""
    return {
        name: _json(name, value) if name in JSON_COLUMNS and isinstance(value, str) else value
        for name, value in record.items()
        if value is not None
    }


def _json(name: str, text: str) -> Any:
    try:
        return strict_json.loads(text)
    except strict_json.BadJSON as error:
        raise BadRow(f"{name}.{error.path}" if error.path else name, text, f"{name}: {error.message}") from None
