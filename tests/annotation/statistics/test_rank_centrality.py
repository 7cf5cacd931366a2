"""Rank Centrality against choix and its own definition."""

from __future__ import annotations

from pathlib import Path

import choix
import numpy as np
import pytest

from annotation.statistics.estimates import Reason
from annotation.statistics.ranking import bradley_terry, rank_centrality, win_matrix
from tests.annotation.statistics.contest_votes import draw_votes
from tests.annotation.statistics.published import baseball


def test_baseball_gives_the_values_of_the_specification_in_the_order_of_bradley_terry(test_data: Path):
    data = baseball(test_data)
    ranking = rank_centrality(win_matrix(*data.given, n=7), reg=0)
    names = ("Boston", "Cleveland", "Detroit", "Milwaukee", "New York", "Toronto")
    value = ranking.strength - ranking.strength[data.place("Baltimore")]
    expected = [1.0893, 0.7665, 1.4674, 1.6065, 1.3045, 1.2760]
    assert value[[data.place(name) for name in names]] == pytest.approx(expected, abs=1e-4)
    plain = bradley_terry(*data.given, n=7, l2=0)
    assert ranking.strength == pytest.approx(plain.strength, abs=0.1)


def test_it_equals_choix(test_data: Path):
    data = baseball(test_data)
    wins = [(i, j) if x == 1 else (j, i) for i, j, x in zip(*data.given, strict=True)]
    theirs = choix.rank_centrality(7, wins)
    ours = rank_centrality(win_matrix(*data.given, n=7), reg=0)
    assert ours.strength == pytest.approx(theirs - theirs.mean(), abs=1e-9)


def test_two_systems_have_the_log_odds_of_their_wins():
    assert rank_centrality([[0, 3], [1, 0]], reg=0).strength == pytest.approx([np.log(3) / 2, -np.log(3) / 2])
    # With half a win more for each: 3.5 to 1.5.
    regular = rank_centrality([[0, 3], [1, 0]]).strength
    assert regular[0] - regular[1] == pytest.approx(np.log(3.5 / 1.5))


def test_a_long_chain_of_lopsided_pairs_keeps_its_digits():
    n = 40
    wins = np.diag(np.full(n - 1, 99.0), 1) + np.diag(np.ones(n - 1), -1)  # each beats the next 99 to 1
    assert np.diff(rank_centrality(wins, reg=0).strength) == pytest.approx(-np.log(99))


def test_what_cannot_be_compared_has_a_reason():
    apart = np.zeros((5, 5))
    apart[0, 1] = apart[1, 0] = apart[2, 3] = apart[3, 2] = 1
    ranking = rank_centrality(apart)
    assert ranking.reason.tolist() == [Reason.NOT_CONNECTED.number] * 4 + [Reason.NO_VOTES.number]
    undefeated = [[0, 2], [0, 0]]
    assert set(rank_centrality(undefeated, reg=0).reason.tolist()) == {Reason.SEPARATED.number}
    assert np.all(np.isfinite(rank_centrality(undefeated).strength))
    assert rank_centrality(undefeated).se is None


def test_it_agrees_with_bradley_terry_on_many_votes():
    votes = draw_votes(50_000, 6, seed=1)
    ranking = rank_centrality(win_matrix(*votes, n=6))
    assert ranking.strength == pytest.approx(bradley_terry(*votes, n=6).strength, abs=0.1)


@pytest.mark.parametrize("wins", [[[0, 1]], [[0, -1], [1, 0]], [[0, np.inf], [1, 0]]])
def test_malformed_wins_raise(wins: list[list[float]]):
    with pytest.raises(ValueError, match="wins"):
        rank_centrality(wins)


def test_a_negative_regularisation_raises():
    with pytest.raises(ValueError, match="reg"):
        rank_centrality([[0, 1], [1, 0]], reg=-1)


def test_a_difference_has_no_interval_and_no_reason():
    found = rank_centrality([[0, 3], [1, 0]]).difference(0, 1)
    assert (found.value > 0, found.low, found.high, found.reason) == (True, None, None, None)
