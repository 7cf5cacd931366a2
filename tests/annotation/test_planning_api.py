"""What a plan says in numbers and sentences, and who may read it and the arms."""

from __future__ import annotations

import math

import pytest

from annotation.models import OverlapRule
from annotation.reports.planning import Asked, Origin, majority_accuracy, plan
from annotation.statistics.acquisition import items_for_accuracy, votes_for_win_rate
from tests import builders, world

pytestmark = pytest.mark.django_db
PLAN = "/api/v1/projects/helpful/statistics/plan"
ARMS = "/api/v1/projects/helpful/statistics/arms"


@pytest.fixture
def project():
    return builders.project(overlap=3)


@pytest.fixture
def olga(project):
    return world.client(project.created_by)


def lines_of(project, **asked):
    return {line.what: line for line in plan(project, Asked(**asked)).lines}


def test_independent_pairs_need_what_the_formulas_say(project):
    lines = lines_of(project, win_rate=0.6, accuracy=0.7, half_width=0.02, pairs_per_prompt=1, icc=0.5)
    assert (lines["win_rate"].pairs, lines["win_rate"].votes) == (197, 591)
    assert lines["accuracy"].pairs == 2017
    assert lines["win_rate"].sentence == (
        "197 pairs × 3 votes (591 votes, 197 prompts) give a win rate of 60.0% told from a half in four of five cases."
    )


def test_pairs_of_one_prompt_multiply_what_is_needed(project):
    lines = lines_of(project, win_rate=0.6, accuracy=0.7, half_width=0.02, pairs_per_prompt=5, icc=0.25)
    assert lines["win_rate"].pairs == 2 * votes_for_win_rate(0.6)
    assert lines["accuracy"].pairs == 2 * items_for_accuracy(0.7, half_width=0.02)
    assert lines["accuracy"].prompts == math.ceil(2 * 2017 / 5)


def test_two_systems_are_ranked_by_the_votes_of_their_difference(project):
    """SE = 2√(1/N) is the logit of .6 over 2.8016, so N = (2 · 2.8016 / logit .6)²."""
    line = lines_of(project, win_rate=0.6, systems=2, icc=0.0)["ranking"]
    assert line.pairs == math.ceil((2 * 2.8016 / math.log(0.6 / 0.4)) ** 2)
    assert lines_of(project, win_rate=0.6, systems=11, icc=0.0)["ranking"].pairs == pytest.approx(
        10 * line.pairs, abs=10
    )


def test_what_is_measured_is_used_and_what_is_not_is_named_as_assumed(project):
    origins = {figure.name: figure.origin for figure in plan(project, Asked(accuracy=0.9)).figures}
    assert origins["accuracy"] is Origin.GIVEN
    assert set(origins.values()) == {Origin.GIVEN, Origin.ASSUMED}
    builders.settled(project, 6, letters="aab")
    figures = {figure.name: figure for figure in plan(project, Asked()).figures}
    assert (figures["agreement"].origin, figures["agreement"].value) == (Origin.MEASURED, 0.5)  # never below a half
    assert (figures["pairs_per_prompt"].origin, figures["pairs_per_prompt"].value) == (Origin.MEASURED, 1.0)
    assert figures["win_rate"].origin is Origin.ASSUMED


def test_votes_that_agree_make_better_labels(project):
    people = [builders.member(project, f"p{i}") for i in range(3)]
    for k, comparison in enumerate(builders.comparisons(project, 30)):
        for i, person in enumerate(people):
            builders.cast(comparison, person, "b" if k % 3 == 0 and i == 0 else "ab"[k % 2])
    line = lines_of(project, half_width=0.1)["labels"]
    assert (line.pairs, line.votes_per_pair, line.votes) == (30, 3, 90)
    assert "alpha" in lines_of(project, half_width=0.1)
    project.overlap_rule = OverlapRule.ADAPTIVE
    project.save()
    assert project.min_votes <= lines_of(project)["labels"].votes_per_pair <= project.max_votes


def test_the_majority_of_three_is_right_by_the_binomial():
    a = 0.8
    assert majority_accuracy(a, 3) == pytest.approx(a**3 + 3 * a**2 * (1 - a))
    assert majority_accuracy(a, 2) == pytest.approx(a)
    assert majority_accuracy(a, 1) == pytest.approx(a)


def test_a_plan_is_given_through_the_api(project, olga):
    body = olga.get(PLAN, {"win_rate": 0.6, "icc": 0, "systems": 4}).json()
    assert {line["what"] for line in body["lines"]} == {"win_rate", "accuracy", "ranking", "labels"}
    assert body["lines"][0]["pairs"] == 197
    assert {"name": "systems", "value": 4.0, "origin": "given"} in body["figures"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("win_rate", "0.5"), ("win_rate", "nan"), ("win_rate", "1"), ("half_width", "0"), ("accuracy", "x"),
     ("systems", "1"), ("systems", "2.5"), ("pairs_per_prompt", "0"), ("icc", "1.5"), ("power", "0.8")],
)  # fmt: skip
def test_a_bad_figure_is_refused_by_name_and_value(project, olga, name, value):
    answer = olga.get(PLAN, {name: value})
    assert answer.status_code == 400
    details = answer.json()["details"]
    assert name in details
    assert name == "power" or value in str(details[name])


def test_arms_without_votes_say_so(project, olga):
    body = olga.get(ARMS).json()
    assert (body["reason"], body["votes"], body["gain"]["value"]) == ("no_votes", 0, None)
    assert body["chosen"]["arm"] == "chosen"
    assert body["control"]["log_loss"]["reason"] == "no_votes"


@pytest.mark.parametrize("address", [PLAN, ARMS])
def test_plans_and_arms_are_for_researchers(project, address):
    assert world.client(builders.user("stan")).get(address).status_code == 404
    assert world.client(builders.member(project, "ann")).get(address).status_code == 403


def test_plan_and_arms_are_files_with_their_definition(olga):
    file = olga.get(PLAN, {"win_rate": 0.6, "as": "csv"})
    rows = b"".join(file.streaming_content).decode().splitlines()
    assert rows[0].startswith("# Two-sided tests")
    assert rows[1].split(",")[0] == "what"
    answer = olga.get(f"{ARMS}?as=json")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="helpful-arms.json"'
    assert answer.json()["definition"]
