"""Result types, input checks and intervals that every statistic shares.

Arrays in, frozen values out. Knows nothing of Django, of votes as rows, or of which coefficient it serves.
A statistic that does not exist is no error: it is an `Estimate` without value and with a `Reason`. No public
result holds NaN or inf without one. Malformed input raises `ValueError` that names the argument.
The module is long because what all statistics have in common stands in it once.

Shapes: n items, K classes, G groups, m totals a coefficient is a function of.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri, stdtrit

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Choice = TypeVar("Choice", bound=StrEnum)

LEVEL = 0.95
FEW_GROUPS = 20  # below this the interval is shown with a warning
BOOTSTRAPS = 2000  # resamples of a bootstrap: the ends of its interval move by a few hundredths of its width
RESAMPLED_CELLS = 4_000_000  # of resamples × groups held at once, 32 MB


class Reason(StrEnum):
    """Why a statistic, or its interval, does not exist."""

    NO_VOTES = "no_votes"
    NO_OVERLAP = "no_overlap"
    TOO_FEW_COMMON = "too_few_common"
    ONE_CLASS = "one_class"
    ONE_ANNOTATOR = "one_annotator"
    TIED_TOP = "tied_top"
    NOT_CONNECTED = "not_connected"
    SEPARATED = "separated"
    BELOW_CHANCE = "below_chance"
    TOO_FEW_GROUPS = "too_few_groups"
    ZERO_WEIGHT = "zero_weight"
    SIDES_NOT_RANDOMISED = "sides_not_randomised"

    @property
    def number(self) -> int:
        """The integer that stands for this reason in a `reason` array, where 0 means none."""
        return 1 + list(Reason).index(self)


class Caution(StrEnum):
    """What to know about a statistic that does exist."""

    NOT_CONVERGED = "not_converged"
    FEW_GROUPS = "few_groups"
    FEW_VOTES = "few_votes"
    NO_TIES = "no_ties"
    CLIPPED = "clipped"


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A number with its interval, or the reason why there is none.

    With `reason=too_few_groups` the value may be there without an interval; with any other reason it is not.

    Attributes:
        se: standard error, in units of the value.
        low, high: ends of the interval at `level`, inside the range that the coefficient can take.
        method: how the interval was made ("jackknife", "analytic"); "none" where the statistic never has one.
        n: items that entered; n_groups: independent groups among them.
    """

    value: float | None
    se: float | None = None
    low: float | None = None
    high: float | None = None
    level: float = LEVEL
    method: str
    n: int
    n_groups: int
    reason: Reason | None = None
    warnings: tuple[Caution, ...] = ()

    def __post_init__(self) -> None:
        numbers = (self.value, self.se, self.low, self.high)
        if any(number is not None and not math.isfinite(number) for number in numbers):
            raise ValueError(f"an estimate holds finite numbers or None, got {numbers}")
        if self.value is None and self.reason is None:
            raise ValueError("an estimate without value needs a reason")
        if self.value is not None and self.reason not in (None, Reason.TOO_FEW_GROUPS):
            raise ValueError(f"an estimate with a value cannot have the reason {self.reason}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Shares:
    """Proportions of several people or windows with Wilson's interval.

    Attributes:
        value, low, high: [W]; NaN where `reason` is not 0.
        n: [W] answers.
        reason: [W] 0, or the number of `no_votes`.
    """

    value: FloatArray
    low: FloatArray
    high: FloatArray
    n: IntArray
    reason: IntArray


def reason_of(number: int) -> Reason | None:
    """The reason behind an entry of an integer `reason` array; None for 0."""
    return None if number == 0 else list(Reason)[number - 1]


def missing(reason: Reason, *, method: str = "jackknife", n: int = 0, n_groups: int = 0) -> Estimate:
    """The estimate of a statistic that does not exist."""
    return Estimate(value=None, method=method, n=n, n_groups=n_groups, reason=reason)


def check_size(value: int, *, name: str, at_least: int = 0) -> int:
    """`value` as an int of at least `at_least`, else ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < at_least:
        raise ValueError(f"{name} must be an integer of at least {at_least}, got {value!r}")
    return int(value)


def check_sizes(n_items: int, n_annotators: int, K: int) -> tuple[int, int, int]:
    """The sizes of votes as ints, which products of narrow numpy integers would overflow; else ValueError."""
    return (
        check_size(n_items, name="n_items"),
        check_size(n_annotators, name="n_annotators"),
        check_size(K, name="K", at_least=2),
    )


def check_not_negative(value: float, *, name: str) -> float:
    """A finite number ≥ 0, else ValueError."""
    if not isinstance(value, int | float | np.integer | np.floating) or not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} must be finite and not negative, got {value!r}")
    return float(value)


def check_choice(value: str, choices: type[Choice], *, name: str) -> Choice:
    """A member of an enumeration by its value, else ValueError."""
    try:
        return choices(value)
    except ValueError:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}") from None


def _as_array(x: npt.ArrayLike, *, name: str) -> npt.NDArray[np.generic]:
    """An array of one shape, else ValueError."""
    try:
        return np.asarray(x)
    except ValueError:
        raise ValueError(f"{name} must be an array, got rows of different lengths") from None


def as_numbers(x: npt.ArrayLike, *, name: str) -> FloatArray:
    """An array of real numbers, finite or not, else ValueError; a string is no number."""
    array = _as_array(x, name=name)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} must hold numbers, got {array.dtype}")
    return array.astype(np.float64, copy=False)


def check_codes(codes: npt.ArrayLike, *, name: str, size: int | None = None, length: int | None = None) -> IntArray:
    """A 1-D integer array, inside 0..size−1 if `size` is given, of `length` if that is given; else ValueError."""
    given = _as_array(codes, name=name)
    if given.ndim != 1:
        raise ValueError(f"{name} must have one dimension, got shape {given.shape}")
    if length is not None and len(given) != length:
        raise ValueError(f"{name} must have length {length}, got {len(given)}")
    if len(given) and not np.issubdtype(given.dtype, np.integer):
        raise ValueError(f"{name} must hold integers, got {given.dtype}")
    array = given.astype(np.int64, copy=False)
    if size is not None and len(array):
        lowest, highest = int(array.min()), int(array.max())
        if lowest < 0 or highest >= size:
            raise ValueError(f"{name} must lie in 0..{size - 1}, got {lowest if lowest < 0 else highest}")
    return array


def check_votes(
    item: npt.ArrayLike, annotator: npt.ArrayLike, label: npt.ArrayLike, *, n_items: int, n_annotators: int, K: int
) -> tuple[IntArray, IntArray, IntArray]:
    """The three arrays of votes, of equal length and with every code in its range; else ValueError naming one."""
    n_items, n_annotators, K = check_sizes(n_items, n_annotators, K)
    items = check_codes(item, name="item", size=n_items)
    people = check_codes(annotator, name="annotator", size=n_annotators, length=len(items))
    labels = check_codes(label, name="label", size=K, length=len(items))
    return items, people, labels


def check_weight(weight: npt.ArrayLike, *, length: int) -> FloatArray:
    """Vote weights: `length` finite numbers ≥ 0 with a finite sum, else ValueError."""
    array = as_numbers(weight, name="weight")
    if array.shape != (length,):
        raise ValueError(f"weight must have shape ({length},), got {array.shape}")
    with np.errstate(over="ignore", invalid="ignore"):
        total = array.sum()
    if not np.isfinite(total) or np.any(array < 0):
        raise ValueError("weight must be finite, in sum too, and not negative")
    return array


def check_counts(counts: npt.ArrayLike, *, whole: bool = False) -> FloatArray:
    """Vote counts [n, K] with K ≥ 2: finite, not negative, and `whole` numbers if asked; else ValueError."""
    array = as_numbers(counts, name="counts")
    if array.ndim != 2 or array.shape[1] < 2:
        raise ValueError(f"counts must have shape (items, classes) with two classes or more, got {array.shape}")
    if not np.all(np.isfinite(array)) or np.any(array < 0):
        raise ValueError("counts must be finite and not negative")
    if whole and np.any(array != np.rint(array)):
        raise ValueError("counts must be whole votes here, not fractional weights")
    return array


def check_numbers(x: npt.ArrayLike, *, name: str, shape: tuple[int | None, ...]) -> FloatArray:
    """Finite numbers of this shape, where None stands for any size; else ValueError."""
    array = as_numbers(x, name=name)
    fits = array.ndim == len(shape) and all(size in (None, n) for size, n in zip(shape, array.shape, strict=True))
    if not fits:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    if not np.all(np.isfinite(array)):
        raise ValueError(f"{name} must be finite")
    return array


def check_flags(x: npt.ArrayLike, *, name: str, length: int) -> BoolArray:
    """`length` booleans, else ValueError."""
    array = _as_array(x, name=name)
    if array.shape != (length,) or (length and array.dtype != np.bool_):
        raise ValueError(f"{name} must hold {length} booleans, got {array.dtype} of shape {array.shape}")
    return array.astype(np.bool_)


def row_sums(x: FloatArray) -> FloatArray:
    """Σ over the few columns of x [n, K]: [n]. A product, since numpy reduces a short axis many times slower."""
    return np.asarray(x @ np.ones(x.shape[1]))


def group_totals(per_item: FloatArray, group: IntArray | None) -> FloatArray:
    """Sums of per_item [n, m] over the items of each group: [G, m]. Without `group` each item is its own."""
    if group is None:
        return per_item
    names, codes = np.unique(group, return_inverse=True)
    columns = [np.bincount(codes, weights=column, minlength=len(names)) for column in per_item.T]
    return np.stack(columns, axis=1)


def interval(
    value: float, *, se: float, df: int, bounds: tuple[float, float], level: float = LEVEL
) -> tuple[float, float, tuple[Caution, ...]]:
    """value ± t_df · se at `level`, cut to `bounds`, with the warnings `few_groups` and `clipped` where they apply."""
    half = float(stdtrit(df, (1 + level) / 2)) * se
    lowest, highest = min(bounds[0], value), max(bounds[1], value)  # rounding may have led the value out of its range
    low, high = max(value - half, lowest), min(value + half, highest)
    clipped = value - half < lowest or value + half > highest
    few = (Caution.FEW_GROUPS,) if df + 1 < FEW_GROUPS else ()
    return low, high, (*few, Caution.CLIPPED) if clipped else few


def jackknife(
    totals: FloatArray,
    statistic: Callable[[FloatArray], FloatArray],
    *,
    n: int,
    bounds: tuple[float, float],
    undefined: Reason,
    level: float = LEVEL,
) -> Estimate:
    """A function of sums over groups, with the delete-one-group jackknife and Student t with G−1 df.

    θ̂ = f(ΣS), θ_(g) = f(ΣS − S_g), SE² = (G−1)/G · Σ(θ_(g) − θ̄)². Resampling single items would claim too narrow an
    interval wherever items of one prompt resemble each other. Costs O(G·m).

    Args:
        totals: S [G, m], sums over the items of each group; only groups with an item that enters.
        statistic: from [R, m] to [R]; NaN in a row where it does not exist. Vectorised over rows.
        n: items that entered.
        bounds: range of the coefficient; the interval is cut to it.
        undefined: the reason to give where the statistic does not exist on the whole.

    Returns:
        The value without interval and with `too_few_groups` if there is one group, or if the statistic does not
        exist once some group is left out (its whole variation hangs on that group).

    Source: Efron & Stein 1981; Student t for few clusters.
    """
    groups = len(totals)
    whole = np.ones(groups) @ totals
    value = float(statistic(whole[None, :])[0])
    if not math.isfinite(value):
        return missing(undefined, n=n, n_groups=groups)
    left_out = statistic(whole - totals) if groups > 1 else np.empty(0)
    if groups < 2 or not np.all(np.isfinite(left_out)):
        return Estimate(value=value, method="jackknife", n=n, n_groups=groups, reason=Reason.TOO_FEW_GROUPS)
    se = math.sqrt((groups - 1) / groups * float(np.sum((left_out - left_out.mean()) ** 2)))
    low, high, warnings = interval(value, se=se, df=groups - 1, bounds=bounds, level=level)
    return Estimate(
        value=value,
        se=se,
        low=low,
        high=high,
        level=level,
        method="jackknife",
        n=n,
        n_groups=groups,
        warnings=warnings,
    )


def bootstrap(
    totals: FloatArray,
    statistic: Callable[[FloatArray], FloatArray],
    *,
    rng: int | np.random.Generator,
    copies: IntArray | None = None,
    n: int,
    undefined: Reason,
    level: float = LEVEL,
) -> Estimate:
    """A function of sums over groups, with the percentile interval of `BOOTSTRAPS` resamples of the groups.

    Draws how often each group comes and multiplies, W @ S, so that no row is ever copied. With 13 groups it covers .90
    instead of .95: on request only, the default is the jackknife. Costs O(BOOTSTRAPS·rows·m).

    Args:
        totals: S [rows, m], as in `jackknife`; a row stands for `copies` equal groups.
        statistic: as in `jackknife`. Resamples in which it does not exist are left out.
        rng: seed or generator; the same seed gives the same interval.
        copies: [rows] ≥ 1, default 1: independent items of the same vote pattern are one row, so that the cost does
            not grow with their number.

    Returns:
        As `jackknife`; no interval either if more than 1 in 20 resamples have no value.

    Source: Efron 1979; Efron & Tibshirani 1993, section 13.3.
    """
    weight = np.ones(len(totals), dtype=np.int64) if copies is None else copies
    groups = int(weight.sum())
    whole = float(statistic((weight @ totals)[None, :])[0])
    if not math.isfinite(whole):
        return missing(undefined, method="bootstrap", n=n, n_groups=groups)
    drawn = _resampled(totals, statistic, weight, np.random.default_rng(rng))
    if groups < 2 or len(drawn) < 0.95 * BOOTSTRAPS:
        return Estimate(value=whole, method="bootstrap", n=n, n_groups=groups, reason=Reason.TOO_FEW_GROUPS)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(
        value=whole,
        se=float(drawn.std()),
        low=float(low),
        high=float(high),
        level=level,
        method="bootstrap",
        n=n,
        n_groups=groups,
        warnings=(Caution.FEW_GROUPS,) if groups < FEW_GROUPS else (),
    )


def _resampled(
    totals: FloatArray, statistic: Callable[[FloatArray], FloatArray], copies: IntArray, rng: np.random.Generator
) -> FloatArray:
    """The statistic of `BOOTSTRAPS` resamples, less those in which it does not exist."""
    groups = int(copies.sum())
    rows = max(1, RESAMPLED_CELLS // len(totals))
    drawn = [
        statistic(rng.multinomial(groups, copies / groups, size=min(rows, BOOTSTRAPS - done)) @ totals)
        for done in range(0, BOOTSTRAPS, rows)
    ]
    values = np.concatenate(drawn)
    return values[np.isfinite(values)]


def transformed(
    estimate: Estimate, function: Callable[[float], float], *, from_at_least: float = 0.0, to_at_most: float = 1.0
) -> Estimate:
    """A growing function of an estimate: of its value and of the ends of its interval; without standard error.

    Args:
        from_at_least, to_at_most: where the function is defined; what lies outside is moved to the end (`clipped`).
    """
    ends = (estimate.value, estimate.low, estimate.high)
    moved = [None if x is None else function(min(max(x, from_at_least), to_at_most)) for x in ends]
    outside = any(x is not None and not from_at_least <= x <= to_at_most for x in ends)
    warnings = estimate.warnings
    if outside and Caution.CLIPPED not in warnings:
        warnings = (*warnings, Caution.CLIPPED)
    return replace(estimate, value=moved[0], se=None, low=moved[1], high=moved[2], warnings=warnings)


def cluster_sandwich(bread: FloatArray, scores: FloatArray, group: IntArray | None) -> tuple[FloatArray, int]:
    """Covariance B (Σ_g u_g u_gᵀ) B · G/(G−1) of an estimate that likelihood gave, and the number of groups G.

    The same role for likelihood models as the jackknife has for sums: answers within a group may resemble each other.

    Args:
        bread: B [p, p], the inverse of the information.
        scores: [n, p] gradient of each observation's log-likelihood at the estimate.
        group: [n] integers; None: each observation is its own group.

    Returns:
        The covariance, of zeros where G < 2, since then it does not exist.
    """
    u = group_totals(scores, group)
    groups = len(u)
    if groups < 2:
        return np.zeros_like(bread), groups
    return np.asarray(bread @ (u.T @ u) @ bread * (groups / (groups - 1))), groups


def benjamini_hochberg(p_values: npt.ArrayLike, *, rate: float = 0.05) -> BoolArray:
    """Which hypotheses are rejected so that the expected share of false ones among them is at most `rate`.

    Args:
        p_values: one a hypothesis; NaN marks one that was not tested, and is never rejected.

    Source: Benjamini & Hochberg 1995.
    """
    p = np.asarray(p_values, dtype=np.float64)
    tested = np.flatnonzero(~np.isnan(p))
    rejected = np.zeros(len(p), dtype=bool)
    order = tested[np.argsort(p[tested], kind="stable")]
    below = np.flatnonzero(p[order] <= rate * np.arange(1, len(order) + 1) / max(1, len(order)))
    if len(below):
        rejected[order[: below[-1] + 1]] = True
    return rejected


def ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """numerator / denominator, NaN where the denominator is 0 up to rounding: a mark that never leaves this package."""
    safe = np.abs(denominator) > 1e-12
    return np.where(safe, numerator / np.where(safe, denominator, 1.0), np.nan)


def wilson(right: float, n: float, *, deff: float = 1.0, level: float = LEVEL) -> Estimate:
    """A proportion with the interval that stays inside 0..1 and has a width at 0 and at 1 too.

    Args:
        right: successes among `n`; may be fractional, as ties that are shared.
        deff: design effect of clustering; the interval is that of n / max(1, deff) independent answers.

    Source: Wilson 1927.
    """
    if n <= 0:
        return missing(Reason.NO_VOTES, method="wilson")
    if not 0 <= right <= n * (1 + 1e-12):
        raise ValueError(f"right must lie in 0..n, got {right} of {n}")
    p, size = min(right / n, 1.0), n / max(1.0, deff)
    low, high = wilson_ends(np.float64(p), np.float64(size), level=level)
    return Estimate(
        value=p,
        se=math.sqrt(p * (1 - p) / size),
        low=float(low),
        high=float(high),
        level=level,
        method="wilson",
        n=round(n),
        n_groups=round(n),
    )


def wilson_ends(
    p: npt.NDArray[np.float64] | np.float64, n: npt.NDArray[np.float64] | np.float64, *, level: float = LEVEL
) -> tuple[FloatArray, FloatArray]:
    """Both ends of Wilson's interval of proportions p among n > 0 independent answers, of any shape."""
    z2 = float(ndtri((1 + level) / 2)) ** 2
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = np.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n**2))) / (1 + z2 / n)
    return np.asarray(np.maximum(0.0, middle - half)), np.asarray(np.minimum(1.0, middle + half))


