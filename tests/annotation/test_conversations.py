"""Prompts that come from people: a message, two answers, a vote, and on."""

from __future__ import annotations

import random
from datetime import timedelta
from uuid import uuid4

import pytest

from annotation import conversations
from annotation.assignment import flag, lease, skip
from annotation.consensus import settle_due
from annotation.conversations import (
    ChatOff,
    ConversationOver,
    KeyReused,
    NotYourTurn,
    change_chat,
    end,
    read_chat,
    retry,
    say,
    start,
    thread,
)
from annotation.errors import Invalid
from annotation.feedback import Answer, read_form
from annotation.models import (
    Assignment,
    AssignmentState,
    AuditEvent,
    Comparison,
    Consensus,
    ConversationTurn,
    FlagKind,
    Membership,
    Project,
    Prompt,
    Slot,
    TurnState,
)
from annotation.pairing import Pair
from annotation.qualification import NotNow
from annotation.voting import record_vote, retract
from tests import builders, world
from tests.builders import NOW

pytestmark = pytest.mark.django_db
TEXTS = ("A first answer.", "Something else altogether.")


@pytest.fixture
def project():
    made = builders.project(overlap=3)
    switch(made)
    return made


def switch(project, **settings):
    chat = read_chat({"enabled": True, "policies": [str(uuid4())], **settings})
    change_chat(project=project, chat=chat, by=project.created_by, now=NOW)


@pytest.fixture
def ann(project):
    return Membership.objects.get(user=builders.member(project, "ann"))


def speak(conversation, membership, content="Why is the sky blue?", key=None):
    return say(conversation=conversation, membership=membership, content=content, key=key or uuid4(), now=NOW)


def sampled(turn, *, texts=TEXTS):
    """What a sampler does: two completions arrive."""
    origin = uuid4()
    ConversationTurn.objects.filter(pk=turn.pk).update(origin=origin)
    own = [builders.completion(turn.prompt, text, by="policy", index=i, origin=origin) for i, text in enumerate(texts)]
    met = Pair(prompt=turn.prompt, a=own[0], b=own[1])
    assert conversations.answer(turn=turn.public_id, origin=origin, met=met, now=NOW) == 1
    return met


def read(conversation, now=NOW):
    conversation.refresh_from_db()
    return thread(conversation, tab="chat", now=now, rng=random.Random(1))


def judge(found, choice="left"):
    return record_vote(
        assignment=found.assignment, annotator=found.assignment.annotator, key=uuid4(), answer=Answer(choice=choice),
        now=NOW,
    )  # fmt: skip


def left_text(assignment):
    places = {"ab"[place.position]: place.completion.text for place in assignment.comparison.places.all()}
    return places[assignment.sides[0]]


def said(found):
    return [(message["role"], message["content"]) for message in found.messages]


# --- a conversation ---------------------------------------------------------------------------------------------------


def test_a_conversation_goes_on_with_the_better_answer(project, ann):
    made = start(membership=ann, system="Be brief.", now=NOW)
    first = speak(made, ann)
    assert (read(made).turn.state, read(made).assignment) == (TurnState.WAITING, None)
    assert (first.prompt.category, first.prompt.author) == ("written", ann.user)
    met = sampled(first)
    found = read(made)
    assert found.turn.state == TurnState.READY
    better = left_text(found.assignment)
    judge(found)
    assert said(read(made)) == [
        ("system", "Be brief."), ("user", "Why is the sky blue?"), ("assistant", better)
    ]  # fmt: skip
    second = speak(made, ann, "And at night?")
    assert second.prompt.messages == [*read(made).messages]
    assert [message["role"] for message in second.prompt.messages] == ["system", "user", "assistant", "user"]
    comparison = Comparison.objects.get(prompt=first.prompt)
    assert (comparison.overlap, comparison.audience) == (1, f"person:{ann.user_id}")
    assert {place.completion for place in comparison.places.all()} == set(met.completions)
    settle_due(now=NOW)
    assert Consensus.objects.get(comparison=comparison).state == "settled"
    assert Prompt.objects.filter(project=project).count() == 2


