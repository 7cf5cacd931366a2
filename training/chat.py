"""Samples the turns of conversations that wait: two fresh completions each, by a worker or by the operator's server.

A turn that waits is work to be found, not a message: whoever looks (a task that a new message wakes, or the tick) may
look twice. By a worker, a turn is a round of one prompt, claimed together with it; by a server, a lease on the row
keeps two workers apart. A side that fails never lets the other win: both are there, or the turn has failed and says why
in words that name no model. Later, a model that stays loaded (the engine's `serve`) will answer sooner.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from django.conf import settings
from django.db import transaction
from django.db.models import F, Q, QuerySet

from annotation import conversations, outbound
from annotation.conversations import ChatSettings, read_chat
from annotation.errors import DomainError, Invalid
from annotation.gate import write
from annotation.meetings import Rule, choose
from annotation.models import (
    Completion,
    ConversationTurn,
    Finish,
    Project,
    Prompt,
    Source,
    SourceKind,
    TurnState,
    User,
    content_hash,
)
from training import registry
from training.models import JobStatus, ModelKind, ModelVersion, Round
from training.rounds import MeetingPlan, SamplingPlan, start_round

JOB_PRIORITY = 1000  # a person is waiting
MOST_TRIES = 3
ANSWER_SECONDS = 60.0
LEASE_SECONDS = 2 * ANSWER_SECONDS
PAUSE_SECONDS = 2.0  # after a try that failed
_BATCH = 50

ALIKE = "The model gave the same answer twice, again and again. Retry, or say it differently."
TOO_LONG = "The model gave no answer; the conversation may be too long for it. End it and start another one."
FAILED = "The model could not answer. Retry, and tell a researcher if it happens again."
CANCELLED = "A researcher stopped the model. Retry later."
GONE = "The model of this chat is not there any more. Tell a researcher."
AWAY = "The model's server did not answer. Retry later."

log = logging.getLogger(__name__)


# --- settings ---------------------------------------------------------------------------------------------------------


def change_chat(*, project: Project, chat: ChatSettings, by: User, now: datetime) -> None:
    """Set the chat of a project, with models that are there.

    Raises:
        UnknownModel: a policy is not registered here. Invalid: there is no server, or the form does not fit.
    """
    for policy in chat.policies:
        try:
            public_id = UUID(policy)
        except ValueError:
            raise Invalid(f"policies: {policy!r} is no id", details={"policies": ["not an id"]}) from None
        registry.find(project, public_id, kind=ModelKind.POLICY)
    if chat.server and not settings.SAMPLER_URL:
        raise Invalid(
            "server: this site has no model server; its operator may name one by WINNOW_SAMPLER_URL",
            details={"server": ["none is set up"]},
        )
    conversations.change_chat(project=project, chat=chat, by=by, now=now)


# --- what waits -------------------------------------------------------------------------------------------------------


def _unclaimed(now: datetime) -> QuerySet[ConversationTurn]:
    free = Q(lease_expires_at=None) | Q(lease_expires_at__lte=now)
    rows = ConversationTurn.objects.filter(free, state=TurnState.WAITING, origin=None)
    return rows.select_related("conversation__project", "prompt").order_by("pk")


def start_rounds(*, now: datetime) -> int:
    """Queue a round for each unclaimed turn that a worker answers, and watch those that were queued; how many began."""
    started = 0
    for turn in _unclaimed(now)[:_BATCH]:
        chat = read_chat(turn.conversation.project.chat)
        if not chat.server:
            started += _start_round(turn, chat, now)
    for turn in ConversationTurn.objects.filter(state=TurnState.WAITING, origin__isnull=False)[:_BATCH]:
        _follow(turn)
    return started


def server_is_wanted(*, now: datetime) -> bool:
    """Whether a turn waits for the server: then a worker has to be woken, since the tick asks nobody outside."""
    return any(read_chat(turn.conversation.project.chat).server for turn in _unclaimed(now)[:_BATCH])


def answer_by_server(*, clock: Callable[[], datetime]) -> int:
    """Ask the server for each unclaimed turn until none is left; how many were answered."""
    answered = 0
    while True:
        now = clock()
        waiting = (turn for turn in _unclaimed(now)[:_BATCH] if read_chat(turn.conversation.project.chat).server)
        claimed = next((turn for turn in waiting if _claim(turn, now)), None)
        if claimed is None:
            return answered
        answered += _ask(claimed, clock)


# --- by a worker ------------------------------------------------------------------------------------------------------


def _start_round(turn: ConversationTurn, chat: ChatSettings, now: datetime) -> bool:
    """The round and the claim are one transaction, so a turn has one round though two look at it."""
    project = turn.conversation.project
    try:
        with write(), transaction.atomic():
            drawn = [UUID(item) for item in _drawn(turn, chat.policies)]
            # A chat goes on with the policies that it was set up with, though one went into the archive since.
            policies = [registry.find(project, item, kind=ModelKind.POLICY, even_archived=True) for item in drawn]
            made = _queue(turn, chat, policies, now)
            return _claim_for(made, turn)
    except registry.UnknownModel as error:
        log.warning("turn %s: %s", turn.pk, error)
        conversations.give_up(turn, origin=None, error=GONE)
    except DomainError as error:  # the settings have changed since they were checked
        log.warning("turn %s cannot be sampled: %s", turn.pk, error)
        conversations.give_up(turn, origin=None, error=FAILED)
    return False


def _claim_for(made: Round, turn: ConversationTurn) -> bool:
    mine = ConversationTurn.objects.filter(pk=turn.pk, state=TurnState.WAITING, origin=None, tries=turn.tries)
    if mine.update(origin=made.public_id, tries=F("tries") + 1):
        return True
    transaction.set_rollback(True)
    return False


def _queue(turn: ConversationTurn, chat: ChatSettings, policies: Sequence[ModelVersion], now: datetime) -> Round:
    return start_round(
        project=turn.conversation.project,
        policies=policies,
        plan=SamplingPlan(
            completions=2 if len(policies) == 1 else 1,
            temperature=chat.sampling.temperature,
            top_p=chat.sampling.top_p,
            max_new_tokens=chat.sampling.max_new_tokens,
            seed=_seed(turn, turn.tries),
        ),
        meeting=MeetingPlan(prompts=(str(turn.prompt.public_id),), overlap=1),
        turn=turn.public_id,
        name="Chat",
        job_priority=JOB_PRIORITY,
        by=None,
        now=now,
    )


def _drawn(turn: ConversationTurn, policies: Sequence[str]) -> list[str]:
    """Two of the policies, by the turn's own coin."""
    return sorted(policies, key=lambda item: hashlib.sha256(f"{turn.public_id}/{item}".encode()).digest())[:2]


