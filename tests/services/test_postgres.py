"""The settings' URL reaches a real PostgreSQL, and every migration runs there."""

from __future__ import annotations

import os
import subprocess
import sys

import psycopg
import pytest

pytestmark = pytest.mark.services


def test_migrations_run_on_an_empty_postgresql_database(postgres_url, tmp_path):
    environ = os.environ | {"WINNOW_DATABASE_URL": postgres_url, "WINNOW_DATA_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "django", "migrate", "--verbosity", "0", "--settings", "winnow.settings"],
        env=environ, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with psycopg.connect(postgres_url) as connection:
        (tables,) = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone()
        (timeout,) = connection.execute("SHOW lock_timeout").fetchone()
    assert tables > 20
    assert timeout == "0"  # ours is set by the settings' connection options, not on the server
