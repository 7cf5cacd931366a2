"""Agreement coefficients: identities, invariances and edges."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from annotation.statistics.agreement import (
    agreement_weights,
    fleiss_kappa,
    gwet_ac,
    krippendorff_alpha,
    percent_agreement,
    unanimous_share,
)
from annotation.statistics.estimates import Estimate, Reason
from tests.annotation.statistics.published import single_votes

COEFFICIENTS = {
    "percent": percent_agreement,
    "unanimous": unanimous_share,
    "fleiss": fleiss_kappa,
    "ac1": gwet_ac,
    "ac2": lambda counts, **options: gwet_ac(counts, weights="ordinal", **options),
    "nominal": krippendorff_alpha,
    "ordinal": lambda counts, **options: krippendorff_alpha(counts, level="ordinal", **options),
    "interval": lambda counts, **options: krippendorff_alpha(counts, level="interval", **options),
    "ratio": lambda counts, **options: krippendorff_alpha(counts, level="ratio", **options),
}
every_coefficient = pytest.mark.parametrize("coefficient", COEFFICIENTS.values(), ids=COEFFICIENTS)


@st.composite
def tables(draw: st.DrawFn) -> np.ndarray:
    shape = (draw(st.integers(1, 12)), draw(st.sampled_from([2, 3, 5])))
    return draw(arrays(np.int64, shape, elements=st.integers(0, 4)))


def same(first: Estimate, second: Estimate, *, but: tuple[str, ...] = ()) -> bool:
    for field in dataclasses.fields(Estimate):
        one, other = getattr(first, field.name), getattr(second, field.name)
        if field.name in but:
            continue
        if isinstance(one, float) and isinstance(other, float):
            if not math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-9):
                return False
        elif field.name != "warnings" and one != other:
            return False
    return True


def alpha_by_definition(counts: np.ndarray, distance: np.ndarray) -> float:
    """α from the coincidence matrix, vote pair by vote pair."""
    K = counts.shape[1]
    o = np.zeros((K, K))
    for row in counts:
        labels = [k for k in range(K) for _ in range(int(row[k]))]
        for i, k in enumerate(labels):
            for j, other in enumerate(labels):
                if i != j:
                    o[k, other] += 1 / (len(labels) - 1)
    m = o.sum(axis=1)
    return 1 - (m.sum() - 1) * (o * distance).sum() / (np.outer(m, m) * distance).sum()


@every_coefficient
@given(counts=tables(), random=st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_the_order_and_the_names_of_items_and_groups_do_not_matter(coefficient, counts, random):
    order = np.array(random.sample(range(len(counts)), len(counts)))
    group = np.arange(len(counts)) // 2
    renamed = 100 - 7 * group
    assert same(coefficient(counts), coefficient(counts[order]))
    assert same(coefficient(counts, group=group), coefficient(counts[order], group=renamed[order]))


@every_coefficient
@given(counts=tables())
@settings(max_examples=30, deadline=None)
def test_every_result_is_finite_or_has_a_reason(coefficient, counts):
    for group in (None, np.zeros(len(counts), dtype=np.int64), np.arange(len(counts)) % 3):
        estimate = coefficient(counts, group=group)
        assert (estimate.value is None or estimate.low is None) == (estimate.reason is not None)
        if estimate.low is not None:
            assert estimate.low - 1e-12 <= estimate.value <= estimate.high + 1e-12


@pytest.mark.parametrize("name", ["percent", "unanimous", "fleiss", "ac1", "nominal"])
@given(counts=tables(), random=st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_the_names_of_classes_do_not_matter_without_an_order(name, counts, random):
    K = counts.shape[1]
    permuted = counts[:, random.sample(range(K), K)]
    assert same(COEFFICIENTS[name](counts), COEFFICIENTS[name](permuted))


@pytest.mark.parametrize("name", ["ac2", "ordinal", "interval"])
@given(counts=tables())
@settings(max_examples=30, deadline=None)
def test_reversing_the_order_of_classes_changes_nothing(name, counts):
    assert same(COEFFICIENTS[name](counts), COEFFICIENTS[name](counts[:, ::-1]))


@every_coefficient
@given(counts=tables())
@settings(max_examples=20, deadline=None)
def test_an_item_without_votes_changes_nothing(coefficient, counts):
    longer = np.vstack([counts, np.zeros((1, counts.shape[1]), dtype=np.int64)])
    assert same(coefficient(counts), coefficient(longer))


@pytest.mark.parametrize("name", ["percent", "unanimous", "nominal", "ordinal", "interval", "ratio"])
@given(counts=tables())
@settings(max_examples=20, deadline=None)
def test_an_item_with_one_vote_leaves_agreement_as_it_is(name, counts):
    longer = np.vstack([counts, np.eye(counts.shape[1], dtype=np.int64)[:1]])
    assert same(COEFFICIENTS[name](counts), COEFFICIENTS[name](longer))


@pytest.mark.parametrize("name", ["percent", "unanimous", "fleiss", "ac1", "ac2"])
@given(counts=tables())
@settings(max_examples=20, deadline=None)
def test_copies_of_all_items_in_their_groups_change_nothing(name, counts):
    group = np.arange(len(counts))
    once = COEFFICIENTS[name](counts, group=group)
    twice = COEFFICIENTS[name](np.vstack([counts, counts]), group=np.tile(group, 2))
    assert same(once, twice, but=("n",))


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval", "ratio"])
@given(counts=tables())
@settings(max_examples=40, deadline=None)
def test_alpha_is_its_definition(level, counts):
    counts = counts[counts.sum(axis=1) >= 2]
    assume(np.count_nonzero(counts.sum(axis=0)) >= 2)
    K = counts.shape[1]
    v = np.arange(1.0, K + 1)
    m = counts.sum(axis=0)
    distance = np.zeros((K, K))
    for k in range(K):
        for other in range(K):
            between = m[min(k, other) : max(k, other) + 1].sum() - (m[k] + m[other]) / 2
            distance[k, other] = {
                "nominal": float(k != other),
                "ordinal": between**2 if k != other else 0.0,
                "interval": (v[k] - v[other]) ** 2,
                "ratio": ((v[k] - v[other]) / (v[k] + v[other])) ** 2,
            }[level]
    alpha = krippendorff_alpha(counts, level=level, values=v)
    assert alpha.value == pytest.approx(alpha_by_definition(counts, distance), abs=1e-9)


@pytest.mark.parametrize("name", ["percent", "fleiss", "ac2", "nominal", "ordinal", "interval"])
@given(counts=tables(), data=st.data())
@settings(max_examples=20, deadline=None)
def test_the_standard_error_is_that_of_leaving_groups_out_one_by_one(name, counts, data):
    group = data.draw(arrays(np.int64, len(counts), elements=st.integers(0, 3)))
    estimate = COEFFICIENTS[name](counts, group=group)
    assume(estimate.se is not None)
    enough = counts.sum(axis=1) >= (1 if name in ("fleiss", "ac2") else 2)
    left = [COEFFICIENTS[name](counts[group != g]).value for g in np.unique(group[enough])]
    G = len(left)
    assert estimate.n_groups == G
    assert estimate.se == pytest.approx(math.sqrt((G - 1) / G * np.sum((left - np.mean(left)) ** 2)), abs=1e-9)


@given(labels=arrays(np.int64, st.tuples(st.integers(2, 15), st.just(2)), elements=st.integers(0, 2)))
@settings(max_examples=40, deadline=None)
def test_with_two_annotators_fleiss_is_scotts_pi_and_alpha_its_correction(labels):
    assume(len(np.unique(labels)) > 1)
    counts = np.stack([(labels == k).sum(axis=1) for k in range(3)], axis=1)
    share = np.bincount(labels.ravel(), minlength=3) / labels.size
    chance = np.sum(share**2)
    pi = (np.mean(labels[:, 0] == labels[:, 1]) - chance) / (1 - chance)
    assert fleiss_kappa(counts).value == pytest.approx(pi)
    assert krippendorff_alpha(counts).value == pytest.approx(1 - (1 - pi) * (1 - 1 / labels.size))


@given(counts=tables())
@settings(max_examples=20, deadline=None)
def test_identity_weights_make_ac2_into_ac1(counts):
    assert same(gwet_ac(counts), gwet_ac(counts, weights=np.eye(counts.shape[1])))


def test_full_agreement_on_two_classes_is_one():
    counts = [[3, 0, 0], [0, 0, 3], [0, 3, 0], [3, 0, 0]]
    for coefficient in COEFFICIENTS.values():
        assert coefficient(counts).value == pytest.approx(1)


def test_one_class_leaves_chance_agreement_undefined_but_not_ac1():
    counts = [[3, 0], [2, 0]]
    for coefficient in (fleiss_kappa, krippendorff_alpha):
        assert (coefficient(counts).value, coefficient(counts).reason) == (None, Reason.ONE_CLASS)
    assert krippendorff_alpha(counts, level="ordinal").reason is Reason.ONE_CLASS
    assert percent_agreement(counts).value == 1
    assert gwet_ac(counts).value == 1


@every_coefficient
@pytest.mark.parametrize("counts", [np.zeros((0, 3)), np.zeros((2, 3)), np.eye(3)], ids=["empty", "none", "single"])
def test_without_two_votes_on_an_item_there_is_no_agreement(coefficient, counts):
    estimate = coefficient(counts)
    assert (estimate.value, estimate.reason) == (None, Reason.NO_OVERLAP)


@every_coefficient
def test_one_group_has_a_value_and_no_interval(coefficient):
    estimate = coefficient([[2, 1, 0], [0, 1, 1]], group=[4, 4])
    assert estimate.value is not None
    assert (estimate.low, estimate.reason) == (None, Reason.TOO_FEW_GROUPS)


def test_weights_between_equal_votes_are_one_and_between_extremes_nought():
    for name in ("identity", "linear", "quadratic", "ordinal"):
        w = agreement_weights(name, K=4)
        assert np.diag(w).tolist() == [1, 1, 1, 1]
        assert w[0, 3] == 0
    assert agreement_weights("linear", K=3, values=[0, 1, 4])[0].tolist() == [1, 0.75, 0]


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"group": [0]}, "group"),
        ({"weights": "cubic"}, "weights"),
        ({"weights": np.zeros((2, 2))}, "weights"),
        ({"weights": "linear", "values": [1, 1, 2]}, "values"),
    ],
)
def test_malformed_options_are_refused_by_name(options, name):
    with pytest.raises(ValueError, match=f"^{name} "):
        percent_agreement([[1, 1, 0], [2, 0, 0]], **options)


def test_alpha_refuses_an_unknown_level_and_negative_ratios():
    with pytest.raises(ValueError, match=r"^level "):
        krippendorff_alpha([[1, 1]], level="logarithmic")
    with pytest.raises(ValueError, match=r"^values "):
        krippendorff_alpha([[1, 1]], level="ratio", values=[-1, 1])


def test_fractional_votes_are_refused():
    with pytest.raises(ValueError, match=r"^counts "):
        percent_agreement([[0.5, 1.5]])


def test_a_second_vote_of_an_annotator_is_refused_unless_the_last_is_asked_for():
    votes = ([0, 0, 0], [0, 1, 0], [0, 0, 1])
    sizes = {"n_items": 1, "n_annotators": 2, "K": 2}
    with pytest.raises(ValueError, match=r"^annotator "):
        single_votes(*votes, **sizes)
    assert single_votes(*votes, **sizes, repeats="last").tolist() == [[1, 1]]


@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_the_names_of_annotators_and_the_order_of_votes_do_not_matter(data):
    labels = data.draw(arrays(np.int64, (5, 4), elements=st.integers(-1, 2)))  # −1: did not vote
    item, annotator = np.nonzero(labels >= 0)
    label = labels[item, annotator]
    sizes = {"n_items": 5, "n_annotators": 4, "K": 3}
    name = np.array(data.draw(st.permutations(range(4))))
    order = np.array(data.draw(st.permutations(range(len(item)))), dtype=np.int64)
    np.testing.assert_array_equal(
        single_votes(item, annotator, label, **sizes),
        single_votes(item[order], name[annotator][order], label[order], **sizes),
    )


@every_coefficient
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_an_interval_holds_its_value_also_with_items_of_one_vote(coefficient, data):
    K = data.draw(st.integers(2, 4))
    several = data.draw(arrays(np.int64, (data.draw(st.integers(2, 8)), K), elements=st.integers(0, 2)))
    single = np.eye(K, dtype=np.int64)[data.draw(arrays(np.int64, data.draw(st.integers(0, 40)), elements=st.just(0)))]
    found = coefficient(np.concatenate([several, single]))
    assume(found.low is not None)
    assert found.low <= found.value <= found.high


def test_fleiss_falls_below_minus_one_where_single_votes_make_chance_agreement_certain():
    found = fleiss_kappa([[1, 0]] * 40 + [[1, 1]] * 3 + [[2, 0]])
    chance = ((40 + 1.5 + 1) / 44) ** 2 + (1.5 / 44) ** 2
    assert found.value == pytest.approx((0.25 - chance) / (1 - chance), abs=1e-12)
    assert found.low < found.value < found.high


def test_a_weighted_coefficient_holds_its_value_whatever_the_weights():
    weights = np.full((3, 3), 0.9) + 0.1 * np.eye(3)
    weights[0, 1] = weights[1, 0] = 0.0
    found = gwet_ac([[1, 1, 0]] * 9 + [[0, 0, 2]], weights=weights)
    assert found.value < -1
    assert found.low <= found.value <= found.high


@pytest.mark.parametrize("level", ["interval", "ratio"])
@pytest.mark.parametrize("unit", [1e-9, 1e300])
def test_the_unit_of_the_values_does_not_matter(level, unit):
    counts, values = [[2, 0, 0], [1, 1, 0], [0, 0, 2], [0, 1, 1]], np.array([0.0, 1.0, 3.0])
    given, scaled = (krippendorff_alpha(counts, level=level, values=v) for v in (values, values * unit))
    assert scaled.value == pytest.approx(given.value, abs=1e-12)
