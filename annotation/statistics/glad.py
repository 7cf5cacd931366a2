"""GLAD: one ability a person and one easiness an item, so that hard items are not held against their annotators.

P(l = z) = σ(a_w e^{b_i}), and the other classes share the rest. Called through `aggregation.glad`, which checks.

Shapes: V votes, n items, K classes, W annotators.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from annotation.statistics.estimates import FloatArray, IntArray, Reason
from annotation.statistics.expectation import posterior, sums_by

PRIOR_MEAN = 1.0  # of a and of b, both with variance 1 (Whitehill et al. 2009, section 3)
MAXIMISATION_STEPS = 25  # of L-BFGS in each round: the next E-step moves the target anyway
STEEPEST = 30.0  # keeps e^b finite on a wild trial of the line search; the prior never lets b come near


@dataclass(frozen=True, kw_only=True, slots=True)
class Glad:
    """What `glad` found.

    Attributes:
        q: [n, K] posterior of each class; 1/K in items without votes.
        ability: [W] a, in logits at easiness b = 0; below 0 somebody who errs on purpose; the prior's 1 without votes.
        easiness: [n] b, on the log scale; the prior's 1 without votes.
        n_iter: rounds taken; converged: whether they sufficed.
        reason: [n] 0, or the number of `no_votes`.
    """

    q: FloatArray
    ability: FloatArray
    easiness: FloatArray
    n_iter: int
    converged: bool
    reason: IntArray

    def accuracy_of(self, item: IntArray, annotator: IntArray) -> FloatArray:
        """P(the vote of this annotator on this item is right), one a pair."""
        return np.asarray(expit(self.ability[annotator] * np.exp(self.easiness[item])))


def expected_loss(
    parameters: FloatArray, right: FloatArray, items: IntArray, people: IntArray, n_annotators: int
) -> tuple[float, FloatArray]:
    """−E log P(votes, a, b) up to a constant, and its gradient.

    Args:
        parameters: a [W], then b [n].
        right: [V] posterior probability that the vote is right.
    """
    a, b = parameters[:n_annotators], parameters[n_annotators:]
    scale = np.exp(np.minimum(b, STEEPEST))[items]
    logit = a[people] * scale
    off = parameters - PRIOR_MEAN
    slope = expit(logit) - right
    loss = np.logaddexp(0, logit).sum() - right @ logit + off @ off / 2
    by_annotator = sums_by(people, slope * scale, size=n_annotators)
    by_item = sums_by(items, slope * logit, size=len(b))
    return float(loss), np.concatenate([by_annotator, by_item]) + off


def fit_glad(
    items: IntArray,
    people: IntArray,
    labels: IntArray,
    *,
    n_items: int,
    n_annotators: int,
    K: int,
    tol: float,
    max_iter: int,
) -> Glad:
    """EM from the prior means. Source: Whitehill et al. 2009, eq. 1-4; for K > 2 the wrong classes share alike."""
    votes_on = np.bincount(items, minlength=n_items)
    flat = items * K + labels

    def expect(parameters: FloatArray) -> FloatArray:
        logit = parameters[people] * np.exp(parameters[n_annotators + items])
        # log P(l = z) − log P(l = another given class); what all classes of an item share cancels.
        log_odds = sums_by(flat, logit + np.log(K - 1), size=n_items * K)
        return posterior(log_odds.reshape(n_items, K))[0]

    parameters = np.full(n_annotators + n_items, PRIOR_MEAN)
    q, step, converged = expect(parameters), 0, len(items) == 0
    while not converged and step < max_iter:
        step += 1
        parameters = minimize(
            expected_loss,
            parameters,
            args=(q.ravel()[flat], items, people, n_annotators),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": MAXIMISATION_STEPS},
        ).x
        fresh = expect(parameters)
        converged = bool(np.abs(fresh - q)[votes_on > 0].mean() < tol)
        q = fresh
    return Glad(
        q=q,
        ability=parameters[:n_annotators],
        easiness=parameters[n_annotators:],
        n_iter=step,
        converged=converged,
        reason=np.where(votes_on > 0, 0, Reason.NO_VOTES.number).astype(np.int64),
    )
