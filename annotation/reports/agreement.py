"""How far the people of a project agree: on the whole, by criterion, batch, guideline and time, and two by two.

Agreement is that of counted votes (a slot points to them). Where the adaptive rule stops at clear comparisons, only
its random share with full overlap says how often people agree, since what is clear gets few votes (STATISTICS 6.1).
Intervals are clustered by prompt: comparisons of one prompt resemble each other.

Shapes: V votes, n items, K classes, W people.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, assert_never
from uuid import UUID

import numpy as np
from django.db.models import Count, Min, Q

from annotation.feedback import FeedbackKind
from annotation.models import (
    AggregationFit,
    Aggregator,
    Assignment,
    AssignmentState,
    Comparison,
    GuidelineVersion,
    ImportBatch,
    OverlapRule,
    Project,
    User,
    Vote,
)
from annotation.reports.criteria import criterion_pairs, criterion_points, together
from annotation.reports.votes import (
    Comparisons,
    Member,
    both_bad_votes,
    codes_of,
    load_comparisons,
    members,
    share_of_votes,
)
from annotation.statistics.aggregation import vote_counts
from annotation.statistics.agreement import (
    Ceiling,
    KappaMatrix,
    accuracy_ceiling,
    fleiss_kappa,
    gwet_ac,
    kappa_matrix,
    krippendorff_alpha,
    percent_agreement,
    unanimous_share,
)
from annotation.statistics.estimates import BoolArray, Estimate, FloatArray, IntArray
from annotation.tally import CLASSES
from annotation.vote_arrays import VoteArrays, load

MOST_ROWS = 120  # of a split: the newest
EQUAL_WINDOWS = 10


class Split(StrEnum):
    """What the votes are split by."""

    CRITERION = "criterion"
    BATCH = "batch"
    GUIDELINE = "guideline"
    TIME = "time"


class Window(StrEnum):
    """How time is cut: by the calendar (UTC), or into parts with equally many votes."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    VOTES = "votes"


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassShare:
    """How often a class was chosen."""

    name: str
    share: Estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class AgreementFigures:
    """Agreement of some votes. `alpha_interval` is that of points, and None of choices."""

    comparisons: int
    items: int
    votes: int
    people: int
    prompts: int
    percent: Estimate
    unanimous: Estimate
    alpha: Estimate
    alpha_ordinal: Estimate
    alpha_interval: Estimate | None
    fleiss: Estimate
    ac1: Estimate
    ac2: Estimate
    classes: tuple[ClassShare, ...]
    both_bad: Estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class AgreementRow:
    """A part of the votes; `key` names it for programs and `title` for people."""

    key: str
    title: str
    started_at: datetime | None
    ended_at: datetime | None
    figures: AgreementFigures


@dataclass(frozen=True, kw_only=True, slots=True)
class CeilingReport:
    """The best accuracy of a model against single votes, and the agreement on decisive votes that it follows from."""

    best: Estimate
    upper: Estimate
    agreement: Estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class AgreementReport:
    """Agreement of a project.

    Attributes:
        skipped: tasks given back without a vote, `cannot_judge` of them because the person could not tell.
        held_out: log-loss of hidden votes by method of aggregation, nats; empty before the first fit.
    """

    definition: str
    kind: FeedbackKind
    full_overlap_only: bool
    split: Split | None
    overall: AgreementFigures
    rows: tuple[AgreementRow, ...]
    skipped: int
    cannot_judge: int
    aggregator: Aggregator
    held_out: Mapping[str, float]
    ceiling: CeilingReport


# --- which votes ------------------------------------------------------------------------------------------------------


def measured(project: Project, votes: VoteArrays, comparisons: Comparisons) -> VoteArrays:
    """The votes that agreement is measured on: all of these, or in an adaptive project those of the random slice."""
    if project.overlap_rule != OverlapRule.ADAPTIVE:
        return votes
    return votes.only(comparisons.is_full_overlap[comparisons.place(votes.comparison)][votes.item])


def agreement(project: Project, *, without: User | None = None) -> dict[str, Estimate]:
    """Percent agreement, Krippendorff's nominal alpha and the unanimous share over pairs of completions; three queries.

    Withdrawn comparisons and excluded people are left out, and so are ratings of one completion, which have no pair.
    A class that was offered and never chosen is still a class.

    Args:
        without: a person to leave out as if excluded.
    """
    comparisons = load_comparisons(project)
    votes = measured(project, load(project, counted=True), comparisons)
    if without is not None:
        votes = votes.only(votes.user[votes.annotator] != without.pk)
    table, prompt = _counts(votes), comparisons.prompt_of(votes.comparison)
    return {
        "percent": percent_agreement(table, group=prompt),
        "alpha": krippendorff_alpha(table, level="nominal", group=prompt),
        "unanimous": unanimous_share(table, group=prompt),
    }


