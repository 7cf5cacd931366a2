"""The transition table of jobs: what each step does, and what it refuses."""

from __future__ import annotations

import uuid
from datetime import timedelta

import pytest
from django.utils import timezone

from tests.builders import NOW
from tests.training import rows
from tests.training.rows import claim, submit
from training import jobs
from training.jobs import BadConfig, Ending, JobFinished, JobNotRetryable, JobNotRunning, Order, Outcome, Phase
from training.models import Job, JobStatus, Run

pytestmark = pytest.mark.django_db

DONE = Outcome(reason="done", exit_code=0, last_step=10)


def again(claimed, *, ending=Ending.CRASHED, now=NOW, **outcome):
    outcome = Outcome(**({"reason": "broke", "exit_code": 1} | outcome))
    return jobs.requeue(job_id=claimed.job_id, owner=claimed.owner, ending=ending, outcome=outcome, now=now)


def row(job) -> Job:
    job.refresh_from_db()
    return job


def later(seconds):
    return NOW + timedelta(seconds=seconds)


# --- submit -----------------------------------------------------------------------------------------------------------


def test_jobs_are_numbered_by_project_and_wait_in_the_queue():
    first, second = submit(), submit(title="again")
    other = submit(project=rows.builders.project(slug="other"))
    assert (first.number, second.number, other.number) == (1, 2, 1)
    assert (second.status, second.title, second.queue) == (JobStatus.QUEUED, "again", "gpu")


def test_a_config_that_the_engine_would_refuse_makes_no_job():
    with pytest.raises(BadConfig) as caught:
        submit(config={"method": "reward", "optim": {"learning_rate": -1.0}})
    assert caught.value.details == {"optim.learning_rate": ["optim.learning_rate must be positive, got -1.0"]}
    with pytest.raises(BadConfig):
        submit(method="nonsense")
    assert not Job.objects.exists()


@pytest.mark.parametrize(
    ("method", "config"), [("sample", {"sampling": {"completions": 2}}), ("convert", {"name": "m"}), ("dpo", {})]
)
def test_every_method_can_be_submitted_without_its_inputs_paths(method, config):
    assert submit(method=method, config=config).config == config | {"method": method}


def test_a_broker_that_is_down_does_not_fail_the_request(settings, django_capture_on_commit_callbacks, caplog):
    from winnow.celery import app

    app.conf.update(
        broker_url="redis://127.0.0.1:1/0", broker_transport_options={"max_retries": 1, "interval_start": 0}
    )
    app.set_current()
    pools, app.amqp._producer_pool, app._pool = (app.amqp._producer_pool, app._pool), None, None
    try:
        with django_capture_on_commit_callbacks(execute=True):
            job = submit()
    finally:
        app.conf.update(broker_url="memory://", broker_transport_options={})
        app.amqp._producer_pool, app._pool = pools
    assert row(job).status == JobStatus.QUEUED
    assert job.nudged_at is not None
    assert "the broker does not answer" in caplog.text


# --- claim ------------------------------------------------------------------------------------------------------------


def test_the_highest_priority_is_claimed_first_then_the_oldest():
    old, new, urgent = submit(), submit(), submit(priority=5)
    assert [claim().job_id for _ in range(3)] == [urgent.pk, old.pk, new.pk]
    assert claim() is None


def test_a_claim_sets_the_lease_and_opens_a_run():
    job = submit()
    claimed = claim(lease_seconds=60)
    assert (row(job).status, job.owner, job.attempt) == (JobStatus.RUNNING, claimed.owner, 1)
    assert (job.lease_expires_at, job.started_at) == (later(60), NOW)
    run = Run.objects.get()
    assert (run.job, run.attempt, run.owner, run.host, run.started_at) == (job, 1, claimed.owner, "here", NOW)
    assert len(run.config_hash) == 64 and run.ended_at is None


