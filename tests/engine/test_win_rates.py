from __future__ import annotations

import math
import random

import pytest

from training.engine.calibration import sigmoid
from training.engine.metrics import METRICS
from training.engine.win_rates import (
    Contest,
    length_controlled_win_rate,
    outcome_of_scores,
    win_metrics,
    win_rate,
)


def contests(
    *, quality: float, per_token: float, longer_by: float = 40.0, groups: int = 150, each: int = 2, seed: int = 1
) -> list[Contest]:
    """Contests that are won with probability σ(quality + per_token · length difference)."""
    rng = random.Random(seed)
    found = []
    for number in range(groups * each):
        difference = round(rng.gauss(longer_by, 40))
        won = rng.random() < sigmoid(quality + per_token * difference)
        found.append(
            Contest(group=f"g{number % groups}", outcome=float(won), tokens=200 + difference, other_tokens=200)
        )
    return found


def test_ties_count_half() -> None:
    outcomes = [outcome_of_scores(2, 1), outcome_of_scores(1, 1), outcome_of_scores(0, 1)]
    assert outcomes == [1, 0.5, 0]
    found = win_rate([Contest(group=str(n), outcome=x, tokens=1, other_tokens=1) for n, x in enumerate(outcomes)])
    assert found.value == 0.5


def test_a_win_rate_that_is_all_length_is_gone_at_equal_length() -> None:
    only_length = contests(quality=0, per_token=0.03)
    raw, controlled = win_rate(only_length), length_controlled_win_rate(only_length)
    assert raw.low > 0.6
    assert controlled.low < 0.5 < controlled.high
    assert controlled.high - controlled.low < 0.25


@pytest.mark.parametrize("per_token", [0.0, 0.03, -0.03])
def test_a_win_rate_of_quality_stays_whatever_length_does(per_token: float) -> None:
    found = length_controlled_win_rate(contests(quality=1.0, per_token=per_token, groups=400))
    assert found.low < sigmoid(1.0) < found.high
    assert found.low > 0.5


def test_the_interval_of_the_controlled_rate_covers_the_truth() -> None:
    """95 % of 200 simulated intervals, two contests a prompt that share its difficulty; 4 binomial errors wide."""
    hit = 0
    for seed in range(200):
        rng = random.Random(seed)
        found = []
        for group in range(60):
            for _ in range(2):
                difference = round(rng.gauss(30, 40))
                won = rng.random() < sigmoid(0.5 + 0.02 * difference)
                found.append(Contest(group=str(group), outcome=float(won), tokens=100 + difference, other_tokens=100))
        interval = length_controlled_win_rate(found)
        hit += interval.low <= sigmoid(0.5) <= interval.high
    assert abs(hit / 200 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 200)


def test_without_differences_in_length_nothing_is_controlled() -> None:
    same = [Contest(group=str(n), outcome=float(n % 4 > 0), tokens=9, other_tokens=9) for n in range(400)]
    assert length_controlled_win_rate(same).value == pytest.approx(0.75, abs=1e-4)


def test_contests_that_length_decides_and_contests_that_are_all_won_have_finite_rates() -> None:
    decided = [
        Contest(group=str(n), outcome=float(d > 0), tokens=100 + d, other_tokens=100)
        for n, d in enumerate([-30, -20, -10, 10, 20, 30] * 5)
    ]
    assert length_controlled_win_rate(decided).value == pytest.approx(0.5, abs=1e-6)
    won = [Contest(group=str(n), outcome=1.0, tokens=100 + n, other_tokens=100) for n in range(40)]
    found = length_controlled_win_rate(won)
    assert 0.9 < found.low <= found.value <= found.high <= 1
    alone = length_controlled_win_rate([Contest(group="g", outcome=1.0, tokens=5, other_tokens=3)] * 3)
    assert (alone.low, alone.high) == (0, 1)


def test_win_figures_are_metrics() -> None:
    found = win_metrics(contests(quality=0.5, per_token=0.0, groups=40))
    assert set(found) <= set(METRICS)
    assert found["win/contests"] == 80
    assert win_metrics([]) == {}
