"""Workers: their rows, the page that shows them, the GPUs that they share; and two of them on one machine."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
from django.conf import settings as django_settings
from django.db import OperationalError, connection
from django.utils import timezone

from annotation.models import Role, TokenScope
from annotation.people import create_token
from tests import builders, world
from tests.training.rows import claim, curve, project, reached, submit, until
from tests.training.test_job_recovery import freeze
from tests.training.toy_engine import curve as whole
from training import devices, processes, tasks, workers
from training.jobs import claim as claim_now
from training.models import Job, JobStatus, Run, Worker
from training.workers import Presence

pytestmark = pytest.mark.django_db(transaction=True)

NOW = builders.NOW
FIGURES = {"devices": [], "memory_bytes": 8, "free_memory_bytes": 4, "free_disk_bytes": 2}
TWO_GPUS = (
    "0, GPU-aaaa, NVIDIA A100-SXM4-80GB, 81920, 1024, 50\\n1, GPU-bbbb, NVIDIA A100-SXM4-80GB, 81920, [N/A], [N/A]\\n"
)


def later(seconds: float):
    return NOW + timedelta(seconds=seconds)


def nvidia_smi(directory: Path, says: str, *, code: int = 0, sleep: int = 0) -> str:
    """A PATH where nvidia-smi says this."""
    directory.mkdir(exist_ok=True)
    program = directory / "nvidia-smi"
    program.write_text(f"#!/bin/sh\nsleep {sleep}\nprintf '{says}'\nexit {code}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return f"{directory}:{os.environ['PATH']}"


@pytest.fixture
def here(data_dir):
    """The presence of this process as a worker of the GPU queue, without its thread."""
    made = Presence({"gpu": 1}, period_seconds=60, data_dir=data_dir)
    yield made
    made.end()


# --- rows -------------------------------------------------------------------------------------------------------------


def test_a_worker_is_alive_while_it_is_heard_of_lost_when_silent_and_alive_again_when_heard_of():
    worker = workers.register(queue="gpu", slots=2, now=NOW)
    lease = django_settings.JOB_LEASE_SECONDS
    assert list(workers.alive(later(lease))) == [worker]
    assert workers.note_lost(later(lease)) == 0
    assert list(workers.alive(later(lease + 1))) == []
    assert (workers.note_lost(later(lease + 1)), workers.note_lost(later(lease + 9))) == (1, 0)
    worker.refresh_from_db()
    assert worker.lost_at == later(lease + 1)
    assert workers.beat(worker, figures=FIGURES, now=later(lease + 20))
    worker.refresh_from_db()
    assert (worker.lost_at, worker.free_memory_bytes) == (None, 4)
    assert list(workers.alive(later(lease + 21))) == [worker]


def test_a_worker_that_ended_in_order_is_neither_alive_nor_lost_and_beats_no_more():
    worker = workers.register(queue="gpu", slots=1, now=NOW)
    workers.end(worker, now=later(1))
    workers.end(worker, now=later(5))
    assert not workers.beat(worker, now=later(2))
    assert workers.note_lost(later(999)) == 0 and not workers.alive(later(1)).exists()
    worker.refresh_from_db()
    assert worker.ended_at == later(1)


def test_only_a_live_worker_of_the_queue_with_a_free_slot_and_no_obstacle_is_idle():
    worker = workers.register(queue="gpu", slots=2, now=NOW)
    submit(), submit()
    assert list(workers.idle(queue="gpu", now=NOW)) == [worker]
    assert not workers.idle(queue="cpu", now=NOW).exists()
    claim(worker_id=worker.pk)
    assert workers.idle(queue="gpu", now=NOW).exists()
    claim(worker_id=worker.pk)
    assert not workers.idle(queue="gpu", now=NOW).exists()
    Run.objects.update(ended_at=NOW)
    assert workers.idle(queue="gpu", now=NOW).exists()
    workers.beat(worker, obstacle="the disk is full", now=NOW)
    assert not workers.idle(queue="gpu", now=NOW).exists()


def test_the_presence_of_a_process_keeps_its_row_fresh_and_ends_it(data_dir):
    presence = Presence({"gpu": 3, "cpu": 2}, period_seconds=0.05, data_dir=data_dir)
    presence.start()
    row = Worker.objects.get(queue="gpu")
    assert (row.slots, row.pid, row.host) == (3, os.getpid(), os.uname().nodename)
    assert row.memory_bytes > row.free_memory_bytes > 0 and row.free_disk_bytes > 0
    until(lambda: Worker.objects.get(pk=row.pk).heartbeat_at > row.heartbeat_at)
    Worker.objects.filter(pk=row.pk).update(lost_at=row.started_at)  # frozen, and it wakes up again
    until(lambda: Worker.objects.get(pk=row.pk).lost_at is None)
    presence.end()
    assert Worker.objects.filter(ended_at=None).count() == 0


def test_a_database_that_is_away_at_the_start_is_waited_for(data_dir):
    def away(*_args):
        raise OperationalError("away")

    presence = Presence({"gpu": 1}, period_seconds=0.05, data_dir=data_dir)
    with connection.execute_wrapper(away):
        presence.start()
    with presence.place("gpu") as place:
        assert place is not None
    until(lambda: Worker.objects.filter(queue="gpu").exists())
    presence.end()


def test_a_row_that_is_gone_is_made_again(here):
    here._say_hello()
    Worker.objects.all().delete()
    here._say_hello()
    assert Worker.objects.count() == 1
    with here.place("gpu") as place:
        assert place.worker_id == Worker.objects.get().pk


# --- what the machine has ---------------------------------------------------------------------------------------------


def test_gpus_are_those_that_nvidia_smi_tells_and_the_environment_leaves(tmp_path):
    path = nvidia_smi(tmp_path / "bin", TWO_GPUS)
    first, second = devices.read_devices(environ={"PATH": path}).devices
    assert (first.id, first.memory_bytes, first.used_bytes, first.load) == ("GPU-aaaa", 80 * 2**30, 2**30, 0.5)
    assert (second.id, second.used_bytes, second.load) == ("GPU-bbbb", None, None)

    def ids(visible: str) -> list[str]:
        found = devices.read_devices(environ={"PATH": path, "CUDA_VISIBLE_DEVICES": visible}).devices
        return [device.id for device in found]

    assert ids("1,0") == ["GPU-bbbb", "GPU-aaaa"]
    assert ids("GPU-b") == ["GPU-bbbb"]
    assert ids("0,7,1") == ["GPU-aaaa"]
    assert ids("") == ids("-1") == []
    assert ids("MIG-1") == ["MIG-1"]
    assert devices.read_devices(environ={"PATH": str(tmp_path)}) == devices.Reading()


def test_a_driver_that_fails_is_a_problem_one_without_a_gpu_is_none_and_one_that_hangs_says_nothing(
    tmp_path, monkeypatch
):
    lost = nvidia_smi(tmp_path / "bin", "Unable to determine the device handle: GPU is lost", code=15)
    assert devices.read_devices(environ={"PATH": lost}).problem.endswith("GPU is lost")
    none = nvidia_smi(tmp_path / "bin", "No devices were found", code=6)
    assert devices.read_devices(environ={"PATH": none}) == devices.Reading()
    monkeypatch.setattr(devices, "_ANSWER_SECONDS", 0.2)
    assert devices.read_devices(environ={"PATH": nvidia_smi(tmp_path / "bin", "", sleep=9)}) is None


def test_a_worker_whose_gpu_is_lost_takes_no_more_jobs_until_it_is_back(tmp_path, monkeypatch, here):
    def look(path: str) -> Worker:
        monkeypatch.setenv("PATH", path)
        monkeypatch.setattr(workers, "_DEVICE_SECONDS", -1.0)
        here._say_hello()
        return Worker.objects.get()

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    row = look(nvidia_smi(tmp_path / "bin", TWO_GPUS))
    assert [device["name"] for device in row.devices] == ["NVIDIA A100-SXM4-80GB"] * 2 and row.obstacle == ""
    row = look(nvidia_smi(tmp_path / "bin", TWO_GPUS.splitlines()[0].split("\\n")[0] + "\\n"))
    assert row.obstacle == "1 of 2 GPUs are gone"
    monkeypatch.setattr(tasks, "_presences", [here])
    job = submit()
    tasks.work("gpu")
    job.refresh_from_db()
    assert job.status == JobStatus.QUEUED
    assert look(nvidia_smi(tmp_path / "bin", "GPU is lost", code=15)).obstacle == "nvidia-smi: GPU is lost"
    assert look(nvidia_smi(tmp_path / "bin", TWO_GPUS)).obstacle == ""
    with here.place("gpu") as place:
        assert place.device.device == "GPU-aaaa"


def test_a_worker_whose_disk_is_full_takes_no_jobs(here, monkeypatch):
    monkeypatch.setattr(devices, "read_free_disk", lambda directory: 5 * 2**20)
    here._say_hello()
    assert Worker.objects.get().obstacle == "the disk is full: 5 MiB free"
    with here.place("gpu") as place:
        assert place is None


def test_a_gpu_is_for_one_job_at_a_time_also_between_processes(tmp_path):
    hold = "import sys; from pathlib import Path; from training.devices import taken\n"
    hold += (
        "with taken(['a', 'b'], directory=Path(sys.argv[1])) as got: print(got.device, flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "a\n"
    with devices.taken(["a", "b"], directory=tmp_path) as mine:
        assert mine.device == "b"
        with devices.taken(["a", "b"], directory=tmp_path) as nothing:
            assert nothing is None
    other.kill()  # a process that dies lets go, however it dies
    other.wait()
    with devices.taken(["a", "b"], directory=tmp_path) as mine:
        assert mine.device == "a"
        child = subprocess.Popen(["sleep", "60"], pass_fds=[mine.fileno()])
    with devices.taken(["a"], directory=tmp_path) as nothing:
        assert nothing is None  # as long as the child lives that inherited it
    child.kill()
    child.wait()
    with devices.taken(["a"], directory=tmp_path) as again:
        assert again is not None


# --- two workers on one machine ---------------------------------------------------------------------------------------


def intervals(run: Run) -> tuple:
    assert run.ended_at is not None
    return run.started_at, run.ended_at


def overlap(first: Run, second: Run) -> bool:
    (start, end), (other_start, other_end) = intervals(first), intervals(second)
    return start < other_end and other_start < end


def test_two_workers_on_one_machine_run_two_jobs_at_once_and_never_the_same_one(start_worker, ticking, settings):
    toy = {"steps": 100, "step_seconds": 0.05}
    made = [submit() for _ in range(6)]
    both = [start_worker(toy), start_worker(toy)]
    until(lambda: Job.objects.filter(status=JobStatus.RUNNING).count() == 2, seconds=60)
    until(lambda: Job.objects.filter(status=JobStatus.SUCCEEDED).count() == 6, seconds=120)
    runs = list(Run.objects.select_related("worker"))
    # Each job ran once, on one of the two; a worker has one slot, and the two overlap.
    assert sorted(run.job_id for run in runs) == sorted(job.pk for job in made)
    assert {run.worker.pid for run in runs} == {worker.pid for worker in both}
    pairs = [(one, two) for index, one in enumerate(runs) for two in runs[:index]]
    assert not any(overlap(one, two) for one, two in pairs if one.worker_id == two.worker_id)
    assert any(overlap(one, two) for one, two in pairs if one.worker_id != two.worker_id)
    for job in made:
        assert curve(job) == whole(100)
    for worker in both:
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(20) == 0
    assert Worker.objects.filter(ended_at=None).count() == 0


def test_two_workers_with_two_gpus_take_one_each_and_with_one_gpu_they_take_turns(
    start_worker, ticking, settings, tmp_path
):
    toy = {"steps": 60, "step_seconds": 0.05}
    submit(), submit()
    path = nvidia_smi(tmp_path / "bin", TWO_GPUS)
    long = toy | {"steps": 1200}  # one must not be through before the other worker has started
    both = [start_worker(long, PATH=path), start_worker(long, PATH=path)]
    until(lambda: Job.objects.filter(status=JobStatus.RUNNING, last_step__gte=1).count() == 2, seconds=60)
    seen = set()
    for file in settings.RUNS_DIR.glob(f"*/*/{processes.PROCESS_FILE}"):
        child = processes.recorded_process(file)
        entries = Path(f"/proc/{child.pid}/environ").read_bytes().split(b"\0")
        seen |= {entry for entry in entries if entry.startswith(b"CUDA_VISIBLE_DEVICES=")}
    assert seen == {b"CUDA_VISIBLE_DEVICES=GPU-aaaa", b"CUDA_VISIBLE_DEVICES=GPU-bbbb"}
    for worker in both:
        worker.kill()
        worker.wait()
    until(lambda: not any(processes.recorded_process(file) for file in settings.RUNS_DIR.glob("*/*/process.json")))
    Job.objects.all().delete()

    submit(), submit()
    path = nvidia_smi(tmp_path / "bin", TWO_GPUS.split("\\n", maxsplit=1)[0] + "\\n")
    start_worker(toy, PATH=path), start_worker(toy, PATH=path)
    most = 0
    deadline = time.monotonic() + 90
    while Job.objects.filter(status=JobStatus.SUCCEEDED).count() < 2:
        # Engines, not rows: a GPU is free when its engine has ended, a moment before its job is said to have.
        alive = (processes.recorded_process(file) for file in settings.RUNS_DIR.glob("*/*/process.json"))
        most = max(most, sum(engine is not None for engine in alive))
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert most == 1


def test_a_frozen_worker_holds_no_gpu(start_worker, ticking, settings, tmp_path):
    toy = {"steps": 60, "step_seconds": 0.05}
    job = submit()
    path = nvidia_smi(tmp_path / "bin", TWO_GPUS.split("\\n", maxsplit=1)[0] + "\\n")
    frozen = start_worker(toy, PATH=path)
    reached(job, 3)
    freeze(frozen.pid, job)
    start_worker(toy, PATH=path)
    until(lambda: Job.objects.filter(pk=job.pk, status=JobStatus.SUCCEEDED).exists(), seconds=60)
    assert job.runs.get(attempt=1).ending == "cut off" and curve(job) == whole(60)
    os.kill(frozen.pid, signal.SIGCONT)


@pytest.mark.skipif(os.environ.get("WINNOW_DATABASE_URL", "") != "", reason="the worker opens this SQLite file")
def test_a_celery_worker_says_that_it_is_there_and_that_it_ends(tmp_path):
    data = tmp_path / "worker"
    data.mkdir()
    (data / "winnow.sqlite3").symlink_to(connection.settings_dict["NAME"])
    command = [sys.executable, "-m", "celery", "-A", "winnow.celery", "worker", "-P", "threads", "-c", "2", "-Q", "gpu"]
    command += ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=INFO"]
    base = {name: value for name, value in os.environ.items() if not name.startswith("WINNOW_")}
    with (tmp_path / "log").open("wb") as log:
        worker = subprocess.Popen(command, env=base | {"WINNOW_DATA_DIR": str(data)}, stdout=log, stderr=log)
    try:
        row = until(lambda: Worker.objects.filter(pid=worker.pid).first(), seconds=60)
        assert (row.queue, row.slots, row.ended_at) == ("gpu", 2, None)
        until(lambda: Worker.objects.get(pk=row.pk).heartbeat_at > row.heartbeat_at, seconds=30)
        until(lambda: "worker ready: 0 orphans" in (tmp_path / "log").read_text(), seconds=60)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0
    finally:
        worker.kill()
        worker.wait()
    assert Worker.objects.get(pk=row.pk).ended_at is not None


# --- the page ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def running():
    """Worker and job of the project *helpful*, and a job of *elsewhere* on the same worker."""
    worker = workers.register(queue="gpu", slots=2)
    workers.beat(worker, figures=FIGURES | {"devices": [
        {"id": "GPU-a", "name": "A100", "memory_bytes": 80, "used_bytes": 8, "load": 0.1}
    ]})  # fmt: skip
    job = submit(title="mine")
    builders.project(slug="elsewhere", owner=builders.user("otto"))
    other = submit(project=builders.Project.objects.get(slug="elsewhere"), title="secret of theirs")
    waiting = submit(title="waits")
    submit(depends_on=[waiting])
    for each in (job, other):
        assert claim_now(queue="gpu", host="here", lease_seconds=60, worker_id=worker.pk, job_id=each.pk)
    return worker


def get(person=None, **client):
    return world.client(person, **client).get("/api/v1/workers")


def test_the_page_of_workers_shows_who_lives_and_what_each_runs(running, django_assert_num_queries):
    silent = workers.register(queue="cpu", slots=2, now=timezone.now() - timedelta(minutes=5))
    vera = builders.member(project(), "vera", Role.VIEWER)
    browser = world.client(vera)
    with django_assert_num_queries(7):  # session, person, memberships, workers, their runs, two of the queues
        body = browser.get("/api/v1/workers").json()
    assert [item["id"] for item in body["items"]] == [str(running.public_id), str(silent.public_id)]
    first, second = body["items"]
    assert (first["state"], first["slots"], first["devices"][0]["name"]) == ("alive", 2, "A100")
    assert (second["state"], second["runs"]) == ("lost", [])
    mine, theirs = first["runs"]
    assert (mine["job"]["title"], mine["job"]["project"], mine["phase"]) == ("mine", "helpful", "starting")
    assert theirs["job"] is None and theirs["attempt"] == 1
    assert "secret" not in str(body)
    gpu = next(item for item in body["queues"] if item["queue"] == "gpu")
    assert gpu == {"queue": "gpu", "running": 2, "ready": 1, "waiting": 1, "workers": 1, "slots": 2}


def test_the_page_of_workers_is_for_researchers_and_annotators_see_nothing_of_it(running):
    ann = builders.member(project(), "ann")
    stan = builders.user("stan")
    assert get().status_code == 401
    assert get(ann).status_code == get(stan).status_code == 403
    olga = project().created_by
    for scopes, code in (([TokenScope.READ], 200), ([TokenScope.WRITE], 403)):
        _, secret = create_token(
            user=olga, name="ci", scopes=scopes, expires_days=1, project=project(), now=timezone.now()
        )
        assert get(secret=secret).status_code == code


def test_a_worker_not_heard_of_for_a_day_is_shown_no_more(running):
    workers.register(queue="gpu", slots=1, now=timezone.now() - timedelta(days=2))
    assert len(get(project().created_by).json()["items"]) == 1


@pytest.mark.django_db(transaction=True)
def test_a_driver_that_has_not_answered_yet_is_not_a_machine_without_gpus(monkeypatch, tmp_path):
    monkeypatch.setattr("training.devices.read_devices", lambda *, environ: None)
    presence = Presence({"gpu": 1}, period_seconds=60, data_dir=tmp_path)
    presence.start()
    try:
        with presence.place("gpu") as place:
            assert place is None
        assert Worker.objects.get().obstacle == "nvidia-smi has not answered yet"
    finally:
        presence.end()
