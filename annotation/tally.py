"""What the votes on a comparison say, of every kind of feedback: pure functions, without database and without state.

A vote of any kind is its pairs (`feedback.ranks`), and each pair is an item that is aggregated by itself: two
completions are one pair, K are K(K−1)/2. One completion alone has ratings and no pair.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np

from annotation.feedback import LETTERS, pair_classes, ranks, strength
from annotation.statistics.aggregation import (
    majority,
    preference_share,
    preference_values,
    prior_confusion,
    soft_labels,
    update_posterior,
    vote_counts,
)
from annotation.statistics.estimates import BoolArray, FloatArray, IntArray

CLASSES = ("a", "tie", "b")
PROB = {"a": 1.0, "tie": 0.5, "b": 0.0}
_COLUMNS = {2: np.array([0, 2]), 3: np.array([0, 1, 2])}  # where the classes stand if there is no tie, and if there is
_KEPT = {(3, 3): _COLUMNS[3], (3, 2): _COLUMNS[2], (2, 2): np.array([0, 1])}  # of a fit with so many classes
CLASS_CODES = {name: k for k, name in enumerate(CLASSES)}
_EQUAL = 1e-9  # mean preferences closer than this are a tie: they differ by rounding only


Confusion = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """How the votes on a comparison are read.

    Attributes:
        size: completions. has_tie: whether the form offers a tie, without which there are two classes only.
        shares: P(class) before any vote, from a to b, by the last fit; empty: all alike.
        by_model: labels are the posterior's; else the majority's.
    """

    size: int = 2
    has_tie: bool = True
    shares: tuple[float, ...] = ()
    by_model: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Ballot:
    """A counted vote: choice and body as `feedback.store` makes them.

    Attributes:
        confusion: P(vote | true class) of the person by the last fit, a row a class; None without one.
        rating_offset: points by which the person rates higher than everybody; 0 if that is not known.
    """

    annotator_id: int
    choice: str
    body: Mapping[str, Any]
    confusion: Confusion | None = None
    rating_offset: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Tally:
    """What the votes on one comparison say together.

    Attributes:
        label, prob, share, counts: of the one pair of two completions; empty, None and zeros for more, or for one.
        top_share: share of the leading class; of several pairs the mean. None without a pair or without votes.
        posterior: P(leading class) by the people's confusion; of several pairs the mean.
        lead: what a dispute is judged by: the top share, or by the model the posterior if that is more. A single vote
            is no dispute, however little is known of the person; a divided one is none where the better people agree.
        p_ties: posterior of a tie of each pair.
        details: as `Consensus.details`: pairs and ranking of several completions, strength, ratings, criteria.
        is_split: no class leads, or of several completions no single one is best.
    """

    votes: int = 0
    counts: tuple[int, int, int] = (0, 0, 0)
    both_bad: int = 0
    label: str = ""
    prob: float | None = None
    share: float | None = None
    top_share: float | None = None
    posterior: float | None = None
    lead: float | None = None
    p_ties: tuple[float, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)
    is_split: bool = False

    def is_disputed(self, *, below: float) -> bool:
        """Whether the votes leave it open: no class leads, or the lead is below what the project asks for."""
        return self.is_split or (self.lead is not None and self.lead < below)


def tallies(ballots: Sequence[Sequence[Ballot]], readings: Sequence[Reading]) -> list[Tally]:
    """The tally of each comparison; all their pairs are aggregated in one go.

    Args:
        ballots: the counted votes of each comparison.
        readings: how each is read.
    """
    pairs = np.array([reading.size * (reading.size - 1) // 2 for reading in readings], dtype=np.int64)
    first = np.concatenate([[0], np.cumsum(pairs)]).astype(np.int64)
    item: list[int] = []
    label: list[int] = []
    person: list[int] = []
    people: dict[Confusion | None, int] = {}
    for i, votes in enumerate(ballots):
        for ballot in votes:
            classes = [cls for _, _, cls in pair_classes(ranks(ballot.choice, ballot.body, size=readings[i].size))]
            item += range(first[i], first[i + 1])
            label += classes
            person += [people.setdefault(ballot.confusion, len(people))] * len(classes)
    items, labels = np.array(item, dtype=np.int64), np.array(label, dtype=np.int64)
    counts = vote_counts(items, labels, n_items=int(first[-1]), K=len(CLASSES))
    has_tie = np.repeat(np.array([reading.has_tie for reading in readings], dtype=bool), pairs) | (counts[:, 1] > 0)
    shares = [reading.shares for reading, n in zip(readings, pairs, strict=True) for _ in range(n)]
    known = list(people)
    q = posteriors(items, np.array(person, dtype=np.int64), labels, people=known, has_tie=has_tie, shares=shares)
    by_model = np.repeat(np.array([reading.by_model for reading in readings], dtype=bool), pairs)
    table = _table(counts, q, by_model)
    return [_tally(votes, readings[i], table, int(first[i])) for i, votes in enumerate(ballots)]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Table:
    """A row for each pair of a batch. `label` is −1 where no class leads."""

    counts: FloatArray
    label: IntArray
    prob: FloatArray
    share: FloatArray
    top_share: FloatArray
    lean: FloatArray
    posterior: FloatArray
    p_tie: FloatArray


def _table(counts: FloatArray, q: FloatArray, by_model: BoolArray) -> _Table:
    most = majority(counts)
    soft = soft_labels(most, counts)
    wins = q @ preference_values(len(CLASSES))
    return _Table(
        counts=counts,
        label=np.where(by_model, leading(q), most.label),
        prob=np.where(by_model, wins, soft.prob),
        share=soft.share,
        top_share=most.share.max(axis=1),
        lean=np.where(by_model, wins, preference_share(counts)),
        posterior=q.max(axis=1, initial=0.0),
        p_tie=q[:, 1],
    )


def leading(q: FloatArray) -> IntArray:
    """The class with the highest posterior, −1 where two share it: [n]."""
    top = q >= q.max(axis=1, keepdims=True, initial=0.0) - _EQUAL
    return np.where(top.sum(axis=1) == 1, top.argmax(axis=1), -1).astype(np.int64)


def posteriors(
    item: IntArray,
    person: IntArray,
    label: IntArray,
    *,
    people: Sequence[Confusion | None],
    has_tie: BoolArray,
    shares: Sequence[tuple[float, ...]],
) -> FloatArray:
    """P(a), P(tie), P(b) of each pair by what is known of the people: [n, 3].

    Args:
        item, person, label: [V] the pair, the place among `people`, and the class of each vote.
        people: P(vote | true class) of each, None where it is not known.
        has_tie: [n] whether a tie was offered; without it its probability is 0.
        shares: [n] P(class) before any vote; empty: all alike.
    """
    q = np.zeros((len(has_tie), len(CLASSES)))
    for K, members in ((3, has_tie), (2, ~has_tie)):
        mine = members[item]
        place = np.cumsum(members) - 1
        theta = np.array([confusion_of(matrix, K=K) for matrix in people]).reshape(-1, K, K)
        priors = {known: _prior(known, K=K) for known in set(shares)}
        before = np.array([priors[shares[i]] for i in np.flatnonzero(members).tolist()]).reshape(-1, K)
        label_K = label[mine] if K == 3 else label[mine] // 2
        q[np.ix_(members, _COLUMNS[K])] = update_posterior(before, theta, place[item[mine]], person[mine], label_K)
    return q


def as_confusion(stored: Sequence[Sequence[float]] | None) -> Confusion | None:
    """What a membership stores, as a value that can be a key."""
    return None if stored is None else tuple(tuple(row) for row in stored)


def confusion_of(stored: Confusion | None, *, K: int) -> FloatArray:
    """P(vote | true class) [K, K] of a person: as fitted, without its tie where none is offered, or the prior's."""
    if stored is None or len(stored) < K:
        return prior_confusion(K)
    theta = np.array(stored, dtype=np.float64)[np.ix_(_KEPT[len(stored), K], _KEPT[len(stored), K])]
    return np.asarray(theta / theta.sum(axis=1, keepdims=True))


