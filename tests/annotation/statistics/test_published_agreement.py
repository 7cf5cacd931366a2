"""Agreement and majority against published tables and the shared real votes."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats import inter_rater

from annotation.statistics.aggregation import majority
from annotation.statistics.agreement import (
    cohen_kappa,
    fleiss_kappa,
    gwet_ac,
    krippendorff_alpha,
    percent_agreement,
    unanimous_share,
)
from annotation.statistics.estimates import Caution, Estimate, Reason
from tests.annotation.statistics.published import (
    PRINT,
    Votes,
    krippendorff_2011,
    llmfao,
    multi_annotator,
    pandalm,
    single_votes,
    squality,
    table,
)


def counts_of(votes: Votes) -> np.ndarray:
    return single_votes(*votes.given, **votes.sizes)


def assert_interval(estimate: Estimate, low: float, high: float, *, within: float) -> None:
    assert estimate.low == pytest.approx(low, abs=within)
    assert estimate.high == pytest.approx(high, abs=within)


@pytest.mark.parametrize(
    ("level", "expected"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849), ("ratio", 0.797)]
)
def test_alpha_of_krippendorffs_table_is_as_printed(test_data, level, expected):
    alpha = krippendorff_alpha(krippendorff_2011(test_data), level=level, values=[1, 2, 3, 4, 5])
    assert alpha.value == pytest.approx(expected, abs=PRINT)


def test_nominal_alpha_of_krippendorffs_table_is_the_exact_fraction(test_data):
    alpha = krippendorff_alpha(krippendorff_2011(test_data))
    assert alpha.value == pytest.approx(904 / 1216, abs=1e-12)
    assert alpha.se == pytest.approx(0.1463, abs=5e-5)
    assert (alpha.n, alpha.n_groups) == (11, 11)
    assert Caution.FEW_GROUPS in alpha.warnings


def test_percent_agreement_and_fleiss_of_krippendorffs_table(test_data):
    counts = krippendorff_2011(test_data)
    assert percent_agreement(counts).value == pytest.approx(0.818, abs=PRINT)
    assert fleiss_kappa(counts).value == pytest.approx(0.761, abs=PRINT)


def test_gwets_coefficients_of_the_same_table_with_their_standard_errors(test_data):
    ac1 = gwet_ac(krippendorff_2011(test_data))
    assert ac1.value == pytest.approx(0.775, abs=PRINT)
    assert ac1.se == pytest.approx(0.143, abs=PRINT)
    assert_interval(ac1, 0.461, 1, within=PRINT)
    assert Caution.CLIPPED in ac1.warnings
    for weights, value, se in (("linear", 0.859, 0.117), ("ordinal", 0.899, 0.107), ("quadratic", 0.914, 0.104)):
        ac2 = gwet_ac(krippendorff_2011(test_data), weights=weights)
        assert ac2.value == pytest.approx(value, abs=PRINT)
        assert ac2.se == pytest.approx(se, abs=PRINT)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("fleiss_1971.csv", 0.43024), ("fleiss_textbook_14raters.csv", 0.20993)],
)
def test_fleiss_kappa_of_published_tables(test_data, name, expected):
    assert fleiss_kappa(table(test_data, name)).value == pytest.approx(expected, abs=5e-6)


def test_the_majority_of_pandalm(test_data):
    result = majority(counts_of(pandalm(test_data)))
    assert [int(np.sum(result.label == k)) for k in (0, 1, 2)] == [274, 65, 347]
    assert np.all(result.reason == 0)


def test_agreement_of_pandalm(test_data):
    votes = pandalm(test_data)
    counts = counts_of(votes)
    assert percent_agreement(counts).value == pytest.approx(0.9125, abs=1e-4)
    assert unanimous_share(counts).value == pytest.approx(0.869, abs=PRINT)
    assert fleiss_kappa(counts).value == pytest.approx(0.8486, abs=1e-4)
    assert krippendorff_alpha(counts, level="ordinal").value == pytest.approx(0.8592, abs=1e-4)
    for weights, value, se in (("identity", 0.8770, 0.0122), ("ordinal", 0.8560, 0.0158)):
        ac = gwet_ac(counts, weights=weights)
        assert (ac.value, ac.se) == (pytest.approx(value, abs=1e-4), pytest.approx(se, abs=1e-4))
    alpha = krippendorff_alpha(counts, group=votes.group)
    assert alpha.value == pytest.approx(0.8487, abs=1e-4)
    assert alpha.n_groups == 123
    assert alpha.se == pytest.approx(0.0243, abs=1e-3)
    assert_interval(alpha, 0.801, 0.897, within=1e-3)


def test_a_unit_bootstrap_of_pandalm_would_claim_half_the_width(test_data):
    alpha = krippendorff_alpha(counts_of(pandalm(test_data)), method="bootstrap", rng=0)
    assert_interval(alpha, 0.819, 0.877, within=2e-3)


def test_kappa_of_each_two_annotators_of_pandalm(test_data):
    """κ and its standard error; statsmodels has the same analytic error, the jackknife over prompts a wider one."""
    votes = pandalm(test_data)
    label = votes.label[np.lexsort((votes.annotator, votes.item))].reshape(-1, 3).T
    for one, other, value, se in ((0, 1, 0.8208, 0.0200), (0, 2, 0.8757, 0.0170), (1, 2, 0.8494, 0.0185)):
        kappa = cohen_kappa(label[one], label[other], K=3)
        assert (kappa.value, kappa.se) == (pytest.approx(value, abs=1e-4), pytest.approx(se, abs=1e-4))
        theirs = inter_rater.cohens_kappa(inter_rater.to_table(label[[one, other]].T, bins=3)[0])
        assert (kappa.value, kappa.se) == (pytest.approx(theirs.kappa), pytest.approx(theirs.std_kappa))
        assert cohen_kappa(label[one], label[other], K=3, group=votes.group).se > kappa.se


def test_agreement_of_pandalm_is_the_same_from_the_shared_votes(test_data):
    counts = counts_of(multi_annotator(test_data, "pandalm"))
    assert unanimous_share(counts).value == pytest.approx(0.869, abs=PRINT)
    assert krippendorff_alpha(counts).value == pytest.approx(0.849, abs=PRINT)


def test_agreement_of_squality_where_one_class_prevails(test_data):
    votes = squality(test_data)
    counts = counts_of(votes)
    assert percent_agreement(counts).value == pytest.approx(0.8667, abs=1e-4)
    assert gwet_ac(counts).value == pytest.approx(0.8493, abs=1e-4)
    assert krippendorff_alpha(counts, level="ordinal").value == pytest.approx(0.5082, abs=1e-4)
    alpha = krippendorff_alpha(counts, group=votes.group)
    assert alpha.value == pytest.approx(0.4229, abs=1e-4)
    assert alpha.n_groups == 70
    assert_interval(alpha, 0.294, 0.552, within=1e-3)


def test_agreement_of_llmfao_and_how_much_narrower_an_interval_by_pair_would_be(test_data):
    votes = llmfao(test_data).votes
    counts = counts_of(votes)
    assert percent_agreement(counts).value == pytest.approx(0.5100, abs=1e-4)
    assert krippendorff_alpha(counts, level="ordinal").value == pytest.approx(0.2347, abs=1e-4)
    assert fleiss_kappa(counts).value == pytest.approx(0.2617, abs=1e-4)
    assert gwet_ac(counts).value == pytest.approx(0.2667, abs=1e-4)
    alpha = krippendorff_alpha(counts, group=votes.group)
    assert alpha.value == pytest.approx(0.2682, abs=1e-4)
    assert alpha.n_groups == 9
    assert_interval(alpha, 0.115, 0.421, within=1e-3)
    assert_interval(krippendorff_alpha(counts), 0.245, 0.293, within=2e-3)


def test_ties_at_the_top_of_llmfao_are_left_open(test_data):
    data = llmfao(test_data)
    result = majority(counts_of(data.votes))
    tied = result.reason == Reason.TIED_TOP.number
    assert tied.mean() == pytest.approx(0.1646, abs=1e-4)
    # Decisive pairs are those on which both the judge and the label name a side.
    decisive = np.isin(data.gpt4, (0, 2)) & np.isin(result.label, (0, 2))
    assert decisive.sum() == 643
    assert np.mean(result.label[decisive] == data.gpt4[decisive]) == pytest.approx(0.689, abs=PRINT)


def test_agreement_of_debate(test_data):
    votes = multi_annotator(test_data, "debate")
    counts = counts_of(votes)
    assert percent_agreement(counts).value == pytest.approx(0.5501, abs=1e-4)
    assert krippendorff_alpha(counts, level="ordinal").value == pytest.approx(0.4067, abs=1e-4)
    assert gwet_ac(counts).value == pytest.approx(0.3386, abs=1e-4)
    assert np.mean(majority(counts).reason != 0) == pytest.approx(0.1419, abs=1e-4)
    alpha = krippendorff_alpha(counts, group=votes.group)
    assert alpha.value == pytest.approx(0.2965, abs=1e-4)
    assert alpha.n_groups == 14
    assert_interval(alpha, 0.234, 0.359, within=1e-3)


def test_agreement_of_tulu_counts_only_prompts_with_two_votes_on_a_pair(test_data):
    votes = multi_annotator(test_data, "tulu")
    counts = counts_of(votes)
    assert percent_agreement(counts).value == pytest.approx(0.5873, abs=1e-4)
    assert krippendorff_alpha(counts, level="ordinal").value == pytest.approx(0.3698, abs=1e-4)
    assert gwet_ac(counts).value == pytest.approx(0.3813, abs=1e-4)
    alpha = krippendorff_alpha(counts, group=votes.group)
    assert alpha.value == pytest.approx(0.3820, abs=1e-4)
    assert alpha.n_groups == 74
    assert_interval(alpha, 0.231, 0.533, within=1e-3)
