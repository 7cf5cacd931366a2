"""`python -m benchmarks.statistics --json [--small] [--crowdkit PYTHON]`: our statistics beside other libraries.

Votes and pairs with a planted truth (STATISTICS 13), 10⁴, 10⁵ and 10⁶ of them (`--small`: 10⁴ and 10⁵). Ours starts
from integer arrays and the peer from its own input type; both are built outside the timed part. They take turns on one
thread, after a warm-up, three times or more; a call of less than 20 ms is repeated within its turn. Rows hold the best
turn of each side, as the floors do; lines before the JSON hold the medians as well. What both found is compared too,
and a row that is faster with a worse result fails.

crowd-kit needs an environment of its own (see `statistics_crowdkit`); without one its rows are absent.
"""

from __future__ import annotations

import os

if __name__ == "__main__":  # before numpy is loaded, which reads it
    os.environ.update(
        dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), "1")
    )

import argparse
import sys
import warnings
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from itertools import combinations
from typing import Any

import choix
import evalica
import numpy as np
import pandas as pd
from scipy.special import log_expit, logsumexp
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats import inter_rater

from annotation.statistics import aggregation, agreement, ranking
from annotation.statistics.estimates import Estimate, FloatArray
from annotation.statistics.glad import Glad
from benchmarks.report import Row, none_of, show
from benchmarks.statistics_data import OVERLAP, K, Pairs, Votes, plant_pairs, plant_votes
from benchmarks.statistics_peers import SAME, Contest, CrowdKit, Here, crowdkit_process, hold, no_worse, same

SIZES = {10_000: "10k", 100_000: "100k", 1_000_000: "1M"}
NO_WORSE = 1e-6  # nats by which a likelihood may stay below the peer's
KAPPA_PEOPLE = 12  # 66 pairs of annotators

WITHOUT_CROWDKIT = """\
Without crowd-kit: name the Python of an environment that has it by --crowdkit or WINNOW_CROWDKIT_PYTHON.
  python3.11 -m venv var/crowdkit
  var/crowdkit/bin/pip install --no-deps crowd-kit==1.4.2
  var/crowdkit/bin/pip install numpy pandas scipy attrs tqdm scikit-learn==1.9.1 nltk regex"""

# Least ratios by number of votes (STATISTICS 13); a row is run at the sizes that have one.
FLOORS: dict[str, dict[int, float]] = {
    "majority / crowd-kit": {10_000: 50, 100_000: 45, 1_000_000: 30},
    "dawid-skene 20 steps / crowd-kit": {10_000: 14, 100_000: 5, 1_000_000: 4},
    "glad 10 rounds / crowd-kit": {10_000: 25},
    "pairwise kappa matrix / scikit-learn loop (extrapolated from 66 pairs)": {
        10_000: 80, 100_000: 330, 1_000_000: 2500,
    },
    "alpha from counts / evalica, 5 slots": {10_000: 2.5, 100_000: 1, 1_000_000: 0.5},
    "alpha 1,000 bootstraps / evalica": {10_000: 4, 100_000: 18},
    "fleiss / statsmodels (equal votes only)": {10_000: 0.3, 100_000: 0.3, 1_000_000: 0.3},
    "bradley-terry with covariance / evalica with its indexing": {10_000: 5, 100_000: 15, 1_000_000: 20},
    "bradley-terry with covariance / choix ilsr_pairwise (list)": {10_000: 20, 100_000: 75},
    "davidson / evalica newman": {10_000: 0.06, 100_000: 0.3, 1_000_000: 3.5},
    "rank centrality / choix (list)": {10_000: 1.5, 100_000: 13},
}  # fmt: skip
BOOTSTRAPS = "bradley-terry 100 bootstraps / evalica (9k votes, 59 systems)"
BOOTSTRAPS_FLOOR = 500.0
RESAMPLES = 100


# --- votes ------------------------------------------------------------------------------------------------------------


