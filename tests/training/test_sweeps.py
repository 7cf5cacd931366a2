"""Sweeps, clones, chains, priority and quotas: over HTTP, with real rows."""

from __future__ import annotations

import shutil
from uuid import UUID

import pytest
from django.conf import settings
from django.db import connection
from django.test.utils import CaptureQueriesContext

from annotation.errors import Invalid
from annotation.models import AuditEvent
from tests import world
from tests.builders import NOW
from tests.training.rows import claim
from training import attempts, jobs
from training.jobs import BadConfig, Outcome
from training.launching import clone, launch
from training.models import Checkpoint, Job, Quota
from training.sweeps import points

pytestmark = pytest.mark.django_db
JOBS = "/api/v1/projects/helpful/jobs"
QUOTA = "/api/v1/projects/helpful/quota"


@pytest.fixture
def scene():
    return world.build()


@pytest.fixture
def olga(scene):
    return world.client(scene.people["olga"])


def wish(scene, method="reward", **fields):
    rows = {"snapshot": str(scene.snapshot.public_id), "model": str(scene.policy.public_id)}
    return {"method": method, **rows, **fields}


# --- sweeps -----------------------------------------------------------------------------------------------------------


def test_a_grid_makes_every_choice_once():
    made = points({"a": [1, 2], "b.c": ["x", "y", "z"]})
    assert len(made) == 6 and made[:3] == [{"a": 1, "b.c": letter} for letter in "xyz"]


@pytest.mark.parametrize(
    ("grid", "field"),
    [
        ({}, "grid"),
        ({"seed": []}, "grid.seed"),
        ({"seed": 5}, "grid.seed"),
        ({"seed": "12"}, "grid.seed"),
        ({"seed": [1, 1]}, "grid.seed"),
        ({"a": list(range(5)), "b": list(range(5))}, "grid"),
    ],
)
def test_a_grid_that_is_none_is_refused_by_name(grid, field):
    with pytest.raises(Invalid) as caught:
        points(grid)
    assert list(caught.value.details) == [field]


def test_a_sweep_queues_a_job_for_each_point(scene, olga):
    before = set(Job.objects.values_list("pk", flat=True))
    grid = {"optim.learning_rate": [1e-4, 1e-3], "adapter": [None, {"rank": 8}]}
    answer = olga.post(f"{JOBS}/sweep", wish(scene, title="rates", grid=grid), format="json")
    assert answer.status_code == 201, answer.content
    items = answer.json()["items"]
    assert [item["title"] for item in items][:2] == [
        "rates: learning_rate 0.0001, adapter None",
        "rates: learning_rate 0.0001, adapter {'rank': 8}",
    ]
    (sweep,) = {item["sweep"] for item in items}
    rows = Job.objects.exclude(pk__in=before).order_by("pk")
    tried = [(row.config["optim"]["learning_rate"], (row.config["adapter"] or {}).get("rank")) for row in rows]
    assert tried == [(1e-4, None), (1e-4, 8), (1e-3, None), (1e-3, 8)]
    listed = olga.get(f"{JOBS}?sweep={sweep}").json()["items"]
    assert {item["id"] for item in listed} == {item["id"] for item in items}


def test_a_sweep_with_one_bad_point_queues_nothing(scene, olga):
    before = Job.objects.count()
    grid = {"optim.learning_rate": [1e-4, -1.0]}
    answer = olga.post(f"{JOBS}/sweep", wish(scene, grid=grid), format="json")
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_config")
    assert list(answer.json()["details"]) == ["optim.learning_rate"]
    Quota.objects.create(project=scene.project, queued=before + 1)  # full after the first of them
    full = olga.post(f"{JOBS}/sweep", wish(scene, grid={"seed": [1, 2, 3, 4, 5, 6, 7, 8]}), format="json")
    assert (full.status_code, full.json()["code"]) == (409, "quota_reached")
    assert Job.objects.count() == before


def test_two_points_that_are_the_same_job_are_refused(scene, olga):
    grid = {"optim.learning_rate": [1, 1.0001], "optim": [{"learning_rate": 0.5}]}
    answer = olga.post(f"{JOBS}/sweep", wish(scene, grid=grid), format="json")
    assert (answer.status_code, list(answer.json()["details"])) == (400, ["grid"])


# --- clones -----------------------------------------------------------------------------------------------------------


def test_a_clone_is_the_job_with_the_changes_and_says_whose_it_is(scene, olga):
    made = olga.post(JOBS, wish(scene, config={"seed": 5, "adapter": None}, priority=3), format="json").json()
    changes = {"optim": {"learning_rate": 0.5}, "adapter": {"rank": 4}}
    answer = olga.post(f"{JOBS}/{made['id']}/clone", {"changes": changes, "title": "again"}, format="json")
    assert answer.status_code == 201, answer.content
    told = answer.json()
    assert (told["clone_of"]["id"], told["title"], told["priority"]) == (made["id"], "again", 3)
    row = Job.objects.get(public_id=told["id"])
    assert (row.config["seed"], row.config["optim"]["learning_rate"], row.config["adapter"]) == (
        5,
        0.5,
        {"rank": 4, "alpha": 32, "last_layers": None},  # the defaults of what the change leaves out
    )
    assert (row.snapshot, row.model) == (scene.snapshot, scene.policy)
    bad = olga.post(f"{JOBS}/{made['id']}/clone", {"changes": {"seed": -1}}, format="json")
    assert list(bad.json()["details"]) == ["seed"]
    theirs = olga.post(f"{JOBS}/{made['id']}/clone", {"changes": {"models": {"base": "/etc"}}}, format="json")
    assert list(theirs.json()["details"]) == ["models.base"]


