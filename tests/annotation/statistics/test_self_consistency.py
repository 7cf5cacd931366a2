"""People's second answers to the same items: how many are the same, and whether the side decided."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from annotation.statistics.agreement import cohen_kappa
from annotation.statistics.bias import SelfConsistency, self_consistency
from annotation.statistics.estimates import Caution, Reason
from tests.annotation.statistics.scanning import assert_every_number_is_there_or_has_a_reason

A, TIE, B = 0, 1, 2


def consistency(
    pairs: list[tuple[int, int]],
    *,
    swapped: bool | list[bool] = True,
    people: list[int] | None = None,
    **options: object,
) -> SelfConsistency:
    first, second = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    turned = np.broadcast_to(np.array(swapped, dtype=bool), len(pairs))
    who = np.zeros(len(pairs), dtype=np.int64) if people is None else np.array(people)
    return self_consistency(first, second, turned, who, **{"n_annotators": 2, "K": 3, **options})


def test_the_share_of_equal_answers_has_wilsons_interval_and_implies_an_accuracy():
    found = consistency([(A, A)] * 9 + [(TIE, TIE)] * 9 + [(A, B)] * 2)
    assert found.share.value == 0.9
    theirs = binomtest(18, 20).proportion_ci(method="wilson")
    assert (found.share.low, found.share.high) == pytest.approx((theirs.low, theirs.high))
    assert found.implied_accuracy.value == pytest.approx((1 + math.sqrt(0.8)) / 2)
    assert found.implied_accuracy.low == pytest.approx((1 + math.sqrt(2 * theirs.low - 1)) / 2)


def test_kappa_is_that_of_the_first_against_the_second_answers():
    pairs = [(A, A)] * 6 + [(B, B)] * 5 + [(A, TIE), (B, A)]
    expected = cohen_kappa([a for a, _ in pairs], [b for _, b in pairs], K=3)
    assert consistency(pairs).kappa.value == pytest.approx(expected.value)


def test_someone_who_always_chooses_left_is_driven_by_the_side():
    found = consistency([(A, B)] * 6 + [(B, A)] * 6)
    assert found.side_driven.value == 1
    assert found.share.value == 0
    assert found.implied_accuracy.reason is Reason.BELOW_CHANCE


def test_only_repeats_with_swapped_sides_and_two_decisive_answers_show_the_side():
    found = consistency([(A, A), (A, B), (A, TIE), (TIE, TIE), (A, B)], swapped=[True, True, True, True, False])
    assert (found.side_driven.value, found.side_driven.n) == (0.5, 2)
    assert found.share.n == 5


def test_strengths_on_the_same_side_are_the_same_side():
    found = consistency([(0, 1), (0, 3), (4, 3)], K=5)
    assert (found.side_driven.value, found.share.value) == (pytest.approx(1 / 3), 0)


def test_each_persons_own_shares():
    found = consistency([(A, A)] * 10 + [(A, B)] * 4, people=[0] * 10 + [2] * 4, n_annotators=3)
    assert found.by_annotator.value[[0, 2]].tolist() == [1, 0]
    assert found.by_annotator.reason[1] == Reason.NO_VOTES.number
    assert found.few_votes.tolist() == [False, True, True]
    assert found.side_driven_by_annotator.value[2] == 1
    assert_every_number_is_there_or_has_a_reason(found)


def test_below_ten_repeats_says_few_votes():
    assert Caution.FEW_VOTES in consistency([(A, A)] * 9).share.warnings
    assert Caution.FEW_VOTES not in consistency([(A, A)] * 10).share.warnings


def test_repeats_of_the_same_prompts_widen_the_interval_and_one_prompt_has_none():
    pairs = ([(A, A)] * 5 + [(A, B)] * 5) * 4
    prompt = np.repeat(np.arange(8), 5)
    free, clustered = consistency(pairs), consistency(pairs, group=prompt)
    assert clustered.share.value == free.share.value
    assert clustered.share.high - clustered.share.low > 1.5 * (free.share.high - free.share.low)
    assert (clustered.share.n_groups, clustered.share.n) == (8, 40)
    assert consistency(pairs, group=np.zeros(40, dtype=int)).share.reason is Reason.TOO_FEW_GROUPS


@pytest.mark.parametrize("pairs", [[], [(A, A)], [(TIE, TIE)] * 12])
def test_what_does_not_exist_says_why(pairs):
    found = consistency(pairs)
    assert_every_number_is_there_or_has_a_reason(found)
    assert found.kappa.value is None or found.kappa.reason is not None
    if not pairs:
        assert (found.share.reason, found.kappa.reason) == (Reason.NO_VOTES, Reason.NO_OVERLAP)
    if pairs != [(A, A)]:
        assert found.side_driven.reason is Reason.NO_VOTES


def test_malformed_repeats_are_refused_by_name():
    with pytest.raises(ValueError, match=r"^second "):
        self_consistency([0], [0, 1], [True], [0], n_annotators=1, K=2)
    with pytest.raises(ValueError, match=r"^swapped "):
        self_consistency([0], [1], [1], [0], n_annotators=1, K=2)
