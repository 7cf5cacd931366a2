"""The counted votes of a project as contests between systems, which are the sources of its completions.

Shapes: V votes on items, D of them between different systems, n items, C systems, S completions of a comparison.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from annotation.errors import Invalid
from annotation.models import Project
from annotation.reports.criteria import criterion_pairs
from annotation.reports.features import load_features, load_sides
from annotation.reports.votes import both_bad_votes, load_comparisons, share_of_votes
from annotation.statistics.aggregation import preference_values
from annotation.statistics.bias import log2_ratio
from annotation.statistics.estimates import Estimate, FloatArray, IntArray
from annotation.vote_arrays import VoteArrays, load


class UnknownCriterion(Invalid):
    """The form has no such criterion."""

    code = "unknown_criterion"


@dataclass(frozen=True, kw_only=True, slots=True)
class SystemVotes:
    """Votes between completions of different systems.

    Attributes:
        a, b: [D] codes of `source`. outcome: [D] 1 for a, ½ for a tie, 0 for b.
        prompt, annotator, comparison: [D], annotators as codes of `user`.
        a_left: [D] 1, 0, or −1 without a screen. length, style: [D] log2 ratio of a to b.
        source: [C] primary keys. user: [W] primary keys.
        votes: all votes, those between completions of one system too. writers: [n, 2] the sources of each item, and
            prompts: [n] its prompt. both_bad: how many of all votes found both completions bad.
    """

    a: IntArray
    b: IntArray
    outcome: FloatArray
    prompt: IntArray
    annotator: IntArray
    comparison: IntArray
    a_left: IntArray
    length: FloatArray
    style: FloatArray
    source: IntArray
    user: IntArray
    votes: VoteArrays
    writers: IntArray
    prompts: IntArray
    both_bad: Estimate

    def __len__(self) -> int:
        return len(self.a)

    @property
    def n(self) -> int:
        """Systems."""
        return len(self.source)

    @property
    def has_screens(self) -> bool:
        """Whether every vote has one."""
        return bool(np.all(self.a_left >= 0))


def load_system_votes(project: Project, *, criterion: str = "", with_marks: bool) -> SystemVotes:
    """Six or seven queries.

    Args:
        criterion: what is judged, instead of the main question.
        with_marks: whether `style` is wanted, for which all texts are read; else it is 0.

    Raises:
        UnknownCriterion: the form has no such criterion.
    """
    votes = _votes(project, criterion)
    features = load_features(project, votes, with_marks=with_marks)
    prompts = load_comparisons(project).prompt_of(votes.comparison)
    differ = (features.source[:, 0] != features.source[:, 1])[votes.item]
    item = votes.item[differ]
    source, code = np.unique(features.source[item], return_inverse=True)
    code = code.reshape(-1, 2).astype(np.int64)
    bad = np.isin(votes.key, both_bad_votes(project))
    return SystemVotes(
        a=code[:, 0],
        b=code[:, 1],
        outcome=preference_values(votes.K)[votes.label[differ]],
        prompt=prompts[item],
        annotator=votes.annotator[differ],
        comparison=votes.comparison[item],
        a_left=load_sides(project, votes)[differ],
        length=log2_ratio(*features.chars[item].T),
        style=log2_ratio(*features.marks[item].T),
        source=source,
        user=votes.user,
        votes=votes,
        writers=features.source,
        prompts=prompts,
        both_bad=share_of_votes(votes, bad, prompts),
    )


def _votes(project: Project, criterion: str) -> VoteArrays:
    if not criterion:
        return load(project, counted=True)
    known = criterion_pairs(project)
    if criterion not in known:
        rule = f"must be one of {', '.join(known) or 'none'}, got {criterion!r}"
        raise UnknownCriterion(f"criterion {rule}", details={"criterion": [rule]})
    return known[criterion]


@dataclass(frozen=True, kw_only=True, slots=True)
class Orders:
    """Votes that put systems in an order, best first.

    Attributes:
        systems: [orders, S] codes. prompt: [orders]. given: votes that there are, orders or not.
    """

    systems: IntArray
    prompt: IntArray
    given: int


def orders(found: SystemVotes) -> Orders:
    """The votes that are orders; those with a tie are none, and neither are those on two completions of one system."""
    votes = found.votes
    pairs = max(1, len(np.unique(votes.pair)))
    if pairs * len(np.unique(votes.key)) != len(votes):  # a criterion does not apply to every completion
        pairs = 1
    size = (1 + math.isqrt(1 + 8 * pairs)) // 2
    label, item = votes.label.reshape(-1, pairs), votes.item.reshape(-1, pairs)
    wins = np.zeros((len(label), size), dtype=np.int64)
    for column, (i, j) in enumerate(combinations(range(size), 2)):
        wins[:, i] += label[:, column] == 0
        wins[:, j] += label[:, column] == votes.K - 1
    # The pairs of the first completion come first: its own source, and those of the others in their order.
    written = np.column_stack([found.writers[item[:, 0], 0], found.writers[item[:, : size - 1], 1]])
    ranked = np.take_along_axis(written, np.argsort(-wins, axis=1, kind="stable"), axis=1)
    is_order = np.all(np.diff(np.sort(ranked, axis=1), axis=1) > 0, axis=1)
    is_order &= np.all(np.diff(np.sort(wins, axis=1), axis=1) > 0, axis=1)
    return Orders(
        systems=np.searchsorted(found.source, ranked[is_order]),
        prompt=found.prompts[item[is_order, 0]],
        given=len(label),
    )
