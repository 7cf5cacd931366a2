"""Celery's side of jobs. A message says only “there is work, such as job 17”; what is run, the rows decide.

A worker that is told to end sets one event that every runner watches; a worker that comes up first ends what its
predecessor may have left.
"""

from __future__ import annotations

import logging
import socket
import threading
from typing import Any

from celery import shared_task
from celery.signals import worker_ready, worker_shutting_down
from django.conf import settings
from django.utils import timezone

from training import chat, jobs, runner
from training.models import Job

STOPPING = threading.Event()
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


def work(queue: str) -> None:
    """Claim and run jobs of a queue until none can start or the worker shuts down."""
    timing, hooks = runner.production_timing(), runner.production_hooks()
    while not STOPPING.is_set():
        claim = jobs.claim(queue=queue, host=socket.gethostname(), lease_seconds=timing.lease_seconds)
        if claim is None:
            return
        runner.run_claimed(
            claim,
            hooks=hooks,
            timing=timing,
            runs_dir=settings.RUNS_DIR,
            threads=settings.JOB_THREADS,
            stop_event=STOPPING,
        )


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
