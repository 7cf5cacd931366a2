"""Real PostgreSQL and Redis for tests: found, or started in a temporary directory and gone afterwards.

As a program it runs a command with a scratch database: `python -m tests.services.servers python -m pytest`.
WINNOW_TEST_DATABASE_URL names a server to use instead (its user must be allowed to create databases).
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import redis
from psycopg import sql

START_SECONDS = 60.0
_LOCAL = "postgresql://postgres@127.0.0.1:5432/postgres"


class NoService(RuntimeError):
    """The service is neither running nor installed; the message says what to install."""


@contextmanager
def postgres_database() -> Iterator[str]:
    """The URL of an empty database on a real server, dropped afterwards."""
    with _postgres_server() as server:
        name = f"winnow_scratch_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield urlsplit(server)._replace(path=f"/{name}").geturl()
        finally:
            with psycopg.connect(server, autocommit=True) as connection:
                # Beside it pytest-django's own, one for each process of xdist where they were killed.
                made = connection.execute("SELECT datname FROM pg_database WHERE datname ~ %s", [f"^(test_)?{name}"])
                for (database,) in made.fetchall():
                    connection.execute(
                        sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database))
                    )


@contextmanager
def _postgres_server() -> Iterator[str]:
    """A server's maintenance database: the one from the environment, one that trusts us locally, or our own."""
    for url in filter(None, (os.environ.get("WINNOW_TEST_DATABASE_URL"), _LOCAL)):
        with suppress(psycopg.OperationalError), psycopg.connect(url, connect_timeout=3) as connection:
            row = connection.execute("SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user")
            if row.fetchone() == (True,):
                break
    else:
        with _own_postgres() as url:
            yield url
        return
    yield url


@contextmanager
def _own_postgres() -> Iterator[str]:
    binaries, user, port = postgres_binaries(), postgres_user(), free_port()
    with tempfile.TemporaryDirectory(prefix="winnow-pg-") as root:
        if user:
            shutil.chown(root, user)
        data = Path(root) / "data"
        run_as(user, [binaries / "initdb", "-D", data, "-A", "trust", "-U", "postgres", "--no-sync"], cwd=root)
        options = f"-p {port} -k {root} -c listen_addresses=127.0.0.1 -c fsync=off"
        pg_ctl = [binaries / "pg_ctl", "-D", data, "-w", "-t", "60"]
        run_as(user, [*pg_ctl, "-l", Path(root) / "log", "-o", options, "start"], cwd=root)
        try:
            yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
        finally:
            run_as(user, [*pg_ctl, "-m", "immediate", "stop"], cwd=root)


def postgres_binaries() -> Path:
    """The newest installed PostgreSQL.

    Raises:
        NoService: there is none.
    """
    candidates = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    candidates += [Path(found).parent for found in [shutil.which("initdb")] if found]
    if not candidates:
        raise NoService(
            "no PostgreSQL server: install it (Debian: apt install postgresql) or set WINNOW_TEST_DATABASE_URL"
        )
    return candidates[0]


def postgres_user() -> str | None:
    """Whom to run it as: it refuses to run as root. None: as we are."""
    return "postgres" if os.geteuid() == 0 else None


def run_as(user: str | None, command: Sequence[str | Path], *, cwd: str | Path) -> None:
    """Run a program of PostgreSQL as this user; its words go nowhere.

    Raises:
        CalledProcessError: it failed.
    """
    home = {"HOME": pwd.getpwnam(user).pw_dir} if user else {}
    subprocess.run(
        [str(part) for part in command], check=True, user=user, group=user, extra_groups=[] if user else None, cwd=cwd,
        env=os.environ | home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


@contextmanager
def redis_server() -> Iterator[str]:
    """The URL of a Redis (or Valkey) of our own, empty, gone afterwards; WINNOW_TEST_REDIS_URL names another."""
    if url := os.environ.get("WINNOW_TEST_REDIS_URL"):
        yield url
        return
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="winnow-redis-") as root:
        process = start_redis(root, port)
        try:
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.terminate()
            process.wait(10)


def redis_binary() -> str:
    """The installed Redis, or Valkey.

    Raises:
        NoService: there is neither.
    """
    binary = shutil.which("redis-server") or shutil.which("valkey-server")
    if not binary:
        raise NoService("no Redis server: install it (Debian: apt install redis-server) or set WINNOW_TEST_REDIS_URL")
    return binary


def start_redis(root: str | Path, port: int) -> subprocess.Popen[bytes]:
    """A server without persistence that answers."""
    command = [redis_binary(), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(root)]
    command += ["--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + START_SECONDS
    with redis.Redis.from_url(f"redis://127.0.0.1:{port}/0") as client:
        while True:
            try:
                client.ping()
            except redis.ConnectionError:
                if time.monotonic() > deadline:
                    process.kill()
                    raise
                time.sleep(0.05)
            else:
                return process


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main(command: list[str]) -> int:
    """Run the command with WINNOW_DATABASE_URL set to a scratch database; without a server say so and succeed."""
    try:
        with postgres_database() as url:
            print(f"PostgreSQL: {url}", flush=True)
            return subprocess.run(command, env=os.environ | {"WINNOW_DATABASE_URL": url}, check=False).returncode
    except NoService as error:
        required = os.environ.get("WINNOW_REQUIRE_SERVICES") == "1"
        print(f"{'FAILED' if required else 'SKIPPED'}: the tests on PostgreSQL did not run: {error}")
        return 1 if required else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
