"""A PostgreSQL and a Redis of our own that can be killed and started again on the same data and port.

`tests.services.servers` may hand out a server that somebody else uses; nothing of that kind is killed here.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psycopg
import redis

from tests.services.servers import (
    START_SECONDS,
    free_port,
    postgres_binaries,
    postgres_user,
    redis_binary,
    run_as,
    start_redis,
)


class Postgres:
    """One server and one empty database; a start after a kill is a crash recovery."""

    def __init__(self, root: Path) -> None:
        """Make the data directory; `start` must follow.

        Raises:
            NoService: PostgreSQL is not installed.
        """
        self._binaries, self._user = postgres_binaries(), postgres_user()
        self._root = root / "postgres"
        self._root.mkdir()
        if self._user:
            root.chmod(0o711)  # so that the other user gets to its own directory
            shutil.chown(self._root, self._user)
        self._data, self._port = self._root / "data", free_port()
        self._run("initdb", "-D", self._data, "-A", "trust", "-U", "postgres", "--no-sync")

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self._port}/postgres"

    def start(self) -> None:
        """Start and wait until it answers; after a kill its former processes may take a moment to be gone."""
        options = f"-p {self._port} -k {self._root} -c listen_addresses=127.0.0.1 -c max_connections=200"
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self._pg_ctl("-l", self._root / "log", "-o", options, "start")
                return
            except subprocess.CalledProcessError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def stop(self) -> None:
        """A crash with all its processes; a second call does nothing."""
        with contextlib.suppress(subprocess.CalledProcessError):
            self._pg_ctl("-m", "immediate", "stop")

    def kill(self) -> None:
        """kill −9 of the server's first process; the others end when they see it gone."""
        os.kill(int((self._data / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)

    def _pg_ctl(self, *arguments: str | Path) -> None:
        self._run("pg_ctl", "-D", self._data, "-w", "-t", "60", *arguments)

    def _run(self, program: str, *arguments: str | Path) -> None:
        run_as(self._user, [self._binaries / program, *arguments], cwd=self._root)


class Rows:
    """SQL from outside of the application, on a connection that is made anew when the server was away."""

    def __init__(self, url: str, *, patience_seconds: float = 60.0) -> None:
        self._url, self._patience_seconds = url, patience_seconds
        self._connection: psycopg.Connection | None = None

    def __call__(self, query: str, *values: object) -> list[tuple]:
        """The rows; waits for a server that does not answer.

        Raises:
            psycopg.OperationalError: it does not come back.
        """
        deadline = time.monotonic() + self._patience_seconds
        while True:
            try:
                if self._connection is None:
                    self._connection = psycopg.connect(self._url, autocommit=True, connect_timeout=5)
                return self._connection.execute(query, values).fetchall()
            except psycopg.OperationalError:
                self.close()
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def close(self) -> None:
        """The next query connects again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Redis:
    """One server without persistence: what waits in a queue when it dies is lost."""

    def __init__(self, root: Path) -> None:
        """Make its directory; `start` must follow.

        Raises:
            NoService: neither Redis nor Valkey is installed.
        """
        redis_binary()
        self._root, self._port = root / "redis", free_port()
        self._root.mkdir()
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, database: int = 0) -> str:
        """Its address; workers listen to database 0."""
        return f"redis://127.0.0.1:{self._port}/{database}"

    def client(self, database: int = 0) -> redis.Redis:
        """A connection, to be closed by the caller."""
        return redis.Redis.from_url(self.url(database))

    def start(self) -> None:
        """Start and wait until it answers."""
        self._process = start_redis(self._root, self._port)

    def stop(self) -> None:
        """SIGTERM, an orderly restart; a second call does nothing."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """kill −9."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(30)
            self._process = None
