"""Whether people choose by side, length or format, repeat themselves, or change, and what to do about their votes.

Pure functions of arrays. The effects of `annotator_bias` are log odds relative to what others say of the same items, so
a bias that everybody shares is not seen in the person but in the pooled effect. Everything that compares a person with
the consensus leaves the person's own vote out of it. Flags are for a person to look at, never for a rule to act on.
The module is long since all that is said about one person's votes stands here under its public name; the regressions
are in `logistic`.

Shapes: V votes, D decisive votes, R repeats, n items, K classes, W annotators, M windows; p and q columns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri, stdtr, stdtrit

from annotation.statistics.aggregation import (
    AnnotatorAccuracy,
    DawidSkeneResult,
    OneCoin,
    annotator_accuracy,
    posterior_of_others,
    preference_values,
    vote_counts,
)
from annotation.statistics.agreement import Ceiling, cohen_kappa, implied_accuracy, kappas, last_votes
from annotation.statistics.estimates import (
    LEVEL,
    BoolArray,
    Caution,
    Estimate,
    FloatArray,
    IntArray,
    Reason,
    Shares,
    as_numbers,
    benjamini_hochberg,
    check_codes,
    check_flags,
    check_numbers,
    check_size,
    check_sizes,
    check_votes,
    cluster_sandwich,
    clustered_share,
    group_totals,
    interval,
    missing,
    reason_of,
    transformed,
    wilson,
    wilson_shares,
)
from annotation.statistics.logistic import MixedFit, block_sandwich, fit_blocks, fit_mixed, varying_columns

FEW_VOTES = 20  # decisive votes below which nobody's effects are flagged
FEW_REPEATS = 10
LARGE_EFFECT = 0.4  # logits: P(left) of .60 where others are split
BOTH_WAYS = 0.05  # share of items shown both ways round, below which the side is confounded with the completion
WINDOW = 30  # votes of a window of drift
LARGE_GAP = 0.1  # of self-consistency over agreement, from which people differ and do not merely err
LOW_CONSISTENCY = 0.8  # of repeats, below which the answers are noise: an implied accuracy of .89
NEAR_CEILING = 0.03


class Advice(StrEnum):
    """What would help most."""

    BETTER_GUIDELINE = "better_guideline"
    TRAIN_ANNOTATORS = "train_annotators"
    MORE_VOTES = "more_votes"
    MORE_PAIRS = "more_pairs"


@dataclass(frozen=True, kw_only=True, slots=True)
class BiasColumns:
    """What `annotator_bias` regresses, of the decisive votes.

    Attributes:
        vote: [D] which votes these are.
        y: [D] 1 if the completion shown left was chosen, else 0.
        X: [D, 1] log odds of left over right in the other annotators' votes on the item.
        Z: [D, 3] position (1), log2 ratio of lengths, log2 ratio of markdown marks, left over right.
    """

    vote: IntArray
    y: FloatArray
    X: FloatArray
    Z: FloatArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Effects:
    """Effects in logits of several people, NaN where `reason` is not 0.

    Attributes:
        value, se, low, high: with the interval at the level .95.
        p_value: two-sided, of the effect being 0.
        reason: 0, or the number of the reason.
    """

    value: FloatArray
    se: FloatArray
    low: FloatArray
    high: FloatArray
    p_value: FloatArray
    reason: IntArray


@dataclass(frozen=True, kw_only=True, slots=True)
class AnnotatorBias:
    """Effects on the choice of the left completion, in logits per unit of their column.

    Attributes:
        pooled: [q + p] of each column of Z, then of X, all votes alike.
        mean: [q + p] the same in the middle annotator, with the annotators' deviations modelled; its interval is over
            prompts, for these annotators.
        tau: [q] standard deviation of the annotators around the mean; NaN where `tau_reason` [q] is not 0.
        effect: [W, q] mean + deviation of each annotator; approximate: intervals cover .84 to .94 in simulations, least
            where tau is small.
        n: [W] decisive votes. few_votes: [W] fewer than 20 of them: never flagged.
        flagged: [W, q] not 0 at a false-discovery rate of 5 % over the annotators, and at least .4 logits.
        converged: whether the rounds of EM sufficed.
    """

    pooled: tuple[Estimate, ...]
    mean: tuple[Estimate, ...]
    tau: FloatArray
    tau_reason: IntArray
    effect: Effects
    n: IntArray
    few_votes: BoolArray
    flagged: BoolArray
    converged: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class SelfConsistency:
    """How people answer the second time.

    Attributes:
        share: repeats with the same class. kappa: of the first against the second answer.
        side_driven: of repeats with sides swapped and decisive both times, those that chose the same side.
        implied_accuracy: of either answer, if both are right equally often and err independently.
        by_annotator, side_driven_by_annotator: the shares of each person. few_votes: [W] fewer than 10 repeats.
    """

    share: Estimate
    kappa: Estimate
    side_driven: Estimate
    implied_accuracy: Estimate
    by_annotator: Shares
    side_driven_by_annotator: Shares
    few_votes: BoolArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Drift:
    """How each person's agreement with the others changes.

    Attributes:
        window_annotator, window_first, window_last: [M] whose window it is, and its first and last vote.
        agreement: [M] of each window.
        slope: [W] change of the logit of agreement in 100 votes.
        n: [W] votes. few_votes: [W] fewer than two windows: never flagged.
        flagged: [W] not 0 at a false-discovery rate of 5 % over the annotators.
    """

    window_annotator: IntArray
    window_first: IntArray
    window_last: IntArray
    agreement: Shares
    slope: Effects
    n: IntArray
    few_votes: BoolArray
    flagged: BoolArray


@dataclass(frozen=True, kw_only=True, slots=True)
class AnnotatorSummary:
    """A line for each annotator.

    Attributes:
        accuracy: of the model. agreement: with the class that the others make most probable.
        kappa, kappa_se: [W] against that class; NaN where `kappa_reason` is not 0.
        ties: share of ties; None where no tie was offered. left: share of decisive votes for the left side; None
            where sides are not known. gold: share of gold items answered right; None without gold.
        median_seconds: [W] a vote; None where times are not known; NaN without votes.
        lower_quartile: of the annotators' accuracies; None without votes.
        flagged: [W] the upper end of accuracy lies below it.
    """

    accuracy: AnnotatorAccuracy
    agreement: Shares
    kappa: FloatArray
    kappa_se: FloatArray
    kappa_reason: IntArray
    ties: Shares | None
    left: Shares | None
    gold: Shares | None
    median_seconds: FloatArray | None
    lower_quartile: float | None
    flagged: BoolArray


def others_log_odds(
    item: npt.ArrayLike,
    annotator: npt.ArrayLike,
    label: npt.ArrayLike,
    *,
    n_items: int,
    n_annotators: int,
    K: int,
) -> FloatArray:
    """m, for each vote ln((A + ½)/(B + ½)) of the *other* annotators' votes for a and for b on its item: [V].

    Ties count half for each; 0 where nobody else voted.

    Raises:
        ValueError: naming the argument that is malformed, or if an annotator voted twice on an item.
    """
    n_items, n_annotators, K = check_sizes(n_items, n_annotators, K)
    items, people, labels = check_votes(item, annotator, label, n_items=n_items, n_annotators=n_annotators, K=K)
    last_votes(items, people, n_annotators=n_annotators, repeats=None)
    for_a = preference_values(K)
    a, b = (vote_counts(items, labels, n_items=n_items, K=K) @ np.stack([for_a, 1 - for_a], axis=1))[items].T
    return np.asarray(np.log((a - for_a[labels] + 0.5) / (b - (1 - for_a[labels]) + 0.5)))


def log2_ratio(left: npt.ArrayLike, right: npt.ArrayLike) -> FloatArray:
    """log2((1 + left)/(1 + right)) of counts ≥ 0: 1 for each doubling."""
    counts = as_numbers(left, name="left"), as_numbers(right, name="right")
    for name, count in zip(("left", "right"), counts, strict=True):
        if not np.all(np.isfinite(count)) or np.any(count < 0):
            raise ValueError(f"{name} must hold finite counts of at least 0")
    return np.log2((1 + counts[0]) / (1 + counts[1]))


def bias_columns(
    item: npt.ArrayLike,
    annotator: npt.ArrayLike,
    label: npt.ArrayLike,
    a_left: npt.ArrayLike,
    *,
    chars: npt.ArrayLike,
    marks: npt.ArrayLike,
    n_items: int,
    n_annotators: int,
    K: int,
) -> BiasColumns:
    """What `annotator_bias` takes, from votes. Only decisive votes enter: of a scale the sign counts, the middle drops.

    Args:
        a_left: [V] whether a was shown left. chars, marks: [n, 2] characters and markdown marks of a and of b.
    """
    n_items, n_annotators, K = check_sizes(n_items, n_annotators, K)
    items, _, labels = check_votes(item, annotator, label, n_items=n_items, n_annotators=n_annotators, K=K)
    side = check_flags(a_left, name="a_left", length=len(items))
    m = others_log_odds(item, annotator, label, n_items=n_items, n_annotators=n_annotators, K=K)
    for_a = preference_values(K)[labels]
    vote = np.flatnonzero(for_a != 0.5)
    turn = np.where(side, 1.0, -1.0)[vote]
    ratios = [
        log2_ratio(*check_numbers(x, name=name, shape=(n_items, 2)).T)[items[vote]]
        for name, x in (("chars", chars), ("marks", marks))
    ]
    return BiasColumns(
        vote=vote,
        y=(for_a[vote] == side[vote]).astype(np.float64),
        X=(turn * m[vote])[:, None],
        Z=np.column_stack([np.ones(len(vote)), *(turn * column for column in ratios)]),
    )


def sides_randomised(item: npt.ArrayLike, a_left: npt.ArrayLike, *, n_items: int) -> bool:
    """Whether 5 % or more of the items with two votes were shown both ways round; without such items nothing denies it.

    If not, the side cannot be told from the completion that stood there.
    """
    items = check_codes(item, name="item", size=check_size(n_items, name="n_items"))
    side = check_flags(a_left, name="a_left", length=len(items))
    votes, left = (np.bincount(items[chosen], minlength=n_items) for chosen in (slice(None), side))
    both = (left > 0) & (left < votes)
    return bool(both.sum() >= BOTH_WAYS * np.sum(votes >= 2))


def annotator_bias(
    y: npt.ArrayLike,
    X: npt.ArrayLike,
    Z: npt.ArrayLike,
    annotator: npt.ArrayLike,
    *,
    n_annotators: int,
    group: npt.ArrayLike | None = None,
    sides_vary: bool = True,
) -> AnnotatorBias:
    """How side, length and format move the choice between two completions, in all and in each annotator.

    logit P(left is chosen) = δ m + Σ_k (β_k + b_wk) z_k, b_wk ~ N(0, τ_k²), by Laplace EM (`logistic.fit_mixed`).

    Args:
        y: [D] 1 if the left completion was chosen, else 0.
        X: [D, p] columns with the same effect δ in everybody: what the others say.
        Z: [D, q] columns z whose effect differs between annotators: the position first, a column of ones.
        annotator: [D] codes from 0. group: [D] prompt group of each vote; intervals of the means are clustered by it.
        sides_vary: `sides_randomised` of the same votes; if not, the effect of the position has that for a reason.

    Returns:
        Without values, and with the reason, where there are no votes (`no_votes`), where the votes are `separated` by
        the columns, where a column does not vary beside the others (`one_class`), and where there is one annotator, who
        has no others to differ from (`one_annotator`).

    Raises:
        ValueError: naming the argument that is malformed.
    """
    votes = _regression(y, X, Z, annotator, n_annotators=n_annotators, group=group)
    present = np.unique(votes.annotator)
    used = np.flatnonzero(varying_columns(votes.columns))
    reason, pooled, mixed = _fitted(votes, used)
    if reason[0] == 0 and not sides_vary:
        reason[0] = Reason.SIDES_NOT_RANDOMISED.number
    among = np.where((reason == 0) & (len(present) < 2), Reason.ONE_ANNOTATOR.number, reason)
    effect = _effects_of_people(mixed, used, among[: votes.q], present, n_annotators=n_annotators)
    n = np.bincount(votes.annotator, minlength=n_annotators)
    return AnnotatorBias(
        pooled=_means(votes, used, pooled, reason),
        mean=_means(votes, used, None if mixed is None else (mixed.beta, mixed.bread, mixed.scores), among),
        tau=_deviations(mixed, used, among[: votes.q]),
        tau_reason=among[: votes.q],
        effect=effect,
        n=n,
        few_votes=n < FEW_VOTES,
        flagged=_flagged(effect, few=n < FEW_VOTES),
        converged=mixed is None or mixed.converged,
    )


def self_consistency(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    swapped: npt.ArrayLike,
    annotator: npt.ArrayLike,
    *,
    n_annotators: int,
    K: int,
    group: npt.ArrayLike | None = None,
) -> SelfConsistency:
    """How often people give the same answer to the same item again, and whether the side decided.

    Args:
        first, second: [R] classes of both answers. swapped: [R] whether the sides were exchanged in between.
        annotator: [R] codes from 0. group: [R] prompt group; intervals of all together are clustered by it.

    Returns:
        With `few_votes` below 10 repeats; the implied accuracy is `below_chance` if fewer than half are the same.

    Raises:
        ValueError: naming the argument that is malformed.
    """
    size = check_size(K, name="K", at_least=2)
    people = check_codes(annotator, name="annotator", size=check_size(n_annotators, name="n_annotators"))
    before = check_codes(first, name="first", size=size, length=len(people))
    after = check_codes(second, name="second", size=size, length=len(people))
    exchanged = check_flags(swapped, name="swapped", length=len(people))
    groups = None if group is None else check_codes(group, name="group", length=len(people))
    same = (before == after).astype(np.float64)
    lean = 2 * preference_values(size) - 1  # 1 for a, −1 for b
    decisive = exchanged & (lean[before] != 0) & (lean[after] != 0)
    side = (lean[before] != lean[after])[decisive].astype(np.float64)
    share = _with_few(_share(same, groups))
    return SelfConsistency(
        share=share,
        kappa=_with_few(cohen_kappa(before, after, K=size, group=groups)),
        side_driven=_with_few(_share(side, None if groups is None else groups[decisive])),
        implied_accuracy=_implied(share),
        by_annotator=wilson_shares(people, same, size=n_annotators),
        side_driven_by_annotator=wilson_shares(people[decisive], side, size=n_annotators),
        few_votes=np.bincount(people, minlength=n_annotators) < FEW_REPEATS,
    )


def drift(
    agreed: npt.ArrayLike,
    annotator: npt.ArrayLike,
    *,
    n_annotators: int,
    time: npt.ArrayLike | None = None,
    group: npt.ArrayLike | None = None,
) -> Drift:
    """How each annotator's agreement with the others changes from vote to vote.

    Args:
        agreed: [V] in 0..1, whether the vote is what the others' votes make most probable (`leave_one_out`).
        annotator: [V] codes from 0. time: [V] when each was given; default: the order given.
        group: [V] prompt group; the intervals of the slopes are clustered by it.

    Raises:
        ValueError: naming the argument that is malformed.
    """
    W = check_size(n_annotators, name="n_annotators")
    people = check_codes(annotator, name="annotator", size=W)
    y = check_numbers(agreed, name="agreed", shape=(len(people),))
    if np.any((y < 0) | (y > 1)):
        raise ValueError("agreed must lie in 0..1")
    when = np.arange(len(people)) if time is None else check_numbers(time, name="time", shape=(len(people),))
    clusters = np.arange(len(people)) if group is None else check_codes(group, name="group", length=len(people))
    order = np.lexsort((when, people))
    sorted_people = people[order]
    n = np.bincount(people, minlength=W)
    rank = np.arange(len(people)) - (np.cumsum(n) - n)[sorted_people]
    many = n // WINDOW
    inside = np.flatnonzero(many[sorted_people] > 0)
    of_person = sorted_people[inside]
    # Windows of equal length, so that the last is no shorter than the others.
    window = (np.cumsum(many) - many)[of_person] + rank[inside] * many[of_person] // n[of_person]
    first = np.searchsorted(window, np.arange(many.sum()))
    last = np.append(first[1:], len(window))[: len(first)] - 1
    few = n < 2 * WINDOW
    slope = _slopes(y[order], sorted_people, rank / 100, clusters[order], n_annotators=W)
    return Drift(
        window_annotator=of_person[first],
        window_first=order[inside[first]],
        window_last=order[inside[last]],
        agreement=wilson_shares(window, y[order[inside]], size=len(first)),
        slope=slope,
        n=n,
        few_votes=few,
        flagged=benjamini_hochberg(np.where(few, np.nan, slope.p_value)),
    )


def annotator_summary(
    result: DawidSkeneResult | OneCoin,
    item: npt.ArrayLike,
    annotator: npt.ArrayLike,
    label: npt.ArrayLike,
    *,
    n_items: int,
    n_annotators: int,
    K: int,
    gold: npt.ArrayLike | None = None,
    a_left: npt.ArrayLike | None = None,
    seconds: npt.ArrayLike | None = None,
) -> AnnotatorSummary:
    """A line for each annotator; `annotator_bias`, `self_consistency` and `drift` have the rest.

    Agreement and κ are with the class that the other annotators make most probable, where others voted.

    Args:
        result: a fit to these votes. gold: [n] class, or −1, as in the fit.
        a_left: [V] whether a was shown left. seconds: [V] that each vote took.

    Raises:
        ValueError: naming the argument that is malformed.
    """
    n_items, n_annotators, K = check_sizes(n_items, n_annotators, K)
    sizes = {"n_items": n_items, "n_annotators": n_annotators, "K": K}
    items, people, labels = check_votes(item, annotator, label, **sizes)
    accuracy = annotator_accuracy(result, items, people, labels, **sizes)
    others = posterior_of_others(result, items, people, labels, **sizes, gold=gold).argmax(axis=1)
    truth = np.full(len(items), -1) if gold is None else np.asarray(gold)[items]
    of_gold = truth >= 0
    judged = of_gold | _have_company(items, people, n_items=n_items, n_annotators=n_annotators)
    kappa, kappa_se, kappa_reason = _kappa_with(others[judged], labels[judged], people[judged], sizes=(n_annotators, K))
    for_a = preference_values(K)[labels]
    decisive = for_a != 0.5
    sides = None if a_left is None else (for_a == check_flags(a_left, name="a_left", length=len(items)))[decisive]
    quartile = _lower_quartile(accuracy)
    return AnnotatorSummary(
        accuracy=accuracy,
        agreement=wilson_shares(people[judged], (labels == others)[judged], size=n_annotators),
        kappa=kappa,
        kappa_se=kappa_se,
        kappa_reason=kappa_reason,
        ties=wilson_shares(people, ~decisive, size=n_annotators) if K % 2 else None,
        left=None if sides is None else wilson_shares(people[decisive], sides, size=n_annotators),
        gold=None if gold is None else wilson_shares(people[of_gold], (labels == truth)[of_gold], size=n_annotators),
        median_seconds=None if seconds is None else _medians(people, seconds, size=n_annotators),
        lower_quartile=quartile,
        flagged=np.nan_to_num(accuracy.high, nan=1.0) < (quartile or 0.0),
    )


def advice(
    self_consistency: Estimate, agreement: Estimate, *, accuracy: float | None = None, ceiling: Ceiling | None = None
) -> Advice | None:
    """What would help most: a rule of thumb, not measured. None where none of the figures that it needs exists.

    Args:
        self_consistency: r, how often people repeat themselves. agreement: A, how often two of them agree.
        accuracy: of the model, against single votes. ceiling: the best it could be there.
    """
    r, A = self_consistency, agreement
    otherwise: Advice | None = None
    if r.value is not None and A.value is not None and Caution.FEW_VOTES not in r.warnings:
        gap = r.value - A.value
        if gap > LARGE_GAP and gap > float(ndtri((1 + LEVEL) / 2)) * math.hypot(r.se or 0.0, A.se or 0.0):
            return Advice.BETTER_GUIDELINE
        if r.value < LOW_CONSISTENCY:
            return Advice.TRAIN_ANNOTATORS
        otherwise = Advice.MORE_PAIRS
    best = None if ceiling is None else ceiling.ceiling.value
    if accuracy is not None and best is not None:
        return Advice.MORE_VOTES if accuracy > best - NEAR_CEILING else Advice.MORE_PAIRS
    return otherwise


@dataclass(frozen=True, kw_only=True, slots=True)
class _Regression:
    """Checked input of `annotator_bias`, sorted by annotator: columns [q + p, D] are those of Z, then of X."""

    y: FloatArray
    columns: FloatArray
    annotator: IntArray
    group: IntArray | None
    q: int


_Fitted = tuple[FloatArray, FloatArray, FloatArray]  # beta [c], bread [c, c], scores [D, c]


def _regression(
    y: npt.ArrayLike,
    X: npt.ArrayLike,
    Z: npt.ArrayLike,
    annotator: npt.ArrayLike,
    *,
    n_annotators: int,
    group: npt.ArrayLike | None,
) -> _Regression:
    people = check_codes(annotator, name="annotator", size=check_size(n_annotators, name="n_annotators"))
    outcome = check_numbers(y, name="y", shape=(len(people),))
    if np.any((outcome != 0) & (outcome != 1)):
        raise ValueError("y must be 0 or 1")
    x, z = check_numbers(X, name="X", shape=(len(people), None)), check_numbers(Z, name="Z", shape=(len(people), None))
    if z.shape[1] == 0 or np.any(z[:, 0] != 1):
        raise ValueError("Z must begin with a column of ones, the position")
    order = np.argsort(people, kind="stable")
    return _Regression(
        y=outcome[order],
        columns=np.ascontiguousarray(np.column_stack([z, x])[order].T),
        annotator=people[order],
        group=None if group is None else check_codes(group, name="group", length=len(people))[order],
        q=z.shape[1],
    )


def _fitted(votes: _Regression, used: IntArray) -> tuple[IntArray, _Fitted | None, MixedFit | None]:
    """The number of the reason of each column, 0 for those fitted; the pooled and the mixed fit, where they exist."""
    reason = np.full(len(votes.columns), Reason.ONE_CLASS.number)
    reason[used] = 0
    if len(votes.y) == 0:
        return np.full_like(reason, Reason.NO_VOTES.number), None, None
    columns = np.ascontiguousarray(votes.columns[used])
    fit = fit_blocks(votes.y, columns, np.zeros(1, dtype=np.int64))
    if fit.separated[0]:
        return np.full_like(reason, Reason.SEPARATED.number), None, None
    pooled = fit.beta[0], fit.bread[0], fit.scores
    starts = np.unique(votes.annotator, return_index=True)[1]
    if len(starts) < 2:
        return reason, pooled, None
    return reason, pooled, fit_mixed(votes.y, columns, starts, q=int(np.sum(used < votes.q)), beta=fit.beta[0])


def _means(votes: _Regression, used: IntArray, fitted: _Fitted | None, reason: IntArray) -> tuple[Estimate, ...]:
    """Effects of all columns with intervals clustered by group, or the reason of each; `used` are those fitted."""
    n = len(votes.y)
    if fitted is None:
        return tuple(_none(number, n=n) for number in reason)
    beta, bread, scores = fitted
    covariance, groups = cluster_sandwich(bread, scores, votes.group)
    se = np.sqrt(covariance.diagonal())
    return tuple(
        _none(number, n=n) if number else _effect(float(beta[k]), float(se[k]), n=n, groups=groups)
        for number, k in zip(reason, np.searchsorted(used, np.arange(len(reason))), strict=True)
    )


def _deviations(mixed: MixedFit | None, used: IntArray, reason: IntArray) -> FloatArray:
    """τ of each column of Z, NaN where there is a reason: [q]."""
    tau = np.full(len(reason), np.nan)
    if mixed is not None:
        tau[used[used < len(reason)]] = np.sqrt(mixed.variance)
    return np.where(reason == 0, tau, np.nan)


def _none(number: int, *, n: int) -> Estimate:
    reason = reason_of(number)
    assert reason is not None
    return missing(reason, method="sandwich", n=n)


def _effect(value: float, se: float, *, n: int, groups: int) -> Estimate:
    if groups < 2:
        return Estimate(value=value, method="sandwich", n=n, n_groups=groups, reason=Reason.TOO_FEW_GROUPS)
    low, high, warnings = interval(value, se=se, df=groups - 1, bounds=(-math.inf, math.inf))
    return Estimate(value=value, se=se, low=low, high=high, method="sandwich", n=n, n_groups=groups, warnings=warnings)


def _effects_of_people(
    mixed: MixedFit | None, used: IntArray, reason: IntArray, present: IntArray, *, n_annotators: int
) -> Effects:
    """Mean + deviation of each annotator: [W, q]; `reason` [q] of each column, `present` those who voted."""
    why = np.full((n_annotators, len(reason)), Reason.NO_VOTES.number)
    why[present] = reason
    value, se = np.zeros(why.shape), np.zeros(why.shape)
    if mixed is not None:
        own = np.arange(len(mixed.variance))
        at = np.ix_(present, used[own])
        value[at] = mixed.beta[own] + mixed.effects
        se[at] = np.sqrt(mixed.covariance.diagonal(axis1=1, axis2=2))
    # Infinite degrees of freedom: the normal distribution.
    return _with_intervals(value, se, df=np.full(why.shape, np.inf), reason=why)


def _with_intervals(value: FloatArray, se: FloatArray, *, df: FloatArray, reason: IntArray) -> Effects:
    """Student's intervals and p-values of effects with their standard errors, hidden where there is a reason."""
    known = reason == 0
    half = stdtrit(df, (1 + LEVEL) / 2) * se
    p_value = 2 * stdtr(df, -np.abs(value) / np.where(known, se, 1.0))
    hidden = (np.where(known, x, np.nan) for x in (value, se, value - half, value + half, p_value))
    return Effects(**dict(zip(("value", "se", "low", "high", "p_value"), hidden, strict=True)), reason=reason)


