"""Reads for screens: counts, people, tables. Each has a fixed number of queries, stated in its test."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import reduce
from operator import or_
from statistics import median
from typing import Any
from uuid import UUID

from django.db.models import Count, F, Max, Prefetch, Q, QuerySet

from annotation.models import (
    Comparison,
    ComparisonCompletion,
    Completion,
    Consensus,
    ConsensusState,
    Gold,
    Membership,
    Project,
    Prompt,
    Purpose,
    Role,
    Slot,
    SlotState,
    Source,
    Vote,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """How many of everything a project has; `votes` are counted ones, `surplus` came when nobody wanted them."""

    prompts: int
    completions: int
    comparisons: int
    votes: int
    surplus: int
    open: int
    settled: int
    disputed: int
    adjudicated: int
    withdrawn: int
    leased: int
    wanted: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """How fast votes come, and how long the rest takes at that pace (hours; none without votes in the last hour)."""

    votes_last_hour: int
    active_annotators: int
    eta_hours: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Person:
    """A member, with their votes in the project."""

    name: str
    pseudonym: str
    role: str
    votes: int
    median_seconds: float | None
    left_share: float | None
    last_vote_at: datetime | None


def counts(project: Project, *, now: datetime) -> Counts:
    """Seven queries, whatever the size of the project. Gold without votes is not open: nobody's vote is wanted."""
    states = dict(
        Consensus.objects.filter(project=project).values_list("state").annotate(n=Count("pk")).values_list("state", "n")
    )
    resting = Gold.objects.filter(project=project, comparison__consensus__state=ConsensusState.OPEN).count()
    states[ConsensusState.OPEN.value] = states.get(ConsensusState.OPEN.value, 0) - resting
    done = Q(state=SlotState.DONE)
    slots = Slot.objects.filter(project=project).aggregate(
        done=Count("pk", filter=done & ~Q(vote__annotator__in=_excluded(project))),
        leased=Count("pk", filter=Q(state=SlotState.LEASED, lease_expires_at__gte=now)),
        wanted=Count("pk", filter=~done),
    )
    live = Vote.objects.filter(project=project, retractions__isnull=True, purpose=Purpose.WANTED)
    return Counts(
        prompts=project.prompts.count(),
        completions=project.completions.count(),
        comparisons=project.comparisons.count(),
        votes=slots["done"],
        surplus=live.exclude(annotator__in=_excluded(project)).count() - slots["done"],
        leased=slots["leased"],
        wanted=slots["wanted"],
        **{state.value: states.get(state.value, 0) for state in ConsensusState},
    )


def _excluded(project: Project) -> QuerySet[Membership, int]:
    """Users whose votes do not count."""
    return Membership.objects.filter(project=project, excluded_at__isnull=False).values_list("user_id", flat=True)


def rates(project: Project, *, wanted: int, now: datetime) -> Rates:
    """Votes of the last hour; one query."""
    recent = Vote.objects.filter(
        project=project, assignment__isnull=False, created_at__gte=now - timedelta(hours=1)
    ).aggregate(votes=Count("pk"), people=Count("annotator", distinct=True))
    return Rates(
        votes_last_hour=recent["votes"],
        active_annotators=recent["people"],
        eta_hours=wanted / recent["votes"] if recent["votes"] and wanted else None,
    )


def people(project: Project, *, most: int = 200) -> list[Person]:
    """Members with their live votes, the busiest first; two queries. Medians are over focused time."""
    totals = {
        row["annotator_id"]: row
        for row in Vote.objects.filter(project=project, retractions__isnull=True)
        .values("annotator_id")
        .annotate(
            votes=Count("pk"),
            last=Max("created_at"),
            sided=Count("pk", filter=Q(assignment__isnull=False) & ~Q(choice="tie")),
            left=Count("pk", filter=Q(assignment__sides__startswith=F("choice"))),
        )
        .order_by()
    }
    times: dict[int, list[int]] = {}
    for annotator_id, milliseconds in Vote.objects.filter(
        project=project, retractions__isnull=True, active_ms__isnull=False
    ).values_list("annotator_id", "active_ms"):
        times.setdefault(annotator_id, []).append(milliseconds or 0)
    members = Membership.objects.filter(project=project).select_related("user")
    rows = [_person(member, totals.get(member.user_id), times.get(member.user_id)) for member in members]
    return sorted(rows, key=lambda row: (-row.votes, row.pseudonym))[:most]


def _person(member: Membership, totals: Mapping[str, Any] | None, times: list[int] | None) -> Person:
    return Person(
        name=member.user.name or member.pseudonym,
        pseudonym=member.pseudonym,
        role=Role(member.role).value,
        votes=totals["votes"] if totals else 0,
        median_seconds=round(median(times) / 1000, 1) if times else None,
        left_share=totals["left"] / totals["sided"] if totals and totals["sided"] else None,
        last_vote_at=totals["last"] if totals else None,
    )


def comparisons(project: Project, *, state: str = "", origin: str = "") -> QuerySet[Comparison]:
    """Comparisons for the researcher's table, newest first, with what the row shows."""
    rows = (
        Comparison.objects.filter(project=project)
        .select_related("prompt", "consensus")
        .prefetch_related(
            Prefetch("places", queryset=ComparisonCompletion.objects.select_related("completion__source"))
        )
    )
    if state:
        rows = rows.filter(consensus__state=state)
    if origin:
        rows = rows.filter(origin=origin)
    return rows


def prompts(project: Project, *, search: str = "", category: str = "") -> QuerySet[Prompt]:
    """Prompts with how many completions and comparisons each has, and when it was erased."""
    rows = Prompt.objects.filter(project=project).annotate(
        n_completions=Count("completions", distinct=True),
        n_comparisons=Count("comparisons", distinct=True),
        erased_at=F("erasure__created_at"),
    )
    if search:
        # SQLite keeps JSON as Python wrote it, PostgreSQL as UTF-8; both escape quotes and line breaks.
        escaped = (json.dumps(search, ensure_ascii=ascii_only)[1:-1] for ascii_only in (True, False))
        rows = rows.filter(reduce(or_, (Q(messages__icontains=text) for text in escaped)))
    if category:
        rows = rows.filter(category=category)
    return rows


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceCounts:
    """A source and how much of it there is."""

    public_id: UUID
    name: str
    kind: str
    model_id: UUID | None
    completions: int
    prompts: int
    comparisons: int


def sources(project: Project) -> list[SourceCounts]:
    """Every source of a project, by name; three queries."""
    written = Completion.objects.filter(project=project).values_list("source_id")
    amounts = {
        source: (n, prompts)
        for source, n, prompts in written.annotate(n=Count("pk"), prompts=Count("prompt_id", distinct=True))
    }
    places = ComparisonCompletion.objects.filter(comparison__project=project).values_list("completion__source_id")
    compared = dict(places.annotate(n=Count("comparison_id", distinct=True)))
    return [
        SourceCounts(
            public_id=source.public_id,
            name=source.name,
            kind=source.kind,
            model_id=source.model_id,
            completions=amounts.get(source.pk, (0, 0))[0],
            prompts=amounts.get(source.pk, (0, 0))[1],
            comparisons=compared.get(source.pk, 0),
        )
        for source in Source.objects.filter(project=project).order_by("name", "pk")
    ]
