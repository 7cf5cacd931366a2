"""From a person's votes to every snapshot, job and model, and from a model back to the people."""

from __future__ import annotations

import json
import time
from datetime import timedelta
from uuid import uuid4

import pytest
from django.conf import settings as django_settings
from django.utils import timezone

from annotation import exclusion
from annotation.models import Comparison, ImportBatch, Membership, Project, Retraction, Slot, Vote
from tests import builders, world
from tests.builders import NOW, cast
from training.engine.records import write_snapshot
from training.jobs import submit
from training.lineage import of_person, of_prompt, of_snapshot, of_vote, origin, votes_behind
from training.models import Checkpoint, Job, ModelKind, ModelSource, ModelVersion, Run, Snapshot
from training.snapshot_contents import SnapshotUnreadable
from training.snapshot_index import index_of
from training.snapshots import FreezeRule, freeze, snapshot_path

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
    of = {name: of_person(project, person) for name, person in people.items()}
    assert [(item.snapshot, item.comparisons) for item in of["ann"].snapshots] == [(one, 1), (two, 1)]
    assert [(item.snapshot, item.comparisons) for item in of["ben"].snapshots] == [(one, 1), (two, 2)]
    assert [(item.snapshot, item.comparisons) for item in of["cid"].snapshots] == [(two, 1)]
    assert of["ann"].jobs == [job_one, job_later, job_two]
    assert of["ann"].models == [model_one, model_later, model_two]
    assert (of["cid"].jobs, of["cid"].models, [run.job for run in of["cid"].runs]) == (
        [job_two],
        [model_two],
        [job_two],
    )
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
    assert [item.snapshot for item in of_person(project, people["ann"]).snapshots] == [snapshot]
    assert of_person(project, people["ben"]).snapshots == []


def test_an_exclusion_changes_what_later_snapshots_used_and_no_earlier_one(project, people):
    (made,) = builders.comparisons(project)
    cast(made, people["ann"], "a")
    cast(made, people["ben"], "a")
    before = frozen(project, hours=1)
    exclusion.exclude(
        project=project, user=people["ann"], by=project.created_by, reason="asleep", now=NOW + timedelta(hours=2)
    )
    after = frozen(project, hours=3)
    assert [item.snapshot for item in of_person(project, people["ann"]).snapshots] == [before]
    assert [item.snapshot for item in of_person(project, people["ben"]).snapshots] == [before, after]
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
    assert [(row["job"], row["attempt"]) for row in forward["runs"]] == [(str(job.public_id), 1)]
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


# --- from a vote, in one request, and back ----------------------------------------------------------------------------


def found_by(reach) -> tuple[list[int], list[str], list[str]]:
    """Numbers of snapshots, titles of jobs and names of models."""
    snapshots = [item.snapshot.number for item in reach.snapshots]
    return snapshots, [job.title for job in reach.jobs], [model.name for model in reach.models]


def test_a_vote_leads_to_every_model_also_by_way_of_a_reward_model_and_of_a_promise(project, people):
    made, other = builders.comparisons(project, 2)
    mine = cast(made, people["ann"], "a")
    cast(made, people["ben"], "a")
    one = frozen(project, hours=1)
    cast(other, people["ben"], "a", now=NOW + timedelta(hours=2))
    cast(other, people["cid"], "a", now=NOW + timedelta(hours=2))
    base = model("base")
    _, reward = trained(project, "reward", on=one, start=base)
    ppo = submit(
        project=project, method="dpo", config={}, model=base, uses=[reward], title="ppo", by=None, now=NOW,
        inputs={"rewards": [{"model": str(reward.public_id)}]},
    )  # fmt: skip
    promise = submit(
        project=project, method="convert", config={"name": "later"}, model=base, depends_on=[ppo], title="promise",
        inputs={"current": True}, by=None, now=NOW,
    )  # fmt: skip
    submit(
        project=project, method="dpo", config={}, model=None, title="after", by=None, now=NOW,
        inputs={"base": {"job": str(promise.public_id)}},
    )  # fmt: skip
    submit(project=project, method="sample", config={}, model=reward, title="only reads", by=None, now=NOW)
    trained(project, "stranger", on=None, start=base)
    mine = Vote.objects.get(pk=mine.pk)  # with its comparison as it is now: frozen
    reach = of_vote(mine).reach
    assert found_by(reach) == ([1], ["reward", "ppo", "promise", "after"], ["reward"])
    assert of_vote(mine).counts is True
    assert found_by(of_snapshot(one).reach) == found_by(reach)
    late = Vote.objects.get(comparison=other, annotator=people["ben"])
    assert found_by(of_vote(late).reach) == ([], [], [])
    run = Run.objects.create(job=ppo, attempt=1, owner=uuid4(), config_hash="", host="h")
    checkpoint = Checkpoint.objects.create(run=run, step=1, path="ppo", sha256="", size_bytes=1)
    policy = model("later", project, checkpoint=checkpoint, base=base)
    assert found_by(of_vote(mine).reach)[2] == ["reward", "later"]
    back = origin(policy)
    assert ([job.title for job in back.jobs], [row.name for row in back.models]) == (
        ["ppo", "reward"],
        ["base", "reward"],
    )
    assert ([row.number for row in back.snapshots], back.votes, back.people) == ([1], 2, 2)
    assert {item.vote for item in votes_behind(policy)} == {
        mine.public_id, Vote.objects.get(comparison=made, annotator=people["ben"]).public_id,
    }  # fmt: skip