def _flagged(effect: Effects, *, few: BoolArray) -> BoolArray:
    """[W, q] by column: rejected among those with enough votes, and large."""
    tested = np.where(few[:, None], np.nan, effect.p_value)
    rejected = np.column_stack([benjamini_hochberg(column) for column in tested.T])
    return rejected & (np.nan_to_num(np.abs(effect.value)) >= LARGE_EFFECT)


def _slopes(y: FloatArray, people: IntArray, hundreds: FloatArray, group: IntArray, *, n_annotators: int) -> Effects:
    """Logistic slope of y over hundreds of votes in each annotator, of votes sorted by annotator: [W]."""
    reason = np.full(n_annotators, Reason.NO_VOTES.number)
    value, se, df = np.zeros(n_annotators), np.zeros(n_annotators), np.ones(n_annotators)
    present, starts = np.unique(people, return_index=True)
    if len(present):
        fit = fit_blocks(y, np.stack([np.ones(len(y)), hundreds]), starts)
        covariance, groups = block_sandwich(fit.bread, fit.scores, np.unique(group, return_inverse=True)[1], starts)
        none = np.where(groups < 2, Reason.TOO_FEW_GROUPS.number, 0)
        reason[present] = np.where(fit.separated, Reason.SEPARATED.number, none)
        value[present], se[present] = fit.beta[:, 1], np.sqrt(covariance[:, 1, 1])
        df[present] = np.maximum(groups - 1, 1)
    return _with_intervals(value, se, df=df, reason=reason)


