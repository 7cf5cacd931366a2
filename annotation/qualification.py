"""Onboarding: the guideline is confirmed, practice explains itself, and qualification gold must be passed.

Every step is a fact (a reading, an assignment, an attempt), so where a person stands is computed, never stored. Votes
of practice and qualification come through the ordinary vote endpoint; `quality.after_vote` closes an attempt. A new
guideline version asks for confirmation again, not for another qualification: that is a researcher's to ask
(`Membership.requalify_at`), or follows a pause by the gold rule.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from django.db import transaction
from django.db.models import Count, F, Max, QuerySet

from annotation import assignment as assignments
from annotation.audience import may_serve
from annotation.clock import lease_end
from annotation.errors import DomainError, Kind
from annotation.gate import write
from annotation.gold import Explanation, explain_vote, is_right
from annotation.guideline import has_confirmed
from annotation.models import (
    GIVEN_BACK,
    Assignment,
    AssignmentState,
    AuditAction,
    Gold,
    GoldUse,
    GuidelineReading,
    GuidelineVersion,
    Membership,
    Project,
    Purpose,
    QualificationAttempt,
    Vote,
)
from annotation.people import audit

THROUGH = (AssignmentState.VOTED, AssignmentState.SKIPPED, AssignmentState.FLAGGED)


class Step(StrEnum):
    """What a person has to do next in a project."""

    CONFIRM_GUIDELINE = "confirm_guideline"
    PRACTISE = "practise"
    QUALIFY = "qualify"
    READY = "ready"
    FAILED = "failed"
    PAUSED = "paused"


class NotNow(DomainError):
    """Something else comes first; `details` says what, and when a failed qualification may be tried again."""

    code = "not_now"
    kind = Kind.CONFLICT


class NotEnoughGold(DomainError):
    """The project has less qualification gold than an attempt needs."""

    code = "not_enough_gold"
    kind = Kind.CONFLICT


class NotAnswered(DomainError):
    """An explanation comes after the answer."""

    code = "not_answered"
    kind = Kind.CONFLICT


# --- where a person stands --------------------------------------------------------------------------------------------


def why_not(project: Project, membership: Membership) -> str:
    """Why this person may not work yet: `person_paused`, `confirm_guideline`, `practise`, `qualify`, or nothing ("").

    For somebody who is ready at most two queries, and none where the project asks for nothing.
    """
    if membership.paused_at is not None:
        return "person_paused"
    if project.confirm_guideline and not has_confirmed(project, membership.user_id):
        return Step.CONFIRM_GUIDELINE.value
    step = _training_step(project, membership)
    return "" if step is Step.READY else step.value


def _training_step(project: Project, membership: Membership) -> Step:
    """Practise, qualify or ready; one query for whoever is ready. Who has begun to qualify needs no more practice."""
    if project.qualification_items:
        attempts = _attempts(project, membership.user_id)
        if any(item.passed for item in _counting(attempts, membership)):
            return Step.READY
        return Step.QUALIFY if attempts or _practice_left(project, membership) == 0 else Step.PRACTISE
    return Step.PRACTISE if _practice_left(project, membership) else Step.READY


def _attempts(project: Project, user_id: int) -> list[QualificationAttempt]:
    return list(QualificationAttempt.objects.filter(project=project, annotator_id=user_id).order_by("number"))


def _counting(attempts: Sequence[QualificationAttempt], membership: Membership) -> list[QualificationAttempt]:
    """Those since the person was last asked to qualify anew."""
    since = membership.requalify_at
    return [item for item in attempts if since is None or item.started_at >= since]


def _practice_left(project: Project, membership: Membership) -> int:
    """How many practice tasks are still to do; fewer than the project asks for where it has too little gold."""
    if not project.practice_items:
        return 0
    left = project.practice_items - _turns(project, membership.user_id).filter(purpose=Purpose.PRACTICE).count()
    return min(left, len(_fresh(project, membership, GoldUse.PRACTICE))) if left > 0 else 0


def _turns(project: Project, user_id: int) -> QuerySet[Assignment]:
    """What a person is through with."""
    return Assignment.objects.filter(project=project, annotator_id=user_id, state__in=THROUGH)


def _live(project: Project, membership: Membership, use: GoldUse) -> list[Gold]:
    """Gold of this use that the person may judge, the oldest first."""
    rows = Gold.objects.filter(project=project, use=use, retired_at=None).select_related("comparison").order_by("pk")
    serves = may_serve(membership)
    return [gold for gold in rows if serves(gold.comparison.audience)]


def _fresh(project: Project, membership: Membership, use: GoldUse) -> list[Gold]:
    """Live gold of this use that the person is not through with."""
    through = set(_turns(project, membership.user_id).values_list("comparison_id", flat=True))
    return [gold for gold in _live(project, membership, use) if gold.comparison_id not in through]


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """Where a person stands in a project's onboarding.

    Attributes:
        attempt: the newest that counts; `answered` tasks of it are done while it is open.
        attempts_left: how many may still be begun without a researcher; None where there is no qualification.
        retry_at: when the next one may be begun, after a failed one; None: at once, or never again.
    """

    step: Step
    guideline_number: int | None
    confirmed_number: int | None
    practice_items: int
    practice_done: int
    qualification_items: int
    pass_mark: float
    attempt: QualificationAttempt | None
    answered: int
    attempts_left: int | None
    retry_at: datetime | None
    pause_reason: str


def standing(*, project: Project, membership: Membership, now: datetime) -> Standing:
    """Where a person stands, for their own screen."""
    newest = GuidelineVersion.objects.filter(project=project).aggregate(number=Max("number"))["number"]
    confirmed = GuidelineReading.objects.filter(guideline__project=project, user_id=membership.user_id)
    attempts = _attempts(project, membership.user_id)
    counting = _counting(attempts, membership)
    left, retry_at = _tries_left(project, counting)
    attempt = counting[-1] if counting else None
    return Standing(
        step=_step(project, membership, attempt, left, retry_at, now),
        guideline_number=newest,
        confirmed_number=confirmed.aggregate(number=Max("guideline__number"))["number"],
        practice_items=project.practice_items,
        practice_done=_turns(project, membership.user_id).filter(purpose=Purpose.PRACTICE).count(),
        qualification_items=project.qualification_items,
        pass_mark=project.pass_mark,
        attempt=attempt,
        answered=_answered(attempt).count() if attempt is not None and attempt.ended_at is None else 0,
        attempts_left=left if project.qualification_items else None,
        retry_at=retry_at if retry_at is not None and retry_at > now else None,
        pause_reason=membership.pause_reason if membership.paused_at is not None else "",
    )


def _step(
    project: Project,
    membership: Membership,
    attempt: QualificationAttempt | None,
    left: int,
    retry_at: datetime | None,
    now: datetime,
) -> Step:
    if membership.paused_at is not None and not may_come_back(project, membership):
        return Step.PAUSED
    if project.confirm_guideline and not has_confirmed(project, membership.user_id):
        return Step.CONFIRM_GUIDELINE
    step = _training_step(project, membership)
    if step is not Step.QUALIFY or (attempt is not None and attempt.ended_at is None):
        return step
    return Step.QUALIFY if left and (retry_at is None or retry_at <= now) else Step.FAILED


def may_come_back(project: Project, membership: Membership) -> bool:
    """Whether passing the qualification would lift this person's pause: it was asked for with the pause, or since."""
    asked = membership.requalify_at
    paused = membership.paused_at
    return bool(project.qualification_items and paused is not None and asked is not None and asked >= paused)


