"""What the votes of a project say about each person: gold, agreement, consistency, bias and speed.

All people are computed together from arrays, in a fixed number of queries, so that a table of them costs what one does.
A vote of any kind is its pairs (`feedback.pair_classes`); of several completions a figure is the mean over the pairs,
and its interval that of as many answers as there are votes.

Shapes: V votes, P pairs of a vote, C comparisons.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations
from typing import Any

import numpy as np
from django.db.models import Count, Max, Q
from django.db.models.functions import Length

from annotation.feedback import LETTERS
from annotation.gold import is_right
from annotation.models import (
    Assignment,
    AssignmentState,
    ComparisonCompletion,
    Flag,
    Gold,
    Membership,
    Project,
    Purpose,
    Vote,
)
from annotation.statistics.estimates import (
    BoolArray,
    Estimate,
    FloatArray,
    IntArray,
    clustered_share,
    wilson,
)
from annotation.vote_arrays import pair_labels

ORDINARY = (Purpose.WANTED, Purpose.GOLD, Purpose.REPEAT)  # production: what a person cannot tell apart
BUCKETS = 10
_CODE = {purpose.value: code for code, purpose in enumerate(ORDINARY)}
_WANTED, _GOLD, _REPEAT = range(3)


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """How a person works.

    Attributes:
        votes: live votes of ordinary work, hidden gold and repeats among them.
        gold: share of hidden gold that was right.
        agreement: share of votes that say what most of the others say; their own is left out, ties at the top shared.
        consistency: share of repeats that say the same again.
        side_driven: of repeats that were decisive both times, the share that chose the same side again.
        left_share, longer_share: of decisive votes, for the one on the left, and for the longer one.
        median_seconds: focused time of a vote; `votes_per_hour`: of focused time.
        skips: tasks given back without a vote, `cannot_judge` of them because they could not tell.
    """

    votes: int
    gold: Estimate
    agreement: Estimate
    consistency: Estimate
    side_driven: Estimate
    left_share: Estimate
    longer_share: Estimate
    tie_share: Estimate
    median_seconds: float | None
    votes_per_hour: float | None
    skips: int
    cannot_judge: int
    flags: int
    last_vote_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Ballots:
    """Live votes of ordinary work in the order of their keys, as arrays.

    Attributes:
        key: [V] primary keys. person: [V] user ids. comparison: [V] codes from 0.
        label: [V, P] 0 the first of the pair is better, 1 a tie, 2 the second.
        left: [V, P] whether the first of the pair stood left of the second; −1 where no screen is known.
        longer: [V, P] sign of the difference in length of the first and the second.
        seconds: [V] focused time, NaN where it is unknown.
        is_counted: [V] whether a slot points to it.
        gold: [V] 1 right, 0 wrong, −1 no gold.
        comparisons: [C] primary keys.
    """

    key: IntArray
    person: IntArray
    comparison: IntArray
    purpose: IntArray
    label: IntArray
    left: IntArray
    longer: IntArray
    seconds: FloatArray
    is_counted: BoolArray
    gold: IntArray
    comparisons: IntArray

    def __len__(self) -> int:
        return len(self.key)


def load(project: Project, *, only: int | None = None) -> Ballots:
    """The ballots of a project; of all comparisons, or of those where the person with the user id `only` has voted.

    Excluded people's votes are there and are not counted. Four queries.
    """
    size = project.feedback.size
    live = Vote.objects.filter(project=project, purpose__in=ORDINARY, retractions__isnull=True)
    if only is not None:
        live = live.filter(comparison_id__in=live.filter(annotator_id=only).values("comparison_id"))
    names = ["pk", "annotator_id", "comparison_id", "purpose", "choice", "active_ms", "assignment__sides", "slots__id"]
    rows = live.order_by("pk").values_list(*names, "body" if size > 2 else "choice")
    columns: list[Sequence[Any]] = list(zip(*rows, strict=True)) or [()] * 9
    key, person, comparison, purpose, choice, active, sides, slot, body = columns
    comparisons, code = np.unique(np.array(comparison, dtype=np.int64), return_inverse=True)
    excluded = list(
        Membership.objects.filter(project=project, excluded_at__isnull=False).values_list("user_id", flat=True)
    )
    people = np.array(person, dtype=np.int64)
    purposes = np.array([_CODE[item] for item in purpose], dtype=np.int64)
    return Ballots(
        key=np.array(key, dtype=np.int64),
        person=people,
        comparison=code.astype(np.int64),
        purpose=purposes,
        label=pair_labels(choice, body, size=size),
        left=pair_sides(sides, size),
        longer=_longer(live, comparisons, size)[code],
        seconds=np.array([np.nan if item is None else item / 1000 for item in active], dtype=np.float64),
        is_counted=np.array([item is not None for item in slot], dtype=bool) & ~np.isin(people, excluded),
        gold=_gold(project, np.flatnonzero(purposes == _GOLD), comparison, choice, body, size),
        comparisons=comparisons,
    )


def pair_sides(sides: Sequence[str | None], size: int) -> IntArray:
    """[V, P] 1 where the first of a pair stood left of the second, 0 where it stood right, −1 without a screen."""
    known = sorted({item for item in sides if item is not None})
    table = np.full((len(known) + 1, size * (size - 1) // 2), -1, dtype=np.int64)
    for row, name in enumerate(known):
        for column, (i, j) in enumerate(combinations(LETTERS[:size], 2)):
            table[row, column] = name.index(i) < name.index(j)
    code = {name: row for row, name in enumerate(known)}
    return table[[code.get(item, -1) if item is not None else -1 for item in sides]]


def _longer(live: Any, comparisons: IntArray, size: int) -> IntArray:
    # Not correlated: without statistics SQLite would look through all votes of the project for each place.
    voted = live.order_by().values("comparison_id")
    places = ComparisonCompletion.objects.filter(comparison_id__in=voted, position__lt=size)
    rows = np.array(
        list(places.order_by().values_list("comparison_id", "position", Length("completion__text"))), dtype=np.int64
    ).reshape(-1, 3)
    length = np.zeros((len(comparisons), size), dtype=np.int64)
    length[np.searchsorted(comparisons, rows[:, 0]), rows[:, 1]] = rows[:, 2]
    pairs = np.array(list(combinations(range(size), 2)), dtype=np.int64).reshape(-1, 2)
    sign: IntArray = np.sign(length[:, pairs[:, 0]] - length[:, pairs[:, 1]])
    return sign


def _gold(
    project: Project, places: IntArray, comparison: Sequence[int], choice: Sequence[str], body: Sequence[Any], size: int
) -> IntArray:
    answers = dict(Gold.objects.filter(project=project).values_list("comparison_id", "answer"))
    found = np.full(len(comparison), -1, dtype=np.int64)
    for i in places:
        answer = answers.get(comparison[i])
        if answer is not None:
            found[i] = is_right(answer, choice[i], body[i] if size > 2 else {}, size=size)
    return found


# --- figures ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Figures:
    """Per vote a value in 0..1, and the weight with which it counts (0: not at all)."""

    value: FloatArray
    weight: FloatArray

    def sums(self, group: IntArray, n: int) -> tuple[FloatArray, FloatArray]:
        """Σ value · weight and Σ weight of each group."""
        total = np.bincount(group, weights=self.value * self.weight, minlength=n)
        weight = np.bincount(group, weights=self.weight, minlength=n)
        return total.astype(np.float64), weight.astype(np.float64)


def _of_pairs(holds: BoolArray, applies: BoolArray) -> _Figures:
    """From [V, P]: the share of the pairs where it holds among those to which it applies."""
    n = applies.sum(axis=1)
    value = (holds & applies).sum(axis=1) / np.maximum(n, 1)
    return _Figures(value=value, weight=n / max(1, applies.shape[1]))


def _agreement(ballots: Ballots) -> _Figures:
    """Leave-one-out: what most of the others' counted votes say."""
    votes, pairs = ballots.label.shape
    item = ballots.comparison[:, None] * pairs + np.arange(pairs)
    n_items = (int(ballots.comparison.max()) + 1 if votes else 0) * pairs
    counted = np.broadcast_to(ballots.is_counted[:, None], item.shape)
    flat = np.bincount((item * 3 + ballots.label)[counted], minlength=n_items * 3)
    others = flat.reshape(n_items, 3)[item].astype(np.float64)  # [V, P, 3]
    own = np.eye(3)[ballots.label] * ballots.is_counted[:, None, None]
    others -= own
    top = (others == others.max(axis=2, keepdims=True)) & (others.sum(axis=2, keepdims=True) > 0)
    hit = np.take_along_axis(top, ballots.label[:, :, None], axis=2)[:, :, 0]
    known = top.any(axis=2) & (ballots.purpose == _WANTED)[:, None]
    credit = np.where(known, hit / np.maximum(top.sum(axis=2), 1), 0.0)
    n = known.sum(axis=1)
    return _Figures(value=credit.sum(axis=1) / np.maximum(n, 1), weight=n / max(1, pairs))


