"""Disputes: which comparisons wait for a ruling, and what adjudicators decide. Facts, never edited; the newest counts.

An adjudicator answers blind first, as an annotator would, and only then sees the votes; the answer is a vote for
reference, which has no slot and never counts. Nobody has a name here but the ruling itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid5

from django.db import IntegrityError, transaction
from django.db.models import Case, Max, OuterRef, Q, QuerySet, Subquery, Value, When
from django.db.models.functions import Coalesce

from annotation.consensus import mark_due, settle
from annotation.errors import DomainError, Invalid, Kind
from annotation.feedback import LETTERS
from annotation.gate import write
from annotation.gold import AlreadyGold
from annotation.models import (
    Adjudication,
    AdjudicationKind,
    Assignment,
    AssignmentState,
    AuditAction,
    Comparison,
    Consensus,
    ConsensusState,
    Gold,
    GoldOrigin,
    GoldUse,
    GuidelineVersion,
    Membership,
    Project,
    Purpose,
    Role,
    User,
    Vote,
)
from annotation.people import audit

BATCH = 500
WAITING = (AdjudicationKind.REQUEST, AdjudicationKind.ESCALATION)


class NotDisputed(DomainError):
    """The comparison waits for no ruling."""

    code = "not_disputed"
    kind = Kind.CONFLICT


class AlreadyRuled(DomainError):
    """A ruling stands, and the request does not name it as the one that it supersedes."""

    code = "already_ruled"
    kind = Kind.CONFLICT


class Escalated(DomainError):
    """Managers and owners decide what was escalated."""

    code = "escalated"
    kind = Kind.NOT_ALLOWED


class NothingToReopen(DomainError):
    """No ruling and no request stands."""

    code = "nothing_to_reopen"
    kind = Kind.CONFLICT


class AnswerFirst(DomainError):
    """The votes are shown to who has answered."""

    code = "answer_first"
    kind = Kind.CONFLICT


class AlreadyAnswered(DomainError):
    """The adjudicator has given another first answer; it stays."""

    code = "already_answered"
    kind = Kind.CONFLICT


# --- the queue --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a page of the queue ended: escalated ones first for managers, then the lowest top share, then age."""

    order: int
    top_share: float
    pk: int


def queue(project: Project, *, role: Role, after: Place | None = None) -> QuerySet[Consensus]:
    """Disputed comparisons, in the order in which they are to be decided, each with its `Place` and newest fact.

    Managers and owners have escalated ones first, adjudicators have them last: they cannot rule on them. What nobody
    has voted on has no top share and comes after the others.
    """
    newest = Adjudication.objects.filter(comparison=OuterRef("comparison")).order_by("-id").values("kind")[:1]
    escalated = Q(newest=AdjudicationKind.ESCALATION)
    rows = (
        Consensus.objects.filter(project=project, state=ConsensusState.DISPUTED)
        .annotate(newest=Coalesce(Subquery(newest), Value("")))
        .annotate(order=_flag(escalated if role.can_manage else ~escalated), lead=Coalesce("top_share", Value(2.0)))
        .select_related("comparison__prompt")
    )
    if after is not None:
        same = Q(order=after.order)
        rows = rows.filter(
            Q(order__gt=after.order)
            | (same & Q(lead__gt=after.top_share))
            | (same & Q(lead=after.top_share, comparison_id__gt=after.pk))
        )
    return rows.order_by("order", "lead", "comparison_id")


def _flag(first: Q) -> Case:
    """0 for those that come first, else 1."""
    return Case(When(first, then=Value(0)), default=Value(1))


def newest(comparison: Comparison) -> Adjudication | None:
    """The fact that says where the comparison stands."""
    return Adjudication.objects.filter(comparison=comparison).order_by("-id").first()


def history(comparison: Comparison) -> list[Adjudication]:
    """Every fact of a comparison, in their order."""
    return list(Adjudication.objects.filter(comparison=comparison).select_related("by").order_by("id"))


# --- the first answer -------------------------------------------------------------------------------------------------


