"""What an annotator's account can reach holds nothing that biases: a crawl with a secret in every hidden column."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import timedelta
from uuid import uuid4

import pytest
from django.db import transaction
from django.utils import timezone

from annotation.models import AssignmentState, Comparison, Slot
from tests import builders, world
from training.models import Job, ModelVersion

pytestmark = pytest.mark.django_db
TASK = {
    "assignment", "prompt", "completions", "question", "form", "min_reading_seconds", "read_to_end",
    "lease_expires_at", "answer",
}  # fmt: skip


class Canaries(dict[str, str]):
    def __call__(self, name: str) -> str:
        return self.setdefault(name, f"canary{len(self)}x{uuid4().hex[:10]}")


def leaks(response, secrets: dict[str, str]) -> list[str]:
    body = b"".join(response.streaming_content) if response.streaming else response.content
    shown = body.decode(errors="replace") + "\n".join(f"{name}: {value}" for name, value in response.items())
    shown += response.cookies.output()
    with suppress(ValueError):  # escapes in JSON must hide nothing
        shown += json.dumps(json.loads(body), ensure_ascii=False)
    return [name for name, secret in secrets.items() if secret in shown]


def test_no_route_tells_an_annotator_what_would_bias():
    canaries = Canaries()
    scene = world.build(canaries)
    secrets = dict(canaries) | world.hidden_ids(scene)
    assert len(canaries) > 20
    browser = world.client(scene.people["ann"])
    found, calls, statuses = [], 0, set()
    for route in world.routes():
        for method in (*world.METHODS, "head", "options"):
            for person in ("ann", "ada"):  # own rows, and other people's
                with transaction.atomic():
                    answer = scene.call(browser, route, person=person, method=method)
                    found += [(method, route.path, name) for name in leaks(answer, secrets)]
                    transaction.set_rollback(True)
                calls += 1
                statuses.add(answer.status_code)
                assert answer.status_code < 500, (method, route.path, answer.content)
            if route.name.startswith("session"):  # a sign-out must not hide the rest
                browser = world.client(scene.people["ann"])
    ids = [scene.comparisons[0].public_id, scene.round.public_id, scene.snapshot.public_id, scene.queued.public_id]
    addresses = ["/", "/projects/helpful", "/annotate/helpful", "/api/v1/nothing", "/api/v1/schema", "/healthz"]
    addresses += [f"/api/v1/annotate/{kind}/{item}/vote" for kind in ("assignments", "votes") for item in ids]
    for address in addresses:
        for answer in (browser.get(address), browser.post(address, {"x": 1}, format="json")):
            found += [(address, name) for name in leaks(answer, secrets)]
            calls += 1
    refused = browser.get("/", headers={"Host": "evil.example.org"})
    broken = browser.generic("POST", "/api/v1/annotate/projects/helpful/queue", "{", content_type="application/json")
    found += leaks(refused, secrets) + leaks(broken, secrets)
    print(f"{calls} calls, {len(secrets)} secrets, statuses {sorted(statuses)}")
    assert found == []
    assert {200, 201, 204, 400, 403, 404, 405} <= statuses


def test_the_crawl_finds_a_secret_that_is_there():
    canaries = Canaries()
    scene = world.build(canaries)
    browser = world.client(scene.people["olga"])
    assert leaks(browser.get("/api/v1/projects/helpful/comparisons"), canaries)
    export = browser.get(f"/api/v1/projects/helpful/snapshots/{scene.snapshot.public_id}/export?layout=winnow")
    assert leaks(export, canaries | world.hidden_ids(scene))


def test_the_keys_of_an_annotators_answers_are_these_and_no_others():
    project = builders.project(overlap=1)
    ann = builders.member(project, "ann")
    builders.comparisons(project, 3)
    browser = world.client(ann)
    listed = browser.get("/api/v1/annotate/projects").json()
    assert set(listed) == {"items", "next"}
    (row,) = listed["items"]
    own = {"next", "today_votes", "today_active_ms", "median_ms", "unread_feedback", "feedback_at"}
    assert set(row) == {
        "slug", "name", "question", "kind", "votes", "remaining", "paused", "guideline_number", *own,
    }  # fmt: skip
    assert set(browser.get("/api/v1/annotate/projects/helpful/guideline").json()) == {"number", "text"}
    queue = browser.post("/api/v1/annotate/projects/helpful/queue", {"tab": "t", "n": 2}).json()
    assert set(queue) == {"items", "done", "votes", "remaining", "lease_minutes"}
    first, second = queue["items"]
    assert set(first) == TASK
    assert [set(turn) for turn in first["prompt"]] == [{"role", "content"}]
    voted = browser.post(
        f"/api/v1/annotate/assignments/{first['assignment']}/vote", {"choice": "left"},
        headers={"Idempotency-Key": str(uuid4())},
    )  # fmt: skip
    assert set(voted.json()) == {"vote", "key", "counted", "votes", "remaining"}
    undone = browser.post(f"/api/v1/annotate/votes/{voted.json()['vote']}/retract").json()
    assert set(undone) == {"task"}
    assert set(undone["task"]) == TASK
    assert {name: value for name, value in undone["task"]["answer"].items() if value} == {"choice": "left"}
    address = f"/api/v1/annotate/assignments/{second['assignment']}"
    assert browser.post(f"{address}/skip", {"reason": "too_long"}).content == b""
    assert browser.post(f"{address}/flag", {"kind": "other"}).content == b""
    assert set(browser.post("/api/v1/annotate/projects/helpful/heartbeat", {"tab": "t"}).json()) == {"renewed"}
    released = browser.post("/api/v1/annotate/projects/helpful/release", {"tab": "t", "assignments": []}).json()
    assert set(released) == {"released"}
    session = browser.get("/api/v1/session").json()
    assert set(session["user"]) == {"id", "email", "name", "is_operator", "projects"}


def test_a_task_reads_the_same_whichever_source_is_on_the_left():
    """The only ids in a task are the assignment's own and random; texts follow the drawn sides."""
    project = builders.project(overlap=2)
    (made,) = builders.comparisons(project)
    texts = {place.completion.text for place in made.places.all()}
    tasks = []
    for name in ("ann", "ben"):
        browser = world.client(builders.member(project, name))
        tasks += browser.post("/api/v1/annotate/projects/helpful/queue", {"tab": "t", "n": 1}).json()["items"]
    assert [set(task["completions"]) for task in tasks] == [texts, texts]
    assert tasks[0]["completions"] == tasks[1]["completions"][::-1]
    assert len({task["assignment"] for task in tasks}) == 2


def test_answers_to_annotators_are_never_stored_by_a_cache():
    scene = world.build()
    browser = world.client(scene.people["ann"])
    for route in world.routes():
        if route.name.startswith("annotate_"):
            answer = scene.call(browser, route)
            assert answer["Cache-Control"] == "no-store", route
            assert "ETag" not in answer


def test_a_late_or_surplus_vote_tells_nothing_of_other_votes_but_that_it_was_not_needed():
    project = builders.project(overlap=1)
    ann = builders.member(project, "ann")
    builders.comparisons(project)
    (leased,) = builders.lease(project, ann, now=timezone.now() - timedelta(hours=1))
    (of_ben,) = builders.lease(project, builders.member(project, "ben"), now=timezone.now())
    builders.vote(of_ben, now=timezone.now())
    answer = world.client(ann).post(
        f"/api/v1/annotate/assignments/{leased.public_id}/vote", {"choice": "left"},
        headers={"Idempotency-Key": str(uuid4())},
    )  # fmt: skip
    assert answer.status_code == 201
    assert answer.json()["counted"] is False
    assert Slot.objects.get().assignment.state == AssignmentState.VOTED
    assert Comparison.objects.count() == 1
    assert not Job.objects.exists()
    assert not ModelVersion.objects.exists()
