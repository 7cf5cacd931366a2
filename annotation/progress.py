"""What is left for a person, and why there is nothing: figures that must not tell hidden work from ordinary work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Count, Max, Q, Sum

from annotation.assignment import QUEUED, cap_left, claimable
from annotation.audience import served
from annotation.hidden import shares
from annotation.models import (
    GIVEN_BACK,
    Assignment,
    AssignmentState,
    FeedbackGiven,
    Membership,
    Project,
    Purpose,
    Slot,
    SlotState,
    Vote,
)

MOST = 200
RECENT = 50  # votes whose median time says how long the rest will take
FEW = 5  # of fewer the median says nothing
_SLOTS_A_COMPARISON = 3  # a first guess of how many free slots a comparison has


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """A person's votes in a project, and how many tasks are left for them; `MOST` means so many or more."""

    votes: int
    remaining: int


def progress(*, project: Project, membership: Membership, now: datetime) -> Progress:
    """Three queries for a person of one audience, whatever the size of the project.

    Hidden tasks are not known beforehand, so the total is estimated: ordinary tasks (done, held and left) over the
    share of tasks that are ordinary. That total stays as it is whichever kind of task is leased, voted on, skipped or
    taken back, so `remaining`, the total less what is done, moves the same way for both kinds.
    """
    turns = Assignment.objects.filter(project=project, annotator_id=membership.user_id, purpose__in=QUEUED)
    ordinary = hidden = held = held_ordinary = votes = 0
    grouped = turns.exclude(state__in=GIVEN_BACK).values_list("purpose", "state").annotate(n=Count("pk"))
    for purpose, state, n in grouped:
        votes += n if state == AssignmentState.VOTED else 0
        if state == AssignmentState.LEASED:
            held += n
            held_ordinary += n if purpose == Purpose.WANTED else 0
        elif purpose == Purpose.WANTED:
            ordinary += n
        else:
            hidden += n
    left = _comparisons_left(project, membership, served(membership), now)
    share = sum(shares(project))
    if left >= MOST:
        remaining = MOST
    elif left + held == 0:
        remaining = 0
    elif share == 0:
        remaining = left + held
    else:
        remaining = round((left + held_ordinary + ordinary) / (1 - share)) - ordinary - hidden
        remaining = min(MOST, max(1, remaining))
    room = cap_left(project, membership)
    return Progress(votes=votes, remaining=remaining if room is None else min(remaining, room + held))


@dataclass(frozen=True, kw_only=True, slots=True)
class Sitting:
    """A person's own figures for their own screen: never shown beside those of others."""

    votes: int
    active_ms: int
    median_ms: int | None
    unread_feedback: int
    told_at: datetime | None


def sitting(*, project: Project, user_id: int, since: datetime) -> Sitting:
    """What a person did since then, how long a vote of theirs takes, and what they have not read yet; three queries.

    Args:
        since: the start of the person's day, which only their own clock knows.
    """
    votes = Vote.objects.filter(
        project=project, annotator_id=user_id, purpose__in=QUEUED, assignment__isnull=False, retractions__isnull=True
    )
    today = votes.filter(created_at__gte=since).aggregate(votes=Count("pk"), active_ms=Sum("active_ms"))
    recent = votes.filter(active_ms__isnull=False).order_by("-pk").values_list("active_ms", flat=True)[:RECENT]
    times = sorted(value for value in recent if value is not None)
    told = FeedbackGiven.objects.filter(project=project, annotator_id=user_id).aggregate(
        unread=Count("pk", filter=Q(read_at=None)), at=Max("created_at")
    )
    return Sitting(
        votes=today["votes"],
        active_ms=today["active_ms"] or 0,
        median_ms=times[len(times) // 2] if len(times) >= FEW else None,
        unread_feedback=told["unread"],
        told_at=told["at"],
    )


def _comparisons_left(project: Project, membership: Membership, audiences: Sequence[str], now: datetime) -> int:
    """Comparisons that this person could still get, counted up to `MOST`; one query an audience."""
    total = 0
    for audience in audiences:
        queue = claimable(project, membership.user_id, audience, now).order_by("-priority", "rank")
        window = MOST * _SLOTS_A_COMPARISON
        while True:
            # The ids themselves: to build a query that counts them takes longer than to read a few hundred numbers.
            seen = list(queue.values_list("comparison_id", flat=True)[:window])
            comparisons = len(set(seen))
            if len(seen) < window or total + comparisons >= MOST:
                break
            window *= 4  # many free slots a comparison
        total += comparisons
        if total >= MOST:
            return MOST
    return total


def why_nothing(*, project: Project, membership: Membership, closed: str = "", now: datetime) -> str:
    """Why the queue has nothing for this person.

    Args:
        closed: what `qualification.why_not` says.

    Returns:
        `paused`, `person_paused`, `confirm_guideline`, `practise`, `qualify`, `share_done` (a cap is reached),
        `nothing_yet`, `held_by_others` (or by this person, in another tab) or `all_done`.
    """
    if project.paused_at is not None:
        return "paused"
    if membership.paused_at is not None or membership.excluded_at is not None:
        return "person_paused"
    if closed:
        return closed
    if cap_left(project, membership) == 0:
        return "share_done"
    slots = Slot.objects.filter(project=project)
    if not slots.exists():
        return "nothing_yet"
    through = Assignment.objects.filter(project=project, annotator_id=membership.user_id).exclude(
        state__in=(*GIVEN_BACK, AssignmentState.LEASED)
    )
    held = slots.filter(audience__in=served(membership)).exclude(state=SlotState.DONE)
    held = held.exclude(comparison_id__in=through.values("comparison_id"))
    return "held_by_others" if held.exists() else "all_done"
