"""Erasing a prompt for privacy: its texts go from rows and files, a tombstone and the lineage stay."""

from __future__ import annotations

import fcntl
import io
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from django.apps import apps
from django.conf import settings as django_settings
from django.core import serializers
from django.db import connection

from annotation import erasure as texts
from annotation.consensus import settle_due
from annotation.erasure import ERASED, AlreadyErased
from annotation.importing import batches
from annotation.meetings import Rule, Strategy
from annotation.models import (
    Adjudication,
    AdjudicationKind,
    Assignment,
    AuditEvent,
    Comparison,
    Completion,
    Consensus,
    ConsensusState,
    Conversation,
    ConversationTurn,
    Erasure,
    FeedbackGiven,
    Flag,
    FlagKind,
    Gold,
    GoldOrigin,
    Objection,
    Prompt,
    Vote,
)
from annotation.pairing import Pair, Plan, choose_for, create_comparisons
from tests import builders, world
from tests.builders import NOW
from training import erasure, rounds
from training.engine.records import iter_lines, verify_snapshot
from training.lineage import of_prompt
from training.models import (
    Checkpoint,
    Job,
    ModelKind,
    ModelSource,
    ModelVersion,
    PlaygroundAnswer,
    PlaygroundQuestion,
    PlaygroundSession,
    Run,
    RunSample,
)
from training.rounds import SamplingPlan, start_round
from training.snapshots import FreezeRule, freeze, snapshot_path

pytestmark = pytest.mark.django_db
SECRET = "Ingeborg Muster, Hauptstr. 7"
TRAIN_ONLY = FreezeRule(shares={"train": 1.0, "validation": 0.0, "test": 0.0})
URL = "/api/v1/projects/helpful/prompts"


@pytest.fixture
def project():
    return builders.project(overlap=1)


@pytest.fixture
def olga(project):
    return world.client(project.created_by)


def secret_pair(project) -> Comparison:
    """A comparison whose prompt and completions hold the secret."""
    asked = builders.prompt(project, f"Who is {SECRET}?")
    Prompt.objects.filter(pk=asked.pk).update(meta={"note": SECRET})
    a, b = (builders.completion(asked, f"{SECRET} is {word}.", index=i) for i, word in enumerate("ab"))
    pair = Pair(prompt=asked, a=a, b=b)
    return create_comparisons(project=project, pairs=[pair], origin=uuid4(), overlap=1, now=NOW)[0]


def everything() -> str:
    """All rows of the database, as text."""
    return "".join(
        serializers.serialize("json", model.objects.all(), ensure_ascii=False)
        for label in ("annotation", "training")
        for model in apps.get_app_config(label).get_models()
    )


def files(root: Path) -> str:
    return "".join(file.read_text() for file in sorted(root.rglob("*")) if file.is_file() and file.suffix != ".ids")


def trained(project, snapshot) -> tuple[Job, Run, ModelVersion]:
    """A job on a snapshot, its run, and the model promoted from it."""
    base = ModelVersion.objects.create(
        name="base", kind=ModelKind.POLICY, source=ModelSource.PACKAGE, path="base", sha256="0" * 64
    )
    job = Job.objects.create(project=project, number=1, method="dpo", config={}, snapshot=snapshot, model=base)
    run = Run.objects.create(job=job, attempt=1, owner=job.public_id, config_hash="0" * 64, host="here")
    saved = Checkpoint.objects.create(run=run, step=1, path="x", sha256="0" * 64, size_bytes=1)
    made = ModelVersion.objects.create(
        project=project, name="made", kind=ModelKind.POLICY, source=ModelSource.JOB, path="made", sha256="0" * 64,
        checkpoint=saved, base=base,
    )  # fmt: skip
    return job, run, made


