"""Reads for the training screens. Each has a fixed number of queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db.models import Count, OuterRef, Prefetch, Q, QuerySet, Subquery, Sum
from django.db.models.functions import Coalesce

from annotation.models import Comparison, Completion, Project
from training.attempts import attempt_directory, error_tail
from training.forms import METHODS
from training.jobs import phase
from training.models import (
    TERMINAL,
    Alarm,
    Checkpoint,
    Job,
    JobStatus,
    ModelVersion,
    Round,
    Run,
    RunMetric,
    RunSample,
    Snapshot,
    SnapshotErasure,
)
from training.rounds import completions_of_prompt

MOST_LINES = 400


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundProgress:
    """How far a round is. `failed` completions will not come: their prompt is too long for a policy's context.

    Completions that came out the same, or empty, make no comparison.
    """

    completions_wanted: int
    completions_done: int
    failed: int
    comparisons: int
    rate_per_minute: float | None
    eta_seconds: float | None


def jobs(project: Project) -> QuerySet[Job]:
    """Jobs with what a row or a page of them shows."""
    runs = Run.objects.order_by("attempt")
    checkpoints = Checkpoint.objects.order_by("step", "pk").prefetch_related("promoted")
    raised = Alarm.objects.filter(job=OuterRef("pk"), acknowledged_at=None).order_by()
    alarms = raised.values("job").annotate(n=Count("pk")).values("n")
    return (
        Job.objects.filter(project=project)
        .select_related("snapshot", "model", "checkpoint__run__job", "round", "created_by", "clone_of")
        .prefetch_related(
            Prefetch("runs", queryset=runs), Prefetch("runs__checkpoints", queryset=checkpoints), "depends_on"
        )
        .annotate(open_alarms=Coalesce(Subquery(alarms), 0))
    )


def latest_metrics(job: Job) -> dict[str, float]:
    """Final metrics of the last finished attempt; while it runs, the last value of each. One query at most."""
    attempts: Sequence[Run] = list(job.runs.all())
    for run in reversed(attempts):
        if run.result and run.result.get("metrics"):
            return dict(run.result["metrics"])
    values: dict[str, float] = {}
    if attempts:
        rows = RunMetric.objects.filter(run=attempts[-1]).order_by("-seq").values_list("values", flat=True)[:50]
        for row in reversed(list(rows)):
            values |= row
    return values


def produced(job: Job) -> list[ModelVersion]:
    """Models that came out of the job: promoted from its checkpoints, or made by this very promotion."""
    rows = ModelVersion.objects.filter(project=job.project).select_related("base").order_by("pk")
    if job.method == "convert":
        return list(rows.filter(checkpoint=job.checkpoint, name=job.config["name"]))
    return list(rows.filter(checkpoint__run__job=job))


def abilities(job: Job) -> dict[str, bool]:
    """What a manager may ask of the job now."""
    checkpoints = [item for run in job.runs.all() for item in run.checkpoints.all()]
    return {
        "stop": job.status in {JobStatus.QUEUED, JobStatus.RUNNING} and job.cancel_requested_at is None,
        "retry": job.status in {JobStatus.FAILED, JobStatus.CANCELLED},
        "promote": job.method in METHODS
        and METHODS[job.method].trains
        and any(item.files_pruned_at is None for item in checkpoints),
    }


def best_checkpoint(job: Job) -> Checkpoint | None:
    """The newest checkpoint whose files are there; one marked best goes before."""
    rows = Checkpoint.objects.filter(run__job=job, files_pruned_at=None)
    if job.status == JobStatus.SUCCEEDED:
        return rows.order_by("-step", "-pk").first()
    return rows.order_by("-is_best", "-step", "-pk").first()


def metrics_after(job: Job, *, after: int, limit: int) -> list[RunMetric]:
    """Metric lines by cursor. A step that comes again, from a later attempt, replaces the earlier one."""
    return list(RunMetric.objects.filter(run__job=job, pk__gt=after).order_by("pk")[:limit])


def samples_after(job: Job, *, after: int, limit: int) -> list[RunSample]:
    """Sample lines by cursor."""
    return list(RunSample.objects.filter(run__job=job, pk__gt=after).order_by("pk")[:limit])


def is_terminal(job: Job) -> bool:
    return job.status in TERMINAL


def log_lines(job: Job) -> list[str]:
    """The end of the last attempt's standard error: from its file while it is there, else from the run's row."""
    run = job.runs.order_by("-attempt").first()
    if run is None:
        return []
    text = error_tail(attempt_directory(Path(settings.RUNS_DIR), job.public_id, run.attempt)) or run.error_tail
    return text.splitlines()[-MOST_LINES:]


def failure_tail(job: Job) -> str | None:
    """The stored end of standard error of the last attempt that failed."""
    for run in reversed(list(job.runs.all())):
        if run.error_tail and job.status == JobStatus.FAILED:
            return run.error_tail
    return None


def job_phase(job: Job, *, now: datetime) -> str | None:
    """*starting*, *stalled* or *stopping*, where it applies."""
    found = phase(job, now)
    return None if found is None else found.value


def rounds(project: Project) -> QuerySet[Round]:
    """Rounds with their jobs and policies, without those that answer a chat."""
    return (
        Round.objects.filter(project=project, turn=None)
        .select_related("job", "opened_for")
        .prefetch_related("round_policies__model")
    )


def rounds_progress(rounds: Sequence[Round], *, now: datetime) -> dict[int, RoundProgress]:
    """By primary key, counted from the rows that there are; two queries for any number of rounds."""
    origins = [made.public_id for made in rounds]
    recent = Count("pk", filter=Q(created_at__gte=now - timedelta(minutes=2)))
    written = Completion.objects.filter(origin__in=origins).values("origin").annotate(n=Count("pk"), recent=recent)
    completions = {row["origin"]: (row["n"], row["recent"]) for row in written}
    paired = Comparison.objects.filter(origin__in=origins).values("origin").annotate(n=Count("pk"))
    comparisons = {row["origin"]: row["n"] for row in paired}
    return {
        made.pk: _round_progress(
            made, *completions.get(made.public_id, (0, 0)), comparisons=comparisons.get(made.public_id, 0), now=now
        )
        for made in rounds
    }


def _round_progress(made: Round, done: int, recent: int, *, comparisons: int, now: datetime) -> RoundProgress:
    wanted = made.prompts * completions_of_prompt(made, made.round_policies.all())
    started = made.job.started_at
    minutes = min(2.0, (now - started).total_seconds() / 60) if started else 0
    running = made.job.status == JobStatus.RUNNING
    rate = recent / minutes if running and recent and minutes > 0 else None
    return RoundProgress(
        completions_wanted=wanted,
        completions_done=done,
        failed=wanted - done if made.job.status == JobStatus.SUCCEEDED else 0,
        comparisons=comparisons,
        rate_per_minute=rate,
        eta_seconds=60 * (wanted - done) / rate if rate else None,
    )


def abilities_of_round(made: Round) -> dict[str, bool]:
    """What a manager may ask of the round now: its job is stopped, or goes on from the completions that are there."""
    job = made.job
    return {
        "stop": job.status in {JobStatus.QUEUED, JobStatus.RUNNING} and job.cancel_requested_at is None,
        "go_on": job.status in {JobStatus.FAILED, JobStatus.CANCELLED},
    }


def snapshots(project: Project) -> QuerySet[Snapshot]:
    """Snapshots with how many jobs use each, and how many of its lines were erased."""
    gone = SnapshotErasure.objects.filter(snapshot=OuterRef("pk")).order_by().values("snapshot")
    erased = Coalesce(Subquery(gone.annotate(n=Sum("lines")).values("n")), 0)
    rows = Snapshot.objects.filter(project=project).select_related("created_by")
    return rows.annotate(n_jobs=Count("jobs"), n_erased=erased)


def lineage(model: ModelVersion) -> dict[str, Any]:
    """Where a model came from: its job, snapshot and step (public ids), None for a base model."""
    checkpoint = model.checkpoint
    if checkpoint is None:
        return {"job": None, "snapshot": None, "step": None}
    job = checkpoint.run.job
    return {
        "job": job.public_id,
        "snapshot": job.snapshot.public_id if job.snapshot else None,
        "step": checkpoint.step,
    }


def checkpoint_of(job: Job, public_id: UUID) -> Checkpoint | None:
    """A checkpoint of the job whose files are there."""
    return Checkpoint.objects.filter(run__job=job, public_id=public_id, files_pruned_at=None).first()
