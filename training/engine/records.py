"""The snapshot directory: the one place where its layout is read, checked and written. No torch, no Django.

    manifest.json                                   written last; without it the directory is no snapshot
    train.jsonl validation.jsonl test.jsonl         a canonical JSON object a line, sorted by id; absent when empty

`content_hash` is sha256 over kind, label policy and split rule (one canonical line) and then, part by part in the
order train, validation, test, the part's name and its lines, each ended by a newline. It knows neither times nor
names of people, so a snapshot rebuilt from the same votes has the same hash.

Lines may be erased for privacy, and nothing else is ever changed: the manifest then lists their ids as `erased`, keeps
the hash under which the snapshot was frozen, and says the hash of what is left. What was trained on it cannot be
resumed, since it is another snapshot to the engine.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from training.engine.errors import SnapshotError

FORMAT = "winnow-snapshot"
VERSION = 1
PARTS = ("train", "validation", "test")
MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class SnapshotFile:
    """One part of a snapshot as the manifest lists it."""

    name: str
    split: str
    sha256: str
    lines: int
    bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Tombstone:
    """A line that was erased: its id and part, and the comparison that it came from, if it said so."""

    id: str
    split: str
    comparison: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What `manifest.json` says. `counts` has every part and `total`, zero where a part is absent.

    Attributes:
        content_hash: of the lines that are there. frozen_hash: of those that were frozen; the same unless some of
            them were erased.
    """

    kind: str
    content_hash: str
    files: tuple[SnapshotFile, ...]
    label_policy: dict[str, Any]
    split: dict[str, Any]
    frozen_hash: str
    erased: tuple[Tombstone, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        by_part = {part: sum(item.lines for item in self.files if item.split == part) for part in PARTS}
        return {**by_part, "total": sum(by_part.values())}


def canonical_json(obj: object) -> str:
    """One spelling for equal values: sorted keys, no spaces, UTF-8 as it is, no NaN or infinity."""
    return json.dumps(obj, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


# --- what a line may hold ---------------------------------------------------------------------------------------------


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_probability(value: object) -> bool:
    return _is_number(value) and 0 <= value <= 1  # type: ignore[operator]


def _is_finish(value: object) -> bool:
    return value in ("end", "length")


def _is_prompt(value: object) -> bool:
    if not isinstance(value, list) or not value:
        return False
    turns = all(
        isinstance(turn, dict)
        and set(turn) == {"role", "content"}
        and turn["role"] in ("system", "user", "assistant")
        and isinstance(turn["content"], str)
        for turn in value
    )
    return turns and value[-1]["role"] == "user"


def _is_list_of(check: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list) and all(check(item) for item in value)


Check = tuple[Callable[[object], bool], str]
_FINISH: Check = (_is_finish, '"end" or "length"')
_TEXT: Check = (_is_text, "a text")
_BASE: dict[str, Check] = {
    "id": (lambda value: isinstance(value, str) and value != "", "a text that is not empty"),
    "group": _TEXT,
    "prompt": (_is_prompt, "a list of {role, content}, the last one the user's"),
}
_OPTIONAL: dict[str, Check] = {
    "weight": (lambda value: _is_number(value) and value > 0, "a positive number"),  # type: ignore[operator]
    "meta": (lambda value: isinstance(value, dict), "an object"),
}
_PROBABILITY: Check = (_is_probability, "a number in [0, 1]")
_REQUIRED: dict[str, dict[str, Check]] = {
    "prompts": {},
    "demonstrations": {"completion": _TEXT},
    "preferences": {"chosen": _TEXT, "rejected": _TEXT, "prob_chosen": _PROBABILITY},
    "rankings": {
        "completions": (_is_list_of(_is_text), "a list of texts"),
        "ranking": (
            _is_list_of(_is_list_of(lambda value: isinstance(value, int) and not isinstance(value, bool))),
            "a list of lists of indices, best first",
        ),
    },
    "ratings": {"completion": _TEXT, "desirable": (lambda value: isinstance(value, bool), "true or false")},
}
KINDS = tuple(_REQUIRED)
_OPTIONAL_BY_KIND: dict[str, dict[str, Check]] = {
    "prompts": {},
    "demonstrations": {"finish": _FINISH},
    "preferences": {
        "chosen_finish": _FINISH,
        "rejected_finish": _FINISH,
        "prob_share": _PROBABILITY,
        "margin": (lambda value: _is_number(value) and value >= 0, "a number that is not negative"),  # type: ignore[operator]
    },
    "rankings": {"finishes": (_is_list_of(_is_finish), 'a list of "end" or "length"')},
    "ratings": {"finish": _FINISH},
}


def check_line(record: object, *, kind: str, file: str, line: int) -> dict[str, Any]:
    """The record, if it is a line of this kind; keys outside the list belong under `meta`.

    Raises:
        SnapshotError: names the file, the line, and the key with its value.
    """
    if not isinstance(record, dict):
        raise SnapshotError("a line must be a JSON object", file=file, line=line)
    required = _BASE | _REQUIRED[kind]
    known = required | _OPTIONAL_BY_KIND[kind] | _OPTIONAL
    for key in required:
        if key not in record:
            raise SnapshotError(f"{key} is missing", file=file, line=line)
    for key, value in record.items():
        if key not in known:
            raise SnapshotError(f"unknown key {key!r} (other facts go under meta)", file=file, line=line)
        check, wanted = known[key]
        if not check(value):
            raise SnapshotError(f"{key} must be {wanted}, got {repr(value)[:80]}", file=file, line=line)
    if kind == "rankings":
        _check_ranking(record, file=file, line=line)
    return record


def _check_ranking(record: dict[str, Any], *, file: str, line: int) -> None:
    """At least two completions; each index at most once; a ranking may stop early, and the rest then come after it."""
    count, ranking = len(record["completions"]), record["ranking"]
    ranked = [index for tied in ranking for index in tied]
    if count < 2 or not all(ranking) or not ranked:
        raise SnapshotError("must rank at least two completions, no place empty", file=file, line=line)
    if len(set(ranked)) != len(ranked) or not all(0 <= index < count for index in ranked):
        raise SnapshotError(f"ranking must name each of 0 … {count - 1} at most once", file=file, line=line)
    if len(record.get("finishes", record["completions"])) != count:
        raise SnapshotError(f"finishes must have one entry for each of {count} completions", file=file, line=line)


def known_keys(kind: str) -> frozenset[str]:
    """The keys that a line of this kind may have."""
    return frozenset(_BASE | _REQUIRED[kind] | _OPTIONAL_BY_KIND[kind] | _OPTIONAL)


# --- writing ----------------------------------------------------------------------------------------------------------


def write_snapshot(
    directory: str | os.PathLike[str],
    *,
    kind: str,
    label_policy: dict[str, Any],
    split: dict[str, Any],
    lines: Mapping[str, Iterable[dict[str, Any]]],
) -> Manifest:
    """Write a snapshot aside, then rename it into place. A second call on the same directory is refused.

    Args:
        lines: part (`train`, `validation`, `test`) → its records in any order; an empty part gets no file.

    Raises:
        SnapshotError: a record that is not of this kind (file and line in the order written), a repeated id, a group
            in two parts, or a directory that exists.
    """
    target = Path(directory)
    if kind not in _REQUIRED:
        raise SnapshotError(f"unknown kind {kind!r}, one of {', '.join(_REQUIRED)}")
    if unknown := set(lines) - set(PARTS):
        raise SnapshotError(f"unknown part {sorted(unknown)[0]!r}, one of {', '.join(PARTS)}")
    if target.exists():
        raise SnapshotError("exists already", file=str(target))
    partial = target.parent / f".partial-{target.name}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        manifest = _write_files(partial, kind=kind, label_policy=label_policy, split=split, lines=lines)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    partial.replace(target)
    return manifest


def _write_files(
    directory: Path,
    *,
    kind: str,
    label_policy: dict[str, Any],
    split: dict[str, Any],
    lines: Mapping[str, Iterable[dict[str, Any]]],
) -> Manifest:
    files, seen = [], _Seen()
    for part in PARTS:
        records = sorted(lines.get(part, ()), key=lambda record: str(record.get("id", "")))
        if not records:
            continue
        name = f"{part}.jsonl"
        for number, record in enumerate(records, start=1):
            check_line(record, kind=kind, file=name, line=number)
            seen.add(record, file=name, line=number)
        data = "".join(canonical_json(record) + "\n" for record in records).encode()
        _write_synced(directory / name, data)
        files.append(
            SnapshotFile(
                name=name, split=part, sha256=hashlib.sha256(data).hexdigest(), lines=len(records), bytes=len(data)
            )
        )
    digest = _content_digest(kind, label_policy, split)
    for item in files:
        digest.update(f"{item.split}\n".encode())
        digest.update((directory / item.name).read_bytes())
    content_hash = digest.hexdigest()
    manifest = Manifest(
        kind=kind,
        content_hash=content_hash,
        files=tuple(files),
        label_policy=label_policy,
        split=split,
        frozen_hash=content_hash,
    )
    _write_synced(directory / MANIFEST, _manifest_bytes(manifest))
    return manifest


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _manifest_bytes(manifest: Manifest) -> bytes:
    return (json.dumps(_manifest_dict(manifest), indent=1, sort_keys=True) + "\n").encode()


def _manifest_dict(manifest: Manifest) -> dict[str, Any]:
    erased = {"content_hash": manifest.content_hash, "lines": [asdict(item) for item in manifest.erased]}
    return {
        "format": FORMAT,
        "version": VERSION,
        "kind": manifest.kind,
        "content_hash": manifest.frozen_hash,
        "label_policy": manifest.label_policy,
        "split": manifest.split,
        "files": [
            {"name": item.name, "split": item.split, "sha256": item.sha256, "lines": item.lines, "bytes": item.bytes}
            for item in manifest.files
        ],
        **({"erased": erased} if manifest.erased else {}),
    }


def erase_lines(directory: str | os.PathLike[str], *, doomed: Callable[[dict[str, Any]], bool]) -> Manifest:
    """Erase lines for privacy; the manifest of what is left. A second call finds no more.

    The manifest lists what goes before it goes: a call that is cut short leaves a snapshot that does not verify, and
    the next call ends what it began.

    Raises:
        SnapshotError: the directory is no snapshot, or a line cannot be read.
    """
    root = Path(directory)
    manifest = read_manifest(root)
    digest = _content_digest(manifest.kind, manifest.label_policy, manifest.split)
    gone: list[Tombstone] = []
    files: list[SnapshotFile] = []
    for item in sorted(manifest.files, key=lambda item: PARTS.index(item.split)):
        kept: list[bytes] = []
        with (root / item.name).open("rb") as file:
            for number, raw in enumerate(file, start=1):
                record = check_line(
                    _parse_line(raw, file=item.name, line=number), kind=manifest.kind, file=item.name, line=number
                )
                if doomed(record):
                    comparison = str(record.get("meta", {}).get("comparison", ""))
                    gone.append(Tombstone(id=record["id"], split=item.split, comparison=comparison))
                else:
                    kept.append(raw)
        data = b"".join(kept)
        _write_synced(root / f".partial-{item.name}", data)
        if kept:
            digest.update(f"{item.split}\n".encode() + data)
        sha256 = hashlib.sha256(data).hexdigest()
        files.append(SnapshotFile(name=item.name, split=item.split, sha256=sha256, lines=len(kept), bytes=len(data)))
    known = {item.id for item in manifest.erased}
    left = replace(
        manifest,
        content_hash=digest.hexdigest() if gone else manifest.content_hash,
        files=tuple(item for item in files if item.lines),
        erased=(*manifest.erased, *(item for item in gone if item.id not in known)),
    )
    if gone:
        _write_synced(root / f".partial-{MANIFEST}", _manifest_bytes(left))
        (root / f".partial-{MANIFEST}").replace(root / MANIFEST)
    for item in left.files:
        (root / f".partial-{item.name}").replace(root / item.name)
    for name in {f"{part}.jsonl" for part in PARTS} - {item.name for item in left.files}:
        (root / name).unlink(missing_ok=True)
        (root / f".partial-{name}").unlink(missing_ok=True)
    return left


# --- reading ----------------------------------------------------------------------------------------------------------


def read_manifest(directory: str | os.PathLike[str]) -> Manifest:
    """The manifest as it stands; the files are not looked at (`verify_snapshot` does).

    Raises:
        SnapshotError: no manifest, or not one of this format and version.
    """
    path = Path(directory) / MANIFEST
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SnapshotError("not found; the directory is no snapshot", file=str(path)) from None
    except (OSError, ValueError) as error:
        raise SnapshotError(f"not readable: {error}", file=str(path)) from None
    try:
        if raw["format"] != FORMAT or raw["version"] != VERSION:
            raise SnapshotError(f"is {raw['format']!r} version {raw['version']!r}, not {FORMAT} 1", file=str(path))
        files = tuple(
            SnapshotFile(
                name=item["name"], split=item["split"], sha256=item["sha256"], lines=item["lines"], bytes=item["bytes"]
            )
            for item in raw["files"]
        )
        if any(item.split not in PARTS or item.name != f"{item.split}.jsonl" for item in files):
            raise SnapshotError("lists a file that is no part of a snapshot", file=str(path))
        if raw["kind"] not in _REQUIRED:
            raise SnapshotError(f"unknown kind {raw['kind']!r}", file=str(path))
        erased = raw.get("erased", {"content_hash": raw["content_hash"], "lines": []})
        return Manifest(
            kind=raw["kind"],
            content_hash=erased["content_hash"],
            files=files,
            label_policy=raw["label_policy"],
            split=raw["split"],
            frozen_hash=raw["content_hash"],
            erased=tuple(
                Tombstone(id=item["id"], split=item["split"], comparison=item["comparison"]) for item in erased["lines"]
            ),
        )
    except (KeyError, TypeError) as error:
        raise SnapshotError(f"lacks or misuses {error}", file=str(path)) from None


def verify_snapshot(directory: str | os.PathLike[str]) -> Manifest:
    """Read every line and compare everything that the manifest promises.

    Raises:
        SnapshotError: names the file and, unless only a hash tells, the line.
    """
    root = Path(directory)
    manifest = read_manifest(root)
    digest = _content_digest(manifest.kind, manifest.label_policy, manifest.split)
    seen = _Seen()
    for item in sorted(manifest.files, key=lambda item: PARTS.index(item.split)):
        digest.update(f"{item.split}\n".encode())
        file_digest, size, lines, last_id = hashlib.sha256(), 0, 0, ""
        try:
            with (root / item.name).open("rb") as file:
                for lines, raw in enumerate(file, start=1):
                    file_digest.update(raw)
                    digest.update(raw)
                    size += len(raw)
                    record = check_line(
                        _parse_line(raw, file=item.name, line=lines), kind=manifest.kind, file=item.name, line=lines
                    )
                    if record["id"] < last_id:
                        raise SnapshotError("lines are not sorted by id", file=item.name, line=lines)
                    last_id = record["id"]
                    seen.add(record, file=item.name, line=lines)
        except FileNotFoundError:
            raise SnapshotError("listed in the manifest, but not there", file=item.name) from None
        if lines != item.lines or size != item.bytes:
            raise SnapshotError(
                f"has {lines} lines and {size} bytes, the manifest says {item.lines} and {item.bytes}",
                file=item.name,
                line=min(lines, item.lines) + 1 if lines != item.lines else None,
            )
        if file_digest.hexdigest() != item.sha256:
            raise SnapshotError("sha256 is not the manifest's: a text or number was changed", file=item.name)
    if digest.hexdigest() != manifest.content_hash:
        raise SnapshotError(
            "content_hash does not fit the files: kind, label policy or split was changed", file=MANIFEST
        )
    return manifest


def iter_lines(directory: str | os.PathLike[str], split: str) -> Iterator[dict[str, Any]]:
    """The records of one part in order of id; nothing when the part is empty. Verify the snapshot first."""
    manifest = read_manifest(directory)
    for item in manifest.files:
        if item.split == split:
            with (Path(directory) / item.name).open("rb") as file:
                for number, raw in enumerate(file, start=1):
                    yield check_line(
                        _parse_line(raw, file=item.name, line=number), kind=manifest.kind, file=item.name, line=number
                    )


def _parse_line(raw: bytes, *, file: str, line: int) -> object:
    try:
        record = json.loads(raw.decode("utf-8"))
    except ValueError as error:
        raise SnapshotError(f"no UTF-8 JSON: {error}", file=file, line=line) from None
    try:
        canonical = canonical_json(record)
    except ValueError:
        raise SnapshotError("holds a number that is not finite", file=file, line=line) from None
    if canonical.encode() + b"\n" != raw:
        raise SnapshotError("is not in canonical JSON (sorted keys, no spaces, one newline)", file=file, line=line)
    return record


def _content_digest(kind: str, label_policy: dict[str, Any], split: dict[str, Any]) -> hashlib._Hash:
    head = canonical_json({"kind": kind, "label_policy": label_policy, "split": split})
    return hashlib.sha256(f"{head}\n".encode())


class _Seen:
    """Ids and groups so far: an id once in the snapshot, a group in one file only."""

    def __init__(self) -> None:
        self._ids: set[str] = set()
        self._file_of_group: dict[str, str] = {}

    def add(self, record: dict[str, Any], *, file: str, line: int) -> None:
        if record["id"] in self._ids:
            raise SnapshotError(f"id {record['id']!r} was there before", file=file, line=line)
        self._ids.add(record["id"])
        other = self._file_of_group.setdefault(record["group"], file)
        if other != file:
            raise SnapshotError(f"group {record['group']!r} is in {other} too", file=file, line=line)
