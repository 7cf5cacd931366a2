"""Held-out figures of a reward model or policy, as pure functions of margins and labels. Knows no model and no files.

Intervals are clustered by prompt group: pairs of one prompt share their completions, so they are no independent trials.

Accuracy and calibration by length difference and by vote margin are metrics of three fixed bins each, not a table: a
metric is a curve over the steps and can be compared between runs, which edges that move with the data would forbid.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from training.engine.calibration import (
    accuracy_ceiling,
    calibration_error,
    calibration_noise,
    ceiling_bound,
    fit_temperature,
    sigmoid,
    softplus,
)

CONFIDENCE = 0.95
LENGTH_BINS = {"similar": 0.1, "moderate": 0.5, "large": math.inf}
"""Bins of the length difference as a share of the mean length, by upper edge: hard to see, plain, another kind."""
VOTE_BINS = {"close": 0.34, "clear": 0.999, "unanimous": math.inf}
"""Bins of |2q − 1| by upper edge, the majority: up to 2 : 1, beyond that, all votes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """One held-out pair: what the model says (`margin`, nats, of chosen over rejected) and what the votes say (`q`).

    `votes`: single votes for chosen and for rejected, ties not among them; zeros where they are not known.
    """

    group: str
    margin: float
    q: float
    tokens_chosen: int
    tokens_rejected: int
    votes: tuple[int, int] = (0, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A mean with its 95 % interval."""

    value: float
    low: float
    high: float


def accuracy_metrics(judged: Sequence[Judged], *, part: str) -> dict[str, float]:
    """Accuracy on decisive pairs (q ≠ ½) with its interval, and that of “pick the longer” on the same pairs.

    An equal margin or length counts one half. Without a decisive pair only the two counts, which are 0.
    """
    decisive = [pair for pair in judged if pair.q != 0.5]
    groups = [pair.group for pair in decisive]
    counts = {f"{part}/pairs": float(len(decisive)), f"{part}/groups": float(len(set(groups)))}
    if not decisive:
        return counts
    right = [_agreement(pair.margin, pair.q) for pair in decisive]
    longer = [_agreement(pair.tokens_chosen - pair.tokens_rejected, pair.q) for pair in decisive]
    return {
        **counts,
        **with_interval(f"{part}/accuracy", clustered_share(right, groups)),
        f"{part}/longer_wins": sum(longer) / len(longer),
    }


def vote_accuracy_metrics(judged: Sequence[Judged], *, part: str) -> dict[str, float]:
    """Share of single decisive votes that the model agrees with, mean over pairs, with its interval.

    No model can agree with people more than people's agreement among each other allows: this is the figure to hold
    beside that ceiling, where accuracy against an aggregated label is not. Nothing where no pair has a decisive vote.
    """
    voted = [pair for pair in judged if sum(pair.votes)]
    if not voted:
        return {}
    right = [0.5 if pair.margin == 0 else pair.votes[0 if pair.margin > 0 else 1] / sum(pair.votes) for pair in voted]
    return with_interval(f"{part}/vote_accuracy", clustered_share(right, [pair.group for pair in voted]))


def length_metrics(judged: Sequence[Judged], *, part: str) -> dict[str, float]:
    """Whether the model orders pairs by their length: accuracy where the longer won and where the shorter won, and the
    slope of the score on length within a pair, nats a token: Σ Δs ΔT / Σ ΔT².

    A model that follows length is right where the longer won and wrong elsewhere. The slope holds what is common to a
    prompt fixed; it includes what people really like about longer answers. Pairs of equal length tell nothing.
    """
    found: dict[str, float] = {}
    decisive = [pair for pair in judged if pair.q != 0.5 and pair.tokens_chosen != pair.tokens_rejected]
    for side, longer_won in (("longer", True), ("shorter", False)):
        chosen = [p for p in decisive if ((p.tokens_chosen > p.tokens_rejected) == (p.q > 0.5)) is longer_won]
        if chosen:
            right = [_agreement(pair.margin, pair.q) for pair in chosen]
            share = clustered_share(right, [pair.group for pair in chosen])
            found |= with_interval(f"{part}/accuracy_{side}_chosen", share)
    differences = [float(pair.tokens_chosen - pair.tokens_rejected) for pair in judged]
    if any(differences):
        products = [pair.margin * difference for pair, difference in zip(judged, differences, strict=True)]
        slope = clustered_ratio(products, [d * d for d in differences], [pair.group for pair in judged])
        found |= with_interval(f"{part}/length_slope", slope)
    return found


def slice_metrics(judged: Sequence[Judged], *, part: str) -> dict[str, float]:
    """Accuracy and calibration in bins of the length difference and of the vote margin; an empty bin has no figures.

    Calibration by length is how much the model overrates the longer completion: mean σ(s_longer − s_shorter) less the
    votes' share for it. By votes, it is how much it overrates what the votes prefer.
    """
    found: dict[str, float] = {}
    for name, low, high in _bins(LENGTH_BINS):
        pairs = [pair for pair in judged if low <= _relative_difference(pair) < high]
        unequal = [pair for pair in pairs if pair.tokens_chosen != pair.tokens_rejected]
        found |= _bin_accuracy(pairs, f"length_{name}", part=part)
        longer = [pair.tokens_chosen > pair.tokens_rejected for pair in unequal]
        found |= _overrated(unequal, longer, f"{part}/longer_overrated_{name}")
    for name, low, high in _bins(VOTE_BINS):
        pairs = [pair for pair in judged if low < abs(2 * pair.q - 1) <= high]
        found |= _bin_accuracy(pairs, f"votes_{name}", part=part)
        found |= _overrated(pairs, [pair.q > 0.5 for pair in pairs], f"{part}/preferred_overrated_{name}")
    return found


def _bins(edges: dict[str, float]) -> list[tuple[str, float, float]]:
    lows = [0.0, *edges.values()]
    return [(name, low, high) for (name, high), low in zip(edges.items(), lows, strict=False)]


def _relative_difference(pair: Judged) -> float:
    """|T_w − T_l| as a share of their mean, in [0, 2]."""
    total = pair.tokens_chosen + pair.tokens_rejected
    return 2 * abs(pair.tokens_chosen - pair.tokens_rejected) / total if total else 0.0


def _bin_accuracy(pairs: Sequence[Judged], name: str, *, part: str) -> dict[str, float]:
    decisive = [pair for pair in pairs if pair.q != 0.5]
    if not decisive:
        return {}
    right = [_agreement(pair.margin, pair.q) for pair in decisive]
    share = clustered_share(right, [pair.group for pair in decisive])
    return {f"{part}/pairs_{name}": float(len(decisive)), **with_interval(f"{part}/accuracy_{name}", share)}


def _overrated(pairs: Sequence[Judged], for_chosen: Sequence[bool], name: str) -> dict[str, float]:
    """Mean probability that the model gives a side, chosen's or the other one's, less the votes' share for it."""
    if not pairs:
        return {}
    gaps = [(sigmoid(p.margin) - p.q) * (1 if c else -1) for p, c in zip(pairs, for_chosen, strict=True)]
    return with_interval(name, clustered_mean(gaps, [pair.group for pair in pairs]))


def probability_metrics(judged: Sequence[Judged], *, part: str) -> dict[str, float]:
    """How well σ(margin) foretells the votes, over all pairs, ties included: nll, Brier score, calibration error.

    Also the error that sampling alone may give, and the temperature that would serve these pairs best.
    """
    if not judged:
        return {}
    margins, qs, groups = [p.margin for p in judged], [p.q for p in judged], [p.group for p in judged]
    nll = [q * softplus(-margin) + (1 - q) * softplus(margin) for margin, q in zip(margins, qs, strict=True)]
    brier = [(sigmoid(margin) - q) ** 2 for margin, q in zip(margins, qs, strict=True)]
    return {
        **with_interval(f"{part}/nll", clustered_mean(nll, groups)),
        **with_interval(f"{part}/brier", clustered_share(brier, groups)),
        f"{part}/calibration_error": calibration_error(margins, qs),
        f"{part}/calibration_noise": calibration_noise(margins, qs, groups),
        f"{part}/temperature": fit_temperature(margins, qs),
    }


def ceiling_metrics(judged: Sequence[Judged], *, part: str) -> dict[str, float]:
    """The best agreement with single votes that people's agreement A among each other leaves room for.

    A is the share of agreeing pairs of decisive votes on one comparison, mean over comparisons with two or more. Where
    people agree in less than half of them there is no ceiling, nor where nobody voted twice: A alone, or nothing.
    """
    voted = [pair for pair in judged if sum(pair.votes) > 1]
    if not voted:
        return {}
    agreeing = [sum(math.comb(votes, 2) for votes in pair.votes) / math.comb(sum(pair.votes), 2) for pair in voted]
    agreement = clustered_share(agreeing, [pair.group for pair in voted])
    found = with_interval(f"{part}/agreement", agreement)
    if agreement.value < 0.5:
        return found
    best = accuracy_ceiling(agreement.value)
    found |= {f"{part}/ceiling": best, f"{part}/ceiling_upper": ceiling_bound(agreement.value)}
    accuracy = vote_accuracy_metrics(judged, part=part)
    return {**found, f"{part}/ceiling_share": accuracy[f"{part}/vote_accuracy"] / best}


def preference_metrics(judged: Sequence[Judged], *, part: str) -> dict[str, float]:
    """Everything that margins of either kind of model can be asked: order, length, votes, people's ceiling."""
    return {
        **accuracy_metrics(judged, part=part),
        **vote_accuracy_metrics(judged, part=part),
        **length_metrics(judged, part=part),
        **slice_metrics(judged, part=part),
        **ceiling_metrics(judged, part=part),
    }


def clustered_share(values: Sequence[float], groups: Sequence[str]) -> Estimate:
    """Mean of values in [0, 1] with a 95 % interval: delete-one-group jackknife, Student t with G − 1 degrees, clipped.

    With fewer than two groups nothing is known about the spread, and the interval is [0, 1]. Where all values are 0,
    or all are 1, the jackknife sees no spread either; the open side is then the exact binomial bound for G trials.
    Source: Efron & Tibshirani 1993, ch. 11, with groups in the place of observations; Clopper & Pearson 1934.
    """
    total, count = sum(values), len(values)
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
    for value, group in zip(values, groups, strict=True):
        sums[group][0] += value
        sums[group][1] += 1
    size = len(sums)
    if size < 2:
        return Estimate(value=total / count, low=0.0, high=1.0)
    if total in (0.0, float(count)):
        bound = ((1 - CONFIDENCE) / 2) ** (1 / size)
        return Estimate(value=1.0, low=bound, high=1.0) if total else Estimate(value=0.0, low=0.0, high=1 - bound)
    mean = total / count
    reach = jackknife_reach([(total - part) / (count - number) for part, number in sums.values()])
    return Estimate(value=mean, low=max(0.0, mean - reach), high=min(1.0, mean + reach))


def clustered_mean(values: Sequence[float], groups: Sequence[str]) -> Estimate:
    """Mean of any values, with the interval of `clustered_share`; with fewer than two groups it is the whole line."""
    return clustered_ratio(values, [1.0] * len(values), groups)


def clustered_ratio(tops: Sequence[float], bottoms: Sequence[float], groups: Sequence[str]) -> Estimate:
    """Σ top / Σ bottom with the interval of `clustered_share`, not clipped. Bottoms are not negative, some positive.

    Where all bottoms but one group's are 0, nothing is known about the spread, and the interval is the whole line.
    """
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for top, bottom, group in zip(tops, bottoms, groups, strict=True):
        sums[group][0] += top
        sums[group][1] += bottom
    held = [(top, bottom) for top, bottom in sums.values() if bottom > 0]
    total, weight = sum(top for top, _ in held), sum(bottom for _, bottom in held)
    if len(held) < 2:
        return Estimate(value=total / weight, low=-math.inf, high=math.inf)
    reach = jackknife_reach([(total - top) / (weight - bottom) for top, bottom in held])
    return Estimate(value=total / weight, low=total / weight - reach, high=total / weight + reach)


def jackknife_reach(without: Sequence[float]) -> float:
    """Half the width of a 95 % interval, from the estimates with one group left out each, two or more of them."""
    size = len(without)
    centre = sum(without) / size
    error = math.sqrt((size - 1) / size * sum((value - centre) ** 2 for value in without))
    return student_t_quantile((1 + CONFIDENCE) / 2, degrees=size - 1) * error


def with_interval(name: str, found: Estimate) -> dict[str, float]:
    """A metric and the two ends of its interval, `<name>_low` and `_high`; ends that are not known are left out."""
    ends = {f"{name}_low": found.low, f"{name}_high": found.high}
    return {name: found.value, **{key: value for key, value in ends.items() if math.isfinite(value)}}


@functools.lru_cache(maxsize=1024)  # an evaluation asks for few degrees, many times each
def student_t_quantile(probability: float, *, degrees: int) -> float:
    """The t with P(T ≤ t) = probability, for ½ ≤ probability < 1 and a whole number of degrees of freedom."""
    low, high = 0.0, 1.0
    while _student_t_cdf(high, degrees) < probability:
        low, high = high, 2 * high
    for _ in range(80):  # halves the bracket to below the spacing of floats
        middle = (low + high) / 2
        low, high = (middle, high) if _student_t_cdf(middle, degrees) < probability else (low, middle)
    return (low + high) / 2


def _student_t_cdf(t: float, degrees: int) -> float:
    """P(T ≤ t) for t ≥ 0 by the finite series in θ = atan(t/√ν). Source: Abramowitz & Stegun 1964, 26.7.3–4."""
    angle = math.atan(t / math.sqrt(degrees))
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = degrees % 2
    term = cosine if odd else 1.0
    series = 0.0
    for k in range(2 + odd, degrees + 1, 2):
        series += term
        term *= cosine * cosine * (k - 1) / k
    inside = 2 / math.pi * (angle + sine * series) if odd else sine * series
    return 0.5 + inside / 2


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the values lie, between neighbours by straight line."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Pearson's correlation; 0 where one of the two does not vary."""
    count = len(first)
    mean_first, mean_second = sum(first) / count, sum(second) / count
    cross = sum((a - mean_first) * (b - mean_second) for a, b in zip(first, second, strict=True))
    spread = math.sqrt(sum((a - mean_first) ** 2 for a in first) * sum((b - mean_second) ** 2 for b in second))
    return cross / spread if spread > 0 else 0.0


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation (divided by n)."""
    mean = sum(values) / len(values)
    return mean, math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))


def _agreement(preference: float, q: float) -> float:
    return 0.5 if preference == 0 else float((preference > 0) == (q > 0.5))
