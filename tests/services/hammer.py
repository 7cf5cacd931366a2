"""Voters as real processes against a real web server that is killed under them, and the checker of what is left.

    python -m tests.services.hammer seed    make an empty database into a project with voters; prints their tokens
    python -m tests.services.hammer client  vote for some seconds; one line for each answer, synced to the disk
    python -m tests.services.hammer prove   50 clients until 2,000 comparisons have their 3 votes, on PostgreSQL, with
                                            two kills; then 8 clients and 150 comparisons on SQLite; prints the figures

A client writes down the key that the server *echoed*, and only after the answer: a tool that pairs answers with
requests by itself may mix them up after a reconnect. The checker is SQL over the rows, and knows nothing of the code
that wrote them. Only for scratch databases: leases are made to run out by hand.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg

HOST = "127.0.0.1"
PROJECT = "hammer"
LONG_AGO = "2000-01-01 00:00:00+00:00"
Execute = Callable[[str], list[tuple[Any, ...]]]


# --- the site ---------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Site:
    """A scratch database and the web processes on it; `url` empty is SQLite in the directory."""

    directory: Path
    port: int
    url: str = ""
    workers: int = 1
    threads: int = 16
    tokens: list[str] = field(default_factory=list)
    kills: int = 0
    _process: subprocess.Popen[bytes] | None = None

    @property
    def environ(self) -> dict[str, str]:
        base = {name: value for name, value in os.environ.items() if not name.startswith("WINNOW_")}
        chosen = {"WINNOW_DATA_DIR": str(self.directory / "data"), "WINNOW_LOG_LEVEL": "WARNING"}
        chosen |= {"WINNOW_DATABASE_URL": self.url} if self.url else {}
        return base | chosen | {"DJANGO_SETTINGS_MODULE": "winnow.settings"}

    def seed(self, *, comparisons: int, overlap: int, people: int) -> None:
        """Make the database."""
        command = [sys.executable, "-m", "tests.services.hammer", "seed", str(comparisons), str(overlap), str(people)]
        done = subprocess.run(command, env=self.environ, check=True, stdout=subprocess.PIPE, timeout=120)
        self.tokens = json.loads(done.stdout.splitlines()[-1])

    def start(self) -> None:
        """Start the web and wait until it answers."""
        command = [
            sys.executable, "-m", "gunicorn", "winnow.wsgi:application", "--worker-class=gthread",
            f"--workers={self.workers}", f"--threads={self.threads}", f"--bind={HOST}:{self.port}", "--keep-alive=65",
            "--no-control-socket", "--log-level=warning",
        ]  # fmt: skip
        with (self.directory / "web.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, env=self.environ, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                connection = http.client.HTTPConnection(HOST, self.port, timeout=5)
                connection.request("GET", "/healthz")
                if connection.getresponse().status == 200:
                    return
            except OSError:
                time.sleep(0.05)
        raise TimeoutError((self.directory / "web.log").read_text()[-2000:])

    def kill(self) -> None:
        """kill −9 of all web processes at once."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
            self.kills += 1

    @contextmanager
    def database(self) -> Iterator[Execute]:
        """SQL from outside of the application."""
        if self.url:
            with psycopg.connect(self.url, autocommit=True) as connection:
                yield lambda sql: _postgres_rows(connection, sql)
            return
        file = self.directory / "data" / "winnow.sqlite3"
        lite = sqlite3.connect(file, timeout=20, isolation_level=None)
        try:
            yield lambda sql: lite.execute(sql).fetchall()
        finally:
            lite.close()


def _postgres_rows(connection: psycopg.Connection[Any], sql: str) -> list[tuple[Any, ...]]:
    cursor = connection.execute(sql)
    return cursor.fetchall() if cursor.description else []


def let_leases_run_out(execute: Execute, *, rng: random.Random, lock: str) -> None:
    """Every third live lease is over, as if its quarter of an hour had passed.

    `lock` is what keeps this away from slots that a request holds: else the two might wait for each other.
    """
    execute("BEGIN" if lock else "BEGIN IMMEDIATE")  # SQLite never waits to turn a read into a write
    third = f"state = 'leased' AND number % 3 = {rng.randrange(3)}"
    held = execute(f"SELECT id, assignment_id FROM annotation_slot WHERE {third} {lock}")
    for table, ids in (("slot", [row[0] for row in held]), ("assignment", [row[1] for row in held])):
        if ids:
            chosen = ", ".join(map(str, ids))
            execute(f"UPDATE annotation_{table} SET lease_expires_at = '{LONG_AGO}' WHERE id IN ({chosen})")
    execute("COMMIT")


