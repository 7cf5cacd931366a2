"""What the reports read of a project beside the arrays of its votes: comparisons, people, votes for "both are bad".

Shapes: V votes, n items, C comparisons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import numpy as np

from annotation.models import Comparison, Membership, Project, Vote
from annotation.statistics.estimates import BoolArray, Estimate, IntArray, clustered_share
from annotation.vote_arrays import VoteArrays


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparisons:
    """What the reports need of every comparison, in the order of the keys. `origin`: [C] codes of `origins`."""

    key: IntArray
    prompt: IntArray
    origin: IntArray
    origins: Sequence[UUID]
    is_full_overlap: BoolArray

    def place(self, comparison: IntArray) -> IntArray:
        """Where these comparisons stand."""
        return np.searchsorted(self.key, comparison).astype(np.int64)

    def prompt_of(self, comparison: IntArray) -> IntArray:
        """The prompt of each comparison: the group that intervals are clustered by."""
        return self.prompt[self.place(comparison)]


def load_comparisons(project: Project) -> Comparisons:
    """All comparisons of a project; one query."""
    names = ("pk", "prompt_id", "origin", "full_overlap")
    rows = list(Comparison.objects.filter(project=project).order_by("pk").values_list(*names))
    origins = sorted({row[2] for row in rows})
    code = {origin: i for i, origin in enumerate(origins)}
    return Comparisons(
        key=np.array([row[0] for row in rows], dtype=np.int64),
        prompt=np.array([row[1] for row in rows], dtype=np.int64),
        origin=np.array([code[row[2]] for row in rows], dtype=np.int64),
        origins=origins,
        is_full_overlap=np.array([row[3] for row in rows], dtype=bool),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A person of a project as the reports name them."""

    id: UUID
    name: str
    pseudonym: str
    is_excluded: bool


def members(project: Project, user_ids: Sequence[int]) -> dict[int, Member]:
    """These people by user id; one query."""
    rows = Membership.objects.filter(project=project, user_id__in=user_ids).select_related("user")
    return {
        row.user_id: Member(
            id=row.user.public_id,
            name=row.user.name or row.pseudonym,
            pseudonym=row.pseudonym,
            is_excluded=row.excluded_at is not None,
        )
        for row in rows
    }


def both_bad_votes(project: Project) -> IntArray:
    """Keys of the votes that found both completions bad; one query."""
    rows = Vote.objects.filter(project=project, body__both_bad=True).order_by().values_list("pk", flat=True)
    return np.array(list(rows), dtype=np.int64)


def codes_of(values: IntArray) -> tuple[IntArray, int]:
    """Values as codes from 0, and how many different ones there are."""
    names, codes = np.unique(values, return_inverse=True)
    return codes.astype(np.int64), len(names)


def share_of_votes(votes: VoteArrays, holds: BoolArray, prompt: IntArray) -> Estimate:
    """The share of the votes for which it `holds` [V], by Wilson, clustered by the `prompt` [n] of each item."""
    group, n_groups = codes_of(prompt)
    of_vote = group[votes.item]
    right = np.bincount(of_vote, weights=holds, minlength=n_groups).astype(np.float64)
    return clustered_share(right, np.bincount(of_vote, minlength=n_groups).astype(np.float64))
