"""What the statistics say of a project's people: accuracy, bias, drift and consistency, and what would help most.

A person's own vote is left out of whatever they are compared with. Flags are for a person to look at, never for a rule
to act on. The figures of all people are computed together and kept, since several reports show them.

Shapes: V votes, n items, W people, M windows of drift, P pairs of a comparison.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import assert_never

import numpy as np

from annotation import records
from annotation.models import Membership, Project
from annotation.references import WithReference, reference_agreement
from annotation.reports.agreement import CeilingReport, ceiling, measured, share_agreeing
from annotation.reports.cache import kept
from annotation.reports.features import load_features, load_sides, load_times
from annotation.reports.votes import Member, load_comparisons, members
from annotation.statistics import bias
from annotation.statistics.aggregation import dawid_skene, leave_one_out
from annotation.statistics.agreement import COEFFICIENT, Ceiling
from annotation.statistics.bias import Advice, AnnotatorBias, AnnotatorSummary, Drift, Effects, SelfConsistency
from annotation.statistics.estimates import (
    Caution,
    Estimate,
    IntArray,
    Reason,
    Shares,
    interval,
    missing,
    reason_of,
)
from annotation.vote_arrays import VoteArrays, known_classes, load

EFFECTS = ("position", "length", "format")


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """Of all people together.

    Attributes:
        user, votes: [W] primary keys, and how many votes entered.
        started, ended: [M] when each window of drift began and ended, seconds of UTC.
        decisive: votes with a side and a known screen, on `prompts` prompts.
    """

    user: IntArray
    votes: IntArray
    summary: AnnotatorSummary
    bias: AnnotatorBias
    drift: Drift
    started: IntArray
    ended: IntArray
    decisive: int
    prompts: int


def figures(project: Project) -> Figures:
    """The figures of all people of a project, kept until the facts change. Nine queries where they are not."""
    return kept(project, report="figures", compute=lambda: _figures(project))


def _figures(project: Project) -> Figures:
    votes = load(project)
    comparisons = load_comparisons(project)
    known = known_classes(project, votes)
    fit = dawid_skene(*votes.votes, **votes.sizes, gold=known)
    others = leave_one_out(fit, *votes.votes, **votes.sizes, gold=known).argmax(axis=1)
    voted = np.bincount(votes.item, minlength=len(votes.comparison))
    judged = np.flatnonzero((voted > 1)[votes.item] | (known >= 0)[votes.item])
    _, at = load_times(project, votes)
    prompt = comparisons.prompt_of(votes.comparison)[votes.item]
    drift = bias.drift(
        (votes.label == others)[judged], votes.annotator[judged], n_annotators=len(votes.user), group=prompt[judged]
    )
    effects, decisive = _bias(project, votes, prompt)
    return Figures(
        user=votes.user,
        votes=np.bincount(votes.annotator, minlength=len(votes.user)),
        summary=bias.annotator_summary(fit, *votes.votes, **votes.sizes, gold=known),
        bias=effects,
        drift=drift,
        started=at[judged][drift.window_first],
        ended=at[judged][drift.window_last],
        decisive=len(decisive),
        prompts=len(np.unique(prompt[decisive])),
    )


def _bias(project: Project, votes: VoteArrays, prompt: IntArray) -> tuple[AnnotatorBias, IntArray]:
    """The effects of side, length and format, and which votes they are from: decisive ones with a screen.

    Where no screen is known at all, as of imported votes, the first completion stands for the left one: length and
    format have their effects all the same, and the position has none.
    """
    sides = load_sides(project, votes)
    if not (sides >= 0).any():
        sides = np.ones_like(sides)
    features = load_features(project, votes, with_marks=True)
    left = sides == 1
    columns = bias.bias_columns(
        *votes.votes, left, chars=features.chars, marks=features.marks, **votes.sizes
    )  # fmt: skip
    seen = sides >= 0
    keep = seen[columns.vote]
    chosen = columns.vote[keep]
    found = bias.annotator_bias(
        columns.y[keep],
        columns.X[keep],
        columns.Z[keep],
        votes.annotator[chosen],
        n_annotators=len(votes.user),
        group=prompt[chosen],
        sides_vary=bias.sides_randomised(votes.item[seen], left[seen], n_items=len(votes.comparison)),
    )
    return found, chosen


def effect_at(effects: Effects, place: tuple[int, ...], *, method: str, n: int) -> Estimate:
    """One of several effects as an estimate."""
    reason = reason_of(int(effects.reason[place]))
    if reason is not None:
        return missing(reason, method=method, n=n)
    value, se, low, high = (float(x[place]) for x in (effects.value, effects.se, effects.low, effects.high))
    return Estimate(value=value, se=se, low=low, high=high, method=method, n=n, n_groups=n)


def share_at(shares: Shares, place: int) -> Estimate:
    """One of several shares as an estimate."""
    n, reason = int(shares.n[place]), reason_of(int(shares.reason[place]))
    if reason is not None:
        return missing(reason, method="wilson")
    value, low, high = (float(x[place]) for x in (shares.value, shares.low, shares.high))
    return Estimate(value=value, low=low, high=high, method="wilson", n=n, n_groups=n)


def _few(estimate: Estimate, *, few: bool) -> Estimate:
    return replace(estimate, warnings=(*estimate.warnings, Caution.FEW_VOTES)) if few else estimate


# --- bias -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class PooledEffect:
    """An effect in the whole project, in logits towards the left completion; of length and format a doubling.

    `effect` is that in the middle annotator, `pooled` that of all votes alike, `tau` the spread of people (SD).
    """

    bias: str
    effect: Estimate
    pooled: Estimate
    tau: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class PersonEffect:
    """An effect in one person."""

    bias: str
    effect: Estimate
    flagged: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class DriftWindow:
    """Some votes of a person in a row, and how often they agreed with the others."""

    votes: int
    started_at: datetime
    ended_at: datetime
    agreement: Estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class PersonBias:
    """How a person leans and changes. `drift`: change of the logit of agreement with the others in 100 votes."""

    person: Member
    votes: int
    effects: tuple[PersonEffect, ...]
    drift: Estimate
    drift_flagged: bool
    windows: tuple[DriftWindow, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class BiasReport:
    """Bias and consistency of a project; `reason`: why there are no effects."""

    definition: str
    votes: int
    prompts: int
    reason: Reason | None
    warnings: tuple[str, ...]
    effects: tuple[PooledEffect, ...]
    consistency: SelfConsistency
    people: tuple[PersonBias, ...]


def bias_report(project: Project) -> BiasReport:
    """Effects of position, length and format, of all and of each; drift; consistency. Nine queries beside `figures`."""
    found = figures(project)
    middle, pooled = found.bias.mean, found.bias.pooled
    effects = tuple(
        PooledEffect(
            bias=name,
            effect=middle[k],
            pooled=pooled[k],
            tau=float(found.bias.tau[k]) if not found.bias.tau_reason[k] else None,
        )
        for k, name in enumerate(EFFECTS)
    )
    return BiasReport(
        definition=(
            "Logistic model of decisive votes with a known screen (where there is none, as they are stored): logit "
            "P(left is chosen) from the position, the log2 ratio of characters, that of Markdown marks, and what the "
            "other people's votes on the item say, with effects of each person around those of the middle one (tau: "
            "their standard deviation). Effects are logits, of length and format a doubling; intervals are 95 %, "
            "clustered by prompt, those of people approximate. A flag needs a false-discovery rate of 5 % over people "
            "and 0.4 logits. Drift is the change of the logit of agreement with the others in 100 votes, consistency "
            "that of silent repeats with sides swapped."
        ),
        votes=found.decisive,
        prompts=found.prompts,
        reason=pooled[0].reason if pooled[0].value is None else None,
        warnings=() if found.bias.converged else (Caution.NOT_CONVERGED.value,),
        effects=effects,
        consistency=self_consistency(project),
        people=_people_bias(project, found),
    )


def _people_bias(project: Project, found: Figures) -> tuple[PersonBias, ...]:
    """The busiest first; one query."""
    named = members(project, found.user.tolist())
    drift = found.drift
    windows: list[list[DriftWindow]] = [[] for _ in found.user]
    for i, w in enumerate(drift.window_annotator.tolist()):
        windows[w].append(
            DriftWindow(
                votes=int(drift.agreement.n[i]),
                started_at=datetime.fromtimestamp(int(found.started[i]), tz=UTC),
                ended_at=datetime.fromtimestamp(int(found.ended[i]), tz=UTC),
                agreement=share_at(drift.agreement, i),
            )
        )
    rows = []
    for w in np.lexsort((found.user, -found.votes)).tolist():
        n, few = int(found.bias.n[w]), bool(found.bias.few_votes[w])
        effects = [
            PersonEffect(
                bias=name,
                effect=_few(effect_at(found.bias.effect, (w, k), method="laplace", n=n), few=few),
                flagged=bool(found.bias.flagged[w, k]),
            )
            for k, name in enumerate(EFFECTS)
        ]
        slope = effect_at(drift.slope, (w,), method="sandwich", n=int(drift.n[w]))
        rows.append(
            PersonBias(
                person=named[int(found.user[w])],
                votes=int(found.votes[w]),
                effects=tuple(effects),
                drift=_few(slope, few=bool(drift.few_votes[w])),
                drift_flagged=bool(drift.flagged[w]),
                windows=tuple(windows[w]),
            )
        )
    return tuple(rows)


def self_consistency(project: Project) -> SelfConsistency:
    """How people who are not excluded answer silent repeats; six queries, clustered by prompt."""
    ballots = records.load(project)
    again, before = records.repeated(ballots)
    excluded = Membership.objects.filter(project=project, excluded_at__isnull=False).values_list("user_id", flat=True)
    stays = ~np.isin(ballots.person[again], list(excluded))
    again, before = again[stays], before[stays]
    prompt = load_comparisons(project).prompt_of(ballots.comparisons[ballots.comparison[again]])
    pairs = ballots.label.shape[1]
    people, person = np.unique(ballots.person[again], return_inverse=True)
    swapped = (ballots.left[again] != ballots.left[before]) & (ballots.left[again] >= 0) & (ballots.left[before] >= 0)
    return bias.self_consistency(
        ballots.label[before].reshape(-1),
        ballots.label[again].reshape(-1),
        swapped.reshape(-1),
        np.repeat(person, pairs),
        n_annotators=len(people),
        K=3,
        group=np.repeat(prompt, pairs),
    )


# --- people -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class PersonSummary:
    """A line of the table of people. `flags`: accuracy, position, length, format, drift."""

    person: Member
    votes: int
    accuracy: Estimate
    agreement: Estimate
    kappa: Estimate
    tie_share: Estimate
    left_share: Estimate
    side_bias: Estimate
    consistency: Estimate
    side_driven: Estimate
    gold: Estimate
    reference: Estimate
    reference_kappa: Estimate
    median_seconds: float | None
    flags: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class PeopleReport:
    """Everybody with a live vote, the busiest first. `lower_quartile`: of the accuracies."""

    definition: str
    lower_quartile: float | None
    people: tuple[PersonSummary, ...]


def people_report(project: Project) -> PeopleReport:
    """What the statistics and the records say of each person; eleven queries beside `figures`."""
    found = figures(project)
    known = records.records(project)
    references = reference_agreement(project).people
    named = members(project, list(known))
    place = {int(user): w for w, user in enumerate(found.user)}
    rows = [
        _summary(named[pk], known[pk], references.get(pk), found, place.get(pk))
        for pk in sorted(known, key=lambda pk: (-known[pk].votes, pk))
    ]
    return PeopleReport(
        definition=(
            "Everybody with a live vote. Accuracy is P(a vote is right) by Dawid and Skene's model (1979, posterior "
            "mode) of all live first votes, hidden gold among them, with a 95 % Beta interval; agreement (Wilson) and "
            "kappa (analytic) compare a person's votes with what the others' make most probable, the own vote left "
            "out; side bias is in logits relative to what the others say. Ties, sides, silent repeats, gold and "
            "seconds are of ordinary work, references are researchers' own answers. The accuracy flag needs the upper "
            "end below the lower quartile of all people, the others a false-discovery rate of 5 %."
        ),
        lower_quartile=found.summary.lower_quartile,
        people=tuple(rows),
    )


def _summary(
    person: Member, record: records.Record, reference: WithReference | None, found: Figures, w: int | None
) -> PersonSummary:
    """`w`: the person's place in the figures; None for who is excluded, whose votes are not in the fit."""
    none = missing(Reason.NO_VOTES, method="none")
    accuracy = agrees = kappa = side = none
    flags: tuple[str, ...] = ()
    if w is not None:
        n = int(found.votes[w])
        accuracy, agrees = _accuracy(found.summary, w, n), share_at(found.summary.agreement, w)
        kappa = _kappa(found.summary, w)
        side = effect_at(found.bias.effect, (w, 0), method="laplace", n=int(found.bias.n[w]))
        side = _few(side, few=bool(found.bias.few_votes[w]))
        flags = _flags(found, w)
    return PersonSummary(
        person=person,
        votes=record.votes,
        accuracy=accuracy,
        agreement=agrees,
        kappa=kappa,
        tie_share=record.tie_share,
        left_share=record.left_share,
        side_bias=side,
        consistency=record.consistency,
        side_driven=record.side_driven,
        gold=record.gold,
        reference=none if reference is None else reference.percent,
        reference_kappa=none if reference is None else reference.kappa,
        median_seconds=record.median_seconds,
        flags=flags,
    )