def _tries_left(project: Project, counting: Sequence[QualificationAttempt]) -> tuple[int, datetime | None]:
    """Attempts that may still be begun, and from when on after a failed one."""
    left = max(0, project.attempts_allowed - len(counting))
    ended = [item.ended_at for item in counting if item.ended_at is not None and not item.passed]
    retry_at = max(ended) + timedelta(hours=project.retry_hours) if ended and left else None
    return left, retry_at


# --- practice ---------------------------------------------------------------------------------------------------------


def next_practice(
    *, project: Project, membership: Membership, tab: str, now: datetime, rng: random.Random
) -> Assignment | None:
    """The practice task that this person holds, or the next one; None when there are no more.

    Raises:
        NotNow: the guideline comes first, or the person is paused.
    """
    with write(), transaction.atomic():
        locked = _lock(membership)
        paused = locked.paused_at is not None
        if paused or (project.confirm_guideline and not has_confirmed(project, locked.user_id)):
            raise _not_now(standing(project=project, membership=locked, now=now))
        held = _held(project, locked.user_id, Purpose.PRACTICE, tab, now)
        if held is not None:
            return held
        fresh = _fresh(project, locked, GoldUse.PRACTICE) if _practice_left(project, locked) else []
        return _give(project, locked, fresh[0], tab, Purpose.PRACTICE, now, rng) if fresh else None


