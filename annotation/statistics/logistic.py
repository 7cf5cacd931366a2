"""Logistic regression of many blocks of votes at once: one block for a pooled fit, or one for each annotator.

Columns are kept as rows of an array [p, V] and the votes of a block stand together, so that every sum over blocks is
one pass through memory. Knows nothing of what is regressed on what. Data that one direction separates have no maximum:
such a block is marked, it never diverges.

Shapes: V votes, B blocks, p columns (q of them with random effects), G groups. Blocks are given by `starts` [B], the
first vote of each: ascending from 0 and none of them empty.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from annotation.statistics.estimates import BoolArray, FloatArray, IntArray, group_totals

STEPS = 100  # of Newton; a fit that exists needs about ten
FLAT = 1e-9  # of the curvature at even odds: below it the likelihood has no maximum to find
COLLINEAR = 1e-9  # smallest eigenvalue of the columns' correlation that still tells them apart
START_VARIANCE = 0.25  # of random effects, logits²
VARIANCE_FLOOR = 1e-6
ROUNDS, CHANGE = 500, 1e-4  # of Laplace EM: at most so many, and until nothing moves by more logits


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """A logistic regression in each block.

    Attributes:
        beta: [B, p] log odds per unit; 0 where there is no fit.
        bread: [B, p, p] inverse information; 0 where there is no fit.
        scores: [V, p] each vote's gradient.
        separated: [B] a direction separates the outcomes, or does not vary: there is no fit.
    """

    beta: FloatArray
    bread: FloatArray
    scores: FloatArray
    separated: BoolArray


@dataclass(frozen=True, kw_only=True, slots=True)
class MixedFit:
    """Fixed effects of all columns and random effects of the first q in each block.

    Attributes:
        beta: [p]. bread: [p, p] inverse of the information that is left for beta after the random effects.
        scores: [V, p] each vote's gradient for beta, with what the random effects would take of it taken out.
        effects: [B, q] deviations from beta. covariance: [B, q, q] of these, given beta.
        variance: [q] of the random effects.
        n_iter: rounds; converged: whether they sufficed.
    """

    beta: FloatArray
    bread: FloatArray
    scores: FloatArray
    effects: FloatArray
    covariance: FloatArray
    variance: FloatArray
    n_iter: int
    converged: bool


def varying_columns(columns: FloatArray) -> BoolArray:
    """Which of the columns [p, V] are not 0 nor a combination of earlier ones: [p]."""
    size = np.sqrt(np.sum(columns**2, axis=1))
    gram = columns @ columns.T / np.maximum(np.outer(size, size), np.finfo(np.float64).tiny)
    kept: list[int] = []
    for k in np.flatnonzero(size):
        trial = [*kept, int(k)]
        if np.linalg.eigvalsh(gram[np.ix_(trial, trial)])[0] > COLLINEAR:
            kept = trial
    return np.isin(np.arange(len(columns)), kept)


def fit_blocks(y: FloatArray, columns: FloatArray, starts: IntArray) -> Fit:
    """Maximum likelihood in each block, by damped Newton steps.

    Args:
        y: [V] outcomes in 0..1. columns: [p, V].
    """
    blocks, p = len(starts), len(columns)
    block = _block_of_each(starts, len(y))
    size = np.sqrt(np.add.reduceat(columns**2, starts, axis=1) / np.diff(starts, append=len(y)))  # [p, B]
    scaled = columns / np.where(size > 0, size, 1.0)[:, block]
    votes = np.diff(starts, append=len(y))[:, None, None]
    beta, eta = np.zeros((blocks, p)), np.zeros(len(y))
    moving, separated = np.ones(blocks, dtype=bool), np.zeros(blocks, dtype=bool)
    for _ in range(STEPS):
        curvature = information(scaled, eta, starts)
        separated |= np.linalg.eigvalsh(4 * curvature / votes)[:, 0] < FLAT
        moving &= ~separated
        if not moving.any():
            break
        curvature = np.where(moving[:, None, None], curvature, np.eye(p))
        gradient = np.where(moving[:, None], _sums(scaled * (y - expit(eta)), starts), 0.0)
        step, change, furthest = _damped(_solved(curvature, gradient), scaled, block, starts)
        beta, eta = beta + step, eta + change
        moving &= furthest > 1e-9
    separated |= moving
    scale = np.where(separated[:, None], 0.0, 1 / np.where(size > 0, size, 1.0).T)
    curvature = np.where(separated[:, None, None], np.eye(p), information(scaled, eta, starts))
    return Fit(
        beta=beta * scale,
        bread=_inverse(curvature) * scale[:, :, None] * scale[:, None, :],
        scores=(columns * (y - expit(eta))).T,
        separated=separated,
    )


def fit_mixed(y: FloatArray, columns: FloatArray, starts: IntArray, *, q: int, beta: FloatArray) -> MixedFit:
    """Random effects of the first q columns around fixed ones of all, by Laplace EM.

    A round makes one Newton step for the effects of each block, one for β with the effects as offset, and sets
    τ_k² ← mean over blocks of (b_k² + S_kk), S = (information + diag(τ⁻²))⁻¹. O(V) a round.

    Args:
        y: [V]. columns: [p, V], without separation. beta: [p] where to start.

    Source: Breslow & Clayton 1993 (penalised quasi-likelihood); the EM update of the variances, Laird & Ware 1982.
    """
    first, whole = columns[:q], np.zeros(1, dtype=np.int64)
    block, everyone = _block_of_each(starts, len(y)), np.zeros(len(y), dtype=np.int64)
    effects, variance, eta = np.zeros((len(starts), q)), np.full(q, START_VARIANCE), beta @ columns
    n_iter, converged = 0, False
    while not converged and n_iter < ROUNDS:
        n_iter += 1
        covariance = _inverse(information(first, eta, starts) + np.diag(1 / variance))
        gradient = _sums(first * (y - expit(eta)), starts) - effects / variance
        step, change, _ = _damped((covariance @ gradient[:, :, None])[:, :, 0], first, block, starts)
        effects, eta = effects + step, eta + change
        uphill = _solved(information(columns, eta, whole), _sums(columns * (y - expit(eta)), whole))
        shift, change, _ = _damped(uphill, columns, everyone, whole)
        beta, eta = beta + shift[0], eta + change
        fresh = np.maximum(np.mean(effects**2 + covariance.diagonal(axis1=1, axis2=2), axis=0), VARIANCE_FLOOR)
        moved = (np.abs(step).max(), np.abs(shift).max(), np.abs(np.sqrt(fresh) - np.sqrt(variance)).max())
        variance, converged = fresh, max(moved) < CHANGE
    covariance = _inverse(information(first, eta, starts) + np.diag(1 / variance))
    remaining, left = _profile(columns, eta, starts, covariance)
    return MixedFit(
        beta=beta,
        bread=_inverse(remaining),
        scores=(left * (y - expit(eta))).T,
        effects=effects,
        covariance=covariance,
        variance=variance,
        n_iter=n_iter,
        converged=converged,
    )


def _profile(
    columns: FloatArray, eta: FloatArray, starts: IntArray, covariance: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """What is left of β's information [p, p] and of the columns [p, V] once the random effects follow."""
    first = columns[: covariance.shape[1]]
    bend = expit(eta) * expit(-eta)
    cross = np.stack([_sums(column * bend * columns, starts) for column in first], axis=1)  # [B, q, p]
    follow = covariance @ cross
    left = columns - np.einsum("qv,vqp->pv", first, follow[_block_of_each(starts, len(eta))])
    whole = information(columns, eta, np.zeros(1, dtype=np.int64))[0]
    return whole - np.einsum("bqp,bqr->pr", cross, follow), left


