"""Which completions of a prompt meet, in which stored order, and how many votes each comparison wants."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db import transaction

from annotation.gate import write
from annotation.models import (
    Comparison,
    ComparisonCompletion,
    Completion,
    Consensus,
    Project,
    Prompt,
    Slot,
    SlotState,
    content_hash,
)

BATCH = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Two completions that are to meet, already in stored order."""

    prompt: Prompt
    a: Completion
    b: Completion
    external_id: str = ""

    @property
    def hash(self) -> str:
        """The same for the same two texts of a prompt in either order; an import's own id tells twins apart."""
        return content_hash(
            self.prompt.content_hash, *sorted((self.a.content_hash, self.b.content_hash)), self.external_id
        )


def choose_pairs(prompt: Prompt, completions: Sequence[Completion]) -> list[Pair]:
    """Pairs among a prompt's completions: across sources by index, or with one source neighbours (0, 1), (2, 3).

    Two equal texts never meet, and an empty one meets nobody. Stored order is drawn from the pair's hash, so it says
    nothing about the source.
    """
    by_source: dict[int, list[Completion]] = defaultdict(list)
    for completion in sorted(completions, key=lambda item: (item.source_id, item.index)):
        by_source[completion.source_id].append(completion)
    if len(by_source) == 1:
        (own,) = by_source.values()
        candidates = [(own[i], own[i + 1]) for i in range(0, len(own) - 1, 2)]
    else:
        candidates = [
            meeting
            for first, second in itertools.combinations(by_source.values(), 2)
            for meeting in zip(first, second, strict=False)
        ]
    pairs = []
    for one, other in candidates:
        if one.text.strip() == other.text.strip() or not (one.text.strip() and other.text.strip()):
            continue
        pair = Pair(prompt=prompt, a=one, b=other)
        pairs.append(pair if int(pair.hash[-1], 16) % 2 == 0 else Pair(prompt=prompt, a=other, b=one))
    return pairs


def create_comparisons(
    *,
    project: Project,
    pairs: Iterable[Pair],
    origin: UUID,
    overlap: int | None = None,
    priority: int = 0,
    now: datetime,
) -> list[Comparison]:
    """Comparisons with their slots and an open consensus; a pair that the project has is left alone, so it may repeat.

    The place in the queue (`rank`) comes from the pair's hash: random, and the same when it is built again.
    """
    wanted = overlap or project.overlap
    made: list[Comparison] = []
    unique = {pair.hash: pair for pair in pairs}
    hashes = list(unique)
    for start in range(0, len(hashes), BATCH):
        with write(), transaction.atomic():
            made += _create(
                project, {key: unique[key] for key in hashes[start : start + BATCH]}, origin, wanted, priority, now
            )
    return made


def _create(
    project: Project, pairs: dict[str, Pair], origin: UUID, overlap: int, priority: int, now: datetime
) -> list[Comparison]:
    known = set(Comparison.objects.filter(project=project, pair_hash__in=pairs).values_list("pair_hash", flat=True))
    missing = [key for key in pairs if key not in known]
    comparisons = Comparison.objects.bulk_create(
        Comparison(
            project=project,
            prompt=pairs[key].prompt,
            origin=origin,
            pair_hash=key,
            overlap=overlap,
            priority=priority,
            rank=int(key[:8], 16) >> 1,
            created_at=now,
        )
        for key in missing
    )
    ComparisonCompletion.objects.bulk_create(
        ComparisonCompletion(comparison=comparison, completion=completion, position=position)
        for comparison in comparisons
        for position, completion in enumerate((pairs[comparison.pair_hash].a, pairs[comparison.pair_hash].b))
    )
    Slot.objects.bulk_create(
        Slot(project=project, comparison=comparison, number=number, priority=priority, rank=comparison.rank)
        for comparison in comparisons
        for number in range(1, overlap + 1)
    )
    Consensus.objects.bulk_create(Consensus(project=project, comparison=comparison) for comparison in comparisons)
    return comparisons


def change_overlap(*, project: Project, overlap: int, now: datetime) -> int:
    """Give every unfrozen comparison of a project this many wanted votes; how many comparisons changed.

    Lowering removes open slots only: votes and running leases stay, so a comparison may keep more than `overlap`.
    """
    changed = 0
    with write(), transaction.atomic():
        Project.objects.filter(pk=project.pk).update(overlap=overlap)
        comparisons = list(
            Comparison.objects.select_for_update(no_key=True)
            .filter(project=project, frozen_at__isnull=True)
            .exclude(overlap=overlap)
            .order_by("pk")
        )
        for start in range(0, len(comparisons), BATCH):
            batch = comparisons[start : start + BATCH]
            changed += len(batch)
            _resize(project, batch, overlap, now)
    return changed


def _resize(project: Project, comparisons: Sequence[Comparison], overlap: int, now: datetime) -> None:
    by_id = {comparison.pk: comparison for comparison in comparisons}
    Slot.objects.filter(comparison_id__in=by_id, state=SlotState.OPEN, number__gt=overlap).delete()
    numbers: dict[int, list[Slot]] = defaultdict(list)
    for slot in Slot.objects.filter(comparison_id__in=by_id).order_by("number"):
        numbers[slot.comparison_id].append(slot)
    surplus = []
    missing = []
    for pk, comparison in by_id.items():
        slots = numbers[pk]
        # Open slots with small numbers may remain beside votes with large ones: enough votes are enough.
        taken = sum(slot.state != SlotState.OPEN for slot in slots)
        free = [slot for slot in slots if slot.state == SlotState.OPEN]
        surplus += [slot.pk for slot in free[max(0, overlap - taken) :]]
        have = {slot.number for slot in slots}
        wanted = max(0, overlap - len(slots))
        fresh = itertools.islice((n for n in itertools.count(1) if n not in have), wanted)
        missing += [
            Slot(project=project, comparison=comparison, number=n, priority=comparison.priority, rank=comparison.rank)
            for n in fresh
        ]
    Slot.objects.filter(pk__in=surplus, state=SlotState.OPEN).delete()
    Slot.objects.bulk_create(missing)
    Comparison.objects.filter(pk__in=by_id).update(overlap=overlap)
    Consensus.objects.filter(comparison_id__in=by_id).update(due_at=now)
