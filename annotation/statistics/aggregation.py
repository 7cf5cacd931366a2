"""From votes to one label per item: vote counts, the majority, and the soft labels that training reads.

Pure functions of arrays. Classes of a pair are 0 = a, 1 = tie, 2 = b, or 0 = a, 1 = b without a tie option; a strength
scale is ascending from "a clearly" to "b clearly" with its tie, if any, in the middle. Labels speak of the completion,
never of the side it was shown on.

Shapes: V votes, n items, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from annotation.statistics.estimates import (
    BoolArray,
    FloatArray,
    IntArray,
    Reason,
    check_codes,
    check_counts,
    check_size,
    check_weight,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Majority:
    """The most frequent class of each item.

    Attributes:
        label: [n] the class; −1 where `reason` is not 0.
        share: [n, K] vote shares; NaN in items without votes.
        top: [n, K] the class or classes with most votes. Scored against a truth, a tie at the top counts 1/|top|.
        reason: [n] 0, or the number of `tied_top` or `no_votes`.
    """

    label: IntArray
    share: FloatArray
    top: BoolArray
    reason: IntArray


@dataclass(frozen=True, kw_only=True, slots=True)
class SoftLabels:
    """What training is told of each item; NaN in every field where `reason` is not 0 (an item without votes).

    Attributes:
        prob: [n] P(a) + ½ P(tie) of the aggregated opinion; for the majority 1, ½ or 0.
        share: [n] share of the votes for a, ties half, drawn to ½ by one vote: stays near .6 when people really split.
        p_tie: [n] share of ties.
        confidence: [n] share of the leading class.
        reason: [n] 0, or the number of `no_votes`.
    """

    prob: FloatArray
    share: FloatArray
    p_tie: FloatArray
    confidence: FloatArray
    reason: IntArray


def vote_counts(
    item: npt.ArrayLike, label: npt.ArrayLike, *, n_items: int, K: int, weight: npt.ArrayLike | None = None
) -> FloatArray:
    """C[i, k], the weight of the votes for class k on item i: [n, K]. O(V).

    Args:
        item, label: [V] codes from 0; items without votes have a row of zeros.
        K: classes that were offered, not those that were seen.
        weight: [V] ≥ 0, default 1; an integer weight equals that many copies.

    Raises:
        ValueError: naming the argument that is malformed.
    """
    n_items, K = check_size(n_items, name="n_items"), check_size(K, name="K", at_least=2)
    items = check_codes(item, name="item", size=n_items)
    labels = check_codes(label, name="label", size=K, length=len(items))
    weights = None if weight is None else check_weight(weight, length=len(items))
    flat = np.bincount(items * K + labels, weights=weights, minlength=n_items * K)
    return flat.astype(np.float64, copy=False).reshape(n_items, K)


def majority(counts: npt.ArrayLike) -> Majority:
    """The most frequent class of each item, where it is unique: never the lowest index, never at random.

    Sending ties at the top to the first class would cost agreement with an outside judge (.653 instead of .689 on
    LLMFAO, where 16.5 % of the pairs tie).
    """
    c = check_counts(counts)
    votes = c.sum(axis=1)
    has_votes = votes > 0
    top = (c == c.max(axis=1, keepdims=True)) & has_votes[:, None]
    tied = top.sum(axis=1) > 1
    reason = np.where(tied, Reason.TIED_TOP.number, np.where(has_votes, 0, Reason.NO_VOTES.number))
    share = np.where(has_votes[:, None], c / np.where(has_votes, votes, 1.0)[:, None], np.nan)
    label = np.where(reason == 0, top.argmax(axis=1), -1)
    return Majority(label=label.astype(np.int64), share=share, top=top, reason=reason.astype(np.int64))


def preference_values(K: int) -> FloatArray:
    """What each class says about "a is better": 1 before the middle, ½ in it, 0 after it: [K]."""
    position = np.arange(check_size(K, name="K", at_least=2), dtype=np.float64)
    sign: FloatArray = np.sign(position - (K - 1) / 2)
    return (1 - sign) / 2


def preference_share(counts: npt.ArrayLike) -> FloatArray:
    """p_a + ½ p_tie of the votes on each item, unsmoothed: [n]; NaN in items without votes."""
    c = check_counts(counts)
    return majority(c).share @ preference_values(c.shape[1])


def soft_labels(result: Majority, counts: npt.ArrayLike) -> SoftLabels:
    """Training targets for each item.

    The majority is a hard label: `prob` is 1 for a, 0 for b, ½ for a tie, and ½ as well where no class leads (also
    when a and tie lead together: there is no majority, and `share` carries the lean). `share` is
    (C_a + ½C_tie + ½)/(C + 1).

    Args:
        result: `majority(counts)`.
        counts: the same [n, K].
    """
    c = check_counts(counts)
    if result.share.shape != c.shape:
        raise ValueError(f"counts must have the shape of the result, {result.share.shape}, got {c.shape}")
    values = preference_values(c.shape[1])
    has_votes = result.reason != Reason.NO_VOTES.number
    prob = np.where(result.label >= 0, values[result.label], 0.5)
    share = (c @ values + 0.5) / (c.sum(axis=1) + 1)
    return SoftLabels(
        prob=np.where(has_votes, prob, np.nan),
        share=np.where(has_votes, share, np.nan),
        p_tie=result.share @ (values == 0.5).astype(np.float64),
        confidence=result.share.max(axis=1),
        reason=np.where(has_votes, 0, result.reason),
    )
