"""How much of the workers a project may take: read, and changed by its owner. `training.jobs` keeps to it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.db import transaction
from django.db.models import Count, Q

from annotation.errors import Invalid
from annotation.gate import write
from annotation.models import AuditAction, Project, User
from annotation.people import audit
from training.models import Job, JobStatus, Queue, Quota

MOST = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Use:
    """The quota of a project, None where there is no limit, and what it takes of it now."""

    running: int | None
    queued: int | None
    running_now: int
    queued_now: int


def read(project: Project) -> Use:
    """Two queries."""
    quota = Quota.objects.filter(project=project).first()
    counted = Job.objects.filter(project=project, queue=Queue.GPU).aggregate(
        running=Count("pk", filter=Q(status=JobStatus.RUNNING)), queued=Count("pk", filter=Q(status=JobStatus.QUEUED))
    )
    return Use(
        running=None if quota is None else quota.running,
        queued=None if quota is None else quota.queued,
        running_now=counted["running"],
        queued_now=counted["queued"],
    )


def change(*, project: Project, running: int | None, queued: int | None, by: User, now: datetime) -> Use:
    """Set the quota; a second call changes nothing. Jobs that run already go on.

    Args:
        running: most jobs of the gpu queue at one time, 0 holds all of them back; `queued`: most that wait. None: any.

    Raises:
        Invalid: a number out of range.
    """
    for name, value in (("running", running), ("queued", queued)):
        if value is not None and not 0 <= value <= MOST:
            message = f"must be between 0 and {MOST}, or null for no limit, got {value}"
            raise Invalid(f"{name}: {message}", details={name: [message]})
    with write(), transaction.atomic():
        Quota.objects.update_or_create(project=project, defaults={"running": running, "queued": queued})
        audit(project=project, by=by, action=AuditAction.QUOTA_CHANGED, now=now, running=running, queued=queued)
    return read(project)
