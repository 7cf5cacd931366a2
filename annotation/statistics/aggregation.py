"""From votes to one label per item: vote counts, majorities, the models of annotators, and what training reads.

Pure functions of arrays. Classes of a pair are 0 = a, 1 = tie, 2 = b, or 0 = a, 1 = b without a tie option; a strength
scale is ascending from "a clearly" to "b clearly" with its tie, if any, in the middle. Labels speak of the completion,
never of the side it was shown on. The module is long because all answers to one question, how votes become labels,
stand in it under their public names; the steps of EM are in `expectation`, the inside of GLAD in `glad`.

Shapes: V votes, n items, K classes, W annotators. `item, annotator, label` are [V] codes from 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, assert_never

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv

from annotation.statistics.estimates import (
    LEVEL,
    BoolArray,
    Caution,
    Estimate,
    FloatArray,
    IntArray,
    Reason,
    as_numbers,
    check_choice,
    check_codes,
    check_counts,
    check_not_negative,
    check_size,
    check_sizes,
    check_votes,
    check_weight,
    group_totals,
    jackknife,
    missing,
    ratio,
)
from annotation.statistics.expectation import (
    Fit,
    expected_counts,
    fit_confusions,
    log_likelihood,
    log_or_never,
    one_class_only,
    posterior,
    prior_mean,
    shares,
    sums_by,
    sums_over_votes,
    vote_matrix,
)
from annotation.statistics.glad import Glad, fit_glad

Prior = tuple[npt.ArrayLike, float]

GLAD_VOTES = 200_000  # above it a round takes a second or more, and there may be a hundred
ROUNDING = 1e-9  # of a sum of weights
HELD_OUT_VOTES = 3  # votes of an item from which one is hidden
HELD_OUT_FLOOR = 1e-3  # of a predicted probability: one impossible vote does not decide the mean


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

    @property
    def theta(self) -> FloatArray:
        """[W, true, observed] as in the full model."""
        return coin_confusion(self.accuracy, K=self.q.shape[1])


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightedVote:
    """The class with most weight on each item, where a vote weighs as much as its annotator agrees with the majority.

    Attributes:
        label, share, top, reason: as in `Majority`, of weights instead of votes.
        weight: [W] what a vote of each annotator weighs, in [0, 1]; NaN without votes.
        skill: [W] the same share with all of the annotator's own votes on the item left out of the majority, which is
            the one to show; NaN where `skill_reason` is not 0.
        skill_reason: [W] 0, or the number of `no_votes`, or of `no_overlap` where nobody else voted on the same items.
    """

    label: IntArray
    share: FloatArray
    top: BoolArray
    reason: IntArray
    weight: FloatArray
    skill: FloatArray
    skill_reason: IntArray


@dataclass(frozen=True, kw_only=True, slots=True)
class DawidSkeneResult:
    """What `dawid_skene` found; `q` is the E-step at `theta` and `pi`.

    Attributes:
        q: [n, K] posterior of each class, a model's confidence: too sure by about .03 where items differ in difficulty.
            One-hot for gold; `pi` in other items without votes.
        theta: [W, true, observed] P(observed | true) of each annotator; the prior's mean without votes.
        pi: [K] class shares.
        objective: [n_iter] log-likelihood plus log-prior in nats, over the annotators with votes; it never falls.
        n_iter: steps taken; converged: whether they sufficed.
        reason: [n] 0, or the number of `no_votes`.
        warnings: `few_votes` when one annotator gave them all, `not_converged`.
    """

    q: FloatArray
    theta: FloatArray
    pi: FloatArray
    objective: FloatArray
    n_iter: int
    converged: bool
    reason: IntArray
    warnings: tuple[Caution, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class AnnotatorAccuracy:
    """How often each annotator is right, NaN where `reason` is not 0. All intervals are at the level .95.

    Attributes:
        value: [W] Σ_k π_k θ_wkk.
        low, high: [W] quantiles of Beta(c + 4, n − c + 2(K−1)), c the votes expected to be right; widened to `value`.
        cell_low, cell_high: [W, true, observed] the same for each cell of `theta`.
        n: [W] weight of the votes of each annotator.
        reason: [W] 0, or the number of `no_votes`.
    """

    value: FloatArray
    low: FloatArray
    high: FloatArray
    cell_low: FloatArray
    cell_high: FloatArray
    n: FloatArray
    reason: IntArray


class Method(StrEnum):
    """What `held_out_log_loss` can judge. `mle` is Dawid-Skene without prior; `vote_share` stands for the majority."""

    CLASS_SHARES = "class_shares"
    VOTE_SHARE = "vote_share"
    ONE_COIN = "one_coin"
    DAWID_SKENE = "dawid_skene"
    MLE = "mle"
    GLAD = "glad"


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
    LLMFAO, where 16.5 % of the pairs tie). Weights that differ by rounding alone are equal.
    """
    by_class = check_counts(counts).T.copy()  # numpy reduces a short last axis many times slower than the first
    votes = by_class.sum(axis=0)
    has_votes = votes > 0
    top = (by_class >= by_class.max(axis=0) * (1 - 1e-12)) & has_votes
    leading = top.sum(axis=0, dtype=np.int16)
    reason = np.where(leading > 1, Reason.TIED_TOP.number, np.where(has_votes, 0, Reason.NO_VOTES.number))
    label = np.where(leading == 1, (np.arange(len(top), dtype=np.float64) @ top).astype(np.int64), -1)
    share = by_class
    share /= np.where(has_votes, votes, np.nan)
    return Majority(label=label, share=share.T, top=top.T, reason=reason)


