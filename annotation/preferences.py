"""The door for training: what the votes say of comparisons that are through, as preferences, and the mark that freezes.

A preference comes from facts alone: the votes that slots count, rulings, flags, gold and exclusions, read by the label
policy. The consensus rows say only which comparisons are through; what a fit in the background has made of them counts
for nothing here, so that the same facts give the same preferences.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np

from annotation.consensus import METHODS, Decision, newest_decisions, settle_due
from annotation.feedback import LETTERS, FeedbackKind
from annotation.models import (
    Adjudication,
    Aggregator,
    Comparison,
    ComparisonCompletion,
    Consensus,
    ConsensusState,
    Gold,
    GuidelineVersion,
    Membership,
    Project,
    Purpose,
    Slot,
    SlotState,
    Vote,
)
from annotation.statistics.aggregation import dawid_skene, default_prior
from annotation.tally import Ballot, Confusion, Reading, Tally, as_confusion, ruled, tallies
from annotation.vote_arrays import load, ruled_classes

MARGIN_PER_STEP = 1 / 3  # nats for each step of a scale; a guess (ENGINE 3.1)
DIGITS = 9  # of a posterior in a line: the order in which a database adds votes up must not show in a hash


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelPolicy:
    """How votes become labels. `tie_rule`: `half` keeps ties as ½, `drop` leaves them out.

    Attributes:
        aggregator, dispute_below: None is the project's.
        min_confidence: the leading class has at least this share of the votes.
        margin: whether a line carries how strongly people preferred the chosen one, where the form is a scale.
    """

    aggregator: Aggregator | None = None
    dispute_below: float | None = None
    min_votes: int = 1
    tie_rule: str = "half"
    min_confidence: float = 0.0
    margin: bool = False

    def of(self, project: Project) -> LabelPolicy:
        """The policy with what the project says where it says nothing itself."""
        return LabelPolicy(
            aggregator=self.aggregator or Aggregator(project.aggregator),
            dispute_below=project.dispute_below if self.dispute_below is None else self.dispute_below,
            min_votes=self.min_votes,
            tie_rule=self.tie_rule,
            min_confidence=self.min_confidence,
            margin=self.margin,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Preference:
    """What the votes say of two completions, made ready for training, in stored order: a, b.

    Of more than two completions each pair is a preference of its own: `id` ends in the two letters, `weight` is shared
    by the pairs so that one prompt weighs 1, and `ranking` says the whole order.

    Attributes:
        prob, share: of a; share is None where a ruling stands without votes.
        margin: nats, above 0 where a is preferred; None unless asked for.
        is_ruled: the label is a ruling's.
        p_tie: posterior of a tie, where the labels are a model's.
    """

    id: str
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
    share: float | None
    weight: float
    margin: float | None
    votes_a: int
    votes_tie: int
    votes_b: int
    surplus: int
    annotators: int
    category: str
    is_ruled: bool
    ranking: list[list[str]] | None
    p_tie: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Ready:
    """The preferences that a label policy takes, and what it leaves out, by reason.

    Attributes:
        excluded_annotators: pseudonyms of the people whose votes do not count.
        policy: with what the project said. fit: what a manifest should say of the model; empty without one.
    """

    preferences: list[Preference]
    dropped: dict[str, int]
    guideline_versions: list[int]
    excluded_annotators: list[str]
    policy: LabelPolicy
    fit: dict[str, Any]

    @property
    def method(self) -> str:
        """Name and version of the aggregation, as a manifest carries it."""
        assert self.policy.aggregator is not None
        return METHODS[self.policy.aggregator]


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A comparison that is through, before anybody has asked what its votes say.

    Attributes:
        shown: text, finish and source of each completion, in stored order.
        ruling: the answer that an adjudicator fixed; None: the votes decide.
    """

    comparison_pk: int
    comparison: str
    prompt: list[dict[str, str]]
    category: str
    shown: Sequence[tuple[str, str, str]]
    ruling: Mapping[str, Any] | None


