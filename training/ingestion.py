"""Turns the files of a running attempt into rows, as they grow, each line once and each write guarded by the lease.

How far a file has been stored is the byte offset in its last row, so that a worker that dies neither loses nor doubles
a line: the next attempt takes over what is left. Knows no process and no lease of its own; `training.runner` calls.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.db import transaction
from django.db.models import Max
from django.utils import timezone

from training import alarms, attempts, jobs
from training.jobs import Claim
from training.models import Checkpoint, Job, Run, RunMetric, RunSample

BATCH_LINES = 500
COMPLETION_LINES = 100
_BATCH_PAUSE_SECONDS = 0.05  # lets the voters' transactions in between two batches of rows
_STEPS_TIMED = 101  # the median of so many steps is the present speed
_MOST_STEP = 2**31 - 1  # of the database's integer

log = logging.getLogger(__name__)


class LeaseLost(Exception):
    """The job belongs to somebody else, or is over. Kill the child, write nothing."""


@dataclass(kw_only=True, slots=True)
class _Cursor:
    """How far the files of a run are in rows."""

    run_id: int
    directory: Path
    metrics_offset: int = 0
    metrics_seq: int = 0
    samples_offset: int = 0
    samples_seq: int = 0


class Ingestion:
    """The files of one attempt. `step` is its last step (0: none yet), `progress_at` its last sign of progress."""

    def __init__(
        self,
        claim: Claim,
        *,
        job: Job,
        runs_dir: Path,
        keep_alive: Callable[[], object],
        store_completions: Callable[[Job, list[dict[str, Any]]], object],
        say: Callable[[str], object],
    ) -> None:
        """`keep_alive` is called between batches, since a long backlog must not outlast the lease."""
        self.step = 0
        self.progress_at = time.monotonic()
        self._claim = claim
        self._job = job
        self._runs_dir = runs_dir
        self._keep_alive = keep_alive
        self._store_completions = store_completions
        self._say = say
        self._directory = attempts.attempt_directory(runs_dir, job.public_id, claim.attempt)
        self._cursor = _Cursor(run_id=claim.run_id, directory=self._directory)
        self._completions_offset = 0
        self._stored_step = 0
        self._status: Mapping[str, Any] = {}
        self._status_stamp = 0
        self._step_seconds: deque[float] = deque(maxlen=_STEPS_TIMED)
        self._step_time: float | None = None
        self._checkpoints: dict[int, int] = {}  # step → row, of those whose files are there

    @property
    def median_step_seconds(self) -> float:
        """0 before two steps were seen."""
        return statistics.median(self._step_seconds) if self._step_seconds else 0.0

    def read(self) -> None:
        """Store everything that is new. After a DatabaseError call it again: nothing is skipped or doubled.

        Raises:
            LeaseLost: nothing more was stored.
        """
        self._read_status()
        while self._read_lines(self._cursor):
            self._keep_alive()
            time.sleep(_BATCH_PAUSE_SECONDS)
        self._read_checkpoints()
        while self._read_completions():
            self._keep_alive()

    def take_over(self, number: int, directory: Path) -> None:
        """Store the lines that an earlier attempt wrote and its worker did not live to store."""
        run_id = Run.objects.filter(job=self._job, attempt=number).values_list("pk", flat=True).first()
        if run_id is None:
            return
        metrics = RunMetric.objects.filter(run=run_id).aggregate(offset=Max("offset"), seq=Max("seq"))
        samples = RunSample.objects.filter(run=run_id).aggregate(offset=Max("offset"), seq=Max("seq"))
        cursor = _Cursor(
            run_id=run_id,
            directory=directory,
            metrics_offset=metrics["offset"] or 0,
            metrics_seq=metrics["seq"] or 0,
            samples_offset=samples["offset"] or 0,
            samples_seq=samples["seq"] or 0,
        )
        while self._read_lines(cursor):
            self._keep_alive()

    def record_checkpoint(self, run_id: int, found: attempts.CheckpointFiles) -> Checkpoint:
        """The row of a checkpoint of this job."""
        row = jobs.record_checkpoint(
            self._claim,
            run_id=run_id,
            step=found.step,
            path=found.directory.relative_to(self._runs_dir).as_posix(),
            sha256=found.sha256,
            size_bytes=found.size_bytes,
        )
        if row is None:
            raise LeaseLost
        return row

    def require_lease(self) -> None:
        """Before something is done outside the job's rows.

        Raises:
            LeaseLost: the job is no longer ours.
        """
        self._store()

    def _store(self, **values: Any) -> None:
        step = self.step if self.step != self._stored_step else None
        with transaction.atomic():  # a line that rings is stored with its alarm, or not at all
            if not jobs.record_progress(self._claim, step=step, **values):
                raise LeaseLost
            alarms.take(rows=values.get("metrics", ()), now=timezone.now())
        self._stored_step = self.step

    def _read_status(self) -> None:
        """`status.json` is the sign of life in long phases: the child's main thread writes it, and cannot if stuck."""
        file = self._directory / "status.json"
        try:
            stamp = file.stat().st_mtime_ns
        except FileNotFoundError:
            return
        if stamp == self._status_stamp or (said := attempts.read_object(file)) is None:
            return
        self._status_stamp = stamp
        self.progress_at = time.monotonic()
        if said.get("phase") != self._status.get("phase"):
            self._say(str(said.get("phase")))
        self._status = said
        self._note_step(said.get("step"))
        progress = {name: said.get(name) for name in ("phase", "tokens_per_second", "eta_seconds")}
        self._store(steps=_step(said.get("steps")), progress=progress)

    def _note_step(self, value: object) -> None:
        step = _step(value)
        if step is not None and step > self.step:
            self.step = step
            self.progress_at = time.monotonic()
            steps = self._status.get("steps")
            self._say(f"step {step}" if steps is None else f"step {step} of {steps}")

    def _read_lines(self, cursor: _Cursor) -> bool:
        """Store at most a batch of lines of metrics and of samples; whether there may be more."""
        metrics_file, samples_file = cursor.directory / "metrics.jsonl", cursor.directory / "samples.jsonl"
        metric_lines = attempts.read_lines(metrics_file, offset=cursor.metrics_offset, limit=BATCH_LINES)
        sample_lines = attempts.read_lines(samples_file, offset=cursor.samples_offset, limit=BATCH_LINES)
        if not metric_lines and not sample_lines:
            return False
        metrics = [row for line in metric_lines if (row := _metric(line, cursor.run_id)) is not None]
        samples = [made for line in sample_lines if (made := _sample(line, cursor.run_id)) is not None]
        for offset, metric in enumerate(metrics, start=1):
            metric.seq = cursor.metrics_seq + offset
        for offset, sample in enumerate(samples, start=1):
            sample.seq = cursor.samples_seq + offset
        if cursor is self._cursor and metrics:
            self._note_step(metrics[-1].step)
        self._store(metrics=metrics, samples=samples)
        if cursor is self._cursor:
            self._time_steps(metrics)
        cursor.metrics_seq += len(metrics)
        cursor.samples_seq += len(samples)
        cursor.metrics_offset = metric_lines[-1].end if metric_lines else cursor.metrics_offset
        cursor.samples_offset = sample_lines[-1].end if sample_lines else cursor.samples_offset
        return len(metric_lines) == BATCH_LINES or len(sample_lines) == BATCH_LINES

    def _time_steps(self, metrics: Sequence[RunMetric]) -> None:
        for metric in metrics:
            if self._step_time is not None and metric.time > self._step_time:
                self._step_seconds.append(metric.time - self._step_time)
            self._step_time = metric.time

    def _read_checkpoints(self) -> None:
        there = {found.step: found for found in attempts.checkpoints(self._directory)}
        for step, found in there.items():
            if step not in self._checkpoints:
                self._checkpoints[step] = self.record_checkpoint(self._claim.run_id, found).pk
                self._say(f"checkpoint of step {step}")
        gone = [step for step in self._checkpoints if step not in there]
        if gone:
            jobs.record_pruned(self._claim, [self._checkpoints[step] for step in gone])
        for step in gone:
            del self._checkpoints[step]

    def _read_completions(self) -> bool:
        file = self._directory / "completions.jsonl"
        lines = attempts.read_lines(file, offset=self._completions_offset, limit=COMPLETION_LINES)
        if not lines:
            return False
        self.require_lease()
        records = [line.record for line in lines if line.record is not None]
        if records:
            self._store_completions(self._job, records)
        self._completions_offset = lines[-1].end
        return len(lines) == COMPLETION_LINES


def _step(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_STEP else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _metric(line: attempts.Line, run_id: int) -> RunMetric | None:
    """The row of a line; None, with a warning, for a line that is none."""
    record = line.record or {}
    step, moment = _step(record.get("step")), _number(record.get("time"))
    if step is None or moment is None:
        log.warning("run %s: the line of metrics that ends at byte %s is not one", run_id, line.end)
        return None
    values = {key: value for key, value in record.items() if key not in ("step", "time") and _number(value) is not None}
    return RunMetric(run_id=run_id, step=step, time=moment, values=values, offset=line.end)


def _sample(line: attempts.Line, run_id: int) -> RunSample | None:
    record = line.record or {}
    step = _step(record.get("step"))
    if step is None:
        log.warning("run %s: the line of samples that ends at byte %s is not one", run_id, line.end)
        return None
    body = {name: value for name, value in record.items() if name != "step"}
    return RunSample(run_id=run_id, step=step, body=body, offset=line.end)