def preference_values(K: int) -> FloatArray:
    """What each class says about "a is better": 1 before the middle, ½ in it, 0 after it: [K]."""
    K = check_size(K, name="K", at_least=2)
    position = np.arange(K, dtype=np.float64)
    sign: FloatArray = np.sign(position - (K - 1) / 2)
    return (1 - sign) / 2


def preference_share(counts: npt.ArrayLike) -> FloatArray:
    """p_a + ½ p_tie of the votes on each item, unsmoothed: [n]; NaN in items without votes."""
    c = check_counts(counts)
    return majority(c).share @ preference_values(c.shape[1])


def soft_labels(
    result: Majority | WeightedVote | DawidSkeneResult | OneCoin | Glad, counts: npt.ArrayLike
) -> SoftLabels:
    """Training targets for each item.

    `prob` of a model is P(a) + ½ P(tie). A majority is a hard label: `prob` is 1 for a, 0 for b, ½ for a tie, and ½ as
    well where no class leads (also when a and tie lead together: there is no majority, and `share` carries the lean).
    `share` is (C_a + ½C_tie + ½)/(C + 1).

    Args:
        result: of any aggregation of the same votes.
        counts: `vote_counts` [n, K] of these votes.
    """
    c = check_counts(counts)
    values = preference_values(c.shape[1])
    opinion = result.share if isinstance(result, Majority | WeightedVote) else result.q
    if opinion.shape != c.shape:
        raise ValueError(f"counts must have the shape of the result, {opinion.shape}, got {c.shape}")
    has_votes = result.reason != Reason.NO_VOTES.number
    prob = opinion @ values
    if isinstance(result, Majority | WeightedVote):
        prob = np.where(result.label >= 0, values[result.label], 0.5)

    def known(numbers: FloatArray) -> FloatArray:
        return np.where(has_votes, numbers, np.nan)

    return SoftLabels(
        prob=known(prob),
        share=known((c @ values + 0.5) / (c.sum(axis=1) + 1)),
        p_tie=known(opinion @ (values == 0.5).astype(np.float64)),
        confidence=known(opinion.max(axis=1)),
        reason=np.where(has_votes, 0, result.reason),
    )