def _lock(membership: Membership) -> Membership:
    """The membership as it is now, for one tab of the person at a time."""
    rows = Membership.objects.select_for_update(no_key=True, of=("self",)).select_related("user")
    return rows.get(pk=membership.pk)


def _not_now(found: Standing) -> NotNow:
    words = {
        Step.CONFIRM_GUIDELINE: "Read and confirm the guideline first.",
        Step.PRACTISE: "Do the practice first.",
        Step.QUALIFY: "Qualify first.",
        Step.READY: "You are qualified: there is nothing to do here.",
        Step.PAUSED: f"You are paused. {found.pause_reason}".strip(),
        Step.FAILED: "You can try again later."
        if found.retry_at
        else "You have used all attempts. Ask a researcher of this project for another.",
    }
    retry_at = found.retry_at.isoformat() if found.retry_at else None
    return NotNow(words[found.step], details={"next": found.step.value, "retry_at": retry_at})


def _held(
    project: Project, user_id: int, purpose: Purpose, tab: str, now: datetime, *, since: datetime | None = None
) -> Assignment | None:
    """The task of this purpose that the person has begun, taken over by this tab with a new lease."""
    mine = Assignment.objects.filter(
        project=project, annotator_id=user_id, purpose=purpose, state=AssignmentState.LEASED
    ).order_by("id")
    if since is not None:
        mine = mine.filter(created_at__gte=since)
    held = mine.first()
    if held is None:
        return None
    held.tab, held.lease_expires_at = tab, lease_end(now, project.lease_minutes)
    Assignment.objects.filter(pk=held.pk).update(tab=held.tab, lease_expires_at=held.lease_expires_at)
    return held


def _give(
    project: Project,
    membership: Membership,
    gold: Gold,
    tab: str,
    purpose: Purpose,
    now: datetime,
    rng: random.Random,
) -> Assignment:
    turns = Assignment.objects.filter(
        project=project, comparison_id=gold.comparison_id, annotator_id=membership.user_id
    ).exclude(state__in=GIVEN_BACK)
    last = turns.aggregate(last=Max("repetition"))["last"]
    return assignments.give(
        project=project,
        annotator=membership.user,
        comparison=gold.comparison,
        tab=tab,
        purpose=purpose,
        repetition=0 if last is None else last + 1,
        now=now,
        rng=rng,
    )


def explanation_of(assignment: Assignment) -> Explanation:
    """The right answer to a practice task, after this person's own.

    Raises:
        NotAnswered: there is no live vote yet.
    """
    assert assignment.purpose == Purpose.PRACTICE
    vote = Vote.objects.filter(assignment=assignment, retractions__isnull=True).first()
    if vote is None:
        raise NotAnswered("The explanation comes after your answer.")
    return explain_vote(vote, Gold.objects.get(comparison_id=assignment.comparison_id), sides=assignment.sides)


# --- attempts ---------------------------------------------------------------------------------------------------------


def start_attempt(*, project: Project, membership: Membership, now: datetime) -> QualificationAttempt:
    """A new attempt; while one is open, that one.

    Raises:
        NotNow: something else comes first, or a failed attempt must be slept over. NotEnoughGold: ask a researcher.
    """
    with write(), transaction.atomic():
        locked = _lock(membership)
        attempts = _attempts(project, locked.user_id)
        counting = _counting(attempts, locked)
        if counting and counting[-1].ended_at is None:
            return counting[-1]
        found = standing(project=project, membership=locked, now=now)
        if found.step is not Step.QUALIFY:
            raise _not_now(found)
        there = len(_live(project, locked, GoldUse.QUALIFICATION))
        if there < project.qualification_items:
            raise NotEnoughGold(
                f"An attempt needs {project.qualification_items} examples and this project has {there} for you. "
                "Tell a researcher of this project."
            )
        return QualificationAttempt.objects.create(
            project=project,
            annotator_id=locked.user_id,
            number=attempts[-1].number + 1 if attempts else 1,
            guideline=GuidelineVersion.objects.filter(project=project).order_by("-number").first(),
            items=project.qualification_items,
            started_at=now,
        )


