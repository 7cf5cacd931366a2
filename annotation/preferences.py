"""The door for training: settled comparisons as frozen preference rows, and the mark that freezes them.

Everything behind a row comes from the facts of this moment; `training.snapshots` reads and marks in one transaction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np

from annotation.consensus import METHODS, settle_due
from annotation.feedback import LETTERS, FeedbackKind
from annotation.models import (
    Aggregator,
    Choice,
    Comparison,
    ComparisonCompletion,
    Consensus,
    ConsensusState,
    Gold,
    GuidelineVersion,
    Membership,
    Project,
    Purpose,
    Vote,
)
from annotation.statistics.aggregation import (
    dawid_skene,
    default_prior,
    preference_values,
    prior_confusion,
    update_posterior,
)
from annotation.tally import CLASSES, PROB, leading
from annotation.vote_arrays import load, ruled_classes

READY = (ConsensusState.SETTLED, ConsensusState.ADJUDICATED)
MARGIN_PER_STEP = 1 / 3  # nats for each step of a scale; a guess (ENGINE 3.1)


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelPolicy:
    """How votes become labels. `tie_rule`: `half` keeps ties as ½, `drop` leaves them out.

    Attributes:
        aggregator: None is the project's.
        min_confidence: the leading class has at least this share of the votes.
        margin: whether a line carries how strongly people preferred the chosen one, where the form is a scale.
    """

    aggregator: Aggregator | None = None
    min_votes: int = 1
    tie_rule: str = "half"
    min_confidence: float = 0.0
    margin: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Preference:
    """A consensus on two completions made ready for training, in stored order: a, b.

    Of more than two completions each pair is a preference of its own: `id` ends in the two letters, `weight` is shared
    by the pairs so that one prompt weighs 1, and `ranking` says the whole order.

    Attributes:
        pair: number of the pair among those of its comparison.
        prob, share: of a; share is None where a ruling stands without votes.
        p_tie: posterior of a tie, where the labels are a model's.
        margin: nats, above 0 where a is preferred; None unless asked for.
        is_ruled: the label is a ruling's.
    """

    id: str
    comparison_pk: int
    pair: int
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
    p_tie: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Ready:
    """The preferences that a label policy takes, and what it leaves out, by reason.

    `excluded_annotators`: pseudonyms of the people whose votes do not count.
    """

    preferences: list[Preference]
    dropped: dict[str, int]
    guideline_versions: list[int]
    excluded_annotators: list[str]
    aggregator: Aggregator

    @property
    def method(self) -> str:
        """Name and version of the aggregation, as a manifest carries it."""
        return METHODS[self.aggregator]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pair:
    """Two completions of a comparison, by their places, and what was said of them.

    `number` is its place among the comparison's pairs. An empty `label` is none: no class leads.
    """

    number: int
    places: tuple[int, int]
    label: str
    prob: float
    share: float | None
    votes: tuple[int, int, int]


def ready_preferences(
    *, project: Project, policy: LabelPolicy, gold_until: datetime | None = None, now: datetime
) -> Ready:
    """Every settled or adjudicated comparison that the policy takes; consensuses that are due are computed first.

    Gold stays out, whatever it is for: people are tested on it. So do votes of excluded people.

    Args:
        gold_until: leave out what was gold by then, where an older snapshot is built again; default now.
    """
    while settle_due(now=now):
        pass
    aggregator = policy.aggregator or Aggregator(project.aggregator)
    dropped: Counter[str] = Counter()
    rows = (
        Consensus.objects.filter(project=project).select_related("comparison__prompt").order_by("comparison__public_id")
    )
    texts = _texts(project)
    known_gold = Gold.objects.filter(project=project, created_at__lte=gold_until or now)
    gold = set(known_gold.values_list("comparison_id", flat=True))
    excluded = dict(
        Membership.objects.filter(project=project, excluded_at__isnull=False).values_list("user_id", "pseudonym")
    )
    live_votes = Counter(
        Vote.objects.filter(project=project, purpose=Purpose.WANTED, retractions__isnull=True)
        .exclude(annotator_id__in=excluded)
        .values_list("comparison_id", flat=True)
    )
    steps = _steps_of_scale(project) if policy.margin else None
    preferences: list[Preference] = []
    for row in rows:
        shown = texts[row.comparison_id]
        reason = "gold" if row.comparison_id in gold else _why_not(row, len(shown), policy)
        if reason is not None:
            dropped[reason] += 1
            continue
        pairs = []
        for voted in _pairs(row, len(shown)):
            pair = voted if row.state == ConsensusState.ADJUDICATED else _counted(voted, aggregator)
            reason = _why_not_pair(row, pair, shown, policy)
            if reason is None:
                pairs.append(pair)
            else:
                dropped[reason] += 1
        surplus = live_votes[row.comparison_id] - row.votes
        preferences += _preferences(row, pairs, shown, surplus=surplus, margin_steps=steps)
    versions = GuidelineVersion.objects.filter(project=project, pk__in=_guidelines_used(preferences))
    return Ready(
        preferences=preferences,
        dropped=dict(sorted(dropped.items())),
        guideline_versions=sorted(versions.values_list("number", flat=True)),
        excluded_annotators=sorted(excluded.values()),
        aggregator=aggregator,
    )


def label_by_model(
    *, project: Project, ready: Ready, policy: LabelPolicy, is_train: Sequence[bool]
) -> tuple[list[Preference | None], dict[str, Any]]:
    """The preferences with the posterior of Dawid and Skene's model fitted on the training part alone.

    So a held-out label owes nothing to the training votes but how each person errs, and what lies outside the snapshot
    moves no label. A pair whose posterior says tie is ½, or None where ties are dropped. Rulings stay as they are.

    Args:
        is_train: of each preference.

    Returns:
        A preference, or None, for each of `ready`, and what a manifest should say of the fit.

    Source: STATISTICS 3.4 and 9.4.
    """
    arrays = load(project, counted=True)
    known = ruled_classes(project, arrays)
    place = {key: i for i, key in enumerate(zip(arrays.comparison.tolist(), arrays.pair.tolist(), strict=True))}
    item = [place.get((one.comparison_pk, one.pair), -1) for one in ready.preferences]
    trains = np.zeros(len(arrays.comparison), dtype=bool)
    trains[[i for i, train in zip(item, is_train, strict=True) if train and i >= 0]] = True
    part = arrays.only(trains[arrays.item])
    fit = dawid_skene(*part.votes, **part.sizes, gold=known[trains])
    theta = np.tile(prior_confusion(arrays.K), (len(arrays.user), 1, 1))
    theta[np.searchsorted(arrays.user, part.user)] = fit.theta
    q = update_posterior(np.tile(fit.pi, (len(arrays.comparison), 1)), theta, *arrays.votes)
    label, wins = leading(q), q @ preference_values(arrays.K)
    tie = 1 if arrays.K == 3 else None
    labelled: list[Preference | None] = []
    for one, i in zip(ready.preferences, item, strict=True):
        if one.is_ruled or i < 0:
            labelled.append(one)
        elif tie is not None and label[i] == tie:
            half = replace(one, prob=0.5, p_tie=float(q[i, tie]))
            labelled.append(None if policy.tie_rule == "drop" else half)
        else:
            p_tie = None if tie is None else float(q[i, tie])
            labelled.append(replace(one, prob=float(wins[i]), p_tie=p_tie))
    gamma, class_prior = default_prior(arrays.K)
    about = {
        "fitted_on": "train",
        "prior": {"confusion": gamma.tolist(), "classes": class_prior},
        "class_shares": [round(float(value), 6) for value in fit.pi],
        "annotators": len(part.user),
        "votes": len(part),
        "converged": fit.converged,
    }
    return labelled, about


Shown = Sequence[tuple[str, str, str]]  # text, finish and source of each completion, in stored order


def _pairs(row: Consensus, size: int) -> Iterator[_Pair]:
    """The pairs of a comparison: the one of two completions, or those that `Consensus.details` holds."""
    if size == 2:
        assert row.prob is not None
        votes = (row.votes_a, row.votes_tie, row.votes_b)
        yield _Pair(number=0, places=(0, 1), label=row.label, prob=row.prob, share=row.share, votes=votes)
        return
    for number, pair in enumerate(row.details["pairs"]):
        a, tie, b = pair["votes"]
        places = (LETTERS.index(pair["a"]), LETTERS.index(pair["b"]))
        yield _Pair(
            number=number, places=places, label=pair["label"], prob=pair["prob"], share=pair["share"], votes=(a, tie, b)
        )


def _counted(pair: _Pair, aggregator: Aggregator) -> _Pair:
    """The pair with the majority's label, if that is asked for; a model's comes when the split is known."""
    if aggregator is not Aggregator.MAJORITY:
        return pair
    top = [name for name, n in zip(CLASSES, pair.votes, strict=True) if n == max(pair.votes)]
    label = top[0] if len(top) == 1 else ""
    return replace(pair, label=label, prob=PROB.get(label, 0.5))


def _preferences(
    row: Consensus, pairs: Sequence[_Pair], shown: Shown, *, surplus: int, margin_steps: float | None
) -> Iterable[Preference]:
    comparison = str(row.comparison.public_id)
    strength = row.details.get("strength")
    margin = None if margin_steps is None or strength is None else MARGIN_PER_STEP * margin_steps * strength
    for pair in pairs:
        i, j = pair.places
        (a, finish_a, source_a), (b, finish_b, source_b) = shown[i], shown[j]
        yield Preference(
            id=comparison if len(shown) == 2 else f"{comparison}:{LETTERS[i]}{LETTERS[j]}",
            comparison_pk=row.comparison_id,
            pair=pair.number,
            comparison=comparison,
            prompt=row.comparison.prompt.messages,
            a=a,
            b=b,
            finish_a=finish_a,
            finish_b=finish_b,
            source_a=source_a,
            source_b=source_b,
            prob=pair.prob,
            share=pair.share,
            weight=1 / len(pairs),
            margin=margin,
            votes_a=pair.votes[0],
            votes_tie=pair.votes[1],
            votes_b=pair.votes[2],
            surplus=surplus,
            annotators=row.votes,
            category=row.comparison.prompt.category,
            is_ruled=row.state == ConsensusState.ADJUDICATED,
            ranking=row.details.get("ranking"),
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


def _why_not(row: Consensus, size: int, policy: LabelPolicy) -> str | None:
    """Why a comparison is left out as a whole. A ruling needs no votes."""
    if row.state not in READY:
        return str(row.state)
    if size == 1:
        return "one_completion"
    if row.state != ConsensusState.ADJUDICATED and row.votes < policy.min_votes:
        return "too_few_votes"
    return None


def _why_not_pair(row: Consensus, pair: _Pair, shown: Shown, policy: LabelPolicy) -> str | None:
    """Why a pair is left out. Of several completions a pair that no class leads is a tie, as its ½ says."""
    is_tie = pair.label == Choice.TIE or (not pair.label and len(shown) > 2)
    if is_tie and policy.tie_rule == "drop":
        return "tie"
    if row.state != ConsensusState.ADJUDICATED and max(pair.votes) < policy.min_confidence * sum(pair.votes):
        return "low_confidence"
    texts = [shown[place][0].strip() for place in pair.places]
    return "same_text" if texts[0] == texts[1] else None


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