def test_a_vote_that_does_not_count_leads_nowhere(project, people):
    (made,) = builders.comparisons(project)
    taken_back = cast(made, people["cid"], "b")
    Retraction.objects.create(project=project, vote=taken_back, by=people["cid"], created_at=NOW)
    made.slots.filter(vote=taken_back).update(vote=None, state="open")
    cast(made, people["ann"], "a")
    cast(made, people["ben"], "a")
    surplus = cast(made, builders.member(project, "dan"), "b")
    snapshot = frozen(project, hours=1)
    trained(project, "one", on=snapshot, start=model("base"))
    for vote in Vote.objects.filter(pk__in=(taken_back.pk, surplus.pk)):
        found = of_vote(vote)
        assert (found.counts, found_by(found.reach)) == (False, ([], [], []))
    assert found_by(of_vote(Vote.objects.get(annotator=people["ann"])).reach) == ([1], ["one"], ["one"])


def test_what_a_snapshot_left_out_is_not_behind_a_model(project, people):
    """Ben is excluded before the second freeze; his vote is behind the first model only."""
    (made,) = builders.comparisons(project)
    Comparison.objects.filter(pk=made.pk).update(overlap=3)
    made.slots.create(project=project, number=3, rank=1)
    for name in ("ann", "ben", "cid"):
        cast(made, people[name], "a")
    one = frozen(project, hours=1)
    exclusion.exclude(
        project=project, user=people["ben"], by=project.created_by, reason="asleep", now=NOW + timedelta(hours=2)
    )
    two = frozen(project, hours=3)
    _, before = trained(project, "before", on=one, start=model("base"))
    _, after = trained(project, "after", on=two, start=ModelVersion.objects.get(name="base"))
    _, both = trained(project, "both", on=two, start=before)
    ben = Vote.objects.get(annotator=people["ben"])
    assert found_by(of_vote(ben).reach) == ([1], ["before", "both"], ["before", "both"])
    assert (origin(before).votes, origin(after).votes, origin(both).votes) == (3, 2, 3)
    assert [(share.votes, share.people, share.comparisons) for share in origin(both).shares] == [(3, 3, 1), (2, 2, 1)]
    names = dict(Membership.objects.filter(project=project).values_list("user__name", "pseudonym"))
    assert {item.pseudonym for item in origin(after).annotators} == {names["ann"], names["cid"]}
    brought = {item.pseudonym: item.snapshots for item in votes_behind(both)}
    assert brought == {names["ann"]: (1, 2), names["ben"]: (1,), names["cid"]: (1, 2)}


def test_a_prompt_lists_what_hangs_on_it_before_it_is_taken_away(project, people):
    made, other = builders.comparisons(project, 2)
    for item in (made, other):
        cast(item, people["ann"], "a")
    cast(made, people["ben"], "a")
    snapshot = frozen(project, hours=1)
    job, _ = trained(project, "one", on=snapshot, start=model("base"))
    browser = world.client(project.created_by)
    seen = browser.get(f"/api/v1/projects/helpful/prompts/{made.prompt.public_id}/lineage").json()
    assert (seen["completions"], seen["comparisons"], seen["frozen"], seen["votes"]) == (2, 1, 1, 2)
    assert [item["snapshot"]["id"] for item in seen["snapshots"]] == [str(snapshot.public_id)]
    assert ([item["id"] for item in seen["jobs"]], [item["name"] for item in seen["models"]]) == (
        [str(job.public_id)], ["one"],
    )  # fmt: skip
    untouched = of_prompt(other.prompt)
    assert (untouched.frozen, untouched.votes, found_by(untouched.reach)) == (0, 1, ([], [], []))
    assert browser.get(f"/api/v1/projects/helpful/prompts/{uuid4()}/lineage").status_code == 404