def test_a_clone_from_a_checkpoint_may_change_limits_but_nothing_that_was_trained_with(scene):
    job = launch(
        project=scene.project, method="reward", snapshot=scene.snapshot, model=scene.policy, overrides={},
        by=None, now=NOW,
    )  # fmt: skip
    claimed = claim(job_id=job.pk)
    saved = jobs.record_checkpoint(claimed, run_id=claimed.run_id, step=5, path="x/step-5", sha256="0", size_bytes=1)
    changes = {"stop": {"on_alarm": "pause"}, "memory": {"micro_tokens": 512}}
    made = clone(job, changes=changes, checkpoint=saved, by=None, now=NOW)
    assert (made.checkpoint, made.clone_of, made.config["stop"]["on_alarm"]) == (saved, job, "pause")
    with pytest.raises(BadConfig) as caught:
        clone(job, changes={"optim": {"learning_rate": 1.0}}, checkpoint=saved, by=None, now=NOW)
    assert list(caught.value.details) == ["optim.learning_rate"]
    foreign = Checkpoint.objects.exclude(pk=saved.pk).get()  # of a job with another config
    with pytest.raises(BadConfig):
        clone(job, changes={}, checkpoint=foreign, by=None, now=NOW)
    Checkpoint.objects.filter(pk=saved.pk).update(files_pruned_at=NOW)
    with pytest.raises(Invalid, match="pruned"):
        clone(job, changes={}, checkpoint=Checkpoint.objects.get(pk=saved.pk), by=None, now=NOW)


def test_a_job_from_a_checkpoint_keeps_it_though_the_job_that_made_it_prunes(scene, olga, monkeypatch):
    body = wish(scene, config={"seed": 5})
    job = Job.objects.get(public_id=olga.post(JOBS, body, format="json").json()["id"])
    claimed = claim(job_id=job.pk)
    path = f"{job.public_id}/1/checkpoints/step-5"
    saved = jobs.record_checkpoint(claimed, run_id=claimed.run_id, step=5, path=path, sha256="0", size_bytes=1)
    directory = settings.RUNS_DIR / path
    directory.mkdir(parents=True)
    (directory / "manifest.json").write_text("{}")
    from_it = {"checkpoint": str(saved.public_id)}
    promoted = {"name": "kept", **from_it}
    ways = {
        f"{JOBS}/{job.public_id}/clone": from_it,
        f"{JOBS}/{job.public_id}/promote": promoted,
        JOBS: {**body, **from_it},
    }
    answers = [olga.post(url, asked, format="json").json() for url, asked in ways.items()]
    shutil.rmtree(directory)
    for made in answers:
        kept = attempts.start_directory(settings.RUNS_DIR, UUID(made["id"]), 5)
        assert [file.name for file in kept.iterdir()] == ["manifest.json"]
    directory.mkdir()

    def gone(source, target, **_):
        raise FileNotFoundError(source)

    monkeypatch.setattr("training.attempts.shutil.copytree", gone)  # pruned between the look and the copy
    before = Job.objects.count()
    refused = olga.post(f"{JOBS}/{job.public_id}/clone", from_it, format="json")
    assert (refused.status_code, refused.json()["details"]) == (400, {"checkpoint": ["pruned"]})
    assert Job.objects.count() == before


def test_rounds_and_promotions_are_not_cloned(scene, olga):
    answer = olga.post(f"{JOBS}/{scene.round.job.public_id}/clone", {}, format="json")
    assert (answer.status_code, list(answer.json()["details"])) == (400, ["method"])


# --- chains -----------------------------------------------------------------------------------------------------------


def test_a_reward_model_and_then_ppo_in_one_request(scene, olga):
    first = wish(scene, title="first", promote_as="rm")
    second = wish(scene, "ppo", inputs={"rewards": [{"name": "rm"}]}, priority=7)
    answer = olga.post(f"{JOBS}/chain", {"jobs": [first, second]}, format="json")
    assert answer.status_code == 201, answer.content
    reward, ppo = answer.json()["items"]
    (promotion,) = ppo["depends_on"]
    assert (reward["method"], promotion["method"], ppo["priority"]) == ("reward", "convert", 7)
    shown = olga.get(f"{JOBS}/{ppo['id']}").json()
    assert shown["inputs"] == {"rewards": [{"job": promotion["id"]}]}
    assert shown["explanation"]["what"] and not shown["can"]["retry"]


