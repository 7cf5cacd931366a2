"""The `snapshot` command: a JSON Lines file from anywhere → a checked, grouped and split snapshot directory.

Reads our own layout (`records.py`) and TRL's: prompt, chosen, rejected, completion, messages, label, each text plain or
as a list of turns. The whole file is checked before a byte is written. No torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from training.engine.errors import SnapshotError
from training.engine.records import PARTS, Manifest, canonical_json, check_line, known_keys, write_snapshot
from training.splits import member_key, part_of, prompt_groups

SHARES = (0.8, 0.1, 0.1)
SPLIT_RULE = "prompt-group/blake2b-64"
_TEXTS = {
    "prompts": (),
    "demonstrations": ("completion",),
    "preferences": ("chosen", "rejected"),
    "rankings": ("completions",),
    "ratings": ("completion",),
}
Turn = dict[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """A line of the input, for messages."""

    file: str
    line: int

    def refuse(self, message: str) -> NoReturn:
        raise SnapshotError(message, file=self.file, line=self.line)


def assemble(
    source: Path, target: Path, *, kind: str | None = None, seed: int = 1, shares: Sequence[float] = SHARES
) -> Manifest:
    """Write the snapshot `target` from a JSON Lines file; an existing directory is refused, nothing is half written.

    A string prompt becomes one user message. Conversations that share their first turns are split before the last
    one. Missing ids are hashes of the record; missing groups are made as the platform makes them, near-duplicate
    prompts share one. A `split` key is kept; without one, whole groups are drawn. Unknown keys go under `meta`.

    Args:
        kind: of the lines; None: told from the keys of the first line.
        seed, shares: of the draw into train, validation and test.

    Raises:
        SnapshotError: names the file and the line.
    """
    lines = _read(source)
    first_place, first = lines[0]
    found_kind = kind or _kind_of(first, first_place)
    records, parts = [], []
    for place, raw in lines:
        if kind is None and (other := _kind_of(raw, place)) != found_kind:
            place.refuse(f"is a line of {other}, the lines before are {found_kind}; name one with --kind")
        record, part = _convert(raw, kind=found_kind, place=place)
        records.append(record)
        parts.append(part)
    places = [place for place, _ in lines]
    drawn = _all_or_none([part is not None for part in parts], places, key="split")
    _make_groups(records, places, kept_split=not drawn)
    if drawn:
        by_name = dict(zip(PARTS, shares, strict=True))
        parts = [part_of(record["group"], shares=by_name, seed=seed) for record in records]
    split = {"rule": SPLIT_RULE, "seed": seed, "shares": dict(zip(PARTS, shares, strict=True))}
    _check_together(records, parts, places, kind=found_kind)
    return write_snapshot(
        target,
        kind=found_kind,
        label_policy={} if found_kind in ("prompts", "demonstrations") else {"aggregator": "given"},
        split=split if drawn else {"rule": "given", "seed": None, "shares": None},
        lines={name: [r for r, part in zip(records, parts, strict=True) if part == name] for name in PARTS},
    )


# --- reading ----------------------------------------------------------------------------------------------------------


def _read(source: Path) -> list[tuple[_Place, dict[str, Any]]]:
    try:
        rows = source.read_bytes().removeprefix(b"\xef\xbb\xbf").removesuffix(b"\n").split(b"\n")
    except OSError as error:
        raise SnapshotError(f"cannot be read: {error}", file=source.name) from error
    if rows == [b""]:
        raise SnapshotError("holds no lines", file=source.name)
    return [(place := _Place(file=source.name, line=n), _object(row, place)) for n, row in enumerate(rows, start=1)]


def _object(row: bytes, place: _Place) -> dict[str, Any]:
    def not_finite(name: str) -> NoReturn:
        place.refuse(f"holds {name}, which is no JSON number")

    try:
        record = json.loads(row.decode("utf-8"), parse_constant=not_finite)
        canonical_json(record).encode()
    except ValueError as error:  # not JSON, not UTF-8, half a surrogate pair, a number beyond floats
        place.refuse(f"no UTF-8 JSON: {error}")
    if not isinstance(record, dict):
        place.refuse("a line must be a JSON object")
    return record


def _kind_of(record: Mapping[str, Any], place: _Place) -> str:
    """The kind that the keys of a line tell."""
    keys = record.keys()
    if {"chosen", "rejected"} <= keys:
        return "preferences"
    if {"completions", "ranking"} <= keys:
        return "rankings"
    if "completion" in keys and ("desirable" in keys or isinstance(record.get("label"), bool)):
        return "ratings"
    if "completion" in keys or "messages" in keys:
        return "demonstrations"
    if "prompt" in keys and "completions" not in keys and not {"chosen", "rejected"} & keys:
        return "prompts"
    return place.refuse(f"keys {', '.join(sorted(keys))} tell no kind; name one with --kind")


# --- one line ---------------------------------------------------------------------------------------------------------


def _convert(raw: dict[str, Any], *, kind: str, place: _Place) -> tuple[dict[str, Any], str | None]:
    """A record of our own layout (its group may be missing), and the part that the line names."""
    record = _own_keys(raw, kind=kind)
    part = record.pop("split", None)
    if part is not None and part not in PARTS:
        place.refuse(f"split must be one of {', '.join(PARTS)}, got {part!r}")
    if kind == "preferences" and "prompt" not in record:
        _split_conversations(record, place)
    if kind == "demonstrations" and "messages" in record:
        _split_messages(record, place)
    if kind == "ratings" and "desirable" not in record and isinstance(record.get("label"), bool):
        record["desirable"] = record.pop("label")
    if isinstance(record.get("prompt"), str):
        record["prompt"] = [{"role": "user", "content": record["prompt"]}]
    for name in _TEXTS[kind]:
        if name in record:
            record[name] = _text(record[name], name=name, prompt=record.get("prompt"), place=place)
    if kind == "preferences":
        record.setdefault("prob_chosen", 1.0)
    _move_to_meta(record, kind=kind, place=place)
    if type(record.get("id")) is int:
        record["id"] = str(record["id"])
    if "id" not in record:
        record["id"] = hashlib.sha256(canonical_json({**record, "meta": None}).encode()).hexdigest()[:24]
    check_line({"group": "", **record}, kind=kind, file=place.file, line=place.line)
    return record, part


def _own_keys(raw: dict[str, Any], *, kind: str) -> dict[str, Any]:
    """Without the optional keys that are null: other programs write one for each column."""
    return {key: value for key, value in raw.items() if value is not None or key not in known_keys(kind) | {"split"}}


def _split_conversations(record: dict[str, Any], place: _Place) -> None:
    """chosen and rejected as whole conversations: all turns but the last are the prompt."""
    sides = [record[name] for name in ("chosen", "rejected")]
    if not all(isinstance(side, list) and side for side in sides):
        place.refuse("prompt is missing, and chosen and rejected are not whole conversations")
    chosen, rejected = sides
    if chosen[:-1] != rejected[:-1] or not chosen[:-1]:
        place.refuse("chosen and rejected must be conversations that differ in their last turn only")
    record["prompt"] = chosen[:-1]
    record["chosen"], record["rejected"] = chosen[-1:], rejected[-1:]


def _split_messages(record: dict[str, Any], place: _Place) -> None:
    messages = record.pop("messages")
    if "prompt" in record or "completion" in record:
        place.refuse("has messages beside prompt or completion")
    if not isinstance(messages, list) or len(messages) < 2:
        place.refuse("messages must be a list of at least two turns")
    record["prompt"], record["completion"] = messages[:-1], messages[-1:]


def _text(value: object, *, name: str, prompt: object, place: _Place) -> object:
    """A completion as text; as turns it must be one of the assistant's, alone or after those of the prompt."""
    if name == "completions" and isinstance(value, list):
        return [_text(item, name="completions[]", prompt=prompt, place=place) for item in value]
    if not isinstance(value, list):
        return value
    if len(value) > 1 and value[:-1] == prompt:
        value = value[-1:]
    if len(value) != 1 or not isinstance(value[0], dict) or value[0].get("role") != "assistant":
        place.refuse(f"{name} must be a text or one turn of the assistant, got {repr(value)[:80]}")
    return value[0].get("content")