def test_what_may_not_start_is_not_claimed():
    waiting = submit()
    Job.objects.filter(pk=waiting.pk).update(not_before_at=later(5))
    asked = submit()
    Job.objects.filter(pk=asked.pk).update(cancel_requested_at=NOW)
    submit(queue="cpu")
    first = submit(priority=9)
    dependent = submit(depends_on=[first])
    claimed = claim()
    assert claimed.job_id == first.pk
    assert claim() is None
    assert jobs.finish(claimed, DONE, now=NOW)
    assert claim().job_id == dependent.pk
    assert claim(now=later(5)).job_id == waiting.pk


def test_one_job_can_be_asked_for():
    submit(priority=9)
    wanted = submit()
    assert claim(job_id=wanted.pk).job_id == wanted.pk
    assert claim(job_id=wanted.pk) is None


def test_leases_are_in_the_databases_time():
    job = submit()
    claimed = jobs.claim(queue="gpu", host="here", lease_seconds=30)
    assert abs(row(job).lease_expires_at - timezone.now() - timedelta(seconds=30)) < timedelta(seconds=3)
    assert jobs.reap() == 0
    jobs.beat(claimed, lease_seconds=-0.001)
    assert abs(row(job).lease_expires_at - timezone.now()) < timedelta(seconds=3)
    rows.until(jobs.reap)
    assert row(job).status == JobStatus.QUEUED
    claimed = jobs.claim(queue="gpu", host="here", lease_seconds=30)
    jobs.requeue(job_id=job.pk, owner=claimed.owner, ending=Ending.CRASHED, outcome=Outcome(reason="broke"))
    assert abs(row(job).not_before_at - timezone.now() - timedelta(seconds=30)) < timedelta(seconds=3)
    assert jobs.claim(queue="gpu", host="here", lease_seconds=30) is None


# --- running ----------------------------------------------------------------------------------------------------------


def test_a_heartbeat_renews_the_lease_and_brings_orders():
    job = submit()
    claimed = claim()
    assert jobs.beat(claimed, lease_seconds=60, now=later(10)) is Order.GO_ON
    assert row(job).lease_expires_at == later(70)
    jobs.request_checkpoint(job, now=NOW)
    assert jobs.beat(claimed, lease_seconds=60, now=NOW) is Order.CHECKPOINT
    assert jobs.beat(claimed, lease_seconds=60, now=NOW) is Order.GO_ON
    assert jobs.cancel(job, now=NOW) is JobStatus.RUNNING
    assert jobs.beat(claimed, lease_seconds=60, now=NOW) is Order.STOP


def test_a_heartbeat_of_somebody_else_is_refused():
    job = submit()
    claimed = claim()
    jobs.reap(now=later(61))
    assert jobs.beat(claimed, lease_seconds=60, now=later(61)) is None
    assert row(job).lease_expires_at is None


def test_a_checkpoint_can_only_be_asked_of_a_running_job():
    with pytest.raises(JobNotRunning):
        jobs.request_checkpoint(submit(), now=NOW)


def test_nothing_is_stored_for_an_attempt_that_lost_its_lease():
    job = submit()
    claimed = claim()
    jobs.reap(now=later(61))
    metric = jobs.RunMetric(run_id=claimed.run_id, seq=1, step=1, time=0, values={}, offset=1)
    assert jobs.record_progress(claimed, step=1, metrics=[metric]) is False
    made = jobs.record_checkpoint(claimed, run_id=claimed.run_id, step=1, path="p", sha256="0", size_bytes=1)
    assert made is None
    assert row(job).last_step is None
    assert not Run.objects.get().metrics.exists() and not Run.objects.get().checkpoints.exists()


# --- ends -------------------------------------------------------------------------------------------------------------


