"""docker-compose.yml as processes on this machine: its own commands, environment and health checks, real servers.

Only what a container brings is put in its place: names of hosts become ports of 127.0.0.1, `/data` becomes a directory,
and programs are those of this machine. PostgreSQL alone is started by the image's own entry point, which does here what
`initdb` does.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.services.servers import NoService, free_port
from winnow.env import BASE_DIR

HOST = "winnow.example.org"
_SYSTEM = f"{os.environ['PATH']}:/usr/sbin"
_VARIABLE = re.compile(r"\$\$|\$\{(\w+)(?:(:[-?])([^}]*))?\}")


def compose() -> dict[str, Any]:
    """The file as it stands, anchors resolved and variables not."""
    return yaml.safe_load((BASE_DIR / "docker-compose.yml").read_text())


def secrets_of_env() -> dict[str, str]:
    """What docs/DEPLOYMENT.md puts into `.env`."""
    made = {name: secrets.token_urlsafe(40) for name in ("WINNOW_SECRET_KEY", "POSTGRES_PASSWORD", "REDIS_PASSWORD")}
    return {"WINNOW_HOSTS": HOST, **made}


def interpolate(value: Any, environ: dict[str, str]) -> Any:
    """`${NAME}`, `${NAME:-default}`, `${NAME:?message}` and `$$`, as compose reads them."""
    if isinstance(value, dict):
        return {key: interpolate(item, environ) for key, item in value.items()}
    if isinstance(value, list):
        return [interpolate(item, environ) for item in value]
    if not isinstance(value, str):
        return value

    def found(match: re.Match[str]) -> str:
        name, how, rest = match.groups()
        if name is None:
            return "$"
        if environ.get(name):
            return environ[name]
        if how == ":-":
            return str(rest)
        raise KeyError(f"{name}: {rest}")

    return _VARIABLE.sub(found, value)


def seconds(text: str) -> float:
    """Compose's durations, of which the file has only seconds."""
    assert re.fullmatch(r"\d+s", text), text
    return float(text[:-1])


def image_environment() -> dict[str, str]:
    """What the Dockerfile's ENV lines give to every process of ours."""
    text = (BASE_DIR / "Dockerfile").read_text().replace("\\\n", " ")
    base = text.partition("FROM python:")[2].partition("\nFROM ")[0]
    lines = [line.removeprefix("ENV ") for line in base.splitlines() if line.startswith("ENV ")]
    return dict(pair.split("=", 1) for line in lines for pair in line.split())