def weighted_vote(
    item: npt.ArrayLike,
    annotator: npt.ArrayLike,
    label: npt.ArrayLike,
    *,
    n_items: int,
    n_annotators: int,
    K: int,
) -> WeightedVote:
    """The majority again, each vote weighted by its annotator's mean agreement with the plain majority. One round.

    s_w = mean over w's votes of [l ∈ top_i]/|top_i|, p_ik ∝ Σ s_w [l = k]. The weights of an item are never all 0:
    whoever voted for a leading class has agreed once.

    Raises:
        ValueError: naming the argument that is malformed.

    Source: "worker agreement with aggregate", Ustalov, Pavlichenko & Tseitlin 2024.
    """
    n_items, n_annotators, K = check_sizes(n_items, n_annotators, K)
    items, people, labels = check_votes(item, annotator, label, n_items=n_items, n_annotators=n_annotators, K=K)
    counts = vote_counts(items, labels, n_items=n_items, K=K)
    own = _own_counts(items, people, labels, n_annotators=n_annotators, K=K)
    weight, given = _agreement(counts[items], people, labels, n_annotators=n_annotators)
    skill, shared = _agreement(counts[items] - own, people, labels, n_annotators=n_annotators)
    found = majority(vote_counts(items, labels, n_items=n_items, K=K, weight=weight[people]))
    lonely = np.where(given > 0, Reason.NO_OVERLAP.number, Reason.NO_VOTES.number)
    return WeightedVote(
        label=found.label,
        share=found.share,
        top=found.top,
        reason=found.reason,
        weight=weight,
        skill=skill,
        skill_reason=np.where(shared > 0, 0, lonely).astype(np.int64),
    )


def _own_counts(items: IntArray, people: IntArray, labels: IntArray, *, n_annotators: int, K: int) -> FloatArray:
    """For each vote, what its annotator said of its item, that vote and the repeats of it, by class: [V, K]."""
    turn = _turns(items, people, n_annotators=n_annotators)
    return vote_counts(turn, labels, n_items=len(turn), K=K)[turn]


def _turns(items: IntArray, people: IntArray, *, n_annotators: int) -> IntArray:
    """The same code for all votes of a person on an item: [V]."""
    return np.asarray(np.unique(items * n_annotators + people, return_inverse=True)[1], dtype=np.int64)


def _agreement(
    counts: FloatArray, people: IntArray, labels: IntArray, *, n_annotators: int
) -> tuple[FloatArray, FloatArray]:
    """The mean of [l ∈ top]/|top| over each annotator's votes [W], NaN without any, and how many those are [W].

    Args:
        counts: [V, K] what each vote is held against; one against nothing does not enter.
    """
    top = majority(counts).top
    compared = counts.sum(axis=1) > 0
    right = np.where(top[np.arange(len(labels)), labels], 1 / np.maximum(top.sum(axis=1), 1), 0.0)
    n = sums_by(people, compared, size=n_annotators)
    return ratio(sums_by(people, right, size=n_annotators), n), n


def default_prior(K: int) -> tuple[FloatArray, float]:
    """The pseudo-counts (γ [K, K], c) of `dawid_skene`: 3 on the diagonal of each confusion row, 1 off it; 1 a class.

    Weak, and yet on real votes it lowers the loss on hidden ones from 1.15 to .86 (LLMFAO): without it the confusion
    matrices of people with few votes are ones and zeros.
    """
    K = check_size(K, name="K", at_least=2)
    return np.ones((K, K)) + 2 * np.eye(K), 1.0


def prior_confusion(K: int) -> FloatArray:
    """θ [true, observed] of somebody without votes under the default prior: the mean of its Dirichlet rows."""
    return prior_mean(default_prior(K)[0])


