"""How an attempt ended and what to do about it, in words: one table for the API, the run page and the alarms.

`classify` reads the ending from what a child left; `explain` says of a job what has happened, what comes next, and
from which step it would go on. Decides nothing: what becomes of a job is `training.jobs`' alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Q

from training import jobs, workers
from training.jobs import KILLED, MAX_FAILURES, Ending
from training.models import Checkpoint, Job, JobStatus, Queue, Quota, Run

HOPELESS = frozenset({Ending.CONFIG, Ending.DATA, Ending.DIVERGED, Ending.DEFECT})
"""Another attempt would end the same, so there is none."""
_KINDS = {
    ending.value: ending
    for ending in (*HOPELESS, Ending.MEMORY, Ending.DISK, Ending.NETWORK, Ending.DEVICE)
}  # fmt: skip
_CODES = {2: Ending.CONFIG, 3: Ending.DATA, 4: Ending.DIVERGED}
# Where the engine could leave no error.json (an abort inside a C++ library, a full disk) its last words are all there
# is. In this order: CUDA's out of memory is a CUDA error too.
_WORDS = (
    (re.compile(r"out of memory|OutOfMemoryError|can't allocate memory|std::bad_alloc|MemoryError"), Ending.MEMORY),
    (re.compile(r"No space left on device|Disk quota exceeded"), Ending.DISK),
    (re.compile(r"CUDA error|CUDNN_STATUS|CUBLAS_STATUS|NCCL error|c10::CUDAError|\bXid\b"), Ending.DEVICE),
)
_KEEPS_LINES = frozenset({"sample", "score", "judge", "best_of_n"})  # and have no checkpoints: each line is kept
_STARTS_ANEW = frozenset({"convert", "evaluate", "serve"})
_LAST_WORDS = 4000  # characters: what was said long before the end is not why it ended


@dataclass(frozen=True, kw_only=True, slots=True)
class Remains:
    """What a child left that did not end well.

    Args:
        error: its `error.json`, empty if there is none.
        is_starved: it was not fed (`training.engine.supervision`) for so long that it ended itself.
        is_out_of_memory: the system has ended a process for want of memory meanwhile.
        is_disk_full: nothing more can be written where it wrote.
    """

    code: int
    error: Mapping[str, Any]
    words: str
    is_starved: bool = False
    is_out_of_memory: bool = False
    is_disk_full: bool = False


def classify(remains: Remains) -> Ending:
    """How it ended. The engine's own word comes before the code: a launcher turns every code into 1."""
    kind = _KINDS.get(str(remains.error.get("kind")))
    if kind is not None:
        return kind
    if remains.code in _CODES:
        return _CODES[remains.code]
    if remains.code in KILLED:
        if remains.is_starved:
            return Ending.CUT_OFF
        return Ending.MEMORY if remains.is_out_of_memory else Ending.KILLED
    said = remains.words[-_LAST_WORDS:]
    for words, ending in _WORDS:
        if remains.code != 0 and words.search(said):
            return ending
    return Ending.DISK if remains.is_disk_full else Ending.CRASHED


REASONS = {
    Ending.KILLED: "killed",
    Ending.MEMORY: "out of memory",
    Ending.DISK: "the disk is full",
    Ending.DEVICE: "the GPU failed",
    Ending.NETWORK: "a server did not answer",
    Ending.CONFIG: "bad config",
    Ending.DATA: "bad data",
    Ending.DIVERGED: "diverged",
}
"""The short reason of an attempt whose child said nothing itself."""