Choose = Callable[[Sequence[Candidate]], Sequence[bool]]


def everybody(candidates: Sequence[Candidate]) -> Sequence[bool]:
    """Fit the people on all comparisons: there is no held-out part."""
    return [True] * len(candidates)


def ready_preferences(
    *,
    project: Project,
    policy: LabelPolicy,
    is_train: Choose = everybody,
    gold_until: datetime | None = None,
    now: datetime,
) -> Ready:
    """What the policy takes of every comparison that is through; consensuses that are due are computed first.

    Gold stays out, whatever it is for: people are tested on it. So do comparisons with a completion that was written to
    evaluate policies, and votes of excluded people. By a model, the people
    are fitted on the training part alone: a held-out label owes nothing to the training votes but how each person errs,
    and what lies outside moves no label (STATISTICS 9.4).

    Args:
        is_train: which candidates are for training.
        gold_until: leave out what was gold by then, where an older snapshot is built again; default now.
    """
    while settle_due(now=now):
        pass
    policy = policy.of(project)
    dropped: Counter[str] = Counter()
    candidates = list(_candidates(project, gold_until or now, dropped))
    excluded = dict(
        Membership.objects.filter(project=project, excluded_at__isnull=False).values_list("user_id", "pseudonym")
    )
    trains = {one.comparison_pk for one, train in zip(candidates, is_train(candidates), strict=True) if train}
    people = _fit(project, trains) if policy.aggregator is Aggregator.DAWID_SKENE else _People()
    ballots = _ballots(project, people, excluded)
    reading = Reading(
        size=project.feedback.size,
        has_tie=project.feedback.has_tie,
        shares=people.shares,
        by_model=policy.aggregator is Aggregator.DAWID_SKENE,
    )
    found = tallies([ballots[one.comparison_pk] for one in candidates], [reading] * len(candidates))
    surplus = _surplus(project, ballots, excluded)
    steps = _steps_of_scale(project) if policy.margin else None
    preferences: list[Preference] = []
    for one, tally in zip(candidates, found, strict=True):
        preferences += _preferences(one, tally, policy, dropped, surplus=surplus[one.comparison_pk], steps=steps)
    versions = GuidelineVersion.objects.filter(project=project, pk__in=_guidelines_used(preferences))
    return Ready(
        preferences=preferences,
        dropped=dict(sorted(dropped.items())),
        guideline_versions=sorted(versions.values_list("number", flat=True)),
        excluded_annotators=sorted(excluded.values()),
        policy=policy,
        fit=people.about,
    )


# --- who is there -----------------------------------------------------------------------------------------------------


def _candidates(project: Project, gold_until: datetime, dropped: Counter[str]) -> Iterator[Candidate]:
    """Comparisons that are through, by public id; the others are counted as dropped, by reason. Six queries."""
    rows = Consensus.objects.filter(project=project).select_related("comparison__prompt")
    known_gold = Gold.objects.filter(project=project, created_at__lte=gold_until)
    gold = set(known_gold.values_list("comparison_id", flat=True))
    newest = newest_decisions(Adjudication.objects.filter(project=project))
    texts = _texts(project)
    evaluated = _evaluated(project)
    for row in rows.order_by("comparison__public_id"):
        decision = newest.get(row.comparison_id)
        shown = texts[row.comparison_id]
        reason = _why_not(row, decision, len(shown))
        if row.comparison_id in evaluated:
            reason = "evaluation"
        if row.comparison_id in gold:
            reason = "gold"
        if reason is not None:
            dropped[reason] += 1
            continue
        yield Candidate(
            comparison_pk=row.comparison_id,
            comparison=str(row.comparison.public_id),
            prompt=row.comparison.prompt.messages,
            category=row.comparison.prompt.category,
            shown=shown,
            ruling=decision.answer if decision is not None and decision.is_ruling else None,
        )


def _evaluated(project: Project) -> set[int]:
    """Comparisons with a completion of an evaluation, whoever made the comparison. One query."""
    places = ComparisonCompletion.objects.filter(completion__project=project, completion__for_evaluation=True)
    return set(places.values_list("comparison_id", flat=True))


