"""Agreement and counts of a project: what enters, and what does not."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest
from django.utils import timezone

from annotation.feedback import read_form
from annotation.models import Assignment, Comparison, GuidelineVersion, Membership, OverlapRule, Purpose, Vote
from annotation.queries import counts
from annotation.reports.agreement import Split, Window, agreement, agreement_report, matrix_report
from annotation.statistics.estimates import Reason
from tests import builders
from tests.builders import NOW, cast

pytestmark = pytest.mark.django_db


def project_of(kind: str, **form):
    project = builders.project(overlap=2, form=read_form({"kind": kind, **form}))
    return project, [builders.member(project, name) for name in ("ann", "ben")]


def test_the_pairs_of_a_ranking_are_items():
    """`abc` against `acb`: they agree on two of three pairs."""
    project, (ann, ben) = project_of("ranking", size=3)
    (made,) = builders.sets(project)
    cast(made, ann, ranking=[["a"], ["b"], ["c"]])
    cast(made, ben, ranking=[["a"], ["c"], ["b"]])
    found = agreement(project)
    assert found["percent"].value == pytest.approx(2 / 3)
    assert (found["percent"].n, found["percent"].n_groups) == (3, 1)


def test_ratings_have_no_common_scale_and_so_no_agreement():
    project, people = project_of("rating", size=1)
    (made,) = builders.sets(project, size=1)
    for person in people:
        cast(made, person, points=5, ratings={"a": {"overall": 5}})
    assert agreement(project)["percent"].reason == "no_overlap"


def test_a_scale_agrees_by_the_side_it_takes():
    project, (ann, ben) = project_of("scale", points=5)
    (made,) = builders.comparisons(project)
    cast(made, ann, "a", points=5, scale=1)
    cast(made, ben, "a", points=5, scale=2)
    assert agreement(project)["percent"].value == 1


def test_who_is_excluded_does_not_enter():
    project, (ann, ben) = project_of("choice")
    for made in builders.comparisons(project, 2):
        cast(made, ann, "a")
        cast(made, ben, "b")
    assert agreement(project)["percent"].value == 0
    assert agreement(project, without=ben)["percent"].reason == "no_overlap"
    Membership.objects.filter(user=ben).update(excluded_at=NOW)
    assert agreement(project)["percent"].reason == "no_overlap"


def test_votes_on_gold_repeats_and_for_reference_are_no_surplus():
    project, (ann, ben) = project_of("choice")
    (made,) = builders.comparisons(project)
    cast(made, ann, "a")
    for n, purpose in enumerate((Purpose.GOLD, Purpose.REPEAT, Purpose.REFERENCE, Purpose.WANTED), start=1):
        turn = Assignment.objects.create(
            project=project, comparison=made, annotator=ben, tab="t", sides="ab", state="voted", purpose=purpose,
            repetition=n, lease_expires_at=NOW,
        )  # fmt: skip
        Vote.objects.create(
            project=project, comparison=made, assignment=turn, annotator=ben, repetition=n, purpose=purpose,
            key=uuid4(), choice="b", body_hash="",
        )  # fmt: skip
    found = counts(project, now=timezone.now())
    assert (found.votes, found.surplus, found.wanted) == (1, 1, 1)
    assert agreement(project)["percent"].reason == "no_overlap"


def test_counting_and_agreement_take_as_many_queries_however_many_rows(django_assert_num_queries):
    project, (ann, ben) = project_of("choice")
    for made in builders.comparisons(project, 20):
        cast(made, ann, "a")
        cast(made, ben, "a")
    with django_assert_num_queries(7):
        counts(project, now=timezone.now())
    with django_assert_num_queries(3):
        agreement(project)
    for split, n in ((None, 6), (Split.BATCH, 8), (Split.GUIDELINE, 8), (Split.TIME, 7)):
        with django_assert_num_queries(n):
            agreement_report(project, split=split)
    with django_assert_num_queries(4):
        matrix_report(project, weights="identity", min_common=20, most=60)


def rows_of(project, split, **how):
    return {row.key: row for row in agreement_report(project, split=split, **how).rows}


def test_a_rating_agrees_by_its_points():
    """Two items, (5, 5) and (1, 2): for the interval level 1 is near 2, for the nominal it is not."""
    project, people = project_of("rating", size=1)
    made = builders.sets(project, 2, size=1)
    for person, points in zip(people, ((5, 1), (5, 2)), strict=True):
        for item, value in zip(made, points, strict=True):
            cast(item, person, points=5, ratings={"a": {"overall": value}})
    found = agreement_report(project).overall
    assert (found.items, found.votes, found.people, found.prompts) == (2, 4, 2, 2)
    assert found.percent.value == 0.5
    # Coincidences: observed disagreement 2 of 4; expected: m = (1, 1, 0, 0, 2), 16 − (1 + 1 + 4) = 10 of 4·3.
    assert found.alpha.value == pytest.approx(1 - 3 * 2 / 10)
    # Interval: observed 2·1²; expected 2·(1·1·1 + 1·2·16 + 1·2·9) = 102.
    assert found.alpha_interval.value == pytest.approx(1 - 3 * 2 / 102)
    assert [(item.name, item.share.value) for item in found.classes] == [
        ("1", 0.25), ("2", 0.25), ("3", 0), ("4", 0), ("5", 0.5)
    ]  # fmt: skip


def test_a_rating_of_one_that_rates_criteria_has_a_row_for_each():
    project, people = project_of("rating", size=1, criteria=[{"key": key, "label": key.title()} for key in "xy"])
    (made,) = builders.sets(project, size=1)
    for person, y in zip(people, (3, None), strict=True):
        cast(made, person, points=5, ratings={"a": {"x": 4, "y": y}})
    rows = rows_of(project, Split.CRITERION)
    assert {key: row.title for key, row in rows.items()} == {"x": "X", "y": "Y"}
    assert rows["x"].figures.percent.value == 1
    assert rows["y"].figures.percent.reason == "no_overlap"  # for one of them it does not apply
    assert agreement_report(project).overall.items == 2


def test_criteria_agree_by_their_own_classes():
    criteria = [{"key": key, "label": key.title()} for key in ("truth", "style")]
    project, (ann, ben) = project_of("choice", criteria=criteria)
    (made,) = builders.comparisons(project)
    cast(made, ann, "a", criteria={"truth": "a", "style": "tie"})
    cast(made, ben, "b", criteria={"truth": "a", "style": "b"})
    rows = rows_of(project, Split.CRITERION)
    assert {key: row.figures.percent.value for key, row in rows.items()} == {"truth": 1, "style": 0}
    assert [item.name for item in rows["style"].figures.classes] == ["a", "tie", "b"]
    assert agreement_report(project).overall.percent.value == 0


def test_criteria_of_an_even_scale_have_no_tie():
    project, (ann, ben) = project_of("scale", points=4, criteria=[{"key": "truth", "label": "Truth"}])
    (made,) = builders.comparisons(project)
    for person, point in ((ann, 1), (ben, 2)):
        cast(made, person, "a", points=4, scale=point, criteria={"truth": point})
    figures = rows_of(project, Split.CRITERION)["truth"].figures
    assert figures.percent.value == 1
    assert [(item.name, item.share.value) for item in figures.classes] == [("a", 1), ("b", 0)]


def test_in_an_adaptive_project_only_the_full_slice_is_measured():
    project, (ann, ben) = project_of("choice")
    clear, random = builders.comparisons(project, 2)
    for item, other in ((clear, "a"), (random, "b")):
        cast(item, ann, "a")
        cast(item, ben, other)
    assert agreement(project)["percent"].value == 0.5
    project.overlap_rule = OverlapRule.ADAPTIVE
    Comparison.objects.filter(pk=random.pk).update(full_overlap=True)
    found = agreement_report(project)
    assert found.full_overlap_only
    assert (found.overall.comparisons, found.overall.percent.value) == (1, 0)
    assert agreement(project)["percent"].value == 0
    assert "random share" in found.definition


def test_batches_are_rows_and_a_guideline_has_the_votes_under_it():
    project, (ann, ben) = project_of("choice")
    first, second = builders.comparisons(project)[0], builders.comparisons(project, start=1)[0]
    newer = GuidelineVersion.objects.create(project=project, number=2, text="Again.", created_by=project.created_by)
    for item in (first, second):
        for person, letter in ((ann, "a"), (ben, "b" if item is first else "a")):
            vote = cast(item, person, letter)
            Vote.objects.filter(pk=vote.pk).update(guideline=newer if item is second else None)
    batches = rows_of(project, Split.BATCH)
    assert {key: row.figures.percent.value for key, row in batches.items()} == {
        str(first.origin): 0, str(second.origin): 1
    }  # fmt: skip
    guidelines = rows_of(project, Split.GUIDELINE)
    assert {key: row.figures.percent.value for key, row in guidelines.items()} == {"0": 0, "2": 1}
    assert [row.title for row in guidelines.values()] == ["No guideline", "Guideline 2"]
    assert [row.started_at for row in guidelines.values()] == [None, newer.created_at]


@pytest.mark.parametrize(
    ("window", "starts"),
    [
        (Window.DAY, ["2026-11-20", "2026-11-22", "2026-11-23"]),
        (Window.WEEK, ["2026-11-16", "2026-11-23"]),  # both Mondays
        (Window.MONTH, ["2026-11-01"]),
    ],
)
def test_a_comparison_is_in_the_window_of_its_last_vote(window, starts):
    """NOW is Friday the 20th, at noon; the last votes come on Friday, on Sunday and on Monday."""
    project, (ann, ben) = project_of("choice")
    for item, days in zip(builders.comparisons(project, 3), (0, 2, 3), strict=True):
        cast(item, ann, "a", now=NOW)
        cast(item, ben, "a" if days else "b", now=NOW + timedelta(days=days))
    rows = list(rows_of(project, Split.TIME, window=window).values())
    assert [row.title for row in rows] == starts
    assert sum(row.figures.comparisons for row in rows) == 3
    assert all(row.started_at < row.ended_at for row in rows)
    if window is Window.DAY:
        assert [row.figures.percent.value for row in rows] == [0, 1, 1]


def test_windows_of_equally_many_votes_hold_a_tenth_each():
    project, people = project_of("choice")
    for i, item in enumerate(builders.comparisons(project, 20)):
        for person in people:
            cast(item, person, "a", now=NOW + timedelta(hours=i))
    rows = rows_of(project, Split.TIME, window=Window.VOTES).values()
    assert [row.figures.votes for row in rows] == [4] * 10


def test_kappa_of_two_is_that_of_their_common_pairs():
    """3 of 4 agree, both say a in half: p_e = ½, κ = (¾ − ½)/½."""
    project, people = project_of("choice", allow_tie=False)
    for item, letters in zip(builders.comparisons(project, 4), ("aa", "aa", "bb", "ab"), strict=True):
        for person, letter in zip(people, letters, strict=True):
            cast(item, person, letter)
    found = matrix_report(project, weights="identity", min_common=2, most=10)
    table = found.matrix
    assert [person.pseudonym for person in found.people] == [
        Membership.objects.get(user=person).pseudonym for person in people
    ]
    # a's shares are ¾ and ½: p_e = ¾·½ + ¼·½ = ½.
    assert table.kappa[0, 1] == pytest.approx(0.5)
    assert table.n_common.tolist() == [[4, 4], [4, 4]]
    assert found.votes == (4, 4)
    few = matrix_report(project, weights="identity", min_common=5, most=10).matrix
    assert few.reason[0, 1] == Reason.TOO_FEW_COMMON.number
