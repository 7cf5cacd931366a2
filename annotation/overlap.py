"""How many votes a comparison gets: the first slots, and those that settling adds (STATISTICS 6.1, RELIABILITY 3).

Slots are added one comparison at a time under its row lock and only where all its slots are done, so two settlers
cannot add for the same reason twice, and never are there more slots than votes wanted (invariant 2).
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import assert_never

import numpy as np
from django.db.models import F

from annotation.audience import PERSON, may_serve
from annotation.models import (
    GIVEN_BACK,
    Assignment,
    Audience,
    Comparison,
    Membership,
    OverlapRule,
    Project,
    Role,
    Slot,
    SlotState,
)
from annotation.statistics.acquisition import Decision, overlap_decision

EXPERT = "skill:expert"


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """A comparison whose wanted votes are all in.

    Attributes:
        confidence: posterior of the leading class, 0 without a pair.
        stopped: why the adaptive rule had stopped, if it had.
    """

    comparison: Comparison
    project: Project
    confidence: float
    votes: int
    is_disputed: bool
    has_expert_slots: bool
    stopped: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What follows: so many more slots of an audience, or none, and why the adaptive rule stopped."""

    slots: int = 0
    audience: str = ""
    stopped: str = ""


def first_overlap(project: Project, key: str) -> tuple[int, bool]:
    """Slots of a new comparison, and whether it is in the random share that gets all votes regardless.

    The share is drawn by a hash of the key (the comparison's `pair_hash`), so that building it again draws the same.
    """
    match OverlapRule(project.overlap_rule):
        case OverlapRule.FIXED:
            return project.overlap, False
        case OverlapRule.ADAPTIVE:
            digest = hashlib.blake2b(key.encode(), digest_size=8, person=b"full-overlap").digest()
            full = int.from_bytes(digest, "big") / 2**64 < project.full_share
            return (project.max_votes if full else project.min_votes), full
        case _ as never:
            assert_never(never)


def next_steps(standings: Sequence[Standing], *, voters: Mapping[int, set[int]]) -> dict[int, Step]:
    """What follows for each comparison, by its id: the adaptive rule first, then experts for what is disputed.

    Two queries, or none where no rule asks for more.

    Args:
        voters: the people whose votes a comparison has, by comparison.
    """
    asked = [item for item in standings if _may_grow(item)]
    if not asked:
        return {}
    met: dict[int, set[int]] = defaultdict(set)
    turns = Assignment.objects.filter(comparison_id__in=[item.comparison.pk for item in asked])
    for comparison_id, user_id in turns.exclude(state__in=GIVEN_BACK).values_list("comparison_id", "annotator_id"):
        met[comparison_id].add(user_id)
    by_project: dict[int, list[Standing]] = defaultdict(list)
    for item in asked:
        by_project[item.project.pk].append(item)
    steps: dict[int, Step] = {}
    people = _people(by_project)
    for project_id, items in by_project.items():
        fresh = {
            item.comparison.pk: [
                serves
                for user_id, serves in people[project_id].items()
                if user_id not in met[item.comparison.pk] | voters[item.comparison.pk]
            ]
            for item in items
        }
        steps |= _adaptive(items, fresh)
        steps |= _experts(items, steps, fresh)
    return steps


Serves = Callable[[str], bool]


def _people(project_ids: Collection[int]) -> dict[int, dict[int, Serves]]:
    """Who may work in each project, by user, as the test of which audiences they serve."""
    found: dict[int, dict[int, Serves]] = {pk: {} for pk in project_ids}
    rows = Membership.objects.filter(
        project_id__in=project_ids, left_at__isnull=True, excluded_at__isnull=True, user__is_active=True
    ).exclude(role=Role.VIEWER)
    for row in rows:
        found[row.project_id][row.user_id] = may_serve(row)
    return found


def _may_grow(item: Standing) -> bool:
    wants = item.project.overlap_rule == OverlapRule.ADAPTIVE or (item.is_disputed and item.project.expert_votes)
    return bool(wants) and item.comparison.frozen_at is None and not item.comparison.audience.startswith(PERSON)