def test_finishing_closes_job_and_run_once():
    job = submit()
    claimed = claim()
    outcome = Outcome(reason="done", exit_code=0, last_step=10, result={"status": "done"}, error_tail="tail")
    assert jobs.finish(claimed, outcome, now=later(9))
    assert (row(job).status, job.reason, job.ended_at, job.owner) == (JobStatus.SUCCEEDED, "done", later(9), None)
    run = Run.objects.get()
    assert (run.ended_at, run.exit_code, run.reason, run.last_step) == (later(9), 0, "done", 10)
    assert (run.result, run.error_tail) == ({"status": "done"}, "tail")
    assert jobs.finish(claimed, outcome, now=later(10)) is False
    assert jobs.fail(claimed, outcome, now=later(10)) is False
    assert again(claimed) is None
    assert Run.objects.get().ended_at == later(9)


@pytest.mark.parametrize("end", [jobs.finish, jobs.fail, jobs.cancelled])
def test_only_the_owner_ends_a_running_job(end):
    job = submit()
    mine = claim()
    stranger = jobs.Claim(job_id=job.pk, run_id=mine.run_id, owner=uuid.uuid4(), attempt=1)
    assert end(stranger, DONE, now=NOW) is False
    assert row(job).status == JobStatus.RUNNING
    assert Run.objects.get().ended_at is None


def test_a_running_job_is_cancelled_only_if_asked_or_paused_by_the_engine():
    job = submit()
    claimed = claim()
    assert jobs.cancelled(claimed, DONE, now=NOW) is False
    jobs.cancel(job, now=NOW)
    assert jobs.cancelled(claimed, DONE, now=NOW)
    assert row(job).status == JobStatus.CANCELLED
    paused = submit()
    assert jobs.cancelled(claim(), Outcome(reason="paused by alarm kl_budget"), paused=True, now=NOW)
    assert (row(paused).status, paused.reason) == (JobStatus.CANCELLED, "paused by alarm kl_budget")


# --- requeue ----------------------------------------------------------------------------------------------------------


def test_failures_wait_longer_each_time_and_the_third_one_fails_the_job():
    job = submit()
    assert again(claim()) is JobStatus.QUEUED
    assert (row(job).not_before_at, job.failures, job.owner) == (later(5), 1, None)
    assert again(claim(now=later(5)), now=later(5)) is JobStatus.QUEUED
    assert (row(job).not_before_at, job.failures) == (later(5 + 30), 2)
    assert again(claim(now=later(35)), now=later(35)) is JobStatus.FAILED
    assert row(job).reason == "broke; 3 failures without a new checkpoint"
    assert [run.reason for run in job.runs.order_by("attempt")] == ["broke"] * 3


def test_a_new_checkpoint_ends_the_count_of_failures_but_one_that_was_resumed_from_does_not():
    job = submit()
    again(claim())
    again(claim(now=later(99)))
    claimed = claim(now=later(99))
    kept = jobs.record_checkpoint(claimed, run_id=claimed.run_id, step=5, path="a", sha256="0", size_bytes=1)
    assert again(claimed) is JobStatus.QUEUED
    assert row(job).failures == 1
    claimed = claim(now=later(99))
    jobs.record_resume(claimed, kept)
    jobs.record_checkpoint(claimed, run_id=claimed.run_id, step=5, path="b", sha256="0", size_bytes=1)
    again(claimed)
    assert row(job).failures == 2


def test_an_orderly_shutdown_is_no_failure_and_waits_for_nothing():
    job = submit()
    for _ in range(5):
        assert again(claim(), ending=Ending.SHUTDOWN) is JobStatus.QUEUED
    assert (row(job).failures, job.not_before_at, job.attempt) == (0, None, 5)


def test_twenty_attempts_are_the_most_however_they_ended():
    job = submit()
    for _ in range(19):
        assert again(claim(), ending=Ending.SHUTDOWN) is JobStatus.QUEUED
    assert again(claim(), ending=Ending.SHUTDOWN, reason="stopped") is JobStatus.FAILED
    assert row(job).reason == "stopped; 20 attempts"


