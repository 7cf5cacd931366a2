"""Which pairs of a snapshot are too alike: asked as a job of the engine, read back beside the texts."""

from __future__ import annotations

import json

import pytest

from tests import builders, world
from tests.builders import NOW
from tests.engine.engine_runs import own_signals
from tests.training.rows import claim
from tests.training.small import directories, small
from training import jobs, runner
from training.engine.__main__ import main
from training.engine.records import erase_lines, iter_lines
from training.estimates import estimate
from training.jobs import BadConfig, Outcome
from training.launching import prepare, queue
from training.models import Job
from training.snapshots import snapshot_path

__all__ = ["directories", "small"]  # fixtures

pytestmark = pytest.mark.django_db
ASKED = {"data": {"part": "train"}, "evaluate": {"similarity": True}}


def address(snapshot):
    return f"/api/v1/projects/helpful/snapshots/{snapshot.public_id}/similarity"


def ask(small, by):
    """As the snapshot's page asks: a job of the usual kind."""
    body = {
        "method": "evaluate",
        "snapshot": str(small.snapshots["preferences"].public_id),
        "model": str(small.policy.public_id),
        "config": ASKED,
    }
    answer = world.client(by).post("/api/v1/projects/helpful/jobs", body)
    assert answer.status_code == 201, answer.content
    return Job.objects.get(public_id=answer.json()["id"])


def finish(job, directory):
    """Run the engine on what the job says, and keep its result as the runner does."""
    claimed = claim(job_id=job.pk)
    directory.mkdir()
    (directory / "request.json").write_text(json.dumps(runner.build_request(job, directory)))
    with own_signals():
        assert main(["evaluate", str(directory / "request.json"), "--out", str(directory)]) == 0
    result = json.loads((directory / "result.json").read_text())
    assert jobs.finish(claimed, Outcome(reason="done", exit_code=0, result=result), now=NOW)
    return result


def test_a_snapshot_is_measured_by_a_job_and_its_pairs_are_shown(small, tmp_path, django_assert_max_num_queries):
    olga, snapshot = small.project.created_by, small.snapshots["preferences"]
    client = world.client(olga)
    assert client.get(address(snapshot)).json() == {"latest": None, "measured": None}
    job = ask(small, olga)
    told = client.get(address(snapshot)).json()
    assert (told["latest"]["id"], told["latest"]["status"]) == (str(job.public_id), "queued")
    assert told["latest"]["model"]["name"] == "policy"
    assert told["measured"] is None

    result = finish(job, tmp_path / "first")
    with django_assert_max_num_queries(12):
        told = client.get(address(snapshot)).json()
    measured = told["measured"]
    assert (told["latest"]["status"], measured["part"], measured["pairs"], measured["too_long"]) == (
        "succeeded", "train", 24, 0,
    )  # fmt: skip
    assert measured["deciles"] == result["similarity"]["deciles"]
    highest = measured["highest"]
    assert [pair["id"] for pair in highest] == [pair["id"] for pair in result["similarity"]["highest"][:20]]
    lines = {line["id"]: line for line in iter_lines(snapshot_path(snapshot), "train")}
    for pair in highest:
        line = lines[pair["id"]]
        assert (pair["prompt"], pair["chosen"], pair["rejected"]) == (line["prompt"], line["chosen"], line["rejected"])
        assert pair["comparison"] is None  # this snapshot is from elsewhere


def test_a_later_job_that_fails_leaves_what_was_measured(small, tmp_path):
    olga, snapshot = small.project.created_by, small.snapshots["preferences"]
    first = ask(small, olga)
    finish(first, tmp_path / "first")
    later = ask(small, olga)
    jobs.fail(claim(job_id=later.pk), Outcome(reason="bad data", exit_code=3), now=NOW)
    told = world.client(olga).get(address(snapshot)).json()
    assert (told["latest"]["id"], told["latest"]["status"], told["latest"]["reason"]) == (
        str(later.public_id), "failed", "bad data",
    )  # fmt: skip
    assert told["measured"]["job"]["id"] == str(first.public_id)


def test_an_evaluation_of_another_kind_measures_no_similarity(small):
    queue(prepare(small.project, small.wish("evaluate")), by=None, now=NOW)
    told = world.client(small.project.created_by).get(address(small.snapshots["preferences"])).json()
    assert told == {"latest": None, "measured": None}


def test_an_erased_pair_is_not_shown(small, tmp_path, settings):
    olga, snapshot = small.project.created_by, small.snapshots["preferences"]
    finish(ask(small, olga), tmp_path / "first")
    before = world.client(olga).get(address(snapshot)).json()["measured"]["highest"]
    # The fixture's files are shared; what is erased is a copy.
    copied = tmp_path / "copied"
    copied.mkdir()
    for file in snapshot_path(snapshot).iterdir():
        (copied / file.name).write_bytes(file.read_bytes())
    snapshot_path(snapshot).unlink()
    copied.rename(snapshot_path(snapshot))
    erase_lines(snapshot_path(snapshot), doomed=lambda line: line["id"] == before[0]["id"])
    after = world.client(olga).get(address(snapshot)).json()["measured"]["highest"]
    assert [pair["id"] for pair in after][:19] == [pair["id"] for pair in before][1:]


def test_strangers_see_nothing(small):
    stan = builders.user("stan")
    assert world.client(stan).get(address(small.snapshots["preferences"])).status_code == 404


def test_similarity_needs_a_policy(small):
    wish = small.wish("evaluate", ASKED, model=None, inputs={"rewards": [{"model": str(small.reward.public_id)}]})
    with pytest.raises(BadConfig) as refused:
        prepare(small.project, wish)
    assert list(refused.value.details) == ["models.policy"]


def test_an_estimate_counts_the_pairs_that_are_left_out(small):
    plain, fewer = (
        estimate(prepare(small.project, small.wish("dpo", {"batch": {"pairs": 4}, "dpo": {"drop_similar": share}})))
        for share in (0.0, 0.5)
    )
    assert (plain.examples, plain.steps) == (24, 6)
    assert (fewer.examples, fewer.steps, fewer.dropped) == (12, 3, 12)
    assert any("too similar" in note for note in fewer.notes)
