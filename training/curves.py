"""Curves: the metrics of a job over its steps, thinned for a screen, side by side for several jobs, or whole as files.

A job's curve takes each step from its latest attempt that has it, so no step is lost or doubled though an attempt
repeats the steps after its checkpoint. Rows of a job are written by one lease holder at a time, in order of their
keys, so a key serves as cursor: who reads on from it after a break misses nothing.
"""

from __future__ import annotations

import csv
import io
import re
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from django.db.models import Count, F, Max, Q, QuerySet
from django.db.models.expressions import Combinable
from django.db.models.fields.json import KeyTransform
from django.db.models.functions import Mod
from numpy.typing import NDArray

from annotation.importing.cells import csv_cell
from annotation.streaming import Pieces
from training import tensorboard
from training.models import Alarm, Job, Run, RunMetric, RunSample

MOST_JOBS = 12
MOST_NAMES = 24
# Read for one answer, about a second; of more lines every second, third … is read. Whole lines cost more than a few
# values of each.
MOST_LINES, MOST_WHOLE_LINES = 50_000, 10_000
PAGE = 500
MAIN = (
    "train/loss", "eval/loss", "eval/accuracy", "eval/score", "eval/kl", "rollout/score", "rollout/reward",
    "rollout/kl", "rollout/length_mean", "rollout/entropy", "win/win_rate", "speed/tokens_per_second",
)  # fmt: skip
_PROMPTS_SHOWN = 5
_DIVERGED = re.compile(r"(\S+) is (nan|-?inf) at step (\d+)")

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """One metric over steps, ascending. `points` is how many there were before thinning."""

    name: str
    points: int
    steps: list[int]
    times: list[float]
    values: list[float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """Something at a step that a curve alone does not show: `resumed`, `diverged`, `alarm`.

    A value that is not finite ends a run and is in no curve; its mark names the metric and says the value.
    """

    step: int
    kind: str
    attempt: int | None
    name: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Curves:
    """Of one job.

    `first_step` to `last_step` is what was read: who holds points of before drops theirs in that range. `stride` above
    1: only every so manieth line was read.
    """

    curves: tuple[Curve, ...]
    marks: tuple[Mark, ...]
    next_after: int
    first_step: int | None
    last_step: int | None
    stride: int


@dataclass(slots=True)
class _Lines:
    """Lines of a job in order of writing, as columns."""

    keys: list[int] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    values: list[Sequence[Any]] = field(default_factory=list)


# --- one job ----------------------------------------------------------------------------------------------------------


def curves(job: Job, *, names: Sequence[str], points: int, after: int = 0, most_lines: int | None = None) -> Curves:
    """The curves of a job, of all its metrics if none are named; six queries at most.

    Args:
        points: most points of a curve. Of each stretch of steps the lowest and the highest value stay, and the first
            and last of all, so no spike is lost.
        after: a cursor, `next_after` of an earlier answer.
        most_lines: read for it; None: `MOST_LINES`, or `MOST_WHOLE_LINES` where no metrics are named.
    """
    lines, stride, columns = _read([job.pk], names=names, after=after, most_lines=most_lines)
    own = lines.get(job.pk, _Lines())
    return Curves(
        curves=_curves(own, columns, points=points),
        marks=tuple(_marks([job.pk])[job.pk]),
        next_after=max(own.keys, default=after),
        first_step=min(own.steps, default=None),
        last_step=max(own.steps, default=None),
        stride=stride,
    )


def _rows(job_ids: Sequence[int], *, after: int = 0) -> QuerySet[RunMetric]:
    return RunMetric.objects.filter(run__job__in=job_ids, pk__gt=after)


def _read(
    job_ids: Sequence[int], *, names: Sequence[str], after: int = 0, most_lines: int | None = None
) -> tuple[dict[int, _Lines], int, Sequence[str]]:
    """By job its lines after a cursor; the stride; and the names of the columns of their values."""
    ends = _rows(job_ids, after=after).values("run__job").annotate(n=Count("pk"), last=Max("pk"))
    found = list(ends)
    most_lines = most_lines or (MOST_LINES if names else MOST_WHOLE_LINES)
    stride = max(1, -(-sum(row["n"] for row in found) // most_lines))
    rows = _rows(job_ids, after=after).order_by("run__job", "run__attempt", "seq")
    if stride > 1:
        rows = rows.annotate(place=Mod("seq", stride)).filter(
            Q(place=1 % stride) | Q(pk__in=[row["last"] for row in found])
        )
    # A value by name is taken out in the database: reading whole lines costs four times as much.
    picked: list[Combinable] = [KeyTransform(name, "values") for name in names] or [F("values")]
    lines: dict[int, _Lines] = defaultdict(_Lines)
    for job_id, key, step, moment, *values in rows.values_list("run__job", "pk", "step", "time", *picked):
        own = lines[job_id]
        own.keys.append(key)
        own.steps.append(step)
        own.times.append(moment)
        own.values.append(values)
    if names:
        return lines, stride, names
    whole: dict[str, int] = {}
    for own in lines.values():
        for (values,) in own.values:
            for name in values:
                whole.setdefault(name, len(whole))
    for own in lines.values():
        own.values = [[values.get(name) for name in whole] for (values,) in own.values]
    return lines, stride, list(whole)


def _curves(lines: _Lines, names: Sequence[str], *, points: int) -> tuple[Curve, ...]:
    if not lines.steps:
        return ()
    steps, times = np.array(lines.steps, dtype=np.int64), np.array(lines.times, dtype=np.float64)
    values = np.array(lines.values, dtype=np.float64)  # [lines, names], NaN where a line has no such metric
    found = []
    for name, column in sorted(zip(names, values.T, strict=True), key=lambda item: item[0]):
        there = np.flatnonzero(~np.isnan(column))
        if not len(there):
            continue
        latest = there[_last_of_each(steps[there])]
        kept = latest[thin(steps[latest], column[latest], points=points)]
        found.append(
            Curve(
                name=name,
                points=len(latest),
                steps=steps[kept].tolist(),
                times=times[kept].tolist(),
                values=column[kept].tolist(),
            )
        )
    return tuple(found)


def _last_of_each(steps: Ints) -> Ints:
    """Places of the last line of each step, by step: lines of a later attempt come later."""
    _, places = np.unique(steps[::-1], return_index=True)
    return np.asarray(len(steps) - 1 - places)


def thin(steps: Ints, values: Floats, *, points: int) -> Ints:
    """Places of at most `points` points of a curve with ascending steps: first, last, and of each of equal stretches of
    steps the lowest and the highest value, at their own steps (min/max decimation; nothing is averaged)."""
    n = len(steps)
    if n <= points:
        return np.arange(n)
    stretches = max(1, (points - 2) // 2)
    stretch = (steps - steps[0]) * stretches // (steps[-1] - steps[0] + 1)
    by_value = np.lexsort((values, stretch))
    begins = np.flatnonzero(np.diff(stretch[by_value], prepend=-1))
    ends = np.append(begins[1:], n) - 1
    return np.unique(np.concatenate([[0, n - 1], by_value[begins], by_value[ends]]))


def _marks(job_ids: Sequence[int]) -> dict[int, list[Mark]]:
    """By job, in order of step; two queries."""
    found: dict[int, list[Mark]] = defaultdict(list)
    for run in Run.objects.filter(job__in=job_ids).select_related("resumed_from").order_by("attempt"):
        if run.resumed_from is not None:
            found[run.job_id].append(
                Mark(step=run.resumed_from.step, kind="resumed", attempt=run.attempt, name="", text="")
            )
        said = (run.result or {}).get("reason") or run.reason
        if (run.result or {}).get("status") == "diverged" or run.exit_code == 4:
            read = _DIVERGED.search(said)
            step = int(read[3]) if read else run.last_step or 0
            name = read[1] if read else ""
            found[run.job_id].append(Mark(step=step, kind="diverged", attempt=run.attempt, name=name, text=said))
    for alarm in Alarm.objects.filter(job__in=job_ids, step__isnull=False).select_related("run"):
        assert alarm.job_id is not None and alarm.step is not None
        attempt = None if alarm.run is None else alarm.run.attempt
        found[alarm.job_id].append(Mark(step=alarm.step, kind="alarm", attempt=attempt, name=alarm.name, text=""))
    for marks in found.values():
        marks.sort(key=lambda mark: mark.step)
    return found


# --- several jobs -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """A key of the config, by dotted path, and its value in each job, None where a job has no such key."""

    key: str
    values: tuple[Any, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class SideBySide:
    """A prompt, and what each job wrote for it at its last evaluation, None where it wrote nothing."""

    prompt: Any
    samples: tuple[RunSample | None, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Jobs beside each other, in the order asked for. `finals` are the final metrics, or the last values so far."""

    curves: tuple[Curves, ...]
    differences: tuple[Difference, ...]
    alike: int
    finals: tuple[dict[str, float], ...]
    samples: tuple[SideBySide, ...]


def compare(jobs: Sequence[Job], *, names: Sequence[str], points: int) -> Comparison:
    """Several jobs side by side, in a number of queries that does not grow with them.

    Args:
        jobs: with snapshot and model. names: of metrics; none: `MAIN`.
    """
    ids = [job.pk for job in jobs]
    lines, stride, columns = _read(ids, names=list(names) or MAIN)
    marks = _marks(ids)
    found = []
    for job in jobs:
        own = lines.get(job.pk, _Lines())
        found.append(
            Curves(
                curves=_curves(own, columns, points=points),
                marks=tuple(marks[job.pk]),
                next_after=max(own.keys, default=0),
                first_step=min(own.steps, default=None),
                last_step=max(own.steps, default=None),
                stride=stride,
            )
        )
    differences, alike = _differences(jobs)
    finals = _finals(jobs, found)
    return Comparison(
        curves=tuple(found), differences=differences, alike=alike, finals=finals, samples=_side_by_side(ids)
    )


def _differences(jobs: Sequence[Job]) -> tuple[tuple[Difference, ...], int]:
    configs = [
        dict(flat(job.config))
        | {
            "snapshot": None if job.snapshot is None else f"v{job.snapshot.number}",
            "model": None if job.model is None else job.model.name,
        }
        for job in jobs
    ]
    keys = list(dict.fromkeys(key for config in configs for key in config))
    rows = [Difference(key=key, values=tuple(config.get(key) for config in configs)) for key in keys]
    differing = tuple(row for row in rows if any(value != row.values[0] for value in row.values))
    return differing, len(rows) - len(differing)


def flat(config: Mapping[str, Any], *, under: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a config by dotted path; lists are values."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from flat(value, under=f"{under}{key}.")
        else:
            yield f"{under}{key}", value


def _finals(jobs: Sequence[Job], found: Sequence[Curves]) -> tuple[dict[str, float], ...]:
    """Of each job the metrics of its last finished attempt; while there is none, the last value of each curve."""
    results: dict[int, dict[str, float]] = {}
    runs = Run.objects.filter(job__in=[job.pk for job in jobs], result__isnull=False).order_by("attempt")
    for run in runs:
        assert run.result is not None
        if run.result.get("metrics"):
            results[run.job_id] = run.result["metrics"]
    return tuple(
        results.get(job.pk) or {curve.name: curve.values[-1] for curve in own.curves}
        for job, own in zip(jobs, found, strict=True)
    )


def _side_by_side(job_ids: Sequence[int]) -> tuple[SideBySide, ...]:
    """The first prompts for which at least two jobs wrote something at their last evaluation; two queries."""
    last = RunSample.objects.filter(run__job__in=job_ids).values("run__job").annotate(step=Max("step"))
    wanted = Q(pk__in=[])
    for row in last:
        wanted |= Q(run__job=row["run__job"], step=row["step"])
    by_prompt: dict[str, dict[int, RunSample]] = defaultdict(dict)
    for sample in RunSample.objects.filter(wanted).select_related("run").order_by("run__attempt", "seq"):
        if sample.body.get("prompt_id") is not None:
            by_prompt[sample.body["prompt_id"]][sample.run.job_id] = sample
    shared = [own for _, own in sorted(by_prompt.items()) if len(own) > 1][:_PROMPTS_SHOWN]
    return tuple(
        SideBySide(
            prompt=next(iter(own.values())).body.get("prompt", []),
            samples=tuple(own.get(job_id) for job_id in job_ids),
        )
        for own in shared
    )


# --- files ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A line of metrics with the attempt that wrote it."""

    attempt: int
    step: int
    time: float
    values: Mapping[str, float]


def lines(job: Job) -> Iterator[Line]:
    """Every step of a job once, from its latest attempt that has it, in order of steps. Reads by pages."""
    latest: dict[int, tuple[int, list[int]]] = {}
    for attempt, step, key in _rows([job.pk]).order_by("run__attempt", "seq").values_list("run__attempt", "step", "pk"):
        if step not in latest or latest[step][0] < attempt:
            latest[step] = (attempt, [])
        latest[step][1].append(key)
    keys = [key for step in sorted(latest) for key in latest[step][1]]
    for begin in range(0, len(keys), PAGE):
        page = keys[begin : begin + PAGE]
        rows = RunMetric.objects.filter(pk__in=page).values_list("pk", "run__attempt", "step", "time", "values")
        found = {key: rest for key, *rest in rows}
        for key in page:
            attempt, step, moment, values = found[key]
            yield Line(attempt=attempt, step=step, time=moment, values=values)


def csv_file(job: Job) -> Iterator[bytes]:
    """All metrics of a job as CSV, one line a step; a metric that a step does not have is an empty cell."""
    names = sorted({name for line in lines(job) for name in line.values})
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(["attempt", "step", "time", *map(csv_cell, names)])  # the rows are numbers, which need no guard
    rows = lines(job)
    while page := list(islice(rows, PAGE)):
        writer.writerows([line.attempt, line.step, line.time, *map(line.values.get, names)] for line in page)
        yield out.getvalue().encode()
        out.seek(0)
        out.truncate()
    yield out.getvalue().encode()


def event_file(job: Job) -> Iterator[bytes]:
    """All metrics of a job as TensorBoard reads them."""
    return tensorboard.event_file(
        ((line.time, line.step, line.values) for line in lines(job)), started_at=job.created_at.timestamp()
    )


def event_file_name(job: Job) -> str:
    """What the event file of a job is called: TensorBoard looks for `tfevents`."""
    return tensorboard.file_name(started_at=job.created_at.timestamp(), name=f"job-{job.number}")


def event_archive(jobs: Iterable[Job]) -> Iterator[bytes]:
    """A ZIP with a directory for each job, as TensorBoard tells runs apart, in pieces."""
    out = Pieces()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for job in jobs:
            title = re.sub(r"[^A-Za-z0-9._-]+", "-", job.title).strip("-.")[:60]
            directory = f"job-{job.number}-{title}" if title else f"job-{job.number}"
            with archive.open(f"{directory}/{event_file_name(job)}", "w", force_zip64=True) as member:
                for piece in event_file(job):
                    member.write(piece)
                    yield out.take()
    yield out.take()