def hammer(site: Site, *, clients: int, tokens: Sequence[str], seconds: float, kills: int) -> list[Path]:
    """Let clients vote while leases run out and the web is killed; the files of what they were told."""
    files = [site.directory / f"client-{i}.jsonl" for i in range(clients)]
    command = [sys.executable, "-m", "tests.services.hammer", "client", str(site.port), str(seconds)]
    processes = [
        subprocess.Popen([*command, tokens[i % len(tokens)], str(file), str(i)], env=site.environ)
        for i, file in enumerate(files)
    ]
    with leases_run_out(site, every=0.7):
        try:
            started = time.monotonic()
            for number in range(1, kills + 1):
                time.sleep(max(0.0, started + seconds * number / (kills + 1) - time.monotonic()))
                site.kill()
                site.start()
            for process in processes:
                assert process.wait(seconds + 60) == 0, "a client broke"
        finally:
            for process in processes:
                process.kill()
                process.wait()
    return files


@contextmanager
def leases_run_out(site: Site, *, every: float) -> Iterator[None]:
    """Let time run for leases while the block runs."""
    over = threading.Event()

    def expire() -> None:
        rng = random.Random(3)
        with site.database() as execute:
            while not over.wait(every):
                let_leases_run_out(execute, rng=rng, lock="FOR NO KEY UPDATE SKIP LOCKED" if site.url else "")

    clock = threading.Thread(target=expire)
    clock.start()
    try:
        yield
    finally:
        over.set()
        clock.join()


# --- the proof --------------------------------------------------------------------------------------------------------

# Live leases and counted votes of each comparison, by the assignments themselves, above what is wanted. A surplus vote
# that was taken back leaves a lease without a slot, which wants no vote: it is left out.
ABOVE_TARGET = """
    SELECT count(*) FROM annotation_comparison c
    LEFT JOIN (
        SELECT comparison_id, count(*) AS n FROM annotation_slot WHERE vote_id IS NOT NULL GROUP BY comparison_id
    ) v ON v.comparison_id = c.id
    LEFT JOIN (
        SELECT a.comparison_id, count(*) AS n FROM annotation_assignment a
        WHERE a.state = 'leased' AND a.purpose = 'wanted' AND a.lease_expires_at > '2001-01-01 00:00:00+00:00' AND (
            EXISTS (SELECT 1 FROM annotation_slot s WHERE s.assignment_id = a.id)
            OR NOT EXISTS (SELECT 1 FROM annotation_vote w WHERE w.assignment_id = a.id))
        GROUP BY a.comparison_id
    ) l ON l.comparison_id = c.id
    WHERE coalesce(v.n, 0) + coalesce(l.n, 0) > c.overlap
"""


@dataclass(kw_only=True)
class Watch:
    """What was seen from outside while the clients voted, once a second."""

    samples: int = 0
    above_target: int = 0
    left: int = -1


def prove(site: Site, *, clients: int, most_seconds: float, kills: int = 2) -> tuple[list[Path], Watch, float]:
    """Let clients vote until every slot is done, killing the web when a third and when two thirds are done.

    Returns:
        The files of the clients, what the watcher saw, and the seconds that it took.
    """
    stop, watch = site.directory / "stop", Watch()
    files = [site.directory / f"prover-{i}.jsonl" for i in range(clients)]
    started = time.monotonic()
    deadline = started + most_seconds
    with site.database() as execute, leases_run_out(site, every=1.5):
        ((slots,),) = execute("SELECT count(*) FROM annotation_slot")
        while watch.left and time.monotonic() < deadline:  # again if a vote was taken back in the last moment
            stop.unlink(missing_ok=True)
            command = [sys.executable, "-m", "tests.services.hammer", "client", str(site.port)]
            command.append(str(deadline - time.monotonic()))
            processes = [
                subprocess.Popen(
                    [*command, site.tokens[i % len(site.tokens)], str(file), str(i), "--stop", str(stop)],
                    env=site.environ,
                )
                for i, file in enumerate(files)
            ]
            try:
                while watch.left and time.monotonic() < deadline:
                    time.sleep(1)
                    watch.samples += 1
                    watch.above_target += execute(ABOVE_TARGET)[0][0]
                    ((watch.left,),) = execute("SELECT count(*) FROM annotation_slot WHERE state <> 'done'")
                    if site.kills < kills and watch.left < slots * (1 - (site.kills + 1) / (kills + 1)):
                        site.kill()
                        site.start()
                stop.touch()
                for process in processes:
                    assert process.wait(60) == 0, "a client broke"
            finally:
                for process in processes:
                    process.kill()
                    process.wait()
            ((watch.left,),) = execute("SELECT count(*) FROM annotation_slot WHERE state <> 'done'")
    return files, watch, time.monotonic() - started