def _adaptive(items: Sequence[Standing], fresh: Mapping[int, Sequence[Serves]]) -> dict[int, Step]:
    project = items[0].project
    if project.overlap_rule != OverlapRule.ADAPTIVE:
        return {}
    steps = {item.comparison.pk: Step(stopped="full") for item in items if item.comparison.full_overlap}
    # Once experts were asked, the ordinary votes had stopped.
    steps |= {item.comparison.pk: Step(stopped=item.stopped or "cap") for item in items if item.has_expert_slots}
    items = [item for item in items if item.comparison.pk not in steps]
    remaining = [sum(serves(item.comparison.audience) for serves in fresh[item.comparison.pk]) for item in items]
    votes = np.array([item.votes for item in items], dtype=np.int64)
    decisions = overlap_decision(
        np.array([item.confidence for item in items]),
        votes,
        tau=project.stop_at,
        start=project.min_votes,
        cap=project.max_votes,
        eligible=votes + np.array(remaining, dtype=np.int64),
    )
    for item, decision in zip(items, decisions, strict=True):
        match Decision(decision):
            case Decision.MORE:
                step = Step(slots=1, audience=item.comparison.audience)
            case Decision.STOP_CONFIDENT:
                step = Step(stopped="confident")
            case Decision.STOP_CAP | Decision.STOP_NO_ANNOTATOR:
                step = Step(stopped="cap")
            case _ as never:
                assert_never(never)
        steps[item.comparison.pk] = step
    return steps


def _experts(
    items: Sequence[Standing], steps: Mapping[int, Step], fresh: Mapping[int, Sequence[Serves]]
) -> dict[int, Step]:
    """Slots for experts where a dispute stands and has none yet; no more than there are experts who may take them."""
    found = {}
    for item in items:
        pk = item.comparison.pk
        step = steps.get(pk, Step())
        if not item.is_disputed or item.has_expert_slots or step.slots or not item.project.expert_votes:
            continue
        audience = " ".join(sorted({*item.comparison.audience.split(), EXPERT}))
        experts = sum(serves(audience) for serves in fresh[pk])
        found[pk] = Step(slots=min(item.project.expert_votes, experts), audience=audience, stopped=step.stopped)
    return found


def is_expert_slot(*, audience: str, comparison_audience: str) -> bool:
    """Whether a slot was added for experts, in a comparison that others judge too."""
    return EXPERT in audience.split() and EXPERT not in comparison_audience.split()


def lock(comparison_ids: Iterable[int]) -> None:
    """Lock comparisons, to be called before their consensuses are: `pairing` and `assignment` do it in this order."""
    ids = sorted(comparison_ids)
    if ids:
        list(Comparison.objects.select_for_update(no_key=True).filter(pk__in=ids).order_by("pk").values_list("pk"))


def grow(steps: Mapping[int, Step]) -> set[int]:
    """Add the slots that the steps say; the comparisons that got some. To be called with the comparisons locked.

    A comparison that has a slot which is not done, is frozen, or has more slots than votes wanted (its overlap was
    lowered) gets none, so a second call changes nothing.
    """
    wanted = {pk: step for pk, step in steps.items() if step.slots}
    if not wanted:
        return set()
    numbers: dict[int, set[int]] = defaultdict(set)
    unfinished = set()
    slots = Slot.objects.filter(comparison_id__in=wanted).values_list("comparison_id", "number", "state")
    for comparison_id, number, state in slots:
        numbers[comparison_id].add(number)
        if state != SlotState.DONE:
            unfinished.add(comparison_id)
    rows = Comparison.objects.filter(pk__in=wanted, frozen_at__isnull=True).select_related("project")
    grown = [row for row in rows if row.pk not in unfinished and len(numbers[row.pk]) == row.overlap]
    _name_audiences(grown, wanted)
    Slot.objects.bulk_create(
        Slot(
            project_id=row.project_id,
            comparison=row,
            number=number,
            audience=wanted[row.pk].audience,
            priority=2 * row.priority + row.project.finish_started,  # it has votes, so it is started
            rank=row.rank,
        )
        for row in grown
        for number in _next_numbers(numbers[row.pk], wanted[row.pk].slots)
    )
    by_size: dict[int, list[int]] = defaultdict(list)
    for row in grown:
        by_size[wanted[row.pk].slots].append(row.pk)
    for size, ids in by_size.items():
        Comparison.objects.filter(pk__in=ids).update(overlap=F("overlap") + size)
    return {row.pk for row in grown}


def _next_numbers(taken: set[int], wanted: int) -> list[int]:
    last = max(taken, default=0)
    return list(range(last + 1, last + 1 + wanted))


def _name_audiences(grown: Sequence[Comparison], steps: Mapping[int, Step]) -> None:
    """The rows by which a claim knows that an audience has slots."""
    keys = {(row.project_id, steps[row.pk].audience) for row in grown if steps[row.pk].audience}
    Audience.objects.bulk_create(
        (Audience(project_id=project_id, key=key) for project_id, key in sorted(keys)), ignore_conflicts=True
    )
