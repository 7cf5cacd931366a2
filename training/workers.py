"""Workers: a row for each process that takes jobs of a queue, when it was last heard of, and what its machine has.

What a worker runs is told by the open runs that name it; a job's lease, not this heartbeat, decides who owns the job. A
worker that is silent is lost, one that is heard of again is not; all times are the database's.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import DatabaseError, InterfaceError, close_old_connections, connection
from django.db.models import Count, F, Prefetch, Q, QuerySet

from annotation.gate import write
from training import devices
from training.jobs import DATABASE_TIME, Moment, claimable
from training.models import Job, JobStatus, Queue, Run, Worker

LEAST_FREE_DISK_BYTES = 16 * 2**20  # less, and not even a log can be written
LISTED_HOURS = 24
_DEVICE_SECONDS = 10.0  # nvidia-smi costs a moment, so it is asked at most this often

log = logging.getLogger(__name__)


# --- rows -------------------------------------------------------------------------------------------------------------


def register(*, queue: str, slots: int, now: Moment = DATABASE_TIME) -> Worker:
    """A row for this process. A second call makes a second row."""
    with write():
        return Worker.objects.create(
            host=socket.gethostname()[:200],
            pid=os.getpid(),
            queue=queue,
            slots=slots,
            version=_version(),
            started_at=now,
            heartbeat_at=now,
        )


def _version() -> str:
    try:
        return importlib.metadata.version("winnow")[:64]
    except importlib.metadata.PackageNotFoundError:
        return ""


def beat(
    worker: Worker, *, figures: Mapping[str, Any] | None = None, obstacle: str = "", now: Moment = DATABASE_TIME
) -> bool:
    """Say that it lives, and what its machine has. One that was lost is so no more. False if there is no such row.

    Args:
        figures: `devices`, `memory_bytes`, `free_memory_bytes`, `free_disk_bytes`; None leaves them as they are.
        obstacle: why it takes no jobs now.
    """
    rows = Worker.objects.filter(pk=worker.pk, ended_at=None)
    fields = {"heartbeat_at": now, "lost_at": None, "obstacle": obstacle[:200], **(figures or {})}
    return rows.update(**fields) == 1


def end(worker: Worker, *, now: Moment = DATABASE_TIME) -> None:
    """An orderly end; a repeat changes nothing."""
    Worker.objects.filter(pk=worker.pk, ended_at=None).update(ended_at=now, heartbeat_at=now)


def alive(now: Moment = DATABASE_TIME) -> QuerySet[Worker]:
    """Workers heard of within a lease."""
    return Worker.objects.filter(ended_at=None, heartbeat_at__gte=now - _patience())


def idle(*, queue: str, now: Moment = DATABASE_TIME) -> QuerySet[Worker]:
    """Live workers of a queue that could take a job now."""
    busy = Count("runs", filter=Q(runs__ended_at=None))
    return alive(now).filter(queue=queue, obstacle="").annotate(busy=busy).filter(busy__lt=F("slots"))


def note_lost(now: Moment = DATABASE_TIME) -> int:
    """Note which workers have gone silent, once each; for the tick. Their jobs are the reaper's."""
    silent = Worker.objects.filter(ended_at=None, lost_at=None, heartbeat_at__lt=now - _patience())
    lost = 0
    for worker in list(silent):
        # Asked again row by row: it may have been heard of since.
        if silent.filter(pk=worker.pk).update(lost_at=now):
            log.warning("worker %s (%s, process %s) is silent", worker.host, worker.queue, worker.pid)
            lost += 1
    return lost


def _patience() -> timedelta:
    return timedelta(seconds=settings.JOB_LEASE_SECONDS)


def state(worker: Worker, *, now: datetime) -> str:
    """*alive*, *lost* (silent for longer than a lease) or *ended* (in order)."""
    if worker.ended_at is not None:
        return "ended"
    return "alive" if worker.heartbeat_at >= now - _patience() else "lost"


def listed(now: datetime) -> list[Worker]:
    """Workers heard of within a day, the living first, with what each runs (`running`). Two queries."""
    running = Run.objects.filter(ended_at=None).select_related("job__project").order_by("started_at")
    rows = Worker.objects.filter(heartbeat_at__gte=now - timedelta(hours=LISTED_HOURS)).prefetch_related(
        Prefetch("runs", queryset=running, to_attr="running")
    )
    order = {"alive": 0, "lost": 1, "ended": 2}
    return sorted(rows, key=lambda row: (order[state(row, now=now)], row.queue != Queue.GPU, -row.pk))


