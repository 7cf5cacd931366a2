"""Agreement between annotators, from vote counts: O(V) to count, O(n·K²) after that.

Pure functions of C [n, K], the votes for each class on each item, at most one vote per annotator and item; κ of two
annotators is from tables [K, K]. Every coefficient comes with an interval clustered by group (`estimates.jackknife`):
pass the prompt group of each item as `group`, else each item counts as independent. `method="bootstrap"` with an `rng`
gives the percentile interval instead. Show P_a, α and AC1 together with the class shares: where one class prevails κ
and α collapse and AC1 does not. No verbal scale is given here on purpose. The module is long since all
coefficients share the weights, the sums and the intervals.

Shapes: V votes, n items, K classes, G groups, W annotators; R rows of totals, P pairs of annotators.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import poch

from annotation.statistics.estimates import (
    BoolArray,
    Estimate,
    FloatArray,
    IntArray,
    Reason,
    as_numbers,
    bootstrap,
    check_codes,
    check_counts,
    check_numbers,
    check_size,
    check_sizes,
    check_votes,
    group_totals,
    interval,
    jackknife,
    missing,
    ratio,
    row_sums,
    transformed,
)

Weights = Literal["identity", "linear", "quadratic", "ordinal"] | FloatArray
Level = Literal["nominal", "ordinal", "interval", "ratio"]
Method = Literal["jackknife", "bootstrap"]
Statistic = Callable[[FloatArray], FloatArray]  # from totals [R, m] to [R], NaN where it does not exist

SHARE = (0.0, 1.0)
COEFFICIENT = (-1.0, 1.0)
AT_MOST_ONE = (-math.inf, 1.0)  # with weights, and with items of one vote, chance agreement may be close to 1


@dataclass(frozen=True, kw_only=True, slots=True)
class KappaMatrix:
    """Cohen's κ of every pair of annotators; symmetric.

    Attributes:
        kappa: [W, W]; NaN where `reason` is not 0.
        se: [W, W] analytic standard error: items are independent; NaN where `reason` is not 0.
        n_common: [W, W] items on which both voted; on the diagonal, on which the annotator did.
        reason: [W, W] 0, or the number of `no_overlap`, `too_few_common` or `one_class`; on the diagonal of
            `one_annotator`, since nobody is compared with themselves.
    """

    kappa: FloatArray
    se: FloatArray
    n_common: IntArray
    reason: IntArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Ceiling:
    """How often the best possible model can agree with single votes.

    Attributes:
        ceiling: if the share of people who prefer a is Beta(a, a) over items. The number to show.
        upper: the most that any distribution of items allows.
    """

    ceiling: Estimate
    upper: Estimate


def last_votes(
    items: IntArray, annotators: IntArray, *, n_annotators: int, repeats: Literal["last"] | None
) -> IntArray | slice:
    """Which votes to keep so that each annotator has at most one per item, as agreement needs.

    Args:
        repeats: "last" keeps an annotator's last vote on an item (in the order given).

    Raises:
        ValueError: if an annotator voted twice on an item and `repeats` is None.
    """
    if repeats not in (None, "last"):
        raise ValueError(f'repeats must be "last" or None, got {repeats!r}')
    keys = items * n_annotators + annotators
    ordered = np.sort(keys)
    if not np.any(ordered[1:] == ordered[:-1]):
        return slice(None)
    if repeats is None:
        raise ValueError('annotator has more than one vote on an item: pass repeats="last" or leave the repeats out')
    # The last of equal keys is the first one in reverse.
    return np.asarray(len(keys) - 1 - np.unique(keys[::-1], return_index=True)[1])


def percent_agreement(
    counts: npt.ArrayLike,
    *,
    weights: Weights = "identity",
    values: npt.ArrayLike | None = None,
    group: npt.ArrayLike | None = None,
    method: Method = "jackknife",
    rng: int | np.random.Generator | None = None,
) -> Estimate:
    """P_a: how often two votes on the same item agree, averaged over items with two votes or more.

    Args:
        weights: credit for near agreement: a name, or a matrix [K, K] with ones on the diagonal.
        values: numbers of the classes for "linear" and "quadratic", default 0..K−1.
        group: [n] integers; intervals are clustered by it.
        method, rng: of the interval; "bootstrap" needs a seed or generator.
    """
    c, spread = _checked(counts, group, method, rng)
    w = agreement_weights(weights, K=c.shape[1], values=values)
    return _mean_over_items(c, _pair_agreement(c, w), spread)


def unanimous_share(counts: npt.ArrayLike, *, group: npt.ArrayLike | None = None) -> Estimate:
    """Share of the items with two votes or more whose votes are all equal."""
    c, spread = _checked(counts, group)
    return _mean_over_items(c, (c.max(axis=1) == row_sums(c)).astype(np.float64), spread)


def cohen_kappa(
    first: npt.ArrayLike,
    second: npt.ArrayLike | None = None,
    *,
    K: int | None = None,
    weights: Weights = "identity",
    group: npt.ArrayLike | None = None,
) -> Estimate:
    """Cohen's κ = (p_o − p_e)/(1 − p_e) of two annotators on the items that both labelled.

    The standard error is the analytic one where every item is its own group, else the jackknife's.

    Args:
        first: [n] classes that the first annotator gave, or, without `second`, the table [K, K] of items by the class
            that the first and the second gave.
        second: [n] classes that the second annotator gave. K: classes offered; needed with label arrays.
        weights: credit for near agreement, as in `percent_agreement`; not "identity" is weighted κ.
        group: [n] integers, with label arrays only; intervals are clustered by it.

    Source: Cohen 1960, 1968; Fleiss, Cohen & Everitt 1969.
    """
    if second is None:
        if group is not None:
            raise ValueError("group needs the labels of single items, not a table")
        table = check_counts(first, whole=True)
        if table.shape[0] != table.shape[1]:
            raise ValueError(f"table must be square, got {table.shape}")
        return _analytic_kappa(table, agreement_weights(weights, K=len(table)))
    if K is None:
        raise ValueError("K must be given with the labels of two annotators")
    size = check_size(K, name="K", at_least=2)
    rows = check_codes(first, name="first", size=size)
    columns = check_codes(second, name="second", size=size, length=len(rows))
    w = agreement_weights(weights, K=size)
    if group is not None:
        codes = np.unique(check_codes(group, name="group", length=len(rows)), return_inverse=True)[1]
        G = int(codes.max(initial=-1)) + 1
        if len(rows) > G:
            return jackknife(
                _kappa_sums(rows, columns, codes, w, G=G),
                lambda totals: _kappa_of_sums(totals, w),
                n=len(rows),
                bounds=_bounds(w),
                undefined=Reason.ONE_CLASS,
            )
    table = np.bincount(rows * size + columns, minlength=size**2).reshape(size, size).astype(np.float64)
    return _analytic_kappa(table, w)


def _bounds(weights: FloatArray) -> tuple[float, float]:
    """Range of κ and of Gwet's coefficient with weights [K, K]."""
    return COEFFICIENT if np.array_equal(weights, np.eye(len(weights))) else AT_MOST_ONE