def dawid_skene(
    item: npt.ArrayLike,
    annotator: npt.ArrayLike,
    label: npt.ArrayLike,
    *,
    n_items: int,
    n_annotators: int,
    K: int,
    prior: Literal["default"] | Prior | None = "default",
    gold: npt.ArrayLike | None = None,
    weight: npt.ArrayLike | None = None,
    init: npt.ArrayLike | None = None,
    tol: float = 1e-6,
    max_iter: int = 500,
) -> DawidSkeneResult:
    """Posterior of each item's class and the confusion matrix of each annotator, by EM. O(V·K) a step.

    P(l | true k, w) = θ_wkl, P(true k) = π_k. An annotator may vote on an item repeatedly: each vote counts.

    Args:
        prior: (γ [K, K], c), pseudo-counts of the cells of θ and of the classes, so that Dirichlet(γ + 1) and
            Dirichlet(c + 1) are at their mode; None: maximum likelihood, for comparison with the literature.
        gold: [n] the known class of an item, −1 where unknown.
        weight: [V] ≥ 0, default 1; an integer weight equals that many copies.
        init: [n, K] posterior to start from, as an earlier `q`; default the vote shares.
        tol: it stops when the objective changes by less than tol · V nats.

    Raises:
        ValueError: naming the argument that is malformed.

    Source: Dawid & Skene 1979, eq. 2.3-2.5.
    """
    n_items, n_annotators, K = check_sizes(n_items, n_annotators, K)
    items, people, labels = check_votes(item, annotator, label, n_items=n_items, n_annotators=n_annotators, K=K)
    tol, max_iter = _stopping_rule(tol, max_iter)
    gamma, c = _pseudo_counts(prior, K=K)
    known = _known_classes(gold, n_items=n_items, K=K)
    weights = _weights(weight, length=len(items))
    counts = vote_counts(items, labels, n_items=n_items, K=K, weight=weights)
    start = shares(counts) if init is None else _start(init, shape=counts.shape)
    votes = vote_matrix(items, people, labels, weights, n_items=n_items, n_annotators=n_annotators, K=K)
    found = fit_confusions(votes, start, known=known, gamma=gamma, c=c, tol=tol, max_iter=max_iter)
    return _as_result(found, voted=np.asarray(counts.any(axis=1)), alone=len(np.unique(people[weights > 0])) == 1)


def _as_result(found: Fit, *, voted: BoolArray, alone: bool) -> DawidSkeneResult:
    cautions = {Caution.FEW_VOTES: alone, Caution.NOT_CONVERGED: not found.converged}
    return DawidSkeneResult(
        q=found.q,
        theta=found.theta,
        pi=found.pi,
        objective=np.array(found.objective),
        n_iter=len(found.objective),
        converged=found.converged,
        reason=np.where(voted, 0, Reason.NO_VOTES.number).astype(np.int64),
        warnings=tuple(caution for caution, applies in cautions.items() if applies),
    )


def _stopping_rule(tol: float, max_iter: int) -> tuple[float, int]:
    return check_not_negative(tol, name="tol"), check_size(max_iter, name="max_iter", at_least=1)


def _weights(weight: npt.ArrayLike | None, *, length: int) -> FloatArray:
    return np.ones(length) if weight is None else check_weight(weight, length=length)


def _pseudo_counts(prior: Literal["default"] | Prior | None, *, K: int) -> tuple[FloatArray, float]:
    if prior is None:
        return np.zeros((K, K)), 0.0
    if isinstance(prior, str) and prior == "default":
        return default_prior(K)
    if not isinstance(prior, tuple | list) or len(prior) != 2:
        raise ValueError(f"prior must be 'default', None or (gamma, c), got {prior!r}")
    gamma, c = as_numbers(prior[0], name="prior"), check_not_negative(prior[1], name="prior c")
    if gamma.shape != (K, K) or not np.all(np.isfinite(gamma)) or np.any(gamma < 0):
        raise ValueError(f"prior must hold gamma of shape ({K}, {K}), finite and not negative, got {gamma.shape}")
    return gamma, c


def _known_classes(gold: npt.ArrayLike | None, *, n_items: int, K: int) -> IntArray:
    if gold is None:
        return np.full(n_items, -1, dtype=np.int64)
    known = check_codes(gold, name="gold", length=n_items)
    if len(known) and (known.min() < -1 or known.max() >= K):
        raise ValueError(f"gold must lie in -1..{K - 1}")
    return known


