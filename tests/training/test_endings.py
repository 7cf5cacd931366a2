"""Every fault of an attempt ends in a clear state: how it ended, the reason, the next step; and the job goes on."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import time
from datetime import timedelta
from pathlib import Path

import pytest
from django.db import IntegrityError, InterfaceError

from tests import builders
from tests.conftest import require_or_skip
from tests.engine.planted import planted_config, planted_snapshot
from tests.engine.tiny import tiny_model
from tests.training import rows
from tests.training.rows import TIMING, Runner, claim, model, project, reached, run, submit, toy_hooks, until
from tests.training.test_job_recovery import children, freeze
from tests.training.toy_engine import curve
from training import devices, jobs, runner, workers
from training.endings import Remains, classify, explain
from training.jobs import Ending, Outcome
from training.models import Checkpoint, Job, JobStatus, Quota

pytestmark = pytest.mark.django_db(transaction=True)

NOW = builders.NOW
MIB = 2**20


# --- what a child leaves says how it ended ----------------------------------------------------------------------------


def remains(code: int = 1, words: str = "", kind: str | None = None, **fields) -> Remains:
    return Remains(code=code, words=words, error={} if kind is None else {"kind": kind, "message": "m"}, **fields)


@pytest.mark.parametrize(
    ("left", "ending"),
    [
        (remains(kind="network"), Ending.NETWORK),
        (remains(kind="device", code=137), Ending.DEVICE),  # the engine's word before the code
        (remains(kind="defect"), Ending.DEFECT),
        (remains(code=2), Ending.CONFIG),
        (remains(code=4), Ending.DIVERGED),
        (remains(code=-9), Ending.KILLED),
        (remains(code=137, is_out_of_memory=True), Ending.MEMORY),
        (remains(code=-9, is_out_of_memory=True, is_starved=True), Ending.CUT_OFF),
        (remains(code=-6, words="torch.OutOfMemoryError: CUDA out of memory. Tried"), Ending.MEMORY),
        (remains(code=-6, words="terminate called after throwing an instance of 'std::bad_alloc'"), Ending.MEMORY),
        (remains(code=-6, words="what():  CUDA error: unspecified launch failure"), Ending.DEVICE),
        (remains(words="OSError: [Errno 28] No space left on device: 'x'"), Ending.DISK),
        (remains(code=-7, is_disk_full=True), Ending.DISK),
        (remains(code=-11), Ending.CRASHED),
        (remains(words="CUDA error, long ago\n" + "step\n" * 2000), Ending.CRASHED),
        (remains(code=0, words="a warning: CUDA out of memory, tried again"), Ending.CRASHED),
        (remains(kind="no kind of ours"), Ending.CRASHED),
    ],
)
def test_what_a_child_left_says_how_it_ended(left, ending):
    assert classify(left) is ending


# --- real children ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "ending", "reason"),
    [
        ({"do": "memory"}, "memory", "out of memory"),
        ({"do": "disk"}, "disk", "the disk is full"),
        ({"do": "abort", "words": "CUDA error: device lost\n"}, "device", "the GPU failed"),
        ({"do": "exit", "code": 1, "kind": "device", "message": "CUDA error: ECC"}, "device", "CUDA error: ECC"),
        ({"do": "exit", "code": 1, "kind": "network", "message": "http://j: refused"}, "network", "http://j: refused"),
        ({"do": "kill"}, "killed", "killed"),
    ],
)
def test_a_fault_of_the_machine_is_tried_again_and_nothing_is_lost(end, ending, reason):
    job = submit()
    toy = {"steps": 12, "ends": {"1": {"at": 7, **end}}}
    assert run(job, toy) is JobStatus.QUEUED
    first = job.runs.get()
    assert (first.ending, job.reason, job.failures) == (ending, reason, 1)
    assert job.not_before_at is not None
    told = explain(job, now=rows.now())
    assert told.by_itself and told.resumes_from == 5 and "Attempt 2 starts by itself in" in told.next_step
    assert run(job, toy) is JobStatus.SUCCEEDED
    assert rows.curve(job) == curve(12)
    assert job.runs.get(attempt=2).resumed_from.step == 5


def test_a_defect_of_the_engine_is_not_tried_again():
    job = submit()
    end = {"at": 7, "do": "exit", "code": 1, "kind": "defect", "message": "list index out of range"}
    assert run(job, {"ends": {"1": end}}) is JobStatus.FAILED
    assert (job.runs.get().ending, job.failures, job.reason) == ("defect", 0, "list index out of range")
    told = explain(job, now=rows.now())
    assert not told.by_itself and "report it" in told.next_step and "step 7" in told.what


def test_memory_that_is_not_enough_twice_at_the_same_step_fails_the_job_and_says_what_to_do():
    job = submit()
    end = {"at": 3, "do": "exit", "code": 1, "kind": "memory", "message": "CUDA out of memory. Tried 2 GiB"}
    toy = {"ends": {"1": end, "2": end}}
    assert run(job, toy) is JobStatus.QUEUED
    assert run(job, toy) is JobStatus.FAILED
    assert job.reason == "CUDA out of memory. Tried 2 GiB; out of memory twice at step 3"
    told = explain(job, now=rows.now())
    assert "memory.micro_tokens" in told.next_step and told.resumes_from is None
    assert "A retry goes on from the beginning." in told.next_step


def test_a_kill_by_the_system_for_want_of_memory_is_told_from_a_kill_by_hand(monkeypatch):
    counts = iter([4, 5])
    monkeypatch.setattr(devices, "read_out_of_memory_kills", lambda: next(counts))
    job = submit()
    run(job, {"ends": {"1": {"at": 3, "do": "kill"}}})
    assert (job.runs.get().ending, job.reason) == ("memory", "out of memory")


def test_a_child_that_cannot_be_recorded_is_not_left_running(monkeypatch, tmp_path):
    from training import processes

    started = []

    def full(self) -> None:
        started.append(self.pid)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(processes.Child, "_identify", full)
    job = submit()
    assert run(job, {"steps": 500}) is JobStatus.QUEUED
    assert job.runs.get().ending == "disk" and processes.identity(started[0]) is None


# --- a full disk ------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path, settings) -> Path:
    """A file system of 4 MiB that holds the runs."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "winnow-test", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        require_or_skip("a small file system cannot be mounted here (needs root)")
    settings.RUNS_DIR = place / "runs"
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(place: Path, *, leave: int = 0) -> Path:
    filler = place / "filler"
    left = devices.read_free_disk(place) - leave
    with filler.open("wb", buffering=0) as file:
        while left > 0:
            left -= file.write(b"x" * min(left, MIB))
    return filler


