"""What an experiment writes: one file, whole or not at all."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.loop.results import COMMITTED, InvalidResult, Point, read, write
from tests.experiment import result
from training.experiment_format import document


def test_a_result_is_one_file_named_after_experiment_and_setting(tmp_path):
    file = write(result(), tmp_path / "new" / "directory")
    assert file == tmp_path / "new" / "directory" / "example.small.json"
    assert document(read(file)) == document(result())


def test_a_second_result_replaces_the_first_and_leaves_no_draft(tmp_path):
    write(result(), tmp_path / "results")
    file = write(result(seconds=2), tmp_path / "results")
    assert [*file.parent.iterdir()] == [file]
    assert read(file).seconds == 2


def test_a_result_that_cannot_be_read_back_leaves_the_file_as_it_was(tmp_path):
    file = write(result(), tmp_path / "results")
    before = file.read_text()
    bad = result(seconds=2)
    object.__setattr__(bad.charts[1].series[0].points[0], "y", "high")  # past the check, as a bug would
    with pytest.raises(
        InvalidResult, match=r"charts\[1\].series\[0\].points\[0\].y must be a finite number, got 'high'"
    ):
        write(bad, tmp_path / "results")
    assert file.read_text() == before and [*file.parent.iterdir()] == [file]


def test_a_number_that_is_none_of_pythons_is_refused_at_once():
    with pytest.raises(InvalidResult, match="y must be a finite number"):
        Point(x=1, y=np.int64(3))


def test_every_committed_result_can_be_read_and_is_named_by_what_it_holds():
    files = sorted(COMMITTED.glob("*.json"))
    assert [file.name for file in files] == [read(file).file_name for file in files]