def _start(init: npt.ArrayLike, *, shape: tuple[int, ...]) -> FloatArray:
    q = as_numbers(init, name="init")
    if q.shape != shape or not np.all(np.isfinite(q)) or np.any(q < 0) or np.any(q.sum(axis=1) <= 0):
        raise ValueError(f"init must have shape {shape}, no negative entry and rows with positive mass, got {q.shape}")
    return shares(q)


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
    """Dawid and Skene's model with one number a person: right with p, else any other class alike. O(V·K) a step.

    p = (c + 4)/(n + 6) with c the expected right votes of n. For the online path and for people with few votes only:
    where errors are not symmetric it errs more than the majority (bluebirds 41.7 % against 24.1 %).

    Args:
        tol: mean |Δq| at which it stops.

    Raises:
        ValueError: naming the argument that is malformed.

    Source: Dawid & Skene 1979 with tied confusion rows; Zhang, Chen, Zhou & Jordan 2014 for its faults.
    """
    n_items, n_annotators, K = check_sizes(n_items, n_annotators, K)
    items, people, labels = check_votes(item, annotator, label, n_items=n_items, n_annotators=n_annotators, K=K)
    tol, max_iter = _stopping_rule(tol, max_iter)
    counts = vote_counts(items, labels, n_items=n_items, K=K)
    votes = vote_matrix(items, people, labels, np.ones(len(items)), n_items=n_items, n_annotators=n_annotators, K=K)
    voted = counts.any(axis=1)
    given = np.bincount(people, minlength=n_annotators)
    q, pi, step, converged = shares(counts), np.full(K, 1 / K), 0, not voted.any()
    p = np.full(n_annotators, 4 / 6)
    while not converged and step < max_iter:
        step += 1
        right = expected_counts(votes, q).trace(axis1=1, axis2=2)
        p = np.clip((right + 4) / (given + 6), 1e-6, 1 - 1e-6)
        pi = shares(voted @ q)
        fresh, _ = posterior(log_likelihood(votes, coin_confusion(p, K=K)) + log_or_never(pi))
        converged = bool(np.abs(fresh - q)[voted].mean() < tol)
        q = fresh
    reason = np.where(voted, 0, Reason.NO_VOTES.number).astype(np.int64)
    return OneCoin(q=q, accuracy=p, pi=pi, n_iter=step, converged=converged, reason=reason)


def coin_confusion(accuracy: npt.ArrayLike, *, K: int) -> FloatArray:
    """θ [W, true, observed] of people who are right with p and otherwise take any other class alike."""
    p = as_numbers(accuracy, name="accuracy")
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
    before, confusion = as_numbers(q, name="q"), as_numbers(theta, name="theta")
    if before.ndim != 2 or not np.all(np.isfinite(before)) or np.any(before < 0) or np.any(before.sum(axis=1) <= 0):
        raise ValueError(f"q must have shape (items, classes) and rows with positive mass, got {before.shape}")
    K = before.shape[1]
    if confusion.ndim != 3 or confusion.shape[1:] != (K, K):
        raise ValueError(f"theta must have shape (annotators, {K}, {K}), got {confusion.shape}")
    items = check_codes(item, name="item", size=len(before))
    people = check_codes(annotator, name="annotator", size=len(confusion), length=len(items))
    labels = check_codes(label, name="label", size=K, length=len(items))
    log_theta = log_or_never(confusion[people, :, labels])
    gained = [sums_by(items, log_theta[:, k], size=len(before)) for k in range(K)]
    return posterior(log_or_never(before) + np.stack(gained, axis=1))[0]


