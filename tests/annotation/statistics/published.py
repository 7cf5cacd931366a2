"""The published tables and the shared real votes as arrays, for every test and benchmark of the statistics."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from annotation.statistics.aggregation import vote_counts
from annotation.statistics.agreement import last_votes
from annotation.statistics.estimates import check_votes

CLASSES = ("a", "tie", "b")
PRINT = 5e-4  # half a unit of the third digit, as printed


@dataclass(frozen=True, kw_only=True)
class Votes:
    """Votes as 0-based codes; `group` is the prompt of each item, `ids` its name in the file."""

    item: np.ndarray
    annotator: np.ndarray
    label: np.ndarray
    n_items: int
    n_annotators: int
    K: int
    group: np.ndarray
    ids: list[str]

    @property
    def given(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The positional arguments of the statistics."""
        return self.item, self.annotator, self.label

    @property
    def sizes(self) -> dict[str, int]:
        """Their keyword arguments."""
        return {"n_items": self.n_items, "n_annotators": self.n_annotators, "K": self.K}


def rows_of(file: Path) -> list[dict[str, str]]:
    """The rows of a CSV whose first lines name its source."""
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def codes(names: list[Any]) -> np.ndarray:
    """0-based codes of names, in sorted order."""
    return np.unique(np.array(names), return_inverse=True)[1].astype(np.int64)


def table(test_data: Path, name: str) -> np.ndarray:
    """The numbers of a table of counts whose first column names the row."""
    return np.array([[int(v) for v in list(row.values())[1:]] for row in rows_of(test_data / "statistics" / name)])


def _votes(items: list[str], annotators: list[str], label: list[int], K: int, groups: list[str]) -> Votes:
    """In the order of the file; items are numbered as they first appear."""
    ids = list(dict.fromkeys(items))
    place = {name: i for i, name in enumerate(ids)}
    item = np.array([place[name] for name in items])
    annotator = codes(annotators)
    first = np.unique(item, return_index=True)[1]
    return Votes(
        item=item,
        annotator=annotator,
        label=np.array(label),
        n_items=len(ids),
        n_annotators=int(annotator.max()) + 1,
        K=K,
        group=codes([groups[i] for i in first]),
        ids=ids,
    )


def dawid_skene_1979(test_data: Path) -> Votes:
    """Patients by observer, classes 0-3; observer 1 assessed each patient three times."""
    rows = rows_of(test_data / "statistics" / "dawid_skene_1979.csv")
    patients = [row["patient"] for row in rows]
    return _votes(patients, [row["observer"] for row in rows], [int(row["label"]) - 1 for row in rows], 4, patients)


def bluebirds(test_data: Path) -> tuple[Votes, np.ndarray]:
    """Images by annotator, binary, and the true class of each image."""
    rows = rows_of(test_data / "statistics" / "bluebirds.csv")
    images = [row["image"] for row in rows]
    votes = _votes(images, [row["annotator"] for row in rows], [int(row["label"]) for row in rows], 2, images)
    truth = {row["image"]: int(row["truth"]) for row in rows_of(test_data / "statistics" / "bluebirds_truth.csv")}
    return votes, np.array([truth[name] for name in votes.ids])


def pandalm(test_data: Path) -> Votes:
    """686 pairs by three annotators, a / tie / b."""
    rows = rows_of(test_data / "statistics" / "pandalm_votes.csv")
    classes = {"1": 0, "0": 1, "2": 2}
    flat = [(row, w) for row in rows for w in "123"]
    return _votes(
        [row["pair"] for row, _ in flat],
        [w for _, w in flat],
        [classes[row[f"annotator_{w}"]] for row, w in flat],
        3,
        [row["prompt_group"] for row, _ in flat],
    )


def squality(test_data: Path) -> Votes:
    """210 pairs by three reviewers; the group is the question."""
    rows = rows_of(test_data / "statistics" / "squality_preferences.csv")
    return _votes(
        [row["pair"] for row in rows],
        [row["annotator"] for row in rows],
        [int(row["label"]) for row in rows],
        3,
        [row["question"] for row in rows],
    )


@dataclass(frozen=True, kw_only=True)
class Llmfao:
    """The votes on LLMFAO, each vote's two systems, and GPT-4's class of each item.

    Attributes:
        systems: names; left, right: [V] codes of the two systems of each vote.
        gpt4: [n] class.
        chars_left, chars_right, marks_left, marks_right: [n] of each item's completions.
    """

    votes: Votes
    systems: list[str]
    left: np.ndarray
    right: np.ndarray
    gpt4: np.ndarray
    chars_left: np.ndarray
    chars_right: np.ndarray
    marks_left: np.ndarray
    marks_right: np.ndarray


