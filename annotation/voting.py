"""Record a vote, take it back; an annotator's own completion. No acknowledged vote is lost; a late one is kept as
surplus, never refused."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db import IntegrityError, transaction

from annotation.assignment import QUEUED, free_slot_of, mark_started
from annotation.clock import lease_end
from annotation.consensus import mark_due
from annotation.errors import DomainError, Invalid, Kind
from annotation.feedback import Answer, BadAnswer, StoredAnswer, store
from annotation.gate import write
from annotation.models import (
    GIVEN_BACK,
    Assignment,
    AssignmentState,
    Comparison,
    Completion,
    FeedbackGiven,
    GuidelineVersion,
    Membership,
    Purpose,
    Retraction,
    Slot,
    SlotState,
    Source,
    SourceKind,
    User,
    Vote,
    content_hash,
)

MOST_CHARACTERS = 20_000  # of an annotator's own completion
MOST_LISTED = 50


class KeyReused(DomainError):
    """The idempotency key belongs to another vote."""

    code = "key_reused"
    kind = Kind.CONFLICT


class AlreadyVoted(DomainError):
    """This person has a live vote on this comparison."""

    code = "already_voted"
    kind = Kind.CONFLICT


class AlreadyRetracted(DomainError):
    """The vote was taken back before."""

    code = "already_retracted"
    kind = Kind.CONFLICT


class Frozen(DomainError):
    """The comparison is in a snapshot, so its votes stay."""

    code = "frozen"
    kind = Kind.CONFLICT


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """What the answer to a vote says: the vote, whether it counts, and whether it was stored before.

    `counted` is true of gold and repeats too, which have no slot: else it would tell them from the others.
    """

    vote: Vote
    counted: bool
    replayed: bool


def record_vote(*, assignment: Assignment, annotator: User, key: UUID, answer: Answer, now: datetime) -> Receipt:
    """Store a vote in one transaction. The same key with the same answer again returns the first vote.

    An expired lease, a settled comparison or a paused project do not refuse it: without a free slot it is surplus. The
    answer is read by the form that the task was shown with, so a replay is the same answer after a change of the form.

    Raises:
        KeyReused: the key belongs to another answer. AlreadyVoted: a live vote of this person is there.
        BadAnswer: that form does not allow it.
    """
    try:
        stored = store(assignment.form(), answer, sides=assignment.sides)
    except BadAnswer:
        if Vote.objects.filter(project_id=assignment.project_id, key=key).exists():
            raise KeyReused(f"The idempotency key {key} belongs to another vote.") from None
        raise
    digest = body_hash(stored)
    try:
        with write(), transaction.atomic():
            return _record(assignment, annotator, key, stored, digest, answer.active_ms, now)
    except (IntegrityError, AlreadyVoted):
        # Somebody was faster: either this very request (a replay in flight, committed after we looked for its key), or
        # another vote of the same person.
        known = _known(assignment, annotator, key, digest)
        if known is not None:
            return known
        raise AlreadyVoted("You have voted on this comparison already.") from None


def _record(
    assignment: Assignment,
    annotator: User,
    key: UUID,
    answer: StoredAnswer,
    digest: str,
    active_ms: int | None,
    now: datetime,
) -> Receipt:
    known = _known(assignment, annotator, key, digest)
    if known is not None:
        return known
    replaces = _open_retraction(assignment)
    slot = _slot_for(assignment, now)
    guideline = GuidelineVersion.objects.filter(project_id=assignment.project_id).order_by("-number").first()
    vote = Vote.objects.create(
        project_id=assignment.project_id,
        comparison_id=assignment.comparison_id,
        assignment=assignment,
        annotator=annotator,
        repetition=assignment.repetition,
        purpose=assignment.purpose,
        key=key,
        choice=answer.choice,
        body=answer.body,
        body_hash=digest,
        active_ms=active_ms,
        guideline=guideline,
        replaces=replaces,
        created_at=now,
    )
    # Without a slot both change nothing: a vote on hidden gold takes the same statements, and so the same time.
    Slot.objects.filter(pk=0 if slot is None else slot.pk).update(
        state=SlotState.DONE, assignment=assignment, vote=vote, lease_expires_at=None
    )
    mark_due([assignment.comparison_id], now=now)
    if slot is not None and assignment.project.finish_started:
        mark_started(slot)
    # Another turn of this person at this comparison (a second tab, leased or skipped) gives way to the vote.
    Assignment.objects.filter(
        project_id=assignment.project_id,
        comparison_id=assignment.comparison_id,
        annotator=annotator,
        repetition=assignment.repetition,
    ).exclude(state__in=GIVEN_BACK).exclude(pk=assignment.pk).update(state=AssignmentState.RELEASED, ended_at=now)
    Assignment.objects.filter(pk=assignment.pk).update(state=AssignmentState.VOTED, ended_at=now)
    return Receipt(vote=vote, counted=slot is not None or vote.purpose != Purpose.WANTED, replayed=False)


def _known(assignment: Assignment, annotator: User, key: UUID, digest: str) -> Receipt | None:
    vote = Vote.objects.filter(project_id=assignment.project_id, key=key).first()
    if vote is None:
        return None
    if (vote.annotator_id, vote.assignment_id, vote.body_hash) != (annotator.pk, assignment.pk, digest):
        raise KeyReused(f"The idempotency key {key} belongs to another vote.")
    vote.project, vote.assignment, vote.annotator = assignment.project, assignment, annotator  # known: not asked again
    # What has no slot counts, to the annotator, until it is taken back, as does what has one.
    if vote.purpose == Purpose.WANTED:
        counted = Slot.objects.filter(vote=vote).exists()
    else:
        counted = not Retraction.objects.filter(vote=vote).exists()
    vote.assignment, vote.project = assignment, assignment.project  # the same rows, without asking for them again
    return Receipt(vote=vote, counted=counted, replayed=True)


def _open_retraction(assignment: Assignment) -> Retraction | None:
    """The retraction that this person's next vote on the comparison replaces; refuses a second live vote."""
    votes = Vote.objects.filter(
        project_id=assignment.project_id,
        comparison_id=assignment.comparison_id,
        annotator_id=assignment.annotator_id,
        repetition=assignment.repetition,
    )
    last = votes.order_by("-id").first()
    if last is None:
        return None
    retraction = Retraction.objects.filter(project_id=assignment.project_id, vote=last).first()
    if retraction is None:
        raise AlreadyVoted("You have voted on this comparison already.")
    return retraction


