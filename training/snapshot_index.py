"""Which comparisons a snapshot holds, answered without reading its lines again: a sorted file of their ids.

The file is derived from the snapshot's own lines, kept in the cache under the content hash, and made when it is first
asked for; it may be deleted at any time. A look-up costs a few comparisons of 16 bytes, whatever the snapshot's size.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from uuid import UUID

from django.conf import settings

from training.engine.records import read_manifest
from training.models import Snapshot
from training.snapshot_contents import records, unreadable
from training.snapshots import snapshot_path

WIDTH = 16  # bytes of an id
_SEARCH_BELOW = 1 / 32  # for so small a share of a snapshot bisecting is quicker than going through all of it


class SnapshotIndex:
    """The ids of the comparisons that a snapshot's lines come from, each once, in order."""

    def __init__(self, ids: bytes) -> None:
        self._ids = ids

    def __len__(self) -> int:
        return len(self._ids) // WIDTH

    def __iter__(self) -> Iterator[bytes]:
        return (self._ids[start : start + WIDTH] for start in range(0, len(self._ids), WIDTH))

    def __contains__(self, wanted: bytes) -> bool:
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            if self._ids[middle * WIDTH : (middle + 1) * WIDTH] < wanted:
                low = middle + 1
            else:
                high = middle
        return self._ids[low * WIDTH : (low + 1) * WIDTH] == wanted

    def among(self, wanted: Collection[bytes]) -> set[bytes]:
        """Those of the wanted ids that the snapshot holds."""
        if len(wanted) < len(self) * _SEARCH_BELOW:
            return {item for item in wanted if item in self}
        return set(wanted).intersection(self)


def index_of(snapshot: Snapshot) -> SnapshotIndex:
    """The index of a snapshot, from the cache or from its lines. No query.

    Raises:
        SnapshotUnreadable: it has no index yet, and its files cannot be read.
    """
    place = Path(settings.CACHE_DIR) / "lineage" / f"{snapshot.content_hash}.ids"
    try:
        ids = place.read_bytes()
    except FileNotFoundError:
        ids = b""
    if not ids or len(ids) % WIDTH:
        ids = _read(snapshot)
        _keep(place, ids)
    return SnapshotIndex(ids)


def _read(snapshot: Snapshot) -> bytes:
    try:
        found = {UUID(line["meta"]["comparison"]).bytes for line in records(snapshot)}
        erased = read_manifest(snapshot_path(snapshot)).erased
        found.update(UUID(item.comparison).bytes for item in erased if item.comparison)
    except (ValueError, KeyError, TypeError) as error:
        raise unreadable(snapshot, error) from None
    return b"".join(sorted(found))


def _keep(place: Path, ids: bytes) -> None:
    """Whole or not at all: two processes may write the same at the same time."""
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(prefix=".draft-", dir=place.parent)
    with os.fdopen(handle, "wb") as file:
        file.write(ids)
    Path(draft).replace(place)
