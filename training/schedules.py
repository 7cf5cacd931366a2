"""Schedules: a project's next round opens by itself once a newly promoted policy is the one it goes on from.

The policy that is due is found, not announced: whoever looks (the tick, or two of them) may look twice. The round and
the mark that it was opened for this policy are one row (`Round.opened_for`, unique), made under the schedule's lock,
so a policy has one such round. Votes on it and those of before are frozen together: a snapshot takes every round.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any, assert_never

from django.db import transaction
from django.db.models import Exists, OuterRef, QuerySet

from annotation.errors import DomainError
from annotation.gate import write
from annotation.models import AuditAction, Project, User
from annotation.people import audit
from training.freshness import current_policy
from training.models import ModelKind, ModelSource, ModelVersion, Opponent, Round, RoundSchedule
from training.rounds import MeetingPlan, SamplingPlan, completions_needed, read_plan, start_round

_SEEDS = 2**31
_MOST_ANCESTORS = 100

log = logging.getLogger(__name__)


def change(
    *,
    project: Project,
    is_on: bool,
    opponent: Opponent,
    prompts: int | None,
    sampling: Mapping[str, Any],
    meeting: MeetingPlan,
    by: User,
    now: datetime,
) -> RoundSchedule:
    """Set the schedule of a project; the same again changes only the date.

    A policy that was current before the schedule was switched on opens nothing: its next one does.

    Args:
        sampling: fields of `SamplingPlan`; without `completions`, as many as make a comparison.
    """
    SamplingPlan(**sampling)  # a wrong name is a bug of the caller, and shows here rather than in the tick
    with write(), transaction.atomic():
        Project.objects.select_for_update(no_key=True).get(pk=project.pk)
        known = RoundSchedule.objects.filter(project=project).first()
        values = {
            "is_on": is_on,
            "opponent": opponent,
            "prompts": prompts,
            "sampling": dict(sampling),
            "pairing": asdict(meeting),
            "since": known.since if known is not None and known.is_on else now,
            "problem": "",
            "updated_at": now,
            "updated_by": by,
        }
        made, _ = RoundSchedule.objects.update_or_create(project=project, defaults=values)
        audit(project=project, by=by, action=AuditAction.SCHEDULE_CHANGED, target=project.slug, now=now, is_on=is_on)
    return made


def due_policy(schedule: RoundSchedule) -> ModelVersion | None:
    """The current policy, if the schedule is to open a round for it and has not."""
    if not schedule.is_on:
        return None
    current = current_policy(schedule.project)
    if current is None or current.source != ModelSource.JOB or current.created_at < schedule.since:
        return None
    return None if Round.objects.filter(opened_for=current).exists() else current


def open_due(now: datetime) -> int:
    """Open a round for each policy that is due; how many were opened. A second call, or two at once, open no more.

    A round that cannot be opened (no prompts, too many jobs that wait) is tried again at the next call, and the
    schedule says why.
    """
    return sum(_open(schedule_id, now) for schedule_id in _due().values_list("pk", flat=True))


def _due() -> QuerySet[RoundSchedule]:
    """One query for the tick, which looks every few seconds and nearly always finds nothing."""
    due = ModelVersion.objects.filter(
        project=OuterRef("project"),
        kind=ModelKind.POLICY,
        source=ModelSource.JOB,
        is_current=True,
        opened_round=None,
        created_at__gte=OuterRef("since"),
    )
    return RoundSchedule.objects.filter(Exists(due), is_on=True).order_by("pk")


def _open(schedule_id: int, now: datetime) -> bool:
    try:
        with write(), transaction.atomic():
            rows = RoundSchedule.objects.select_for_update(of=("self",)).select_related("project")
            schedule = rows.get(pk=schedule_id)
            model = due_policy(schedule)
            if model is None:
                return False  # another tick was faster
            made = _start(schedule, model, now)
            RoundSchedule.objects.filter(pk=schedule_id).exclude(problem="").update(problem="")
    except DomainError as error:
        if RoundSchedule.objects.filter(pk=schedule_id).exclude(problem=str(error)).update(problem=str(error)):
            log.warning("schedule %s cannot open a round: %s", schedule_id, error)
        return False
    log.info("schedule %s opened round %s for %s", schedule_id, made.number, model.name)
    return True


def _start(schedule: RoundSchedule, model: ModelVersion, now: datetime) -> Round:
    project = schedule.project
    other = opponent_of(schedule, model)
    policies = [model] if other is None else [model, other]
    meeting = read_plan(schedule.pairing)
    needed = completions_needed(size=project.feedback.size, policies=len(policies), meeting=meeting)
    sampling = {**schedule.sampling, "completions": max(schedule.sampling.get("completions", 0), needed)}
    opened = Round.objects.filter(project=project, opened_for__isnull=False).count()
    plan = SamplingPlan(**sampling)
    return start_round(
        project=project,
        policies=policies,
        plan=SamplingPlan(**{**asdict(plan), "seed": (plan.seed + opened) % _SEEDS}),
        meeting=meeting,
        prompts=schedule.prompts,
        name=f"After {model.name}"[:120],
        opened_for=model,
        by=None,
        now=now,
    )


def opponent_of(schedule: RoundSchedule, model: ModelVersion) -> ModelVersion | None:
    """Whom the policy meets; None: its own completions meet each other, also where there is nobody else."""
    match Opponent(schedule.opponent):
        case Opponent.ITSELF:
            return None
        case Opponent.PREVIOUS:
            return _previous(model) or _root(model)
        case Opponent.BASE:
            return _root(model)
        case other:
            assert_never(other)


def _previous(model: ModelVersion) -> ModelVersion | None:
    """The policy of the schedule's last round, which was current then; else the newest promotion before this one."""
    last = Round.objects.filter(project=model.project, opened_for__isnull=False).order_by("-pk").first()
    if last is not None:
        return last.opened_for
    earlier = ModelVersion.objects.filter(
        project=model.project, kind=ModelKind.POLICY, source=ModelSource.JOB, archived_at=None, pk__lt=model.pk
    )
    return earlier.order_by("-pk").first()


def _root(model: ModelVersion) -> ModelVersion | None:
    """The model from outside that it was trained from in the end."""
    found = model
    for _ in range(_MOST_ANCESTORS):
        if found.base is None:
            break
        found = found.base
    return None if found.pk == model.pk or found.kind != ModelKind.POLICY else found
