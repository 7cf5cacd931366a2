"""What annotators are asked, and what they answered: the feedback form of a project, and answers to it.

Four kinds of feedback share one shape. A vote is stored in the order of the comparison (a, b, …), never in that of the
screen (A, B, … from left to right), and every kind says something about which completion is better: `ranks` reads it,
so that aggregation, agreement and training need not know the kind.

Pure functions of their arguments: no database, no HTTP. A malformed form or answer raises `Invalid` with the field.

The module is long because a form, the answers that it allows, and what they say are one contract, read together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from itertools import combinations
from typing import Any, assert_never

from annotation.errors import Invalid

LETTERS = "abcdefghi"  # stored order; the screen shows the same letters in upper case, from left to right
MOST_COMPLETIONS = len(LETTERS)
MOST_CRITERIA = 12
MOST_REASONS = 20
MOST_RATIONALE = 4000
OVERALL = "overall"


class FeedbackKind(StrEnum):
    """How an annotator answers."""

    CHOICE = "choice"
    SCALE = "scale"
    RANKING = "ranking"
    RATING = "rating"


KINDS = tuple(kind.value for kind in FeedbackKind)


class Rationale(StrEnum):
    """Whether a free text is asked for."""

    OFF = "off"
    OPTIONAL = "optional"
    REQUIRED = "required"


class BadForm(Invalid):
    """A feedback form that cannot be used; `details` names the field."""

    code = "bad_form"


class BadAnswer(Invalid):
    """An answer that the form does not allow; `details` names the field."""

    code = "bad_answer"


@dataclass(frozen=True, kw_only=True, slots=True)
class Criterion:
    """One thing to judge; `anchors` says what each point of a rating means, lowest first (or is empty)."""

    key: str
    label: str
    description: str = ""
    anchors: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ReasonChip:
    """A reason that an annotator can click."""

    key: str
    label: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """What one task asks.

    Attributes:
        kind: choice (A or B), scale (how much better), ranking (best to worst), rating (each completion on its own).
        size: completions of a task: 2 for choice and scale, 3–9 for ranking, 1–9 for rating.
        allow_tie: choice and ranking only; a scale has a tie when its number of points is odd.
        allow_both_bad: choice and scale: a tie of two completions that are both unusable.
        points: buttons of a scale from "A clearly" to "B clearly" (2–7), or points of a rating (5 or 7).
        criteria: rows beside the main question; for a rating what is rated (none: overall).
        read_first: each completion is rated alone (1–`read_points`) before they are compared, as in InstructGPT.
    """

    kind: FeedbackKind = FeedbackKind.CHOICE
    size: int = 2
    allow_tie: bool = True
    allow_both_bad: bool = False
    points: int = 5
    criteria: tuple[Criterion, ...] = ()
    rationale: Rationale = Rationale.OPTIONAL
    reasons: tuple[ReasonChip, ...] = ()
    reasons_required: bool = False
    read_first: bool = False
    read_points: int = 7

    def __post_init__(self) -> None:
        match self.kind:
            case FeedbackKind.CHOICE | FeedbackKind.SCALE:
                _form(self.size == 2, "size", self.size, f"must be 2 for a {self.kind}")
            case FeedbackKind.RANKING:
                _form(3 <= self.size <= MOST_COMPLETIONS, "size", self.size, "must be from 3 to 9 for a ranking")
            case FeedbackKind.RATING:
                _form(1 <= self.size <= MOST_COMPLETIONS, "size", self.size, "must be from 1 to 9 for a rating")
            case _:
                assert_never(self.kind)
        if self.kind is FeedbackKind.SCALE:
            _form(2 <= self.points <= 7, "points", self.points, "must be from 2 to 7 for a scale")
        if self.kind is FeedbackKind.RATING:
            _form(self.points in {5, 7}, "points", self.points, "must be 5 or 7 for a rating")
        _form(self.read_points in {5, 7}, "read_points", self.read_points, "must be 5 or 7")
        if self.kind in {FeedbackKind.RANKING, FeedbackKind.RATING}:
            _form(not self.allow_both_bad, "allow_both_bad", True, f"does not go with a {self.kind}")
        if self.kind is FeedbackKind.RATING:
            _form(not self.read_first, "read_first", True, "does not go with a rating, which reads one by one anyway")
        for name, items, most in (("criteria", self.criteria, MOST_CRITERIA), ("reasons", self.reasons, MOST_REASONS)):
            keys = [item.key for item in items]
            _form(len(items) <= most, name, len(items), f"must be at most {most}")
            _form(len(set(keys)) == len(keys), name, keys, "must have different keys")
            for item in items:
                _form(_is_key(item.key), f"{name}.key", item.key, "must be 1 to 40 of a–z, 0–9, - and _")
                _form(0 < len(item.label) <= 120, f"{name}.label", item.label, "must have 1 to 120 characters")
        for criterion in self.criteria:
            wanted = {0, self.points} if self.kind is FeedbackKind.RATING else {0}
            _form(
                len(criterion.anchors) in wanted, "criteria.anchors", len(criterion.anchors),
                f"must be none, or one for each of the {self.points} points of a rating",
            )  # fmt: skip
        if self.reasons_required:
            _form(bool(self.reasons), "reasons_required", True, "needs at least one reason to choose from")

    @property
    def has_tie(self) -> bool:
        """Whether an annotator can say that two completions are equal."""
        match self.kind:
            case FeedbackKind.CHOICE:
                return self.allow_tie or self.allow_both_bad
            case FeedbackKind.SCALE:
                return self.points % 2 == 1 or self.allow_both_bad
            case FeedbackKind.RANKING:
                return self.allow_tie
            case FeedbackKind.RATING:
                return True
            case _:
                assert_never(self.kind)

    @property
    def rated(self) -> tuple[str, ...]:
        """The criteria that a rating has for each completion."""
        return tuple(item.key for item in self.criteria) or (OVERALL,)

    def as_dict(self) -> dict[str, Any]:
        """The form as JSON holds it; `read_form` is the way back."""
        return asdict(self)


def _form(holds: bool, name: str, value: object, rule: str) -> None:
    if not holds:
        raise BadForm(f"form.{name} {rule}, got {value!r}", details={f"form.{name}": [rule]})


def _is_key(text: str) -> bool:
    return 0 < len(text) <= 40 and all(c.isascii() and (c.islower() or c.isdigit() or c in "-_") for c in text)


def read_form(data: Mapping[str, Any]) -> Form:
    """A form from JSON; what is left out has its default, what is unknown is refused.

    Raises:
        BadForm: naming the field and the value.
    """
    known = Form.__dataclass_fields__
    for name in data:
        _form(name in known, name, data[name], "is no setting of a form")
    values = dict(data)
    for name, enum in (("kind", FeedbackKind), ("rationale", Rationale)):
        if name in values:
            choices = [member.value for member in enum]
            _form(values[name] in choices, name, values[name], f"must be one of {', '.join(choices)}")
            values[name] = enum(values[name])
    for name in ("allow_tie", "allow_both_bad", "reasons_required", "read_first"):
        _form(isinstance(values.get(name, False), bool), name, values.get(name), "must be true or false")
    for name in ("size", "points", "read_points"):
        value = values.get(name, 2)
        _form(isinstance(value, int) and not isinstance(value, bool), name, value, "must be a whole number")
    values["criteria"] = tuple(_read_item(Criterion, item, "criteria") for item in _list(values, "criteria"))
    values["reasons"] = tuple(_read_item(ReasonChip, item, "reasons") for item in _list(values, "reasons"))
    return Form(**values)


def _list(values: Mapping[str, Any], name: str) -> Sequence[Any]:
    items = values.get(name, ())
    _form(isinstance(items, list | tuple), name, items, "must be a list")
    return list(items)


def _read_item(kind: type[Any], item: object, name: str) -> Any:
    _form(isinstance(item, dict), name, item, "must hold objects with key and label")
    assert isinstance(item, dict)
    allowed = set(kind.__dataclass_fields__)
    _form({"key", "label"} <= set(item) <= allowed, name, item, f"must have key and label, and no other than {allowed}")
    for part in ("key", "label", "description"):
        _form(isinstance(item.get(part, ""), str), f"{name}.{part}", item.get(part), "must be a text")
    anchors = item.get("anchors", ())
    _form(
        isinstance(anchors, list | tuple) and all(isinstance(text, str) for text in anchors),
        f"{name}.anchors", anchors, "must be a list of texts",
    )  # fmt: skip
    return kind(**{**item, "anchors": tuple(anchors)} if "anchors" in item else item)


# --- answers ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a person answered, as the screen has it: sides left and right, letters A, B, … from left to right.

    Attributes:
        choice: left, right, tie or both_bad.
        scale: 1 (the left one clearly) to `points` (the right one clearly).
        ranking: letters from best to worst, equal ones together: [["C"], ["A", "B"]].
        ratings: points of each completion and criterion; None: does not apply.
        criteria: for each criterion left, right or tie, or a point where the form is a scale.
        first_ratings: what was given to each completion before the others were seen.
        active_ms: focused time; no part of the answer's identity.
    """

    choice: str | None = None
    scale: int | None = None
    ranking: Sequence[Sequence[str]] | None = None
    ratings: Mapping[str, Mapping[str, int | None]] | None = None
    criteria: Mapping[str, str | int] = field(default_factory=dict)
    reasons: Sequence[str] = ()
    rationale: str = ""
    first_ratings: Mapping[str, int] = field(default_factory=dict)
    active_ms: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredAnswer:
    """An answer in stored order. `choice` is a, tie or b for two completions and empty for more, or for one."""

    choice: str
    body: dict[str, Any]


