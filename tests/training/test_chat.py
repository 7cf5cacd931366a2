"""Answers to the turns of a conversation: by a worker's round of one prompt, and by an OpenAI-compatible server."""

from __future__ import annotations

import json
import random
import threading
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from uuid import uuid4

import pytest

from annotation import conversations
from annotation.conversations import read_chat, retry, say, start, thread
from annotation.errors import Invalid
from annotation.feedback import Answer, read_form
from annotation.models import (
    Comparison,
    Completion,
    ConversationTurn,
    Finish,
    Membership,
    Project,
    Role,
    Source,
    TurnState,
)
from annotation.voting import record_vote
from tests import builders, world
from tests.builders import NOW
from tests.training.rows import run
from training import chat, jobs, queries
from training.management.commands.tick import run_round
from training.models import Job, JobStatus, ModelKind, ModelSource, ModelVersion, Round
from training.registry import UnknownModel
from training.rounds import ingest, round_prompts, sampling_policies
from training.tasks import sample_turns

pytestmark = pytest.mark.django_db
TEXTS = ("Because blue light scatters most.", "It mirrors the sea, people used to say.", "Nobody knows.")


@pytest.fixture
def project():
    return builders.project(overlap=3)


def policy(name="base", kind=ModelKind.POLICY):
    return ModelVersion.objects.create(name=name, kind=kind, source=ModelSource.LOCAL, path=name, sha256="0" * 64)


def switch(project, *policies, **settings):
    data = {"enabled": True, "policies": [str(item.public_id) for item in policies], **settings}
    chat.change_chat(project=project, chat=read_chat(data), by=project.created_by, now=NOW)


def ask(project, content="Why is the sky blue?", name="ann"):
    """A message of ann's that waits; its turn."""
    ann = Membership.objects.select_related("project").get(user=builders.member(project, name))
    made = start(membership=ann, now=NOW)
    return say(conversation=made, membership=ann, content=content, key=uuid4(), now=NOW)


def state(turn):
    turn.refresh_from_db()
    return turn.state


def lines(made, texts=TEXTS):
    (prompt,) = round_prompts(made)
    names = [row["name"] for row in sampling_policies(made.job)]
    spoken = iter(texts)
    return [
        {"policy": name, "prompt_id": str(prompt.public_id), "index": index, "seed": 1, "text": next(spoken),
         "logprob": -1.0, "finish": "end", "tokens": 3}
        for name in names for index in range(made.completions)
    ]  # fmt: skip


def close(made, status):
    """The round's job ends without another word."""
    Job.objects.filter(pk=made.job_id).update(status=status)


# --- by a worker ------------------------------------------------------------------------------------------------------


def test_a_turn_is_a_round_of_one_prompt_before_everything_else(project):
    base = policy()
    jobs.submit(project=project, method="reward", config={"optim": {"learning_rate": 1e-4}}, by=None, priority=9)
    switch(project, base, sampling={"temperature": 0.7, "max_new_tokens": 40})
    turn = ask(project)
    assert chat.start_rounds(now=NOW) == 1
    assert chat.start_rounds(now=NOW) == 0
    made = Round.objects.get()
    assert (made.prompts, made.completions, made.sampling["temperature"]) == (1, 2, 0.7)
    assert jobs.claim(queue="gpu", host="here", lease_seconds=60).job_id == made.job_id
    assert ingest(made.job, lines(made), now=NOW) == 1
    assert state(turn) == TurnState.READY
    assert {place.completion.text for place in turn.comparison.places.all()} == set(TEXTS[:2])
    assert (turn.comparison.audience, turn.comparison.overlap) == (f"person:{turn.conversation.annotator_id}", 1)
    assert ingest(made.job, lines(made), now=NOW) == 0
    assert not queries.rounds(project).exists()  # a chat is no round of the researcher's


@pytest.mark.parametrize("n", [2, 4])
def test_of_several_policies_two_answer_once_each(project, n):
    switch(project, *(policy(f"m{i}") for i in range(n)))
    asked = 24  # ids are random: of four policies one is never among two of them once in four million runs
    for i in range(asked):
        ask(project, f"Question {i}?", name=f"person-{i}")
    assert sum(iter(lambda: chat.start_rounds(now=NOW), 0)) == asked
    met = set()
    for made in Round.objects.all():
        assert (made.completions, made.round_policies.count()) == (1, 2)
        assert ingest(made.job, lines(made), now=NOW) == 1
        met |= {row.model.name for row in made.round_policies.all()}
    assert len(met) == n


