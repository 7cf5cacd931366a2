"""What the import commands share: their arguments, and one file into one project."""

from __future__ import annotations

import contextlib
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import transaction
from django.utils import timezone

from annotation.consensus import settle_due
from annotation.errors import DomainError
from annotation.importing.batches import Incoming, import_file
from annotation.importing.reading import FileFormat
from annotation.importing.rows import BadRows, ImportKind
from annotation.models import Project, User
from annotation.people import create_project


def add_arguments(parser: ArgumentParser) -> None:
    """File, project, owner, and whether bad rows may be left out."""
    parser.add_argument("file")
    parser.add_argument("--project", help="Slug; made from the file's name if there is none.")
    parser.add_argument("--owner", help="E-mail address of the owner of a new project; default: the first operator.")
    parser.add_argument("--skip-bad-rows", action="store_true", help="Import the good rows although some are bad.")


def run(command: BaseCommand, kind: ImportKind, file: Path, options: dict[str, Any]) -> None:
    """Import and say what came in; a refused file lists its rows and changes nothing."""
    now = timezone.now()
    slug = options["project"] or file.stem.lower().replace("_", "-")
    project = Project.objects.filter(slug=slug).first()
    made = project is None
    try:
        # A refused file must not leave an empty project behind, so a new one is made in the import's transaction.
        with transaction.atomic() if made else contextlib.nullcontext():
            if project is None:
                project = create_project(name=slug, slug=slug, by=owner(options["owner"]), now=now)
            incoming = Incoming(
                kind=kind,
                path=file,
                file_format=FileFormat.of(file.name),
                name=file.name,
                skip_bad_rows=options["skip_bad_rows"],
            )
            batch = import_file(project=project, incoming=incoming, by=project.created_by, now=now)
    except FileNotFoundError:
        raise CommandError(f"There is no file {file}.") from None
    except BadRows as error:
        for row in error.errors[:20]:
            command.stderr.write(f"line {row.line}  {row.field or '-'}  {row.value}: {row.message}")
        raise CommandError(str(error)) from None
    except DomainError as error:
        raise CommandError(str(error)) from None
    if made:
        command.stdout.write(f"Made the project {slug}.")
    while settle_due(now=timezone.now()):
        pass
    command.stdout.write(
        f"{file.name}: {batch.rows} rows, {batch.imported} imported, {batch.duplicates} known already, "
        f"{batch.skipped} refused. Project {project.slug}."
    )


def owner(email: str | None) -> User:
    """The person with this address; without one the first operator."""
    rows = User.objects.filter(is_active=True)
    found = rows.filter(email=email.lower()).first() if email else rows.filter(is_staff=True).order_by("pk").first()
    if found is None:
        raise CommandError(
            f"There is no person {email!r}."
            if email
            else "There is no operator yet: run `manage.py createsuperuser`, or name --owner."
        )
    return found
