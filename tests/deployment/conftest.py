"""The real PostgreSQL of the services' tests."""

from __future__ import annotations

from tests.services.conftest import postgres_url

__all__ = ["postgres_url"]
