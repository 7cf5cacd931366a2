"""How alike the completions of a snapshot's pairs are to a policy, as the newest `evaluate` job that asked has found.

The figures are the engine's (`engine.similarity`), kept in the run's result; the texts are the snapshot's own lines, so
what was erased since is not shown. Nothing is stored here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from training.models import Job, JobStatus, Run, Snapshot
from training.snapshot_contents import records

MOST_SHOWN = 20
"""Pairs of the highest similarity that are shown; the engine names some more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What a job has found.

    Attributes:
        part: of the snapshot. pairs: how many were measured; `too_long` were left out.
        deciles: as `engine.similarity.summary`. highest: its pairs with their texts, highest first, and the public id
            of the comparison that each came from, where it came from one.
    """

    job: Job
    part: str
    measured_at: datetime
    pairs: int
    too_long: int
    deciles: list[dict[str, Any]]
    highest: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class SnapshotSimilarity:
    """The newest job that measures it, whatever has become of it, and what the newest that succeeded has found."""

    latest: Job | None
    measured: Measured | None


def similarity_of(snapshot: Snapshot) -> SnapshotSimilarity:
    """Three queries at most.

    Raises:
        SnapshotUnreadable: it was measured, and its files cannot be read.
    """
    jobs = (
        Job.objects.filter(snapshot=snapshot, method="evaluate", config__evaluate__similarity=True)
        .select_related("model")
        .order_by("-pk")
    )
    latest = jobs.first()
    if latest is None:
        return SnapshotSimilarity(latest=None, measured=None)
    done = latest if latest.status == JobStatus.SUCCEEDED else jobs.filter(status=JobStatus.SUCCEEDED).first()
    return SnapshotSimilarity(latest=latest, measured=None if done is None else _measured(snapshot, done))


def _measured(snapshot: Snapshot, job: Job) -> Measured | None:
    run = Run.objects.filter(job=job, result__isnull=False).order_by("-attempt").first()
    if run is None or run.result is None or run.ended_at is None:
        return None
    found, part = run.result["similarity"], job.config["data"]["part"]
    return Measured(
        job=job,
        part=part,
        measured_at=run.ended_at,
        pairs=found["pairs"],
        too_long=int(run.result["metrics"]["data/dropped_too_long"]),
        deciles=found["deciles"],
        highest=_with_texts(snapshot, part, found["highest"])[:MOST_SHOWN],
    )


def _with_texts(snapshot: Snapshot, part: str, pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The pairs whose lines are still there, in their order."""
    wanted = {pair["id"] for pair in pairs}
    lines = {line["id"]: line for line in records(snapshot, part=part) if line["id"] in wanted}
    return [
        {
            **pair,
            "comparison": lines[pair["id"]].get("meta", {}).get("comparison"),
            "prompt": lines[pair["id"]]["prompt"],
            "chosen": lines[pair["id"]]["chosen"],
            "rejected": lines[pair["id"]]["rejected"],
        }
        for pair in pairs
        if pair["id"] in lines
    ]