def _prior(shares: tuple[float, ...], *, K: int) -> FloatArray:
    if len(shares) < K:
        return np.full(K, 1 / K)
    kept = np.array(shares)[_KEPT[len(shares), K]]
    return np.asarray(kept / kept.sum())


def _tally(votes: Sequence[Ballot], reading: Reading, table: _Table, first: int) -> Tally:
    if not votes:
        return Tally()
    size = reading.size
    bodies = [ballot.body for ballot in votes]
    details = _strength(bodies) | _ratings(votes) | _criteria(bodies)
    both_bad = sum(bool(body.get("both_bad")) for body in bodies)
    if size == 1:
        return Tally(votes=len(votes), details=details)
    rows = slice(first, first + size * (size - 1) // 2)
    top_share, posterior = float(table.top_share[rows].mean()), float(table.posterior[rows].mean())
    common = Tally(
        votes=len(votes),
        both_bad=both_bad,
        top_share=top_share,
        posterior=posterior,
        lead=max(posterior, top_share) if reading.by_model else top_share,
        p_ties=tuple(table.p_tie[rows].tolist()),
        details=details,
    )
    if size == 2:
        a, tie, b = (int(n) for n in table.counts[first])
        return replace(
            common,
            counts=(a, tie, b),
            label=_name(table.label[first]),
            prob=float(table.prob[first]),
            share=float(table.share[first]),
            is_split=bool(table.label[first] < 0),
        )
    pairs = [
        {
            "a": LETTERS[i],
            "b": LETTERS[j],
            "votes": [int(n) for n in table.counts[row]],
            "label": _name(table.label[row]),
            "prob": float(table.prob[row]),
            "share": float(table.share[row]),
        }
        for row, (i, j) in enumerate(combinations(range(size), 2), start=first)
    ]
    ranking = _ranking(table.lean[rows], size)
    return replace(common, details={"pairs": pairs, "ranking": ranking, **details}, is_split=_no_best(ranking, pairs))


def _name(code: int) -> str:
    return CLASSES[code] if code >= 0 else ""


def _ranking(lean: FloatArray, size: int) -> list[list[str]]:
    """Completions by their mean preference against the others, best first (STATISTICS 9.7)."""
    total = np.zeros(size)
    for value, (i, j) in zip(lean, combinations(range(size), 2), strict=True):
        total[i] += value
        total[j] += 1 - value
    mean = total / (size - 1)
    order = sorted(range(size), key=lambda i: (-mean[i], i))
    groups: list[list[int]] = []
    for i in order:
        if groups and mean[groups[-1][-1]] - mean[i] <= _EQUAL:
            groups[-1].append(i)
        else:
            groups.append([i])
    return [sorted(LETTERS[i] for i in group) for group in groups]


def _no_best(ranking: Sequence[Sequence[str]], pairs: Sequence[Mapping[str, Any]]) -> bool:
    """Whether no completion is best, unless people agree that the best ones are equal."""
    best = set(ranking[0])
    inside = [pair for pair in pairs if {pair["a"], pair["b"]} <= best]
    return any(pair["label"] != "tie" for pair in inside)


def _strength(bodies: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean strength, −1 to 1; "both bad" on a scale is 0."""
    values = [strength(body) for body in bodies]
    if all(value is None for value in values):
        return {}
    counted = [v or 0.0 for v, body in zip(values, bodies, strict=True) if v is not None or body.get("both_bad")]
    return {"strength": math.fsum(counted) / len(counted)}


def _ratings(votes: Sequence[Ballot]) -> dict[str, Any]:
    """Means by completion and criterion, in points, each person's own leniency taken out (STATISTICS 9.7)."""
    points: dict[str, dict[str, list[float]]] = {}
    for vote in votes:
        for letter, row in vote.body.get("ratings", {}).items():
            for key, value in row.items():
                if value is not None:
                    points.setdefault(letter, {}).setdefault(key, []).append(value - vote.rating_offset)
    if not points:
        return {}
    return {
        "ratings": {
            letter: {key: {"mean": math.fsum(values) / len(values), "n": len(values)} for key, values in row.items()}
            for letter, row in sorted(points.items())
        }
    }


def _criteria(bodies: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    counts: dict[str, list[int]] = {}
    for body in bodies:
        for key, value in body.get("criteria", {}).items():
            counts.setdefault(key, [0, 0, 0])[criterion_class(value, body)] += 1
    return {"criteria": counts} if counts else {}


def criterion_class(value: str | int, body: Mapping[str, Any]) -> int:
    """Class of a criterion row: a letter, or a point of the scale counted from a."""
    if isinstance(value, str):
        return CLASS_CODES[value]
    points: int = body["points"]
    return 1 + (2 * value > points + 1) - (2 * value < points + 1)


def ruled(tally: Tally, answer: Mapping[str, Any], *, size: int) -> Tally:
    """The tally with the label that an adjudication fixes: prob one-hot, tie ½; counts and shares stay the votes'."""
    if size == 2:
        return replace(tally, label=answer["choice"], prob=PROB[answer["choice"]])
    known = {(pair["a"], pair["b"]): pair for pair in tally.details.get("pairs", ())}
    pairs = []
    for i, j, code in pair_classes(ranks("", answer, size=size)):
        place = (LETTERS[i], LETTERS[j])
        voted = known.get(place, {"a": place[0], "b": place[1], "votes": [0, 0, 0], "share": None})
        pairs.append({**voted, "label": CLASSES[code], "prob": PROB[CLASSES[code]]})
    return replace(tally, details={**tally.details, "pairs": pairs, "ranking": answer["ranking"]})
