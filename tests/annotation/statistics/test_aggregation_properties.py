"""What every aggregation must not care about, and the identities between them (STATISTICS 12), on planted votes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from scipy.stats import beta

from annotation.statistics.aggregation import (
    annotator_accuracy,
    dawid_skene,
    default_prior,
    glad,
    leave_one_out,
    one_coin,
    posterior_of_others,
    update_posterior,
    weighted_vote,
)
from tests.annotation.statistics.planted import Planted, planted

TIGHT = 1e-13


def default(*votes: Any, **sizes: Any) -> Any:
    return dawid_skene(*votes, **sizes, max_iter=50)


def maximum_likelihood(*votes: Any, **sizes: Any) -> Any:
    return dawid_skene(*votes, **sizes, prior=None, max_iter=50)


MODELS = [default, maximum_likelihood, one_coin, weighted_vote, glad]
CASES = [
    pytest.param(planted(seed, K=K, equal=equal), id=f"K={K} {'equal' if equal else 'unequal'} overlap")
    for seed, (K, equal) in enumerate([(2, True), (2, False), (3, True), (3, False), (5, True), (5, False)])
]
every_model = pytest.mark.parametrize("model", MODELS)
every_case = pytest.mark.parametrize("votes", CASES)


def opinion(found: Any) -> np.ndarray:
    return found.share if hasattr(found, "share") else found.q


def tolerance(model: Callable[..., Any]) -> float:
    """L-BFGS stops on relative changes of 1e-9, and another order of sums is another path to there."""
    return 1e-4 if model is glad else 1e-9


@every_model
@every_case
def test_names_and_order_do_not_matter(model, votes: Planted):
    rng = np.random.default_rng(0)
    items, people = rng.permutation(votes.n_items), rng.permutation(votes.n_annotators)
    order = rng.permutation(len(votes.item))
    found = model(*votes.given, **votes.sizes)
    again = model(items[votes.item][order], people[votes.annotator][order], votes.label[order], **votes.sizes)
    assert opinion(again)[items] == pytest.approx(opinion(found), abs=tolerance(model))


@pytest.mark.parametrize("model", [default, maximum_likelihood, one_coin])
@every_case
def test_the_order_of_votes_changes_no_bit(model, votes: Planted):
    order = np.random.default_rng(0).permutation(len(votes.item))
    found, again = model(*votes.given, **votes.sizes), model(*(a[order] for a in votes.given), **votes.sizes)
    assert np.array_equal(again.q, found.q) and np.array_equal(again.theta, found.theta)


@every_model
@every_case
def test_renaming_the_classes_renames_the_opinion(model, votes: Planted):
    classes = np.random.default_rng(1).permutation(votes.K)
    found = model(*votes.given, **votes.sizes)
    again = model(votes.item, votes.annotator, classes[votes.label], **votes.sizes)
    assert opinion(again)[:, classes] == pytest.approx(opinion(found), abs=tolerance(model))
    if hasattr(found, "pi"):
        assert again.pi[classes] == pytest.approx(found.pi, abs=1e-9)
        assert again.theta[:, classes][:, :, classes] == pytest.approx(found.theta, abs=1e-9)


def doubled(votes: Planted) -> Planted:
    """Every item a second time, with the same votes."""
    return votes.but(
        item=np.concatenate([votes.item, votes.item + votes.n_items]),
        annotator=np.tile(votes.annotator, 2),
        label=np.tile(votes.label, 2),
        n_items=2 * votes.n_items,
    )


@pytest.mark.parametrize("model", [maximum_likelihood, weighted_vote])
@every_case
def test_duplicating_the_items_changes_nothing_without_a_prior(model, votes: Planted):
    twice = doubled(votes)
    found, again = model(*votes.given, **votes.sizes), model(*twice.given, **twice.sizes)
    assert opinion(again) == pytest.approx(np.tile(opinion(found), (2, 1)), abs=1e-9)


@every_case
def test_duplicating_the_items_draws_the_default_towards_maximum_likelihood(votes: Planted):
    """More data, the same prior. The start at the maximum keeps all three in one basin."""
    best = dawid_skene(*votes.given, **votes.sizes, prior=None, tol=1e-10)
    distance = []
    for data in (votes, doubled(votes), doubled(doubled(votes))):
        start = np.tile(best.q, (data.n_items // votes.n_items, 1))
        found = dawid_skene(*data.given, **data.sizes, init=start, tol=1e-10)
        distance.append(np.abs(found.theta - best.theta).mean())
    assert distance[0] > distance[1] > distance[2]


@pytest.mark.parametrize("prior", ["default", None])
@every_case
def test_an_integer_weight_is_that_many_copies(prior, votes: Planted):
    weight = np.random.default_rng(2).integers(0, 3, len(votes.item))
    weighted = dawid_skene(*votes.given, **votes.sizes, weight=weight, prior=prior)
    copied = dawid_skene(*(np.repeat(a, weight) for a in votes.given), **votes.sizes, prior=prior)
    assert weighted.q == pytest.approx(copied.q, abs=1e-9)
    assert weighted.theta == pytest.approx(copied.theta, abs=1e-9)
    assert weighted.objective == pytest.approx(copied.objective)
    assert np.array_equal(weighted.reason, copied.reason)


@every_model
@every_case
def test_an_annotator_and_an_item_without_votes_change_nothing(model, votes: Planted):
    n, W = votes.n_items, votes.n_annotators
    found = model(*votes.given, **votes.sizes)
    again = model(*votes.given, n_items=n + 1, n_annotators=W + 1, K=votes.K)
    assert opinion(again)[:n] == pytest.approx(opinion(found), abs=tolerance(model))
    if hasattr(found, "objective"):
        assert again.objective == pytest.approx(found.objective, abs=1e-9)


@every_case
def test_somebody_who_always_says_the_same_tells_nothing(votes: Planted):
    """By maximum likelihood θ is 1 in that column whatever the truth: from the same start, the same posterior."""
    n, W = votes.n_items, votes.n_annotators
    louder = votes.but(
        item=np.concatenate([votes.item, np.arange(n)]),
        annotator=np.concatenate([votes.annotator, np.full(n, W)]),
        label=np.concatenate([votes.label, np.zeros(n, int)]),
        n_annotators=W + 1,
    )
    start = one_coin(*votes.given, **votes.sizes).q
    same = {"prior": None, "init": start, "tol": 0.0, "max_iter": 50}  # as many steps of both
    again = dawid_skene(*louder.given, **louder.sizes, **same)
    expected = dawid_skene(*votes.given, **votes.sizes, **same)
    assert again.q == pytest.approx(expected.q, abs=1e-9)


@pytest.mark.parametrize("K", [2, 3, 5])
@pytest.mark.parametrize("style", ["at random", "always the same"])
def test_an_uninformative_annotator_barely_moves_the_posterior(K, style):
    """Only the error of their estimated θ moves the log-odds of an item, and a posterior by tanh of a quarter of that.

    At random: log θ_kl − log θ_k'l is 0 but for a variance of 2(K − 1)/N, N the items of the rarest class, and the
    largest of its estimates stays below 4 standard deviations. Always the same: the prior puts θ_kl between
    (N + 1)/(N + K + 2) and 1. That all others are estimated anew may double it, as where EM halves its error a step.
    """
    votes = planted(6, K=K, n=2000, W=20, votes=10)
    n, W = votes.n_items, votes.n_annotators
    noise = np.random.default_rng(7).integers(0, K, n) if style == "at random" else np.zeros(n, int)
    found = dawid_skene(*votes.given, **votes.sizes, tol=1e-9)
    again = dawid_skene(
        np.concatenate([votes.item, np.arange(n)]),
        np.concatenate([votes.annotator, np.full(n, W)]),
        np.concatenate([votes.label, noise]),
        n_items=n, n_annotators=W + 1, K=K, tol=1e-9,
    )  # fmt: skip
    rarest = n * found.pi.min()
    shift = 4 * np.sqrt(2 * (K - 1) / rarest) if style == "at random" else np.log((rarest + K + 2) / (rarest + 1))
    assert np.abs(again.q - found.q).max() < 2 * np.tanh(shift / 4)


@every_case
def test_a_vanishing_prior_is_maximum_likelihood(votes: Planted):
    """Where a row of θ has mass: it has, in planted votes."""
    K = votes.K
    best = dawid_skene(*votes.given, **votes.sizes, prior=None, tol=TIGHT, max_iter=60)
    near = dawid_skene(*votes.given, **votes.sizes, prior=(1e-10 * np.ones((K, K)), 1e-10), tol=TIGHT, max_iter=60)
    assert near.q == pytest.approx(best.q, abs=1e-5)
    assert near.theta == pytest.approx(best.theta, abs=1e-5)


def test_the_default_prior_is_the_one_that_is_given():
    votes = planted(3)
    named = dawid_skene(*votes.given, **votes.sizes, prior=default_prior(3))
    assert np.array_equal(named.q, dawid_skene(*votes.given, **votes.sizes).q)


@pytest.mark.parametrize("model", [default, maximum_likelihood, one_coin])
@every_case
def test_vote_by_vote_is_the_batch_step(model, votes: Planted):
    found = model(*votes.given, **votes.sizes)
    step = update_posterior(np.tile(found.pi, (votes.n_items, 1)), found.theta, *votes.given)
    assert step == pytest.approx(found.q, abs=1e-12)


@pytest.mark.parametrize("model", [default, maximum_likelihood, one_coin])
@every_case
def test_leaving_one_out_is_the_step_without_that_vote(model, votes: Planted):
    """Also where θ is 0, so that the posterior divided by θ would be 0/0."""
    found = model(*votes.given, **votes.sizes)
    others = leave_one_out(found, *votes.given, **votes.sizes)
    prior = np.tile(found.pi, (votes.n_items, 1))
    for v in range(len(votes.item)):
        rest = update_posterior(prior, found.theta, *(np.delete(array, v) for array in votes.given))
        assert others[v] == pytest.approx(rest[votes.item[v]], abs=1e-12)


@every_case
def test_leaving_a_person_out_is_the_step_without_any_vote_of_theirs_on_the_item(votes: Planted):
    found = one_coin(*votes.given, **votes.sizes)
    others = posterior_of_others(found, *votes.given, **votes.sizes)
    prior = np.tile(found.pi, (votes.n_items, 1))
    for v in range(len(votes.item)):
        kept = (votes.item != votes.item[v]) | (votes.annotator != votes.annotator[v])
        rest = update_posterior(prior, found.theta, *(array[kept] for array in votes.given))
        assert others[v] == pytest.approx(rest[votes.item[v]], abs=1e-12)


@every_case
@pytest.mark.parametrize("prior", ["default", None])
@pytest.mark.parametrize("skewed", [False, True])
def test_the_accuracy_of_a_person_lies_in_its_interval(votes: Planted, prior, skewed: bool):
    if skewed:  # nearly all items are of one class, and each person met another mix of them
        votes = votes.but(
            label=np.where(votes.item % 7, 0, votes.label), annotator=(votes.item + votes.annotator) // 12
        )
    fit = dawid_skene(*votes.given, **votes.sizes, prior=prior)
    found = annotator_accuracy(fit, *votes.given, **votes.sizes)
    known = found.reason == 0
    assert np.all((found.low <= found.value)[known])
    assert np.all((found.value <= found.high)[known])


@pytest.mark.parametrize("K", [2, 3, 5])
def test_nearly_no_votes_leave_the_interval_of_the_diagonal_under_the_prior(K: int):
    fit = dawid_skene([0], [0], [0], n_items=1, n_annotators=1, K=K)
    found = annotator_accuracy(fit, [0], [0], [0], n_items=1, n_annotators=1, K=K, weight=[1e-9])
    assert found.low[0] == pytest.approx(beta.ppf(0.025, 4, 2 * (K - 1)), abs=1e-6)
    assert found.high[0] == pytest.approx(beta.ppf(0.975, 4, 2 * (K - 1)), abs=1e-6)


@pytest.mark.parametrize("prior", ["default", None])
@every_case
def test_no_step_lowers_the_objective_and_one_more_gains_nothing(prior, votes: Planted):
    rng = np.random.default_rng(4)
    extra = {
        "weight": rng.uniform(0, 2, len(votes.item)),
        "gold": np.where(rng.random(votes.n_items) < 0.1, votes.truth, -1),
        "prior": prior,
    }
    found = dawid_skene(*votes.given, **votes.sizes, **extra)
    assert np.diff(found.objective).min() >= -1e-9 * abs(found.objective[-1])
    assert found.converged and found.n_iter == len(found.objective)
    more = dawid_skene(*votes.given, **votes.sizes, **extra, init=found.q, max_iter=1)
    assert 0 <= more.objective[0] - found.objective[-1] < 1e-6 * len(votes.item)


@every_case
def test_the_objective_is_the_likelihood_and_the_prior(votes: Planted):
    found = dawid_skene(*votes.given, **votes.sizes)
    joint = np.log(np.tile(found.pi, (votes.n_items, 1)))
    for i, w, label in zip(*votes.given, strict=True):
        joint[i] += np.log(found.theta[w, :, label])
    gamma, c = default_prior(votes.K)
    log_prior = (gamma * np.log(found.theta)).sum() + c * np.log(found.pi).sum()
    assert found.objective[-1] == pytest.approx(np.log(np.exp(joint).sum(axis=1)).sum() + log_prior)


EDGES = {
    "no votes": ([], [], []),
    "one vote": ([1], [1], [1]),
    "one annotator": ([0, 1, 2], [1, 1, 1], [0, 1, 2]),
    "one class": ([0, 0, 1, 1], [0, 1, 0, 1], [2, 2, 2, 2]),
    "no overlap": ([0, 1, 2], [0, 1, 2], [0, 1, 2]),
    "one person twice": ([0, 0, 1], [0, 0, 1], [0, 1, 1]),
    "only disagreement": ([0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2], [0, 1, 2, 1, 2, 0]),
    "only ties": ([0, 0, 1, 1], [0, 1, 0, 1], [1, 1, 1, 1]),
}


def assert_reasoned(result: Any) -> None:
    """Every number is finite, but in rows that have a reason."""
    values = {field.name: getattr(result, field.name) for field in fields(result)}
    reasons = [value for name, value in values.items() if name.endswith("reason")]
    for name, value in values.items():
        for cell in np.argwhere(~np.isfinite(value)) if name != "warnings" else []:
            assert any(len(reason) == len(value) and reason[cell[0]] for reason in reasons), name


@pytest.mark.filterwarnings("error")
@every_model
@pytest.mark.parametrize("edge", EDGES)
def test_nothing_is_undefined_without_a_reason(model, edge):
    """Four items and three annotators, so that some of each are without votes."""
    votes = tuple(np.array(array, dtype=np.int64) for array in EDGES[edge])
    sizes = {"n_items": 4, "n_annotators": 3, "K": 3}
    found = model(*votes, **sizes)
    assert_reasoned(found)
    assert found.reason[np.bincount(votes[0], minlength=4) == 0].all()
    if hasattr(found, "theta"):
        assert_reasoned(annotator_accuracy(found, *votes, **sizes))
        assert found.theta.sum(axis=2) == pytest.approx(np.ones((3, 3)))
        assert found.q.sum(axis=1) == pytest.approx(np.ones(4))
