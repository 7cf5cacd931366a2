"""A task for the broker tests: it appends its argument to a file, which the test reads."""

from __future__ import annotations

from pathlib import Path

import django

django.setup()

from winnow.celery import app  # noqa: E402  (settings first)


@app.task(name="tests.echo")
def echo(path: str, word: str) -> None:
    with Path(path).open("a") as file:
        file.write(f"{word}\n")
