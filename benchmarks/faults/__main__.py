"""`python -m benchmarks.faults --json [--small] [--only NAME,…] [--seed N] [--minutes N]`: what `make faults` runs.

A site of its own in a temporary directory (PostgreSQL, Redis, tick, worker-cpu, two worker-gpu, leases of 10 s) trains
a tiny real model, first undisturbed, then in a storm: kill −9 of workers and engines, restarts of broker and database,
doubled and lost messages, workers that are stopped until their lease was taken over. Then every job must have ended
once, with the weights and the metrics of the undisturbed run, and no process may be left. `web` measures what
annotators wait for while a run has all cores. Exit code 0: every row holds. Linux only: processes are found in /proc.

Names for --only: worker, engine, broker, database, frozen, doubled, lost, web.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from benchmarks.faults import checking, web
from benchmarks.faults.services import Postgres, Redis, Rows
from benchmarks.faults.storm import MESSAGES, Fault, Ledger, Site, Wanted, claim_waits, next_start, quiet, storm
from benchmarks.faults.topology import (
    HEARTBEAT_SECONDS,
    LEASE_SECONDS,
    PROGRAMS,
    TICK_EVERY_SECONDS,
    Topology,
    engines,
    environment,
)
from benchmarks.report import Row, none_of, shorter, show
from tests.services.servers import NoService

WEB = "web"
QUIET_SECONDS = 600.0
"""More than the undisturbed jobs take on a machine with other work."""
FULL = {
    Fault.WORKER: 15, Fault.ENGINE: 15, Fault.BROKER: 10, Fault.DATABASE: 5, Fault.FROZEN: 3, Fault.DOUBLED: 5,
    Fault.LOST: 5,
}  # fmt: skip
SMALL = {
    Fault.WORKER: 2, Fault.ENGINE: 2, Fault.BROKER: 1, Fault.DATABASE: 1, Fault.FROZEN: 1, Fault.DOUBLED: 1,
    Fault.LOST: 1,
}  # fmt: skip
CONFIGS = tuple(Wanted(method=method, seed=seed) for seed in (1, 2) for method in ("reward", "dpo"))
JOB_BACK_SECONDS = LEASE_SECONDS + 5
"""RELIABILITY 5: a lease and 5 s."""
AGAIN_SECONDS = LEASE_SECONDS + 30 + 2 * TICK_EVERY_SECONDS
"""With the back-off of a second failure without a new checkpoint between, and the ticks that see either end."""
DATABASE_BACK_SECONDS = 10.0
BROKER_BACK_SECONDS = 30.0
"""The tick sends a wake-up again after so long: later, a restart would cost more than the messages."""
CLAIM_SECONDS = 30 + 5 + 2 * TICK_EVERY_SECONDS
"""A lost wake-up is sent again after 30 s by the tick; 5 s for a worker that is just starting."""


def say(line: str) -> None:
    """A line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


@contextmanager
def site_in(root: Path, *, seed: int, threads: int, names: Sequence[str]) -> Iterator[Site]:
    """A prepared site whose processes run; all of them are gone afterwards."""
    postgres, redis = Postgres(root), Redis(root)
    data_dir = root / "data"
    try:
        postgres.start()
        redis.start()
        environ = environment(data_dir=data_dir, database_url=postgres.url, redis_url=redis.url(), threads=threads)
        topology = Topology(root=root, runs_dir=data_dir / "runs", environ=environ, names=names)
        rows = Rows(postgres.url)
        site = Site(topology=topology, postgres=postgres, redis=redis, rows=rows, rng=random.Random(seed), say=say)  # noqa: S311
        site.program("prepare")
        try:
            topology.start()
            yield site
        finally:
            topology.stop()
            rows.close()
    finally:
        redis.stop()
        postgres.stop()


# --- the storm --------------------------------------------------------------------------------------------------------


