"""What a person's answers bring about: a pause and the way back, and feedback to them.

`annotation.records` computes the figures; here they have consequences. Nothing is told of gold that a person has not
answered, and what they have answered they do not get again.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Count, Max, Subquery

from annotation.errors import DomainError, Kind
from annotation.gate import write
from annotation.gold import explain_vote, is_right
from annotation.models import (
    AuditAction,
    FeedbackGiven,
    Gold,
    Membership,
    Objection,
    Project,
    Purpose,
    User,
    Vote,
)
from annotation.people import audit
from annotation.qualification import close_attempt
from annotation.records import ORDINARY, records
from annotation.statistics.estimates import Estimate, wilson


class AlreadyPaused(DomainError):
    """The person is paused."""

    code = "already_paused"
    kind = Kind.CONFLICT


class NotPaused(DomainError):
    """The person is not paused."""

    code = "not_paused"
    kind = Kind.CONFLICT


class NoQualification(DomainError):
    """The project has no qualification that somebody could be asked to pass."""

    code = "no_qualification"
    kind = Kind.CONFLICT


class AlreadyObjected(DomainError):
    """The person has objected to this answer, in other words."""

    code = "already_objected"
    kind = Kind.CONFLICT


# --- after a vote -----------------------------------------------------------------------------------------------------


def after_vote(vote: Vote, *, now: datetime) -> None:
    """What a stored vote brings about: a closed attempt, a pause, a feedback that is due.

    To be called after the vote's own transaction. It may be lost (the process dies) or come twice without harm: the
    next vote does what was left. An ordinary vote costs no query where the project has no such rule, one where feedback
    is given, and two where people are paused by their gold.
    """
    project = vote.project if vote.assignment is None else vote.assignment.project
    if vote.purpose == Purpose.QUALIFICATION:
        close_attempt(project=project, user_id=vote.annotator_id, now=now)
    # Asked after ordinary tasks too, though only gold can change it: a slower answer would tell gold from the rest.
    if vote.purpose in ORDINARY and project.pause_below is not None:
        _pause_by_rule(project, vote.annotator_id, now)
    if vote.purpose in ORDINARY and project.feedback_every:
        _give_feedback(project, vote.annotator_id, now)


# --- pausing, and the way back ----------------------------------------------------------------------------------------


def _pause_by_rule(project: Project, user_id: int, now: datetime) -> None:
    """Pause who is surely below the project's mark on gold: the whole 95 % interval lies under it."""
    member = Membership.objects.filter(project=project, user_id=user_id, paused_at=None).first()
    if member is None or project.pause_below is None:
        return
    right, n = gold_scores(project, [member])[user_id]
    high = surely_below(right, n, mark=project.pause_below, least=project.pause_min_gold)
    if high is None:
        return
    reason = (
        f"{right} of {n} quality checks agreed ({right / n:.0%}; with 95 % certainty at most {high:.0%}), and "
        f"this project asks for {project.pause_below:.0%}."
    )
    with write(), transaction.atomic():
        paused = Membership.objects.filter(pk=member.pk, paused_at=None).update(
            paused_at=now,
            pause_reason=reason,
            requalify_at=now if project.qualification_items else member.requalify_at,
        )
        if paused:
            audit(
                project=project, by=None, action=AuditAction.MEMBER_PAUSED, target=member.pseudonym, now=now,
                rule="gold", right=right, n=n, high=high, asked=project.pause_below,
            )  # fmt: skip


def gold_scores(project: Project, members: Collection[Membership]) -> dict[int, tuple[int, int]]:
    """Right answers to hidden gold and how many there are, since each of these people is judged, by user id. One query.

    Who has answered none has (0, 0).
    """
    since = {member.user_id: member.judged_from for member in members}
    votes = Vote.objects.filter(
        project=project, annotator_id__in=since, purpose=Purpose.GOLD, retractions__isnull=True
    ).exclude(comparison__gold=None)
    size = project.feedback.size
    found = dict.fromkeys(since, (0, 0))
    columns = ("annotator_id", "created_at", "comparison__gold__answer", "choice", "body")
    for user_id, created_at, answer, choice, body in votes.values_list(*columns):
        judged_from = since[user_id]
        if judged_from is None or created_at > judged_from:
            right, n = found[user_id]
            found[user_id] = (right + is_right(answer, choice, body, size=size), n + 1)
    return found


def surely_below(right: int, n: int, *, mark: float, least: int) -> float | None:
    """The upper end of the 95 % interval of a share of right answers, if it lies under the mark; else None.

    Args:
        least: answers before anything is said.
    """
    high = wilson(right, n).high
    return None if n < least or high is None or high >= mark else high


def pause(*, member: Membership, reason: str, by: User, now: datetime) -> None:
    """Give a person nothing new to do, for a reason that they are told. The same reason again changes nothing.

    Raises:
        AlreadyPaused: for another reason.
    """
    with write(), transaction.atomic():
        paused = Membership.objects.filter(pk=member.pk, paused_at=None).update(paused_at=now, pause_reason=reason)
        if paused:
            audit(
                project=member.project,
                by=by,
                action=AuditAction.MEMBER_PAUSED,
                target=member.pseudonym,
                now=now,
                reason=reason,
            )
    member.refresh_from_db()
    if member.pause_reason != reason:
        raise AlreadyPaused(f"This person is paused already: {member.pause_reason}")


