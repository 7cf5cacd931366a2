"""Ability and easiness together."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from annotation.statistics.aggregation import glad, majority, soft_labels, vote_counts
from annotation.statistics.estimates import Reason
from annotation.statistics.glad import expected_loss
from tests.annotation.statistics.planted import planted

NO_VOTES = Reason.NO_VOTES.number


@pytest.mark.parametrize("seed", range(3))
def test_the_gradient_is_that_of_the_loss(seed):
    votes = planted(seed, n=12, W=4)
    rng = np.random.default_rng(seed)
    right = rng.random(len(votes.item))
    at = rng.normal(1, 1, votes.n_annotators + votes.n_items)
    rest = (right, votes.item, votes.annotator, votes.n_annotators)
    gradient = expected_loss(at, *rest)[1]
    steps = 1e-6 * np.eye(len(at))
    numeric = [(expected_loss(at + h, *rest)[0] - expected_loss(at - h, *rest)[0]) / 2e-6 for h in steps]
    assert gradient == pytest.approx(np.array(numeric), rel=1e-6, abs=1e-6)


def test_the_loss_is_that_of_the_formula():
    """−[q log σ(a e^b) + (1 − q) log(1 − σ)] and the two normal priors, for one vote."""
    a, b, q = 0.7, -0.4, 0.9
    p = expit(a * np.exp(b))
    loss, _ = expected_loss(np.array([a, b]), np.array([q]), np.array([0]), np.array([0]), 1)
    prior = ((a - 1) ** 2 + (b - 1) ** 2) / 2
    assert loss == pytest.approx(-(q * np.log(p) + (1 - q) * np.log(1 - p)) + prior)


def test_the_posterior_is_bayes_rule_at_the_parameters_found():
    votes = planted(0, n=15)
    found = glad(*votes.given, **votes.sizes)
    likelihood = np.ones((votes.n_items, votes.K))
    for i, w, label in zip(*votes.given, strict=True):
        p = found.accuracy_of(np.array([i]), np.array([w]))[0]
        likelihood[i] *= np.where(np.arange(votes.K) == label, p, (1 - p) / (votes.K - 1))
    assert found.q == pytest.approx(likelihood / likelihood.sum(axis=1, keepdims=True), abs=1e-12)


def test_planted_abilities_and_difficulties_are_found():
    """With 40 votes an item and 200 items, the orders of both are clear, and labels beat the majority's."""
    rng = np.random.default_rng(0)
    n, W = 200, 40
    a, b, truth = rng.normal(1, 1, W), rng.normal(0, 1, n), rng.integers(0, 2, n)
    item, annotator = np.repeat(np.arange(n), W), np.tile(np.arange(W), n)
    right = rng.random(n * W) < expit(a[annotator] * np.exp(b[item]))
    label = np.where(right, truth[item], 1 - truth[item])
    found = glad(item, annotator, label, n_items=n, n_annotators=W, K=2)
    assert found.converged
    assert np.corrcoef(found.ability, a)[0, 1] > 0.95
    assert np.corrcoef(found.easiness, b)[0, 1] > 0.6
    most = majority(vote_counts(item, label, n_items=n, K=2))
    assert np.mean(found.q.argmax(axis=1) == truth) > np.mean(most.label == truth)


def test_unanimous_items_are_easier_than_disputed_ones():
    item, annotator = np.repeat(np.arange(20), 4), np.tile(np.arange(4), 20)
    label = np.where((item >= 10) & (annotator == item % 4), 1, 0)
    found = glad(item, annotator, label, n_items=20, n_annotators=4, K=2)
    assert found.easiness[:10].min() > found.easiness[10:].max()


def test_what_has_no_votes_keeps_the_prior():
    found = glad([0, 0], [0, 1], [1, 1], n_items=2, n_annotators=3, K=3)
    assert found.q[1] == pytest.approx(np.full(3, 1 / 3))
    assert (found.ability[2], found.easiness[1]) == pytest.approx((1, 1))
    assert found.reason.tolist() == [0, NO_VOTES]
    labels = soft_labels(found, vote_counts([0, 0], [1, 1], n_items=2, K=3))
    assert labels.reason.tolist() == [0, NO_VOTES] and np.isnan(labels.prob[1])


def test_no_votes_at_all():
    found = glad([], [], [], n_items=1, n_annotators=1, K=2)
    assert found.converged and found.n_iter == 0 and found.reason.tolist() == [NO_VOTES]


def test_very_many_votes_need_force():
    V = 200_001
    votes = (np.arange(V) % 1000, np.arange(V) % 7, np.zeros(V, int))
    sizes = {"n_items": 1000, "n_annotators": 7, "K": 2}
    with pytest.raises(ValueError, match=r"^force must be True"):
        glad(*votes, **sizes)
    assert (glad(*votes, **sizes, max_iter=1, force=True).q.argmax(axis=1) == 0).all()


def test_too_few_rounds_are_not_called_converged():
    votes = planted(1)
    found = glad(*votes.given, **votes.sizes, max_iter=1)
    assert not found.converged and found.n_iter == 1