def test_a_disk_that_fills_up_costs_the_steps_since_the_checkpoint_and_leaves_no_half_one(small_disk, settings):
    job = submit()
    toy = {"steps": 60, "step_seconds": 0.03, "ballast": MIB // 2}
    attempt = Runner(toy_hooks(toy))
    until(lambda: Checkpoint.objects.filter(run__job=job, step=5).exists(), seconds=60)
    filler = fill(small_disk, leave=MIB // 4)
    assert attempt.join() is JobStatus.QUEUED
    job.refresh_from_db()
    assert (job.runs.get().ending, job.reason) == ("disk", "the disk is full")
    kept = explain(job, now=rows.now()).resumes_from
    assert kept is not None and kept >= 5
    assert not list(settings.RUNS_DIR.glob("*/*/checkpoints/.partial*")), "half a checkpoint keeps the disk full"
    filler.unlink()
    assert run(job, toy) is JobStatus.SUCCEEDED
    assert rows.curve(job) == curve(60)
    assert job.runs.get(attempt=2).resumed_from.step == kept


def test_an_attempt_on_a_disk_that_is_full_already_ends_before_a_child_and_the_job_waits(small_disk, settings):
    settings.RUNS_DIR.mkdir()
    filler = fill(small_disk)
    job = submit()
    assert run(job, {}) is JobStatus.QUEUED
    assert job.runs.get().ending == "disk"
    assert not list(settings.RUNS_DIR.glob("*/*/stderr.log"))
    filler.unlink()
    assert run(job, {}) is JobStatus.SUCCEEDED


def test_the_real_engine_on_a_full_disk_says_so_and_goes_on_when_there_is_room(small_disk, settings, tmp_path):
    base, snapshot = tiny_model(tmp_path / "model"), tmp_path / "snapshot"
    planted_snapshot(snapshot)
    config = planted_config("reward", base=base, snapshot=snapshot, stop={"max_steps": 8}, checkpoint={"every": 2})
    hooks = dataclasses.replace(
        toy_hooks({}), build_request=lambda job, directory: config, command=runner.engine_command
    )
    timing = dataclasses.replace(TIMING, lease_seconds=60, hang_seconds=600)  # it loads torch first
    settings.RUNS_DIR.mkdir()
    filler = fill(small_disk, leave=MIB // 2)
    job = submit()
    assert Runner(hooks, timing=timing).join() is JobStatus.QUEUED
    job.refresh_from_db()
    assert job.runs.get().ending == "disk" and "a checkpoint needs" in job.reason
    filler.unlink()
    Job.objects.update(not_before_at=None)
    assert Runner(hooks, timing=timing).join() is JobStatus.SUCCEEDED
    job.refresh_from_db()
    assert job.last_step == 8


# --- the database and the worker --------------------------------------------------------------------------------------


def test_a_run_that_ends_while_the_database_is_away_for_long_is_not_lost():
    job = submit()
    timing = dataclasses.replace(TIMING, lease_seconds=3.0, ingest_seconds=5.0)
    attempt = Runner(toy_hooks({"steps": 20, "step_seconds": 0.02}), timing=timing)
    until((runner_directory(job) / "metrics.jsonl").exists)
    attempt.database_is_away.set()
    until((runner_directory(job) / "result.json").exists)
    time.sleep(6.5)  # more than two leases
    attempt.database_is_away.clear()
    assert attempt.join() is JobStatus.SUCCEEDED
    job.refresh_from_db()
    assert job.status == JobStatus.SUCCEEDED and rows.curve(job) == curve(20)
    assert job.runs.get().ending == "done"


def test_a_database_that_is_away_for_many_leases_costs_the_steps_since_the_checkpoint():
    job = submit()
    timing = dataclasses.replace(TIMING, lease_seconds=1.0)
    toy = {"steps": 100, "step_seconds": 0.03}
    attempt = Runner(toy_hooks(toy), timing=timing)
    reached(job, 7)
    attempt.database_is_away.set()
    time.sleep(4)
    attempt.database_is_away.clear()
    assert attempt.join() is JobStatus.QUEUED
    job.refresh_from_db()
    assert (job.runs.get().ending, job.reason) == ("cut off", "the database did not answer for too long")
    assert run(job, toy, timing=dataclasses.replace(TIMING, lease_seconds=30)) is JobStatus.SUCCEEDED
    assert rows.curve(job) == curve(100)


def test_an_error_of_ours_in_the_database_is_not_taken_for_one_that_is_away():
    def clash(_job, _lines):
        raise IntegrityError("UNIQUE constraint failed")

    job = submit(method="sample", config={})
    started = time.monotonic()
    assert Runner(toy_hooks({"steps": 500}, completions=clash)).join() is JobStatus.QUEUED
    assert time.monotonic() - started < 5
    assert "UNIQUE" in job.runs.get().reason


def test_a_connection_that_is_closed_is_a_database_that_is_away():
    tries = []

    def closed_once(_job, lines):
        tries.append(len(lines))
        if len(tries) == 1:
            raise InterfaceError("connection already closed")

    job = submit(method="sample", config={})
    assert run(job, {"steps": 5}, completions=closed_once) is JobStatus.SUCCEEDED
    assert len(tries) >= 2


def test_a_worker_that_is_frozen_and_wakes_up_before_anybody_took_its_job_goes_on_itself(start_worker, settings):
    toy = {"steps": 80, "step_seconds": 0.03}
    job = submit()
    worker = start_worker(toy)
    reached(job, 7)
    (child,) = children(settings)
    freeze(worker.pid, job)
    from training import processes

    until(lambda: processes.identity(child.pid) is None, seconds=5)
    os.kill(worker.pid, signal.SIGCONT)
    until(lambda: job.runs.filter(ended_at__isnull=False).exists())
    first = job.runs.get(attempt=1)
    assert (first.ending, first.reason) == ("cut off", "the worker stood still for too long")
    Job.objects.update(not_before_at=None)
    until(lambda: Job.objects.filter(pk=job.pk, status=JobStatus.SUCCEEDED).exists(), seconds=60)
    assert rows.curve(job) == curve(80) and job.runs.count() == 2


def test_an_attempt_that_the_reaper_closed_says_so_in_words():
    job = submit()
    claim(host="gpu-7", lease_seconds=10)
    told = explain(Job.objects.get(), now=NOW + timedelta(seconds=60))
    assert told.by_itself and "Nothing is heard of gpu-7" in told.what
    jobs.reap(now=NOW + timedelta(seconds=60))
    job.refresh_from_db()
    told = explain(job, now=NOW + timedelta(seconds=60))
    died = "The worker gpu-7 died, was frozen, or lost the database; its lease ran out."
    assert told.what == f"{died} No worker of the queue gpu is alive." and not told.by_itself
    workers.register(queue="gpu", slots=1, now=NOW + timedelta(seconds=60))
    told = explain(job, now=NOW + timedelta(seconds=60))
    assert told.what.startswith(died) and told.by_itself and told.next_step.endswith("It goes on from the beginning.")


# --- in words ---------------------------------------------------------------------------------------------------------


def test_a_job_in_the_queue_says_what_it_waits_for():
    def told(job: Job, **at):
        return explain(Job.objects.get(pk=job.pk), now=NOW + timedelta(**at))

    first = submit()
    assert told(first).what == "No worker of the queue gpu is alive." and not told(first).by_itself
    worker = workers.register(queue="gpu", slots=1, now=NOW)
    assert told(first).what == "A worker is free and has not taken it yet." and "broker" in told(first).next_step
    workers.beat(worker, obstacle="the disk is full: 3 MiB free", now=NOW)
    assert "the disk is full: 3 MiB free" in told(first).what and not told(first).by_itself
    workers.beat(worker, now=NOW)
    claim(worker_id=worker.pk)
    second, third = submit(), submit(depends_on=[first])
    assert told(second).what == "0 ahead, waiting for a worker." and told(second).by_itself
    fourth = submit()
    assert told(fourth).what == "1 ahead, waiting for a worker."
    assert told(third).what == "Waits for job 1."
    Quota.objects.create(project=project(), running=1)
    assert told(second).what == "The project runs 1 jobs, as many as its quota allows."


def test_a_round_that_samples_goes_on_where_it_was():
    job = submit(method="sample", config={})
    run(job, {"steps": 10, "ends": {"1": {"at": 6, "do": "kill"}}})
    told = explain(job, now=rows.now())
    assert "starts by itself in" in told.next_step and "s, where it was;" in told.next_step
    assert told.resumes_from is None


def test_a_job_that_depended_on_a_failed_one_names_it():
    first = submit()
    second = submit(depends_on=[first])
    claimed = claim()
    jobs.fail(claimed, Outcome(reason="bad data"), ending=Ending.DATA, now=NOW)
    jobs.fail_dependents(now=NOW)
    told = explain(Job.objects.get(pk=second.pk), now=NOW)
    assert told.what == "Depends on job 1 (reward), which failed." and "depends on" in told.next_step


def test_a_run_that_diverged_names_the_last_good_checkpoint():
    job = submit()
    assert run(job, {"ends": {"1": {"at": 7, "do": "exit", "code": 4}}}) is JobStatus.FAILED
    told = explain(job, now=rows.now())
    assert told.what == (
        "A value became NaN or infinite; nothing of it was saved: diverged; the last good checkpoint is step 5."
    )
    assert "optim.learning_rate" in told.next_step and told.resumes_from == 5 and not told.by_itself


def test_a_job_that_was_stopped_or_paused_says_how_it_goes_on():
    job = submit()
    stop = Runner(toy_hooks({"steps": 500}))
    reached(job, 3)
    jobs.cancel(job)
    stop.join()
    job.refresh_from_db()
    told = explain(job, now=rows.now())
    assert told.what == "Stopped by a person." and f"from step {job.last_step}" in told.next_step
    paused = submit()
    end = {"at": 7, "do": "status", "status": "paused", "reason": "paused by alarm kl_budget"}
    run(paused, {"ends": {"1": end}})
    told = explain(paused, now=rows.now())
    assert told.what == "Paused by alarm kl_budget." and "kl.budget" in told.next_step


def test_a_job_that_is_shown_with_its_runs_is_explained_without_a_query(django_assert_num_queries):
    from training import queries

    job = submit(model=model())
    run(job, {"ends": {"1": {"at": 7, "do": "exit", "code": 2}}})
    (row,) = queries.jobs(project())
    with django_assert_num_queries(0):
        assert explain(row, now=rows.now()).resumes_from == 5


def test_every_ending_of_a_failed_job_has_words_and_a_next_step():
    for ending in set(Ending) - {Ending.DONE, Ending.STOPPED, Ending.PAUSED}:
        job = submit(title=ending.value)
        claimed = claim(host="gpu-7", job_id=job.pk)
        jobs.fail(claimed, Outcome(reason="the reason", last_step=3), ending=ending, now=NOW)
        told = explain(Job.objects.get(pk=job.pk), now=NOW)
        assert told.what.endswith(": the reason.") and len(told.next_step) > 10, ending
        assert "{" not in told.what + told.next_step


def runner_directory(job: Job) -> Path:
    from django.conf import settings

    return settings.RUNS_DIR / str(job.public_id) / "1"
