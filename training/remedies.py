"""What can be done about an alarm of a run: pause it, go on with a smaller KL budget, or ask people.

Each is done once for an alarm, in one transaction with the note that it was done, so a repeat makes no second job or
round. Nothing here decides by itself: a person asks.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, assert_never

from django.db import transaction

from annotation.errors import DomainError, Invalid, Kind
from annotation.gate import write
from annotation.meetings import Strategy
from annotation.models import (
    AuditAction,
    Completion,
    Finish,
    Project,
    Prompt,
    Source,
    SourceKind,
    User,
    content_hash,
    messages_hash,
)
from annotation.people import audit
from training import alarms, jobs, launching
from training.engine.alarms import ALARMS
from training.forms import value_at
from training.models import TERMINAL, Alarm, Checkpoint, Job, JobStatus, ModelKind, RunSample
from training.rounds import MeetingPlan, SamplingPlan, start_round

BUDGET = "kl.budget"
BUDGET_SHARE = 0.5
"""Of the budget as it was: below the 80 % that rings, and with room to go on."""
MOST_SAMPLES = 200
USUAL_SAMPLES = 20
_MOST_LINES = 5000
_PRIORITY = 10  # of the comparisons, before those of ordinary rounds: the run waits for the answer


class Action(StrEnum):
    """What an alarm offers."""

    PAUSE = "pause"
    LOWER_BUDGET = "lower_budget"
    ASK_PEOPLE = "ask_people"


class AlarmHandled(DomainError):
    """This was done about the alarm already."""

    code = "alarm_handled"
    kind = Kind.CONFLICT


class NotOffered(DomainError):
    """The alarm's job does not allow this; the message says why."""

    code = "action_not_offered"
    kind = Kind.CONFLICT


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """What a person asks for.

    Attributes:
        budget: of `lower_budget`, nats a completion; None: half of what it was.
        samples: of `ask_people`, how many prompts at most; `overlap`: votes each, None: as the project says.
        note: acknowledges the alarm too.
    """

    action: Action
    budget: float | None = None
    samples: int = USUAL_SAMPLES
    overlap: int | None = None
    note: str = ""


def offered(alarm: Alarm) -> list[Action]:
    """What can be done about an alarm now, as far as its row and its job's tell; of `alarms.alarms`, no query."""
    job, found = alarm.job, []
    if job is None or alarm.name not in ALARMS:
        return []
    if job.status not in TERMINAL and job.cancel_requested_at is None:
        found.append(Action.PAUSE)
    if value_at(job.config, BUDGET) is not None and alarms.checkpoints_before(alarm):
        found.append(Action.LOWER_BUDGET)
    if job.model_id is not None:
        found.append(Action.ASK_PEOPLE)
    done = {item["action"] for item in alarm.done}
    return [action for action in found if action not in done]


def act(*, alarm: Alarm, wish: Wish, by: User, now: datetime) -> None:
    """Do it, once.

    Raises:
        AlarmHandled: it was done already. NotOffered: the alarm has no job, or its job does not allow it.
        Invalid, BadConfig, JobFinished: as what is done raises.
    """
    with write(), transaction.atomic():
        row = Alarm.objects.select_for_update(no_key=True, of=("self",)).select_related("project").get(pk=alarm.pk)
        if any(item["action"] == wish.action for item in row.done):
            raise AlarmHandled(f"{wish.action} was done about this alarm already", details={"done": row.done})
        if row.job_id is None:
            raise NotOffered("this alarm has no job that could be stopped, continued or asked about")
        job = Job.objects.select_related("project", "model", "snapshot").get(pk=row.job_id)
        match wish.action:
            case Action.PAUSE:
                made = _pause(job, by=by)
            case Action.LOWER_BUDGET:
                made = _lower_budget(row, job, budget=wish.budget, by=by, now=now)
            case Action.ASK_PEOPLE:
                made = _ask_people(row, job, wish, by=by, now=now)
            case _:
                assert_never(wish.action)
        entry = {"action": wish.action.value, "at": now.isoformat(), "by": str(by.public_id), **made}
        Alarm.objects.filter(pk=row.pk).update(done=[*row.done, entry])
        audit(
            project=row.project, by=by, action=AuditAction.ALARM_ACTED, target=str(row.public_id), now=now,
            done=wish.action.value, **made,
        )  # fmt: skip
        if wish.note.strip() and row.acknowledged_at is None:
            alarms.acknowledge(alarm=row, note=wish.note, by=by, now=now)


# --- pause ------------------------------------------------------------------------------------------------------------


def _pause(job: Job, *, by: User) -> dict[str, Any]:
    """Stop it after its step; a retry goes on from the checkpoint that it saves then."""
    jobs.cancel(job, by=by)
    return {"job": str(job.public_id)}


# --- lower the budget -------------------------------------------------------------------------------------------------


