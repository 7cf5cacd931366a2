"""What stood on the screen with each vote: who wrote an item's two completions, how long and how formatted, and where.

For researchers only; an annotator must not learn any of it.

Shapes: V votes, n items, S completions of a comparison, P pairs of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from django.db.models import QuerySet
from django.db.models.functions import Length

from annotation.models import ComparisonCompletion, Completion, Project, Vote
from annotation.records import pair_sides
from annotation.statistics.estimates import IntArray
from annotation.vote_arrays import VoteArrays, live_votes

# Headings, list items, bold, code fences and table rows: what a reader sees of a completion before reading it. An
# indent ends with its line, else a run of blank lines would cost its square.
_MARK = re.compile(r"^#{1,6} |^[^\S\n]*[-*+] |^[^\S\n]*\d+[.)] |\*\*[^*]+\*\*|```|^\|.*\|$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Features:
    """Of the first and the second completion of each item: [n, 2] all.

    Attributes:
        source: primary key of who wrote it. chars: length. marks: of Markdown; zeros where they were not asked for.
    """

    source: IntArray
    chars: IntArray
    marks: IntArray


def count_marks(text: str) -> int:
    """How often a text uses Markdown that a reader sees."""
    return sum(1 for _ in _MARK.finditer(text))


def load_features(project: Project, votes: VoteArrays, *, with_marks: bool) -> Features:
    """Who wrote the completions of these items, and what they look like; one query, and one more for marks."""
    size = project.feedback.size
    voted = live_votes(project).order_by().values("comparison_id")
    places = ComparisonCompletion.objects.filter(comparison_id__in=voted, position__lt=size).order_by()
    rows = np.array(
        list(
            places.annotate(chars=Length("completion__text")).values_list(
                "comparison_id", "position", "completion_id", "completion__source_id", "chars"
            )
        ),
        dtype=np.int64,
    ).reshape(-1, 5)
    comparisons = np.unique(rows[:, 0])
    place = np.searchsorted(comparisons, rows[:, 0])
    marks = _marks(places) if with_marks else {}
    columns = {"source": rows[:, 3], "chars": rows[:, 4]}
    columns["marks"] = np.array([marks.get(pk, 0) for pk in rows[:, 2].tolist()], dtype=np.int64)
    item = np.searchsorted(comparisons, votes.comparison)
    pairs = np.array(list(combinations(range(size), 2)), dtype=np.int64).reshape(-1, 2)[votes.pair]
    found = {}
    for name, column in columns.items():
        table = np.zeros((len(comparisons), size), dtype=np.int64)
        table[place, rows[:, 1]] = column
        found[name] = table[item[:, None], pairs]
    return Features(**found)


def _marks(places: QuerySet[ComparisonCompletion]) -> dict[int, int]:
    texts = Completion.objects.filter(pk__in=places.values("completion_id")).order_by()
    return {pk: count_marks(text) for pk, text in texts.values_list("pk", "text").iterator(chunk_size=2000)}


def load_sides(project: Project, votes: VoteArrays) -> IntArray:
    """[V] 1 where the first completion of the vote's item stood left, 0 where it stood right, −1 without a screen.

    One query. Votes that an import brought have no screen.
    """
    rows = live_votes(project).order_by("pk").values_list("pk", "assignment__sides")
    keys, sides = [], []
    for pk, drawn in rows:
        keys.append(pk)
        sides.append(drawn)
    table = pair_sides(sides, project.feedback.size)
    row = np.searchsorted(np.array(keys, dtype=np.int64), votes.key)
    found: IntArray = table[row, votes.pair[votes.item]]
    return found


def load_times(project: Project, votes: VoteArrays) -> tuple[IntArray, IntArray]:
    """[V] focused milliseconds, −1 where they are not known, and when the vote came, in seconds of UTC; one query."""
    rows = list(Vote.objects.filter(project=project).order_by("pk").values_list("pk", "active_ms", "created_at"))
    keys = np.array([pk for pk, _, _ in rows], dtype=np.int64)
    spent = np.array([-1 if ms is None else ms for _, ms, _ in rows], dtype=np.int64)
    at = np.array([int(when.timestamp()) for _, _, when in rows], dtype=np.int64)
    row = np.searchsorted(keys, votes.key)
    return spent[row], at[row]
