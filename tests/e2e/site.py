"""A whole Winnow on a free port for browser tests: real web, gpu worker and tick, with data of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.receiver import Receiver, receiver
from winnow.client import Client
from winnow.env import BASE_DIR, read_environment
from winnow.supervisor import Group, programs, wait_until_serving

CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where the site is, and its owner's account."""

    url: str
    data_dir: Path
    environ: dict[str, str]
    group: Group
    email: str
    password: str
    hook: str
    """Where a webhook may send to: a server of this machine that takes everything."""

    def api(self) -> Client:
        """A client signed in as the owner."""
        client = Client(self.url)
        client.sign_in(self.email, self.password)
        return client


def manage(environ: dict[str, str], *arguments: str) -> str:
    """A management command on the site's data."""
    done = subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=BASE_DIR,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def running_site(data_dir: Path) -> Iterator[Site]:
    """Migrate, make an owner, start everything; stop it all at the end."""
    with receiver() as hook:
        yield from _running(data_dir, hook)


def _running(data_dir: Path, hook: Receiver) -> Iterator[Site]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("WINNOW_", "PYTEST"))}
    environ = {
        **kept,
        "WINNOW_DATA_DIR": str(data_dir),
        "WINNOW_PORT": str(port),
        "WINNOW_MODEL_ROOTS": str(data_dir),
        "WINNOW_LOG_FORMAT": "text",
        # Threads gain nothing on a tiny model, and on a busy machine they wait for each other at every step.
        "OMP_NUM_THREADS": "1",
        "WINNOW_OUTBOUND": hook.endpoint,
        "DJANGO_SETTINGS_MODULE": "winnow.settings",
    }
    manage(environ, "migrate", "--verbosity", "0")
    email, password = manage(environ, "create_account", "olga@example.org", "--name", "Olga", "--operator").split()
    log = (data_dir / "log.txt").open("w")
    group = Group(programs(read_environment(environ)), environ=environ, log=log)
    group.start()
    url = f"http://127.0.0.1:{port}"
    try:
        assert wait_until_serving(url, seconds=60, give_up=lambda: group.failure is not None), group.failure
        yield Site(
            url=url, data_dir=data_dir, environ=environ, group=group, email=email, password=password, hook=hook.url
        )
    finally:
        group.stop()
        log.close()