def report(site: Site, *, clients: int, comparisons: int, most_seconds: float) -> bool:
    """Prove on this site and print the figures; whether nothing is wrong."""
    site.seed(comparisons=comparisons, overlap=3, people=clients)
    site.start()
    files, watch, seconds = prove(site, clients=clients, most_seconds=most_seconds)
    answers = read_answers(files)
    with site.database() as execute:
        found = check(execute, answers)
        ((done,),) = execute("SELECT count(*) FROM annotation_slot WHERE vote_id IS NOT NULL")
    web_kills = site.kills
    site.kill()
    figures = {
        "database": "PostgreSQL" if site.url else "SQLite", "clients": clients, "comparisons": comparisons,
        "slots_left": watch.left, "counted": done, "kills": web_kills,
        "disconnects": sum(answer["kind"] == "disconnect" for answer in answers), "seconds": round(seconds),
        "samples": watch.samples, "above_target_seen": watch.above_target,
        **{name: getattr(found, name) for name in found.__slots__},
    }  # fmt: skip
    print(json.dumps(figures), flush=True)
    return not found.faults and watch.left == watch.above_target == 0


# --- the checker ------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True, slots=True)
class Findings:
    """What the rows say of what the clients were told. All but the first block must be 0."""

    acknowledged: int = 0
    replays: int = 0
    retracted: int = 0
    stored: int = 0
    surplus: int = 0

    lost: int = 0  # acknowledged, and not there with this choice
    lost_retractions: int = 0
    doubled: int = 0  # a person's second live vote on a comparison
    above_k: int = 0  # comparisons with more counted votes than wanted
    done_without_vote: int = 0  # slots: done ⇔ a vote that was not taken back
    uncounted: int = 0  # acknowledged as counted, and in no slot though not taken back
    double_counted: int = 0  # a vote in two slots
    server_errors: int = 0
    misunderstandings: int = 0  # answers that contradict an earlier one

    @property
    def faults(self) -> dict[str, int]:
        ledger = {"acknowledged", "replays", "retracted", "stored", "surplus"}
        values = {name: getattr(self, name) for name in self.__slots__}
        return {name: value for name, value in values.items() if name not in ledger and value}


def read_answers(files: Sequence[Path]) -> list[dict[str, Any]]:
    """Every whole line of the clients' files."""
    return [json.loads(line) for file in files for line in file.read_text().splitlines() if line.endswith("}")]


def check(execute: Execute, answers: Sequence[dict[str, Any]]) -> Findings:
    """Compare the rows with what the clients were told."""
    found = Findings()
    votes = {
        UUID(str(key)): (UUID(str(vote)), UUID(str(assignment)), choice, sides, pk)
        for key, vote, assignment, choice, sides, pk in execute(
            "SELECT v.key, v.public_id, a.public_id, v.choice, a.sides, v.id "
            "FROM annotation_vote v JOIN annotation_assignment a ON a.id = v.assignment_id"
        )
    }
    taken_back = {
        UUID(str(vote))
        for (vote,) in execute(
            "SELECT v.public_id FROM annotation_vote v JOIN annotation_retraction r ON r.vote_id = v.id"
        )
    }
    in_slots = Counter(pk for (pk,) in execute("SELECT vote_id FROM annotation_slot WHERE vote_id IS NOT NULL"))
    found.stored = len(votes)
    counted: set[UUID] = set()
    acknowledged: set[UUID] = set()
    for answer in answers:
        kind = answer["kind"]
        if kind == "vote":
            key = UUID(answer["key"])
            found.replays += key in acknowledged
            acknowledged.add(key)
            row = votes.get(key)
            side = answer["choice"]
            if row is None or row[:2] != (UUID(answer["vote"]), UUID(answer["assignment"])):
                found.lost += 1
                continue
            found.lost += row[2] != ("tie" if side == "tie" else row[3][side == "right"])
            if answer["counted"]:
                counted.add(key)
        elif kind == "retraction":
            found.retracted += 1
            found.lost_retractions += UUID(answer["vote"]) not in taken_back
        elif kind == "server_error":
            found.server_errors += 1
        elif kind == "misunderstanding":
            found.misunderstandings += 1
    found.acknowledged = len(acknowledged)
    found.uncounted = sum(
        votes[key][0] not in taken_back and in_slots[votes[key][4]] == 0 for key in counted if key in votes
    )
    found.double_counted = sum(number > 1 for number in in_slots.values())
    live = "annotation_vote v LEFT JOIN annotation_retraction r ON r.vote_id = v.id WHERE r.id IS NULL"
    found.doubled = len(
        execute(f"SELECT 1 FROM {live} GROUP BY v.comparison_id, v.annotator_id, v.repetition HAVING count(*) > 1")
    )
    found.above_k = len(
        execute(
            "SELECT c.id FROM annotation_comparison c JOIN annotation_slot s ON s.comparison_id = c.id "
            "WHERE s.vote_id IS NOT NULL GROUP BY c.id, c.overlap HAVING count(*) > c.overlap"
        )
    )
    ((found.done_without_vote,),) = execute(
        "SELECT count(*) FROM annotation_slot s LEFT JOIN annotation_vote v ON v.id = s.vote_id "
        "LEFT JOIN annotation_retraction r ON r.vote_id = v.id "
        "WHERE (s.state = 'done') <> (v.id IS NOT NULL) OR r.id IS NOT NULL "
        "OR (v.id IS NOT NULL AND (v.comparison_id <> s.comparison_id OR v.assignment_id <> s.assignment_id))"
    )
    ((standing,),) = execute(f"SELECT count(*) FROM {live}")
    found.surplus = standing - sum(in_slots.values())
    return found


