"""One comparison with everything behind it, the project's votes and flags: for researchers, never for annotators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import Exists, OuterRef, Prefetch, Q, QuerySet

from annotation.feedback import LETTERS
from annotation.models import (
    Adjudication,
    Assignment,
    AssignmentState,
    Comparison,
    ComparisonCompletion,
    CompletionScore,
    Flag,
    Gold,
    Membership,
    Project,
    Retraction,
    Slot,
    Vote,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class VoteFilter:
    """Which votes to list; what is empty does not narrow."""

    annotator: str = ""
    purpose: str = ""
    comparison: str = ""
    since: datetime | None = None
    until: datetime | None = None


def votes(project: Project, chosen: VoteFilter) -> QuerySet[Vote]:
    """A project's votes, taken back or not, with `is_counted`: whether a slot points to it."""
    rows = (
        Vote.objects.filter(project=project)
        .select_related("comparison", "guideline", "assignment")
        .annotate(
            is_counted=Exists(Slot.objects.filter(vote=OuterRef("pk"))),
            is_retracted=Exists(Retraction.objects.filter(vote=OuterRef("pk"))),
        )
    )
    if chosen.annotator:
        rows = rows.filter(
            annotator__in=Membership.objects.filter(project=project, pseudonym=chosen.annotator).values("user")
        )
    if chosen.purpose:
        rows = rows.filter(purpose=chosen.purpose)
    if chosen.comparison:
        rows = rows.filter(comparison__public_id=chosen.comparison)
    if chosen.since:
        rows = rows.filter(created_at__gte=chosen.since)
    if chosen.until:
        rows = rows.filter(created_at__lt=chosen.until)
    return rows


def flags(project: Project, *, kind: str = "") -> QuerySet[Flag]:
    """A project's flags; of one kind if it is named."""
    rows = Flag.objects.filter(project=project).select_related("comparison")
    return rows.filter(kind=kind) if kind else rows


def pseudonyms(project: Project, user_ids: Sequence[int]) -> dict[int, str]:
    """What these people are called in this project; one query."""
    rows = Membership.objects.filter(project=project, user__in=user_ids)
    return dict(rows.values_list("user_id", "pseudonym"))


def comparison(project: Project, public_id: UUID) -> dict[str, Any] | None:
    """Everything about one comparison, in stored order; None if the project has no such one. Eleven queries."""
    row = (
        Comparison.objects.filter(project=project, public_id=public_id)
        .select_related("prompt", "consensus")
        .prefetch_related(Prefetch("places__completion__scores", queryset=CompletionScore.objects.order_by("scorer")))
        .prefetch_related("places__completion__source")
        .first()
    )
    if row is None:
        return None
    given = list(votes(project, VoteFilter(comparison=str(row.public_id))).order_by("pk"))
    raised = list(Flag.objects.filter(comparison=row).order_by("pk"))
    ended = list(
        Assignment.objects.filter(comparison=row, state=AssignmentState.SKIPPED).values_list("annotator_id", "reason")
    )
    decided = list(Adjudication.objects.filter(comparison=row).select_related("by").order_by("pk"))
    names = pseudonyms(
        project, [v.annotator_id for v in given] + [f.by_id for f in raised] + [person for person, _ in ended]
    )
    gold = Gold.objects.filter(comparison=row).first()
    return {
        "id": row.public_id,
        "prompt": row.prompt.messages,
        "category": row.prompt.category,
        "language": row.prompt.language,
        "completions": [_completion(place) for place in row.places.all()],
        "votes_wanted": row.overlap,
        "audience": row.audience,
        "priority": row.priority,
        "frozen_at": row.frozen_at,
        "consensus": row.consensus,
        "votes": [vote_row(vote, names) for vote in given],
        "flags": [flag_row(flag, names) for flag in raised],
        "skips": [{"annotator": names.get(person, ""), "reason": reason} for person, reason in ended],
        "cannot_judge": sum(reason.startswith("cannot_judge") for _, reason in ended),
        "adjudications": decided,
        "gold": gold,
    }


def _completion(place: Any) -> dict[str, Any]:
    completion = place.completion
    return {
        "label": LETTERS[place.position],
        "text": completion.text,
        "source": completion.source.name,
        "source_kind": completion.source.kind,
        "finish": completion.finish,
        "sampling": completion.sampling,
        "tokens": completion.tokens,
        "scores": {score.scorer: score.value for score in completion.scores.all()},
    }


def vote_row(vote: Any, names: dict[int, str]) -> dict[str, Any]:
    """A vote of `votes()` for a researcher: by pseudonym, in stored order, with the sides that were shown."""
    return {
        "id": vote.public_id,
        "comparison": vote.comparison.public_id,
        "annotator": names.get(vote.annotator_id, ""),
        "purpose": vote.purpose,
        "choice": vote.choice,
        "answer": vote.body,
        "sides": vote.assignment.sides if vote.assignment else "",
        "counted": vote.is_counted,
        "retracted": vote.is_retracted,
        "active_ms": vote.active_ms,
        "guideline": vote.guideline.number if vote.guideline else None,
        "created_at": vote.created_at,
    }


def flag_row(flag: Flag, names: dict[int, str]) -> dict[str, Any]:
    """A flag for a researcher, by pseudonym."""
    return {
        "comparison": flag.comparison.public_id,
        "annotator": names.get(flag.by_id, ""),
        "kind": flag.kind,
        "note": flag.note,
        "created_at": flag.created_at,
    }


def searched(rows: QuerySet[Comparison], *, source: str = "", flagged: bool | None = None) -> QuerySet[Comparison]:
    """Comparisons in which a source takes part, or with (without) flags."""
    if source:
        places = ComparisonCompletion.objects.filter(comparison=OuterRef("pk"), completion__source__name=source)
        rows = rows.filter(Exists(places))
    if flagged is not None:
        has_flag = Exists(Flag.objects.filter(comparison=OuterRef("pk")))
        rows = rows.filter(has_flag if flagged else ~Q(has_flag))
    return rows
