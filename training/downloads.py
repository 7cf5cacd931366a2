"""A registered model as one file to take away: a zip or tar of a standard Hugging Face directory, made as it is sent.

Nothing is held in memory or written to disk but a megabyte at a time. Every file is hashed on its way; if what was read
is not what was registered, the stream breaks off before its end, so that nobody takes a damaged model for a whole one.
`merged` is the model itself; `adapter` the low-rank update that it was merged from, which PEFT loads onto its base.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path, PurePosixPath
from typing import assert_never

from django.conf import settings

from annotation.errors import Invalid
from annotation.streaming import Pieces
from training.cards import read_card, readme
from training.engine.files import read_json
from training.model_files import RefusedModel, files
from training.models import ModelVersion
from training.registry import ModelChanged, ModelFilesGone, model_path

_PIECE = 1 << 20
_BLOCK = 512  # of a tar
_SUMS = "winnow.sha256"  # for `sha256sum -c`
_CARD = "README.md"


class Form(Enum):
    """What a download holds: the whole model, or the adapter that it was merged from."""

    MERGED = "merged"
    ADAPTER = "adapter"


class Archive(Enum):
    """How it is packed. A tar tells its length beforehand, so that a browser can show how far it is."""

    ZIP = "zip"
    TAR = "tar"

    @property
    def content_type(self) -> str:
        return f"application/{'zip' if self is Archive.ZIP else 'x-tar'}"


class NoAdapter(Invalid):
    """The model was not merged from an adapter, or its files are gone."""

    code = "no_adapter"


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """A file of a download: its name, its size, and where its bytes are."""

    name: str
    size: int
    content: Path | bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Download:
    """What a download will hold. `check` gets the sha256 of each file, once all were read, and says what is wrong."""

    folder: str
    items: Sequence[Item]
    modified_at: datetime
    check: Callable[[dict[str, str]], str | None]

    @property
    def tar_size(self) -> int:
        """Bytes of the tar."""
        sizes = [*(item.size for item in self.items), _sums_size(self.items)]
        names = [*(item.name for item in self.items), _SUMS]
        heads = sum(len(_tar_head(self, name, size)) for name, size in zip(names, sizes, strict=True))
        return heads + sum(_padded(size) for size in sizes) + 2 * _BLOCK


def prepare(model: ModelVersion, form: Form) -> Download:
    """What a download of a model will hold; reads names and sizes only.

    Raises:
        ModelFilesGone, ModelChanged: its files are not what was registered, as far as their sizes tell.
        NoAdapter: there is no adapter of it. RefusedModel: a link leads elsewhere.
    """
    match form:
        case Form.MERGED:
            items, check = _merged(model)
        case Form.ADAPTER:
            items, check = _adapter(model)
        case _:
            assert_never(form)
    if all(item.name != _CARD for item in items):
        text = readme(read_card(model), is_adapter=form is Form.ADAPTER).encode()
        items.append(Item(name=_CARD, size=len(text), content=text))
    suffix = "-adapter" if form is Form.ADAPTER else ""
    folder = re.sub(r"[^A-Za-z0-9._-]+", "-", model.name).strip(".-") or "model"
    return Download(folder=folder + suffix, items=items, modified_at=model.created_at, check=check)


def has_adapter(model: ModelVersion) -> bool:
    """Whether an adapter can be had, as far as rows and names tell."""
    directory = _adapter_directory(model)
    return directory is not None and (directory / "adapter" / "adapter_model.safetensors").is_file()


def _merged(model: ModelVersion) -> tuple[list[Item], Callable[[dict[str, str]], str | None]]:
    directory = model_path(model)
    if not directory.is_dir():
        raise ModelFilesGone(
            f"The files of {model.name} are not there any more. Restore them from a backup.",
            details={"expected": model.sha256},
        )
    roots = [directory.resolve(), Path(settings.MODELS_DIR).resolve(), *settings.MODEL_ROOTS]
    items = []
    for file in files(directory):
        if not any(file.resolve().is_relative_to(root) for root in roots):  # a link that leads elsewhere
            raise RefusedModel(f"{model.name}: {file.name} leads outside the directories that may hold models")
        name = file.relative_to(directory).as_posix()
        items.append(Item(name=name, size=file.stat().st_size, content=file))
    size = sum(item.size for item in items)
    if model.size_bytes is not None and size != model.size_bytes:
        raise ModelChanged(
            f"The files of {model.name} have {size} bytes, and {model.size_bytes} when they were registered. "
            "Restore them from a backup.",
            details={"expected": model.size_bytes, "found": size},
        )
    names = [item.name for item in items]

    def check(sums: dict[str, str]) -> str | None:
        digest = hashlib.sha256()  # as `engine.files.directory_hash` adds it up
        for name in names:
            digest.update(f"{name}\0{sums[name]}\n".encode())
        return None if digest.hexdigest() == model.sha256 else f"the files of {model.name} are not those registered"

    return items, check


def _adapter_directory(model: ModelVersion) -> Path | None:
    if model.checkpoint is None or model.checkpoint.files_pruned_at is not None:
        return None
    return Path(settings.RUNS_DIR) / model.checkpoint.path


def _adapter(model: ModelVersion) -> tuple[list[Item], Callable[[dict[str, str]], str | None]]:
    """adapter/ of its checkpoint at the top, as PEFT wants it, with a reward model's head and its scale beside."""
    directory = _adapter_directory(model)
    if directory is None:
        why = "was not trained here" if model.checkpoint is None else "the files of its checkpoint were pruned"
        raise NoAdapter(f"form: {model.name} has no adapter: {why}", details={"form": ["no adapter"]})
    try:
        listed = {entry["path"]: entry["sha256"] for entry in read_json(directory / "manifest.json")["files"]}
        places = {file.name: file for file in sorted((directory / "adapter").iterdir()) if file.is_file()}
    except (OSError, ValueError, KeyError, TypeError):
        raise NoAdapter(
            f"form: {model.name} has no adapter: all of its weights were trained, or its files are gone",
            details={"form": ["no adapter"]},
        ) from None
    places |= {name: directory / name for name in ("head.safetensors", "winnow.json") if (directory / name).is_file()}
    items = [Item(name=name, size=place.stat().st_size, content=place) for name, place in places.items()]

    def check(sums: dict[str, str]) -> str | None:
        for name, place in places.items():
            if listed.get(place.relative_to(directory).as_posix()) != sums[name]:
                return f"{name} of {model.name} is not what its checkpoint holds"
        return None

    return items, check


