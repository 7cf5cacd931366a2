"""Where each comparison stands: derived from the facts, and rebuilt from them with the same result.

A change of the facts marks the row as due in its own transaction; `settle_due` computes what is due, in batches, and
clears a mark only if nothing changed meanwhile. So a lost wake-up delays a consensus and never loses it. `tally` says
what the votes say, `overlap` whether there should be more of them; this module reads the facts and decides the state.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import Count, Exists, OuterRef, QuerySet

from annotation import overlap
from annotation.gate import write
from annotation.models import (
    Adjudication,
    AdjudicationKind,
    AggregationFit,
    Aggregator,
    ComparisonCompletion,
    Consensus,
    ConsensusState,
    Erasure,
    Flag,
    Membership,
    Project,
    Slot,
    SlotState,
    Webhook,
)
from annotation.tally import Ballot, Confusion, Reading, Tally, as_confusion, ruled, tallies
from annotation.webhooks import Event, emit

METHODS = {Aggregator.DAWID_SKENE: "dawid_skene/1", Aggregator.MAJORITY: "majority/3"}
BATCH = 500
_WRITTEN = [
    "state", "label", "prob", "share", "votes_a", "votes_tie", "votes_b", "votes", "both_bad", "top_share", "posterior",
    "details", "stopped", "method", "due_at", "settled_at",
]  # fmt: skip
_EVENTS = {
    ConsensusState.SETTLED: Event.COMPARISON_SETTLED,
    ConsensusState.DISPUTED: Event.COMPARISON_DISPUTED,
    ConsensusState.ADJUDICATED: Event.COMPARISON_ADJUDICATED,
}


def mark_due(comparison_ids: Sequence[int], *, now: datetime) -> None:
    """Say that these consensuses must be computed anew; to be called inside the transaction of the change."""
    rows = Consensus.objects.filter(comparison_id__in=comparison_ids)
    if len(comparison_ids) > 1:  # in the order in which settling locks them, else the two could deadlock
        list(rows.select_for_update(no_key=True).order_by("comparison_id").values_list("pk"))
    rows.update(due_at=now)


def settle_due(*, now: datetime, limit: int = BATCH) -> int:
    """Compute up to `limit` consensuses that are due, the oldest first; how many were written. Safe to repeat."""
    due = list(
        Consensus.objects.filter(due_at__isnull=False).order_by("due_at").values_list("comparison_id", "due_at")[:limit]
    )
    return sum(_settle(dict(due[start : start + BATCH]), now=now) for start in range(0, len(due), BATCH))


def settle(comparison_ids: Sequence[int], *, now: datetime) -> int:
    """Compute these consensuses if they are due, without waiting for their turn; how many were written."""
    rows = Consensus.objects.filter(comparison_id__in=comparison_ids, due_at__isnull=False)
    return _settle(dict(rows.values_list("comparison_id", "due_at")), now=now)


def rebuild(*, project: Project, now: datetime) -> int:
    """Compute every consensus of a project from the facts; how many there are.

    What is not due gets no more slots: the rule has been asked, and the fit of the people may have changed since.
    """
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


def refresh(comparison_ids: Sequence[int], *, now: datetime) -> int:
    """Compute these consensuses anew after a fit, but for those that are due, whose turn comes; how many were written.

    Nobody is asked for more votes: the rule has been asked when the votes came, and a fit is no vote.
    """
    resting = Consensus.objects.filter(comparison_id__in=comparison_ids, due_at__isnull=True)
    ids = list(resting.order_by("comparison_id").values_list("comparison_id", flat=True))
    return sum(_settle(dict.fromkeys(ids[i : i + BATCH]), now=now) for i in range(0, len(ids), BATCH))


def _settle(due: Mapping[int, datetime | None], *, now: datetime) -> int:
    if not due:
        return 0
    erased = Erasure.objects.filter(prompt=OuterRef("comparison__prompt"))
    rows = list(
        Consensus.objects.filter(comparison_id__in=due)
        .select_related("project", "comparison")
        .annotate(is_erased=Exists(erased))
        .order_by("comparison_id")
    )
    before = {row.pk: ConsensusState(row.state) for row in rows}
    facts = _read(rows)
    counted = tallies([facts.ballots[row.comparison_id] for row in rows], [_reading(row, facts) for row in rows])
    for row, tally in zip(rows, counted, strict=True):
        _fill(row, tally, facts, now)
    asked = [(row, tally) for row, tally in zip(rows, counted, strict=True) if due[row.comparison_id] is not None]
    steps = _steps(asked, facts)
    with write(), transaction.atomic():
        overlap.lock(pk for pk, step in steps.items() if step.slots)
        ids = [row.pk for row in rows]
        locked = Consensus.objects.select_for_update(no_key=True).filter(pk__in=ids).order_by("comparison_id")
        current = dict(locked.values_list("pk", "due_at"))
        fits = _fit_numbers({row.project_id for row in rows})
        fresh = [
            row
            for row in rows
            if row.pk in current
            and current[row.pk] == due[row.comparison_id]
            and facts.fits.get(row.project_id) == fits.get(row.project_id)  # else it was read with two fits' people
        ]
        unchanged = {row.comparison_id for row in fresh}
        grown = overlap.grow({pk: step for pk, step in steps.items() if pk in unchanged})
        for row in fresh:
            if row.comparison_id in grown:
                row.state, row.settled_at, row.stopped = ConsensusState.OPEN, None, ""
        # One statement for many rows: an update for each would take as long again as all the rest.
        Consensus.objects.bulk_create(fresh, update_conflicts=True, unique_fields=["id"], update_fields=_WRITTEN)
        _tell(fresh, before, now)
    return len(fresh)


# --- facts ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """The newest adjudication of a comparison."""

    kind: AdjudicationKind
    answer: Mapping[str, Any] | None

    @property
    def is_ruling(self) -> bool:
        return self.kind is AdjudicationKind.RULING

    @property
    def is_waiting(self) -> bool:
        """A person asked for a ruling, and there is none yet."""
        return self.kind in {AdjudicationKind.REQUEST, AdjudicationKind.ESCALATION}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Person:
    """A voter: what the last fit found of them, and whether their votes count."""

    confusion: Confusion | None = None
    rating_offset: float = 0.0
    is_excluded: bool = False

    def ballot(self, annotator_id: int, choice: str, body: Mapping[str, Any]) -> Ballot:
        """Their vote, read by what is known of them."""
        return Ballot(
            annotator_id=annotator_id, choice=choice, body=body, confusion=self.confusion,
            rating_offset=self.rating_offset,
        )  # fmt: skip


_STRANGER = _Person()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Facts:
    """What the consensuses of a batch are computed from, by comparison (forms, class shares and fits by project).

    `wanted`: slots that are not done. Votes of excluded people are not among the ballots. `fits`: number of the fit
    that was the last when the people were read.
    """

    ballots: Mapping[int, list[Ballot]]
    wanted: Mapping[int, int]
    with_experts: set[int]
    sizes: Mapping[int, int]
    flags: Mapping[int, int]
    decisions: Mapping[int, Decision]
    has_tie: Mapping[int, bool]
    shares: Mapping[int, tuple[float, ...]]
    fits: Mapping[int, int]


def _read(rows: Sequence[Consensus]) -> _Facts:
    """Eight queries. Counted votes are those that a slot points to; surplus votes are not among them."""
    ids = [row.comparison_id for row in rows]
    comparisons = {row.comparison_id: row.comparison for row in rows}
    projects = {row.project_id: row.project for row in rows}
    fits = {fit.project_id: fit for fit in AggregationFit.objects.filter(project_id__in=projects)}  # before the people
    slots = Slot.objects.filter(comparison_id__in=ids).order_by("comparison_id", "number")
    columns = ("comparison_id", "state", "audience", "vote__annotator_id", "vote__choice", "vote__body")
    found = list(slots.values_list(*columns))
    people = _people(projects, {row[3] for row in found if row[3] is not None})
    ballots: dict[int, list[Ballot]] = defaultdict(list)
    wanted: dict[int, int] = defaultdict(int)
    with_experts: set[int] = set()
    for pk, state, audience, annotator_id, choice, body in found:
        comparison = comparisons[pk]
        if overlap.is_expert_slot(audience=audience, comparison_audience=comparison.audience):
            with_experts.add(pk)
        if state != SlotState.DONE:
            wanted[pk] += 1
            continue
        person = people.get((comparison.project_id, annotator_id), _STRANGER)
        if not person.is_excluded:
            ballots[pk].append(person.ballot(annotator_id, choice, body))
    places = ComparisonCompletion.objects.filter(comparison_id__in=ids).order_by().values_list("comparison_id")
    flags = Flag.objects.filter(comparison_id__in=ids).values_list("comparison_id")
    return _Facts(
        ballots=ballots,
        wanted=wanted,
        with_experts=with_experts,
        sizes=dict(places.annotate(n=Count("pk"))),
        flags=dict(flags.annotate(people=Count("by", distinct=True))),
        decisions=newest_decisions(Adjudication.objects.filter(comparison_id__in=ids)),
        has_tie={pk: project.feedback.has_tie for pk, project in projects.items()},
        shares={pk: tuple(fit.shares) for pk, fit in fits.items()},
        fits={pk: fit.number for pk, fit in fits.items()},
    )


def newest_decisions(adjudications: QuerySet[Adjudication]) -> dict[int, Decision]:
    """The newest of these adjudications of each comparison. One query."""
    rows = adjudications.order_by("pk").values_list("comparison_id", "kind", "answer")
    return {pk: Decision(kind=AdjudicationKind(kind), answer=answer) for pk, kind, answer in rows}


def _fit_numbers(project_ids: Collection[int]) -> dict[int, int]:
    return dict(AggregationFit.objects.filter(project_id__in=project_ids).values_list("project_id", "number"))


def _people(project_ids: Collection[int], user_ids: Collection[int]) -> dict[tuple[int, int], _Person]:
    """What the last fit found of each voter, by project and user. One query."""
    members = Membership.objects.filter(project_id__in=project_ids, user_id__in=user_ids)
    return {
        (project_id, user_id): _Person(
            confusion=as_confusion(confusion), rating_offset=offset or 0.0, is_excluded=excluded_at is not None
        )
        for project_id, user_id, confusion, offset, excluded_at in members.values_list(
            "project_id", "user_id", "confusion", "rating_offset", "excluded_at"
        )
    }


def _reading(row: Consensus, facts: _Facts) -> Reading:
    return Reading(
        size=facts.sizes[row.comparison_id],
        has_tie=facts.has_tie[row.project_id],
        shares=facts.shares.get(row.project_id, ()),
        by_model=row.project.aggregator == Aggregator.DAWID_SKENE,
    )


# --- state ------------------------------------------------------------------------------------------------------------


def _fill(row: Consensus, tally: Tally, facts: _Facts, now: datetime) -> None:
    """Put what the facts say into the row."""
    decision = facts.decisions.get(row.comparison_id)
    state = _state(row, tally, facts)
    if state is ConsensusState.ADJUDICATED:
        assert decision is not None
        assert decision.answer is not None
        tally = ruled(tally, decision.answer, size=facts.sizes[row.comparison_id])
    row.state = state
    row.label, row.prob, row.share = tally.label, tally.prob, tally.share
    row.votes_a, row.votes_tie, row.votes_b = tally.counts
    row.votes, row.both_bad = tally.votes, tally.both_bad
    row.top_share, row.posterior, row.details = tally.top_share, tally.posterior, tally.details
    row.method = METHODS[Aggregator(row.project.aggregator)]
    row.due_at = None
    if state is ConsensusState.OPEN:
        row.settled_at, row.stopped = None, ""
    else:
        row.settled_at = row.settled_at or now


def _state(row: Consensus, tally: Tally, facts: _Facts) -> ConsensusState:
    """A prompt without texts is judged no more. Else the newest adjudication decides, without one flags, then votes."""
    if vars(row)["is_erased"]:
        return ConsensusState.WITHDRAWN
    decision = facts.decisions.get(row.comparison_id)
    if decision is not None and decision.is_ruling:
        assert decision.answer is not None
        return ConsensusState.WITHDRAWN if decision.answer.get("invalid") else ConsensusState.ADJUDICATED
    if decision is not None and decision.is_waiting:
        return ConsensusState.DISPUTED
    if facts.flags.get(row.comparison_id, 0) >= row.project.flag_limit:
        return ConsensusState.WITHDRAWN
    if facts.wanted[row.comparison_id] or not tally.votes:
        return ConsensusState.OPEN
    is_disputed = tally.is_disputed(below=row.project.dispute_below)
    return ConsensusState.DISPUTED if is_disputed else ConsensusState.SETTLED


def _steps(asked: Sequence[tuple[Consensus, Tally]], facts: _Facts) -> dict[int, overlap.Step]:
    """More slots where the rules want them; writes into the rows why the adaptive rule stopped."""
    standings = []
    for row, tally in asked:
        decision = facts.decisions.get(row.comparison_id)
        by_votes = decision is None or decision.kind is AdjudicationKind.REOPENING
        if not by_votes or row.state not in {ConsensusState.SETTLED, ConsensusState.DISPUTED}:
            continue
        standings.append(
            overlap.Standing(
                comparison=row.comparison,
                project=row.project,
                confidence=tally.posterior or 0.0,
                votes=tally.votes,
                is_disputed=row.state == ConsensusState.DISPUTED,
                has_expert_slots=row.comparison_id in facts.with_experts,
                stopped=row.stopped,
            )
        )
    voters = {pk: {ballot.annotator_id for ballot in ballots} for pk, ballots in facts.ballots.items()}
    steps = overlap.next_steps(standings, voters=voters)
    for row, _ in asked:
        if row.comparison_id in steps:
            row.stopped = steps[row.comparison_id].stopped
    return steps


def _tell(rows: Sequence[Consensus], before: Mapping[int, ConsensusState], now: datetime) -> None:
    """Emit what changed its state; one query where nobody listens."""
    changed = [row for row in rows if row.state != before[row.pk] and ConsensusState(row.state) in _EVENTS]
    listening = Webhook.objects.filter(project_id__in={row.project_id for row in changed}, removed_at__isnull=True)
    projects = set(listening.values_list("project_id", flat=True)) if changed else set()
    for row in changed:
        if row.project_id in projects:
            payload = {
                "comparison": str(row.comparison.public_id),
                "state": str(row.state),
                "label": row.label,
                "prob": row.prob,
                "share": row.share,
                "votes": row.votes,
            }
            emit(project=row.project, event=_EVENTS[ConsensusState(row.state)], payload=payload, now=now)
