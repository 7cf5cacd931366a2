"""Rows for tests, and the cast: ann annotates, ada adjudicates, olga owns, stan is a stranger."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from functools import cache
from uuid import UUID, uuid4

from django.contrib.auth.hashers import make_password
from django.db import transaction

from annotation import assignment as assignments
from annotation.consensus import mark_due, settle_due
from annotation.feedback import Answer
from annotation.meetings import Meeting
from annotation.models import (
    Assignment,
    Comparison,
    Completion,
    Finish,
    Gold,
    GoldOrigin,
    Project,
    Prompt,
    Role,
    Slot,
    SlotState,
    Source,
    SourceKind,
    User,
    Vote,
    content_hash,
    messages_hash,
)
from annotation.pairing import Pair, create_comparisons
from annotation.people import add_member, create_project
from annotation.voting import Receipt, record_vote

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
PASSWORD = "correct horse battery staple"


@cache
def _password_hash() -> str:
    return make_password(PASSWORD)  # slow on purpose, so once a run


def user(name: str, **fields: object) -> User:
    """A user `name@example.org` with the password PASSWORD."""
    return User.objects.create(email=f"{name}@example.org", password=_password_hash(), name=name, **fields)


def project(*, owner: User | None = None, overlap: int = 3, slug: str = "helpful", **fields: object) -> Project:
    """A project owned by olga (or `owner`)."""
    owner = owner or User.objects.filter(name="olga").first() or user("olga")
    return create_project(
        name=slug.title(), slug=slug, by=owner, guideline="Prefer the true one.", overlap=overlap, now=NOW, **fields
    )


def member(project: Project, name: str, role: Role = Role.ANNOTATOR) -> User:
    """A new user with a role in the project."""
    person = User.objects.filter(name=name).first() or user(name)
    add_member(project=project, user=person, role=role, now=NOW)
    return person


def prompt(project: Project, text: str = "Why is the sky blue?", category: str = "explanation") -> Prompt:
    """A single-turn prompt."""
    messages = [{"role": "user", "content": text}]
    return Prompt.objects.create(
        project=project, messages=messages, content_hash=messages_hash(messages), category=category, created_at=NOW
    )


def source(project: Project, name: str = "policy-1", kind: SourceKind = SourceKind.POLICY) -> Source:
    """A source."""
    return Source.objects.get_or_create(project=project, kind=kind, name=name)[0]


def completion(
    prompt: Prompt,
    text: str,
    *,
    by: str = "policy-1",
    index: int = 0,
    origin: UUID | None = None,
    finish: str = Finish.END,
) -> Completion:
    """A completion of a prompt."""
    return Completion.objects.create(
        project=prompt.project,
        prompt=prompt,
        source=source(prompt.project, by),
        text=text,
        content_hash=content_hash(text),
        finish=finish,
        origin=origin or uuid4(),
        index=index,
        created_at=NOW,
    )


def comparisons(project: Project, n: int = 1, *, overlap: int | None = None, start: int = 0) -> list[Comparison]:
    """`n` comparisons, each of its own prompt."""
    pairs = []
    for i in range(start, start + n):
        x = prompt(project, f"Prompt number {i}?")
        pairs.append(
            Pair(prompt=x, a=completion(x, f"First answer to {i}."), b=completion(x, f"Second answer to {i}.", index=1))
        )
    return create_comparisons(project=project, pairs=pairs, origin=uuid4(), overlap=overlap, now=NOW)


def hidden_gold(project: Project, n: int = 1, *, start: int = 10_000) -> list[Comparison]:
    """`n` comparisons without slots whose answer is known to be a."""
    made = comparisons(project, n, start=start)
    for item in made:
        make_gold(item)
    return made


def make_gold(comparison: Comparison) -> Gold:
    """Hidden gold whose answer is a: no slots, and nobody's vote is wanted."""
    Slot.objects.filter(comparison=comparison).delete()
    answer = {"choice": "a"}
    return Gold.objects.create(
        project=comparison.project, comparison=comparison, origin=GoldOrigin.GIVEN, answer=answer, created_at=NOW
    )


def lease(
    project: Project, annotator: User, *, wanted: int = 1, tab: str = "tab", now: datetime = NOW
) -> list[Assignment]:
    """Lease as the queue does."""
    return assignments.lease(
        project=project, annotator=annotator, tab=tab, wanted=wanted, now=now, rng=random.Random(0)
    )


def vote(assignment: Assignment, letter: str = "a", *, key: UUID | None = None, now: datetime = NOW) -> Receipt:
    """A vote for a stored letter (or `tie`), given as the browser gives it: by side."""
    side = "tie" if letter == "tie" else assignment.side_of(letter)
    return record_vote(
        assignment=assignment,
        annotator=assignment.annotator,
        key=key or uuid4(),
        answer=Answer(choice=side, active_ms=4200),
        now=now,
    )


def settled(project: Project, n: int, *, letters: str = "aab", people: int = 3) -> list[Comparison]:
    """`n` comparisons with one vote of each of `people` annotators, settled. `letters` is repeated over the people."""
    made = comparisons(project, n, overlap=people)
    for i in range(people):
        annotator = member(project, f"voter-{i}")
        while leased := lease(project, annotator, wanted=5):
            for item in leased:
                vote(item, {"t": "tie"}.get(letters[i % len(letters)], letters[i % len(letters)]))
    settle_due(now=NOW, limit=10_000)
    return made


def sets(project: Project, n: int = 1, *, size: int = 3, overlap: int | None = None) -> list[Comparison]:
    """`n` comparisons of `size` completions, each of its own prompt."""
    meetings = []
    for i in range(n):
        x = prompt(project, f"Prompt number {i}?")
        answers = tuple(completion(x, f"Answer {k} to question {i}.", index=k) for k in range(size))
        meetings.append(Meeting(prompt=x, completions=answers))
    return create_comparisons(project=project, pairs=meetings, origin=uuid4(), overlap=overlap, now=NOW)


def cast(comparison: Comparison, person: User, choice: str = "", *, now: datetime = NOW, **body: object) -> Vote:
    """A counted vote without a lease, as imports bring them: it takes the next open slot, else it is surplus."""
    with transaction.atomic():
        made = Vote.objects.create(
            project_id=comparison.project_id, comparison=comparison, annotator=person, key=uuid4(), choice=choice,
            body=body, body_hash="0" * 64, created_at=now,
        )  # fmt: skip
        free = Slot.objects.filter(comparison=comparison, state=SlotState.OPEN).order_by("number").first()
        if free is not None:
            Slot.objects.filter(pk=free.pk).update(state=SlotState.DONE, vote=made)
        mark_due([comparison.pk], now=now)
    return made