# --- figures ----------------------------------------------------------------------------------------------------------


def _counts(votes: VoteArrays) -> FloatArray:
    return vote_counts(votes.item, votes.label, n_items=len(votes.comparison), K=votes.K)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Source:
    """Votes with what their figures need beside them. `both_bad`: [·] keys of votes that found both completions bad."""

    votes: VoteArrays
    comparisons: Comparisons
    both_bad: IntArray
    has_points: bool

    def figures(self, keep: BoolArray | None = None) -> AgreementFigures:
        """Of these votes."""
        votes = self.votes if keep is None else self.votes.only(keep)
        table, prompt = _counts(votes), self.comparisons.prompt_of(votes.comparison)
        names = [str(k + 1) for k in range(votes.K)] if self.has_points else CLASSES if votes.K == 3 else ("a", "b")
        chosen = [share_of_votes(votes, votes.label == k, prompt) for k in range(votes.K)]
        bad = np.isin(votes.key, self.both_bad)
        interval = krippendorff_alpha(table, level="interval", group=prompt) if self.has_points else None
        return AgreementFigures(
            comparisons=len(np.unique(votes.comparison)),
            items=len(votes.comparison),
            votes=len(np.unique(votes.key)),
            people=len(votes.user),
            prompts=len(np.unique(prompt)),
            percent=percent_agreement(table, group=prompt),
            unanimous=unanimous_share(table, group=prompt),
            alpha=krippendorff_alpha(table, level="nominal", group=prompt),
            alpha_ordinal=krippendorff_alpha(table, level="ordinal", group=prompt),
            alpha_interval=interval,
            fleiss=fleiss_kappa(table, group=prompt),
            ac1=gwet_ac(table, group=prompt),
            ac2=gwet_ac(table, weights="ordinal", group=prompt),
            classes=tuple(ClassShare(name=name, share=share) for name, share in zip(names, chosen, strict=True)),
            both_bad=share_of_votes(votes, bad, prompt),
        )


def share_agreeing(votes: VoteArrays, comparisons: Comparisons) -> Estimate:
    """Percent agreement of these votes, clustered by prompt."""
    return percent_agreement(_counts(votes), group=comparisons.prompt_of(votes.comparison))


def ceiling(votes: VoteArrays, comparisons: Comparisons) -> CeilingReport:
    """What the agreement of decisive votes allows a model: votes for a tie are left out."""
    decisive = votes.only(votes.label != 1) if votes.K == 3 else votes
    percent = share_agreeing(decisive, comparisons)
    found: Ceiling = accuracy_ceiling(percent)
    return CeilingReport(best=found.ceiling, upper=found.upper, agreement=percent)


def agreement_report(project: Project, *, split: Split | None = None, window: Window = Window.WEEK) -> AgreementReport:
    """Agreement on the whole and by parts; six queries, and up to four for the parts.

    Args:
        window: how time is cut, where it is what the votes are split by.
    """
    form = project.feedback
    comparisons = load_comparisons(project)
    pairs = measured(project, load(project, counted=True), comparisons)
    has_points = form.kind is FeedbackKind.RATING and form.size == 1
    points = criterion_points(project) if has_points else {}
    votes = measured(project, together(points), comparisons) if has_points else pairs
    source = _Source(votes=votes, comparisons=comparisons, both_bad=both_bad_votes(project), has_points=has_points)
    skipped = Assignment.objects.filter(project=project, state=AssignmentState.SKIPPED).aggregate(
        all=Count("pk"), cannot=Count("pk", filter=Q(reason__startswith="cannot_judge"))
    )
    fit = AggregationFit.objects.filter(project=project).values_list("held_out", flat=True).first()
    return AgreementReport(
        definition=_definition(project, has_points, split),
        kind=form.kind,
        full_overlap_only=project.overlap_rule == OverlapRule.ADAPTIVE,
        split=split,
        overall=source.figures(),
        rows=tuple(_rows(project, source, split, window))[-MOST_ROWS:],
        skipped=skipped["all"],
        cannot_judge=skipped["cannot"],
        aggregator=Aggregator(project.aggregator),
        held_out=fit or {},
        ceiling=ceiling(pairs, comparisons),
    )


