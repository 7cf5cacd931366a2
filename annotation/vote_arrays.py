"""The votes of a project as arrays, for every statistic over all of them: one load, a fixed number of queries.

A vote of any kind is its pairs (`feedback.pair_classes`); a pair of completions is an *item*, so a comparison of two is
one item and one of K is K(K−1)/2. Ratings of a single completion have no pair.

Shapes: V votes on items, n items, W people, C comparisons.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, TypedDict

import numpy as np
from django.db.models import QuerySet

from annotation.consensus import newest_decisions
from annotation.feedback import LETTERS, pair_classes, ranks
from annotation.models import (
    Adjudication,
    ConsensusState,
    Gold,
    Membership,
    Project,
    Purpose,
    Vote,
)
from annotation.statistics.estimates import BoolArray, IntArray
from annotation.tally import CLASS_CODES


class Sizes(TypedDict):
    """What every statistic of votes is told beside them."""

    n_items: int
    n_annotators: int
    K: int


@dataclass(frozen=True, kw_only=True, slots=True)
class VoteArrays:
    """Live first votes of wanted tasks and of hidden gold, by people who are not excluded.

    Withdrawn comparisons are left out.

    Attributes:
        key: [V] primary key of the vote. item, annotator: [V] codes from 0. label: [V] class, of `K`.
        is_counted: [V] whether a slot points to the vote: surplus votes and those on gold are not counted.
        comparison: [n] primary key of each item's comparison. pair: [n] its number among the comparison's pairs.
        user: [W] primary key of each annotator.
        K: 3, or 2 where the form offers no tie and nobody gave one (classes a, b).
    """

    key: IntArray
    item: IntArray
    annotator: IntArray
    label: IntArray
    is_counted: BoolArray
    comparison: IntArray
    pair: IntArray
    user: IntArray
    K: int

    def __len__(self) -> int:
        return len(self.key)

    @property
    def votes(self) -> tuple[IntArray, IntArray, IntArray]:
        """The positional arguments of the statistics."""
        return self.item, self.annotator, self.label

    @property
    def sizes(self) -> Sizes:
        """Their keyword arguments."""
        return {"n_items": len(self.comparison), "n_annotators": len(self.user), "K": self.K}

    def only(self, keep: BoolArray) -> VoteArrays:
        """Some of the votes, with the items and people that have one of them."""
        items, item = np.unique(self.item[keep], return_inverse=True)
        people, annotator = np.unique(self.annotator[keep], return_inverse=True)
        return replace(
            self,
            key=self.key[keep],
            item=item.astype(np.int64),
            annotator=annotator.astype(np.int64),
            label=self.label[keep],
            is_counted=self.is_counted[keep],
            comparison=self.comparison[items],
            pair=self.pair[items],
            user=self.user[people],
        )


def live_votes(project: Project) -> QuerySet[Vote]:
    """First votes that stand, of people who are not excluded, whether or not a slot counts them."""
    excluded = Membership.objects.filter(project=project, excluded_at__isnull=False)
    return Vote.objects.filter(
        project=project,
        purpose__in=(Purpose.WANTED, Purpose.GOLD),
        repetition=0,
        retractions__isnull=True,
    ).exclude(annotator_id__in=list(excluded.values_list("user_id", flat=True)))


def load(project: Project, *, counted: bool = False) -> VoteArrays:
    """The votes of a project in the order of their keys; three queries.

    Args:
        counted: only votes that a slot counts: what agreement is measured on.
    """
    form = project.feedback
    pairs = form.size * (form.size - 1) // 2
    rows = live_votes(project).exclude(comparison__consensus__state=ConsensusState.WITHDRAWN).order_by("pk")
    rows = rows if pairs else rows.none()
    if counted:
        rows = rows.filter(slots__isnull=False)
    names = ("pk", "comparison_id", "annotator_id", "slots__id", "body" if form.size > 2 else "choice")
    columns: list[Sequence[Any]] = list(zip(*rows.values_list(*names), strict=True)) or [()] * len(names)
    key, comparison, annotator, slot, answer = columns
    comparisons, code = np.unique(np.array(comparison, dtype=np.int64), return_inverse=True)
    users, person = np.unique(np.array(annotator, dtype=np.int64), return_inverse=True)
    label = pair_labels(answer, answer, size=form.size).reshape(-1)
    K = 3 if form.has_tie or bool((label == 1).any()) else 2
    number = np.tile(np.arange(pairs), len(key))
    return VoteArrays(
        key=np.repeat(np.array(key, dtype=np.int64), pairs),
        item=np.repeat(code, pairs).astype(np.int64) * pairs + number,
        annotator=np.repeat(person, pairs).astype(np.int64),
        label=label if K == 3 else label // 2,
        is_counted=np.repeat(np.array([pk is not None for pk in slot], dtype=bool), pairs),
        comparison=np.repeat(comparisons, pairs),
        pair=np.tile(np.arange(pairs), len(comparisons)),
        user=users,
        K=K,
    )


def pair_labels(choice: Sequence[str], body: Sequence[Any], *, size: int) -> IntArray:
    """[votes, pairs] the class of every pair of each vote; of two completions the bodies are not looked at."""
    if size == 2:
        return np.array([CLASS_CODES[item] for item in choice], dtype=np.int64).reshape(-1, 1)
    pairs = size * (size - 1) // 2
    found = [label for item in body for _, _, label in pair_classes(ranks("", item, size=size))]
    return np.array(found, dtype=np.int64).reshape(len(body), pairs)


def known_classes(project: Project, arrays: VoteArrays) -> IntArray:
    """[n] the class of items whose answer is known, from gold and from rulings; −1 for the others. Two queries.

    Gold that only names its worst completion fixes the pairs with that one in them.
    """
    gold = Gold.objects.filter(project=project).values_list("comparison_id", "answer")
    return _classes_of(project, arrays, [*gold, *_rulings(project)])


def ruled_classes(project: Project, arrays: VoteArrays) -> IntArray:
    """[n] the class of items that an adjudicator ruled on; −1 for the others. One query."""
    return _classes_of(project, arrays, _rulings(project))


def _classes_of(project: Project, arrays: VoteArrays, answers: Iterable[tuple[int, Any]]) -> IntArray:
    size = project.feedback.size
    known = np.full(len(arrays.comparison), -1, dtype=np.int64)
    keys = zip(arrays.comparison.tolist(), arrays.pair.tolist(), strict=True)
    place = {key: i for i, key in enumerate(keys)}
    for comparison_id, answer in answers:
        for pair, label in _answer_classes(answer, size):
            i = place.get((comparison_id, pair))
            if i is not None and (arrays.K == 3 or label != 1):
                known[i] = label if arrays.K == 3 else label // 2
    return known


def _rulings(project: Project) -> list[tuple[int, Mapping[str, Any]]]:
    """The answer of each comparison whose newest adjudication is a ruling that is not "invalid"."""
    newest = newest_decisions(Adjudication.objects.filter(project=project))
    rulings = ((pk, decision.answer) for pk, decision in newest.items() if decision.is_ruling)
    return [(pk, answer) for pk, answer in rulings if answer is not None and not answer.get("invalid")]


def _answer_classes(answer: Mapping[str, Any], size: int) -> Iterable[tuple[int, int]]:
    """Number and class of each pair that a known answer fixes."""
    if answer.get("worst"):
        worst = LETTERS.index(answer["worst"])
        for number, (i, j) in enumerate(combinations(range(size), 2)):
            if worst in (i, j):
                yield number, 0 if worst == j else 2
        return
    for number, (_, _, label) in enumerate(pair_classes(ranks(answer.get("choice", ""), answer, size=size))):
        yield number, label
