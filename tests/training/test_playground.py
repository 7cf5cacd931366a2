"""The playground: questions and answers by the real engine, what is seen while one waits, and the way to annotators."""

from __future__ import annotations

import json
from uuid import uuid4

import pytest
from django.utils import timezone

from annotation.errors import Invalid
from annotation.models import Comparison, Completion, CompletionScore, Prompt, Role
from tests import builders
from tests.builders import NOW
from tests.engine.tiny import tiny_model
from tests.training.rows import Runner, model, until
from tests.training.small import directories, small
from tests.world import client
from training import jobs, playground, runner
from training.ingestion import LeaseLost
from training.models import (
    AnswerState,
    Job,
    JobStatus,
    ModelKind,
    ModelSource,
    ModelVersion,
    PlaygroundQuestion,
    PlaygroundSession,
)
from training.playground import MOST_OPEN, NotFinished, PlaygroundBusy, Sampling, Stage, ask, send, standing, stop
from training.playground_relay import Relay

__all__ = ["directories", "small"]  # fixtures

pytestmark = pytest.mark.django_db
URL = "/api/v1/projects/helpful/playground"
ASKED = [{"role": "user", "content": "good dog?"}]


@pytest.fixture
def project():
    return builders.project(overlap=2)


def put(project, *policies, **fields):
    values = {"messages": ASKED, "policies": policies, "by": project.created_by, "now": NOW} | fields
    return ask(project=project, **values)


def read(question):
    return playground.questions(question.project).get(pk=question.pk)


def finished(question, *texts, **fields):
    """As if the engine had written these."""
    for answer, text in zip(question.answers.order_by("pk"), texts, strict=True):
        values = {"state": AnswerState.DONE, "text": text, "tokens": 3, "logprob": -1.5, "finish": "end"} | fields
        question.answers.filter(pk=answer.pk).update(**values)
    return read(question)


# --- by the real engine -----------------------------------------------------------------------------------------------


@pytest.fixture
def second(tmp_path, small):
    return ModelVersion.objects.create(
        name="second", kind=ModelKind.POLICY, source=ModelSource.LOCAL, sha256="1" * 64,
        path=str(tiny_model(tmp_path / "second", seed=9)),
    )  # fmt: skip


TIMING = runner.Timing(lease_seconds=600, heartbeat_seconds=0.2, poll_seconds=0.05, ingest_seconds=0.2)


def over(question):
    return until(lambda: standing(read(question), now=timezone.now()).stage is Stage.OVER, seconds=120)


@pytest.mark.django_db(transaction=True)
def test_policies_answer_side_by_side_and_what_they_wrote_goes_to_annotators(small, second):
    project, both = small.project, [small.policy, second]
    sampling = Sampling(max_new_tokens=12, seed=5)
    first = put(project, *both, completions=2, sampling=sampling, reward=small.reward)
    working = Runner(runner.production_hooks(), timing=TIMING)
    over(first)
    answers = list(first.answers.order_by("pk"))
    assert [(answer.model, answer.index) for answer in answers] == [(p, i) for p in both for i in range(2)]
    assert {answer.state for answer in answers} == {AnswerState.DONE}
    assert all(0 < answer.tokens <= 12 and answer.logprob < 0 and answer.score is not None for answer in answers)

    again = put(project, *both, completions=2, sampling=sampling)  # the models are there: no second job
    over(again)
    assert Job.objects.filter(method="serve").count() == 1
    assert [answer.text for answer in again.answers.order_by("pk")] == [answer.text for answer in answers]
    assert {answer.score for answer in again.answers.all()} == {None}  # not asked for

    assert send(first, by=project.created_by, now=NOW) == send(first, by=project.created_by, now=NOW) > 0
    written = list(Completion.objects.filter(origin=first.public_id).order_by("pk"))
    assert [(row.text, row.tokens, row.logprob, row.index) for row in written] == [
        (answer.text, answer.tokens, answer.logprob, answer.index) for answer in answers
    ]
    assert {row.source.model_id for row in written} == {policy.public_id for policy in both}
    assert {row.prompt.messages[0]["content"] for row in written} == {"good dog?"}
    assert all(row.sampling == {"temperature": 1.0, "top_p": 0.95, "max_new_tokens": 12, "seed": 5} for row in written)
    scores = CompletionScore.objects.filter(completion__in=written)
    assert set(scores.values_list("scorer", flat=True)) == {str(small.reward.public_id)}
    met = Comparison.objects.filter(origin=first.public_id)
    assert all({place.completion.source.model_id for place in row.places.all()} ==
               {policy.public_id for policy in both} for row in met)  # fmt: skip

    put(project, small.policy, reward=small.other)  # other models: the idle session makes room for theirs
    assert working.join() == JobStatus.SUCCEEDED
    assert Job.objects.filter(method="serve").count() == 2


