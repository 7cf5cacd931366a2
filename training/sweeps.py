"""A sweep: one job for each point of a small grid of settings. All of them are queued, or none."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from django.db import transaction

from annotation.errors import Invalid
from annotation.gate import write
from annotation.models import Project, User
from training.engine.presets import merge
from training.jobs import BadConfig
from training.launching import Prepared, Wish, prepare, queue
from training.models import Job

MOST_JOBS = 24


def points(grid: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every choice of one value for each path of the grid, the last path changing fastest.

    Raises:
        Invalid: no path, a path without values, a value twice, or more than `MOST_JOBS` points.
    """
    if not grid:
        raise _invalid("grid", "must name at least one setting, with its values in a list")
    for path, values in grid.items():
        if not isinstance(values, Sequence) or isinstance(values, str) or not values:
            raise _invalid(f"grid.{path}", f"must be a list of values, got {values!r}")
        if any(value in values[:index] for index, value in enumerate(values)):
            raise _invalid(f"grid.{path}", f"must hold each value once, got {values!r}")
    count = 1
    for values in grid.values():
        count *= len(values)
    if count > MOST_JOBS:
        raise _invalid("grid", f"makes {count} jobs, and a sweep has at most {MOST_JOBS}")
    return [dict(zip(grid, chosen, strict=True)) for chosen in itertools.product(*grid.values())]


def prepare_sweep(project: Project, wish: Wish, grid: Mapping[str, Any]) -> list[Prepared]:
    """One checked wish a point; raises as `points` and `launching.prepare` do, naming the setting."""
    if wish.promote_as:
        raise _invalid("promote_as", "a sweep promotes nothing: promote the best of its jobs")
    made = [prepare(project, _at(wish, point)) for point in points(grid)]
    former: list[dict[str, Any]] = []
    for prepared in made:
        if prepared.complete in former:
            raise BadConfig("grid: two of its points are the same job", details={"grid": ["the same job twice"]})
        former.append(prepared.complete)
    return made


def launch_sweep(prepared: Sequence[Prepared], *, by: User | None, now: datetime) -> list[Job]:
    """Queue them under one id, all or none. A second call makes a second sweep."""
    sweep = uuid.uuid4()
    with write(), transaction.atomic():
        return [queue(item, sweep=sweep, by=by, now=now) for item in prepared]


def _at(wish: Wish, point: Mapping[str, Any]) -> Wish:
    overrides: dict[str, Any] = dict(wish.overrides)
    for path, value in point.items():
        nested: Any = value
        for part in reversed(path.split(".")):
            nested = {part: nested}
        overrides = merge(overrides, nested)
    said = ", ".join(f"{path.rpartition('.')[2]} {value}" for path, value in point.items())
    return replace(wish, overrides=overrides, title=f"{wish.title or wish.method}: {said}"[:200])


def _invalid(field: str, message: str) -> Invalid:
    return Invalid(f"{field}: {message}", details={field: [message]})
