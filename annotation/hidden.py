"""Which hidden gold or silent repeat comes next for a person, so that quality is measured among ordinary work.

Both are leases like any other, through the same tables and the same endpoint, but without a slot. Nothing here may
depend on what is visible: how often they come is a coin at each new lease, and they come only while ordinary work is
left.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from django.db.models import Exists, OuterRef

from annotation.models import (
    GIVEN_BACK,
    Assignment,
    Consensus,
    ConsensusState,
    Gold,
    GoldUse,
    Membership,
    Project,
    Purpose,
    Vote,
)

MOST_SHARE = 0.5  # at least half of the work is ordinary, whatever the two shares say
_WINDOW = 50  # candidates that are looked at: the choice among them is random, and its cost is bounded


@dataclass(frozen=True, kw_only=True, slots=True)
class Hidden:
    """A comparison to be given without a slot; `sides` are drawn by the caller if they are empty."""

    comparison_id: int
    purpose: Purpose
    repetition: int = 0
    sides: str = ""


def shares(project: Project) -> tuple[float, float]:
    """The shares of hidden gold and of repeats among a person's tasks."""
    total = project.gold_share + project.repeat_share
    scale = min(1.0, MOST_SHARE / total) if total else 0.0
    return project.gold_share * scale, project.repeat_share * scale


def draw(project: Project, membership: Membership, audiences: Sequence[str], rng: random.Random) -> Hidden | None:
    """What comes instead of an ordinary task, if the coin says so and there is some; at most one query."""
    gold_share, repeat_share = shares(project)
    if gold_share + repeat_share == 0:
        return None
    coin = rng.random()
    if coin < gold_share:
        return _gold(project, membership, audiences, rng)
    if coin < gold_share + repeat_share:
        return _repeat(project, membership, rng)
    return None


def _gold(project: Project, membership: Membership, audiences: Sequence[str], rng: random.Random) -> Hidden | None:
    """Live hidden gold that this person has not had."""
    comparison = OuterRef("comparison_id")
    had = Assignment.objects.filter(project=project, comparison_id=comparison, annotator_id=membership.user_id)
    withdrawn = Consensus.objects.filter(comparison_id=comparison, state=ConsensusState.WITHDRAWN)
    fresh = Gold.objects.filter(
        ~Exists(had.exclude(state__in=GIVEN_BACK)), ~Exists(withdrawn), project=project, use=GoldUse.HIDDEN,
        retired_at__isnull=True, comparison__audience__in=audiences,
    )  # fmt: skip
    found = list(fresh.order_by("pk").values_list("comparison_id", flat=True)[:_WINDOW])
    return Hidden(comparison_id=rng.choice(found), purpose=Purpose.GOLD) if found else None


def _repeat(project: Project, membership: Membership, rng: random.Random) -> Hidden | None:
    """An own ordinary vote from `repeat_after` or more votes ago, not repeated yet, with the sides turned round."""
    comparison = OuterRef("comparison_id")
    again = Assignment.objects.filter(
        project=project, comparison_id=comparison, annotator_id=membership.user_id, repetition__gt=0
    )
    withdrawn = Consensus.objects.filter(comparison_id=comparison, state=ConsensusState.WITHDRAWN)
    own = (
        Vote.objects.filter(project=project, annotator_id=membership.user_id, retractions__isnull=True)
        .annotate(is_over=Exists(again.exclude(state__in=GIVEN_BACK)) | Exists(withdrawn))
        .order_by("-created_at", "-pk")
    )
    earlier = own.values_list("comparison_id", "purpose", "is_over", "assignment__form_number", "assignment__sides")
    found = [
        (comparison_id, sides)
        for comparison_id, purpose, is_over, form_number, sides in earlier[
            project.repeat_after : project.repeat_after + _WINDOW
        ]
        # Under another form the two answers could not be compared.
        if purpose == Purpose.WANTED and not is_over and form_number == project.form_number
    ]
    if not found:
        return None
    comparison_id, sides = rng.choice(found)
    return Hidden(comparison_id=comparison_id, purpose=Purpose.REPEAT, repetition=1, sides=sides[::-1])