def read_answer(data: Mapping[str, Any], *, size: int, has_tie: bool = True) -> dict[str, Any]:
    """What an adjudicator answers, in stored order: a choice for two completions, a ranking for more.

    Raises:
        Invalid: naming the field and what it may be.
    """
    letters = LETTERS[:size]
    if size == 2 and set(data) == {"choice"}:
        allowed = ("a", "tie", "b") if has_tie else ("a", "b")
        if data["choice"] in allowed:
            return {"choice": data["choice"]}
        raise _bad("choice", f"must be one of {', '.join(allowed)}, got {data['choice']!r}")
    if size > 2 and set(data) == {"ranking"}:
        groups = data["ranking"]
        fits = isinstance(groups, list) and all(isinstance(group, list) and group for group in groups)
        flat = [letter for group in groups for letter in group] if fits else []
        if flat and all(isinstance(letter, str) for letter in flat) and sorted(flat) == list(letters):
            return {"ranking": [sorted(group) for group in groups]}
        raise _bad("ranking", f"must place each of {', '.join(letters)} once, got {groups!r}")
    if size == 1:
        raise _bad("answer", "of one completion alone can only be invalid")
    name = "choice" if size == 2 else "ranking"
    raise _bad("answer", f"must have {name}, got {', '.join(sorted(data)) or 'nothing'}")


def _bad(name: str, rule: str) -> Invalid:
    return Invalid(f"{name} {rule}", details={name: [rule]})


def size_of(comparison: Comparison) -> int:
    """How many completions it has."""
    return comparison.places.count()


def first_answer(comparison: Comparison, user: User) -> dict[str, Any] | None:
    """What this person said of the comparison before seeing the votes: for reference, or as one of the annotators."""
    mine = Vote.objects.filter(comparison=comparison, annotator=user, retractions__isnull=True)
    vote = mine.filter(purpose__in=(Purpose.REFERENCE, Purpose.WANTED)).order_by("id").first()
    return None if vote is None else _spoken(vote)


def _spoken(vote: Vote) -> dict[str, Any]:
    if vote.choice:
        return {"choice": vote.choice}
    if "ranking" in vote.body:
        return {"ranking": vote.body["ranking"]}
    return {"ratings": vote.body["ratings"]}


