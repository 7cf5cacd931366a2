"""Celery's side of annotation: derived rows that are due. A message lost or doubled changes nothing."""

from __future__ import annotations

import logging
from typing import Any

from celery import current_app, shared_task
from django.utils import timezone
from kombu.exceptions import OperationalError

from annotation import consensus, fits, mailing, webhooks
from annotation.importing import batches
from annotation.models import Slot, SlotState

WAKE_EXPIRES_SECONDS = 60

log = logging.getLogger(__name__)


def wake(task: Any, *, what: str) -> None:
    """Wake a worker of the `cpu` queue for a task that takes nothing. A message that cannot be sent is logged.

    Args:
        what: it is for, in the log.
    """
    try:
        task.apply_async(queue="cpu", expires=WAKE_EXPIRES_SECONDS, retry=False)
    except (OperationalError, OSError) as error:
        log.warning("no wake-up sent for %s: the broker does not answer (%s)", what, error)


@shared_task(name="annotation.settle_due", ignore_result=True)  # type: ignore[untyped-decorator]  # celery has no types
def settle_due() -> None:
    """Settle the consensuses that are due; the tick does the same, so this is only sooner."""
    consensus.settle_due(now=timezone.now())


@shared_task(name="annotation.deliver_webhooks", ignore_result=True)  # type: ignore[untyped-decorator]
def deliver_webhooks() -> None:
    """Send the deliveries that are due."""
    webhooks.deliver_due(clock=timezone.now)


def wake_deliveries() -> None:
    """Wake a worker for the deliveries that are due: a receiver may be slow, so the tick does not wait for it."""
    wake(deliver_webhooks, what="webhooks")


@shared_task(name="annotation.send_mails", ignore_result=True)  # type: ignore[untyped-decorator]
def send_mails() -> None:
    """Send the e-mails that are due."""
    mailing.send_due(clock=timezone.now)


def wake_mails() -> None:
    """Wake a worker for the e-mails that are due: a mail server may be slow, so the tick does not wait for it."""
    wake(send_mails, what="e-mails")


@shared_task(name="annotation.refit", ignore_result=True)  # type: ignore[untyped-decorator]
def refit() -> None:
    """Fit the projects whose votes have changed enough."""
    fits.run_due(now=timezone.now())


def wake_fits() -> None:
    """The tick's part: wake a worker for the fits that are due; a joint fit is too long for the tick itself."""
    if fits.due(timezone.now()):
        wake(refit, what="a fit")


@shared_task(name="annotation.run_imports", ignore_result=True)  # type: ignore[untyped-decorator]
def run_imports() -> None:
    """Do the imports that are due, whichever they are."""
    batches.run_due(now=timezone.now())


def wake_imports() -> None:
    """Wake a worker for the imports that are due. The tick finds what is missed."""
    wake(run_imports, what="the imports")


def wake_stale_imports() -> None:
    """The tick's part: wake a worker again for an import whose message or worker was lost."""
    if batches.stale():
        wake_imports()


def wake_sampling() -> None:
    """After a committed message: wake a worker to sample its answers, by name, since training lies above."""
    try:
        current_app.send_task(
            "training.sample_turns", queue="cpu", expires=WAKE_EXPIRES_SECONDS, retry=False, ignore_result=True
        )
    except (OperationalError, OSError) as error:
        log.warning("no wake-up sent for a conversation: the broker does not answer (%s)", error)


def wake_settling(comparison_id: int) -> None:
    """After a committed vote: wake a worker if it was the last one wanted. The tick finds what is missed."""
    if set(Slot.objects.filter(comparison_id=comparison_id).values_list("state", flat=True)) != {SlotState.DONE}:
        return  # more votes are wanted, or, as of hidden gold, none at all
    wake(settle_due, what="the consensus")