SIDES = ("left", "right", "tie", "both_bad")


def store(form: Form, answer: Answer, *, sides: str) -> StoredAnswer:
    """Check an answer against the form and turn it to stored order.

    Args:
        sides: the stored letters from left to right, such as "ba".

    Raises:
        BadAnswer: naming the field, the value and what the form allows.
    """
    body: dict[str, Any] = {}
    _only(form, answer)
    match form.kind:
        case FeedbackKind.CHOICE:
            choice = _store_choice(form, answer.choice, sides, body)
        case FeedbackKind.SCALE:
            choice = _store_scale(form, answer, sides, body)
        case FeedbackKind.RANKING:
            body["ranking"] = _store_ranking(form, answer.ranking, sides)
            choice = ""
        case FeedbackKind.RATING:
            body["points"] = form.points
            body["ratings"] = _store_ratings(form, answer.ratings, sides)
            choice = _choice_of(ranks("", body, size=len(sides)))
        case _:
            assert_never(form.kind)
    if form.kind in {FeedbackKind.CHOICE, FeedbackKind.SCALE} and form.criteria:
        body["criteria"] = _store_criteria(form, answer.criteria, sides, body)
    _store_words(form, answer, body)
    if form.read_first:
        body["first_ratings"] = _store_first_ratings(form, answer.first_ratings, sides)
    return StoredAnswer(choice=choice, body=body)


