"""Child processes of the runner: a bare environment, a group of their own, and an identity that a recycled PID lacks.

Knows nothing of jobs and no database; `training.runner` decides who may live.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

PROCESS_FILE = "process.json"
# Web, tick and runner on the same machine come before the child, which takes what they leave: pages answer while a run
# saturates all cores, and on a machine with nothing else to do it costs nothing.
NICENESS = 10
# What a child may see of our environment: no SECRET_KEY, no database, no broker, and nothing by pattern.
_PASSED_ON = (
    "PATH",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
    "CUDA_HOME",
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """A process for certain: a PID is used again, but not with the same start time in the same boot."""

    pid: int
    started: str
    boot: str


def identity(pid: int) -> Identity | None:
    """Who has this PID now; None when nobody has."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except FileNotFoundError:
        return None if Path("/proc/self").exists() else _identity_by_ps(pid)
    except ProcessLookupError:
        return None
    # The name in parentheses may hold anything; after the last one, state is field 3 and the start time field 22.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else Identity(pid=pid, started=fields[19], boot=boot)


def _identity_by_ps(pid: int) -> Identity | None:
    """Where there is no /proc (macOS)."""
    started = _output("ps", "-o", "lstart=", "-p", str(pid))
    return Identity(pid=pid, started=started, boot=_output("sysctl", "-n", "kern.boottime")) if started else None


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=10).stdout.strip()


def child_environment(
    *, directory: Path, python_path: Path, threads: int, environ: Mapping[str, str], device: str | None = None
) -> dict[str, str]:
    """The minimal environment of a child: no secrets, no network for models, its own home, a fixed number of threads.

    Args:
        threads: of the numerical libraries; 0 means all cores that this process may use.
        device: the only GPU that it sees; None: those that we see.
    """
    count = str(threads or _cores())
    home = str(directory / "tmp")
    return {
        **{name: environ[name] for name in _PASSED_ON if name in environ},
        **({} if device is None else {"CUDA_VISIBLE_DEVICES": device}),
        "HOME": home,
        "TMPDIR": home,
        "PYTHONPATH": str(python_path),
        "PYTHONSAFEPATH": "1",  # the working directory holds data, so nothing may be imported from it
        "PYTHONUNBUFFERED": "1",
        "PYTHONUTF8": "1",
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "TOKENIZERS_PARALLELISM": "false",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # what deterministic kernels of CUDA ask for
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
    }


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS has no affinity
        return os.cpu_count() or 1


class Child:
    """A started child and the pipe that keeps it alive."""

    def __init__(
        self, command: Sequence[str], *, directory: Path, environment: Mapping[str, str], inherits: Sequence[int] = ()
    ) -> None:
        """Start it in `directory`, in a session of its own, and write `process.json` there.

        Args:
            inherits: open files that the child keeps open as long as it lives.

        Raises:
            OSError: it cannot be started, or nothing can be written (a full disk); then nothing runs.
        """
        self._file = directory / PROCESS_FILE
        with (directory / "stdout.log").open("ab") as out, (directory / "stderr.log").open("ab") as err:
            self._process = subprocess.Popen(
                command,
                cwd=directory,
                env=dict(environment),
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
                start_new_session=True,
                pass_fds=tuple(inherits),
            )
        _give_way(self._process.pid)
        try:
            self._identify()
        except OSError:
            self.kill()
            raise

    def _identify(self) -> None:
        me = identity(self._process.pid)
        if me is not None:  # else it has ended already
            draft = self._file.with_suffix(".partial")
            draft.write_text(json.dumps(asdict(me)))
            draft.replace(self._file)

    @property
    def pid(self) -> int:
        return self._process.pid

    def write(self, byte: bytes) -> None:
        """Tell the child: `.` alive, `s` stop, `c` checkpoint. A child that has ended hears nothing."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):  # ended; closed by kill()
            self._process.stdin.write(byte)
            self._process.stdin.flush()

    def wait(self, seconds: float) -> int | None:
        """The exit code (negative: the signal), or None if it still runs after so many seconds."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> int:
        """Close the pipe, kill the group, wait. Also sweeps grandchildren of a child that ended. Repeats are harmless.

        The pipe comes first: processes that a launcher put into sessions of their own hear only its hang-up.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        kill_group(self._process.pid)
        code = self._process.wait()
        self._file.unlink(missing_ok=True)
        return code


def _give_way(pid: int) -> None:
    """Let a child that has just begun a session come after the others; where the system refuses, it comes as they do.

    Where Linux schedules by sessions (autogroup), a nice value counts within the session only, so that of the session
    is set too.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, NICENESS)
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text(str(NICENESS))


def kill_group(pid: int) -> None:
    """SIGKILL to the process group of this leader, if there is one."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: EPERM for a group of zombies
        os.killpg(pid, signal.SIGKILL)


def recorded_process(file: Path) -> Identity | None:
    """The process of a `process.json` if it is alive and the same one: PID, start time and boot agree."""
    try:
        recorded = Identity(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return recorded if identity(recorded.pid) == recorded else None
