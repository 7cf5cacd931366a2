"""The joint fit of a project's votes: what each person says where the truth is a, a tie or b (STATISTICS 3.4, 3.7).

Between two fits a consensus takes each new vote by the confusion of the last one, at once. A worker fits anew, from
where it was, when enough has changed; then every comparison whose posterior has moved is settled again. The fit is
derived: `refit(warm=False)` depends on the facts alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from uuid import uuid4

import numpy as np
from django.db import transaction
from django.db.models import F, OuterRef, Q, Subquery

from annotation.consensus import mark_due
from annotation.feedback import FeedbackKind
from annotation.gate import write
from annotation.models import AggregationFit, Aggregator, Consensus, ConsensusState, Membership, Project, Vote
from annotation.statistics.aggregation import (
    DawidSkeneResult,
    Method,
    annotator_accuracy,
    dawid_skene,
    held_out_log_loss,
    preference_values,
    update_posterior,
)
from annotation.statistics.estimates import FloatArray, IntArray
from annotation.tally import as_confusion, confusion_of
from annotation.vote_arrays import VoteArrays, known_classes, live_votes, load

REFRESH_MINUTES = 5
LEASE_MINUTES = 10
MOVED = 0.005  # a posterior that moves by less is left: nobody would see it, and settling it costs
MOST_HELD_OUT = 200_000  # votes up to which the aggregations are compared on hidden votes at each fit
COMPARED = (Method.CLASS_SHARES, Method.VOTE_SHARE, Method.ONE_COIN, Method.DAWID_SKENE)
FEWEST_RATINGS = 20  # of a person, before their own mean says something about them (STATISTICS 9.7)
_FRESH_SHARE = 0.05  # new votes that make a fit worth while: so many of all …
_FRESH_VOTES = 1000  # … or so many (STATISTICS 3.7)
_BATCH = 500


def due(now: datetime) -> list[Project]:
    """Projects with enough new votes, fitted five minutes ago or longer, that nobody is fitting. One query, and one
    for each project with a new vote."""
    newest = Vote.objects.filter(project=OuterRef("pk")).order_by("-pk").values("pk")[:1]
    asked = Q(fit__isnull=True) | Q(fit__fitted_at__isnull=True)
    grown = Q(newest__gt=F("fit__last_vote"), fit__fitted_at__lte=now - timedelta(minutes=REFRESH_MINUTES))
    rows = (
        Project.objects.annotate(newest=Subquery(newest))
        .filter(asked | grown, newest__isnull=False)
        .exclude(fit__lease_expires_at__gte=now)
        .select_related("fit")
        .order_by("pk")
    )
    return [project for project in rows if _has_changed(project)]


def _has_changed(project: Project) -> bool:
    fit = getattr(project, "fit", None)  # Django's own way to say that a one-to-one row is not there
    if fit is None or fit.fitted_at is None:
        return True
    fresh = Vote.objects.filter(project=project, pk__gt=fit.last_vote).count()
    return bool(fresh >= min(_FRESH_VOTES, _FRESH_SHARE * fit.votes))


def run_due(*, now: datetime) -> int:
    """Fit the projects that are due; how many were. Two at once do each project once."""
    return sum(_claimed(project, now) for project in due(now))


def request(project: Project) -> None:
    """Ask for a fit as soon as there is a worker: the facts changed otherwise than by votes."""
    AggregationFit.objects.filter(project=project).update(fitted_at=None)


def _claimed(project: Project, now: datetime) -> bool:
    owner = uuid4()
    AggregationFit.objects.get_or_create(project=project)
    free = Q(lease_expires_at__isnull=True) | Q(lease_expires_at__lt=now)
    lease = {"owner": owner, "lease_expires_at": now + timedelta(minutes=LEASE_MINUTES)}
    if not AggregationFit.objects.filter(free, project=project).update(**lease):
        return False
    try:
        refit(project=project, now=now)
    finally:
        AggregationFit.objects.filter(project=project, owner=owner).update(owner=None, lease_expires_at=None)
    return True


def refit(*, project: Project, warm: bool = True, now: datetime) -> AggregationFit:
    """Fit all votes of a project and mark as due what that moves. A second call without new facts moves nothing.

    Args:
        warm: go on from the last fit, which is faster; else from the votes alone, which depends on nothing else.
    """
    started = time.perf_counter()
    arrays = load(project)
    start = _where_it_was(project, arrays) if warm else None
    known = known_classes(project, arrays)
    fit = dawid_skene(*arrays.votes, **arrays.sizes, gold=known, init=start)
    accuracy = annotator_accuracy(fit, *arrays.votes, **arrays.sizes).value
    row = {
        "classes": arrays.K,
        "shares": fit.pi.tolist(),
        "votes": len(arrays),
        "items": len(arrays.comparison),
        "annotators": len(arrays.user),
        "last_vote": int(arrays.key.max(initial=0)),
        "objective": float(fit.objective[-1]) if len(fit.objective) else None,
        "steps": fit.n_iter,
        "converged": fit.converged,
        "is_warm": start is not None,
        "held_out": _held_out(arrays),
        "seconds": round(time.perf_counter() - started, 3),
        "fitted_at": now,
    }
    with write(), transaction.atomic():
        stored, _ = AggregationFit.objects.update_or_create(project=project, defaults=row)
        lenient = _write_people(project, arrays, fit.theta, accuracy)
    moved = np.union1d(_moved(project, arrays, fit), _rated_by(project, lenient))
    for batch in _batches(moved):
        with write(), transaction.atomic():
            mark_due(batch, now=now)
    return stored


def _where_it_was(project: Project, arrays: VoteArrays) -> FloatArray | None:
    """The posterior [n, K] of the votes by the last fit; None before the first. Two queries."""
    last = AggregationFit.objects.filter(project=project, classes=arrays.K).first()
    if last is None or len(last.shares) != arrays.K or not len(arrays):
        return None
    members = Membership.objects.filter(project=project, confusion__isnull=False)
    stored = dict(members.values_list("user_id", "confusion"))
    theta = np.array([confusion_of(as_confusion(stored.get(int(user))), K=arrays.K) for user in arrays.user])
    return _posterior(arrays, theta, np.array(last.shares))


def _posterior(arrays: VoteArrays, theta: FloatArray, shares: FloatArray) -> FloatArray:
    return update_posterior(np.tile(shares, (len(arrays.comparison), 1)), theta, *arrays.votes)


def _held_out(arrays: VoteArrays) -> dict[str, float]:
    """Log-loss of hidden votes in nats by method; empty of a set that is too large, or without items to hide from."""
    if len(arrays) > MOST_HELD_OUT:
        return {}
    found = {
        method: held_out_log_loss(*arrays.votes, **arrays.sizes, method=method, rng=0).value for method in COMPARED
    }
    return {method.value: round(loss, 6) for method, loss in found.items() if loss is not None}


def _write_people(project: Project, arrays: VoteArrays, theta: FloatArray, accuracy: FloatArray) -> list[int]:
    """Each person's part of the fit, where it changed; who has no vote in it keeps none.

    Returns:
        Users whose rating offset changed: what they rated must be settled again.
    """
    place = {int(user): w for w, user in enumerate(arrays.user)}
    offsets = rating_offsets(project)
    changed, lenient = [], []
    for member in Membership.objects.filter(project=project).order_by("pk"):
        w = place.get(member.user_id)
        value = None if w is None else float(accuracy[w])
        confusion = None if w is None else theta[w].tolist()
        offset = offsets.get(member.user_id)
        if offset != member.rating_offset:
            lenient.append(member.user_id)
        if (member.reliability, member.confusion, member.rating_offset) != (value, confusion, offset):
            member.reliability, member.confusion, member.rating_offset = value, confusion, offset
            changed.append(member)
    Membership.objects.bulk_update(changed, ["reliability", "confusion", "rating_offset"], batch_size=200)
    return lenient


def rating_offsets(project: Project) -> dict[int, float]:
    """By how many points each person rates higher than everybody, by user; who has fewer than 20 ratings is not in it.

    Everybody is the mean over all ratings. One query, none where nobody rates.
    """
    if project.feedback.kind is not FeedbackKind.RATING:
        return {}
    sums: dict[int, tuple[float, int]] = {}
    for user_id, body in live_votes(project).order_by("pk").values_list("annotator_id", "body"):
        values = [value for row in body.get("ratings", {}).values() for value in row.values() if value is not None]
        total, n = sums.get(user_id, (0.0, 0))
        sums[user_id] = total + sum(values), n + len(values)
    ratings = sum(n for _, n in sums.values())
    if not ratings:
        return {}
    mean = sum(total for total, _ in sums.values()) / ratings
    return {user_id: total / n - mean for user_id, (total, n) in sums.items() if n >= FEWEST_RATINGS}


def _rated_by(project: Project, user_ids: list[int]) -> IntArray:
    """Comparisons that one of these people has rated. One query, none where there is nobody."""
    if not user_ids:
        return np.empty(0, dtype=np.int64)
    rows = live_votes(project).filter(annotator_id__in=user_ids).values_list("comparison_id", flat=True)
    return np.unique(np.array(list(rows), dtype=np.int64))


def _moved(project: Project, arrays: VoteArrays, fit: DawidSkeneResult) -> IntArray:
    """Comparisons whose consensus says something else than the fit does, by more than `MOVED`. One query."""
    counted = arrays.only(arrays.is_counted)
    theta = fit.theta[np.searchsorted(arrays.user, counted.user)]
    q = _posterior(counted, theta, fit.pi)
    comparisons, place = np.unique(counted.comparison, return_inverse=True)
    pairs = np.bincount(place, minlength=len(comparisons))
    lead = np.bincount(place, weights=q.max(axis=1, initial=0.0), minlength=len(comparisons)) / pairs
    wins = np.bincount(place, weights=q @ preference_values(arrays.K), minlength=len(comparisons)) / pairs
    rows = Consensus.objects.filter(project=project, votes__gt=0, posterior__isnull=False, due_at__isnull=True)
    rows = rows.exclude(state__in=(ConsensusState.ADJUDICATED, ConsensusState.WITHDRAWN))
    by_model = project.aggregator == Aggregator.DAWID_SKENE
    columns = rows.order_by("comparison_id").values_list("comparison_id", "posterior", "prob")
    stored = np.array(list(columns), dtype=np.float64).reshape(-1, 3)  # prob is NaN where there are several pairs
    at = np.searchsorted(comparisons, stored[:, 0])
    known = at < len(comparisons)
    known[known] = comparisons[at[known]] == stored[known, 0]
    at, stored = at[known], stored[known]
    moved = np.abs(lead[at] - stored[:, 1]) > MOVED
    if by_model:
        moved |= np.nan_to_num(np.abs(wins[at] - stored[:, 2])) > MOVED
    return comparisons[at[moved]]


def _batches(ids: IntArray) -> Iterator[list[int]]:
    return (ids[start : start + _BATCH].tolist() for start in range(0, len(ids), _BATCH))
