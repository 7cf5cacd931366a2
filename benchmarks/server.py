"""`python -m benchmarks.server --json [--small]`: vote cycles a second, and whether *next* grows with the table.

Real gunicorn processes, and annotators in a closed loop: ask for the next task, vote on it, at once again. On
PostgreSQL with 10⁴ and 10⁶ comparisons of overlap 3 (`--small`: 10⁴ and 10⁵), at 1, 20 and 100 annotators; on SQLite
with 10⁴. The two tables take turns, three times; figures are medians over the turns. Load goes to 127.0.0.1 only.
"""

from __future__ import annotations

import argparse
import http.client
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any
from uuid import uuid4

from benchmarks.report import Row, faster, none_of, shorter, show
from tests.services.hammer import HOST, PROJECT, Site
from tests.services.servers import NoService, free_port, postgres_database

PEOPLE = 100
OVERLAP = 3
WARM_UP_SECONDS = 1.0
VOTES_A_SECOND = {"PostgreSQL": 50.0, "SQLite": 20.0}  # promised for 20 annotators in a closed loop (RELIABILITY 5)
GROWTH = 0.67  # p95 may grow by half from the smaller table to the larger


# --- the load ---------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Timings:
    """What annotators waited for, in seconds, and what went wrong."""

    next: list[float] = field(default_factory=list)
    vote: list[float] = field(default_factory=list)
    errors: int = 0
    seconds: float = 0.0

    @property
    def votes_per_second(self) -> float:
        return len(self.vote) / self.seconds


