"""The ranking of systems: plain, at equal side, length and style, adjusted for people, and by orders of several."""

from __future__ import annotations

import csv
import json
import math
import re
from uuid import uuid4

import numpy as np
import pytest

from annotation.feedback import read_form
from annotation.meetings import Meeting
from annotation.models import Assignment, Source, SourceKind, Vote
from annotation.pairing import create_comparisons
from annotation.reports.features import count_marks
from annotation.reports.ranking import ELO_POINTS, Control, Model, ranking_report
from annotation.reports.systems import UnknownCriterion
from annotation.statistics.ranking import elo, elo_scale, plackett_luce
from tests import builders
from tests.builders import NOW, cast

pytestmark = [pytest.mark.django_db, pytest.mark.filterwarnings("error")]
LONG, SHORT = "1234567", "123"  # 1 + 7 is twice 1 + 3


def project_of(people=("ann",), **form):
    project = builders.project(overlap=len(people), form=read_form({"kind": "choice", **form}))
    return project, [builders.member(project, name) for name in people]


def meet(project, name, *answers):
    """A comparison of (source, text) in stored order, on a prompt of its own."""
    asked = builders.prompt(project, f"Which of {name}?")
    written = tuple(builders.completion(asked, text, by=by, index=i) for i, (by, text) in enumerate(answers))
    meeting = Meeting(prompt=asked, completions=written)
    return create_comparisons(project=project, pairs=[meeting], origin=uuid4(), overlap=None, now=NOW)[0]


def seen(comparison, person, letter, sides):
    """A counted vote that was given on a screen."""
    vote = cast(comparison, person, letter)
    turn = Assignment.objects.create(
        project_id=comparison.project_id, comparison=comparison, annotator=person, tab="t", sides=sides, state="voted",
        lease_expires_at=NOW,
    )  # fmt: skip
    Vote.objects.filter(pk=vote.pk).update(assignment=turn)


def plain(report):
    return {row.name: row.plain for row in report.systems}


def test_marks_are_those_of_the_published_pair_features(test_data):
    """White space of the shared texts is normalised, so that a few counts differ from the published ones."""
    with (test_data / "statistics" / "llmfao" / "pair_features.csv").open() as lines:
        published = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    texts = [json.loads(line) for line in (test_data / "multi_annotator" / "llmfao.jsonl").read_text().splitlines()]
    expression = re.compile(r"^#{1,6} |^\s*[-*+] |^\s*\d+[.)] |\*\*[^*]+\*\*|```|^\|.*\|$", re.MULTILINE)
    equal = 0
    for row, text in zip(published, texts, strict=True):
        for side, name in (("x", "response_a"), ("y", "response_b")):
            marks = count_marks(text[name])
            assert marks == len(expression.findall(text[name]))
            equal += marks == int(row[f"marks_{side}"])
    assert equal >= 0.99 * 2 * len(texts)


def test_a_wall_of_blank_lines_is_counted_at_once():
    assert count_marks("\n" * 200_000 + "- one") == 1


def test_at_equal_length_who_only_writes_longer_is_no_better():
    """Three of four votes go to the longer one: β = ln 3 a doubling, and nothing is left for the systems."""
    project, (ann,) = project_of()
    for i in range(16):
        x, y = (LONG, SHORT) if i < 12 else (SHORT, LONG)
        made = meet(project, i, ("x", x), ("y", y))
        longer = "a" if i < 12 else "b"
        cast(made, ann, longer if i % 4 else {"a": "b", "b": "a"}[longer])
    found = ranking_report(project, model=Model.BRADLEY_TERRY, controls=[Control.LENGTH])
    first, second = found.systems
    assert first.name == "x"  # it won 10 of 16
    assert first.plain.strength > 0.2
    assert [row.controlled.strength for row in (first, second)] == pytest.approx([0, 0], abs=1e-8)
    ((control, effect),) = found.effects
    assert (control, effect.value) == (Control.LENGTH, pytest.approx(math.log(3)))
    assert found.win_rates.rate[0, 1] == pytest.approx(10 / 16)


def test_at_equal_sides_who_stands_left_more_often_is_no_better():
    project, (ann,) = project_of()
    for i in range(16):
        sides, left, right = ("ab", "a", "b") if i < 12 else ("ba", "b", "a")
        seen(meet(project, i, ("x", "First"), ("y", "Other")), ann, left if i % 4 else right, sides)
    found = ranking_report(project, controls=[Control.SIDE, Control.STYLE])
    effects = dict(found.effects)
    assert effects[Control.SIDE].value == pytest.approx(math.log(3))
    assert effects[Control.STYLE].reason == "one_class"  # no text has marks
    assert [row.controlled.strength for row in found.systems] == pytest.approx([0, 0], abs=1e-8)


