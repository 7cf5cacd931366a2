"""A reward model and then GRPO in one request, run by the real runner and the real engine to two registered models."""

from __future__ import annotations

import threading

import pytest
from django.conf import settings

from tests.training.small import directories, small
from tests.world import client
from training import jobs, runner
from training.models import Job, JobStatus, ModelKind, ModelVersion

__all__ = ["directories", "small"]  # fixtures

pytestmark = pytest.mark.django_db(transaction=True)
JOBS = "/api/v1/projects/helpful/jobs"


def run_all():
    """What a worker does, one job after the other, until nothing can start. The methods in the order they ran."""
    ran = []
    while True:
        claimed = jobs.claim(queue="gpu", host="here", lease_seconds=600)
        if claimed is None:
            return ran
        status = runner.run_claimed(
            claimed,
            hooks=runner.production_hooks(),
            timing=runner.Timing(lease_seconds=600, heartbeat_seconds=1),
            runs_dir=settings.RUNS_DIR,
            threads=1,
            stop_event=threading.Event(),
        )
        job = Job.objects.get(pk=claimed.job_id)
        assert status == JobStatus.SUCCEEDED, job.reason
        ran.append(job.method)


def test_one_request_trains_a_reward_model_and_the_policy_that_is_trained_against_it(small):
    olga = client(small.project.created_by)
    rows = {"snapshot": str(small.snapshots["preferences"].public_id), "model": str(small.policy.public_id)}
    reward = {"method": "reward", "config": {"batch": {"pairs": 12}, "eval": {"prompts": 1}}, "promote_as": "rm"}
    quick = {
        "batch": {"iterations": 1, "completions": 8},
        "sampling": {"max_new_tokens": 6},
        "eval": {"prompts": 1},
    }
    policy = {"method": "grpo", "config": quick, "inputs": {"rewards": [{"name": "rm"}]}, "promote_as": "better"}
    answer = olga.post(
        f"{JOBS}/chain", {"jobs": [reward | rows, policy | rows | {"make_current": True}]}, format="json"
    )
    assert answer.status_code == 201, answer.content
    assert run_all() == ["reward", "convert", "grpo", "convert"]
    made = {model.name: model for model in ModelVersion.objects.filter(project=small.project, source="job")}
    assert (made["rm"].kind, made["better"].kind) == (ModelKind.REWARD, ModelKind.POLICY)
    grpo = Job.objects.get(method="grpo")
    assert list(grpo.uses.all()) == [made["rm"]]
    assert made["better"].checkpoint.run.job == grpo and made["better"].base == small.policy
    assert made["better"].is_current
    scores = {"method": "score", "snapshot": rows["snapshot"], "inputs": {"rewards": [{"name": "rm"}]}}
    assert olga.post(JOBS, scores, format="json").status_code == 201
    assert run_all() == ["score"]
    scored = Job.objects.get(method="score").runs.get().result
    assert scored["completions"] == 2 * (24 + 8 + 8)  # both sides of every pair of every part
