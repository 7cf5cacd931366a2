"""Let a person's votes count no more, or again. Both are facts; the votes themselves stay.

What follows is derived: consensuses are computed anew without these votes, and comparisons that are not frozen want
other people's instead. Which snapshots and models were made with them is `training.lineage`'s to say.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db import transaction
from django.db.models import Count, F, Q, QuerySet

from annotation.assignment import end
from annotation.audience import may_serve
from annotation.consensus import mark_due
from annotation.errors import DomainError, Invalid, Kind
from annotation.fits import request as request_fit
from annotation.gate import write
from annotation.models import (
    Assignment,
    AssignmentState,
    AuditAction,
    Comparison,
    Exclusion,
    Membership,
    Project,
    Purpose,
    Slot,
    SlotState,
    User,
    Vote,
)
from annotation.overlap import lock
from annotation.people import audit
from annotation.reports.agreement import agreement
from annotation.statistics.estimates import Estimate

BATCH = 500


class NotAMember(Invalid):
    """The person was never in the project."""

    code = "not_a_member"


class AlreadyExcluded(DomainError):
    """The person's votes do not count already."""

    code = "already_excluded"
    kind = Kind.CONFLICT


class NotExcluded(DomainError):
    """The person's votes count."""

    code = "not_excluded"
    kind = Kind.CONFLICT


@dataclass(frozen=True, kw_only=True, slots=True)
class Preview:
    """What excluding a person would do.

    Attributes:
        votes: of theirs that count now; comparisons: on which they do.
        frozen: of those, in a snapshot: it keeps them.
        reopened: settled or disputed comparisons that would want another vote.
        without_votes: comparisons on which no other vote counts.
        agreement, agreement_without: of the project as it is, and without this person.
    """

    votes: int
    comparisons: int
    frozen: int
    reopened: int
    without_votes: int
    agreement: dict[str, Estimate]
    agreement_without: dict[str, Estimate]


def preview(project: Project, user: User) -> Preview:
    """What `exclude` would do now; writes nothing. Three queries, and six for the agreement."""
    mine = Slot.objects.filter(project=project, vote__annotator=user).order_by().values("comparison_id")
    rows = (
        Comparison.objects.filter(project=project, pk__in=mine)
        .order_by()
        .annotate(
            others=Count("slots", filter=Q(slots__state=SlotState.DONE) & ~Q(slots__vote__annotator=user)),
            unfinished=Count("slots", filter=~Q(slots__state=SlotState.DONE)),
        )
        .values_list("frozen_at", "others", "unfinished")
    )
    found = list(rows)
    return Preview(
        votes=Slot.objects.filter(project=project, vote__annotator=user).count(),
        comparisons=len(found),
        frozen=sum(frozen_at is not None for frozen_at, _, _ in found),
        reopened=sum(frozen_at is None and not unfinished for frozen_at, _, unfinished in found),
        without_votes=sum(others == 0 for _, others, _ in found),
        agreement=agreement(project),
        agreement_without=agreement(project, without=user),
    )


def exclude(*, project: Project, user: User, by: User, reason: str, now: datetime) -> Exclusion:
    """Let a person's votes count no more: a fact, and their slots of unfrozen comparisons open for others.

    Raises:
        NotAMember: no such person here. AlreadyExcluded: their votes do not count already.
    """
    with write(), transaction.atomic():
        if not _locked(project, user).filter(excluded_at__isnull=True).update(excluded_at=now):
            raise AlreadyExcluded("This person's votes do not count already.")
        ids = _with_votes(project, user)
        for batch in _batches(ids):
            lock(batch)
        opened = sum(_open_slots(batch, user) for batch in _batches(ids))
        for batch in _batches(ids):
            mark_due(batch, now=now)
        request_fit(project)
        fact = _write_down(project, user, by, reason, now, lifted=False, comparisons=len(ids), slots=opened)
    # A transaction of its own: ending a lease takes the slot before the comparison, here it was the other way round.
    with write(), transaction.atomic():
        held = Assignment.objects.filter(project=project, annotator=user, state=AssignmentState.LEASED)
        end(assignments=list(held), state=AssignmentState.RELEASED, now=now, reason="excluded")
    return fact


