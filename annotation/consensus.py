"""What the votes of a comparison say together: derived from the facts, and rebuilt from them with the same result.

A change of the facts marks the row as due in its own transaction; `settle_due` computes what is due, in batches, and
clears a mark only if nothing changed meanwhile. So a lost wake-up delays a consensus and never loses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import numpy as np
from django.db import transaction
from django.db.models import Count

from annotation.gate import write
from annotation.models import Choice, Consensus, ConsensusState, Flag, Project, Slot, SlotState
from annotation.statistics.aggregation import Majority, majority, soft_labels

METHOD = "majority/1"
BATCH = 500
CLASSES = (Choice.A, Choice.TIE, Choice.B)


def mark_due(comparison_ids: Sequence[int], *, now: datetime) -> None:
    """Say that these consensuses must be computed anew; to be called inside the transaction of the change."""
    Consensus.objects.filter(comparison_id__in=comparison_ids).update(due_at=now)


def settle_due(*, now: datetime, limit: int = BATCH) -> int:
    """Compute up to `limit` consensuses that are due, the oldest first; how many were written. Safe to repeat."""
    due = list(
        Consensus.objects.filter(due_at__isnull=False).order_by("due_at").values_list("comparison_id", "due_at")[:limit]
    )
    return _settle(dict(due), now=now)


def rebuild(*, project: Project, now: datetime) -> int:
    """Compute every consensus of a project from the facts; how many there are."""
    total, last = 0, 0
    while True:
        page = list(
            Consensus.objects.filter(project=project, comparison_id__gt=last)
            .order_by("comparison_id")
            .values_list("comparison_id", "due_at")[:BATCH]
        )
        if not page:
            return total
        total += _settle(dict(page), now=now)
        last = page[-1][0]


def _settle(due: dict[int, datetime | None], *, now: datetime) -> int:
    if not due:
        return 0
    rows = list(Consensus.objects.filter(comparison_id__in=due).select_related("project").order_by("comparison_id"))
    ids = [row.comparison_id for row in rows]
    counts, open_slots = count_votes(ids)
    flags = dict(
        Flag.objects.filter(comparison_id__in=ids)
        .values_list("comparison_id")
        .annotate(people=Count("by", distinct=True))
    )
    result = majority(counts)
    labels = soft_labels(result, counts)
    written = 0
    with write(), transaction.atomic():
        for i, row in enumerate(rows):
            state = _state(
                result,
                i,
                is_open=bool(open_slots[i]),
                is_withdrawn=flags.get(row.comparison_id, 0) >= row.project.flag_limit,
                dispute_below=row.project.dispute_below,
            )
            settled_at = row.settled_at or now
            has_votes = bool(counts[i].sum())
            written += Consensus.objects.filter(pk=row.pk, due_at=due[row.comparison_id]).update(
                state=state,
                label=CLASSES[result.label[i]] if result.label[i] >= 0 else "",
                prob=float(labels.prob[i]) if has_votes else None,
                share=float(labels.share[i]) if has_votes else None,
                votes_a=int(counts[i, 0]),
                votes_tie=int(counts[i, 1]),
                votes_b=int(counts[i, 2]),
                method=METHOD,
                due_at=None,
                settled_at=None if state == ConsensusState.OPEN else settled_at,
            )
    return written


def _state(result: Majority, i: int, *, is_open: bool, is_withdrawn: bool, dispute_below: float) -> ConsensusState:
    if is_withdrawn:
        return ConsensusState.WITHDRAWN
    if is_open:
        return ConsensusState.OPEN
    if result.label[i] < 0 or result.share[i].max() < dispute_below:
        return ConsensusState.DISPUTED
    return ConsensusState.SETTLED


def count_votes(comparison_ids: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Counted votes [n, 3] for a, tie, b, and the number of slots still wanted [n], in the order of the ids.

    Counted votes are those that a slot points to; surplus votes are not among them.
    """
    place = {pk: i for i, pk in enumerate(comparison_ids)}
    column = {choice.value: k for k, choice in enumerate(CLASSES)}
    counts = np.zeros((len(place), len(CLASSES)))
    wanted = np.zeros(len(place), dtype=int)
    slots = Slot.objects.filter(comparison_id__in=comparison_ids).values_list("comparison_id", "state", "vote__choice")
    for comparison_id, state, choice in slots:
        if state == SlotState.DONE and choice is not None:
            counts[place[comparison_id], column[choice]] += 1
        else:
            wanted[place[comparison_id]] += 1
    return counts, wanted
