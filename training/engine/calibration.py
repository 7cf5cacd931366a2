"""Probabilities σ(Δ) against the votes, and how far any model can agree with people who disagree. Plain functions.

Δ margin of a pair, nats; q its label, the share of the votes; A the probability that two people agree.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence

CALIBRATION_BINS = 15
TEMPERATURES = (0.01, 100.0)
"""Where the fitted temperature ends when the margins separate the labels, or say nothing about them."""


def calibration_error(margins: Sequence[float], qs: Sequence[float]) -> float:
    """Mean |mean σ(Δ) − mean q| over equal-mass bins of σ(Δ), weighted by their sizes.

    Each pair enters in both orders, (Δ, q) and (−Δ, 1 − q): that chosen comes first says nothing about calibration.
    """
    bins = _calibration_bins(margins, qs, [""] * len(qs))
    return sum(abs(sum(gap for gap, _ in points)) for points in bins) / (2 * len(qs))


def calibration_noise(margins: Sequence[float], qs: Sequence[float], groups: Sequence[str]) -> float:
    """What `calibration_error` of a calibrated model on such pairs seldom exceeds: its mean and three deviations.

    In a bin the mean gap of a calibrated model is about N(0, SE²), SE clustered by prompt group, so its size has mean
    SE √(2/π) and variance SE² (1 − 2/π). A bin and its mirror image hold the same pairs, so their gaps vary as one.
    """
    mean = variance = 0.0
    for points in _calibration_bins(margins, qs, groups):
        centre = sum(gap for gap, _ in points) / len(points)
        sums: dict[str, float] = defaultdict(float)
        for gap, group in points:
            sums[group] += gap - centre
        size = len(sums)
        spread = sum(x * x for x in sums.values()) * size / (size - 1) if size > 1 else len(points) ** 2 * centre**2
        mean += math.sqrt(2 / math.pi * spread)
        variance += 2 * (1 - 2 / math.pi) * spread
    return (mean + 3 * math.sqrt(variance)) / (2 * len(qs))


def _calibration_bins(
    margins: Sequence[float], qs: Sequence[float], groups: Sequence[str]
) -> list[list[tuple[float, str]]]:
    """Equal-mass bins of σ(Δ), both orders of each pair: the gap σ(Δ) − q and the group of each point.

    Equal σ(Δ) stay in the order of the data, a pair's two orders side by side. Sorted by q, a constant ½ would fall
    into bins of all 0 and all 1.
    """
    points = [
        (sigmoid(sign * m), sigmoid(sign * m) - (q if sign > 0 else 1 - q), group)
        for m, q, group in zip(margins, qs, groups, strict=True)
        for sign in (1, -1)
    ]
    points.sort(key=lambda point: point[0])
    bins = min(CALIBRATION_BINS, len(points))
    edges = [round(number * len(points) / bins) for number in range(bins + 1)]
    return [[(gap, group) for _, gap, group in points[start:stop]] for start, stop in itertools.pairwise(edges)]


def fit_temperature(margins: Sequence[float], qs: Sequence[float]) -> float:
    """The τ whose σ(Δ/τ) has the least negative log-likelihood of the votes, within `TEMPERATURES`.

    In a = 1/τ the loss is convex with slope Σ Δ (σ(aΔ) − q), so halving finds its zero.
    Source: Guo et al. 2017, section 4.2.
    """

    def slope(inverse: float) -> float:
        return sum(margin * (sigmoid(inverse * margin) - q) for margin, q in zip(margins, qs, strict=True))

    coldest, hottest = TEMPERATURES
    low, high = math.log(1 / hottest), math.log(1 / coldest)
    if slope(math.exp(low)) >= 0:
        return 1.0 if not any(margins) else hottest
    if slope(math.exp(high)) <= 0:
        return coldest
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(math.exp(middle)) < 0 else (low, middle)
    return math.exp(-(low + high) / 2)


def accuracy_ceiling(agreement: float) -> float:
    """E[max(p, 1 − p)] where p ~ Beta(a, a), a chosen so that two people agree with probability A, ½ ≤ A ≤ 1.

    C = ½ + 2^(−2a) / (a B(a, a)),    a = (1/(2A − 1) − 1)/2
    """
    if agreement >= 1:
        return 1.0
    if agreement <= 0.5:
        return 0.5
    a = (1 / (2 * agreement - 1) - 1) / 2
    log_beta = 2 * math.lgamma(a) - math.lgamma(2 * a)
    return 0.5 + math.exp(-2 * a * math.log(2) - math.log(a) - log_beta)


def ceiling_bound(agreement: float) -> float:
    """No model agrees with more than (1 + √(2A − 1))/2 of single votes, for agreement A ≥ ½ of two people.

    With p the share that prefers the better side, A = E[p² + (1 − p)²] and the best accuracy is E[max(p, 1 − p)];
    Jensen's inequality on |2p − 1| gives the bound, reached where all pairs are equally hard. The ceiling is never
    below A.
    """
    return (1 + math.sqrt(2 * agreement - 1)) / 2


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def softplus(x: float) -> float:
    """log(1 + eˣ) without overflow."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))
