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
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import uuid4

from django.conf import settings
from django.db import transaction
from django.db.models import Q, QuerySet

from annotation import outbound
from annotation.errors import DomainError, Kind
from annotation.gate import write
from annotation.models import AuditAction, Delivery, Project, User, Webhook
from annotation.people import audit

MOST_WEBHOOKS = 20
# After the first, second, … failed try; 13 hours in all, which is a night.
BACKOFF = tuple(timedelta(seconds=s) for s in (30, 120, 600, 1800, 3600, 10_800, 28_800))
MOST_TRIES = len(BACKOFF) + 1
CLAIM = timedelta(minutes=2)  # the last try has no next one: a sender that dies in it is noticed after this time
KEPT = timedelta(days=30)
BATCH = 50


class Event(StrEnum):
    """What a webhook may ask for."""

    COMPARISON_SETTLED = "comparison.settled"
    COMPARISON_DISPUTED = "comparison.disputed"
    COMPARISON_ADJUDICATED = "comparison.adjudicated"
    IMPORT_FINISHED = "import.finished"
    SNAPSHOT_FROZEN = "snapshot.frozen"
    JOB_FINISHED = "job.finished"
    ALARM_RAISED = "alarm.raised"


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


# --- the webhooks of a project ----------------------------------------------------------------------------------------


def create(*, project: Project, url: str, events: Sequence[Event], by: User, now: datetime) -> tuple[Webhook, str]:
    """A webhook and the secret that signs its deliveries, which is shown this once.

    Raises:
        outbound.Refused: the operator allows nothing to be sent there.
        TooManyWebhooks: the project has `MOST_WEBHOOKS`.
    """
    outbound.check(url, allowed=settings.OUTBOUND)
    secret = "whsec_" + secrets.token_urlsafe(32)
    with write(), transaction.atomic():
        Project.objects.select_for_update(no_key=True).get(pk=project.pk)
        if Webhook.objects.filter(project=project, removed_at=None).count() >= MOST_WEBHOOKS:
            raise TooManyWebhooks(f"This project has {MOST_WEBHOOKS} webhooks already; remove one first.")
        hook = Webhook.objects.create(
            project=project, url=url, events=_names(events), secret=secret, created_by=by, created_at=now
        )
        _audit(hook, by, AuditAction.WEBHOOK_CREATED, now, url=_host(url), events=hook.events)
    return hook, secret


def change_events(*, hook: Webhook, events: Sequence[Event], by: User, now: datetime) -> None:
    """Other events from now on; the same ones again change nothing."""
    names = _names(events)
    with write(), transaction.atomic():
        locked = Webhook.objects.select_for_update(no_key=True).get(pk=hook.pk)
        _must_be_there(locked)
        if locked.events != names:
            Webhook.objects.filter(pk=hook.pk).update(events=names)
            _audit(hook, by, AuditAction.WEBHOOK_CHANGED, now, events={"old": locked.events, "new": names})
    hook.events = names


def ping(*, hook: Webhook, by: User, now: datetime) -> Delivery:
    """A delivery that says nothing, to try the address."""
    with write(), transaction.atomic():
        locked = Webhook.objects.select_for_update(no_key=True).select_related("project").get(pk=hook.pk)
        _must_be_live(locked)
        made = _delivery(locked, locked.project, PING, {}, now)
        made.save(force_insert=True)
        _audit(hook, by, AuditAction.WEBHOOK_PINGED, now)
    return made


def pause(*, hook: Webhook, reason: str, by: User | None, now: datetime) -> bool:
    """Send nothing more: what is due waits until somebody resumes. False if it was paused or removed already."""
    with write(), transaction.atomic():
        rows = Webhook.objects.filter(pk=hook.pk, paused_at=None, removed_at=None)
        if not rows.update(paused_at=now, pause_reason=reason[:300]):
            return False
        Delivery.objects.filter(webhook=hook, next_at__isnull=False).update(next_at=None)
        _audit(hook, by, AuditAction.WEBHOOK_PAUSED, now, reason=reason)
    return True


def resume(*, hook: Webhook, resend: bool, by: User, now: datetime) -> int:
    """Send again; with `resend` also what was given up or waited, each delivery with its old id. How many those are."""
    with write(), transaction.atomic():
        locked = Webhook.objects.select_for_update(no_key=True).get(pk=hook.pk)
        _must_be_there(locked)
        Webhook.objects.filter(pk=hook.pk).update(paused_at=None, pause_reason="")
        waiting = Delivery.objects.filter(webhook=hook, next_at=None, delivered_at=None)
        again = waiting.update(next_at=now, tries=0, error="") if resend else 0
        if locked.paused_at is not None or again:
            _audit(hook, by, AuditAction.WEBHOOK_RESUMED, now, sent_again=again)
    return again


def remove(*, hook: Webhook, by: User, now: datetime) -> bool:
    """Take it away with what is due; the secret is forgotten. False if it was gone already."""
    with write(), transaction.atomic():
        if not Webhook.objects.filter(pk=hook.pk, removed_at=None).update(removed_at=now, secret=""):
            return False
        Delivery.objects.filter(webhook=hook, next_at__isnull=False).update(next_at=None, error="The webhook is gone.")
        _audit(hook, by, AuditAction.WEBHOOK_REMOVED, now, url=_host(hook.url))
    return True