def _slot_for(assignment: Assignment, now: datetime) -> Slot | None:
    """The assignment's own slot if it still is; else that of the person's other lease; else a free one; else none.

    A free one is not for an excluded person, whose page was still open: it would be done by a vote that never counts.
    """
    slots = Slot.objects.filter(project_id=assignment.project_id, comparison_id=assignment.comparison_id)
    # Wait for a slot that is ours: a heartbeat of the same tab may hold it just now, which makes the vote no surplus.
    own = slots.filter(state=SlotState.LEASED).select_for_update(no_key=True, of=("self",))
    mine = own.filter(assignment=assignment).first()
    if mine is not None or assignment.purpose != Purpose.WANTED:
        return mine
    other = own.filter(
        assignment__annotator_id=assignment.annotator_id,
        assignment__repetition=assignment.repetition,
        assignment__state=AssignmentState.LEASED,
    )
    found = other.first()
    if found is not None or _is_excluded(assignment):
        return found
    return free_slot_of(assignment.comparison_id, now=now)


def _is_excluded(assignment: Assignment) -> bool:
    rows = Membership.objects.filter(project_id=assignment.project_id, user_id=assignment.annotator_id)
    return rows.filter(excluded_at__isnull=False).exists()


def retract(*, vote: Vote, by: User, reason: str = "", now: datetime) -> Assignment:
    """Take a vote back: its slot is leased again by the same assignment, so that the person can vote anew.

    A surplus vote has no slot to give back: only its assignment is leased again.

    Raises:
        Frozen: a snapshot holds the comparison, or feedback has told its answer.
        AlreadyRetracted: it was taken back before.
        Invalid: an imported vote has no assignment to give back.
    """
    if vote.assignment is None:
        raise Invalid("vote: an imported vote cannot be taken back here")
    try:
        with write(), transaction.atomic():
            comparison = Comparison.objects.select_for_update(no_key=True).get(pk=vote.comparison_id)
            if is_frozen(vote, comparison):
                raise Frozen("This one is in a frozen snapshot and can't be changed. Flag it instead.")
            if Retraction.objects.filter(project_id=vote.project_id, vote=vote).exists():
                raise AlreadyRetracted("This vote was taken back before.")
            if _is_told(vote):
                raise Frozen("You have had feedback on this one, so it stays as it is.")
            Retraction.objects.create(project_id=vote.project_id, vote=vote, by=by, reason=reason, created_at=now)
            expires = lease_end(now, vote.assignment.project.lease_minutes)
            Slot.objects.filter(vote=vote).update(
                state=SlotState.LEASED, vote=None, assignment=vote.assignment, lease_expires_at=expires
            )
            Assignment.objects.filter(pk=vote.assignment.pk).update(
                state=AssignmentState.LEASED, lease_expires_at=expires, ended_at=None
            )
            mark_due([vote.comparison_id], now=now)
    except IntegrityError:
        raise AlreadyRetracted("This vote was taken back before.") from None
    vote.assignment.refresh_from_db()
    return vote.assignment


