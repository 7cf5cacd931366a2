"""The FIFO gate around write transactions of a web process on SQLite.

SQLite lets waiting writers in unfairly (some wait for seconds), so the threads of the one web process queue here first
and each finds the database free. On PostgreSQL, which queues by itself, the gate is open. It is the only state that a
web process keeps in memory, and losing it loses nothing.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection


class TicketLock:
    """A lock that is handed over in the order of asking; the thread that holds it may take it again."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()
        self._owner: int | None = None
        self._depth = 0

    def acquire(self) -> None:
        """Wait for all who asked before, then hold the lock."""
        me = threading.get_ident()
        with self._guard:
            if self._owner == me:
                self._depth += 1
                return
            if self._owner is None:
                self._owner, self._depth = me, 1
                return
            ticket = threading.Lock()
            ticket.acquire()
            self._waiting.append(ticket)
        try:
            ticket.acquire()  # opened by release(), which has already made the lock ours in all but the name
        except BaseException:
            self._give_up(ticket)
            raise
        self._owner, self._depth = me, 1

    def release(self) -> None:
        """Hand the lock to the one who has waited longest."""
        with self._guard:
            assert self._owner == threading.get_ident(), "released by a thread that does not hold it"
            self._depth -= 1
            if not self._depth:
                self._hand_over()

    def _hand_over(self) -> None:
        if self._waiting:
            self._owner = -1  # taken, though the next owner has not woken yet: nobody may overtake it
            self._waiting.popleft().release()
        else:
            self._owner = None

    def _give_up(self, ticket: threading.Lock) -> None:
        """Leave the queue after an interrupt; pass the lock on if it was ours already."""
        with self._guard:
            if ticket in self._waiting:
                self._waiting.remove(ticket)
            else:
                self._hand_over()


_gate = TicketLock()


@contextmanager
def write() -> Iterator[None]:
    """Hold the gate while a write transaction runs: `with write(), transaction.atomic(): …`.

    Inside a transaction it does nothing: on SQLite an IMMEDIATE transaction holds the database's own write lock
    already, and waiting for the gate under that lock would deadlock with a thread that waits the other way round.
    """
    if connection.vendor != "sqlite" or connection.in_atomic_block:
        yield
        return
    _gate.acquire()
    try:
        yield
    finally:
        _gate.release()