def queue_lengths(now: Moment = DATABASE_TIME) -> dict[str, dict[str, int]]:
    """Of each queue: jobs that run, jobs that could start, jobs that wait for something else. Two queries."""
    lengths = {str(queue): {"running": 0, "ready": 0, "waiting": 0} for queue in Queue.values}
    ready = dict(claimable(now=now).order_by().values_list("queue").annotate(Count("pk")))
    rows = Job.objects.filter(status__in=(JobStatus.QUEUED, JobStatus.RUNNING)).order_by()
    for queue, status, count in rows.values_list("queue", "status").annotate(Count("pk")):
        if status == JobStatus.RUNNING:
            lengths[queue]["running"] = count
        else:
            lengths[queue]["ready"] = ready.get(queue, 0)
            lengths[queue]["waiting"] = max(0, count - ready.get(queue, 0))
    return lengths


# --- a process that takes jobs ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a job may run now: for this worker, on this GPU (None: as the environment has it)."""

    worker_id: int | None
    device: devices.Held | None


NOWHERE_KNOWN = Place(worker_id=None, device=None)


class Presence:
    """This process's rows, kept fresh by a thread. The database may be away: rows come when it is back."""

    def __init__(self, slots: Mapping[str, int], *, period_seconds: float, data_dir: Path) -> None:
        """`slots` is how many jobs this process runs at a time, by queue."""
        self._slots = dict(slots)
        self._period_seconds = period_seconds
        self._data_dir = data_dir
        self._rows: dict[str, Worker] = {}
        # Until the driver has answered once nothing is known of GPUs: without this a slow answer would look like none.
        self._reading = devices.Reading(problem="nvidia-smi has not answered yet")
        self._most_devices = 0
        self._read_at = -_DEVICE_SECONDS
        self._obstacles: dict[str, str] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="presence", daemon=True)

    def start(self) -> None:
        """Make the rows, then keep them fresh."""
        self._say_hello()
        self._thread.start()

    def end(self) -> None:
        """An orderly end; a repeat changes nothing."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        close_old_connections()  # this thread's may have gone with a database that was started again
        try:
            for worker in self._rows.values():
                end(worker)
        except (DatabaseError, InterfaceError) as error:
            log.warning("the end of this worker is not noted, the database does not answer (%s)", error)

    @contextmanager
    def place(self, queue: str) -> Iterator[Place | None]:
        """A place for a job of the queue, for as long as it runs; None: nothing may start here now."""
        row = self._rows.get(queue)
        if self._obstacle(queue):
            yield None
            return
        ids = [device.id for device in self._reading.devices] if queue == Queue.GPU else []
        if not ids:
            yield Place(worker_id=row.pk if row else None, device=None)
            return
        with devices.taken(ids, directory=self._data_dir / "devices") as free:
            yield None if free is None else Place(worker_id=row.pk if row else None, device=free)

    def _keep(self) -> None:
        while not self._over.wait(self._period_seconds):
            self._say_hello()
        connection.close()  # this thread's own

    def _say_hello(self) -> None:
        try:
            self._read_devices()
            self._beat()
        except (DatabaseError, InterfaceError) as error:
            log.warning("no sign of life of this worker, the database does not answer (%s)", error)
        except Exception:  # a figure that cannot be read must not make the worker look dead for ever
            log.exception("no sign of life of this worker")
        close_old_connections()

    def _read_devices(self) -> None:
        if Queue.GPU not in self._slots or time.monotonic() - self._read_at < _DEVICE_SECONDS:
            return
        self._read_at = time.monotonic()
        reading = devices.read_devices(environ=os.environ)
        if reading is not None:
            self._reading = reading
            self._most_devices = max(self._most_devices, len(reading.devices))

    def _beat(self) -> None:
        memory = devices.read_memory()
        for queue, slots in self._slots.items():
            figures = {
                "devices": [device.figures() for device in self._reading.devices] if queue == Queue.GPU else [],
                "memory_bytes": memory.total,
                "free_memory_bytes": memory.free,
                "free_disk_bytes": devices.read_free_disk(self._data_dir),
            }
            obstacle = self._obstacle(queue)
            if queue not in self._rows:
                self._rows[queue] = register(queue=queue, slots=slots)
            if not beat(self._rows[queue], figures=figures, obstacle=obstacle):
                self._rows[queue] = register(queue=queue, slots=slots)  # the row went with a database put back
            if obstacle != self._obstacles.get(queue, ""):
                log.warning("queue %s: %s", queue, obstacle or "jobs are taken again")
            self._obstacles[queue] = obstacle

    def _obstacle(self, queue: str) -> str:
        """Why no job of the queue may start here now; the disk is looked at now, the GPUs were at the last reading."""
        free = devices.read_free_disk(self._data_dir)
        if free is not None and free < LEAST_FREE_DISK_BYTES:
            return f"the disk is full: {free // 2**20} MiB free"
        if queue != Queue.GPU:
            return ""
        if self._reading.problem:
            return self._reading.problem
        missing = self._most_devices - len(self._reading.devices)
        return f"{missing} of {self._most_devices} GPUs are gone" if missing else ""
