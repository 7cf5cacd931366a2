from __future__ import annotations

import math
import random
from dataclasses import dataclass

import pytest

from training.engine.metrics import METRICS
from training.engine.rollout_figures import (
    Limits,
    Rollout,
    distinct_share,
    duplicate_share,
    length_slope,
    reference_metrics,
    rollout_metrics,
    rollouts_of,
    self_bleu,
)


def rollout(
    prompt: str, ids: tuple[int, ...], *, finished: bool = True, score: float | None = None, **figures: float
) -> Rollout:
    return Rollout(prompt_id=prompt, group=prompt, token_ids=ids, finished=finished, score=score, **figures)


def test_repeated_4grams_are_counted_from_their_second_time() -> None:
    assert duplicate_share((1, 2, 3, 4, 5, 6), order=4) == 0
    assert duplicate_share((1, 2, 3, 4, 1, 2, 3, 4), order=4) == 1 - 4 / 5  # 1234 2341 3412 4123 1234
    assert duplicate_share((7,) * 13, order=4) == 1 - 1 / 10
    assert duplicate_share((1, 2), order=4) == 0


def test_distinct_counts_all_completions_together() -> None:
    assert distinct_share([(1, 2, 3), (1, 2, 4)], order=1) == 4 / 6
    assert distinct_share([(1, 2, 3), (1, 2, 4)], order=2) == 3 / 4
    assert distinct_share([()], order=2) == 1


def test_self_bleu_is_one_for_copies_and_low_for_strangers() -> None:
    assert self_bleu([(1, 2, 3, 4, 5)] * 3) == pytest.approx(1)
    assert self_bleu([(1, 2, 3, 4, 5), (6, 7, 8, 9, 10)]) == 0
    assert self_bleu([(), ()]) == 1
    # One word of four shared, no longer gram: 1/4, then 1/4, 1/3, 1/2 by the smoothing.
    assert self_bleu([(1, 2, 3, 4), (1, 5, 6, 7)]) == pytest.approx((1 / 4 * 1 / 4 * 1 / 3 * 1 / 2) ** 0.25)


def test_a_short_copy_pays_the_brevity_penalty() -> None:
    short, long = (1, 2, 3, 4), (1, 2, 3, 4, 5, 6, 7, 8)
    of_long = (4 / 8 * 4 / 8 * 3 / 7 * 2 / 6) ** 0.25  # +1 above order 1: (3+1)/(7+1), (2+1)/(6+1), (1+1)/(5+1)
    assert self_bleu([short, long]) == pytest.approx((math.exp(1 - 8 / 4) + of_long) / 2)


def test_figures_of_a_few_completions_by_hand() -> None:
    rollouts = [
        rollout("a", (1, 2, 3, 4), score=1.0, kl=2.0, kl_token_max=0.3, entropy=1.0),
        rollout("b", (1, 2), score=3.0, kl=4.0, kl_token_max=0.9, entropy=4.0, finished=False),
    ]
    found = rollout_metrics(rollouts, limits=Limits(p99=2.0, kl_budget=6.0), reference=None)
    assert found["rollout/length_mean"] == 3
    assert found["rollout/length_p95"] == pytest.approx(3.9)
    assert found["rollout/unfinished_share"] == 0.5
    assert (found["rollout/kl"], found["rollout/kl_root"]) == (3, math.sqrt(3))
    assert (found["rollout/kl_token_max"], found["rollout/kl_budget_share"]) == (0.9, 0.5)
    assert (found["rollout/score"], found["rollout/score_above_p99"]) == (2, 0.5)
    assert found["rollout/entropy"] == pytest.approx((4 * 1 + 2 * 4) / 6)  # a mean over tokens
    assert "rollout/held_out_score" not in found
    assert "rollout/self_bleu" not in found  # one completion a prompt
    assert set(found) <= set(METRICS)


def test_a_negative_estimate_of_kl_has_no_root_below_zero() -> None:
    found = rollout_metrics([rollout("a", (1,), kl=-0.5), rollout("b", (2,), kl=0.1)], limits=Limits(), reference=None)
    assert found["rollout/kl"] == pytest.approx(-0.2)
    assert found["rollout/kl_root"] == 0


