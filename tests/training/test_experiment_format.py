"""The format of results of experiments: what it keeps, and how it names what it refuses."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from benchmarks.report import machine
from tests.experiment import provenance, result
from training.experiment_format import (
    Across,
    Chart,
    Claim,
    Column,
    Estimate,
    InvalidResult,
    Line,
    Point,
    Scale,
    Series,
    Table,
    XAxis,
    YAxis,
    document,
    parse,
)

NAN = float("nan")
EXAMPLE = document(result())


def broken(change: Callable[[dict[str, Any]], object]) -> str:
    """What is said of the example after a change."""
    raw = copy.deepcopy(EXAMPLE)
    change(raw)
    with pytest.raises(InvalidResult) as caught:
        parse(json.dumps(raw))
    return str(caught.value)


def put(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    """Set what a path such as `charts.0.title` names."""

    def change(raw: Any) -> None:
        *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
        for part in parents:
            raw = raw[part]
        raw[last] = value

    return change


def test_a_result_comes_back_as_it_was_written():
    assert document(parse(json.dumps(EXAMPLE))) == EXAMPLE
    assert parse(json.dumps(EXAMPLE)).finished == result().finished


def test_a_bound_that_is_not_there_is_left_out_and_an_undecided_claim_is_null():
    assert EXAMPLE["charts"][2]["series"][0]["points"][0] == {"x": 1, "y": 0.5}
    assert [claim["holds"] for claim in EXAMPLE["claims"]] == [True, None, False]


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("format", "winnow-run", "format must be 'winnow-experiment', got 'winnow-run'"),
        ("version", 2, "version must be 1, got 2"),
        ("color", "red", "color is unknown"),
        ("experiment", "../passwd", "experiment must be lower-case words joined by hyphens, got '../passwd'"),
        ("title", " ", "title must be a text that is not empty, got ' '"),
        ("setting", "huge", "setting must be one of small, full, got 'huge'"),
        ("finished", "yesterday", "finished must be a time as of ISO 8601, got 'yesterday'"),
        ("finished", "2026-11-28T14:05:00", "finished must be a time with its offset from UTC"),
        ("seconds", NAN, "seconds must be a finite number, got nan"),
        ("seconds", -1, "seconds must not be negative, got -1"),
        ("seeds.1", 2.5, "seeds[1] must be a whole number of at least 0, got 2.5"),
        ("seeds", 3, "seeds must be a list, got 3"),
        ("reading", ["So."] * 6, "reading must have at most 5 sentences, got 6"),
        ("claims.0.holds", "yes", "claims[0].holds must be true, false or null, got 'yes'"),
        ("claims.0", "It works.", "claims[0] must be an object, got 'It works.'"),
        ("tables.0.rows.1.kl", float("inf"), "tables[0].rows[1].kl must be a finite number, got inf"),
        ("tables.0.rows.1.kl", True, "tables[0].rows[1].kl must be a finite number, got True"),
        ("tables.0.rows.1.loss", 1, "tables[0].rows[1].loss has no column"),
        ("tables.0.rows.0.win_rate.low", NAN, "tables[0].rows[0].win_rate.low must be a finite number, got nan"),
        ("tables.0.rows.0.win_rate.low", 0.9, "tables[0].rows[0].win_rate.low must not lie above high, got 0.9"),
        ("tables.0.rows.0.win_rate.sd", 0.1, "tables[0].rows[0].win_rate.sd is unknown"),
        ("tables.0.columns.2.key", "method", "tables[0].columns[2] repeats 'method'"),
        ("charts.1.series.0.points.3.y", NAN, "charts[1].series[0].points[3].y must be a finite number, got nan"),
        ("charts.1.series.0.points.3.x", "three", "charts[1].series[0].points[3].x must be a number on this axis"),
        ("charts.1.series.0.points.1.x", 0, "charts[1].series[0].points[1] repeats x 0"),
        ("charts.1.series.0.points.3.high", None, "charts[1].series[0].points[3].low and high come together"),
        ("charts.0.series.0.points.0.x", 3, "charts[0].series[0].points[0].x must be a name on a category axis, got 3"),
        ("charts.2.series.0.points.0.x", 0, "charts[2].series[0].points[0].x must be positive on a logarithmic axis"),
        ("charts.2.series.0.kind", "bars", "charts[2].series[0].kind must be line or points"),
        ("charts.0.series.1.name", "held-out judge", "charts[0].series[1] repeats 'held-out judge'"),
        ("charts.0.series.0.kind", "pie", "charts[0].series[0].kind must be one of line, points, bars, got 'pie'"),
        ("charts.0.lines.0.axis", "x", "charts[0].lines[0].axis must be y: a category axis has no numbers"),
        ("charts.0.series", [], "charts[0].series must not be empty"),
        ("charts.1.title", "Win rate by method", "charts[1] repeats title 'Win rate by method'"),
        ("provenance.models.tiny", "5a5a", "provenance.models.tiny must be the 64 hexadecimal digits"),
        ("provenance.config.loss", NAN, "provenance.config.loss must be a finite number, got nan"),
        ("provenance.versions.torch", 2, "provenance.versions.torch must be a text that is not empty, got 2"),
    ],
)
def test_a_value_that_cannot_be_shown_is_refused_by_its_field(path, value, said):
    assert broken(put(path, value)).startswith(said)


def test_a_field_that_is_missing_is_named():
    assert broken(lambda raw: raw["provenance"].pop("commit")) == "provenance.commit is missing"
    assert broken(lambda raw: raw["tables"][0]["rows"][2].pop("note")).startswith("tables[0].rows[2].note is missing")


def test_what_is_no_json_object_is_refused():
    with pytest.raises(InvalidResult, match="is not JSON"):
        parse("{")
    with pytest.raises(InvalidResult, match=r"format must be 'winnow-experiment', got \[\]"):
        parse("[]")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Point(x=1, y=NAN), "y must be a finite number, got nan"),
        (lambda: Estimate(value=1, low=0, high=2, n=-1), "n must be a whole number of at least 0, got -1"),
        (lambda: Claim(claim="It works", holds=None, figure=""), "figure must be a text"),
        (lambda: Table(title="T", columns=[Column(key="a", label="A")], rows=[{"a": [1]}]), r"rows\[0\].a must be a"),
        (lambda: result(finished=datetime(2026, 1, 1)), "finished must be a time with its offset"),  # noqa: DTZ001
        (lambda: result(setting="huge"), "setting must be one of small, full, got 'huge'"),
        (
            lambda: Chart(
                title="T",
                x=XAxis(label="x", scale=Scale.LOG),
                y=YAxis(label="y"),
                series=[Series(name="s", points=[Point(x=1, y=1)])],
                lines=[Line(axis=Across.X, at=-1, label="here")],
            ),
            r"lines\[0\].at must be positive",
        ),
    ],
)  # fmt: skip
def test_a_value_is_refused_where_it_is_made_and_not_hours_later_when_it_is_written(make, said):
    with pytest.raises(InvalidResult, match=said):
        make()


def test_the_machine_of_the_benchmarks_is_one_that_can_be_told():
    assert document(result(provenance=provenance()))["provenance"]["machine"].keys() <= machine().keys()
    assert parse(json.dumps(EXAMPLE | {"provenance": EXAMPLE["provenance"] | {"machine": machine()}}))
