"""manage.py backup [DIRECTORY]: the database and every file that it names, while everything runs."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from winnow import backups


class Command(BaseCommand):
    """Make a backup."""

    help = "Write a backup (database, snapshots, models, runs with their checkpoints) into a new directory."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("directory", nargs="?", help="Where backups are kept; by default `backups` in the data.")

    def handle(self, *args: Any, **options: Any) -> None:
        parent = Path(options["directory"] or Path(settings.DATA_DIR) / "backups").resolve()
        try:
            made = backups.make(parent, now=timezone.now(), say=self.stdout.write)
        except backups.BackupError as error:
            raise CommandError(str(error)) from None
        self.stdout.write(f"Backup: {made}")
