"""What a worker's machine has and what of it is free (GPUs, memory, disk), and who may compute on which GPU.

A GPU is for one job at a time, also among several processes of one machine: a file with its name is locked, the child
that computes inherits the lock, and the kernel opens it when that child is gone, however it ended. So a worker that is
frozen holds no GPU, and one that was killed gives it free not before its child has died. Knows no rows and no torch.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

_ASKED = ("index", "uuid", "name", "memory.total", "memory.used", "utilization.gpu")
_ANSWER_SECONDS = 10.0  # a driver in trouble may hang
_NO_DEVICES = 6  # exit code of nvidia-smi: it works, and there is no GPU
_MIB = 2**20
_NONE_WANTED = frozenset({"", "-1", "none", "void", "NoDevFiles"})
# A limit of the container holds before what the machine has: version 2 of control groups, then version 1.
_GROUP_FILES = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """A GPU that this process may use. `id` is what CUDA_VISIBLE_DEVICES understands; None where it does not say."""

    id: str
    name: str
    memory_bytes: int | None
    used_bytes: int | None
    load: float | None

    def figures(self) -> dict[str, Any]:
        """As `Worker.devices` keeps it."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """The GPUs at one moment. `problem` says why the driver does not tell, though it should."""

    devices: tuple[Device, ...] = ()
    problem: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Bytes; None where the system does not tell."""

    total: int | None
    free: int | None


def read_devices(*, environ: Mapping[str, str]) -> Reading | None:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves to this process, by nvidia-smi; None if it gives no answer in time."""
    wanted = environ.get("CUDA_VISIBLE_DEVICES")
    tokens = None if wanted is None else [token.strip() for token in wanted.split(",")]
    if tokens is not None and _NONE_WANTED.intersection(tokens[:1]):
        return Reading()
    command = shutil.which("nvidia-smi", path=environ.get("PATH"))
    if command is None:
        return Reading()
    try:
        return _ask(command, tokens)
    except subprocess.TimeoutExpired:
        return None
    except OSError as error:
        return Reading(problem=f"nvidia-smi cannot be started: {error.strerror}")


def _ask(command: str, tokens: Sequence[str] | None) -> Reading:
    query = [command, f"--query-gpu={','.join(_ASKED)}", "--format=csv,noheader,nounits"]
    done = subprocess.run(query, capture_output=True, text=True, check=False, timeout=_ANSWER_SECONDS)
    if done.returncode == _NO_DEVICES:
        return Reading()
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip().splitlines()
        return Reading(problem=f"nvidia-smi: {said[-1].strip() if said else f'exit code {done.returncode}'}")
    return Reading(devices=_visible(parse(done.stdout), tokens))


def parse(table: str) -> list[tuple[str, Device]]:
    """(index, GPU) of each line that nvidia-smi answers; a value that it does not know is None."""
    found = []
    for line in table.splitlines():
        values = [value.strip() for value in line.split(",")]
        if len(values) != len(_ASKED):
            continue
        index, uuid, name, total, used, load = values
        memory, taken, percent = _number(total), _number(used), _number(load)
        device = Device(
            id=uuid,
            name=name,
            memory_bytes=None if memory is None else int(memory * _MIB),
            used_bytes=None if taken is None else int(taken * _MIB),
            load=None if percent is None else percent / 100,
        )
        found.append((index, device))
    return found


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None  # "[N/A]", "[GPU is lost]"


def _visible(found: Sequence[tuple[str, Device]], tokens: Sequence[str] | None) -> tuple[Device, ...]:
    """Those that the environment names by index or (the beginning of) UUID, in its order; slices of a GPU as named."""
    if tokens is None:
        return tuple(device for _, device in found)
    chosen = []
    for token in tokens:
        if token.startswith("MIG-"):
            chosen.append(Device(id=token, name="MIG slice", memory_bytes=None, used_bytes=None, load=None))
            continue
        match = next((item for index, item in found if index == token or item.id.startswith(token)), None)
        if match is None:
            break  # as CUDA does: what comes after an unknown one is not seen
        chosen.append(match)
    return tuple(chosen)


class Held:
    """A GPU that is ours: pass `fileno()` on to the child, then `let_go()`, and it is the child's alone."""

    def __init__(self, device: str, file: IO[str]) -> None:
        self.device = device
        self._file = file

    def fileno(self) -> int:
        return self._file.fileno()

    def let_go(self) -> None:
        """Free for all, unless a child that inherited it lives. A repeat changes nothing."""
        self._file.close()


@contextmanager
def taken(ids: Sequence[str], *, directory: Path) -> Iterator[Held | None]:
    """Hold one of these GPUs that nobody on this machine holds; None if there is none."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    held = next(filter(None, (_lock(name, directory / name.replace("/", "_")) for name in ids)), None)
    try:
        yield held
    finally:
        if held is not None:
            held.let_go()


def _lock(name: str, path: Path) -> Held | None:
    file = path.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return Held(name, file)


def read_memory() -> Memory:
    """Of the machine, or of the container where it has a limit."""
    total, free = _machine_memory()
    for limit_file, used_file in _GROUP_FILES:
        limit, used = _read_number(Path(limit_file)), _read_number(Path(used_file))
        if limit is not None and used is not None and (total is None or limit < total):
            return Memory(total=limit, free=max(0, min(limit - used, limit if free is None else free)))
    return Memory(total=total, free=free)


def _machine_memory() -> tuple[int | None, int | None]:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:  # macOS has the size, and no figure for what is free
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), None
    values = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
    return values.get("MemTotal"), values.get("MemAvailable")


def _read_number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # not there; "max"
        return None


def read_free_disk(directory: Path) -> int | None:
    """Bytes that may still be written below a directory; None where it cannot be asked."""
    try:
        return shutil.disk_usage(directory).free
    except OSError:
        return None


def read_out_of_memory_kills() -> int:
    """How many processes the system has ended for want of memory, on this machine and in this container."""
    count = 0
    for file in ("/proc/vmstat", "/sys/fs/cgroup/memory.events"):
        try:
            lines = Path(file).read_text().splitlines()
        except OSError:
            continue
        count += sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
    return count