def test_a_chain_with_a_bad_link_queues_nothing_and_says_which(scene, olga):
    before = Job.objects.count()
    chain = [wish(scene, promote_as="rm"), wish(scene, "ppo", inputs={"rewards": [{"name": "mr"}]})]
    answer = olga.post(f"{JOBS}/chain", {"jobs": chain}, format="json")
    assert (answer.status_code, list(answer.json()["details"])) == (400, ["jobs.1.inputs.rewards"])
    twice = [wish(scene, promote_as="rm"), wish(scene, promote_as="rm")]
    assert olga.post(f"{JOBS}/chain", {"jobs": twice}, format="json").json()["code"] == "name_taken"
    for jobs_sent in ([], "all", [wish(scene)] * 13):
        assert olga.post(f"{JOBS}/chain", {"jobs": jobs_sent}, format="json").status_code == 400
    assert Job.objects.count() == before


def test_a_job_waits_for_the_jobs_it_is_to_come_after(scene, olga):
    answer = olga.post(JOBS, wish(scene, after=[str(scene.queued.public_id)]), format="json").json()
    assert [item["id"] for item in answer["depends_on"]] == [str(scene.queued.public_id)]
    hopeless = olga.post(JOBS, wish(scene, after=[str(scene.failed.public_id)]), format="json")
    assert (hopeless.status_code, list(hopeless.json()["details"])) == (400, ["after"])
    unknown = olga.post(JOBS, wish(scene, after=[str(scene.policy.public_id)]), format="json")
    assert (unknown.status_code, list(unknown.json()["details"])) == (400, ["after"])


# --- priority and quota -----------------------------------------------------------------------------------------------


def test_a_job_that_waits_is_moved_forward_and_one_that_runs_is_not(scene, olga):
    second = Job.objects.get(public_id=olga.post(JOBS, wish(scene), format="json").json()["id"])
    Job.objects.exclude(pk__in=(scene.queued.pk, second.pk)).update(status="cancelled")
    address = f"{JOBS}/{second.public_id}"
    assert olga.patch(address, {"priority": 5}, format="json").json()["priority"] == 5
    assert claim(now=jobs.DATABASE_TIME).job_id == second.pk  # before the older one
    late = olga.patch(address, {"priority": 6}, format="json")
    assert (late.status_code, late.json()["code"]) == (409, "job_not_waiting")
    assert olga.patch(address, {"priority": 101}, format="json").status_code == 400
    assert olga.post(JOBS, wish(scene, priority=-101), format="json").status_code == 400


def test_the_owner_sets_the_quota_and_others_see_it(scene, olga):
    waiting = Job.objects.filter(status="queued", queue="gpu").count()
    assert olga.get(QUOTA).json() == {"running": None, "queued": None, "running_now": 0, "queued_now": waiting}
    for _ in range(2):  # twice is once
        answer = olga.put(QUOTA, {"running": 0, "queued": waiting}, format="json")
        assert answer.json() == {"running": 0, "queued": waiting, "running_now": 0, "queued_now": waiting}
    assert AuditEvent.objects.filter(action="quota.changed").count() == 2
    full = olga.post(JOBS, wish(scene), format="json")
    assert (full.status_code, full.json()["code"]) == (409, "quota_reached")
    assert claim(now=jobs.DATABASE_TIME) is None
    manager = world.client(scene.people["max"])
    assert manager.get(QUOTA).status_code == 200
    assert manager.put(QUOTA, {"running": None, "queued": None}, format="json").status_code == 403
    for body in ({"running": -1, "queued": None}, {"running": 1}, {"running": "many", "queued": 1}):
        assert olga.put(QUOTA, body, format="json").status_code == 400
    olga.put(QUOTA, {"running": 1, "queued": None}, format="json")
    taken = claim(now=jobs.DATABASE_TIME)
    assert taken is not None and claim(now=jobs.DATABASE_TIME) is None
    jobs.fail(taken, Outcome(reason="x"), now=NOW)


def test_strangers_and_annotators_get_none_of_it(scene):
    stan, ann = (world.client(scene.people[name]) for name in ("stan", "ann"))
    for path in ("chain", "sweep", "estimate", f"{scene.queued.public_id}/clone"):
        assert stan.post(f"{JOBS}/{path}", {}, format="json").status_code == 404
        assert ann.post(f"{JOBS}/{path}", {}, format="json").status_code == 403
    assert (stan.get(QUOTA).status_code, ann.get(QUOTA).status_code) == (404, 403)


def test_a_list_of_jobs_takes_as_many_queries_however_long(scene, olga, django_assert_num_queries):
    with CaptureQueriesContext(
        connection,
    ) as few:
        olga.get(f"{JOBS}?status=queued")
    queries = len(few)
    for number in range(4):
        olga.post(JOBS, wish(scene, after=[str(scene.queued.public_id)], config={"seed": number}), format="json")
    with django_assert_num_queries(queries):
        assert len(olga.get(f"{JOBS}?status=queued").json()["items"]) >= 5
