"""From a person's votes to every snapshot, job and model, and from a model back to the people."""

from __future__ import annotations

from datetime import timedelta

import pytest

from annotation import exclusion
from annotation.models import Comparison, Project
from tests import builders, world
from tests.builders import NOW, cast
from training.jobs import submit
from training.lineage import origin, reach
from training.models import Checkpoint, Job, ModelKind, ModelSource, ModelVersion, Run, Snapshot
from training.snapshots import FreezeRule, freeze

pytestmark = pytest.mark.django_db
TRAIN_ONLY = FreezeRule(shares={"train": 1.0, "validation": 0.0, "test": 0.0})


@pytest.fixture
def project() -> Project:
    return builders.project(overlap=2)


@pytest.fixture
def people(project):
    return {name: builders.member(project, name) for name in ("ann", "ben", "cid")}


def frozen(project: Project, *, hours: int) -> Snapshot:
    return freeze(project=project, rule=TRAIN_ONLY, by=project.created_by, now=NOW + timedelta(hours=hours))


def model(name: str, project: Project | None = None, **fields) -> ModelVersion:
    return ModelVersion.objects.create(
        project=project, name=name, kind=ModelKind.POLICY, path=name, sha256="1" * 64,
        source=ModelSource.JOB if fields else ModelSource.PACKAGE, **fields,
    )  # fmt: skip


def trained(project: Project, name: str, *, on: Snapshot | None, start: ModelVersion) -> tuple[Job, ModelVersion]:
    """A job on a snapshot from a model, and the model promoted from its checkpoint."""
    job = submit(project=project, method="dpo", config={}, snapshot=on, model=start, title=name, by=None, now=NOW)
    run = Run.objects.create(job=job, attempt=1, owner=job.public_id, config_hash="0" * 64, host="here")
    checkpoint = Checkpoint.objects.create(run=run, step=1, path=name, sha256="0" * 64, size_bytes=1)
    return job, model(name, project, checkpoint=checkpoint, base=start)


def test_votes_lead_to_snapshots_jobs_and_models_and_to_what_was_made_of_those(project, people):
    first, second, third = builders.comparisons(project, 3)
    cast(first, people["ann"], "a")
    cast(first, people["ben"], "a")
    one = frozen(project, hours=1)
    cast(second, people["ben"], "a", now=NOW + timedelta(hours=2))
    cast(second, people["cid"], "a", now=NOW + timedelta(hours=2))
    two = frozen(project, hours=3)
    base = model("base")
    job_one, model_one = trained(project, "one", on=one, start=base)
    job_later, model_later = trained(project, "later", on=None, start=model_one)
    job_two, model_two = trained(project, "two", on=two, start=base)
    of = {name: reach(project, person) for name, person in people.items()}
    assert [(item.snapshot, item.comparisons) for item in of["ann"].snapshots] == [(one, 1), (two, 1)]
    assert [(item.snapshot, item.comparisons) for item in of["ben"].snapshots] == [(one, 1), (two, 2)]
    assert [(item.snapshot, item.comparisons) for item in of["cid"].snapshots] == [(two, 1)]
    assert of["ann"].jobs == [job_one, job_later, job_two]
    assert of["ann"].models == [model_one, model_later, model_two]
    assert (of["cid"].jobs, of["cid"].models, of["cid"].runs) == ([job_two], [model_two], 1)
    behind = origin(model_later)
    assert (behind.jobs, behind.models, behind.snapshots) == ([job_later, job_one], [model_one, base], [one])
    assert (behind.comparisons, behind.people) == (1, 2)
    assert (origin(model_two).comparisons, origin(model_two).people) == (2, 3)
    assert origin(base).snapshots == []
    assert third.slots.count() == 2


def test_a_vote_after_the_freeze_was_not_used(project, people):
    (made,) = builders.comparisons(project)
    Comparison.objects.filter(pk=made.pk).update(overlap=1)
    made.slots.get(number=2).delete()
    cast(made, people["ann"], "a")
    snapshot = frozen(project, hours=1)
    cast(made, people["ben"], "b", now=NOW + timedelta(hours=2))  # surplus, and late
    assert [item.snapshot for item in reach(project, people["ann"]).snapshots] == [snapshot]
    assert reach(project, people["ben"]).snapshots == []


def test_an_exclusion_changes_what_later_snapshots_used_and_no_earlier_one(project, people):
    (made,) = builders.comparisons(project)
    cast(made, people["ann"], "a")
    cast(made, people["ben"], "a")
    before = frozen(project, hours=1)
    exclusion.exclude(
        project=project, user=people["ann"], by=project.created_by, reason="asleep", now=NOW + timedelta(hours=2)
    )
    after = frozen(project, hours=3)
    assert [item.snapshot for item in reach(project, people["ann"]).snapshots] == [before]
    assert [item.snapshot for item in reach(project, people["ben"]).snapshots] == [before, after]
    _, trained_after = trained(project, "after", on=after, start=model("base"))
    assert origin(trained_after).people == 1


def test_the_routes_say_it_too(project, people):
    (made,) = builders.comparisons(project)
    cast(made, people["ann"], "a")
    cast(made, people["ben"], "a")
    snapshot = frozen(project, hours=1)
    job, promoted = trained(project, "one", on=snapshot, start=model("base"))
    browser = world.client(project.created_by)
    base = "/api/v1/projects/helpful"
    forward = browser.get(f"{base}/members/{people['ann'].public_id}/lineage").json()
    assert forward["snapshots"][0]["snapshot"]["id"] == str(snapshot.public_id)
    assert [row["id"] for row in forward["jobs"]] == [str(job.public_id)]
    assert [row["name"] for row in forward["models"]] == ["one"]
    back = browser.get(f"{base}/models/{promoted.public_id}/lineage").json()
    assert (back["comparisons"], back["people"], len(back["snapshots"])) == (1, 2, 1)
    assert browser.get(f"{base}/models/{job.public_id}/lineage").status_code == 404
    stan = builders.user("stan")
    assert browser.get(f"{base}/members/{stan.public_id}/lineage").status_code == 404
    address = f"{base}/members/{people['ann'].public_id}"
    seen = browser.get(f"{address}/exclusion").json()
    assert (seen["votes"], seen["frozen"], seen["excluded_at"], seen["history"]) == (1, 1, None, [])
    assert browser.post(f"{address}/exclude", {"reason": "asleep"}, format="json").status_code == 200
    again = browser.post(f"{address}/exclude", {"reason": "asleep"}, format="json")
    assert (again.status_code, again.json()["code"]) == (409, "already_excluded")
    assert browser.post(f"{address}/readmit", {}, format="json").status_code == 400
    assert browser.post(f"{address}/readmit", {"reason": "awake"}, format="json").json() == {"excluded_at": None}
    history = browser.get(f"{address}/exclusion").json()["history"]
    assert [(row["lifted"], row["reason"], row["by"]) for row in history] == [
        (False, "asleep", "olga"), (True, "awake", "olga"),
    ]  # fmt: skip