def answer_first(*, comparison: Comparison, user: User, data: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """Keep what an adjudicator says of a comparison before seeing the votes. The same answer again changes nothing.

    Raises:
        AlreadyAnswered: with another answer, or as an annotator. Invalid: the answer.
    """
    size = size_of(comparison)
    answer = read_answer(data, size=size)
    key = uuid5(comparison.public_id, f"first answer of {user.public_id}")
    try:
        with write(), transaction.atomic():
            known = first_answer(comparison, user)
            if known is None:
                _keep_answer(comparison, user, key, answer, size, now)
    except IntegrityError:  # the same person in two tabs: the key lets one win
        known = first_answer(comparison, user)
    if known is not None and known != answer:
        raise AlreadyAnswered("You have answered this one already; see the votes, or rule.")
    return answer


def _keep_answer(
    comparison: Comparison, user: User, key: UUID, answer: Mapping[str, Any], size: int, now: datetime
) -> None:
    turns = Assignment.objects.filter(project_id=comparison.project_id, comparison=comparison, annotator=user)
    last = turns.aggregate(last=Max("repetition"))["last"]
    turn = Assignment.objects.create(
        project_id=comparison.project_id,
        comparison=comparison,
        annotator=user,
        tab="adjudication",
        sides=LETTERS[:size],
        repetition=0 if last is None else last + 1,
        purpose=Purpose.REFERENCE,
        form_number=comparison.project.form_number,
        state=AssignmentState.VOTED,
        lease_expires_at=now,
        created_at=now,
        ended_at=now,
    )
    Vote.objects.create(
        project_id=comparison.project_id,
        comparison=comparison,
        assignment=turn,
        annotator=user,
        repetition=turn.repetition,
        purpose=Purpose.REFERENCE,
        key=key,
        choice=answer.get("choice", ""),
        body={} if "choice" in answer else dict(answer),
        body_hash="",
        guideline=GuidelineVersion.objects.filter(project_id=comparison.project_id).order_by("-number").first(),
        created_at=now,
    )


def votes_for(*, comparison: Comparison, user: User) -> list[Vote]:
    """The live votes on a comparison, in an order that tells nothing of who gave them, for who has answered first.

    Raises:
        AnswerFirst: this person has not.
    """
    if first_answer(comparison, user) is None:
        raise AnswerFirst("Give your own answer first; then the votes are shown.")
    excluded = Membership.objects.filter(project_id=comparison.project_id, excluded_at__isnull=False)
    live = Vote.objects.filter(comparison=comparison, purpose=Purpose.WANTED, retractions__isnull=True)
    others = live.exclude(annotator=user).exclude(annotator_id__in=excluded.values("user_id"))
    return list(others.order_by("choice", "public_id"))


# --- decisions --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class MakeGold:
    """That a ruling is to become hidden gold, and what people are told about it."""

    explanation: str = ""


def rule(
    *,
    comparison: Comparison,
    by: User,
    role: Role,
    answer: Mapping[str, Any],
    reason: str,
    supersedes: UUID | None = None,
    make_gold: MakeGold | None = None,
    now: datetime,
) -> Adjudication:
    """Decide a disputed comparison: a choice, a ranking, or {"invalid": true}, which withdraws it.

    The comparison may be frozen: a ruling is a fact of today, and the snapshot keeps the older label.

    Args:
        supersedes: the ruling that stands, to replace it.

    Raises:
        AlreadyRuled: a ruling stands, and it is not the named one. NotDisputed: nobody asked for a ruling.
        Escalated: an adjudicator on what was escalated. AlreadyGold: `make_gold`, and it is. Invalid: answer or reason.
    """
    _require_reason(reason)
    size = size_of(comparison)
    invalid = dict(answer) == {"invalid": True}
    said = {"invalid": True} if invalid else read_answer(answer, size=size)
    if make_gold is not None and invalid:
        raise _bad("make_gold", "needs an answer: what is invalid is no test")
    with write(), transaction.atomic():
        _lock(comparison)
        _may_rule(comparison, role, supersedes)
        made = _add(comparison, AdjudicationKind.RULING, by, reason, now, answer=said)
        if make_gold is not None:
            _make_gold(made, make_gold, now)
    settle([comparison.pk], now=now)
    return made


def _may_rule(comparison: Comparison, role: Role, supersedes: UUID | None) -> None:
    last = newest(comparison)
    if last is not None and last.kind == AdjudicationKind.RULING:
        if supersedes != last.public_id:
            raise AlreadyRuled(
                "Somebody has ruled on this one. Look at the ruling; to replace it, name it.",
                details={"ruling": str(last.public_id)},
            )
        return
    if supersedes is not None:
        raise _bad("supersedes", f"is {supersedes}, but no ruling stands")
    if last is not None and last.kind == AdjudicationKind.ESCALATION and not role.can_manage:
        raise Escalated("This one was escalated: a manager or an owner decides it.")
    disputed = Consensus.objects.filter(comparison=comparison, state=ConsensusState.DISPUTED).exists()
    if not disputed and (last is None or last.kind not in WAITING):
        raise NotDisputed("This comparison is not disputed. Send it to adjudication first.")


def _make_gold(ruling: Adjudication, wish: MakeGold, now: datetime) -> None:
    """Gold without a loss: the votes stay, as they do when gold is promoted."""
    if Gold.objects.filter(comparison_id=ruling.comparison_id).exists():
        raise AlreadyGold("This comparison is gold already, or was; its answer and use cannot change.")
    gold = Gold.objects.create(
        project_id=ruling.project_id,
        comparison_id=ruling.comparison_id,
        use=GoldUse.HIDDEN,
        origin=GoldOrigin.GIVEN,
        answer=ruling.answer,
        explanation=wish.explanation,
        created_at=now,
        created_by=ruling.by,
    )
    audit(
        project=ruling.project, by=ruling.by, action=AuditAction.GOLD_GIVEN, target=str(gold.public_id), now=now,
        comparison=str(ruling.comparison.public_id), use=gold.use, answer=gold.answer,
    )  # fmt: skip


def reopen(*, comparison: Comparison, by: User, reason: str, now: datetime) -> Adjudication:
    """Let the votes speak again: what was ruled, asked for or escalated stands no more.

    Raises:
        NothingToReopen: nothing stands. Invalid: no reason.
    """
    _require_reason(reason)
    with write(), transaction.atomic():
        _lock(comparison)
        last = newest(comparison)
        if last is None or last.kind == AdjudicationKind.REOPENING:
            raise NothingToReopen("No ruling and no request stands on this comparison.")
        made = _add(comparison, AdjudicationKind.REOPENING, by, reason, now)
    settle([comparison.pk], now=now)
    return made


def escalate(*, comparison: Comparison, by: User, reason: str, now: datetime) -> Adjudication:
    """Leave a dispute to managers and owners. Escalating again adds nothing and returns the first.

    Raises:
        AlreadyRuled: a ruling stands. NotDisputed: it is no dispute. Invalid: no reason.
    """
    _require_reason(reason)
    with write(), transaction.atomic():
        _lock(comparison)
        last = newest(comparison)
        if last is not None and last.kind == AdjudicationKind.ESCALATION:
            return last
        _may_rule(comparison, Role.OWNER, None)
        made = _add(comparison, AdjudicationKind.ESCALATION, by, reason, now)
    settle([comparison.pk], now=now)
    return made


def send(comparisons: Sequence[Comparison], *, by: User, reason: str, now: datetime) -> int:
    """Ask for rulings; how many were asked for anew. What waits for a ruling already is left alone: repeatable.

    Comparisons of one project. What is ruled is disputed again until a new ruling.

    Raises:
        Invalid: no reason.
    """
    _require_reason(reason)
    asked = 0
    for start in range(0, len(comparisons), BATCH):
        batch = sorted(comparisons[start : start + BATCH], key=lambda item: item.pk)
        ids = [item.pk for item in batch]
        with write(), transaction.atomic():
            list(Comparison.objects.select_for_update(no_key=True).filter(pk__in=ids).order_by("pk").values_list("pk"))
            facts = Adjudication.objects.filter(comparison_id__in=ids).order_by("id")
            last = dict(facts.values_list("comparison_id", "kind"))
            fresh = [item for item in batch if last.get(item.pk) not in WAITING]
            Adjudication.objects.bulk_create(
                Adjudication(
                    project_id=item.project_id,
                    comparison=item,
                    kind=AdjudicationKind.REQUEST,
                    by=by,
                    reason=reason,
                    created_at=now,
                )
                for item in fresh
            )
            mark_due([item.pk for item in fresh], now=now)
            if fresh:
                audit(
                    project=fresh[0].project, by=by, action=AuditAction.ADJUDICATION_REQUESTED, now=now,
                    comparisons=len(fresh), reason=reason,
                )  # fmt: skip
        settle([item.pk for item in fresh], now=now)
        asked += len(fresh)
    return asked


def _require_reason(reason: str) -> None:
    if not reason.strip():
        raise _bad("reason", "is required: say why, in a few words")


def _lock(comparison: Comparison) -> None:
    """One decision at a time; who comes second sees what the first decided."""
    Comparison.objects.select_for_update(no_key=True).get(pk=comparison.pk)


def _add(
    comparison: Comparison,
    kind: AdjudicationKind,
    by: User,
    reason: str,
    now: datetime,
    *,
    answer: dict[str, Any] | None = None,
) -> Adjudication:
    made = Adjudication.objects.create(
        project_id=comparison.project_id,
        comparison=comparison,
        kind=kind,
        by=by,
        answer=answer,
        first_answer=first_answer(comparison, by) if kind == AdjudicationKind.RULING else None,
        reason=reason.strip(),
        created_at=now,
    )
    mark_due([comparison.pk], now=now)
    audit(
        project=comparison.project, by=by, action=AuditAction(f"adjudication.{kind.value}"),
        target=str(comparison.public_id), now=now, reason=made.reason, **({} if answer is None else {"answer": answer}),
    )  # fmt: skip
    return made
