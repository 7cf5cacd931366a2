"""Jobs: the table of transitions, each a conditional update, so that a lost race changes nothing.

The row is the truth, a message only a wake-up, and nobody else writes to a job: that is why this module is long. A
function that finds 0 rows says so (None or False): somebody else owns the job now, and the caller must do nothing more.
Leases are in database time: `now` is the database's clock unless a test passes a fixed moment.
"""

from __future__ import annotations

import hashlib
import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, StrEnum
from pathlib import Path
from typing import Any

from celery import current_app
from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import DateTimeField, Exists, F, Max, OuterRef, Q, QuerySet, Value
from django.db.models.functions import Coalesce, Now
from kombu.exceptions import OperationalError

from annotation.errors import DomainError, Invalid, Kind
from annotation.gate import write
from annotation.models import AuditAction, Project, User
from annotation.people import audit
from annotation.webhooks import Event, emit
from training import attempts, forms
from training.engine.config import AnyConfig, parse_config
from training.engine.errors import ConfigError
from training.engine.records import canonical_json
from training.models import (
    TERMINAL,
    Checkpoint,
    Job,
    JobStatus,
    ModelVersion,
    Queue,
    Quota,
    Run,
    RunMetric,
    RunSample,
    Snapshot,
)

Moment = datetime | Now
DATABASE_TIME = Now()
TASK = "training.run_job"
MAX_FAILURES = 3
MAX_ATTEMPTS = 20
BACKOFF_SECONDS = (5, 30, 120)
STALE_NUDGE_SECONDS = 30
NUDGE_EXPIRES_SECONDS = 60
KILLED = (-9, 137)  # SIGKILL seen by us, or by a shell between us
_STAND_INS: dict[str, dict[str, Any]] = {  # for the inputs, whose paths are known only when the job starts
    "sample": {"models": {"policies": [{"name": "-", "path": "-"}]}, "data": {"prompts": "-"}},
    "convert": {"models": {"source": "-"}},
}
_NUMBER_TRIES = 10
_NUDGES_A_ROUND = 100

log = logging.getLogger(__name__)


class BadConfig(DomainError):
    """A config that the engine refuses; `details` maps the dotted key to what is wrong."""

    code = "bad_config"


class QuotaReached(DomainError):
    """The project has as many waiting jobs as it may have."""

    code = "quota_reached"
    kind = Kind.CONFLICT


class JobFinished(DomainError):
    """The job has ended, so it cannot be stopped."""

    code = "job_finished"
    kind = Kind.CONFLICT


class JobNotRetryable(DomainError):
    """Only a failed or cancelled job can be put back into the queue."""

    code = "job_not_retryable"
    kind = Kind.CONFLICT


class JobNotRunning(DomainError):
    """A checkpoint can only be asked of a running job."""

    code = "job_not_running"
    kind = Kind.CONFLICT


class JobNotWaiting(DomainError):
    """Only a queued job has a place in the queue."""

    code = "job_not_waiting"
    kind = Kind.CONFLICT


class Phase(StrEnum):
    """What the screen says of a running job beside its status. Derived, never stored."""

    STARTING = "starting"
    STALLED = "stalled"
    STOPPING = "stopping"


class Order(Enum):
    """What a heartbeat learns from the row, to be passed on to the child."""

    GO_ON = "."
    STOP = "s"
    CHECKPOINT = "c"


class Ending(Enum):
    """How an attempt ended, as its run keeps it; `training.endings` says it in words."""

    DONE = "done"
    STOPPED = "stopped"  # a person asked
    PAUSED = "paused"  # the engine paused itself by an alarm
    SHUTDOWN = "shutdown"  # orderly: counts as no failure
    # The machine or what it hangs on: another attempt may go better.
    KILLED = "killed"
    MEMORY = "memory"
    DISK = "disk"
    NETWORK = "network"
    DEVICE = "device"
    HUNG = "hung"
    CRASHED = "crashed"
    CUT_OFF = "cut off"  # the worker died, or the child ended itself because nobody fed it
    # What another attempt would not mend.
    CONFIG = "config"
    DATA = "data"
    DIVERGED = "diverged"
    DEFECT = "defect"


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A job that is ours until the lease ends, and the run that was opened for it."""

    job_id: int
    run_id: int
    owner: uuid.UUID
    attempt: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How an attempt ended, to close its run with."""

    reason: str
    exit_code: int | None = None
    last_step: int | None = None
    result: Mapping[str, Any] | None = None
    error_tail: str = ""


