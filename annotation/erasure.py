"""Erase the texts of a prompt for privacy: what it asked, what was written for it, and what people wrote about it.

The rows stay, with a tombstone that says who erased them and why: votes, and the lineage of what was trained on them.
Its comparisons are withdrawn by `consensus`, nobody gets them again, and no import brings the texts back. Files that
hold them are `training.erasure`'s to find.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import Count, Q

from annotation.assignment import end
from annotation.consensus import mark_due
from annotation.errors import DomainError, Invalid, Kind
from annotation.gate import write
from annotation.models import (
    Adjudication,
    Assignment,
    AssignmentState,
    AuditAction,
    AuditEvent,
    Comparison,
    Completion,
    Conversation,
    ConversationTurn,
    Erasure,
    FeedbackGiven,
    Flag,
    Gold,
    Objection,
    Prompt,
    User,
    Vote,
)
from annotation.overlap import lock
from annotation.people import audit

ERASED = "[erased]"
BATCH = 500
_FREE_TEXT = "rationale"  # of a vote's or a ruling's answer: all else in it is fixed by the form


class AlreadyErased(DomainError):
    """The texts of the prompt were erased before."""

    code = "already_erased"
    kind = Kind.CONFLICT


def erase(*, prompt: Prompt, reason: str, confirm: str, by: User, now: datetime) -> list[Erasure]:
    """Erase the texts of a prompt, and of the later prompts of a chat that repeat it. This cannot be undone.

    Args:
        confirm: the short name of the project, typed by a person who means it.

    Returns:
        The tombstones, the prompt's own first.

    Raises:
        Invalid: no reason, or another name. AlreadyErased: a second call changes nothing.
    """
    project = prompt.project
    if confirm != project.slug:
        message = f"type the project's short name {project.slug!r} to erase the prompt for good, got {confirm!r}"
        raise Invalid(f"confirm: {message}", details={"confirm": [message]})
    if not reason.strip():
        raise Invalid("reason: say why, for those who find the tombstone", details={"reason": ["may not be empty"]})
    with write(), transaction.atomic():
        prompts = repeating(prompt)
        Conversation.objects.filter(turns__prompt=prompt, ended_at=None).update(ended_at=now)
        comparisons = list(Comparison.objects.filter(prompt__in=prompts).values_list("pk", flat=True))
        lock(comparisons)
        made = [row for row in (_tombstone(item, reason.strip(), by, now) for item in prompts) if row is not None]
        if not made or made[0].prompt_id != prompt.pk:
            raise AlreadyErased("The texts of this prompt were erased already.")
        _erase_texts(prompts, comparisons)
        for start in range(0, len(comparisons), BATCH):
            mark_due(comparisons[start : start + BATCH], now=now)
        for row in made:
            audit(
                project=project, by=by, action=AuditAction.PROMPT_ERASED, target=str(row.prompt.public_id), now=now,
                reason=row.reason, completions=row.completions, comparisons=row.comparisons,
            )  # fmt: skip
    # A transaction of its own: ending a lease takes the slot before the comparison, here it was the other way round.
    with write(), transaction.atomic():
        held = Assignment.objects.filter(comparison__in=comparisons, state=AssignmentState.LEASED)
        end(assignments=list(held), state=AssignmentState.RELEASED, now=now, reason="erased")
    return made


def repeating(prompt: Prompt) -> list[Prompt]:
    """The prompt, and those of later turns of its chats, which hold the conversation up to them. Three queries."""
    turns = ConversationTurn.objects.filter(prompt=prompt).values_list("conversation_id", "number")
    later = Q(pk__in=())
    for conversation_id, number in turns:
        later |= Q(conversation_id=conversation_id, number__gt=number)
    found = ConversationTurn.objects.filter(later).values_list("prompt_id", flat=True)
    others = Prompt.objects.filter(pk__in=list(found)).exclude(pk=prompt.pk).select_related("project").order_by("pk")
    return [prompt, *others]


def _tombstone(prompt: Prompt, reason: str, by: User, now: datetime) -> Erasure | None:
    """None if it has one."""
    counted = Prompt.objects.filter(pk=prompt.pk).aggregate(
        completions=Count("completions", distinct=True), comparisons=Count("comparisons", distinct=True)
    )
    fields = {"project_id": prompt.project_id, "reason": reason, "by": by, "created_at": now, **counted}
    row, made = Erasure.objects.get_or_create(prompt=prompt, defaults=fields)
    return row if made else None


def _erase_texts(prompts: Sequence[Prompt], comparisons: Sequence[int]) -> None:
    """All of them in the database. Ids and hashes stay: by these files are searched, and imports recognised."""
    messages = [{"role": "user", "content": ERASED}]
    Prompt.objects.filter(pk__in=[prompt.pk for prompt in prompts]).update(messages=messages, meta={})
    Completion.objects.filter(prompt__in=prompts).update(text=ERASED)
    for start in range(0, len(comparisons), BATCH):
        part = comparisons[start : start + BATCH]
        votes = list(Vote.objects.filter(comparison__in=part).only("pk", "public_id", "annotator_id", "body"))
        Vote.objects.bulk_update(_without_free_text(votes, "body"), ["body"])
        rulings = list(Adjudication.objects.filter(comparison__in=part))
        for name in ("answer", "first_answer"):
            Adjudication.objects.bulk_update(_without_free_text(rulings, name), [name])
        Adjudication.objects.filter(comparison__in=part).exclude(reason="").update(reason=ERASED)
        Flag.objects.filter(comparison__in=part).exclude(note="").update(note=ERASED)
        Objection.objects.filter(gold__comparison__in=part).update(text=ERASED)
        _erase_explanations(part, votes)


def _without_free_text(rows: Iterable[Any], name: str) -> list[Any]:
    """Those of the rows whose answer held one."""
    changed = []
    for row in rows:
        answer: Mapping[str, Any] | None = vars(row)[name]
        if answer and _FREE_TEXT in answer:
            vars(row)[name] = {key: value for key, value in answer.items() if key != _FREE_TEXT}
            changed.append(row)
    return changed


def _erase_explanations(comparisons: Sequence[int], votes: Sequence[Vote]) -> None:
    """What was said of gold: on its row, in the history of that, and in feedback that people got."""
    gold = Gold.objects.filter(comparison__in=comparisons).exclude(explanation="")
    ids = [str(public_id) for public_id in gold.values_list("public_id", flat=True)]
    if not ids:
        return
    for event in AuditEvent.objects.filter(action=AuditAction.GOLD_EXPLAINED, target__in=ids):
        AuditEvent.objects.filter(pk=event.pk).update(details={**event.details, "before": ERASED, "after": ERASED})
    gold.update(explanation=ERASED)
    told = {str(vote.public_id) for vote in votes}
    project_id = Comparison.objects.values_list("project_id", flat=True).get(pk=comparisons[0])
    people = {vote.annotator_id for vote in votes}
    for given in FeedbackGiven.objects.filter(project=project_id, annotator__in=people):
        items = [{**item, "text": ERASED} if item["vote"] in told else item for item in given.body.get("items", ())]
        if items != given.body.get("items", []):
            FeedbackGiven.objects.filter(pk=given.pk).update(body={**given.body, "items": items})
