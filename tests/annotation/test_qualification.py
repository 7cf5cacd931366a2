"""Onboarding: guideline, practice that explains itself, qualification that tells nothing until it is over."""

from __future__ import annotations

import random
from datetime import timedelta
from uuid import uuid4

import pytest

from annotation import gold, people, qualification
from annotation.guideline import NotCurrent, confirm_guideline, guideline_change
from annotation.models import Assignment, GoldUse, Membership, Project, QualificationAttempt, Vote
from annotation.qualification import NotEnoughGold, NotNow, Step, standing, why_not
from annotation.quality import after_vote, ask_to_requalify, pause
from annotation.voting import retract
from tests import builders, world
from tests.annotation.test_records import say
from tests.builders import NOW

pytestmark = pytest.mark.django_db
ROUTE = "/api/v1/annotate/projects/helpful"


@pytest.fixture
def project():
    return builders.project()


@pytest.fixture
def ann(project):
    return builders.member(project, "ann")


def settings(project, **fields):
    Project.objects.filter(pk=project.pk).update(**fields)
    project.refresh_from_db()


def member(project, person):
    return Membership.objects.select_related("user", "project").get(project=project, user=person)


def gold_for(project, use, n, start=0):
    made = builders.comparisons(project, n, start=start)
    for row in made:
        gold.give(
            comparison=row, answer={"choice": "a"}, use=use, explanation="a is true.", by=project.created_by, now=NOW
        )
    return made


def take(project, person, answers, now=NOW):
    """Begin an attempt and answer its tasks; the attempt."""
    qualification.start_attempt(project=project, membership=member(project, person), now=now)
    for answer in answers:
        _attempt, task = qualification.next_item(
            project=project, membership=member(project, person), tab="t", now=now, rng=random.Random(0)
        )
        after_vote(say(Assignment.objects.select_related("project").get(pk=task.pk), answer, now=now), now=now)
    return QualificationAttempt.objects.filter(annotator=person).order_by("-number").first()


# --- why not ----------------------------------------------------------------------------------------------------------


def test_a_project_that_asks_for_nothing_costs_no_query(project, ann, django_assert_num_queries):
    membership = member(project, ann)
    with django_assert_num_queries(0):
        assert why_not(project, membership) == ""


def test_somebody_who_is_ready_costs_two_queries(project, ann, django_assert_num_queries):
    settings(project, confirm_guideline=True, practice_items=2, qualification_items=2)
    gold_for(project, GoldUse.QUALIFICATION, 2)
    confirm_guideline(project=project, user=ann, number=1, now=NOW)
    assert take(project, ann, "aa").passed
    membership = member(project, ann)
    with django_assert_num_queries(2):
        assert why_not(project, membership) == ""


def test_the_steps_come_in_their_order(project, ann):
    settings(project, confirm_guideline=True, practice_items=1, qualification_items=1)
    gold_for(project, GoldUse.PRACTICE, 1)
    gold_for(project, GoldUse.QUALIFICATION, 1, start=5)
    assert why_not(project, member(project, ann)) == "confirm_guideline"
    with pytest.raises(NotNow):
        qualification.start_attempt(project=project, membership=member(project, ann), now=NOW)
    browser = world.client(ann)
    assert browser.post(f"{ROUTE}/practice", {"tab": "t"}, format="json").json()["code"] == "not_now"
    confirm_guideline(project=project, user=ann, number=1, now=NOW)
    assert why_not(project, member(project, ann)) == "practise"
    task = browser.post(f"{ROUTE}/practice", {"tab": "t"}, format="json").json()["task"]
    vote(browser, task)
    assert why_not(project, member(project, ann)) == "qualify"
    take(project, ann, "a")
    assert why_not(project, member(project, ann)) == ""
    assert standing(project=project, membership=member(project, ann), now=NOW).step is Step.READY


def vote(browser, task, choice="left"):
    return browser.post(
        f"/api/v1/annotate/assignments/{task['assignment']}/vote", {"choice": choice}, format="json",
        headers={"Idempotency-Key": str(uuid4())},
    )  # fmt: skip


def test_a_step_without_gold_is_left_out_for_practice_and_said_for_the_qualification(project, ann):
    settings(project, practice_items=3, qualification_items=2)
    assert why_not(project, member(project, ann)) == "qualify"
    with pytest.raises(NotEnoughGold, match="needs 2 examples and this project has 0"):
        qualification.start_attempt(project=project, membership=member(project, ann), now=NOW)


# --- guideline --------------------------------------------------------------------------------------------------------


