"""The services of docker-compose.yml as processes: they serve, train, and each of them may be started again meanwhile.

What a container engine adds (namespaces, limits, the images themselves) is not seen here.
"""

from __future__ import annotations

import http.client
import json
import os
import tempfile
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import require_or_skip
from tests.deployment.topology import HOST, Topology
from tests.services.servers import NoService

pytestmark = [pytest.mark.services, pytest.mark.slow]

PARTS = ("web", "tick", "worker-cpu", "redis", "postgres", "worker-gpu")
REWARD = {"batch": {"pairs": 8, "epochs": 80}, "checkpoint": {"every": 100}, "seed": 1}
SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}


class Api:
    """A person's requests as the proxy passes them on: over TLS for the browser, plain to the web."""

    def __init__(self, port: int, token: str) -> None:
        self.port, self.token = port, token

    def __call__(self, method: str, path: str, body: Any = None, *, key: str = "") -> Any:
        headers = {
            "Host": HOST, "X-Forwarded-For": "203.0.113.5", "X-Forwarded-Proto": "https",
            "Authorization": f"Bearer {self.token}", "Content-Type": "application/json",
        }  # fmt: skip
        if key:
            headers["Idempotency-Key"] = key
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, f"/api/v1/{path}", None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        assert answer.status < 300, f"{method} {path} answered {answer.status}: {text.decode()[:1000]}"
        return json.loads(text) if text else None


def until(what: str, look: Any, *, within: float) -> Any:
    deadline = time.monotonic() + within
    while not (found := look()):
        assert time.monotonic() < deadline, f"{what}: not within {within} s"
        time.sleep(0.3)
    return found


@contextmanager
def running(*ours: str, pooled: bool = False) -> Iterator[Topology]:
    # Not below pytest's directories: they are for their owner alone, and PostgreSQL may have to run as another user.
    with tempfile.TemporaryDirectory(prefix="winnow-topology-") as root:
        try:
            made = Topology(root=Path(root), pooled=pooled)
        except NoService as error:
            require_or_skip(str(error))
        try:
            made.start(*ours)
            yield made
        except AssertionError as error:
            for part in made.parts.values():
                error.add_note(f"--- {part.name} ---\n{part.tail()}")
            raise
        finally:
            made.stop()


@pytest.fixture(scope="module")
def topology() -> Iterator[Topology]:
    with running("web", "worker-cpu", "worker-gpu", "tick") as made:
        yield made


def curve(api: Api, job: str) -> list[int]:
    """The steps of the job's curve, in the order in which the API gives them."""
    steps, after = [], 0
    while page := api("GET", f"projects/helpful/jobs/{job}/metrics?after={after}"):
        if not page["items"]:
            return steps
        steps += [item["step"] for item in page["items"] if "train/loss" in item["values"]]
        after = page["next_after"]
    return steps


def test_it_serves_and_trains_and_every_part_may_be_started_again_meanwhile(topology):
    seeded = topology.seed()
    olga, ann = (Api(topology.web, seeded["tokens"][name]) for name in ("olga", "ann"))
    snapshot = olga("POST", "projects/helpful/snapshots", {"name": "first", "shares": SHARES})
    jobs: list[str] = []
    votes: list[str] = []

    def look(job: str) -> Any:
        return olga("GET", f"projects/helpful/jobs/{job}")

    def train() -> None:
        """Some job is in the first half of its training: the last one, or else another one."""
        row = look(jobs[-1]) if jobs else None
        if row is None or row["ended_at"] or (row["step"] or 0) > (row["steps"] or 1) / 2:
            body = {"method": "reward", "snapshot": snapshot["id"], "model": seeded["model"], "config": REWARD}
            jobs.append(olga("POST", "projects/helpful/jobs", body)["id"])
        until("the first step", lambda: look(jobs[-1])["step"], within=900)

    def vote() -> None:
        """One vote, acknowledged."""
        (task,) = ann("POST", "annotate/projects/helpful/queue", {"tab": "tab", "n": 1})["items"]
        path = f"annotate/assignments/{task['assignment']}/vote"
        votes.append(ann("POST", path, {"choice": "left", "active_ms": 4200}, key=str(uuid.uuid4()))["vote"])

    vote()
    for name in PARTS:
        train()
        topology.restart(name)
        vote()

    runs = 0
    for job in jobs:
        ended = until("the end of the job", lambda job=job: (row := look(job))["ended_at"] and row, within=900)
        assert ended["status"] == "succeeded", ended["reason"]
        assert curve(olga, job) == list(range(1, ended["steps"] + 1)), "every step once: an orderly stop repeats none"
        runs += len(ended["runs"])
    # The worker's own restart is the one that a job felt: it saved, went back into the queue and was claimed again.
    assert runs == len(jobs) + 1

    promoted = olga("POST", f"projects/helpful/jobs/{jobs[-1]}/promote", {"name": "judge"})
    until("the promotion", lambda: look(promoted["id"])["ended_at"], within=400)
    assert "judge" in {model["name"] for model in olga("GET", "projects/helpful/models")["items"]}
    assert shell(topology, f"Vote.objects.filter(public_id__in={votes!r}).count()") == str(len(PARTS) + 1)
    # Both old worker processes ended in order, though the database had been started again under one of them.
    assert shell(topology, "Worker.objects.filter(ended_at=None).count(), Worker.objects.count()") == "2 4"


