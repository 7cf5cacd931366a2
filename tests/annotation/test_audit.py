"""The audit log: every write of a researcher or adjudicator is in it, and it can be searched."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import transaction

from annotation.models import AuditAction, AuditEvent
from annotation.people import audit
from tests import builders, world
from tests.builders import NOW

pytestmark = pytest.mark.django_db
BASE = "/api/v1/projects/helpful/audit"
# Votes (an adjudicator's first answer too), skips, flags, readings and what the playground is asked are facts of their
# own; signing in changes no project.
FACTS = ("annotate_", "session_", "adjudication_answer", "playground_ask", "playground_stop")
NO_WRITES = {"invitations_look", "jobs_estimate"}
REFUSED = {  # what the world sends cannot be done by olga; said in tests of their own
    "models_register",  # the operator's
    "tokens_revoke",  # no such token
    "invitations_accept",  # she belongs to the project
    "annotators_resume",  # nobody is paused
    "annotators_requalify",  # there is no qualification
    "rounds_continue",  # its round has ended
    "models_verify",  # its files are not there
    "prompts_erase",  # not confirmed
}


def test_every_write_leaves_an_event(settings):
    settings.OUTBOUND = ("public",)
    scene = world.build()
    olga = world.client(scene.people["olga"])
    silent, refused, written = [], set(), set()
    for route in world.routes():
        if route.method == "get" or route.name.startswith(FACTS) or route.name in NO_WRITES:
            continue
        with transaction.atomic():
            last = AuditEvent.objects.order_by("-pk").values_list("pk", flat=True).first() or 0
            answer = scene.call(olga, route, person="olga")
            events = AuditEvent.objects.filter(pk__gt=last)
            written.update(events.values_list("action", flat=True))
            if not 200 <= answer.status_code < 300:
                refused.add(route.name)
            elif not events.filter(by=scene.people["olga"]).exists():
                silent.append((route.method, route.name, answer.status_code))
            transaction.set_rollback(True)
    assert silent == []
    assert refused == REFUSED
    assert len(written) > 20 and written <= set(AuditAction)  # each has words in the browser


def test_joining_and_ending_a_token_leave_events():
    scene = world.build()
    stan, olga = (world.client(scene.people[name]) for name in ("stan", "olga"))
    assert stan.post("/api/v1/invitations/accept", {"secret": scene.secret}).status_code == 200
    made = olga.post("/api/v1/tokens", {"name": "t", "scopes": ["read"], "project": "helpful"}).json()
    for _ in range(2):
        olga.delete(f"/api/v1/tokens/{made['id']}")
    for name, person in (("invitation.accepted", "stan"), ("token.created", "olga"), ("token.revoked", "olga")):
        event = AuditEvent.objects.get(action=name)
        assert (event.by, event.project) == (scene.people[person], scene.project)


@pytest.fixture
def project():
    return builders.project()


def test_the_log_is_searched_by_person_action_target_and_time(project):
    max_ = builders.member(project, "max", builders.Role.MANAGER)
    for hours, by, action, target in (
        (0, project.created_by, "member.removed", "a"),
        (1, max_, "member.changed", "b"),
        (2, max_, "membership.odd", "a"),
        (3, None, "webhook.paused", "w"),
    ):
        audit(project=project, by=by, action=action, target=target, now=NOW + timedelta(hours=hours), note=hours)
    audit(project=builders.project(slug="other"), by=max_, action="member.changed", target="z", now=NOW)
    olga = world.client(project.created_by)

    def found(query=""):
        answer = olga.get(f"{BASE}{query}")
        assert answer.status_code == 200, answer.content
        return [row["target"] for row in answer.json()["items"]]

    assert found() == ["w", "a", "b", "a", "helpful"]
    assert found(f"?by={max_.public_id}") == ["a", "b"]
    assert found("?action=member") == ["b", "a"]
    assert found("?action=member.removed") == ["a"]
    assert found("?target=a") == ["a", "a"]
    assert found("?since=2026-11-20T13:00:00Z&until=2026-11-20T15:00:00Z") == ["a", "b"]
    first = olga.get(f"{BASE}?limit=1").json()
    assert (first["items"][0]["by"], first["items"][0]["details"]) == (None, {"note": 3})
    assert found(f"?cursor={first['next']}")[0] == "a"
    for query in ("by=7", "since=yesterday", "until=x", "action=%00"):
        answer = olga.get(f"{BASE}?{query}")
        assert (answer.status_code, query.partition("=")[0] in answer.json()["details"]) == (400, True)


def test_only_those_who_manage_read_the_log(project):
    for name, role, status in (("vera", "viewer", 403), ("max", "manager", 200), ("ann", "annotator", 403)):
        browser = world.client(builders.member(project, name, builders.Role(role)))
        assert browser.get(BASE).status_code == status
    assert world.client(builders.user("stan")).get(BASE).status_code == 404