def test_an_owner_erases_a_prompt_and_nothing_holds_its_texts_but_all_is_named(project, olga):
    ann = builders.member(project, "ann")
    made, other = secret_pair(project), builders.comparisons(project, 1)[0]
    vote = builders.cast(made, ann, "a", rationale=f"{SECRET} would say so", reasons=["true"])
    builders.cast(other, ann, "b", rationale="short")
    Adjudication.objects.create(
        project=project, comparison=made, kind=AdjudicationKind.RULING, by=project.created_by, reason=SECRET,
        answer={"choice": "a", "rationale": SECRET}, first_answer={"choice": "a", "rationale": SECRET}, created_at=NOW,
    )  # fmt: skip
    snapshot = freeze(project=project, rule=TRAIN_ONLY, by=project.created_by, now=NOW + timedelta(hours=1))
    job, run, model = trained(project, snapshot)
    samples = [
        {"step": 5, "prompt_id": str(item.public_id), "prompt": item.prompt.messages, "completion": word, "score": 0.5}
        for item, word in ((made, f"{SECRET}!"), (other, "harmless"))
    ]
    for seq, body in enumerate(samples):
        RunSample.objects.create(run=run, seq=seq, step=5, body=body, offset=seq)
    directory = django_settings.RUNS_DIR / str(job.public_id) / "1"
    directory.mkdir(parents=True)
    lines = [json.dumps(body, ensure_ascii=False) + "\n" for body in samples]
    (directory / "samples.jsonl").write_text("".join(lines) + '{"half a li')
    question = PlaygroundQuestion.objects.create(
        project=project, session=PlaygroundSession.objects.create(project=project, job=job),
        messages=made.prompt.messages, completions=1, sampling={},
    )  # fmt: skip
    PlaygroundAnswer.objects.create(question=question, model=model, index=0, text=f"{SECRET}?")
    assert SECRET in everything() and SECRET in files(django_settings.DATA_DIR)

    url = f"{URL}/{made.prompt.public_id}/erase"
    wrong = olga.post(url, {"confirm": "Helpful", "reason": "she asked"})
    assert (wrong.status_code, wrong.json()["details"]) == (
        400, {"confirm": ["type the project's short name 'helpful' to erase the prompt for good, got 'Helpful'"]},
    )  # fmt: skip
    assert SECRET in everything()
    answer = olga.post(url, {"confirm": "helpful", "reason": "she asked"})
    assert answer.status_code == 200, answer.content
    told = answer.json()
    assert (told["erasure"]["reason"], told["erasure"]["by"], told["erasure"]["finished_at"]) == (
        "she asked", "olga", None,
    )  # fmt: skip
    assert [item["snapshot"]["id"] for item in told["snapshots"]] == [str(snapshot.public_id)]
    assert [item["id"] for item in told["jobs"]] == [str(job.public_id)]
    assert [item["id"] for item in told["models"]] == [str(model.public_id)]
    assert told["messages"] == [{"role": "user", "content": ERASED}]
    listed = olga.get(URL).json()["items"]
    assert {row["id"]: row["erased_at"] for row in listed} == {
        str(made.prompt.public_id): told["erasure"]["created_at"], str(other.prompt.public_id): None,
    }  # fmt: skip
    again = olga.post(url, {"confirm": "helpful", "reason": "twice"})
    assert (again.status_code, again.json()["code"]) == (409, "already_erased")

    assert erasure.run_due(NOW) == 1
    assert erasure.run_due(NOW) == 0
    assert SECRET not in everything()
    assert SECRET not in files(django_settings.DATA_DIR)
    left = verify_snapshot(snapshot_path(snapshot))
    assert (left.frozen_hash, left.counts["train"]) == (snapshot.content_hash, 1)
    assert [line["meta"]["comparison"] for line in iter_lines(snapshot_path(snapshot), "train")] == [
        str(other.public_id)
    ]
    assert olga.get(f"/api/v1/projects/helpful/snapshots/{snapshot.public_id}").json()["erased"] == 1
    kept = (directory / "samples.jsonl").read_text()
    assert kept.endswith(lines[1] + '{"half a li') and len(kept) == len("".join(lines) + '{"half a li')
    assert json.loads(kept.splitlines()[0]) == {
        "step": 5, "prompt_id": str(made.public_id), "score": 0.5, "erased": True,
    }  # fmt: skip
    assert [row.body["completion"] for row in RunSample.objects.order_by("seq")] == [ERASED, "harmless"]

    vote.refresh_from_db()
    assert (vote.choice, vote.body) == ("a", {"reasons": ["true"]})  # the answer is a fact, and stays one
    after = olga.get(f"{URL}/{made.prompt.public_id}/lineage").json()
    assert after["erasure"]["finished_at"] is not None
    assert [(item["snapshot"]["number"], item["lines"]) for item in after["erasure"]["snapshots"]] == [(1, 1)]
    assert {name: after[name] for name in ("snapshots", "jobs", "models", "votes")} == {
        name: told[name] for name in ("snapshots", "jobs", "models", "votes")
    }
    for file in (django_settings.CACHE_DIR / "lineage").glob("*.ids"):
        file.unlink()  # rebuilt from the tombstones of the manifest
    assert olga.get(f"{URL}/{made.prompt.public_id}/lineage").json() == after
    event = AuditEvent.objects.get(action="prompt.erased")
    assert (event.by, event.target, event.details["reason"]) == (
        project.created_by, str(made.prompt.public_id), "she asked",
    )  # fmt: skip


