"""Members: who may change whom, leaving at once, and a project that always has an owner."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest
from django.db import connection
from django.utils import timezone

from annotation import members
from annotation.members import Change, LastOwner
from annotation.models import Assignment, AuditEvent, Membership, Role, Slot, TokenScope, Vote
from annotation.people import add_member, create_token
from tests import builders, world
from tests.builders import NOW

pytestmark = pytest.mark.django_db
BASE = "/api/v1/projects/helpful/members"


@pytest.fixture
def project():
    return builders.project(overlap=1)


@pytest.fixture
def olga(project):
    return world.client(project.created_by)


@pytest.fixture
def ann(project):
    return builders.member(project, "ann")


def address(person):
    return f"{BASE}/{person.public_id}"


def test_a_manager_changes_what_an_annotator_can_do_and_no_more(project, ann):
    manager = world.client(builders.member(project, "max", Role.MANAGER))
    body = {"languages": ["de", "en", "de"], "skills": ["expert"], "cap": 50}
    changed = manager.patch(address(ann), body).json()
    assert (changed["languages"], changed["skills"], changed["cap"]) == (["de", "en"], ["expert"], 50)
    assert manager.patch(address(ann), {"cap": None}).json()["cap"] is None
    for person, body in (
        (ann, {"role": "manager"}),
        (project.created_by, {"cap": 1}),
        (project.created_by, {"role": "viewer"}),
    ):
        answer = manager.patch(address(person), body)
        assert (answer.status_code, answer.json()["code"]) == (403, "owners_only")
    assert manager.patch(address(ann), {"role": "annotator"}).status_code == 200  # what is so already
    assert manager.post(f"{address(ann)}/remove").status_code == 403


def test_a_change_is_written_down_with_old_and_new(project, olga, ann):
    olga.patch(address(ann), {"role": "adjudicator", "skills": ["law"]})
    olga.patch(address(ann), {"role": "adjudicator", "skills": ["law"]})
    event = AuditEvent.objects.get(action="member.changed")
    assert event.details == {
        "role": {"old": "annotator", "new": "adjudicator"}, "skills": {"old": [], "new": ["law"]}
    }  # fmt: skip
    assert event.target == Membership.objects.get(user=ann).pseudonym


def test_bad_changes_are_named(project, olga, ann):
    for body, name in (
        ({"role": "king"}, "role"),
        ({"languages": ["two words"]}, "languages"),
        ({"cap": -1}, "cap"),
        ({"pseudonym": "x"}, "pseudonym"),
        ({"skills": [f"s{i}" for i in range(41)]}, "skills"),
    ):
        answer = olga.patch(address(ann), body)
        assert (answer.status_code, list(answer.json()["details"])) == (400, [name])
    assert olga.patch(f"{BASE}/{uuid4()}", {}).status_code == 404


def test_a_removed_member_is_out_at_once_and_the_votes_stay(project, olga, ann):
    builders.comparisons(project, 3)
    first, second = builders.lease(project, ann, wanted=2, now=timezone.now())
    vote = builders.vote(first).vote
    browser = world.client(ann)
    scopes = [TokenScope.READ, TokenScope.WRITE]
    _, own = create_token(user=ann, name="p", scopes=scopes, project=project, expires_days=None, now=NOW)
    _, wide = create_token(user=ann, name="w", scopes=scopes, project=None, expires_days=None, now=NOW)
    before = Membership.objects.get(user=ann)
    assert olga.post(f"{address(ann)}/remove").status_code == 204
    assert olga.post(f"{address(ann)}/remove").status_code == 204
    queue = "/api/v1/annotate/projects/helpful/queue"
    assert world.client(secret=own).post(queue, {"tab": "t"}).status_code == 401
    for caller in (browser, world.client(secret=wide)):
        assert caller.post(queue, {"tab": "t"}).status_code == 404
        cast = f"/api/v1/annotate/assignments/{second.public_id}/vote"
        headers = {"Idempotency-Key": str(uuid4())}
        assert caller.post(cast, {"choice": "left"}, headers=headers).status_code == 404
        assert caller.post(f"/api/v1/annotate/votes/{vote.public_id}/retract").status_code == 404
        assert caller.get("/api/v1/annotate/projects").json()["items"] == []
    assert browser.get("/api/v1/session").json()["user"]["projects"] == []
    assert Assignment.objects.get(pk=second.pk).state == "released"
    assert not Slot.objects.filter(assignment=second).exists()
    assert Vote.objects.filter(pk=vote.pk, slots__isnull=False).exists()
    assert [row["name"] for row in olga.get(BASE).json()["items"]] == ["olga"]
    left = olga.get(f"{BASE}?left=true").json()["items"][0]
    assert (left["pseudonym"], left["left_at"] is None) == (before.pseudonym, False)
    assert olga.patch(address(ann), {"cap": 1}).json()["code"] == "no_member"
    assert AuditEvent.objects.filter(action="member.removed").count() == 1


def test_who_may_not_annotate_any_more_gives_the_leases_back(project, olga, ann):
    builders.comparisons(project)
    (lease,) = builders.lease(project, ann)
    assert olga.patch(address(ann), {"role": "viewer"}).status_code == 200
    assert Assignment.objects.get(pk=lease.pk).state == "released"


def test_the_last_owner_stays(project, olga):
    for answer in (
        olga.patch(address(project.created_by), {"role": "manager"}),
        olga.post(f"{address(project.created_by)}/remove"),
    ):
        assert (answer.status_code, answer.json()["code"]) == (409, "last_owner")
    asleep = builders.member(project, "gone", Role.OWNER)
    asleep.is_active = False
    asleep.save()
    assert olga.post(f"{address(project.created_by)}/remove").status_code == 409
    builders.member(project, "oda", Role.OWNER)
    assert olga.patch(address(project.created_by), {"role": "manager"}).status_code == 200


@pytest.mark.django_db(transaction=True)
def test_two_owners_cannot_remove_each_other_at_once(project):
    other = builders.member(project, "oda", Role.OWNER)
    rows = list(Membership.objects.filter(project=project).order_by("pk"))

    def remove(pair):
        row, by = pair
        try:
            return members.remove(membership=row, by=by, now=NOW)
        except LastOwner:
            return False
        finally:
            connection.close()

    with ThreadPoolExecutor(2) as pool:
        gone = list(pool.map(remove, [(rows[0], other), (rows[1], project.created_by)]))
    assert sorted(gone) == [False, True]
    assert Membership.objects.filter(project=project, role=Role.OWNER, left_at=None).count() == 1


def test_viewers_see_members_without_their_addresses(project, ann):
    viewer = world.client(builders.member(project, "vera", Role.VIEWER))
    rows = viewer.get(BASE).json()["items"]
    assert [row["name"] for row in rows] == ["vera", "ann", "olga"]
    assert {row["email"] for row in rows} == {None}


def test_a_change_that_changes_nothing_leaves_no_trace(project, ann):
    row = Membership.objects.get(user=ann)
    before = AuditEvent.objects.count()
    members.change(membership=row, to=Change(), by=project.created_by, by_role=Role.OWNER, now=NOW)
    assert AuditEvent.objects.count() == before
    assert add_member(project=project, user=ann, role=Role.ANNOTATOR, now=NOW).pk == row.pk
