"""The storm: training jobs one after the other, two at a time, and faults at random moments until all have struck.

A job is struck again only while its count of failures says that it may be: three failures in a row without a new
checkpoint end it, and so do two kills of its engine at one step. Those rules have tests of their own; here every job
must come through. How long a job takes to come back is read from the rows: from the kill to the start of its next
attempt, by one machine's clock.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from celery import Celery

from benchmarks.faults.services import Postgres, Redis, Rows
from benchmarks.faults.topology import GPU_WORKERS, LEASE_SECONDS, Engine, Topology, engines

TASK = "training.run_job"
KILLED = -9
PAUSE_SECONDS = (0.3, 6.0)
AWAY_SECONDS = (0.2, 2.5)
BACK_SECONDS = 120.0
ENDING_SECONDS = 300.0
"""For the last jobs, once no more faults strike."""
COPIES = 3
_POLL_SECONDS = 0.1


class Fault(StrEnum):
    """What happens. DOUBLED and LOST happen to the message of a new job, the others to processes."""

    WORKER = "worker"
    ENGINE = "engine"
    BROKER = "broker"
    DATABASE = "database"
    FROZEN = "frozen"
    DOUBLED = "doubled"
    LOST = "lost"


MESSAGES = (Fault.DOUBLED, Fault.LOST)


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """A training job: method and seed. The same twice must give the same weights."""

    method: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.method}-{self.seed}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Strike:
    """A fault that cost a job its attempt."""

    fault: Fault
    at: float
    job: int
    attempt: int
    failures: int
    """Of the job before this one: the first of a row waits for 5 s, the second for 30."""


@dataclass(kw_only=True, slots=True)
class Ledger:
    """What was done, and what was measured on the way."""

    jobs: dict[int, str] = field(default_factory=dict)
    """The row of a job → the name of its config."""
    messages: dict[int, Fault | None] = field(default_factory=dict)
    strikes: list[Strike] = field(default_factory=list)
    broker_away: list[tuple[float, float]] = field(default_factory=list)
    """From the strike until a worker took a message again; a wake-up that was under way in between may be lost."""
    database_back: list[float] = field(default_factory=list)
    copies_sent: int = 0
    not_taken_over: int = 0
    never_struck: list[Fault] = field(default_factory=list)
    seconds: float = 0.0

    def met_broker(self, start: float, end: float) -> bool:
        """Whether the broker was away in this time, so that a wake-up waits for the tick to send it again."""
        return any(start < back and away < end for away, back in self.broker_away)


@dataclass(kw_only=True, slots=True)
class Site:
    """A running site and how to reach its parts."""

    topology: Topology
    postgres: Postgres
    redis: Redis
    rows: Rows
    rng: random.Random
    say: Callable[[str], None]

    def program(self, *arguments: str, redis_database: int = 0) -> dict[str, int]:
        """Run a program inside the application; what it printed."""
        environ = self.topology.environ | {"WINNOW_REDIS_URL": self.redis.url(redis_database)}
        command = [sys.executable, "-m", "benchmarks.faults.site", *arguments]
        done = subprocess.run(command, env=environ, check=True, stdout=subprocess.PIPE, timeout=300)
        return dict(json.loads(done.stdout.splitlines()[-1]))

    def submit(self, wanted: Wanted, fault: Fault | None, ledger: Ledger, *, size: str = "small") -> int:
        """Queue a job. A lost message goes to a queue that no worker reads; a doubled one is sent again and again."""
        lost = int(fault is Fault.LOST)
        job = self.program("submit", wanted.method, str(wanted.seed), size, redis_database=lost)["job"]
        if fault is Fault.DOUBLED:
            self.send(TASK, job, queue="gpu", copies=COPIES)
            ledger.copies_sent += COPIES
        ledger.jobs[job], ledger.messages[job] = wanted.name, fault
        return job

    def send(self, task: str, *arguments: object, queue: str, copies: int = 1) -> None:
        """Messages by a connection of their own, since those of before a restart are dead."""
        with Celery(broker=self.redis.url()) as app, app.connection_for_write() as connection:
            for _ in range(copies):
                app.send_task(task, args=arguments, queue=queue, connection=connection, expires=60, ignore_result=True)

    def statuses(self, jobs: Sequence[int]) -> dict[int, str]:
        """Row → status."""
        return dict(self.rows("SELECT id, status FROM training_job WHERE id = ANY(%s)", list(jobs)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """A job that runs, what it may still bear, and its engine."""

    job: int
    attempt: int
    failures: int
    engine_killed: bool
    """The attempt before this one ended with the kill of its engine."""
    may_start_again: bool
    """It has made a step, or no engine of this job was killed before its first step."""
    engine: Engine


def running(site: Site) -> list[Running]:
    """Jobs that have a live engine whose worker lives too."""
    alive: dict[tuple[str, int], Engine] = {}
    for engine in engines(site.topology.runs_dir):
        if site.topology.worker_of(engine) is not None:
            alive[engine.job, engine.attempt] = engine
    found = site.rows(
        "SELECT j.id, j.public_id, j.attempt, j.failures, coalesce(r.exit_code = %s, false), "
        "j.last_step_at IS NOT NULL OR NOT EXISTS (SELECT 1 FROM training_run k WHERE k.job_id = j.id AND "
        "k.exit_code = %s AND k.last_step IS NULL) FROM training_job j "
        "LEFT JOIN training_run r ON r.job_id = j.id AND r.attempt = j.attempt - 1 WHERE j.status = 'running'",
        KILLED,
        KILLED,
    )
    return [
        Running(
            job=job, attempt=attempt, failures=failures, engine_killed=killed, may_start_again=again,
            engine=alive[str(uuid), attempt],
        )
        for job, uuid, attempt, failures, killed, again in found
        if (str(uuid), attempt) in alive
    ]  # fmt: skip


def bears(job: Running, fault: Fault) -> bool:
    """Whether this fault leaves the job a next attempt."""
    if fault is Fault.ENGINE and not job.may_start_again:
        return False
    if fault is Fault.ENGINE:
        return job.failures == 0 or (job.failures == 1 and not job.engine_killed)
    return job.failures == 0 or (job.failures == 1 and fault is not Fault.FROZEN)  # a freeze waits for the back-off


def quiet(site: Site, wanted: Sequence[Wanted], *, most_seconds: float) -> Ledger:
    """Run each job once and disturb nothing; all must succeed."""
    ledger = Ledger()
    for item in wanted:
        site.submit(item, None, ledger)
    deadline = time.monotonic() + most_seconds
    while set(site.statuses(list(ledger.jobs)).values()) != {"succeeded"}:
        if time.monotonic() > deadline:
            raise TimeoutError(f"undisturbed jobs did not end: {site.statuses(list(ledger.jobs))}")
        time.sleep(0.5)
    return ledger


def storm(site: Site, *, wanted: Sequence[Wanted], faults: dict[Fault, int], most_seconds: float) -> Ledger:
    """Keep two jobs going and strike until every fault has struck, then let the last jobs end."""
    ledger, began = Ledger(), time.monotonic()
    messages = [fault for fault in MESSAGES for _ in range(faults.get(fault, 0))]
    due = [fault for fault, count in faults.items() if fault not in MESSAGES for _ in range(count)]
    site.rng.shuffle(messages)
    site.rng.shuffle(due)
    next_at, finished_by = 0.0, began + most_seconds
    while True:
        open_jobs = [job for job, status in site.statuses(list(ledger.jobs)).items() if status in ("queued", "running")]
        more = bool(due or messages) and time.monotonic() < finished_by
        if not open_jobs and not more:
            missed = [] if time.monotonic() > finished_by else take_missed(site, ledger)
            if not missed:
                break
            due += missed
            continue
        if time.monotonic() > finished_by + ENDING_SECONDS:
            break
        if more and len(open_jobs) < len(GPU_WORKERS):
            item = wanted[len(ledger.jobs) % len(wanted)]
            fault = messages.pop() if messages else None
            job = site.submit(item, fault, ledger)
            site.say(f"job {job} ({item.name}) submitted{f', message {fault}' if fault else ''}")
        if more and due and time.monotonic() >= next_at and strike(site, due[-1], ledger):
            due.pop()
            next_at = time.monotonic() + site.rng.uniform(*PAUSE_SECONDS)
        time.sleep(_POLL_SECONDS)
    ledger.never_struck, ledger.seconds = due + messages, time.monotonic() - began
    return ledger


def take_missed(site: Site, ledger: Ledger) -> list[Fault]:
    """Strikes that came too late to cost the attempt, such as the kill of an engine that had just ended."""
    missed = [item for item in ledger.strikes if next_start(site, item) is None]
    ledger.strikes = [item for item in ledger.strikes if item not in missed]
    return [item.fault for item in missed]


def next_start(site: Site, item: Strike) -> float | None:
    """When the attempt after a strike began."""
    found = site.rows(
        "SELECT extract(epoch FROM started_at)::float8 FROM training_run WHERE job_id = %s AND attempt = %s",
        item.job,
        item.attempt + 1,
    )
    return found[0][0] if found else None


def strike(site: Site, fault: Fault, ledger: Ledger) -> bool:
    """Let it happen now; False if there is nothing that bears it."""
    match fault:
        case Fault.BROKER:
            ledger.broker_away.append(_restart_broker(site))
            return True
        case Fault.DATABASE:
            jobs = running(site)  # without one, the time of a back-off would be measured
            if not jobs or not all(bears(job, fault) for job in jobs):
                return False
            ledger.database_back.append(_restart_database(site, [job.job for job in jobs]))
            return True
    targets = [job for job in running(site) if bears(job, fault)]
    if not targets:
        return False
    job = site.rng.choice(targets)
    worker = site.topology.worker_of(job.engine)
    if worker is None:
        return False
    item = Strike(fault=fault, at=time.time(), job=job.job, attempt=job.attempt, failures=job.failures)
    match fault:
        case Fault.ENGINE:
            _kill(job.engine.pid)
        case Fault.WORKER:
            site.topology.signal(worker, signal.SIGKILL)
        case Fault.FROZEN:
            site.topology.signal(worker, signal.SIGSTOP)
    ledger.strikes.append(item)
    site.say(f"{fault}: {worker}, job {job.job} attempt {job.attempt}, {job.failures} failures")
    if fault is Fault.FROZEN:
        ledger.not_taken_over += not _wait(lambda: next_start(site, item) is not None, seconds=BACK_SECONDS)
        time.sleep(site.rng.uniform(0, 3))
        site.topology.signal(worker, signal.SIGCONT)
        site.say(f"{worker} wakes up again")
    return True


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # it has just ended: the strike is counted as missed


def _restart_broker(site: Site) -> tuple[float, float]:
    """By SIGKILL or SIGTERM; what waits in it is lost. When that was, and when a worker took a message again."""
    began = time.time()
    kill = site.rng.random() < 0.5
    if kill:
        site.redis.kill()
    else:
        site.redis.stop()
    time.sleep(site.rng.uniform(*AWAY_SECONDS))
    site.redis.start()
    site.send("training.sample_turns", queue="cpu")
    with site.redis.client() as client:
        _wait(lambda: client.llen("cpu") == 0, seconds=BACK_SECONDS)
    ended = time.time()
    how = "killed" if kill else "stopped"
    site.say(f"broker {how} and started; a worker took a message after {ended - began:.1f} s")
    return began, ended


def _restart_database(site: Site, jobs: Sequence[int]) -> float:
    """By SIGKILL or an immediate stop (a crash recovery). Seconds until one of the jobs renewed its lease or ended."""
    began = time.monotonic()
    kill = site.rng.random() < 0.5
    if kill:
        site.postgres.kill()
    else:
        site.postgres.stop()
    time.sleep(site.rng.uniform(*AWAY_SECONDS))
    site.postgres.start()
    ((up_at,),) = site.rows("SELECT pg_postmaster_start_time()")

    def is_back() -> bool:
        ((back,),) = site.rows(
            "SELECT count(*) FROM training_job WHERE id = ANY(%s) AND (status = 'succeeded' OR "
            "(status = 'running' AND lease_expires_at > %s + make_interval(secs => %s)))",
            list(jobs),
            up_at,
            LEASE_SECONDS,
        )
        return bool(back)

    _wait(is_back, seconds=BACK_SECONDS)
    seconds = time.monotonic() - began
    site.say(f"database {'killed' if kill else 'stopped'} and started; a lease was renewed after {seconds:.1f} s")
    return seconds


def _wait(condition: Callable[[], bool], *, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def claim_waits(site: Site, ledger: Ledger) -> dict[int, float]:
    """Seconds from submission to the first attempt, for each job."""
    return dict(
        site.rows(
            "SELECT j.id, extract(epoch FROM r.started_at - j.created_at)::float8 FROM training_job j "
            "JOIN training_run r ON r.job_id = j.id AND r.attempt = 1 WHERE j.id = ANY(%s)",
            list(ledger.jobs),
        )
    )
