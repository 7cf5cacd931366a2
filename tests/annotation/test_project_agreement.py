"""Agreement and counts of a project: what enters, and what does not."""

from __future__ import annotations

from uuid import uuid4

import pytest
from django.utils import timezone

from annotation.feedback import read_form
from annotation.models import Assignment, Membership, Purpose, Vote
from annotation.queries import agreement, counts
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
    with django_assert_num_queries(1):
        agreement(project)