def majority_contest(votes: Votes, crowdkit: CrowdKit) -> Contest:
    def ours() -> aggregation.Majority:
        return aggregation.majority(aggregation.vote_counts(votes.item, votes.label, n_items=len(votes.truth), K=K))

    def judge(name: str, ours: aggregation.Majority, peer: dict[str, Any]) -> list[Row]:
        decided = ours.label >= 0
        return [
            same(f"{name}, largest difference of a share", ours.share, peer["q"]),
            none_of(f"{name}, other labels where one class leads", int((ours.label != peer["label"])[decided].sum())),
            accuracy_row(name, votes, ours.share, peer["q"]),
        ]

    peer = crowdkit.fit("majority", **votes.named)
    return Contest(what="majority / crowd-kit", ours=Here(ours), peer=peer, peer_name="crowd-kit", judge=judge)


def dawid_skene_contest(votes: Votes, crowdkit: CrowdKit) -> Contest:
    def ours() -> aggregation.DawidSkeneResult:
        return aggregation.dawid_skene(*votes.arrays, **votes.sizes, prior=None, tol=0.0, max_iter=20)

    def judge(name: str, ours: aggregation.DawidSkeneResult, peer: dict[str, Any]) -> list[Row]:
        return [
            same(f"{name}, largest difference of a posterior", ours.q, peer["q"], within=1e-6),
            accuracy_row(name, votes, ours.q, peer["q"]),
        ]

    return Contest(
        what="dawid-skene 20 steps / crowd-kit",
        ours=Here(ours),
        peer=crowdkit.fit("dawid_skene", **votes.named),
        peer_name="crowd-kit",
        judge=judge,
    )


def glad_contest(votes: Votes, crowdkit: CrowdKit) -> Contest:
    def ours() -> Glad:
        return aggregation.glad(*votes.arrays, **votes.sizes, tol=0.0, max_iter=10)

    def judge(name: str, ours: Glad, peer: dict[str, Any]) -> list[Row]:
        fit = glad_objective(votes, ours.ability, ours.easiness)
        theirs = glad_objective(votes, peer["ability"], peer["ease"])
        # Neither has converged after ten rounds of inexact maximisation: equal to six digits.
        slack = 1e-6 * abs(theirs)
        return [
            no_worse(f"{name}, log-likelihood with prior", "nats", fit, theirs, peer_name="crowd-kit", slack=slack),
            accuracy_row(name, votes, ours.q, peer["q"]),
        ]

    return Contest(
        what="glad 10 rounds / crowd-kit",
        ours=Here(ours),
        peer=crowdkit.fit("glad", **votes.named),
        peer_name="crowd-kit",
        judge=judge,
    )


def glad_objective(votes: Votes, ability: FloatArray, easiness: FloatArray) -> float:
    """Σ_i log ¹/K Σ_k Π_v P(l | k) plus the log-densities of the prior N(1, 1), up to its constant."""
    logit = ability[votes.annotator] * np.exp(easiness[votes.item])
    gain = log_expit(logit) - log_expit(-logit) + np.log(K - 1)  # of a class over those that the vote is not for
    by_class = np.bincount(votes.item * K + votes.label, weights=gain, minlength=len(easiness) * K).reshape(-1, K)
    wrong = (log_expit(-logit) - np.log(K - 1)).sum()
    prior = ((ability - 1) ** 2).sum() / 2 + ((easiness - 1) ** 2).sum() / 2
    return float(logsumexp(by_class, axis=1).sum() - len(easiness) * np.log(K) + wrong - prior)


def accuracy_row(name: str, votes: Votes, ours: FloatArray, peer: FloatArray) -> Row:
    """Share of items whose leading class is the planted one, of both alike: c classes that tie count 1/c each.

    For the majority the peer's own labels would not do: of tied classes it takes the first column, and whether that
    is the more frequent class is luck.
    """
    right = []
    for q in (ours, peer):
        leading = q >= q.max(axis=1, keepdims=True) - SAME
        right.append((leading[np.arange(len(q)), votes.truth] / leading.sum(axis=1)).mean())
    return no_worse(f"{name}, accuracy", "share", *right, peer_name="crowd-kit", slack=1 / len(votes.truth))


