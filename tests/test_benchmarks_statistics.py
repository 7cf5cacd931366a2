"""The benchmark of the statistics, tiny and untimed: its rows exist, and both sides find the same."""

from __future__ import annotations

import json
import os
from dataclasses import asdict

import pytest

from annotation.statistics.aggregation import vote_counts
from benchmarks import statistics
from benchmarks.statistics_data import plant_pairs, plant_votes
from benchmarks.statistics_peers import Contest, Here, hold, same

IN_PROCESS = {name for name in statistics.FLOORS if "crowd-kit" not in name}
TINY = 1_500  # below this some pairs of annotators share no class and some systems never lose


@pytest.fixture(scope="module")
def rows():
    resampled = plant_pairs(400, systems=6)
    return statistics.run([TINY], crowdkit=os.environ.get("WINNOW_CROWDKIT_PYTHON"), resampled=resampled, bca=True)


def test_every_row_of_the_specification_is_there_and_no_other(rows):
    timed = {row.what for row in rows if row.unit == "ms"}
    asked = statistics.FLOORS if os.environ.get("WINNOW_CROWDKIT_PYTHON") else IN_PROCESS
    bootstraps = {statistics.BOOTSTRAPS, f"{statistics.BOOTSTRAPS}, percentile"}
    assert timed == {f"{name}, {TINY}" for name in asked} | bootstraps


def test_ours_finds_what_the_peers_find(rows):
    compared = [row for row in rows if row.unit != "ms"]
    assert len(compared) >= len(IN_PROCESS)
    assert not [row for row in compared if not row.ok]


def test_rows_can_be_written_as_json(rows):
    assert json.loads(json.dumps([asdict(row) for row in rows], allow_nan=False))


def test_the_word_kappa_belongs_to_the_matrix_alone(rows):
    assert {row.what.partition(" / ")[0] for row in rows if "kappa" in row.what} == {"pairwise kappa matrix"}


def test_planted_votes_have_five_different_annotators_an_item():
    votes = plant_votes(TINY)
    n, people = votes.sizes["n_items"], votes.sizes["n_annotators"]
    seats = vote_counts(votes.item, votes.annotator, n_items=n, K=people)
    assert n == TINY / 5
    assert set(seats.ravel()) == {0, 1}
    assert (seats.sum(axis=1) == 5).all()


def test_a_row_that_is_faster_with_a_worse_result_fails():
    contest = Contest(
        what="guess",
        ours=Here(lambda: 1.0),
        peer=Here(lambda: sum(range(100_000))),
        peer_name="sum",
        judge=lambda name, ours, peer: [same(f"{name}, difference", ours, peer)],
    )
    timed, result = hold(contest, target=1.0)
    assert timed.ratio > 1
    assert not result.ok
    assert not timed.ok
