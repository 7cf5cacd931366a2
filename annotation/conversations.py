"""Prompts that people write by chatting with a model: at each turn two fresh completions are compared.

A message and what was said before it become a prompt, the two completions a comparison that only this person judges,
and the better one the assistant's turn. The vote goes the ordinary way; whether a turn is voted is read from the votes,
so undoing one reopens its turn as long as no later turn builds on it. Knows no model: `training.chat` samples the turns
that wait and calls `answer` with what came, `try_again` or `give_up`.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID, uuid5

from django.db import transaction
from django.db.models import Count, Max, QuerySet

from annotation import assignment as assignments
from annotation import qualification
from annotation.assignment import AssignmentOver
from annotation.audience import PERSON
from annotation.errors import DomainError, Invalid, Kind
from annotation.feedback import ranks
from annotation.gate import write
from annotation.meetings import Meeting
from annotation.models import (
    Assignment,
    AssignmentState,
    AuditAction,
    Comparison,
    ComparisonCompletion,
    Completion,
    Conversation,
    ConversationTurn,
    Membership,
    Project,
    Prompt,
    Purpose,
    Slot,
    SlotState,
    TurnState,
    User,
    Vote,
    messages_hash,
)
from annotation.pairing import create_comparisons
from annotation.people import audit

WRITTEN = "written"
MOST_MESSAGE = 8_000
MOST_SYSTEM = 4_000
MOST_POLICIES = 4
MOST_TURNS = 50
BEST_RATING = 7
_TURNED_DOWN = "You skipped or flagged these two answers. Ask for others, or end the conversation."


class ChatOff(DomainError):
    """The project has no chat."""

    code = "chat_off"
    kind = Kind.CONFLICT


class NotYourTurn(DomainError):
    """The last turn has to be answered and judged first, or there are as many turns as may be."""

    code = "not_your_turn"
    kind = Kind.CONFLICT


class ConversationOver(DomainError):
    """The conversation has ended."""

    code = "conversation_over"
    kind = Kind.CONFLICT


class KeyReused(DomainError):
    """The idempotency key belongs to another message."""

    code = "key_reused"
    kind = Kind.CONFLICT


# --- settings ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatSampling:
    """How completions of a turn are sampled."""

    temperature: float = 1.0
    top_p: float = 0.95
    max_new_tokens: int = 256

    def __post_init__(self) -> None:
        _in_range("sampling.temperature", self.temperature, 0.1, 5)  # at 0 both would be the same
        _in_range("sampling.top_p", self.top_p, 0.01, 1)
        _whole("sampling.max_new_tokens", self.max_new_tokens, 1, 4096)


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatSettings:
    """Whether and with whom people of a project may chat.

    Attributes:
        policies: public ids of registered models; two are drawn for a turn if there are more, one answers twice.
        server: the operator's OpenAI-compatible server answers instead.
        max_turns: of one conversation.
    """

    enabled: bool = False
    policies: tuple[str, ...] = ()
    server: bool = False
    max_turns: int = 10
    sampling: ChatSampling = field(default_factory=ChatSampling)

    def __post_init__(self) -> None:
        _check("policies", len(self.policies) <= MOST_POLICIES, len(self.policies), f"must be at most {MOST_POLICIES}")
        _check("policies", len(set(self.policies)) == len(self.policies), self.policies, "may be named once each")
        _whole("max_turns", self.max_turns, 1, MOST_TURNS)
        answers = bool(self.policies) or self.server
        _check("policies", answers or not self.enabled, self.policies, "needs one, or the server, to be enabled")

    def as_dict(self) -> dict[str, Any]:
        """The settings as JSON holds them; `read_chat` is the way back."""
        return {**asdict(self), "policies": list(self.policies)}


def read_chat(data: Mapping[str, Any]) -> ChatSettings:
    """Settings from JSON; what is left out has its default, what is unknown is refused.

    Raises:
        Invalid: naming the field and the value.
    """
    values = dict(data)
    sampling = values.pop("sampling", {})
    _check("sampling", isinstance(sampling, dict), sampling, "must be an object")
    for name, value in values.items():
        _check(name, name in ChatSettings.__dataclass_fields__, value, "is no setting of a chat")
    for name, value in sampling.items():
        _check(f"sampling.{name}", name in ChatSampling.__dataclass_fields__, value, "is no setting")
    for name in ("enabled", "server"):
        _check(name, isinstance(values.get(name, False), bool), values.get(name), "must be true or false")
    policies = values.get("policies", ())
    are_texts = isinstance(policies, list | tuple) and all(isinstance(item, str) for item in policies)
    _check("policies", are_texts, policies, "must be a list of ids")
    return ChatSettings(**{**values, "policies": tuple(policies), "sampling": ChatSampling(**sampling)})


def _check(name: str, holds: bool, value: object, rule: str) -> None:
    if not holds:
        raise Invalid(f"chat.{name} {rule}, got {value!r}", details={name: [rule]})


def _in_range(name: str, value: object, low: float, high: float) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    _check(name, is_number and low <= value <= high, value, f"must be from {low:g} to {high:g}")  # type: ignore[operator]


def _whole(name: str, value: object, low: int, high: int) -> None:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    _check(name, is_whole and low <= value <= high, value, f"must be a whole number from {low} to {high}")  # type: ignore[operator]


def change_chat(*, project: Project, chat: ChatSettings, by: User, now: datetime) -> None:
    """Set who may chat with whom; turns that wait are answered as the settings say when they are sampled.

    Raises:
        Invalid: the project does not compare two completions.
    """
    if chat.enabled and project.feedback.size != 2:
        raise Invalid(
            f"enabled: a turn compares two completions, and this project judges {project.feedback.size} at a time",
            details={"enabled": ["needs a form of two completions"]},
        )
    with write(), transaction.atomic():
        project.chat = chat.as_dict()
        Project.objects.filter(pk=project.pk).update(chat=project.chat)
        audit(project=project, by=by, action=AuditAction.CHAT_CHANGED, now=now, **project.chat)


# --- a person's side --------------------------------------------------------------------------------------------------


def start(*, membership: Membership, system: str = "", now: datetime) -> Conversation:
    """A new conversation; one that is still empty and has the same system text is returned again.

    Raises:
        ChatOff: the project has none. NotNow: the person has something else to do first, or is paused.
    """
    project = membership.project
    _require_open(membership)
    if len(system) > MOST_SYSTEM:
        raise Invalid(
            f"system: has at most {MOST_SYSTEM} characters, got {len(system)}", details={"system": ["too long"]}
        )
    with write(), transaction.atomic():
        Membership.objects.select_for_update(no_key=True).get(pk=membership.pk)
        own = Conversation.objects.filter(project=project, annotator=membership.user, ended_at=None, system=system)
        empty = own.annotate(n=Count("turns")).filter(n=0).order_by("-pk").first()
        return empty or Conversation.objects.create(
            project=project, annotator=membership.user, system=system, created_at=now
        )


def _require_open(membership: Membership) -> ChatSettings:
    project = membership.project
    chat = read_chat(project.chat)
    if not chat.enabled:
        raise ChatOff("Chatting is not switched on in this project.")
    why = "paused" if project.paused_at is not None else qualification.why_not(project, membership)
    if why or membership.excluded_at is not None:
        raise qualification.NotNow(
            "You cannot chat here now; your start page says what comes first.", details={"next": why or "person_paused"}
        )
    return chat


def say(
    *, conversation: Conversation, membership: Membership, content: str, key: UUID, now: datetime
) -> ConversationTurn:
    """The person's next message, which waits to be answered. The same key with the same message returns the first.

    Raises:
        ConversationOver, NotYourTurn, KeyReused, ChatOff, NotNow; Invalid: an empty or too long message.
    """
    text = content.strip()
    if not 0 < len(text) <= MOST_MESSAGE:
        raise Invalid(
            f"content: has 1 to {MOST_MESSAGE} characters, got {len(text)}", details={"content": ["empty or too long"]}
        )
    public_id = uuid5(conversation.public_id, str(key))  # so that nobody's key can meet another conversation's
    with write(), transaction.atomic():
        row = Conversation.objects.select_for_update(no_key=True).get(pk=conversation.pk)
        known = ConversationTurn.objects.select_related("prompt").filter(public_id=public_id).first()
        if known is not None:
            if known.prompt.messages[-1]["content"] != text:
                raise KeyReused(f"The idempotency key {key} belongs to another message.")
            return known
        chat = _require_open(membership)
        if row.ended_at is not None:
            raise ConversationOver("This conversation has ended. Start another one.")
        last = last_turn(conversation)
        if last is not None and refresh(last).state != TurnState.VOTED:
            raise NotYourTurn("Choose between the two answers first; then write on.")
        if last is not None and last.number >= chat.max_turns:
            raise NotYourTurn(f"A conversation has at most {chat.max_turns} messages here. End and rate this one.")
        messages = [*_said(row, last), {"role": "user", "content": text}]
        return ConversationTurn.objects.create(
            public_id=public_id,
            conversation=row,
            number=1 + (0 if last is None else last.number),
            prompt=_prompt(membership, messages, now),
            created_at=now,
        )


def _said(conversation: Conversation, last: ConversationTurn | None) -> list[dict[str, str]]:
    if last is None:
        return [{"role": "system", "content": conversation.system}] if conversation.system else []
    assert last.chosen is not None, "a voted turn has a chosen completion"
    return [*last.prompt.messages, {"role": "assistant", "content": last.chosen.text}]


def _prompt(membership: Membership, messages: list[dict[str, str]], now: datetime) -> Prompt:
    """The prompt of these messages; one that the project has is used again."""
    return Prompt.objects.get_or_create(
        project=membership.project,
        content_hash=messages_hash(messages),
        defaults={"messages": messages, "category": WRITTEN, "author": membership.user, "created_at": now},
    )[0]


def last_turn(conversation: Conversation) -> ConversationTurn | None:
    """The newest turn, which alone can still change."""
    turns = ConversationTurn.objects.filter(conversation=conversation).select_related(
        "prompt", "chosen", "comparison", "conversation"
    )
    return turns.order_by("-number").first()


def refresh(turn: ConversationTurn) -> ConversationTurn:
    """Bring the last turn of a conversation up to its facts: voted, undone, or turned down. Safe to repeat."""
    if turn.comparison_id is None or turn.state == TurnState.WAITING:
        return turn
    person = turn.conversation.annotator_id
    mine = Vote.objects.filter(comparison=turn.comparison_id, annotator=person, purpose=Purpose.WANTED)
    vote = mine.filter(retractions__isnull=True).order_by("-pk").first()
    chosen = None if vote is None else _chosen(turn, vote)
    if vote is not None:
        state, error = TurnState.VOTED, ""
    elif Assignment.objects.filter(
        comparison=turn.comparison_id, annotator=person, state__in=(AssignmentState.SKIPPED, AssignmentState.FLAGGED)
    ).exists():
        state, error = TurnState.FAILED, _TURNED_DOWN
    else:
        state, error = TurnState.READY, ""
    if (state, chosen and chosen.pk) != (turn.state, turn.chosen_id):
        later = ConversationTurn.objects.filter(conversation=turn.conversation_id, number__gt=turn.number)
        if not later.exists():
            rows = ConversationTurn.objects.filter(pk=turn.pk, state=turn.state, comparison=turn.comparison_id)
            rows.update(state=state, error=error, chosen=chosen)
        turn.refresh_from_db()
    return turn


def _chosen(turn: ConversationTurn, vote: Vote) -> Completion:
    """The better completion; of two equal ones, or two bad ones, a coin that falls the same each time."""
    first, second = ranks(vote.choice, vote.body, size=2)
    coin = hashlib.sha256(f"{turn.public_id}/{turn.origin}".encode()).digest()[0] % 2
    position = coin if first == second else int(second < first)
    place = ComparisonCompletion.objects.select_related("completion").get(
        comparison=vote.comparison_id, position=position
    )
    return place.completion


@dataclass(frozen=True, kw_only=True, slots=True)
class Thread:
    """A conversation as its person sees it: what was said, where the last turn stands, and what there is to judge."""

    messages: Sequence[Mapping[str, str]]
    turn: ConversationTurn | None
    assignment: Assignment | None


def thread(conversation: Conversation, *, tab: str, now: datetime, rng: random.Random) -> Thread:
    """Read a conversation; if two answers wait to be judged, they are leased to the person (the same lease again)."""
    turn = last_turn(conversation)
    if turn is None:
        return Thread(messages=_said(conversation, None), turn=None, assignment=None)
    refresh(turn)
    if turn.state == TurnState.VOTED:
        return Thread(messages=_said(conversation, turn), turn=turn, assignment=None)
    assignment = None
    if turn.state == TurnState.READY and conversation.ended_at is None:
        assert turn.comparison is not None
        try:
            assignment = assignments.give(
                project=conversation.project, annotator=conversation.annotator, comparison=turn.comparison, tab=tab,
                purpose=Purpose.WANTED, repetition=0, now=now, rng=rng,
            )  # fmt: skip
        except AssignmentOver:  # judged or turned down in this moment, in another tab
            refresh(turn)
    return Thread(messages=turn.prompt.messages, turn=turn, assignment=assignment)


def retry(*, conversation: Conversation, now: datetime) -> ConversationTurn:
    """Sample the last turn anew, after it failed or was turned down. While it waits already, nothing changes.

    Raises:
        NotYourTurn: there is nothing to retry. ConversationOver.
    """
    with write(), transaction.atomic():
        row = Conversation.objects.select_for_update(no_key=True).get(pk=conversation.pk)
        if row.ended_at is not None:
            raise ConversationOver("This conversation has ended. Start another one.")
        turn = last_turn(row)
        if turn is None or refresh(turn).state not in {TurnState.FAILED, TurnState.WAITING}:
            raise NotYourTurn("There is nothing to retry: the two answers are there.")
        if turn.state == TurnState.FAILED:
            _close(turn, now)
            ConversationTurn.objects.filter(pk=turn.pk, state=TurnState.FAILED).update(
                state=TurnState.WAITING, error="", tries=0, origin=None, comparison=None, chosen=None, owner=None,
                lease_expires_at=None, ready_at=None,
            )  # fmt: skip
            turn.refresh_from_db()
        return turn


def end(*, conversation: Conversation, rating: int, now: datetime) -> Conversation:
    """Rate the whole conversation and close it. The same rating again changes nothing.

    Raises:
        ConversationOver: it ended with another rating.
    """
    if not 1 <= rating <= BEST_RATING:
        raise Invalid(
            f"rating: from 1 to {BEST_RATING}, got {rating}", details={"rating": [f"from 1 to {BEST_RATING}"]}
        )
    with write(), transaction.atomic():
        row = Conversation.objects.select_for_update(no_key=True).get(pk=conversation.pk)
        if row.ended_at is not None:
            if row.rating != rating:
                raise ConversationOver(f"This conversation has ended, with the rating {row.rating}.")
            return row
        turn = last_turn(row)
        if turn is not None and refresh(turn).state == TurnState.READY:
            _close(turn, now)
        waiting = ConversationTurn.objects.filter(conversation=row, state=TurnState.WAITING)
        waiting.update(state=TurnState.FAILED, error="The conversation ended before the answers came.")
        Conversation.objects.filter(pk=row.pk).update(ended_at=now, rating=rating)
        row.ended_at, row.rating = now, rating
        return row


def _close(turn: ConversationTurn, now: datetime) -> None:
    """No vote is wanted any more on the two answers of a turn: their slot goes, what was voted stays."""
    if turn.comparison_id is None:
        return
    slots = Slot.objects.filter(comparison=turn.comparison_id)
    list(slots.select_for_update(no_key=True).order_by("pk"))  # slots before comparisons, as everywhere
    Comparison.objects.filter(pk=turn.comparison_id).update(overlap=0)
    held = Assignment.objects.filter(comparison=turn.comparison_id, state=AssignmentState.LEASED)
    assignments.end(assignments=list(held), state=AssignmentState.RELEASED, now=now)
    slots.filter(state=SlotState.OPEN).delete()


# --- the sampler's side -----------------------------------------------------------------------------------------------


def answer(*, turn: UUID, origin: UUID, met: Meeting, now: datetime) -> int:
    """Compare the two completions that answer a turn; 1, or 0 if the turn no longer waits for this sampling."""
    row = ConversationTurn.objects.select_related("conversation__project").get(public_id=turn)
    project = row.conversation.project
    with write(), transaction.atomic():
        # The row is locked by the update, so a retry cannot come between.
        if not _of(row, origin).update(
            state=TurnState.READY, ready_at=now, error="", owner=None, lease_expires_at=None
        ):
            return 0
        twin = Meeting(prompt=met.prompt, completions=met.completions, external_id=str(origin))
        (comparison,) = create_comparisons(
            project=project, pairs=[twin], origin=origin, overlap=1,
            audience=f"{PERSON}{row.conversation.annotator_id}", now=now,
        )  # fmt: skip
        ConversationTurn.objects.filter(pk=row.pk).update(comparison=comparison)
    return 1


def try_again(turn: ConversationTurn, *, origin: UUID | None) -> bool:
    """Let a turn that waits for this sampling be sampled anew, with another seed."""
    return bool(_of(turn, origin).update(origin=None, owner=None, lease_expires_at=None))


def give_up(turn: ConversationTurn, *, origin: UUID | None, error: str) -> bool:
    """Say why a turn that waits for this sampling is not answered. The person reads it: it names no model."""
    return bool(_of(turn, origin).update(state=TurnState.FAILED, error=error, owner=None, lease_expires_at=None))


def _of(turn: ConversationTurn, origin: UUID | None) -> QuerySet[ConversationTurn]:
    return ConversationTurn.objects.filter(pk=turn.pk, state=TurnState.WAITING, origin=origin)


# --- for screens ------------------------------------------------------------------------------------------------------


def conversations(project: Project, *, annotator: User | None = None) -> QuerySet[Conversation]:
    """Conversations with how many turns each has, and when the last began."""
    rows = Conversation.objects.filter(project=project).annotate(
        n_turns=Count("turns"), last_at=Max("turns__created_at")
    )
    return rows if annotator is None else rows.filter(annotator=annotator)
