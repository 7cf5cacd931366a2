"""Fixtures for every test: own directories, no broker, and the real data and weights where they are."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import hypothesis
import pytest
from django.conf import settings as django_settings
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.state import StateApps

from winnow.celery import app as celery_app
from winnow.env import BASE_DIR

# How long an example takes says how busy the machine is, and nothing about the code.
hypothesis.settings.register_profile("winnow", deadline=None)
hypothesis.settings.load_profile("winnow")

# A message of a test must never reach a worker that runs on this machine.
celery_app.conf.update(broker_url="memory://", broker_transport_options={})


def require_or_skip(reason: str) -> NoReturn:
    """Skip for want of something outside the repository; under WINNOW_REQUIRE_SERVICES=1 that is a failure."""
    if os.environ.get("WINNOW_REQUIRE_SERVICES") == "1":
        pytest.fail(f"{reason} (and WINNOW_REQUIRE_SERVICES=1 forbids to skip)")
    pytest.skip(reason)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what touches the database, so that `make test` can run just that again on PostgreSQL."""
    fixtures = {"db", "transactional_db", "live_server", "django_db_setup"}
    for item in items:
        names = fixtures.intersection(item.fixturenames) if isinstance(item, pytest.Function) else set()
        if item.get_closest_marker("django_db") or names:
            item.add_marker("database")


@pytest.fixture(scope="session")
def django_db_modify_db_settings(
    django_db_modify_db_settings: None,  # pytest-django's, which gives each xdist worker its suffix
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """A SQLite test database in a directory of this run, so that two runs in one checkout do not meet."""
    database = django_settings.DATABASES["default"]
    if database["ENGINE"].endswith("sqlite3"):
        database["TEST"]["NAME"] = str(tmp_path_factory.mktemp("database") / "test.sqlite3")


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, settings) -> Path:
    """Everything that a test writes goes below its own directory."""
    directory = tmp_path / "var"
    directory.mkdir()
    settings.DATA_DIR = directory
    for name in ("MODELS", "RUNS", "SNAPSHOTS", "CACHE", "EXPERIMENTS"):
        setattr(settings, f"{name}_DIR", directory / name.lower())
    settings.SHIPPED_EXPERIMENTS_DIR = tmp_path / "shipped"
    return directory


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The shared real data: WINNOW_TEST_DATA, by default ../shared/data beside the checkout."""
    directory = Path(os.environ.get("WINNOW_TEST_DATA", BASE_DIR.parent / "shared" / "data"))
    if not (directory / "README.md").is_file():
        require_or_skip(f"no real data at {directory} (set WINNOW_TEST_DATA)")
    return directory


@pytest.fixture(scope="session")
def real_model() -> Path:
    """The converted SmolLM2 weights: WINNOW_TEST_MODEL, by default where `make run` and `make test` put them."""
    directory = Path(os.environ.get("WINNOW_TEST_MODEL", BASE_DIR / "var" / "models" / "smollm2-135m-instruct"))
    if not (directory / "model.safetensors").is_file():
        require_or_skip(f"no base model at {directory} (`make model` fetches it, or set WINNOW_TEST_MODEL)")
    return directory


@pytest.fixture
def migrate(transactional_db: None) -> Iterator[Callable[[list[tuple[str, str]]], StateApps]]:
    """Go to a state of the migrations and get its models; ends at the newest."""

    def to(targets: list[tuple[str, str]]) -> StateApps:
        MigrationExecutor(connection).migrate(targets)
        return MigrationExecutor(connection).loader.project_state(targets).apps

    yield to
    executor = MigrationExecutor(connection)
    executor.migrate(executor.loader.graph.leaf_nodes())
