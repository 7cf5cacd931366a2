"""A directory as Celery broker, for one machine without a server: importing this module makes `directory://` known.

A message is a file. It is written aside, synced, and renamed into `q/`, so a half-written one is never read; a
consumer takes it by a rename, so exactly one gets it. A message taken by a worker that dies is lost, and that is fine:
the job row is the truth and the tick sends again. Limits: one host, a local file system, a 0.5 s poll, tens of messages
a second, no fanout (so no remote control).
"""

from __future__ import annotations

import json
import os
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, virtual

_QUEUE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_MESSAGE = re.compile(r"(\d{19})_([0-9a-f]{32})\.([A-Za-z0-9][A-Za-z0-9_-]{0,63})\.msg")
_LEFTOVER_SECONDS = 3600  # no living process needs a second to write or read one message


class BrokerDirectoryError(ValueError):
    """A queue name or a directory that cannot be used."""


class DirectoryChannel(virtual.Channel):
    """Messages as files below the transport option `directory`: `ctl/` (being written), `q/` (ready), `taken/`."""

    do_restore = False  # a message that was taken is never put back: the tick sends again

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        super().__init__(connection, **kwargs)  # type: ignore[no-untyped-call]  # kombu's has no types
        directory = connection.client.transport_options.get("directory")
        if not directory:
            raise BrokerDirectoryError("the directory transport needs the transport option 'directory'")
        root = Path(directory)
        for folder in (root, root / "ctl", root / "q", root / "taken"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._drafts, self._ready, self._taken = root / "ctl", root / "q", root / "taken"
        self._sweep()

    def _sweep(self) -> None:
        """Remove what dead processes left, and expired messages of queues that nobody reads."""
        for path in (*self._drafts.iterdir(), *self._taken.iterdir()):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _LEFTOVER_SECONDS:
                    path.unlink()
        for path in self._ready.glob("*.msg"):
            with suppress(FileNotFoundError, ValueError):
                if _is_expired(json.loads(path.read_bytes()), sent_ns=int(path.name[:19])):
                    path.unlink()

    def _put(self, queue: str, message: dict[str, Any], **_: Any) -> None:
        """Write the message aside, make it durable, and only then let it be seen."""
        if not _QUEUE.fullmatch(queue):
            raise BrokerDirectoryError(f"queue names are letters, digits, _ and -, got {queue!r}")
        name = f"{time.time_ns():019d}_{uuid.uuid4().hex}.{queue}.msg"
        draft = self._drafts / f"{name}.tmp"
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(message, file)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self._ready / name)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise

    def _get(self, queue: str, timeout: float | None = None) -> dict[str, Any]:
        """The oldest message of the queue that has not expired; raises `Empty` when there is none."""
        for ready in self._names(queue):
            taken = self._taken / uuid.uuid4().hex
            try:
                ready.rename(taken)
            except FileNotFoundError:
                continue  # another worker has it
            try:
                message = json.loads(taken.read_bytes())
            except ValueError:
                continue  # not written by us; left in taken/ for whoever wants to know
            taken.unlink(missing_ok=True)
            if not _is_expired(message, sent_ns=int(ready.name[:19])):
                return dict(message)
        raise Empty

    def _size(self, queue: str) -> int:
        return sum(1 for _ in self._names(queue))

    def _purge(self, queue: str) -> int:
        purged = 0
        for path in self._names(queue):
            with suppress(FileNotFoundError):
                path.unlink()
                purged += 1
        return purged

    def _names(self, queue: str) -> Iterator[Path]:
        """The queue's messages, oldest first (names begin with the time); anything else in the directory is ignored."""
        for name in sorted(os.listdir(self._ready)):  # noqa: PTH208  (one listing, no Path a file: this runs twice a second)
            match = _MESSAGE.fullmatch(name)
            if match and match[3] == queue:
                yield self._ready / name


def _is_expired(message: dict[str, Any], *, sent_ns: int) -> bool:
    """Whether the `expires` header (ISO time, Celery's) or the `expiration` property (milliseconds) has passed."""
    expires = message.get("headers", {}).get("expires")
    if expires:
        moment = datetime.fromisoformat(expires)
        if (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) <= datetime.now(tz=UTC):
            return True
    milliseconds = message.get("properties", {}).get("expiration")
    return bool(milliseconds) and time.time_ns() - sent_ns > int(milliseconds) * 1_000_000


class DirectoryTransport(virtual.Transport):
    """The transport; its one option is `directory`."""

    Channel = DirectoryChannel
    driver_type = "directory"
    driver_name = "directory"
    polling_interval = 0.5

    def driver_version(self) -> str:
        """Shown in Celery's banner."""
        return "1"


TRANSPORT_ALIASES["directory"] = "winnow.broker:DirectoryTransport"