def repeated(ballots: Ballots) -> tuple[IntArray, IntArray]:
    """Where the repeats are whose first answer is there too, and where that is: [R] both."""
    n = int(ballots.comparison.max()) + 1 if len(ballots) else 1
    keys = ballots.person * n + ballots.comparison
    first = np.flatnonzero(ballots.purpose == _WANTED)
    first = first[np.argsort(keys[first], kind="stable")]
    again = np.flatnonzero(ballots.purpose == _REPEAT)
    place = np.searchsorted(keys[first], keys[again])
    found = place < len(first)
    found[found] = keys[first][place[found]] == keys[again][found]
    return again[found], first[place[found]]


def _repeats(ballots: Ballots) -> tuple[_Figures, _Figures]:
    """Of repeats: the same class as the first time; and, of those decisive both times, the same side."""
    again, before = repeated(ballots)
    same, is_repeat = np.zeros(ballots.label.shape, dtype=bool), np.zeros(ballots.label.shape, dtype=bool)
    side, decisive = same.copy(), same.copy()
    same[again] = ballots.label[again] == ballots.label[before]
    is_repeat[again] = True
    chose_left = _chose_left(ballots)
    side[again] = chose_left[again] == chose_left[before]
    decisive[again] = (chose_left[again] >= 0) & (chose_left[before] >= 0)
    return _of_pairs(same, is_repeat), _of_pairs(side, decisive)


