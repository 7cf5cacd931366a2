"""The processes of a site without its web: tick, one worker for `cpu`, two for `gpu`; and who of their children lives.

They run the very commands of the deployment, with short leases. A process that dies is started again after a second, as
a container would be. Everything here is ours: a process is killed by the pid that we started, or found below our own
directory of runs.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from winnow.env import BASE_DIR

LEASE_SECONDS, HEARTBEAT_SECONDS, TICK_EVERY_SECONDS = 10, 1, 1
RESTART_SECONDS = 1.0
STOP_SECONDS = 90.0
WATCH_EVERY_SECONDS = 0.1
SETTINGS = "benchmarks.faults.settings"
GPU_WORKERS = ("gpu1", "gpu2")
_CELERY = [
    *("-m", "celery", "--quiet", "-A", "winnow.celery", "worker", "-P", "threads", "--loglevel=INFO"),
    *("--without-gossip", "--without-mingle", "--without-heartbeat"),
]
PROGRAMS: dict[str, Sequence[str]] = {
    "tick": ["-m", "django", "tick", "--settings", SETTINGS],
    "cpu": [*_CELERY, "-Q", "cpu", "-c", "1", "-n", "cpu@%h"],
    **{name: [*_CELERY, "-Q", "gpu", "-c", "1", "-n", f"{name}@%h"] for name in GPU_WORKERS},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Engine:
    """A live process of an attempt: it works in the attempt's directory."""

    pid: int
    parent: int
    job: str
    attempt: int


def engines(runs_dir: Path) -> list[Engine]:
    """Every live process whose working directory is an attempt's, whoever its parent is now."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            place = (entry / "cwd").readlink()  # a zombie has none
            if not place.is_relative_to(runs_dir):
                continue
            job, attempt = place.relative_to(runs_dir).parts[:2]
            parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
        except (OSError, ValueError):  # ended meanwhile; a directory of something else
            continue
        number = attempt.removesuffix(" (deleted)")
        if number.isdecimal():
            found.append(Engine(pid=int(entry.name), parent=int(parent), job=job, attempt=int(number)))
    return found


def environment(*, data_dir: Path, database_url: str, redis_url: str, threads: int) -> dict[str, str]:
    """What every process of the site is told."""
    base = {name: value for name, value in os.environ.items() if not name.startswith("WINNOW_")}
    return base | {
        "DJANGO_SETTINGS_MODULE": SETTINGS,
        "PYTHONPATH": str(BASE_DIR),
        "PYTHONUNBUFFERED": "1",
        "WINNOW_DATA_DIR": str(data_dir),
        "WINNOW_DATABASE_URL": database_url,
        "WINNOW_REDIS_URL": redis_url,
        "WINNOW_THREADS": str(threads),
    }


@dataclass(kw_only=True)
class Topology:
    """The running processes, kept alive by a thread that also watches for two engines of one job."""

    root: Path
    runs_dir: Path
    environ: dict[str, str]
    names: Sequence[str] = tuple(PROGRAMS)
    two_at_once: set[tuple[str, int, int]] = field(default_factory=set)
    """(job, attempt, later attempt) that were seen alive at the same time."""
    _processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _over: threading.Event = field(default_factory=threading.Event)
    _watcher: threading.Thread | None = None

    def start(self) -> None:
        """Start all, and the thread."""
        for name in self.names:
            self._spawn(name)
        self._watcher = threading.Thread(target=self._watch, name="watch", daemon=True)
        self._watcher.start()

    def pid(self, name: str) -> int:
        """The process of this name, alive or dead."""
        return self._processes[name].pid

    def worker_of(self, engine: Engine) -> str | None:
        """The worker that started it; None if that one is gone."""
        return next((name for name in GPU_WORKERS if name in self.names and self.pid(name) == engine.parent), None)

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send to the process alone, not to what it started."""
        self._processes[name].send_signal(number)

    def stop(self) -> None:
        """An orderly end: workers give their jobs back. A second call does nothing."""
        self._over.set()
        if self._watcher is not None:
            self._watcher.join()
        for process in self._processes.values():
            process.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for process in self._processes.values():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()

    def _spawn(self, name: str) -> None:
        with (self.root / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, *PROGRAMS[name]],
                cwd=BASE_DIR,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _watch(self) -> None:
        again_at: dict[str, float] = {}
        while not self._over.wait(WATCH_EVERY_SECONDS):
            for name, process in list(self._processes.items()):
                if process.poll() is None:
                    continue
                if time.monotonic() >= again_at.setdefault(name, time.monotonic() + RESTART_SECONDS):
                    del again_at[name]
                    self._spawn(name)
            self.two_at_once |= meetings(engines(self.runs_dir))


def meetings(alive: Sequence[Engine]) -> set[tuple[str, int, int]]:
    """Jobs of which two attempts live at the same time."""
    attempts: dict[str, set[int]] = {}
    for engine in alive:
        attempts.setdefault(engine.job, set()).add(engine.attempt)
    return {(job, min(numbers), max(numbers)) for job, numbers in attempts.items() if len(numbers) > 1}