def test_a_votes_id_and_a_models_id_lead_to_each_other_in_one_request_each(project, people):
    (made,) = builders.comparisons(project)
    mine = cast(made, people["ann"], "a")
    cast(made, people["ben"], "a")
    snapshot = frozen(project, hours=1)
    job, promoted = trained(project, "one", on=snapshot, start=model("base"))
    browser = world.client(project.created_by)
    base = "/api/v1/projects/helpful"
    forward = browser.get(f"{base}/votes/{mine.public_id}/lineage").json()
    assert forward["models"] == [
        {"id": str(promoted.public_id), "name": "one", "kind": "policy", "is_current": False, "archived_at": None}
    ]
    assert ([item["id"] for item in forward["jobs"]], len(forward["runs"]), len(forward["snapshots"])) == (
        [str(job.public_id)], 1, 1,
    )  # fmt: skip
    answer = browser.get(f"{base}/models/{forward['models'][0]['id']}/votes")
    lines = [json.loads(line) for line in b"".join(answer.streaming_content).splitlines()]
    assert {line["vote"] for line in lines} == {str(row.public_id) for row in Vote.objects.all()}
    assert {line["comparison"] for line in lines} == {str(made.public_id)}
    back = browser.get(f"{base}/models/{promoted.public_id}/lineage").json()
    assert (back["votes"], back["people"], back["shares"][0]["votes"]) == (2, 2, 2)
    assert browser.get(f"{base}/snapshots/{snapshot.public_id}/lineage").json()["models"] == forward["models"]
    assert browser.get(f"{base}/votes/{uuid4()}/lineage").status_code == 404
    stan = world.client(builders.user("stan"))
    for path in (f"votes/{mine.public_id}/lineage", f"models/{promoted.public_id}/votes"):
        assert stan.get(f"{base}/{path}").status_code == 404
        assert world.client(people["ann"]).get(f"{base}/{path}").status_code == 403


def test_the_number_of_queries_does_not_grow(project, people, django_assert_max_num_queries):
    made = builders.comparisons(project, 6)
    for item in made:
        cast(item, people["ann"], "a")
        cast(item, people["ben"], "a")
    base = last = model("base")
    for generation in range(6):
        _, last = trained(project, f"g{generation}", on=frozen(project, hours=generation + 1), start=last)
    vote = Vote.objects.select_related("project", "comparison").first()
    with django_assert_max_num_queries(9):
        assert len(of_vote(vote).reach.models) == 6
    with django_assert_max_num_queries(9):
        assert len(of_person(project, people["ann"]).models) == 6
    with django_assert_max_num_queries(12):
        assert len(of_prompt(made[0].prompt).reach.models) == 6
    last = ModelVersion.objects.select_related("project").get(pk=last.pk)
    with django_assert_max_num_queries(13):
        found = origin(last)
    assert (len(found.jobs), len(found.snapshots), found.votes) == (6, 6, 12)
    assert base in found.models


def test_an_index_is_made_anew_where_it_is_missing_or_cut_and_unreadable_files_are_told(project, people):
    made = builders.comparisons(project, 3)
    for item in made:
        cast(item, people["ann"], "a")
        cast(item, people["ben"], "a")
    snapshot = frozen(project, hours=1)
    whole = index_of(snapshot)
    assert list(whole) == sorted(item.public_id.bytes for item in made)
    assert whole.among([made[1].public_id.bytes, uuid4().bytes]) == {made[1].public_id.bytes}
    (place,) = (django_settings.CACHE_DIR / "lineage").glob("*.ids")
    for damaged in (b"", place.read_bytes()[:-1]):
        place.write_bytes(damaged)
        assert list(index_of(snapshot)) == list(whole)
    place.unlink()
    (snapshot_path(snapshot) / "train.jsonl").unlink()
    with pytest.raises(SnapshotUnreadable, match="snapshot v1"):
        index_of(snapshot)
    vote = Vote.objects.first()
    refused = world.client(project.created_by).get(f"/api/v1/projects/helpful/votes/{vote.public_id}/lineage")
    assert (refused.status_code, refused.json()["code"]) == (409, "snapshot_unreadable")


