"""What a worker does with a message, and what the tick and the foreground command do without one."""

from __future__ import annotations

import threading
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError

from tests.training.rows import TIMING, submit, toy_hooks, until
from training import jobs, runner, tasks
from training.management.commands import tick
from training.models import Job, JobStatus

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def toy_child(monkeypatch):
    """The child process is the toy engine."""
    monkeypatch.setattr(runner, "production_hooks", lambda: toy_hooks({"steps": 3}))
    monkeypatch.setattr(runner, "production_timing", lambda: TIMING)
    yield
    tasks.STOPPING.clear()


def statuses() -> list[str]:
    return list(Job.objects.order_by("pk").values_list("status", flat=True))


def test_a_message_wakes_a_worker_that_runs_the_best_job_and_goes_on_until_none_is_left():
    first, _, urgent = submit(), submit(), submit(priority=9)
    submit(queue="cpu")
    tasks.run_job(first.pk)
    assert statuses() == ["succeeded", "succeeded", "succeeded", "queued"]
    urgent.refresh_from_db()
    first.refresh_from_db()
    assert urgent.started_at < first.started_at


def test_a_doubled_message_or_one_for_no_job_changes_nothing():
    job = submit()
    tasks.run_job(job.pk)
    tasks.run_job(job.pk)
    tasks.run_job(job.pk + 99)
    job.refresh_from_db()
    assert (job.status, job.attempt) == (JobStatus.SUCCEEDED, 1)


def test_a_worker_that_shuts_down_claims_nothing_more():
    job = submit()
    tasks.stop_runners()
    tasks.run_job(job.pk)
    assert statuses() == ["queued"]


def test_a_worker_that_comes_up_wakes_what_waits():
    job = submit()
    Job.objects.update(nudged_at=None)
    tasks.start_waiting_work()
    job.refresh_from_db()
    assert job.nudged_at is not None


def test_the_foreground_command_runs_one_job_and_says_how_it_goes():
    submit(priority=9)
    job = submit()
    out = StringIO()
    call_command("run_job", str(job.public_id), stdout=out)
    assert statuses() == ["queued", "succeeded"]
    assert "step 3 of 3" in out.getvalue() and f"job {job.public_id}: succeeded done" in out.getvalue()


def test_the_foreground_command_says_why_a_job_cannot_start():
    with pytest.raises(CommandError, match="there is no job 'x'"):
        call_command("run_job", "x")
    first = submit()
    waiting = submit(depends_on=[first])
    with pytest.raises(CommandError, match="it waits for job 1"):
        call_command("run_job", str(waiting.pk))
    jobs.cancel(first)
    with pytest.raises(CommandError, match="it is cancelled"):
        call_command("run_job", str(first.pk))


def test_a_round_of_the_tick_repairs_everything_and_leaves_a_sign_of_life(data_dir):
    lost = submit()
    jobs.claim(queue="gpu", host="dead", lease_seconds=-1)
    hopeless = submit(depends_on=[cancelled := submit()])
    jobs.cancel(cancelled)
    call_command("tick", "--once")
    lost.refresh_from_db()
    hopeless.refresh_from_db()
    assert (lost.status, hopeless.status) == (JobStatus.QUEUED, JobStatus.FAILED)
    assert (data_dir / "tick.alive").exists()


def test_the_tick_outlives_a_database_that_does_not_answer(tmp_path):
    stop, alive, rounds = threading.Event(), tmp_path / "tick.alive", []

    def act(*, analyze):
        rounds.append(analyze)
        if len(rounds) < 3:
            raise OperationalError("away")

    thread = threading.Thread(
        target=tick.loop, kwargs={"stop": stop, "alive": alive, "period_seconds": 0.05, "act": act}
    )
    thread.start()
    until(lambda: len(rounds) >= 5)
    stop.set()
    thread.join(5)
    assert not thread.is_alive() and alive.exists()
    assert rounds[:5] == [True, True, True, False, False]  # ANALYZE until it has worked once
