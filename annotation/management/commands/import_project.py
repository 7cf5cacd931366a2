"""manage.py import_project DIR [--slug …]: a project out of a directory that export_project wrote."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import transaction
from django.utils import timezone

from annotation.archives import import_project
from annotation.errors import DomainError
from annotation.management.importing import owner


class Command(BaseCommand):
    """Import a project."""

    help = "Make a project of a directory that export_project wrote; its files are checked against the card first."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("directory")
        parser.add_argument("--slug", help="Short name of the new project; default: the directory's.")
        parser.add_argument("--owner", help="E-mail address of its owner; default: the first operator.")

    def handle(self, *args: Any, **options: Any) -> None:
        directory = Path(options["directory"])
        slug = options["slug"] or directory.resolve().name.lower().replace("_", "-")
        try:
            with transaction.atomic():  # a refused directory must not leave half a project behind
                project, batches = import_project(
                    directory=directory, slug=slug, by=owner(options["owner"]), now=timezone.now()
                )
        except DomainError as error:
            raise CommandError(str(error)) from None
        counts = ", ".join(f"{batch.imported} {batch.kind}" for batch in batches)
        self.stdout.write(f"Made the project {project.slug}: {counts or 'empty'}.")
