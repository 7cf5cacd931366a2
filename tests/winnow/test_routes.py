"""Which address is answered by what: the application's page, the API, health, or nothing."""

from __future__ import annotations

import pytest

PAGE = "<!doctype html><title>Winnow</title>"


@pytest.fixture
def built(tmp_path, settings):
    settings.FRONTEND_DIST = tmp_path / "dist"
    settings.FRONTEND_DIST.mkdir()
    (settings.FRONTEND_DIST / "index.html").write_text(PAGE)


@pytest.mark.parametrize(
    "path", ["/", "/projects/demo", "/projects/demo/jobs/4?tab=log", "/apiary", "/staticx/y", "/x.js"]
)
def test_a_deep_link_gets_the_page_and_a_csrf_cookie(client, built, path):
    answer = client.get(path)
    assert (answer.status_code, answer.content.decode()) == (200, PAGE)
    assert answer["Cache-Control"] == "no-cache"
    assert "csrftoken" in answer.cookies
    assert "script-src 'self'" in answer["Content-Security-Policy"]


@pytest.mark.parametrize("path", ["/api", "/api/", "/api/v1/nothing", "/api/v2/session", "/static/app/a.js", "/admin/"])
def test_an_unknown_address_of_ours_is_404_in_the_one_shape(client, built, path):
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.json() == {
        "code": "not_found",
        "message": "There is nothing here that you may see.",
        "details": {},
    }


def test_the_page_takes_no_posts(client, built):
    assert client.post("/projects/demo").status_code == 405


def test_pages_that_are_not_built_say_what_to_do(client, tmp_path, settings):
    settings.FRONTEND_DIST = tmp_path / "missing"
    answer = client.get("/")
    assert answer.status_code == 503
    assert "python tools/frontend.py" in answer.content.decode()


def test_a_strange_host_is_refused(client, built):
    assert client.get("/", headers={"Host": "evil.example.org"}).status_code == 400


def test_the_schema_is_open_and_of_version_3_1(client):
    answer = client.get("/api/v1/schema")
    assert answer.status_code == 200
    schema = answer.json()
    assert schema["openapi"].startswith("3.1")
    assert all(path.startswith("/api/v1/") for path in schema["paths"])