def _is_told(vote: Vote) -> bool:
    """Whether the person knows the answer: feedback tells of all hidden gold that was answered before it."""
    given = FeedbackGiven.objects.filter(project_id=vote.project_id, annotator_id=vote.annotator_id)
    return vote.purpose == Purpose.GOLD and given.filter(created_at__gte=vote.created_at).exists()


def is_frozen(vote: Vote, comparison: Comparison) -> bool:
    """Whether a vote can no more be taken back: its comparison is in a snapshot.

    Hidden gold never is, which would tell it from the rest as soon as there is a snapshot; so it goes with the ordinary
    vote that the person gave before it.
    """
    if vote.purpose != Purpose.GOLD:
        return comparison.frozen_at is not None
    before = Vote.objects.filter(
        project_id=vote.project_id, annotator_id=vote.annotator_id, purpose=Purpose.WANTED,
        created_at__lte=vote.created_at,
    )  # fmt: skip
    return before.order_by("-created_at").values_list("comparison__frozen_at", flat=True).first() is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnVote:
    """A vote as its own annotator may see it again."""

    vote: Vote
    can_retract: bool


def own_votes(*, project_id: int, annotator: User) -> list[OwnVote]:
    """The newest live votes that a person gave from the queue, newest first; one query."""
    rows = Vote.objects.filter(
        project_id=project_id, annotator=annotator, assignment__isnull=False, retractions__isnull=True,
        purpose__in=QUEUED,
    )  # fmt: skip
    votes = list(
        rows.select_related("assignment", "comparison__prompt").order_by("-created_at", "-pk")[: MOST_LISTED + 1]
    )
    found, frozen = [], False
    for vote in reversed(votes):
        if vote.purpose != Purpose.GOLD:  # gold goes with the vote before it, as `is_frozen` says
            frozen = vote.comparison.frozen_at is not None
        found.append(OwnVote(vote=vote, can_retract=not frozen))
    return found[::-1][:MOST_LISTED]


def write_completion(*, assignment: Assignment, annotator: User, text: str, now: datetime) -> Completion:
    """A better completion that an annotator wrote for the prompt of their task; the same text again is the first one.

    Raises:
        Invalid: it is empty or too long.
    """
    if not text.strip() or len(text) > MOST_CHARACTERS:
        rule = f"must have 1 to {MOST_CHARACTERS} characters"
        raise Invalid(f"text: {rule}, got {len(text)}", details={"text": [rule]})
    name = Membership.objects.values_list("pseudonym", flat=True).get(project=assignment.project, user=annotator)
    with write(), transaction.atomic():
        prompt = Comparison.objects.select_related("prompt").get(pk=assignment.comparison_id).prompt
        # One writer a prompt and person: the lease is theirs.
        Assignment.objects.select_for_update(no_key=True).get(pk=assignment.pk)
        source, _ = Source.objects.get_or_create(project=assignment.project, kind=SourceKind.HUMAN, name=name)
        own = Completion.objects.filter(prompt=prompt, source=source)
        digest = content_hash(text)
        first = own.filter(content_hash=digest).first()
        return first or Completion.objects.create(
            project=assignment.project,
            prompt=prompt,
            source=source,
            text=text,
            content_hash=digest,
            origin=assignment.public_id,
            index=own.filter(origin=assignment.public_id).count(),
            author=annotator,
            created_at=now,
        )


def body_hash(answer: StoredAnswer) -> str:
    """The identity of an answer, by which a replay is known."""
    text = json.dumps(
        {"choice": answer.choice, **answer.body}, sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )
    return hashlib.sha256(text.encode()).hexdigest()