# --- in ---------------------------------------------------------------------------------------------------------------


def submit(
    *,
    project: Project,
    method: str,
    config: Mapping[str, Any],
    by: User | None,
    snapshot: Snapshot | None = None,
    model: ModelVersion | None = None,
    checkpoint: Checkpoint | None = None,
    depends_on: Sequence[Job] = (),
    inputs: Mapping[str, Any] | None = None,
    uses: Sequence[ModelVersion] = (),
    stand_ins: Mapping[str, Any] | None = None,
    clone_of: Job | None = None,
    sweep: uuid.UUID | None = None,
    title: str = "",
    queue: str = Queue.GPU,
    priority: int = 0,
    now: Moment = DATABASE_TIME,
) -> Job:
    """Queue a job; the config is checked before the row exists. A second call makes a second job.

    Args:
        config: the engine's config without the paths of its inputs, which are filled in when it starts.
        inputs: see `Job.inputs`; `uses` are the models among them.
        stand_ins: for the paths of inputs while the config is checked; None: those that the method always has.

    Raises:
        BadConfig: names the key and the value that the engine would refuse.
        QuotaReached: too many jobs of the project wait.
        Invalid: the checkpoint that it starts from is being pruned in this moment.
    """
    complete = {**config, "method": method}
    if stand_ins is None:
        stand_ins = _STAND_INS[method] if method in _STAND_INS else forms.stand_ins(method)
    checked(with_inputs(complete, stand_ins))
    for attempt in range(_NUMBER_TRIES):
        try:
            with write(), transaction.atomic():
                _check_queued(project)
                number = Job.objects.filter(project=project).aggregate(last=Max("number"))["last"] or 0
                job = Job.objects.create(
                    project=project,
                    number=number + 1,
                    method=method,
                    title=title,
                    config=complete,
                    snapshot=snapshot,
                    model=model,
                    checkpoint=checkpoint,
                    inputs=dict(inputs or {}),
                    clone_of=clone_of,
                    sweep=sweep,
                    queue=queue,
                    priority=priority,
                    created_by=by,
                    **({} if isinstance(now, Now) else {"created_at": now}),
                )
                job.depends_on.set(depends_on)
                job.uses.set(uses)
                if checkpoint is not None:
                    _keep(checkpoint, job)
                if by is not None:
                    _note(job, by, AuditAction.JOB_SUBMITTED, job.created_at, method=method, title=title)
                _nudge_on_commit(job.pk, queue)
                return job
        except IntegrityError:  # somebody took the number
            if attempt == _NUMBER_TRIES - 1:
                raise
    raise AssertionError("unreachable")


def _keep(checkpoint: Checkpoint, job: Job) -> None:
    """The job that made the checkpoint may prune it when it saves once more, before this one has started."""
    source = Path(settings.RUNS_DIR) / checkpoint.path
    if not source.is_dir():  # runs lie on the workers' disks: the job finds it there, or says that it is gone
        return
    try:
        attempts.keep_start(source, attempts.start_directory(Path(settings.RUNS_DIR), job.public_id, checkpoint.step))
    except OSError as error:
        raise pruned(checkpoint) from error


def pruned(checkpoint: Checkpoint) -> Invalid:
    """What to say to whom wants a checkpoint whose files are gone."""
    message = f"checkpoint: the files of step {checkpoint.step} were pruned; take another one"
    return Invalid(message, details={"checkpoint": ["pruned"]})


def _check_queued(project: Project) -> None:
    most = Quota.objects.filter(project=project).values_list("queued", flat=True).first()
    if most is None:
        return
    waiting = Job.objects.filter(project=project, status=JobStatus.QUEUED, queue=Queue.GPU).count()
    if waiting >= most:
        raise QuotaReached(f"{waiting} jobs of this project wait already, and its quota is {most}")


def checked(config: Mapping[str, Any]) -> AnyConfig:
    """A complete config as the engine will parse it.

    Raises:
        BadConfig: names the key and the value that the engine would refuse.
    """
    try:
        return parse_config(config)
    except ConfigError as error:
        raise BadConfig(error.message, details={error.key or "config": [error.message]}) from None