@pytest.mark.django_db(transaction=True)
def test_a_policy_whose_files_are_gone_fails_alone_and_a_stop_keeps_the_text(small):
    gone = model("gone")
    question = put(small.project, small.policy, gone, sampling=Sampling(max_new_tokens=2000))
    working = Runner(runner.production_hooks(), timing=TIMING)
    answer, missing = question.answers.order_by("pk")
    until(lambda: question.answers.get(pk=answer.pk).tokens > 3, seconds=120)
    until(lambda: question.answers.get(pk=missing.pk).state == AnswerState.FAILED)
    stop(question, now=NOW)
    until(lambda: question.answers.get(pk=answer.pk).state != AnswerState.WRITING)
    answer, missing = question.answers.order_by("pk")
    assert answer.state in (AnswerState.STOPPED, AnswerState.DONE) and answer.text
    assert "gone" in missing.error
    working.stop.set()
    assert working.join() == JobStatus.QUEUED  # the worker shut down: the next one loads them again


# --- between rows and files -------------------------------------------------------------------------------------------


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


def test_a_lost_attempt_writes_nothing_more_and_the_next_one_asks_again(project, tmp_path):
    base = model()
    question = put(project, base)
    (answer,) = question.answers.all()
    texts = []
    for attempt in ("1", "2"):
        claim = jobs.claim(queue="gpu", host="here", lease_seconds=60)
        relay = Relay(claim, question.session.job, tmp_path / attempt)
        relay.exchange()
        place = tmp_path / attempt / str(base.public_id)
        asked = json.loads((place / "in" / f"{answer.public_id}.json").read_text())
        assert (asked["messages"], asked["index"], asked["seed"]) == (ASKED, 0, 1)
        (place / "out").mkdir()
        out = place / "out" / f"{answer.public_id}.jsonl"
        out.write_text(lines({"token": 1, "text": f"from {attempt}", "logprob": -0.5}) + '{"tok')
        relay.exchange(is_last=True)
        answer.refresh_from_db()
        texts.append((answer.state, answer.text))
        if attempt == "1":
            job = question.session.job
            jobs.requeue(job_id=job.pk, owner=claim.owner, ending=jobs.Ending.SHUTDOWN, outcome=jobs.Outcome(reason=""))
            out.write_text(lines({"token": 1, "text": "too late", "logprob": -0.5}, {"done": True, "finish": "end"}))
            late, late_relay = out, relay
    assert texts == [(AnswerState.WRITING, "from 1"), (AnswerState.WRITING, "from 2")]
    late.write_text(late.read_text() * 2)
    with pytest.raises(LeaseLost):
        late_relay.exchange(is_last=True)
    out.write_text(lines({"token": 1, "text": "from 2", "logprob": -0.5}, {"error": {"message": "too long"}}))
    relay.exchange(is_last=True)
    answer.refresh_from_db()
    assert (answer.state, answer.text, answer.error) == (AnswerState.FAILED, "from 2", "too long")


# --- where it stands --------------------------------------------------------------------------------------------------


def test_a_question_says_what_it_waits_for(project):
    before = jobs.submit(project=project, method="reward", config={"optim": {"learning_rate": 1e-4}}, by=None)
    jobs.claim(queue="gpu", host="here", lease_seconds=60)
    question = put(project, model())
    found = standing(read(question), now=timezone.now())
    assert (found.stage, found.ahead, found.workers) == (Stage.WAITING, 1, 0)
    jobs.claim(queue="gpu", host="here", lease_seconds=60)
    assert standing(read(question), now=timezone.now()).stage is Stage.STARTING
    Job.objects.filter(pk=question.session.job_id).update(progress={"phase": "waiting"})
    assert standing(read(question), now=timezone.now()).stage is Stage.ANSWERING
    assert before.pk != question.session.job_id


def test_a_job_that_has_failed_fails_what_it_left_open(project):
    question = put(project, model())
    Job.objects.update(status=JobStatus.FAILED, reason="out of memory")
    (answer,) = read(question).answers.all()
    assert playground.shown_state(answer, read(question).session.job) == (AnswerState.FAILED, "out of memory")
    assert standing(read(question), now=NOW).stage is Stage.OVER
    put(project, ModelVersion.objects.get())  # and a new one is started
    assert PlaygroundSession.objects.count() == 2


def test_other_models_take_the_place_of_those_that_nobody_asks(project):
    one, other = model("one"), model("other")
    question = put(project, one, other)
    assert put(project, other).session == question.session  # a part of what is loaded
    stop(question, now=NOW)
    for row in PlaygroundQuestion.objects.all():
        stop(row, now=NOW)
    third = put(project, model("third"))
    assert third.session != question.session
    question.session.refresh_from_db()
    assert question.session.closed_at is not None
    assert Job.objects.get(playground_session=question.session).status == JobStatus.CANCELLED  # it had not begun


