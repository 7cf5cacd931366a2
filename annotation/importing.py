"""Prompts, comparisons and votes in from JSON Lines: the file is read and checked whole before anything is written.

A bad row stops the import and is reported by line, field and value; with `skip_bad_rows` the others go in. Importing
the same file again adds nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any, assert_never
from uuid import uuid4

from django.db import connection, transaction

from annotation import strict_json
from annotation.errors import DomainError
from annotation.gate import write
from annotation.models import (
    Choice,
    Comparison,
    Completion,
    Consensus,
    GuidelineVersion,
    ImportBatch,
    Project,
    Prompt,
    Slot,
    SlotState,
    Source,
    SourceKind,
    User,
    Vote,
    content_hash,
    messages_hash,
)
from annotation.pairing import Pair, create_comparisons
from annotation.people import imported_annotators

MOST_ERRORS_SHOWN = 100
MOST_LINE = 1_000_000
BATCH = 500
_ROLES = ("system", "user", "assistant")


class ImportKind(Enum):
    """What the rows of a file are."""

    PROMPTS = "prompts"
    VOTES = "votes"


@dataclass(frozen=True, kw_only=True, slots=True)
class RowError:
    """Why a row was refused."""

    line: int
    field: str
    value: str
    message: str

    def as_dict(self) -> dict[str, Any]:
        return {"line": self.line, "field": self.field, "value": self.value, "message": self.message}


class BadRows(DomainError):
    """Some rows cannot be read; nothing was imported. `details["errors"]` lists them by line."""

    code = "bad_rows"

    def __init__(self, errors: list[RowError]) -> None:
        first = errors[0]
        where = f"line {first.line}" + (f", {first.field}" if first.field else "")
        more = f" ({len(errors) - 1} more)" if len(errors) > 1 else ""
        super().__init__(
            f"{where}: {first.message}{more}. Nothing was imported.",
            details={"errors": [error.as_dict() for error in errors[:MOST_ERRORS_SHOWN]], "refused": len(errors)},
        )
        self.errors = errors


class _BadRow(Exception):
    def __init__(self, field_name: str, value: object, message: str) -> None:
        super().__init__(message)
        self.field = field_name
        self.value = value if isinstance(value, str) else json.dumps(value, default=str)


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptRow:
    """A checked line of a prompts file."""

    messages: list[dict[str, str]]
    category: str = ""
    external_id: str = ""

    @property
    def content_hash(self) -> str:
        return messages_hash(self.messages)


@dataclass(frozen=True, kw_only=True, slots=True)
class VoteRow:
    """A checked line of a votes file: a comparison with the votes that people gave elsewhere."""

    prompt: PromptRow
    a: str
    b: str
    source_a: str
    source_b: str
    votes: tuple[tuple[str, Choice, dict[str, Any]], ...]


@dataclass(kw_only=True, slots=True)
class _Read:
    rows: list[Any] = field(default_factory=list)
    errors: list[RowError] = field(default_factory=list)
    lines: int = 0


def import_lines(
    *,
    project: Project,
    kind: ImportKind,
    lines: Iterable[str | bytes],
    by: User | None,
    name: str = "",
    skip_bad_rows: bool = False,
    now: datetime,
) -> ImportBatch:
    """Import a JSON Lines file.

    Raises:
        BadRows: a row cannot be read and skipping was not asked for; nothing was written.
    """
    read = _read(lines, kind)
    if read.errors and not skip_bad_rows:
        raise BadRows(read.errors)
    if not read.rows:
        raise BadRows(read.errors or [RowError(line=1, field="", value="", message="the file holds no rows")])
    batch = ImportBatch.objects.create(
        project=project,
        kind=kind.value,
        name=name[:200],
        rows=read.lines,
        skipped=len(read.errors),
        errors=[error.as_dict() for error in read.errors[:MOST_ERRORS_SHOWN]],
        created_at=now,
        created_by=by,
    )
    match kind:
        case ImportKind.PROMPTS:
            imported = len(_load_prompts(project, read.rows, batch, now)[1])
        case ImportKind.VOTES:
            imported = _load_votes(project, read.rows, batch, now)
        case _:
            assert_never(kind)
    batch.imported, batch.duplicates = imported, len(read.rows) - imported
    ImportBatch.objects.filter(pk=batch.pk).update(imported=batch.imported, duplicates=batch.duplicates)
    if imported >= BATCH:
        with write(), connection.cursor() as cursor:
            cursor.execute("ANALYZE annotation_slot")  # else the claim's plan is that of a small table, a second each
    return batch


def _read(lines: Iterable[str | bytes], kind: ImportKind) -> _Read:
    read = _Read()
    parse = _prompt_row if kind is ImportKind.PROMPTS else _vote_row
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        read.lines += 1
        try:
            if len(line) > MOST_LINE:
                raise _BadRow("", f"{len(line)} characters", f"the line is longer than {MOST_LINE} characters")
            record = strict_json.loads(line)
            if not isinstance(record, dict):
                raise _BadRow("", record, "the line must be a JSON object")
            read.rows.append(parse(record))
        except strict_json.BadJSON as error:
            shown = line.decode(errors="replace") if isinstance(line, bytes) else line
            read.errors.append(
                RowError(line=number, field=error.path, value=shown.strip()[:120], message=error.message)
            )
        except _BadRow as error:
            read.errors.append(RowError(line=number, field=error.field, value=error.value[:120], message=str(error)))
    return read


def _text(record: dict[str, Any], name: str, *, required: bool = True, most: int | None = None) -> str:
    value = record.get(name)
    if value is None and not required:
        return ""
    if value is None:
        raise _BadRow(name, None, f"{name} is missing")
    if not isinstance(value, str):
        raise _BadRow(name, value, f"{name} must be a text")
    if required and not value.strip():
        raise _BadRow(name, value, f"{name} must not be empty")
    if most is not None and len(value) > most:
        raise _BadRow(name, f"{len(value)} characters", f"{name} must have at most {most} characters")
    return value


def _prompt_row(record: dict[str, Any]) -> PromptRow:
    prompt = record.get("prompt")
    if isinstance(prompt, list):
        messages = [_message(turn, i) for i, turn in enumerate(prompt)]
        if not messages or messages[-1]["role"] != "user":
            raise _BadRow("prompt", prompt, "the last turn of prompt must be the user's")
    else:
        messages = [{"role": "user", "content": _text(record, "prompt")}]
    return PromptRow(
        messages=messages,
        category=_text(record, "category", required=False, most=80),
        external_id=_text(record, "id", required=False, most=200),
    )


def _message(turn: object, i: int) -> dict[str, str]:
    where = f"prompt[{i}]"
    if not isinstance(turn, dict) or set(turn) != {"role", "content"}:
        raise _BadRow(where, turn, f"{where} must be an object with role and content")
    if turn["role"] not in _ROLES:
        raise _BadRow(f"{where}.role", turn["role"], f"{where}.role must be one of {', '.join(_ROLES)}")
    if not isinstance(turn["content"], str) or not turn["content"].strip():
        raise _BadRow(f"{where}.content", turn["content"], f"{where}.content must be a text that is not empty")
    return {"role": turn["role"], "content": turn["content"]}


def _vote_row(record: dict[str, Any]) -> VoteRow:
    a, b = _text(record, "response_a"), _text(record, "response_b")
    raw = record.get("votes")
    if not isinstance(raw, list):
        raise _BadRow("votes", raw, "votes must be a list")
    if not raw and a.strip() == b.strip():  # people did vote on equal texts (Tulu's data), but nobody is asked to
        raise _BadRow("response_b", b, "response_b must differ from response_a where votes are still wanted")
    votes: list[tuple[str, Choice, dict[str, Any]]] = []
    for i, vote in enumerate(raw):
        if not isinstance(vote, dict):
            raise _BadRow(f"votes[{i}]", vote, f"votes[{i}] must be an object")
        annotator, choice = vote.get("annotator"), vote.get("choice")
        if not isinstance(annotator, str) or not annotator.strip() or len(annotator) > 60:
            raise _BadRow(
                f"votes[{i}].annotator", annotator, f"votes[{i}].annotator must be a name of 1 to 60 characters"
            )
        if choice not in Choice.values:
            raise _BadRow(f"votes[{i}].choice", choice, f"votes[{i}].choice must be one of {', '.join(Choice.values)}")
        if any(annotator == other for other, _, _ in votes):
            raise _BadRow(
                f"votes[{i}].annotator", annotator, f"votes[{i}].annotator {annotator!r} voted twice on this line"
            )
        votes.append((annotator, Choice(choice), {k: v for k, v in vote.items() if k not in {"annotator", "choice"}}))
    meta = record.get("meta")
    if not isinstance(meta, dict):
        meta = {}
    return VoteRow(
        prompt=_prompt_row(record),
        a=a,
        b=b,
        source_a=str(meta.get("model_a") or record.get("source") or "imported")[:200],
        source_b=str(meta.get("model_b") or record.get("source") or "imported")[:200],
        votes=tuple(votes),
    )


def _load_prompts(
    project: Project, rows: list[PromptRow], batch: ImportBatch, now: datetime
) -> tuple[dict[str, Prompt], set[str]]:
    """All prompts of the rows by content hash, and the hashes that are new."""
    unique = {row.content_hash: row for row in rows}
    prompts: dict[str, Prompt] = {}
    created: set[str] = set()
    for hashes in _batches(list(unique)):
        with write(), transaction.atomic():
            known = {p.content_hash: p for p in Prompt.objects.filter(project=project, content_hash__in=hashes)}
            fresh = Prompt.objects.bulk_create(
                Prompt(
                    project=project,
                    messages=unique[key].messages,
                    content_hash=key,
                    category=unique[key].category,
                    external_id=unique[key].external_id,
                    batch=batch,
                    created_at=now,
                )
                for key in hashes
                if key not in known
            )
            prompts |= known | {prompt.content_hash: prompt for prompt in fresh}
            created |= {prompt.content_hash for prompt in fresh}
    return prompts, created


def _load_votes(project: Project, rows: list[VoteRow], batch: ImportBatch, now: datetime) -> int:
    """Comparisons, votes and the consensus they make; how many comparisons are new."""
    prompts, _ = _load_prompts(project, [row.prompt for row in rows], batch, now)
    people = imported_annotators(project=project, names=(name for row in rows for name, _, _ in row.votes), now=now)
    names = {name for row in rows for name in (row.source_a, row.source_b)}
    sources = {
        name: Source.objects.get_or_create(project=project, kind=SourceKind.IMPORT, name=name)[0] for name in names
    }
    guideline = GuidelineVersion.objects.filter(project=project).order_by("-number").first()
    known = set(Comparison.objects.filter(project=project).values_list("pair_hash", flat=True))
    imported = 0
    for start, chunk in enumerate(_batches(rows)):
        new = []
        for offset, row in enumerate(chunk):
            prompt = prompts[row.prompt.content_hash]
            index = 2 * (start * BATCH + offset)
            a = _completion(project, prompt, sources[row.source_a], row.a, batch, index, now)
            b = _completion(project, prompt, sources[row.source_b], row.b, batch, index + 1, now)
            pair = Pair(prompt=prompt, a=a, b=b, external_id=row.prompt.external_id)
            if pair.hash not in known:
                known.add(pair.hash)
                new.append((row, pair))
        with write(), transaction.atomic():
            Completion.objects.bulk_create(item for _, pair in new for item in (pair.a, pair.b))
            imported += _load_chunk(project, new, people, guideline, batch, now)
    return imported


def _load_chunk(
    project: Project,
    new: list[tuple[VoteRow, Pair]],
    people: dict[str, User],
    guideline: GuidelineVersion | None,
    batch: ImportBatch,
    now: datetime,
) -> int:
    """Every imported vote gets a slot that is done: the votes wanted of an imported comparison are those it has."""
    by_size: dict[int, list[Pair]] = {}
    row_of = {pair.hash: row for row, pair in new}
    for row, pair in new:
        by_size.setdefault(len(row.votes), []).append(pair)
    imported = 0
    for size, pairs in by_size.items():
        comparisons = create_comparisons(
            project=project, pairs=pairs, origin=batch.public_id, overlap=size or project.overlap, now=now
        )
        imported += len(comparisons)
        if not size:
            continue
        votes = Vote.objects.bulk_create(
            Vote(
                project=project,
                comparison=comparison,
                annotator=people[name],
                key=uuid4(),
                choice=choice,
                body=body,
                body_hash=content_hash(choice, json.dumps(body, sort_keys=True)),
                guideline=guideline,
                created_at=now,
            )
            for comparison in comparisons
            for name, choice, body in row_of[comparison.pair_hash].votes
        )
        slots = {(slot.comparison_id, slot.number): slot for slot in Slot.objects.filter(comparison__in=comparisons)}
        numbers: dict[int, int] = {}
        done = []
        for vote in votes:
            numbers[vote.comparison_id] = number = numbers.get(vote.comparison_id, 0) + 1
            slot = slots[vote.comparison_id, number]
            slot.state, slot.vote = SlotState.DONE, vote
            done.append(slot)
        Slot.objects.bulk_update(done, ["state", "vote"], batch_size=BATCH)
        Consensus.objects.filter(comparison__in=comparisons).update(due_at=now)
    return imported


def _completion(
    project: Project, prompt: Prompt, source: Source, text: str, batch: ImportBatch, index: int, now: datetime
) -> Completion:
    return Completion(
        project=project,
        prompt=prompt,
        source=source,
        text=text,
        content_hash=content_hash(text),
        origin=batch.public_id,
        index=index,
        created_at=now,
    )


def _batches(items: list[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]