def _bad(name: str, value: object, rule: str) -> BadAnswer:
    return BadAnswer(f"{name}: {rule}, got {value!r}", details={name: [rule]})


def _only(form: Form, answer: Answer) -> None:
    """Refuse what belongs to another kind of form: it would be lost in silence."""
    main = {"choice": FeedbackKind.CHOICE, "scale": FeedbackKind.SCALE, "ranking": FeedbackKind.RANKING,
            "ratings": FeedbackKind.RATING}  # fmt: skip
    given: dict[str, object] = {
        "choice": answer.choice, "scale": answer.scale, "ranking": answer.ranking, "ratings": answer.ratings
    }  # fmt: skip
    for name, kind in main.items():
        both_bad = name == "choice" and answer.choice == "both_bad" and form.kind is FeedbackKind.SCALE
        if kind is not form.kind and given[name] is not None and not both_bad:
            raise _bad(name, given[name], f"does not belong to a {form.kind}")
    if answer.criteria and (form.kind in {FeedbackKind.RANKING, FeedbackKind.RATING} or not form.criteria):
        raise _bad("criteria", dict(answer.criteria), "are not asked for here")
    if answer.first_ratings and not form.read_first:
        raise _bad("first_ratings", dict(answer.first_ratings), "are not asked for here")


