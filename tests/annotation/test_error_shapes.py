"""Every refusal has one shape, {code, message, details}; hostile bodies and parameters are refused by name."""

from __future__ import annotations

import json

import pytest
from django.db import InterfaceError, OperationalError
from django.test import Client

from tests import builders, world

pytestmark = pytest.mark.django_db
SHAPE = {"code", "message", "details"}


def checked(answer, status, code=None):
    assert answer.status_code == status, answer.content
    body = answer.json()
    assert set(body) == SHAPE, body
    assert body["code"]
    assert body["message"]
    assert isinstance(body["details"], dict)
    if code is not None:
        assert body["code"] == code, body
    return body


@pytest.fixture
def project():
    return builders.project()


@pytest.fixture
def olga(project):
    return world.client(project.created_by)


@pytest.fixture
def ann(project):
    return world.client(builders.member(project, "ann"))


def test_every_refusal_of_every_route_has_the_one_shape():
    scene = world.build()
    browsers = [world.client(), world.client(scene.people["stan"]), world.client(scene.people["ann"])]
    browsers += [world.client(scene.people["olga"])]
    refused = 0
    for browser in browsers:
        for route in world.routes():
            if route.name == "session_sign_out":
                continue
            path = scene.path(route, person="ann")
            for method in ("get", "post", "put", "patch", "delete"):
                for body in ("[]", '{"nothing": 1}'):
                    if method == "delete" and route.name == "tokens_revoke":
                        continue
                    answer = browser.generic(method.upper(), path, body, content_type="application/json")
                    assert answer.status_code < 500, (method, path, body)
                    if answer.status_code >= 400:
                        checked(answer, answer.status_code)
                        refused += 1
    print(f"{refused} refusals")
    assert refused > 900


def test_a_body_that_is_no_json_is_refused(olga):
    queue = "/api/v1/annotate/projects/helpful/queue"

    def send(body):
        return olga.generic("POST", queue, body, content_type="application/json")

    checked(send("{"), 400, "malformed")
    for body, said in (
        (b'{"tab": NaN}', "NaN"),
        (b'{"tab": 1e999}', "tab"),
        (b'{"tab": "\\u0000"}', "tab"),
        (b'{"tab": {"x": ["\\ud800"]}}', "tab.x[0]"),
        (b"[" * 100_000, "nested"),
        (b"\xff\xfe", ""),
        (b'{"n": ' + b"9" * 5000 + b"}", ""),
    ):
        assert said in checked(send(body), 400, "malformed")["message"]
    checked(olga.post(queue, {"tab": "t", "n": 9}), 400, "invalid")
    checked(olga.post(queue, ["t"]), 400, "invalid")
    checked(olga.generic("POST", queue, "tab=t", content_type="text/plain"), 415, "unsupported_media_type")
    checked(olga.post("/api/v1/projects/helpful/imports?kind=prompts", {}), 415, "unsupported_media_type")


def test_a_body_beyond_the_limit_is_refused_before_it_is_read(olga, settings):
    body = json.dumps({"text": "x" * settings.DATA_UPLOAD_MAX_MEMORY_SIZE})
    answer = olga.generic("POST", "/api/v1/projects/helpful/guidelines", body, content_type="application/json")
    checked(answer, 413, "too_large")


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("prompts?cursor=!!!", "cursor"),
        ("prompts?limit=0", "limit"),
        ("prompts?limit=" + "9" * 5000, "limit"),
        ("prompts?q=%00", "q"),
        ("prompts?category=a%00", "category"),
        ("comparisons?state=maybe", "state"),
        ("comparisons?round=7", None),
        ("snapshots/preview?min_votes=0", "min_votes"),
        ("snapshots/preview?min_confidence=nan", "min_confidence"),
        ("methods?model=7", None),
    ],
)
def test_a_bad_parameter_is_refused_by_name(olga, address, name):
    details = checked(olga.get(f"/api/v1/projects/helpful/{address}"), 400, "invalid")["details"]
    assert name is None or name in details


def test_a_cursor_beyond_all_numbers_is_an_empty_page(olga):
    from base64 import urlsafe_b64encode

    cursor = urlsafe_b64encode(str(-(10**30)).encode()).decode()
    answer = olga.get(f"/api/v1/projects/helpful/prompts?cursor={cursor}")
    assert answer.status_code == 200
    assert answer.json()["items"] == []


@pytest.mark.parametrize("value", ["nan", "inf", "-Infinity"])
def test_a_number_that_is_none_is_refused_also_as_a_text(olga, value):
    base = "/api/v1/projects/helpful"
    shares = {"train": value, "validation": 0, "test": 0}
    for answer in (
        olga.patch(base, {"dispute_below": value}),
        olga.post(f"{base}/snapshots", {"shares": shares}),
        olga.post(f"{base}/snapshots", {"min_confidence": value}),
        olga.post(f"{base}/rounds", {"policies": [], "temperature": value, "top_p": value}),
    ):
        checked(answer, 400, "invalid")


def test_a_setting_that_does_not_exist_is_named(olga):
    assert "overlapp" in checked(olga.patch("/api/v1/projects/helpful", {"overlapp": 3}), 400)["details"]


