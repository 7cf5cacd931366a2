"""One tiny task through a real worker process, by Redis and by the directory transport."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.services

WORKER = [
    sys.executable,
    "-m",
    "celery",
    "-A",
    "tests.services.echo",
    "worker",
    "-P",
    "threads",
    "-c",
    "1",
    "-Q",
    "cpu",
]
WORKER += ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=INFO"]
SEND = """
import sys
from tests.services.echo import echo
for word in sys.argv[2:]:
    echo.apply_async((sys.argv[1], word), expires=60)
"""


def until(condition, *, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


@pytest.fixture(params=["redis", "directory"])
def environ(request, tmp_path: Path) -> dict[str, str]:
    chosen = {"WINNOW_REDIS_URL": request.getfixturevalue("redis_url")} if request.param == "redis" else {}
    base = {name: value for name, value in os.environ.items() if not name.startswith("WINNOW_")}
    return base | chosen | {"WINNOW_DATA_DIR": str(tmp_path / "data"), "DJANGO_SETTINGS_MODULE": "winnow.settings"}


def test_a_worker_runs_what_was_sent_before_and_after_it_started_and_stops_on_sigterm(environ, tmp_path):
    out, log = tmp_path / "words", tmp_path / "worker.log"
    out.touch()
    subprocess.run([sys.executable, "-c", SEND, out, "one", "two"], env=environ, check=True, timeout=60)
    with log.open("wb") as output:
        worker = subprocess.Popen(WORKER, env=environ, stdout=output, stderr=subprocess.STDOUT)
    try:
        assert until(lambda: len(out.read_text().split()) == 2, seconds=60), log.read_text()
        subprocess.run([sys.executable, "-c", SEND, out, "three"], env=environ, check=True, timeout=60)
        assert until(lambda: len(out.read_text().split()) == 3, seconds=30), log.read_text()
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0
    finally:
        worker.kill()
        worker.wait()
    assert sorted(out.read_text().split()) == ["one", "three", "two"]


def test_a_broker_that_is_away_fails_fast_and_not_for_ever(tmp_path):
    environ = os.environ | {"WINNOW_REDIS_URL": "redis://127.0.0.1:1/0", "WINNOW_DATA_DIR": str(tmp_path)}
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", SEND, tmp_path / "words", "lost"],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert "OperationalError" in done.stderr
    assert time.monotonic() - started < 20
