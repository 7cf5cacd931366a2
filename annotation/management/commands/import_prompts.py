"""manage.py import_prompts FILE.jsonl: prompts to sample completions for."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand

from annotation.importing.rows import ImportKind
from annotation.management.importing import add_arguments, run


class Command(BaseCommand):
    """Import prompts."""

    help = 'Import prompts: JSON Lines of {prompt: "…" or [{role, content}], category?}. A bad row stops the import.'

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        run(self, ImportKind.PROMPTS, Path(options["file"]), options)
