"""All processes of one machine under one roof: `python -m winnow.supervisor` (what `make run` ends in).

It refuses a second start on the same data, prepares the database and the base model, then keeps web, two workers and
the tick alive with one log. A process that dies is restarted after 1, 2, 4 … 30 s; five deaths within a minute end
everything. Ctrl-C stops the workers first (they save a checkpoint), then the tick, then the web; a second Ctrl-C kills.
Children hang on a pipe of the supervisor: when it vanishes, even by SIGKILL, they end themselves. Production uses
containers instead (docs/DEPLOYMENT.md).
"""

from __future__ import annotations

import errno
import fcntl
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from winnow.env import BASE_DIR, Environment, EnvironmentError_, read_environment

DEATHS_ALLOWED, DEATHS_WINDOW_SECONDS = 5, 60.0
LONGEST_BACKOFF_SECONDS = 30.0
WORKER_STOP_SECONDS = 90.0  # an engine ends its step, saves, and its worker gives the job back
LAST_LINES = 30
NETWORK_FILE_SYSTEMS = {
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "9p",
    "fuse.sshfs",
    "afs",
    "ceph",
    "glusterfs",
    "lustre",
}


class StartError(RuntimeError):
    """Winnow cannot start; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Program:
    """One child: a Python module with arguments. A lower `stop_rank` stops first, and has `stop_seconds` to do so."""

    name: str
    module: str
    arguments: Sequence[str]
    stop_rank: int = 1
    stop_seconds: float = WORKER_STOP_SECONDS
    colour: int = 37


@dataclass(kw_only=True, slots=True)
class _Child:
    program: Program
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    restart_at: float = 0.0
    early_deaths: int = 0
    deaths: deque[float] = field(default_factory=lambda: deque(maxlen=DEATHS_ALLOWED))
    last_lines: deque[str] = field(default_factory=lambda: deque(maxlen=LAST_LINES))
    copier: threading.Thread | None = None


class Group:
    """The running programs: `start()`, then either `failure` becomes a text or `stop()` ends them all.

    Args:
        programs: what to run.
        environ: their environment.
        log: where their lines go, with the program's name in front.
    """

    def __init__(self, programs: Sequence[Program], *, environ: Mapping[str, str], log: IO[str] = sys.stdout) -> None:
        self.failure: str | None = None
        self._children = [_Child(program=program) for program in programs]
        self._environ, self._log = {**environ, "PYTHONUNBUFFERED": "1"}, log
        self._width = max(len(program.name) for program in programs)
        self._lifeline_read, self._lifeline_write = os.pipe()
        self._stopping, self._killing = threading.Event(), threading.Event()
        self._log_lock = threading.Lock()
        self._monitor = threading.Thread(target=self._watch, name="monitor", daemon=True)

    def start(self) -> None:
        """Start all programs and the thread that restarts them; returns at once."""
        for child in self._children:
            self._spawn(child)
        self._monitor.start()

    def pid(self, name: str) -> int | None:
        """The process id of a program, None while it waits for its restart."""
        (child,) = (child for child in self._children if child.program.name == name)
        return child.process.pid if child.process else None

    def stop(self) -> None:
        """Stop rank by rank (workers, tick, web), killing what does not end in time. A second call does nothing."""
        self._stopping.set()
        if self._monitor.is_alive():
            self._monitor.join()
        for rank in sorted({child.program.stop_rank for child in self._children}):
            running = [child for child in self._children if child.program.stop_rank == rank and child.process]
            for child in running:
                _signal_group(child.process, signal.SIGTERM)
            for child in running:
                self._await_end(child)
                child.process = None
        if self._lifeline_write >= 0:
            os.close(self._lifeline_write)
            os.close(self._lifeline_read)
            self._lifeline_write = -1

    def kill(self) -> None:
        """End a `stop()` that waits: what still runs is killed (callable from a signal handler)."""
        self._killing.set()

    def _spawn(self, child: _Child) -> None:
        program = child.program
        command = (sys.executable, "-m", "winnow.supervisor", "--child", str(self._lifeline_read))
        child.process = subprocess.Popen(
            [*command, program.module, *program.arguments],
            cwd=BASE_DIR,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(self._lifeline_read,),
            start_new_session=True,  # Ctrl-C on the terminal reaches the supervisor alone, which stops them in order
        )
        child.started_at = time.monotonic()
        child.copier = threading.Thread(target=self._copy_lines, args=(child, child.process), daemon=True)
        child.copier.start()

    def _watch(self) -> None:
        while not self._stopping.wait(0.2):
            for child in self._children:
                now = time.monotonic()
                if child.process is None:
                    if now >= child.restart_at:
                        self._spawn(child)
                elif (code := child.process.poll()) is not None:
                    self._bury(child, code, now=now)
                    if self.failure:
                        return

    def _bury(self, child: _Child, code: int, *, now: float) -> None:
        """Plan the restart of a dead child, or give up after too many deaths."""
        _signal_group(child.process, signal.SIGKILL)  # what it may have left behind, such as gunicorn's worker
        child.process = None
        name = child.program.name
        child.deaths.append(now)
        if len(child.deaths) == DEATHS_ALLOWED and now - child.deaths[0] < DEATHS_WINDOW_SECONDS:
            if child.copier:
                child.copier.join(1)
            tail = "\n".join(f"    {line}" for line in child.last_lines)
            self.failure = f"{name} died {DEATHS_ALLOWED} times within a minute. Its last lines:\n{tail}"
            return
        child.early_deaths = 1 if now - child.started_at > DEATHS_WINDOW_SECONDS else child.early_deaths + 1
        backoff_seconds = min(LONGEST_BACKOFF_SECONDS, 2.0 ** (child.early_deaths - 1))
        child.restart_at = now + backoff_seconds
        how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        self.say("winnow", f"{name} ended ({how}); starting it again in {backoff_seconds:.0f} s")

    def _await_end(self, child: _Child) -> None:
        assert child.process is not None
        deadline = time.monotonic() + child.program.stop_seconds
        while child.process.poll() is None:
            if self._killing.is_set() or time.monotonic() > deadline:
                self.say("winnow", f"killing {child.program.name}")
                _signal_group(child.process, signal.SIGKILL)
                child.process.wait()
            time.sleep(0.05)
        _signal_group(child.process, signal.SIGKILL)
        if child.copier:
            child.copier.join(1)  # its last lines

    def _copy_lines(self, child: _Child, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for raw in process.stdout:
            line = raw.decode(errors="replace").rstrip()
            child.last_lines.append(line)
            self.say(child.program.name, line, colour=child.program.colour)

    def say(self, name: str, line: str, *, colour: int = 37) -> None:
        """One line of the common log."""
        prefix = f"{name:<{self._width}} |"
        with self._log_lock:
            print(f"\033[{colour}m{prefix}\033[0m {line}" if self._log.isatty() else f"{prefix} {line}", file=self._log)
            self._log.flush()


def programs(environment: Environment, *, web_processes: int | None = None) -> list[Program]:
    """Web, two workers and tick for this environment.

    Raises:
        StartError: when SQLite is asked to serve several web processes.
    """
    embedded = not environment.database_url
    if embedded and (web_processes or 1) > 1:
        raise StartError(
            f"WEB_CONCURRENCY={web_processes}: SQLite serves one web process. Unset WEB_CONCURRENCY, "
            "or set WINNOW_DATABASE_URL to a PostgreSQL database (docs/DEPLOYMENT.md)."
        )
    workers, threads = (1, 16) if embedded else (web_processes or 2, 8)
    web = [
        *("winnow.wsgi:application", "--worker-class=gthread", f"--workers={workers}", f"--threads={threads}"),
        *(f"--bind={environment.bind}:{environment.port}", "--keep-alive=65", "--graceful-timeout=30"),
        *("--no-control-socket", "--log-level=warning"),
    ]
    celery = [
        *("--quiet", "-A", "winnow.celery", "worker", "-P", "threads", f"--loglevel={environment.log_level}"),
        *("--without-gossip", "--without-mingle", "--without-heartbeat"),
    ]
    tick = ["tick", "--settings", "winnow.settings"]
    return [
        Program("web", "gunicorn", web, stop_rank=3, stop_seconds=35, colour=36),
        Program("cpu", "celery", [*celery, "-Q", "cpu", "-c", "2", "-n", "cpu@%h"], stop_rank=1, colour=33),
        Program("gpu", "celery", [*celery, "-Q", "gpu", "-c", "1", "-n", "gpu@%h"], stop_rank=1, colour=35),
        Program("tick", "django", tick, stop_rank=2, stop_seconds=15, colour=32),
    ]


def lock_data(data_dir: Path) -> IO[str]:
    """Take this data directory for this process, as long as the returned file is open.

    Raises:
        StartError: when another supervisor has it.
    """
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = (data_dir / "lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        file.close()
        raise StartError(
            f"Winnow already runs on {data_dir} (process {holder}). Stop it first, or give this one data of its own: "
            "WINNOW_DATA_DIR=var-2 WINNOW_PORT=8001 make run"
        ) from error
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def check_port(bind: str, port: int) -> None:
    """Try the address before anything starts.

    Raises:
        StartError: naming WINNOW_PORT or WINNOW_BIND.
    """
    try:
        family = socket.getaddrinfo(bind, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((bind, port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise StartError(
                f"Port {port} on {bind} is in use. Choose another one: WINNOW_PORT={port + 1} make run"
            ) from error
        raise StartError(
            f"Cannot listen on {bind}, port {port}: {error.strerror}. Change WINNOW_BIND or WINNOW_PORT."
        ) from error


def on_network_file_system(path: Path, *, mounts: Path = Path("/proc/mounts")) -> str | None:
    """The type of the network file system that holds the path, where the system tells (Linux)."""
    try:
        table = [line.split()[1:3] for line in mounts.read_text().splitlines()]
    except OSError:
        return None
    holding = [(mount, kind) for mount, kind in table if path.is_relative_to(mount)]
    kind = max(holding, key=lambda entry: len(entry[0]), default=("", ""))[1]
    return kind if kind in NETWORK_FILE_SYSTEMS else None


def wait_until_serving(url: str, *, seconds: float, give_up: Callable[[], bool]) -> bool:
    """Ask `/healthz` until it answers; False when time is over or `give_up` says so."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not give_up():
        try:
            with urllib.request.urlopen(f"{url}/healthz", timeout=2) as answer:  # noqa: S310  (our own http address)
                return bool(answer.status == 200)
        except urllib.error.HTTPError:
            return True  # it answers, if only to say that this host name is not among WINNOW_HOSTS
        except OSError:
            time.sleep(0.1)
    return False


