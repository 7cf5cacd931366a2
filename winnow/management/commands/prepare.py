"""`manage.py prepare`: what `make run` does between taking the lock and starting the processes."""

from __future__ import annotations

from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand
from django.db import connection


class Command(BaseCommand):
    """Migrate, fetch the base model, make the demo project and its accounts, refresh the planner's statistics."""

    help = "Migrate the database, fetch the base model and set up the demo project; each step is skipped when done."

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the steps in order; each is idempotent, and an error of one stops the start with its message."""
        call_command("migrate", verbosity=0, interactive=False)
        call_command("fetch_base_model")
        call_command("setup_demo")
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE")