def kappa_contest(votes: Votes) -> Contest:
    """The peer's loop runs over 66 pairs of annotators, each on the items that both labelled."""
    people = votes.sizes["n_annotators"]
    pairs = list(combinations(range(KAPPA_PEOPLE), 2))
    table = np.full((KAPPA_PEOPLE, len(votes.truth)), -1, dtype=np.int8)
    few = votes.annotator < KAPPA_PEOPLE
    table[votes.annotator[few], votes.item[few]] = votes.label[few]

    def ours() -> agreement.KappaMatrix:
        return agreement.kappa_matrix(*votes.arrays, **votes.sizes, min_common=2)

    def peer() -> list[float]:
        found = []
        for one, other in pairs:
            common = (table[one] >= 0) & (table[other] >= 0)
            found.append(cohen_kappa_score(table[one, common], table[other, common]) if common.any() else np.nan)
        return found

    def judge(name: str, ours: agreement.KappaMatrix, peer: list[float]) -> list[Row]:
        at = tuple(np.transpose(pairs))
        exists = ours.reason[at] == 0
        return [same(f"{name}, largest difference of a value", ours.kappa[at][exists], np.array(peer)[exists])]

    return Contest(
        what="pairwise kappa matrix / scikit-learn loop (extrapolated from 66 pairs)",
        ours=Here(ours),
        peer=Here(peer),
        peer_name="scikit-learn",
        judge=judge,
        share=len(pairs) / (people * (people - 1) / 2),
    )


def alpha_contests(votes: Votes) -> Iterator[Contest]:
    """α from counts with its jackknife, and with a bootstrap instead; then Fleiss' coefficient."""
    counts = votes.counts
    slots = pd.DataFrame(votes.label.reshape(-1, OVERLAP).T)  # a row for each of the five votes, a column for each item

    def judge(name: str, ours: Estimate, peer: evalica.AlphaResult) -> list[Row]:
        return [same(f"{name}, difference", ours.value, peer.alpha)]

    yield Contest(
        what="alpha from counts / evalica, 5 slots",
        ours=Here(lambda: agreement.krippendorff_alpha(counts)),
        peer=Here(lambda: evalica.alpha(slots)),
        peer_name="evalica",
        judge=judge,
    )
    if asked("alpha 1,000 bootstraps / evalica", len(votes.item)):
        # Ours draws 2,000 always.
        yield Contest(
            what="alpha 1,000 bootstraps / evalica",
            ours=Here(lambda: agreement.krippendorff_alpha(counts, method="bootstrap", rng=0)),
            peer=Here(lambda: evalica.alpha_bootstrap(slots, n_resamples=1000, random_state=0)),
            peer_name="evalica",
            judge=judge,
        )
    yield Contest(
        what="fleiss / statsmodels (equal votes only)",
        ours=Here(lambda: agreement.fleiss_kappa(counts)),
        peer=Here(lambda: inter_rater.fleiss_kappa(counts)),
        peer_name="statsmodels",
        judge=lambda name, ours, peer: [same(f"{name}, difference", ours.value, peer)],
    )


# --- pairs ------------------------------------------------------------------------------------------------------------


def bradley_terry_likelihood(wins: FloatArray, strength: FloatArray) -> float:
    """Σ W_ij log σ(s_i − s_j), ties as half a win each in W."""
    return float((wins * log_expit(strength[:, None] - strength[None, :])).sum())


def davidson_likelihood(pairs: Pairs, strength: FloatArray, nu: float) -> float:
    """Log-likelihood of wins and ties (Davidson 1970)."""
    half = (strength[:, None] - strength[None, :]) / 2
    whole = np.logaddexp(np.logaddexp(half, -half), np.log(nu))
    return float((pairs.wins * (half - whole)).sum() + (pairs.ties * (np.log(nu) - whole)).sum() / 2)


