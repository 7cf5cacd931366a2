"""The checker of the fault programme: what rows and files say of jobs that were struck, beside the undisturbed.

It reads by SQL and from the disk, and knows nothing of the code that wrote either. All findings must be 0.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

Query = Callable[..., list[tuple[Any, ...]]]
CLOCKED = ("time", "speed", "memory")
"""Groups of metrics that a clock or the machine decides; all others must be equal."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One attempt: `lines` are (seq, step, values) of its metrics, `result` the engine's result.json if any."""

    number: int
    closed: bool
    result: Mapping[str, Any] | None
    lines: Sequence[tuple[int, int, Mapping[str, float]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What is known of a job in the end; `weights` is a hash of its final weights, empty if there are none."""

    job: int
    name: str
    status: str
    reason: str
    ends_told: int
    attempts: Sequence[Attempt]
    weights: str


@dataclass(kw_only=True, slots=True)
class Findings:
    """All must be 0."""

    jobs_not_succeeded: int = 0
    jobs_not_ended_once: int = 0
    runs_left_open: int = 0
    metric_steps_lost: int = 0
    metric_steps_doubled: int = 0
    metric_values_unequal: int = 0
    weights_unequal: int = 0

    @property
    def counts(self) -> dict[str, int]:
        return {item.name: getattr(self, item.name) for item in fields(self)}


def read(query: Query, *, runs_dir: Path, job: int, name: str) -> Facts:
    """The facts of one job, from PostgreSQL and its directory."""
    ((public_id, status, reason),) = query("SELECT public_id, status, reason FROM training_job WHERE id = %s", job)
    told = query(
        "SELECT count(*) FROM annotation_delivery WHERE event = 'job.finished' AND body->'data'->>'job' = %s",
        str(public_id),
    )[0][0]
    attempts = [
        Attempt(
            number=number,
            closed=ended_at is not None,
            result=result,
            lines=query('SELECT seq, step, "values" FROM training_runmetric WHERE run_id = %s ORDER BY seq', run),
        )
        for run, number, ended_at, result in query(
            "SELECT id, attempt, ended_at, result FROM training_run WHERE job_id = %s ORDER BY attempt", job
        )
    ]
    return Facts(
        job=job,
        name=name,
        status=status,
        reason=reason,
        ends_told=told,
        attempts=attempts,
        weights=final_weights(runs_dir / str(public_id), attempts),
    )


def final_weights(directory: Path, attempts: Sequence[Attempt]) -> str:
    """The hash of the weights in the checkpoint that the last attempt calls its last; empty if there is none."""
    if not attempts or not attempts[-1].result:
        return ""
    last = (attempts[-1].result.get("checkpoints") or {}).get("last") or {}
    if not isinstance(last.get("path"), str):
        return ""
    place = Path(os.path.normpath(directory / str(attempts[-1].number) / last["path"]))
    return weights_hash(place)


def weights_hash(checkpoint: Path) -> str:
    """One hash over all weights of a checkpoint, by name; the optimizer's state is left out. Empty without any."""
    digest = hashlib.sha256()
    files = [file for file in sorted(checkpoint.rglob("*.safetensors")) if file.name != "state.safetensors"]
    for file in files:
        digest.update(file.relative_to(checkpoint).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest() if files else ""


def curve(facts: Facts) -> dict[int, dict[str, float]]:
    """step → values, each step from the latest attempt that has it, as the screen shows it, less what a clock says."""
    values: dict[int, dict[str, float]] = {}
    for attempt in facts.attempts:
        for _, step, line in attempt.lines:
            values[step] = {name: value for name, value in line.items() if name.partition("/")[0] not in CLOCKED}
    return values


def check(struck: Sequence[Facts], undisturbed: Mapping[str, Facts], *, say: Callable[[str], None]) -> Findings:
    """Compare each job with the undisturbed one of its name. `say` is told every fault."""
    found = Findings()
    for facts in struck:
        one = _check_one(facts, undisturbed[facts.name], say=say)
        for name, count in one.counts.items():
            setattr(found, name, getattr(found, name) + count)
    return found


def _check_one(facts: Facts, undisturbed: Facts, *, say: Callable[[str], None]) -> Findings:
    found = Findings()

    def fault(what: str, count: int = 1) -> int:
        if count:
            say(f"job {facts.job} ({facts.name}): {what}")
        return count

    if facts.status != "succeeded":
        found.jobs_not_succeeded += fault(f"{facts.status}: {facts.reason}")
    done = sum((attempt.result or {}).get("status") == "done" for attempt in facts.attempts)
    if (facts.ends_told, done) != (1, 1):
        found.jobs_not_ended_once += fault(f"{facts.ends_told} ends told, {done} attempts with an end")
    open_runs = [attempt.number for attempt in facts.attempts if not attempt.closed]
    found.runs_left_open += fault(f"attempts left open: {open_runs}", len(open_runs))
    for attempt in facts.attempts:
        doubled = [step for step, n in Counter(step for _, step, _ in attempt.lines).items() if n > 1]
        found.metric_steps_doubled += fault(f"attempt {attempt.number}: steps twice: {doubled}", len(doubled))
    ours, theirs = curve(facts), curve(undisturbed)
    lost, extra = sorted(theirs.keys() - ours.keys()), sorted(ours.keys() - theirs.keys())
    found.metric_steps_lost += fault(f"steps lost: {lost}", len(lost))
    found.metric_steps_doubled += fault(f"steps that the undisturbed run has not: {extra}", len(extra))
    unequal = [step for step in sorted(ours.keys() & theirs.keys()) if ours[step] != theirs[step]]
    found.metric_values_unequal += fault(f"steps with other values: {unequal}", len(unequal))
    if not facts.weights or facts.weights != undisturbed.weights:
        found.weights_unequal += fault(f"weights {facts.weights[:12] or 'missing'}, not {undisturbed.weights[:12]}")
    return found