def _accuracy(summary: AnnotatorSummary, w: int, n: int) -> Estimate:
    accuracy = summary.accuracy
    reason = reason_of(int(accuracy.reason[w]))
    if reason is not None:
        return missing(reason, method="beta")
    value, low, high = (float(x[w]) for x in (accuracy.value, accuracy.low, accuracy.high))
    return Estimate(value=value, low=low, high=high, method="beta", n=n, n_groups=n)


def _kappa(summary: AnnotatorSummary, w: int) -> Estimate:
    n, reason = int(summary.agreement.n[w]), reason_of(int(summary.kappa_reason[w]))
    if reason is not None:
        return missing(reason, method="analytic", n=n)
    value, se = float(summary.kappa[w]), float(summary.kappa_se[w])
    if n < 2:
        return Estimate(value=value, method="analytic", n=n, n_groups=n, reason=Reason.TOO_FEW_GROUPS)
    low, high, _ = interval(value, se=se, df=n - 1, bounds=COEFFICIENT)
    return Estimate(value=value, se=se, low=low, high=high, method="analytic", n=n, n_groups=n)


def _flags(found: Figures, w: int) -> tuple[str, ...]:
    flagged = {"accuracy": found.summary.flagged[w], "drift": found.drift.flagged[w]}
    flagged |= dict(zip(EFFECTS, found.bias.flagged[w], strict=True))
    return tuple(name for name, is_flagged in flagged.items() if is_flagged)