def log_scores(scores: pd.Series, n: int) -> FloatArray:
    """evalica's scores as strengths [n] in the order of the systems."""
    return np.log(scores.reindex([f"system {code}" for code in range(n)]).to_numpy())


def likelihood_row(name: str, ours: float, peer: float, *, peer_name: str) -> Row:
    return no_worse(f"{name}, log-likelihood", "nats", ours, peer, peer_name=peer_name, slack=NO_WORSE)


def evalica_contests(pairs: Pairs) -> Iterator[Contest]:
    first, second, winners = pairs.evalica
    wins = pairs.wins + pairs.ties / 2

    def judge(name: str, ours: ranking.Ranking, peer: evalica.BradleyTerryResult) -> list[Row]:
        fits = (bradley_terry_likelihood(wins, s) for s in (ours.strength, log_scores(peer.scores, pairs.n)))
        return [likelihood_row(name, *fits, peer_name="evalica")]

    yield Contest(
        what="bradley-terry with covariance / evalica with its indexing",
        ours=Here(lambda: ranking.bradley_terry(pairs.a, pairs.b, pairs.outcome, n=pairs.n, l2=0.0, rng=None)),
        peer=Here(lambda: evalica.bradley_terry(first, second, winners)),
        peer_name="evalica",
        judge=judge,
    )

    def judge_ties(name: str, ours: ranking.Ranking, peer: evalica.NewmanResult) -> list[Row]:
        # Newman's v is half of Davidson's ν.
        fits = ((ours.strength, ours.tie_parameter), (log_scores(peer.scores, pairs.n), 2 * peer.v))
        return [likelihood_row(name, *(davidson_likelihood(pairs, s, nu) for s, nu in fits), peer_name="evalica")]

    yield Contest(
        what="davidson / evalica newman",
        ours=Here(lambda: ranking.davidson(pairs.a, pairs.b, pairs.outcome, n=pairs.n, l2=0.0, rng=None)),
        peer=Here(lambda: evalica.newman(first, second, winners)),
        peer_name="evalica",
        judge=judge_ties,
    )


def choix_contests(pairs: Pairs) -> Iterator[Contest]:
    """On the decisive comparisons, since that library knows no ties."""
    listed, decisive = pairs.choix, pairs.decisive

    def judge(name: str, ours: ranking.Ranking, peer: FloatArray) -> list[Row]:
        fits = (bradley_terry_likelihood(pairs.wins, strength) for strength in (ours.strength, peer))
        return [likelihood_row(name, *fits, peer_name="choix")]

    yield Contest(
        what="bradley-terry with covariance / choix ilsr_pairwise (list)",
        ours=Here(lambda: ranking.bradley_terry(decisive.a, decisive.b, decisive.outcome, n=pairs.n, l2=0.0, rng=None)),
        peer=Here(lambda: choix.ilsr_pairwise(pairs.n, listed)),
        peer_name="choix",
        judge=judge,
    )
    yield Contest(
        what="rank centrality / choix (list)",
        ours=Here(
            lambda: ranking.rank_centrality(
                ranking.win_matrix(decisive.a, decisive.b, decisive.outcome, n=pairs.n), reg=0.0
            )
        ),
        peer=Here(lambda: choix.rank_centrality(pairs.n, listed)),
        peer_name="choix",
        judge=lambda name, ours, peer: [same(f"{name}, largest difference of a strength", ours.strength, peer)],
    )


