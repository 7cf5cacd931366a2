"""A whole worker process is killed or frozen: the reaper gives the job back, and another worker resumes it."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from contextlib import closing

import pytest
from django.db import OperationalError, connection, transaction

from tests.training.conftest import TICK_SECONDS
from tests.training.rows import TIMING, curve, reached, submit, until
from tests.training.toy_engine import curve as whole
from training import processes
from training.models import Job, JobStatus, Worker

pytestmark = pytest.mark.django_db(transaction=True)


def children(settings) -> list[processes.Identity]:
    files = settings.RUNS_DIR.glob(f"*/*/{processes.PROCESS_FILE}")
    return [found for file in files if (found := processes.recorded_process(file)) is not None]


def freeze(pid: int, job: Job) -> None:
    """SIGSTOP between two transactions: one inside would hold its lock (on SQLite everybody's) until it thaws."""
    for _ in range(100):
        os.kill(pid, signal.SIGSTOP)
        try:
            if connection.vendor == "sqlite":
                with closing(sqlite3.connect(connection.settings_dict["NAME"], timeout=0.05)) as other:
                    other.execute("BEGIN IMMEDIATE")
            else:
                with transaction.atomic():
                    Job.objects.select_for_update(nowait=True).get(pk=job.pk)
            return
        except (sqlite3.OperationalError, OperationalError):
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.05)
    raise AssertionError("the worker is always inside a transaction")


def test_a_worker_that_is_killed_loses_nothing(start_worker, ticking, settings):
    toy = {"steps": 400, "step_seconds": 0.04}
    job = submit()
    worker = start_worker(toy)
    reached(job, 12)
    start_worker(toy)
    until(lambda: Worker.objects.count() == 2, seconds=60)  # what is measured is not how long Python takes to start
    (orphan,) = children(settings)
    os.kill(worker.pid, signal.SIGKILL)
    killed_at = time.monotonic()
    until(lambda: processes.identity(orphan.pid) is None, seconds=2)  # the child hears the pipe close
    until(lambda: Job.objects.filter(pk=job.pk, attempt=2, status=JobStatus.RUNNING).exists(), seconds=30)
    seconds = time.monotonic() - killed_at
    until(lambda: Job.objects.filter(pk=job.pk, status=JobStatus.SUCCEEDED).exists(), seconds=60)
    assert curve(job) == whole(400)
    second = job.runs.get(attempt=2)
    assert second.resumed_from.step >= 10
    assert second.result["metrics"]["train/loss"] == whole(400)[400]
    assert children(settings) == []
    # The lease has at most its whole length left when the worker dies, and the tick finds it a round later.
    assert seconds < TIMING.lease_seconds + TICK_SECONDS + 5


def test_a_worker_that_is_told_to_end_gives_its_job_back(start_worker, settings):
    toy = {"steps": 500, "step_seconds": 0.02}
    job = submit()
    worker = start_worker(toy)
    reached(job, 3)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(20) == 0
    job.refresh_from_db()
    assert (job.status, job.failures, job.not_before_at) == (JobStatus.QUEUED, 0, None)
    assert job.runs.get().reason == "stopped"
    assert children(settings) == []


def test_a_worker_that_is_frozen_cannot_write_beside_its_successor(start_worker, ticking, settings):
    toy = {"steps": 120, "step_seconds": 0.04}
    job = submit()
    frozen = start_worker(toy)
    reached(job, 7)
    (child,) = children(settings)
    freeze(frozen.pid, job)
    until(lambda: processes.identity(child.pid) is None, seconds=5)  # not fed, it ends before the lease does
    start_worker(toy)
    until(lambda: Job.objects.filter(pk=job.pk, attempt=2).exists(), seconds=30)
    os.kill(frozen.pid, signal.SIGCONT)
    until(lambda: Job.objects.filter(pk=job.pk, status=JobStatus.SUCCEEDED).exists(), seconds=60)
    assert job.runs.get(attempt=1).ending == "cut off"
    assert job.runs.get(attempt=1).exit_code is None  # closed by the reaper, and not by the worker that thawed
    assert curve(job) == whole(120)
