"""A whole project as a directory: its settings, every data set, and a card with the sha256 of each file; and back.

The way back brings prompts, completions, comparisons and votes; the consensus is derived from them. Flags, rulings and
gold are in the directory for people and other programs, and are not read.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from annotation.consensus import rebuild
from annotation.errors import DomainError
from annotation.exporting import Dataset, Format, columns, encode, rows
from annotation.feedback import read_form
from annotation.fits import refit
from annotation.importing.batches import Incoming, import_file
from annotation.importing.reading import FileFormat
from annotation.importing.rows import ImportKind
from annotation.models import Aggregator, GuidelineVersion, ImportBatch, OverlapRule, Project, Prompt, User
from annotation.people import create_project
from annotation.reports.agreement import agreement

VERSION = 1
_KEPT = (
    "name", "question", "overlap", "overlap_rule", "min_votes", "max_votes", "stop_at", "full_share", "lease_minutes",
    "dispute_below", "flag_limit", "aggregator",
)  # fmt: skip
_READ_BACK = (Dataset.PROMPTS, Dataset.COMPLETIONS, Dataset.COMPARISONS, Dataset.VOTES)


class BadArchive(DomainError):
    """The directory is not what its card says."""

    code = "bad_archive"


def export_project(*, project: Project, directory: Path, file_format: Format, now: datetime) -> dict[str, Any]:
    """Write the directory, which must not be there yet; the card, which is written last."""
    directory.mkdir(parents=True)
    files: dict[str, dict[str, Any]] = {}
    counts: dict[str, int] = {}
    for dataset in Dataset:
        name = f"{dataset.value}.{file_format.value}"
        digest = hashlib.sha256()
        found = _Counted(rows(project, dataset, now=now))
        with (directory / name).open("wb") as handle:
            for piece in encode(found, columns(dataset), file_format):
                digest.update(piece)
                handle.write(piece)
            size = handle.tell()
        counts[dataset.value] = found.n
        files[name] = {"sha256": digest.hexdigest(), "size_bytes": size, "rows": found.n}
    settings = json.dumps(_settings(project), ensure_ascii=False, sort_keys=True, indent=1).encode()
    (directory / "project.json").write_bytes(settings)
    files["project.json"] = {"sha256": hashlib.sha256(settings).hexdigest(), "size_bytes": len(settings)}
    card = {
        "winnow": VERSION, "project": project.slug, "counts": counts, "licences": _licences(project),
        "agreement": {name: asdict(value) for name, value in agreement(project).items()},
        "format": file_format.value, "exported_at": now.isoformat(), "files": files,
    }  # fmt: skip
    (directory / "card.json").write_text(json.dumps(card, ensure_ascii=False, indent=1), encoding="utf-8")
    return card


class _Counted:
    """Rows on their way, counted."""

    def __init__(self, found: Any) -> None:
        self.found, self.n = found, 0

    def __iter__(self) -> Any:
        for row in self.found:
            self.n += 1
            yield row


def _settings(project: Project) -> dict[str, Any]:
    guidelines = GuidelineVersion.objects.filter(project=project).order_by("number")
    settings: dict[str, Any] = Project.objects.filter(pk=project.pk).values(*_KEPT).get()
    return {
        "settings": settings,
        "form": project.feedback.as_dict(),
        "guidelines": list(guidelines.values_list("text", flat=True)),
    }


def _licences(project: Project) -> dict[str, int]:
    """What the imported prompts say of their licence."""
    found: Counter[str] = Counter()
    for meta in Prompt.objects.filter(project=project).values_list("meta", flat=True).iterator():
        found[str(meta.get("licence") or meta.get("license") or "not stated")[:100]] += 1
    return dict(sorted(found.items()))


def import_project(*, directory: Path, slug: str, by: User, now: datetime) -> tuple[Project, list[ImportBatch]]:
    """Make a project of a directory; its files are checked against the card before anything is written.

    Raises:
        BadArchive: a file is missing or differs from its sha256.
    """
    card = _read_card(directory)
    try:
        kept = json.loads((directory / "project.json").read_text(encoding="utf-8"))
        settings = {name: kept["settings"][name] for name in _KEPT if name in kept["settings"]}
        form, guidelines = read_form(kept["form"]), [str(text) for text in kept["guidelines"]]
    except (ValueError, KeyError, TypeError) as error:
        raise BadArchive(f"project.json cannot be read: {error!r}") from None
    if settings.get("overlap_rule") not in OverlapRule.values:
        raise BadArchive(f"project.json: overlap_rule must be one of {', '.join(OverlapRule.values)}")
    settings.setdefault("aggregator", Aggregator.MAJORITY.value)  # what archives had before they said so
    if settings["aggregator"] not in Aggregator.values:
        raise BadArchive(f"project.json: aggregator must be one of {', '.join(Aggregator.values)}")
    name = str(settings.pop("name", slug))
    project = create_project(
        name=name, slug=slug, by=by, form=form, guideline=guidelines[0] if guidelines else "", now=now, **settings
    )
    GuidelineVersion.objects.bulk_create(
        GuidelineVersion(project=project, number=number, text=text, created_by=by, created_at=now)
        for number, text in enumerate(guidelines[1:], start=2)
    )
    batches = []
    for dataset in _READ_BACK:
        file = f"{dataset.value}.{card['format']}"
        if card["files"][file]["rows"]:
            incoming = Incoming(
                kind=ImportKind(dataset.value), path=directory / file, file_format=FileFormat(card["format"]), name=file
            )
            batches.append(import_file(project=project, incoming=incoming, by=by, now=now))
    refit(project=project, warm=False, now=now)
    rebuild(project=project, now=now)
    return project, batches


def _read_card(directory: Path) -> dict[str, Any]:
    try:
        card: dict[str, Any] = json.loads((directory / "card.json").read_text(encoding="utf-8"))
        files = {str(name): item["sha256"] for name, item in card["files"].items()}
        needed = {f"{dataset.value}.{Format(card['format']).value}" for dataset in _READ_BACK} | {"project.json"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadArchive(f"card.json cannot be read: {error}") from None
    if card.get("winnow") != VERSION:
        raise BadArchive(f"card.json is of version {card.get('winnow')!r}; this program reads {VERSION}")
    if not needed <= set(files):
        raise BadArchive(f"card.json names no {', '.join(sorted(needed - set(files)))}")
    root = directory.resolve()
    for name, expected in files.items():
        path = (root / name).resolve()
        if path.parent != root or not path.is_file():
            raise BadArchive(f"The file {name!r} of the card is not in the directory.")
        with path.open("rb") as handle:
            found = hashlib.file_digest(handle, "sha256").hexdigest()
        if found != expected:
            raise BadArchive(f"The file {name!r} has the sha256 {found}, and the card says {expected}.")
    return card