def _why_not(row: Consensus, newest: Decision | None, size: int) -> str | None:
    """Why a comparison is not through. What the votes divide on is: whether that is too much, the policy says."""
    if row.state in {ConsensusState.OPEN, ConsensusState.WITHDRAWN}:
        return str(row.state)
    if newest is not None and newest.is_waiting:
        return str(ConsensusState.DISPUTED)
    return "one_completion" if size == 1 else None


@dataclass(frozen=True, kw_only=True, slots=True)
class _People:
    """What a fit found: each person's confusion by user, the class shares, and what a manifest says of it."""

    confusion: Mapping[int, Confusion | None] = field(default_factory=dict)
    shares: tuple[float, ...] = ()
    about: dict[str, Any] = field(default_factory=dict)


def _fit(project: Project, comparisons: set[int]) -> _People:
    """Dawid and Skene's model on the counted votes of these comparisons, where rulings are known."""
    arrays = load(project, counted=True)
    part = arrays.only(np.isin(arrays.comparison, list(comparisons))[arrays.item])
    fit = dawid_skene(*part.votes, **part.sizes, gold=ruled_classes(project, part))
    gamma, class_prior = default_prior(part.K)
    confusions = (as_confusion(rows) for rows in fit.theta.tolist())
    return _People(
        confusion=dict(zip(part.user.tolist(), confusions, strict=True)),
        shares=tuple(fit.pi.tolist()),
        about={
            "fitted_on": "train",
            "prior": {"confusion": gamma.tolist(), "classes": class_prior},
            "class_shares": [round(value, 6) for value in fit.pi.tolist()],
            "annotators": len(part.user),
            "votes": len(part),
            "converged": fit.converged,
        },
    )


def _ballots(project: Project, people: _People, excluded: Mapping[int, str]) -> Mapping[int, list[Ballot]]:
    """The counted votes of each comparison, in the order of slots, read by what is known of the people. One query."""
    found: dict[int, list[Ballot]] = defaultdict(list)
    slots = Slot.objects.filter(project=project, state=SlotState.DONE).order_by("comparison_id", "number")
    columns = ("comparison_id", "vote__annotator_id", "vote__choice", "vote__body")
    for pk, annotator_id, choice, body in slots.values_list(*columns).iterator():
        if annotator_id not in excluded:
            confusion = people.confusion.get(annotator_id)
            found[pk].append(Ballot(annotator_id=annotator_id, choice=choice, body=body, confusion=confusion))
    return found


def _surplus(project: Project, ballots: Mapping[int, list[Ballot]], excluded: Mapping[int, str]) -> Mapping[int, int]:
    """Live votes of each comparison that no slot counts. One query."""
    live = Vote.objects.filter(project=project, purpose=Purpose.WANTED, retractions__isnull=True)
    votes = Counter(live.exclude(annotator_id__in=excluded).values_list("comparison_id", flat=True))
    votes.subtract({pk: len(counted) for pk, counted in ballots.items()})
    return votes


# --- what is taken ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pair:
    """Two completions of a comparison, by their places, and what is said of them. An empty `label` is none."""

    places: tuple[int, int]
    label: str
    prob: float
    share: float | None
    votes: tuple[int, int, int]
    p_tie: float | None


def _preferences(
    one: Candidate,
    tally: Tally,
    policy: LabelPolicy,
    dropped: Counter[str],
    *,
    surplus: int,
    steps: float | None,
) -> list[Preference]:
    """The preferences of a comparison that the policy takes; what it leaves out is counted as dropped."""
    size = len(one.shown)
    if one.ruling is not None:
        tally = ruled(tally, one.ruling, size=size)
    else:
        assert policy.dispute_below is not None
        is_disputed = tally.is_disputed(below=policy.dispute_below)
        few = "too_few_votes" if tally.votes < max(1, policy.min_votes) else None
        reason = few or (str(ConsensusState.DISPUTED) if is_disputed else None)
        if reason is not None:
            dropped[reason] += 1
            return []
    taken = []
    for pair in _pairs(tally, size, by_model=policy.aggregator is Aggregator.DAWID_SKENE and one.ruling is None):
        reason = _why_not_pair(one, pair, policy)
        if reason is None:
            taken.append(pair)
        else:
            dropped[reason] += 1
    strength = tally.details.get("strength")
    margin = None if steps is None or strength is None else MARGIN_PER_STEP * steps * strength
    return [_preference(one, pair, tally, 1 / len(taken), surplus=surplus, margin=margin) for pair in taken]


