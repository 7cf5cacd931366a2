"""Jobs for tests, and a runner with the toy engine in a thread."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import connection
from django.db.backends.utils import CursorWrapper
from django.utils import timezone

from annotation.models import Project
from tests import builders
from training import jobs, runner
from training.jobs import Claim
from training.models import Job, JobStatus, ModelKind, ModelSource, ModelVersion, RunMetric, Snapshot
from training.runner import Hooks, Timing

TOY = Path(__file__).with_name("toy_engine.py")
TIMING = Timing(
    lease_seconds=2.0, heartbeat_seconds=0.2, poll_seconds=0.02, ingest_seconds=0.1, stop_seconds=5, hang_seconds=30
)
CONFIG = {"method": "reward", "optim": {"learning_rate": 1e-4}}


def project() -> Project:
    return Project.objects.filter(slug="helpful").first() or builders.project()


def submit(**fields: Any) -> Job:
    """A queued job of the method `reward`, or what the fields say."""
    values = {"project": project(), "method": "reward", "config": CONFIG, "by": None, "now": builders.NOW} | fields
    return jobs.submit(**values)


def claim(**fields: Any) -> Claim | None:
    return jobs.claim(**({"queue": "gpu", "host": "here", "lease_seconds": 60, "now": builders.NOW} | fields))


def model(name: str = "base") -> ModelVersion:
    return ModelVersion.objects.create(
        project=None, name=name, kind=ModelKind.POLICY, source=ModelSource.LOCAL, path=name, sha256="0" * 64
    )


def snapshot() -> Snapshot:
    owner = project()
    return Snapshot.objects.create(
        project=owner,
        number=1,
        content_hash="1" * 64,
        path="s1",
        counts={},
        label_policy={},
        split={},
        created_by=owner.created_by,
    )


def toy_hooks(
    toy: dict[str, Any],
    *,
    completions: Callable[[Job, list[dict[str, Any]]], object] = lambda job, lines: None,
    register: Callable[..., object] = lambda job, run, directory: None,
) -> Hooks:
    """Hooks that start the toy engine with these instructions."""
    return Hooks(
        build_request=lambda job, directory: {"toy": toy},
        command=toy_command,
        ingest_completions=completions,
        register_result=register,
    )


def toy_command(job: Job, directory: Path, resume: Path | None, lease_seconds: float) -> Sequence[str]:
    command = [sys.executable, str(TOY), job.method, str(directory / "request.json"), "--out", str(directory)]
    command += ["--supervised", "--lease", str(lease_seconds)]
    return command if resume is None else [*command, "--resume", str(resume)]


class Runner:
    """One attempt in a thread, as a worker's slot runs it. `status` is what became of the job, once it has ended."""

    def __init__(self, hooks: Hooks, *, timing: Timing = TIMING, claim: Claim | None = None) -> None:
        self.stop = threading.Event()
        self.database_is_away = threading.Event()
        self.said: list[str] = []
        self.status: JobStatus | None = None
        self.claim = claim or jobs.claim(queue="gpu", host="here", lease_seconds=timing.lease_seconds)
        assert self.claim is not None, "nothing to claim"
        self._hooks, self._timing = hooks, timing
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            with connection.execute_wrapper(self._maybe_away):
                self.status = runner.run_claimed(
                    self.claim,
                    hooks=self._hooks,
                    timing=self._timing,
                    runs_dir=settings.RUNS_DIR,
                    threads=1,
                    stop_event=self.stop,
                    say=self.said.append,
                )
        finally:
            connection.close()

    def _maybe_away(self, execute: Any, sql: str, params: Any, many: bool, context: dict[str, CursorWrapper]) -> Any:
        if self.database_is_away.is_set():
            from django.db import OperationalError

            raise OperationalError("the server closed the connection")
        return execute(sql, params, many, context)

    def join(self) -> JobStatus | None:
        self._thread.join(300)  # a real engine on a busy machine takes its time to start
        assert not self._thread.is_alive(), "the runner does not end"
        return self.status


def run(job: Job, toy: dict[str, Any], *, timing: Timing = TIMING, **hooks: Any) -> JobStatus | None:
    """Claim the job, whatever its back-off, and run one attempt to its end."""
    Job.objects.filter(pk=job.pk).update(not_before_at=None)
    claimed = jobs.claim(queue="gpu", host="here", lease_seconds=timing.lease_seconds, job_id=job.pk)
    status = Runner(toy_hooks(toy, **hooks), timing=timing, claim=claimed).join()
    job.refresh_from_db()
    return status


def until(condition: Callable[[], Any], *, seconds: float = 60.0) -> Any:
    """Wait until it holds; the value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
    return value


def reached(job: Job, step: int) -> None:
    """Wait until the job's row says this step."""
    until(lambda: Job.objects.filter(pk=job.pk, last_step__gte=step).exists())


def curve(job: Job) -> dict[int, float]:
    """step → loss, each step from its latest run that has it, as the screen shows it; fails on a doubled line."""
    values: dict[int, float] = {}
    for attempt in job.runs.order_by("attempt"):
        rows = list(RunMetric.objects.filter(run=attempt).order_by("seq"))
        assert [row.seq for row in rows] == list(range(1, len(rows) + 1))
        steps = [row.step for row in rows]
        assert steps == sorted(set(steps)), "a step twice in one run"
        values |= {row.step: row.values["train/loss"] for row in rows}
    return values


def now() -> Any:
    return timezone.now()
