"""What a benchmark prints as its last line: one JSON object, the same for all (ARCHITECTURE 7)."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One figure beside its peer. `ratio` above 1 means that ours is better; None where there is nothing to compare."""

    what: str
    unit: str
    ours: float
    peer: float | None = None
    peer_name: str = ""
    ratio: float | None = None
    target: float | None = None
    ok: bool = True


def faster(what: str, unit: str, ours: float, *, peer: float, peer_name: str, target: float = 1.0) -> Row:
    """A row where more is better, such as votes a second."""
    return _compared(what, unit, ours, peer, peer_name, ours / peer, target)


def shorter(what: str, unit: str, ours: float, *, peer: float, peer_name: str, target: float = 1.0) -> Row:
    """A row where less is better, such as milliseconds."""
    return _compared(what, unit, ours, peer, peer_name, peer / ours if ours else float("inf"), target)


def none_of(what: str, count: int) -> Row:
    """A row of what must not happen: the limit is 0, so there is no ratio."""
    return Row(what=what, unit="count", ours=count, peer=0, peer_name="limit", ok=count == 0)


def _compared(what: str, unit: str, ours: float, peer: float, peer_name: str, ratio: float, target: float) -> Row:
    ours, peer = round(ours, 3), round(peer, 3)
    return Row(
        what=what, unit=unit, ours=ours, peer=peer, peer_name=peer_name, ratio=round(ratio, 3), target=target,
        ok=ratio >= target,
    )  # fmt: skip


def machine(**more: object) -> dict[str, Any]:
    """Where the figures come from."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "system": platform.platform(terse=True),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(pages / 2**30, 1),
        "python": platform.python_version(),
        "load": [round(value, 1) for value in os.getloadavg()],
        **more,
    }


def show(benchmark: str, rows: Sequence[Row], *, as_json: bool, **more: object) -> None:
    """A line for each row, for people; then, if asked for, the JSON object as the last line."""
    for row in rows:
        beside = "" if row.peer is None else f"   {row.peer_name} {row.peer}"
        verdict = "" if row.target is None else f"   ratio {row.ratio} (target {row.target})"
        print(f"{'ok  ' if row.ok else 'FAIL'} {row.what}: {row.ours} {row.unit}{beside}{verdict}")
    if as_json:
        print(json.dumps({"benchmark": benchmark, "machine": machine(**more), "rows": [asdict(row) for row in rows]}))
