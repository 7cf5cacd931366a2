"""What annotators wait for while a training run has all cores: the same votes idle, then beside it.

Twenty annotators who think for two seconds on average ask for a task and vote on it, over HTTP on a real gunicorn as
the deployment runs it (2 × 8). The waiting times are the clients' own, on the same saturated machine.
"""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from benchmarks.report import Row, none_of, shorter
from benchmarks.server import quantile
from tests.services.hammer import HOST, PROJECT
from tests.services.hammer import Site as Web
from tests.services.servers import free_port

PEOPLE = 20
THINK_SECONDS = (0.5, 3.5)
COMPARISONS, OVERLAP = 600, 3
PROMISE_MS = 150.0
"""For annotators who think (RELIABILITY 5)."""
BUSY_SHARE = 0.9
"""Below this the run did not take the machine, and the figures say nothing."""


@dataclass(kw_only=True)
class Waits:
    """What they waited for, in seconds, and what went wrong."""

    next: list[float] = field(default_factory=list)
    vote: list[float] = field(default_factory=list)
    errors: int = 0
    busy: float = 0.0
    """Share of the machine's processor time that was used."""


def measure(web: Web, *, seconds: float, seed: int) -> Waits:
    """Let the annotators work for so long."""
    waits, lock, end = Waits(), threading.Lock(), time.monotonic() + seconds
    people = [
        threading.Thread(target=_annotate, args=(web, token, end, random.Random(seed + i), waits, lock))  # noqa: S311
        for i, token in enumerate(web.tokens)
    ]
    before = _processor_times()
    for person in people:
        person.start()
    for person in people:
        person.join()
    used, total = (after - earlier for after, earlier in zip(_processor_times(), before, strict=True))
    waits.busy = used / total
    return waits


def _processor_times() -> tuple[int, int]:
    """Ticks of all cores since the start of the machine: used, and in all."""
    numbers = [int(value) for value in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return sum(numbers) - numbers[3] - numbers[4], sum(numbers)  # less idle and waiting for the disk


def _annotate(web: Web, token: str, end: float, rng: random.Random, waits: Waits, lock: threading.Lock) -> None:
    connection = http.client.HTTPConnection(HOST, web.port, timeout=30)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def post(path: str, body: dict[str, Any]) -> tuple[Any, float]:
        began = time.perf_counter()
        unique = {"Idempotency-Key": str(uuid4())}
        connection.request("POST", f"/api/v1/annotate/{path}", json.dumps(body), headers | unique)
        response = connection.getresponse()
        content = response.read()
        waited = time.perf_counter() - began
        if response.status >= 300:
            raise OSError(f"{response.status} {content[:200]!r}")
        return json.loads(content), waited

    time.sleep(rng.uniform(0, THINK_SECONDS[1]))  # not all at once
    while time.monotonic() < end:
        try:
            queue, for_next = post(f"projects/{PROJECT}/queue", {"tab": "t", "n": 1})
            time.sleep(rng.uniform(*THINK_SECONDS))
            _, for_vote = post(
                f"assignments/{queue['items'][0]['assignment']}/vote", {"choice": "left", "active_ms": 900}
            )
        except (OSError, http.client.HTTPException, LookupError):
            with lock:
                waits.errors += 1
            connection.close()
            continue
        with lock:
            waits.next.append(for_next)
            waits.vote.append(for_vote)
    connection.close()


@contextmanager
def serving(root: Path, url: str) -> Iterator[Web]:
    """A web server on a migrated database, with people and comparisons."""
    web = Web(directory=root, port=free_port(), url=url, workers=2, threads=8)
    try:
        web.seed(comparisons=COMPARISONS, overlap=OVERLAP, people=PEOPLE)
        with web.database() as execute:
            execute("ANALYZE")  # as after every import
        web.start()
        yield web
    finally:
        web.kill()


def rows_of(idle: Waits, training: Waits, *, steps: int) -> list[Row]:
    """Idle for comparison, and beside training against the promise."""
    rows = [
        Row(what="web: steps trained meanwhile", unit="steps", ours=steps, peer=1, peer_name="at least", ok=steps > 0),
        Row(
            what="web: processor use while training", unit="share", ours=round(training.busy, 3), peer=BUSY_SHARE,
            peer_name="at least", ok=training.busy >= BUSY_SHARE,
        ),
        none_of("web: errors", idle.errors + training.errors),
    ]  # fmt: skip
    get: dict[str, Callable[[Waits], list[float]]] = {"next": lambda w: w.next, "vote": lambda w: w.vote}
    for what, of in get.items():
        for share in (50, 95):
            alone, beside = (quantile(of(waits), share / 100) for waits in (idle, training))
            rows.append(Row(what=f"web: {what}_p{share}_ms, idle", unit="ms", ours=round(alone, 1)))
            name = f"web: {what}_p{share}_ms, while training"
            rows.append(shorter(name, "ms", beside, peer=PROMISE_MS, peer_name="promise"))
            ratio = round(alone / beside, 3)
            rows.append(
                Row(what=f"{name} beside idle", unit="ms", ours=round(beside, 1), peer=round(alone, 1),
                    peer_name="idle", ratio=ratio)
            )  # fmt: skip
    return rows
