"""The votes on one criterion of the form as arrays: rows beside the main question, and points of ratings.

Two queries, and every body is read once. A rating without pairs (one completion) has points only.

Shapes: V votes, S completions, P pairs of a comparison.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from annotation.feedback import LETTERS, FeedbackKind
from annotation.models import ConsensusState, Project, SlotState
from annotation.statistics.estimates import IntArray
from annotation.tally import criterion_class
from annotation.vote_arrays import VoteArrays, live_votes

_NONE = -1  # this vote says nothing here


@dataclass(frozen=True, kw_only=True, slots=True)
class _Bodies:
    """Counted votes in the order of their keys; `comparison` and `annotator` are codes from 0."""

    key: IntArray
    comparison: IntArray
    annotator: IntArray
    comparisons: IntArray
    users: IntArray
    body: Sequence[Mapping[str, Any]]


def criterion_pairs(project: Project) -> dict[str, VoteArrays]:
    """By criterion: which completion of each pair is better. Empty for a ranking, which has none."""
    form = project.feedback
    rows = _bodies(project)
    if form.kind is FeedbackKind.RATING:
        return {key: _arrays(rows, _pair_classes(points), K=3) for key, points in _points(project, rows).items()}
    offers_tie = form.kind is FeedbackKind.CHOICE or form.points % 2 == 1
    found = {}
    for criterion in form.criteria:
        label = np.array(
            [[_class(body, criterion.key)] for body in rows.body], dtype=np.int64
        ).reshape(-1, 1)  # fmt: skip
        K = 3 if offers_tie or bool((label == 1).any()) else 2
        found[criterion.key] = _arrays(rows, label if K == 3 else np.where(label > 0, label // 2, label), K=K)
    return found


def criterion_points(project: Project) -> dict[str, VoteArrays]:
    """By criterion of a rating: the points of each completion, 0 for the lowest; an item is a completion in its place.

    Empty for other kinds.
    """
    if project.feedback.kind is not FeedbackKind.RATING:
        return {}
    rows = _bodies(project)
    return {key: _arrays(rows, points - 1, K=project.feedback.points) for key, points in _points(project, rows).items()}


def together(parts: Mapping[str, VoteArrays]) -> VoteArrays:
    """The items of all criteria side by side: the same completion under two criteria is two items."""
    first = next(iter(parts.values()))
    shift = np.cumsum([0, *(len(part.comparison) for part in parts.values())])
    user = np.unique(np.concatenate([part.user for part in parts.values()]))
    return VoteArrays(
        key=np.concatenate([part.key for part in parts.values()]),
        item=np.concatenate([part.item + start for part, start in zip(parts.values(), shift, strict=False)]),
        annotator=np.concatenate([np.searchsorted(user, part.user)[part.annotator] for part in parts.values()]),
        label=np.concatenate([part.label for part in parts.values()]),
        is_counted=np.concatenate([part.is_counted for part in parts.values()]),
        comparison=np.concatenate([part.comparison for part in parts.values()]),
        pair=np.concatenate([part.pair for part in parts.values()]),
        user=user,
        K=first.K,
    )


def _bodies(project: Project) -> _Bodies:
    rows = live_votes(project).exclude(comparison__consensus__state=ConsensusState.WITHDRAWN)
    counted = rows.filter(slots__state=SlotState.DONE).order_by("pk")
    found = list(counted.values_list("pk", "comparison_id", "annotator_id", "body"))
    comparisons, comparison = np.unique(np.array([row[1] for row in found], dtype=np.int64), return_inverse=True)
    users, annotator = np.unique(np.array([row[2] for row in found], dtype=np.int64), return_inverse=True)
    return _Bodies(
        key=np.array([row[0] for row in found], dtype=np.int64),
        comparison=comparison.astype(np.int64),
        annotator=annotator.astype(np.int64),
        comparisons=comparisons,
        users=users,
        body=[row[3] for row in found],
    )


def _class(body: Mapping[str, Any], key: str) -> int:
    value = body.get("criteria", {}).get(key)
    return _NONE if value is None else criterion_class(value, body)


def _points(project: Project, rows: _Bodies) -> dict[str, IntArray]:
    """By criterion [V, S]: the points given, 0 where it does not apply."""
    form = project.feedback
    letters = LETTERS[: form.size]
    return {
        key: np.array(
            [[body["ratings"].get(letter, {}).get(key) or 0 for letter in letters] for body in rows.body],
            dtype=np.int64,
        ).reshape(-1, form.size)
        for key in form.rated
    }


def _pair_classes(points: IntArray) -> IntArray:
    """[V, P] 0 where the first of the pair has more points, 1 where they are equal, 2 where the second has."""
    pairs = np.array(list(combinations(range(points.shape[1]), 2)), dtype=np.int64).reshape(-1, 2)
    first, second = points[:, pairs[:, 0]], points[:, pairs[:, 1]]
    return np.where((first > 0) & (second > 0), 1 + np.sign(second - first), _NONE)


def _arrays(rows: _Bodies, label: IntArray, *, K: int) -> VoteArrays:
    """From labels [V, items of a comparison], −1 where there is none."""
    width = label.shape[1]
    number = np.tile(np.arange(width), len(rows.key))
    flat = label.reshape(-1)
    arrays = VoteArrays(
        key=np.repeat(rows.key, width),
        item=np.repeat(rows.comparison, width) * width + number,
        annotator=np.repeat(rows.annotator, width),
        label=flat,
        is_counted=np.ones(len(flat), dtype=bool),
        comparison=np.repeat(rows.comparisons, width),
        pair=np.tile(np.arange(width), len(rows.comparisons)),
        user=rows.users,
        K=K,
    )
    return arrays.only(flat != _NONE)