def _lower_budget(alarm: Alarm, job: Job, *, budget: float | None, by: User, now: datetime) -> dict[str, Any]:
    """Stop the job, and queue a clone with a smaller budget that goes on from the checkpoint before the alarm."""
    former = value_at(job.config, BUDGET)
    if former is None:
        raise NotOffered(f"job {job.number} ({job.method}) has no KL budget that could be lowered")
    wanted = former * BUDGET_SHARE if budget is None else budget
    if not 0 < wanted < former:
        message = f"budget must be positive and below the job's {former:g} nats, got {wanted:g}"
        raise Invalid(message, details={"budget": [message]})
    checkpoint = _before(alarm, job)
    if checkpoint is None:
        where = "" if alarm.step is None else f" before step {alarm.step}"
        raise NotOffered(f"job {job.number} has no checkpoint{where} whose files are there; clone it to begin anew")
    clone = launching.clone(
        job,
        changes={"kl": {"budget": wanted}},
        title=f"{job.title or job.method}, KL budget {wanted:g}"[:200],
        checkpoint=checkpoint,
        by=by,
        now=now,
    )
    if job.status in {JobStatus.QUEUED, JobStatus.RUNNING}:
        jobs.cancel(job, by=by)
    return {"job": str(clone.public_id), "budget": wanted, "step": checkpoint.step}


def _before(alarm: Alarm, job: Job) -> Checkpoint | None:
    rows = Checkpoint.objects.filter(run__job=job, files_pruned_at=None)
    if alarm.step is not None:
        rows = rows.filter(step__lt=alarm.step)
    return rows.order_by("-step", "-pk").first()


# --- ask people -------------------------------------------------------------------------------------------------------


def _ask_people(alarm: Alarm, job: Job, wish: Wish, *, by: User, now: datetime) -> dict[str, Any]:
    """A round in which the completions with the highest scores meet fresh ones of the model that the run began with."""
    base = job.model
    if base is None or base.kind != ModelKind.POLICY:
        raise NotOffered(f"job {job.number} names no policy that its samples could be compared with")
    if not 1 <= wish.samples <= MOST_SAMPLES:
        message = f"samples must be between 1 and {MOST_SAMPLES}, got {wish.samples}"
        raise Invalid(message, details={"samples": [message]})
    step, best = _highest(alarm.project, job, most=wish.samples)
    source = _source(alarm.project, job, step)
    Completion.objects.bulk_create(
        [_completion(alarm, prompt, source, sample, now) for prompt, sample in best], ignore_conflicts=True
    )
    made = start_round(
        project=alarm.project,
        policies=[base],
        plan=_plan(job),
        meeting=MeetingPlan(
            strategy=Strategy.CROSS_SOURCE,
            against=(str(source.public_id),),
            prompts=tuple(str(prompt.public_id) for prompt, _ in best),
            per_prompt=1,
            overlap=wish.overlap,
            priority=_PRIORITY,
        ),
        name=f"Highest scores of job {job.number} at step {step}"[:120],
        by=by,
        now=now,
    )
    return {"round": str(made.public_id), "job": str(made.job.public_id), "samples": len(best), "step": step}


def _highest(project: Project, job: Job, *, most: int) -> tuple[int, list[tuple[Prompt, RunSample]]]:
    """The step of the newest samples with scores, and of each of their prompts the highest, best first."""
    rows = RunSample.objects.filter(run__job=job).order_by("-step", "-pk")[:_MOST_LINES]
    scored = [row for row in rows if _score(row) is not None and row.body.get("completion")]
    if not scored:
        raise NotOffered(f"job {job.number} has written no samples with scores yet")
    newest = [row for row in scored if row.step == scored[0].step]
    by_hash: dict[str, RunSample] = {}
    for row in sorted(newest, key=lambda item: _score(item) or 0.0, reverse=True):
        by_hash.setdefault(messages_hash(row.body["prompt"]), row)
    known = {prompt.content_hash: prompt for prompt in Prompt.objects.filter(project=project, content_hash__in=by_hash)}
    best = [(known[key], row) for key, row in by_hash.items() if key in known][:most]
    if not best:
        raise NotOffered(
            f"none of the prompts that job {job.number} sampled at step {newest[0].step} is in the project"
        )
    return newest[0].step, best


def _score(row: RunSample) -> float | None:
    for name in ("score", "reward"):
        value = row.body.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    return None


def _source(project: Project, job: Job, step: int) -> Source:
    """Who wrote the samples: the policy as it was at that step, which is no registered model."""
    name = f"Job {job.number} at step {step}"
    return Source.objects.get_or_create(project=project, kind=SourceKind.POLICY, name=name)[0]


def _completion(alarm: Alarm, prompt: Prompt, source: Source, sample: RunSample, now: datetime) -> Completion:
    text = str(sample.body["completion"]).replace("\x00", "\ufffd")  # PostgreSQL holds no NUL
    finish = sample.body.get("finish")
    return Completion(
        project_id=alarm.project_id,
        prompt=prompt,
        source=source,
        text=text,
        content_hash=content_hash(text),
        finish=finish if finish in Finish.values else Finish.END,
        sampling={"step": sample.step, "temperature": 1.0},
        tokens=sample.body.get("length"),
        origin=alarm.public_id,
        index=0,
        created_at=now,
    )


def _plan(job: Job) -> SamplingPlan:
    """As the run samples at its evaluations."""
    longest = value_at(job.config, "sampling.max_new_tokens") or SamplingPlan().max_new_tokens
    return SamplingPlan(completions=1, temperature=1.0, top_p=1.0, max_new_tokens=int(longest))