# --- advice -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class AdviceReport:
    """What would help most, in words, with the figures that it rests on.

    `accuracy`: of the model that was asked about, `share_of_ceiling` how much of the best possible that is.
    """

    definition: str
    advice: Advice | None
    words: str
    agreement: Estimate
    self_consistency: Estimate
    ceiling: CeilingReport
    accuracy: float | None
    share_of_ceiling: float | None


def advice_report(project: Project, *, accuracy: float | None = None) -> AdviceReport:
    """More votes, more pairs, or a better guideline; nine queries.

    Args:
        accuracy: of a model against single votes.
    """
    comparisons = load_comparisons(project)
    votes = measured(project, load(project, counted=True), comparisons)
    best, agrees = ceiling(votes, comparisons), share_agreeing(votes, comparisons)
    repeats = self_consistency(project).share
    limits = Ceiling(ceiling=best.best, upper=best.upper)
    found = bias.advice(repeats, agrees, accuracy=accuracy, ceiling=limits)
    return AdviceReport(
        definition=(
            "A rule of thumb, not measured. If people repeat themselves more often than they agree with each other by "
            "more than 0.1, surely above 0, they differ systematically: a better guideline. If they do not repeat "
            "themselves either (below 0.8), answers are noisy. A model within 0.03 of the ceiling that agreement "
            "allows needs more votes to be told apart, any other more pairs. Agreement is the share of agreeing pairs "
            "of counted votes, consistency that of silent repeats, the ceiling is that of decisive votes."
        ),
        advice=found,
        words=_words(found, repeats, agrees, accuracy, best.best),
        agreement=agrees,
        self_consistency=repeats,
        ceiling=best,
        accuracy=accuracy,
        share_of_ceiling=accuracy / best.best.value if accuracy is not None and best.best.value else None,
    )


