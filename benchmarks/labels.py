"""`python -m benchmarks.labels --json [--small]`: what asking cleverly saves, by simulation (STATISTICS 6.6).

Four questions, each answered with the functions that the product uses: how many votes a comparison should get, which
systems should meet, which completions a reward model should be told about, and how a budget of votes is spread. The
truth is drawn, so every label can be checked.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.random import Generator
from scipy.special import expit, logit, ndtri
from scipy.stats import kendalltau

from annotation.statistics.acquisition import Decision, Objective, overlap_decision, pair_gain, select_pairs, select_top
from annotation.statistics.aggregation import dawid_skene, majority, one_coin, vote_counts
from annotation.statistics.estimates import BoolArray, FloatArray, IntArray
from annotation.statistics.ranking import bradley_terry
from benchmarks.report import Row, shorter, show

MOST_VOTES = 3.3  # the issue: adaptive overlap reaches fixed-5 accuracy with so many votes a comparison
MOST_SHARE = 0.65  # the issue: order-weighted pairing needs at most this share of the votes of random pairing
CONTROL_SHARE = 0.1  # of a batch drawn at random, as the product always does; the pure strategies have none

# --- adaptive overlap -------------------------------------------------------------------------------------------------

PAIRS, ANNOTATORS, START, CAP = 4_000, 40, 2, 9
KINDS = ((0.85, 28), (0.68, 8), (0.5, 4))  # accuracy and number of the careful, the careless and the coin-flippers
SPREAD = 0.05  # SD of a person's accuracy around that of the kind; coin-flippers have none
TAUS = (0.8, 0.85, 0.87, 0.9, 0.925, 0.95, 0.98)
DEFAULT_TAU = 0.95
DIFFICULTY = {"equally hard": 0.0, "mixed difficulty": 0.6}  # SD of log discrimination


class Sizes(TypedDict):
    """What the aggregation is told beside the votes."""

    n_items: int
    n_annotators: int
    K: int


Posterior = Callable[[IntArray, IntArray, IntArray], FloatArray]
_SIZES = Sizes(n_items=PAIRS, n_annotators=ANNOTATORS, K=2)
GATE = "one-coin"
METHODS: dict[str, Posterior] = {
    GATE: lambda *votes: one_coin(*votes, **_SIZES).q,
    "Dawid-Skene": lambda *votes: dawid_skene(*votes, **_SIZES).q,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Crowd:
    """Every vote that could be asked for: who answers a pair in which order, and what they would say.

    Attributes:
        annotator, label: [n, CAP], the next person in turn and their class. truth: [n].
    """

    annotator: IntArray
    label: IntArray
    truth: IntArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Labelled:
    """What a way of asking led to: mean votes of a pair, share of right labels, and how sure the posterior was."""

    votes: float
    accuracy: float
    calibration_error: float
    over_confidence: float


def crowd(rng: Generator, *, spread_of_difficulty: float) -> Crowd:
    """P(right) = σ(discrimination · logit accuracy), discrimination log-normal with mean 1 (after Whitehill 2009)."""
    kind = np.repeat([accuracy for accuracy, _ in KINDS], [n for _, n in KINDS])
    drawn = np.clip(kind + SPREAD * rng.normal(size=ANNOTATORS), 0.5, 0.99)
    accuracy = np.where(kind == 0.5, 0.5, drawn)
    annotator = rng.random((PAIRS, ANNOTATORS)).argsort(axis=1)[:, :CAP]
    s = spread_of_difficulty
    discrimination = np.exp(s * rng.normal(size=PAIRS) - s**2 / 2)
    truth = rng.integers(0, 2, size=PAIRS)
    right = rng.random((PAIRS, CAP)) < expit(discrimination[:, None] * logit(accuracy)[annotator])
    return Crowd(annotator=annotator, label=np.where(right, truth[:, None], 1 - truth[:, None]), truth=truth)


def posterior(world: Crowd, votes: IntArray, method: Posterior) -> FloatArray:
    """q [n, K] from the first `votes` [n] answers of each pair."""
    asked = np.arange(CAP) < votes[:, None]
    item = np.nonzero(asked)[0]
    return method(item, world.annotator[asked], world.label[asked])


def ask_fixed(world: Crowd, votes: int, method: Posterior) -> Labelled:
    """The same number of votes for every pair."""
    asked = np.full(PAIRS, votes)
    q = posterior(world, asked, method)
    return judged(world, asked, q, np.ones(PAIRS, dtype=bool))


def ask_adaptively(world: Crowd, method: Posterior, *, tau: float) -> Labelled:
    """Votes one by one, the model refitted after each, until the rule stops each pair; what has stopped stays so."""
    votes = np.full(PAIRS, START)
    confident = np.zeros(PAIRS, dtype=bool)
    is_open = np.ones(PAIRS, dtype=bool)
    while True:
        q = posterior(world, votes, method)
        decision = overlap_decision(q, votes, tau=tau, start=START, cap=CAP)
        confident |= is_open & (decision == Decision.STOP_CONFIDENT)
        is_open &= decision == Decision.MORE
        if not is_open.any():
            return judged(world, votes, q, confident)
        votes = votes + is_open


def judged(world: Crowd, votes: IntArray, q: FloatArray, stopped: BoolArray) -> Labelled:
    """Accuracy of all labels; calibration of those that were `stopped` because the posterior sufficed."""
    top = q == q.max(axis=1, keepdims=True)
    right = top[np.arange(PAIRS), world.truth] / top.sum(axis=1)  # a tie at the top counts as a half
    sure = q.max(axis=1)[stopped]
    error, over = calibration(sure, right[stopped])
    return Labelled(
        votes=float(votes.mean()), accuracy=float(right.mean()), calibration_error=error, over_confidence=over
    )


def calibration(sure: FloatArray, right: FloatArray, *, bins: int = 10) -> tuple[float, float]:
    """Expected calibration error over bins of equal numbers, and mean confidence − mean accuracy."""
    order = np.array_split(np.argsort(sure, kind="stable"), bins)
    gaps = np.array([abs(sure[part].mean() - right[part].mean()) for part in order])
    share = np.array([len(part) for part in order]) / len(sure)
    return float(gaps @ share), float(sure.mean() - right.mean())


def mean_of(results: Sequence[Labelled]) -> Labelled:
    """The mean over seeds."""
    columns = [[getattr(result, name) for result in results] for name in Labelled.__slots__]
    return Labelled(**dict(zip(Labelled.__slots__, np.mean(columns, axis=1).tolist(), strict=True)))


def overlap_rows(seeds: int) -> Iterator[Row]:
    """Votes that the accuracy of fixed 5 costs, what the default bound buys, and how sure it rightly was."""
    for difficulty, spread in DIFFICULTY.items():
        worlds = [crowd(np.random.default_rng(seed), spread_of_difficulty=spread) for seed in range(seeds)]
        for name, method in METHODS.items():
            variant = f"{difficulty}, {name}"
            fixed = {k: mean_of([ask_fixed(world, k, method) for world in worlds]) for k in (3, 5, 7)}
            adaptive = {tau: mean_of([ask_adaptively(world, method, tau=tau) for world in worlds]) for tau in TAUS}
            for k, result in fixed.items():
                print(f"{variant}, fixed {k}: accuracy {result.accuracy:.4f}")
            for tau, result in adaptive.items():
                print(f"{variant}, tau {tau}: {result.votes:.2f} votes, accuracy {result.accuracy:.4f}")
            curve = list(adaptive.values())
            votes = cost_of(
                fixed[5].accuracy, [result.accuracy for result in curve], [result.votes for result in curve]
            )
            yield _against(
                f"adaptive overlap, {variant}", "votes a comparison for the accuracy of fixed 5", votes, peer=5.0,
                peer_name="fixed 5", target=5 / MOST_VOTES if name == GATE else None,
            )  # fmt: skip
            yield from _default_rows(variant, adaptive[DEFAULT_TAU], fixed[7])


def _default_rows(variant: str, result: Labelled, fixed: Labelled) -> Iterator[Row]:
    what = f"tau {DEFAULT_TAU}, {variant}"
    yield _against(what, "votes a comparison", result.votes, peer=7.0, peer_name="fixed 7")
    yield Row(
        what=what, unit="accuracy", ours=round(result.accuracy, 4), peer=round(fixed.accuracy, 4), peer_name="fixed 7",
        ratio=round(result.accuracy / fixed.accuracy, 3),
    )  # fmt: skip
    what = f"calibration of stopped labels, {variant}"
    yield Row(what=what, unit="expected calibration error", ours=round(result.calibration_error, 4))
    yield Row(what=what, unit="mean confidence − accuracy", ours=round(result.over_confidence, 4))


# --- which systems meet -----------------------------------------------------------------------------------------------

SYSTEMS, BATCH, RANKING_VOTES, WANTED_TAU = 20, 10, 1_500, 0.9
RANDOM = "random pairing"
ORDER_ROW = "order-weighted information-gain pairing"
_A, _B = np.triu_indices(SYSTEMS, 1)
# Quantiles of N(0, 1), not draws from it: how near the nearest two lie would decide more than how they are asked about.
TRUTH = ndtri((np.arange(SYSTEMS) + 0.5) / SYSTEMS)
CONTRASTS = np.eye(SYSTEMS)[_A] - np.eye(SYSTEMS)[_B]  # [190, SYSTEMS], the pairs that can meet

Choose = Callable[[FloatArray, FloatArray, FloatArray, Generator], IntArray]  # x, mean, cov → places of a batch


def at_random(x: FloatArray, mean: FloatArray, cov: FloatArray, rng: Generator) -> IntArray:
    """Drawn from all candidates."""
    return rng.choice(len(x), size=BATCH, replace=False)


def by_uncertainty(x: FloatArray, mean: FloatArray, cov: FloatArray, rng: Generator) -> IntArray:
    """Those that the estimate puts nearest to a half, however well it knows them."""
    return select_top(-np.abs(x @ mean), size=BATCH, explore=0.0, rng=rng).index


def by_gain(objective: Objective, *, explore: float = 0.0) -> Choose:
    """The greedy batch of the product."""

    def choose(x: FloatArray, mean: FloatArray, cov: FloatArray, rng: Generator) -> IntArray:
        return select_pairs(x, mean=mean, cov=cov, size=BATCH, objective=objective, explore=explore, rng=rng).index

    return choose


def by_bald(x: FloatArray, mean: FloatArray, cov: FloatArray, rng: Generator) -> IntArray:
    """Those on which an ensemble disagrees most, here 32 draws from the posterior."""
    ensemble = rng.multivariate_normal(mean, cov, size=32, method="cholesky")
    gain = pair_gain(ensemble @ x.T, objective=Objective.BALD)
    return select_top(gain, size=BATCH, explore=0.0, rng=rng).index


RANKING_CHOICES: dict[str, Choose] = {
    RANDOM: at_random,
    "uncertainty pairing": by_uncertainty,
    "D-optimal pairing": by_gain(Objective.STRENGTH),
    ORDER_ROW: by_gain(Objective.ORDER),
    f"{ORDER_ROW}, with its control": by_gain(Objective.ORDER, explore=CONTROL_SHARE),
}


def ranked(choose: Choose, *, seed: int) -> FloatArray:
    """Kendall τ with the truth and rmse of the strengths after each batch: [batches, 2]. The first batch is drawn."""
    rng = np.random.default_rng(seed)
    pick = rng.choice(len(CONTRASTS), size=BATCH, replace=False)
    asked, outcome = np.empty(0, dtype=np.int64), np.empty(0)
    quality = []
    for _ in range(RANKING_VOTES // BATCH):
        asked = np.append(asked, pick)
        outcome = np.append(outcome, (rng.random(BATCH) < expit(CONTRASTS[pick] @ TRUTH)).astype(np.float64))
        fit = bradley_terry(_A[asked], _B[asked], outcome, n=SYSTEMS, rng=None)
        strength = np.where(np.isfinite(fit.strength), fit.strength, 0.0)  # that of the prior, where none has voted
        quality.append((kendalltau(strength, TRUTH).statistic, np.sqrt(np.mean((strength - TRUTH) ** 2))))
        assert fit.cov is not None
        pick = choose(CONTRASTS, strength, fit.cov, rng)
    return np.array(quality)


def ranking_rows(seeds: int) -> Iterator[Row]:
    """Votes to the same ranking quality, and what becomes of the strengths."""
    grid = np.arange(BATCH, RANKING_VOTES + 1, BATCH, dtype=np.float64)
    curves = {
        name: np.mean([ranked(choose, seed=seed) for seed in range(seeds)], axis=0)
        for name, choose in RANKING_CHOICES.items()
    }
    needed = {name: cost_of(WANTED_TAU, curve[:, 0], grid) for name, curve in curves.items()}
    for name in [name for name in RANKING_CHOICES if name != RANDOM]:
        yield _against(
            name, f"votes to Kendall tau {WANTED_TAU}", needed[name], peer=needed[RANDOM], peer_name=RANDOM,
            target=1 / MOST_SHARE if name == ORDER_ROW else None,
        )  # fmt: skip
        yield _against(
            f"{name}, strengths", f"rmse in logits at {RANKING_VOTES} votes", float(curves[name][-1, 1]),
            peer=float(curves[RANDOM][-1, 1]), peer_name=RANDOM,
        )  # fmt: skip


# --- what a reward model is told about --------------------------------------------------------------------------------

DIMENSIONS, POOL, REWARD_VOTES, WANTED_ACCURACY = 32, 1_000, 2_000, 0.9
SPREAD_OF_REWARD = 2.0  # SD of the reward difference of two completions, in logits
REWARD_CHOICES: dict[str, Choose] = {
    RANDOM: at_random,
    "uncertainty": by_uncertainty,
    "BALD": by_bald,
    "D-optimal": by_gain(Objective.STRENGTH),
}


def fit_reward(x: FloatArray, q: FloatArray, *, l2: float = 1.0) -> tuple[FloatArray, FloatArray]:
    """Weights and covariance of a linear reward from preferences q of a over b: Newton to the mode, Laplace there."""
    weights: FloatArray = np.zeros(x.shape[1])
    while True:
        p = expit(x @ weights)
        hessian = (x.T * (p * (1 - p))) @ x + l2 * np.eye(len(weights))
        step = np.linalg.solve(hessian, x.T @ (q - p) - l2 * weights)
        weights = weights + step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < 1e-8:
            return weights, np.asarray(np.linalg.inv(hessian), dtype=np.float64)


def agreement(weights: FloatArray, truth: FloatArray) -> float:
    """Share of pairs of isotropic features that both order alike: 1 − angle/π."""
    cosine = weights @ truth / (np.linalg.norm(weights) * np.linalg.norm(truth))
    return float(1 - np.arccos(np.clip(cosine, -1, 1)) / np.pi)


def rewarded(choose: Choose, *, seed: int) -> FloatArray:
    """Accuracy of the reward model after each batch; each batch is chosen from fresh candidates."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=DIMENSIONS)
    truth *= SPREAD_OF_REWARD / np.linalg.norm(truth)
    weights, cov = np.zeros(DIMENSIONS), np.eye(DIMENSIONS)
    told, said = np.empty((0, DIMENSIONS)), np.empty(0)
    accuracy = []
    for _ in range(REWARD_VOTES // BATCH):
        pool = rng.normal(size=(POOL, DIMENSIONS))
        x = pool[choose(pool, weights, cov, rng)]
        told = np.concatenate([told, x])
        said = np.append(said, (rng.random(len(x)) < expit(x @ truth)).astype(np.float64))
        weights, cov = fit_reward(told, said)
        accuracy.append(agreement(weights, truth))
    return np.array(accuracy)


def reward_rows(seeds: int) -> Iterator[Row]:
    """Votes to the same reward-model accuracy."""
    grid = np.arange(BATCH, REWARD_VOTES + 1, BATCH, dtype=np.float64)
    needed = {
        name: cost_of(WANTED_ACCURACY, np.mean([rewarded(choose, seed=seed) for seed in range(seeds)], axis=0), grid)
        for name, choose in REWARD_CHOICES.items()
    }
    for name in [name for name in REWARD_CHOICES if name != RANDOM]:
        yield _against(
            f"linear reward model, {name}", f"votes to accuracy {WANTED_ACCURACY}", needed[name],
            peer=needed[RANDOM], peer_name=RANDOM,
        )  # fmt: skip


# --- how a budget is spread -------------------------------------------------------------------------------------------

BUDGET, BUDGET_DIMENSIONS = 3_000, 64


def spread_rows(seeds: int) -> Iterator[Row]:
    """Accuracy of a reward model from the majority labels of many pairs judged once, or fewer judged more often."""
    accuracy = {
        k: float(np.mean([spread_accuracy(np.random.default_rng(seed), votes_of_pair=k) for seed in range(seeds)]))
        for k in (1, 3, 5)
    }
    for k in (3, 5):
        yield Row(
            what=f"overlap budget, 1 vote a pair against {k}", unit=f"reward-model accuracy at {BUDGET} votes",
            ours=round(accuracy[1], 4), peer=round(accuracy[k], 4), peer_name=f"{k} votes a pair",
            ratio=round(accuracy[1] / accuracy[k], 3),
        )  # fmt: skip


def spread_accuracy(rng: Generator, *, votes_of_pair: int) -> float:
    """A vote is the pair's own draw from σ(Δ), turned round where its annotator errs."""
    truth = rng.normal(size=BUDGET_DIMENSIONS)
    truth *= SPREAD_OF_REWARD / np.linalg.norm(truth)
    n = BUDGET // votes_of_pair
    x = rng.normal(size=(n, BUDGET_DIMENSIONS))
    kinds, numbers = zip(*KINDS, strict=True)
    errs = rng.random((n, votes_of_pair)) >= rng.choice(
        kinds, p=np.array(numbers) / ANNOTATORS, size=(n, votes_of_pair)
    )
    prefers_b = (rng.random((n, votes_of_pair)) >= expit(x @ truth)[:, None]) ^ errs
    item = np.repeat(np.arange(n), votes_of_pair)
    label = majority(vote_counts(item, prefers_b.ravel().astype(np.int64), n_items=n, K=2)).label
    return agreement(fit_reward(x, (1 - label).astype(np.float64))[0], truth)


# --- the program ------------------------------------------------------------------------------------------------------


def cost_of(wanted: float, quality: Sequence[float] | FloatArray, cost: Sequence[float] | FloatArray) -> float:
    """The cost at which a quality is reached, interpolated along the best so far; at most the last cost."""
    return float(np.interp(wanted, np.maximum.accumulate(quality), cost))


def _against(what: str, unit: str, ours: float, *, peer: float, peer_name: str, target: float | None = None) -> Row:
    """A row where less is better; without a target it is reported, not judged."""
    if target is not None:
        return shorter(what, unit, ours, peer=peer, peer_name=peer_name, target=target)
    return Row(
        what=what, unit=unit, ours=round(ours, 3), peer=round(peer, 3), peer_name=peer_name, ratio=round(peer / ours, 3)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="the JSON object as the last line")
    parser.add_argument("--small", action="store_true", help="fewer seeds, within two minutes")
    given = parser.parse_args()
    seeds, rankings = (2, 24) if given.small else (8, 300)
    rows = [
        *overlap_rows(seeds),
        *ranking_rows(rankings),
        *reward_rows(2 * seeds),
        *spread_rows(2 * seeds),
    ]
    show("labels", rows, as_json=given.json, seeds=seeds, ranking_seeds=rankings)


if __name__ == "__main__":
    main()