@pytest.mark.parametrize(("step", "where"), [(7, "at step 7"), (None, "before the first step")])
@pytest.mark.parametrize("code", [-9, 137])
def test_killed_twice_at_one_step_fails_at_once(step, where, code):
    job = submit()
    assert again(claim(), ending=Ending.KILLED, exit_code=-9, last_step=step) is JobStatus.QUEUED
    assert again(claim(now=later(9)), ending=Ending.KILLED, exit_code=code, last_step=step) is JobStatus.FAILED
    assert row(job).reason == f"killed twice {where} (out of memory?)"


def test_kills_before_the_first_steps_after_two_checkpoints_are_not_at_one_step():
    job = submit()
    first = claim()
    saved = jobs.record_checkpoint(first, run_id=first.run_id, step=5, path="5", sha256="0" * 64, size_bytes=1)
    assert again(first, ending=Ending.KILLED, exit_code=-9) is JobStatus.QUEUED
    second = claim(now=later(9))
    assert jobs.record_resume(second, saved)
    assert again(second, ending=Ending.KILLED, exit_code=-9) is JobStatus.QUEUED
    third = claim(now=later(99))
    assert jobs.record_resume(third, saved)
    assert again(third, ending=Ending.KILLED, exit_code=-9) is JobStatus.FAILED
    assert row(job).reason == "killed twice before the first step (out of memory?)"


def test_killed_at_another_step_is_tried_again():
    submit()
    assert again(claim(), ending=Ending.KILLED, exit_code=-9, last_step=7) is JobStatus.QUEUED
    assert again(claim(now=later(9)), ending=Ending.KILLED, exit_code=-9, last_step=8) is JobStatus.QUEUED


def test_a_crash_after_a_wish_to_stop_is_a_cancelled_job():
    job = submit()
    claimed = claim()
    jobs.cancel(job, now=NOW)
    assert again(claimed) is JobStatus.CANCELLED
    assert row(job).status == JobStatus.CANCELLED


# --- the reaper -------------------------------------------------------------------------------------------------------


def test_the_reaper_takes_back_what_has_no_lease_and_nothing_else():
    over, live = submit(), submit()
    claimed = claim()
    claim(lease_seconds=120)
    jobs.record_progress(claimed, step=4, now=NOW)
    assert jobs.reap(now=later(60)) == 0  # the lease ends after its last moment
    assert jobs.reap(now=later(61)) == 1
    assert (row(over).status, row(live).status) == (JobStatus.QUEUED, JobStatus.RUNNING)
    assert (over.failures, over.not_before_at) == (1, None)  # the lease was wait enough
    run = over.runs.get()
    assert (run.ended_at, run.last_step, run.exit_code) == (later(61), 4, None)
    assert jobs.finish(claimed, DONE, now=later(62)) is False


def test_the_reaper_cancels_what_a_person_asked_to_stop():
    job = submit()
    claim()
    jobs.cancel(job, now=NOW)
    jobs.reap(now=later(61))
    assert row(job).status == JobStatus.CANCELLED


def test_the_reaper_keeps_the_cap():
    job = submit()
    for round_ in range(1, 4):
        claim(now=later(1000 * round_))
        jobs.reap(now=later(1000 * round_ + 61))
    assert row(job).status == JobStatus.FAILED


# --- people -----------------------------------------------------------------------------------------------------------


def test_a_queued_job_is_cancelled_at_once():
    job = submit()
    assert jobs.cancel(job, now=NOW) is JobStatus.CANCELLED
    assert (row(job).status, job.ended_at) == (JobStatus.CANCELLED, NOW)
    assert claim() is None


def test_asking_twice_to_stop_is_asking_once():
    job = submit()
    claim()
    jobs.cancel(job, now=NOW)
    jobs.cancel(job, now=later(5))
    assert row(job).cancel_requested_at == NOW