def shell(topology: Topology, expression: str) -> str:
    """The value of an expression over the rows."""
    models = "from annotation.models import *; from training.models import *"
    return topology.run("python", "-c", f"import django; django.setup(); {models}; print({expression})").splitlines()[
        -1
    ]


def test_the_site_is_ready_and_nothing_is_wrong_with_its_settings(topology):
    connection = http.client.HTTPConnection("127.0.0.1", topology.web, timeout=30)
    connection.request("GET", "/readyz", headers={"Host": HOST})
    answer = connection.getresponse()
    body = json.loads(answer.read())
    assert (answer.status, body["status"], body["warnings"]) == (200, "ok", [])
    topology.run("python", "manage.py", "check", "--deploy", "--fail-level", "WARNING")


def test_a_backup_of_the_running_site_is_whole(topology):
    made = topology.run("python", "manage.py", "backup", str(topology.root / "backups"))
    directory = made.rpartition("Backup: ")[2].strip()
    assert "have their hashes" in topology.run("python", "manage.py", "restore", directory, "--check")


def test_a_sick_part_is_seen(topology):
    """The health checks can fail: a tick that stands still, a web that is not there."""
    tick = topology.parts["tick"]
    tick.stop()
    alive = topology.data / "tick.alive"
    os.utime(alive, (time.time() - 60, time.time() - 60))
    assert not tick.is_healthy()
    tick.start()
    tick.until_healthy(within=60)
    web = topology.parts["web"]
    web.stop()
    assert not web.is_healthy()
    web.start()
    web.until_healthy(within=60)


def test_many_clients_share_few_connections_of_a_pooler():
    """The profile of pgbouncer: votes by many at once, the session's limits in force, a backup in one transaction."""
    with running("web", pooled=True) as pooled:
        tokens = pooled.seed()["tokens"]

        def vote(name: str) -> list[str]:
            """Some votes of one person, one after the other."""
            person, made = Api(pooled.web, tokens[name]), []
            for _ in range(4):
                (task,) = person("POST", "annotate/projects/helpful/queue", {"tab": "tab", "n": 1})["items"]
                path = f"annotate/assignments/{task['assignment']}/vote"
                made.append(person("POST", path, {"choice": "left", "active_ms": 4200}, key=str(uuid.uuid4()))["vote"])
            return made

        for token in tokens.values():  # what a process loads with its first request is not what is tried here
            Api(pooled.web, token)("GET", "session")
        with ThreadPoolExecutor(20) as clients:
            looks = [
                clients.submit(Api(pooled.web, tokens["olga"]), "GET", "projects/helpful/overview") for _ in range(24)
            ]
            votes = list(clients.map(vote, ["ann", "voter-0", "voter-1", "voter-2"]))
            assert all(look.result()["counts"]["votes"] >= 180 for look in looks)
        assert shell(pooled, f"Vote.objects.filter(public_id__in={[*chain(*votes)]!r}).count()") == "16"
        limits = """
import django; django.setup()
from django.db import connection
with connection.cursor() as cursor:
    for name in ("lock_timeout", "idle_in_transaction_session_timeout"):
        cursor.execute(f"SHOW {name}")
        print(cursor.fetchone()[0])
    cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
    print(cursor.fetchone()[0])
"""
        *found, connections = pooled.run("python", "-c", limits).split()
        assert found == ["3s", "30s"]
        assert 1 <= int(connections) <= 20
        made = pooled.run("python", "manage.py", "backup", str(pooled.root / "backups"))
        assert "have their hashes" in pooled.run(
            "python", "manage.py", "restore", made.rpartition("Backup: ")[2].strip(), "--check"
        )