def with_inputs(config: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """A config with the paths of its inputs; other keys beside them (`data.max_tokens`, `models.combine`) stay."""
    merged = {name: {**(config.get(name) or {}), **section} for name, section in inputs.items()}
    return {**config, **merged}


def record_inputs(
    job: Job,
    *,
    model: ModelVersion | None = None,
    checkpoint: Checkpoint | None = None,
    uses: Sequence[ModelVersion] = (),
) -> None:
    """Note what the inputs that a job was promised have become, when it first starts; later attempts keep to it.

    `job` itself is brought up to date. A second call changes nothing.
    """
    with write(), transaction.atomic():
        if model is not None:
            Job.objects.filter(pk=job.pk, model=None).update(model=model)
        if checkpoint is not None:
            Job.objects.filter(pk=job.pk, checkpoint=None).update(checkpoint=checkpoint)
        job.uses.add(*uses)
    stored = Job.objects.select_related("model", "checkpoint__run__job__model").get(pk=job.pk)
    job.model, job.checkpoint = stored.model, stored.checkpoint


def reprioritise(job: Job, *, priority: int, by: User | None = None, now: Moment = DATABASE_TIME) -> None:
    """Move a job that waits forward or back in its queue.

    Raises:
        JobNotWaiting: it has started or ended.
    """
    with write(), transaction.atomic():
        if Job.objects.filter(pk=job.pk, status=JobStatus.QUEUED).update(priority=priority) == 0:
            raise JobNotWaiting(f"job {job.number} has started already, so it has no place in the queue")
        if by is not None:
            _note(job, by, AuditAction.JOB_REPRIORITISED, now, priority=priority)


def nudge(*, job_id: int, queue: str, now: Moment = DATABASE_TIME) -> bool:
    """Wake a worker of the queue. A message that cannot be sent is logged (False), not raised: the tick sends again."""
    Job.objects.filter(pk=job_id, status=JobStatus.QUEUED).update(nudged_at=now)
    try:
        current_app.send_task(
            TASK, args=[job_id], queue=str(queue), expires=NUDGE_EXPIRES_SECONDS, retry=False, ignore_result=True
        )
    except (OperationalError, OSError) as error:
        log.warning("no wake-up sent for job %s: the broker does not answer (%s)", job_id, error)
        return False
    return True


def _nudge_on_commit(job_id: int, queue: str) -> None:
    # Robust: the job is committed, and a failure to wake somebody must not look like a failure to submit.
    transaction.on_commit(lambda: nudge(job_id=job_id, queue=queue), robust=True)


def claimable(*, now: Moment = DATABASE_TIME) -> QuerySet[Job]:
    """Queued jobs that may start now: no cancel asked, back-off over, every job they depend on succeeded."""
    unmet = Job.depends_on.through.objects.filter(from_job=OuterRef("pk")).exclude(to_job__status=JobStatus.SUCCEEDED)
    return Job.objects.filter(
        Q(not_before_at=None) | Q(not_before_at__lte=now),
        ~Exists(unmet),
        status=JobStatus.QUEUED,
        cancel_requested_at=None,
    )


def claim(
    *,
    queue: str,
    host: str,
    lease_seconds: float,
    worker_id: int | None = None,
    now: Moment = DATABASE_TIME,
    job_id: int | None = None,
) -> Claim | None:
    """Take the claimable job of the queue with the highest priority, then the oldest; None if there is none.

    A project that runs as many jobs as its quota allows is passed over. The lease starts here, never at the first
    heartbeat: a running job without one would be found by no reaper.

    Args:
        worker_id: the row of the worker that asks, if it has one.
        job_id: this job or none.
    """
    with write(), transaction.atomic():
        jobs = claimable(now=now).filter(queue=queue)
        if job_id is not None:
            jobs = jobs.filter(pk=job_id)
        job = _first_within_quota(jobs.order_by("-priority", "id"))
        if job is None:
            return None
        owner = uuid.uuid4()
        taken = Job.objects.filter(pk=job.pk, status=JobStatus.QUEUED, cancel_requested_at=None).update(
            status=JobStatus.RUNNING,
            owner=owner,
            lease_expires_at=now + timedelta(seconds=lease_seconds),
            attempt=F("attempt") + 1,
            started_at=Coalesce("started_at", now if isinstance(now, Now) else Value(now, DateTimeField())),
            not_before_at=None,
            checkpoint_requested_at=None,
            last_step_at=None,
            progress={},
        )
        assert taken == 1, "the row is locked"
        run = Run.objects.create(
            job=job,
            attempt=job.attempt + 1,
            owner=owner,
            config_hash=hashlib.sha256(canonical_json(job.config).encode()).hexdigest(),
            host=host,
            worker_id=worker_id,
            started_at=now,
        )
        return Claim(job_id=job.pk, run_id=run.pk, owner=owner, attempt=job.attempt + 1)


def _first_within_quota(jobs: QuerySet[Job]) -> Job | None:
    full: set[int] = set()
    while True:
        job = jobs.exclude(project__in=full).select_for_update(skip_locked=True, of=("self",)).first()
        if job is None or job.queue != Queue.GPU:
            return job
        # Locked, so that two workers cannot both take the last place.
        quota = Quota.objects.select_for_update().filter(project=job.project_id, running__isnull=False).first()
        if quota is None or quota.running is None:
            return job
        running = Job.objects.filter(project=job.project_id, status=JobStatus.RUNNING, queue=Queue.GPU).count()
        if running < quota.running:
            return job
        full.add(job.project_id)


# --- while it runs ----------------------------------------------------------------------------------------------------


def _mine(claim: Claim) -> QuerySet[Job]:
    return Job.objects.filter(pk=claim.job_id, status=JobStatus.RUNNING, owner=claim.owner)


def beat(claim: Claim, *, lease_seconds: float, now: Moment = DATABASE_TIME) -> Order | None:
    """Renew the lease; None if the job is no longer ours. A wish for a checkpoint is handed out once."""
    if _mine(claim).update(lease_expires_at=now + timedelta(seconds=lease_seconds)) == 0:
        return None
    asked = _mine(claim).values_list("cancel_requested_at", "checkpoint_requested_at").first()
    if asked is None:
        return None
    stop_at, checkpoint_at = asked
    if stop_at is not None:
        return Order.STOP
    if checkpoint_at is not None:
        # Not equal but up to: SQLite compares texts, and its clock writes fewer digits than a datetime read back.
        wish = _mine(claim).filter(checkpoint_requested_at__lte=checkpoint_at)
        if wish.update(checkpoint_requested_at=None):
            return Order.CHECKPOINT
    return Order.GO_ON


def record_progress(
    claim: Claim,
    *,
    step: int | None = None,
    steps: int | None = None,
    progress: Mapping[str, Any] | None = None,
    metrics: Sequence[RunMetric] = (),
    samples: Sequence[RunSample] = (),
    now: Moment = DATABASE_TIME,
) -> bool:
    """Store what the child wrote since the last call, all or nothing. False, and nothing stored: the job is not ours.

    Args:
        step: the last step, when it is a new one.
    """
    said = {"steps": steps, "progress": progress, "last_step": step, "last_step_at": None if step is None else now}
    with transaction.atomic():
        if not _touch(claim, {name: value for name, value in said.items() if value is not None}):
            return False
        RunMetric.objects.bulk_create(metrics)
        RunSample.objects.bulk_create(samples)
    return True


def record_checkpoint(
    claim: Claim, *, run_id: int, step: int, path: str, sha256: str, size_bytes: int
) -> Checkpoint | None:
    """The row of a checkpoint, made once; a new one ends the count of failures. None if the job is not ours.

    Args:
        run_id: the run that wrote it, ours or an earlier one of the job whose worker died before it could tell.
        path: below the runs directory.
    """
    with transaction.atomic():
        if not _touch(claim, {}):
            return None
        row, made = Checkpoint.objects.get_or_create(
            run_id=run_id, step=step, defaults={"path": path, "sha256": sha256, "size_bytes": size_bytes}
        )
        resumed = Run.objects.filter(pk=run_id).values_list("resumed_from__step", flat=True).get()
        if made and (resumed is None or step > resumed):
            _mine(claim).update(failures=0)
        return row


def record_pruned(claim: Claim, checkpoint_ids: Sequence[int], *, now: Moment = DATABASE_TIME) -> None:
    """Note that the engine removed the files of these checkpoints; the rows stay."""
    with transaction.atomic():
        if _touch(claim, {}):
            Checkpoint.objects.filter(pk__in=checkpoint_ids, files_pruned_at=None).update(files_pruned_at=now)


def record_resume(claim: Claim, checkpoint: Checkpoint) -> bool:
    """Note where this attempt starts from; once, before the child starts."""
    with transaction.atomic():
        if not _touch(claim, {}):
            return False
        return Run.objects.filter(pk=claim.run_id, ended_at=None).update(resumed_from=checkpoint) == 1


def _touch(claim: Claim, fields: Mapping[str, Any]) -> bool:
    """Lock the job's row if it is ours, with an update, so that no reaper can give it away before we commit."""
    return _mine(claim).update(**{"owner": claim.owner, **fields}) == 1


def request_checkpoint(job: Job, *, now: Moment = DATABASE_TIME) -> None:
    """Ask the child to save now and go on; a repeat before the next heartbeat is the same wish.

    Raises:
        JobNotRunning: there is no child.
    """
    with write():
        if Job.objects.filter(pk=job.pk, status=JobStatus.RUNNING).update(checkpoint_requested_at=now) == 0:
            raise JobNotRunning(f"job {job.number} is not running, so it cannot save a checkpoint")


# --- out --------------------------------------------------------------------------------------------------------------


def finish(claim: Claim, outcome: Outcome, *, best: str | None = None, now: Moment = DATABASE_TIME) -> bool:
    """running → succeeded.

    Args:
        best: path, below the runs directory, of the checkpoint that the engine calls its best.
    """
    with transaction.atomic():
        if not _end(claim.job_id, claim.owner, JobStatus.SUCCEEDED, outcome, now=now, ending=Ending.DONE):
            return False
        if best is not None:
            Checkpoint.objects.filter(run__job=claim.job_id, path=best).update(is_best=True)
        waiting = Job.objects.filter(depends_on=claim.job_id, status=JobStatus.QUEUED).values_list("pk", "queue")
        for job_id, queue in waiting:
            _nudge_on_commit(job_id, queue)
    return True


def fail(claim: Claim, outcome: Outcome, *, ending: Ending = Ending.DEFECT, now: Moment = DATABASE_TIME) -> bool:
    """running → failed, for what another attempt would not mend: a bad config, bad data, a run that diverged."""
    return _end(claim.job_id, claim.owner, JobStatus.FAILED, outcome, now=now, ending=ending)


def cancelled(claim: Claim, outcome: Outcome, *, paused: bool = False, now: Moment = DATABASE_TIME) -> bool:
    """running → cancelled, once the child has stopped: a person asked, or the engine paused itself by an alarm."""
    asked = Q() if paused else Q(cancel_requested_at__isnull=False)
    ending = Ending.PAUSED if paused else Ending.STOPPED
    return _end(claim.job_id, claim.owner, JobStatus.CANCELLED, outcome, now=now, condition=asked, ending=ending)


def requeue(
    *,
    job_id: int,
    owner: uuid.UUID,
    ending: Ending,
    outcome: Outcome,
    lease_over: bool = False,
    now: Moment = DATABASE_TIME,
) -> JobStatus | None:
    """running → queued with back-off; or failed at a cap; or cancelled, if a person has asked for that meanwhile.

    Args:
        lease_over: only if the lease has run out (the reaper's condition).

    Returns:
        The new status, or None if the job is no longer the one of this owner.
    """
    condition = Q(lease_expires_at__lt=now) if lease_over else Q()
    with transaction.atomic():
        jobs = Job.objects.filter(condition, pk=job_id, status=JobStatus.RUNNING, owner=owner)
        job = jobs.select_for_update().first()
        if job is None:
            return None
        verdict, fields = outcome.reason, dict[str, Any]()
        if job.cancel_requested_at is not None:
            status = JobStatus.CANCELLED
        elif (too_often := _too_often(job, ending=ending, outcome=outcome)) is not None:
            status, verdict = JobStatus.FAILED, too_often
            fields = {"failures": job.failures + (ending is not Ending.SHUTDOWN)}
        else:
            status, fields = JobStatus.QUEUED, _wait(job, ending=ending, lease_over=lease_over, now=now)
        ended = _end(
            job_id, owner, status, outcome,
            now=now, condition=condition, job_reason=verdict, fields=fields, ending=ending,
        )  # fmt: skip
        assert ended, "the row is locked"
        if status is JobStatus.QUEUED and "not_before_at" not in fields:
            _nudge_on_commit(job_id, job.queue)
    return status


def _too_often(job: Job, *, ending: Ending, outcome: Outcome) -> str | None:
    """Why the job may not be queued again, or None. The caps count from a person's last retry."""
    if ending in (Ending.KILLED, Ending.MEMORY):
        alike = (Ending.KILLED.value, Ending.MEMORY.value)
        before = job.runs.filter(attempt__gt=job.attempts_before, ending__in=alike, last_step=outcome.last_step)
        if outcome.last_step is None:  # the first step of an attempt is where it started from
            started = job.runs.filter(attempt=job.attempt).values_list("resumed_from_id", flat=True).first()
            before = before.filter(resumed_from=started) if started else before.filter(resumed_from=None)
        if before.exclude(attempt=job.attempt).exists():
            where = "before the first step" if outcome.last_step is None else f"at step {outcome.last_step}"
            if ending is Ending.MEMORY:
                return f"{outcome.reason}; out of memory twice {where}"
            return f"killed twice {where} (out of memory?)"
    if ending is not Ending.SHUTDOWN and job.failures + 1 >= MAX_FAILURES:
        return f"{outcome.reason}; {MAX_FAILURES} failures without a new checkpoint"
    if job.attempt - job.attempts_before >= MAX_ATTEMPTS:
        return f"{outcome.reason}; {MAX_ATTEMPTS} attempts"
    return None


def _wait(job: Job, *, ending: Ending, lease_over: bool, now: Moment) -> dict[str, Any]:
    """How long the job stays in the queue at least. An orderly shutdown is no failure and waits for nothing."""
    if ending is Ending.SHUTDOWN:
        return {}
    failures = job.failures + 1
    if lease_over and failures == 1:  # the lease was longer than the first back-off
        return {"failures": failures}
    seconds = BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS)) - 1]
    return {"failures": failures, "not_before_at": now + timedelta(seconds=seconds)}


