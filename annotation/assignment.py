"""The next comparison for a person: leases, their renewal and their end.

Overlap is enforced by slot rows: a lease points a slot at an assignment, by a conditional claim that skips rows which
other people are claiming, so live leases plus votes never exceed the votes wanted (invariant 2).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import datetime

from django.db import IntegrityError, connection, transaction
from django.db.models import Count, Exists, F, OuterRef, Q, QuerySet

from annotation.clock import free_slot, lease_end
from annotation.consensus import mark_due
from annotation.errors import DomainError, Kind
from annotation.gate import write
from annotation.models import (
    GIVEN_BACK,
    Assignment,
    AssignmentState,
    Comparison,
    Consensus,
    ConsensusState,
    Flag,
    FlagKind,
    Project,
    Slot,
    SlotState,
    User,
)

MOST_A_TAB = 5
MOST_A_PERSON = 10
RANKS = 2**31
_TRIES = 5


class AssignmentOver(DomainError):
    """The assignment has ended, so it cannot be skipped, flagged or voted on again."""

    code = "assignment_over"
    kind = Kind.CONFLICT


def lease(
    *, project: Project, annotator: User, tab: str, wanted: int, now: datetime, rng: random.Random
) -> list[Assignment]:
    """This tab's leases, renewed, filled up to `wanted` with new ones. Calling again returns the same ones first.

    A person's expired leases of other tabs are given back first, else a sole annotator would never see them again.
    The same person in two tabs may race for one comparison: the unique index lets one win and the other tries again.
    """
    wanted = min(wanted, MOST_A_TAB)
    for attempt in range(_TRIES):
        try:
            with write(), transaction.atomic():
                return _lease(project, annotator, tab, wanted, now, rng)
        except IntegrityError:
            if attempt == _TRIES - 1:
                raise
    raise AssertionError("unreachable: the last try raises or returns")


def _lease(
    project: Project, annotator: User, tab: str, wanted: int, now: datetime, rng: random.Random
) -> list[Assignment]:
    mine = list(
        Assignment.objects.filter(project=project, annotator=annotator, state=AssignmentState.LEASED).order_by("id")
    )
    here = [item for item in mine if item.tab == tab]
    elsewhere = [item for item in mine if item.tab != tab]
    end(
        assignments=[item for item in elsewhere if item.lease_expires_at < now],
        state=AssignmentState.EXPIRED,
        now=now,
    )
    live_elsewhere = sum(item.lease_expires_at >= now for item in elsewhere)
    _renew(here, now=now, minutes=project.lease_minutes)
    room = min(wanted - len(here), MOST_A_PERSON - live_elsewhere - len(here))
    if project.paused_at is None:
        for _ in range(room):
            taken = _take(project, annotator, tab, now, rng)
            if taken is None:
                break
            here.append(taken)
    return here


def _take(project: Project, annotator: User, tab: str, now: datetime, rng: random.Random) -> Assignment | None:
    while True:
        slot = _claim(project, annotator, now)
        if slot is None:
            return None
        if slot.assignment is None or take_over(slot, now=now):
            break
    expires = lease_end(now, project.lease_minutes)
    assignment = Assignment.objects.create(
        project=project,
        comparison_id=slot.comparison_id,
        annotator=annotator,
        tab=tab,
        sides=_draw_sides(project, annotator, slot, rng),
        form_number=project.form_number,
        lease_expires_at=expires,
        created_at=now,
    )
    Slot.objects.filter(pk=slot.pk).update(state=SlotState.LEASED, assignment=assignment, lease_expires_at=expires)
    return assignment


def take_over(slot: Slot, *, now: datetime) -> bool:
    """Close the expired lease on a slot that is locked; False if its vote is no longer wanted and the slot is gone."""
    assert slot.assignment is not None
    if _crowded({slot.comparison_id}):
        end(assignments=[slot.assignment], state=AssignmentState.EXPIRED, now=now)
        return Slot.objects.filter(pk=slot.pk).exists()
    Assignment.objects.filter(pk=slot.assignment.pk, state=AssignmentState.LEASED).update(
        state=AssignmentState.EXPIRED, ended_at=now
    )
    return True


def claimable(project: Project, annotator: User, now: datetime) -> QuerySet[Slot]:
    """Free slots of comparisons that this person has not met (or has given back) and that flags have not withdrawn."""
    met = Assignment.objects.filter(
        project=project, comparison_id=OuterRef("comparison_id"), annotator=annotator
    ).exclude(state__in=GIVEN_BACK)
    withdrawn = Consensus.objects.filter(comparison_id=OuterRef("comparison_id"), state=ConsensusState.WITHDRAWN)
    free = Slot.objects.filter(free_slot(now), ~Exists(met), ~Exists(withdrawn), project=project)
    return free.exclude(state=SlotState.DONE)


def _claim(project: Project, annotator: User, now: datetime) -> Slot | None:
    """The first claimable slot from the person's own starting rank on, wrapping round; a higher priority goes first.

    Starting each person elsewhere spreads contention and avoids walking past one's own votes.
    """
    start = random.Random(f"{project.pk}/{annotator.pk}").randrange(RANKS)  # noqa: S311  (spreads people, hides nothing)
    queue = claimable(project, annotator, now).order_by("-priority", "rank")
    if connection.features.has_select_for_update_skip_locked:
        queue = queue.select_for_update(skip_locked=True, no_key=True, of=("self",))
    ahead, behind = queue.filter(rank__gte=start).first(), None
    top = (
        Slot.objects.filter(project=project)
        .exclude(state=SlotState.DONE)
        .order_by("-priority")
        .values_list("priority", flat=True)
        .first()
    )
    if ahead is None:
        behind = queue.filter(rank__lt=start).first()
    elif top is not None and top > ahead.priority:
        behind = queue.filter(rank__lt=start, priority__gt=ahead.priority).first()
    return behind or ahead


def _draw_sides(project: Project, annotator: User, slot: Slot, rng: random.Random) -> str:
    """`ab` or `ba`: what this comparison has shown less, then what this person has seen less, else a coin."""
    given = Assignment.objects.filter(project=project).exclude(state__in=GIVEN_BACK)
    shown = list(given.filter(comparison_id=slot.comparison_id).values_list("sides", flat=True))
    if shown.count("ab") == shown.count("ba"):
        shown = list(given.filter(annotator=annotator).order_by("-id").values_list("sides", flat=True)[:20])
    difference = shown.count("ab") - shown.count("ba")
    if difference == 0:
        return rng.choice(("ab", "ba"))
    return "ba" if difference > 0 else "ab"


def renew(*, project: Project, annotator: User, tab: str, now: datetime) -> int:
    """Renew this tab's leases that nobody has taken; how many there are."""
    with write(), transaction.atomic():
        leases = Assignment.objects.filter(project=project, annotator=annotator, tab=tab, state=AssignmentState.LEASED)
        return _renew(list(leases), now=now, minutes=project.lease_minutes)


