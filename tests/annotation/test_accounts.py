"""The operator's commands for accounts: passwords are random, printed once, and the doing is written down."""

from __future__ import annotations

import json

import pytest
from django.core.management import CommandError, call_command
from django.test import Client

from annotation.models import AuditEvent, Membership, User
from tests import builders

pytestmark = pytest.mark.django_db


def sign_in(browser, email, password):
    token = browser.get("/api/v1/session").cookies["csrftoken"].value
    body = json.dumps({"email": email, "password": password})
    return browser.post("/api/v1/session", body, content_type="application/json", headers={"X-CSRFToken": token})


def test_a_new_password_works_ends_old_sessions_and_lifts_a_lock(capsys):
    builders.user("ann")
    browser, other = Client(enforce_csrf_checks=True), Client(enforce_csrf_checks=True)
    assert sign_in(browser, "ann@example.org", builders.PASSWORD).status_code == 200
    for _ in range(6):
        sign_in(other, "ann@example.org", "wrong")
    assert sign_in(other, "ann@example.org", builders.PASSWORD).status_code == 429
    call_command("set_password", "Ann@example.org")
    email, password = capsys.readouterr().out.split()
    assert email == "ann@example.org"
    assert browser.get("/api/v1/session").json() == {"user": None}
    assert sign_in(other, email, builders.PASSWORD).status_code == 400
    assert sign_in(other, email, password).status_code == 200
    event = AuditEvent.objects.get(action="password.reset")
    assert password not in json.dumps(event.details)


def test_who_has_no_account_or_cannot_sign_in_gets_none():
    with pytest.raises(CommandError, match="no account"):
        call_command("set_password", "nobody@example.org")
    builders.user("gone", is_active=False)
    with pytest.raises(CommandError, match="cannot sign in"):
        call_command("set_password", "gone@example.org")


def test_an_account_is_made_with_a_role_and_written_down(capsys):
    project = builders.project()
    call_command("create_account", "new@example.org", "--project", "helpful", "--role", "manager")
    email, password = capsys.readouterr().out.split()
    assert User.objects.get(email=email).check_password(password)
    member = Membership.objects.get(user__email=email)
    event = AuditEvent.objects.get(action="member.added")
    assert (event.project, event.by, event.target, event.details) == (
        project, None, member.pseudonym, {"role": "manager"},
    )  # fmt: skip
    with pytest.raises(CommandError, match="account already"):
        call_command("create_account", "new@example.org")