# --- to annotators ----------------------------------------------------------------------------------------------------


def test_nothing_is_sent_before_it_is_written_and_nothing_that_is_alike(project):
    question = put(project, model(), completions=2)
    with pytest.raises(NotFinished):
        send(question, by=project.created_by, now=NOW)
    same = finished(question, "Yes.", "Yes.")
    with pytest.raises(Invalid, match="differ"):
        send(same, by=project.created_by, now=NOW)
    assert not Prompt.objects.exists() and read(question).sent_at is None


def test_a_failed_column_is_left_out(project):
    question = put(project, *(model(name) for name in "abc"))
    finished(question, "One thing.", "Another matter.", "Half a")
    question.answers.filter(text="Half a").update(state=AnswerState.FAILED)
    assert send(read(question), by=project.created_by, overlap=1, now=NOW) == 1
    comparison = Comparison.objects.get()
    assert (comparison.origin, comparison.overlap) == (question.public_id, 1)
    assert {place.completion.text for place in comparison.places.all()} == {"One thing.", "Another matter."}


# --- limits, roles and the API ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("messages", {"messages": []}),
        ("messages[0].role", {"messages": [{"role": "assistant", "content": "Hi."}]}),
        ("messages", {"messages": [*ASKED, {"role": "assistant", "content": "Yes."}]}),
        ("messages[1].role", {"messages": [*ASKED, *ASKED]}),
        ("messages[0].content", {"messages": [{"role": "user", "content": " "}]}),
        ("completions", {"completions": 5}),
        ("policies", {"policies": []}),
    ],
)
def test_a_bad_question_names_field_and_value(project, field, change):
    with pytest.raises(Invalid) as caught:
        put(project, model(), **change)
    assert list(caught.value.details) == [field]
    assert not PlaygroundQuestion.objects.exists() and not Job.objects.exists()


@pytest.mark.parametrize("bad", [{"temperature": -1}, {"top_p": 0}, {"max_new_tokens": 0}, {"seed": -1}])
def test_a_setting_out_of_range_is_named(bad):
    with pytest.raises(Invalid) as caught:
        Sampling(**bad)
    assert list(caught.value.details) == list(bad)


def test_so_many_questions_wait_and_no_more(project):
    base = model()
    for _ in range(MOST_OPEN):
        put(project, base)
    with pytest.raises(PlaygroundBusy):
        put(project, base)


def test_the_playground_through_the_api(project, django_assert_num_queries):
    base, other = model("base"), model("other")
    olga = client(project.created_by)
    body = {"messages": ASKED, "policies": [str(base.public_id), str(other.public_id)], "temperature": 0.5}
    answer = olga.post(URL, body, format="json")
    assert answer.status_code == 201, answer.content
    made = answer.json()
    assert (made["stage"], made["workers"], made["ahead"]) == ("waiting", 0, 0)
    assert [item["policy"]["name"] for item in made["answers"]] == ["base", "other"]
    assert made["sampling"]["temperature"] == 0.5
    question = PlaygroundQuestion.objects.get()
    finished(question, "One thing.", "Another matter.")
    sent = olga.post(f"{URL}/{made['id']}/send", {}, format="json").json()
    assert (sent["comparisons"], sent["stage"]) == (1, "over")
    with django_assert_num_queries(6):
        (item,) = olga.get(URL).json()["items"]
    assert [policy["name"] for policy in item["policies"]] == ["base", "other"]
    reward = ModelVersion.objects.create(
        name="rm", kind=ModelKind.REWARD, source=ModelSource.LOCAL, path="rm", sha256="2" * 64
    )
    for bad in (
        {"policies": []}, {"policies": [str(reward.public_id)]}, {"policies": [str(uuid4())]}, {"temperature": -1},
        {"messages": []}, {"completions": 9}, {"reward": str(base.public_id)}, {"max_new_tokens": 10**6},
    ):  # fmt: skip
        assert olga.post(URL, body | bad, format="json").status_code == 400, bad
    vera = client(builders.member(project, "vera", Role.VIEWER))
    assert (vera.get(f"{URL}/{made['id']}").status_code, vera.post(URL, body, format="json").status_code) == (200, 403)
    ann = client(builders.member(project, "ann"))
    stan = client(builders.user("stan"))
    assert (ann.get(URL).status_code, stan.get(URL).status_code) == (403, 404)
    assert stan.post(f"{URL}/{made['id']}/send", {}, format="json").status_code == 404
