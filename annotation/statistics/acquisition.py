"""What to ask next: when to stop asking, which vote tells most, which pairs to compare, and how much to plan for.

Pure functions of arrays. Knows posteriors, strengths and covariances, not how they came to be, and nothing of slots or
people.

Shapes: n items or candidate pairs, K classes, W annotators, d dimensions of a reward or systems of a ranking, M members
of an ensemble.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

import numpy as np
import numpy.typing as npt
from scipy.special import entr, expit, ndtr, ndtri

from annotation.statistics.estimates import (
    LEVEL,
    BoolArray,
    FloatArray,
    IntArray,
    as_numbers,
    check_choice,
    check_codes,
    check_size,
)


class Decision(StrEnum):
    """Whether an item gets another vote, and why not."""

    MORE = "more"
    STOP_CONFIDENT = "stop_confident"
    STOP_CAP = "stop_cap"
    STOP_NO_ANNOTATOR = "stop_no_annotator"


def overlap_decision(
    q: npt.ArrayLike,
    n_votes: npt.ArrayLike,
    *,
    tau: float = 0.95,
    start: int = 2,
    cap: int = 9,
    eligible: npt.ArrayLike | None = None,
) -> npt.NDArray[np.str_]:
    """Whether each item gets another vote: [n] of `Decision`.

    At least `start` votes, then it stops once a class has the posterior `tau`, at `cap` votes, or, at any time, when
    everybody who may vote has done so: Wald's test with a bound on its length.

    Args:
        q: [n, K] posterior of each class, or [n] that of the leading one.
        n_votes: [n] votes so far.
        tau: posterior of the leading class that suffices, in (0, 1].
        start, cap: fewest and most votes, 1 ≤ start ≤ cap.
        eligible: [n] people who have voted or still may; None: there is always somebody.

    Raises:
        ValueError: naming the argument that is malformed.

    Source: Wald 1945, sequential tests.
    """
    posterior = as_numbers(q, name="q")
    if posterior.ndim not in (1, 2) or not np.all((posterior >= 0) & (posterior <= 1)):
        raise ValueError(f"q must hold probabilities [n, K] or [n], got shape {posterior.shape}")
    votes = check_codes(n_votes, name="n_votes", length=len(posterior))
    if not 0 < tau <= 1:
        raise ValueError(f"tau must be above 0 and at most 1, got {tau}")
    if not 1 <= start <= cap:
        raise ValueError(f"start must be from 1 to cap ({cap}), got {start}")
    confidence = posterior.max(axis=1) if posterior.ndim == 2 else posterior
    nobody = np.zeros(len(votes), dtype=bool)
    if eligible is not None:
        nobody = votes >= check_codes(eligible, name="eligible", length=len(votes))
    return np.select(
        [~nobody & (votes < start), (votes >= start) & (confidence >= tau), votes >= cap, nobody],
        [Decision.MORE.value, Decision.STOP_CONFIDENT.value, Decision.STOP_CAP.value, Decision.STOP_NO_ANNOTATOR.value],
        default=Decision.MORE.value,
    ).astype(np.str_)


def expected_votes(accuracy: float, *, tau: float = 0.95) -> float:
    """Votes that `overlap_decision` takes on the mean, without cap, if everybody is right with this probability.

    (1−2e) ln((1−e)/e) / ((2a−1) logit a) with e = 1−tau: the mean length of Wald's test, overshoot neglected.

    Args:
        accuracy: in (½, 1).
        tau: in (½, 1).

    Source: Wald 1945.
    """
    for name, value in (("accuracy", accuracy), ("tau", tau)):
        if not 0.5 < value < 1:
            raise ValueError(f"{name} must be above 0.5 and below 1, got {value}")
    error = 1 - tau
    gain = (2 * accuracy - 1) * math.log(accuracy / (1 - accuracy))
    return (1 - 2 * error) * math.log((1 - error) / error) / gain


# --- what the next vote would tell ------------------------------------------------------------------------------------


class Objective(StrEnum):
    """What a vote on a pair is to improve.

    strength: all strengths alike (D-optimal, nats); order: who stands above whom; bald: what an ensemble disagrees on
    (nats).
    """

    STRENGTH = "strength"
    ORDER = "order"
    BALD = "bald"


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """A batch of candidates.

    Attributes:
        index: [m] places of the chosen candidates, in the order of choice; one with room may be there several times.
        explored: [m] whether it was drawn uniformly, as the control of those that were chosen by gain.
    """

    index: IntArray
    explored: BoolArray


def vote_information(q: npt.ArrayLike, theta: npt.ArrayLike) -> FloatArray:
    """What a vote of each annotator would tell about the class of each item, in nats: [n, W].

    I = H(Σ_k q_ik θ_wk·) − Σ_k q_ik H(θ_wk·) ≥ 0, and 0 for a coin-flipper or a certain item. Divide by what a vote
    costs to rank. O(n·W·K²); for some annotators only, pass their rows of θ.

    Args:
        q: [n, K] posterior of each class. theta: [W, true, observed] confusion of each annotator.

    Raises:
        ValueError: naming the argument that is malformed.

    Source: Lindley 1956, the expected gain of an experiment.
    """
    posterior, confusion = as_numbers(q, name="q"), as_numbers(theta, name="theta")
    if posterior.ndim != 2 or not _are_distributions(posterior):
        raise ValueError(f"q must hold a distribution [n, K] over classes a row, got shape {posterior.shape}")
    n, K = posterior.shape
    if confusion.ndim != 3 or confusion.shape[1:] != (K, K) or not _are_distributions(confusion):
        raise ValueError(f"theta must hold distributions [annotators, {K}, {K}], got shape {confusion.shape}")
    W = len(confusion)
    observed = (posterior @ confusion.transpose(1, 0, 2).reshape(K, W * K)).reshape(n, W, K)
    noise = posterior @ entr(confusion).sum(axis=2).T
    return np.asarray(np.maximum(entr(observed).sum(axis=2) - noise, 0.0))  # rounding may leave −1e-16


def pair_gain(
    difference: npt.ArrayLike,
    variance: npt.ArrayLike | None = None,
    *,
    objective: Objective | str = Objective.STRENGTH,
) -> FloatArray:
    """What a vote on each pair would gain: [n] ≥ 0. The unit depends on the objective; compare within one.

    With v = xᵀΣx and h = p(1−p), p = σ(difference): strength is ½ log(1 + h v), the growth of ½ log det Σ⁻¹;
    order is Φ(−|difference| / √v) h v, the same weighed by the chance that the order is wrong; bald is
    H(mean p) − mean H(p).

    Args:
        difference: logits between the two of a pair: [n] of the estimate, or for bald [M, n], a row for each member of
            the ensemble.
        variance: [n] of that difference, from the covariance of the estimate; not for bald.

    Raises:
        ValueError: naming the argument that is malformed.

    Source: Chaloner & Verdinelli 1995 (D-optimality); Houlsby et al. 2011 (BALD).
    """
    aim = check_choice(objective, Objective, name="objective")
    d = as_numbers(difference, name="difference")
    if d.ndim != (2 if aim is Objective.BALD else 1) or not np.all(np.isfinite(d)):
        shape = "[members, n]" if aim is Objective.BALD else "[n]"
        raise ValueError(f"difference must hold finite logits {shape} for {aim}, got shape {d.shape}")
    p = expit(d)
    if aim is Objective.BALD:
        if variance is not None or not len(d):
            raise ValueError("difference must have a member or more, and variance is not for bald")
        return np.asarray(np.maximum(_binary_entropy(p.mean(axis=0)) - _binary_entropy(p).mean(axis=0), 0.0))
    v = np.empty(0) if variance is None else as_numbers(variance, name="variance")
    if v.shape != d.shape or not np.all(np.isfinite(v)) or np.any(v < 0):
        raise ValueError(f"variance must hold {len(d)} finite numbers that are not negative, got shape {v.shape}")
    information: FloatArray = p * (1 - p) * v
    match aim:
        case Objective.STRENGTH:
            return np.asarray(0.5 * np.log1p(information))
        case Objective.ORDER:
            certain = v == 0
            distance = np.abs(d) / np.sqrt(np.where(certain, 1.0, v))
            return np.where(certain, 0.0, ndtr(-distance)) * information
        case _ as never:
            assert_never(never)


def select_pairs(
    x: npt.ArrayLike,
    *,
    mean: npt.ArrayLike,
    cov: npt.ArrayLike,
    size: int,
    objective: Objective | str = Objective.STRENGTH,
    explore: float = 0.1,
    room: npt.ArrayLike | None = None,
    rng: int | np.random.Generator,
) -> Selection:
    """A batch of pairs: some drawn uniformly, the others one after the other by the greatest gain.

    After each choice the covariance is what it will be once that vote is in, Σ ← Σ − hΣxxᵀΣ/(1 + h xᵀΣx): a batch
    does not ask the same thing many times. Equal gains are decided by lot. O(n d²) once, then O(n d) a choice.

    Args:
        x: [n, d] contrasts: e_i − e_j between systems, or the difference of the features of two completions.
        mean: [d] strengths or reward weights, in logits; cov: [d, d] of them.
        size: choices; fewer come back where there is no room for them.
        objective: strength or order.
        explore: share of the batch that is drawn uniformly, each candidate as often as it has room; a fraction of a
            choice is drawn.
        room: [n] how often each candidate may be chosen; None: once.
        rng: seed or generator.

    Raises:
        ValueError: naming the argument that is malformed.

    Source: Sherman & Morrison 1950 for the update; Nemhauser, Wolsey & Fisher 1978 for the greedy batch.
    """
    contrasts, strengths, covariance = _check_model(x, mean, cov)
    aim = check_choice(objective, Objective, name="objective")
    if aim is Objective.BALD:
        raise ValueError("objective must be strength or order here; rank an ensemble by select_top")
    generator = np.random.default_rng(rng)
    left = _check_room(room, length=len(contrasts))
    drawn = _draw(left, size=check_size(size, name="size"), explore=explore, generator=generator)
    lot = generator.permutation(len(contrasts))
    chosen = _greedy(contrasts, contrasts @ strengths, covariance, drawn, left, lot, size=size, aim=aim)
    return Selection(index=np.array(chosen, dtype=np.int64), explored=np.arange(len(chosen)) < len(drawn))


def _greedy(
    contrasts: FloatArray,
    difference: FloatArray,
    covariance: FloatArray,
    drawn: IntArray,
    room: IntArray,
    lot: IntArray,
    *,
    size: int,
    aim: Objective,
) -> list[int]:
    """The drawn candidates and, up to `size`, those of greatest gain after them; `lot` [n] decides equal gains."""
    p = expit(difference)
    h = p * (1 - p)
    variance = np.einsum("nd,de,ne->n", contrasts, covariance, contrasts)
    chosen: list[int] = drawn.tolist()
    left = room - np.bincount(drawn, minlength=len(room))
    for turn in range(min(size, int(room.sum()))):
        if turn >= len(drawn):
            gain = np.where(left > 0, pair_gain(difference, np.maximum(variance, 0.0), objective=aim), -1.0)
            chosen.append(int(lot[np.argmax(gain[lot])]))
            left[chosen[-1]] -= 1
        pick = chosen[turn]
        direction = covariance @ contrasts[pick]
        shrink = h[pick] / (1 + h[pick] * max(float(variance[pick]), 0.0))
        variance = variance - shrink * (contrasts @ direction) ** 2
        covariance = covariance - shrink * np.outer(direction, direction)
    return chosen


def select_top(gain: npt.ArrayLike, *, size: int, explore: float = 0.1, rng: int | np.random.Generator) -> Selection:
    """A batch of pairs by a gain that is what it is, such as an ensemble's disagreement, beside a uniform draw.

    Args:
        gain: [n] of `pair_gain`. size, explore, rng: as in `select_pairs`.

    Raises:
        ValueError: naming the argument that is malformed.
    """
    gains = as_numbers(gain, name="gain")
    if gains.ndim != 1 or not np.all(np.isfinite(gains)):
        raise ValueError(f"gain must hold finite numbers [n], got shape {gains.shape}")
    generator = np.random.default_rng(rng)
    room = np.ones(len(gains), dtype=np.int64)
    drawn = _draw(room, size=check_size(size, name="size"), explore=explore, generator=generator)
    lot = generator.permutation(len(gains))
    best = lot[np.argsort(-gains[lot], kind="stable")]
    best = best[~np.isin(best, drawn)][: max(0, size - len(drawn))]
    return Selection(
        index=np.concatenate([drawn, best]).astype(np.int64), explored=np.arange(len(drawn) + len(best)) < len(drawn)
    )


def _draw(room: IntArray, *, size: int, explore: float, generator: np.random.Generator) -> IntArray:
    """The uniform part of a batch: places with room, without replacement."""
    if not 0 <= explore <= 1:
        raise ValueError(f"explore must lie in 0..1, got {explore}")
    total = int(room.sum())
    wanted = explore * min(size, total)
    count = math.floor(wanted + 1e-9)
    count += int(generator.random() < wanted - count)
    places = generator.choice(total, size=count, replace=False)
    return np.searchsorted(np.cumsum(room), places, side="right").astype(np.int64)


def _check_model(
    x: npt.ArrayLike, mean: npt.ArrayLike, cov: npt.ArrayLike
) -> tuple[FloatArray, FloatArray, FloatArray]:
    contrasts = as_numbers(x, name="x")
    strengths, covariance = as_numbers(mean, name="mean"), as_numbers(cov, name="cov")
    if contrasts.ndim != 2:
        raise ValueError(f"x must have shape (pairs, dimensions), got {contrasts.shape}")
    d = contrasts.shape[1]
    for name, array, shape in (("mean", strengths, (d,)), ("cov", covariance, (d, d))):
        if array.shape != shape:
            raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    for name, array in (("x", contrasts), ("mean", strengths), ("cov", covariance)):
        if not np.all(np.isfinite(array)):
            raise ValueError(f"{name} must be finite")
    return contrasts, strengths, covariance


def _check_room(room: npt.ArrayLike | None, *, length: int) -> IntArray:
    if room is None:
        return np.ones(length, dtype=np.int64)
    times = check_codes(room, name="room", length=length)
    if np.any(times < 0):
        raise ValueError(f"room must not be negative, got {times.min()}")
    return times.copy()


def _are_distributions(array: FloatArray) -> bool:
    """Whether every last axis is a distribution."""
    return bool(np.all(array >= 0) and np.allclose(array.sum(axis=-1), 1, rtol=0, atol=1e-6))


def _binary_entropy(p: FloatArray) -> FloatArray:
    return np.asarray(entr(p) + entr(1 - p))


# --- planning: how much to ask for ------------------------------------------------------------------------------------


def votes_for_win_rate(win_rate: float, *, power: float = 0.8, level: float = LEVEL) -> int:
    """Decisive votes by which a two-sided test tells this win rate from ½.

    (z_{(1+level)/2} + z_power)² ¼ / (p − ½)²: 7.849 ¼ / (p − ½)² at 80 % power and 5 %.

    Args:
        win_rate: in (0, 1), not ½. power, level: in (0, 1).
    """
    rate = _check_inside("win_rate", win_rate)
    if rate == 0.5:
        raise ValueError("win_rate must not be 0.5: no number of votes tells that from a half")
    quantiles = _two_sided(level) + float(ndtri(_check_inside("power", power)))
    return math.ceil(quantiles**2 * 0.25 / (rate - 0.5) ** 2)


def items_for_accuracy(accuracy: float, *, half_width: float, level: float = LEVEL) -> int:
    """Independent items by which an accuracy is known to ± half_width: z² p(1−p)/h².

    Args:
        accuracy, half_width: in (0, 1).
    """
    p, h = _check_inside("accuracy", accuracy), _check_inside("half_width", half_width)
    return math.ceil(_two_sided(level) ** 2 * p * (1 - p) / h**2)


def votes_for_bt_se(se: float, *, n_systems: int, mean_variance: float = 0.25) -> int:
    """Votes, evenly over all pairs of systems, by which SE(s_i − s_j) is `se`: (C−1) / (mean p(1−p) se²).

    Solves SE = 2√((C−1)/N) · ½/√mean p(1−p), the inverse of the information of a complete and balanced design.

    Args:
        se: in logits, above 0 (173.718 Elo points are a logit).
        mean_variance: mean of p(1−p) over the pairs, in (0, ¼]; ¼ where all are equally strong.
    """
    C = check_size(n_systems, name="n_systems", at_least=2)
    if not (math.isfinite(se) and se > 0):
        raise ValueError(f"se must be finite and above 0, got {se}")
    if not 0 < mean_variance <= 0.25:
        raise ValueError(f"mean_variance must be above 0 and at most 0.25, got {mean_variance}")
    return math.ceil((C - 1) / (mean_variance * se**2))


def groups_for_half_width(n_groups: int, *, half_width: float, wanted: float) -> int:
    """Prompt groups by which an interval that had `half_width` with `n_groups` has the wanted one: ∝ 1/√G."""
    for name, value in (("half_width", half_width), ("wanted", wanted)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be finite and above 0, got {value}")
    return math.ceil(check_size(n_groups, name="n_groups", at_least=1) * (half_width / wanted) ** 2)


def design_effect(items_per_group: float, *, icc: float) -> float:
    """By how much more items are needed where those of a group resemble each other: 1 + (m−1)ρ.

    Args:
        items_per_group: m ≥ 1, the mean. icc: ρ, their correlation within a group, in 0..1.

    Source: Kish 1965.
    """
    if not (math.isfinite(items_per_group) and items_per_group >= 1):
        raise ValueError(f"items_per_group must be finite and at least 1, got {items_per_group}")
    if not 0 <= icc <= 1:
        raise ValueError(f"icc must lie in 0..1, got {icc}")
    return 1 + (items_per_group - 1) * icc


def _check_inside(name: str, value: float) -> float:
    if not 0 < value < 1:
        raise ValueError(f"{name} must be above 0 and below 1, got {value}")
    return value


def _two_sided(level: float) -> float:
    return float(ndtri((1 + _check_inside("level", level)) / 2))