def test_the_codes_of_voting(project, ann):
    builders.comparisons(project)
    queue = ann.post("/api/v1/annotate/projects/helpful/queue", {"tab": "t", "n": 1}).json()
    address = f"/api/v1/annotate/assignments/{queue['items'][0]['assignment']}"
    key = {"Idempotency-Key": "6b2f0c5e-6d0a-4a51-9c64-0d0f6a0f8a11"}
    checked(ann.post(f"{address}/vote", {"choice": "left"}), 400, "invalid")
    checked(ann.post(f"{address}/vote", {"choice": "up"}, headers=key), 400, "invalid")
    assert ann.post(f"{address}/vote", {"choice": "left"}, headers=key).status_code == 201
    again = ann.post(f"{address}/vote", {"choice": "left"}, headers=key)
    assert again.status_code == 200
    assert again.json()["key"] == key["Idempotency-Key"]
    checked(ann.post(f"{address}/vote", {"choice": "right"}, headers=key), 409, "key_reused")
    other = {"Idempotency-Key": "6b2f0c5e-6d0a-4a51-9c64-0d0f6a0f8a12"}
    checked(ann.post(f"{address}/vote", {"choice": "right"}, headers=other), 409, "already_voted")
    checked(ann.post(f"{address}/skip", {"reason": "too_long"}), 409, "assignment_over")
    vote = again.json()["vote"]
    assert ann.post(f"/api/v1/annotate/votes/{vote}/retract").status_code == 200
    checked(ann.post(f"/api/v1/annotate/votes/{vote}/retract"), 409, "already_retracted")
    project.comparisons.update(frozen_at=builders.NOW)
    second = ann.post(f"{address}/vote", {"choice": "right"}, headers=other).json()["vote"]
    checked(ann.post(f"/api/v1/annotate/votes/{second}/retract"), 409, "frozen")


def test_a_taken_short_name_is_a_conflict(olga):
    checked(olga.post("/api/v1/projects", {"name": "Helpful"}), 409, "slug_taken")
    checked(olga.post("/api/v1/projects", {"name": "???"}), 400, "invalid")


def test_a_strange_host_is_refused(client):
    for address in ("/", "/api/v1/session", "/api/v1/projects"):
        checked(client.get(address, headers={"Host": "evil.example.org"}), 400, "bad_request")


def test_unsafe_methods_need_the_csrf_token(project):
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(project.created_by, backend="django.contrib.auth.backends.ModelBackend")
    browser.get("/api/v1/session")
    token = browser.cookies["csrftoken"].value

    def send(method, path, headers):
        return browser.generic(method, path, "{}", content_type="application/json", headers=headers)

    for method, path in (
        ("POST", "/api/v1/session"),
        ("DELETE", "/api/v1/session"),
        ("PATCH", "/api/v1/projects/helpful"),
        ("POST", "/api/v1/annotate/projects/helpful/queue"),
    ):
        checked(send(method, path, {}), 403)
        checked(send(method, path, {"X-CSRFToken": "x" * 64}), 403)
        forged = {"X-CSRFToken": token, "Origin": "https://evil.example.org"}
        checked(send(method, path, forged), 403)
    assert send("PATCH", "/api/v1/projects/helpful", {"X-CSRFToken": token}).status_code == 200


def sign_in(browser, password, *, email="Ann@Example.org", **headers):
    token = browser.get("/api/v1/session").cookies["csrftoken"].value
    body = json.dumps({"email": email, "password": password})
    return browser.post(
        "/api/v1/session", body, content_type="application/json", headers={"X-CSRFToken": token, **headers}
    )


def test_signing_in_and_out(project):
    builders.member(project, "ann")
    browser = Client(enforce_csrf_checks=True)
    checked(sign_in(browser, "wrong"), 400, "bad_credentials")
    answer = sign_in(browser, builders.PASSWORD)
    assert answer.status_code == 200
    assert answer.json()["user"]["projects"][0]["role"] == "annotator"
    assert "Set-Cookie" not in str(answer.json())
    assert browser.cookies["sessionid"]["httponly"]
    token = browser.cookies["csrftoken"].value
    assert browser.delete("/api/v1/session", headers={"X-CSRFToken": token}).status_code == 204
    assert browser.get("/api/v1/session").json() == {"user": None}


def test_an_unknown_person_gets_the_answer_of_a_wrong_password(project):
    unknown = sign_in(Client(enforce_csrf_checks=True), "wrong")
    builders.member(project, "ann")
    assert sign_in(Client(enforce_csrf_checks=True), "wrong").json() == unknown.json()


def test_the_sixth_wrong_password_is_too_many_and_a_right_one_does_not_help(project):
    builders.member(project, "ann")
    browser = Client(enforce_csrf_checks=True)
    for _ in range(4):
        checked(sign_in(browser, "wrong"), 400, "bad_credentials")
    sign_in(browser, "wrong")
    checked(sign_in(browser, "wrong"), 429, "too_many_attempts")
    checked(sign_in(browser, builders.PASSWORD, **{"X-Forwarded-For": "10.1.2.3"}), 429, "too_many_attempts")


def test_one_persons_wrong_passwords_lock_nobody_else(project):
    for name in ("ann", "ben"):
        builders.member(project, name)
    browser = Client(enforce_csrf_checks=True)
    for _ in range(6):
        sign_in(browser, "wrong")
    assert sign_in(browser, builders.PASSWORD, email="ben@example.org").status_code == 200


@pytest.mark.parametrize("error", [OperationalError("lock timeout"), InterfaceError("connection already closed")])
def test_a_database_that_does_not_answer_is_said_so_and_asked_again(project, olga, monkeypatch, error):
    def broken(*_args, **_kwargs):
        raise error

    monkeypatch.setattr("training.queries.jobs", broken)
    answer = olga.get(f"/api/v1/projects/{project.slug}/jobs")
    checked(answer, 503, "database_busy")
    assert answer["Retry-After"] == "2"