def test_nobody_is_asked_about_it_again_and_it_is_in_no_new_snapshot(project):
    ann, ben = builders.member(project, "ann"), builders.member(project, "ben")
    made, other = secret_pair(project), builders.comparisons(project, 1)[0]
    leased = builders.lease(project, ann, wanted=5)
    assert len(leased) == 2
    texts.erase(prompt=made.prompt, reason="r", confirm="helpful", by=project.created_by, now=NOW)
    settle_due(now=NOW)
    assert Consensus.objects.get(comparison=made).state == ConsensusState.WITHDRAWN
    assert Assignment.objects.get(comparison=made).state == "released"
    held = Assignment.objects.get(comparison=other)
    assert held.state == "leased"
    late = builders.vote(Assignment.objects.select_related("annotator", "project").get(comparison=made))
    assert late is not None  # stored, since no acknowledged vote is lost
    builders.vote(held)
    assert builders.lease(project, ben, wanted=5) == []
    frozen = freeze(project=project, rule=TRAIN_ONLY, by=project.created_by, now=NOW + timedelta(hours=1))
    assert (frozen.counts["total"], frozen.dropped) == (1, {"withdrawn": 1})


def test_what_was_said_of_gold_goes_too(project):
    ann = builders.member(project, "ann")
    made = secret_pair(project)
    gold = Gold.objects.create(
        project=project, comparison=made, origin=GoldOrigin.GIVEN, answer={"choice": "a"}, explanation=SECRET
    )
    vote = builders.cast(made, ann, "a")
    Flag.objects.create(
        project=project, comparison=made, by=ann, kind=FlagKind.PERSONAL_DATA, note=SECRET,
        assignment=Assignment.objects.create(
            project=project, comparison=made, annotator=ann, tab="t", sides="ab", lease_expires_at=NOW
        ),
    )  # fmt: skip
    Objection.objects.create(gold=gold, vote=vote, text=SECRET)
    item = {"vote": str(vote.public_id), "text": SECRET, "is_right": True}
    FeedbackGiven.objects.create(project=project, annotator=ann, votes=1, body={"items": [item], "gold": None})
    AuditEvent.objects.create(
        project=project, action="gold.explained", target=str(gold.public_id), details={"before": SECRET, "after": "x"}
    )
    texts.erase(prompt=made.prompt, reason="r", confirm="helpful", by=project.created_by, now=NOW)
    assert SECRET not in everything()
    assert FeedbackGiven.objects.get().body == {"items": [{**item, "text": ERASED}], "gold": None}
    assert Flag.objects.get().kind == FlagKind.PERSONAL_DATA


def test_the_later_prompts_of_a_chat_repeat_it_and_go_with_it(project):
    ann = builders.member(project, "ann")
    chat = Conversation.objects.create(project=project, annotator=ann)
    first = builders.prompt(project, SECRET)
    later = builders.prompt(project, f"{SECRET}; and then?")
    before = builders.prompt(project, "Hello")
    for number, prompt in enumerate((before, first, later), start=1):
        ConversationTurn.objects.create(conversation=chat, number=number, prompt=prompt)
        builders.completion(prompt, "Hm.")
    assert [(found.later, found.completions) for found in map(of_prompt, (before, first, later))] == [
        (2, 3), (1, 2), (0, 1),
    ]  # fmt: skip
    texts.erase(prompt=first, reason="r", confirm="helpful", by=project.created_by, now=NOW)
    assert set(Erasure.objects.values_list("prompt_id", flat=True)) == {first.pk, later.pk}
    assert SECRET not in everything()
    chat.refresh_from_db()
    assert chat.ended_at == NOW
    with pytest.raises(AlreadyErased):
        texts.erase(prompt=later, reason="r", confirm="helpful", by=project.created_by, now=NOW)


# --- it does not come back --------------------------------------------------------------------------------------------


