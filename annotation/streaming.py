"""Files that are sent while they are written."""

from __future__ import annotations

import io
from typing import Any


class Pieces(io.RawIOBase):
    """A file that hands on what was written to it. It cannot be sought, so an archive is written in one go."""

    def __init__(self) -> None:
        self._written: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._written.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        """What was written since the last call."""
        data, self._written = b"".join(self._written), []
        return data
