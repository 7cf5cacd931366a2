"""Agreement between annotators, from vote counts: O(V) to count, O(n·K²) after that.

Pure functions of C [n, K], the votes for each class on each item, at most one vote per annotator and item. Every
coefficient comes with an interval clustered by group (`estimates.jackknife`): pass the prompt group of each item as
`group`, else each item counts as independent. Show P_a, α and AC1 together with the class
shares: where one class prevails κ and α collapse and AC1 does not. No verbal scale is given here on purpose.

Shapes: V votes, n items, K classes, G groups.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt

from annotation.statistics.aggregation import vote_counts
from annotation.statistics.estimates import (
    BoolArray,
    Estimate,
    FloatArray,
    IntArray,
    Reason,
    check_codes,
    check_counts,
    check_size,
    group_totals,
    interval,
    jackknife,
    missing,
    ratio,
)

Weights = Literal["identity", "linear", "quadratic", "ordinal"] | FloatArray
Level = Literal["nominal", "ordinal", "interval", "ratio"]

SHARE = (0.0, 1.0)
COEFFICIENT = (-1.0, 1.0)


def single_votes(
    item: npt.ArrayLike,
    annotator: npt.ArrayLike,
    label: npt.ArrayLike,
    *,
    n_items: int,
    n_annotators: int,
    K: int,
    repeats: Literal["last"] | None = None,
) -> FloatArray:
    """`vote_counts` of votes of which each annotator has at most one per item, as agreement needs.

    Args:
        repeats: "last" keeps an annotator's last vote on an item (in the order given).

    Raises:
        ValueError: if an annotator voted twice on an item and `repeats` is None.
    """
    n_items = check_size(n_items, name="n_items")
    n_annotators = check_size(n_annotators, name="n_annotators")
    items = check_codes(item, name="item", size=n_items)
    annotators = check_codes(annotator, name="annotator", size=n_annotators, length=len(items))
    labels = check_codes(label, name="label", length=len(items))
    if repeats not in (None, "last"):
        raise ValueError(f'repeats must be "last" or None, got {repeats!r}')
    # The last of equal keys is the first one in reverse.
    _, first = np.unique((items * n_annotators + annotators)[::-1], return_index=True)
    if len(first) < len(items) and repeats is None:
        raise ValueError('annotator has more than one vote on an item: pass repeats="last" or leave the repeats out')
    kept = len(items) - 1 - first
    return vote_counts(items[kept], labels[kept], n_items=n_items, K=K)


def percent_agreement(
    counts: npt.ArrayLike,
    *,
    weights: Weights = "identity",
    values: npt.ArrayLike | None = None,
    group: npt.ArrayLike | None = None,
) -> Estimate:
    """P_a: how often two votes on the same item agree, averaged over items with two votes or more.

    Args:
        weights: credit for near agreement: a name, or a matrix [K, K] with ones on the diagonal.
        values: numbers of the classes for "linear" and "quadratic", default 0..K−1.
        group: [n] integers; intervals are clustered by it.
    """
    c, groups = _checked(counts, group)
    w = agreement_weights(weights, K=c.shape[1], values=values)
    return _mean_over_items(_pair_agreement(c, w), keep=c.sum(axis=1) >= 2, group=groups)


def unanimous_share(counts: npt.ArrayLike, *, group: npt.ArrayLike | None = None) -> Estimate:
    """Share of the items with two votes or more whose votes are all equal."""
    c, groups = _checked(counts, group)
    votes = c.sum(axis=1)
    return _mean_over_items((c.max(axis=1) == votes).astype(np.float64), keep=votes >= 2, group=groups)


def cohen_kappa(table: npt.ArrayLike, *, weights: Weights = "identity") -> Estimate:
    """Cohen's κ = (p_o − p_e)/(1 − p_e) of two annotators, with the analytic standard error: items are independent.

    Args:
        table: [K, K] items by the class that the first and the second annotator gave.
        weights: credit for near agreement, as in `percent_agreement`; not "identity" is weighted κ.

    Source: Cohen 1960, 1968; Fleiss, Cohen & Everitt 1969.
    """
    counts = check_counts(table, whole=True)
    K, n = counts.shape[1], float(counts.sum())
    if counts.shape[0] != K:
        raise ValueError(f"table must be square, got {counts.shape}")
    if n == 0:
        return missing(Reason.NO_OVERLAP, method="analytic")
    w = agreement_weights(weights, K=K)
    p = counts / n
    first, second = p.sum(axis=1), p.sum(axis=0)
    observed, chance = float(np.sum(w * p)), float(first @ w @ second)
    if 1 - chance < 1e-12:
        return missing(Reason.ONE_CLASS, method="analytic", n=int(n), n_groups=int(n))
    kappa = (observed - chance) / (1 - chance)
    if n < 2:
        return Estimate(value=kappa, method="analytic", n=1, n_groups=1, reason=Reason.TOO_FEW_GROUPS)
    near = (w @ second)[:, None] + (w.T @ first)[None, :]
    spread = float(np.sum(p * (w - near * (1 - kappa)) ** 2)) - (kappa - chance * (1 - kappa)) ** 2
    se = math.sqrt(max(0.0, spread) / n) / (1 - chance)
    low, high, warnings = interval(kappa, se=se, df=int(n) - 1, bounds=COEFFICIENT)
    return Estimate(
        value=kappa, se=se, low=low, high=high, method="analytic", n=int(n), n_groups=int(n), warnings=warnings
    )


def fleiss_kappa(counts: npt.ArrayLike, *, group: npt.ArrayLike | None = None) -> Estimate:
    """Fleiss' κ = (P_a − p_e)/(1 − p_e), p_e = Σ p_k², with class shares p_k from all items with a vote.

    Source: Fleiss 1971; unequal numbers of votes after Gwet 2014.
    """
    c, groups = _checked(counts, group)

    def kappa(totals: FloatArray) -> FloatArray:  # [R, 3 + K] → [R]
        agreement, shares = _agreement_and_shares(totals)
        chance = np.sum(shares**2, axis=-1)
        return ratio(agreement - chance, 1 - chance)

    return _chance_corrected(c, np.eye(c.shape[1]), kappa, group=groups)


def gwet_ac(
    counts: npt.ArrayLike,
    *,
    weights: Weights = "identity",
    values: npt.ArrayLike | None = None,
    group: npt.ArrayLike | None = None,
) -> Estimate:
    """Gwet's AC1 (identity weights) or AC2: (P_a − p_e)/(1 − p_e), p_e = T/(K(K−1)) Σ π_k(1 − π_k), T = Σ w_kl.

    Without `group` the standard error is Gwet's own, with t_{n−1} over all items with a vote; with it, the jackknife.

    Source: Gwet 2008 (AC1), 2014 (AC2, missing votes).
    """
    c, groups = _checked(counts, group)
    K = c.shape[1]
    w = agreement_weights(weights, K=K, values=values)
    scale = float(w.sum()) / (K * (K - 1))

    def coefficient(totals: FloatArray) -> FloatArray:  # [R, 3 + K] → [R]
        agreement, shares = _agreement_and_shares(totals)
        chance = scale * np.sum(shares * (1 - shares), axis=-1)
        return ratio(agreement - chance, 1 - chance)

    estimate = _chance_corrected(c, w, coefficient, group=groups)
    if groups is not None or estimate.value is None or estimate.n < 2:
        return estimate
    return _gwet_analytic(c, w, value=estimate.value, scale=scale)


def krippendorff_alpha(
    counts: npt.ArrayLike,
    *,
    level: Level = "nominal",
    values: npt.ArrayLike | None = None,
    group: npt.ArrayLike | None = None,
) -> Estimate:
    """Krippendorff's α = 1 − observed/expected disagreement, over items with two votes or more.

    o_kl = Σ_i C_ik(C_il − [k=l])/(n_i−1), m_k = Σ_l o_kl, M = Σ m; α = 1 − (M−1) Σ o_kl δ²_kl / Σ m_k m_l δ²_kl.
    δ²: nominal [k≠l]; interval (v_k−v_l)²; ratio ((v_k−v_l)/(v_k+v_l))²; ordinal (Σ_{g=k..l} m_g − (m_k+m_l)/2)²,
    which is the squared distance of mid-ranks.

    Args:
        values: numbers of the classes for "interval" and "ratio", default 0..K−1; not negative for "ratio".
        group: [n] integers; intervals are clustered by it.

    Source: Krippendorff 2011.
    """
    c, groups = _checked(counts, group)
    votes = c.sum(axis=1)
    paired = votes >= 2
    if not paired.any():
        return missing(Reason.NO_OVERLAP)
    c, votes = c[paired], votes[paired]
    K = c.shape[1]
    statistic: Callable[[FloatArray], FloatArray]
    if level == "ordinal":
        pairs = (c[:, :, None] * c[:, None, :] - c[:, :, None] * np.eye(K)) / (votes - 1)[:, None, None]
        per_item, statistic = pairs.reshape(len(c), K * K), _ordinal_alpha
    else:
        distance = _squared_distance(level, K=K, values=values)
        # The diagonal of δ² is 0, so [k=l] drops out; and m_k is Σ_i C_ik.
        disagreement = np.sum((c @ distance) * c, axis=1) / (votes - 1)
        per_item, statistic = np.column_stack([disagreement, c]), _alpha_with(distance)
    totals = group_totals(per_item, None if groups is None else groups[paired])
    return jackknife(totals, statistic, n=len(c), bounds=COEFFICIENT, undefined=Reason.ONE_CLASS)


def agreement_weights(weights: Weights, *, K: int, values: npt.ArrayLike | None = None) -> FloatArray:
    """w_kl, the credit for one vote k and one vote l: [K, K], 1 on the diagonal.

    linear 1−|v_k−v_l|/range; quadratic 1−(v_k−v_l)²/range²; ordinal 1 − binom(|k−l|+1, 2)/binom(K, 2) (Gwet 2014).
    """
    if not isinstance(weights, str):
        matrix = np.asarray(weights, dtype=np.float64)
        if matrix.shape != (K, K) or not np.all(np.isfinite(matrix)) or not np.allclose(matrix, matrix.T):
            raise ValueError(f"weights must be a finite symmetric matrix of shape ({K}, {K})")
        if np.any(matrix < 0) or np.any(matrix > 1) or np.any(np.diag(matrix) != 1):
            raise ValueError("weights must lie in 0..1, with 1 on the diagonal")
        return matrix
    position = np.arange(K, dtype=np.float64)
    steps: FloatArray = np.abs(position[:, None] - position[None, :])
    if weights == "identity":
        return np.eye(K)
    if weights == "ordinal":
        return 1 - steps * (steps + 1) / (K * (K - 1))
    if weights not in ("linear", "quadratic"):
        raise ValueError(f"weights must be identity, linear, quadratic, ordinal or a matrix, got {weights!r}")
    v = _class_values(values, K=K)
    distance: FloatArray = np.abs(v[:, None] - v[None, :]) / (v[-1] - v[0])
    return 1 - (distance if weights == "linear" else distance**2)


def _checked(counts: npt.ArrayLike, group: npt.ArrayLike | None) -> tuple[FloatArray, IntArray | None]:
    c = check_counts(counts, whole=True)
    return c, None if group is None else check_codes(group, name="group", length=len(c))


def _class_values(values: npt.ArrayLike | None, *, K: int) -> FloatArray:
    v = np.arange(K, dtype=np.float64) if values is None else np.asarray(values, dtype=np.float64)
    if v.shape != (K,) or not np.all(np.isfinite(v)) or np.any(np.diff(v) <= 0):
        raise ValueError(f"values must be {K} finite ascending numbers, got {v}")
    return v


def _pair_agreement(c: FloatArray, weights: FloatArray) -> FloatArray:
    """Weighted share of agreeing pairs of votes of each item: [n]; 0 where there is no pair."""
    votes = c.sum(axis=1)
    # Σ_k C_k((Cw)_k − 1) is Σ_k C_k (Cw)_k − n_i.
    agreeing: FloatArray = np.sum(c * (c @ weights), axis=1) - votes
    return agreeing / np.where(votes >= 2, votes * (votes - 1), np.inf)


def _mean_over_items(x: FloatArray, *, keep: BoolArray, group: IntArray | None) -> Estimate:
    """Mean of x over the items to keep, with its interval over groups."""
    if not keep.any():
        return missing(Reason.NO_OVERLAP)
    per_item = np.column_stack([x[keep], np.ones(int(keep.sum()))])
    return jackknife(
        group_totals(per_item, None if group is None else group[keep]),
        lambda totals: ratio(totals[:, 0], totals[:, 1]),
        n=len(per_item),
        bounds=SHARE,
        undefined=Reason.NO_OVERLAP,
    )


def _chance_corrected(
    c: FloatArray, weights: FloatArray, statistic: Callable[[FloatArray], FloatArray], *, group: IntArray | None
) -> Estimate:
    """Jackknife of a function of (Σ agreement, items with a pair, items with a vote, Σ class shares): [G, 3 + K]."""
    votes = c.sum(axis=1)
    if not np.any(votes >= 2):
        return missing(Reason.NO_OVERLAP)
    voted = votes >= 1
    c, votes = c[voted], votes[voted]
    per_item = np.column_stack([_pair_agreement(c, weights), votes >= 2, np.ones(len(c)), c / votes[:, None]])
    totals = group_totals(per_item, None if group is None else group[voted])
    return jackknife(totals, statistic, n=len(c), bounds=COEFFICIENT, undefined=Reason.ONE_CLASS)


def _agreement_and_shares(totals: FloatArray) -> tuple[FloatArray, FloatArray]:
    """P_a [R] and class shares [R, K] from the totals of `_chance_corrected`."""
    return ratio(totals[:, 0], totals[:, 1]), totals[:, 3:] / totals[:, 2:3]


def _gwet_analytic(c: FloatArray, weights: FloatArray, *, value: float, scale: float) -> Estimate:
    """AC1 or AC2 with Gwet's standard error; assumes that the value exists and that two items have votes."""
    c = c[c.sum(axis=1) >= 1]
    votes = c.sum(axis=1)
    n, paired = len(c), votes >= 2
    share = c / votes[:, None]
    mean_share = share.mean(axis=0)
    chance = scale * float(np.sum(mean_share * (1 - mean_share)))
    item_chance = scale * (share @ (1 - mean_share))
    item_value = n / paired.sum() * (_pair_agreement(c, weights) - chance * paired) / (1 - chance)
    corrected = item_value - 2 * (1 - value) * (item_chance - chance) / (1 - chance)
    se = math.sqrt(float(np.sum((corrected - value) ** 2)) / (n * (n - 1)))
    low, high, warnings = interval(value, se=se, df=n - 1, bounds=COEFFICIENT)
    return Estimate(value=value, se=se, low=low, high=high, method="analytic", n=n, n_groups=n, warnings=warnings)