def run_storm(
    root: Path, *, faults: dict[Fault, int], seed: int, configs: Sequence[Wanted], seconds: float
) -> list[Row]:
    """The undisturbed jobs, the storm, the check."""
    with site_in(root, seed=seed, threads=1, names=tuple(PROGRAMS)) as site:
        say(f"site in {root}, seed {seed}; {len(configs)} undisturbed jobs first")
        calm = quiet(site, configs, most_seconds=QUIET_SECONDS)
        say("the storm begins")
        ledger = storm(site, wanted=configs, faults=faults, most_seconds=seconds)
        rows = rows_of(site, ledger, faults) + verdict(site, calm, ledger)
        site.topology.stop()
        rows.append(none_of("processes left after the workers", len(engines(site.topology.runs_dir))))
    return rows


def verdict(site: Site, calm: Ledger, ledger: Ledger) -> list[Row]:
    """What rows, files and processes say, once every job has ended."""
    runs_dir = site.topology.runs_dir
    deadline = time.monotonic() + LEASE_SECONDS  # what is fed no more ends itself within its lease
    while (left := engines(runs_dir)) and time.monotonic() < deadline:
        time.sleep(0.2)
    undisturbed = {
        name: checking.read(site.rows, runs_dir=runs_dir, job=job, name=name) for job, name in calm.jobs.items()
    }
    struck = [checking.read(site.rows, runs_dir=runs_dir, job=job, name=name) for job, name in ledger.jobs.items()]
    found = checking.check(struck, undisturbed, say=lambda line: say(f"FAULT {line}"))
    return [
        *(none_of(name.replace("_", " "), count) for name, count in found.counts.items()),
        none_of("two engines of one job at once", len(site.topology.two_at_once)),
        none_of("orphan processes", len(left)),
        Row(what="metric steps checked", unit="steps", ours=sum(len(checking.curve(item)) for item in struck)),
        Row(what="attempts", unit="count", ours=sum(len(item.attempts) for item in struck)),
    ]


def rows_of(site: Site, ledger: Ledger, faults: dict[Fault, int]) -> list[Row]:
    """What was struck, and how long it took to come back."""
    done = {fault: sum(item.fault is fault for item in ledger.strikes) for fault in faults}
    done |= {Fault.BROKER: len(ledger.broker_away), Fault.DATABASE: len(ledger.database_back)}
    done |= {fault: sum(item is fault for item in ledger.messages.values()) for fault in MESSAGES}
    rows = [
        Row(
            what=f"{fault} faults",
            unit="count",
            ours=done[fault],
            peer=count,
            peer_name="wanted",
            ok=done[fault] >= count,
        )
        for fault, count in faults.items()
    ]
    rows.append(Row(what="jobs", unit="count", ours=len(ledger.jobs)))
    rows.append(none_of("frozen workers whose lease nobody took over", ledger.not_taken_over))
    back = {item: start - item.at for item in ledger.strikes if (start := next_start(site, item)) is not None}
    killed = {item: value for item, value in back.items() if item.fault is not Fault.FROZEN}
    alone = {item: value for item, value in killed.items() if not ledger.met_broker(item.at, item.at + value)}
    groups = [
        ("kill", [value for item, value in alone.items() if not item.failures], JOB_BACK_SECONDS),
        ("second kill in a row", [value for item, value in alone.items() if item.failures], AGAIN_SECONDS),
        (
            "kill with the broker away meanwhile",
            [value for item, value in killed.items() if item not in alone],
            AGAIN_SECONDS + BROKER_BACK_SECONDS,
        ),
    ]
    for name, values, limit in groups:
        values.sort()
        if values:
            rows.append(shorter(f"job back p95, {name}", "s", at(values, 0.95), peer=limit, peer_name="promise"))
            rows.append(Row(what=f"job back p50, {name}", unit="s", ours=round(median(values), 2)))
            rows.append(Row(what=f"job back max, {name}", unit="s", ours=round(values[-1], 2)))
    for fault in (Fault.WORKER, Fault.ENGINE, Fault.FROZEN):
        values = sorted(value for item, value in back.items() if item.fault is fault and not item.failures)
        if values:
            rows.append(Row(what=f"job back p95, {fault}", unit="s", ours=round(at(values, 0.95), 2)))
    for name, values, limit in (
        ("database", ledger.database_back, DATABASE_BACK_SECONDS),
        ("broker", [ended - began for began, ended in ledger.broker_away], BROKER_BACK_SECONDS),
    ):
        if values:
            rows.append(shorter(f"{name} back p95", "s", at(sorted(values), 0.95), peer=limit, peer_name="promise"))
    waits = claim_waits(site, ledger)
    for name, chosen in (("lost", Fault.LOST), ("doubled", Fault.DOUBLED), ("ordinary", None)):
        values = sorted(waits[job] for job, fault in ledger.messages.items() if fault is chosen and job in waits)
        if values:
            rows.append(
                shorter(
                    f"submitted to claimed max, message {name}",
                    "s",
                    values[-1],
                    peer=CLAIM_SECONDS,
                    peer_name="promise",
                )
            )
    rows.append(Row(what="storm", unit="s", ours=round(ledger.seconds)))
    return rows