def test_an_import_does_not_bring_it_back(project):
    rows = [
        {"prompt": f"Who is {SECRET}?", "completions": [{"text": f"{SECRET} is a."}, {"text": f"{SECRET} is c."}]},
        {"prompt": "Why?", "completions": [{"text": "Because."}]},
    ]
    file = "".join(json.dumps(row) + "\n" for row in rows).encode()

    def bring():
        return world.client(project.created_by).generic(
            "POST", "/api/v1/projects/helpful/imports?kind=completions", io.BytesIO(file).read(),
            content_type="application/x-ndjson",
        )  # fmt: skip

    assert bring().status_code == 201
    batches.run_due(now=NOW)
    prompt = Prompt.objects.get(messages__icontains="Ingeborg")
    texts.erase(prompt=prompt, reason="r", confirm="helpful", by=project.created_by, now=NOW)
    completions = Completion.objects.count()
    assert bring().status_code == 201
    batches.run_due(now=NOW)
    assert SECRET not in everything()
    assert Completion.objects.count() == completions


def test_a_round_that_samples_for_it_goes_on_without_it_and_without_another_in_its_place(project):
    policy = ModelVersion.objects.create(
        name="p", kind=ModelKind.POLICY, source=ModelSource.PACKAGE, path="p", sha256="0" * 64
    )
    asked = [builders.prompt(project, f"{SECRET} {i}?") for i in range(4)]
    plan = SamplingPlan(completions=2)
    made = start_round(project=project, policies=[policy], plan=plan, prompts=2, by=None, now=NOW + timedelta(hours=1))
    gone, stays = rounds.round_prompts(made)
    texts.erase(prompt=gone, reason="r", confirm="helpful", by=project.created_by, now=NOW + timedelta(hours=2))
    assert rounds.round_prompts(made) == [stays]
    source = made.round_policies.get().source
    lines = [
        {"policy": str(source.public_id), "prompt_id": str(prompt.public_id), "index": index, "seed": 1,
         "text": word, "logprob": -1.0, "finish": "end", "tokens": 3}
        for prompt in (gone, stays)
        for index, word in enumerate(("red green blue", "up and down"))
    ]  # fmt: skip
    assert rounds.ingest(made.job, lines, now=NOW) == 1
    assert set(Completion.objects.values_list("prompt_id", flat=True)) == {stays.pk}
    later = start_round(project=project, policies=[policy], plan=plan, by=None, now=NOW + timedelta(hours=3))
    assert {prompt.pk for prompt in rounds.round_prompts(later)} == {prompt.pk for prompt in asked} - {gone.pk}


# --- files ------------------------------------------------------------------------------------------------------------


def test_one_process_at_a_time_goes_through_the_files(project):
    made = secret_pair(project)
    texts.erase(prompt=made.prompt, reason="r", confirm="helpful", by=project.created_by, now=NOW)
    assert erasure.is_due()
    root = django_settings.SNAPSHOTS_DIR
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".erasing").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert erasure.run_due(NOW) == 0
    assert erasure.run_due(NOW) == 1
    assert not erasure.is_due()


def test_files_that_cannot_be_erased_are_tried_again_and_keep_no_other_waiting(project, monkeypatch):
    first, second = secret_pair(project), builders.comparisons(project, 1)[0]
    for item in (first, second):
        texts.erase(prompt=item.prompt, reason="r", confirm="helpful", by=project.created_by, now=NOW)
    real = erasure._erase_files

    def fail(found):
        if found.prompt_id == first.prompt_id:
            raise OSError("the disk is away")
        real(found)

    with monkeypatch.context() as patch:
        patch.setattr(erasure, "_erase_files", fail)
        assert erasure.run_due(NOW) == 1
    assert Erasure.objects.get(finished_at=None).prompt_id == first.prompt_id
    assert erasure.run_due(NOW) == 1


@pytest.mark.django_db(transaction=True)
def test_of_two_at_once_one_erases(project):
    made = secret_pair(project)
    prompt = Prompt.objects.select_related("project").get(pk=made.prompt_id)

    def go(_: int) -> bool:
        try:
            texts.erase(prompt=prompt, reason="r", confirm="helpful", by=project.created_by, now=NOW)
        except AlreadyErased:
            return False
        finally:
            connection.close()
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(go, range(4))) == 1
    assert AuditEvent.objects.filter(action="prompt.erased").count() == 1
    assert Vote.objects.count() == 0


def test_erased_completions_do_not_meet(project):
    made = secret_pair(project)
    builders.completion(made.prompt, "A third one.", index=2)
    texts.erase(prompt=made.prompt, reason="r", confirm="helpful", by=project.created_by, now=NOW)
    plan = Plan(project=project, rule=Rule(strategy=Strategy.ALL, size=2, seed=1), prompts=Prompt.objects.all())
    assert choose_for(plan).prompts == 0