def _definition(project: Project, has_points: bool, split: Split | None) -> str:
    what = "points of rated completions, one item a completion and criterion" if has_points else (
        "pairs of completions (a ranking of K is K(K−1)/2 pairs), classes a < tie < b"
    )  # fmt: skip
    text = (
        f"Counted votes on {what}; surplus votes, hidden gold, repeats, withdrawn comparisons and excluded people are "
        "left out. Percent agreement is the share of agreeing pairs of votes on an item (two votes or more), alpha is "
        "Krippendorff's (2011), Fleiss' kappa (1971), AC1 and AC2 Gwet's (2008, 2014); intervals are 95 % "
        "delete-one-prompt jackknife with Student t, those of shares Wilson's with its design effect."
    )
    if project.overlap_rule == OverlapRule.ADAPTIVE:
        text += " The adaptive rule stops where votes are clear, so only its random share with full overlap is counted."
    match split:
        case None:
            return text
        case Split.CRITERION:
            return f"{text} A row is a criterion of the form, by its own classes (of ratings its points)."
        case Split.BATCH:
            return f"{text} A row is the round or import that made the comparisons, the newest {MOST_ROWS} at most."
        case Split.GUIDELINE:
            return f"{text} A row is the guideline version under which the votes were given."
        case Split.TIME:
            return f"{text} A comparison is in the window (UTC) of its last vote; the newest {MOST_ROWS} at most."
        case _:
            assert_never(split)


# --- parts ------------------------------------------------------------------------------------------------------------


def _rows(project: Project, source: _Source, split: Split | None, window: Window) -> Iterator[AgreementRow]:
    match split:
        case None:
            return iter(())
        case Split.CRITERION:
            return _by_criterion(project, source)
        case Split.BATCH:
            return _by_batch(project, source)
        case Split.GUIDELINE:
            return _by_guideline(project, source)
        case Split.TIME:
            return _by_time(project, source, window)
        case _:
            assert_never(split)


def _by_criterion(project: Project, source: _Source) -> Iterator[AgreementRow]:
    form = project.feedback
    titles = {criterion.key: criterion.label for criterion in form.criteria}
    has_points = form.kind is FeedbackKind.RATING
    for key, votes in (criterion_points(project) if has_points else criterion_pairs(project)).items():
        part = _Source(
            votes=measured(project, votes, source.comparisons),
            comparisons=source.comparisons,
            both_bad=source.both_bad,
            has_points=has_points,
        )
        yield AgreementRow(
            key=key, title=titles.get(key, key), started_at=None, ended_at=None, figures=part.figures()
        )  # fmt: skip


def _by_batch(project: Project, source: _Source) -> Iterator[AgreementRow]:
    """By origin, the oldest first. A round has no name here: its key is its public id."""
    made = Comparison.objects.filter(project=project).order_by().values_list("origin").annotate(at=Min("created_at"))
    began: dict[UUID, datetime] = dict(made)
    names = dict(ImportBatch.objects.filter(project=project).values_list("public_id", "name"))
    place = {origin: i for i, origin in enumerate(source.comparisons.origins)}
    origin = source.comparisons.origin[source.comparisons.place(source.votes.comparison)][source.votes.item]
    voted = set(np.unique(origin).tolist())
    newest = sorted((at, name) for name, at in began.items() if place.get(name) in voted)[-MOST_ROWS:]
    for at, name in newest:
        yield AgreementRow(
            key=str(name), title=names.get(name, ""), started_at=at, ended_at=None,
            figures=source.figures(origin == place[name]),
        )  # fmt: skip


def _by_guideline(project: Project, source: _Source) -> Iterator[AgreementRow]:
    rows = Vote.objects.filter(project=project).order_by("pk").values_list("pk", "guideline__number")
    table = np.array([(pk, number or 0) for pk, number in rows], dtype=np.int64).reshape(-1, 2)
    number = table[np.searchsorted(table[:, 0], source.votes.key), 1]
    began = dict(GuidelineVersion.objects.filter(project=project).values_list("number", "created_at"))
    for version in np.unique(number).tolist():
        yield AgreementRow(
            key=str(version), title=f"Guideline {version}" if version else "No guideline",
            started_at=began.get(version), ended_at=None, figures=source.figures(number == version),
        )  # fmt: skip


