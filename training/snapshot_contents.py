"""What the files of a snapshot hold, read back: its card, how it differs from another one, and the sum of an export.

Nothing here is stored: a snapshot never changes, so each answer is the same every time. Lines are read one after the
other; of the earlier of two snapshots only ids and labels are kept, no texts.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from annotation.errors import DomainError, Kind
from annotation.models import Comparison
from training.engine.errors import SnapshotError
from training.engine.records import read_manifest
from training.models import Snapshot
from training.snapshots import Layout, export_lines, snapshot_path

MOST_SHOWN = 100
"""Rows of a difference that are listed; the counts are of all."""
MOST_NAMED = 20
BINS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Edges for how sure the labels are; the last bin holds 1 as well."""
_CHUNK = 500  # ids in one query


class SnapshotUnreadable(DomainError):
    """The files of a snapshot are gone or damaged, so that nobody can say what it holds."""

    code = "snapshot_unreadable"
    kind = Kind.CONFLICT


class Change(StrEnum):
    """What happened to a preference from one snapshot to another."""

    FLIPPED = "flipped"
    ADDED = "added"
    REMOVED = "removed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Changed:
    """One preference that differs. Probabilities are of `chosen`, the side that the later snapshot takes (of one that
    was removed, the earlier); None where the snapshot does not hold it."""

    id: str
    change: Change
    prompt: list[dict[str, str]]
    chosen: str
    rejected: str
    prob_before: float | None
    prob_after: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """How many preferences came, went, or have another label; `same` kept theirs. `shown` lists the first of them."""

    added: int
    removed: int
    flipped: int
    same: int
    shown: list[Changed]


@dataclass(frozen=True, kw_only=True, slots=True)
class Export:
    """A file as it would be downloaded."""

    name: str
    lines: int
    size_bytes: int
    sha256: str


def records(snapshot: Snapshot, *, part: str | None = None) -> Iterator[dict[str, Any]]:
    """The lines of a snapshot, part by part (or of one part), without checking them again.

    Raises:
        SnapshotUnreadable: a file is gone or is no JSON Lines.
    """
    directory = snapshot_path(snapshot)
    try:
        for item in read_manifest(directory).files:
            if part not in (None, item.split):
                continue
            with (directory / item.name).open("rb") as file:
                for line in file:
                    yield json.loads(line)
    except (SnapshotError, OSError, ValueError) as error:
        raise unreadable(snapshot, error) from None


def unreadable(snapshot: Snapshot, error: Exception) -> SnapshotUnreadable:
    """The failure that says which snapshot, and what to do."""
    return SnapshotUnreadable(
        f"The files of snapshot v{snapshot.number} cannot be read ({error}), so what it holds is not known. "
        "Restore them from a backup.",
        details={"snapshot": [str(snapshot.public_id)]},
    )


# --- the card ---------------------------------------------------------------------------------------------------------


def card(snapshot: Snapshot) -> dict[str, Any]:
    """What somebody should know before training on it: where the texts come from, how long they are, how sure labels
    are. Lengths are characters; shares are of all preferences."""
    categories: Counter[str] = Counter()
    labelled: Counter[str] = Counter()
    sources: Counter[tuple[str, str]] = Counter()
    sure = [0] * (len(BINS) - 1)
    comparisons: set[UUID] = set()
    total = turns = prompt_length = chosen_length = rejected_length = longer = shorter = votes = 0
    for line in records(snapshot):
        meta = line.get("meta", {})
        total += 1
        turns += len(line["prompt"]) > 1
        prompt_length += sum(len(turn["content"]) for turn in line["prompt"])
        categories[meta.get("category", "")] += 1
        if "comparison" in meta:
            comparisons.add(UUID(meta["comparison"]))
        if "chosen" not in line:
            continue  # demonstrations, ratings and rankings have no two sides
        chosen_length += len(line["chosen"])
        rejected_length += len(line["rejected"])
        longer += len(line["chosen"]) > len(line["rejected"])
        shorter += len(line["chosen"]) < len(line["rejected"])
        labelled[meta.get("label_source", "votes")] += 1
        sides = meta.get("sources", {})
        sources[sides.get("chosen", ""), sides.get("rejected", "")] += 1
        given = meta.get("votes", {})
        votes += sum(given.get(side, 0) for side in ("chosen", "tie", "rejected"))
        place = int((line["prob_chosen"] - BINS[0]) / (BINS[1] - BINS[0]) + 1e-9)
        sure[min(place, len(sure) - 1)] += 1
    languages, licences = _of_prompts(snapshot, comparisons)
    return {
        "preferences": total,
        "comparisons": len(comparisons),
        "multi_turn": turns,
        "votes": votes,
        "by_votes": labelled["votes"],
        "by_ruling": labelled["adjudication"],
        "mean_prompt": prompt_length / total if total else None,
        "mean_chosen": chosen_length / total if total else None,
        "mean_rejected": rejected_length / total if total else None,
        "longer_wins": longer / (longer + shorter) if longer + shorter else None,
        "certainty": [{"low": low, "high": high, "n": n} for (low, high), n in zip(_pairs(BINS), sure, strict=True)],
        "categories": _most(categories),
        "languages": _most(languages),
        "licences": _most(licences),
        "sources": [
            {"chosen": chosen, "rejected": rejected, "n": n}
            for (chosen, rejected), n in sources.most_common(MOST_NAMED)
        ],
    }