def address(environment: Environment) -> str:
    """The site's address for a browser on this machine."""
    host = "127.0.0.1" if environment.bind in {"0.0.0.0", "::"} else environment.bind  # noqa: S104  (compared, not bound)
    return f"http://[{host}]:{environment.port}" if ":" in host else f"http://{host}:{environment.port}"


def welcome(environment: Environment) -> str:
    """Where the site is and how to sign in."""
    accounts = environment.data_dir / "accounts.txt"
    lines = ["", f"  Winnow is at {address(environment)}", ""]
    if accounts.is_file():
        lines += [f"  {line}" for line in accounts.read_text().splitlines()]
        lines += ["", f"  (kept in {accounts})"]
    return "\n".join([*lines, "  Ctrl-C stops everything.", ""])


def serve(environment: Environment, *, web_processes: int | None, insecure: bool) -> int:
    """Lock, check, prepare, run until a signal or a failure; the exit code.

    Raises:
        StartError: before anything was started.
    """
    wanted = programs(environment, web_processes=web_processes)
    if environment.bind not in {"127.0.0.1", "::1", "localhost"} and not environment.tls and not insecure:
        raise StartError(
            f"WINNOW_BIND={environment.bind} would send passwords in clear over the network. Put a TLS proxy in front "
            "(docs/DEPLOYMENT.md), or accept that on a trusted network: make run ARGS=--insecure"
        )
    with lock_data(environment.data_dir):
        check_port(environment.bind, environment.port)
        if kind := on_network_file_system(environment.data_dir):
            print(f"Warning: {environment.data_dir} is on {kind}; SQLite and the broker need a local disk.")
        prepare = [sys.executable, "-m", "django", "prepare", "--settings", "winnow.settings"]
        if code := subprocess.run(prepare, cwd=BASE_DIR, check=False).returncode:
            return code if code > 0 else 130
        style = "text" if environment.log_format == "auto" and sys.stdout.isatty() else environment.log_format
        return _run(environment, Group(wanted, environ=os.environ | {"WINNOW_LOG_FORMAT": style}))


