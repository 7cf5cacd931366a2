"""The door for training: settled comparisons as frozen preference rows, and the mark that freezes them.

Everything behind a row comes from the facts of this moment; `training.snapshots` reads and marks in one transaction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from annotation.consensus import METHOD, settle_due
from annotation.models import (
    Choice,
    Comparison,
    ComparisonCompletion,
    Consensus,
    ConsensusState,
    GuidelineVersion,
    Project,
    Vote,
)

READY = (ConsensusState.SETTLED, ConsensusState.ADJUDICATED)


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelPolicy:
    """How votes become labels. `tie_rule`: `half` keeps ties as ½, `drop` leaves them out."""

    min_votes: int = 1
    tie_rule: str = "half"
    min_confidence: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Preference:
    """A consensus made ready for training, in stored order: a, b."""

    comparison_pk: int
    comparison: str
    prompt: list[dict[str, str]]
    a: str
    b: str
    finish_a: str
    finish_b: str
    source_a: str
    source_b: str
    prob: float
    share: float
    votes_a: int
    votes_tie: int
    votes_b: int
    surplus: int
    annotators: int
    category: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Ready:
    """The preferences that a label policy takes, and what it leaves out, by reason."""

    preferences: list[Preference]
    dropped: dict[str, int]
    guideline_versions: list[int]
    aggregator: str = field(default=METHOD)


def ready_preferences(*, project: Project, policy: LabelPolicy, now: datetime) -> Ready:
    """Every settled or adjudicated comparison that the policy takes; consensuses that are due are computed first."""
    while settle_due(now=now):
        pass
    dropped: Counter[str] = Counter()
    rows = (
        Consensus.objects.filter(project=project).select_related("comparison__prompt").order_by("comparison__public_id")
    )
    texts = _texts(project)
    live_votes = Counter(
        Vote.objects.filter(project=project, retractions__isnull=True).values_list("comparison_id", flat=True)
    )
    preferences = []
    for row in rows:
        counted = row.votes_a + row.votes_tie + row.votes_b
        (a, finish_a, source_a), (b, finish_b, source_b) = texts[row.comparison_id]
        reason = _why_not(row, counted, policy) or ("same_text" if a.strip() == b.strip() else None)
        if reason is not None:
            dropped[reason] += 1
            continue
        assert row.prob is not None and row.share is not None
        preferences.append(
            Preference(
                comparison_pk=row.comparison_id,
                comparison=str(row.comparison.public_id),
                prompt=row.comparison.prompt.messages,
                a=a,
                b=b,
                finish_a=finish_a,
                finish_b=finish_b,
                source_a=source_a,
                source_b=source_b,
                prob=row.prob,
                share=row.share,
                votes_a=row.votes_a,
                votes_tie=row.votes_tie,
                votes_b=row.votes_b,
                surplus=live_votes[row.comparison_id] - counted,
                annotators=counted,
                category=row.comparison.prompt.category,
            )
        )
    versions = GuidelineVersion.objects.filter(project=project, pk__in=_guidelines_used(preferences))
    return Ready(
        preferences=preferences,
        dropped=dict(sorted(dropped.items())),
        guideline_versions=sorted(versions.values_list("number", flat=True)),
    )


def _texts(project: Project) -> dict[int, list[tuple[str, str, str]]]:
    """Text, finish and source of each comparison's completions, in stored order.

    One query: prefetching a few hundred comparisons is too deep an expression for SQLite.
    """
    found: dict[int, list[tuple[str, str, str]]] = {}
    places = ComparisonCompletion.objects.filter(comparison__project=project).order_by("comparison_id", "position")
    shown = ("comparison_id", "completion__text", "completion__finish", "completion__source__name")
    for comparison_id, text, finish, source in places.values_list(*shown).iterator():
        found.setdefault(comparison_id, []).append((text, finish, source))
    return found


def _why_not(row: Consensus, counted: int, policy: LabelPolicy) -> str | None:
    if row.state not in READY:
        return str(row.state)
    if counted < policy.min_votes:
        return "too_few_votes"
    if row.label == Choice.TIE and policy.tie_rule == "drop":
        return "tie"
    if max(row.votes_a, row.votes_tie, row.votes_b) < policy.min_confidence * counted:
        return "low_confidence"
    return None


def _guidelines_used(preferences: Sequence[Preference]) -> set[int]:
    used: set[int] = set()
    ids = [item.comparison_pk for item in preferences]
    for start in range(0, len(ids), 500):
        used |= {
            pk
            for pk in Vote.objects.filter(comparison_id__in=ids[start : start + 500], retractions__isnull=True)
            .values_list("guideline_id", flat=True)
            .distinct()
            if pk is not None
        }
    return used


def lock(project: Project) -> None:
    """Lock the project's comparisons, in order, so that no vote is taken back while some are being frozen.

    All of them, before the preferences are read: one that settled in between would be frozen unlocked. New votes go on.
    """
    list(Comparison.objects.select_for_update(no_key=True).filter(project=project).order_by("pk").values_list("pk"))


def mark_frozen(preferences: Sequence[Preference], *, now: datetime) -> None:
    """Freeze the comparisons of these preferences: their votes stay as they are. The first freezing's time is kept."""
    ids = [item.comparison_pk for item in preferences]
    for start in range(0, len(ids), 500):
        Comparison.objects.filter(pk__in=ids[start : start + 500], frozen_at__isnull=True).update(frozen_at=now)
