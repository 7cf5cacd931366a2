"""Plackett-Luce against Hunter's races, Bradley-Terry and choix."""

from __future__ import annotations

from pathlib import Path

import choix
import numpy as np
import pytest

from annotation.statistics.estimates import Reason
from annotation.statistics.ranking import bradley_terry, plackett_luce
from tests.annotation.statistics.contest_votes import draw_votes
from tests.annotation.statistics.published import nascar


def draw_orders(R: int, n: int, *, seed: int) -> list[list[int]]:
    """Orders of two to n systems, each drawn by adding Gumbel noise to strengths."""
    rng = np.random.default_rng(seed)
    s = rng.normal(size=n)
    shown = [rng.permutation(n)[: rng.integers(2, n + 1)] for _ in range(R)]
    return [items[np.argsort(-(s[items] + rng.gumbel(size=len(items))))].tolist() for items in shown]


def test_races_give_hunters_published_strengths(test_data: Path):
    races, drivers = nascar(test_data)
    ranking = plackett_luce(races, n=83, l2=0)
    names = ("PJ Jones", "Scott Pruett", "Mark Martin", "Dave Marcis", "Dick Trickle", "Joe Varde")
    value = ranking.strength - ranking.strength[drivers["Austin Cameron"]]
    assert value[[drivers[name] for name in names]] == pytest.approx([4.15, 3.62, 2.08, 0.03, -0.31, -0.15], abs=0.005)
    assert ranking.loglik == pytest.approx(-4191.097, abs=1e-3)
    assert ranking.converged


@pytest.mark.parametrize("l2", [0.0, 1.0])
@pytest.mark.parametrize("grouped", [False, True])
def test_on_pairs_it_is_bradley_terry(l2: float, grouped: bool):
    a, b, outcome = draw_votes(300, 6, seed=1)
    orders = np.where(outcome[:, None] == 1, np.column_stack([a, b]), np.column_stack([b, a]))
    group = np.arange(300) % 25 if grouped else None
    ranking = plackett_luce(orders, n=6, l2=l2, group=group)
    pairs = bradley_terry(a, b, outcome, n=6, l2=l2, group=group)
    for name in ("strength", "cov", "cov_clustered", "low", "high", "loglik", "component"):
        assert getattr(ranking, name) == pytest.approx(getattr(pairs, name), abs=1e-9)
    assert ranking.rank_low.tolist() == pairs.rank_low.tolist()
    assert ranking.n_votes.tolist() == pairs.n_votes.tolist()


def test_partial_orders_equal_choix():
    orders = draw_orders(400, 6, seed=2)
    theirs = choix.mm_rankings(6, orders, max_iter=100_000, tol=1e-12)
    ours = plackett_luce(orders, n=6, l2=0)
    assert ours.strength == pytest.approx(theirs - theirs.mean(), abs=1e-6)


def test_an_order_of_three_is_a_choice_of_one_and_then_a_pair():
    ranking = plackett_luce([[0, 1, 2], [2, 1, 0], [1, 0, 2], [0, 2, 1]], n=3, l2=0)
    gamma = np.exp(ranking.strength)

    def log_p(order: list[int]) -> float:
        first, second, third = gamma[order]
        return float(np.log(first / (first + second + third)) + np.log(second / (second + third)))

    orders = [[0, 1, 2], [2, 1, 0], [1, 0, 2], [0, 2, 1]]
    assert ranking.loglik == pytest.approx(sum(log_p(order) for order in orders))


def test_orders_of_fewer_than_two_say_nothing():
    orders = draw_orders(50, 4, seed=3)
    plain = plackett_luce(orders, n=4, group=np.arange(50))
    padded = plackett_luce([[2], *orders, [], [1]], n=4, group=np.arange(-1, 52))
    assert padded.strength == pytest.approx(plain.strength, abs=1e-12)
    assert padded.low == pytest.approx(plain.low, abs=1e-12)
    assert padded.n_groups == plain.n_groups == 50


def test_a_system_that_is_always_last_is_separated_without_a_prior():
    orders = [[0, 1, 2], [1, 0, 2]]
    ranking = plackett_luce(orders, n=3, l2=0)
    assert set(ranking.reason.tolist()) == {Reason.SEPARATED.number}
    assert ranking.component.tolist() == [0, 0, 1]
    assert plackett_luce(orders, n=3).strength.argmin() == 2


def test_orders_that_share_no_system_are_not_connected():
    orders = [[0, 1], [1, 0], [2, 3], [3, 2]]
    assert set(plackett_luce(orders, n=4, l2=0).reason.tolist()) == {Reason.NOT_CONNECTED.number}
    assert Reason.NOT_CONNECTED in plackett_luce(orders, n=4).warnings


@pytest.mark.parametrize("orders", [[[0, 1, 0]], [[0, 3]], [[0, -1]], [[0.5, 1]]])
def test_malformed_orders_raise(orders: list[list[int]]):
    with pytest.raises(ValueError, match="rankings"):
        plackett_luce(orders, n=3)
