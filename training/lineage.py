"""From a person's votes to every snapshot, job and model that used them, and from a model back to the people.

What a snapshot used is read from its own lines: they never change, whatever happens to consensus and people since.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Q

from annotation.models import Comparison, Membership, Project, Purpose, Slot, User
from training.engine.records import iter_lines
from training.models import Job, ModelVersion, Run, Snapshot
from training.snapshots import snapshot_path
from training.splits import PARTS

BATCH = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class Used:
    """A snapshot that holds comparisons with a person's counted votes, and how many."""

    snapshot: Snapshot
    comparisons: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Reach:
    """What came of a person's votes: snapshots, then the jobs that trained on them or on what they made, and models."""

    snapshots: list[Used]
    jobs: list[Job]
    runs: int
    models: list[ModelVersion]


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """What a model was made of: the jobs and models behind it, nearest first, and the people behind its snapshots."""

    jobs: list[Job]
    models: list[ModelVersion]
    snapshots: list[Snapshot]
    comparisons: int
    people: int


def reach(project: Project, user: User) -> Reach:
    """Which snapshots used a person's votes, and what was made of those. Reads the snapshots' lines."""
    voted = _voted(project, user)
    pseudonyms = set(Membership.objects.filter(project=project, user=user).values_list("pseudonym", flat=True))
    used = []
    for snapshot in Snapshot.objects.filter(project=project).order_by("number"):
        if pseudonyms & set(snapshot.label_policy.get("excluded_annotators", ())):
            continue  # their votes had been left out
        held = {pk for pk in comparisons_in(snapshot) if pk in voted and voted[pk] <= snapshot.created_at}
        if held:
            used.append(Used(snapshot=snapshot, comparisons=len(held)))
    jobs, models = _forward(item.snapshot for item in used)
    return Reach(snapshots=used, jobs=jobs, runs=Run.objects.filter(job__in=jobs).count(), models=models)


def _voted(project: Project, user: User) -> dict[str, datetime]:
    """Comparisons where a vote of the person counts, with its time. Slots of what is frozen stay as they were."""
    slots = Slot.objects.filter(
        project=project, vote__annotator=user, vote__purpose=Purpose.WANTED, comparison__frozen_at__isnull=False
    )
    rows = slots.values_list("comparison__public_id", "vote__created_at")
    return {str(public_id): created_at for public_id, created_at in rows}


def comparisons_in(snapshot: Snapshot) -> Iterator[str]:
    """Public ids of the comparisons that a snapshot's lines come from; one may come several times."""
    directory = snapshot_path(snapshot)
    for part in PARTS:
        for line in iter_lines(directory, part):
            yield line["meta"]["comparison"]


def _forward(snapshots: Iterable[Snapshot]) -> tuple[list[Job], list[ModelVersion]]:
    """Jobs on these snapshots, models from them, jobs on those, and so on; a query each for every generation."""
    wanted = [item.pk for item in snapshots]
    jobs: dict[int, Job] = {}
    models: dict[int, ModelVersion] = {}
    while True:
        made = Q(snapshot__in=wanted) | Q(model__in=models) | Q(checkpoint__run__job__in=jobs)
        fresh_jobs = {row.pk: row for row in Job.objects.filter(made).exclude(pk__in=jobs).distinct()}
        jobs |= fresh_jobs
        derived = Q(checkpoint__run__job__in=jobs) | Q(base__in=models)
        fresh_models = {row.pk: row for row in ModelVersion.objects.filter(derived).exclude(pk__in=models).distinct()}
        models |= fresh_models
        if not fresh_jobs and not fresh_models:
            return [jobs[pk] for pk in sorted(jobs)], [models[pk] for pk in sorted(models)]


def origin(model: ModelVersion) -> Origin:
    """What a model was made of. Reads the lines of the snapshots behind it."""
    jobs: dict[int, Job] = {}
    models: dict[int, ModelVersion] = {}
    snapshots: dict[int, Snapshot] = {}
    waiting = [model]
    while waiting:
        current = waiting.pop(0)
        job = None if current.checkpoint is None else current.checkpoint.run.job
        behind = [current.base]
        while job is not None and job.pk not in jobs:
            jobs[job.pk] = job
            if job.snapshot is not None:
                snapshots[job.snapshot.pk] = job.snapshot
            behind.append(job.model)
            job = None if job.checkpoint is None else job.checkpoint.run.job
        for item in behind:
            if item is not None and item.pk not in models and item.pk != model.pk:
                models[item.pk] = item
                waiting.append(item)
    comparisons, people = _behind(snapshots.values())
    return Origin(
        jobs=list(jobs.values()),
        models=list(models.values()),
        snapshots=sorted(snapshots.values(), key=lambda item: item.number),
        comparisons=comparisons,
        people=people,
    )


def _behind(snapshots: Iterable[Snapshot]) -> tuple[int, int]:
    """Comparisons in these snapshots, and people whose votes on them counted when they were frozen."""
    comparisons: set[str] = set()
    people: set[int] = set()
    for snapshot in snapshots:
        held = sorted(set(comparisons_in(snapshot)))
        comparisons.update(held)
        left_out = Membership.objects.filter(
            project_id=snapshot.project_id, pseudonym__in=snapshot.label_policy.get("excluded_annotators", ())
        ).values("user_id")
        for start in range(0, len(held), BATCH):
            ids = Comparison.objects.filter(public_id__in=held[start : start + BATCH]).values("pk")
            slots = Slot.objects.filter(comparison_id__in=ids, vote__created_at__lte=snapshot.created_at)
            people.update(
                slots.exclude(vote__annotator_id__in=left_out).values_list("vote__annotator_id", flat=True).distinct()
            )
    return len(comparisons), len(people)
