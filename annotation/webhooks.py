"""Telling other programs what happened: events become deliveries in their own transaction, and are sent until they
arrive.

A delivery is claimed by a conditional write that already sets the time of the next try, so a sender that dies in the
middle repeats it later, and two senders never send one try twice. Receivers tell repeats by the delivery's id. After
`MOST_TRIES` the webhook is paused with the reason; nothing is lost meanwhile: deliveries wait, and whoever resumes says
whether they are sent.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import uuid4

from django.conf import settings
from django.db import transaction
from django.db.models import F

from annotation import outbound
from annotation.errors import DomainError, Kind
from annotation.gate import write
from annotation.models import Delivery, Project, User, Webhook
from annotation.people import audit

MOST_WEBHOOKS = 20
# After the first, second, … failed try; 13 hours in all, which is a night.
BACKOFF = tuple(timedelta(seconds=s) for s in (30, 120, 600, 1800, 3600, 10_800, 28_800))
MOST_TRIES = len(BACKOFF) + 1
CLAIM = timedelta(minutes=2)
KEPT = timedelta(days=30)
BATCH = 100


class Event(StrEnum):
    """What a webhook may ask for."""

    COMPARISON_SETTLED = "comparison.settled"
    COMPARISON_DISPUTED = "comparison.disputed"
    COMPARISON_ADJUDICATED = "comparison.adjudicated"
    IMPORT_FINISHED = "import.finished"
    SNAPSHOT_FROZEN = "snapshot.frozen"
    JOB_FINISHED = "job.finished"


PING = "ping"


class WebhookOver(DomainError):
    """The webhook was removed, or is paused, so nothing can be sent by it."""

    code = "webhook_over"
    kind = Kind.CONFLICT


class TooManyWebhooks(DomainError):
    """A project has as many webhooks as it may have."""

    code = "too_many_webhooks"
    kind = Kind.CONFLICT


# --- what happened ----------------------------------------------------------------------------------------------------


def emit(*, project: Project, event: str, payload: Mapping[str, object], now: datetime) -> int:
    """Write a delivery for each webhook that wants the event; to be called inside the transaction of the change.

    One query where nobody listens. How many deliveries there are. A webhook that is paused keeps its deliveries.

    Args:
        event: one of `Event`.
        payload: JSON, without texts of prompts and completions: a receiver asks the API for what it may see.
    """
    wanted = Event(event)
    hooks = Webhook.objects.filter(project=project, removed_at=None).only("id", "events", "paused_at")
    made = [_delivery(hook, project, wanted, payload, now) for hook in hooks if wanted in hook.events]
    if made:
        Delivery.objects.bulk_create(made)
    return len(made)


def _delivery(hook: Webhook, project: Project, event: str, payload: Mapping[str, object], now: datetime) -> Delivery:
    public_id = uuid4()
    body = {
        "id": str(public_id), "event": event, "project": project.slug, "created_at": now.isoformat(),
        "data": dict(payload),
    }  # fmt: skip
    paused = hook.paused_at is not None
    return Delivery(
        public_id=public_id, webhook=hook, event=event, body=body, created_at=now,
        next_at=None if paused else now, error="The webhook is paused." if paused else "",
    )  # fmt: skip
