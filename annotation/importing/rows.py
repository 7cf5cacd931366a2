"""The one normal form that every layout becomes: prompts, completions, comparisons and votes, checked.

Readers and layouts know files; this module knows what a row may hold, and names what it may not. It refuses to know
where a row comes from and how it is stored. It is long because every field has its check and its words here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from django.utils.dateparse import parse_datetime

from annotation.errors import DomainError
from annotation.feedback import LETTERS, MOST_COMPLETIONS, ranks
from annotation.models import Choice, Finish, Purpose, SourceKind, content_hash, messages_hash

MOST_ERRORS_SHOWN = 100
MOST_COMPLETIONS_A_ROW = 100
MOST_RATIONALE = 20_000  # files of other makers hold longer ones than our own form takes
ROLES = ("system", "user", "assistant")
NEWEST = -1  # a vote of a file that does not know our guidelines counts as given under the newest
_BODY = ("both_bad", "points", "scale", "ranking", "ratings", "criteria", "first_ratings", "reasons", "rationale")


class ImportKind(Enum):
    """What the rows of a file are; docs/FORMATS.md shows a line of each."""

    PROMPTS = "prompts"
    COMPLETIONS = "completions"
    PAIRS = "pairs"
    COMPARISONS = "comparisons"
    VOTES = "votes"
    RATINGS = "ratings"
    API_LOG = "api_log"
    LABEL_STUDIO = "label_studio"
    ARGILLA = "argilla"


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
    """Some rows cannot be read; nothing was imported. `details["errors"]` lists the first by line."""

    code = "bad_rows"

    def __init__(self, errors: Sequence[RowError], *, refused: int | None = None) -> None:
        first = errors[0]
        refused = refused or len(errors)
        where = f"line {first.line}" + (f", {first.field}" if first.field else "")
        more = f" ({refused - 1} more)" if refused > 1 else ""
        super().__init__(
            f"{where}: {first.message}{more}. Nothing was imported.",
            details={"errors": [error.as_dict() for error in errors[:MOST_ERRORS_SHOWN]], "refused": refused},
        )
        self.errors = list(errors)


class BadRow(Exception):
    """One row cannot be taken: the field, its value and the rule."""

    def __init__(self, field_name: str, value: object, message: str) -> None:
        super().__init__(message)
        self.field = field_name
        self.value = value if isinstance(value, str) else json.dumps(value, default=str)

    def at(self, line: int) -> RowError:
        """The error as the report has it."""
        shown = self.value[:120].encode(errors="replace").decode().replace("\x00", "\N{REPLACEMENT CHARACTER}")
        return RowError(line=line, field=self.field[:120], value=shown, message=str(self))


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptRow:
    """x: a conversation whose last turn is the user's."""

    messages: list[dict[str, str]]
    category: str = ""
    language: str = ""
    external_id: str = ""
    meta: dict[str, Any] = field(default_factory=dict)

    def content_hash(self) -> str:
        return messages_hash(self.messages)