def _run(environment: Environment, group: Group) -> int:
    """Start the group and stop it when a signal asks for it or too much has died."""
    asked = threading.Event()

    def on_signal(*_: object) -> None:
        if asked.is_set():
            group.kill()
        asked.set()

    def is_over() -> bool:
        return asked.is_set() or group.failure is not None

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_signal)
    group.start()
    if wait_until_serving(address(environment), seconds=60, give_up=is_over):
        print(welcome(environment), flush=True)
    while not is_over():
        asked.wait(0.2)
    failure = group.failure
    group.say("winnow", failure or "stopping; running jobs save a checkpoint first (Ctrl-C again kills)")
    group.stop()
    return 1 if failure else 0


def run_child(lifeline: int, module: str, arguments: Sequence[str]) -> None:
    """Become the module, with a thread that ends this process when the supervisor is gone."""

    def watch() -> None:
        os.read(lifeline, 1)  # returns only when the last writer, the supervisor, is gone
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(WORKER_STOP_SECONDS)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "winnow.settings")
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _signal_group(process: subprocess.Popen[bytes] | None, number: signal.Signals) -> None:
    if process is not None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)


def main(argv: Sequence[str]) -> int:
    """The command line: `[--insecure]` to serve, or `--child FD MODULE …` to be one of the children."""
    if argv[:1] == ["--child"]:
        run_child(int(argv[1]), argv[2], argv[3:])
        return 0
    if unknown := [argument for argument in argv if argument != "--insecure"]:
        print(f"winnow: unknown argument {unknown[0]!r}; the only one is --insecure", file=sys.stderr)
        return 2
    concurrency = os.environ.get("WEB_CONCURRENCY", "")
    web_processes = int(concurrency) if concurrency.isdecimal() else None
    try:
        return serve(read_environment(), web_processes=web_processes, insecure="--insecure" in argv)
    except (StartError, EnvironmentError_) as error:
        print(f"winnow: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
