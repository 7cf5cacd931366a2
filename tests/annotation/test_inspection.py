"""What a researcher sees behind a comparison: every vote with its fate, by pseudonym and in stored order."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from annotation import assignment as assignments
from annotation.consensus import settle_due
from annotation.models import CompletionScore, FlagKind, Membership
from annotation.voting import retract
from tests import builders, world
from tests.builders import NOW

pytestmark = pytest.mark.django_db
SESSION = 3  # the session, its user, the membership


@pytest.fixture
def scene():
    project = builders.project(overlap=2)
    (one, other) = builders.comparisons(project, 2)
    people = {name: builders.member(project, name) for name in ("ann", "ben", "cid", "dan")}
    CompletionScore.objects.create(completion=one.places.get(position=0).completion, scorer="rm-1", value=1.5)
    for name, letter in (("ann", "a"), ("ben", "b")):
        for item in builders.lease(project, people[name], wanted=2):
            builders.vote(item, letter)
    settle_due(now=NOW)
    return project, one, other, people


def pseudonym(project, person) -> str:
    return Membership.objects.get(project=project, user=person).pseudonym


def test_a_comparison_shows_its_votes_in_stored_order_with_pseudonyms_and_what_became_of_each(scene):
    project, one, _, people = scene
    vote = people["ben"].votes.get(comparison=one)
    retract(vote=vote, by=people["ben"], now=NOW)
    browser = world.client(project.created_by)
    shown = browser.get(f"/api/v1/projects/helpful/comparisons/{one.public_id}").json()
    assert [completion["label"] for completion in shown["completions"]] == ["a", "b"]
    assert shown["completions"][0]["scores"] == {"rm-1": 1.5}
    fates = {row["annotator"]: (row["choice"], row["counted"], row["retracted"]) for row in shown["votes"]}
    assert fates == {
        pseudonym(project, people["ann"]): ("a", True, False),
        pseudonym(project, people["ben"]): ("b", False, True),
    }
    assert people["ann"].email not in str(shown)


def test_flags_and_skips_stand_beside_the_votes(scene):
    project, one, _, people = scene
    assignments_of = {item.comparison_id: item for item in people["ann"].assignments.all()}
    assignments.flag(assignment=assignments_of[one.pk], kind=FlagKind.HARMFUL, note="rude", now=NOW)
    builders.comparisons(project, 1, start=5)
    (held,) = builders.lease(project, people["dan"])
    assignments.skip(assignment=held, reason="cannot_judge: too medical", now=NOW)
    browser = world.client(project.created_by)
    shown = browser.get(f"/api/v1/projects/helpful/comparisons/{one.public_id}").json()
    assert [(row["kind"], row["note"]) for row in shown["flags"]] == [("harmful", "rude")]
    skipped = browser.get(f"/api/v1/projects/helpful/comparisons/{held.comparison.public_id}").json()
    assert skipped["cannot_judge"] == 1
    listed = browser.get("/api/v1/projects/helpful/flags?kind=harmful").json()["items"]
    assert [row["comparison"] for row in listed] == [str(one.public_id)]
    assert browser.get("/api/v1/projects/helpful/flags?kind=broken").json()["items"] == []
    assert [row["id"] for row in browser.get("/api/v1/projects/helpful/comparisons?flagged=true").json()["items"]] == [
        str(one.public_id)
    ]


def test_votes_are_listed_by_person_purpose_and_time(scene):
    project, _, _, people = scene
    browser = world.client(project.created_by)

    def listed(query: str) -> int:
        return len(browser.get(f"/api/v1/projects/helpful/votes?{query}").json()["items"])

    assert listed("") == 4
    assert listed(f"annotator={pseudonym(project, people['ann'])}") == 2
    assert listed("annotator=nobody") == 0
    assert listed("purpose=gold") == 0
    assert listed("since=2026-11-20T12:00:00Z") == 4
    assert listed("until=2026-11-20T12:00:00Z") == 0
    first = browser.get("/api/v1/projects/helpful/votes?limit=3").json()
    rest = browser.get(f"/api/v1/projects/helpful/votes?limit=3&cursor={first['next']}").json()
    assert len(first["items"]) + len(rest["items"]) == 4
    refusal = browser.get("/api/v1/projects/helpful/votes?since=yesterday")
    assert refusal.status_code == 400
    assert "yesterday" in refusal.json()["message"]


def test_a_comparison_of_another_project_is_not_found(scene):
    elsewhere = builders.project(slug="elsewhere")
    (foreign,) = builders.comparisons(elsewhere, 1)
    answer = world.client(scene[0].created_by).get(f"/api/v1/projects/helpful/comparisons/{foreign.public_id}")
    assert answer.status_code == 404


@pytest.mark.parametrize("people", [1, 6])
def test_a_comparison_costs_the_same_queries_whatever_it_gathered(people):
    project = builders.project(overlap=6)
    (one,) = builders.comparisons(project, 1)
    for i in range(people):
        (item,) = builders.lease(project, builders.member(project, f"voter-{i}"))
        builders.vote(item)
    browser = world.client(project.created_by)
    with CaptureQueriesContext(connection) as queries:
        browser.get(f"/api/v1/projects/helpful/comparisons/{one.public_id}")
    assert len(queries) - SESSION == 11