def at(ordered: Sequence[float], share: float) -> float:
    """The nearest-rank quantile."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


# --- the web ----------------------------------------------------------------------------------------------------------


def run_web(root: Path, *, seed: int, seconds: float) -> list[Row]:
    """Idle, then with a run on all cores."""
    with (
        site_in(root, seed=seed, threads=0, names=("tick", "cpu", "gpu1")) as site,
        web.serving(root, site.postgres.url) as served,
    ):
        web.measure(served, seconds=5, seed=seed)
        idle = web.measure(served, seconds=seconds, seed=seed)
        say(f"idle: {len(idle.vote)} votes")
        job = site.submit(Wanted(method="reward", seed=seed), None, Ledger(), size="large")

        def step() -> int:
            return int(site.rows("SELECT coalesce(last_step, 0) FROM training_job WHERE id = %s", job)[0][0])

        deadline = time.monotonic() + 120
        while step() < 1 and time.monotonic() < deadline:
            time.sleep(0.5)
        first = step()
        beside = web.measure(served, seconds=seconds, seed=seed)
        last = step()
        say(f"beside training: {len(beside.vote)} votes, {last - first} steps")
    return web.rows_of(idle, beside, steps=last - first if first else 0)


# --- the command ------------------------------------------------------------------------------------------------------


def main() -> int:
    """0 when every row holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--small", action="store_true", help="a few faults of each kind, within four minutes")
    parser.add_argument("--only", default="", help="faults, or web, with commas between them")
    parser.add_argument("--seed", type=int, default=20261121)
    parser.add_argument("--minutes", type=float, help="so long the storm may strike; what is left then is a failure")
    parser.add_argument("--keep", action="store_true", help="leave the directory of the site with its logs")
    chosen = parser.parse_args()
    names = [name for name in chosen.only.split(",") if name] or [*Fault, WEB]
    if unknown := set(names) - {*Fault, WEB}:
        parser.error(f"--only: unknown {', '.join(sorted(unknown))}; known are {', '.join([*Fault, WEB])}")
    if not Path("/proc/self/cwd").exists():
        print("The fault programme finds processes in /proc, which this system has not.")
        return 1
    faults = {fault: count for fault, count in (SMALL if chosen.small else FULL).items() if fault in names}
    rows: list[Row] = []
    try:
        if faults:
            with directory(keep=chosen.keep) as root:
                rows += run_storm(
                    root, faults=faults, seed=chosen.seed, configs=CONFIGS[:2] if chosen.small else CONFIGS,
                    seconds=60 * (chosen.minutes or (2 if chosen.small else 20)),
                )  # fmt: skip
        if WEB in names:
            with directory(keep=chosen.keep) as root:
                rows += run_web(root, seed=chosen.seed, seconds=12 if chosen.small else 60)
    except NoService as error:
        print(f"FAIL {error}")
        return 1
    show(
        "faults", rows, as_json=chosen.json, small=chosen.small, seed=chosen.seed, lease_seconds=LEASE_SECONDS,
        heartbeat_seconds=HEARTBEAT_SECONDS, tick_seconds=TICK_EVERY_SECONDS,
    )  # fmt: skip
    return 0 if all(row.ok for row in rows) else 1


@contextmanager
def directory(*, keep: bool) -> Iterator[Path]:
    """A temporary directory, removed afterwards unless it is to be kept."""
    root = Path(tempfile.mkdtemp(prefix="winnow-faults-"))
    try:
        yield root
    finally:
        if keep:
            say(f"kept: {root}")
        else:
            shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
