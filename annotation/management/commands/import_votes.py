"""manage.py import_votes FILE.jsonl: comparisons with votes that people gave elsewhere."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand

from annotation.importing.rows import ImportKind
from annotation.management.importing import add_arguments, run


class Command(BaseCommand):
    """Import votes."""

    help = (
        "Import comparisons with their votes: JSON Lines of {id, prompt, response_a, response_b, "
        'votes: [{annotator, choice: "a"|"b"|"tie"}]}. A bad row stops the import and is named by line.'
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        run(self, ImportKind.VOTES, Path(options["file"]), options)
