"""The format of the file that an experiment writes: what it holds, and what it refuses.

An experiment (`python -m benchmarks.loop`) proves claims about the whole loop on real weights and writes one file,
`<experiment>.<setting>.json`. The format is the classes here, and each refuses a value that cannot be shown: a number
that is not finite, an interval upside down, a cell without a column. Plain Python: the programs that write results and
the pages that show them both import it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, NoReturn, TypeVar, get_args, get_type_hints

FORMAT, VERSION = "winnow-experiment", 1
MOST_SENTENCES = 5
_SLUG = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_SHA256 = re.compile(r"[0-9a-f]{64}")

T = TypeVar("T")


class InvalidResult(ValueError):
    """A result that breaks the format; the message begins with where it does.

    Attributes:
        where: the path of the field, such as `charts[0].series[1].points[3].y`. problem: what is wrong, with the value.
    """

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where} {problem}".strip())
        self.where, self.problem = where, problem

    def below(self, parent: str) -> InvalidResult:
        """The same, seen from the object that holds it."""
        joint = "." if self.where and not self.where.startswith("[") else ""
        return InvalidResult(f"{parent}{joint}{self.where}", self.problem)


class Setting(StrEnum):
    """How large the experiment was: small fits a machine without a GPU."""

    SMALL = "small"
    FULL = "full"


class Scale(StrEnum):
    """Of the x axis; a category axis has names instead of numbers, in the order in which they come first."""

    LINEAR = "linear"
    LOG = "log"
    CATEGORY = "category"


class Kind(StrEnum):
    """How a series is drawn."""

    LINE = "line"
    POINTS = "points"
    BARS = "bars"


class Across(StrEnum):
    """The axis that a reference line crosses."""

    X = "x"
    Y = "y"


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A figure with its interval, and what it rests on.

    Attributes:
        n: of what the interval is over, such as prompts, or seeds.
    """

    value: float
    low: float
    high: float
    n: int

    def __post_init__(self) -> None:
        _number("value", self.value)
        _interval(self.low, self.high)
        _whole("n", self.n)


Cell = str | float | Estimate | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """Of a table; `unit` is empty for words and plain numbers."""

    key: str
    label: str
    unit: str = ""

    def __post_init__(self) -> None:
        _text("key", self.key)
        _text("label", self.label)
        _string("unit", self.unit)


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows by the keys of their columns; None where a row has nothing."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Cell]]
    note: str = ""

    def __post_init__(self) -> None:
        _text("title", self.title)
        _string("note", self.note)
        _some("columns", self.columns)
        keys = [column.key for column in self.columns]
        _distinct("columns", keys)
        for index, row in enumerate(self.rows):
            where = f"rows[{index}]"
            for key, cell in row.items():
                if key not in keys:
                    _refuse(f"{where}.{key}", f"has no column; the columns are {', '.join(keys)}")
                if not isinstance(cell, str | Estimate | None):
                    _number(f"{where}.{key}", cell)
            for key in keys:
                if key not in row:
                    _refuse(f"{where}.{key}", "is missing; null says that there is nothing")


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """Of a series; on a category axis `x` is a name."""

    x: float | str
    y: float
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.x, str):
            _text("x", self.x)
        else:
            _number("x", self.x)
        _number("y", self.y)
        if (self.low is None) != (self.high is None):
            _refuse("low", f"and high come together, got {self.low!r} and {self.high!r}")
        if self.low is not None:
            _interval(self.low, self.high)


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """Points of one name."""

    name: str
    points: Sequence[Point]
    kind: Kind = Kind.LINE

    def __post_init__(self) -> None:
        _text("name", self.name)
        _one_of("kind", self.kind, Kind)
        _some("points", self.points)
        _distinct("points", [point.x for point in self.points], of="x")


@dataclass(frozen=True, kw_only=True, slots=True)
class XAxis:
    """What a chart is over."""

    label: str
    scale: Scale = Scale.LINEAR

    def __post_init__(self) -> None:
        _text("label", self.label)
        _one_of("scale", self.scale, Scale)


