"""Invitations: single use under races, seven days, for one address if it is bound; and nothing of them in a log."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import connection
from django.test import Client
from django.utils import timezone

from annotation import invitations, members
from annotation.invitations import LIFETIME, AlreadyMember, InvitationOver, accept, accept_as_new, invite, look
from annotation.models import AuditEvent, Invitation, Membership, Role, User
from tests import builders, world
from tests.builders import NOW, PASSWORD

pytestmark = pytest.mark.django_db
GOOD = "a long walk on the beach"


@pytest.fixture
def project():
    return builders.project()


def invited(project, role=Role.ANNOTATOR, **fields):
    invitation, secret = invite(project=project, role=role, by=project.created_by, now=NOW, **fields)
    return invitation, secret


def test_a_secret_is_kept_as_its_hash_and_finds_the_invitation(project):
    invitation, secret = invited(project)
    assert secret.startswith("wni_")
    assert secret not in str(Invitation.objects.values())
    assert look(secret=secret) == invitation
    assert look(secret=secret + "x") is None
    assert look(secret=invitation.secret_hash) is None


def test_a_person_with_an_account_joins_with_role_and_tags(project):
    invitation, _ = invited(project, Role.ADJUDICATOR, languages=["en", "de"], skills=["law"])
    stan = builders.user("stan")
    member = accept(invitation=invitation, user=stan, now=NOW)
    assert (member.role, member.languages, member.skills) == ("adjudicator", ["de", "en"], ["law"])
    assert accept(invitation=look_again(invitation), user=stan, now=NOW).pk == member.pk
    assert Membership.objects.filter(user=stan).count() == 1
    assert invitations.state_of(look_again(invitation), now=NOW + LIFETIME) == "used"


def look_again(invitation):
    return Invitation.objects.get(pk=invitation.pk)


def test_a_new_person_gets_an_account(project):
    invitation, _ = invited(project, email="New@Example.org")
    user = accept_as_new(invitation=invitation, email="", name=" Nia ", password=GOOD, now=NOW)
    assert (user.email, user.name, user.check_password(GOOD)) == ("new@example.org", "Nia", True)
    assert look_again(invitation).accepted_by == user


@pytest.mark.parametrize("what", ["used", "revoked", "expired", "bound"])
def test_an_invitation_that_is_over_lets_nobody_in_and_names_whom_to_ask(project, what):
    invitation, _ = invited(project, email="other@example.org" if what == "bound" else "")
    now = NOW
    if what == "used":
        accept(invitation=invitation, user=builders.user("first"), now=NOW)
    elif what == "revoked":
        assert invitations.revoke(invitation=invitation, by=project.created_by, now=NOW)
        assert not invitations.revoke(invitation=invitation, by=project.created_by, now=NOW)
    elif what == "expired":
        now = NOW + LIFETIME
    with pytest.raises(InvitationOver, match="olga"):
        accept(invitation=invitation, user=builders.user("stan"), now=now)
    with pytest.raises(InvitationOver, match="olga"):
        accept_as_new(invitation=invitation, email="x@example.org", name="", password=GOOD, now=now)
    assert not User.objects.filter(email="x@example.org").exists()
    assert not Membership.objects.filter(user__name="stan").exists()


def test_an_invitation_changes_no_role(project):
    invitation, _ = invited(project, Role.ANNOTATOR)
    with pytest.raises(AlreadyMember):
        accept(invitation=invitation, user=project.created_by, now=NOW)
    assert invitations.state_of(look_again(invitation), now=NOW) == "open"


def test_who_left_comes_back_under_the_old_pseudonym(project):
    ann = builders.member(project, "ann")
    old = Membership.objects.get(user=ann)
    members.remove(membership=old, by=project.created_by, now=NOW)
    invitation, _ = invited(project, Role.ADJUDICATOR)
    back = accept(invitation=invitation, user=ann, now=NOW)
    assert (back.pseudonym, back.role, back.left_at) == (old.pseudonym, "adjudicator", None)


@pytest.mark.django_db(transaction=True)
def test_of_many_people_with_one_link_one_gets_in(project):
    invitation, _ = invited(project)
    people = [builders.user(f"p{i}") for i in range(6)]

    def try_it(person):
        try:
            accept(invitation=look_again(invitation), user=person, now=NOW)
        except InvitationOver:
            return 0
        finally:
            connection.close()
        return 1

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(try_it, people)) == 1
    assert Membership.objects.exclude(user=project.created_by).count() == 1
    assert look_again(invitation).accepted_by in people


# --- by the API -------------------------------------------------------------------------------------------------------

BASE = "/api/v1/projects/helpful/invitations"


@pytest.fixture
def olga(project):
    return world.client(project.created_by)


def post(browser, address, body):
    token = browser.get("/api/v1/session").cookies["csrftoken"].value
    return browser.post(
        f"/api/v1/invitations/{address}", body, content_type="application/json", headers={"X-CSRFToken": token}
    )


def test_from_the_link_to_the_first_task(project, olga):
    builders.comparisons(project)
    made = olga.post(BASE, {"email": "nia@example.org", "languages": ["en"]})
    assert made.status_code == 201
    secret = made.json()["secret"]
    assert secret not in olga.get(BASE).content.decode()
    browser = Client(enforce_csrf_checks=True)
    told = post(browser, "look", {"secret": secret}).json()
    assert (told["project"]["slug"], told["role"], told["email"]) == ("helpful", "annotator", "nia@example.org")
    assert (told["invited_by"], told["state"]) == ("olga", "open")
    weak = post(browser, "accept", {"secret": secret, "password": "1234"})
    assert (weak.status_code, list(weak.json()["details"])) == (400, ["password"])
    assert "password" in post(browser, "accept", {"secret": secret}).json()["details"]
    done = post(browser, "accept", {"secret": secret, "name": "Nia", "password": GOOD})
    assert (done.status_code, done.json()) == (200, {"project": "helpful", "role": "annotator"})
    assert browser.get("/api/v1/session").json()["user"]["email"] == "nia@example.org"
    token = browser.cookies["csrftoken"].value
    queue = browser.post(
        "/api/v1/annotate/projects/helpful/queue", {"tab": "t", "n": 1},
        content_type="application/json", headers={"X-CSRFToken": token},
    )  # fmt: skip
    assert len(queue.json()["items"]) == 1
    assert post(browser, "look", {"secret": secret}).json()["state"] == "used"
    assert post(browser, "accept", {"secret": secret}).status_code == 200  # the same person again
    (listed,) = olga.get(BASE).json()["items"]
    assert (listed["state"], listed["accepted_by"]) == ("used", "Nia")


def test_an_account_that_is_there_is_not_taken_over(project, olga):
    builders.user("stan")
    secret = olga.post(BASE, {}).json()["secret"]
    browser = Client(enforce_csrf_checks=True)
    answer = post(browser, "accept", {"secret": secret, "email": "Stan@example.org", "password": GOOD})
    assert (answer.status_code, answer.json()["code"]) == (409, "account_exists")
    stan = User.objects.get(name="stan")
    assert stan.check_password(PASSWORD)
    browser.force_login(stan, backend="django.contrib.auth.backends.ModelBackend")
    assert post(browser, "accept", {"secret": secret}).status_code == 200
    assert Membership.objects.get(user=stan).role == "annotator"


def test_an_unknown_secret_is_not_there_and_a_bad_address_is_named(project, olga):
    browser = Client(enforce_csrf_checks=True)
    for address in ("look", "accept"):
        assert post(browser, address, {"secret": "wni_" + "x" * 43, "password": GOOD}).status_code == 404
    secret = olga.post(BASE, {}).json()["secret"]
    for email in ("", "nonsense"):
        answer = post(browser, "accept", {"secret": secret, "email": email, "password": GOOD})
        assert (answer.status_code, list(answer.json()["details"])) == (400, ["email"])


def test_accepting_needs_the_csrf_token(project, olga):
    secret = olga.post(BASE, {}).json()["secret"]
    for browser in (Client(enforce_csrf_checks=True), Client(enforce_csrf_checks=True)):
        browser.force_login(builders.user(f"x{id(browser)}"), backend="django.contrib.auth.backends.ModelBackend")
        answer = browser.post("/api/v1/invitations/accept", {"secret": secret}, content_type="application/json")
        assert answer.status_code == 403
    answer = Client(enforce_csrf_checks=True).post(
        "/api/v1/invitations/accept", {"secret": secret, "email": "a@example.org", "password": GOOD},
        content_type="application/json",
    )  # fmt: skip
    assert answer.status_code == 403


def test_revoking_twice_changes_nothing_and_bad_invitations_are_named(project, olga):
    made = olga.post(BASE, {"role": "viewer"}).json()
    for _ in range(2):
        assert olga.delete(f"{BASE}/{made['id']}").status_code == 204
    assert AuditEvent.objects.filter(action="invitation.revoked").count() == 1
    assert post(Client(), "look", {"secret": made["secret"]}).json()["state"] == "revoked"
    for body, name in (
        ({"role": "king"}, "role"),
        ({"email": "nonsense"}, "email"),
        ({"languages": ["two words"]}, "languages"),
        ({"skills": ["skill:x"]}, "skills"),
        ({"skills": ["x" * 41]}, "skills"),
    ):
        assert name in olga.post(BASE, body).json()["details"], body


def test_an_invitation_lasts_seven_days(project, olga):
    made = olga.post(BASE, {}).json()
    Invitation.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    assert olga.get(BASE).json()["items"][0]["state"] == "expired"
    answer = post(Client(), "accept", {"secret": made["secret"], "email": "a@example.org", "password": GOOD})
    assert (answer.status_code, answer.json()["code"]) == (409, "invitation_over")
