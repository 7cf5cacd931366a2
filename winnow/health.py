"""Health for load balancers and people: `/healthz` says the process lives, `/readyz` that it can do its work.

Nothing here needs a signed-in user, and nothing tells more than which part is not well.
"""

from __future__ import annotations

import time
from pathlib import Path

from django.conf import settings
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from kombu.exceptions import OperationalError

from winnow.celery import app as celery_app

TICK_PERIODS = 3  # a tick that missed this many periods is not alive
_migrated: set[str] = set()


@never_cache
def healthz(request: HttpRequest) -> JsonResponse:
    """200 as long as this process answers."""
    return JsonResponse({"status": "ok"})


@never_cache
def readyz(request: HttpRequest) -> JsonResponse:
    """200 when database, migrations and tick are well, else 503; the broker is only a warning: voting needs none."""
    database = _database()
    checks = {
        "database": database,
        "migrations": _migrations() if database == "ok" else "unknown",
        "tick": tick_state(settings.DATA_DIR / "tick.alive", period_seconds=settings.TICK_SECONDS, now=time.time()),
    }
    ready = all(state == "ok" for state in checks.values())
    body = {"status": "ok" if ready else "unavailable", "checks": checks, "warnings": _warnings()}
    return JsonResponse(body, status=200 if ready else 503, headers={} if ready else {"Retry-After": "5"})


def tick_state(file: Path, *, period_seconds: float, now: float) -> str:
    """Whether the tick touched its file within three periods; `now` is this machine's clock, as is the file's."""
    try:
        age = now - file.stat().st_mtime
    except FileNotFoundError:
        return "never seen"
    return "ok" if age < TICK_PERIODS * period_seconds else f"silent for {age:.0f} s"


def _database() -> str:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError:
        return "no answer"
    return "ok"


def _migrations() -> str:
    """Looked up until all are applied; a running process cannot become less migrated."""
    if connection.alias in _migrated:
        return "ok"
    executor = MigrationExecutor(connection)
    missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if missing:
        return f"{len(missing)} not applied (run manage.py migrate)"
    _migrated.add(connection.alias)
    return "ok"


def _warnings() -> list[str]:
    broker = celery_app.connection_for_write(connect_timeout=2)
    try:
        broker.ensure_connection(max_retries=1, timeout=2)
    except (OSError, OperationalError):
        return ["the broker does not answer: jobs wait, voting goes on"]
    finally:
        broker.release()
    return []