def _by_time(project: Project, source: _Source, window: Window) -> Iterator[AgreementRow]:
    votes = source.votes
    rows = Vote.objects.filter(project=project).order_by("pk").values_list("pk", "created_at")
    keys, times = _columns(list(rows))
    at = times[np.searchsorted(keys, votes.key)]
    comparison, n = codes_of(votes.comparison)
    done = np.zeros(n, dtype="datetime64[s]")
    np.maximum.at(done, comparison[votes.item], at)
    if window is Window.VOTES:
        part, starts, ends = _equal_parts(done, np.bincount(comparison[votes.item], minlength=n))
    else:
        part, starts, ends = _calendar(done, window)
    of_vote = part[comparison][votes.item]
    first = max(0, len(starts) - MOST_ROWS)
    for i in range(first, len(starts)):
        start, end = _moment(starts[i]), _moment(ends[i])
        yield AgreementRow(
            key=start.isoformat(), title=f"{start:%Y-%m-%d}", started_at=start, ended_at=end,
            figures=source.figures(of_vote == i),
        )  # fmt: skip


def _columns(rows: Sequence[tuple[int, datetime]]) -> tuple[IntArray, Any]:
    """Keys, and times in whole seconds of UTC."""
    keys = np.array([pk for pk, _ in rows], dtype=np.int64)
    seconds = np.array([int(at.timestamp()) for _, at in rows], dtype=np.int64)
    return keys, seconds.astype("datetime64[s]")


def _calendar(done: Any, window: Window) -> tuple[IntArray, Any, Any]:
    """Which window with anything in it each time lies in, and where these begin and end."""
    day = done.astype("datetime64[D]")
    if window is Window.MONTH:
        start = day.astype("datetime64[M]")
        end = start + 1
    else:
        # 1970-01-01 was a Thursday, so weeks of 7 days counted from it begin three days early.
        back = (day.astype(np.int64) + 3) % 7 if window is Window.WEEK else np.zeros(len(day), dtype=np.int64)
        start = day - back
        end = start + (7 if window is Window.WEEK else 1)
    starts, first, part = np.unique(start, return_index=True, return_inverse=True)
    return part.astype(np.int64), starts.astype("datetime64[s]"), end[first].astype("datetime64[s]")


def _equal_parts(done: Any, votes: IntArray) -> tuple[IntArray, Any, Any]:
    """Comparisons in the order in which they were done, cut where another tenth of the votes is reached."""
    order = np.argsort(done, kind="stable")
    before = np.cumsum(votes[order]) - votes[order]
    part = np.empty(len(done), dtype=np.int64)
    part[order] = before * EQUAL_WINDOWS // max(1, int(votes.sum()))
    used, part = np.unique(part, return_inverse=True)
    starts = np.array([done[part == i].min() for i in range(len(used))], dtype="datetime64[s]")
    ends = np.array([done[part == i].max() for i in range(len(used))], dtype="datetime64[s]")
    return part.astype(np.int64), starts, ends


def _moment(at: Any) -> datetime:
    return datetime.fromtimestamp(int(at.astype(np.int64)), tz=UTC)


# --- two by two -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class MatrixReport:
    """κ of every two of the busiest people, who are in the order of their votes; `votes` [W] how many each has."""

    definition: str
    total_people: int
    people: tuple[Member, ...]
    votes: tuple[int, ...]
    matrix: KappaMatrix


def matrix_report(project: Project, *, weights: Any, min_common: int, most: int) -> MatrixReport:
    """Cohen's κ of every two annotators; four queries.

    Args:
        weights: as `agreement.agreement_weights` names them. min_common: pairs below it have none.
        most: how many people, the busiest ones.
    """
    comparisons = load_comparisons(project)
    votes = measured(project, load(project, counted=True), comparisons)
    total = len(votes.user)
    given = np.bincount(votes.annotator, minlength=total)
    busiest = np.lexsort((votes.user, -given))[:most]
    rank = np.full(total, -1, dtype=np.int64)
    rank[busiest] = np.arange(len(busiest))
    keep = rank[votes.annotator] >= 0
    found = kappa_matrix(
        votes.item[keep], rank[votes.annotator[keep]], votes.label[keep],
        n_items=len(votes.comparison), n_annotators=len(busiest), K=votes.K, weights=weights, min_common=min_common,
    )  # fmt: skip
    named = members(project, votes.user[busiest].tolist())
    return MatrixReport(
        definition=(
            f"Cohen's kappa (1960; weighted 1968) of every two annotators with {weights} weights, over the items that "
            f"both judged, at least {min_common}: counted votes on pairs of completions, classes a < tie < b. Standard "
            "errors are analytic (Fleiss, Cohen & Everitt 1969), for independent items: two people share too few "
            "prompts to cluster by them."
        ),
        total_people=total,
        people=tuple(named[user] for user in votes.user[busiest].tolist()),
        votes=tuple(given[busiest].tolist()),
        matrix=found,
    )