# --- a client ---------------------------------------------------------------------------------------------------------


class Client:
    """One person in one tab, who is sometimes hasty, sometimes gone, and asks again until an answer comes."""

    def __init__(
        self, *, port: int, token: str, file: Path, seed: int, seconds: float, stop: Path | None = None
    ) -> None:
        self.port, self.token, self.seed, self.stop = port, token, seed, stop
        self.rng = random.Random(seed)
        self.deadline = time.monotonic() + seconds
        self.file = file.open("a")
        self.connection: http.client.HTTPConnection | None = None
        self.sent: list[tuple[str, UUID, str, str]] = []  # assignment, key, choice, vote
        self.later: list[str] = []
        self.tab = f"tab-{seed}-0"

    def run(self) -> None:
        """Vote until the time is over, or the file appears that says stop."""
        while time.monotonic() < self.deadline and not (self.stop and self.stop.exists()):
            tasks = self.ask(f"projects/{PROJECT}/queue", {"tab": self.tab, "n": self.rng.randint(1, 4)})
            if tasks is None:
                return
            if not tasks[1]["items"]:
                time.sleep(0.05)
                self.replay()
            for task in tasks[1]["items"]:
                if not self.turn(task["assignment"]):
                    break
            if self.rng.random() < 0.3:
                self.ask(f"projects/{PROJECT}/heartbeat", {"tab": self.tab})
            if len(self.later) > 2:
                self.vote(self.later.pop(0), uuid4(), "left")

    def turn(self, assignment: str) -> bool:
        """One task; False: away, to another tab."""
        what = self.rng.random()
        if what < 0.08:  # abandoned: the lease runs out some time
            self.tab = f"tab-{self.seed}-{self.rng.randrange(10**6)}"
            return False
        if what < 0.16:  # thinks for long: somebody else may have it meanwhile
            self.later.append(assignment)
            return True
        if what < 0.19:
            self.ask(f"assignments/{assignment}/skip", {"reason": "rather_not"})
            return True
        key, choice = uuid4(), self.rng.choice(("left", "right", "tie"))
        told = self.vote(assignment, key, choice)
        if told is not None and what < 0.26:
            self.replay()
        if told is not None and 0.26 < what < 0.3:
            done = self.ask(f"votes/{told['vote']}/retract", {})
            if done is not None and done[0] == 200:
                self.write(kind="retraction", vote=told["vote"])
        return True

    def replay(self) -> None:
        """An old request once more, as it was, and perhaps once with another answer."""
        if self.sent:
            assignment, key, choice, vote = self.rng.choice(self.sent)
            told = self.vote(assignment, key, choice)
            if told is not None and told["vote"] != vote:
                self.write(kind="misunderstanding", about="a replay is another vote")
            if self.rng.random() < 0.3:
                other = "left" if choice != "left" else "right"
                answer = self.ask(f"assignments/{assignment}/vote", {"choice": other}, key=key)
                if answer is not None and answer[0] != 409:
                    self.write(kind="misunderstanding", about="another answer under the same key")

    def vote(self, assignment: str, key: UUID, choice: str) -> dict[str, Any] | None:
        """Send a vote until it is answered; what was answered, if it was stored."""
        answer = self.ask(f"assignments/{assignment}/vote", {"choice": choice, "active_ms": 1000}, key=key)
        if answer is None or answer[0] not in {200, 201}:
            return None
        told = answer[1]
        if told["key"] != str(key):
            self.write(kind="misunderstanding", about="the echo of another key")
        self.write(
            kind="vote",
            key=told["key"],
            vote=told["vote"],
            assignment=assignment,
            choice=choice,
            counted=told["counted"],
        )
        self.sent.append((assignment, key, choice, told["vote"]))
        return dict(told)

    def ask(self, path: str, body: dict[str, Any], *, key: UUID | None = None) -> tuple[int, Any] | None:
        """Post until an answer comes, with a new connection after each failure; None when the time is over."""
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        headers |= {"Idempotency-Key": str(key)} if key else {}
        while time.monotonic() < self.deadline + 10:
            try:
                if self.connection is None:
                    self.connection = http.client.HTTPConnection(HOST, self.port, timeout=20)
                self.connection.request("POST", f"/api/v1/annotate/{path}", json.dumps(body), headers)
                if self.rng.random() < 0.03:  # gone before the answer: the same request is sent again
                    self.write(kind="disconnect", path=path)
                    raise ConnectionError("closed by this client")
                response = self.connection.getresponse()
                content = response.read()
            except (OSError, http.client.HTTPException):
                if self.connection is not None:
                    self.connection.close()
                self.connection = None
                time.sleep(0.05)
                continue
            if response.status >= 500:
                self.write(kind="server_error", status=response.status, path=path)
                time.sleep(0.05)
                continue
            return response.status, json.loads(content) if content else None
        return None

    def write(self, **line: Any) -> None:
        """To the disk before anything else happens."""
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()
        os.fsync(self.file.fileno())


