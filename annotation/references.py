"""A researcher's own answers as a reference, and how far annotators and the consensus agree with them.

A reference has neither slot nor lease and never counts. It is given in stored order (a on the left), and may be put
right: the earlier answer stays, taken back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import uuid4

import numpy as np
from django.db import transaction
from django.db.models import QuerySet

from annotation.feedback import LETTERS, Answer, store
from annotation.gate import write
from annotation.models import (
    AuditAction,
    Comparison,
    Consensus,
    GuidelineVersion,
    Project,
    Purpose,
    Retraction,
    User,
    Vote,
)
from annotation.people import audit
from annotation.records import ORDINARY
from annotation.statistics.agreement import cohen_kappa
from annotation.statistics.estimates import Estimate, wilson
from annotation.tally import CLASS_CODES
from annotation.vote_arrays import pair_labels
from annotation.voting import body_hash

REPETITION = 30_000  # of every reference: the same person may have the comparison as an annotator too


def live_references(project: Project) -> QuerySet[Vote]:
    """References that have not been put right since, the oldest first."""
    return Vote.objects.filter(project=project, purpose=Purpose.REFERENCE, retractions__isnull=True).order_by("pk")


def record_reference(*, comparison: Comparison, by: User, answer: Answer, now: datetime) -> Vote:
    """Store a researcher's answer, given with a on the left. The same again changes nothing, another replaces it.

    Raises:
        BadAnswer: the project's form does not allow it.
    """
    project = comparison.project
    form = project.feedback
    stored = store(form, answer, sides=LETTERS[: form.size])
    digest = body_hash(stored)
    with write(), transaction.atomic():
        Comparison.objects.select_for_update(no_key=True).get(pk=comparison.pk)
        own = Vote.objects.filter(project=project, comparison=comparison, annotator=by, purpose=Purpose.REFERENCE)
        last = own.order_by("-pk").first()
        if last is not None and last.body_hash == digest:
            return last
        replaces = None
        if last is not None:
            replaces = Retraction.objects.create(
                project=project, vote=last, by=by, reason="another reference", created_at=now
            )
        vote = Vote.objects.create(
            project=project,
            comparison=comparison,
            annotator=by,
            repetition=REPETITION,
            purpose=Purpose.REFERENCE,
            key=uuid4(),
            choice=stored.choice,
            body=stored.body,
            body_hash=digest,
            active_ms=answer.active_ms,
            guideline=GuidelineVersion.objects.filter(project=project).order_by("-number").first(),
            replaces=replaces,
            created_at=now,
        )
        audit(project=project, by=by, action=AuditAction.REFERENCE_GIVEN, target=str(comparison.public_id), now=now)
        return vote


@dataclass(frozen=True, kw_only=True, slots=True)
class WithReference:
    """Agreement with the references on the comparisons that both have judged; of several completions, on the pairs."""

    percent: Estimate
    kappa: Estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferenceAgreement:
    """Everybody beside the references: the consensus, and each person by user id."""

    references: int
    consensus: WithReference
    people: dict[int, WithReference]


def reference_agreement(project: Project) -> ReferenceAgreement:
    """How far the consensus and each annotator agree with the researchers' answers; three queries.

    Where researchers differ, the newest answer is the reference. Who gave one is not compared with it.
    """
    size = project.feedback.size
    newest: dict[int, tuple[int, np.ndarray]] = {}
    for comparison_id, by_id, choice, body in live_references(project).values_list(
        "comparison_id", "annotator_id", "choice", "body"
    ):
        newest[comparison_id] = (by_id, pair_labels([choice], [body], size=size)[0])
    tables: dict[int, np.ndarray] = {}
    votes = Vote.objects.filter(
        comparison_id__in=list(newest), project=project, purpose__in=ORDINARY, repetition=0, retractions__isnull=True
    )
    for comparison_id, user_id, choice, body in votes.values_list("comparison_id", "annotator_id", "choice", "body"):
        by_id, wanted = newest[comparison_id]
        if user_id != by_id:
            given = pair_labels([choice], [body], size=size)[0]
            np.add.at(tables.setdefault(user_id, np.zeros((3, 3))), (given, wanted), 1)
    whole = np.zeros((3, 3))
    for row in Consensus.objects.filter(comparison_id__in=list(newest)):
        for given_class, wanted_class in _labelled(row, newest[row.comparison_id][1], size):
            whole[given_class, wanted_class] += 1
    return ReferenceAgreement(
        references=len(newest),
        consensus=_compare(whole),
        people={user_id: _compare(table) for user_id, table in tables.items()},
    )


def _labelled(row: Consensus, wanted: np.ndarray, size: int) -> Iterable[tuple[int, int]]:
    """The classes of a consensus, where it has one, beside those of the reference."""
    labels: list[Any] = [row.label] if size == 2 else [pair.get("label", "") for pair in row.details.get("pairs", [])]
    return [
        (CLASS_CODES[label], int(want)) for label, want in zip(labels, wanted, strict=False) if label in CLASS_CODES
    ]


def _compare(table: np.ndarray) -> WithReference:
    return WithReference(
        percent=wilson(float(np.trace(table)), float(table.sum())),
        kappa=cohen_kappa(table),
    )
