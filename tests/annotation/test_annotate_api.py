"""The annotator's endpoints: a closed queue, replays of every kind of answer, own votes and own completions."""

from __future__ import annotations

from dataclasses import replace
from uuid import uuid4

import pytest
from django.utils import timezone

from annotation.feedback import Criterion, FeedbackKind, Form, Rationale
from annotation.models import Comparison, Completion, Membership, Source, SourceKind, Vote
from annotation.people import change_form
from tests import builders, world

pytestmark = pytest.mark.django_db
QUEUE = "/api/v1/annotate/projects/helpful/queue"


def ask(browser, n=1):
    return browser.post(QUEUE, {"tab": "t", "n": n}).json()


def vote(browser, task, body, key=None):
    address = f"/api/v1/annotate/assignments/{task['assignment']}/vote"
    return browser.post(address, body, headers={"Idempotency-Key": str(key or uuid4())})


@pytest.mark.parametrize(
    ("form", "answer"),
    [
        (Form(), {"choice": "tie"}),
        (Form(kind=FeedbackKind.SCALE, points=7), {"scale": 2}),
        (Form(kind=FeedbackKind.RANKING, size=3), {"ranking": [["C"], ["A", "B"]]}),
        (
            Form(kind=FeedbackKind.RATING, criteria=(Criterion(key="truth", label="True"),)),
            {"ratings": {"A": {"truth": 5}, "B": {"truth": 2}}},
        ),
    ],
)  # fmt: skip
def test_the_same_request_again_is_the_first_vote_though_the_form_has_changed_meanwhile(form, answer):
    project = builders.project(overlap=2, form=form)
    if form.kind is FeedbackKind.RANKING:
        builders.sets(project)
    else:
        builders.comparisons(project)
    browser, key = world.client(builders.member(project, "ann")), uuid4()
    (task,) = ask(browser)["items"]
    assert len(task["completions"]) == form.size
    first = vote(browser, task, answer, key)
    assert first.status_code == 201, first.content
    strict = replace(form, rationale=Rationale.REQUIRED)
    change_form(project=project, form=strict, by=project.created_by, now=timezone.now())
    again = vote(browser, task, answer, key)
    assert (again.status_code, again.json()["vote"]) == (200, first.json()["vote"])
    other = vote(browser, task, {}, key)
    assert (other.status_code, other.json()["code"]) == (409, "key_reused")
    assert Vote.objects.count() == 1
    assert task["form"]["rationale"] == "optional"


def test_a_key_with_an_answer_that_the_form_refuses_belongs_to_the_first_vote():
    project = builders.project(overlap=2, form=Form(allow_tie=False))
    builders.comparisons(project)
    browser, key = world.client(builders.member(project, "ann")), uuid4()
    (task,) = ask(browser)["items"]
    assert vote(browser, task, {"choice": "tie"}).json()["code"] == "bad_answer"
    assert vote(browser, task, {"choice": "left"}, key).status_code == 201
    refused = vote(browser, task, {"choice": "tie"}, key)
    assert (refused.status_code, refused.json()["code"]) == (409, "key_reused")


def test_who_has_the_guideline_to_confirm_gets_no_work_and_keeps_what_they_hold():
    project = builders.project(overlap=2)
    ann = builders.member(project, "ann")
    builders.comparisons(project, 3)
    browser = world.client(ann)
    (held,) = ask(browser)["items"]
    project.confirm_guideline = True
    project.save()
    again = ask(browser, n=3)
    assert [task["assignment"] for task in again["items"]] == [held["assignment"]]
    assert vote(browser, held, {"choice": "left"}).status_code == 201
    nothing = ask(browser)
    assert (nothing["items"], nothing["done"], nothing["votes"]) == ([], "confirm_guideline", 1)


def test_a_paused_person_is_told_so():
    project = builders.project(overlap=2)
    ann = builders.member(project, "ann")
    builders.comparisons(project, 3)
    Membership.objects.filter(user=ann).update(paused_at=timezone.now(), pause_reason="Too fast.")
    assert ask(world.client(ann))["done"] == "person_paused"


def test_own_votes_are_listed_as_the_screen_showed_them():
    project = builders.project(overlap=2)
    browser = world.client(builders.member(project, "ann"))
    builders.comparisons(project, 4)
    told = {}
    for choice in ("left", "right", "tie"):
        (task,) = ask(browser)["items"]
        receipt = vote(browser, task, {"choice": choice, "rationale": "So."}).json()
        told[receipt["vote"]] = (choice, task["prompt"][-1]["content"])
    frozen = Vote.objects.order_by("id").first()
    Comparison.objects.filter(pk=frozen.comparison_id).update(frozen_at=timezone.now())
    listed = browser.get("/api/v1/annotate/projects/helpful/votes").json()["items"]
    assert [row["vote"] for row in listed] == list(told)[::-1]
    for row in listed:
        assert set(row) == {"vote", "prompt", "answer", "created_at", "can_retract"}
        assert (row["answer"]["choice"], row["prompt"]) == told[row["vote"]]
        assert row["can_retract"] is (row["vote"] != str(frozen.public_id))
    other = world.client(builders.member(project, "ben"))
    assert other.get("/api/v1/annotate/projects/helpful/votes").json()["items"] == []
    assert browser.post(f"/api/v1/annotate/votes/{listed[0]['vote']}/retract").status_code == 200
    assert len(browser.get("/api/v1/annotate/projects/helpful/votes").json()["items"]) == 2


def test_an_annotator_writes_a_better_completion_once():
    project = builders.project(overlap=2)
    ann = builders.member(project, "ann")
    builders.comparisons(project)
    browser = world.client(ann)
    (task,) = ask(browser)["items"]
    address = f"/api/v1/annotate/assignments/{task['assignment']}/completion"
    for text in ("Because of Rayleigh.", "Because of Rayleigh.", "  Because of\nscattering.\n"):
        answer = browser.post(address, {"text": text})
        assert (answer.status_code, answer.content) == (204, b"")
    first, second = Completion.objects.filter(author=ann).order_by("id")
    assert (first.text, first.index, second.text, second.index) == (
        "Because of Rayleigh.", 0, "  Because of\nscattering.\n", 1,
    )  # fmt: skip
    source = Source.objects.get(kind=SourceKind.HUMAN)
    assert source.name == Membership.objects.get(user=ann).pseudonym
    assert {first.source, second.source} == {source}
    for text in ("", "   ", "x" * 20_001):
        assert browser.post(address, {"text": text}).status_code == 400
    assert world.client(builders.member(project, "ben")).post(address, {"text": "Mine."}).status_code == 404
    assert world.client(builders.user("stan")).post(address, {"text": "Mine."}).status_code == 404
    assert Completion.objects.filter(author__isnull=False).count() == 2
