"""Celery's side of jobs. A message says only “there is work, such as job 17”; what is run, the rows decide.

A worker that comes up says so (`training.workers`) and ends what its predecessor may have left; one that is told to end
sets one event that every runner watches.
"""

from __future__ import annotations

import logging
import socket
import threading
from contextlib import nullcontext
from typing import Any

from celery import shared_task
from celery.signals import celeryd_after_setup, worker_ready, worker_shutdown, worker_shutting_down
from django.conf import settings
from django.utils import timezone

from annotation.tasks import wake
from training import chat, erasure, jobs, label_alarms, runner
from training.models import Job, Queue
from training.workers import NOWHERE_KNOWN, Presence

STOPPING = threading.Event()
_presences: list[Presence] = []  # this process's, once it has come up as a worker
log = logging.getLogger(__name__)


@shared_task(name=jobs.TASK, ignore_result=True)  # type: ignore[untyped-decorator]  # celery has no types
def run_job(job_id: int) -> None:
    """Run what can be claimed of this job's queue, whichever jobs those are, until there is nothing more."""
    queue = Job.objects.filter(pk=job_id).values_list("queue", flat=True).first()
    if queue is not None:
        work(queue)


@shared_task(name="training.sample_turns", ignore_result=True)  # type: ignore[untyped-decorator]
def sample_turns() -> None:
    """Get answers for the turns of conversations that wait; the tick finds them too, so this is only sooner."""
    chat.start_rounds(now=timezone.now())
    chat.answer_by_server(clock=timezone.now)


@shared_task(name="training.look_at_labels", ignore_result=True)  # type: ignore[untyped-decorator]
def look_at_labels() -> None:
    """Raise the alarms about labels of the projects that are due."""
    label_alarms.run_due(timezone.now())


def wake_label_alarms() -> None:
    """The tick's part: wake a worker for projects whose votes have changed; the statistics are too long for a tick."""
    if label_alarms.due(timezone.now()):
        wake(look_at_labels, what="alarms about labels")


@shared_task(name="training.erase_files", ignore_result=True)  # type: ignore[untyped-decorator]
def erase_files() -> None:
    """Erase from files the texts of prompts that were erased."""
    erasure.run_due(timezone.now())


def wake_erasures() -> None:
    """The tick's part, and that of who erases: wake a worker for the files that are due."""
    if erasure.is_due():
        wake(erase_files, what="an erasure")


def work(queue: str) -> None:
    """Claim and run jobs of a queue until none can start or the worker shuts down."""
    timing, hooks = runner.production_timing(), runner.production_hooks()
    while not STOPPING.is_set():
        with _presences[0].place(queue) if _presences else nullcontext(NOWHERE_KNOWN) as place:
            if place is None:  # a full disk, a lost GPU, or no GPU that is free; the tick wakes us again
                return
            claim = jobs.claim(
                queue=queue,
                host=socket.gethostname(),
                lease_seconds=timing.lease_seconds,
                worker_id=place.worker_id,
            )
            if claim is None:
                return
            runner.run_claimed(
                claim,
                hooks=hooks,
                timing=timing,
                runs_dir=settings.RUNS_DIR,
                threads=settings.JOB_THREADS,
                stop_event=STOPPING,
                device=place.device,
            )


@celeryd_after_setup.connect  # type: ignore[untyped-decorator]
def say_hello(instance: Any, **_: Any) -> None:
    """Make this worker's rows. It is alive before the broker lets it in, which may take long."""
    queues = [queue for queue in instance.app.amqp.queues.consume_from if queue in Queue.values]
    presence = Presence(
        dict.fromkeys(queues, instance.concurrency),
        period_seconds=settings.JOB_HEARTBEAT_SECONDS,
        data_dir=settings.DATA_DIR,
    )
    _presences.append(presence)
    presence.start()


@worker_shutdown.connect  # type: ignore[untyped-decorator]
def say_goodbye(**_: Any) -> None:
    """Note an orderly end, after the last job was given back."""
    while _presences:
        _presences.pop().end()


@worker_shutting_down.connect  # type: ignore[untyped-decorator]
def stop_runners(**_: Any) -> None:
    """Ask every runner to let its child save and to give its job back."""
    STOPPING.set()


@worker_ready.connect  # type: ignore[untyped-decorator]
def start_waiting_work(**_: Any) -> None:
    """End children without a lease, then wake workers (this one too) for what waits: its message may be long gone."""
    killed = runner.kill_orphans(settings.RUNS_DIR)
    nudged = jobs.nudge_waiting()
    log.info("worker ready: %s orphans killed, %s jobs waiting", killed, nudged)
