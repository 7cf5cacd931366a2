from __future__ import annotations

import math

import pytest
from scipy import stats

from training.engine.diagnostics import policy_alarms, reward_alarms
from training.engine.evaluate import (
    Judged,
    accuracy_metrics,
    calibration_error,
    clustered_share,
    correlation,
    probability_metrics,
    student_t_quantile,
    vote_accuracy_metrics,
)


def judged(
    margin: float,
    *,
    q: float = 1.0,
    group: str = "g",
    chosen: int = 5,
    rejected: int = 3,
    votes: tuple[int, int] = (0, 0),
) -> Judged:
    return Judged(group=group, margin=margin, q=q, tokens_chosen=chosen, tokens_rejected=rejected, votes=votes)


def test_agreement_with_single_votes_counts_each_pair_once_and_knows_no_ties() -> None:
    pairs = [
        judged(1, group="a", votes=(3, 1)),
        judged(-1, group="b", votes=(3, 1)),
        judged(0, group="c", votes=(2, 0)),
        judged(5, group="d"),  # nobody's vote is known: it says nothing
    ]
    found = vote_accuracy_metrics(pairs, part="test")
    assert found["test/vote_accuracy"] == pytest.approx((3 / 4 + 1 / 4 + 1 / 2) / 3)
    assert found["test/vote_accuracy_low"] < found["test/vote_accuracy"] < found["test/vote_accuracy_high"]
    assert vote_accuracy_metrics([judged(5)], part="test") == {}


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 9, 30, 501])
@pytest.mark.parametrize("probability", [0.5, 0.9, 0.975, 0.9995])
def test_the_t_quantile_is_right(degrees: int, probability: float) -> None:
    assert student_t_quantile(probability, degrees=degrees) == pytest.approx(
        stats.t.ppf(probability, degrees), abs=1e-9
    )


def test_with_groups_of_one_the_jackknife_is_the_t_interval_of_a_mean() -> None:
    values = [1.0, 1.0, 0.0, 0.5, 1.0, 0.0, 1.0, 1.0]
    found = clustered_share(values, [str(number) for number in range(8)])
    low, high = stats.t.interval(0.95, 7, loc=sum(values) / 8, scale=stats.sem(values))
    assert found.value == pytest.approx(sum(values) / 8)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(min(high, 1.0)))


def test_pairs_of_one_prompt_are_no_independent_trials() -> None:
    values = [1.0, 0.0, 1.0, 1.0]
    once = clustered_share(values, list("abcd"))
    copied = clustered_share(values * 10, list("abcd") * 10)
    assert (copied.low, copied.high) == (pytest.approx(once.low), pytest.approx(once.high))


def test_one_group_says_nothing_and_all_right_is_not_certain() -> None:
    alone = clustered_share([1.0, 0.0], ["a", "a"])
    assert (alone.low, alone.high) == (0.0, 1.0)
    perfect = clustered_share([1.0] * 4, list("abcd"))
    assert (perfect.low, perfect.high) == (pytest.approx(stats.beta.ppf(0.025, 4, 1)), 1.0)
    wrong = clustered_share([0.0] * 4, list("abcd"))
    assert (wrong.low, wrong.high) == (0.0, pytest.approx(stats.beta.ppf(0.975, 1, 4)))


def test_accuracy_leaves_ties_out_and_counts_equal_scores_half() -> None:
    pairs = [judged(1, group="a"), judged(-1, group="b"), judged(0, group="c"), judged(9, q=0.5), judged(-1, q=0.2)]
    found = accuracy_metrics(pairs, part="eval")
    assert found["eval/accuracy"] == (1 + 0 + 0.5 + 1) / 4
    assert found["eval/longer_wins"] == 3 / 4
    assert (found["eval/pairs"], found["eval/groups"]) == (4, 4)
    assert accuracy_metrics([judged(1, q=0.5)], part="eval") == {"eval/pairs": 0.0, "eval/groups": 0.0}


def test_probabilities_are_judged_by_the_share_of_the_votes() -> None:
    found = probability_metrics([judged(0.0), judged(math.log(3), q=0.75)], part="test")
    entropy = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    assert found["test/nll"] == pytest.approx((math.log(2) + entropy) / 2)
    assert found["test/brier"] == pytest.approx(0.25 / 2)
    assert found["test/calibration_error"] == pytest.approx(0.25)


def test_a_calibrated_model_has_no_calibration_error() -> None:
    qs = [0.1, 0.3, 0.6, 0.9]
    assert calibration_error([math.log(q / (1 - q)) for q in qs], qs) == pytest.approx(0)


def test_correlation() -> None:
    assert correlation([1, 2, 3], [2, 4, 6]) == pytest.approx(1)
    assert correlation([1, 2, 3], [5, 5, 5]) == 0


def test_alarms_ring_with_enough_pairs_only() -> None:
    figures = {"eval/pairs": 40.0, "eval/length_correlation": 0.1, "eval/accuracy": 0.7, "eval/longer_wins": 0.6}
    assert reward_alarms({**figures, "eval/calibration_error": 0.01}, part="eval") == []
    assert reward_alarms({**figures, "eval/calibration_error": 0.2}, part="eval") == ["calibration"]
    longer = {**figures, "eval/calibration_error": 0.01, "eval/longer_wins": 0.7}
    assert reward_alarms(longer, part="eval") == ["length_bias"]
    assert reward_alarms({**longer, "eval/pairs": 29.0}, part="eval") == []
    assert policy_alarms([-3.0] * 40) == ["displacement"]
    assert policy_alarms([-3.0] * 10 + [1.0] * 30) == []
    assert policy_alarms([-3.0] * 20) == []