def leave_one_out(
    result: DawidSkeneResult | OneCoin,
    item: npt.ArrayLike,
    annotator: npt.ArrayLike,
    label: npt.ArrayLike,
    *,
    n_items: int,
    n_annotators: int,
    K: int,
    weight: npt.ArrayLike | None = None,
    gold: npt.ArrayLike | None = None,
) -> FloatArray:
    """q^(−v), for each vote the posterior of its item as the other votes give it at the same θ and π: [V, K].

    ∝ q_ik / θ_wkl, taken from the votes and not from q, so that it exists also where θ_wkl = 0. Every comparison of an
    annotator with the consensus uses it, or `posterior_of_others` where people voted repeatedly: with the own vote
    inside, agreement on LLMFAO is .691 instead of .594.

    Args:
        result: a fit to these votes. weight, gold: as in the fit; the vote is left out with its whole weight.

    Raises:
        ValueError: naming the argument that is malformed, or when the other votes leave no class possible.
    """
    n_items, n_annotators, K = check_sizes(n_items, n_annotators, K)
    votes = check_votes(item, annotator, label, n_items=n_items, n_annotators=n_annotators, K=K)
    weights, known = _weights(weight, length=len(votes[0])), _known_classes(gold, n_items=n_items, K=K)
    _check_result(result, n_items=n_items, n_annotators=n_annotators, K=K)
    return _posterior_without(result, *votes, weights=weights, known=known, turn=None)


def posterior_of_others(
    result: DawidSkeneResult | OneCoin,
    item: npt.ArrayLike,
    annotator: npt.ArrayLike,
    label: npt.ArrayLike,
    *,
    n_items: int,
    n_annotators: int,
    K: int,
    gold: npt.ArrayLike | None = None,
) -> FloatArray:
    """`leave_one_out` with all votes of the same annotator on the item left out: [V, K]."""
    n_items, n_annotators, K = check_sizes(n_items, n_annotators, K)
    votes = check_votes(item, annotator, label, n_items=n_items, n_annotators=n_annotators, K=K)
    known = _known_classes(gold, n_items=n_items, K=K)
    _check_result(result, n_items=n_items, n_annotators=n_annotators, K=K)
    turn = _turns(*votes[:2], n_annotators=n_annotators)
    return _posterior_without(result, *votes, weights=np.ones(len(turn)), known=known, turn=turn)


def _posterior_without(
    result: DawidSkeneResult | OneCoin,
    items: IntArray,
    people: IntArray,
    labels: IntArray,
    *,
    weights: FloatArray,
    known: IntArray,
    turn: IntArray | None,
) -> FloatArray:
    """The posterior for each vote without it, or without all votes of the same turn: [V, K]."""
    theta = result.theta
    sizes = {"n_items": len(known), "n_annotators": len(theta), "K": len(result.pi)}
    votes = vote_matrix(items, people, labels, weights, **sizes)
    never = theta == 0
    log_theta = np.log(np.where(never, 1.0, theta))

    def of_others(table: FloatArray) -> FloatArray:
        own = weights[:, None] * table[people, :, labels]
        return sums_over_votes(votes, table)[items] - (own if turn is None else group_totals(own, turn)[turn])

    log_joint = of_others(log_theta) + log_or_never(result.pi)
    if never.any():
        log_joint[of_others(never.astype(np.float64)) > ROUNDING] = -np.inf
    rows, only = one_class_only(known[items], K=len(result.pi))
    log_joint[rows] += only
    return posterior(log_joint)[0]


def _check_result(result: DawidSkeneResult | OneCoin, *, n_items: int, n_annotators: int, K: int) -> None:
    if result.q.shape != (n_items, K) or len(result.theta) != n_annotators:
        raise ValueError(f"result must be of {n_items} items, {n_annotators} annotators and {K} classes")


