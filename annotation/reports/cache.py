"""Reports kept under an exact fingerprint of what they are computed from: never stale, and computed once.

Knows no report: whoever computes one says its name, its parameters and how.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TypeVar

from django.core.cache import cache
from django.db.models import Count, Max, Sum

from annotation.models import (
    Adjudication,
    AggregationFit,
    Assignment,
    AssignmentState,
    Consensus,
    ConsensusState,
    Exclusion,
    Flag,
    Gold,
    ImportBatch,
    Membership,
    Project,
    Retraction,
    Slot,
    SlotState,
    Source,
    Vote,
)

T = TypeVar("T")
VERSION = 1  # to be raised when a report means something else: a shared cache outlives the program
KEPT_SECONDS = 24 * 3600


def fingerprint(project: Project) -> str:
    """Of everything that a report is made from. Facts are only ever added, so their newest keys stand for them all.

    Derived rows that reports read are in it by their sums: which votes slots count, and what is withdrawn. Fourteen
    queries, none of which reads a vote.
    """
    newest = {
        model.__name__: model.objects.filter(project=project).aggregate(last=Max("pk"))["last"]
        for model in (Vote, Retraction, Adjudication, Exclusion, Flag, ImportBatch)
    }
    done = Slot.objects.filter(project=project, state=SlotState.DONE)
    withdrawn = Consensus.objects.filter(project=project, state=ConsensusState.WITHDRAWN)
    skipped = Assignment.objects.filter(project=project, state=AssignmentState.SKIPPED)
    gold = Gold.objects.filter(project=project)
    settings = Project.objects.filter(pk=project.pk).values_list("form_number", "overlap_rule", "aggregator")
    members = Membership.objects.filter(project=project).order_by("pk")
    facts = [
        VERSION,
        sorted(newest.items()),
        done.aggregate(n=Count("pk"), votes=Sum("vote_id")),
        withdrawn.aggregate(n=Count("pk"), which=Sum("comparison_id")),
        skipped.aggregate(n=Count("pk")),
        gold.aggregate(last=Max("pk"), retired=Max("retired_at")),
        list(AggregationFit.objects.filter(project=project).values_list("fitted_at", "last_vote", "votes")),
        list(settings),
        list(members.values_list("user_id", "pseudonym", "user__name", "role", "excluded_at")),
        list(Source.objects.filter(project=project).order_by("pk").values_list("pk", "name")),
    ]
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def kept(project: Project, *, report: str, parameters: Sequence[object] = (), compute: Callable[[], T]) -> T:
    """What `compute` says of the facts as they are, from the cache if it was asked before.

    Args:
        report, parameters: what is asked; together with the project and its facts they say what comes out.
        compute: without side effects; its result must be picklable.
    """
    asked = hashlib.sha256(repr(list(parameters)).encode()).hexdigest()[:16]
    name = f"report/{project.pk}/{report}/{asked}/{fingerprint(project)}"
    # In a tuple: a report that is None is one that was computed.
    found: tuple[T] | None = cache.get(name)
    if found is None:
        found = (compute(),)
        cache.set(name, found, timeout=KEPT_SECONDS)
    return found[0]
