"""Results of experiments: which are found, which count, what is said of broken ones, and who may see them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from annotation.models import Role
from benchmarks.loop.results import write
from tests import builders, world
from tests.experiment import FINISHED, METHODS, result
from training import experiments
from training.experiments import LARGEST_BYTES, Broken, Origin

pytestmark = pytest.mark.django_db


@pytest.fixture
def directories(settings) -> dict[Origin, Path]:
    return {Origin.SHIPPED: settings.SHIPPED_EXPERIMENTS_DIR, Origin.HERE: settings.EXPERIMENTS_DIR}


@pytest.fixture
def vera():
    """A viewer: the least of those who research."""
    return world.client(builders.member(builders.project(), "vera", Role.VIEWER))


def listed(browser) -> list[tuple[str, str, str]]:
    answer = browser.get("/api/v1/experiments")
    assert answer.status_code == 200, answer.content
    return [(item["experiment"], item["setting"], item["origin"]) for item in answer.json()["items"]]


def test_directories_that_do_not_exist_hold_nothing(directories, vera):
    assert experiments.find(directories) == experiments.Found(shown=[], broken=[])
    assert vera.get("/api/v1/experiments").json() == {"items": [], "broken": [], "next": None}


@pytest.mark.parametrize(("hours", "origin"), [(1, "here"), (-1, "shipped")])
def test_of_two_results_of_one_name_the_newer_is_shown(directories, vera, hours, origin):
    write(result(title="Shipped"), directories[Origin.SHIPPED])
    write(result(title="Here", finished=FINISHED + timedelta(hours=hours)), directories[Origin.HERE])
    assert listed(vera) == [("example", "small", origin)]
    shown = vera.get("/api/v1/experiments/example/small").json()
    assert (shown["title"], shown["origin"]) == (origin.title(), origin)


def test_settings_and_experiments_stand_beside_each_other(directories, vera):
    write(result(), directories[Origin.SHIPPED])
    write(result(setting="full"), directories[Origin.SHIPPED])
    write(result(experiment="drift-of-a-judge"), directories[Origin.HERE])
    assert listed(vera) == [
        ("drift-of-a-judge", "small", "here"), ("example", "full", "shipped"), ("example", "small", "shipped"),
    ]  # fmt: skip


def test_a_broken_file_is_named_with_its_reason_and_hides_no_other(directories, vera):
    good = write(result(), directories[Origin.SHIPPED])
    here = directories[Origin.HERE]
    here.mkdir()
    (here / "cut.small.json").write_text(good.read_text()[:500])
    (here / "not-a-text.small.json").write_bytes(b"\xff\xfe\x00")
    (here / "large.small.json").write_text(" " * (LARGEST_BYTES + 1))
    (here / "renamed.small.json").write_text(good.read_text())
    (here / "nan.small.json").write_text(good.read_text().replace("1834.2", "NaN"))
    (here / "a-directory.small.json").mkdir()
    (here / ".example.small.json.77").write_text("a draft")
    (here / "notes.txt").write_text("no result")
    answer = vera.get("/api/v1/experiments").json()
    assert [item["experiment"] for item in answer["items"]] == ["example"]
    reasons = {row["file"]: row["reason"] for row in answer["broken"]}
    assert all(row["origin"] == "here" for row in answer["broken"])
    assert reasons.pop("cut.small.json").startswith("is not JSON")
    assert "codec can't decode" in reasons.pop("not-a-text.small.json")
    assert reasons == {
        "large.small.json": "holds 5,000,001 bytes, more than the 5,000,000 that are read",
        "renamed.small.json": "should be named example.small.json by what it holds",
        "nan.small.json": "seconds must be a finite number, got nan",
        "a-directory.small.json": "Is a directory",
    }


def test_a_broken_run_of_ones_own_leaves_the_shipped_result(directories, vera):
    file = write(result(), directories[Origin.SHIPPED])
    directories[Origin.HERE].mkdir()
    (directories[Origin.HERE] / file.name).write_text("{}")
    assert vera.get("/api/v1/experiments/example/small").json()["origin"] == "shipped"
    assert experiments.find(directories).broken == [
        Broken(file=file.name, origin=Origin.HERE, reason="format must be 'winnow-experiment', got None")
    ]


def test_a_result_has_all_that_the_file_has(directories, vera):
    write(result(), directories[Origin.SHIPPED])
    shown = vera.get("/api/v1/experiments/example/small").json()
    assert shown["verdicts"] == {"held": 1, "failed": 1, "undecided": 1}
    assert [claim["holds"] for claim in shown["claims"]] == [True, None, False]
    assert shown["finished_at"] == "2026-11-20T14:05:00Z"
    assert (shown["seeds"], len(shown["reading"])) == ([1, 2, 3], 3)
    (table,) = shown["tables"]
    win, low, high, kl, seconds = METHODS["DPO"]
    assert table["rows"][1] == {
        "method": "DPO", "win_rate": {"value": win, "low": low, "high": high, "n": 1104}, "kl": kl,
        "seconds": seconds, "note": None,
    }  # fmt: skip
    bars, curves, draws = shown["charts"]
    assert bars["x"] == {"label": "Method", "scale": "category"} and bars["series"][0]["kind"] == "bars"
    assert bars["lines"] == [{"axis": "y", "at": 0.5, "label": "chance"}]
    assert curves["lines"][0]["axis"] == "x"
    assert draws["series"][0]["points"][0] == {"x": 1, "y": 0.5, "low": None, "high": None}
    assert shown["provenance"]["config"] == {"optim": {"learning_rate": 5e-6}, "steps": 120}


@pytest.mark.parametrize("path", ["example/full", "nothing/small", "..%2f..%2fsecret/small", "example/small.json"])
def test_what_is_not_there_is_404(directories, vera, path):
    write(result(), directories[Origin.SHIPPED])
    assert vera.get(f"/api/v1/experiments/{path}").status_code == 404


def test_results_are_for_researchers(directories):
    write(result(), directories[Origin.SHIPPED])
    ann, stan = builders.member(builders.project(), "ann"), builders.user("stan")
    for path in ("experiments", "experiments/example/small", "experiments/nothing/small"):
        assert world.client().get(f"/api/v1/{path}").status_code == 401
        for person in (ann, stan):
            assert world.client(person).get(f"/api/v1/{path}").status_code == 403