@dataclass(frozen=True, kw_only=True, slots=True)
class CompletionRow:
    """y: a text, who wrote it and how."""

    text: str
    source: str = "imported"
    source_kind: SourceKind = SourceKind.IMPORT
    finish: Finish = Finish.END
    sampling: dict[str, Any] = field(default_factory=dict)
    tokens: int | None = None
    logprob: float | None = None
    scores: dict[str, float] = field(default_factory=dict)
    external_id: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class TakenBack:
    """That a vote was taken back."""

    reason: str = ""
    at: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class VoteRow:
    """A vote of a named annotator, in stored order.

    Attributes:
        counted: it has one of the votes wanted; None: if one is free. Surplus and taken-back votes have none.
        guideline: number of the version it was given under; NEWEST where the file does not know ours.
        replaces: id of the vote of the same person that was taken back for this one.
    """

    annotator: str
    choice: str = ""
    body: dict[str, Any] = field(default_factory=dict)
    counted: bool | None = None
    purpose: Purpose = Purpose.WANTED
    repetition: int = 0
    guideline: int | None = NEWEST
    active_ms: int | None = None
    external_id: str = ""
    created_at: datetime | None = None
    retracted: TakenBack | None = None
    replaces: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparisonRow:
    """Completions that meet, in stored order: places in the row's own list, or ids of completions that are there.

    Attributes:
        overlap: votes wanted; None: as many as the votes it brings, and without any what the project wants.
    """

    completions: tuple[int | str, ...]
    overlap: int | None = None
    full_overlap: bool = False
    arm: str = ""
    priority: int = 0
    audience: str = ""
    external_id: str = ""
    votes: tuple[VoteRow, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """What one line of a file brings.

    Attributes:
        prompt: a new or known prompt; the id of a known one; None where the line is about a known comparison.
        comparison: id of the known comparison that `votes` are for.
        size_bytes: of the line, so that a batch can be kept small.
    """

    line: int
    size_bytes: int
    prompt: PromptRow | str | None = None
    completions: tuple[CompletionRow, ...] = ()
    comparisons: tuple[ComparisonRow, ...] = ()
    comparison: str = ""
    votes: tuple[VoteRow, ...] = ()

    def key(self) -> str:
        """The same for rows that bring the same: where they stand does not matter."""
        prompt = self.prompt.content_hash() if isinstance(self.prompt, PromptRow) else self.prompt
        said = repr((prompt, self.completions, self.comparisons, self.comparison, self.votes))
        return content_hash(said.encode(errors="replace").decode())


# --- values -----------------------------------------------------------------------------------------------------------


def text(record: Mapping[str, Any], name: str, *, required: bool = True, most: int | None = None) -> str:
    """A text field; "" where it may be left out."""
    value = record.get(name)
    if value is None and not required:
        return ""
    if value is None:
        raise BadRow(name, None, f"{name} is missing")
    if not isinstance(value, str):
        raise BadRow(name, value, f"{name} must be a text")
    if required and not value.strip():
        raise BadRow(name, value, f"{name} must not be empty")
    if most is not None and len(value) > most:
        raise BadRow(name, f"{len(value)} characters", f"{name} must have at most {most} characters")
    return value


def name_or_number(record: Mapping[str, Any], name: str, *, required: bool = False, most: int = 200) -> str:
    """An id: a text or a whole number."""
    value = record.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return text(record, name, required=required, most=most)


def integer(record: Mapping[str, Any], name: str, *, low: int, high: int) -> int | None:
    """A whole number in a range, or None where it is left out."""
    value = record.get(name)
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # Parquet and pandas turn a column with gaps into floats
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise BadRow(name, value, f"{name} must be a whole number from {low} to {high}")
    return value


def number(record: Mapping[str, Any], name: str) -> float | None:
    """A finite number, or None where it is left out."""
    value = record.get(name)
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise BadRow(name, value, f"{name} must be a number")
    return float(value)


def boolean(record: Mapping[str, Any], name: str) -> bool | None:
    """True or false, or None where it is left out."""
    value = record.get(name)
    if value is not None and not isinstance(value, bool):
        raise BadRow(name, value, f"{name} must be true or false")
    return value


def mapping(record: Mapping[str, Any], name: str) -> dict[str, Any]:
    """An object; empty where it is left out."""
    value = record.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadRow(name, value, f"{name} must be an object")
    return value


def listing(record: Mapping[str, Any], name: str) -> list[Any]:
    """A list; empty where it is left out."""
    value = record.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise BadRow(name, value, f"{name} must be a list")
    return value


def moment(record: Mapping[str, Any], name: str) -> datetime | None:
    """A time with its zone, or None where it is left out."""
    value = text(record, name, required=False, most=40)
    if not value:
        return None
    try:
        found = parse_datetime(value)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise BadRow(name, value, f"{name} must be a time with its zone, such as 2026-11-20T12:00:00Z")
    try:
        return found.astimezone(UTC)
    except OverflowError:
        raise BadRow(name, value, f"{name} is out of range") from None


def one_of(record: Mapping[str, Any], name: str, choices: Sequence[str], default: str) -> str:
    """One of some words; the default where it is left out."""
    value = record.get(name)
    if value is None:
        return default
    if value not in choices or not isinstance(value, str):
        raise BadRow(name, value, f"{name} must be one of {', '.join(choices)}")
    return value


# --- prompts and completions ------------------------------------------------------------------------------------------


def conversation(turns: object, name: str) -> list[dict[str, str]]:
    """Turns of role and content, the system's first if at all."""
    if not isinstance(turns, list):
        raise BadRow(name, turns, f"{name} must be a text or a list of turns")
    return [_message(turn, f"{name}[{i}]", is_first=i == 0) for i, turn in enumerate(turns)]


def _message(turn: object, where: str, *, is_first: bool) -> dict[str, str]:
    if not isinstance(turn, dict) or set(turn) != {"role", "content"}:
        raise BadRow(where, turn, f"{where} must be an object with role and content")
    if turn["role"] not in ROLES or not isinstance(turn["role"], str):
        raise BadRow(f"{where}.role", turn["role"], f"{where}.role must be one of {', '.join(ROLES)}")
    if turn["role"] == "system" and not is_first:
        raise BadRow(f"{where}.role", "system", f"{where}.role: a system message is the first of all")
    if not isinstance(turn["content"], str) or not turn["content"].strip():
        raise BadRow(f"{where}.content", turn["content"], f"{where}.content must be a text that is not empty")
    return {"role": turn["role"], "content": turn["content"]}


def prompt_messages(record: Mapping[str, Any]) -> list[dict[str, str]]:
    """`messages` or `prompt`: a text, or turns of which the last is the user's."""
    name = "messages" if record.get("messages") is not None else "prompt"
    given = record.get(name)
    if isinstance(given, list):
        messages = conversation(given, name)
        if not messages or messages[-1]["role"] != "user":
            raise BadRow(name, given, f"the last turn of {name} must be the user's")
        return messages
    return [{"role": "user", "content": text(record, name)}]


def language(record: Mapping[str, Any]) -> str:
    """A language tag in lower case; "" where it is left out."""
    value = text(record, "language", required=False, most=12).lower()
    if value and not value.replace("-", "").isalnum():
        raise BadRow("language", value, "language must be a tag such as en, de or pt-br")
    return value


def completion(record: Mapping[str, Any], *, body: str, where: str = "") -> CompletionRow:
    """A completion from its fields; `body` names the one with the text, `where` the object it is in."""
    try:
        return CompletionRow(
            text=text(record, body),
            source=text(record, "source", required=False, most=200).strip() or "imported",
            source_kind=SourceKind(one_of(record, "source_kind", SourceKind.values, SourceKind.IMPORT.value)),
            finish=Finish(one_of(record, "finish", Finish.values, Finish.END.value)),
            sampling=mapping(record, "sampling"),
            tokens=integer(record, "tokens", low=0, high=2**31 - 1),
            logprob=number(record, "logprob"),
            scores=_scores(record),
            external_id=name_or_number(record, "id"),
        )
    except BadRow as error:
        raise within(error, where) from None


def within(error: BadRow, where: str) -> BadRow:
    """The same refusal, with the field's place in front."""
    if not where:
        return error
    name = f"{where}.{error.field}" if error.field else where
    message = str(error)
    moved = BadRow(name, None, f"{where}.{message}" if error.field and message.startswith(error.field) else message)
    moved.value = error.value
    return moved


def _scores(record: Mapping[str, Any]) -> dict[str, float]:
    found = {}
    for scorer, value in mapping(record, "scores").items():
        if not scorer or len(scorer) > 200:
            raise BadRow("scores", scorer, "scores must be by the name of a scorer of 1 to 200 characters")
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise BadRow(f"scores.{scorer}", value, f"scores.{scorer} must be a number")
        found[scorer] = float(value)
    return found


# --- votes ------------------------------------------------------------------------------------------------------------


def vote(record: Mapping[str, Any], *, size: int | None, where: str = "") -> VoteRow:
    """A vote from its fields. Without `size` (its comparison is not read yet) `fit_vote` has to follow."""
    try:
        row = _vote(record)
        return row if size is None else fit_vote(row, size=size)
    except BadRow as error:
        raise within(error, where) from None


def annotator(record: Mapping[str, Any], name: str = "annotator") -> str:
    """The name that an annotator has in the file."""
    value = record.get(name)
    if not isinstance(value, str) or not value.strip() or len(value) > 60:
        raise BadRow(name, value, f"{name} must be a name of 1 to 60 characters")
    return value


def _vote(record: Mapping[str, Any]) -> VoteRow:
    known = {"id", "comparison_id", "annotator", "choice", "answer", "counted", "purpose", "repetition", "guideline",
             "active_ms", "created_at", "retracted", "replaces", "reason"}  # fmt: skip
    body = dict(mapping(record, "answer"))
    beside = {key: value for key, value in record.items() if key not in known and value is not None}
    body |= {key: beside.pop(key) for key in _BODY if key in beside}
    if record.get("reason") is not None:
        body["rationale"] = text(record, "reason", required=False)
    body |= {"extra": mapping(body, "extra") | beside} if beside else {}
    _graded(body, record.get("choice"))
    choice = record.get("choice")
    if choice not in {None, "", *Choice.values} if isinstance(choice, str | None) else True:
        raise BadRow("choice", choice, f"choice must be one of {', '.join(Choice.values)}")
    back = record.get("retracted")
    taken_back = mapping(record, "retracted")
    return VoteRow(
        annotator=annotator(record),
        choice=choice or "",
        body=body,
        counted=boolean(record, "counted"),
        purpose=Purpose(one_of(record, "purpose", Purpose.values, Purpose.WANTED.value)),
        repetition=integer(record, "repetition", low=0, high=9999) or 0,
        guideline=integer(record, "guideline", low=1, high=10**6) if "guideline" in record else NEWEST,
        active_ms=integer(record, "active_ms", low=0, high=2**31 - 1),
        external_id=name_or_number(record, "id"),
        created_at=moment(record, "created_at"),
        retracted=None
        if back is None
        else TakenBack(reason=text(taken_back, "reason", required=False, most=200), at=moment(taken_back, "at")),
        replaces=name_or_number(record, "replaces"),
    )


def _graded(body: dict[str, Any], choice: object) -> None:
    """`strength` (clear or slight, as in Tulu's votes) beside a choice is a point of a five-point scale."""
    extra = body.get("extra")
    if not isinstance(extra, dict) or extra.get("strength") not in {"clear", "slight"} or choice not in {"a", "b"}:
        return
    steps = 2 if extra.pop("strength") == "clear" else 1
    body |= {"points": 5, "scale": 3 - steps if choice == "a" else 3 + steps}
    if not extra:
        del body["extra"]


def fit_vote(row: VoteRow, *, size: int) -> VoteRow:
    """The vote checked against the number of completions that it is about, its choice worked out for two.

    Raises:
        BadRow: the answer does not say how `size` completions compare.
    """
    letters = LETTERS[:size]
    body = {key: value for key, value in row.body.items() if value is not None}
    _check_body(body, letters)
    says = [key for key in ("ranking", "ratings", "scale") if key in body]
    if len(says) > 1 and says != ["ranking", "ratings"]:
        raise BadRow("answer", body, f"answer must hold one of {', '.join(says)}")
    choice = row.choice
    if size != 2:
        if choice:
            raise BadRow("choice", choice, f"choice is for two completions, and here are {size}")
        if not says or says == ["scale"]:
            raise BadRow("answer", body, f"answer must hold a ranking or ratings of the {size} completions")
        return replace(row, body=body)
    if "scale" in body:
        middle = (body["points"] + 1) / 2
        meant = "a" if body["scale"] < middle else "b" if body["scale"] > middle else "tie"
    elif says:
        first, second = ranks("", body, size=2)
        meant = "a" if first < second else "b" if first > second else "tie"
    elif body.get("both_bad"):
        meant = "tie"
    else:
        meant = choice
    if not meant:
        raise BadRow("choice", None, f"choice must be one of {', '.join(Choice.values)}")
    if choice and choice != meant:
        raise BadRow("choice", choice, f"choice must be {meant}, as the rest of the answer says")
    return replace(row, choice=meant, body=body)


def _check_body(body: Mapping[str, Any], letters: str) -> None:  # noqa: PLR0912 - one branch a field of an answer
    unknown = sorted(set(body) - {*_BODY, "extra"})
    if unknown:
        raise BadRow(f"answer.{unknown[0]}", body[unknown[0]], f"answer.{unknown[0]} is no part of an answer")
    if boolean(body, "both_bad") and len(letters) != 2:
        raise BadRow("both_bad", True, "both_bad is for two completions")
    points = integer(body, "points", low=2, high=100)
    if points is None and {"scale", "ratings"} & set(body):
        raise BadRow("points", None, "points is missing: how many points the scale has")
    integer(body, "scale", low=1, high=points or 1)
    if "ranking" in body:
        groups = body["ranking"]
        flat = [x for group in groups if isinstance(group, list) for x in group] if isinstance(groups, list) else []
        if not all(isinstance(x, str) for x in flat) or sorted(flat) != list(letters) or not all(groups):
            raise BadRow("ranking", groups, f"ranking must place each of {', '.join(letters)} once, best first")
    if "ratings" in body:
        ratings = mapping(body, "ratings")
        if sorted(ratings) != list(letters):
            raise BadRow("ratings", ratings, f"ratings must have each of {', '.join(letters)}")
        for letter, row in ratings.items():
            where = f"ratings.{letter}"
            if not isinstance(row, dict) or all(value is None for value in row.values()):
                raise BadRow(where, row, f"{where} must rate at least one criterion")
            for key in row:
                _checked_key(key, where)
                integer({f"{where}.{key}": row[key]}, f"{where}.{key}", low=1, high=points or 1)
    for key, value in mapping(body, "criteria").items():
        _checked_key(key, "criteria")
        if value not in ("a", "b", "tie"):
            integer({f"criteria.{key}": value}, f"criteria.{key}", low=1, high=points or 1)
    first = mapping(body, "first_ratings")
    if first and sorted(first) != list(letters):
        raise BadRow("first_ratings", first, f"first_ratings must have each of {', '.join(letters)}")
    for letter in first:
        integer(first, letter, low=1, high=100)
    if not all(isinstance(item, str) and len(item) <= 120 for item in listing(body, "reasons")):
        raise BadRow("reasons", body["reasons"], "reasons must be short texts")
    text(body, "rationale", required=False, most=MOST_RATIONALE)
    mapping(body, "extra")


def _checked_key(key: str, where: str) -> None:
    if not 0 < len(key) <= 60:
        raise BadRow(where, key, f"{where} must be by criteria of 1 to 60 characters")


# --- comparisons ------------------------------------------------------------------------------------------------------


def check_size(size: int, wanted: int, name: str) -> None:
    """A project's tasks all have the number of completions that its form asks for."""
    if not 1 <= size <= MOST_COMPLETIONS:
        raise BadRow(name, size, f"{name} must have 1 to {MOST_COMPLETIONS} completions, got {size}")
    if size != wanted:
        raise BadRow(name, size, f"{name}: the tasks of this project have {wanted} completions, this one has {size}")


def audience(record: Mapping[str, Any], prompt: PromptRow | str) -> str:
    """Who may judge: the prompt's language, `languages` and `skills`, as `Comparison.audience` writes them."""
    given = record.get("audience")
    if given is not None:
        tags = text(record, "audience", required=False, most=120).split()
    else:
        skills = listing(record, "skills")
        if not all(isinstance(skill, str) and skill.strip() and " " not in skill for skill in skills):
            raise BadRow("skills", skills, "skills must be words without blanks")
        tags = [f"skill:{skill}" for skill in skills]
        if isinstance(prompt, PromptRow) and prompt.language:
            tags.append(f"lang:{prompt.language}")
    if not all(tag.partition(":")[0] in {"lang", "skill"} and tag.partition(":")[2] for tag in tags):
        raise BadRow("audience", given, "audience must be tags such as lang:de or skill:medicine")
    key = " ".join(sorted(set(tags)))
    if len(key) > 120:
        raise BadRow("audience", key, "audience must have at most 120 characters")
    return key