def redeliver(*, delivery: Delivery, by: User, now: datetime) -> None:
    """Send a delivery once more under its old id, whether it arrived or not; all tries begin anew."""
    with write(), transaction.atomic():
        locked = Webhook.objects.select_for_update(no_key=True).get(pk=delivery.webhook_id)
        _must_be_live(locked)
        Delivery.objects.filter(pk=delivery.pk).update(next_at=now, tries=0, delivered_at=None, status=None, error="")
        _audit(locked, by, AuditAction.WEBHOOK_REDELIVERED, now, delivery=str(delivery.public_id))


def _names(events: Sequence[Event]) -> list[str]:
    return sorted({event.value for event in events})


def _must_be_there(hook: Webhook) -> None:
    if hook.removed_at is not None:
        raise WebhookOver("This webhook was removed.")


def _must_be_live(hook: Webhook) -> None:
    _must_be_there(hook)
    if hook.paused_at is not None:
        raise WebhookOver("This webhook is paused; resume it first.")


def _audit(hook: Webhook, by: User | None, action: AuditAction, now: datetime, **details: object) -> None:
    audit(project=hook.project, by=by, action=action, target=str(hook.public_id), now=now, **details)


def _host(url: str) -> str:
    """The part of an address that is no secret: many services put a key into the path."""
    return url.split("/")[2]


# --- sending ----------------------------------------------------------------------------------------------------------


def is_due(*, now: datetime) -> bool:
    """Whether anything waits to be sent."""
    return _due(now).exists()


def _due(now: datetime) -> QuerySet[Delivery]:
    """A pause may overtake an event that had read the webhook before: what came of that waits for the resuming."""
    return Delivery.objects.filter(next_at__lte=now, webhook__paused_at=None, webhook__removed_at=None)


def deliver_due(*, clock: Callable[[], datetime]) -> int:
    """Send what is due; how many arrived. Safe to repeat and to run beside itself.

    A webhook that fails is left alone until the next call, so that a dead one does not keep the others waiting.
    """
    due = _due(clock())
    arrived = 0
    for hook_id in due.order_by().values_list("webhook_id", flat=True).distinct():
        rows = due.filter(webhook_id=hook_id).select_related("webhook__project")
        for delivery in rows.order_by("next_at", "pk")[:BATCH]:
            if not _deliver(delivery, clock):
                break
            arrived += 1
    return arrived


def _deliver(delivery: Delivery, clock: Callable[[], datetime]) -> bool:
    hook, tried, now = delivery.webhook, delivery.tries + 1, clock()
    given_up = tried > MOST_TRIES  # the sender of the last try died in it
    again_at = now + (BACKOFF[tried - 1] if tried < MOST_TRIES else CLAIM)
    claimed = Delivery.objects.filter(pk=delivery.pk, tries=delivery.tries, next_at=delivery.next_at)
    if not claimed.update(tries=tried, next_at=None if given_up else again_at):
        return True  # another sender has it, or it waits for somebody to resume
    status, error = (None, "The sender died.") if given_up else _send(delivery, now)
    mine = Delivery.objects.filter(pk=delivery.pk, tries=tried)
    if not error:
        return bool(mine.update(next_at=None, delivered_at=clock(), status=status, error=""))
    if tried < MOST_TRIES:
        mine.update(status=status, error=error)
        return False
    mine.update(next_at=None, status=status, error=error)
    reason = f"Delivery {delivery.public_id} failed {MOST_TRIES} times, at last with: {error}"
    pause(hook=hook, reason=reason, by=None, now=clock())
    return False


def _send(delivery: Delivery, now: datetime) -> tuple[int | None, str]:
    """The status and, unless it arrived, why not; never what the receiver said."""
    hook = delivery.webhook
    data = json.dumps(delivery.body, ensure_ascii=False, separators=(",", ":")).encode()
    headers = {
        "Winnow-Event": delivery.event,
        "Winnow-Delivery": str(delivery.public_id),
        "Winnow-Signature": sign(hook.secret, data, at=now),
    }
    try:
        reply = outbound.post(hook.url, data, headers=headers, allowed=settings.OUTBOUND)
    except (outbound.Refused, outbound.Unanswered) as error:
        return None, str(error)
    if reply.is_success:
        return reply.status, ""
    note = "; redirects are not followed" if 300 <= reply.status < 400 else ""
    return reply.status, f"HTTP {reply.status}{note}"


def sign(secret: str, data: bytes, *, at: datetime) -> str:
    """`t=<unix seconds>,v1=<hex>`: HMAC-SHA256 over the time, a dot and the body."""
    seconds = int(at.timestamp())
    digest = hmac.new(secret.encode(), f"{seconds}.".encode() + data, hashlib.sha256)
    return f"t={seconds},v1={digest.hexdigest()}"


def prune(*, now: datetime) -> int:
    """Forget deliveries that have ended, after `KEPT`; how many."""
    ended = Q(next_at=None) | Q(webhook__removed_at__isnull=False)
    with write(), transaction.atomic():
        return Delivery.objects.filter(ended, created_at__lt=now - KEPT).delete()[0]
