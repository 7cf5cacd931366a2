"""Vote counts, majority and soft labels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from annotation.statistics.aggregation import (
    majority,
    preference_share,
    preference_values,
    soft_labels,
    vote_counts,
)
from annotation.statistics.estimates import Reason

NO_VOTES, TIED_TOP = Reason.NO_VOTES.number, Reason.TIED_TOP.number


@st.composite
def votes(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int, int]:
    K = draw(st.sampled_from([2, 3, 5]))
    n_items = draw(st.integers(1, 8))
    V = draw(st.integers(0, 40))
    item = draw(arrays(np.int64, V, elements=st.integers(0, n_items - 1)))
    label = draw(arrays(np.int64, V, elements=st.integers(0, K - 1)))
    return item, label, n_items, K


def test_counts_are_votes_by_item_and_class():
    counts = vote_counts([0, 0, 2], [1, 1, 0], n_items=3, K=2)
    assert counts.tolist() == [[0, 2], [0, 0], [1, 0]]


def test_no_votes_at_all_are_counted_too():
    assert vote_counts([], [], n_items=2, K=3).tolist() == [[0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"label": [0]}, "label"),
        ({"label": [0, 3]}, "label"),
        ({"item": [0, 2]}, "item"),
        ({"weight": [1.0]}, "weight"),
        ({"K": 1}, "K"),
        ({"n_items": -1}, "n_items"),
    ],
)
def test_malformed_votes_are_refused_by_name(arguments, name):
    good = {"item": [0, 1], "label": [0, 2], "n_items": 2, "K": 3}
    with pytest.raises(ValueError, match=f"^{name} "):
        merged = {**good, **arguments}
        vote_counts(merged.pop("item"), merged.pop("label"), **merged)


@given(votes(), st.data())
def test_an_integer_weight_is_that_many_copies(case, data):
    item, label, n_items, K = case
    weight = data.draw(arrays(np.int64, len(item), elements=st.integers(0, 4)))
    weighted = vote_counts(item, label, n_items=n_items, K=K, weight=weight)
    copied = vote_counts(np.repeat(item, weight), np.repeat(label, weight), n_items=n_items, K=K)
    np.testing.assert_array_equal(weighted, copied)


@given(votes(), st.randoms(use_true_random=False))
def test_the_order_of_votes_does_not_matter(case, random):
    item, label, n_items, K = case
    order = np.array(random.sample(range(len(item)), len(item)), dtype=np.int64)
    np.testing.assert_array_equal(
        vote_counts(item, label, n_items=n_items, K=K),
        vote_counts(item[order], label[order], n_items=n_items, K=K),
    )


def test_the_majority_is_the_unique_leader_and_never_a_guess():
    result = majority([[2, 0, 1], [1, 0, 1], [0, 0, 0], [1, 1, 1]])
    assert result.label.tolist() == [0, -1, -1, -1]
    assert result.reason.tolist() == [0, TIED_TOP, NO_VOTES, TIED_TOP]
    assert result.share[0].tolist() == pytest.approx([2 / 3, 0, 1 / 3])
    assert result.top[1].tolist() == [True, False, True]
    assert not result.top[2].any()
    assert np.isnan(result.share[2]).all()


def test_the_majority_of_no_items():
    assert majority(np.zeros((0, 3))).label.shape == (0,)


@given(votes(), st.randoms(use_true_random=False))
def test_renaming_the_classes_renames_the_majority(case, random):
    item, label, n_items, K = case
    name = np.array(random.sample(range(K), K))
    before = majority(vote_counts(item, label, n_items=n_items, K=K))
    after = majority(vote_counts(item, name[label], n_items=n_items, K=K))
    np.testing.assert_array_equal(after.reason, before.reason)
    np.testing.assert_array_equal(after.label, np.where(before.label >= 0, name[before.label], -1))


@given(votes())
def test_nothing_is_undefined_without_a_reason(case):
    item, label, n_items, K = case
    counts = vote_counts(item, label, n_items=n_items, K=K)
    result = majority(counts)
    assert np.isfinite(result.share[result.reason != NO_VOTES]).all()
    labels = soft_labels(result, counts)
    for values in (labels.prob, labels.share, labels.p_tie, labels.confidence):
        assert np.isfinite(values[labels.reason == 0]).all()
        assert np.isnan(values[labels.reason != 0]).all()
        assert np.all((values[labels.reason == 0] >= 0) & (values[labels.reason == 0] <= 1))


def test_classes_before_the_middle_speak_for_a():
    assert preference_values(2).tolist() == [1, 0]
    assert preference_values(3).tolist() == [1, 0.5, 0]
    assert preference_values(5).tolist() == [1, 1, 0.5, 0, 0]
    assert preference_values(4).tolist() == [1, 1, 0, 0]


def test_the_preference_share_counts_ties_half():
    assert preference_share([[2, 1, 1]]).tolist() == [(2 + 0.5) / 4]


def test_soft_labels_of_the_majority_are_hard_and_the_share_is_not():
    counts = [[2, 0, 1], [0, 0, 3], [0, 2, 1], [1, 0, 1], [0, 0, 0]]
    labels = soft_labels(majority(counts), counts)
    assert labels.prob.tolist()[:4] == [1, 0, 0.5, 0.5]
    assert labels.share.tolist()[:4] == pytest.approx([2.5 / 4, 0.5 / 4, 1.5 / 4, 1.5 / 3])
    assert labels.p_tie.tolist()[:4] == pytest.approx([0, 0, 2 / 3, 0])
    assert labels.confidence.tolist()[:4] == pytest.approx([2 / 3, 1, 2 / 3, 1 / 2])
    assert labels.reason.tolist() == [0, 0, 0, 0, NO_VOTES]
    assert np.isnan(labels.prob[4])


@given(votes())
def test_swapping_a_and_b_turns_every_soft_label_round(case):
    item, label, n_items, K = case
    counts = vote_counts(item, label, n_items=n_items, K=K)
    labels, swapped = soft_labels(majority(counts), counts), soft_labels(majority(counts[:, ::-1]), counts[:, ::-1])
    np.testing.assert_allclose(swapped.prob, 1 - labels.prob)
    np.testing.assert_allclose(swapped.share, 1 - labels.share)
    np.testing.assert_allclose(swapped.p_tie, labels.p_tie)


def test_soft_labels_refuse_the_counts_of_other_items():
    with pytest.raises(ValueError, match="counts"):
        soft_labels(majority([[1, 0]]), [[1, 0], [0, 1]])


def test_inputs_are_never_written_to():
    item, label, counts = np.array([0, 1]), np.array([0, 1]), np.array([[1.0, 2.0]])
    for array in (item, label, counts):
        array.flags.writeable = False
    vote_counts(item, label, n_items=2, K=2)
    soft_labels(majority(counts), counts)
