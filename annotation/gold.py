"""Gold: comparisons whose answer is known. Given by a researcher, built from spoilt completions, or promoted.

Gold has no slots: everybody may get it, and its votes count for quality only. One row a comparison: the answer is a
fact and never changes; another answer is another comparison. Retired gold is given to nobody any more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import F, Q

from annotation import assignment as assignments
from annotation.errors import DomainError, Invalid, Kind
from annotation.feedback import LETTERS, Form, pair_classes, ranks, shown
from annotation.gate import write
from annotation.models import (
    Assignment,
    AssignmentState,
    AuditAction,
    Choice,
    Comparison,
    ConsensusState,
    Gold,
    GoldOrigin,
    GoldUse,
    Project,
    Purpose,
    Slot,
    SlotState,
    User,
    Vote,
)
from annotation.people import audit

JUDGED = (Purpose.GOLD, Purpose.PRACTICE, Purpose.QUALIFICATION)


class AlreadyGold(DomainError):
    """The comparison is gold, or was: its answer cannot change."""

    code = "already_gold"
    kind = Kind.CONFLICT


class HasCountedVotes(DomainError):
    """Votes on the comparison count, so it cannot become gold for quality only."""

    code = "has_votes"
    kind = Kind.CONFLICT


# --- answers ----------------------------------------------------------------------------------------------------------


def read_answer(data: Mapping[str, Any], form: Form) -> dict[str, Any]:
    """A gold answer in stored order, checked against the form.

    Raises:
        Invalid: naming the field and what it may be.
    """
    letters = list(LETTERS[: form.size])
    if form.size < 2:
        raise Invalid("answer: a form with one completion has no gold: there is nothing it could be better than")
    if set(data) == {"choice"} and form.size == 2:
        allowed = ["a", "b", *(["tie"] if form.has_tie else [])]
        _check("choice", data["choice"] in allowed, data["choice"], f"must be one of {', '.join(allowed)}")
        return {"choice": data["choice"]}
    if set(data) == {"worst"}:
        _check("worst", data["worst"] in letters, data["worst"], f"must be one of {', '.join(letters)}")
        return {"worst": data["worst"]}
    if set(data) == {"ranking"}:
        groups = data["ranking"]
        fits = isinstance(groups, list) and all(isinstance(group, list) and group for group in groups)
        flat = [letter for group in groups for letter in group] if fits else []
        fits = all(isinstance(letter, str) for letter in flat) and sorted(flat) == letters and len(groups) > 1
        _check("ranking", fits, groups, f"must place each of {', '.join(letters)} once, in two places or more")
        return {"ranking": [sorted(group) for group in groups]}
    main = "choice" if form.size == 2 else "ranking"
    raise Invalid(
        f"answer must have one of {main}, worst; got {', '.join(sorted(data)) or 'nothing'}",
        details={"answer": [f"must have one of {main}, worst"]},
    )


def _check(name: str, holds: bool, value: object, rule: str) -> None:
    if not holds:
        raise Invalid(f"answer.{name} {rule}, got {value!r}", details={f"answer.{name}": [rule]})


def is_right(answer: Mapping[str, Any], choice: str, body: Mapping[str, Any], *, size: int) -> bool:
    """Whether a vote agrees with a gold answer, whatever the kind of form.

    `{"choice": "tie"}` wants a tie. `{"worst": "c"}` wants c below every other one. A ranking wants what it puts apart
    in the same order; the order of what it ties does not matter.
    """
    places = ranks(choice, body, size=size)
    if "worst" in answer:
        worst = LETTERS.index(answer["worst"])
        return all(places[worst] > place for i, place in enumerate(places) if i != worst)
    if answer.get("choice") == "tie":
        return places[0] == places[1]
    wanted = ranks(answer.get("choice", ""), answer, size=size)
    pairs = zip(pair_classes(places), pair_classes(wanted), strict=True)
    return all(given == want for given, want in pairs if want[2] != 1)


def shown_answer(answer: Mapping[str, Any], *, sides: str) -> dict[str, Any]:
    """A gold answer as the screen with these sides shows it: left, right, or letters from left to right."""
    if "worst" in answer:
        return {"worst": LETTERS[sides.index(answer["worst"])].upper()}
    return shown(answer.get("choice", ""), answer, sides=sides)


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """What a person is told of a gold task that is behind them; answers as their screen had them."""

    is_right: bool
    yours: dict[str, Any]
    right: dict[str, Any]
    text: str


def explain_vote(vote: Vote, gold: Gold, *, sides: str) -> Explanation:
    """A vote on gold beside the right answer, both turned to the sides that the person saw."""
    return Explanation(
        is_right=is_right(gold.answer, vote.choice, vote.body, size=len(sides)),
        yours=shown(vote.choice, vote.body, sides=sides),
        right=shown_answer(gold.answer, sides=sides),
        text=gold.explanation,
    )


def lock(project: Project) -> None:
    """Let one transaction at a time make gold in a project, inside which this must be called."""
    Project.objects.select_for_update(no_key=True).get(pk=project.pk)


# --- given ------------------------------------------------------------------------------------------------------------


def give(
    *,
    comparison: Comparison,
    answer: Mapping[str, Any],
    use: GoldUse,
    explanation: str,
    by: User,
    now: datetime,
) -> Gold:
    """Make a comparison gold: its open slots go, so that it is judged for quality only. The same again changes nothing.

    Who holds it just now may still vote: that vote is surplus.

    Raises:
        HasCountedVotes: promote it instead. AlreadyGold: with another answer or use. Invalid: the answer.
    """
    project = comparison.project
    read = read_answer(answer, project.feedback)
    with write(), transaction.atomic():
        lock(project)
        Comparison.objects.select_for_update(no_key=True).get(pk=comparison.pk)
        known = Gold.objects.filter(comparison=comparison).first()
        if known is not None:
            if (known.answer, known.use, known.retired_at) == (read, use, None):
                return known
            raise AlreadyGold("This comparison is gold already, or was; its answer and use cannot change.")
        slots = Slot.objects.filter(comparison=comparison)
        if slots.filter(state=SlotState.DONE).exists():
            raise HasCountedVotes("This comparison has votes that count. Promote it once they agree, or take another.")
        slots.filter(state=SlotState.OPEN).delete()
        Comparison.objects.filter(pk=comparison.pk).update(overlap=0)
        gold = Gold.objects.create(
            project=project,
            comparison=comparison,
            use=use,
            origin=GoldOrigin.GIVEN,
            answer=read,
            explanation=explanation,
            created_at=now,
            created_by=by,
        )
        audit(
            project=project, by=by, action=AuditAction.GOLD_GIVEN, target=str(gold.public_id), now=now,
            comparison=str(comparison.public_id), use=use, answer=read,
        )  # fmt: skip
    # A transaction of its own: ending a lease takes the slot before the comparison, here it was the other way round.
    with write(), transaction.atomic():
        held = Assignment.objects.filter(comparison=comparison, slots__state=SlotState.LEASED)
        assignments.end(
            assignments=list(held), state=AssignmentState.RELEASED, now=now, reason="no vote wanted any more"
        )
    return gold


# --- promoted ---------------------------------------------------------------------------------------------------------


def promote(
    *, project: Project, votes: int, top_share: float, most: int, use: GoldUse, by: User, now: datetime
) -> list[Gold]:
    """Make gold of up to `most` settled comparisons whose counted votes, at least `votes`, all say the same.

    The votes stay. Of several completions, the mean share of the leading class over the pairs is at least `top_share`
    and the order has two places. Ties are not promoted: they are no test. A second call goes on with others.
    """
    rows = Comparison.objects.filter(
        project=project,
        gold__isnull=True,
        consensus__state=ConsensusState.SETTLED,
        consensus__votes__gte=votes,
        consensus__top_share__gte=top_share,
    ).select_related("consensus")
    pairs = project.feedback.size == 2
    if pairs:
        for_a = Q(consensus__label=Choice.A, consensus__votes_a=F("consensus__votes"))
        rows = rows.filter(for_a | Q(consensus__label=Choice.B, consensus__votes_b=F("consensus__votes")))
    found: list[Gold] = []
    with write(), transaction.atomic():
        lock(project)
        for row in rows.order_by("-consensus__votes", "rank")[: most if pairs else 4 * most]:
            answer = {"choice": row.consensus.label} if pairs else {"ranking": row.consensus.details.get("ranking", [])}
            if not pairs and len(answer["ranking"]) < 2:
                continue
            found.append(
                Gold(
                    project=project,
                    comparison=row,
                    use=use,
                    origin=GoldOrigin.PROMOTED,
                    answer=answer,
                    explanation=f"All {row.consensus.votes} reviewers agreed on this one.",
                    created_at=now,
                    created_by=by,
                )
            )
        made = Gold.objects.bulk_create(found[:most])
        audit(
            project=project, by=by, action=AuditAction.GOLD_PROMOTED, now=now,
            votes=votes, top_share=top_share, use=use, made=len(made),
        )  # fmt: skip
    return made


# --- afterwards -------------------------------------------------------------------------------------------------------


def explain(*, gold: Gold, explanation: str, by: User, now: datetime) -> None:
    """Change what people are told about a gold answer; what they were told before stays in their feedback."""
    with write(), transaction.atomic():
        Gold.objects.filter(pk=gold.pk).update(explanation=explanation)
        audit(
            project=gold.project, by=by, action=AuditAction.GOLD_EXPLAINED, target=str(gold.public_id), now=now,
            before=gold.explanation, after=explanation,
        )  # fmt: skip
    gold.explanation = explanation


def retire(*, gold: Gold, by: User, now: datetime) -> None:
    """Give it to nobody any more; answers to it stay. A second call changes nothing."""
    with write(), transaction.atomic():
        if Gold.objects.filter(pk=gold.pk, retired_at=None).update(retired_at=now):
            audit(project=gold.project, by=by, action=AuditAction.GOLD_RETIRED, target=str(gold.public_id), now=now)
    gold.refresh_from_db()


def tallies(rows: Sequence[Gold], *, size: int) -> dict[int, tuple[int, int]]:
    """For each gold (by key) how many live answers are right, and how many there are; one query."""
    by_comparison = {row.comparison_id: row for row in rows}
    found = {row.pk: (0, 0) for row in rows}
    votes = Vote.objects.filter(comparison_id__in=by_comparison, purpose__in=JUDGED, retractions__isnull=True)
    for comparison_id, choice, body in votes.values_list("comparison_id", "choice", "body"):
        gold = by_comparison[comparison_id]
        right, n = found[gold.pk]
        found[gold.pk] = (right + is_right(gold.answer, choice, body, size=size), n + 1)
    return found