@pytest.mark.parametrize("status", [JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED])
def test_a_job_that_has_ended_cannot_be_cancelled(status):
    job = submit()
    Job.objects.filter(pk=job.pk).update(status=status)
    with pytest.raises(JobFinished) as caught:
        jobs.cancel(job, now=NOW)
    assert caught.value.code == "job_finished"


@pytest.mark.parametrize("status", [JobStatus.FAILED, JobStatus.CANCELLED])
def test_a_retry_starts_the_counts_anew(status):
    job = submit()
    again(claim(), ending=Ending.KILLED, exit_code=-9, last_step=7)
    Job.objects.filter(pk=job.pk).update(status=status, failures=3, cancel_requested_at=NOW, ended_at=NOW)
    jobs.retry(job)
    assert (row(job).status, job.failures, job.cancel_requested_at, job.ended_at) == (JobStatus.QUEUED, 0, None, None)
    assert again(claim(), ending=Ending.KILLED, exit_code=-9, last_step=7) is JobStatus.QUEUED


def test_only_failed_and_cancelled_jobs_can_be_retried():
    job = submit()
    with pytest.raises(JobNotRetryable) as caught:
        jobs.retry(job)
    assert caught.value.code == "job_not_retryable"
    claimed = claim()
    with pytest.raises(JobNotRetryable):
        jobs.retry(job)
    jobs.finish(claimed, DONE, now=NOW)
    with pytest.raises(JobNotRetryable):
        jobs.retry(job)


# --- dependents and wake-ups ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "word"), [(JobStatus.FAILED, "failed"), (JobStatus.CANCELLED, "was cancelled")])
def test_what_depends_on_a_lost_job_fails_and_says_so(status, word):
    first = submit()
    dependent = submit(depends_on=[first, submit()])
    assert jobs.fail_dependents(now=NOW) == 0
    Job.objects.filter(pk=first.pk).update(status=status)
    assert jobs.fail_dependents(now=NOW) == 1
    assert (row(dependent).status, dependent.reason) == (
        JobStatus.FAILED,
        f"depends on job 1 (reward), which {word}",
    )


def test_only_what_waits_too_long_is_nudged_again():
    nudged, old, never, backed_off, waiting, running = (submit() for _ in range(6))
    for job, at in ((nudged, later(-29)), (old, later(-31)), (backed_off, later(-9)), (waiting, later(-99))):
        Job.objects.filter(pk=job.pk).update(nudged_at=at)
    Job.objects.filter(pk=backed_off.pk).update(not_before_at=later(-5))
    Job.objects.filter(pk=waiting.pk).update(not_before_at=later(5))
    claim(job_id=running.pk)
    assert jobs.nudge_stale(now=NOW) == 3
    assert {job.pk for job in Job.objects.filter(nudged_at=NOW)} == {old.pk, never.pk, backed_off.pk}
    assert jobs.nudge_stale(now=NOW) == 0
    assert jobs.nudge_waiting(now=later(1)) == 4


def test_a_finished_job_wakes_what_waited_for_it(django_capture_on_commit_callbacks):
    first = submit()
    dependent = submit(depends_on=[first])
    claimed = claim()
    with django_capture_on_commit_callbacks(execute=True):
        jobs.finish(claimed, DONE, now=NOW)
    assert row(dependent).nudged_at is not None


# --- what the screen adds ---------------------------------------------------------------------------------------------


def test_the_phase_of_a_running_job_is_derived():
    job = submit()
    assert jobs.phase(row(job), NOW) is None
    claimed = claim()
    assert jobs.phase(row(job), NOW) is Phase.STARTING
    jobs.record_progress(claimed, step=1, now=NOW)
    assert jobs.phase(row(job), NOW) is None
    jobs.cancel(job, now=NOW)
    assert jobs.phase(row(job), NOW) is Phase.STOPPING
    assert jobs.phase(row(job), later(61)) is Phase.STALLED