def _store_choice(form: Form, choice: str | None, sides: str, body: dict[str, Any]) -> str:
    allowed = ["left", "right"]
    allowed += ["tie"] if form.allow_tie else []
    allowed += ["both_bad"] if form.allow_both_bad else []
    if choice not in allowed:
        raise _bad("choice", choice, f"must be one of {', '.join(allowed)}")
    if choice == "both_bad":
        body["both_bad"] = True
    return sides[0] if choice == "left" else sides[1] if choice == "right" else "tie"


def _store_scale(form: Form, answer: Answer, sides: str, body: dict[str, Any]) -> str:
    if answer.choice == "both_bad":
        if not form.allow_both_bad:
            raise _bad("choice", answer.choice, "is not offered here")
        if answer.scale is not None:
            raise _bad("scale", answer.scale, "must be left out beside both_bad")
        body["both_bad"] = True
        return "tie"
    body["points"] = form.points  # so that a vote can be read when the form has changed
    body["scale"] = _turned(_point(answer.scale, "scale", form.points), form.points, sides)
    middle = (form.points + 1) / 2
    return "a" if body["scale"] < middle else "b" if body["scale"] > middle else "tie"


def _point(value: object, name: str, points: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= points:
        raise _bad(name, value, f"must be a whole number from 1 to {points}")
    return value


def _turned(point: int, points: int, sides: str) -> int:
    """A point of a scale, counted from a; turning twice gives the point back."""
    return point if sides == "ab" else points + 1 - point


def _shown(sides: str) -> dict[str, str]:
    """The stored letter of each letter on the screen."""
    return {LETTERS[i].upper(): letter for i, letter in enumerate(sides)}


def _store_ranking(form: Form, ranking: Sequence[Sequence[str]] | None, sides: str) -> list[list[str]]:
    stored = _shown(sides)
    flat = [letter for group in ranking or () for letter in group]
    if ranking is None or sorted(flat) != sorted(stored) or not all(ranking):
        raise _bad("ranking", ranking, f"must place each of {', '.join(stored)} once")
    if not form.allow_tie and any(len(group) > 1 for group in ranking):
        raise _bad("ranking", ranking, "must have no ties")
    return [sorted(stored[letter] for letter in group) for group in ranking]


def _store_ratings(
    form: Form, ratings: Mapping[str, Mapping[str, int | None]] | None, sides: str
) -> dict[str, dict[str, int | None]]:
    stored = _shown(sides)
    if ratings is None or set(ratings) != set(stored):
        raise _bad("ratings", ratings, f"must have each of {', '.join(stored)}")
    found: dict[str, dict[str, int | None]] = {}
    for letter, row in sorted(ratings.items(), key=lambda item: stored[item[0]]):
        if set(row) != set(form.rated):
            raise _bad(f"ratings.{letter}", dict(row), f"must have each of {', '.join(form.rated)}")
        found[stored[letter]] = {
            key: None if row[key] is None else _point(row[key], f"ratings.{letter}.{key}", form.points)
            for key in form.rated
        }
        if all(value is None for value in row.values()):
            raise _bad(f"ratings.{letter}", dict(row), "must rate at least one criterion")
    return found


def _store_criteria(
    form: Form, criteria: Mapping[str, str | int], sides: str, body: dict[str, Any]
) -> dict[str, str | int]:
    keys = [criterion.key for criterion in form.criteria]
    if set(criteria) != set(keys):
        raise _bad("criteria", dict(criteria), f"must have each of {', '.join(keys)}")
    found: dict[str, str | int] = {}
    for key in keys:
        value = criteria[key]
        if form.kind is FeedbackKind.SCALE:
            body["points"] = form.points
            found[key] = _turned(_point(value, f"criteria.{key}", form.points), form.points, sides)
            continue
        if value not in {"left", "right", "tie"}:
            raise _bad(f"criteria.{key}", value, "must be left, right or tie")
        found[key] = sides[0] if value == "left" else sides[1] if value == "right" else "tie"
    return found


def _store_first_ratings(form: Form, ratings: Mapping[str, int], sides: str) -> dict[str, int]:
    stored = _shown(sides)
    if set(ratings) != set(stored):
        raise _bad("first_ratings", dict(ratings), f"must have each of {', '.join(stored)}")
    return {
        stored[letter]: _point(ratings[letter], f"first_ratings.{letter}", form.read_points)
        for letter in sorted(ratings, key=lambda shown: stored[shown])
    }


def _store_words(form: Form, answer: Answer, body: dict[str, Any]) -> None:
    known = [chip.key for chip in form.reasons]
    unknown = [key for key in answer.reasons if key not in known]
    if unknown or len(set(answer.reasons)) != len(answer.reasons):
        raise _bad("reasons", list(answer.reasons), f"must be different ones of {', '.join(known) or 'none'}")
    if form.reasons_required and not answer.reasons:
        raise _bad("reasons", [], "choose at least one")
    if answer.reasons:
        body["reasons"] = [key for key in known if key in answer.reasons]
    text = answer.rationale.strip()
    if len(text) > MOST_RATIONALE:
        raise _bad("rationale", f"{len(text)} characters", f"must have at most {MOST_RATIONALE} characters")
    if form.rationale is Rationale.REQUIRED and not text:
        raise _bad("rationale", "", "say why, in a few words")
    if form.rationale is Rationale.OFF and text:
        raise _bad("rationale", text[:40], "is not asked for here")
    if text:
        body["rationale"] = answer.rationale


def shown(choice: str, body: Mapping[str, Any], *, sides: str) -> dict[str, Any]:
    """A stored answer as the screen with these sides shows it: the way back from `store`, without the time."""
    screen = {letter: LETTERS[i].upper() for i, letter in enumerate(sides)}

    def side(letter: str) -> str:
        return "tie" if letter == "tie" else "left" if sides[0] == letter else "right"

    found: dict[str, Any] = {}
    if "scale" in body:
        found["scale"] = _turned(body["scale"], body["points"], sides)
    elif body.get("both_bad"):
        found["choice"] = "both_bad"
    elif "ranking" in body:
        found["ranking"] = [sorted(screen[letter] for letter in group) for group in body["ranking"]]
    elif "ratings" in body:
        found["ratings"] = {screen[letter]: dict(row) for letter, row in body["ratings"].items()}
    elif choice:
        found["choice"] = side(choice)
    if "criteria" in body:
        found["criteria"] = {
            key: side(value) if isinstance(value, str) else _turned(value, body["points"], sides)
            for key, value in body["criteria"].items()
        }
    if "first_ratings" in body:
        found["first_ratings"] = {screen[letter]: point for letter, point in body["first_ratings"].items()}
    found |= {name: body[name] for name in ("reasons", "rationale") if name in body}
    return found


# --- what an answer says about the order ------------------------------------------------------------------------------


def ranks(choice: str, body: Mapping[str, Any], *, size: int) -> tuple[int, ...]:
    """The place of each completion in stored order: 1 is best, equal places are ties.

    A rating ranks by the mean of what applies (means closer than 1e-9 are equal); one completion has the place 1.
    """
    if "ranking" in body:
        place = {letter: 1 + i for i, group in enumerate(body["ranking"]) for letter in group}
        return tuple(place[LETTERS[i]] for i in range(size))
    if "ratings" in body:
        means = [_mean_rating(body["ratings"][LETTERS[i]]) for i in range(size)]
        return tuple(1 + sum(other > mean + 1e-9 for other in means) for mean in means)
    if size == 1:
        return (1,)
    return {"a": (1, 2), "tie": (1, 1), "b": (2, 1)}[choice]


def _mean_rating(row: Mapping[str, int | None]) -> float:
    values = [value for value in row.values() if value is not None]
    return math.fsum(values) / len(values)


def _choice_of(places: Sequence[int]) -> str:
    if len(places) != 2:
        return ""
    return "a" if places[0] < places[1] else "b" if places[0] > places[1] else "tie"


def pair_classes(places: Sequence[int]) -> list[tuple[int, int, int]]:
    """Every pair i < j of a ranking with its class: 0 the first is better, 1 a tie, 2 the second is."""
    return [
        (i, j, 1 + (places[i] > places[j]) - (places[i] < places[j])) for i, j in combinations(range(len(places)), 2)
    ]


def strength(body: Mapping[str, Any]) -> float | None:
    """How clearly a is better, from −1 (b clearly) over 0 (equal) to 1 (a clearly); None without a scale."""
    if "scale" not in body:
        return None
    middle = (body["points"] + 1) / 2
    return float((middle - body["scale"]) / (body["points"] - middle))
