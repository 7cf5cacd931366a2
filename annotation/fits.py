"""The joint fit of a project's votes: what each person says where the truth is a, a tie or b (STATISTICS 3.4, 3.7).

Between two fits a consensus takes each new vote by the confusion of the last one, at once. A worker fits anew, from
where it was, when enough has changed, and every tenth time from the votes alone; then it computes anew the consensuses
that say something else. The fit is derived: `refit(warm=False)` depends on the facts alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from uuid import uuid4

import numpy as np
from django.db import transaction
from django.db.models import Count, F, Max, OuterRef, Q, Subquery

from annotation.consensus import METHODS, refresh
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
from annotation.statistics.estimates import BoolArray, FloatArray, IntArray
from annotation.tally import CLASSES, as_confusion, confusion_of, leading, posteriors
from annotation.vote_arrays import VoteArrays, known_classes, live_votes, load

REFRESH_MINUTES = 5
LEASE_MINUTES = 10
COLD_EVERY = 10  # fits; in between they go on from the last one, and could stay near where it was
MOVED = 0.001  # a probability that moves by less is left: nobody would see it, and computing it costs
MOST_HELD_OUT = 200_000  # votes up to which the aggregations are compared on hidden votes at each fit
COMPARED = (Method.CLASS_SHARES, Method.VOTE_SHARE, Method.ONE_COIN, Method.DAWID_SKENE)
FEWEST_RATINGS = 20  # of a person, before their own mean says something about them (STATISTICS 9.7)
MOVED_POINTS = 0.05  # an offset of ratings that changes by less is left, for the same reason
_FRESH_SHARE = 0.05  # new votes that make a fit worth while: so many of all …
_FRESH_VOTES = 1000  # … or so many (STATISTICS 3.7)
_BATCH = 500

log = logging.getLogger(__name__)


# --- when -------------------------------------------------------------------------------------------------------------


def due(now: datetime) -> list[Project]:
    """Projects with enough new votes, fitted five minutes ago or longer, or where a fit was asked for; without those
    that somebody is fitting. Two queries, and one for each project with a new vote."""
    newest = Vote.objects.filter(project=OuterRef("pk")).order_by("-pk").values("pk")[:1]
    asked = Q(fit__isnull=True) | Q(fit__number=0) | Q(fit__requests__gt=F("fit__requests_met"))
    grown = Q(newest__gt=F("fit__last_vote"), fit__fitted_at__lte=now - timedelta(minutes=REFRESH_MINUTES))
    rows = list(
        Project.objects.annotate(newest=Subquery(newest))
        .filter(asked | grown, newest__isnull=False)
        .exclude(fit__lease_expires_at__gte=now)
        .order_by("pk")
    )
    fits = {fit.project_id: fit for fit in AggregationFit.objects.filter(project__in=rows)}
    return [project for project in rows if _is_worth_while(fits.get(project.pk))]


def _is_worth_while(fit: AggregationFit | None) -> bool:
    if fit is None or fit.number == 0 or fit.requests > fit.requests_met:
        return True
    fresh = Vote.objects.filter(project=fit.project_id, pk__gt=fit.last_vote).count()
    return bool(fresh >= max(1, min(_FRESH_VOTES, _FRESH_SHARE * fit.ballots)))


def request(project: Project) -> None:
    """Ask for a fit as soon as there is a worker: the facts, or how they are read, changed otherwise than by votes."""
    AggregationFit.objects.get_or_create(project=project)
    AggregationFit.objects.filter(project=project).update(requests=F("requests") + 1)


def run_due(*, now: datetime) -> int:
    """Fit the projects that are due; how many were. Two at once do each project once.

    One that fails is logged and does not keep the others waiting; it is tried again when its lease has run out.
    """
    fitted = 0
    for project in due(now):
        number = AggregationFit.objects.get_or_create(project=project)[0].number
        owner = uuid4()
        free = Q(lease_expires_at__isnull=True) | Q(lease_expires_at__lt=now)
        lease = {"owner": owner, "lease_expires_at": now + timedelta(minutes=LEASE_MINUTES)}
        if not AggregationFit.objects.filter(free, project=project, number=number).update(**lease):
            continue
        try:
            fitted += refit(project=project, warm=(number + 1) % COLD_EVERY != 0, now=now)
        except Exception:  # whatever it is, it is this project's
            log.exception("the fit of project %s failed", project.slug)
            continue
        AggregationFit.objects.filter(project=project, owner=owner).update(owner=None, lease_expires_at=None)
    return fitted


# --- the fit ----------------------------------------------------------------------------------------------------------


def refit(*, project: Project, warm: bool = True, now: datetime) -> bool:
    """Fit all votes of a project and compute anew what that moves; whether it was written.

    A second call without new facts moves nothing. Of two at once the one that ends first is written: the other has
    read facts that are no newer, or its project is due again. Who dies before all is computed anew leaves a request.

    Args:
        warm: go on from the last fit, which is faster; else from the votes alone, which depends on nothing else.
    """
    started = time.perf_counter()
    last, _ = AggregationFit.objects.get_or_create(project=project)
    seen = Vote.objects.filter(project=project).aggregate(last=Max("pk"), n=Count("pk"))
    arrays = load(project)
    start = _where_it_was(project, arrays) if warm else None
    fit = dawid_skene(*arrays.votes, **arrays.sizes, gold=known_classes(project, arrays), init=start)
    row = {
        "number": last.number + 1,
        "requests": F("requests") + 1,
        "classes": arrays.K,
        "shares": fit.pi.tolist(),
        "ballots": seen["n"],
        "last_vote": seen["last"] or 0,
        "votes": len(arrays),
        "items": len(arrays.comparison),
        "annotators": len(arrays.user),
        "objective": float(fit.objective[-1]) if len(fit.objective) else None,
        "steps": fit.n_iter,
        "converged": fit.converged,
        "is_warm": start is not None,
        "held_out": _held_out(arrays),
        "seconds": round(time.perf_counter() - started, 3),
        "fitted_at": now,
    }
    with write(), transaction.atomic():
        if not AggregationFit.objects.filter(project=project, number=last.number).update(**row):
            return False
        lenient = _write_people(project, arrays, fit)
    moved = np.union1d(_moved(project, arrays, fit), _rated_by(project, lenient))
    for batch in _batches(moved):
        refresh(batch, now=now)
    AggregationFit.objects.filter(project=project, number=last.number + 1).update(requests_met=last.requests + 1)
    return True


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


def _write_people(project: Project, arrays: VoteArrays, fit: DawidSkeneResult) -> list[int]:
    """Each person's part of the fit, where it changed; who has no vote in it keeps none.

    Returns:
        Users whose rating offset changed: what they rated must be computed anew.
    """
    accuracy = annotator_accuracy(fit, *arrays.votes, **arrays.sizes).value
    place = {int(user): w for w, user in enumerate(arrays.user)}
    offsets = rating_offsets(project)
    changed, lenient = [], []
    for member in Membership.objects.filter(project=project).order_by("pk"):
        w = place.get(member.user_id)
        value = None if w is None else float(accuracy[w])
        confusion = None if w is None else fit.theta[w].tolist()
        offset = _settled_offset(member.rating_offset, offsets.get(member.user_id))
        if offset != member.rating_offset:
            lenient.append(member.user_id)
        if (member.reliability, member.confusion, member.rating_offset) != (value, confusion, offset):
            member.reliability, member.confusion, member.rating_offset = value, confusion, offset
            changed.append(member)
    Membership.objects.bulk_update(changed, ["reliability", "confusion", "rating_offset"], batch_size=200)
    return lenient


def _settled_offset(stored: float | None, found: float | None) -> float | None:
    """The offset to keep: a new rating of anybody moves everybody's a little."""
    if stored is not None and found is not None and abs(found - stored) < MOVED_POINTS:
        return stored
    return found


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


