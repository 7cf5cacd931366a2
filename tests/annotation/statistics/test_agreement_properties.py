"""Properties of κ and of the bootstrap, other libraries where they are right, and what intervals cover."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from evalica import alpha as evalica_alpha
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pandas import DataFrame
from scipy.special import expit
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats import inter_rater

from annotation.statistics.agreement import (
    cohen_kappa,
    fleiss_kappa,
    gwet_ac,
    krippendorff_alpha,
    percent_agreement,
)
from annotation.statistics.estimates import Estimate, Reason
from tests.annotation.statistics.published import pandalm, single_votes

BOOTSTRAPPED = {
    "percent": percent_agreement,
    "fleiss": fleiss_kappa,
    "ac1": gwet_ac,
    "nominal": krippendorff_alpha,
    "ordinal": lambda counts, **options: krippendorff_alpha(counts, level="ordinal", **options),
}
every_bootstrapped = pytest.mark.parametrize("coefficient", BOOTSTRAPPED.values(), ids=BOOTSTRAPPED)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    """The classes that two annotators gave, and the number of classes."""
    K = draw(st.sampled_from([2, 3, 5]))
    labels = draw(arrays(np.int64, (2, draw(st.integers(0, 20))), elements=st.integers(0, K - 1)))
    return labels[0], labels[1], K


def numbers(estimate: Estimate) -> tuple[float | None, ...]:
    return estimate.value, estimate.se, estimate.low, estimate.high


def same(first: Estimate, second: Estimate, *, within: float = 1e-9) -> bool:
    assert first.reason == second.reason
    for one, other in zip(numbers(first), numbers(second), strict=True):
        assert one == (None if other is None else pytest.approx(other, abs=within))
    return True


@given(drawn=pairs())
@settings(max_examples=60, deadline=None)
def test_two_label_arrays_are_their_table(drawn):
    first, second, K = drawn
    counted = np.zeros((K, K))
    np.add.at(counted, (first, second), 1)
    assert same(cohen_kappa(first, second, K=K), cohen_kappa(counted))


@pytest.mark.parametrize("weights", ["identity", "linear", "quadratic", "ordinal"])
@given(drawn=pairs(), data=st.data())
@settings(max_examples=30, deadline=None)
def test_the_order_of_items_and_of_annotators_and_reversed_classes_do_not_matter(weights, drawn, data):
    first, second, K = drawn
    straight = cohen_kappa(first, second, K=K, weights=weights)
    order = np.array(data.draw(st.permutations(range(len(first)))), dtype=np.int64)
    assert same(straight, cohen_kappa(first[order], second[order], K=K, weights=weights))
    assert same(straight, cohen_kappa(second, first, K=K, weights=weights))
    assert same(straight, cohen_kappa(K - 1 - first, K - 1 - second, K=K, weights=weights))


@given(drawn=pairs(), data=st.data())
@settings(max_examples=30, deadline=None)
def test_the_names_of_classes_do_not_matter_without_weights(drawn, data):
    first, second, K = drawn
    name = np.array(data.draw(st.permutations(range(K))))
    assert same(cohen_kappa(first, second, K=K), cohen_kappa(name[first], name[second], K=K))


@given(drawn=pairs(), data=st.data())
@settings(max_examples=30, deadline=None)
def test_kappa_by_group_is_the_jackknife_and_copies_in_the_groups_change_nothing(drawn, data):
    first, second, K = drawn
    group = data.draw(arrays(np.int64, len(first), elements=st.integers(0, 3)))
    found = cohen_kappa(first, second, K=K, group=group)
    assume(found.method == "jackknife" and found.se is not None)
    left = [cohen_kappa(first[group != g], second[group != g], K=K).value for g in np.unique(group)]
    G = len(left)
    assert found.n_groups == G
    assert found.se == pytest.approx(np.sqrt((G - 1) / G * np.sum((left - np.mean(left)) ** 2)), abs=1e-9)
    assert same(found, cohen_kappa(np.tile(first, 2), np.tile(second, 2), K=K, group=np.tile(group, 2)))


def test_the_analytic_error_is_only_for_items_that_are_their_own_groups():
    first, second = np.array([0, 1, 1, 0, 1]), np.array([0, 1, 0, 0, 1])
    assert cohen_kappa(first, second, K=2, group=[7, 3, 9, 1, 5]).method == "analytic"
    assert cohen_kappa(first, second, K=2, group=[7, 7, 9, 1, 5]).method == "jackknife"
    assert cohen_kappa(first, second, K=2, group=np.zeros(5, dtype=int)).reason is Reason.TOO_FEW_GROUPS


def test_a_weighted_kappa_holds_its_value_whatever_the_weights():
    weights = np.full((3, 3), 0.99) + 0.01 * np.eye(3)
    weights[0, 1] = weights[1, 0] = 0.0
    first, second = np.tile([0, 1, 2, 2, 2, 2, 2, 2], 3), np.tile([1, 0, 2, 2, 2, 2, 2, 2], 3)
    for group in (None, np.arange(24) % 6):
        found = cohen_kappa(first, second, K=3, weights=weights, group=group)
        assert found.value < -1
        assert found.low < found.value < found.high


def test_kappa_over_many_groups_does_not_need_a_table_of_each():
    rng = np.random.default_rng(0)
    first, group = rng.integers(0, 200, 20_000), np.arange(20_000) // 2
    second = np.where(rng.random(20_000) < 0.5, first, rng.integers(0, 200, 20_000))
    tracemalloc.start()
    found = cohen_kappa(first, second, K=200, group=group)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000 * 200 * 200 * 8 / 10  # a tenth of 10,000 tables
    assert found.low < 0.5 < found.high


def test_kappa_that_does_not_exist_says_why_and_malformed_labels_are_refused():
    assert cohen_kappa([], [], K=2).reason is Reason.NO_OVERLAP
    assert cohen_kappa([], [], K=2, group=[]).reason is Reason.NO_OVERLAP
    assert cohen_kappa([1, 1], [1, 1], K=2, group=[0, 0]).reason is Reason.ONE_CLASS
    for arguments, options, name in (
        (([0], [1]), {}, "K"),
        (([0], [2]), {"K": 2}, "second"),
        (([0, 1], [1]), {"K": 2}, "second"),
        (([[1, 0], [0, 1]],), {"group": [0, 1]}, "group"),
    ):
        with pytest.raises(ValueError, match=f"^{name} "):
            cohen_kappa(*arguments, **options)


@pytest.mark.parametrize("weights", [None, "linear", "quadratic"])
@given(drawn=pairs())
@settings(max_examples=30, deadline=None)
def test_kappa_is_scikit_learns_and_its_error_statsmodels(weights, drawn):
    first, second, K = drawn
    found = cohen_kappa(first, second, K=K, weights=weights or "identity")
    assume(found.value is not None)
    assert found.value == pytest.approx(cohen_kappa_score(first, second, labels=range(K), weights=weights), abs=1e-9)
    assume(found.se is not None and found.se > 1e-6)  # theirs is not centred and loses digits near 0
    counted = np.zeros((K, K))
    np.add.at(counted, (first, second), 1)
    theirs = inter_rater.cohens_kappa(counted, wt=weights)
    assert found.se == pytest.approx(theirs.std_kappa, abs=1e-8)


@given(arrays(np.int64, (8, 4), elements=st.integers(0, 2)))
@settings(max_examples=30, deadline=None)
def test_fleiss_is_statsmodels_with_equally_many_votes(labels):
    counts = np.stack([(labels == k).sum(axis=1) for k in range(3)], axis=1)
    found = fleiss_kappa(counts)
    assume(found.value is not None)
    assert found.value == pytest.approx(inter_rater.fleiss_kappa(counts), abs=1e-9)


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
def test_alpha_is_evalicas_where_more_than_one_class_was_used(test_data, level):
    votes = pandalm(test_data)
    panel = np.empty((votes.n_annotators, votes.n_items))
    panel[votes.annotator, votes.item] = votes.label
    ours = krippendorff_alpha(single_votes(*votes.given, **votes.sizes), level=level)
    assert ours.value == pytest.approx(evalica_alpha(DataFrame(panel), distance=level).alpha, abs=1e-9)


@every_bootstrapped
def test_the_bootstrap_has_the_value_of_the_jackknife_and_about_its_error(coefficient):
    rng = np.random.default_rng(3)
    counts = rng.multinomial(5, [0.6, 0.3, 0.1], size=400)
    group = np.repeat(np.arange(80), 5)
    for options in ({}, {"group": group}):
        slow = coefficient(counts, **options)
        quick = coefficient(counts, method="bootstrap", rng=0, **options)
        assert (quick.value, quick.n, quick.n_groups) == (pytest.approx(slow.value), slow.n, slow.n_groups)
        assert quick.method == "bootstrap"
        assert quick.se == pytest.approx(slow.se, rel=0.15)
        assert (quick.low, quick.high) == pytest.approx((slow.low, slow.high), abs=slow.se / 2)


@every_bootstrapped
def test_the_same_seed_gives_the_same_interval_whatever_the_order_of_items(coefficient):
    rng = np.random.default_rng(4)
    counts = rng.multinomial(3, [0.5, 0.3, 0.2], size=60)
    order = rng.permutation(60)
    first, again, shuffled, other = (
        coefficient(c, method="bootstrap", rng=seed)
        for c, seed in ((counts, 1), (counts, 1), (counts[order], 1), (counts, 2))
    )
    assert numbers(first) == numbers(again)
    assert same(first, shuffled)
    assert first.se != other.se


@every_bootstrapped
def test_a_bootstrap_without_interval_says_why(coefficient):
    assert coefficient(np.zeros((0, 3)), method="bootstrap", rng=0).reason is Reason.NO_OVERLAP
    one_group = coefficient([[2, 1, 0], [0, 1, 1]], group=[4, 4], method="bootstrap", rng=0)
    assert (one_group.low, one_group.reason) == (None, Reason.TOO_FEW_GROUPS)
    with pytest.raises(ValueError, match=r"^rng "):
        coefficient([[2, 1, 0]], method="bootstrap")
    with pytest.raises(ValueError, match=r"^method "):
        coefficient([[2, 1, 0]], method="guess")


def test_many_votes_on_many_classes_have_distinct_patterns_too():
    """Sixteen classes of up to 99 votes: more patterns than an integer can number."""
    counts = np.random.default_rng(5).integers(0, 100, (30, 16))
    twice = np.vstack([counts, counts])
    found = percent_agreement(twice, method="bootstrap", rng=0)
    assert found.value == pytest.approx(percent_agreement(counts).value)
    assert found.se == pytest.approx(percent_agreement(twice).se, rel=0.15)


def test_a_value_that_hangs_on_one_item_has_no_bootstrap_interval():
    """Of four items one has the second class: (3/4)⁴ = .32 of the resamples lack it, and have no chance agreement."""
    counts = [[3, 0], [3, 0], [3, 0], [1, 2]]
    alpha = krippendorff_alpha(counts, method="bootstrap", rng=0)
    assert alpha.value is not None
    assert (alpha.low, alpha.reason) == (None, Reason.TOO_FEW_GROUPS)
    assert percent_agreement(counts, method="bootstrap", rng=0).low is not None


@given(arrays(np.int64, (6, 3), elements=st.integers(0, 4)))
@settings(max_examples=30, deadline=None)
def test_copies_of_all_items_move_alpha_by_the_correction_for_few_votes_alone(counts):
    """1 − α is (M − 1) Σoδ²/Σmmδ²: copies make it (2M − 1)/(2M − 2) times as large."""
    once, twice = krippendorff_alpha(counts), krippendorff_alpha(np.vstack([counts, counts]))
    assume(once.value is not None)
    M = counts[counts.sum(axis=1) >= 2].sum()
    assert 1 - twice.value == pytest.approx((1 - once.value) * (2 * M - 1) / (2 * M - 2), abs=1e-9)


def test_an_unused_seed_does_not_make_a_bootstrap():
    assert percent_agreement([[2, 1], [1, 1], [3, 0]], rng=0).method == "jackknife"


@pytest.mark.slow
@pytest.mark.parametrize(("prompts", "stated"), [(13, 0.94), (30, 0.94), (100, 0.95)])
def test_the_clustered_interval_of_alpha_covers_as_stated_and_one_by_unit_does_not(prompts, stated):
    """Ten pairs a prompt that share the prompt's effect, three votes a pair, 1,500 replications."""
    rng = np.random.default_rng(5)

    def counts_of(groups: int) -> np.ndarray:
        lean = 1.5 * rng.normal(size=(groups, 1)) + 0.5 * rng.normal(size=(groups, 10))
        for_a = rng.binomial(3, expit(lean)).ravel()
        return np.stack([for_a, 3 - for_a], axis=1)

    truth = krippendorff_alpha(counts_of(60_000)).value
    group = np.repeat(np.arange(prompts), 10)
    clustered, by_unit = [], []
    for _ in range(1500):
        counts = counts_of(prompts)
        for held, estimate in (
            (clustered, krippendorff_alpha(counts, group=group)),
            (by_unit, krippendorff_alpha(counts)),
        ):
            held.append(estimate.low <= truth <= estimate.high)
    assert np.mean(clustered) == pytest.approx(stated, abs=0.02)
    assert np.mean(by_unit) < 0.85