def test_without_a_known_screen_the_side_says_nothing():
    project, (ann,) = project_of()
    for i in range(4):
        cast(meet(project, i, ("x", "First"), ("y", "Other")), ann, "ab"[i % 2])
    found = ranking_report(project, controls=[Control.SIDE, Control.PEOPLE])
    assert found.effects[0][1].reason == "one_class"
    assert found.annotators[0].side_bias is None
    assert "not all votes have a known side" in found.definition


def test_who_answers_the_wrong_way_round_is_seen_and_weighed():
    project, people = project_of(("ann", "ben", "cid", "dan"))
    order = "xyz"
    for i in range(30):
        better, worse = (
            (order[0], order[1]) if i % 3 == 0 else (order[1], order[2]) if i % 3 == 1 else (order[0], order[2])
        )
        made = meet(project, i, (better, "First"), (worse, "Other"))
        for person in people:
            seen(made, person, "b" if person.name == "dan" else "a", "ab" if i % 2 else "ba")
    found = ranking_report(project, controls=[Control.PEOPLE])
    follows = {row.person.name: row.follows for row in found.annotators}
    assert follows["dan"].high < 0.5 < follows["ann"].low
    assert found.annotators[0].side_bias is not None
    assert [row.name for row in found.systems] == ["x", "y", "z"]
    adjusted = {row.name: row.adjusted.strength for row in found.systems}
    assert adjusted["x"] - adjusted["z"] > plain(found)["x"].strength - plain(found)["z"].strength


def test_votes_between_completions_of_one_source_are_left_out():
    project, (ann,) = project_of()
    cast(meet(project, 1, ("x", "First"), ("x", "Other")), ann, "a")
    cast(meet(project, 2, ("x", "First"), ("y", "Other")), ann, "a")
    found = ranking_report(project)
    assert (found.votes, found.left_out) == (1, 1)
    assert [(row.name, row.votes, row.comparisons) for row in found.systems] == [("x", 1, 1), ("y", 1, 1)]


def test_sources_of_one_name_are_told_apart_by_their_kind():
    project, (ann,) = project_of()
    made = meet(project, 1, ("x", "First"), ("y", "Other"))
    Source.objects.filter(project=project, name="y").update(name="x", kind=SourceKind.HUMAN)
    cast(made, ann, "a")
    assert [row.name for row in ranking_report(project).systems] == ["x (policy)", "x (human)"]


def test_orders_of_three_are_ranked_by_plackett_and_luce():
    """What has a tie is no order of that model and is left out."""
    project, people = project_of(("ann", "ben", "cid"), kind="ranking", size=3)
    made = [meet(project, i, ("x", "One"), ("y", "Two"), ("z", "Three")) for i in range(2)]
    cast(made[0], people[0], ranking=[["a"], ["b"], ["c"]])
    cast(made[0], people[1], ranking=[["b"], ["a"], ["c"]])
    cast(made[0], people[2], ranking=[["a", "b"], ["c"]])
    cast(made[1], people[0], ranking=[["a"], ["c"], ["b"]])
    found = ranking_report(project, model=Model.PLACKETT_LUCE)
    expected = plackett_luce([[0, 1, 2], [1, 0, 2], [0, 2, 1]], n=3, group=[0, 0, 1])
    strengths = plain(found)
    assert [strengths[name].strength for name in "xyz"] == pytest.approx(expected.strength)
    assert [strengths[name].se for name in "xyz"] == pytest.approx(expected.se)
    assert (found.votes, found.left_out) == (3, 1)
    assert ranking_report(project).votes == 12  # three pairs of each of four votes


def test_a_criterion_has_a_ranking_of_its_own():
    project, (ann,) = project_of(criteria=[{"key": "truth", "label": "Truth"}])
    for i in range(4):
        cast(meet(project, i, ("x", "First"), ("y", "Other")), ann, "a", criteria={"truth": "b"})
    overall, truth = ranking_report(project), ranking_report(project, criterion="truth")
    assert plain(overall)["x"].strength == pytest.approx(-plain(truth)["x"].strength)
    assert plain(overall)["x"].strength > 0
    with pytest.raises(UnknownCriterion, match="must be one of truth, got 'style'"):
        ranking_report(project, criterion="style")


def test_the_curve_ends_where_elo_does_and_has_few_points():
    project, (ann,) = project_of()
    letters = ("a", "tie", "b", "a", "a") * 50
    made = meet(project, 0, ("x", "First"), ("y", "Other"))
    for i, letter in enumerate(letters):
        cast(meet(project, i + 1, ("x", "First"), ("y", "Other")) if i else made, ann, letter)
    found = ranking_report(project)
    outcome = np.array([{"a": 1, "tie": 0.5, "b": 0}[letter] for letter in letters])
    final = elo_scale(elo(np.zeros(250, dtype=int), np.ones(250, dtype=int), outcome, n=2).strength)
    for curve in found.elo:
        assert len(curve.votes) == len(curve.rating) == ELO_POINTS
        assert curve.votes[-1] == 250
        assert curve.rating[-1] == pytest.approx(final["xy".index(curve.system)])
