"""A line for each annotator, and what to do next."""

from __future__ import annotations

import numpy as np
import pytest

from annotation.statistics.aggregation import annotator_accuracy, dawid_skene, one_coin
from annotation.statistics.agreement import accuracy_ceiling
from annotation.statistics.bias import Advice, AnnotatorSummary, advice, annotator_summary
from annotation.statistics.estimates import Caution, Estimate, Reason, missing
from tests.annotation.statistics.published import pandalm
from tests.annotation.statistics.scanning import assert_every_number_is_there_or_has_a_reason

CARELESS, ABSENT = 8, 9


@pytest.fixture(scope="module")
def votes() -> dict[str, np.ndarray]:
    """Eight careful people, one who answers at random, and one who never came; 60 items, each voted on by all nine."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 60)
    item, annotator = np.repeat(np.arange(60), 9), np.tile(np.arange(9), 60)
    guess = rng.integers(0, 3, 540)
    right = (annotator != CARELESS) & (rng.random(540) < 0.9)
    return {"item": item, "annotator": annotator, "label": np.where(right, truth[item], guess), "truth": truth}


SIZES = {"n_items": 60, "n_annotators": 10, "K": 3}


def summary_of(votes: dict[str, np.ndarray], **options: object) -> AnnotatorSummary:
    given = votes["item"], votes["annotator"], votes["label"]
    return annotator_summary(dawid_skene(*given, **SIZES), *given, **SIZES, **options)


def test_only_who_lies_below_the_lower_quartile_with_the_whole_interval_is_flagged(votes):
    found = summary_of(votes)
    assert found.flagged.nonzero()[0].tolist() == [CARELESS]
    assert found.accuracy.high[CARELESS] < found.lower_quartile
    expected = annotator_accuracy(
        dawid_skene(votes["item"], votes["annotator"], votes["label"], **SIZES),
        votes["item"], votes["annotator"], votes["label"], **SIZES,
    )  # fmt: skip
    np.testing.assert_array_equal(found.accuracy.value, expected.value)


def test_agreement_and_kappa_are_with_the_others(votes):
    found = summary_of(votes)
    # Nine good votes leave no doubt, so that the class of the others is the truth.
    own = votes["annotator"] == 0
    share = np.mean(votes["label"][own] == votes["truth"][votes["item"][own]])
    assert found.agreement.value[0] == pytest.approx(share, abs=1 / 60)
    assert found.kappa[0] > 0.8
    assert abs(found.kappa[CARELESS]) < 3 * found.kappa_se[CARELESS]


def test_gold_ties_sides_and_seconds_are_counted(votes):
    gold = np.where(np.arange(60) < 20, votes["truth"], -1)
    seconds = np.where(votes["annotator"] == 0, votes["item"], 7)
    a_left = votes["item"] % 2 == 0
    found = summary_of(votes, gold=gold, seconds=seconds, a_left=a_left)
    own = votes["annotator"] == 0
    tie = votes["label"][own] == 1
    assert found.ties.value[0] == np.mean(tie)
    left = (votes["label"] == 0) == a_left
    assert found.left.value[0] == np.mean(left[own][~tie])
    assert found.gold.n[:9].tolist() == [20] * 9
    assert found.gold.value[0] == np.mean((votes["label"] == votes["truth"][votes["item"]])[own & (votes["item"] < 20)])
    assert found.median_seconds[:2].tolist() == [29.5, 7]  # of 0 … 59


def test_who_gave_no_votes_has_reasons(votes):
    found = summary_of(votes, seconds=np.ones(540), gold=np.full(60, -1), a_left=np.ones(540, dtype=bool))
    assert found.accuracy.reason[ABSENT] == Reason.NO_VOTES.number
    assert found.kappa_reason[ABSENT] == Reason.NO_OVERLAP.number
    assert not found.flagged[ABSENT]
    for shares in (found.agreement, found.ties, found.left, found.gold):
        assert_every_number_is_there_or_has_a_reason(shares)


def test_without_votes_nothing_is_known():
    sizes = {"n_items": 2, "n_annotators": 1, "K": 2}
    found = annotator_summary(dawid_skene([], [], [], **sizes), [], [], [], **sizes)
    assert (found.lower_quartile, found.ties, found.left, found.gold) == (None, None, None, None)
    assert found.flagged.tolist() == [False]


def test_a_lone_vote_has_no_others_to_agree_with():
    votes, sizes = ([0], [0], [1]), {"n_items": 1, "n_annotators": 1, "K": 3}
    found = annotator_summary(dawid_skene(*votes, **sizes), *votes, **sizes)
    assert found.agreement.reason.tolist() == [Reason.NO_VOTES.number]
    assert found.kappa_reason.tolist() == [Reason.NO_OVERLAP.number]


def test_pandalms_annotators_agree_with_the_others(test_data):
    votes = pandalm(test_data)
    found = annotator_summary(dawid_skene(*votes.given, **votes.sizes), *votes.given, **votes.sizes)
    assert np.all(found.agreement.n == 686)
    assert np.all(found.kappa > 0.8)
    assert not found.flagged.any()


def estimate(value: float, *, se: float = 0.02, warnings: tuple[Caution, ...] = ()) -> Estimate:
    return Estimate(value=value, se=se, method="wilson", n=400, n_groups=400, warnings=warnings)


def test_people_who_repeat_themselves_and_differ_need_a_better_guideline():
    assert advice(estimate(0.9), estimate(0.7)) is Advice.BETTER_GUIDELINE


def test_a_gap_within_its_interval_is_no_gap():
    assert advice(estimate(0.9, se=0.1), estimate(0.7, se=0.1)) is Advice.MORE_PAIRS


def test_people_who_do_not_repeat_themselves_need_training():
    assert advice(estimate(0.7), estimate(0.65)) is Advice.TRAIN_ANNOTATORS


def test_a_model_near_its_ceiling_needs_votes_and_one_below_it_pairs():
    ceiling = accuracy_ceiling(estimate(0.77))  # .834
    assert advice(estimate(0.85), estimate(0.77), accuracy=0.82, ceiling=ceiling) is Advice.MORE_VOTES
    assert advice(estimate(0.85), estimate(0.77), accuracy=0.80, ceiling=ceiling) is Advice.MORE_PAIRS


def test_few_repeats_and_missing_figures_advise_nothing_by_themselves():
    nothing = missing(Reason.NO_VOTES)
    assert advice(nothing, nothing) is None
    assert advice(nothing, estimate(0.7)) is None
    few = estimate(0.4, warnings=(Caution.FEW_VOTES,))
    assert advice(few, estimate(0.7), accuracy=0.71, ceiling=accuracy_ceiling(estimate(0.7))) is Advice.MORE_PAIRS
    assert advice(few, estimate(0.7)) is None


def test_agreement_with_the_others_leaves_ones_own_repeats_out():
    """On ten items two people contradict a third, who says it three times; ten more items are of that person alone."""
    item = np.concatenate([np.repeat(np.arange(10), 5), np.repeat(np.arange(10, 20), 2)])
    annotator = np.concatenate([np.tile([0, 0, 0, 1, 2], 10), np.zeros(20, dtype=int)])
    label = np.where(annotator == 0, 0, 1)
    votes, sizes = (item, annotator, label), {"n_items": 20, "n_annotators": 3, "K": 2}
    even = one_coin([], [], [], **sizes)  # everybody right with 2/3, so that votes count alike
    agreement = annotator_summary(even, *votes, **sizes).agreement
    assert agreement.n.tolist() == [30, 10, 10]
    assert agreement.value[0] == 0
