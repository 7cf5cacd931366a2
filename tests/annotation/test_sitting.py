"""A person's own figures on their own home: their day, the time that is left, feedback not read."""

from __future__ import annotations

from datetime import timedelta

import pytest

from annotation.models import FeedbackGiven
from annotation.progress import FEW, sitting
from tests import builders, world
from tests.builders import NOW

pytestmark = pytest.mark.django_db


def test_today_is_what_the_persons_own_clock_calls_it(django_assert_num_queries):
    project = builders.project(overlap=1)
    ann = builders.member(project, "ann")
    builders.comparisons(project, FEW)
    for hours, task in enumerate(builders.lease(project, ann, wanted=FEW)):
        builders.vote(task, now=NOW - timedelta(hours=hours))
    with django_assert_num_queries(3):
        own = sitting(project=project, user_id=ann.pk, since=NOW - timedelta(hours=1, minutes=30))
    assert (own.votes, own.active_ms, own.median_ms) == (2, 2 * 4200, 4200)
    assert (own.unread_feedback, own.told_at) == (0, None)


def test_a_few_votes_say_nothing_of_the_time_that_is_left():
    project = builders.project(overlap=1)
    ann = builders.member(project, "ann")
    builders.comparisons(project, FEW - 1)
    for task in builders.lease(project, ann, wanted=FEW):
        builders.vote(task)
    assert sitting(project=project, user_id=ann.pk, since=NOW).median_ms is None


def test_the_home_names_the_step_and_the_feedback_that_is_not_read():
    project = builders.project(overlap=1, confirm_guideline=True)
    ann = builders.member(project, "ann")
    FeedbackGiven.objects.create(project=project, annotator=ann, votes=1, body={}, created_at=NOW)
    browser = world.client(ann)
    (row,) = browser.get("/api/v1/annotate/projects", {"since": NOW.isoformat()}).json()["items"]
    assert (row["next"], row["unread_feedback"]) == ("confirm_guideline", 1)
    refused = browser.get("/api/v1/annotate/projects", {"since": "yesterday"})
    assert refused.status_code == 400
    assert "since" in refused.json()["details"]
