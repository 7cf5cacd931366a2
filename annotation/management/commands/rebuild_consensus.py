"""manage.py rebuild_consensus: fit the people and derive every consensus anew from the votes."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from annotation.consensus import rebuild
from annotation.fits import refit
from annotation.models import Project


class Command(BaseCommand):
    """Rebuild derived rows."""

    help = "Derive every consensus of a project (or of all) anew from the votes."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("project", nargs="?", help="Slug; all projects if left out.")

    def handle(self, *args: Any, **options: Any) -> None:
        projects = Project.objects.order_by("pk")
        if options["project"]:
            projects = projects.filter(slug=options["project"])
            if not projects:
                raise CommandError(f"There is no project {options['project']!r}.")
        for project in projects:
            refit(project=project, warm=False, now=timezone.now())
            self.stdout.write(f"{project.slug}: {rebuild(project=project, now=timezone.now())} comparisons")