def test_nobody_else_gets_the_two_answers(project, ann):
    made = start(membership=ann, now=NOW)
    sampled(speak(made, ann))
    ben, rng = builders.member(project, "ben"), random.Random(0)
    assert lease(project=project, annotator=ben, tab="t", wanted=5, now=NOW, rng=rng) == []
    (own,) = lease(project=project, annotator=ann.user, tab="t", wanted=5, now=NOW, rng=rng)
    assert read(made).assignment.pk == own.pk  # the queue and the chat give one and the same


@pytest.mark.parametrize("choice", ["tie", "both_bad"])
def test_of_two_equal_answers_a_coin_that_falls_once_decides(project, ann, choice):
    Project.objects.update(form=read_form({"allow_both_bad": True}).as_dict())
    ann.project.refresh_from_db()
    positions = set()
    for i in range(12):
        made = start(membership=ann, system=f"{i}", now=NOW)
        sampled(speak(made, ann, f"Question {i}?"))
        judge(read(made), choice)
        chosen = read(made).turn.chosen
        assert read(made).turn.chosen == chosen
        positions.add(chosen.index)
    assert positions == {0, 1}


def test_a_vote_taken_back_opens_the_turn_until_the_next_message(project, ann):
    made = start(membership=ann, now=NOW)
    sampled(speak(made, ann))
    receipt = judge(read(made))
    first = read(made).turn.chosen
    retract(vote=receipt.vote, by=ann.user, now=NOW)
    found = read(made)
    assert (found.turn.state, found.turn.chosen) == (TurnState.READY, None)
    with pytest.raises(NotYourTurn):
        speak(made, ann, "And now?")
    receipt = judge(found, "right")
    assert read(made).turn.chosen != first
    other = read(made).turn.chosen
    speak(made, ann, "And now?")
    retract(vote=receipt.vote, by=ann.user, now=NOW)
    assert read(made).turn.number == 2
    assert ConversationTurn.objects.get(conversation=made, number=1).chosen == other


def test_a_message_sent_twice_is_one_turn(project, ann):
    made, key = start(membership=ann, now=NOW), uuid4()
    first = speak(made, ann, key=key)
    assert speak(made, ann, key=key).pk == first.pk
    with pytest.raises(KeyReused):
        speak(made, ann, "Something else", key=key)
    other = start(membership=ann, system="x", now=NOW)
    assert speak(other, ann, "Something else", key=key).pk != first.pk  # a key is the conversation's own
    with pytest.raises(NotYourTurn):
        speak(made, ann, "Too early")
    sampled(first)
    judge(read(made))
    speak(made, ann, "Next")
    assert speak(made, ann, key=key).pk == first.pk


def test_the_same_words_are_one_prompt_with_a_comparison_for_each_person(project, ann):
    ben = Membership.objects.get(user=builders.member(project, "ben"))
    builders.prompt(project)  # imported: "Why is the sky blue?"
    for person in (ann, ben):
        sampled(speak(start(membership=person, now=NOW), person))
    assert Prompt.objects.count() == 1
    assert Comparison.objects.count() == 2
    assert set(Slot.objects.values_list("audience", flat=True)) == {f"person:{p.user_id}" for p in (ann, ben)}


def test_an_empty_conversation_is_given_again(project, ann):
    made = start(membership=ann, now=NOW)
    assert start(membership=ann, now=NOW) == made
    assert start(membership=ann, system="Be rude.", now=NOW) != made
    speak(made, ann)
    assert start(membership=ann, now=NOW) != made


def test_an_expired_lease_is_given_again_and_a_late_vote_counts(project, ann):
    made = start(membership=ann, now=NOW)
    sampled(speak(made, ann))
    found, later = read(made), NOW + timedelta(hours=2)
    again = read(made, now=later)
    assert again.assignment.comparison == found.assignment.comparison
    assert record_vote(
        assignment=again.assignment, annotator=ann.user, key=uuid4(), answer=Answer(choice="left"), now=later
    ).counted


# --- failures ---------------------------------------------------------------------------------------------------------


def test_a_turn_that_failed_says_why_and_is_sampled_again(project, ann):
    made = start(membership=ann, now=NOW)
    turn = speak(made, ann)
    assert retry(conversation=made, now=NOW).state == TurnState.WAITING  # nothing to do
    assert conversations.give_up(turn, origin=None, error="The model is away.")
    assert not conversations.give_up(turn, origin=None, error="Again.")
    assert (read(made).turn.state, read(made).turn.error) == (TurnState.FAILED, "The model is away.")
    with pytest.raises(NotYourTurn):
        speak(made, ann, "Hello?")
    again = retry(conversation=made, now=NOW)
    assert (again.state, again.error, again.tries) == (TurnState.WAITING, "", 0)
    sampled(again)
    judge(read(made))
    assert read(made).turn.state == TurnState.VOTED
    with pytest.raises(NotYourTurn):
        retry(conversation=made, now=NOW)


