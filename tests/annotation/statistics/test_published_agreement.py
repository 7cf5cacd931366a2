"""Agreement and majority against published tables and the shared real votes."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from annotation.statistics.aggregation import majority, vote_counts
from annotation.statistics.agreement import (
    fleiss_kappa,
    gwet_ac,
    krippendorff_alpha,
    percent_agreement,
    single_votes,
    unanimous_share,
)
from annotation.statistics.estimates import Caution, Estimate, Reason

PRINT = 5e-4  # half a unit of the third digit, as printed


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def codes(names: list[str]) -> np.ndarray:
    return np.unique(np.array(names), return_inverse=True)[1]


def krippendorff_counts(test_data: Path) -> np.ndarray:
    table = [
        [int(v) - 1 for key, v in row.items() if key != "unit" and v]
        for row in rows_of(test_data / "statistics" / "krippendorff_2011.csv")
    ]
    item = np.repeat(np.arange(len(table)), [len(votes) for votes in table])
    return vote_counts(item, np.concatenate([np.array(v) for v in table]), n_items=len(table), K=5)


def table_counts(test_data: Path, name: str) -> np.ndarray:
    return np.array([[int(v) for v in list(row.values())[1:]] for row in rows_of(test_data / "statistics" / name)])


def pandalm(test_data: Path) -> tuple[np.ndarray, np.ndarray]:
    rows = rows_of(test_data / "statistics" / "pandalm_votes.csv")
    classes = {"1": 0, "0": 1, "2": 2}
    label = np.array([classes[row[f"annotator_{w}"]] for row in rows for w in (1, 2, 3)])
    item = np.repeat(np.arange(len(rows)), 3)
    return vote_counts(item, label, n_items=len(rows), K=3), codes([row["prompt_group"] for row in rows])


def llmfao(test_data: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    rows = rows_of(test_data / "statistics" / "llmfao" / "crowd-comparisons.csv")
    item = codes([row["id"] for row in rows])
    worker = codes([row["worker"] for row in rows])
    label = np.array([("left", "tie", "right").index(row["winner"]) for row in rows])
    n_items = int(item.max()) + 1
    counts = single_votes(item, worker, label, n_items=n_items, n_annotators=int(worker.max()) + 1, K=3)
    first = np.unique(item, return_index=True)[1]
    return counts, codes([rows[i]["prompt"] for i in first]), [rows[i]["id"] for i in first]


def squality(test_data: Path) -> tuple[np.ndarray, np.ndarray]:
    rows = rows_of(test_data / "statistics" / "squality_preferences.csv")
    item = codes([row["pair"] for row in rows])
    label = np.array([int(row["label"]) for row in rows])
    first = np.unique(item, return_index=True)[1]
    counts = vote_counts(item, label, n_items=len(first), K=3)
    return counts, codes([rows[i]["question"] for i in first])


def conversations(test_data: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    with (test_data / "multi_annotator" / f"{name}.jsonl").open(encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    item = np.repeat(np.arange(len(records)), [len(record["votes"]) for record in records])
    label = np.array([("a", "tie", "b").index(vote["choice"]) for r in records for vote in r["votes"]])
    annotator = codes([vote["annotator"] for record in records for vote in record["votes"]])
    n_annotators = int(annotator.max()) + 1
    counts = single_votes(item, annotator, label, n_items=len(records), n_annotators=n_annotators, K=3)
    return counts, codes([record["prompt"] for record in records])


def assert_interval(estimate: Estimate, low: float, high: float, *, within: float) -> None:
    assert estimate.low == pytest.approx(low, abs=within)
    assert estimate.high == pytest.approx(high, abs=within)


@pytest.mark.parametrize(
    ("level", "expected"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849), ("ratio", 0.797)]
)
def test_alpha_of_krippendorffs_table_is_as_printed(test_data, level, expected):
    alpha = krippendorff_alpha(krippendorff_counts(test_data), level=level, values=[1, 2, 3, 4, 5])
    assert alpha.value == pytest.approx(expected, abs=PRINT)


def test_nominal_alpha_of_krippendorffs_table_is_the_exact_fraction(test_data):
    alpha = krippendorff_alpha(krippendorff_counts(test_data))
    assert alpha.value == pytest.approx(904 / 1216, abs=1e-12)
    assert alpha.se == pytest.approx(0.1463, abs=5e-5)
    assert (alpha.n, alpha.n_groups) == (11, 11)
    assert Caution.FEW_GROUPS in alpha.warnings


def test_percent_agreement_and_fleiss_of_krippendorffs_table(test_data):
    counts = krippendorff_counts(test_data)
    assert percent_agreement(counts).value == pytest.approx(0.818, abs=PRINT)
    assert fleiss_kappa(counts).value == pytest.approx(0.761, abs=PRINT)


def test_gwets_coefficients_of_the_same_table_with_their_standard_errors(test_data):
    ac1 = gwet_ac(krippendorff_counts(test_data))
    assert ac1.value == pytest.approx(0.775, abs=PRINT)
    assert ac1.se == pytest.approx(0.143, abs=PRINT)
    assert_interval(ac1, 0.461, 1, within=PRINT)
    assert Caution.CLIPPED in ac1.warnings
    for weights, value, se in (("linear", 0.859, 0.117), ("ordinal", 0.899, 0.107), ("quadratic", 0.914, 0.104)):
        ac2 = gwet_ac(krippendorff_counts(test_data), weights=weights)
        assert ac2.value == pytest.approx(value, abs=PRINT)
        assert ac2.se == pytest.approx(se, abs=PRINT)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("fleiss_1971.csv", 0.43024), ("fleiss_textbook_14raters.csv", 0.20993)],
)
def test_fleiss_kappa_of_published_tables(test_data, name, expected):
    assert fleiss_kappa(table_counts(test_data, name)).value == pytest.approx(expected, abs=5e-6)


def test_the_majority_of_pandalm(test_data):
    result = majority(pandalm(test_data)[0])
    assert [int(np.sum(result.label == k)) for k in (0, 1, 2)] == [274, 65, 347]
    assert np.all(result.reason == 0)


def test_agreement_of_pandalm(test_data):
    counts, prompt = pandalm(test_data)
    assert percent_agreement(counts).value == pytest.approx(0.9125, abs=1e-4)
    assert unanimous_share(counts).value == pytest.approx(0.869, abs=PRINT)
    assert fleiss_kappa(counts).value == pytest.approx(0.8486, abs=1e-4)
    assert krippendorff_alpha(counts, level="ordinal").value == pytest.approx(0.8592, abs=1e-4)
    for weights, value, se in (("identity", 0.8770, 0.0122), ("ordinal", 0.8560, 0.0158)):
        ac = gwet_ac(counts, weights=weights)
        assert (ac.value, ac.se) == (pytest.approx(value, abs=1e-4), pytest.approx(se, abs=1e-4))
    alpha = krippendorff_alpha(counts, group=prompt)
    assert alpha.value == pytest.approx(0.8487, abs=1e-4)
    assert alpha.n_groups == 123
    assert alpha.se == pytest.approx(0.0243, abs=1e-3)
    assert_interval(alpha, 0.801, 0.897, within=1e-3)


def test_agreement_of_pandalm_is_the_same_from_the_shared_votes(test_data):
    counts, _ = conversations(test_data, "pandalm")
    assert unanimous_share(counts).value == pytest.approx(0.869, abs=PRINT)
    assert krippendorff_alpha(counts).value == pytest.approx(0.849, abs=PRINT)


def test_agreement_of_squality_where_one_class_prevails(test_data):
    counts, question = squality(test_data)
    assert percent_agreement(counts).value == pytest.approx(0.8667, abs=1e-4)
    assert gwet_ac(counts).value == pytest.approx(0.8493, abs=1e-4)
    assert krippendorff_alpha(counts, level="ordinal").value == pytest.approx(0.5082, abs=1e-4)
    alpha = krippendorff_alpha(counts, group=question)
    assert alpha.value == pytest.approx(0.4229, abs=1e-4)
    assert alpha.n_groups == 70
    assert_interval(alpha, 0.294, 0.552, within=1e-3)


def test_agreement_of_llmfao_and_how_much_narrower_an_interval_by_pair_would_be(test_data):
    counts, prompt, _ = llmfao(test_data)
    assert percent_agreement(counts).value == pytest.approx(0.5100, abs=1e-4)
    assert krippendorff_alpha(counts, level="ordinal").value == pytest.approx(0.2347, abs=1e-4)
    assert fleiss_kappa(counts).value == pytest.approx(0.2617, abs=1e-4)
    assert gwet_ac(counts).value == pytest.approx(0.2667, abs=1e-4)
    alpha = krippendorff_alpha(counts, group=prompt)
    assert alpha.value == pytest.approx(0.2682, abs=1e-4)
    assert alpha.n_groups == 9
    assert_interval(alpha, 0.115, 0.421, within=1e-3)
    assert_interval(krippendorff_alpha(counts), 0.245, 0.293, within=2e-3)


def test_ties_at_the_top_of_llmfao_are_left_open(test_data):
    counts, _, ids = llmfao(test_data)
    result = majority(counts)
    tied = result.reason == Reason.TIED_TOP.number
    assert tied.mean() == pytest.approx(0.1646, abs=1e-4)
    judge = {
        row["id"]: row["winner"] for row in rows_of(test_data / "statistics" / "llmfao" / "gpt4-crowd-comparisons.csv")
    }
    verdict = np.array([("left", "tie", "right").index(judge[i]) if i in judge else -1 for i in ids])
    # Decisive pairs are those on which both the judge and the label name a side.
    decisive = np.isin(verdict, (0, 2)) & np.isin(result.label, (0, 2))
    assert decisive.sum() == 643
    assert np.mean(result.label[decisive] == verdict[decisive]) == pytest.approx(0.689, abs=PRINT)


def test_agreement_of_debate(test_data):
    counts, prompt = conversations(test_data, "debate")
    assert percent_agreement(counts).value == pytest.approx(0.5501, abs=1e-4)
    assert krippendorff_alpha(counts, level="ordinal").value == pytest.approx(0.4067, abs=1e-4)
    assert gwet_ac(counts).value == pytest.approx(0.3386, abs=1e-4)
    assert np.mean(majority(counts).reason != 0) == pytest.approx(0.1419, abs=1e-4)
    alpha = krippendorff_alpha(counts, group=prompt)
    assert alpha.value == pytest.approx(0.2965, abs=1e-4)
    assert alpha.n_groups == 14
    assert_interval(alpha, 0.234, 0.359, within=1e-3)


def test_agreement_of_tulu_counts_only_prompts_with_two_votes_on_a_pair(test_data):
    counts, prompt = conversations(test_data, "tulu")
    assert percent_agreement(counts).value == pytest.approx(0.5873, abs=1e-4)
    assert krippendorff_alpha(counts, level="ordinal").value == pytest.approx(0.3698, abs=1e-4)
    assert gwet_ac(counts).value == pytest.approx(0.3813, abs=1e-4)
    alpha = krippendorff_alpha(counts, group=prompt)
    assert alpha.value == pytest.approx(0.3820, abs=1e-4)
    assert alpha.n_groups == 74
    assert_interval(alpha, 0.231, 0.533, within=1e-3)
