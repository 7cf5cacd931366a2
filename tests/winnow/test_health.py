"""What load balancers and people ask: does it live, can it work."""

from __future__ import annotations

import os

import pytest
from django.db import DatabaseError, connection

from winnow import health
from winnow.health import tick_state


def test_healthz_asks_nothing_of_the_database(client):
    answer = client.get("/healthz")  # without the database fixture, a query would fail
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    assert "no-store" in answer["Cache-Control"]


@pytest.fixture
def ticking(data_dir):
    (data_dir / "tick.alive").touch()


@pytest.mark.django_db
def test_readyz_is_ok_when_everything_is(client, ticking):
    answer = client.get("/readyz")
    assert answer.json() == {
        "status": "ok",
        "checks": {"database": "ok", "migrations": "ok", "tick": "ok"},
        "warnings": [],
    }
    assert answer.status_code == 200


@pytest.mark.django_db
def test_readyz_names_a_tick_that_was_never_there(client):
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["checks"]["tick"]) == (503, "never seen")
    assert answer["Retry-After"] == "5"


def test_a_tick_is_alive_for_three_periods(tmp_path):
    file = tmp_path / "tick.alive"
    file.touch()
    os.utime(file, (1000, 1000))
    assert tick_state(file, period_seconds=10, now=1029) == "ok"
    assert tick_state(file, period_seconds=10, now=1030) == "silent for 30 s"


@pytest.mark.django_db
def test_readyz_says_when_the_database_does_not_answer(client, ticking, monkeypatch):
    def refuse(*_: object) -> None:
        raise DatabaseError

    monkeypatch.setattr(connection, "cursor", refuse)
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["checks"] == {"database": "no answer", "migrations": "unknown", "tick": "ok"}


@pytest.mark.django_db
def test_readyz_counts_migrations_that_are_missing(client, ticking, monkeypatch):
    monkeypatch.setattr(health, "_migrated", set())
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM django_migrations WHERE app = 'training'")
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert "not applied" in answer.json()["checks"]["migrations"]


@pytest.mark.django_db
def test_a_broker_that_is_away_is_only_a_warning(client, ticking, monkeypatch):
    def away(**_: object) -> None:
        raise OSError

    monkeypatch.setattr("kombu.Connection.ensure_connection", lambda *_, **__: away())
    answer = client.get("/readyz")
    assert answer.status_code == 200
    assert answer.json()["warnings"] == ["the broker does not answer: jobs wait, voting goes on"]