def _kappa_sums(rows: IntArray, columns: IntArray, group: IntArray, weights: FloatArray, *, G: int) -> FloatArray:
    """Of each group the credit, and the items by the first and by the second class: [G, 1 + 2K]; never a table each."""
    K = len(weights)
    credit = np.bincount(group, weights=weights[rows, columns], minlength=G)
    by_class = [np.bincount(group * K + labels, minlength=G * K).reshape(G, K) for labels in (rows, columns)]
    return np.column_stack([credit, *by_class])


def _kappa_of_sums(totals: FloatArray, weights: FloatArray) -> FloatArray:
    """κ [R] of totals of `_kappa_sums`."""
    K = len(weights)
    first, second = totals[:, 1 : K + 1], totals[:, K + 1 :]
    n = row_sums(first)
    chance = ratio(row_sums((first @ weights) * second), n**2)
    return ratio(ratio(totals[:, 0], n) - chance, 1 - chance)


def kappa_matrix(
    item: npt.ArrayLike,
    annotator: npt.ArrayLike,
    label: npt.ArrayLike,
    *,
    n_items: int,
    n_annotators: int,
    K: int,
    weights: Weights = "identity",
    min_common: int = 20,
    repeats: Literal["last"] | None = None,
) -> KappaMatrix:
    """`cohen_kappa` of all pairs of annotators at once. O(Σ n_i²) and O(K²W²).

    Args:
        item, annotator, label: [V] codes from 0. repeats: as in `last_votes`.
        min_common: pairs with fewer common items have no κ (`too_few_common`); at least 2.
    """
    n_items, n_annotators, K = check_sizes(n_items, n_annotators, K)
    items, people, labels = check_votes(item, annotator, label, n_items=n_items, n_annotators=n_annotators, K=K)
    kept = last_votes(items, people, n_annotators=n_annotators, repeats=repeats)
    items, people, labels = items[kept], people[kept], labels[kept]
    w = agreement_weights(weights, K=K)
    pair, cell = _meetings(items, people, labels, n_items=n_items, n_annotators=n_annotators, K=K)
    upper = np.bincount(pair, minlength=n_annotators**2)
    often = upper >= check_size(min_common, name="min_common", at_least=2)
    i, j = np.divmod(np.flatnonzero(often), n_annotators)
    counted = slice(None) if often[upper > 0].all() else often[pair]
    position = cell[counted] * len(i) + (np.cumsum(often) - 1)[pair[counted]]
    cells = np.bincount(position, minlength=K * K * len(i)).reshape(K, K, len(i)).astype(np.float64)
    common = upper.reshape(n_annotators, n_annotators)
    common += common.T + np.diag(np.bincount(people, minlength=n_annotators))
    reason = np.where(common > 0, Reason.TOO_FEW_COMMON.number, Reason.NO_OVERLAP.number)
    np.fill_diagonal(reason, Reason.ONE_ANNOTATOR.number)
    kappa, se = np.full(common.shape, np.nan), np.full(common.shape, np.nan)
    kappa[i, j], se[i, j] = kappas(np.moveaxis(cells, 2, 0), w)
    reason[i, j] = np.where(np.isnan(kappa[i, j]), Reason.ONE_CLASS.number, 0)
    for matrix in (kappa, se, reason):
        matrix[j, i] = matrix[i, j]
    return KappaMatrix(kappa=kappa, se=se, n_common=common, reason=reason)