def readmit(*, project: Project, user: User, by: User, reason: str, now: datetime) -> Exclusion:
    """Let a person's votes count again: a fact. Where a slot is still open they take it, else they are surplus.

    Raises:
        NotAMember: no such person here. NotExcluded: their votes count.
    """
    with write(), transaction.atomic():
        if not _locked(project, user).filter(excluded_at__isnull=False).update(excluded_at=None):
            raise NotExcluded("This person's votes count.")
        ids = _with_votes(project, user)
        for batch in _batches(ids):
            lock(batch)
        serves = may_serve(Membership.objects.get(project=project, user=user))
        taken = sum(_take_slots(batch, user, serves) for batch in _batches(ids))
        for batch in _batches(ids):
            mark_due(batch, now=now)
        request_fit(project)
        return _write_down(project, user, by, reason, now, lifted=True, comparisons=len(ids), slots=taken)


def _locked(project: Project, user: User) -> QuerySet[Membership]:
    """The membership, locked; refuses who has none."""
    rows = Membership.objects.filter(project=project, user=user)
    if not list(rows.select_for_update(no_key=True)):
        raise NotAMember("person: is not a member of this project", details={"person": ["is not a member"]})
    return rows


def _with_votes(project: Project, user: User) -> list[int]:
    """Comparisons with a live vote of the person."""
    live = Vote.objects.filter(project=project, annotator=user, purpose=Purpose.WANTED, retractions__isnull=True)
    return sorted(live.values_list("comparison_id", flat=True).distinct())


def _batches(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    return (ids[start : start + BATCH] for start in range(0, len(ids), BATCH))


def _open_slots(ids: Sequence[int], user: User) -> int:
    """Open the person's slots; those beyond the votes wanted (the overlap was lowered) are removed. How many opened."""
    slots = Slot.objects.filter(comparison_id__in=ids, comparison__frozen_at__isnull=True)
    mine = slots.filter(vote__annotator=user)
    crowded = slots.values("comparison_id").annotate(excess=Count("pk") - F("comparison__overlap")).filter(excess__gt=0)
    mine.filter(comparison_id__in=[row["comparison_id"] for row in crowded]).delete()
    return mine.update(state=SlotState.OPEN, vote=None, assignment=None, lease_expires_at=None)


def _take_slots(ids: Sequence[int], user: User, serves: Callable[[str], bool]) -> int:
    """Point open slots at the person's votes that have none; how many. A slot that is leased meanwhile is not taken."""
    votes = Vote.objects.filter(
        comparison_id__in=ids,
        comparison__frozen_at__isnull=True,
        annotator=user,
        purpose=Purpose.WANTED,
        retractions__isnull=True,
        slots__isnull=True,
    )
    free: dict[int, list[Slot]] = defaultdict(list)
    for slot in Slot.objects.filter(comparison_id__in=ids, state=SlotState.OPEN).order_by("number"):
        if serves(slot.audience):
            free[slot.comparison_id].append(slot)
    taken = 0
    for vote in votes:
        for slot in free[vote.comparison_id]:
            changed = Slot.objects.filter(pk=slot.pk, state=SlotState.OPEN).update(
                state=SlotState.DONE, vote=vote, assignment_id=vote.assignment_id
            )
            if changed:
                taken += 1
                break
    return taken


def _write_down(
    project: Project,
    user: User,
    by: User,
    reason: str,
    now: datetime,
    *,
    lifted: bool,
    comparisons: int,
    slots: int,
) -> Exclusion:
    audit(
        project=project,
        by=by,
        action=AuditAction.PERSON_READMITTED if lifted else AuditAction.PERSON_EXCLUDED,
        target=str(user.public_id),
        now=now,
        reason=reason,
        comparisons=comparisons,
        slots=slots,
    )
    return Exclusion.objects.create(project=project, user=user, lifted=lifted, reason=reason, by=by, created_at=now)
