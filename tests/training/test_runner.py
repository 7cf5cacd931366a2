"""A runner with a real child (the toy engine): what it stores, and what becomes of the job however the child ends."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import stat
import time
from datetime import timedelta
from pathlib import Path

import pytest

from annotation.errors import Invalid
from tests.training import rows
from tests.training.rows import TIMING, Runner, reached, run, submit, toy_hooks, until
from tests.training.toy_engine import curve
from training import jobs, processes, runner
from training.models import Checkpoint, Job, JobStatus, RunSample

pytestmark = pytest.mark.django_db(transaction=True)

LONG = {"steps": 400, "step_seconds": 0.02}


def directory(job, attempt=1) -> Path:
    from django.conf import settings

    return settings.RUNS_DIR / str(job.public_id) / str(attempt)


def child_pid(job, attempt=1) -> int:
    file = directory(job, attempt) / processes.PROCESS_FILE
    until(file.exists)
    return json.loads(file.read_text())["pid"]


def is_alive(pid: int) -> bool:
    return processes.identity(pid) is not None


# --- what is stored ---------------------------------------------------------------------------------------------------


def test_a_run_that_ends_well_is_in_the_rows():
    job = submit()
    assert run(job, {"steps": 10}) is JobStatus.SUCCEEDED
    assert (job.status, job.reason, job.last_step, job.steps) == (JobStatus.SUCCEEDED, "done", 10, 10)
    assert job.progress == {"phase": "ending", "tokens_per_second": 8.0, "eta_seconds": 1.0}
    assert rows.curve(job) == curve(10)
    attempt = job.runs.get()
    assert (attempt.exit_code, attempt.last_step, attempt.result["status"]) == (0, 10, "done")
    assert [sample.step for sample in RunSample.objects.filter(run=attempt).order_by("seq")] == [5, 10]
    kept = list(Checkpoint.objects.order_by("step").values_list("step", "is_best", "path"))
    assert kept == [
        (5, False, f"{job.public_id}/1/checkpoints/step-5"),
        (10, True, f"{job.public_id}/1/checkpoints/step-10"),
    ]


def test_a_checkpoint_that_the_engine_removes_keeps_its_row():
    job = submit()
    run(job, {"steps": 40, "every": 10, "step_seconds": 0.05})
    pruned = dict(Checkpoint.objects.values_list("step", "files_pruned_at"))
    assert set(pruned) == {10, 20, 30, 40}
    assert [step for step in pruned if pruned[step] is None] == [30, 40]


def test_the_child_sees_no_secret_and_its_directory_is_closed(monkeypatch):
    monkeypatch.setenv("WINNOW_SECRET_KEY", "not for children")
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:secret@h/d")
    job = submit()
    attempt = Runner(toy_hooks(LONG))
    pid = child_pid(job)
    environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    names = {entry.partition(b"=")[0].decode() for entry in environ if entry}
    attempt.stop.set()
    attempt.join()
    assert names.isdisjoint({"WINNOW_SECRET_KEY", "DATABASE_URL", "DJANGO_SETTINGS_MODULE"})
    assert b"HF_HUB_OFFLINE=1" in environ and b"OMP_NUM_THREADS=1" in environ
    assert stat.S_IMODE(directory(job).stat().st_mode) == 0o700
    assert not (directory(job) / "tmp").exists() and not (directory(job) / processes.PROCESS_FILE).exists()


def test_a_line_that_is_being_written_waits_and_a_line_that_is_none_is_left_out(caplog):
    job = submit()
    attempt = Runner(toy_hooks({"steps": 60, "every": 100}))
    file = directory(job) / "metrics.jsonl"
    until(file.exists)
    attempt.stop.wait(0.2)
    with file.open("ab") as metrics:
        metrics.write(b'{"step": NaN}\nnot json\n{"step": 1, "time": 1e999}\n')
    assert attempt.join() is JobStatus.SUCCEEDED
    assert rows.curve(job) == curve(60)
    assert caplog.text.count("is not one") == 3


def test_secrets_are_filtered_from_the_last_words():
    job = submit()
    said = "".join(f"line {number}\n" for number in range(300)) + "password=hunter2 wnw_abcdefghijklmnopq\n"
    run(job, {"stderr": said, "ends": {"1": {"at": 0, "do": "exit", "code": 3}}})
    tail = job.runs.get().error_tail
    assert "hunter2" not in tail and "ghijklmnopq" not in tail and "password=***" in tail
    assert tail.splitlines()[0] == "line 101" and len(tail.splitlines()) == 200


def test_completions_are_handed_on_once_and_a_resumed_round_keeps_its_lines():
    stored: list[dict] = []
    job = submit(method="sample", config={})
    ends = {"1": {"at": 6, "do": "exit", "code": 1}}
    assert run(job, {"ends": ends}, completions=lambda _, lines: stored.extend(lines)) is JobStatus.QUEUED
    assert [line["index"] for line in stored] == list(range(6))
    assert run(job, {"ends": ends}, completions=lambda _, lines: stored.extend(lines)) is JobStatus.SUCCEEDED
    assert [line["index"] for line in stored[6:]] == list(range(10))
    assert stored[0]["text"] == "text 0\ufffd"  # NUL, which no database keeps


# --- the table of exit codes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "status", "reason"),
    [
        ({"do": "exit", "code": 2}, JobStatus.FAILED, "bad config"),
        ({"do": "exit", "code": 3}, JobStatus.FAILED, "bad data"),
        ({"do": "exit", "code": 4}, JobStatus.FAILED, "diverged; the last good checkpoint is step 5"),
        ({"do": "exit", "code": 1, "kind": "config", "message": "no key x"}, JobStatus.FAILED, "no key x"),
        ({"do": "exit", "code": 1, "kind": "data", "message": "line 3"}, JobStatus.FAILED, "line 3"),
        (
            {"do": "exit", "code": 1, "kind": "diverged", "message": "loss is nan"},
            JobStatus.FAILED,
            "loss is nan; the last good checkpoint is step 5",
        ),
        ({"do": "exit", "code": 1, "kind": "disk", "message": "disk full"}, JobStatus.QUEUED, "disk full"),
        ({"do": "exit", "code": 1}, JobStatus.QUEUED, "the engine failed (exit 1)"),
        ({"do": "exit", "code": 137}, JobStatus.QUEUED, "killed"),
        ({"do": "kill"}, JobStatus.QUEUED, "killed"),
        ({"do": "no_result"}, JobStatus.QUEUED, "no result.json"),
        ({"do": "status", "status": "failed"}, JobStatus.QUEUED, "exit 0, but result.json says failed"),
        ({"do": "status", "status": "stopped"}, JobStatus.QUEUED, "stopped"),
        ({"do": "status", "status": "stopped_kl", "reason": "KL"}, JobStatus.SUCCEEDED, "KL"),
        ({"do": "status", "status": "waiting_for_labels"}, JobStatus.SUCCEEDED, "waiting_for_labels"),
        (
            {"do": "status", "status": "paused", "reason": "paused by alarm kl_budget"},
            JobStatus.CANCELLED,
            "paused by alarm kl_budget",
        ),
    ],
)
def test_what_an_end_of_the_child_makes_of_the_job(end, status, reason):
    job = submit()
    assert run(job, {"ends": {"1": {"at": 7, **end}}}) is status
    assert (job.status, job.reason) == (status, reason)
    attempt = job.runs.get()
    assert attempt.ended_at is not None and attempt.last_step == 7
    assert job.failures == (1 if status is JobStatus.QUEUED and end.get("status") != "stopped" else 0)


def test_an_input_that_is_refused_fails_the_job_without_a_child():
    job = submit()
    hooks = dataclasses.replace(toy_hooks({}), build_request=refuse)
    assert Runner(hooks).join() is JobStatus.FAILED
    job.refresh_from_db()
    assert job.reason == "prompts: none"


def refuse(*_args):
    raise Invalid("prompts: none")


def test_a_bug_in_the_runner_leaves_no_running_job_and_no_child():
    job = submit(method="sample", config={})
    hooks = toy_hooks({"steps": 200}, completions=lambda _, lines: 1 / 0)
    attempt = Runner(hooks)
    pid = child_pid(job)
    assert attempt.join() is JobStatus.QUEUED
    job.refresh_from_db()
    assert "ZeroDivisionError" in job.reason and "ZeroDivisionError" in job.runs.get().error_tail
    assert not is_alive(pid)


def test_a_converted_model_is_registered_before_the_job_succeeds():
    seen = []
    job = submit(method="convert", config={"name": "m"})
    registered = lambda job, run, where: seen.append((job.status, run.ended_at, where))  # noqa: E731
    assert run(job, {"steps": 1}, register=registered) is JobStatus.SUCCEEDED
    assert seen == [(JobStatus.RUNNING, None, directory(job))]


def test_a_model_that_cannot_be_registered_fails_the_job():
    job = submit(method="convert", config={"name": "m"})
    assert run(job, {"steps": 1}, register=refuse) is JobStatus.FAILED
    assert job.reason == "prompts: none"


def test_registering_may_take_longer_than_a_lease():
    job = submit(method="convert", config={"name": "m"})
    timing = dataclasses.replace(TIMING, lease_seconds=1.0)
    reaped = []

    def slowly(*_args):
        until_ = time.monotonic() + 2.5
        while time.monotonic() < until_:
            time.sleep(0.1)
            reaped.append(jobs.reap())

    assert run(job, {"steps": 1}, timing=timing, register=slowly) is JobStatus.SUCCEEDED
    assert sum(reaped) == 0


# --- resuming ---------------------------------------------------------------------------------------------------------


def test_a_child_that_is_killed_resumes_from_its_checkpoint_and_the_curve_has_every_step_once():
    job = submit()
    toy = {"steps": 60, "step_seconds": 0.03}
    attempt = Runner(toy_hooks(toy))
    reached(job, 17)
    os.killpg(child_pid(job), signal.SIGKILL)
    assert attempt.join() is JobStatus.QUEUED
    job.refresh_from_db()
    assert (job.reason, job.failures) == ("killed", 1)
    assert run(job, toy) is JobStatus.SUCCEEDED
    second = job.runs.get(attempt=2)
    assert second.resumed_from.step >= 15
    assert rows.curve(job) == curve(60)
    assert second.result["metrics"]["train/loss"] == curve(60)[60]


def test_a_checkpoint_that_does_not_verify_is_passed_over():
    job = submit()
    run(job, {"ends": {"1": {"at": 12, "do": "exit", "code": 1}}, "steps": 20})
    state = directory(job) / "checkpoints" / "step-10" / "state.json"
    state.write_text(state.read_text().replace("1", "2", 1))
    assert run(job, {"steps": 20}) is JobStatus.SUCCEEDED
    assert job.runs.get(attempt=2).resumed_from.step == 5
    assert rows.curve(job) == curve(20)


def test_a_retried_job_resumes_where_it_was_cancelled():
    job = submit()
    attempt = Runner(toy_hooks(LONG))
    reached(job, 3)
    jobs.cancel(job)
    assert attempt.join() is JobStatus.CANCELLED
    job.refresh_from_db()
    stopped_at = job.last_step
    jobs.retry(job)
    assert run(job, {"steps": stopped_at + 3}) is JobStatus.SUCCEEDED
    assert job.runs.get(attempt=2).resumed_from.step == stopped_at
    assert rows.curve(job) == curve(stopped_at + 3)


def test_a_job_may_start_from_a_checkpoint_of_another():
    first = submit()
    run(first, {"steps": 10})
    job = submit(checkpoint=Checkpoint.objects.get(step=5))
    assert run(job, {"steps": 8}) is JobStatus.SUCCEEDED
    assert rows.curve(job) == {step: value for step, value in curve(8).items() if step > 5}


def test_lines_that_a_dead_worker_did_not_store_are_stored_by_its_successor():
    job = submit()
    toy = {"steps": 12, "ends": {"1": {"at": 11, "do": "exit", "code": 1}}}
    run(job, toy)
    attempt = job.runs.get()
    attempt.metrics.filter(step__gt=4).delete()
    attempt.checkpoints.all().delete()
    run(job, toy)
    assert rows.curve(job) == curve(12)
    assert job.runs.get(attempt=2).resumed_from.step == 10


# --- stopping ---------------------------------------------------------------------------------------------------------


def test_a_person_who_cancels_stops_the_child_which_saves_first():
    job = submit()
    attempt = Runner(toy_hooks(LONG))
    pid = child_pid(job)
    reached(job, 3)
    jobs.cancel(job)
    assert attempt.join() is JobStatus.CANCELLED
    job.refresh_from_db()
    assert job.status == JobStatus.CANCELLED and not is_alive(pid)
    assert Checkpoint.objects.filter(run__job=job, step=job.last_step).exists()


def test_a_child_that_does_not_listen_is_killed():
    job = submit()
    timing = dataclasses.replace(TIMING, stop_seconds=0.5)
    attempt = Runner(toy_hooks(LONG | {"deaf": True}), timing=timing)
    reached(job, 3)
    jobs.cancel(job)
    assert attempt.join() is JobStatus.CANCELLED
    job.refresh_from_db()
    assert job.reason.startswith("did not stop within")
    assert job.runs.get().exit_code == -9


def test_a_worker_that_shuts_down_gives_its_job_back_without_counting_a_failure():
    job = submit()
    attempt = Runner(toy_hooks(LONG))
    reached(job, 3)
    attempt.stop.set()
    assert attempt.join() is JobStatus.QUEUED
    job.refresh_from_db()
    assert (job.failures, job.not_before_at) == (0, None)
    assert run(job, {"steps": job.last_step + 1}) is JobStatus.SUCCEEDED


def test_a_checkpoint_is_made_when_asked_for():
    job = submit()
    attempt = Runner(toy_hooks(LONG | {"every": 1000}))
    reached(job, 3)
    jobs.request_checkpoint(job)
    until(lambda: Checkpoint.objects.filter(run__job=job).exists())
    assert Job.objects.get().status == JobStatus.RUNNING
    attempt.stop.set()
    attempt.join()


def test_a_child_that_hangs_is_killed_and_tried_again():
    job = submit()
    timing = dataclasses.replace(TIMING, hang_seconds=1.0)
    assert run(job, {"ends": {"1": {"at": 7, "do": "hang"}}}, timing=timing) is JobStatus.QUEUED
    assert job.reason == "hung: no new step for 1 s"
    assert run(job, {}, timing=timing) is JobStatus.SUCCEEDED


# --- fencing ----------------------------------------------------------------------------------------------------------


def test_a_runner_whose_lease_was_given_away_kills_its_child_and_writes_nothing():
    job = submit()
    attempt = Runner(toy_hooks(LONG))
    pid = child_pid(job)
    reached(job, 3)
    assert jobs.reap(now=rows.now() + timedelta(minutes=5)) == 1
    assert attempt.join() is None
    assert not is_alive(pid)
    job.refresh_from_db()
    first = job.runs.get()
    assert (job.status, first.reason) == (JobStatus.QUEUED, "the worker died or lost the database: its lease ran out")
    assert first.exit_code is None and first.result is None
    assert run(job, {"steps": 30}) is JobStatus.SUCCEEDED
    assert rows.curve(job) == curve(max(30, job.last_step))


def test_a_database_that_is_away_for_less_than_a_lease_changes_nothing():
    job = submit()
    attempt = Runner(toy_hooks({"steps": 150}))
    reached(job, 3)
    attempt.database_is_away.set()
    time.sleep(0.8)
    attempt.database_is_away.clear()
    assert attempt.join() is JobStatus.SUCCEEDED
    assert rows.curve(job) == curve(150)


def test_a_child_that_is_not_fed_ends_itself():
    job = submit()
    timing = dataclasses.replace(TIMING, lease_seconds=1.0)
    attempt = Runner(toy_hooks(LONG), timing=timing)
    pid = child_pid(job)
    reached(job, 3)
    attempt.database_is_away.set()
    until(lambda: not is_alive(pid), seconds=3)
    attempt.database_is_away.clear()
    assert attempt.join() is JobStatus.QUEUED
    job.refresh_from_db()
    assert job.reason == "the database did not answer for too long"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the system does not tell")
def test_the_engine_takes_what_web_and_tick_leave():
    job = submit()
    attempt = Runner(toy_hooks(LONG))
    pid = child_pid(job)
    until(lambda: os.getpriority(os.PRIO_PROCESS, pid) >= processes.NICENESS, seconds=3)
    group = Path(f"/proc/{pid}/autogroup")
    assert not group.exists() or group.read_text().split()[-1] == str(processes.NICENESS)
    attempt.stop.set()
    attempt.join()


def test_orphans_are_killed_and_nobody_else_is(settings):
    job = submit()
    attempt = Runner(toy_hooks(LONG))
    pid = child_pid(job)
    reached(job, 1)
    assert runner.kill_orphans(settings.RUNS_DIR) == 0
    assert is_alive(pid)
    Job.objects.filter(pk=job.pk).update(lease_expires_at=rows.builders.NOW - timedelta(days=365))
    file = directory(job) / processes.PROCESS_FILE
    recorded = json.loads(file.read_text())
    impostor = directory(job).parent / "7"
    impostor.mkdir()
    (impostor / processes.PROCESS_FILE).write_text(json.dumps(recorded | {"started": "1"}))
    attempt.database_is_away.set()  # no heartbeat may renew the lease meanwhile
    Job.objects.filter(pk=job.pk).update(lease_expires_at=rows.builders.NOW - timedelta(days=365))
    assert runner.kill_orphans(settings.RUNS_DIR) == 1
    until(lambda: not is_alive(pid), seconds=3)
    attempt.database_is_away.clear()
    attempt.join()
