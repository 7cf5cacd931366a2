"""manage.py restore BACKUP: bring a backup back into an empty database, and verify every hash."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from winnow import backups
from winnow.supervisor import StartError, lock_data


class Command(BaseCommand):
    """Restore, or only check, a backup."""

    help = "Restore a backup into an empty database and data directory. Stop web, workers and tick first."
    requires_migrations_checks = False

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("backup", help="The directory that `backup` has printed.")
        parser.add_argument("--check", action="store_true", help="Only read the backup and compare every hash.")

    def handle(self, *args: Any, **options: Any) -> None:
        directory = Path(options["backup"]).resolve()
        try:
            if options["check"]:
                backup = backups.check(directory)
                self.stdout.write(f"{len(backup.tables)} tables and {len(backup.files)} files have their hashes.")
                return
            with lock_data(Path(settings.DATA_DIR)):
                restored = backups.restore(directory, say=self.stdout.write)
        except (backups.BackupError, StartError) as error:
            raise CommandError(str(error)) from None
        self.stdout.write(
            f"Restored and verified: {restored.rows:,} rows, {restored.files:,} files, {restored.snapshots} snapshots, "
            f"{restored.models} models, {restored.checkpoints} checkpoints."
        )
        if restored.pruned:
            self.stdout.write(
                f"{restored.pruned} checkpoints were being replaced by newer ones when the backup was taken."
            )
        for path in restored.outside:
            self.stdout.write(self.style.WARNING(f"Copy this model back yourself, it lies outside of the data: {path}"))