def _chose_left(ballots: Ballots) -> IntArray:
    """1 where the better one of a pair stood left, 0 where it stood right, −1 for ties and unknown screens."""
    chosen = np.where(ballots.label == 0, ballots.left, 1 - ballots.left)
    return np.where((ballots.label == 1) | (ballots.left < 0), -1, chosen)


def _shares(ballots: Ballots) -> dict[str, _Figures]:
    """The figures of every vote, by the name that a record has for them."""
    same, side = _repeats(ballots)
    chose_left = _chose_left(ballots)
    decisive = ballots.label != 1
    chose_longer = np.where(ballots.label == 0, ballots.longer, -ballots.longer)
    is_gold = (ballots.gold >= 0)[:, None]
    first = (ballots.purpose != _REPEAT)[:, None] & np.ones_like(decisive)
    return {
        "gold": _Figures(value=np.maximum(ballots.gold, 0).astype(np.float64), weight=is_gold[:, 0].astype(np.float64)),
        "agreement": _agreement(ballots),
        "consistency": same,
        "side_driven": side,
        "left_share": _of_pairs(chose_left == 1, chose_left >= 0),
        "longer_share": _of_pairs(chose_longer == 1, decisive & (ballots.longer != 0)),
        "tie_share": _of_pairs(~decisive, first),
    }


def records(project: Project, *, user_ids: Sequence[int] | None = None) -> dict[int, Record]:
    """The record of each of these people, or of everybody with a ballot; seven queries, whoever they are."""
    ballots = load(project, only=user_ids[0] if user_ids is not None and len(user_ids) == 1 else None)
    return _records(project, ballots, np.unique(ballots.person).tolist() if user_ids is None else user_ids)


def _records(project: Project, ballots: Ballots, user_ids: Sequence[int]) -> dict[int, Record]:
    people, code = np.unique(np.concatenate([ballots.person, np.array(user_ids, dtype=np.int64)]), return_inverse=True)
    code = code[: len(ballots)]
    n = len(people)
    votes = np.bincount(code, minlength=n)
    sums = {name: figures.sums(code, n) for name, figures in _shares(ballots).items()}
    median = _medians(ballots.seconds, code, n)
    timed = ~np.isnan(ballots.seconds)
    spent = np.bincount(code[timed], weights=ballots.seconds[timed], minlength=n)
    timed_votes = np.bincount(code[timed], minlength=n)
    beside = _beside(project)
    found: dict[int, Record] = {}
    for user_id in user_ids:
        i = int(np.searchsorted(people, user_id))
        rest = beside.get(user_id, {})
        found[user_id] = Record(
            votes=int(votes[i]),
            **{name: wilson(float(right[i]), float(total[i])) for name, (right, total) in sums.items()},
            median_seconds=round(float(median[i]), 1) if timed_votes[i] else None,
            votes_per_hour=round(float(timed_votes[i] / spent[i] * 3600), 1) if spent[i] else None,
            skips=rest.get("skips", 0),
            cannot_judge=rest.get("cannot_judge", 0),
            flags=rest.get("flags", 0),
            last_vote_at=rest.get("last"),
        )
    return found


