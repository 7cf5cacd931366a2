"""The comparisons whose outcome is least clear, their votes side by side: what a guideline should be read against."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from django.db.models import Q, QuerySet

from annotation import queries
from annotation.feedback import strength
from annotation.inspection import pseudonyms
from annotation.models import Comparison, ConsensusState, Membership, Project, Slot, SlotState

LEAST_VOTES = 2


class Order(StrEnum):
    """What comes first: the least posterior of the leading class, or the least share of votes for it."""

    CONFIDENCE = "confidence"
    DIVISION = "division"

    @property
    def column(self) -> str:
        return {"confidence": "posterior", "division": "top_share"}[self.value]


@dataclass(frozen=True, kw_only=True, slots=True)
class DividedVote:
    """A counted vote. `strength`: 1 a clearly, −1 b clearly; None without a scale."""

    annotator: str
    choice: str
    both_bad: bool
    strength: float | None
    answer: Mapping[str, Any]
    reasons: Sequence[str]
    rationale: str
    active_ms: int | None
    created_at: datetime


def definition(order: Order) -> str:
    """What the list is."""
    figure = "model confidence (posterior of the leading class)" if order is Order.CONFIDENCE else (
        "share of the votes for the leading class"
    )  # fmt: skip
    return (
        f"Comparisons with at least {LEAST_VOTES} counted votes by {figure}, the lowest first; of several completions "
        "the mean over their pairs. Withdrawn ones are left out. Votes are by pseudonym and in stored order."
    )


def divided(project: Project, *, order: Order, after: tuple[float, int] | None = None, most: int) -> list[Comparison]:
    """Up to `most` comparisons, the least clear first; five queries.

    Args:
        after: the figure and the key of the last one of the page before.
    """
    column = f"consensus__{order.column}"
    rows: QuerySet[Comparison] = queries.comparisons(project).filter(
        **{f"{column}__isnull": False}, consensus__votes__gte=LEAST_VOTES
    )
    rows = rows.exclude(consensus__state=ConsensusState.WITHDRAWN)
    if after is not None:
        figure, key = after
        rows = rows.filter(Q(**{f"{column}__gt": figure}) | Q(**{column: figure, "pk__gt": key}))
    return list(rows.order_by(column, "pk")[:most])


def ballots(project: Project, comparisons: Sequence[Comparison]) -> dict[int, list[DividedVote]]:
    """The counted votes of each comparison by its key, the oldest first; three queries."""
    excluded = Membership.objects.filter(project=project, excluded_at__isnull=False).values("user")
    slots = (
        Slot.objects.filter(comparison__in=comparisons, state=SlotState.DONE)
        .exclude(vote__annotator__in=excluded)
        .select_related("vote")
        .order_by("vote_id")
    )
    votes = [slot.vote for slot in slots if slot.vote is not None]
    names = pseudonyms(project, [vote.annotator_id for vote in votes])
    found: dict[int, list[DividedVote]] = defaultdict(list)
    for vote in votes:
        found[vote.comparison_id].append(
            DividedVote(
                annotator=names.get(vote.annotator_id, ""),
                choice=vote.choice,
                both_bad=bool(vote.body.get("both_bad")),
                strength=strength(vote.body),
                answer=vote.body,
                reasons=vote.body.get("reasons", []),
                rationale=vote.body.get("rationale", ""),
                active_ms=vote.active_ms,
                created_at=vote.created_at,
            )
        )
    return found