def seed(*, comparisons: int, overlap: int, people: int) -> list[str]:
    """Migrate, and make a project with its voters; their tokens."""
    import django  # the clients need none of it

    django.setup()
    from django.core.management import call_command
    from django.utils import timezone

    from annotation.models import TokenScope
    from annotation.people import create_token
    from tests import builders

    call_command("migrate", verbosity=0, interactive=False)
    project = builders.project(slug=PROJECT, overlap=overlap)
    builders.comparisons(project, comparisons)
    tokens = []
    for i in range(people):
        person = builders.member(project, f"voter{i}")
        scopes = [TokenScope.READ, TokenScope.WRITE]
        tokens.append(
            create_token(user=person, name="t", scopes=scopes, project=None, expires_days=1, now=timezone.now())[1]
        )
    return tokens


def main(arguments: Sequence[str]) -> None:
    """One of the two commands."""
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    seeding = commands.add_parser("seed")
    for name in ("comparisons", "overlap", "people"):
        seeding.add_argument(name, type=int)
    voting = commands.add_parser("client")
    for name, kind in (("port", int), ("seconds", float), ("token", str), ("file", Path), ("seed", int)):
        voting.add_argument(name, type=kind)
    voting.add_argument("--stop", type=Path)
    proving = commands.add_parser("prove")
    for name, value in (("clients", 50), ("comparisons", 2000), ("most-seconds", 1200)):
        proving.add_argument(f"--{name}", type=int, default=value)
    chosen = vars(parser.parse_args(arguments))
    match chosen.pop("command"):
        case "seed":
            print(json.dumps(seed(**chosen)))
        case "client":
            Client(**chosen).run()
        case _:
            sys.exit(not prove_both(**chosen))


def prove_both(*, clients: int, comparisons: int, most_seconds: float) -> bool:
    """On PostgreSQL as asked for, on SQLite with 8 clients and 150 comparisons at most."""
    from tests.services.servers import free_port, postgres_database  # a client needs neither

    with tempfile.TemporaryDirectory(prefix="winnow-prove-") as root, postgres_database() as url:
        large = Site(directory=Path(root), port=free_port(), url=url, workers=2, threads=8)
        holds = report(large, clients=clients, comparisons=comparisons, most_seconds=most_seconds)
    with tempfile.TemporaryDirectory(prefix="winnow-prove-") as root:
        small = Site(directory=Path(root), port=free_port())
        few = min(8, clients)
        return report(small, clients=few, comparisons=min(150, comparisons), most_seconds=most_seconds) and holds


if __name__ == "__main__":
    main(sys.argv[1:])