def _end(
    job_id: int,
    owner: uuid.UUID,
    status: JobStatus,
    outcome: Outcome,
    *,
    now: Moment,
    condition: Q | None = None,
    job_reason: str | None = None,
    fields: Mapping[str, Any] | None = None,
    ending: Ending,
) -> bool:
    """Take a running job of this owner to `status`, and close its run, in one transaction."""
    with transaction.atomic():
        left = Job.objects.filter(condition or Q(), pk=job_id, status=JobStatus.RUNNING, owner=owner).update(
            status=status,
            reason=outcome.reason if job_reason is None else job_reason,
            owner=None,
            lease_expires_at=None,
            checkpoint_requested_at=None,
            **({} if status is JobStatus.QUEUED else {"ended_at": now}),
            **(fields or {}),
        )
        if left == 0:
            return False
        Run.objects.filter(owner=owner, ended_at=None).update(
            ended_at=now,
            exit_code=outcome.exit_code,
            reason=outcome.reason,
            ending=ending.value,
            last_step=outcome.last_step,
            result=outcome.result,
            error_tail=outcome.error_tail,
        )
        if status in TERMINAL:
            _tell(job_id)
    return True


def _tell(job_id: int) -> None:
    """Let webhooks know that a job has ended; to be called inside the transaction that ended it."""
    job = Job.objects.select_related("project").get(pk=job_id)
    assert job.ended_at is not None
    payload = {
        "job": str(job.public_id), "number": job.number, "method": job.method, "status": job.status,
        "reason": job.reason,
    }  # fmt: skip
    emit(project=job.project, event=Event.JOB_FINISHED, payload=payload, now=job.ended_at)