def test_the_share_of_a_gain_that_length_explains() -> None:
    before = [rollout("a", (1,) * 10, score=0.0), rollout("b", (1,) * 20, score=1.0)]
    reference = reference_metrics(before)
    assert set(reference) <= set(METRICS)
    after = [rollout("a", (1,) * 20, score=2.0), rollout("b", (1,) * 40, score=3.0)]
    found = rollout_metrics(after, limits=Limits(length_slope=0.1), reference=reference)
    assert found["rollout/length_ratio"] == 2
    assert found["rollout/length_gain_share"] == pytest.approx(0.1 * 15 / 2)
    worse = [rollout("a", (1,) * 20, score=-1.0), rollout("b", (1,) * 40, score=-1.0)]
    assert "rollout/length_gain_share" not in rollout_metrics(
        worse, limits=Limits(length_slope=0.1), reference=reference
    )


def test_the_slope_on_length_is_taken_within_prompts() -> None:
    # Long prompts' answers score low, but of two answers to one prompt the longer gains 0.5 a token.
    rollouts = [
        rollout("a", (1,) * 2, score=10.0),
        rollout("a", (1,) * 4, score=11.0),
        rollout("b", (1,) * 20, score=1.0),
        rollout("b", (1,) * 22, score=2.0),
    ]
    found = length_slope(rollouts)
    assert found is not None
    assert found.value == pytest.approx(0.5)
    assert length_slope(rollouts[::2]) is None
    assert length_slope([rollout("a", (1,)), rollout("a", (1, 2))]) is None


@dataclass(frozen=True)
class Text:
    token_ids: tuple[int, ...]
    finish: str


@dataclass(frozen=True)
class Prompted:
    id: str
    group: str
    completions: tuple[Text, ...]


def test_completions_of_prompts_become_rollouts_in_order() -> None:
    groups = [
        Prompted("p", "g", (Text((1, 2), "end"), Text((), "length"))),
        Prompted("q", "g", (Text((3,), "length"),)),
    ]
    found = rollouts_of(groups, log_ratios=[[0.5, -0.25], [], [1.0]], scores=[1.0, 2.0, 3.0])
    assert [(r.prompt_id, r.finished, r.kl, r.kl_token_max, r.score) for r in found] == [
        ("p", True, 0.25, 0.5, 1.0),
        ("p", False, 0, 0, 2.0),
        ("q", False, 1.0, 1.0, 3.0),
    ]
    assert found[0].entropy is None
    with pytest.raises(ValueError, match="scores has 2 entries for 3 completions"):
        rollouts_of(groups, scores=[1.0, 2.0])


def test_self_bleu_is_sentence_bleu_against_all_the_others() -> None:
    """Against the definition, written out without the shortcut of the most and second most frequent counts."""
    rng = random.Random(6)

    def bleu(own: tuple[int, ...], others: list[tuple[int, ...]]) -> float:
        logs = 0.0
        for order in range(1, 5):
            grams = [own[i : i + order] for i in range(len(own) - order + 1)]
            matched = 0
            for gram in set(grams):
                in_others = max(sum(o[i : i + order] == gram for i in range(len(o))) for o in others)
                matched += min(grams.count(gram), in_others)
            logs += math.log((matched + (order > 1)) / (len(grams) + (order > 1))) if matched + (order > 1) else -1e9
        nearest = min((len(o) for o in others), key=lambda n: (abs(n - len(own)), n))
        return math.exp(logs / 4) * min(1.0, math.exp(1 - nearest / len(own)))

    for _ in range(30):
        texts = [tuple(rng.randint(0, 4) for _ in range(rng.randint(1, 12))) for _ in range(rng.randint(2, 5))]
        expected = [bleu(own, texts[:n] + texts[n + 1 :]) for n, own in enumerate(texts)]
        assert self_bleu(texts) == pytest.approx(sum(expected) / len(expected), abs=1e-12)