def llmfao(test_data: Path) -> Llmfao:
    """5,329 votes on 1,276 pairs of 59 systems; the first of a pair always stood left."""
    directory = test_data / "statistics" / "llmfao"
    sides = ("left", "tie", "right")
    rows = rows_of(directory / "crowd-comparisons.csv")
    votes = _votes(
        [row["id"] for row in rows],
        [row["worker"] for row in rows],
        [sides.index(row["winner"]) for row in rows],
        3,
        [row["prompt"] for row in rows],
    )
    systems = sorted({row["left"] for row in rows} | {row["right"] for row in rows})
    code = {name: i for i, name in enumerate(systems)}
    gpt4 = {row["id"]: sides.index(row["winner"]) for row in rows_of(directory / "gpt4-crowd-comparisons.csv")}
    features = {row["id"]: row for row in rows_of(directory / "pair_features.csv")}

    def feature(name: str) -> np.ndarray:
        return np.array([int(features[key][name]) for key in votes.ids])

    return Llmfao(
        votes=votes,
        systems=systems,
        left=np.array([code[row["left"]] for row in rows]),
        right=np.array([code[row["right"]] for row in rows]),
        gpt4=np.array([gpt4[key] for key in votes.ids]),
        chars_left=feature("chars_x"),
        chars_right=feature("chars_y"),
        marks_left=feature("marks_x"),
        marks_right=feature("marks_y"),
    )


def multi_annotator(test_data: Path, name: str) -> Votes:
    """`debate` or `tulu` (or `pandalm`, `llmfao`): the votes beside the texts; the group is the prompt."""
    with (test_data / "multi_annotator" / f"{name}.jsonl").open(encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    flat = [(record, vote) for record in records for vote in record["votes"]]
    return _votes(
        [record["id"] for record, _ in flat],
        [vote["annotator"] for _, vote in flat],
        [CLASSES.index(vote["choice"]) for _, vote in flat],
        3,
        [record["prompt"] for record, _ in flat],
    )


def krippendorff_2011(test_data: Path) -> np.ndarray:
    """Counts [12, 5] of the values 1-5 that four observers gave to twelve units, some of them missing."""
    rows = rows_of(test_data / "statistics" / "krippendorff_2011.csv")
    values = [[int(value) for key, value in row.items() if key != "unit" and value] for row in rows]
    return np.array([np.bincount(given, minlength=6)[1:] for given in values])


@dataclass(frozen=True, kw_only=True)
class Comparisons:
    """Votes between systems: `outcome` is 1 where a won, ½ for a tie, 0 where b won."""

    a: np.ndarray
    b: np.ndarray
    outcome: np.ndarray
    systems: list[str]

    @property
    def given(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The positional arguments of the rankings."""
        return self.a, self.b, self.outcome

    def place(self, system: str) -> int:
        """Its code."""
        return self.systems.index(system)


def _comparisons(cells: list[tuple[str, str, float, int]]) -> Comparisons:
    """From (a, b, outcome, number of votes)."""
    systems = sorted({name for a, b, _, _ in cells for name in (a, b)})
    counts = [count for *_, count in cells]
    a, b, outcome = (np.repeat(column, counts) for column in list(zip(*cells, strict=True))[:3])
    return Comparisons(a=np.searchsorted(systems, a), b=np.searchsorted(systems, b), outcome=outcome, systems=systems)


def baseball(test_data: Path) -> Comparisons:
    """The American League East of 1987; a is the home team."""
    rows = rows_of(test_data / "statistics" / "agresti_baseball_1987.csv")
    kinds = (("home_wins", 1.0), ("away_wins", 0.0))
    return _comparisons([(r["home"], r["away"], value, int(r[kind])) for r in rows for kind, value in kinds])


def stigler(test_data: Path) -> Comparisons:
    """Citations between four journals; being cited is a win."""
    rows = rows_of(test_data / "statistics" / "stigler_citations.csv")
    names = [row["cited"] for row in rows]
    return _comparisons(
        [(r["cited"], other, 1.0, int(r[other])) for r in rows for other in names if other != r["cited"]]
    )


def pudding(test_data: Path) -> Comparisons:
    """Six brands of chocolate pudding, with ties."""
    rows = rows_of(test_data / "statistics" / "davidson_pudding_1970.csv")
    kinds = (("wins_i", 1.0), ("ties", 0.5), ("wins_j", 0.0))
    return _comparisons([(r["brand_i"], r["brand_j"], value, int(r[kind])) for r in rows for kind, value in kinds])


def nascar(test_data: Path) -> tuple[list[list[int]], dict[str, int]]:
    """Orders of drivers 1 to 83 as codes from 0 in 36 races, and the code of each driver."""
    rows = rows_of(test_data / "statistics" / "hunter_nascar_2002.csv")
    races = [[int(place) - 1 for place in row.values() if int(place) <= 83] for row in rows]
    drivers = rows_of(test_data / "statistics" / "hunter_nascar_drivers.csv")
    return races, {row["driver"]: int(row["number"]) - 1 for row in drivers}


def single_votes(
    item: np.ndarray, annotator: np.ndarray, label: np.ndarray, *, repeats: str | None = None, **sizes: int
) -> np.ndarray:
    """Counts [n, K] of votes of which each annotator has at most one per item."""
    items, people, labels = check_votes(item, annotator, label, **sizes)
    kept = last_votes(items, people, n_annotators=sizes["n_annotators"], repeats=repeats)
    return vote_counts(items[kept], labels[kept], n_items=sizes["n_items"], K=sizes["K"])