def test_two_who_look_at_once_start_one_round(project):
    switch(project, policy())
    ask(project)
    (first,) = chat._unclaimed(NOW)
    (second,) = chat._unclaimed(NOW)
    settings = read_chat(project.chat)
    assert [chat._start_round(turn, settings, NOW) for turn in (first, second)] == [True, False]
    assert Round.objects.count() == Job.objects.count() == 1


@pytest.mark.parametrize(
    ("status", "said"), [(JobStatus.FAILED, chat.FAILED), (JobStatus.CANCELLED, chat.CANCELLED),
                         (JobStatus.SUCCEEDED, chat.TOO_LONG)],
)  # fmt: skip
def test_a_round_that_brings_nothing_is_a_turn_that_says_why(project, status, said):
    switch(project, policy())
    turn = ask(project)
    chat.start_rounds(now=NOW)
    chat.start_rounds(now=NOW)
    assert state(turn) == TurnState.WAITING
    made = Round.objects.get()
    close(made, status)
    chat.start_rounds(now=NOW)
    assert (state(turn), turn.error) == (TurnState.FAILED, said)
    assert ingest(made.job, lines(made), now=NOW) == 0  # too late: the person has been told
    retry(conversation=turn.conversation, now=NOW)
    assert chat.start_rounds(now=NOW) == 1
    made = Round.objects.latest("pk")
    assert ingest(made.job, lines(made), now=NOW) == 1


def test_the_same_answer_twice_is_sampled_again_with_another_seed(project):
    switch(project, policy())
    turn = ask(project)
    seeds = set()
    for _ in range(chat.MOST_TRIES):
        chat.start_rounds(now=NOW)
        made = Round.objects.latest("pk")
        seeds.add(made.sampling["seed"])
        assert ingest(made.job, lines(made, ("Yes.", "yes")), now=NOW) == 0
        close(made, JobStatus.SUCCEEDED)
        chat.start_rounds(now=NOW)
    assert (state(turn), turn.error, len(seeds)) == (TurnState.FAILED, chat.ALIKE, chat.MOST_TRIES)
    assert not Comparison.objects.exists()


def test_a_model_that_is_gone_or_a_form_that_changed_fails_the_turn_and_not_the_tick(project):
    base = policy()
    switch(project, base)
    gone = ask(project)
    base.delete()
    chat.start_rounds(now=NOW)
    assert (state(gone), gone.error) == (TurnState.FAILED, chat.GONE)
    switch(project, policy("other"))
    turn = ask(project, name="ben")
    Project.objects.update(form=read_form({"kind": "ranking", "size": 3}).as_dict())
    chat.start_rounds(now=NOW)
    assert (state(turn), turn.error) == (TurnState.FAILED, chat.FAILED)
    assert not Round.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_a_worker_answers_with_a_child_of_its_own(project):
    """The whole way but for the engine: task, queue, lease, child, files, rows."""
    switch(project, policy())
    turn = ask(project)
    sample_turns()
    made = Round.objects.get()

    def store(job, said):
        ingest(job, [lines(made)[line["index"]] | {"text": f"{TEXTS[line['index']]}\x00"} for line in said], now=NOW)

    assert run(made.job, {"steps": 2}, completions=store) is JobStatus.SUCCEEDED
    assert state(turn) == TurnState.READY


# --- by a server ------------------------------------------------------------------------------------------------------