@dataclass(frozen=True, kw_only=True, slots=True)
class YAxis:
    """What a chart measures."""

    label: str

    def __post_init__(self) -> None:
        _text("label", self.label)


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A reference across a chart, such as chance or a budget: at x it stands, at y it lies."""

    axis: Across
    at: float
    label: str

    def __post_init__(self) -> None:
        _one_of("axis", self.axis, Across)
        _number("at", self.at)
        _text("label", self.label)


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """Series over one x axis."""

    title: str
    x: XAxis
    y: YAxis
    series: Sequence[Series]
    lines: Sequence[Line] = ()

    def __post_init__(self) -> None:
        _text("title", self.title)
        _some("series", self.series)
        _distinct("series", [one.name for one in self.series])
        for index, one in enumerate(self.series):
            if one.kind == Kind.BARS and self.x.scale == Scale.LOG:
                _refuse(f"series[{index}].kind", "must be line or points: bars have no width on a logarithmic axis")
            for place, point in enumerate(one.points):
                self._check_x(f"series[{index}].points[{place}].x", point.x)
        for index, line in enumerate(self.lines):
            if line.axis == Across.X:
                if self.x.scale == Scale.CATEGORY:
                    _refuse(f"lines[{index}].axis", "must be y: a category axis has no numbers")
                self._check_x(f"lines[{index}].at", line.at)

    def _check_x(self, where: str, x: float | str) -> None:
        if isinstance(x, str) != (self.x.scale == Scale.CATEGORY):
            wanted = "a name on a category axis" if self.x.scale == Scale.CATEGORY else "a number on this axis"
            _refuse(where, f"must be {wanted}, got {x!r}")
        if self.x.scale == Scale.LOG and not isinstance(x, str) and x <= 0:
            _refuse(where, f"must be positive on a logarithmic axis, got {x!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A sentence that the experiment can show to be false.

    Attributes:
        holds: None where the data decide neither way.
        figure: the numbers that decide, in words, such as `0.62 [0.58, 0.66], n 600`.
    """

    claim: str
    holds: bool | None
    figure: str

    def __post_init__(self) -> None:
        _text("claim", self.claim)
        _text("figure", self.figure)
        if self.holds is not None and not isinstance(self.holds, bool):
            _refuse("holds", f"must be true, false or null, got {self.holds!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """What would have to be the same for the same numbers.

    Attributes:
        commit: of the code. machine: as `benchmarks.report.machine` tells it. versions: of packages, by name.
        models, data: SHA-256 by name of the model or the file. config: all that was chosen.
    """

    commit: str
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    models: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _text("commit", self.commit)
        _json("machine", self.machine)
        _json("config", self.config)
        for package, version in self.versions.items():
            _text(f"versions.{package}", version)
        for name, sums in (("models", self.models), ("data", self.data)):
            for key, value in sums.items():
                if not isinstance(value, str) or not _SHA256.fullmatch(value):
                    _refuse(f"{name}.{key}", f"must be the 64 hexadecimal digits of a SHA-256, got {value!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What one run of an experiment found.

    Attributes:
        question: one sentence. command: what runs it again. finished: with its offset from UTC.
        reading: what the figures mean, in at most five sentences.
    """

    experiment: str
    title: str
    question: str
    setting: Setting
    command: str
    finished: datetime
    seconds: float
    seeds: Sequence[int]
    provenance: Provenance
    tables: Sequence[Table]
    charts: Sequence[Chart]
    claims: Sequence[Claim]
    reading: Sequence[str]

    def __post_init__(self) -> None:
        if not isinstance(self.experiment, str) or not _SLUG.fullmatch(self.experiment):
            _refuse("experiment", f"must be lower-case words joined by hyphens, got {self.experiment!r}")
        for name, value in (("title", self.title), ("question", self.question), ("command", self.command)):
            _text(name, value)
        _one_of("setting", self.setting, Setting)
        if not isinstance(self.finished, datetime) or self.finished.utcoffset() is None:
            _refuse("finished", f"must be a time with its offset from UTC, got {self.finished!r}")
        _number("seconds", self.seconds)
        if self.seconds < 0:
            _refuse("seconds", f"must not be negative, got {self.seconds!r}")
        for index, seed in enumerate(self.seeds):
            _whole(f"seeds[{index}]", seed)
        for index, sentence in enumerate(self.reading):
            _text(f"reading[{index}]", sentence)
        if len(self.reading) > MOST_SENTENCES:
            _refuse("reading", f"must have at most {MOST_SENTENCES} sentences, got {len(self.reading)}")
        _distinct("tables", [table.title for table in self.tables], of="title")
        _distinct("charts", [chart.title for chart in self.charts], of="title")

    @property
    def verdicts(self) -> dict[bool | None, int]:
        """How many claims hold, do not, and are open."""
        return {verdict: sum(claim.holds is verdict for claim in self.claims) for verdict in (True, False, None)}

    @property
    def file_name(self) -> str:
        """Of its file, in any directory."""
        return f"{self.experiment}.{self.setting}.json"


# --- checks -----------------------------------------------------------------------------------------------------------


def _refuse(where: str, problem: str) -> NoReturn:
    raise InvalidResult(where, problem)


def _string(where: str, value: object) -> None:
    if not isinstance(value, str):
        _refuse(where, f"must be a text, got {value!r}")


def _text(where: str, value: object) -> None:
    if not isinstance(value, str) or not value.strip():
        _refuse(where, f"must be a text that is not empty, got {value!r}")


def _number(where: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        _refuse(where, f"must be a finite number, got {value!r}")


def _whole(where: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        _refuse(where, f"must be a whole number of at least 0, got {value!r}")


def _interval(low: object, high: object) -> None:
    for name, bound in (("low", low), ("high", high)):
        _number(name, bound)
    if low > high:  # type: ignore[operator]  # both are numbers now
        _refuse("low", f"must not lie above high, got {low!r} and {high!r}")


def _one_of(where: str, value: object, members: type[StrEnum]) -> None:
    if value not in [*members]:
        _refuse(where, f"must be one of {', '.join(members)}, got {value!r}")


def _some(where: str, values: Sequence[object]) -> None:
    if not values:
        _refuse(where, "must not be empty")


def _distinct(where: str, values: Sequence[object], *, of: str = "") -> None:
    for index, value in enumerate(values):
        if value in values[:index]:
            _refuse(f"{where}[{index}]", f"repeats {of + ' ' if of else ''}{value!r}")


def _json(where: str, value: object) -> None:
    """Refuse what JSON has no word for, at whatever depth."""
    if isinstance(value, Mapping):
        for key, one in value.items():
            _string(where, key)
            _json(f"{where}.{key}", one)
    elif isinstance(value, list | tuple):
        for index, one in enumerate(value):
            _json(f"{where}[{index}]", one)
    elif not isinstance(value, str | bool | None):
        _number(where, value)


# --- to and from JSON -------------------------------------------------------------------------------------------------


def document(result: Result) -> dict[str, Any]:
    """The result as the file has it."""
    return {"format": FORMAT, "version": VERSION, **_plain(result)}


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        rows = ((one, getattr(value, one.name)) for one in fields(value))
        # A bound that is not there is left out; a cell or a verdict that is null says something, and stays.
        return {one.name: _plain(found) for one, found in rows if not (found is None and one.default is None)}
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(one) for one in value]
    return value


def parse(text: str) -> Result:
    """The result that a file holds.

    Raises:
        InvalidResult: it is not JSON, not of this format and version, or breaks it; names the field and the value.
    """
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise InvalidResult("", f"is not JSON: {error}") from None
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise InvalidResult(
            "format", f"must be {FORMAT!r}, got {raw.get('format') if isinstance(raw, dict) else raw!r}"
        )
    if raw.get("version") != VERSION:
        raise InvalidResult("version", f"must be {VERSION}, got {raw.get('version')!r}")
    return _read(Result, {key: value for key, value in raw.items() if key not in ("format", "version")})


def _read(kind: type[T], raw: object) -> T:
    """An object of one of the classes above, its parts read first."""
    if not isinstance(raw, dict):
        _refuse("", f"must be an object, got {raw!r}")
    known = {one.name: one for one in fields(kind)}  # type: ignore[arg-type]  # only called with the classes above
    for name in raw:
        if name not in known:
            _refuse(name, f"is unknown; known are {', '.join(known)}")
    for name, one in known.items():
        if name not in raw and _is_required(one):
            _refuse(name, "is missing")
    hints = get_type_hints(kind)
    return kind(**{name: _part(name, hints[name], value) for name, value in raw.items()})


def _is_required(one: Field[Any]) -> bool:
    return one.default is MISSING and one.default_factory is MISSING


def _part(where: str, hint: Any, raw: Any) -> Any:
    """A field's value by the type that its class gives it."""
    origin = getattr(hint, "__origin__", None)
    if origin is Sequence:
        if not isinstance(raw, list):
            _refuse(where, f"must be a list, got {raw!r}")
        return tuple(_part(f"{where}[{index}]", get_args(hint)[0], one) for index, one in enumerate(raw))
    if origin is Mapping:
        if not isinstance(raw, dict):
            _refuse(where, f"must be an object, got {raw!r}")
        return {key: _part(f"{where}.{key}", get_args(hint)[1], one) for key, one in raw.items()}
    try:
        return _value(Estimate if hint == Cell and isinstance(raw, dict) else hint, raw)
    except InvalidResult as error:
        raise error.below(where) from None


def _value(hint: Any, raw: Any) -> Any:
    """Of one of the classes above; what is of none is left to the class that holds it."""
    if is_dataclass(hint):
        return _read(hint, raw)  # type: ignore[arg-type]  # a class, as hints are
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        _one_of("", raw, hint)
        return hint(raw)
    return _time(raw) if hint is datetime else raw


def _time(raw: object) -> datetime:
    try:
        return datetime.fromisoformat(str(raw))
    except ValueError:
        _refuse("", f"must be a time as of ISO 8601, got {raw!r}")
