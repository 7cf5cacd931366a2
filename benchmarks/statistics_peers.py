"""Two sides that take turns at the same task, and the comparison of their times and of what they found.

A side is a function of this process or a method of crowd-kit, which runs in a child under another Python. Knows
nothing of statistics.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import timeit
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from benchmarks.report import Row, shorter

TURNS, LONG_TURNS, LONG_SECONDS = 5, 3, 1.0
CALL_SECONDS = 0.02  # a turn lasts at least this long, so that the clock and the first cache misses do not count
SAME = 1e-9  # largest difference of two coefficients that are the same


class Side(Protocol):
    """Ours or the peer: it can be timed, and keeps what its last call found."""

    def seconds(self, calls: int) -> float: ...

    def found(self) -> Any: ...


class Here:
    """A function of this process."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function, self._found = function, None

    def _call(self) -> None:
        self._found = self._function()

    def seconds(self, calls: int) -> float:
        """Seconds of one call, averaged over `calls`."""
        return timeit.timeit(self._call, number=calls) / calls

    def found(self) -> Any:
        return self._found


class CrowdKit:
    """A child process in crowd-kit's environment, which lives as long as the benchmark."""

    def __init__(self, python: str, directory: Path) -> None:
        self._directory = directory
        self._child = subprocess.Popen(
            [python, "-W", "ignore", "-c", "from benchmarks.statistics_crowdkit import serve; serve()"],
            cwd=Path(__file__).parent.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def ask(self, **request: object) -> dict[str, Any]:
        assert self._child.stdin is not None and self._child.stdout is not None
        self._child.stdin.write(json.dumps(request) + "\n")
        line = self._child.stdout.readline()
        if not line:
            raise RuntimeError(f"crowd-kit's process ended with {self._child.wait()} at {request}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def fit(self, method: str, **votes: npt.NDArray[np.int64]) -> There:
        """One of its methods on the arrays `item`, `annotator` and `label`, ready to be timed."""
        path = self._directory / "votes.npz"
        np.savez(path, **votes)
        self.ask(method=method, votes=str(path))
        return There(self, self._directory / "found.npz")

    def close(self) -> None:
        """End the child by ending its input."""
        self._child.communicate()


class There:
    """A method of crowd-kit's process."""

    def __init__(self, process: CrowdKit, path: Path) -> None:
        self._process, self._path = process, path

    def seconds(self, calls: int) -> float:
        """Seconds of one call, averaged over `calls`, by the child's clock."""
        return float(self._process.ask(calls=calls)["seconds"])

    def found(self) -> dict[str, Any]:
        self._process.ask(save=str(self._path))
        with np.load(self._path) as arrays:
            return dict(arrays)


@contextmanager
def crowdkit_process(python: str | None) -> Iterator[CrowdKit | None]:
    """The child, or None without an environment to run it in."""
    if python is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as directory:
        process = CrowdKit(python, Path(directory))
        try:
            yield process
        finally:
            process.close()


@dataclass(frozen=True, kw_only=True, slots=True)
class Contest:
    """One row to be: two sides, and rows that compare what they found.

    Attributes:
        judge: from the row's full name, what ours found and what the peer found.
        share: the part of the whole task that the peer does in one call; its time is extrapolated.
    """

    what: str
    ours: Side
    peer: Side
    peer_name: str
    judge: Callable[[str, Any, Any], list[Row]]
    share: float = 1.0


def hold(contest: Contest, *, variant: str = "", target: float | None = None) -> list[Row]:
    """Take turns and compare what was found: the row of the times, which fails on a worse result, then the results.

    Args:
        variant: follows the contest's name after a comma, if there is one.
        target: the least ratio, if there is one.
    """
    sides = (contest.ours, contest.peer)
    first = [side.seconds(1) for side in sides]
    turns = [first] if max(first) >= LONG_SECONDS else []  # a shorter one was the warm-up
    calls = [max(1, round(CALL_SECONDS / seconds)) for seconds in first]
    while len(turns) < (LONG_TURNS if max(first) >= LONG_SECONDS else TURNS):
        turns.append([side.seconds(number) for side, number in zip(sides, calls, strict=True)])
    ours, peer = ([1000 * seconds for seconds in column] for column in zip(*turns, strict=True))
    peer = [milliseconds / contest.share for milliseconds in peer]
    name = f"{contest.what}, {variant}" if variant else contest.what
    times = (f"{of(ours):.3f} against {of(peer):.3f}" for of in (min, median))
    print(f"{name}: best {next(times)} ms, median {next(times)} ms", flush=True)
    results = contest.judge(name, contest.ours.found(), contest.peer.found())
    row = shorter(name, "ms", min(ours), peer=min(peer), peer_name=contest.peer_name, target=target or 0.0)
    return [replace(row, target=target, ok=row.ok and all(result.ok for result in results)), *results]


def same(what: str, ours: npt.ArrayLike, peer: npt.ArrayLike, *, within: float = SAME) -> Row:
    """A row that is ok if the two differ nowhere by more than `within`."""
    difference = float(np.abs(np.asarray(ours) - np.asarray(peer)).max())
    return Row(what=what, unit="", ours=difference, peer=within, peer_name="limit", ok=bool(difference <= within))


def no_worse(what: str, unit: str, ours: float, peer: float, *, peer_name: str, slack: float) -> Row:
    """A row, more is better, that is ok if ours is at least the peer's up to `slack`."""
    return Row(
        what=what, unit=unit, ours=float(ours), peer=float(peer), peer_name=peer_name, ok=bool(ours >= peer - slack)
    )