def resume(*, member: Membership, reason: str, by: User, now: datetime) -> None:
    """Lift a pause; the gold rule judges from now on only.

    Raises:
        NotPaused: there is nothing to lift.
    """
    with write(), transaction.atomic():
        lifted = Membership.objects.filter(pk=member.pk, paused_at__isnull=False).update(
            paused_at=None, pause_reason="", judged_from=now
        )
        if not lifted:
            raise NotPaused("This person is not paused.")
        audit(
            project=member.project,
            by=by,
            action=AuditAction.MEMBER_RESUMED,
            target=member.pseudonym,
            now=now,
            reason=reason,
        )
    member.refresh_from_db()


def ask_to_requalify(*, member: Membership, reason: str, by: User, now: datetime) -> None:
    """Let only a qualification from now on count for this person; their attempts begin anew.

    Passing it lifts a pause that they are under now.

    Raises:
        NoQualification: the project has none.
    """
    if not member.project.qualification_items:
        raise NoQualification("This project has no qualification. Set how many examples it asks first.")
    with write(), transaction.atomic():
        Membership.objects.filter(pk=member.pk).update(requalify_at=now)
        audit(
            project=member.project, by=by, action=AuditAction.MEMBER_ASKED_TO_REQUALIFY, target=member.pseudonym,
            now=now, reason=reason,
        )  # fmt: skip
    member.refresh_from_db()


# --- feedback ---------------------------------------------------------------------------------------------------------


def _give_feedback(project: Project, user_id: int, now: datetime) -> None:
    """Tell a person about their work once so many votes have come since they were told last."""
    if _votes_since_told(project, user_id) < project.feedback_every:
        return
    with write(), transaction.atomic():
        member = Membership.objects.select_for_update(no_key=True).get(project=project, user_id=user_id)
        if _votes_since_told(project, user_id) < project.feedback_every:
            return
        FeedbackGiven.objects.create(
            project=project,
            annotator_id=user_id,
            votes=_own_votes(project, user_id).count(),
            body=_feedback(project, member),
            created_at=now,
        )


def _own_votes(project: Project, user_id: int) -> Any:
    return Vote.objects.filter(project=project, annotator_id=user_id, purpose__in=ORDINARY, retractions__isnull=True)


def _votes_since_told(project: Project, user_id: int) -> int:
    """One query."""
    told = FeedbackGiven.objects.filter(project=project, annotator_id=user_id).order_by("-pk").values("votes")[:1]
    found = _own_votes(project, user_id).annotate(before=Subquery(told)).aggregate(n=Count("pk"), told=Max("before"))
    return int(found["n"]) - int(found["told"] or 0)


def _feedback(project: Project, member: Membership) -> dict[str, Any]:
    """Figures over all of a person's work, and the gold that they have answered since they were told last."""
    record = records(project, user_ids=[member.user_id])[member.user_id]
    told_at = FeedbackGiven.objects.filter(project=project, annotator_id=member.user_id).aggregate(
        at=Max("created_at")
    )["at"]
    votes = _own_votes(project, member.user_id).filter(purpose=Purpose.GOLD).select_related("assignment")
    if told_at is not None:
        votes = votes.filter(created_at__gt=told_at)
    found = list(votes.order_by("pk"))
    gold = {row.comparison_id: row for row in Gold.objects.filter(comparison_id__in=[v.comparison_id for v in found])}
    items = []
    for vote in found:
        if vote.comparison_id in gold and vote.assignment is not None:
            told = explain_vote(vote, gold[vote.comparison_id], sides=vote.assignment.sides)
            items.append({"vote": str(vote.public_id), **asdict(told)})
    return {
        "gold": _figure(record.gold),
        "consistency": _figure(record.consistency),
        "median_seconds": record.median_seconds,
        "items": items,
    }


def _figure(estimate: Estimate) -> dict[str, Any]:
    return {
        "value": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n,
        "reason": estimate.reason,
    }  # fmt: skip


def read_feedback(*, given: FeedbackGiven, now: datetime) -> None:
    """Note that a person has read a feedback. A second call changes nothing."""
    FeedbackGiven.objects.filter(pk=given.pk, read_at=None).update(read_at=now)
    given.refresh_from_db()


def told_vote(*, project: Project, annotator: User, public_id: UUID) -> Vote | None:
    """This person's vote on gold, if they were told the right answer: after practice, or in a feedback."""
    vote = (
        Vote.objects.filter(project=project, annotator=annotator, public_id=public_id, retractions__isnull=True)
        .exclude(comparison__gold=None)
        .select_related("comparison__gold")
        .first()
    )
    if vote is None or vote.purpose == Purpose.PRACTICE:
        return vote
    bodies = FeedbackGiven.objects.filter(project=project, annotator=annotator).values_list("body", flat=True)
    return vote if any(item["vote"] == str(public_id) for body in bodies for item in body["items"]) else None


def object_to(*, vote: Vote, text: str, now: datetime) -> Objection:
    """Note why a person thinks that the answer they were told is wrong. The same words again change nothing.

    Args:
        vote: as `told_vote` finds it.

    Raises:
        AlreadyObjected: in other words, which stay.
    """
    with write(), transaction.atomic():
        found, _ = Objection.objects.get_or_create(
            vote=vote, defaults={"gold": vote.comparison.gold, "text": text, "created_at": now}
        )
    if found.text != text:
        raise AlreadyObjected("You have objected to this answer already. What you wrote then stays.")
    return found
