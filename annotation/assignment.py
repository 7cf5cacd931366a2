"""The next comparison for a person: leases, their renewal and their end.

Overlap is enforced by slot rows: a lease points a slot at an assignment, by a conditional claim that skips rows which
other people are claiming, so live leases plus votes never exceed the votes wanted (invariant 2).

The module is long because all ways in which a lease begins and ends take the same rows in the same order.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.db import IntegrityError, connection, transaction
from django.db.models import Case, Count, Exists, F, OuterRef, Q, QuerySet, Subquery, When
from django.db.models.functions import Coalesce

from annotation.audience import served
from annotation.clock import free_slot, lease_end
from annotation.consensus import mark_due
from annotation.errors import DomainError, Kind
from annotation.feedback import LETTERS
from annotation.gate import write
from annotation.hidden import Hidden, draw
from annotation.models import (
    GIVEN_BACK,
    Assignment,
    AssignmentState,
    Comparison,
    Consensus,
    ConsensusState,
    Flag,
    FlagKind,
    Membership,
    Project,
    Purpose,
    Slot,
    SlotState,
    User,
    Vote,
)

MOST_A_TAB = 5
MOST_A_PERSON = 20  # four tabs
RANKS = 2**31
QUEUED = (Purpose.WANTED, Purpose.GOLD, Purpose.REPEAT)  # what the queue hands out, and the annotator cannot tell apart
_TRIES = 5
_BATCH = 500


class AssignmentOver(DomainError):
    """The assignment has ended, so it cannot be skipped, flagged or voted on again."""

    code = "assignment_over"
    kind = Kind.CONFLICT


def lease(
    *,
    project: Project,
    annotator: User,
    tab: str,
    wanted: int,
    now: datetime,
    rng: random.Random,
    membership: Membership | None = None,
    only_held: bool = False,
) -> list[Assignment]:
    """This tab's leases, renewed, filled up to `wanted` with new ones. Calling again returns the same ones first.

    A person's expired leases of other tabs are given back first, else a sole annotator would never see them again.
    The same person in two tabs may race for one comparison: the unique index lets one win and the other tries again.

    Args:
        membership: the annotator's, where the caller has it already.
        only_held: hand out nothing new; a paused project, a paused or excluded person and a reached cap do the same.
    """
    wanted = min(wanted, MOST_A_TAB)
    member = membership or Membership.objects.get(project=project, user=annotator)
    for attempt in range(_TRIES):
        try:
            with write(), transaction.atomic():
                return _lease(project, member, tab, wanted, now, rng, only_held=only_held)
        except IntegrityError:
            if attempt == _TRIES - 1:
                raise
    raise AssertionError("unreachable: the last try raises or returns")


def _lease(
    project: Project, member: Membership, tab: str, wanted: int, now: datetime, rng: random.Random, *, only_held: bool
) -> list[Assignment]:
    mine = list(
        Assignment.objects.filter(
            project=project, annotator_id=member.user_id, state=AssignmentState.LEASED, purpose__in=QUEUED
        ).order_by("id")
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
    if room <= 0 or only_held or project.paused_at or member.paused_at or member.excluded_at:
        return here
    left = cap_left(project, member, lock=True)
    audiences = served(member)
    for _ in range(room if left is None else min(room, left)):
        taken = _take(project, member, audiences, tab, now, rng)
        if taken is None:
            break
        here.append(taken)
    return here


def cap_left(project: Project, member: Membership, *, lock: bool = False) -> int | None:
    """How many more tasks the caps of person and project allow; None without a cap, and then no query.

    A lease counts as the vote that it may become. Locked, two claims at once cannot both take the last one. A capped
    project counts all its tasks at each claim, one claim after the other: caps are for budgets, not for millions.
    """
    person_cap = project.person_cap if member.cap is None else member.cap
    taken = Assignment.objects.filter(
        project=project, purpose__in=QUEUED, state__in=(AssignmentState.LEASED, AssignmentState.VOTED)
    )
    left: list[int] = []
    if project.vote_cap is not None:
        if lock:
            Project.objects.select_for_update(no_key=True).filter(pk=project.pk).values_list("pk").first()
        left.append(project.vote_cap - taken.count())
    if person_cap is not None:
        if lock:
            Membership.objects.select_for_update(no_key=True).filter(pk=member.pk).values_list("pk").first()
        left.append(person_cap - taken.filter(annotator_id=member.user_id).count())
    return max(0, min(left)) if left else None


def _take(
    project: Project, member: Membership, audiences: Sequence[str], tab: str, now: datetime, rng: random.Random
) -> Assignment | None:
    """The next task: what the queue has, or hidden gold or a repeat in its place."""
    while True:
        slot = _claim(project, member, audiences, now)
        if slot is None:
            return None
        # Drawn after the claim, so that hidden work comes only while ordinary work is left, and costs what that costs.
        hidden = draw(project, member, audiences, rng)
        if hidden is not None:
            return _insert(project, member, hidden, tab=tab, now=now, rng=rng)
        if slot.assignment is None or take_over(slot, now=now):
            break
    assignment = _insert(
        project, member, Hidden(comparison_id=slot.comparison_id, purpose=Purpose.WANTED), tab=tab, now=now, rng=rng
    )
    _point(slot, assignment)
    if project.finish_started:
        mark_started(slot)
    return assignment


def _insert(
    project: Project, member: Membership, task: Hidden, *, tab: str, now: datetime, rng: random.Random
) -> Assignment:
    # Asked for a repeat too, whose sides are known: it must not be told by a faster answer.
    drawn = _draw_sides(project, member.user_id, task.comparison_id, rng)
    return Assignment.objects.create(
        project=project,
        comparison_id=task.comparison_id,
        annotator_id=member.user_id,
        tab=tab,
        sides=task.sides or drawn,
        repetition=task.repetition,
        purpose=task.purpose,
        form_number=project.form_number,
        lease_expires_at=lease_end(now, project.lease_minutes),
        created_at=now,
    )


def _point(slot: Slot, assignment: Assignment) -> None:
    Slot.objects.filter(pk=slot.pk).update(
        state=SlotState.LEASED, assignment=assignment, lease_expires_at=assignment.lease_expires_at
    )


def give(
    *,
    project: Project,
    annotator: User,
    comparison: Comparison,
    tab: str,
    purpose: Purpose,
    repetition: int = 0,
    now: datetime,
    rng: random.Random,
) -> Assignment:
    """Lease this very comparison to a person: practice, qualification, reference, or (`wanted`) a chat's own.

    Only a wanted one takes a slot. Calling again returns the same lease, renewed, now of this tab.

    Raises:
        AssignmentOver: the person is through with the comparison, or no vote on it is wanted any more.
    """
    member = Membership.objects.get(project=project, user=annotator)
    task = Hidden(comparison_id=comparison.pk, purpose=purpose, repetition=repetition)
    for attempt in range(_TRIES):
        try:
            with write(), transaction.atomic():
                return _give(project, member, task, tab, now, rng)
        except IntegrityError:
            if attempt == _TRIES - 1:
                raise
    raise AssertionError("unreachable: the last try raises or returns")


def _give(
    project: Project, member: Membership, task: Hidden, tab: str, now: datetime, rng: random.Random
) -> Assignment:
    turns = Assignment.objects.filter(
        project=project, comparison_id=task.comparison_id, annotator_id=member.user_id, repetition=task.repetition
    )
    current = turns.exclude(state__in=GIVEN_BACK).first()
    if current is not None:
        if current.state != AssignmentState.LEASED or current.purpose != task.purpose:
            raise AssignmentOver("You are through with this comparison already.")
        turns.filter(pk=current.pk).update(tab=tab)
        current.tab = tab
        _renew([current], now=now, minutes=project.lease_minutes)
        return current
    if task.purpose != Purpose.WANTED:
        return _insert(project, member, task, tab=tab, now=now, rng=rng)
    slot = free_slot_of(task.comparison_id, now=now)
    if slot is None:
        raise AssignmentOver("No vote on this comparison is wanted any more.")
    assignment = _insert(project, member, task, tab=tab, now=now, rng=rng)
    _point(slot, assignment)
    if project.finish_started:
        mark_started(slot)
    return assignment


def free_slot_of(comparison_id: int, *, now: datetime) -> Slot | None:
    """A slot of this comparison that nobody holds, locked; an expired lease on it is closed."""
    slots = _lockable(Slot.objects.filter(comparison_id=comparison_id))
    while True:
        free = slots.filter(free_slot(now)).order_by("number").first()
        if free is None or free.assignment is None or take_over(free, now=now):
            return free


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


def _lockable(slots: QuerySet[Slot]) -> QuerySet[Slot]:
    """The same slots, locked when they are read, without those that somebody else holds in this moment."""
    if connection.features.has_select_for_update_skip_locked:
        return slots.select_for_update(skip_locked=True, no_key=True, of=("self",))
    return slots


# --- which slot -------------------------------------------------------------------------------------------------------


def claimable(project: Project, annotator_id: int, audience: str, now: datetime) -> QuerySet[Slot]:
    """Free slots for an audience, of comparisons that this person has not met (or has given back) and that flags have
    not withdrawn."""
    met = Assignment.objects.filter(
        project=project, comparison_id=OuterRef("comparison_id"), annotator_id=annotator_id
    ).exclude(state__in=GIVEN_BACK)
    withdrawn = Consensus.objects.filter(
        project=project, comparison_id=OuterRef("comparison_id"), state=ConsensusState.WITHDRAWN
    )
    free = Slot.objects.filter(free_slot(now), ~Exists(met), ~Exists(withdrawn), project=project, audience=audience)
    return free.exclude(state=SlotState.DONE)


def _claim(project: Project, member: Membership, audiences: Sequence[str], now: datetime) -> Slot | None:
    """The best claimable slot, locked; of several audiences the one with the highest priority, then the narrowest."""
    if len(audiences) > 1:
        best = [(_first(project, member, audience, now), audience) for audience in audiences]
        found = [(slot.priority, audience) for slot, audience in best if slot is not None]
        audiences = [audience for _, audience in sorted(found, key=lambda item: -item[0])]
    for audience in audiences:
        slot = _first(project, member, audience, now, lock=True)
        if slot is not None:
            return slot
    return None


def _first(project: Project, member: Membership, audience: str, now: datetime, *, lock: bool = False) -> Slot | None:
    """The claimable slot of the highest priority that comes next after the person's last vote, wrapping round.

    Going on where they were avoids walking past their own votes; beginning each person elsewhere spreads contention.
    Each query is one stretch of the index (project, audience, −priority, rank), whatever the size of the table.
    """
    last = Vote.objects.filter(project=project, annotator_id=member.user_id, purpose=Purpose.WANTED)
    begin = random.Random(f"{project.pk}/{member.user_id}").randrange(RANKS)  # noqa: S311  (spreads people, hides nothing)
    start = Coalesce(Subquery(last.order_by("-created_at").values("comparison__rank")[:1]), begin)
    queue = claimable(project, member.user_id, audience, now)
    if lock:
        queue = _lockable(queue)
    levels = Slot.objects.filter(project=project, audience=audience).exclude(state=SlotState.DONE).order_by("-priority")
    level: Any = Subquery(levels.values("priority")[:1])
    while True:
        here = queue.filter(priority=level).order_by("rank")
        found = here.filter(rank__gte=start).first() or here.filter(rank__lt=start).first()
        if found is not None:
            return found
        level = levels.filter(priority__lt=level).values_list("priority", flat=True).first()
        if level is None:
            return None


def _draw_sides(project: Project, annotator_id: int, comparison_id: int, rng: random.Random) -> str:
    """The stored letters from left to right.

    Of a pair: what this comparison has shown less, then what this person has seen less, else a coin. Of more: a random
    order that begins with a letter which this comparison has begun with least often.
    """
    given = Assignment.objects.filter(project=project).exclude(state__in=GIVEN_BACK)
    shown = list(given.filter(comparison_id=comparison_id).values_list("sides", flat=True))
    size = len(shown[0]) if shown else project.feedback.size
    if size != 2:
        letters = list(LETTERS[:size])
        rng.shuffle(letters)
        begun = Counter(sides[0] for sides in shown)
        first = min(letters, key=lambda letter: begun[letter])
        letters.remove(first)
        return first + "".join(letters)
    seen = list(given.filter(annotator_id=annotator_id).order_by("-id").values_list("sides", flat=True)[:20])
    difference = shown.count("ab") - shown.count("ba") or seen.count("ab") - seen.count("ba")
    if difference == 0:
        return rng.choice(("ab", "ba"))
    return "ba" if difference > 0 else "ab"


# --- started comparisons first ----------------------------------------------------------------------------------------


def mark_started(slot: Slot) -> None:
    """Put all slots of a comparison that has its first lease before those of comparisons without one.

    `slot` is locked and as it was before. Slots that somebody else holds in this moment are left: whoever holds one of
    them does the same, and waiting could deadlock.
    """
    if slot.priority % 2 == 0:
        _set_priority(Slot.objects.filter(comparison_id=slot.comparison_id), slot.priority + 1)


def _mark_idle(comparisons: Sequence[Comparison]) -> None:
    """Put the slots of comparisons that have neither lease nor vote back among the others."""
    started = {item.pk: item for item in comparisons if item.project.finish_started}
    if started:
        busy = Slot.objects.filter(comparison_id__in=started).exclude(state=SlotState.OPEN)
        for pk in started.keys() - set(busy.values_list("comparison_id", flat=True)):
            _set_priority(Slot.objects.filter(comparison_id=pk, state=SlotState.OPEN), 2 * started[pk].priority)


def _set_priority(slots: QuerySet[Slot], priority: int) -> None:
    ids = list(_lockable(slots.exclude(priority=priority)).values_list("pk", flat=True))
    Slot.objects.filter(pk__in=ids).update(priority=priority)


def apply_finish_started(*, project: Project) -> int:
    """Give the slots of a project the priorities that its setting `finish_started` asks for; how many changed.

    To be called when the setting is switched; again it changes nothing.
    """
    base = Comparison.objects.filter(pk=OuterRef("comparison_id")).values("priority")
    busy = Slot.objects.filter(comparison_id=OuterRef("comparison_id")).exclude(state=SlotState.OPEN)
    wanted: Any = Subquery(base) * 2
    if project.finish_started:
        wanted += Case(When(Exists(busy), then=1), default=0)
    changed, last = 0, 0
    while True:
        comparisons = Comparison.objects.filter(project=project, pk__gt=last).order_by("pk")
        page = list(comparisons.values_list("pk", flat=True)[:_BATCH])
        if not page:
            return changed
        with write(), transaction.atomic():
            slots = Slot.objects.filter(comparison_id__in=page)
            changed += slots.exclude(priority=wanted).update(priority=wanted)
        last = page[-1]


# --- renewing and ending ----------------------------------------------------------------------------------------------


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
    locked = Comparison.objects.select_for_update(no_key=True, of=("self",)).select_related("project")
    comparisons = list(locked.filter(pk__in=comparison_ids).order_by("pk"))
    for comparison_id, excess in _crowded(comparison_ids).items():
        free = Slot.objects.filter(comparison_id=comparison_id, state=SlotState.OPEN).order_by("-number")
        Slot.objects.filter(pk__in=list(free.values_list("pk", flat=True)[:excess]), state=SlotState.OPEN).delete()
        mark_due([comparison_id], now=now)
    _mark_idle(comparisons)
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
    """Close leases that have run out and open their slots (the tick calls this; a claim does it by itself too).

    Slots that somebody holds in this moment wait for the next call: waiting for many of them here, while a person's
    request waits for one of ours, would be a deadlock.
    """
    with write(), transaction.atomic():
        over = list(Assignment.objects.filter(state=AssignmentState.LEASED, lease_expires_at__lt=now)[:limit])
        slots = Slot.objects.filter(assignment__in=over)
        pointed = set(slots.values_list("assignment_id", flat=True))
        locked = set(_lockable(slots).values_list("assignment_id", flat=True))
        free = [item for item in over if item.pk in locked or item.pk not in pointed]
        return end(assignments=free, state=AssignmentState.EXPIRED, now=now)


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
