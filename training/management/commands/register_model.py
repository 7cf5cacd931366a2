"""manage.py register_model NAME SOURCE: a local directory, or a Hugging Face id where there is a network."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from annotation.errors import DomainError
from training.models import ModelKind, ModelSource
from training.registry import register_directory

_WANTED = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]


class Command(BaseCommand):
    """Register a model for all projects."""

    help = "Register a model directory, or download a Hugging Face model (safetensors only) and register it."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name")
        parser.add_argument("source", help="A directory, or an id such as Qwen/Qwen2.5-0.5B-Instruct.")
        parser.add_argument("--kind", choices=ModelKind.values, default=ModelKind.POLICY.value)
        parser.add_argument("--licence", default="", help="SPDX identifier, such as Apache-2.0; shown on its card.")
        parser.add_argument("--revision", help="Commit of the Hugging Face repository; printed if left out.")

    def handle(self, *args: Any, **options: Any) -> None:
        source = options["source"]
        local = Path(source).is_dir()
        path = Path(source) if local else self._download(source, options["name"], options["revision"])
        try:
            model = register_directory(
                name=options["name"],
                path=path,
                kind=ModelKind(options["kind"]),
                source=ModelSource.LOCAL if local else ModelSource.HUB,
                licence=options["licence"],
                now=timezone.now(),
            )
        except DomainError as error:
            raise CommandError(str(error)) from None
        self.stdout.write(f"Registered {model.name}: {model.parameters or 0:,} parameters, sha256 {model.sha256[:12]}…")

    def _download(self, hub_id: str, name: str, revision: str | None) -> Path:
        try:
            # Only a machine that trains has it, and the web must start without it.
            from huggingface_hub import HfApi, snapshot_download  # noqa: PLC0415
            from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError  # noqa: PLC0415
        except ImportError:
            raise CommandError("Downloading needs the train extra: pip install 'winnow[train]'.") from None
        try:
            commit = revision or HfApi().model_info(hub_id).sha
            target = Path(settings.MODELS_DIR) / "hub" / name
            snapshot_download(hub_id, revision=commit, local_dir=target, allow_patterns=_WANTED)
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
            raise CommandError(
                f"{hub_id!r} is no directory here and could not be downloaded ({type(error).__name__}: {error}). "
                "Check the id and the network, or name a directory that holds the model."
            ) from None
        self.stdout.write(f"Downloaded {hub_id} at commit {commit}.")
        return target
