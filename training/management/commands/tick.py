"""`manage.py tick`: the scheduler, a plain loop that needs no broker.

Every step is conditional, so two copies are harmless.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand
from django.db import DatabaseError, close_old_connections, connection
from django.utils import timezone

from annotation import assignment, consensus, mailing, tasks, webhooks
from training import alarms, chat, jobs, schedules, workers
from training import tasks as training_tasks

ANALYZE_SECONDS = 3600.0
MOST_BACKOFF_SECONDS = 30.0

log = logging.getLogger(__name__)


class Command(BaseCommand):
    """The loop: leases that ran out, jobs to wake, assignments that expired, what is due, statistics."""

    help = "Repair what dead workers and lost messages leave; runs for ever."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--once", action="store_true", help="one round, then exit; a failure is an error")

    def handle(self, *args: Any, **options: Any) -> None:
        """Rounds until SIGTERM. A database that does not answer is asked again, later each time."""
        alive = Path(settings.DATA_DIR) / "tick.alive"
        if options["once"]:
            run_round(analyze=True)
            alive.touch()
            return
        stop = threading.Event()

        def on_signal(_number: int, _frame: FrameType | None) -> None:
            stop.set()

        signal.signal(signal.SIGTERM, on_signal)
        signal.signal(signal.SIGINT, on_signal)
        loop(stop=stop, alive=alive, period_seconds=settings.TICK_SECONDS, act=run_round)


def loop(*, stop: threading.Event, alive: Path, period_seconds: float, act: Callable[..., None]) -> None:
    """Act once a period until `stop`; `alive` is touched every period, also while the database is away."""
    analyzed_at = -ANALYZE_SECONDS
    wait = period_seconds
    while not stop.is_set():
        analyze = time.monotonic() - analyzed_at >= ANALYZE_SECONDS
        try:
            act(analyze=analyze)
        except DatabaseError as error:
            wait = min(wait * 2, max(MOST_BACKOFF_SECONDS, period_seconds))
            log.warning("the database does not answer, next try in %.0f s: %s", wait, error)
        else:
            wait = period_seconds
            analyzed_at = time.monotonic() if analyze else analyzed_at
        close_old_connections()
        again_at = time.monotonic() + wait
        alive.touch()
        while (left := again_at - time.monotonic()) > 0 and not stop.wait(min(left, period_seconds)):
            alive.touch()


def run_round(*, analyze: bool) -> None:
    """Everything once. What one step does not get to, the next round does."""
    jobs.reap()
    jobs.fail_dependents()
    jobs.nudge_stale()
    now = timezone.now()
    assignment.expire(now)
    consensus.settle_due(now=now)
    tasks.wake_fits()
    chat.start_rounds(now=now)
    schedules.open_due(now)
    workers.note_lost()
    alarms.raise_for_platform(now)
    training_tasks.wake_label_alarms()
    training_tasks.wake_erasures()
    if chat.server_is_wanted(now=now):
        tasks.wake_sampling()
    if webhooks.is_due(now=now):
        tasks.wake_deliveries()
    if mailing.is_due(now=now):
        tasks.wake_mails()
    tasks.wake_stale_imports()
    if analyze:
        webhooks.prune(now=now)
        mailing.prune(now=now)
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA optimize" if connection.vendor == "sqlite" else "ANALYZE")