def next_item(
    *, project: Project, membership: Membership, tab: str, now: datetime, rng: random.Random
) -> tuple[QualificationAttempt, Assignment | None]:
    """The open attempt and its next task; None when all are answered, which closes it.

    The gold of an attempt is drawn from what the person has met least, in an order of its own.

    Raises:
        NotNow: no attempt is open.
    """
    with write(), transaction.atomic():
        locked = _lock(membership)
        if locked.paused_at is not None and not may_come_back(project, locked):
            raise _not_now(standing(project=project, membership=locked, now=now))
        attempt = _open_attempt(project, locked.user_id)
        if attempt is None:
            raise NotNow("Begin the qualification first.", details={"next": Step.QUALIFY.value, "retry_at": None})
        held = _held(project, locked.user_id, Purpose.QUALIFICATION, tab, now, since=attempt.started_at)
        if held is not None:
            return attempt, held
        done = set(_answered(attempt).values_list("comparison_id", flat=True))
        left = [gold for gold in _live(project, locked, GoldUse.QUALIFICATION) if gold.comparison_id not in done]
        if len(done) < attempt.items and left:
            met = dict(_turns(project, locked.user_id).values_list("comparison_id").annotate(times=Count("pk")))
            gold = min(left, key=lambda item: (met.get(item.comparison_id, 0), _draw(attempt, item)))
            return attempt, _give(project, locked, gold, tab, Purpose.QUALIFICATION, now, rng)
    close_attempt(project=project, user_id=locked.user_id, now=now, is_out_of_gold=True)
    attempt.refresh_from_db()
    return attempt, None


def _open_attempt(project: Project, user_id: int) -> QualificationAttempt | None:
    return (
        QualificationAttempt.objects.filter(project=project, annotator_id=user_id, ended_at=None)
        .order_by("-number")
        .first()
    )


def _draw(attempt: QualificationAttempt, gold: Gold) -> bytes:
    return hashlib.sha256(f"{attempt.public_id}/{gold.public_id}".encode()).digest()


def _answered(attempt: QualificationAttempt) -> QuerySet[Assignment]:
    """Tasks of an attempt that are behind the person; one that was skipped is one that was not right."""
    return Assignment.objects.filter(
        project_id=attempt.project_id,
        annotator_id=attempt.annotator_id,
        purpose=Purpose.QUALIFICATION,
        state__in=THROUGH,
        created_at__gte=attempt.started_at,
    )


def close_attempt(*, project: Project, user_id: int, now: datetime, is_out_of_gold: bool = False) -> None:
    """Score the person's open attempt once all its tasks are answered. A second call changes nothing.

    A pass lifts a pause that it was asked for, and the gold rule judges from now on only.
    """
    attempt = _open_attempt(project, user_id)
    if attempt is None:
        return
    with write(), transaction.atomic():
        answered = list(_answered(attempt).values_list("pk", "comparison_id"))
        if len(answered) < attempt.items and not is_out_of_gold:
            return
        answers = dict(Gold.objects.filter(project=project).filter(
            comparison_id__in=[comparison_id for _, comparison_id in answered]
        ).values_list("comparison_id", "answer"))  # fmt: skip
        votes = Vote.objects.filter(
            assignment_id__in=[pk for pk, _ in answered], retractions__isnull=True
        ).values_list("comparison_id", "choice", "body", "assignment__sides")  # fmt: skip
        right = sum(
            is_right(answers[comparison_id], choice, body, size=len(sides))
            for comparison_id, choice, body, sides in votes
        )
        # Gold may have been retired since the attempt began: then it is as long as it could be.
        items = min(attempt.items, len(answered))
        passed = items > 0 and right >= project.pass_mark * items - 1e-9
        closed = QualificationAttempt.objects.filter(pk=attempt.pk, ended_at=None).update(
            items=items, right=right, passed=passed, ended_at=now
        )
        if closed and passed:
            _let_back(project, user_id, now)


def _let_back(project: Project, user_id: int, now: datetime) -> None:
    members = Membership.objects.filter(project=project, user_id=user_id)
    members.update(judged_from=now)
    lifted = members.filter(paused_at__isnull=False, requalify_at__gte=F("paused_at"))
    pseudonym = lifted.values_list("pseudonym", flat=True).first()
    if lifted.update(paused_at=None, pause_reason=""):
        audit(
            project=project, by=None, action=AuditAction.MEMBER_RESUMED, target=pseudonym or "", now=now,
            reason="passed the qualification",
        )  # fmt: skip
