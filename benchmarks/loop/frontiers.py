"""What a proxy reward and the gold one have gained at a distance from π^SFT (Gao, Schulman & Hilton 2022).

Pure functions of scores; knows no model. P places along one way away from π^SFT (values of n, or optimizer steps), M
prompts, N completions of each. d = √KL, KL in nats; gains are over π^SFT, in spreads of its own scores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from training.engine.evaluate import Estimate, clustered_mean

Scores = NDArray[np.float64]

LEAST_PLACES = 3
"""A form has two coefficients: through fewer places it goes exactly, whatever they are."""
FARTHEST_LOG = 10.0
"""A fitted peak beyond d = e^10 is none: no policy gets there."""


class Form(StrEnum):
    """What Gao et al. 2022 found gold to gain, by d; both are 0 at d = 0."""

    BEST_OF_N = "d(α − βd)"
    RL = "d(α − β log d)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """A form laid through places by least squares; R² beside the mean of their gains."""

    form: Form
    alpha: float
    beta: float
    r2: float

    @property
    def peak(self) -> float | None:
        """The d of its maximum; None where it rises as far as anybody gets, or falls from the start."""
        if self.beta <= 0:
            return None
        if self.form is Form.BEST_OF_N:
            return self.alpha / (2 * self.beta) if self.alpha > 0 else None
        log = self.alpha / self.beta - 1
        return math.exp(log) if log < FARTHEST_LOG else None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Climb:
    """One way away from π^SFT, chosen or trained by a proxy.

    Attributes:
        labels: that the proxy has seen.
        places: [P] n, or optimizer steps; the first one is π^SFT itself.
        kl: [P] from π^SFT; nats a completion, an estimate of RL may be negative.
        proxy, gold: [P, M] gains.
    """

    labels: int
    form: Form
    places: Sequence[int]
    kl: Sequence[float]
    proxy: Scores
    gold: Scores

    @property
    def d(self) -> list[float]:
        """[P]"""
        return [math.sqrt(max(kl, 0.0)) for kl in self.kl]

    @property
    def peak(self) -> int:
        """The place where gold is highest in the mean."""
        return int(self.gold.mean(axis=1).argmax())

    def fit(self) -> Fit | None:
        """Its form through gold's gains, over the places that have left π^SFT; None where they are too few."""
        left = [place for place, d in enumerate(self.d) if place and d > 0]
        if len(left) < LEAST_PLACES:
            return None
        return fitted(self.form, [self.d[place] for place in left], self.gold.mean(axis=1)[left])


def fitted(form: Form, d: Sequence[float], gains: Sequence[float] | Scores) -> Fit:
    """The form through the points (d, gain), d > 0, by ordinary least squares: it is linear in α and β."""
    x, y = np.asarray(d, dtype=float), np.asarray(gains, dtype=float)
    matrix = np.stack([x, -x * (x if form is Form.BEST_OF_N else np.log(x))], axis=1)
    (alpha, beta), *_ = np.linalg.lstsq(matrix, y, rcond=None)
    around, off = float(((y - y.mean()) ** 2).sum()), float(((y - matrix @ (alpha, beta)) ** 2).sum())
    return Fit(form=form, alpha=float(alpha), beta=float(beta), r2=1 - off / around if around > 0 else 0.0)


def best_of_n(proxy: Scores, judged: Scores, sizes: Sequence[int]) -> Scores:
    """What the best of n by a proxy is worth to a judge, expected over all choices of n out of N: [P, M].

    Σ_i C(i−1, n−1)/C(N, n) g_(i), where g_(i) is the judge's score of the completion that the proxy ranks i-th from
    below. Of completions that the proxy cannot tell apart each is as likely, so they count with the judge's mean. With
    the proxy as its own judge this is `advantages.best_of_n_curve`.

    Args:
        proxy, judged: [M, N]. sizes: values of n, from 1 to N.

    Source: Nakano et al. 2021 (WebGPT), app. I, with a second score in the place of the first.
    """
    count = proxy.shape[1]
    weights = np.array([[math.comb(i, n - 1) / math.comb(count, n) for i in range(count)] for n in sizes])  # [P, N]
    return np.stack([weights @ _in_order(*row) for row in zip(proxy, judged, strict=True)], axis=1)


def _in_order(proxy: Scores, judged: Scores) -> Scores:
    _, tied = np.unique(proxy, return_inverse=True)
    means = np.bincount(tied, weights=judged) / np.bincount(tied)
    ordered: Scores = means[np.sort(tied)]
    return ordered


def spread(scores: Scores) -> float:
    """Standard deviation of the completions of one prompt, root mean square over prompts. Args: scores: [M, N]."""
    return float(np.sqrt(scores.var(axis=1, ddof=1).mean()))


def agreement(proxy: Scores, gold: Scores) -> Estimate:
    """Correlation of two scores [M, N] within a prompt, mean over prompts; where one is constant it is 0."""
    found = []
    for one, other in zip(proxy - proxy.mean(axis=1, keepdims=True), gold, strict=True):
        size = math.sqrt(float((one**2).sum()) * float(((other - other.mean()) ** 2).sum()))
        found.append(float(one @ other) / size if size > 0 else 0.0)
    return mean_over_prompts(found)


def mean_over_prompts(values: Sequence[float] | Scores) -> Estimate:
    """Mean of one value a prompt, with its interval."""
    return clustered_mean([float(value) for value in values], [str(number) for number in range(len(values))])


def fall(gains: Scores) -> Estimate:
    """How much lower the last place lies than the highest, [P, M] → an estimate over prompts.

    The highest place of noisy figures lies high by luck too. So a prompt's fall is from the place that is the highest
    one of all *other* prompts; where that is the last place, it is 0.
    """
    prompts = np.arange(gains.shape[1])
    others = gains.sum(axis=1, keepdims=True) - gains  # [P, M], M − 1 times their mean
    return mean_over_prompts(gains[others.argmax(axis=0), prompts] - gains[-1])


def lost_share(gains: Sequence[float] | Scores, place: int) -> float | None:
    """Share of the highest gain of all [P] that is lost at a place, of what was gained before; None without a gain."""
    highest = float(max(gains))
    return (float(max(gains[: place + 1])) - float(gains[place])) / highest if highest > 0 else None


def kl_of_gain(climb: Climb, gain: float) -> float | None:
    """The KL at which a climb's proxy has gained so much, between places by straight line; None beyond its last.

    The proxy must rise from place to place, as that of best-of-n does.
    """
    rises = climb.proxy.mean(axis=1)
    return float(np.interp(gain, rises, climb.kl)) if rises[0] <= gain <= rises[-1] else None
