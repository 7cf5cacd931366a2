"""How fresh the comparisons are: which of them show the project's current policy, and how old they are.

Preferences tell most about the policy whose completions people saw: a reward model is soon out of its range otherwise
(Touvron et al. 2023, Llama 2, §3.2.3, who gather new ones for each policy). Comparisons of evaluations count nowhere
here, since nothing is trained on them. Everything is counted from rows; nothing is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.db.models import Count, Max, QuerySet

from annotation.models import Comparison, Project, Source, SourceKind
from training.models import ModelKind, ModelVersion, Round, RoundPurpose

DAY = timedelta(days=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundFreshness:
    """Of one round: the share of its comparisons with a completion of the current policy (None: no current policy, or
    no comparison yet), and its age in days."""

    share_from_current: float | None
    age_days: float


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyPairs:
    """Comparisons that show a source; those of two sources count for both. `model` is None for what is no policy."""

    source: UUID
    name: str
    kind: str
    model: UUID | None
    pairs: int
    share: float
    age_days: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Freshness:
    """Of a project's comparisons; the shares are of `pairs`, and None where there are none."""

    current: ModelVersion | None
    pairs: int
    share_current: float | None
    median_age_days: float | None
    by_policy: tuple[PolicyPairs, ...]


def current_policy(project: Project) -> ModelVersion | None:
    """The policy that the project goes on from, if one was made current."""
    return ModelVersion.objects.filter(project=project, kind=ModelKind.POLICY, is_current=True).first()


def rounds_freshness(project: Project, rounds: Sequence[Round], *, now: datetime) -> dict[int, RoundFreshness]:
    """By primary key; three queries for any number of rounds."""
    current = current_policy(project)
    rows = Comparison.objects.filter(origin__in=[made.public_id for made in rounds])
    pairs = _by_origin(rows)
    own = {} if current is None else _by_origin(_showing(rows, current))
    return {
        made.pk: RoundFreshness(
            share_from_current=(
                own.get(made.public_id, 0) / pairs[made.public_id] if current and made.public_id in pairs else None
            ),
            age_days=_days(made.created_at, now),
        )
        for made in rounds
    }


def freshness(project: Project, *, now: datetime) -> Freshness:
    """Of all comparisons that may be trained on; six queries."""
    current = current_policy(project)
    rows = _trainable(project)
    pairs = rows.count()
    middle = rows.order_by("pk").values_list("created_at", flat=True)[pairs // 2 : pairs // 2 + 1]
    return Freshness(
        current=current,
        pairs=pairs,
        share_current=_showing(rows, current).count() / pairs if current and pairs else None,
        median_age_days=next((_days(moment, now) for moment in middle), None),
        by_policy=_by_policy(project, rows, pairs=pairs, now=now),
    )


def _trainable(project: Project) -> QuerySet[Comparison]:
    evaluations = Round.objects.filter(project=project, purpose=RoundPurpose.EVALUATION).values("public_id")
    return Comparison.objects.filter(project=project).exclude(origin__in=evaluations)


def _showing(rows: QuerySet[Comparison], model: ModelVersion) -> QuerySet[Comparison]:
    """Those with a completion of a model. Distinct, since both sides may be its own."""
    sources = Source.objects.filter(kind=SourceKind.POLICY, model_id=model.public_id)
    return rows.filter(places__completion__source__in=sources).distinct()


def _by_origin(rows: QuerySet[Comparison]) -> dict[UUID, int]:
    return {row["origin"]: row["n"] for row in rows.values("origin").annotate(n=Count("pk", distinct=True))}


def _by_policy(project: Project, rows: QuerySet[Comparison], *, pairs: int, now: datetime) -> tuple[PolicyPairs, ...]:
    """By source, the one seen most first."""
    shown = rows.values("places__completion__source").annotate(n=Count("pk", distinct=True), newest=Max("created_at"))
    sources = {source.pk: source for source in Source.objects.filter(project=project)}
    found = [
        PolicyPairs(
            source=source.public_id,
            name=source.name,
            kind=source.kind,
            model=source.model_id,
            pairs=row["n"],
            share=row["n"] / pairs,
            age_days=_days(row["newest"], now),
        )
        for row in shown
        if (source := sources.get(row["places__completion__source"])) is not None
    ]
    return tuple(sorted(found, key=lambda item: (-item.pairs, item.name)))


def _days(moment: datetime, now: datetime) -> float:
    return max((now - moment) / DAY, 0.0)