# --- in words ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """Where a job stands, for a person.

    Args:
        what: what has happened, or what it waits for.
        next_step: what to do, or what happens by itself.
        resumes_from: step of the checkpoint that the next attempt starts from; None: from the beginning.
        by_itself: nobody has to do anything.
    """

    what: str
    next_step: str
    resumes_from: int | None
    by_itself: bool


_SMALLER = (
    "Give it less to hold: clone it with memory.micro_tokens halved, a shorter data.max_tokens or an adapter instead "
    "of all weights; or run it where there is more memory"
)
_HAPPENED: dict[Ending, str] = {
    Ending.SHUTDOWN: "The worker {host} was shut down; the run saved first",
    Ending.KILLED: "The process was killed{at}: by the system for want of memory, or by hand",
    Ending.MEMORY: "The memory of {host} was not enough{at}",
    Ending.DISK: "The disk of {host} is full or fails{at}",
    Ending.NETWORK: "A server that the run needs did not answer{at}",
    Ending.DEVICE: "The GPU of {host} failed or was lost{at}",
    Ending.HUNG: "The run stood still{at} and was ended",
    Ending.CRASHED: "The process on {host} ended without a result{at}",
    Ending.CUT_OFF: "The worker {host} died, was frozen, or lost the database{at}; its lease ran out",
    Ending.CONFIG: "The config was refused",
    Ending.DATA: "The data or a model was refused",
    Ending.DIVERGED: "A value became NaN or infinite; nothing of it was saved",
    Ending.DEFECT: "The engine has a fault{at}",
}
_TO_DO: dict[Ending, str] = {
    Ending.SHUTDOWN: "Retry it",
    Ending.KILLED: f"If nobody killed it: {_SMALLER[0].lower()}{_SMALLER[1:]}",
    Ending.MEMORY: _SMALLER,
    Ending.DISK: "Free space on {host} (old checkpoints take the most), then retry",
    Ending.NETWORK: "Make sure that the server answers and that WINNOW_OUTBOUND allows it, then retry",
    Ending.DEVICE: "Look at nvidia-smi and at the kernel's log (Xid) of {host}; when the GPU is back, retry",
    Ending.HUNG: "Read the end of the log; if nothing explains it, retry",
    Ending.CRASHED: "Read the end of the log, then retry",
    Ending.CUT_OFF: "See on the workers' page whether {host} is alive and reaches the database, then retry",
    Ending.CONFIG: "Clone the job and mend the setting that the reason names",
    Ending.DATA: "Mend what the reason names, or choose another snapshot or model, in a clone of the job",
    Ending.DIVERGED: "Clone it with a lower optim.learning_rate or optim.clip_norm, which begins anew; or promote the "
    "last good checkpoint and train on from that model",
    Ending.DEFECT: "Another attempt would end the same: report it, with the end of the log",
}


def explain(job: Job, *, now: datetime) -> Explanation:
    """What a person should know of a job now. Of a prefetched job that does not wait in the queue: no query."""
    runs = sorted(job.runs.all(), key=lambda run: run.attempt)
    step = _resumes_from(job, runs)
    match JobStatus(job.status):
        case JobStatus.SUCCEEDED:
            said = "" if job.reason in ("", "done") else f": {job.reason}"
            return Explanation(what=f"Done{said}.", next_step="", resumes_from=None, by_itself=True)
        case JobStatus.RUNNING:
            return _explain_running(job, runs, step=step, now=now)
        case JobStatus.QUEUED:
            return _explain_queued(job, runs, step=step, now=now)
        case JobStatus.CANCELLED:
            return _explain_cancelled(job, runs, step=step)
        case JobStatus.FAILED:
            return _explain_failed(job, runs, step=step)


def _resumes_from(job: Job, runs: list[Run]) -> int | None:
    """As the runner chooses: the newest attempt that has a checkpoint, else the one that the job names."""
    if job.method in _KEEPS_LINES | _STARTS_ANEW:
        return None
    for run in reversed(runs):
        steps = [item.step for item in _checkpoints(run) if item.files_pruned_at is None]
        if steps:
            return max(steps)
    return None if job.checkpoint is None else job.checkpoint.step


def _checkpoints(run: Run) -> list[Checkpoint]:
    return list(run.checkpoints.all())


def _explain_running(job: Job, runs: list[Run], *, step: int | None, now: datetime) -> Explanation:
    host = runs[-1].host if runs else "a worker"
    phase = jobs.phase(job, now)
    if phase is jobs.Phase.STALLED:
        what = f"Nothing is heard of {host}: it may have died, be frozen, or have lost the database."
        return _by_itself(what, f"It goes on by itself {_from(job, step)} as soon as the lease is taken back.", step)
    if phase is jobs.Phase.STOPPING:
        return _by_itself(f"Stopping on {host}.", "It saves a checkpoint, then ends.", step)
    return _by_itself(f"Runs on {host}, attempt {job.attempt}.", "", step)


def _explain_cancelled(job: Job, runs: list[Run], *, step: int | None) -> Explanation:
    ending = _ending(runs[-1]) if runs else None
    if ending is Ending.PAUSED:
        todo = "Look at the alarm; then retry as it is, or clone it with a smaller kl.budget"
        return _needs_you(_sentence(job.reason), f"{todo}. A retry goes on {_from(job, step)}.", step)
    if job.cancel_requested_at is None and not runs:
        return _needs_you(_sentence(job.reason or "cancelled"), "Retry it, if it is wanted after all.", step)
    what = "Stopped by a person." if runs else "Cancelled before it started."
    return _needs_you(what, f"A retry goes on {_from(job, step)}.", step)


def _explain_failed(job: Job, runs: list[Run], *, step: int | None) -> Explanation:
    last = runs[-1] if runs and _is_of_this_end(runs[-1], job) else None
    ending = None if last is None else _ending(last)
    if last is None or ending is None:
        todo = "Retry or replace the job that it depends on, then retry this one."
        return _needs_you(_sentence(job.reason), todo, step)
    what = f"{_said(_HAPPENED.get(ending, 'It failed'), last)}: {job.reason}" if job.reason else ""
    todo = _said(_TO_DO.get(ending, "Retry it"), last)
    again = "" if ending in HOPELESS else f" A retry goes on {_from(job, step)}."
    if ending is Ending.DIVERGED and step is not None:
        again = f" The last good checkpoint is that of step {step}."
    return _needs_you(_sentence(what), f"{todo}.{again}", step)


def _is_of_this_end(run: Run, job: Job) -> bool:
    """Whether the job ended with this attempt, and not later in the queue."""
    return run.ended_at is not None and job.ended_at is not None and run.ended_at >= job.ended_at


def _explain_queued(job: Job, runs: list[Run], *, step: int | None, now: datetime) -> Explanation:
    last = runs[-1] if runs and runs[-1].attempt > job.attempts_before else None
    ending = None if last is None else _ending(last)
    happened = "" if last is None or ending is None else _said(_HAPPENED.get(ending, "It ended"), last) + ". "
    if job.not_before_at is not None and job.not_before_at > now:
        seconds = max(1, round((job.not_before_at - now).total_seconds()))
        todo = (
            f"Attempt {job.attempt + 1} starts by itself in {seconds} s, {_from(job, step)}; failure {job.failures} of"
        )
        return _by_itself(happened.strip() or "Waits.", f"{todo} {MAX_FAILURES} that it may have in a row.", step)
    waits, todo, by_itself = _what_it_waits_for(job, now=now)
    if last is not None and by_itself:
        todo = f"{todo} It goes on {_from(job, step)}."
    return Explanation(what=f"{happened}{waits}", next_step=todo, resumes_from=step, by_itself=by_itself)


def _what_it_waits_for(job: Job, *, now: datetime) -> tuple[str, str, bool]:
    """(what, next step, by itself) of a job that could start at any time. At most five queries."""
    before = job.depends_on.exclude(status=JobStatus.SUCCEEDED).order_by("number").values_list("number", flat=True)
    numbers = ", ".join(map(str, before))
    if numbers:
        return f"Waits for job {numbers}.", "It starts by itself when that has succeeded.", True
    quota = Quota.objects.filter(project=job.project_id, running__isnull=False).first()
    if quota is not None and quota.running is not None and job.queue == Queue.GPU:
        running = Job.objects.filter(project=job.project_id, status=JobStatus.RUNNING, queue=Queue.GPU).count()
        if running >= quota.running:
            what = f"The project runs {running} jobs, as many as its quota allows."
            return what, "It starts by itself when one of them ends; an owner can raise the quota.", True
    there = list(workers.alive(now).filter(queue=job.queue))
    if not there:
        return f"No worker of the queue {job.queue} is alive.", "Start one (see DEPLOYMENT).", False
    able = [worker for worker in there if not worker.obstacle]
    if not able:
        told = "; ".join(sorted({f"{worker.host}: {worker.obstacle}" for worker in there}))
        return f"No worker of the queue {job.queue} can take a job: {told}.", "Mend that; it then starts itself.", False
    if workers.idle(queue=job.queue, now=now).exists():
        what = "A worker is free and has not taken it yet."
        return what, "It does within seconds; if it does not, the message broker or the tick may be down.", True
    first = Q(priority__gt=job.priority) | Q(priority=job.priority, pk__lt=job.pk)
    ahead = jobs.claimable(now=now).filter(first, queue=job.queue).count()
    noun = "GPU" if any(worker.devices for worker in able) else "worker"
    return f"{ahead} ahead, waiting for a {noun}.", "It starts by itself when one is free.", True


def _ending(run: Run) -> Ending | None:
    return Ending(run.ending) if run.ending else None


def _said(sentence: str, run: Run) -> str:
    at = "" if run.last_step is None else f" at step {run.last_step}"
    return sentence.format(host=run.host, at=at)


def _sentence(text: str) -> str:
    text = text.strip()
    return text if not text else text[0].upper() + text[1:] + ("" if text.endswith((".", "?", "!", ")")) else ".")


def _from(job: Job, step: int | None) -> str:
    if job.method in _KEEPS_LINES:
        return "where it was"
    return "from the beginning" if step is None else f"from step {step}"


def _by_itself(what: str, next_step: str, step: int | None) -> Explanation:
    return Explanation(what=what, next_step=next_step, resumes_from=step, by_itself=True)


def _needs_you(what: str, next_step: str, step: int | None) -> Explanation:
    return Explanation(what=what, next_step=next_step, resumes_from=step, by_itself=False)