def test_ten_thousand_comparisons_are_searched_quickly(project, people):
    """Rows of ten snapshots of 10,000 comparisons each, three votes a comparison; a vote is answered at once."""
    count, moment = 10_000, timezone.now()
    prompt = builders.prompt(project)
    Comparison.objects.bulk_create(
        Comparison(
            project=project, prompt=prompt, origin=uuid4(), pair_hash=str(i), overlap=3, rank=i, frozen_at=moment,
        )
        for i in range(count)
    )  # fmt: skip
    rows = list(Comparison.objects.order_by("pk"))
    voters = list(people.values())
    Vote.objects.bulk_create(
        (
            Vote(project=project, comparison=row, annotator=person, key=uuid4(), choice="a", created_at=moment)
            for row in rows
            for person in voters
        ),
        batch_size=2000,
    )
    Slot.objects.bulk_create(
        (
            Slot(project=project, comparison_id=vote.comparison_id, number=i % 3 + 1, state="done", vote=vote, rank=0)
            for i, vote in enumerate(Vote.objects.order_by("pk"))
        ),
        batch_size=2000,
    )
    last = model("base")
    for number in range(1, 11):
        lines = [
            {
                "id": f"{number}-{row.pk}", "group": str(row.pk), "prompt": [{"role": "user", "content": "Why?"}],
                "chosen": "Yes.", "rejected": "No.", "prob_chosen": 1.0, "weight": 1.0,
                "meta": {"comparison": str(row.public_id)},
            }
            for row in rows
        ]  # fmt: skip
        place = django_settings.SNAPSHOTS_DIR / str(number)
        place.parent.mkdir(exist_ok=True)
        manifest = write_snapshot(place, kind="preferences", label_policy={}, split={}, lines={"train": lines})
        snapshot = Snapshot.objects.create(
            project=project, number=number, content_hash=manifest.content_hash, path=place.name,
            counts=manifest.counts, label_policy={}, split={}, created_by=project.created_by,
            created_at=moment + timedelta(hours=1),
        )  # fmt: skip
        _, last = trained(project, f"g{number}", on=snapshot, start=last)
    vote = Vote.objects.order_by("pk")[count]
    browser = world.client(project.created_by)
    paths = {
        "vote": f"votes/{vote.public_id}/lineage",
        "person": f"members/{voters[0].public_id}/lineage",
        "model": f"models/{last.public_id}/lineage",
        "votes": f"models/{last.public_id}/votes",
    }
    seconds = {}
    for again in ("first ", ""):
        for name, path in paths.items():
            began = time.perf_counter()
            answer = browser.get(f"/api/v1/projects/helpful/{path}")
            content = b"".join(answer.streaming_content) if answer.streaming else answer.content
            seconds[again + name] = round(time.perf_counter() - began, 3)
            if name == "votes":
                assert content.count(b"\n") == 3 * count
            elif name == "model":
                assert json.loads(content)["votes"] == 3 * count
            else:
                assert len(json.loads(content)["models"]) == 10
    print(seconds)
    assert seconds["vote"] < 1.0


def test_the_graph_says_which_came_of_which_and_what_brought_the_comparisons(project, people):
    first, second, third = builders.comparisons(project, 3)
    batch = ImportBatch.objects.create(project=project, kind="votes", name="hh-rlhf", created_by=project.created_by)
    Comparison.objects.filter(pk__in=[first.pk, second.pk]).update(origin=batch.public_id)
    Comparison.objects.filter(pk=third.pk).update(origin=uuid4())
    for item in (first, second, third):
        cast(item, people["ann"], "a")
        cast(item, people["ben"], "a")
    snapshot = frozen(project, hours=1)
    base = model("base")
    job, made = trained(project, "one", on=snapshot, start=base)
    later, last = trained(project, "later", on=None, start=made)
    behind = origin(last)
    wanted = [(snapshot, job), (base, job), (job, made), (made, later), (later, last)]
    assert {(link.start, link.end) for link in behind.links} >= {
        (start.public_id, end.public_id) for start, end in wanted
    }
    assert (made.public_id, last.public_id) not in {(link.start, link.end) for link in behind.links}
    sources = [(item.kind, item.id, item.name, item.comparisons) for item in behind.shares[0].sources]
    assert sources == [("import", batch.public_id, "hh-rlhf", 2), ("pairing", None, "", 1)]
    forward = of_snapshot(snapshot)
    assert (job.public_id, made.public_id) in {(link.start, link.end) for link in forward.reach.links}
    assert forward.sources == behind.shares[0].sources
