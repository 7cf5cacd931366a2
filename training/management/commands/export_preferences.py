"""manage.py export_preferences PROJECT [--snapshot N] --layout trl: a snapshot's lines to standard output or a file."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from annotation.errors import DomainError
from training.models import Snapshot
from training.snapshots import Layout, export_lines
from training.splits import PARTS


class Command(BaseCommand):
    """Export a snapshot."""

    help = "Write a snapshot as JSON Lines: the newest one, or the one named."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("project", help="Slug.")
        parser.add_argument("--snapshot", type=int, help="Number (v3 is 3); the newest if left out.")
        parser.add_argument("--layout", choices=[item.value for item in Layout], default=Layout.TRL.value)
        parser.add_argument("--split", choices=PARTS)
        parser.add_argument("--out", help="A file; standard output if left out.")

    def handle(self, *args: Any, **options: Any) -> None:
        rows = Snapshot.objects.filter(project__slug=options["project"]).order_by("-number")
        if options["snapshot"]:
            rows = rows.filter(number=options["snapshot"])
        snapshot = rows.first()
        if snapshot is None:
            raise CommandError(f"The project {options['project']!r} has no such snapshot.")
        try:
            lines = export_lines(snapshot, layout=Layout(options["layout"]), part=options["split"])
        except DomainError as error:
            raise CommandError(str(error)) from None
        if options["out"]:
            with Path(options["out"]).open("w", encoding="utf-8") as handle:
                handle.writelines(lines)
        else:
            sys.stdout.writelines(lines)
