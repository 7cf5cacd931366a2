"""EM for annotators with confusion matrices: the two steps, each one sparse product, and the loop of Dawid-Skene.

The votes are a matrix A of items × (annotator, observed label). With log θ laid out alike, A · log θ is the
log-likelihood of each item under each class, and Aᵀ · q the expected confusion counts: O(V·K) a step, with logarithms
of θ and never of single votes. Takes checked arrays; `aggregation` holds the public functions.

Shapes: V votes, n items, K classes, W annotators; θ is [W, true, observed].
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.special import xlogy

from annotation.statistics.estimates import FloatArray, IntArray

VoteMatrix = sparse.csr_array[np.float64, tuple[int, int]]


def vote_matrix(
    items: IntArray, people: IntArray, labels: IntArray, weights: FloatArray, *, n_items: int, n_annotators: int, K: int
) -> VoteMatrix:
    """A [n, W·K]: the weight of each annotator's votes for each label on each item. O(V), by counting sort.

    Row-major, so that both products read the posteriors in order and only the small table of θ at random. Rows are
    sorted by column, so that the order in which votes come changes no bit of a result. A weight of 0 is no vote.
    """
    entries = (weights, (items, people * K + labels))
    votes: VoteMatrix = sparse.coo_array(entries, shape=(n_items, n_annotators * K)).tocsr()
    votes.eliminate_zeros()
    return votes


def expected_counts(votes: VoteMatrix, q: FloatArray) -> FloatArray:
    """Σ over the votes of w for l of q_ik: [W, true k, observed l], the M-step before it is normalised."""
    K = q.shape[1]
    return np.asarray(votes.T @ q).reshape(-1, K, K).transpose(0, 2, 1)


def sums_over_votes(votes: VoteMatrix, table: FloatArray) -> FloatArray:
    """Σ over the votes on i of table[w, k, l], a table [W, true k, observed l]: [n, K]."""
    return np.asarray(votes @ table.transpose(0, 2, 1).reshape(-1, table.shape[1]))


def log_likelihood(votes: VoteMatrix, theta: FloatArray) -> FloatArray:
    """Σ over the votes on i of log θ_wkl: [n, K]; −inf where a vote excludes the class."""
    return sums_over_votes(votes, log_or_never(theta))


def sums_by(codes: IntArray, values: npt.NDArray[np.float64 | np.bool_], *, size: int) -> FloatArray:
    """Σ of the values of each code: [size]."""
    return np.bincount(codes, weights=values, minlength=size).astype(np.float64, copy=False)


def log_or_never(probability: FloatArray) -> FloatArray:
    """Logarithms, −inf for 0 without a warning."""
    with np.errstate(divide="ignore"):
        return np.log(probability)


def posterior(log_joint: FloatArray) -> tuple[FloatArray, FloatArray]:
    """exp(log_joint) normalised over the classes, [n, K], and the logarithm of what it was divided by, [n].

    Column by column, since numpy reduces a short last axis many times slower.

    Raises:
        ValueError: if a row is −inf throughout.
    """
    top = reduce(np.maximum, log_joint.T)
    if np.any(np.isneginf(top)):
        raise ValueError("theta leaves no class possible for some item")
    q = np.exp(log_joint - top[:, None])
    mass = reduce(np.add, q.T)
    q /= mass[:, None]
    return q, top + np.log(mass)


def shares(counts: FloatArray) -> FloatArray:
    """Each row over its sum, along the last axis; uniform where a row has no mass."""
    total = counts.sum(axis=-1, keepdims=True)
    return np.where(total > 0, counts / np.where(total > 0, total, 1.0), 1 / counts.shape[-1])


def one_class_only(known: IntArray, *, K: int) -> tuple[IntArray, FloatArray]:
    """The rows with a known class (≥ 0), and what makes it the only one: [rows, K], 0 there and −inf elsewhere."""
    rows = np.flatnonzero(known >= 0)
    return rows, np.where(np.arange(K) == known[rows, None], 0.0, -np.inf)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """Where `fit_confusions` stopped; `q` is the E-step at `theta` and `pi`."""

    q: FloatArray
    theta: FloatArray
    pi: FloatArray
    objective: list[float]
    converged: bool


def fit_confusions(
    votes: VoteMatrix, q: FloatArray, *, known: IntArray, gamma: FloatArray, c: float, tol: float, max_iter: int
) -> Fit:
    """EM from the posterior q [n, K] until the objective moves by less than tol · V nats.

    F = Σ_i log Σ_k π_k Π_v θ^weight + Σ γ_kl log θ_wkl + Σ c log π_k over items and annotators with votes; an item
    whose class is `known` (≥ 0) has that class from the start and contributes its term alone. No step lowers F.

    Source: Dawid & Skene 1979, eq. 2.3-2.5, with pseudo-counts γ [K, K] and c.
    """
    K = q.shape[1]
    voted = (votes.sum(axis=1) > 0).astype(np.float64)
    active = np.asarray(votes.sum(axis=0)).reshape(-1, K).max(axis=1, initial=0) > 0
    least_change = tol * float(votes.sum())
    gold, only = one_class_only(known, K=K)
    q = q.copy()
    q[gold] = np.exp(only)
    heard = voted[gold] > 0  # gold without votes may be of a class that no vote leaves possible
    theta, pi = np.tile(prior_mean(gamma), (len(active), 1, 1)), np.full(K, 1 / K)
    objective: list[float] = []
    converged = not voted.any()
    while not converged and len(objective) < max_iter:
        theta = shares(expected_counts(votes, q) + gamma)
        pi = shares(voted @ q + c)
        log_joint = log_likelihood(votes, theta) + log_or_never(pi)
        log_joint[gold[heard]] += only[heard]
        q, evidence = posterior(log_joint)
        log_prior = xlogy(gamma, theta)[active].sum() + xlogy(c, pi).sum()
        objective.append(float(evidence @ voted + log_prior))
        converged = len(objective) > 1 and abs(objective[-1] - objective[-2]) < least_change
    theta[~active] = prior_mean(gamma)
    if not objective:
        q = np.tile(pi, (len(q), 1))
    q[gold] = np.exp(only)
    return Fit(q=q, theta=theta, pi=pi, objective=objective, converged=converged)


def prior_mean(gamma: FloatArray) -> FloatArray:
    """Mean of the Dirichlet(γ + 1) rows whose mode the pseudo-counts γ [K, K] give; 1/K without any."""
    return shares(gamma + 1)
