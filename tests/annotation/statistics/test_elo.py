"""Elo against evalica and its own definition."""

from __future__ import annotations

from pathlib import Path

import evalica
import numpy as np
import pytest

from annotation.statistics.estimates import Reason
from annotation.statistics.ranking import elo, elo_curve, elo_scale
from tests.annotation.statistics.contest_votes import draw_votes
from tests.annotation.statistics.published import llmfao


def test_llmfao_in_file_order_gives_evalicas_ratings(test_data: Path):
    data = llmfao(test_data)
    ratings = elo_scale(elo(data.left, data.right, 1 - data.votes.label / 2, n=len(data.systems)).strength)
    assert ratings[data.systems.index("GPT 3.5 Turbo")] == pytest.approx(1064.231, abs=1e-3)
    kinds = (evalica.Winner.X, evalica.Winner.Draw, evalica.Winner.Y)
    theirs = evalica.elo(data.left, data.right, [kinds[x] for x in data.votes.label])
    assert ratings == pytest.approx(theirs.scores.loc[np.arange(len(data.systems))].to_numpy(), abs=1e-6)


def test_the_first_win_moves_half_of_k():
    assert elo_scale(elo([0], [1], [1.0], n=2).strength) == pytest.approx([1002, 998])
    assert elo_scale(elo([0], [1], [0.0], n=2, K=32).strength) == pytest.approx([984, 1016])
    assert elo([0], [1], [0.5], n=2).strength == pytest.approx([0, 0])


def test_the_order_of_the_votes_matters():
    one, other = elo([0, 0], [1, 1], [1.0, 0.0], n=2), elo([0, 0], [1, 1], [0.0, 1.0], n=2)
    assert one.strength[0] == pytest.approx(-other.strength[0])
    assert one.strength[0] < 0


def test_the_curve_passes_through_the_ratings_and_ends_in_them():
    a, b, outcome = draw_votes(100, 4, seed=1, ties=0.2)
    after, ratings = elo_curve(a, b, outcome, n=4, points=7)
    assert (len(after), after[-1]) == (7, 100)
    for votes, row in zip(after, ratings, strict=True):
        assert row == pytest.approx(elo_scale(elo(a[:votes], b[:votes], outcome[:votes], n=4).strength))
    assert elo_curve(a, b, outcome, n=4, points=1000)[0].tolist() == list(range(1, 101))
    assert elo_curve([], [], [], n=4, points=7)[1].shape == (0, 4)


def test_a_system_without_votes_has_no_rating():
    ranking = elo([0], [2], [1.0], n=3)
    assert ranking.reason.tolist() == [0, Reason.NO_VOTES.number, 0]
    assert ranking.strength.sum(where=ranking.reason == 0) == pytest.approx(0)


def test_a_step_that_is_not_positive_raises():
    with pytest.raises(ValueError, match="K must"):
        elo([0], [1], [1.0], n=2, K=0)


def test_a_difference_of_ratings_has_no_interval_and_no_reason():
    found = elo([0, 0], [1, 1], [1.0, 1.0], n=2).difference(0, 1)
    assert (found.value > 0, found.low, found.high, found.reason) == (True, None, None, None)