def _renew(assignments: Sequence[Assignment], *, now: datetime, minutes: int) -> int:
    """An assignment that is still leased still has its slot: whoever takes an expired slot ends the assignment."""
    expires = lease_end(now, minutes)
    ids = [item.pk for item in assignments]
    if not ids:
        return 0
    # Slots before assignments, as everywhere: a vote of the same person in the same moment must not deadlock.
    Slot.objects.filter(assignment_id__in=ids, state=SlotState.LEASED).update(lease_expires_at=expires)
    renewed = Assignment.objects.filter(pk__in=ids, state=AssignmentState.LEASED).update(lease_expires_at=expires)
    for item in assignments:
        item.lease_expires_at = expires
    return renewed


def end(*, assignments: Sequence[Assignment], state: AssignmentState, now: datetime, reason: str = "") -> int:
    """Close leased assignments and open their slots; those that ended meanwhile are left alone. Returns how many.

    A slot that opens beyond the votes wanted (the overlap was lowered while it was leased) is removed. A lease that was
    renewed since it was read does not expire.
    """
    ids = [item.pk for item in assignments]
    if not ids:
        return 0
    comparison_ids = {item.comparison_id for item in assignments}
    over = Q(lease_expires_at__lt=now) if state == AssignmentState.EXPIRED else Q()
    Slot.objects.filter(over, assignment_id__in=ids, state=SlotState.LEASED).update(
        state=SlotState.OPEN, assignment=None, lease_expires_at=None
    )
    ended = Assignment.objects.filter(over, pk__in=ids, state=AssignmentState.LEASED).update(
        state=state, ended_at=now, reason=reason
    )
    # `change_overlap` locks the same rows, so each sees what the other did and no slot stays open unwanted. It wants
    # open slots only, so taking the slot before the comparison cannot deadlock with it.
    list(Comparison.objects.select_for_update(no_key=True).filter(pk__in=comparison_ids).order_by("pk").values("pk"))
    for comparison_id, excess in _crowded(comparison_ids).items():
        free = Slot.objects.filter(comparison_id=comparison_id, state=SlotState.OPEN).order_by("-number")
        Slot.objects.filter(pk__in=list(free.values_list("pk", flat=True)[:excess]), state=SlotState.OPEN).delete()
        mark_due([comparison_id], now=now)
    return ended