def _share(holds: FloatArray, group: IntArray | None) -> Estimate:
    """Share of all answers that hold, over groups if there are any."""
    if group is None:
        return wilson(float(holds.sum()), len(holds))
    totals = group_totals(np.column_stack([holds, np.ones(len(holds))]), group)
    return clustered_share(totals[:, 0], totals[:, 1])


def _with_few(estimate: Estimate) -> Estimate:
    few = estimate.n < FEW_REPEATS and estimate.value is not None
    return replace(estimate, warnings=(*estimate.warnings, Caution.FEW_VOTES)) if few else estimate


def _implied(share: Estimate) -> Estimate:
    if share.value is not None and share.value < 0.5:
        return missing(Reason.BELOW_CHANCE, method=share.method, n=share.n, n_groups=share.n_groups)
    return transformed(share, implied_accuracy, from_at_least=0.5)


def _kappa_with(
    others: IntArray, labels: IntArray, people: IntArray, *, sizes: tuple[int, int]
) -> tuple[FloatArray, FloatArray, IntArray]:
    """κ of each annotator's labels against those of the others, its standard error and its reason: [W] each."""
    W, K = sizes
    tables = np.bincount((people * K + others) * K + labels, minlength=W * K * K).astype(np.float64).reshape(W, K, K)
    n = tables.sum(axis=(1, 2))
    kappa, se = np.full(W, np.nan), np.full(W, np.nan)
    kappa[n > 1], se[n > 1] = kappas(tables[n > 1], np.eye(K))
    few = np.where(n == 0, Reason.NO_OVERLAP.number, Reason.TOO_FEW_COMMON.number)
    return kappa, se, np.where(n < 2, few, np.where(np.isnan(kappa), Reason.ONE_CLASS.number, 0))


def _lower_quartile(accuracy: AnnotatorAccuracy) -> float | None:
    known = accuracy.reason == 0
    return float(np.quantile(accuracy.value[known], 0.25)) if known.any() else None


def _have_company(items: IntArray, people: IntArray, *, n_items: int, n_annotators: int) -> BoolArray:
    """Whether somebody else voted on the item of each vote: [V]."""
    voters = np.bincount(np.unique(items * n_annotators + people) // n_annotators, minlength=n_items)
    return np.asarray(voters[items] > 1)


def _medians(people: IntArray, seconds: npt.ArrayLike, *, size: int) -> FloatArray:
    """Median of each annotator's seconds: [W]; NaN without votes."""
    x = check_numbers(seconds, name="seconds", shape=(len(people),))
    ordered = np.append(x[np.lexsort((x, people))], 0.0)
    n = np.bincount(people, minlength=size)
    first = np.cumsum(n) - n
    low, high = first + np.maximum(n - 1, 0) // 2, first + n // 2
    return np.where(n > 0, (ordered[low] + ordered[high]) / 2, np.nan)
