"""The majority whose votes weigh as much as their annotators agree with it."""

from __future__ import annotations

import numpy as np
import pytest

from annotation.statistics.aggregation import majority, soft_labels, vote_counts, weighted_vote
from annotation.statistics.estimates import Reason
from tests.annotation.statistics.planted import planted

NO_VOTES, NO_OVERLAP = Reason.NO_VOTES.number, Reason.NO_OVERLAP.number


def test_a_weight_is_the_share_of_votes_for_the_majority_by_hand():
    """Item 0: 0 0 1; item 1: 1 and 0, a tie at the top, which counts ½. Weights (1 + ½)/2, 1, (0 + ½)/2."""
    item, annotator, label = [0, 0, 0, 1, 1], [0, 1, 2, 0, 2], [0, 0, 1, 1, 0]
    found = weighted_vote(item, annotator, label, n_items=2, n_annotators=3, K=2)
    assert found.weight == pytest.approx([0.75, 1, 0.25])
    assert found.share[0] == pytest.approx([1.75 / 2, 0.25 / 2])
    assert found.share[1] == pytest.approx([0.25, 0.75])
    assert found.label.tolist() == [0, 1]
    assert found.reason.tolist() == [0, 0]


def test_skill_leaves_the_own_vote_out_by_hand():
    """Annotator 0 on item 0 faces 0 and 1: ½; on item 1 faces 0 alone with a 1: 0. Mean ¼."""
    item, annotator, label = [0, 0, 0, 1, 1], [0, 1, 2, 0, 2], [0, 0, 1, 1, 0]
    found = weighted_vote(item, annotator, label, n_items=2, n_annotators=3, K=2)
    assert found.skill == pytest.approx([0.25, 0.5, 0])


def test_someone_without_votes_or_without_company_has_no_skill_and_a_reason():
    found = weighted_vote([0, 1, 1], [0, 1, 2], [0, 1, 1], n_items=2, n_annotators=4, K=2)
    assert found.skill_reason.tolist() == [NO_OVERLAP, 0, 0, NO_VOTES]
    assert np.isnan(found.skill).tolist() == [True, False, False, True]
    assert np.isnan(found.weight).tolist() == [False, False, False, True]


def test_items_without_votes_have_a_reason():
    found = weighted_vote([1], [0], [2], n_items=2, n_annotators=1, K=3)
    assert found.reason.tolist() == [NO_VOTES, 0]
    assert found.label.tolist() == [-1, 2]


def test_no_votes_at_all():
    found = weighted_vote([], [], [], n_items=1, n_annotators=1, K=2)
    assert found.reason.tolist() == [NO_VOTES] and found.skill_reason.tolist() == [NO_VOTES]


@pytest.mark.parametrize("seed", range(5))
def test_no_item_with_votes_is_left_without_weight(seed):
    votes = planted(seed, n=30, votes=2, equal=False)
    found = weighted_vote(*votes.given, **votes.sizes)
    assert found.share.sum(axis=1) == pytest.approx(np.ones(votes.n_items))


def test_equal_weights_give_the_majority():
    """Everybody votes the same way on unanimous items, so that all weigh 1."""
    item, annotator, label = np.repeat(np.arange(6), 3), np.tile(np.arange(3), 6), np.repeat(np.arange(6) % 3, 3)
    found = weighted_vote(item, annotator, label, n_items=6, n_annotators=3, K=3)
    most = majority(vote_counts(item, label, n_items=6, K=3))
    assert np.array_equal(found.label, most.label) and found.share == pytest.approx(most.share)


def test_weights_that_differ_by_rounding_alone_tie():
    counts = vote_counts([0, 0, 0], [0, 0, 1], n_items=1, K=2, weight=[0.1, 0.2, 0.3])
    assert counts[0, 0] != counts[0, 1]
    assert majority(counts).reason.tolist() == [Reason.TIED_TOP.number]


def test_its_soft_labels_are_hard():
    votes = planted(1, n=20)
    counts = vote_counts(votes.item, votes.label, n_items=20, K=3)
    found = weighted_vote(*votes.given, **votes.sizes)
    labels = soft_labels(found, counts)
    decided = found.label >= 0
    assert np.array_equal(labels.prob[decided], np.array([1, 0.5, 0])[found.label[decided]])
    assert labels.confidence == pytest.approx(found.share.max(axis=1))


def test_repeats_of_the_same_person_are_no_company():
    """On item 0 annotator 0 votes 0, 0, 1 against one 1: ⅓; 1 faces a leading 0: none. Item 1 is 2's alone."""
    item, annotator, label = [0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 2, 2], [0, 0, 1, 1, 0, 0]
    found = weighted_vote(item, annotator, label, n_items=2, n_annotators=3, K=2)
    assert found.skill[:2] == pytest.approx([1 / 3, 0])
    assert found.skill_reason.tolist() == [0, 0, NO_OVERLAP]
