"""Held-out figures of a reward model or policy, as pure functions of margins and labels. Knows no model and no files.

Intervals are clustered by prompt group: pairs of one prompt share their completions, so they are no independent trials.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
CALIBRATION_BINS = 15


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
    accuracy = clustered_share(right, groups)
    return {
        **counts,
        f"{part}/accuracy": accuracy.value,
        f"{part}/accuracy_low": accuracy.low,
        f"{part}/accuracy_high": accuracy.high,
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
    share = clustered_share(right, [pair.group for pair in voted])
    return {
        f"{part}/vote_accuracy": share.value,
        f"{part}/vote_accuracy_low": share.low,
        f"{part}/vote_accuracy_high": share.high,
    }


def probability_metrics(judged: Sequence[Judged], *, part: str) -> dict[str, float]:
    """How well σ(margin) foretells the votes, over all pairs, ties included: nll, Brier score, calibration error."""
    if not judged:
        return {}
    count = len(judged)
    nll = sum(pair.q * _softplus(-pair.margin) + (1 - pair.q) * _softplus(pair.margin) for pair in judged) / count
    brier = sum((_sigmoid(pair.margin) - pair.q) ** 2 for pair in judged) / count
    return {
        f"{part}/nll": nll,
        f"{part}/brier": brier,
        f"{part}/calibration_error": calibration_error([pair.margin for pair in judged], [pair.q for pair in judged]),
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
    without = [(total - part) / (count - number) for part, number in sums.values()]
    centre = sum(without) / size
    error = math.sqrt((size - 1) / size * sum((value - centre) ** 2 for value in without))
    reach = student_t_quantile((1 + CONFIDENCE) / 2, degrees=size - 1) * error
    mean = total / count
    return Estimate(value=mean, low=max(0.0, mean - reach), high=min(1.0, mean + reach))


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


def calibration_error(margins: Sequence[float], qs: Sequence[float]) -> float:
    """Mean |mean σ(Δ) − mean q| over equal-mass bins of σ(Δ), weighted by their sizes.

    Each pair enters in both orders, (Δ, q) and (−Δ, 1 − q): that chosen comes first says nothing about calibration.
    """
    points = sorted(
        [(_sigmoid(m), q) for m, q in zip(margins, qs, strict=True)]
        + [(_sigmoid(-m), 1 - q) for m, q in zip(margins, qs, strict=True)]
    )
    bins = min(CALIBRATION_BINS, len(points))
    edges = [round(number * len(points) / bins) for number in range(bins + 1)]
    gap = 0.0
    for start, stop in itertools.pairwise(edges):
        gap += abs(sum(p - q for p, q in points[start:stop]))
    return gap / len(points)


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


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def _softplus(x: float) -> float:
    """log(1 + eˣ) without overflow."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))
