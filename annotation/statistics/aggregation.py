"""From votes to one label per item: vote counts, the majority, posteriors, and the soft labels that training reads.

Pure functions of arrays. Classes of a pair are 0 = a, 1 = tie, 2 = b, or 0 = a, 1 = b without a tie option; a strength
scale is ascending from "a clearly" to "b clearly" with its tie, if any, in the middle. Labels speak of the completion,
never of the side it was shown on.

Shapes: V votes, n items, K classes, W annotators.
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


@dataclass(frozen=True, kw_only=True, slots=True)
class OneCoin:
    """What `one_coin` found.

    Attributes:
        q: [n, K] posterior of each class; the class shares in items without votes.
        accuracy: [W] P(a vote is right) of each annotator; the prior's ⅔ without votes.
        pi: [K] class shares.
        n_iter: steps taken; converged: whether they sufficed.
        reason: [n] 0, or the number of `no_votes`.
    """

    q: FloatArray
    accuracy: FloatArray
    pi: FloatArray
    n_iter: int
    converged: bool
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


def one_coin(
    item: npt.ArrayLike,
    annotator: npt.ArrayLike,
    label: npt.ArrayLike,
    *,
    n_items: int,
    n_annotators: int,
    K: int,
    tol: float = 1e-6,
    max_iter: int = 500,
) -> OneCoin:
    """Dawid and Skene's model with one number a person: right with p, else any other class alike. O(V) a step.

    p = (c + 4)/(n + 6) with c the expected right votes of n. For the online path and for people with few votes only:
    where errors are not symmetric it errs more than the majority (bluebirds 41.7 % against 24.1 %).

    Args:
        item, annotator, label: [V] codes from 0. tol: mean |Δq| at which it stops.

    Raises:
        ValueError: naming the argument that is malformed.

    Source: Dawid & Skene 1979 with tied confusion rows; Zhang, Chen, Zhou & Jordan 2014 for its faults.
    """
    counts = vote_counts(item, label, n_items=n_items, K=K)
    items, labels = check_codes(item, name="item"), check_codes(label, name="label")
    W = check_size(n_annotators, name="n_annotators")
    people = check_codes(annotator, name="annotator", size=W, length=len(items))
    votes = counts.sum(axis=1)
    has_votes = votes > 0
    given = np.bincount(people, minlength=W)
    q = np.where(has_votes[:, None], counts / np.where(has_votes, votes, 1.0)[:, None], 1 / K)
    p, pi, step, converged = np.full(W, 4 / 6), np.full(K, 1 / K), 0, not has_votes.any()
    while not converged and step < max_iter:
        step += 1
        right = np.bincount(people, weights=q[items, labels], minlength=W)
        p = np.clip((right + 4) / (given + 6), 1e-6, 1 - 1e-6)
        pi = q[has_votes].mean(axis=0)
        fresh = update_posterior(np.tile(pi, (len(q), 1)), coin_confusion(p, K=K), items, people, labels)
        converged = bool(np.abs(fresh - q)[has_votes].mean() < tol)
        q = fresh
    reason = np.where(has_votes, 0, Reason.NO_VOTES.number).astype(np.int64)
    return OneCoin(q=q, accuracy=p, pi=pi, n_iter=step, converged=converged, reason=reason)


def coin_confusion(accuracy: npt.ArrayLike, *, K: int) -> FloatArray:
    """θ [W, true, observed] of people who are right with p and otherwise take any other class alike."""
    p = np.asarray(accuracy, dtype=np.float64)
    if p.ndim != 1 or not np.all((p >= 0) & (p <= 1)):
        raise ValueError("accuracy must hold probabilities in one dimension")
    K = check_size(K, name="K", at_least=2)
    other = ((1 - p) / (K - 1))[:, None, None]
    return np.where(np.eye(K, dtype=bool), p[:, None, None], other)


def update_posterior(
    q: npt.ArrayLike, theta: npt.ArrayLike, item: npt.ArrayLike, annotator: npt.ArrayLike, label: npt.ArrayLike
) -> FloatArray:
    """Posterior [n, K] after more votes: log q_i += log θ_{w, ·, l}, renormalised. O(K) a vote.

    Equals the batch E-step at a fixed θ, whatever the order and however the votes are cut into calls.

    Args:
        q: [n, K] before the votes, a row each with positive mass. theta: [W, true, observed].
        item, annotator, label: [V] codes from 0; an item may come several times.

    Raises:
        ValueError: naming the argument that is malformed, or when the votes leave no class possible.
    """
    before, confusion = np.asarray(q, dtype=np.float64), np.asarray(theta, dtype=np.float64)
    if before.ndim != 2 or not np.all(np.isfinite(before)) or np.any(before < 0) or np.any(before.sum(axis=1) <= 0):
        raise ValueError(f"q must have shape (items, classes) and rows with positive mass, got {before.shape}")
    K = before.shape[1]
    if confusion.ndim != 3 or confusion.shape[1:] != (K, K):
        raise ValueError(f"theta must have shape (annotators, {K}, {K}), got {confusion.shape}")
    items = check_codes(item, name="item", size=len(before))
    people = check_codes(annotator, name="annotator", size=len(confusion), length=len(items))
    labels = check_codes(label, name="label", size=K, length=len(items))
    with np.errstate(divide="ignore"):
        log_q, log_theta = np.log(before), np.log(confusion)
    np.add.at(log_q, items, log_theta[people, :, labels])
    top = log_q.max(axis=1, keepdims=True) if len(log_q) else log_q[:, :1]
    if np.any(np.isneginf(top)):
        raise ValueError("theta leaves no class possible for some item")
    mass = np.exp(log_q - top)
    return np.asarray(mass / mass.sum(axis=1, keepdims=True))