def _meetings(
    items: IntArray, people: IntArray, labels: IntArray, *, n_items: int, n_annotators: int, K: int
) -> tuple[IntArray, IntArray]:
    """Every meeting of two annotators i < j on an item: i·W + j, and the cell k·K + l of what they said; both [M].

    In the order of items and people each vote meets the next one, the one after that, … of its item: a pass a distance,
    over the votes that still have somebody to meet. A sparse product XᵀX finds the same three times slower.
    """
    ordered = np.sort((items * n_annotators + people) * K + labels)
    rest, label = np.divmod(ordered, K)
    person = rest % n_annotators
    size = np.bincount(items, minlength=n_items)
    end = np.repeat(np.cumsum(size), size)
    meets = np.arange(len(ordered))
    pairs, cells = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
    for distance in range(1, int(size.max(initial=0))):
        meets = meets[meets + distance < end[meets]]
        pairs.append(person[meets] * n_annotators + person[meets + distance])
        cells.append(label[meets] * K + label[meets + distance])
    return np.concatenate(pairs), np.concatenate(cells)


def kappas(tables: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """κ and its analytic standard error of tables [P, K, K] with items in each: [P], [P]; NaN where p_e is 1."""
    cells = np.moveaxis(tables, 0, 2)  # P last: numpy reduces and multiplies long rows many times faster
    n = cells.sum(axis=(0, 1))
    p = cells / n
    first, second = p.sum(axis=1), p.sum(axis=0)
    observed = np.tensordot(weights, p)
    chance = (first * (weights @ second)).sum(axis=0)
    kappa = ratio(observed - chance, 1 - chance)
    near = (weights @ second)[:, None] + (weights @ first)[None, :]
    # The published Σ p x² − [κ − p_e(1−κ)]² is the variance of x; centred, it loses no digits.
    x = weights[:, :, None] - near * (1 - kappa)
    x -= (p * x).sum(axis=(0, 1))
    variance = (p * x**2).sum(axis=(0, 1))
    return kappa, ratio(np.sqrt(variance / n), 1 - chance)


def fleiss_kappa(
    counts: npt.ArrayLike,
    *,
    group: npt.ArrayLike | None = None,
    method: Method = "jackknife",
    rng: int | np.random.Generator | None = None,
) -> Estimate:
    """Fleiss' κ = (P_a − p_e)/(1 − p_e), p_e = Σ p_k², with class shares p_k from all items with a vote.

    Source: Fleiss 1971; unequal numbers of votes after Gwet 2014.
    """
    c, spread = _checked(counts, group, method, rng)

    def kappa(totals: FloatArray) -> FloatArray:  # [R, 3 + K] → [R]
        agreement, shares = _agreement_and_shares(totals)
        chance = row_sums(shares**2)
        return ratio(agreement - chance, 1 - chance)

    return _chance_corrected(c, np.eye(c.shape[1]), kappa, spread, bounds=AT_MOST_ONE)


def gwet_ac(
    counts: npt.ArrayLike,
    *,
    weights: Weights = "identity",
    values: npt.ArrayLike | None = None,
    group: npt.ArrayLike | None = None,
    method: Method = "jackknife",
    rng: int | np.random.Generator | None = None,
) -> Estimate:
    """Gwet's AC1 (identity weights) or AC2: (P_a − p_e)/(1 − p_e), p_e = T/(K(K−1)) Σ π_k(1 − π_k), T = Σ w_kl.

    Without `group` the standard error is Gwet's own, with t_{n−1} over all items with a vote; with it, the jackknife.

    Source: Gwet 2008 (AC1), 2014 (AC2, missing votes).
    """
    c, spread = _checked(counts, group, method, rng)
    K = c.shape[1]
    w = agreement_weights(weights, K=K, values=values)
    scale = float(w.sum()) / (K * (K - 1))

    def coefficient(totals: FloatArray) -> FloatArray:  # [R, 3 + K] → [R]
        agreement, shares = _agreement_and_shares(totals)
        chance = scale * row_sums(shares * (1 - shares))
        return ratio(agreement - chance, 1 - chance)

    estimate = _chance_corrected(c, w, coefficient, spread, bounds=_bounds(w))
    if spread.group is not None or method == "bootstrap" or estimate.value is None or estimate.n < 2:
        return estimate
    return _gwet_analytic(c, w, value=estimate.value, scale=scale)


def krippendorff_alpha(
    counts: npt.ArrayLike,
    *,
    level: Level = "nominal",
    values: npt.ArrayLike | None = None,
    group: npt.ArrayLike | None = None,
    method: Method = "jackknife",
    rng: int | np.random.Generator | None = None,
) -> Estimate:
    """Krippendorff's α = 1 − observed/expected disagreement, over items with two votes or more.

    o_kl = Σ_i C_ik(C_il − [k=l])/(n_i−1), m_k = Σ_l o_kl, M = Σ m; α = 1 − (M−1) Σ o_kl δ²_kl / Σ m_k m_l δ²_kl.
    δ²: nominal [k≠l]; interval (v_k−v_l)²; ratio ((v_k−v_l)/(v_k+v_l))²; ordinal (Σ_{g=k..l} m_g − (m_k+m_l)/2)²,
    which is the squared distance of mid-ranks.

    Args:
        values: numbers of the classes for "interval" and "ratio", default 0..K−1; not negative for "ratio".
        group, method, rng: as in `percent_agreement`.

    Source: Krippendorff 2011.
    """
    every, spread = _checked(counts, group, method, rng)
    paired = row_sums(every) >= 2
    c, K = every[paired], every.shape[1]
    others = row_sums(c) - 1
    statistic: Statistic
    if level == "ordinal":
        pairs = (c[:, :, None] * c[:, None, :] - c[:, :, None] * np.eye(K)) / others[:, None, None]
        per_item, statistic = pairs.reshape(len(c), K * K), _ordinal_alpha
    else:
        distance = _squared_distance(level, K=K, values=values)
        # The diagonal of δ² is 0, so [k=l] drops out; and m_k is Σ_i C_ik.
        disagreement = row_sums((c @ distance) * c) / others
        per_item, statistic = np.column_stack([disagreement, c]), _alpha_with(distance)
    return _estimate(every, per_item, statistic, spread, keep=paired, bounds=COEFFICIENT)


def accuracy_ceiling(agreement: Estimate) -> Ceiling:
    """How often the best possible model would agree with a single vote, given how often two votes agree.

    With p the share of people who choose a on an item, A is the mean of p² + (1−p)² and the best accuracy C that of
    max(p, 1−p), so A ≤ C ≤ (1 + √(2A−1))/2. If p is Beta(a, a), a = (1/(2A−1) − 1)/2, then
    C = ½ + 2^(−2a)/(a·B(a, a)), written here as ½ + Γ(a+½)/(2√π Γ(a+1)), which is exact for all a from 0. Both grow
    with A, so the ends of the interval are those of A's; where that reaches below ½ they stop there (`clipped`).

    Args:
        agreement: P_a on decisive votes of interchangeable annotators.

    Returns:
        Without value where A has none, and with `below_chance` if A < ½.
    """
    if agreement.value is not None and agreement.value < 0.5:
        undefined = missing(Reason.BELOW_CHANCE, method=agreement.method, n=agreement.n, n_groups=agreement.n_groups)
        return Ceiling(ceiling=undefined, upper=undefined)

    def expected(a: float) -> float:
        spread = 2 * a - 1
        return 0.5 if spread <= 0 else 0.5 + 0.5 / (math.sqrt(math.pi) * float(poch(1 / (2 * spread), 0.5)))

    return Ceiling(
        ceiling=transformed(agreement, expected, from_at_least=0.5),
        upper=transformed(agreement, implied_accuracy, from_at_least=0.5),
    )


def implied_accuracy(agreement: float) -> float:
    """Accuracy of two answers, right independently and alike often, that agree with this probability ≥ ½."""
    return (1 + math.sqrt(2 * agreement - 1)) / 2


def accuracy_without_label_noise(observed: Estimate, label_accuracy: float) -> Estimate:
    """Accuracy against the truth, r = (observed − (1−r_l))/(2 r_l − 1), of what was scored against noisy labels.

    Args:
        observed: accuracy against binary labels whose errors are independent of the model's.
        label_accuracy: r_l, how often these labels are right.

    Returns:
        Cut to 0..1 (`clipped`); `below_chance` if r_l ≤ ½, when labels say nothing.
    """
    if not 0 <= label_accuracy <= 1:
        raise ValueError(f"label_accuracy must lie in 0..1, got {label_accuracy}")
    if label_accuracy <= 0.5:
        return missing(Reason.BELOW_CHANCE, method=observed.method, n=observed.n, n_groups=observed.n_groups)
    lowest, highest = 1 - label_accuracy, label_accuracy
    return transformed(observed, lambda x: (x - lowest) / (highest - lowest), from_at_least=lowest, to_at_most=highest)


def agreement_weights(weights: Weights, *, K: int, values: npt.ArrayLike | None = None) -> FloatArray:
    """w_kl, the credit for one vote k and one vote l: [K, K], 1 on the diagonal.

    linear 1−|v_k−v_l|/range; quadratic 1−(v_k−v_l)²/range²; ordinal 1 − binom(|k−l|+1, 2)/binom(K, 2) (Gwet 2014).
    """
    if not isinstance(weights, str):
        matrix = as_numbers(weights, name="weights")
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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Spread:
    """How an interval is to be made: over which groups of items, and by which method."""

    group: IntArray | None
    method: Method
    rng: int | np.random.Generator | None


def _checked(
    counts: npt.ArrayLike,
    group: npt.ArrayLike | None,
    method: Method = "jackknife",
    rng: int | np.random.Generator | None = None,
) -> tuple[FloatArray, _Spread]:
    c = check_counts(counts, whole=True)
    if method not in ("jackknife", "bootstrap"):
        raise ValueError(f"method must be jackknife or bootstrap, got {method!r}")
    if method == "bootstrap" and rng is None:
        raise ValueError("rng must be a seed or a generator for the bootstrap")
    groups = None if group is None else check_codes(group, name="group", length=len(c))
    return c, _Spread(group=groups, method=method, rng=rng)


def _estimate(
    c: FloatArray,
    per_item: FloatArray,
    statistic: Statistic,
    spread: _Spread,
    *,
    keep: BoolArray,
    bounds: tuple[float, float],
) -> Estimate:
    """A function of the sums of per_item over the items to keep of C [n, K], with the interval asked for.

    Args:
        per_item: [number of items to keep, m]; a function of the item's row of C.
    """
    n = len(per_item)
    if not np.any(row_sums(c) >= 2):
        return missing(Reason.NO_OVERLAP, method=spread.method)
    group = None if spread.group is None else spread.group[keep]
    if spread.method == "jackknife":
        totals = group_totals(per_item, group)
        return jackknife(totals, statistic, n=n, bounds=bounds, undefined=Reason.ONE_CLASS)
    assert spread.rng is not None  # `_checked` asked for it
    totals, copies = group_totals(per_item, group), None
    if group is None:
        first, copies = _distinct_rows(c[keep])
        totals = per_item[first]
    return bootstrap(totals, statistic, rng=spread.rng, copies=copies, n=n, undefined=Reason.ONE_CLASS)


def _distinct_rows(c: FloatArray) -> tuple[IntArray, IntArray]:
    """Where each distinct row of whole numbers stands first, and how often it comes; in the order of the values."""
    base = int(c.max()) + 1
    code, size = np.zeros(len(c), dtype=np.int64), 1
    for column in c.T:
        if size * base > np.iinfo(np.int64).max:  # number the rows so far anew before the code overflows
            code = np.unique(code, return_inverse=True)[1]
            size = len(c)
        code, size = code * base + column.astype(np.int64), size * base
    _, first, copies = np.unique(code, return_index=True, return_counts=True)
    return first, copies


def _analytic_kappa(table: FloatArray, weights: FloatArray) -> Estimate:
    n = int(table.sum())
    if n == 0:
        return missing(Reason.NO_OVERLAP, method="analytic")
    value, se = (float(found[0]) for found in kappas(table[None], weights))
    if math.isnan(value):
        return missing(Reason.ONE_CLASS, method="analytic", n=n, n_groups=n)
    if n < 2:
        return Estimate(value=value, method="analytic", n=1, n_groups=1, reason=Reason.TOO_FEW_GROUPS)
    low, high, warnings = interval(value, se=se, df=n - 1, bounds=_bounds(weights))
    return Estimate(value=value, se=se, low=low, high=high, method="analytic", n=n, n_groups=n, warnings=warnings)


def _class_values(values: npt.ArrayLike | None, *, K: int) -> FloatArray:
    """Numbers of the classes [K] as shares of the greatest, since whatever is made of them is a ratio."""
    v = np.arange(K, dtype=np.float64) if values is None else check_numbers(values, name="values", shape=(K,))
    if np.any(v[1:] <= v[:-1]):
        raise ValueError(f"values must be {K} finite ascending numbers, got {v}")
    return np.asarray(v / np.abs(v).max())


def _pair_agreement(c: FloatArray, weights: FloatArray) -> FloatArray:
    """Weighted share of agreeing pairs of votes of each item: [n]; 0 where there is no pair."""
    votes = row_sums(c)
    # Σ_k C_k((Cw)_k − 1) is Σ_k C_k (Cw)_k − n_i.
    agreeing = row_sums(c * (c @ weights)) - votes
    return agreeing / np.where(votes >= 2, votes * (votes - 1), np.inf)


def _mean_over_items(c: FloatArray, x: FloatArray, spread: _Spread) -> Estimate:
    """Mean of x [n] over the items with two votes or more."""
    keep = row_sums(c) >= 2
    per_item = np.column_stack([x[keep], np.ones(int(keep.sum()))])
    return _estimate(c, per_item, lambda totals: ratio(totals[:, 0], totals[:, 1]), spread, keep=keep, bounds=SHARE)


def _chance_corrected(
    c: FloatArray, weights: FloatArray, statistic: Statistic, spread: _Spread, *, bounds: tuple[float, float]
) -> Estimate:
    """A function of (Σ agreement, items with a pair, items with a vote, Σ class shares): [G, 3 + K]."""
    keep = row_sums(c) >= 1
    voted = c[keep]
    votes = row_sums(voted)
    per_item = np.column_stack(
        [_pair_agreement(voted, weights), votes >= 2, np.ones(len(voted)), voted / votes[:, None]]
    )
    return _estimate(c, per_item, statistic, spread, keep=keep, bounds=bounds)


def _agreement_and_shares(totals: FloatArray) -> tuple[FloatArray, FloatArray]:
    """P_a [R] and class shares [R, K] from the totals of `_chance_corrected`."""
    return ratio(totals[:, 0], totals[:, 1]), totals[:, 3:] / totals[:, 2:3]


def _gwet_analytic(c: FloatArray, weights: FloatArray, *, value: float, scale: float) -> Estimate:
    """AC1 or AC2 with Gwet's standard error; assumes that the value exists and that two items have votes."""
    c = c[row_sums(c) >= 1]
    votes = row_sums(c)
    n, paired = len(c), votes >= 2
    share = c / votes[:, None]
    mean_share = share.mean(axis=0)
    chance = scale * float(np.sum(mean_share * (1 - mean_share)))
    item_chance = scale * (share @ (1 - mean_share))
    item_value = n / paired.sum() * (_pair_agreement(c, weights) - chance * paired) / (1 - chance)
    corrected = item_value - 2 * (1 - value) * (item_chance - chance) / (1 - chance)
    se = math.sqrt(float(np.sum((corrected - value) ** 2)) / (n * (n - 1)))
    low, high, warnings = interval(value, se=se, df=n - 1, bounds=_bounds(weights))
    return Estimate(value=value, se=se, low=low, high=high, method="analytic", n=n, n_groups=n, warnings=warnings)


def _squared_distance(level: Level, *, K: int, values: npt.ArrayLike | None) -> FloatArray:
    """δ² [K, K] of the levels at which it does not depend on the votes, as a share of the greatest: α is a ratio."""
    if level == "nominal":
        return 1 - np.eye(K)
    if level not in ("interval", "ratio"):
        raise ValueError(f"level must be nominal, ordinal, interval or ratio, got {level!r}")
    v = _class_values(values, K=K)
    if level == "ratio" and v[0] < 0:
        raise ValueError(f"values must not be negative at the ratio level, got {v[0]}")
    distance = np.asarray(np.abs(v[:, None] - v[None, :]), dtype=np.float64)
    if level == "ratio":
        total = v[:, None] + v[None, :]
        distance = distance / np.where(total > 0, total, 1.0)
    return np.asarray((distance / distance.max()) ** 2, dtype=np.float64)


def _alpha_with(distance: FloatArray) -> Statistic:
    """α of the totals (Σ disagreement, m_1 … m_K) for a fixed δ²."""

    def alpha(totals: FloatArray) -> FloatArray:  # [R, 1 + K] → [R]
        m = totals[:, 1:]
        expected = row_sums((m @ distance) * m)
        votes = row_sums(m)
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
    votes = row_sums(m)
    return 1 - (votes - 1) * ratio(observed, expected)