@pytest.mark.parametrize("how", ["skip", "flag"])
def test_answers_that_are_turned_down_are_replaced(project, ann, how):
    made = start(membership=ann, now=NOW)
    turn = speak(made, ann)
    sampled(turn)
    assignment = read(made).assignment
    if how == "skip":
        skip(assignment=assignment, reason="broken", now=NOW)
    else:
        flag(assignment=assignment, kind=FlagKind.HARMFUL, note="", now=NOW)
    assert (read(made).turn.state, "skipped" in read(made).turn.error) == (TurnState.FAILED, True)
    old = turn.comparison or ConversationTurn.objects.get(pk=turn.pk).comparison
    sampled(retry(conversation=made, now=NOW))
    found = read(made)
    assert found.assignment.comparison != old
    assert not old.slots.exists()
    assert Slot.objects.count() == 1


def test_a_late_sampling_changes_nothing(project, ann):
    made = start(membership=ann, now=NOW)
    turn = speak(made, ann)
    met = sampled(turn)
    judge(read(made))
    assert conversations.answer(turn=turn.public_id, origin=uuid4(), met=met, now=NOW) == 0
    assert not conversations.try_again(turn, origin=None)
    assert Comparison.objects.count() == 1
    assert read(made).turn.state == TurnState.VOTED


# --- the end ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["empty", "waiting", "ready", "voted"])
def test_a_conversation_ends_with_a_rating_at_any_stage(project, ann, stage):
    made = start(membership=ann, now=NOW)
    if stage != "empty":
        turn = speak(made, ann)
    if stage in {"ready", "voted"}:
        sampled(turn)
        found = read(made)
    if stage == "voted":
        judge(found)
    assert end(conversation=made, rating=6, now=NOW).rating == 6
    assert end(conversation=made, rating=6, now=NOW + timedelta(hours=1)).ended_at == NOW
    for act in (lambda: end(conversation=made, rating=2, now=NOW), lambda: speak(made, ann, "More")):
        with pytest.raises(ConversationOver):
            act()
    assert read(made).assignment is None
    assert not Slot.objects.exclude(state="done").exists()
    assert not Assignment.objects.filter(state=AssignmentState.LEASED).exists()
    assert not ConversationTurn.objects.filter(state=TurnState.WAITING).exists()
    with pytest.raises(Invalid):
        end(conversation=made, rating=8, now=NOW)


def test_a_conversation_has_so_many_turns_and_no_more(project, ann):
    switch(project, max_turns=1)
    ann.project.refresh_from_db()
    made = start(membership=ann, now=NOW)
    sampled(speak(made, ann))
    judge(read(made))
    with pytest.raises(NotYourTurn, match="at most 1"):
        speak(made, ann, "More")


# --- who may ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["", "  \n", "x" * 8001])
def test_a_message_has_a_length(project, ann, content):
    with pytest.raises(Invalid):
        speak(start(membership=ann, now=NOW), ann, content)


@pytest.mark.parametrize("why", ["paused", "person_paused", "excluded", "confirm_guideline"])
def test_who_may_not_work_may_not_chat(project, ann, why):
    made = start(membership=ann, now=NOW)
    if why == "paused":
        ann.project.paused_at = NOW
    elif why == "person_paused":
        ann.paused_at = NOW
    elif why == "excluded":
        ann.excluded_at = NOW
    else:
        ann.project.confirm_guideline = True
    for act in (lambda: start(membership=ann, now=NOW), lambda: speak(made, ann)):
        with pytest.raises(NotNow):
            act()