def clustered_share(right: FloatArray, n: FloatArray) -> Estimate:
    """A proportion over groups: Wilson's interval of the answers that the spread over groups leaves independent.

    Args:
        right, n: [G] how many answers hold, out of how many, in each group.

    Returns:
        Without interval and with `too_few_groups` where one group gave all answers.
    """
    entered = n > 0
    totals = np.column_stack([right[entered], n[entered]])
    groups, answers, hits = len(totals), float(n.sum()), float(right.sum())
    if groups == 0:
        return missing(Reason.NO_VOTES, method="wilson")
    spread = jackknife(
        totals,
        lambda sums: ratio(sums[:, 0], sums[:, 1]),
        n=round(answers),
        bounds=(0.0, 1.0),
        undefined=Reason.NO_VOTES,
    )
    if spread.se is None:
        return replace(spread, method="wilson")
    simple = hits / answers * (1 - hits / answers) / answers
    share = wilson(hits, answers, deff=spread.se**2 / simple if simple > 0 else 1.0)
    return replace(share, n_groups=groups, warnings=(Caution.FEW_GROUPS,) if groups < FEW_GROUPS else ())


def wilson_shares(who: IntArray, holds: FloatArray | BoolArray, *, size: int) -> Shares:
    """Share of the answers of each of `size` people, or windows, that hold."""
    n = np.bincount(who, minlength=size)
    answered = n > 0
    p = np.bincount(who, weights=holds, minlength=size) / np.maximum(n, 1)
    low, high = wilson_ends(p, np.maximum(n, 1).astype(np.float64))
    return Shares(
        value=np.where(answered, p, np.nan),
        low=np.where(answered, low, np.nan),
        high=np.where(answered, high, np.nan),
        n=n,
        reason=np.where(answered, 0, Reason.NO_VOTES.number),
    )