def test_a_new_guideline_asks_for_confirmation_with_a_diff_and_for_no_new_qualification(project, ann):
    settings(project, confirm_guideline=True, qualification_items=1)
    people.add_guideline(project=project, text="One.\nTwo.\nThree.", by=project.created_by, now=NOW)
    gold_for(project, GoldUse.QUALIFICATION, 1)
    confirm_guideline(project=project, user=ann, number=2, now=NOW)
    take(project, ann, "a")
    assert guideline_change(project=project, user=ann).lines == ()
    people.add_guideline(project=project, text="One.\nTwo and a half.\nThree.", by=project.created_by, now=NOW)
    assert why_not(project, member(project, ann)) == "confirm_guideline"
    found = world.client(ann).get(f"{ROUTE}/guideline/changes").json()
    assert (found["number"], found["confirmed_number"]) == (3, 2)
    assert [(line["change"], line["text"]) for line in found["lines"]] == [
        ("same", "One."), ("removed", "Two."), ("added", "Two and a half."), ("same", "Three."),
    ]  # fmt: skip
    refused = world.client(ann).post(f"{ROUTE}/guideline/confirm", {"number": 2}, format="json")
    assert (refused.status_code, refused.json()["code"], refused.json()["details"]) == (
        409,
        "not_current",
        {"number": 3},
    )
    for _ in range(2):
        assert world.client(ann).post(f"{ROUTE}/guideline/confirm", {"number": 3}, format="json").status_code == 204
    assert why_not(project, member(project, ann)) == ""


def test_a_version_that_is_not_there_cannot_be_confirmed(project, ann):
    with pytest.raises(NotCurrent):
        confirm_guideline(project=project, user=ann, number=7, now=NOW)


# --- practice ---------------------------------------------------------------------------------------------------------


def test_practice_explains_after_the_answer_and_not_before(project, ann):
    settings(project, practice_items=2)
    gold_for(project, GoldUse.PRACTICE, 2)
    browser = world.client(ann)
    task = browser.post(f"{ROUTE}/practice", {"tab": "t"}, format="json").json()["task"]
    again = browser.post(f"{ROUTE}/practice", {"tab": "other"}, format="json").json()["task"]
    assert again["assignment"] == task["assignment"]
    address = f"{ROUTE}/practice/{task['assignment']}/explanation"
    early = browser.get(address)
    assert (early.status_code, early.json()["code"]) == (409, "not_answered")
    vote(browser, task, "tie")
    told = browser.get(address).json()
    sides = Assignment.objects.get(public_id=task["assignment"]).sides
    assert told["right"]["choice"] == ("left" if sides[0] == "a" else "right")
    assert (told["is_right"], told["yours"]["choice"], told["text"]) == (False, "tie", "a is true.")
    assert browser.get(address.replace(task["assignment"], str(uuid4()))).status_code == 404
    vote(browser, browser.post(f"{ROUTE}/practice", {"tab": "t"}, format="json").json()["task"])
    assert browser.post(f"{ROUTE}/practice", {"tab": "t"}, format="json").json() == {"task": None}
    assert why_not(project, member(project, ann)) == ""


def test_only_practice_is_explained_and_only_to_the_one_who_answered(project, ann):
    settings(project, qualification_items=1)
    gold_for(project, GoldUse.QUALIFICATION, 1)
    take(project, ann, "a")
    task = Assignment.objects.get(annotator=ann)
    assert world.client(ann).get(f"{ROUTE}/practice/{task.public_id}/explanation").status_code == 404
    settings(project, practice_items=1)
    gold_for(project, GoldUse.PRACTICE, 1, start=5)
    ben = builders.member(project, "ben")
    of_ben = world.client(ben).post(f"{ROUTE}/practice", {"tab": "t"}, format="json").json()["task"]
    vote(world.client(ben), of_ben)
    assert world.client(ann).get(f"{ROUTE}/practice/{of_ben['assignment']}/explanation").status_code == 404


# --- qualification ----------------------------------------------------------------------------------------------------


def test_an_attempt_passes_at_the_mark_and_tells_its_score_only_then(project, ann):
    settings(project, qualification_items=5, pass_mark=0.8)
    gold_for(project, GoldUse.QUALIFICATION, 5)
    browser = world.client(ann)
    attempt = browser.post(f"{ROUTE}/qualification").json()
    assert browser.post(f"{ROUTE}/qualification").json()["id"] == attempt["id"]
    for answer in "aaaab":
        found = browser.post(f"{ROUTE}/qualification/next", {"tab": "t"}, format="json").json()
        assert (found["attempt"]["right"], found["attempt"]["passed"]) == (None, None)
        task = Assignment.objects.select_related("project").get(public_id=found["task"]["assignment"])
        vote(browser, found["task"], task.side_of(answer))
    found = browser.get(f"{ROUTE}/onboarding").json()
    assert found["next"] == "ready"
    assert (found["attempt"]["right"], found["attempt"]["passed"]) == (4, True)