def block_sandwich(
    bread: FloatArray, scores: FloatArray, group: IntArray, starts: IntArray
) -> tuple[FloatArray, IntArray]:
    """`estimates.cluster_sandwich` within each block: covariances [B, p, p], of zeros where G < 2, and groups [B].

    Args:
        bread: [B, p, p]. scores: [V, p]. group: [V] codes from 0.
    """
    block, many = _block_of_each(starts, len(group)), int(group.max()) + 1
    names, cell = np.unique(block * many + group, return_inverse=True)
    u = group_totals(scores, cell).T  # [p, cells]
    of_block = names // many
    groups = np.bincount(of_block, minlength=len(starts)).astype(np.int64)
    meat = _outer_sums(u, np.ones(len(names)), np.searchsorted(of_block, np.arange(len(starts))))
    factor = np.where(groups > 1, groups / np.maximum(groups - 1, 1), 0.0)
    return bread @ meat @ bread * factor[:, None, None], groups


def information(columns: FloatArray, eta: FloatArray, starts: IntArray) -> FloatArray:
    """Σ p(1−p) x xᵀ over the votes of each block: [B, p, p]."""
    return _outer_sums(columns, expit(eta) * expit(-eta), starts)


def _solved(matrices: FloatArray, rows: FloatArray) -> FloatArray:
    """The solution [B, p] of a linear system in each block."""
    return np.asarray(np.linalg.solve(matrices, rows[:, :, None])[:, :, 0], dtype=np.float64)


def _inverse(matrices: FloatArray) -> FloatArray:
    return np.asarray(np.linalg.inv(matrices), dtype=np.float64)


def _outer_sums(columns: FloatArray, weight: FloatArray, starts: IntArray) -> FloatArray:
    """Σ weight x xᵀ over each block: [B, p, p]; each pair of columns once, as the matrix is symmetric."""
    p = len(columns)
    sums = np.empty((len(starts), p, p))
    for i in range(p):
        weighted = columns[i] * weight
        for j in range(i, p):
            sums[:, i, j] = sums[:, j, i] = np.add.reduceat(weighted * columns[j], starts)
    return sums


def _sums(rows: FloatArray, starts: IntArray) -> FloatArray:
    """Sums of rows [p, V] over each block: [B, p]."""
    return np.add.reduceat(rows, starts, axis=1).T


def _block_of_each(starts: IntArray, votes: int) -> IntArray:
    return np.repeat(np.arange(len(starts)), np.diff(starts, append=votes))


def _damped(
    step: FloatArray, columns: FloatArray, block: IntArray, starts: IntArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Newton steps [B, p] shortened so that none overshoots, what they change in the log odds [V], and by how much [B].

    A full step can jump over the maximum for ever where one answer stands far out; one of length ln(1 + d)/d, d the
    largest change of the log odds, always climbs, and is full in the end.

    Source: Sun & Tran-Dinh 2019, generalized self-concordant functions, ν = 2.
    """
    change = np.sum(step[block].T * columns, axis=0)
    furthest = np.maximum.reduceat(np.abs(change), starts)
    length = np.where(furthest > 0, np.log1p(furthest) / np.where(furthest > 0, furthest, 1.0), 1.0)
    return step * length[:, None], change * length[block], furthest