def annotator_accuracy(
    result: DawidSkeneResult | OneCoin,
    item: npt.ArrayLike,
    annotator: npt.ArrayLike,
    label: npt.ArrayLike,
    *,
    n_items: int,
    n_annotators: int,
    K: int,
    weight: npt.ArrayLike | None = None,
) -> AnnotatorAccuracy:
    """How often each annotator is right, with intervals from the votes that are expected to be right.

    The expectation is that of `result.q`, in which an annotator's own vote takes part: with it left out, the doubt that
    two or three other votes leave would be counted as their errors (docs/decisions/0014). The interval is of the items
    that a person met, the value of the classes as they occur in all: where the two differ, it reaches to the value.

    Args:
        result: of the same votes; weight: as in the fit.

    Raises:
        ValueError: naming the argument that is malformed.
    """
    n_items, n_annotators, K = check_sizes(n_items, n_annotators, K)
    items, people, labels = check_votes(item, annotator, label, n_items=n_items, n_annotators=n_annotators, K=K)
    weights = _weights(weight, length=len(items))
    _check_result(result, n_items=n_items, n_annotators=n_annotators, K=K)
    cell, size = people * K + labels, n_annotators * K
    by_class = [sums_by(cell, weights * result.q[items, k], size=size).reshape(n_annotators, K) for k in range(K)]
    counts = np.stack(by_class, axis=1)  # [W, true, observed]
    n = sums_by(people, weights, size=n_annotators)
    right = np.minimum(counts.trace(axis1=1, axis2=2), n)
    value = result.theta.diagonal(axis1=1, axis2=2) @ result.pi
    prior = default_prior(K)[0] + 1
    ends = _beta_interval(right + prior[0, 0], n - right + prior[0, 1:].sum())
    low, high = np.minimum(ends[0], value), np.maximum(ends[1], value)
    rows = counts + prior
    cell_low, cell_high = _beta_interval(rows, rows.sum(axis=2, keepdims=True) - rows)
    voted = n > 0
    return AnnotatorAccuracy(
        value=np.where(voted, value, np.nan),
        low=np.where(voted, low, np.nan),
        high=np.where(voted, high, np.nan),
        cell_low=np.where(voted[:, None, None], cell_low, np.nan),
        cell_high=np.where(voted[:, None, None], cell_high, np.nan),
        n=n,
        reason=np.where(voted, 0, Reason.NO_VOTES.number).astype(np.int64),
    )