def _note(job: Job, by: User, action: AuditAction, now: Moment, **details: object) -> None:
    audit(project=job.project, by=by, action=action, target=str(job.public_id), now=now, **details)


# --- people and the tick ----------------------------------------------------------------------------------------------


def cancel(job: Job, *, by: User | None = None, now: Moment = DATABASE_TIME) -> JobStatus:
    """Cancel a queued job at once, or ask a running one to stop (its runner does the rest). Twice is once.

    Raises:
        JobFinished: the job has ended.
    """
    with write(), transaction.atomic():
        row = Job.objects.select_for_update().get(pk=job.pk)
        if row.status in TERMINAL:
            raise JobFinished(f"job {row.number} has ended already ({row.status})")
        if row.status == JobStatus.QUEUED:
            Job.objects.filter(pk=job.pk, status=JobStatus.QUEUED).update(
                status=JobStatus.CANCELLED, reason="cancelled before it started", cancel_requested_at=now, ended_at=now
            )
            _tell(job.pk)
            asked, status = 1, JobStatus.CANCELLED
        else:
            asked = Job.objects.filter(pk=job.pk, status=JobStatus.RUNNING, cancel_requested_at=None).update(
                cancel_requested_at=now
            )
            status = JobStatus.RUNNING
        if by is not None and asked:
            _note(job, by, AuditAction.JOB_CANCELLED, now)
        return status


