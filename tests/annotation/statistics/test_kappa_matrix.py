"""Kappa of all pairs of annotators at once: the loop over pairs, the edges, and LLMFAO."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import cohen_kappa_score

from annotation.statistics.agreement import cohen_kappa, kappa_matrix
from annotation.statistics.estimates import Reason
from tests.annotation.statistics.published import llmfao

NOBODY = -1  # did not vote


@st.composite
def panels(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    """Labels [items, annotators] with gaps, and the number of classes."""
    K = draw(st.sampled_from([2, 3, 5]))
    shape = (draw(st.integers(0, 25)), draw(st.integers(1, 5)))
    return draw(arrays(np.int64, shape, elements=st.integers(NOBODY, K - 1))), K


def matrix_of(panel: np.ndarray, K: int, **options: object):
    item, annotator = np.nonzero(panel >= 0)
    sizes = {"n_items": len(panel), "n_annotators": panel.shape[1], "K": K}
    return kappa_matrix(item, annotator, panel[item, annotator], **sizes, **options)


@pytest.mark.parametrize("weights", ["identity", "linear", "quadratic", "ordinal"])
@given(drawn=panels())
@settings(max_examples=30, deadline=None)
def test_the_matrix_is_the_loop_over_pairs(weights, drawn):
    panel, K = drawn
    found = matrix_of(panel, K, weights=weights, min_common=2)
    for i in range(panel.shape[1]):
        for j in range(panel.shape[1]):
            both = (panel[:, i] >= 0) & (panel[:, j] >= 0)
            assert found.n_common[i, j] == both.sum()
            one = cohen_kappa(panel[both, i], panel[both, j], K=K, weights=weights)
            if i == j:
                assert found.reason[i, j] == Reason.ONE_ANNOTATOR.number
            elif both.sum() < 2:
                expected = Reason.TOO_FEW_COMMON if both.any() else Reason.NO_OVERLAP
                assert found.reason[i, j] == expected.number
            elif one.value is None:
                assert found.reason[i, j] == one.reason.number
            else:
                assert found.kappa[i, j] == pytest.approx(one.value, abs=1e-9)
                assert found.se[i, j] == pytest.approx(one.se, abs=1e-9)
    for matrix in (found.kappa, found.se):
        np.testing.assert_array_equal(np.isnan(matrix), found.reason != 0)
        np.testing.assert_allclose(matrix, matrix.T)


@given(drawn=panels(), data=st.data())
@settings(max_examples=30, deadline=None)
def test_renamed_annotators_and_permuted_classes_only_move_the_matrix(drawn, data):
    panel, K = drawn
    people = np.array(data.draw(st.permutations(range(panel.shape[1]))))
    classes = np.array([*data.draw(st.permutations(range(K))), NOBODY])
    straight, moved = matrix_of(panel, K, min_common=2), matrix_of(classes[panel][:, people], K, min_common=2)
    np.testing.assert_allclose(moved.kappa, straight.kappa[np.ix_(people, people)], atol=1e-9)
    np.testing.assert_array_equal(moved.reason, straight.reason[np.ix_(people, people)])


def test_a_pair_needs_as_many_common_items_as_asked():
    panel = np.array([[0, 0], [1, 1], [0, 1], [1, 1]])
    assert matrix_of(panel, 2).reason[0, 1] == Reason.TOO_FEW_COMMON.number
    assert matrix_of(panel, 2, min_common=4).kappa[0, 1] == pytest.approx(0.5)  # (3/4 − 1/2)/(1 − 1/2)


def test_one_class_has_no_kappa():
    found = matrix_of(np.zeros((30, 2), dtype=np.int64), 2)
    assert found.reason[0, 1] == Reason.ONE_CLASS.number
    assert math.isnan(found.kappa[0, 1])


def test_nobody_and_no_votes_give_empty_matrices_with_reasons():
    sizes = {"n_items": 3, "K": 2}
    assert kappa_matrix([], [], [], n_annotators=0, **sizes).kappa.shape == (0, 0)
    found = kappa_matrix([], [], [], n_annotators=2, **sizes)
    assert found.reason[0, 1] == Reason.NO_OVERLAP.number
    assert np.isnan(found.kappa).all()


def test_a_repeated_vote_is_refused_unless_the_last_is_asked_for():
    votes = ([0, 0, 0, 1, 1], [0, 0, 1, 0, 1], [1, 0, 0, 1, 1])
    sizes = {"n_items": 2, "n_annotators": 2, "K": 2}
    with pytest.raises(ValueError, match=r"^annotator "):
        kappa_matrix(*votes, **sizes)
    assert kappa_matrix(*votes, **sizes, min_common=2, repeats="last").kappa[0, 1] == 1


def test_kappas_of_llmfao_have_the_quartiles_of_the_specification_and_are_scikit_learns(test_data):
    votes = llmfao(test_data).votes
    found = kappa_matrix(*votes.given, **votes.sizes)
    i, j = np.nonzero(np.triu(found.reason == 0, k=1))
    assert len(i) == 104
    assert np.quantile(found.kappa[i, j], [0.25, 0.5, 0.75]) == pytest.approx([0.125, 0.324, 0.451], abs=1e-3)
    panel = np.full((votes.n_items, votes.n_annotators), NOBODY)
    panel[votes.item, votes.annotator] = votes.label
    for one, other in zip(i[:20], j[:20], strict=True):
        both = (panel[:, one] >= 0) & (panel[:, other] >= 0)
        theirs = cohen_kappa_score(panel[both, one], panel[both, other])
        assert found.kappa[one, other] == pytest.approx(theirs, abs=1e-9)