def _beta_interval(a: FloatArray, b: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The quantiles of Beta(a, b) that leave (1 − LEVEL)/2 outside on each side."""
    low, high = betaincinv(a, b, (1 - LEVEL) / 2), betaincinv(a, b, (1 + LEVEL) / 2)
    return np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)


def glad(
    item: npt.ArrayLike,
    annotator: npt.ArrayLike,
    label: npt.ArrayLike,
    *,
    n_items: int,
    n_annotators: int,
    K: int,
    tol: float = 1e-5,
    max_iter: int = 100,
    force: bool = False,
) -> Glad:
    """Ability of annotators and easiness of items together: P(l = z) = σ(a_w e^{b_i}). Weak at 1-3 votes an item.

    Args:
        tol: mean |Δq| at which it stops. force: whether to go on above 200,000 votes, at seconds a round.

    Raises:
        ValueError: naming the argument that is malformed, or `force` where it is needed.

    Source: Whitehill et al. 2009, eq. 1.
    """
    n_items, n_annotators, K = check_sizes(n_items, n_annotators, K)
    items, people, labels = check_votes(item, annotator, label, n_items=n_items, n_annotators=n_annotators, K=K)
    tol, max_iter = _stopping_rule(tol, max_iter)
    if len(items) > GLAD_VOTES and not force:
        raise ValueError(f"force must be True for more than {GLAD_VOTES} votes, got {len(items)}")
    return fit_glad(items, people, labels, n_items=n_items, n_annotators=n_annotators, K=K, tol=tol, max_iter=max_iter)


def held_out_log_loss(
    item: npt.ArrayLike,
    annotator: npt.ArrayLike,
    label: npt.ArrayLike,
    *,
    n_items: int,
    n_annotators: int,
    K: int,
    method: Method,
    rng: int | np.random.Generator,
    group: npt.ArrayLike | None = None,
) -> Estimate:
    """Mean −log P(hidden vote) in nats, lower is better: which aggregation foretells the votes of this project.

    One vote of each item with three or more is hidden and foretold from a fit to all others; probabilities below .001
    count as that.

    Args:
        method: what is judged; not glad above 200,000 votes. rng: draws the votes to hide.
        group: [n] prompt of each item, for the interval.

    Returns:
        The mean with its jackknife interval over groups; `no_votes`, or `no_overlap` if no item has three votes.

    Raises:
        ValueError: naming the argument that is malformed.
    """
    n_items, n_annotators, K = check_sizes(n_items, n_annotators, K)
    items, people, labels = check_votes(item, annotator, label, n_items=n_items, n_annotators=n_annotators, K=K)
    judged = check_choice(method, Method, name="method")
    if judged is Method.GLAD and len(items) > GLAD_VOTES:
        raise ValueError(f"method must not be glad for more than {GLAD_VOTES} votes, got {len(items)}")
    groups = np.arange(n_items) if group is None else check_codes(group, name="group", length=n_items)
    hidden = _one_vote_of_each(items, n_items=n_items, rng=np.random.default_rng(rng))
    if not len(hidden):
        return missing(Reason.NO_OVERLAP if len(items) else Reason.NO_VOTES)
    is_hidden = np.zeros(len(items), dtype=bool)
    is_hidden[hidden] = True
    votes = np.column_stack([items, people, labels])
    chance = _foretold(votes[~is_hidden], votes[is_hidden], n_items, n_annotators, K, judged)
    loss = -np.log(np.maximum(chance, HELD_OUT_FLOOR))
    return jackknife(
        group_totals(np.column_stack([loss, np.ones(len(loss))]), groups[items[is_hidden]]),
        lambda totals: ratio(totals[:, 0], totals[:, 1]),
        n=len(loss),
        bounds=(0.0, -float(np.log(HELD_OUT_FLOOR))),
        undefined=Reason.NO_OVERLAP,
    )


def _one_vote_of_each(items: IntArray, *, n_items: int, rng: np.random.Generator) -> IntArray:
    """The place of one vote, at random, of each item that has enough of them."""
    order = rng.permutation(len(items))
    drawn = order[np.unique(items[order], return_index=True)[1]]
    return drawn[np.bincount(items, minlength=n_items)[items[drawn]] >= HELD_OUT_VOTES]


def _foretold(seen: IntArray, hidden: IntArray, n_items: int, n_annotators: int, K: int, method: Method) -> FloatArray:
    """P(hidden vote | the seen votes) by `method`, one a row of `hidden`; rows are (item, annotator, label)."""
    items, people, labels = hidden.T
    fitted: DawidSkeneResult | OneCoin
    match method:
        case Method.CLASS_SHARES | Method.VOTE_SHARE:
            counts = vote_counts(seen[:, 0], seen[:, 2], n_items=n_items, K=K)
            overall = shares(counts.sum(axis=0))
            # Two votes that agree are no certainty: the shares of an item are drawn to those of the project by K votes.
            own = counts if method is Method.VOTE_SHARE else np.zeros_like(counts)
            return np.asarray(shares(own + K * overall)[items, labels])
        case Method.GLAD:
            found = glad(*seen.T, n_items=n_items, n_annotators=n_annotators, K=K)
            right, p = found.q[items, labels], found.accuracy_of(items, people)
            return np.asarray(right * p + (1 - right) * (1 - p) / (K - 1))
        case Method.ONE_COIN:
            fitted = one_coin(*seen.T, n_items=n_items, n_annotators=n_annotators, K=K)
        case Method.DAWID_SKENE:
            fitted = dawid_skene(*seen.T, n_items=n_items, n_annotators=n_annotators, K=K)
        case Method.MLE:
            fitted = dawid_skene(*seen.T, n_items=n_items, n_annotators=n_annotators, K=K, prior=None)
        case _:
            assert_never(method)
    chance: FloatArray = (fitted.q[items] * fitted.theta[people, :, labels]).sum(axis=1)
    return chance
