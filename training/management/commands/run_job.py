"""`manage.py run_job ID`: one job in the foreground, with its progress, for people without a broker."""

from __future__ import annotations

import signal
import socket
import threading
import uuid
from argparse import ArgumentParser
from pathlib import Path
from types import FrameType
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from training import jobs, runner
from training.models import Job, JobStatus
from training.workers import Place, Presence


class Command(BaseCommand):
    """Runs a queued job here and now, whatever waits before it."""

    help = "Run one queued job in the foreground. Ctrl-C saves and puts it back into the queue."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("job", metavar="ID", help="the id of the API (a UUID) or the row's number in the database")

    def handle(self, *args: Any, **options: Any) -> None:
        """Claim, run, and exit non-zero unless the job succeeded."""
        job = find(options["job"])
        presence = Presence(
            {job.queue: 1}, period_seconds=settings.JOB_HEARTBEAT_SECONDS, data_dir=Path(settings.DATA_DIR)
        )
        presence.start()
        try:
            with presence.place(job.queue) as place:
                if place is None:
                    raise CommandError("this machine can take no job now: its disk is full, or no GPU is free")
                self._run(job, place)
        finally:
            presence.end()

    def _run(self, job: Job, place: Place) -> None:
        timing = runner.production_timing()
        claim = jobs.claim(
            queue=job.queue,
            host=socket.gethostname(),
            lease_seconds=timing.lease_seconds,
            worker_id=place.worker_id,
            job_id=job.pk,
        )
        if claim is None:
            raise CommandError(f"job {job.public_id} cannot start now: {why_not(job)}")
        stop = threading.Event()

        def on_signal(_number: int, _frame: FrameType | None) -> None:
            stop.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, on_signal)
        status = runner.run_claimed(
            claim,
            hooks=runner.production_hooks(),
            timing=timing,
            runs_dir=settings.RUNS_DIR,
            threads=settings.JOB_THREADS,
            stop_event=stop,
            say=self.stdout.write,
            device=place.device,
        )
        job.refresh_from_db()
        self.stdout.write(f"job {job.public_id}: {job.status} {job.reason}".rstrip())
        if status is not JobStatus.SUCCEEDED:
            raise CommandError("the job has not succeeded")


def find(given: str) -> Job:
    """The job of this id; an error that says so if there is none."""
    try:
        key = {"pk": int(given)} if given.isdecimal() else {"public_id": uuid.UUID(given)}
        return Job.objects.get(**key)
    except (ValueError, OverflowError, Job.DoesNotExist):
        raise CommandError(f"there is no job {given!r}") from None


def why_not(job: Job) -> str:
    """A reason that a person can act on."""
    job.refresh_from_db()
    if job.status != JobStatus.QUEUED:
        return f"it is {job.status}"
    waiting = job.depends_on.exclude(status=JobStatus.SUCCEEDED).values_list("number", flat=True)
    if waiting:
        return f"it waits for job {', '.join(map(str, waiting))}"
    return f"it waits until {job.not_before_at}" if job.not_before_at else "somebody else has just taken it"
