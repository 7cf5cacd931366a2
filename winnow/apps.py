"""Django's registration of this package."""

from __future__ import annotations

from django.apps import AppConfig


class WinnowConfig(AppConfig):
    """The app."""

    name = "winnow"

    def ready(self) -> None:
        """Make our Celery app the current one, so that `shared_task` finds its broker in every process."""
        from winnow import celery  # noqa: F401, PLC0415  (settings must be ready first)