def retry(job: Job, *, by: User | None = None, now: Moment = DATABASE_TIME) -> None:
    """Put a failed or cancelled job back into the queue; it resumes from its newest valid checkpoint.

    Raises:
        JobNotRetryable: it is queued, running or succeeded (so a second call is refused).
    """
    with write(), transaction.atomic():
        again = Job.objects.filter(pk=job.pk, status__in=(JobStatus.FAILED, JobStatus.CANCELLED)).update(
            status=JobStatus.QUEUED,
            reason="",
            failures=0,
            attempts_before=F("attempt"),
            cancel_requested_at=None,
            not_before_at=None,
            ended_at=None,
        )
        if again == 0:
            raise JobNotRetryable(f"only a failed or cancelled job can be retried, and job {job.number} is neither")
        if by is not None:
            _note(job, by, AuditAction.JOB_RETRIED, now)
        _nudge_on_commit(job.pk, job.queue)


def reap(now: Moment = DATABASE_TIME) -> int:
    """Take back jobs whose lease has run out (their worker died or was cut off). Returns how many."""
    over = Job.objects.filter(status=JobStatus.RUNNING, lease_expires_at__lt=now)
    reaped = 0
    for job_id, owner, step, step_at in over.values_list("pk", "owner", "last_step", "last_step_at"):
        assert owner is not None, "held by a constraint"
        outcome = Outcome(
            reason="the worker died or lost the database: its lease ran out",
            last_step=None if step_at is None else step,
        )
        ending = requeue(job_id=job_id, owner=owner, ending=Ending.CUT_OFF, outcome=outcome, lease_over=True, now=now)
        if ending is not None:
            log.warning("job %s: lease over, now %s", job_id, ending)
            reaped += 1
    return reaped