def _seed(turn: ConversationTurn, *parts: int) -> int:
    digest = hashlib.sha256(f"{turn.public_id}/{parts}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def _follow(turn: ConversationTurn) -> None:
    """A turn still waits though its round has ended: sample again, or say why not. `rounds.ingest` makes it ready."""
    assert turn.origin is not None, "a round was queued for it"
    made = Round.objects.select_related("job").filter(public_id=turn.origin).first()
    status = JobStatus.CANCELLED if made is None else JobStatus(made.job.status)
    match status:
        case JobStatus.QUEUED | JobStatus.RUNNING:
            return
        case JobStatus.SUCCEEDED:
            error = ALIKE if Completion.objects.filter(origin=turn.origin).count() > 1 else TOO_LONG
        case JobStatus.FAILED:
            error = FAILED
        case JobStatus.CANCELLED:
            error = CANCELLED
    if error == ALIKE and turn.tries < MOST_TRIES:
        conversations.try_again(turn, origin=turn.origin)
    else:
        conversations.give_up(turn, origin=turn.origin, error=error)


# --- by the server ----------------------------------------------------------------------------------------------------


class BadAnswer(DomainError):
    """The server answered something else than a completion."""

    code = "bad_answer"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampled:
    """One completion as the server gave it."""

    text: str
    finish: Finish
    tokens: int | None
    seed: int


def _claim(turn: ConversationTurn, now: datetime) -> bool:
    owner = uuid4()
    mine = _unclaimed(now).filter(pk=turn.pk).order_by()
    until = now + timedelta(seconds=LEASE_SECONDS)
    if not mine.update(owner=owner, lease_expires_at=until):
        return False
    turn.owner = owner
    return True


def _release(turn: ConversationTurn, *, at: datetime) -> None:
    _mine(turn).update(owner=None, lease_expires_at=at)


def _mine(turn: ConversationTurn) -> QuerySet[ConversationTurn]:
    return ConversationTurn.objects.filter(pk=turn.pk, state=TurnState.WAITING, origin=None, owner=turn.owner)


def _ask(turn: ConversationTurn, clock: Callable[[], datetime]) -> bool:
    """Both sides at once, with different seeds; stored together or not at all."""
    _mine(turn).update(tries=F("tries") + 1)
    chat, tries = read_chat(turn.conversation.project.chat), turn.tries + 1
    seeds = [_seed(turn, tries, side) for side in range(2)]
    error = ALIKE
    try:
        with ThreadPoolExecutor(2) as both:
            sampled = list(both.map(lambda seed: sample(turn.prompt.messages, chat, seed=seed), seeds))
    except DomainError as failure:
        log.warning("turn %s: the model server failed: %s", turn.pk, failure)
        error = AWAY
    else:
        if _store(turn, chat, sampled, now=clock()):
            return True
    if tries >= MOST_TRIES:
        if _mine(turn).exists():
            conversations.give_up(turn, origin=None, error=error)
    else:
        _release(turn, at=clock() + timedelta(seconds=PAUSE_SECONDS))
    return False


def sample(messages: Sequence[dict[str, str]], chat: ChatSettings, *, seed: int) -> Sampled:
    """One completion of a conversation by the operator's OpenAI-compatible server.

    Raises:
        Refused, Unanswered: it may not be asked, or did not answer. BadAnswer: not with a completion.
    """
    body = {
        "model": settings.SAMPLER_MODEL, "messages": list(messages), "temperature": chat.sampling.temperature,
        "top_p": chat.sampling.top_p, "max_tokens": chat.sampling.max_new_tokens, "seed": seed,
    }  # fmt: skip
    reply = outbound.post_json(
        f"{settings.SAMPLER_URL}/chat/completions",
        body,
        headers={"Authorization": f"Bearer {settings.SAMPLER_KEY}"} if settings.SAMPLER_KEY else None,
        timeout_seconds=ANSWER_SECONDS,
        allowed=settings.OUTBOUND,
    )
    if not reply.is_success:
        raise BadAnswer(f"The model server answered with status {reply.status}.")
    return _read(reply.json(), seed)


def _read(data: Any, seed: int) -> Sampled:
    try:
        (choice, *_) = data["choices"]
        text, reason = choice["message"]["content"], choice.get("finish_reason")
        tokens = (data.get("usage") or {}).get("completion_tokens")
    except (KeyError, TypeError, ValueError, AttributeError):
        raise BadAnswer("The model server's answer holds no completion.") from None
    if not isinstance(text, str):
        raise BadAnswer("The model server's answer holds no text.")
    whole = isinstance(tokens, int) and not isinstance(tokens, bool) and 0 <= tokens < 2**31
    finish = Finish.LENGTH if reason == "length" else Finish.END
    return Sampled(text=text, finish=finish, tokens=tokens if whole else None, seed=seed)


def _store(turn: ConversationTurn, chat: ChatSettings, sampled: Sequence[Sampled], *, now: datetime) -> bool:
    """The two completions and their comparison, if the turn is still ours and they differ."""
    origin, prompt = uuid4(), turn.prompt
    with write(), transaction.atomic():
        if not _mine(turn).update(origin=origin):
            return False
        source = Source.objects.get_or_create(
            project_id=prompt.project_id, kind=SourceKind.POLICY, name=f"server: {settings.SAMPLER_MODEL}"[:200]
        )[0]
        made = Completion.objects.bulk_create(
            _completion(prompt, source, item, chat, origin=origin, index=index, now=now)
            for index, item in enumerate(sampled)
        )
        met = choose(prompt, made, Rule())
        if not met or not conversations.answer(turn=turn.public_id, origin=origin, met=met[0], now=now):
            transaction.set_rollback(True)
            return False
    return True


def _completion(
    prompt: Prompt, source: Source, item: Sampled, chat: ChatSettings, *, origin: UUID, index: int, now: datetime
) -> Completion:
    return Completion(
        project_id=prompt.project_id, prompt=prompt, source=source, text=item.text,
        content_hash=content_hash(item.text), finish=item.finish, tokens=item.tokens, origin=origin, index=index,
        sampling={
            "temperature": chat.sampling.temperature, "top_p": chat.sampling.top_p,
            "max_new_tokens": chat.sampling.max_new_tokens, "seed": item.seed,
        },
        created_at=now,
    )  # fmt: skip