def bootstrap_contest(pairs: Pairs, *, what: str, method: str) -> Contest:
    """100 bootstraps of Bradley-Terry by both; ours with a trace of a prior, since it refuses to go without one."""
    first, second, winners = pairs.evalica
    wins = pairs.wins + pairs.ties / 2

    def ours() -> ranking.Ranking:
        return ranking.bootstrap_bradley_terry(pairs.a, pairs.b, pairs.outcome, n=pairs.n, l2=1e-6, B=RESAMPLES, rng=0)

    def peer() -> evalica.BootstrapResult:
        return evalica.bootstrap(
            evalica.bradley_terry,
            first,
            second,
            winners,
            n_resamples=RESAMPLES,
            bootstrap_method=method,
            random_state=0,
        )

    def judge(name: str, ours: ranking.Ranking, peer: evalica.BootstrapResult) -> list[Row]:
        fits = (bradley_terry_likelihood(wins, s) for s in (ours.strength, log_scores(peer.result.scores, pairs.n)))
        drawn = np.log(peer.distribution.to_numpy())
        spread = (drawn - drawn.mean(axis=1, keepdims=True)).std(axis=0).mean()
        return [
            likelihood_row(name, *fits, peer_name="evalica"),
            # Of 100 draws a standard error is known to 7 %, the mean of many a little better.
            same(
                f"{name}, mean standard error relative to the peer's, less 1", ours.se.mean() / spread, 1.0, within=0.1
            ),
        ]

    return Contest(what=what, ours=Here(ours), peer=Here(peer), peer_name="evalica", judge=judge)


# --- the run ----------------------------------------------------------------------------------------------------------


def asked(what: str, size: int) -> bool:
    """Whether STATISTICS 13 has a floor for this row at this size; below them, for tests, all run."""
    return size in FLOORS[what] or size < min(SIZES)


def contests(size: int, crowdkit: CrowdKit | None) -> Iterator[Contest]:
    """All rows of one size. Each is held before the next is made, since crowd-kit's process keeps one data frame."""
    votes = plant_votes(size)
    if crowdkit is not None:
        yield majority_contest(votes, crowdkit)
        yield dawid_skene_contest(votes, crowdkit)
        if asked("glad 10 rounds / crowd-kit", size):
            yield glad_contest(votes, crowdkit)
    yield kappa_contest(votes)
    yield from alpha_contests(votes)
    pairs = plant_pairs(size)
    yield from evalica_contests(pairs)
    if asked("rank centrality / choix (list)", size):
        yield from choix_contests(pairs)


def run(sizes: Sequence[int], *, crowdkit: str | None, resampled: Pairs, bca: bool) -> list[Row]:
    """All rows.

    Args:
        sizes: numbers of votes, and of pairs.
        crowdkit: Python of the environment with crowd-kit; None: without its rows.
        resampled: what Bradley-Terry is bootstrapped on.
        bca: also against the peer's default intervals, which fit once more for each vote: most of a minute a turn.
    """
    rows: list[Row] = []
    with crowdkit_process(crowdkit) as process, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns where two annotators used one class
        for size in sizes:
            for contest in contests(size, process):
                rows += hold(contest, variant=SIZES.get(size, str(size)), target=FLOORS[contest.what].get(size))
        rows += hold(bootstrap_contest(resampled, what=f"{BOOTSTRAPS}, percentile", method="percentile"))
        if bca:
            rows += hold(bootstrap_contest(resampled, what=BOOTSTRAPS, method="BCa"), target=BOOTSTRAPS_FLOOR)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--small", action="store_true", help="10,000 and 100,000 votes, no BCa: two minutes at most")
    parser.add_argument(
        "--crowdkit",
        metavar="PYTHON",
        default=os.environ.get("WINNOW_CROWDKIT_PYTHON"),
        help="Python of an environment with crowd-kit (default: $WINNOW_CROWDKIT_PYTHON)",
    )
    arguments = parser.parse_args()
    if not arguments.crowdkit:
        print(WITHOUT_CROWDKIT)
    sizes = list(SIZES)[:2] if arguments.small else list(SIZES)
    resampled = plant_pairs(9_000, systems=59)
    rows = run(sizes, crowdkit=arguments.crowdkit, resampled=resampled, bca=not arguments.small)
    peers = {name: version(name) for name in ("evalica", "choix", "scikit-learn", "statsmodels", "numpy", "scipy")}
    show("statistics", rows, as_json=arguments.json, threads=1, versions=peers)
    return 0 if all(row.ok for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