def test_a_chat_is_off_unless_it_is_switched_on(project, ann):
    switch(project, enabled=False)
    ann.project.refresh_from_db()
    with pytest.raises(ChatOff):
        start(membership=ann, now=NOW)
    ranking = builders.project(slug="ranking", form=read_form({"kind": "ranking", "size": 3}))
    with pytest.raises(Invalid):
        switch(ranking)
    assert AuditEvent.objects.filter(action="chat.changed").count() == 2


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ({"enabled": True}, "policies"),
        ({"policies": ["a", "a"]}, "policies"),
        ({"policies": list("abcde")}, "policies"),
        ({"policies": "abc"}, "policies"),
        ({"enabled": "yes"}, "enabled"),
        ({"max_turns": 0}, "max_turns"),
        ({"max_turns": True}, "max_turns"),
        ({"sampling": {"temperature": 0}}, "sampling.temperature"),
        ({"sampling": {"temperature": float("nan")}}, "sampling.temperature"),
        ({"sampling": {"top_k": 3}}, "sampling.top_k"),
        ({"sampling": []}, "sampling"),
        ({"models": []}, "models"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(data, name):
    with pytest.raises(Invalid) as refused:
        read_chat(data)
    assert name in refused.value.details


def test_settings_survive_the_way_to_the_database(project):
    chat = read_chat({"enabled": True, "server": True, "max_turns": 3, "sampling": {"max_new_tokens": 9}})
    change_chat(project=project, chat=chat, by=project.created_by, now=NOW)
    assert read_chat(Project.objects.get(pk=project.pk).chat) == chat
    assert read_chat({}).enabled is False


# --- through the API --------------------------------------------------------------------------------------------------

CHAT = "/api/v1/annotate/projects/helpful/conversations"
THREAD = {"id", "messages", "state", "error", "task", "turns", "max_turns", "waiting_since", "ended_at", "rating"}


def test_a_conversation_through_the_api(project, ann):
    browser = world.client(ann.user)
    listed = browser.get(CHAT).json()
    assert (listed["enabled"], listed["max_turns"], listed["items"]) == (True, 10, [])
    made = browser.post(CHAT, {"system": "Be brief."})
    assert made.status_code == 201
    address = f"{CHAT}/{made.json()['id']}"
    assert browser.post(f"{address}/messages", {"content": "Hello"}).status_code == 400  # without a key
    key = {"Idempotency-Key": str(uuid4())}
    told = browser.post(f"{address}/messages", {"content": "Hello"}, headers=key)
    assert (told.status_code, told.json()["state"], set(told.json())) == (201, "waiting", THREAD)
    assert browser.post(f"{address}/messages", {"content": "Hello"}, headers=key).json() == told.json()
    sampled(ConversationTurn.objects.get())
    shown = browser.get(address).json()
    assert (shown["state"], sorted(shown["task"]["completions"])) == ("ready", sorted(TEXTS))
    vote = f"/api/v1/annotate/assignments/{shown['task']['assignment']}/vote"
    assert browser.post(vote, {"choice": "left"}, headers={"Idempotency-Key": str(uuid4())}).status_code == 201
    shown = browser.get(address).json()
    assert (shown["state"], shown["messages"][-1]["role"], shown["task"]) == ("write", "assistant", None)
    ended = browser.post(f"{address}/end", {"rating": 7}).json()
    assert (ended["state"], ended["rating"]) == ("ended", 7)
    assert browser.get(CHAT).json()["items"][0]["turns"] == 1


def test_a_conversation_is_its_persons_own(project, ann):
    made = start(membership=ann, now=NOW)
    ben = world.client(builders.member(project, "ben"))
    for method, end_ in (("get", ""), ("post", "/messages"), ("post", "/retry"), ("post", "/end")):
        assert getattr(ben, method)(f"{CHAT}/{made.public_id}{end_}").status_code == 404
    assert ben.get(CHAT).json()["items"] == []


def test_researchers_read_conversations_with_pseudonyms(project, ann):
    made = start(membership=ann, now=NOW)
    sampled(speak(made, ann))
    judge(read(made))
    speak(made, ann, "And at night?")
    olga = world.client(project.created_by)
    (row,) = olga.get("/api/v1/projects/helpful/conversations").json()["items"]
    assert (row["annotator"], row["turns"]) == (ann.pseudonym, 2)
    shown = olga.get(f"/api/v1/projects/helpful/conversations/{made.public_id}")
    first, second = shown.json()["thread"]
    assert (first["state"], first["source"], second["state"]) == ("voted", "policy", "waiting")
    assert "ann@example.org" not in shown.content.decode()