def quantile(values: Sequence[float], share: float) -> float:
    """The nearest-rank quantile in milliseconds."""
    ordered = sorted(values)
    return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def load(site: Site, *, clients: int, seconds: float) -> Timings:
    """Annotators in a closed loop for so long; the first second does not count."""
    begin = time.perf_counter() + WARM_UP_SECONDS
    found = [Timings() for _ in range(clients)]
    threads = [
        threading.Thread(target=_annotate, args=(site, site.tokens[i], begin, begin + seconds, found[i]))
        for i in range(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Timings(
        next=[value for item in found for value in item.next],
        vote=[value for item in found for value in item.vote],
        errors=sum(item.errors for item in found),
        seconds=seconds,
    )


def _annotate(site: Site, token: str, begin: float, end: float, found: Timings) -> None:
    connection = http.client.HTTPConnection(HOST, site.port, timeout=60)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def post(path: str, body: dict[str, Any]) -> tuple[Any, float]:
        started = time.perf_counter()
        connection.request(
            "POST", f"/api/v1/annotate/{path}", json.dumps(body), headers | {"Idempotency-Key": str(uuid4())}
        )
        response = connection.getresponse()
        content = response.read()
        waited = time.perf_counter() - started
        if response.status >= 300:
            raise OSError(f"{response.status} {content[:200]!r}")
        return json.loads(content), waited

    while time.perf_counter() < end:
        try:
            queue, for_next = post(f"projects/{PROJECT}/queue", {"tab": "t", "n": 1})
            _, for_vote = post(
                f"assignments/{queue['items'][0]['assignment']}/vote", {"choice": "left", "active_ms": 900}
            )
        except (OSError, http.client.HTTPException, LookupError) as error:
            found.errors += 1
            if found.errors == 1:
                print(f"  an error: {error!r}", file=sys.stderr)
            connection.close()
            continue
        if begin < time.perf_counter() < end:
            found.next.append(for_next)
            found.vote.append(for_vote)
    connection.close()


# --- the figures ------------------------------------------------------------------------------------------------------


def seed(site: Site, n: int) -> None:
    """People with tokens, by the code; comparisons, by SQL."""
    site.seed(comparisons=0, overlap=OVERLAP, people=PEOPLE)
    started = time.perf_counter()
    program = f"import django; django.setup(); from benchmarks.tables import fill; fill({n}, overlap={OVERLAP})"
    subprocess.run([sys.executable, "-c", program], env=site.environ, check=True)
    print(f"{n} comparisons in {time.perf_counter() - started:.0f} s", flush=True)


def name(n: int) -> str:
    return f"10^{len(str(n)) - 1}"


def rows_of(database: str, n: int, clients: int, turns: Sequence[Timings]) -> list[Row]:
    """Medians over the turns."""
    tail = f", {database}, {clients} clients, {name(n)}"
    votes = median(turn.votes_per_second for turn in turns)
    promised = VOTES_A_SECOND[database]
    rows = [
        faster(f"votes_per_s{tail}", "1/s", votes, peer=promised, peer_name="promise")
        if clients == 20
        else Row(what=f"votes_per_s{tail}", unit="1/s", ours=round(votes, 1))
    ]
    for what in ("next", "vote"):
        for share in (50, 95, 99):
            ours = median(quantile(turn.next if what == "next" else turn.vote, share / 100) for turn in turns)
            rows.append(Row(what=f"{what}_p{share}_ms{tail}", unit="ms", ours=round(ours, 1)))
    rows.append(none_of(f"errors{tail}", sum(turn.errors for turn in turns)))
    return rows


def on_postgres(stack: ExitStack, root: Path, sizes: tuple[int, int], *, seconds: float, turns: int) -> list[Row]:
    """Two sites, one with each table, take turns."""
    sites = {}
    for n in sizes:
        directory = root / f"pg-{n}"
        directory.mkdir()
        url = stack.enter_context(postgres_database())
        sites[n] = Site(directory=directory, port=free_port(), url=url, workers=2, threads=8)
        stack.callback(sites[n].kill)
        seed(sites[n], n)
        sites[n].start()
        with sites[n].database() as execute:
            print(f"PostgreSQL {execute('SHOW server_version')[0][0]}, fsync {execute('SHOW fsync')[0][0]}", flush=True)
    rows: list[Row] = []
    for clients in (1, 20, 100):
        found: dict[int, list[Timings]] = {n: [] for n in sizes}
        for _ in range(turns):
            for n in sizes:
                found[n].append(load(sites[n], clients=clients, seconds=seconds))
        for n in sizes:
            rows += rows_of("PostgreSQL", n, clients, found[n])
            print(
                f"{clients} clients, {name(n)}: {median(t.votes_per_second for t in found[n]):.1f} votes/s", flush=True
            )
        if clients == 20:
            small, large = (median(quantile(turn.next, 0.95) for turn in found[n]) for n in sizes)
            what = "p95 growth" if sizes[1] == 10**6 else f"p95 growth, {name(sizes[0])} to {name(sizes[1])}"
            peer_name = f"next p95 with {name(sizes[0])} comparisons"
            rows.append(shorter(what, "ms", large, peer=small, peer_name=peer_name, target=GROWTH))
    return rows


def on_sqlite(stack: ExitStack, root: Path, n: int, *, seconds: float, turns: int) -> list[Row]:
    """One web process of 16 threads, as the embedded set-up has it."""
    directory = root / "sqlite"
    directory.mkdir()
    site = Site(directory=directory, port=free_port())
    stack.callback(site.kill)
    seed(site, n)
    site.start()
    rows = []
    for clients in (1, 20, 100):
        found = [load(site, clients=clients, seconds=seconds) for _ in range(turns)]
        rows += rows_of("SQLite", n, clients, found)
        print(f"SQLite, {clients} clients: {median(t.votes_per_second for t in found):.1f} votes/s", flush=True)
    return rows


def main() -> int:
    """0 when every row holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--small", action="store_true", help="10^4 and 10^5 comparisons and shorter turns")
    chosen = parser.parse_args()
    sizes = (10**4, 10**5) if chosen.small else (10**4, 10**6)
    seconds, turns = (3.0, 3) if chosen.small else (12.0, 3)
    rows: list[Row] = []
    root = Path(tempfile.mkdtemp(prefix="winnow-bench-"))
    try:
        with ExitStack() as stack:
            try:
                rows += on_postgres(stack, root, sizes, seconds=seconds, turns=turns)
            except NoService as error:
                print(f"PostgreSQL was not measured: {error}")
        with ExitStack() as stack:
            rows += on_sqlite(stack, root, sizes[0], seconds=seconds, turns=turns)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    show("server", rows, as_json=chosen.json, small=chosen.small, web="gunicorn gthread 2 × 8; SQLite 1 × 16")
    return 0 if all(row.ok for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