def _pairs(edges: tuple[float, ...]) -> list[tuple[float, float]]:
    return list(itertools.pairwise(edges))


def _most(counted: Counter[str]) -> list[dict[str, Any]]:
    return [{"name": name, "n": n} for name, n in counted.most_common(MOST_NAMED)]


def _of_prompts(snapshot: Snapshot, comparisons: set[UUID]) -> tuple[Counter[str], Counter[str]]:
    """Languages and licences of the prompts, a comparison counting once. An erased one counts under no name."""
    languages: Counter[str] = Counter()
    licences: Counter[str] = Counter()
    ids = sorted(comparisons)
    for start in range(0, len(ids), _CHUNK):
        rows = Comparison.objects.filter(project=snapshot.project_id, public_id__in=ids[start : start + _CHUNK])
        for language, meta in rows.values_list("prompt__language", "prompt__meta"):
            languages[language] += 1
            licences[str(meta.get("licence") or meta.get("license") or "")] += 1
    return languages, licences


# --- two of them ------------------------------------------------------------------------------------------------------


def difference(before: Snapshot | None, after: Snapshot, *, only: Change | None = None) -> Difference:
    """What `after` has that `before` has not, and the other way round; without a snapshot before, everything is new.

    Preferences are the same by their id. A label is flipped where another side is chosen, or a tie became a preference
    or the other way round; a probability that only moved is no flip.

    Args:
        only: list this kind of change alone; the counts are of all.
    """
    old = {line["id"]: _label(line) for line in records(before)} if before else {}
    seen: set[str] = set()
    counts: Counter[Change] = Counter()
    found: dict[Change, list[Changed]] = {change: [] for change in Change}

    def note(change: Change, line: dict[str, Any], prob_before: float | None, prob_after: float | None) -> None:
        counts[change] += 1
        if only in (None, change) and len(found[change]) < MOST_SHOWN:
            found[change].append(
                Changed(
                    id=line["id"],
                    change=change,
                    prompt=line["prompt"],
                    chosen=line.get("chosen", line.get("completion", "")),
                    rejected=line.get("rejected", ""),
                    prob_before=prob_before,
                    prob_after=prob_after,
                )
            )

    same = 0
    for line in records(after):
        seen.add(line["id"])
        mine, theirs = _label(line), old.get(line["id"])
        if theirs is None:
            note(Change.ADDED, line, None, mine.prob)
            continue
        prob_before = theirs.prob
        if prob_before is not None and theirs.chosen != mine.chosen:
            prob_before = 1 - prob_before  # of the side that is chosen now
        if (mine.is_tie, theirs.is_tie) == (True, True) or (mine.chosen, mine.is_tie) == (theirs.chosen, theirs.is_tie):
            same += 1
        else:
            note(Change.FLIPPED, line, prob_before, mine.prob)
    gone = old.keys() - seen
    if gone and before:
        for line in records(before):
            if line["id"] in gone:
                note(Change.REMOVED, line, _label(line).prob, None)
    shown = [item for change in Change for item in found[change]]
    return Difference(
        added=counts[Change.ADDED],
        removed=counts[Change.REMOVED],
        flipped=counts[Change.FLIPPED],
        same=same,
        shown=shown[:MOST_SHOWN],
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Label:
    """What is chosen, as a digest: texts of a large snapshot would not fit into memory twice."""

    chosen: bytes
    prob: float | None

    @property
    def is_tie(self) -> bool:
        return self.prob == 0.5


def _label(line: dict[str, Any]) -> _Label:
    said = line.get("chosen", json.dumps(line.get("ranking", line.get("desirable", ""))))
    return _Label(chosen=hashlib.sha256(said.encode()).digest()[:16], prob=line.get("prob_chosen"))


# --- exports ----------------------------------------------------------------------------------------------------------


def export_name(snapshot: Snapshot, *, layout: Layout, part: str | None) -> str:
    """The name under which an export is downloaded."""
    return f"{snapshot.project.slug}-v{snapshot.number}-{part or 'all'}.{layout.value}.jsonl"


def export_sum(snapshot: Snapshot, *, layout: Layout, part: str | None = None) -> Export:
    """Lines, bytes and sha256 of the file that an export gives, so that a download can be checked.

    Raises:
        Invalid: as `export_lines` says.
    """
    digest, size, lines = hashlib.sha256(), 0, 0
    for line in export_lines(snapshot, layout=layout, part=part):
        data = line.encode()
        digest.update(data)
        size += len(data)
        lines += 1
    return Export(
        name=export_name(snapshot, layout=layout, part=part), lines=lines, size_bytes=size, sha256=digest.hexdigest()
    )