def _pairs(tally: Tally, size: int, *, by_model: bool) -> Iterator[_Pair]:
    """The pairs of a comparison. A tie, and what no class leads, is exactly ½; a posterior has so many digits."""
    rows: Sequence[Mapping[str, Any]] = tally.details.get("pairs", ())
    if size == 2:
        rows = [
            {"a": "a", "b": "b", "label": tally.label, "prob": tally.prob, "share": tally.share, "votes": tally.counts}
        ]
    for number, row in enumerate(rows):
        a, tie, b = row["votes"]
        is_decided = row["label"] in {"a", "b"}
        yield _Pair(
            places=(LETTERS.index(row["a"]), LETTERS.index(row["b"])),
            label=row["label"] or "tie",
            prob=round(float(row["prob"]), DIGITS) if is_decided else 0.5,
            share=row["share"],
            votes=(a, tie, b),
            p_tie=round(tally.p_ties[number], DIGITS) if by_model else None,
        )


def _why_not_pair(one: Candidate, pair: _Pair, policy: LabelPolicy) -> str | None:
    if pair.label == "tie" and policy.tie_rule == "drop":
        return "tie"
    if one.ruling is None and max(pair.votes) < policy.min_confidence * sum(pair.votes):
        return "low_confidence"
    texts = [one.shown[place][0].strip() for place in pair.places]
    return "same_text" if texts[0] == texts[1] else None


def _preference(
    one: Candidate, pair: _Pair, tally: Tally, weight: float, *, surplus: int, margin: float | None
) -> Preference:
    i, j = pair.places
    (a, finish_a, source_a), (b, finish_b, source_b) = one.shown[i], one.shown[j]
    return Preference(
        id=one.comparison if len(one.shown) == 2 else f"{one.comparison}:{LETTERS[i]}{LETTERS[j]}",
        comparison_pk=one.comparison_pk,
        comparison=one.comparison,
        prompt=one.prompt,
        a=a,
        b=b,
        finish_a=finish_a,
        finish_b=finish_b,
        source_a=source_a,
        source_b=source_b,
        prob=pair.prob,
        share=pair.share,
        weight=weight,
        margin=margin,
        votes_a=pair.votes[0],
        votes_tie=pair.votes[1],
        votes_b=pair.votes[2],
        surplus=surplus,
        annotators=tally.votes,
        category=one.category,
        is_ruled=one.ruling is not None,
        ranking=tally.details.get("ranking"),
        p_tie=pair.p_tie,
    )


def _steps_of_scale(project: Project) -> float | None:
    """Steps from the middle of the project's scale to its end: 2 of 5 points, 3 of 7; None if it has none."""
    form = project.feedback
    return (form.points - 1) / 2 if form.kind is FeedbackKind.SCALE else None


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


def _guidelines_used(preferences: Sequence[Preference]) -> set[int]:
    used: set[int] = set()
    ids = sorted({item.comparison_pk for item in preferences})
    for start in range(0, len(ids), 500):
        used |= {
            pk
            for pk in Vote.objects.filter(
                comparison_id__in=ids[start : start + 500], purpose=Purpose.WANTED, retractions__isnull=True
            )
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
    ids = sorted({item.comparison_pk for item in preferences})
    for start in range(0, len(ids), 500):
        Comparison.objects.filter(pk__in=ids[start : start + 500], frozen_at__isnull=True).update(frozen_at=now)
