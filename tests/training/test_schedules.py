"""Schedules: the round after a promotion opens by itself, once, whoever looks and however often."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from django.db import connection

from annotation.feedback import read_form
from annotation.models import Completion, Slot
from tests import builders, world
from tests.builders import NOW
from tests.engine.tiny import tiny_model
from training import jobs, queries, registry, schedules, tasks
from training.launching import launch
from training.management.commands.tick import run_round
from training.models import (
    Job,
    JobStatus,
    ModelKind,
    ModelSource,
    ModelVersion,
    Opponent,
    Quota,
    Round,
    RoundPurpose,
    RoundSchedule,
)
from training.registry import make_current
from training.rounds import MeetingPlan
from training.snapshots import FreezeRule, freeze

pytestmark = pytest.mark.django_db
LATER = NOW + timedelta(hours=1)


@pytest.fixture
def project():
    made = builders.project(overlap=2)
    for i in range(4):
        builders.prompt(made, f"Prompt {i}?")
    return made


def base():
    return ModelVersion.objects.get_or_create(
        project=None, name="base", kind=ModelKind.POLICY, source=ModelSource.LOCAL, path="base", sha256="0" * 64
    )[0]


def promoted(project, name, *, at=LATER, source=ModelSource.JOB, trained_from=None, kind=ModelKind.POLICY):
    """A policy as `registry.register_result` leaves it, current."""
    made = ModelVersion.objects.create(
        project=project, name=name, kind=kind, source=source, base=trained_from or base(), path=name, sha256="0" * 64,
        created_at=at,
    )  # fmt: skip
    make_current(made, by=project.created_by, now=at)
    return made


def schedule(project, *, opponent=Opponent.PREVIOUS, is_on=True, prompts=None, now=NOW, meeting=None, **sampling):
    return schedules.change(
        project=project, is_on=is_on, opponent=opponent, prompts=prompts, sampling=sampling,
        meeting=meeting or MeetingPlan(), by=project.created_by, now=now,
    )  # fmt: skip


def names(made):
    return [row.model.name for row in made.round_policies.order_by("pk")]


def test_a_promoted_policy_opens_one_round_however_often_one_looks(project):
    schedule(project, prompts=3, temperature=0.8)
    assert schedules.open_due(LATER) == 0
    model = promoted(project, "second")
    assert [schedules.open_due(LATER + timedelta(seconds=i)) for i in range(3)] == [1, 0, 0]
    made = Round.objects.get()
    assert (made.opened_for, made.prompts, made.purpose) == (model, 3, RoundPurpose.TRAINING)
    assert (made.sampling["temperature"], made.job.status, made.created_by) == (0.8, JobStatus.QUEUED, None)
    assert names(made) == ["second", "base"]  # nothing was promoted before it
    assert made.completions == 1  # of each of two: a pair


def test_the_next_policy_meets_the_one_before_it_with_another_seed(project):
    schedule(project, seed=5)
    first = promoted(project, "first")
    schedules.open_due(LATER)
    promoted(project, "second", trained_from=first)
    schedules.open_due(LATER)
    promoted(project, "failed experiment", at=LATER + timedelta(hours=1))
    ModelVersion.objects.filter(name="failed experiment").update(is_current=False)
    promoted(project, "third", trained_from=first, at=LATER + timedelta(hours=2))
    schedules.open_due(LATER)
    rounds = list(Round.objects.order_by("number"))
    assert [names(made) for made in rounds] == [["first", "base"], ["second", "first"], ["third", "second"]]
    assert [made.sampling["seed"] for made in rounds] == [5, 6, 7]


@pytest.mark.parametrize(
    ("opponent", "expected", "completions"),
    [
        (Opponent.ITSELF, ["new"], 2),
        (Opponent.BASE, ["new", "base"], 1),
        (Opponent.PREVIOUS, ["new", "old"], 1),
    ],
)
def test_whom_it_meets(project, opponent, expected, completions):
    old = promoted(project, "old", at=NOW - timedelta(days=1))
    schedule(project, opponent=opponent)
    promoted(project, "new", trained_from=old)
    assert schedules.open_due(LATER) == 1
    made = Round.objects.get()
    assert (names(made), made.completions) == (expected, completions)


def test_what_is_no_new_promotion_opens_nothing(project):
    old = promoted(project, "old", at=NOW - timedelta(days=1))
    schedule(project)
    assert schedules.open_due(LATER) == 0  # it was current before the schedule was there
    promoted(project, "imported", source=ModelSource.LOCAL)
    assert schedules.open_due(LATER) == 0
    promoted(project, "reward", kind=ModelKind.REWARD)
    assert schedules.open_due(LATER) == 0
    new = promoted(project, "new")
    assert schedules.open_due(LATER) == 1
    make_current(old, by=project.created_by, now=LATER)  # back to the old one, and forth again
    assert schedules.open_due(LATER) == 0
    make_current(new, by=project.created_by, now=LATER)
    assert schedules.open_due(LATER) == 0
    assert Round.objects.count() == 1


def test_a_schedule_that_was_off_starts_anew_when_it_is_switched_on(project):
    schedule(project, is_on=False)
    promoted(project, "unseen")
    assert schedules.open_due(LATER) == 0
    on = LATER + timedelta(hours=1)
    schedule(project, now=on)
    assert schedules.open_due(on) == 0
    promoted(project, "seen", at=on + timedelta(minutes=1))
    # Changing how it samples forgets no policy that waits.
    schedule(project, now=on + timedelta(minutes=2), temperature=0.5)
    assert schedules.open_due(on + timedelta(minutes=3)) == 1
    assert Round.objects.get().sampling["temperature"] == 0.5


def test_why_a_round_cannot_open_is_said_and_it_opens_later(project):
    made = schedule(project, meeting=MeetingPlan(categories=("poetry",)))
    promoted(project, "new")
    for _ in range(2):
        assert schedules.open_due(LATER) == 0
        made.refresh_from_db()
        assert "No prompt of this project fits" in made.problem
    assert not Job.objects.exists()
    schedule(project, now=LATER)
    Quota.objects.create(project=project, queued=0)
    assert schedules.open_due(LATER) == 0
    made.refresh_from_db()
    assert "quota" in made.problem
    assert not Round.objects.exists()
    Quota.objects.update(queued=5)
    assert schedules.open_due(LATER) == 1
    made.refresh_from_db()
    assert made.problem == ""


def test_a_ranking_project_gets_completions_enough_for_its_sets():
    project = builders.project(overlap=1, form=read_form({"kind": "ranking", "size": 4}))
    builders.prompt(project)
    schedule(project, completions=1)
    promoted(project, "new")
    assert schedules.open_due(LATER) == 1
    assert Round.objects.get().completions == 2  # of each of two: four


def test_the_tick_looks_with_one_query_when_nothing_is_due(project, django_assert_num_queries):
    schedule(project)
    with django_assert_num_queries(1):
        schedules.open_due(LATER)


@pytest.mark.django_db(transaction=True)
def test_ticks_at_once_open_one_round(project):
    schedule(project)
    promoted(project, "new")
    barrier, opened = threading.Barrier(4), []

    def tick():
        try:
            barrier.wait()
            opened.append(schedules.open_due(LATER))
        finally:
            connection.close()

    threads = [threading.Thread(target=tick) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(opened) == [0, 0, 0, 1]
    assert Round.objects.count() == Job.objects.count() == 1


def test_the_schedule_through_the_api(project):
    olga, stan = world.client(project.created_by), world.client(builders.user("stan"))
    vera, ann = world.client(builders.member(project, "vera", "viewer")), world.client(builders.member(project, "ann"))
    address = "/api/v1/projects/helpful/schedule"
    empty = olga.get(address).json()
    assert (empty["is_on"], empty["due"], empty["opened"], empty["since"]) == (False, None, None, None)
    body = {"is_on": True, "opponent": "itself", "temperature": 0.9, "languages": ["de"], "prompts": 2}
    assert (stan.put(address, body).status_code, stan.get(address).status_code) == (404, 404)
    assert (vera.put(address, body).status_code, vera.get(address).status_code) == (403, 200)
    assert (ann.put(address, body).status_code, ann.get(address).status_code) == (403, 403)
    set_to = olga.put(address, body, format="json").json()
    assert (set_to["is_on"], set_to["opponent"], set_to["prompts"], set_to["sampling"]) == (
        True, "itself", 2, {"temperature": 0.9},
    )  # fmt: skip
    assert (set_to["pairing"]["languages"], set_to["updated_by"]) == (["de"], "olga")
    since = RoundSchedule.objects.get().since
    model = promoted(project, "new", at=since + timedelta(seconds=1))
    run_round(analyze=False)
    due = olga.get(address).json()
    assert (due["due"]["name"], due["opened"]) == ("new", None)
    assert "No prompt" in due["problem"]
    assert olga.put(address, {"is_on": True, "prompts": 2}, format="json").json()["due"]["id"] == str(model.public_id)
    run_round(analyze=False)
    opened = olga.get(address).json()
    assert (opened["due"], opened["problem"], opened["opened"]["opened_for"]["name"]) == (None, "", "new")
    shown = olga.get(f"/api/v1/projects/helpful/rounds/{opened['opened']['id']}").json()
    assert (shown["opened_for"]["name"], shown["purpose"], shown["prompts"]) == ("new", "training", 2)
    for bad, field in (({"is_on": True, "opponent": "nobody"}, "opponent"), ({"temperature": 1}, "is_on")):
        answer = olga.put(address, bad, format="json")
        assert (answer.status_code, field in answer.json()["details"]) == (400, True)


@pytest.mark.django_db(transaction=True)
def test_a_policy_that_was_just_trained_reaches_annotators_by_itself(settings, tmp_path):
    """Real engine: trained, promoted as current, sampled and in ann's queue, with a schedule and a tick only."""
    project = builders.project(overlap=1)
    builders.settled(project, 12, people=3)
    directory = settings.MODELS_DIR / "tiny"
    directory.parent.mkdir(parents=True, exist_ok=True)
    tiny = registry.register_directory(
        name="tiny", path=tiny_model(directory), kind=ModelKind.POLICY, source=ModelSource.LOCAL, now=NOW
    )
    schedule(project, now=NOW, prompts=2, max_new_tokens=8)
    frozen = freeze(project=project, rule=FreezeRule(), by=project.created_by, now=LATER)
    job = launch(
        project=project, method="dpo", snapshot=frozen, model=tiny, by=None, now=LATER,
        overrides={"stop": {"max_steps": 1}, "batch": {"pairs": 2}, "adapter": None},
    )  # fmt: skip
    tasks.work("gpu")
    job.refresh_from_db()
    assert job.status == JobStatus.SUCCEEDED, job.reason
    run_round(analyze=False)
    assert not Round.objects.exists()  # trained, but nobody has said that the project goes on from it
    olga, ann = world.client(project.created_by), builders.member(project, "ann")
    answer = olga.post(
        f"/api/v1/projects/helpful/jobs/{job.public_id}/promote", {"name": "better", "current": True}, format="json"
    )
    assert answer.status_code == 202
    tasks.work("gpu")
    assert (promotion := job.project.jobs.get(method="convert")).status == JobStatus.SUCCEEDED, promotion.reason
    better = ModelVersion.objects.get(name="better")
    assert better.is_current
    run_round(analyze=False)
    tasks.work("gpu")
    made = Round.objects.get()
    assert (made.opened_for, names(made), made.job.status) == (better, ["better", "tiny"], JobStatus.SUCCEEDED)
    assert Completion.objects.filter(origin=made.public_id).count() == 2 * 2
    waiting = Slot.objects.filter(comparison__origin=made.public_id).count()
    assert waiting == queries.rounds_progress([made], now=LATER)[made.pk].comparisons >= 1
    leased = builders.lease(project, ann, wanted=5, now=LATER)
    assert {item.comparison.origin for item in leased} == {made.public_id}
    assert jobs.claim(queue="gpu", host="here", lease_seconds=60) is None
