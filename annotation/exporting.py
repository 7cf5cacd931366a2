"""A project's rows as files that others load and that `annotation.importing` reads back: JSON Lines, CSV, Parquet.

Every data set is read page by page by key, each page a query of its own: no read transaction lasts, no table is held.
Ids are those that an import brought, else our own; an import keeps them, so export, import and export again are equal
byte for byte. Times of votes are facts and go along; when a row came into this database does not. Annotators have
their pseudonyms only. The module is long because the columns and the rows of every data set stand in one place.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, assert_never

import pyarrow as pa
import pyarrow.parquet as pq
from django.db.models import Exists, OuterRef, Prefetch, Q, QuerySet

from annotation.errors import Invalid
from annotation.importing.cells import canonical, csv_cell
from annotation.models import (
    Adjudication,
    Comparison,
    ComparisonCompletion,
    Completion,
    Consensus,
    ConsensusState,
    Flag,
    Gold,
    Membership,
    Project,
    Prompt,
    Slot,
    Vote,
)
from annotation.preferences import LabelPolicy, Preference, ready_preferences
from annotation.streaming import Pieces

PAGE = 500
ROW_GROUP = 4000


class Dataset(Enum):
    """What can be exported."""

    PROMPTS = "prompts"
    COMPLETIONS = "completions"
    COMPARISONS = "comparisons"
    VOTES = "votes"
    CONSENSUS = "consensus"
    PREFERENCES = "preferences"
    FLAGS = "flags"
    ADJUDICATIONS = "adjudications"
    GOLD = "gold"


class Format(Enum):
    """How rows are written down."""

    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"

    @property
    def content_type(self) -> str:
        return {"jsonl": "application/x-ndjson", "csv": "text/csv", "parquet": "application/vnd.apache.parquet"}[
            self.value
        ]


class Layout(Enum):
    """Shapes of a preference: TRL's conversational, and TRL's plain (single-turn prompts only)."""

    TRL = "trl"
    PLAIN = "plain"


@dataclass(frozen=True, kw_only=True, slots=True)
class Filters:
    """What to leave out. Empty: nothing. A filter that says nothing of a data set is refused by `rows`."""

    state: str = ""
    since: datetime | None = None
    source: str = ""
    language: str = ""
    annotator: str = ""


_TEXT, _INT, _FLOAT, _BOOL = pa.string(), pa.int64(), pa.float64(), pa.bool_()
_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_TEXTS = pa.list_(pa.string())
_JSON = pa.large_string()  # objects without a fixed shape are JSON in a text

# The columns of each data set in order; they are the schema of Parquet and the header of CSV.
COLUMNS: dict[Dataset, dict[str, pa.DataType]] = {
    Dataset.PROMPTS: {
        "id": _TEXT, "messages": _MESSAGES, "category": _TEXT, "language": _TEXT, "meta": _JSON,
    },
    Dataset.COMPLETIONS: {
        "id": _TEXT, "prompt_id": _TEXT, "text": _TEXT, "source": _TEXT, "source_kind": _TEXT, "finish": _TEXT,
        "sampling": _JSON, "tokens": _INT, "logprob": _FLOAT, "scores": _JSON,
    },
    Dataset.COMPARISONS: {
        "id": _TEXT, "prompt_id": _TEXT, "completion_ids": _TEXTS, "overlap": _INT, "full_overlap": _BOOL,
        "arm": _TEXT, "priority": _INT, "audience": _TEXT,
    },
    Dataset.VOTES: {
        "id": _TEXT, "comparison_id": _TEXT, "annotator": _TEXT, "choice": _TEXT, "answer": _JSON, "counted": _BOOL,
        "purpose": _TEXT, "repetition": _INT, "retracted": _JSON, "replaces": _TEXT, "guideline": _INT,
        "active_ms": _INT, "created_at": _TEXT,
    },
    Dataset.CONSENSUS: {
        "comparison_id": _TEXT, "state": _TEXT, "label": _TEXT, "prob": _FLOAT, "share": _FLOAT, "votes_a": _INT,
        "votes_tie": _INT, "votes_b": _INT, "votes": _INT, "both_bad": _INT, "top_share": _FLOAT, "posterior": _FLOAT,
        "details": _JSON, "stopped": _TEXT, "method": _TEXT,
    },
    Dataset.FLAGS: {
        "comparison_id": _TEXT, "by": _TEXT, "kind": _TEXT, "note": _TEXT, "created_at": _TEXT,
    },
    Dataset.ADJUDICATIONS: {
        "id": _TEXT, "comparison_id": _TEXT, "by": _TEXT, "kind": _TEXT, "answer": _JSON, "first_answer": _JSON,
        "reason": _TEXT, "created_at": _TEXT,
    },
    Dataset.GOLD: {
        "comparison_id": _TEXT, "use": _TEXT, "origin": _TEXT, "answer": _JSON, "explanation": _TEXT,
        "created_at": _TEXT, "retired_at": _TEXT,
    },
}  # fmt: skip
_BESIDE = {"prob_chosen": _FLOAT, "prob_share": _FLOAT, "weight": _FLOAT}
_PREFERENCES = {
    Layout.TRL: {"prompt": _MESSAGES, "chosen": _MESSAGES, "rejected": _MESSAGES, **_BESIDE},
    Layout.PLAIN: {"prompt": _TEXT, "chosen": _TEXT, "rejected": _TEXT, **_BESIDE},
}
_TAKES: dict[Dataset, set[str]] = {
    Dataset.PROMPTS: {"since", "language"},
    Dataset.COMPLETIONS: {"since", "language", "source"},
    Dataset.COMPARISONS: {"since", "language", "source", "state"},
    Dataset.VOTES: {"since", "language", "source", "state", "annotator"},
    Dataset.CONSENSUS: {"language", "source", "state"},
    Dataset.PREFERENCES: set(),
    Dataset.FLAGS: {"since"},
    Dataset.ADJUDICATIONS: {"since"},
    Dataset.GOLD: {"since"},
}


def columns(dataset: Dataset, *, layout: Layout = Layout.TRL) -> dict[str, pa.DataType]:
    """The columns of a data set in order."""
    return _PREFERENCES[layout] if dataset is Dataset.PREFERENCES else COLUMNS[dataset]


def rows(
    project: Project,
    dataset: Dataset,
    *,
    filters: Filters | None = None,
    layout: Layout = Layout.TRL,
    policy: LabelPolicy | None = None,
    now: datetime,
) -> Iterator[dict[str, Any]]:
    """The rows of a data set in the order in which they came.

    Raises:
        Invalid: a filter does not belong to the data set, or a plain layout cannot hold a conversation. Before the
            first row.
    """
    filters = filters or Filters()
    given = {
        name: value
        for name, value in (
            ("state", filters.state), ("since", filters.since), ("source", filters.source),
            ("language", filters.language), ("annotator", filters.annotator),
        )
        if value
    }  # fmt: skip
    for name, value in given.items():
        if name not in _TAKES[dataset]:
            rule = f"does not belong to {dataset.value}"
            raise Invalid(f"{name}: {rule}, got {value}", details={name: [rule]})
    if filters.state and filters.state not in ConsensusState.values:
        rule = f"must be one of {', '.join(ConsensusState.values)}"
        raise Invalid(f"state: {rule}, got {filters.state!r}", details={"state": [rule]})
    if dataset is Dataset.PREFERENCES:
        return _preferences(project, layout, policy or LabelPolicy(), now)
    return _ROWS[dataset](project, filters)


def count(project: Project, dataset: Dataset) -> int | None:
    """How many rows a data set has; None where only writing it tells."""
    if dataset is Dataset.PREFERENCES:
        return None
    models: dict[Dataset, Any] = {
        Dataset.PROMPTS: Prompt, Dataset.COMPLETIONS: Completion, Dataset.COMPARISONS: Comparison, Dataset.VOTES: Vote,
        Dataset.CONSENSUS: Consensus, Dataset.FLAGS: Flag, Dataset.ADJUDICATIONS: Adjudication, Dataset.GOLD: Gold,
    }  # fmt: skip
    return int(models[dataset].objects.filter(project=project).count())


# --- rows -------------------------------------------------------------------------------------------------------------


def _pages(found: QuerySet[Any], render: Callable[[list[Any]], Iterable[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    last = 0
    while page := list(found.filter(pk__gt=last).order_by("pk")[:PAGE]):
        yield from render(page)
        last = page[-1].pk


def _id(row: Any) -> str:
    return row.external_id or str(row.public_id)


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _since(filters: Filters) -> Q:
    return Q() if filters.since is None else Q(created_at__gte=filters.since)


def _prompts(project: Project, filters: Filters) -> Iterator[dict[str, Any]]:
    found = Prompt.objects.filter(_since(filters), project=project)
    if filters.language:
        found = found.filter(language=filters.language)

    def render(page: list[Prompt]) -> Iterator[dict[str, Any]]:
        for row in page:
            yield {
                "id": _id(row),
                "messages": row.messages,
                "category": row.category,
                "language": row.language,
                "meta": row.meta,
            }

    return _pages(found, render)


def _completions(project: Project, filters: Filters) -> Iterator[dict[str, Any]]:
    found = Completion.objects.filter(_since(filters), project=project)
    if filters.language:
        found = found.filter(prompt__language=filters.language)
    if filters.source:
        found = found.filter(source__name=filters.source)

    def render(page: list[Completion]) -> Iterator[dict[str, Any]]:
        for row in page:
            yield {
                "id": _id(row),
                "prompt_id": _id(row.prompt),
                "text": row.text,
                "source": row.source.name,
                "source_kind": row.source.kind,
                "finish": row.finish,
                "sampling": row.sampling,
                "tokens": row.tokens,
                "logprob": row.logprob,
                "scores": {score.scorer: score.value for score in row.scores.all()},
            }

    return _pages(found.select_related("prompt", "source").prefetch_related("scores"), render)


def _of_comparison(filters: Filters, prefix: str = "") -> Q:
    """The filters on a comparison, for it or for rows that belong to one."""
    wanted = Q()
    if filters.state:
        wanted &= Q(**{f"{prefix}consensus__state": filters.state})
    if filters.language:
        wanted &= Q(**{f"{prefix}prompt__language": filters.language})
    if filters.source:
        places = ComparisonCompletion.objects.filter(
            comparison=OuterRef(f"{prefix}pk"), completion__source__name=filters.source
        )
        wanted &= Q(Exists(places))
    return wanted


def _comparisons(project: Project, filters: Filters) -> Iterator[dict[str, Any]]:
    places = Prefetch("places", ComparisonCompletion.objects.select_related("completion").order_by("position"))
    found = Comparison.objects.filter(_since(filters), _of_comparison(filters), project=project)

    def render(page: list[Comparison]) -> Iterator[dict[str, Any]]:
        for row in page:
            yield {
                "id": _id(row),
                "prompt_id": _id(row.prompt),
                "completion_ids": [_id(place.completion) for place in row.places.all()],
                "overlap": row.overlap,
                "full_overlap": row.full_overlap,
                "arm": row.arm,
                "priority": row.priority,
                "audience": row.audience,
            }

    return _pages(found.select_related("prompt").prefetch_related(places), render)


def _votes(project: Project, filters: Filters) -> Iterator[dict[str, Any]]:
    found = Vote.objects.filter(_since(filters), _of_comparison(filters, "comparison__"), project=project)
    if filters.annotator:
        members = Membership.objects.filter(project=project, pseudonym=filters.annotator).values("user_id")
        found = found.filter(annotator_id__in=members)

    def render(page: list[Vote]) -> Iterator[dict[str, Any]]:
        names = _pseudonyms(project, {row.annotator_id for row in page})
        counted = set(Slot.objects.filter(vote__in=page).values_list("vote_id", flat=True))
        for row in page:
            taken_back = next(iter(row.retractions.all()), None)
            yield {
                "id": _id(row),
                "comparison_id": _id(row.comparison),
                "annotator": names[row.annotator_id],
                "choice": row.choice or None,
                "answer": row.body,
                "counted": row.pk in counted,
                "purpose": row.purpose,
                "repetition": row.repetition,
                "retracted": taken_back and {"reason": taken_back.reason, "at": _time(taken_back.created_at)},
                "replaces": row.replaces and _id(row.replaces.vote),
                "guideline": row.guideline and row.guideline.number,
                "active_ms": row.active_ms,
                "created_at": _time(row.created_at),
            }

    related = found.select_related("comparison", "guideline", "replaces__vote").prefetch_related("retractions")
    return _pages(related, render)


def _consensus(project: Project, filters: Filters) -> Iterator[dict[str, Any]]:
    """In the order of the comparisons."""
    found = Comparison.objects.filter(_of_comparison(filters), project=project, consensus__isnull=False)

    def render(page: list[Comparison]) -> Iterator[dict[str, Any]]:
        for comparison in page:
            row = comparison.consensus
            yield {
                "comparison_id": _id(comparison),
                "state": row.state,
                "label": row.label or None,
                "prob": row.prob,
                "share": row.share,
                "votes_a": row.votes_a,
                "votes_tie": row.votes_tie,
                "votes_b": row.votes_b,
                "votes": row.votes,
                "both_bad": row.both_bad,
                "top_share": row.top_share,
                "posterior": row.posterior,
                "details": row.details,
                "stopped": row.stopped,
                "method": row.method,
            }

    return _pages(found.select_related("consensus"), render)


def _flags(project: Project, filters: Filters) -> Iterator[dict[str, Any]]:
    def render(page: list[Flag]) -> Iterator[dict[str, Any]]:
        names = _pseudonyms(project, {row.by_id for row in page})
        for row in page:
            yield {
                "comparison_id": _id(row.comparison),
                "by": names[row.by_id],
                "kind": row.kind,
                "note": row.note,
                "created_at": _time(row.created_at),
            }

    return _pages(Flag.objects.filter(_since(filters), project=project).select_related("comparison"), render)


def _adjudications(project: Project, filters: Filters) -> Iterator[dict[str, Any]]:
    def render(page: list[Adjudication]) -> Iterator[dict[str, Any]]:
        names = _pseudonyms(project, {row.by_id for row in page})
        for row in page:
            yield {
                "id": str(row.public_id),
                "comparison_id": _id(row.comparison),
                "by": names[row.by_id],
                "kind": row.kind,
                "answer": row.answer,
                "first_answer": row.first_answer,
                "reason": row.reason,
                "created_at": _time(row.created_at),
            }

    return _pages(Adjudication.objects.filter(_since(filters), project=project).select_related("comparison"), render)


def _gold(project: Project, filters: Filters) -> Iterator[dict[str, Any]]:
    def render(page: list[Gold]) -> Iterator[dict[str, Any]]:
        for row in page:
            yield {
                "comparison_id": _id(row.comparison),
                "use": row.use,
                "origin": row.origin,
                "answer": row.answer,
                "explanation": row.explanation,
                "created_at": _time(row.created_at),
                "retired_at": _time(row.retired_at),
            }

    return _pages(Gold.objects.filter(_since(filters), project=project).select_related("comparison"), render)


_ROWS: dict[Dataset, Callable[[Project, Filters], Iterator[dict[str, Any]]]] = {
    Dataset.PROMPTS: _prompts,
    Dataset.COMPLETIONS: _completions,
    Dataset.COMPARISONS: _comparisons,
    Dataset.VOTES: _votes,
    Dataset.CONSENSUS: _consensus,
    Dataset.FLAGS: _flags,
    Dataset.ADJUDICATIONS: _adjudications,
    Dataset.GOLD: _gold,
}


def _pseudonyms(project: Project, users: set[int]) -> Mapping[int, str]:
    """The pseudonym of each person; who never was a member (an operator) has one that says so and no more."""
    found: dict[int, str] = defaultdict(lambda: "not-a-member")
    found.update(Membership.objects.filter(project=project, user_id__in=users).values_list("user_id", "pseudonym"))
    return found


def _preferences(project: Project, layout: Layout, policy: LabelPolicy, now: datetime) -> Iterator[dict[str, Any]]:
    """What the votes say at this moment, people fitted on all of them; a snapshot is split first, and stays."""
    found = ready_preferences(project=project, policy=policy, now=now).preferences
    if layout is Layout.PLAIN and any(len(item.prompt) != 1 for item in found):
        rule = "plain holds single-turn prompts only; take trl"
        raise Invalid(f"layout: {rule}, got 'plain'", details={"layout": [rule]})
    return (_preference(item, layout) for item in found)


def _preference(item: Preference, layout: Layout) -> dict[str, Any]:
    """A preference turned to its chosen side; at exactly ½ a hash of the id draws it, as in a snapshot."""
    coin = hashlib.sha256(item.id.encode()).digest()[0] % 2 == 0
    is_a = coin if item.prob == 0.5 else item.prob > 0.5
    chosen, rejected = (item.a, item.b) if is_a else (item.b, item.a)
    share = item.share if is_a or item.share is None else 1 - item.share
    beside = {"prob_chosen": item.prob if is_a else 1 - item.prob, "prob_share": share, "weight": item.weight}
    if layout is Layout.PLAIN:
        return {"prompt": item.prompt[0]["content"], "chosen": chosen, "rejected": rejected, **beside}
    return {
        "prompt": item.prompt,
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
        **beside,
    }


# --- files ------------------------------------------------------------------------------------------------------------


def encode(found: Iterable[dict[str, Any]], schema: Mapping[str, pa.DataType], file_format: Format) -> Iterator[bytes]:
    """Rows as the bytes of a file, a piece at a time; the same rows give the same bytes."""
    match file_format:
        case Format.JSONL:
            return _jsonl(found)
        case Format.CSV:
            return csv_pieces(found, schema)
        case Format.PARQUET:
            return _parquet(found, schema)
        case _:
            assert_never(file_format)


def json_line(row: Mapping[str, Any]) -> str:
    """A row as a line: its fields in their order, what they hold with sorted keys."""
    return "{" + ",".join(f"{canonical(key)}:{canonical(value)}" for key, value in row.items()) + "}\n"


def _chunks(found: Iterable[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    chunk = []
    for row in found:
        chunk.append(row)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _jsonl(found: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    for chunk in _chunks(found, 100):
        yield "".join(map(json_line, chunk)).encode()


def csv_pieces(found: Iterable[dict[str, Any]], names: Iterable[str]) -> Iterator[bytes]:
    """A header with the columns' names, and the rows; no cell of them is a formula to a spreadsheet."""
    names = list(names)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(names)
    for chunk in _chunks(found, 100):
        writer.writerows([csv_cell(row[name]) for name in names] for row in chunk)
        yield out.getvalue().encode()
        out.seek(0)
        out.truncate()
    yield out.getvalue().encode()


def _parquet(found: Iterable[dict[str, Any]], schema: Mapping[str, pa.DataType]) -> Iterator[bytes]:
    pipe = Pieces()
    arrow = pa.schema(list(schema.items()))
    texts = [name for name, kind in schema.items() if kind is _JSON]
    with pq.ParquetWriter(pa.PythonFile(pipe, mode="w"), arrow, compression="zstd") as writer:
        for chunk in _chunks(found, ROW_GROUP):
            cells = [
                {**row, **{name: None if row[name] is None else canonical(row[name]) for name in texts}}
                for row in chunk
            ]
            writer.write_table(pa.Table.from_pylist(cells, schema=arrow))
            yield pipe.take()
    yield pipe.take()