# --- what it moves ----------------------------------------------------------------------------------------------------


def _moved(project: Project, arrays: VoteArrays, fit: DawidSkeneResult) -> IntArray:
    """Comparisons whose consensus says something else than the fit does, or was computed by another method.

    One query. Rulings and withdrawn comparisons stay as they are.
    """
    counted = arrays.only(arrays.is_counted)
    comparisons, place = np.unique(counted.comparison, return_inverse=True)
    q = _counted_posteriors(project, counted, fit, users=arrays.user)
    pairs = np.bincount(place, minlength=len(comparisons))
    lead = np.bincount(place, weights=q.max(axis=1, initial=0.0), minlength=len(comparisons)) / np.maximum(pairs, 1)
    wins = q @ preference_values(len(CLASSES))
    first = np.cumsum(pairs) - pairs
    size = project.feedback.size
    known = {int(pk): i for i, pk in enumerate(comparisons)}
    rows = Consensus.objects.filter(project=project, votes__gt=0, posterior__isnull=False)
    rows = rows.exclude(state__in=(ConsensusState.ADJUDICATED, ConsensusState.WITHDRAWN))
    columns = ("comparison_id", "method", "posterior", "prob", "label", "state", "top_share")
    method = METHODS[Aggregator(project.aggregator)]
    by_model = project.aggregator == Aggregator.DAWID_SKENE
    names = np.array([*CLASSES, ""])[leading(q)]
    moved = []
    for pk, was, posterior, prob, label, state, top_share, details in rows.order_by("comparison_id").values_list(
        *columns, "details" if size > 2 else "method"
    ):
        i = known.get(pk)
        if i is None or was != method or abs(lead[i] - posterior) > MOVED:
            moved.append(pk)
            continue
        if not by_model:
            continue
        at = slice(first[i], first[i] + pairs[i])
        stored = [prob] if size == 2 else [pair["prob"] for pair in details.get("pairs", ())]
        has_moved = len(stored) != pairs[i] or bool(np.any(np.abs(wins[at] - stored) > MOVED))
        is_open = max(lead[i], top_share) < project.dispute_below or (size == 2 and not names[at][0])
        has_turned = state != ConsensusState.OPEN and is_open != (state == ConsensusState.DISPUTED)
        if has_moved or has_turned or (size == 2 and names[at][0] != label):
            moved.append(pk)
    return np.array(moved, dtype=np.int64)


def _counted_posteriors(project: Project, counted: VoteArrays, fit: DawidSkeneResult, *, users: IntArray) -> FloatArray:
    """What a consensus would say of each pair by this fit: P(a), P(tie), P(b) [n, 3], in the order of comparisons."""
    label = counted.label if counted.K == 3 else counted.label * 2
    has_vote_for_tie = np.bincount(counted.item, weights=label == 1, minlength=len(counted.comparison)) > 0
    has_tie: BoolArray = has_vote_for_tie | project.feedback.has_tie
    theta = fit.theta[np.searchsorted(users, counted.user)]
    return posteriors(
        counted.item,
        counted.annotator,
        label,
        people=[as_confusion(rows) for rows in theta.tolist()],
        has_tie=has_tie,
        shares=[tuple(fit.pi.tolist())] * len(counted.comparison),
    )


def _batches(ids: IntArray) -> Iterator[list[int]]:
    return (ids[start : start + _BATCH].tolist() for start in range(0, len(ids), _BATCH))