def _words(advice: Advice | None, repeats: Estimate, agrees: Estimate, accuracy: float | None, best: Estimate) -> str:
    def percent(value: float | None) -> str:
        return "unknown" if value is None else f"{100 * value:.0f} %"

    itself, others = percent(repeats.value), percent(agrees.value)
    match advice:
        case None:
            needs = [("comparisons with two votes", agrees), ("silent repeats", repeats)]
            lacks = " and ".join(what for what, figure in needs if figure.value is None)
            return f"There is no advice yet: it needs {lacks}, or the accuracy of a model."
        case Advice.BETTER_GUIDELINE:
            return (
                f"People repeat themselves ({itself}) far more often than they agree with each other ({others}): they "
                "differ systematically. Write a better guideline, or report groups of people apart."
            )
        case Advice.TRAIN_ANNOTATORS:
            return f"People repeat themselves in {itself} only: answers are noisy. Train them, or ask for more votes."
        case Advice.MORE_VOTES:
            return (
                f"The model ({percent(accuracy)}) is as good as these votes can show (ceiling {percent(best.value)}): "
                "ask for more votes on each comparison."
            )
        case Advice.MORE_PAIRS if accuracy is not None:
            return f"The model ({percent(accuracy)}) is below the ceiling ({percent(best.value)}): collect more pairs."
        case Advice.MORE_PAIRS:
            return f"People agree ({others}) about as far as they repeat themselves ({itself}): collect more pairs."
        case _:
            assert_never(advice)