def fail_dependents(now: Moment = DATABASE_TIME) -> int:
    """queued → failed for jobs that wait for one which failed or was cancelled. Returns how many."""
    failed = 0
    hopeless = Job.objects.filter(
        status=JobStatus.QUEUED, depends_on__status__in=(JobStatus.FAILED, JobStatus.CANCELLED)
    ).values_list("pk", "depends_on__number", "depends_on__method", "depends_on__status")
    for job_id, number, method, status in hopeless:
        reason = (
            f"depends on job {number} ({method}), which {'failed' if status == JobStatus.FAILED else 'was cancelled'}"
        )
        with transaction.atomic():
            ended = Job.objects.filter(pk=job_id, status=JobStatus.QUEUED).update(
                status=JobStatus.FAILED, reason=reason, ended_at=now
            )
            if ended:
                _tell(job_id)
        failed += ended
    return failed


def nudge_stale(now: Moment = DATABASE_TIME) -> int:
    """Nudge again what could start, was nudged long ago, and still waits: the message was lost, or came too early."""
    long_ago = Q(nudged_at__lt=now - timedelta(seconds=STALE_NUDGE_SECONDS))
    too_early = Q(nudged_at__lt=F("not_before_at"))
    return _nudge_all(claimable(now=now).filter(Q(nudged_at=None) | long_ago | too_early), now=now)


def nudge_waiting(now: Moment = DATABASE_TIME) -> int:
    """Nudge all that could start, for a worker that has just come up."""
    return _nudge_all(claimable(now=now), now=now)


def _nudge_all(jobs: QuerySet[Job], *, now: Moment) -> int:
    waiting = list(jobs.order_by("-priority", "id").values_list("pk", "queue")[:_NUDGES_A_ROUND])
    sent = 0
    for job_id, queue in waiting:
        if not nudge(job_id=job_id, queue=queue, now=now):
            break  # each try may take seconds, and the reaper must not wait for the broker
        sent += 1
    return sent


def phase(job: Job, now: datetime) -> Phase | None:
    """What the screen adds to *running*."""
    if job.status != JobStatus.RUNNING:
        return None
    if job.lease_expires_at is not None and job.lease_expires_at < now:
        return Phase.STALLED
    if job.cancel_requested_at is not None:
        return Phase.STOPPING
    return Phase.STARTING if job.last_step_at is None else None
