"""Worker processes for tests, and the part of the tick."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from django.db import connection

from training import jobs
from training.models import Job

WORKER = Path(__file__).with_name("worker_process.py")
TICK_SECONDS = 0.2


@pytest.fixture
def start_worker(settings, tmp_path):
    """Starts worker processes on this test's database; all are gone at the end."""
    started: list[subprocess.Popen] = []

    def start(toy: dict, **environ: str) -> subprocess.Popen:
        command = [
            sys.executable,
            str(WORKER),
            str(connection.settings_dict["NAME"]),
            str(settings.RUNS_DIR),
            json.dumps(toy),
        ]
        environ = os.environ | {"WINNOW_DATA_DIR": str(tmp_path / "worker")} | environ
        with (tmp_path / "worker.log").open("ab") as log:
            started.append(subprocess.Popen(command, env=environ, stdout=log, stderr=log, start_new_session=True))
        return started[-1]

    yield start
    for worker in started:
        worker.kill()
        worker.wait()


@pytest.fixture
def ticking():
    """The tick's part: a reaper in a thread. Back-off is cut short, since these tests measure the lease."""
    over = threading.Event()

    def tick() -> None:
        while not over.wait(TICK_SECONDS):
            jobs.reap()
            Job.objects.filter(not_before_at__isnull=False).update(not_before_at=None)
        connection.close()

    thread = threading.Thread(target=tick)
    thread.start()
    yield
    over.set()
    thread.join()