@dataclass(kw_only=True)
class Part:
    """One service as a process."""

    name: str
    command: list[str]
    environ: dict[str, str]
    health: list[str] | None
    grace_seconds: float
    stop_signal: signal.Signals
    log: Path
    user: str | None = None
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, env=self.environ, cwd=BASE_DIR if self.user is None else self.log.parent,
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                user=self.user, group=self.user, extra_groups=[] if self.user else None,
            )  # fmt: skip

    def is_healthy(self) -> bool:
        """The service's own health check, run as the container's engine runs it."""
        assert self.health is not None
        done = subprocess.run(self.health, env=self.environ, cwd=BASE_DIR, capture_output=True, timeout=60, check=False)
        return done.returncode == 0

    def until_healthy(self, *, within: float) -> None:
        deadline = time.monotonic() + within
        while not self.is_healthy():
            assert self.process is None or self.process.poll() is None, f"{self.name} ended: {self.tail()}"
            assert time.monotonic() < deadline, f"{self.name} is not healthy after {within} s: {self.tail()}"
            time.sleep(0.2)

    def stop(self) -> int:
        """As `docker stop`: its signal, its grace, and an end by force is a failure."""
        assert self.process is not None
        self.process.send_signal(self.stop_signal)
        try:
            return self.process.wait(self.grace_seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} outlived its grace of {self.grace_seconds} s: {self.tail()}") from None

    def kill(self) -> None:
        """Whatever is left of it."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""


@dataclass(kw_only=True)
class Topology:
    """All parts of one installation in a directory."""

    root: Path
    env: dict[str, str] = field(default_factory=secrets_of_env)
    pooled: bool = False  # with the profile of pgbouncer, as its comment in the file says
    parts: dict[str, Part] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.web, self.postgres, self.redis, self.pgbouncer = (free_port() for _ in range(4))
        self.env |= {"WINNOW_THREADS": "1"}  # several threads of a tiny model wait for each other
        if self.pooled:
            self.env |= {"POSTGRES_ADDRESS": "pgbouncer:6432", "WINNOW_DATABASE_POOLED": "true"}
        self.data = self.root / "data"
        for name in ("data", "redis", "home"):
            (self.root / name).mkdir()
        services = interpolate(compose()["services"], self.env)
        for name in ("migrate", "web", "worker-cpu", "worker-gpu", "tick"):
            self.parts[name] = self._ours(name, services[name])
        self.parts["redis"] = self._redis(services["redis"])
        self.parts["postgres"] = self._postgres(services["postgres"])
        if self.pooled:
            self.parts["pgbouncer"] = self._pooler(services["pgbouncer"])

    # --- the parts ------------------------------------------------------------------------------------------------

    def _here(self, value: Any) -> Any:
        """What a container's network and volumes make of a value."""
        if isinstance(value, list):
            return [self._here(item) for item in value]
        for ours, here in {
            "postgres:5432": f"127.0.0.1:{self.postgres}",
            "redis:6379": f"127.0.0.1:{self.redis}",
            "pgbouncer:6432": f"127.0.0.1:{self.pgbouncer}",
            "0.0.0.0:8000": f"127.0.0.1:{self.web}",
            "127.0.0.1:8000": f"127.0.0.1:{self.web}",
        }.items():
            value = value.replace(ours, here)
        return re.sub(r"(^|')/data\b", rf"\g<1>{self.data}", value)

    def _ours(self, name: str, service: dict[str, Any]) -> Part:
        chosen = image_environment() | {key: self._here(value) for key, value in service["environment"].items()}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environ = chosen | {"HOME": str(self.root / "home"), "PATH": path}
        health = service.get("healthcheck")
        return Part(
            name=name,
            command=self._here(service["command"]),
            environ=environ,
            health=self._test(health) if health else None,
            grace_seconds=seconds(service.get("stop_grace_period", "10s")),
            stop_signal=signal.SIGTERM,
            log=self.root / f"{name}.log",
        )

    def _test(self, health: dict[str, Any]) -> list[str]:
        kind, *command = health["test"]
        assert kind == "CMD"
        return self._here(command)

    def _redis(self, service: dict[str, Any]) -> Part:
        if not shutil.which("redis-server"):
            raise NoService("no Redis server (Debian: apt install redis-server)")
        *shell, script = service["command"]
        home = self.root / "redis"
        *before, conf, after = script.replace("/tmp/", f"{home}/").partition("/redis.conf --")
        assert conf
        script = f"{''.join(before)}/redis.conf --port {self.redis} --bind 127.0.0.1 --dir {home} --{after}"
        program, *rest = self._test(service["healthcheck"])
        return Part(
            name="redis",
            command=[*shell, script],
            environ=service["environment"] | {"PATH": os.environ["PATH"]},
            health=[program, "-p", str(self.redis), *rest],
            grace_seconds=seconds(service.get("stop_grace_period", "10s")),
            stop_signal=signal.SIGTERM,
            log=self.root / "redis.log",
        )

    def _postgres(self, service: dict[str, Any]) -> Part:
        """A server as the image makes one: a superuser with a password and its database, passwords by SCRAM."""
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
        if not found:
            raise NoService("no PostgreSQL server (Debian: apt install postgresql)")
        chosen = service["environment"]
        home = self.root / "postgres"
        home.mkdir(mode=0o755)
        user = "postgres" if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root
        secret = home / "password"
        secret.write_text(chosen["POSTGRES_PASSWORD"])
        if user:
            shutil.chown(home, user)
            shutil.chown(secret, user)
            self.root.chmod(0o711)
        environ = {"PATH": os.environ["PATH"], "HOME": pwd.getpwnam(user).pw_dir if user else str(home)}
        made = [found[0] / "initdb", "-D", home / "data", "-U", chosen["POSTGRES_USER"], "-A", "scram-sha-256"]
        subprocess.run(
            [*made, "--pwfile", secret, "--no-sync"], check=True, env=environ, cwd=home, stdout=subprocess.DEVNULL,
            user=user, group=user, extra_groups=[] if user else None,
        )  # fmt: skip
        program, *rest = self._test(service["healthcheck"])
        return Part(
            name="postgres",
            command=[
                str(found[0] / "postgres"),
                "-D",
                str(home / "data"),
                "-p",
                str(self.postgres),
                "-k",
                str(home),
                "-c",
                "listen_addresses=127.0.0.1",
            ],
            environ=environ,
            health=[str(found[0] / program), "-h", "127.0.0.1", "-p", str(self.postgres), *rest],
            grace_seconds=seconds(service["stop_grace_period"]),
            stop_signal=signal.SIGINT,  # the image's STOPSIGNAL: a fast shutdown
            log=home / "log",
            user=user,
        )

    def _pooler(self, service: dict[str, Any]) -> Part:
        if not shutil.which("pgbouncer", path=_SYSTEM):
            raise NoService("no pgbouncer (Debian: apt install pgbouncer)")
        home = self.root / "pgbouncer"
        home.mkdir()
        config = (BASE_DIR / "deploy" / "pgbouncer.ini").read_text()
        for ours, here in {
            "host=postgres port=5432": f"host=127.0.0.1 port={self.postgres}",
            "listen_addr = 0.0.0.0": "listen_addr = 127.0.0.1",
            "listen_port = 6432": f"listen_port = {self.pgbouncer}",
            "/tmp/": f"{home}/",
        }.items():
            assert ours in config
            config = config.replace(ours, here)
        (home / "pgbouncer.ini").write_text(config)
        user = "postgres" if os.geteuid() == 0 else None  # neither does it run as root
        if user:
            shutil.chown(home, user)
        *shell, script = service["command"]
        test = [str(self.pgbouncer) if word == "6432" else word for word in self._test(service["healthcheck"])]
        return Part(
            name="pgbouncer",
            command=[*shell, re.sub("/tmp/|/etc/pgbouncer/", f"{home}/", script)],
            environ=service["environment"] | {"PATH": _SYSTEM, "HOME": str(home)},
            health=test,
            grace_seconds=seconds(service.get("stop_grace_period", "10s")),
            stop_signal=signal.SIGTERM,
            log=home / "log",
            user=user,
        )

    # --- life -----------------------------------------------------------------------------------------------------

    def start(self, *ours: str) -> None:
        """These of ours in the order of `depends_on`, each when what it needs is healthy."""
        for name in ("postgres", "redis"):
            self.parts[name].start()
            self.parts[name].until_healthy(within=60)
        password = {"PGPASSWORD": self.env["POSTGRES_PASSWORD"], "PATH": os.environ["PATH"]}
        create = ["createdb", "-h", "127.0.0.1", "-p", str(self.postgres), "-U", "winnow", "winnow"]
        subprocess.run(create, env=password, check=True, timeout=60)
        migrate = self.parts["migrate"]
        migrate.start()
        assert migrate.process is not None
        assert migrate.process.wait(300) == 0, migrate.tail()
        if self.pooled:
            self.parts["pgbouncer"].start()
            self.parts["pgbouncer"].until_healthy(within=60)
        for name in ours:
            self.parts[name].start()
        for name in ours:
            self.parts[name].until_healthy(within=300)

    def restart(self, name: str) -> None:
        """As `docker compose restart`: stop within the grace, start, healthy again."""
        part = self.parts[name]
        part.stop()
        part.start()
        part.until_healthy(within=300)

    def stop(self) -> None:
        """The end of a test: nothing of it is left."""
        for part in reversed(self.parts.values()):
            part.kill()

    def run(self, *command: str, service: str = "web") -> str:
        """A command in a service's environment, as `docker compose exec` runs it; what it printed."""
        done = subprocess.run(
            command, env=self.parts[service].environ, cwd=BASE_DIR, capture_output=True, text=True, timeout=300,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def seed(self) -> dict[str, Any]:
        """A project with settled comparisons and open ones, a tiny model, and tokens: `tests.deployment.seed`."""
        printed = self.run("python", "-m", "tests.deployment.seed", service="worker-gpu")
        return json.loads(printed.splitlines()[-1])
