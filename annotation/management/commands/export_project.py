"""manage.py export_project PROJECT DIR: every data set of a project as files, with a card and checksums."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from annotation.archives import export_project
from annotation.errors import DomainError
from annotation.exporting import Format
from annotation.models import Project


class Command(BaseCommand):
    """Export a project."""

    help = "Write a project into a new directory: its settings, data sets and a card with the sha256 of each file."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("project", help="Slug.")
        parser.add_argument("directory", help="Must not be there yet.")
        parser.add_argument("--format", choices=[item.value for item in Format], default=Format.JSONL.value)

    def handle(self, *args: Any, **options: Any) -> None:
        project = Project.objects.filter(slug=options["project"]).first()
        if project is None:
            raise CommandError(f"There is no project {options['project']!r}.")
        directory = Path(options["directory"])
        try:
            card = export_project(
                project=project, directory=directory, file_format=Format(options["format"]), now=timezone.now()
            )
        except FileExistsError:
            raise CommandError(f"{directory} is there already.") from None
        except DomainError as error:
            raise CommandError(str(error)) from None
        counts = ", ".join(f"{n} {name}" for name, n in card["counts"].items())
        self.stdout.write(f"{directory}: {counts}.")