def _move_to_meta(record: dict[str, Any], *, kind: str, place: _Place) -> None:
    others = {key: record.pop(key) for key in sorted(record.keys() - known_keys(kind))}
    if not others:
        return
    meta = record.get("meta", {})
    if not isinstance(meta, dict):
        place.refuse(f"meta must be an object, got {repr(meta)[:80]}")
    if twice := others.keys() & meta.keys():
        place.refuse(f"{sorted(twice)[0]} is there twice, in the line and under meta")
    record["meta"] = {**meta, **others}


# --- all lines --------------------------------------------------------------------------------------------------------


def _all_or_none(there: Sequence[bool], places: Sequence[_Place], *, key: str) -> bool:
    """True where no line has the key; some with and some without are refused."""
    if any(there) and not all(there):
        places[there.index(False)].refuse(f"{key} is missing, but other lines have one")
    return not any(there)


def _make_groups(records: list[dict[str, Any]], places: Sequence[_Place], *, kept_split: bool) -> None:
    """Groups where no line has one. Parts that are kept may divide near-duplicates, so there equal prompts make one."""
    if not _all_or_none(["group" in record for record in records], places, key="group"):
        return
    prompts: list[list[Turn]] = [record["prompt"] for record in records]
    if kept_split:
        groups = [member_key("\n".join(f"{turn['role']}: {turn['content']}" for turn in prompt)) for prompt in prompts]
    else:
        groups = prompt_groups(prompts, [_completions(record) for record in records])
    for record, group in zip(records, groups, strict=True):
        record["group"] = group


def _completions(record: Mapping[str, Any]) -> list[str]:
    return [
        *(record[name] for name in ("completion", "chosen", "rejected") if name in record),
        *record.get("completions", ()),
    ]


def _check_together(
    records: Sequence[dict[str, Any]], parts: Sequence[str | None], places: Sequence[_Place], *, kind: str
) -> None:
    """Ids once, groups in one part: by the lines of the input, before anything is written."""
    line_of_id: dict[str, int] = {}
    part_of_group: dict[str, tuple[str | None, int]] = {}
    for record, part, place in zip(records, parts, places, strict=True):
        check_line(record, kind=kind, file=place.file, line=place.line)
        if (first := line_of_id.setdefault(record["id"], place.line)) != place.line:
            place.refuse(f"id {record['id']!r} is that of line {first}, or the lines are equal")
        other, line = part_of_group.setdefault(record["group"], (part, place.line))
        if other != part:
            place.refuse(f"is in {part}, but line {line} of its prompt group is in {other}")
