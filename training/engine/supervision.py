"""How a run is asked to stop or to save: signals for people, bytes on standard input for the supervisor. No torch.

SIGTERM and SIGINT ask for a stop; a second one exits at once without saving. With `--supervised` standard input is
the supervisor's pipe and a dead man's switch: `.` says “alive”, `s` asks for a stop, `c` for a checkpoint, and the end
of the file, or silence for as long as the lease, kills the whole process group, so that a run whose supervisor is gone
can never write beside its successor.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from types import FrameType

LEASE_MARGIN_SECONDS = 5.0
"""The switch fires this long before the lease ends, so that the process is gone when another may start."""


class StopRun(Exception):
    """Raised inside a step or an evaluation that must be given up now, because the grace after a stop is over."""


class Supervision:
    """What the outside has asked for so far. Methods are called from the main thread, requests from anywhere."""

    def __init__(self) -> None:
        self._stop_at: float | None = None
        self._checkpoint = threading.Event()

    def request_stop(self) -> None:
        """A repeat changes nothing: a heartbeat repeats its `s`."""
        if self._stop_at is None:
            self._stop_at = time.monotonic()

    def request_checkpoint(self) -> None:
        self._checkpoint.set()

    @property
    def stop_requested(self) -> bool:
        return self._stop_at is not None

    def raise_if_overdue(self, *, grace_seconds: float) -> None:
        """Call between micro-batches or token batches.

        Raises:
            StopRun: a stop was asked for more than `grace_seconds` ago.
        """
        if self._stop_at is not None and time.monotonic() - self._stop_at >= grace_seconds:
            raise StopRun

    def take_checkpoint_request(self) -> bool:
        """True once for each request."""
        asked = self._checkpoint.is_set()
        self._checkpoint.clear()
        return asked


def install(*, supervised: bool, lease_seconds: float) -> Supervision:
    """Listen to signals and, if supervised, to standard input; call once, from the main thread."""
    supervision = Supervision()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if supervision.stop_requested:
            os._exit(128 + number)
        supervision.request_stop()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    if supervised:
        silence = max(lease_seconds - LEASE_MARGIN_SECONDS, 1.0)
        threading.Thread(target=_watch, args=(supervision, silence), name="dead-man-switch", daemon=True).start()
    return supervision


def _watch(supervision: Supervision, silence_seconds: float) -> None:
    """Wait by `select`, then `os.read`: a blocking read of `sys.stdin.buffer` aborts the interpreter at exit."""
    while True:
        ready, _, _ = select.select([0], [], [], silence_seconds)
        received = os.read(0, 4096) if ready else b""
        if not received:
            os.killpg(0, signal.SIGKILL)
        if b"s" in received:
            supervision.request_stop()
        if b"c" in received:
            supervision.request_checkpoint()
