"""Supervises one attempt at a job: starts the engine as a child, and keeps it and the lease alive.

The child knows no database, and this process loads no weights. Whatever happens to either, the other ends: a child that
is not fed kills itself, and a runner that has lost its lease kills the child and writes nothing more. How an attempt
ended is read from `error.json`, `result.json` and the exit code (`training.endings`), and passed to `training.jobs`,
which alone decides what becomes of the job. While the database is away the end of an attempt waits for it.

The module is long because an attempt is one story, told from claim to end in one place.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from django.conf import settings
from django.db import InterfaceError, InternalError, OperationalError, close_old_connections, connection
from django.db.models.functions import Now
from django.utils import timezone

from annotation.errors import DomainError
from annotation.redaction import redact
from training import attempts, devices, endings, evaluation, jobs, playground, processes, registry, rounds
from training import inputs as job_inputs
from training.engine.config import to_dict
from training.engine.errors import ConfigError, SnapshotError
from training.ingestion import Ingestion, LeaseLost
from training.jobs import Claim, Ending, Order, Outcome
from training.models import Checkpoint, Job, JobStatus, PlaygroundSession, Run, Verdict
from training.playground_relay import Relay

SLOW_STEPS = 20  # so many times the median step without a new one is a hang
_COMMANDS = frozenset({"sample", "convert", "score", "judge", "evaluate", "serve"})  # every other method is for `run`
_KEPT = frozenset({"convert", "score", "judge"})  # whose result is a row, made before the job succeeds
_FINISHED = frozenset({"done", "stopped_kl", "waiting_for_labels"})
_FULL_DISK_BYTES = 2**20  # with less than that left, a child that could not even say why has met a full disk
_RESUME_FILES = {"sample": "completions.jsonl", "score": "scores.jsonl", "judge": "answers.jsonl"}
# No answer, or a standby that only reads. Other errors of the database are bugs of ours, and waiting mends none.
_AWAY = (OperationalError, InterfaceError, InternalError)

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """Seconds. The lease must outlast a restart of the database."""

    lease_seconds: float
    heartbeat_seconds: float
    poll_seconds: float = 0.2
    ingest_seconds: float = 1.0
    stop_seconds: float = 60.0
    hang_seconds: float = 600.0


class Exchange(Protocol):
    """What passes between rows and a child while it runs, beyond what every run writes."""

    def exchange(self, *, is_last: bool = False) -> None: ...


def no_exchange(claim: Claim, job: Job, directory: Path) -> Exchange | None:
    """Of a job that only writes."""
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Hooks:
    """What a job means, apart from running it: its inputs as paths, its command, what becomes of its output."""

    build_request: Callable[[Job, Path], dict[str, Any]]
    command: Callable[[Job, Path, Path | None, float], Sequence[str]]
    ingest_completions: Callable[[Job, list[dict[str, Any]]], object]
    register_result: Callable[[Job, Run, Path], object]
    open_exchange: Callable[[Claim, Job, Path], Exchange | None] = no_exchange


# --- what production does ---------------------------------------------------------------------------------------------


def production_hooks() -> Hooks:
    """The hooks of the real engine."""
    return Hooks(
        build_request=build_request,
        command=engine_command,
        ingest_completions=_ingest_completions,
        register_result=_register_result,
        open_exchange=_open_exchange,
    )


def _open_exchange(claim: Claim, job: Job, directory: Path) -> Exchange | None:
    return Relay(claim, job, directory) if PlaygroundSession.objects.filter(job=job).exists() else None


def _register_result(job: Job, run: Run, directory: Path) -> None:
    if job.method == "convert":
        registry.register_result(job, run, directory, now=timezone.now())
        shutil.rmtree(attempts.starts_directory(settings.RUNS_DIR, job.public_id), ignore_errors=True)
    elif Verdict.objects.filter(job=job).exists():
        evaluation.keep_result(job, directory)


def _ingest_completions(job: Job, lines: list[dict[str, Any]]) -> None:
    """Those of a round; what `best_of_n` has chosen is for the file."""
    if job.method == "sample":
        rounds.ingest(job, lines, now=timezone.now())


def production_timing() -> Timing:
    """Lease and heartbeat of the settings."""
    return Timing(lease_seconds=settings.JOB_LEASE_SECONDS, heartbeat_seconds=settings.JOB_HEARTBEAT_SECONDS)


def build_request(job: Job, directory: Path) -> dict[str, Any]:
    """The engine's config of a job with the paths of its inputs; writes the prompts of a sampling job to `directory`.

    Raises:
        BadConfig: the config was accepted when it was submitted, but this engine refuses it.
        ConfigError: an input that the method needs is missing.
    """
    match job.method:
        case "sample":
            prompts = directory / "prompts.jsonl"
            rounds.write_prompts(job, prompts)
            inputs: dict[str, Any] = {
                "models": {"policies": rounds.sampling_policies(job)},
                "data": {"prompts": str(prompts)},
            }
        case "convert":
            checkpoint = job_inputs.checkpoint_to_promote(job)
            kept = attempts.start_directory(settings.RUNS_DIR, job.public_id, checkpoint.step)
            source = kept if kept.is_dir() else settings.RUNS_DIR / checkpoint.path
            is_whole = (source / "model").is_dir()  # all weights are there: no adapter, and the engine takes no base
            base = None if is_whole else checkpoint.run.job.model
            inputs = {
                "models": {
                    "source": str(source),
                    "base": None if base is None else str(registry.model_path(base)),
                }
            }
        case "score" | "judge" if Verdict.objects.filter(job=job).exists():
            inputs = evaluation.write_inputs(job, directory)
        case "serve" if PlaygroundSession.objects.filter(job=job).exists():
            inputs = {"models": playground.engine_models(job)}
        case _:
            inputs = job_inputs.engine_inputs(job, directory)
    request = to_dict(jobs.checked(jobs.with_inputs(job.config, inputs)))
    job_inputs.fill_places(request)
    return request


def engine_command(job: Job, directory: Path, resume: Path | None, lease_seconds: float) -> list[str]:
    """The command line of the child; silence for as long as the lease, less a margin, ends it."""
    verb = job.method if job.method in _COMMANDS else "run"
    request = str(directory / "request.json")
    command = [sys.executable, "-m", "training.engine", verb, request, "--out", str(directory)]
    command += ["--supervised", "--lease", str(lease_seconds)]
    return command if resume is None else [*command, "--resume", str(resume)]


# --- one attempt ------------------------------------------------------------------------------------------------------


def run_claimed(
    claim: Claim,
    *,
    hooks: Hooks,
    timing: Timing,
    runs_dir: Path,
    threads: int,
    stop_event: threading.Event,
    say: Callable[[str], None] | None = None,
    device: devices.Held | None = None,
) -> JobStatus | None:
    """Run a claimed job until its attempt ends; the job is then never left as running.

    Args:
        stop_event: set when this worker shuts down: the child saves and the job goes back into the queue.
        device: the only GPU that the child sees, held as long as it lives; None: those that we see.
        say: told what happens, a line at a time, for a person who watches.

    Returns:
        What became of the job, or None if it was taken from us (its lease ran out).
    """
    job = Job.objects.select_related("project", "model", "snapshot", "checkpoint__run__job__model", "created_by").get(
        pk=claim.job_id
    )
    attempt = _Attempt(
        claim,
        job=job,
        hooks=hooks,
        timing=timing,
        runs_dir=runs_dir,
        threads=threads,
        stop_event=stop_event,
        say=say or (lambda _: None),
        device=device,
    )
    log.info("job %s (%s) attempt %s starts", job.pk, job.method, claim.attempt)
    status = attempt.run()
    log.info("job %s (%s) attempt %s ended: %s", job.pk, job.method, claim.attempt, status or "lease lost")
    return status


class _Attempt:
    """The state of one supervised attempt; `run` is the only entry."""

    def __init__(
        self,
        claim: Claim,
        *,
        job: Job,
        hooks: Hooks,
        timing: Timing,
        runs_dir: Path,
        threads: int,
        stop_event: threading.Event,
        say: Callable[[str], None],
        device: devices.Held | None,
    ) -> None:
        self._claim = claim
        self._job = job
        self._hooks = hooks
        self._timing = timing
        self._runs_dir = runs_dir
        self._threads = threads
        self._stop_event = stop_event
        self._say = say
        self._device = device
        self._directory = attempts.attempt_directory(runs_dir, job.public_id, claim.attempt)
        self._files = Ingestion(
            claim,
            job=job,
            runs_dir=runs_dir,
            keep_alive=self._keep_alive,
            store_completions=hooks.ingest_completions,
            say=say,
        )
        self._exchange: Exchange | None = None
        self._child: processes.Child | None = None
        now = time.monotonic()
        self._next_beat_at = now + timing.heartbeat_seconds
        self._next_ingest_at = now
        self._fed_at = now  # the last byte that the child was written
        self._unheard_at = now - 1  # the last heartbeat that the database did not take
        self._starved_by: str | None = None  # why the child was not fed, if it ended for that
        self._stop_sent_at: float | None = None
        self._killed_for: str | None = None  # why we killed the child, if we did
        self._memory_kills = devices.read_out_of_memory_kills()

    def run(self) -> JobStatus | None:
        try:
            self._prepare()
            code = self._supervise()
            return self._persist(lambda: self._conclude(code))
        except LeaseLost:
            log.warning("job %s attempt %s: the lease is lost, child killed", self._job.pk, self._claim.attempt)
            return None
        except (DomainError, ConfigError, SnapshotError) as error:
            self._end_child()
            return self._fail(Ending.DATA if isinstance(error, SnapshotError) else Ending.CONFIG, str(error))
        except _AWAY as error:
            log.warning("job %s attempt %s: the database went away (%s)", self._job.pk, self._claim.attempt, error)
            self._end_child()
            outcome = self._outcome(None, "the database did not answer")
            return self._persist(lambda: self._requeue(Ending.CUT_OFF, outcome))
        except Exception as error:  # a bug of ours must not leave the job running until its lease ends
            log.exception("job %s attempt %s: the runner failed", self._job.pk, self._claim.attempt)
            self._end_child()
            ending = _ending_of(error)
            outcome = self._outcome(None, f"the runner failed: {error!r}", tail=redact(traceback.format_exc()))
            return self._persist(lambda: self._requeue(ending, outcome))
        finally:
            self._end_child()
            shutil.rmtree(self._directory / "tmp", ignore_errors=True)
            attempts.sweep(self._directory)

    def _fail(self, ending: Ending, reason: str) -> JobStatus | None:
        outcome = self._outcome(None, reason)
        return self._persist(lambda: JobStatus.FAILED if jobs.fail(self._claim, outcome, ending=ending) else None)

    def _end_child(self) -> None:
        """Before the job is given away: another attempt may start at once."""
        if self._child is not None:
            self._child.kill()

    # --- before ---------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Make the directory, take over what earlier attempts left, write the request, start the child."""
        self._runs_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory.parent.mkdir(mode=0o700, exist_ok=True)
        self._directory.mkdir(mode=0o700)
        (self._directory / "tmp").mkdir(mode=0o700)
        for number, directory in attempts.earlier_attempts(
            self._runs_dir, self._job.public_id, before=self._claim.attempt
        ):
            self._files.take_over(number, directory)
        resume = self._resume()
        request = self._hooks.build_request(self._job, self._directory)
        (self._directory / "request.json").write_text(json.dumps(request, indent=1, ensure_ascii=False) + "\n")
        self._exchange = self._hooks.open_exchange(self._claim, self._job, self._directory)
        self._keep_alive()
        self._child = processes.Child(
            self._hooks.command(self._job, self._directory, resume, self._timing.lease_seconds),
            directory=self._directory,
            environment=processes.child_environment(
                directory=self._directory,
                python_path=settings.BASE_DIR,
                threads=self._threads,
                environ=os.environ,
                device=self._device.device if self._device else None,
            ),
            inherits=[self._device.fileno()] if self._device else [],
        )
        if self._device is not None:
            self._device.let_go()
        self._fed_at = self._files.progress_at = time.monotonic()
        self._say(f"attempt {self._claim.attempt} started, process {self._child.pid}")

    def _resume(self) -> Path | None:
        """What the engine resumes from: the newest of our own that verifies, else the checkpoint that the job names."""
        earlier = list(attempts.earlier_attempts(self._runs_dir, self._job.public_id, before=self._claim.attempt))
        match self._job.method:
            case "convert" | "evaluate" | "serve":
                return None
            case "sample" | "score" | "judge":
                return _newest(earlier, _RESUME_FILES[self._job.method])
            case "best_of_n":
                return _with_candidates(earlier)
        found = self._own_checkpoint(earlier)
        if found is None and self._job.method == "expert_iteration":
            found = _with_candidates(earlier)
        return found or self._named_checkpoint()

    def _own_checkpoint(self, earlier: Sequence[tuple[int, Path]]) -> Path | None:
        for number, directory in earlier:
            for found in reversed(attempts.checkpoints(directory)):
                if attempts.verifies(found.directory, alive=self._keep_alive):
                    run = Run.objects.get(job=self._job, attempt=number)
                    row = self._files.record_checkpoint(run.pk, found)
                    self._note_resume(row)
                    return found.directory
                log.warning("job %s: %s does not verify and is passed over", self._job.pk, found.directory)
        return None

    def _named_checkpoint(self) -> Path | None:
        named = self._job.checkpoint
        if named is None:
            return None
        kept = attempts.start_directory(self._runs_dir, self._job.public_id, named.step)
        directory = kept if kept.is_dir() else self._runs_dir / named.path
        if not attempts.verifies(directory, alive=self._keep_alive):
            raise SnapshotError(f"checkpoint of step {named.step}, which the job starts from, does not verify")
        self._note_resume(named)
        return directory

    def _note_resume(self, row: Checkpoint) -> None:
        if not jobs.record_resume(self._claim, row):
            raise LeaseLost
        self._say(f"resumes from step {row.step}")

    # --- meanwhile ------------------------------------------------------------------------------------------------

    def _supervise(self) -> int:
        """Until the child has ended and everything it wrote is stored. Returns its exit code."""
        child = self._child
        assert child is not None
        code = None
        while code is None:
            code = child.wait(self._timing.poll_seconds)
            if code is not None:
                self._starved_by = self._why_starved()
            self._keep_alive()
            if code is None:
                self._stop_if_asked(child)
                self._kill_if_overdue(child)
                self._ingest_if_due()
                self._exchange_if_due()
        child.kill()  # sweeps what it may have left in its group
        return code

    def _ingest_if_due(self) -> None:
        if time.monotonic() < self._next_ingest_at:
            return
        try:
            self._files.read()
        except _AWAY as error:
            log.warning("job %s: rows wait, the database does not answer (%s)", self._job.pk, error)
            close_old_connections()
        self._next_ingest_at = time.monotonic() + self._timing.ingest_seconds

    def _exchange_if_due(self) -> None:
        if self._exchange is None:
            return
        try:
            self._exchange.exchange()
        except _AWAY as error:
            log.warning("job %s: questions wait, the database does not answer (%s)", self._job.pk, error)
            close_old_connections()

    def _keep_alive(self) -> None:
        """The heartbeat, when it is due: renew the lease, and only then feed the child. Call it often.

        Raises:
            LeaseLost: the job is no longer ours.
        """
        now = time.monotonic()
        if now < self._next_beat_at:
            return
        self._next_beat_at = now + self._timing.heartbeat_seconds
        try:
            order = jobs.beat(self._claim, lease_seconds=self._timing.lease_seconds)
        except _AWAY as error:
            # Not fed, the child ends itself before the lease does; if the database is back sooner, nothing happened.
            log.warning("job %s: no heartbeat, the database does not answer (%s)", self._job.pk, error)
            self._unheard_at = time.monotonic()
            close_old_connections()
            return
        if order is None:
            raise LeaseLost
        if self._child is None:
            return
        if order is Order.STOP and self._stop_sent_at is not None:
            order = Order.GO_ON  # told already, and must still be fed
        if order is Order.STOP:
            self._send_stop(self._child)
        else:
            self._child.write(order.value.encode())
            self._fed_at = time.monotonic()

    @contextlib.contextmanager
    def _lease_renewed(self) -> Iterator[None]:
        """Renew the lease from a thread while the child is over and something long is done with its result."""
        over = threading.Event()

        def renew() -> None:
            while not over.wait(self._timing.heartbeat_seconds):
                with contextlib.suppress(*_AWAY):
                    jobs.beat(self._claim, lease_seconds=self._timing.lease_seconds)
            connection.close()  # this thread's own

        thread = threading.Thread(target=renew, name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _why_starved(self) -> str | None:
        """To be asked as soon as the child has ended. Fed too long ago it ended itself: its memory is not to blame."""
        if time.monotonic() - self._fed_at < self._timing.lease_seconds / 2:
            return None
        away = self._unheard_at > self._fed_at
        return "the database did not answer for too long" if away else "the worker stood still for too long"

    def _stop_if_asked(self, child: processes.Child) -> None:
        if self._stop_event.is_set() and self._stop_sent_at is None:
            self._send_stop(child)

    def _send_stop(self, child: processes.Child) -> None:
        child.write(Order.STOP.value.encode())
        self._stop_sent_at = self._fed_at = time.monotonic()
        self._say("stopping")

    def _kill_if_overdue(self, child: processes.Child) -> None:
        now = time.monotonic()
        if self._stop_sent_at is not None:
            if now - self._stop_sent_at > self._timing.stop_seconds:
                self._killed_for = f"did not stop within {self._timing.stop_seconds:.0f} s"
        else:
            limit = max(self._timing.hang_seconds, SLOW_STEPS * self._files.median_step_seconds)
            if now - self._files.progress_at > limit:
                self._killed_for = f"hung: no new step for {limit:.0f} s"
        if self._killed_for is not None:
            child.kill()

    # --- after --------------------------------------------------------------------------------------------------------

    def _conclude(self, code: int) -> JobStatus | None:
        """Together: a job must not end before all that its child wrote is stored."""
        self._files.read()
        if self._exchange is not None:
            self._exchange.exchange(is_last=True)
        return self._settle(code)

    def _settle(self, code: int) -> JobStatus | None:
        """What the end of the child makes of the job."""
        error = attempts.read_object(self._directory / "error.json") or {}
        result = attempts.read_object(self._directory / "result.json")
        ending = endings.classify(self._remains(code, error))
        if ending in endings.HOPELESS and (error or self._killed_for is None):
            return self._settle_hopeless(code, ending=ending, error=error, result=result)
        if self._killed_for is not None:
            stopped = self._stop_sent_at is not None
            outcome = self._outcome(code, self._killed_for)
            return self._requeue(Ending.SHUTDOWN if stopped else Ending.HUNG, outcome)
        if code == 0 and result is not None:
            return self._settle_result(result)
        silent = "no result.json" if code == 0 else f"the engine failed (exit {code})"
        said = error.get("message") or (self._starved_by if ending is Ending.CUT_OFF else None)
        reason = str(said or endings.REASONS.get(ending, silent))
        return self._requeue(ending, self._outcome(code, reason, result=result))

    def _remains(self, code: int, error: Mapping[str, Any]) -> endings.Remains:
        free = devices.read_free_disk(self._directory)
        return endings.Remains(
            code=code,
            error=error,
            words=attempts.error_tail(self._directory),
            is_starved=self._starved_by is not None,
            is_out_of_memory=devices.read_out_of_memory_kills() > self._memory_kills,
            is_disk_full=free is not None and free < _FULL_DISK_BYTES,
        )

    def _settle_hopeless(
        self, code: int, *, ending: Ending, error: Mapping[str, Any], result: Mapping[str, Any] | None
    ) -> JobStatus | None:
        said = error.get("message") or (result or {}).get("reason")
        reason = str(said or endings.REASONS.get(ending, f"the engine failed (exit {code})"))
        if ending is Ending.DIVERGED:
            good = Checkpoint.objects.filter(run__job=self._job, files_pruned_at=None).order_by(
                "-run__attempt", "-step"
            )
            step = good.values_list("step", flat=True).first()
            reason += "; no checkpoint before it" if step is None else f"; the last good checkpoint is step {step}"
        outcome = self._outcome(code, reason, result=result)
        return JobStatus.FAILED if jobs.fail(self._claim, outcome, ending=ending) else None

    def _settle_result(self, result: Mapping[str, Any]) -> JobStatus | None:
        status = str(result.get("status"))
        outcome = self._outcome(0, str(result.get("reason") or status), result=result)
        if status in _FINISHED:
            if self._job.method in _KEPT:
                self._files.require_lease()
                run = Run.objects.get(pk=self._claim.run_id)
                with self._lease_renewed():
                    self._hooks.register_result(self._job, run, self._directory)
            return JobStatus.SUCCEEDED if jobs.finish(self._claim, outcome, best=self._best(result)) else None
        if status == "paused":
            return JobStatus.CANCELLED if jobs.cancelled(self._claim, outcome, paused=True) else None
        if status == "stopped":
            if jobs.cancelled(self._claim, outcome):
                return JobStatus.CANCELLED
            return self._requeue(Ending.SHUTDOWN, outcome)
        return self._requeue(Ending.CRASHED, self._outcome(0, f"exit 0, but result.json says {status}", result=result))

    def _best(self, result: Mapping[str, Any]) -> str | None:
        """The path of the best checkpoint, below the runs directory."""
        best = (result.get("checkpoints") or {}).get("best")
        if not isinstance(best, dict) or not isinstance(best.get("path"), str):
            return None
        path = Path(os.path.normpath(self._directory / best["path"]))
        return path.relative_to(self._runs_dir).as_posix() if path.is_relative_to(self._runs_dir) else None

    def _outcome(
        self, code: int | None, reason: str, *, result: Mapping[str, Any] | None = None, tail: str | None = None
    ) -> Outcome:
        return Outcome(
            reason=redact(reason),
            exit_code=code,
            last_step=self._files.step or None,
            result=result,
            error_tail=attempts.error_tail(self._directory) if tail is None else tail,
        )

    def _requeue(self, ending: Ending, outcome: Outcome) -> JobStatus | None:
        return jobs.requeue(job_id=self._claim.job_id, owner=self._claim.owner, ending=ending, outcome=outcome)

    def _persist(self, act: Callable[[], T]) -> T | None:
        """Do it, again and again while the database does not answer: till then nothing else could be done either.

        A worker that shuts down waits two leases more, and leaves the rest to the reaper and the next attempt.
        """
        patience = 2 * self._timing.lease_seconds
        give_up_at = time.monotonic() + patience
        while True:
            try:
                return act()
            except _AWAY as error:
                log.warning("job %s: the end of an attempt waits for the database (%s)", self._job.pk, error)
                close_old_connections()
                if not self._stop_event.is_set():
                    give_up_at = time.monotonic() + patience
                elif time.monotonic() > give_up_at:
                    return None
                time.sleep(min(1.0, self._timing.heartbeat_seconds))


def _newest(earlier: Sequence[tuple[int, Path]], name: str) -> Path | None:
    """The file of this name that the newest attempt left which has one."""
    files = (directory / name for _, directory in earlier)
    return next((file for file in files if file.is_file()), None)


def _with_candidates(earlier: Sequence[tuple[int, Path]]) -> Path | None:
    """The newest attempt that sampled candidates and scored them."""
    file = _newest(earlier, "candidates.jsonl")
    return None if file is None else file.parent


def _ending_of(error: Exception) -> Ending:
    """Of a runner that failed."""
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.ENOSPC, errno.EDQUOT):
        return Ending.DISK
    return Ending.MEMORY if isinstance(error, MemoryError) or number == errno.ENOMEM else Ending.CRASHED


# --- orphans ----------------------------------------------------------------------------------------------------------


def kill_orphans(runs_dir: Path) -> int:
    """Kill children on this machine whose lease is over or given to another attempt; for the start of a worker.

    A PID alone is no identity: PID, start time and boot must all be those that `process.json` holds.
    """
    killed = 0
    for file in runs_dir.glob(f"*/*/{processes.PROCESS_FILE}"):
        found = processes.recorded_process(file)
        if found is None:
            continue
        attempt, job = file.parent.name, file.parent.parent.name
        live = Job.objects.filter(
            public_id=job, attempt=attempt, status=JobStatus.RUNNING, lease_expires_at__gte=Now()
        ).exists()
        if not live:
            log.warning("job %s: attempt %s runs without a lease, process group %s killed", job, attempt, found.pid)
            processes.kill_group(found.pid)
            file.unlink(missing_ok=True)
            killed += 1
    return killed
