from __future__ import annotations

import math
import random

import pytest
from scipy import integrate, optimize, stats

from training.engine.alarms import raised
from training.engine.calibration import (
    accuracy_ceiling,
    calibration_error,
    ceiling_bound,
    fit_temperature,
    sigmoid,
    softplus,
)
from training.engine.diagnostics import reward_alarms
from training.engine.evaluate import (
    Judged,
    accuracy_metrics,
    ceiling_metrics,
    clustered_mean,
    clustered_ratio,
    clustered_share,
    correlation,
    length_metrics,
    percentile,
    preference_metrics,
    probability_metrics,
    slice_metrics,
    student_t_quantile,
    vote_accuracy_metrics,
    with_interval,
)
from training.engine.metrics import METRICS


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
    falling = {"eval/changed_pairs": 40.0, "eval/falling_share": 1.0, "eval/logp_chosen_change": -3.0}
    assert list(raised(falling)) == ["displacement"]
    assert list(raised({**falling, "eval/falling_share": 0.25, "eval/logp_chosen_change": 0.0})) == []
    assert list(raised({**falling, "eval/changed_pairs": 20.0})) == []


def test_intervals_cover_the_truth_where_pairs_of_a_prompt_are_alike() -> None:
    """95 % of 400 simulated intervals for shares and means, four pairs a prompt that share its difficulty; a tolerance
    of 4 binomial errors. Taken as independent the same pairs cover far less.
    """
    rng = random.Random(17)
    groups = [str(number // 4) for number in range(160)]
    hit = {"share": 0, "mean": 0, "naive": 0}
    for _ in range(400):
        worth = {group: rng.betavariate(1, 1) for group in set(groups)}
        shares = [float(rng.random() < worth[group]) for group in groups]
        means = [10 * worth[group] + rng.gauss(0, 1) for group in groups]
        for name, found, truth in (
            ("share", clustered_share(shares, groups), 0.5),
            ("mean", clustered_mean(means, groups), 5.0),
            ("naive", clustered_mean(means, [str(n) for n in range(160)]), 5.0),
        ):
            hit[name] += found.low <= truth <= found.high
    tolerance = 4 * math.sqrt(0.95 * 0.05 / 400)
    assert abs(hit["share"] / 400 - 0.95) < tolerance
    assert abs(hit["mean"] / 400 - 0.95) < tolerance
    assert hit["naive"] / 400 < 0.8


def test_a_mean_of_one_group_has_no_known_interval() -> None:
    found = clustered_mean([1.0, 3.0], ["a", "a"])
    assert with_interval("eval/nll", found) == {"eval/nll": 2.0}
    assert clustered_ratio([1.0, 5.0], [0.5, 0.0], ["a", "b"]).value == 2.0  # a group without weight says nothing


def test_a_model_that_follows_length_is_right_only_where_the_longer_won() -> None:
    pairs = [
        judged(2.0, group="a", chosen=9, rejected=5),
        judged(1.0, group="b", chosen=7, rejected=5),
        judged(-1.0, group="c", chosen=4, rejected=6),
        judged(-2.0, group="d", q=0.25, chosen=4, rejected=8),  # the votes prefer the rejected one, which is longer
        judged(5.0, group="e", chosen=6, rejected=6),
    ]
    found = length_metrics(pairs, part="eval")
    assert found["eval/accuracy_longer_chosen"] == 1
    assert found["eval/accuracy_shorter_chosen"] == 0
    assert found["eval/length_slope"] == pytest.approx(0.5)
    assert found["eval/length_slope_low"] == pytest.approx(0.5)
    assert length_metrics([judged(1, chosen=3, rejected=3)], part="eval") == {}


def test_bins_by_length_and_by_votes_hold_their_pairs() -> None:
    pairs = [
        judged(1.0, group="a", chosen=100, rejected=100),
        judged(-1.0, group="b", chosen=100, rejected=80),
        judged(math.log(3), group="c", q=2 / 3, chosen=100, rejected=20),
        judged(math.log(3), group="d", q=0.5, chosen=20, rejected=100),
    ]
    found = slice_metrics(pairs, part="eval")
    names = ("length_similar", "length_moderate", "length_large", "votes_close", "votes_unanimous")
    assert [found[f"eval/pairs_{name}"] for name in names] == [1, 1, 1, 1, 2]
    assert [found[f"eval/accuracy_{name}"] for name in names] == [1, 0, 1, 1, 0.5]
    assert "eval/pairs_votes_clear" not in found
    # The longer one is given ¾ where its votes are ⅔, and ¼ where they are ½.
    assert found["eval/longer_overrated_large"] == pytest.approx(((3 / 4 - 2 / 3) + (1 / 4 - 1 / 2)) / 2)
    assert found["eval/preferred_overrated_close"] == pytest.approx(3 / 4 - 2 / 3)
    assert set(preference_metrics(pairs, part="eval")) <= set(METRICS)


def test_a_model_that_overrates_length_shows_it_in_the_bin_of_large_differences() -> None:
    rng = random.Random(4)
    pairs = []
    for number in range(600):
        quality, chosen, rejected = rng.gauss(0, 1), rng.randint(20, 200), rng.randint(20, 200)
        label = float(rng.random() < sigmoid(quality))
        margin = quality + 0.02 * (chosen - rejected)
        pairs.append(judged(margin, group=str(number), q=label, chosen=chosen, rejected=rejected))
    found = slice_metrics(pairs, part="eval")
    assert found["eval/longer_overrated_large_low"] > 0.1
    assert found["eval/longer_overrated_large"] > found["eval/longer_overrated_moderate"]
    assert length_metrics(pairs, part="eval")["eval/length_slope"] == pytest.approx(0.02, abs=0.003)


def test_the_temperature_of_margins_that_are_three_times_too_large_is_three() -> None:
    rng = random.Random(8)
    honest = [rng.gauss(0, 1.5) for _ in range(20_000)]
    shares = [sigmoid(margin) for margin in honest]
    assert fit_temperature([3 * margin for margin in honest], shares) == pytest.approx(3, rel=1e-9)
    votes = [float(rng.random() < share) for share in shares]
    found = fit_temperature([3 * margin for margin in honest], votes)
    assert found == pytest.approx(3, rel=0.05)
    best = optimize.minimize_scalar(
        lambda t: sum(
            q * softplus(-3 * m / t) + (1 - q) * softplus(3 * m / t) for m, q in zip(honest, votes, strict=True)
        ),
        bounds=(1, 9),
        method="bounded",
    )
    assert found == pytest.approx(best.x, rel=1e-4)


def test_margins_that_separate_the_labels_or_say_nothing_have_a_temperature_too() -> None:
    assert fit_temperature([1.0, -2.0], [1.0, 0.0]) == pytest.approx(0.01)
    assert fit_temperature([1.0, -2.0], [0.0, 1.0]) == pytest.approx(100)
    assert fit_temperature([0.0, 0.0], [1.0, 0.0]) == 1.0


def test_a_constant_one_half_is_calibrated_on_any_votes() -> None:
    """Sorted by label, bins of equal probabilities would be all right or all wrong."""
    votes = [float(number % 3 > 0) for number in range(90)]
    assert calibration_error([0.0] * 90, votes) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("agreement", [0.55, 0.63, 0.77, 0.92])
def test_the_ceiling_is_what_the_best_model_of_disagreeing_people_has(agreement: float) -> None:
    a = (1 / (2 * agreement - 1) - 1) / 2
    law = stats.beta(a, a)
    # The law is symmetric: twice the upper half, where its density has an end that can be integrated.
    upper, _ = integrate.quad(lambda u: max(law.ppf(u), 1 - law.ppf(u)), 0.5, 1)
    assert accuracy_ceiling(agreement) == pytest.approx(2 * upper, abs=1e-5)
    assert agreement <= accuracy_ceiling(agreement) <= ceiling_bound(agreement)


def test_where_all_pairs_are_equally_hard_the_ceiling_is_its_bound() -> None:
    assert ceiling_bound(0.8**2 + 0.2**2) == pytest.approx(0.8)
    assert (accuracy_ceiling(1.0), accuracy_ceiling(0.5), ceiling_bound(0.5)) == (1.0, 0.5, 0.5)


def test_agreement_counts_pairs_of_votes_on_one_comparison() -> None:
    pairs = [judged(1, group="a", votes=(3, 1)), judged(1, group="b", votes=(2, 0)), judged(1, votes=(1, 0))]
    found = ceiling_metrics(pairs, part="test")
    assert found["test/agreement"] == pytest.approx((3 / 6 + 1) / 2)  # of 3 : 1, three of six pairs of votes agree
    assert found["test/ceiling_share"] == pytest.approx((3 / 4 + 1 + 1) / 3 / accuracy_ceiling(0.75))
    assert set(found) <= set(METRICS)
    split = ceiling_metrics([judged(1, votes=(1, 1))], part="test")
    assert "test/ceiling" not in split  # below chance: nobody could be followed
    assert ceiling_metrics([judged(1, votes=(1, 0))], part="test") == {}


def test_percentiles_lie_between_neighbours() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2
    assert percentile([0.0, 10.0], 0.99) == pytest.approx(9.9)
    assert percentile([4.0], 0.99) == 4
