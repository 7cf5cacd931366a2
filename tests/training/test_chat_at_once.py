"""Chats, pairing and priorities when several look at the same rows at once: real threads on a real database."""

from __future__ import annotations

import random
import time
from collections import Counter
from uuid import uuid4

import pytest

from annotation import assignment as assignments
from annotation import conversations
from annotation.assignment import AssignmentOver
from annotation.conversations import NotYourTurn, end, read_chat, say, start, thread
from annotation.feedback import Answer
from annotation.meetings import Pair
from annotation.models import (
    Assignment,
    AssignmentState,
    Comparison,
    Conversation,
    ConversationTurn,
    Membership,
    Slot,
    SlotState,
    TurnState,
    Vote,
)
from annotation.pairing import create_comparisons, set_priority
from annotation.voting import record_vote
from tests import builders
from tests.annotation.test_at_the_same_time import errors, together
from tests.builders import NOW
from training import chat
from training.models import ModelKind, ModelSource, ModelVersion, Round

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def project():
    made = builders.project(overlap=2)
    base = ModelVersion.objects.create(
        name="base", kind=ModelKind.POLICY, source=ModelSource.LOCAL, path="base", sha256="0" * 64
    )
    settings = read_chat({"enabled": True, "policies": [str(base.public_id)]})
    chat.change_chat(project=made, chat=settings, by=made.created_by, now=NOW)
    return made


def membership(project, name="ann"):
    return Membership.objects.select_related("project").get(user=builders.member(project, name))


def ask(person, content="Why?", *, made=None, key=None):
    made = made or start(membership=person, now=NOW)
    return say(conversation=made, membership=person, content=content, key=key or uuid4(), now=NOW)


def ready(turn):
    """The two answers are there, and leased."""
    turn.origin = uuid4()
    turn.save()
    own = [builders.completion(turn.prompt, text, index=i) for i, text in enumerate(("One answer.", "Quite another"))]
    met = Pair(prompt=turn.prompt, a=own[0], b=own[1])
    return lambda: conversations.answer(turn=turn.public_id, origin=turn.origin, met=met, now=NOW)


def test_a_double_click_starts_one_conversation_and_says_one_thing(project):
    ann, key = membership(project), uuid4()
    results = together(*[lambda: start(membership=ann, now=NOW)] * 4)
    assert errors(results) == []
    made = Conversation.objects.get()
    results = together(*[lambda: ask(ann, made=made, key=key)] * 4)
    assert errors(results) == []
    assert ConversationTurn.objects.count() == 1
    conversations.give_up(ConversationTurn.objects.get(), origin=None, error="x")


def test_of_two_messages_in_two_tabs_one_is_said(project):
    ann = membership(project)
    made = start(membership=ann, now=NOW)
    results = together(*(lambda i=i: ask(ann, f"Message {i}", made=made) for i in range(4)))
    assert errors(results, NotYourTurn) == []
    assert sum(isinstance(item, ConversationTurn) for item in results) == ConversationTurn.objects.count() == 1


def test_an_answer_that_comes_twice_at_once_is_one_comparison(project):
    answer = ready(ask(membership(project)))
    results = together(*[answer] * 4)
    assert sorted(results) == [0, 0, 0, 1]
    assert Comparison.objects.count() == Slot.objects.count() == 1


def test_every_turn_has_one_round_though_many_look(project):
    people = [membership(project, f"person-{i}") for i in range(6)]
    asked = [lambda person=person: ask(person, f"{person.pk}?") for person in people]
    results = together(*asked, *[lambda: chat.start_rounds(now=NOW)] * 3)
    assert errors(results) == []
    together(*[lambda: chat.start_rounds(now=NOW)] * 3)
    assert Round.objects.count() == 6
    assert Counter(Round.objects.values_list("turn", flat=True)).most_common(1)[0][1] == 1
    origins = set(ConversationTurn.objects.values_list("origin", flat=True))
    assert origins == set(Round.objects.values_list("public_id", flat=True))


def test_ending_voting_and_skipping_at_once_leave_nothing_open(project):
    ann = membership(project)
    for i in range(8):
        made = start(membership=ann, system=str(i), now=NOW)
        assert ready(ask(ann, f"Question {i}?", made=made))() == 1
        found = thread(made, tab="chat", now=NOW, rng=random.Random(0))

        def vote(lease=found.assignment):
            return record_vote(assignment=lease, annotator=ann.user, key=uuid4(), answer=Answer(choice="left"), now=NOW)

        results = together(
            lambda made=made: end(conversation=made, rating=4, now=NOW),
            vote,
            lambda lease=found.assignment: assignments.skip(assignment=lease, reason="too_long", now=NOW),
        )
        assert errors(results, AssignmentOver) == []
    assert Vote.objects.count() == 8
    assert not Slot.objects.filter(state=SlotState.OPEN).exists()
    assert not Assignment.objects.filter(state=AssignmentState.LEASED).exists()
    assert not ConversationTurn.objects.filter(state=TurnState.WAITING).exists()


def test_priorities_move_while_people_vote(project):
    project.finish_started = True
    project.save()
    made = builders.comparisons(project, 12)
    people = [builders.member(project, f"person-{i}") for i in range(3)]

    def work(person):
        # A claim passes over slots that are being moved, so for a moment there may be nothing.
        deadline = time.monotonic() + 30
        while Slot.objects.exclude(state=SlotState.DONE).exists() and time.monotonic() < deadline:
            for item in builders.lease(project, person, wanted=3):
                builders.vote(item)

    def move():
        for priority in (3, 1, 2):
            set_priority(
                project=project,
                comparisons=project.comparisons.all(),
                priority=priority,
                by=project.created_by,
                now=NOW,
            )

    results = together(*(lambda person=person: work(person) for person in people), move, move)
    assert errors(results) == []
    assert Slot.objects.filter(state=SlotState.DONE).count() == 2 * len(made)
    assert set(Comparison.objects.values_list("priority", flat=True)) == {2}


def test_the_same_meetings_made_at_once_are_made_once(project):
    pairs = []
    for i in range(30):
        x = builders.prompt(project, f"{i}?")
        pairs.append(Pair(prompt=x, a=builders.completion(x, "Yes"), b=builders.completion(x, "No", index=1)))

    def make():
        return len(create_comparisons(project=project, pairs=pairs, origin=uuid4(), now=NOW))

    assert sorted(together(make, make, make)) == [0, 0, 30]
    assert Comparison.objects.count() == 30
    assert Slot.objects.count() == 60