# --- the stream -------------------------------------------------------------------------------------------------------


class BrokenOff(Exception):
    """What was read is not what was registered: the stream ends here, so that the file stays incomplete."""


def stream(download: Download, archive: Archive) -> Iterator[bytes]:
    """The archive, piece by piece. Its last file lists the sha256 of all others.

    Raises:
        BrokenOff: a file changed; what was sent by then is no whole archive.
    """
    match archive:
        case Archive.ZIP:
            pieces = _zip(download)
        case Archive.TAR:
            pieces = _tar(download)
        case _:
            assert_never(archive)
    return (piece for piece in pieces if piece)  # an empty chunk would end an answer


def _zip(download: Download) -> Iterator[bytes]:
    sink = Pieces()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as packed:  # weights do not get smaller
        sums: dict[str, str] = {}
        for item in download.items:
            with packed.open(_zip_info(download, item.name, item.size), "w") as entry:
                for piece in _read(item, sums):
                    entry.write(piece)
                    yield sink.take()
        with packed.open(_zip_info(download, _SUMS, _sums_size(download.items)), "w") as entry:
            entry.write(_sums(download, sums))
        yield sink.take()
    yield sink.take()


def _zip_info(download: Download, name: str, size: int) -> zipfile.ZipInfo:
    moment = max(download.modified_at.astimezone(UTC), datetime(1980, 1, 1, tzinfo=UTC))  # zip's first day
    made = zipfile.ZipInfo(_inside(download, name), date_time=moment.timetuple()[:6])
    made.external_attr = 0o644 << 16
    made.file_size = size  # says whether the entry needs 64-bit sizes
    return made


def _tar(download: Download) -> Iterator[bytes]:
    sums: dict[str, str] = {}
    for item in download.items:
        yield _tar_head(download, item.name, item.size)
        yield from _read(item, sums)
        yield bytes(_padded(item.size) - item.size)
    listed = _sums(download, sums)
    yield _tar_head(download, _SUMS, len(listed))
    yield listed + bytes(_padded(len(listed)) - len(listed))
    yield bytes(2 * _BLOCK)


def _tar_head(download: Download, name: str, size: int) -> bytes:
    made = tarfile.TarInfo(_inside(download, name))
    made.size, made.mtime = size, int(download.modified_at.timestamp())
    return made.tobuf(format=tarfile.PAX_FORMAT)


def _inside(download: Download, name: str) -> str:
    return str(PurePosixPath(download.folder) / name)


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _read(item: Item, sums: dict[str, str]) -> Iterator[bytes]:
    """An item's bytes; writes down their sha256."""
    digest, size = hashlib.sha256(), 0
    for piece in [item.content] if isinstance(item.content, bytes) else _pieces(item.content):
        digest.update(piece)
        size += len(piece)
        if size > item.size:
            break
        yield piece
    if size != item.size:
        raise BrokenOff(f"{item.name} changed its size while it was read")
    sums[item.name] = digest.hexdigest()


def _pieces(file: Path) -> Iterator[bytes]:
    with file.open("rb") as source:
        while piece := source.read(_PIECE):
            yield piece


def _sums(download: Download, sums: dict[str, str]) -> bytes:
    if problem := download.check(sums):
        raise BrokenOff(problem)
    return "".join(f"{sums[item.name]}  {item.name}\n" for item in download.items).encode()


def _sums_size(items: Sequence[Item]) -> int:
    return sum(64 + 2 + len(item.name.encode()) + 1 for item in items)