def _medians(values: FloatArray, group: IntArray, n: int) -> FloatArray:
    """The median of each group's values without NaN; NaN for an empty group."""
    keep = ~np.isnan(values)
    values, group = values[keep], group[keep]
    order = np.lexsort((values, group))
    values = values[order]
    size = np.bincount(group, minlength=n)
    start = np.cumsum(size) - size
    has = size > 0
    median = np.full(n, np.nan)
    low, high = start + (size - 1) // 2, start + size // 2
    median[has] = (values[low[has]] + values[high[has]]) / 2
    return median


def _beside(project: Project) -> dict[int, dict[str, Any]]:
    """What a person did beside voting: skips, flags, and when they voted last. Three queries."""
    found: dict[int, dict[str, Any]] = {}

    def note(rows: Iterable[tuple[Any, ...]], *names: str) -> None:
        for user_id, *values in rows:
            found.setdefault(user_id, {}).update(zip(names, values, strict=True))

    cannot = Count("pk", filter=Q(reason__startswith="cannot_judge"))
    skipped = Assignment.objects.filter(project=project, state=AssignmentState.SKIPPED).order_by()
    note(skipped.values_list("annotator_id").annotate(n=Count("pk"), cannot=cannot), "skips", "cannot_judge")
    flags = Flag.objects.filter(project=project).order_by()
    note(flags.values_list("by_id").annotate(n=Count("pk")), "flags")
    votes = Vote.objects.filter(project=project, purpose__in=ORDINARY, retractions__isnull=True).order_by()
    note(votes.values_list("annotator_id").annotate(at=Max("created_at")), "last")
    return found


# --- of the project, and of one person in time ------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Pool:
    """Figures of all people together; intervals allow for answers of one person resembling each other."""

    gold: Estimate
    agreement: Estimate
    consistency: Estimate
    side_driven: Estimate
    left_share: Estimate
    longer_share: Estimate
    tie_share: Estimate


def pool(project: Project) -> Pool:
    """The same figures over all people."""
    ballots = load(project)
    people, code = np.unique(ballots.person, return_inverse=True)
    return Pool(
        **{name: clustered_share(*figures.sums(code, len(people))) for name, figures in _shares(ballots).items()}
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Bucket:
    """A tenth of a person's votes, in time."""

    first: int
    last: int
    votes: int
    gold: Estimate
    agreement: Estimate
    median_seconds: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """A person's record and how it came about.

    Attributes:
        buckets: tenths of their votes, the oldest first; `first` and `last` are keys of votes.
        confusion: of gold pairs, votes by the side that was right and the side that was chosen: left, tie, right.
    """

    record: Record
    buckets: tuple[Bucket, ...]
    confusion: Mapping[str, Mapping[str, int]]


def history(project: Project, *, user_id: int) -> History:
    """One person's record over time; it reads the votes on their comparisons only."""
    ballots = load(project, only=user_id)
    figures = _shares(ballots)
    own = np.flatnonzero(ballots.person == user_id)
    buckets = []
    for part in np.array_split(own, min(BUCKETS, len(own))) if len(own) else []:
        group = np.zeros(len(part), dtype=np.int64)
        seconds = _medians(ballots.seconds[part], group, 1)[0]
        sums = {
            name: _Figures(value=figures[name].value[part], weight=figures[name].weight[part]).sums(group, 1)
            for name in ("gold", "agreement")
        }
        buckets.append(
            Bucket(
                first=int(ballots.key[part[0]]),
                last=int(ballots.key[part[-1]]),
                votes=len(part),
                median_seconds=None if np.isnan(seconds) else round(float(seconds), 1),
                **{name: wilson(float(right[0]), float(n[0])) for name, (right, n) in sums.items()},
            )
        )
    return History(
        record=_records(project, ballots, [user_id])[user_id],
        buckets=tuple(buckets),
        confusion=_confusion(project, user_id),
    )


def _confusion(project: Project, user_id: int) -> dict[str, dict[str, int]]:
    names = ("left", "tie", "right")
    found = {name: dict.fromkeys(names, 0) for name in names}
    if project.feedback.size != 2:
        return {}
    votes = Vote.objects.filter(
        project=project, annotator_id=user_id, purpose=Purpose.GOLD, retractions__isnull=True
    ).values_list("choice", "assignment__sides", "comparison__gold__answer")
    for choice, sides, answer in votes:
        right = answer.get("choice") or ("a" if answer.get("worst") == "b" else "b")
        if answer.get("ranking"):
            right = answer["ranking"][0][0]
        found[_side(right, sides)][_side(choice, sides)] += 1
    return found


def _side(letter: str, sides: str) -> str:
    return "tie" if letter == "tie" else "left" if sides[0] == letter else "right"