def _crowded(comparison_ids: set[int]) -> dict[int, int]:
    """Comparisons with more slots than votes wanted, and how many more: the overlap was lowered meanwhile."""
    return dict(
        Slot.objects.filter(comparison_id__in=comparison_ids)
        .values("comparison_id")
        .annotate(excess=Count("pk") - F("comparison__overlap"))
        .filter(excess__gt=0)
        .values_list("comparison_id", "excess")
    )


def release(*, project: Project, annotator: User, tab: str, public_ids: Sequence[str], now: datetime) -> int:
    """Give leases of this tab back unseen; a second call finds nothing to do."""
    with write(), transaction.atomic():
        leases = Assignment.objects.filter(
            project=project, annotator=annotator, tab=tab, public_id__in=public_ids, state=AssignmentState.LEASED
        )
        return end(assignments=list(leases), state=AssignmentState.RELEASED, now=now)


def expire(now: datetime, *, limit: int = 500) -> int:
    """Close leases that have run out and open their slots (the tick calls this; a claim does it by itself too)."""
    with write(), transaction.atomic():
        over = Assignment.objects.filter(state=AssignmentState.LEASED, lease_expires_at__lt=now)[:limit]
        return end(assignments=list(over), state=AssignmentState.EXPIRED, now=now)


def skip(*, assignment: Assignment, reason: str, now: datetime) -> None:
    """End an assignment without a vote; its slot opens for others. A second skip changes nothing.

    Raises:
        AssignmentOver: this person has voted on the comparison.
    """
    with write(), transaction.atomic():
        if _finish(assignment, state=AssignmentState.SKIPPED, reason=reason, now=now) == AssignmentState.VOTED:
            raise AssignmentOver("You have voted on this comparison already. Undo the vote first.")


def flag(*, assignment: Assignment, kind: FlagKind, note: str, now: datetime) -> None:
    """Warn about a comparison; without a vote this ends the assignment too. The same flag again changes nothing."""
    with write(), transaction.atomic():
        Flag.objects.get_or_create(
            assignment=assignment,
            kind=kind,
            defaults={
                "project_id": assignment.project_id,
                "comparison_id": assignment.comparison_id,
                "by_id": assignment.annotator_id,
                "note": note,
                "created_at": now,
            },
        )
        _finish(assignment, state=AssignmentState.FLAGGED, reason=kind, now=now)
        mark_due([assignment.comparison_id], now=now)


def _finish(assignment: Assignment, *, state: AssignmentState, reason: str, now: datetime) -> str:
    """Close the person's turn at the comparison, so that they do not get it again; the state that it is in then.

    The lease may have run out and another have been given, in another tab: then that one is closed.
    """
    turns = Assignment.objects.filter(
        project_id=assignment.project_id,
        comparison_id=assignment.comparison_id,
        annotator_id=assignment.annotator_id,
        repetition=assignment.repetition,
    )
    current = turns.exclude(state__in=GIVEN_BACK).first()
    if current is None:
        turns.filter(pk=assignment.pk).update(state=state, reason=reason, ended_at=now)
        return state
    end(assignments=[current], state=state, now=now, reason=reason)
    current.refresh_from_db()
    return current.state


def why_nothing(*, project: Project, annotator: User, now: datetime) -> str:
    """Why the queue has nothing for this person: `paused`, `nothing_yet`, `held_by_others` or `all_done`.

    Held is what others have leased and this person too, in another tab.
    """
    if project.paused_at is not None:
        return "paused"
    slots = Slot.objects.filter(project=project)
    if not slots.exists():
        return "nothing_yet"
    through = Assignment.objects.filter(project=project, annotator=annotator).exclude(
        state__in=(*GIVEN_BACK, AssignmentState.LEASED)
    )
    held = slots.exclude(state=SlotState.DONE).exclude(comparison_id__in=through.values("comparison_id"))
    return "held_by_others" if held.exists() else "all_done"


def remaining(*, project: Project, annotator: User, now: datetime, most: int = 1000) -> int:
    """Comparisons that this person holds or could still get, counted up to `most`; two queries."""
    held = Assignment.objects.filter(project=project, annotator=annotator, state=AssignmentState.LEASED).count()
    return held + len(claimable(project, annotator, now).values("comparison_id").distinct()[:most])
