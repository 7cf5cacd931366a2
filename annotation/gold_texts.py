"""Gold that brings its own texts: written by a researcher, or a spoilt completion against normal ones.

These comparisons never had slots. Their completions have sources of their own, which pairing leaves out.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, assert_never
from uuid import UUID, uuid4

from django.db import transaction

from annotation.errors import DomainError, Invalid, Kind
from annotation.feedback import LETTERS
from annotation.gate import write
from annotation.gold import lock, read_answer
from annotation.meetings import Meeting
from annotation.models import (
    AuditAction,
    Comparison,
    Completion,
    Finish,
    Gold,
    GoldOrigin,
    GoldUse,
    Project,
    Prompt,
    Source,
    SourceKind,
    User,
    content_hash,
    messages_hash,
)
from annotation.pairing import create_comparisons
from annotation.people import audit
from annotation.similarity import likeness, shape
from annotation.spoiling import (
    EXPLANATION,
    GIVEN_SOURCE,
    LEAST_CHARACTERS,
    OWN_SOURCES,
    SPOILT_SOURCE,
    Spoilt,
    foreign_passage,
    language_of,
    truncate,
)

MOST_SPOILT = 200  # of each kind at once
_PAGE = 200  # prompts looked at together
_MOST_PAGES = 50
_UNLIKE_PROMPTS = 0.5  # likeness below which two prompts ask for different things: many begin alike
_UNLIKE_TEXTS = 0.2  # and two completions speak of different ones


class KnownComparison(DomainError):
    """The project has a comparison of these texts."""

    code = "known_comparison"
    kind = Kind.CONFLICT


@dataclass(frozen=True, kw_only=True, slots=True)
class _Draft:
    """Gold to be made; completions of the meeting without a key are new."""

    meeting: Meeting
    answer: dict[str, Any]
    explanation: str


def give_texts(
    *,
    project: Project,
    messages: Sequence[Mapping[str, str]],
    texts: Sequence[str],
    answer: Mapping[str, Any],
    use: GoldUse,
    explanation: str,
    by: User,
    now: datetime,
) -> Gold:
    """Gold of texts that the project does not have yet, in stored order a, b, …

    Raises:
        KnownComparison: the project has it; `details` names it, and it may be made gold as it is.
        Invalid: the answer, or the number of texts.
    """
    read, size = read_answer(answer, project.feedback), project.feedback.size
    if len(texts) != size:
        raise Invalid(
            f"completions: this project compares {size}, got {len(texts)}",
            details={"completions": [f"must be {size} texts"]},
        )
    if len({text.strip() for text in texts}) != size or not all(text.strip() for text in texts):
        raise Invalid("completions: must be different and not empty", details={"completions": ["must be different"]})
    turns = [dict(turn) for turn in messages]
    with write(), transaction.atomic():
        lock(project)
        prompt, _ = Prompt.objects.get_or_create(
            project=project, content_hash=messages_hash(turns), defaults={"messages": turns, "created_at": now}
        )
        source, _ = Source.objects.get_or_create(project=project, kind=SourceKind.HUMAN, name=GIVEN_SOURCE)
        origin = uuid4()
        completions = tuple(_completion(prompt, source, text, origin, i, now) for i, text in enumerate(texts))
        met = Meeting(prompt=prompt, completions=completions)
        known = Comparison.objects.filter(project=project, pair_hash=met.hash).first()
        if known is not None:
            raise KnownComparison(
                "The project has this comparison. Make that one gold.",
                details={"comparison": str(known.public_id)},
            )
        draft = _Draft(meeting=met, answer=read, explanation=explanation)
        (gold,) = _store(project, [draft], use=use, origin=GoldOrigin.GIVEN, made_by=origin, by=by, now=now)
        audit(
            project=project, by=by, action=AuditAction.GOLD_GIVEN, target=str(gold.public_id), now=now,
            comparison=str(gold.comparison.public_id), use=use, answer=read,
        )  # fmt: skip
        return gold


def _completion(prompt: Prompt, source: Source, text: str, origin: UUID, index: int, now: datetime) -> Completion:
    return Completion(
        project_id=prompt.project_id,
        prompt=prompt,
        source=source,
        text=text,
        content_hash=content_hash(text),
        origin=origin,
        index=index,
        created_at=now,
    )


def _store(
    project: Project,
    drafts: Sequence[_Draft],
    *,
    use: GoldUse,
    origin: GoldOrigin,
    made_by: UUID,
    by: User,
    now: datetime,
) -> list[Gold]:
    """Write drafts that the project does not have, with their comparisons and without any slot."""
    Completion.objects.bulk_create(
        item for draft in drafts for item in draft.meeting.completions if item.pk is None
    )  # fmt: skip
    by_hash = {draft.meeting.hash: draft for draft in drafts}
    meetings = [draft.meeting for draft in drafts]
    comparisons = create_comparisons(project=project, pairs=meetings, origin=made_by, overlap=0, now=now)
    return Gold.objects.bulk_create(
        Gold(
            project=project,
            comparison=comparison,
            use=use,
            origin=origin,
            answer=by_hash[comparison.pair_hash].answer,
            explanation=by_hash[comparison.pair_hash].explanation,
            created_at=now,
            created_by=by,
        )
        for comparison in comparisons
    )


# --- constructed ------------------------------------------------------------------------------------------------------


def construct(
    *, project: Project, kinds: Sequence[Spoilt], n: int, seed: int, use: GoldUse, by: User, now: datetime
) -> list[Gold]:
    """Up to `n` gold comparisons of each kind: a spoilt completion against normal ones of the same prompt.

    Drawn by the seed: the same seed again on the same completions makes nothing new.

    Raises:
        Invalid: the form has one completion, so that nothing can be worse than another.
    """
    size = project.feedback.size
    if size < 2:
        raise Invalid("A project whose tasks show one completion has nothing to compare a spoilt one with.")
    with write(), transaction.atomic():
        lock(project)
        source, _ = Source.objects.get_or_create(project=project, kind=SourceKind.IMPORT, name=SPOILT_SOURCE)
        made: list[Gold] = []
        taken: set[int] = set()
        for kind in dict.fromkeys(kinds):
            origin, drafts = uuid4(), dict[str, _Draft]()
            for draft in _drafts(project, kind, source, origin, seed, taken, now):
                drafts[draft.meeting.hash] = draft
                taken.add(draft.meeting.prompt.pk)
                if len(drafts) == n:
                    break
            known = set(
                Comparison.objects.filter(project=project, pair_hash__in=drafts).values_list("pair_hash", flat=True)
            )
            fresh = [draft for key, draft in drafts.items() if key not in known]
            made += _store(project, fresh, use=use, origin=GoldOrigin.CONSTRUCTED, made_by=origin, by=by, now=now)
        audit(
            project=project, by=by, action=AuditAction.GOLD_CONSTRUCTED, now=now,
            kinds=list(kinds), wanted=n, seed=seed, use=use, made=len(made),
        )  # fmt: skip
        return made


def _drafts(
    project: Project, kind: Spoilt, source: Source, origin: UUID, seed: int, taken: set[int], now: datetime
) -> Iterator[_Draft]:
    size = project.feedback.size
    for page in _pages(project, start=content_hash(f"{seed}/{kind}")):
        for prompt, normal in page:
            if prompt.pk in taken or len(normal) < size - 1:
                continue
            rng = random.Random(f"{seed}/{kind}/{prompt.content_hash}")  # noqa: S311  (a draw, no secret)
            good = rng.sample(normal, size - 1)
            text = _spoil(kind, prompt, good[0].text, page, project, rng)
            if text is None or any(text.strip() == item.text.strip() for item in good):
                continue
            place = rng.randrange(size)
            # One spoilt completion a prompt and kind, so the index needs no counting.
            good.insert(place, _completion(prompt, source, text, origin, 0, now))
            worst = LETTERS[place]
            answer = {"choice": "b" if worst == "a" else "a"} if size == 2 else {"worst": worst}
            met = Meeting(prompt=prompt, completions=tuple(good))
            yield _Draft(meeting=met, answer=answer, explanation=EXPLANATION[kind])


def _pages(project: Project, *, start: str) -> Iterator[list[tuple[Prompt, list[Completion]]]]:
    """Prompts with their normal completions in the order of their hashes from `start` on, once round: a seeded draw
    that needs no list of all prompts."""
    rows = Prompt.objects.filter(project=project, erasure=None).order_by("content_hash")
    after, wrapped = start, False
    for _ in range(_MOST_PAGES):
        found = rows.filter(content_hash__gt=after, content_hash__lte=start) if wrapped else rows.filter(
            content_hash__gt=after
        )  # fmt: skip
        prompts = list(found[:_PAGE])
        if not prompts:
            if wrapped:
                return
            after, wrapped = "", True
            continue
        after = prompts[-1].content_hash
        normal: dict[int, dict[str, Completion]] = {}
        for item in (
            Completion.objects.filter(prompt__in=prompts, finish=Finish.END)
            .exclude(source__name__in=OWN_SOURCES)
            .order_by("id")
        ):
            if len(item.text.strip()) >= LEAST_CHARACTERS:
                normal.setdefault(item.prompt_id, {}).setdefault(item.text.strip(), item)
        yield [(prompt, list(normal.get(prompt.pk, {}).values())) for prompt in prompts]


def _spoil(
    kind: Spoilt,
    prompt: Prompt,
    text: str,
    page: Sequence[tuple[Prompt, list[Completion]]],
    project: Project,
    rng: random.Random,
) -> str | None:
    match kind:
        case Spoilt.TRUNCATED:
            return truncate(text, rng)
        case Spoilt.OFF_TOPIC:
            return _off_topic(prompt, text, page, rng)
        case Spoilt.WRONG_LANGUAGE:
            return _wrong_language(prompt, text, project, rng)
        case _:
            assert_never(kind)


def _off_topic(
    prompt: Prompt, text: str, page: Sequence[tuple[Prompt, list[Completion]]], rng: random.Random
) -> str | None:
    """The completion of an unlike prompt in the same language whose length is nearest: length must not give it away."""
    others = [
        (other, items) for other, items in page if items and other.pk != prompt.pk and other.language == prompt.language
    ]
    asked = shape(_words(prompt))
    unlike = [
        item
        for other, items in rng.sample(others, min(12, len(others)))
        if likeness(asked, shape(_words(other))) < _UNLIKE_PROMPTS
        for item in items
    ]
    unlike = [item for item in unlike if likeness(shape(text), shape(item.text)) < _UNLIKE_TEXTS]
    return min(unlike, key=lambda item: abs(len(item.text) - len(text))).text if unlike else None


def _wrong_language(prompt: Prompt, text: str, project: Project, rng: random.Random) -> str:
    """A completion of the project in another language, where its prompts say theirs; else a fixed passage."""
    if prompt.language:
        foreign = (
            Completion.objects.filter(project=project, finish=Finish.END)
            .exclude(prompt__language__in=["", prompt.language])
            .exclude(source__name__in=OWN_SOURCES)
            .order_by("prompt__content_hash", "id")
        )
        found = foreign.filter(prompt__content_hash__gt=prompt.content_hash).first() or foreign.first()
        if found is not None:
            return found.text
    return foreign_passage(prompt.language or language_of(f"{_words(prompt)} {text}"), rng)


def _words(prompt: Prompt) -> str:
    return "\n".join(str(turn["content"]) for turn in prompt.messages if turn["role"] == "user")