def test_a_failed_attempt_waits_and_the_last_one_needs_a_researcher(project, ann):
    settings(project, qualification_items=2, attempts_allowed=2, retry_hours=24)
    gold_for(project, GoldUse.QUALIFICATION, 2)
    assert take(project, ann, "bb").passed is False
    found = standing(project=project, membership=member(project, ann), now=NOW)
    assert (found.step, found.retry_at, found.attempts_left) == (Step.FAILED, NOW + timedelta(hours=24), 1)
    assert why_not(project, member(project, ann)) == "qualify"
    with pytest.raises(NotNow) as refused:
        qualification.start_attempt(project=project, membership=member(project, ann), now=NOW + timedelta(hours=23))
    assert refused.value.details == {"next": "failed", "retry_at": (NOW + timedelta(hours=24)).isoformat()}
    later = NOW + timedelta(hours=24)
    assert take(project, ann, "ab", now=later).number == 2
    found = standing(project=project, membership=member(project, ann), now=later + timedelta(days=9))
    assert (found.step, found.retry_at, found.attempts_left) == (Step.FAILED, None, 0)
    asked = later + timedelta(days=10)
    ask_to_requalify(member=member(project, ann), reason="one more", by=project.created_by, now=asked)
    assert take(project, ann, "aa", now=asked).passed
    assert why_not(project, member(project, ann)) == ""


def test_skipping_a_task_of_the_qualification_is_no_right_answer(project, ann):
    settings(project, qualification_items=2, pass_mark=1.0)
    gold_for(project, GoldUse.QUALIFICATION, 3)
    browser = world.client(ann)
    browser.post(f"{ROUTE}/qualification")
    first = browser.post(f"{ROUTE}/qualification/next", {"tab": "t"}, format="json").json()["task"]
    browser.post(f"/api/v1/annotate/assignments/{first['assignment']}/skip", {"reason": "too_long"}, format="json")
    second = browser.post(f"{ROUTE}/qualification/next", {"tab": "t"}, format="json").json()["task"]
    browser.post(f"/api/v1/annotate/assignments/{second['assignment']}/skip", {"reason": "too_long"}, format="json")
    closed = browser.post(f"{ROUTE}/qualification/next", {"tab": "t"}, format="json").json()
    assert closed["task"] is None
    assert (closed["attempt"]["right"], closed["attempt"]["passed"], closed["attempt"]["items"]) == (0, False, 2)


def test_a_vote_taken_back_after_the_attempt_changes_nothing(project, ann):
    settings(project, qualification_items=1)
    gold_for(project, GoldUse.QUALIFICATION, 1)
    take(project, ann, "b")
    retract(vote=Vote.objects.get(), by=ann, now=NOW)
    after_vote(say(Assignment.objects.get(), "a"), now=NOW)
    assert QualificationAttempt.objects.get().right == 0


def test_a_second_attempt_prefers_gold_that_the_person_has_not_met(project, ann):
    settings(project, qualification_items=2, retry_hours=0)
    gold_for(project, GoldUse.QUALIFICATION, 4)
    take(project, ann, "bb")
    first = set(Assignment.objects.values_list("comparison_id", flat=True))
    later = NOW + timedelta(hours=1)
    take(project, ann, "bb", now=later)
    second = set(Assignment.objects.filter(created_at=later).values_list("comparison_id", flat=True))
    assert len(second) == 2
    assert not first & second


def test_tasks_of_onboarding_stay_out_of_the_queue_and_count_for_nothing(project, ann):
    settings(project, qualification_items=1)
    gold_for(project, GoldUse.QUALIFICATION, 1)
    browser = world.client(ann)
    browser.post(f"{ROUTE}/qualification")
    task = browser.post(f"{ROUTE}/qualification/next", {"tab": "t"}, format="json").json()["task"]
    queue = browser.post(f"{ROUTE}/queue", {"tab": "t", "n": 1}, format="json").json()
    assert (queue["items"], queue["done"]) == ([], "qualify")
    vote(browser, task)
    assert not project.slots.exists()


def test_somebody_who_is_paused_by_a_manager_cannot_qualify_their_way_back(project, ann):
    settings(project, qualification_items=1)
    gold_for(project, GoldUse.QUALIFICATION, 1)
    pause(member=member(project, ann), reason="Talk to me.", by=project.created_by, now=NOW)
    assert why_not(project, member(project, ann)) == "person_paused"
    with pytest.raises(NotNow, match=r"Talk to me\."):
        qualification.start_attempt(project=project, membership=member(project, ann), now=NOW)


def test_a_stranger_finds_no_onboarding_and_a_viewer_has_none(project):
    stan, vera = builders.user("stan"), builders.member(project, "vera", "viewer")
    for path in ("onboarding", "guideline/changes", "feedback", f"practice/{uuid4()}/explanation"):
        assert world.client(stan).get(f"{ROUTE}/{path}").status_code == 404
        assert world.client(vera).get(f"{ROUTE}/{path}").status_code == 403
    for path in ("practice", "qualification", "qualification/next", "guideline/confirm", f"feedback/{uuid4()}/read"):
        assert world.client(stan).post(f"{ROUTE}/{path}").status_code == 404
        assert world.client(vera).post(f"{ROUTE}/{path}").status_code == 403