def _squared_distance(level: Level, *, K: int, values: npt.ArrayLike | None) -> FloatArray:
    """δ² [K, K] of the levels at which it does not depend on the votes."""
    if level == "nominal":
        return 1 - np.eye(K)
    if level not in ("interval", "ratio"):
        raise ValueError(f"level must be nominal, ordinal, interval or ratio, got {level!r}")
    v = _class_values(values, K=K)
    difference = v[:, None] - v[None, :]
    if level == "interval":
        return difference**2
    if v[0] < 0:
        raise ValueError(f"values must not be negative at the ratio level, got {v[0]}")
    total = v[:, None] + v[None, :]
    return (difference / np.where(total > 0, total, 1.0)) ** 2


def _alpha_with(distance: FloatArray) -> Callable[[FloatArray], FloatArray]:
    """α of the totals (Σ disagreement, m_1 … m_K) for a fixed δ²."""

    def alpha(totals: FloatArray) -> FloatArray:  # [R, 1 + K] → [R]
        m = totals[:, 1:]
        expected: FloatArray = np.sum((m @ distance) * m, axis=1)
        votes: FloatArray = m.sum(axis=1)
        return 1 - (votes - 1) * ratio(totals[:, 0], expected)

    return alpha


def _ordinal_alpha(totals: FloatArray) -> FloatArray:  # [R, K²] → [R]
    """α of the coincidences o_kl with δ_kl the distance of mid-ranks, which the left-out group moves too."""
    K = math.isqrt(totals.shape[1])
    pairs = totals.reshape(-1, K, K)
    m: FloatArray = np.rint(pairs.sum(axis=2))  # m_k is a number of votes: rounding makes an empty class exactly empty
    rank = np.cumsum(m, axis=1) - m / 2
    distance = (rank[:, :, None] - rank[:, None, :]) ** 2
    observed = np.sum(pairs * distance, axis=(1, 2))
    expected = np.sum(m[:, :, None] * m[:, None, :] * distance, axis=(1, 2))
    votes: FloatArray = m.sum(axis=1)
    return 1 - (votes - 1) * ratio(observed, expected)
