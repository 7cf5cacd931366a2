"""A real PostgreSQL database and a real Redis, or a skip with the reason."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import require_or_skip
from tests.services.servers import NoService, postgres_database, redis_server


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    try:
        with postgres_database() as url:
            yield url
    except NoService as error:
        require_or_skip(str(error))


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    try:
        with redis_server() as url:
            yield url
    except NoService as error:
        require_or_skip(str(error))