class Server(ThreadingHTTPServer):
    """Speaks /v1/chat/completions: what `script` says, one entry a request, or else fresh texts."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked, self.script, self.lock = [], [], threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            number = len(self.server.asked)
            self.server.asked.append((self.path, self.headers.get("Authorization"), body))
            scripted = self.server.script.pop(0) if self.server.script else TEXTS[number % len(TEXTS)]
        status, answer = scripted if isinstance(scripted, tuple) else (200, completion(scripted))
        if status == 0:
            return  # hangs up
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def completion(text, reason="stop"):
    return {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 7, "total_tokens": 16},
    }


@pytest.fixture
def server(settings):
    made = Server()
    running = threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True)
    running.start()
    settings.SAMPLER_URL, settings.SAMPLER_MODEL, settings.SAMPLER_KEY = made.url, "llama-3", "s3cret"
    settings.OUTBOUND = (f"127.0.0.1:{made.server_port}",)
    yield made
    made.shutdown()
    made.server_close()
    running.join(5)


def at(seconds=0.0):
    return lambda: NOW + timedelta(seconds=seconds)


def test_a_server_answers_twice_with_different_seeds(project, server):
    switch(project, server=True, sampling={"temperature": 0.8, "top_p": 0.9, "max_new_tokens": 50})
    turn = ask(project)
    assert chat.start_rounds(now=NOW) == 0
    assert chat.server_is_wanted(now=NOW)
    assert chat.answer_by_server(clock=at()) == 1
    assert state(turn) == TurnState.READY
    (path, key, one), (_, _, other) = server.asked
    assert (path, key) == ("/v1/chat/completions", "Bearer s3cret")
    assert one | {"seed": 0} == other | {"seed": 0} == {
        "model": "llama-3", "messages": turn.prompt.messages, "temperature": 0.8, "top_p": 0.9, "max_tokens": 50,
        "seed": 0,
    }  # fmt: skip
    assert one["seed"] != other["seed"]
    own = [place.completion for place in turn.comparison.places.all()]
    assert {item.text for item in own} == set(TEXTS[:2])
    assert {(item.source.name, item.tokens, item.finish) for item in own} == {("server: llama-3", 7, Finish.END)}
    assert {item.sampling["seed"] for item in own} == {one["seed"], other["seed"]}
    assert not chat.server_is_wanted(now=NOW)
    assert chat.answer_by_server(clock=at()) == 0
    assert not Job.objects.exists()


def test_the_second_turn_says_what_was_said_before(project, server):
    switch(project, server=True)
    turn = ask(project)
    chat.answer_by_server(clock=at())
    found = thread(turn.conversation, tab="chat", now=NOW, rng=random.Random(0))
    record_vote(
        assignment=found.assignment, annotator=found.assignment.annotator, key=uuid4(), answer=Answer(choice="left"),
        now=NOW,
    )  # fmt: skip
    ann = Membership.objects.get(user__name="ann")
    say(conversation=turn.conversation, membership=ann, content="And at night?", key=uuid4(), now=NOW)
    chat.answer_by_server(clock=at())
    assert [message["role"] for message in server.asked[-1][2]["messages"]] == ["user", "assistant", "user"]
    assert ConversationTurn.objects.filter(state=TurnState.READY).count() == 1


@pytest.mark.parametrize(
    "broken",
    [(500, {"error": "secret trace"}), (200, b"<html>"), (200, {"choices": []}), (200, {"choices": [{}]}), (200, []),
     (200, {"choices": [{"message": {"content": None}}]}), (302, {}), (0, None)],
)  # fmt: skip
def test_a_side_that_fails_never_lets_the_other_win(project, server, broken):
    switch(project, server=True)
    turn = ask(project)
    for i in range(chat.MOST_TRIES):
        server.script = ["A fine answer.", broken]
        assert chat.answer_by_server(clock=at(i * 10)) == 0
        assert not Completion.objects.exists()
    assert len(server.asked) == 2 * chat.MOST_TRIES
    assert (state(turn), turn.error) == (TurnState.FAILED, chat.AWAY)
    assert "secret" not in turn.error
    retry(conversation=turn.conversation, now=NOW)
    assert chat.answer_by_server(clock=at()) == 1
    assert state(turn) == TurnState.READY


def test_a_failed_try_rests_before_the_next(project, server):
    switch(project, server=True)
    turn = ask(project)
    server.script = [(500, {})] * 2
    assert chat.answer_by_server(clock=at()) == 0
    assert chat.answer_by_server(clock=at(chat.PAUSE_SECONDS / 2)) == 0
    assert len(server.asked) == 2
    assert chat.answer_by_server(clock=at(chat.PAUSE_SECONDS)) == 1
    assert state(turn) == TurnState.READY


def test_a_server_that_repeats_itself_fails_the_turn(project, server):
    switch(project, server=True)
    turn = ask(project)
    for i in range(chat.MOST_TRIES):
        server.script = ["Yes.", "yes!"]
        chat.answer_by_server(clock=at(i * 10))
    assert (state(turn), turn.error) == (TurnState.FAILED, chat.ALIKE)
    assert not Completion.objects.exists()


def test_a_claimed_turn_is_left_to_its_worker_until_the_lease_is_over(project, server):
    switch(project, server=True)
    turn = ask(project)
    (row,) = chat._unclaimed(NOW)
    assert chat._claim(row, NOW)
    (same,) = ConversationTurn.objects.select_related("conversation__project", "prompt")
    assert not chat._claim(same, NOW)
    assert chat.answer_by_server(clock=at(chat.LEASE_SECONDS - 1)) == 0
    assert chat.answer_by_server(clock=at(chat.LEASE_SECONDS + 1)) == 1
    assert not chat._ask(row, at(chat.LEASE_SECONDS + 2))  # the first worker wakes up again
    assert state(turn) == TurnState.READY
    assert Comparison.objects.count() == 1


def test_a_server_that_the_operator_does_not_allow_is_not_asked(project, server, settings):
    switch(project, server=True)
    turn = ask(project)
    settings.OUTBOUND = ()
    for i in range(chat.MOST_TRIES):
        chat.answer_by_server(clock=at(i * 10))
    assert (server.asked, state(turn), turn.error) == ([], TurnState.FAILED, chat.AWAY)


def test_a_slow_server_is_given_up(project, server, monkeypatch):
    monkeypatch.setattr(chat, "ANSWER_SECONDS", 0.2)
    switch(project, server=True)
    ask(project)
    blocked = threading.Event()
    monkeypatch.setattr(Handler, "do_POST", lambda self: blocked.wait(5))
    assert chat.answer_by_server(clock=at()) == 0
    blocked.set()
    assert ConversationTurn.objects.get().tries == 1


def test_a_cut_answer_says_so(project, server):
    switch(project, server=True)
    ask(project)
    server.script = [(200, completion("One thing", "length")), "Another matter"]
    chat.answer_by_server(clock=at())
    assert set(Completion.objects.values_list("text", "finish")) == {
        ("One thing", Finish.LENGTH), ("Another matter", Finish.END)
    }  # fmt: skip


# --- settings, task, tick ---------------------------------------------------------------------------------------------


def test_a_chat_has_models_that_are_there(project, settings):
    reward = policy("reward", kind=ModelKind.REWARD)
    settings.SAMPLER_URL = ""
    for chosen in ({"policies": [str(uuid4())]}, {"policies": [str(reward.public_id)]}):
        with pytest.raises(UnknownModel):
            chat.change_chat(project=project, chat=read_chat(chosen), by=project.created_by, now=NOW)
    for chosen in ({"policies": ["base"]}, {"server": True}):
        with pytest.raises(Invalid):
            chat.change_chat(project=project, chat=read_chat(chosen), by=project.created_by, now=NOW)


def test_the_chat_through_the_api(project, server):
    base = policy()
    olga, address = world.client(project.created_by), "/api/v1/projects/helpful/chat"
    assert olga.get(address).json() == {
        "enabled": False, "policies": [], "server": False, "max_turns": 10, "server_model": "llama-3",
        "sampling": {"temperature": 1.0, "top_p": 0.95, "max_new_tokens": 256},
    }  # fmt: skip
    wanted = {"enabled": True, "policies": [str(base.public_id)], "max_turns": 3, "sampling": {"temperature": 0.5}}
    assert olga.put(address, wanted).json()["sampling"]["temperature"] == 0.5
    for bad in ({"enabled": True}, {"policies": [str(uuid4())]}, {"max_turns": 0}, {"sampling": {"temperature": 0}}):
        assert olga.put(address, bad).status_code == 400, bad
    assert olga.get(address).json()["max_turns"] == 3
    vera = world.client(builders.member(project, "vera", Role.VIEWER))
    assert (vera.get(address).status_code, vera.put(address, wanted).status_code) == (200, 403)
    ann = world.client(builders.member(project, "ann"))
    assert ann.get("/api/v1/annotate/projects/helpful/conversations").json()["enabled"] is True


def test_the_tick_starts_rounds_and_asks_nobody_outside(project, server):
    switch(project, policy())
    ask(project)
    run_round(analyze=False)
    assert Round.objects.count() == 1
    switch(project, server=True)
    turn = ask(project, name="ben")
    run_round(analyze=False)
    assert (server.asked, state(turn)) == ([], TurnState.WAITING)
    sample_turns()
    assert state(turn) == TurnState.READY
    assert Source.objects.filter(name="server: llama-3").exists()
    assert conversations.last_turn(turn.conversation).state == TurnState.READY
