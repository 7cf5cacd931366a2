"""Registered models: base models from outside, and checkpoints promoted by a `convert` job. Lineage goes both ways.

A registered directory holds safetensors and JSON only; anything that could run code is refused before it gets a row.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import IntegrityError, transaction

from annotation.errors import DomainError, Invalid, Kind
from annotation.gate import write
from annotation.models import Project, User
from annotation.people import audit
from training.engine.files import directory_hash
from training.jobs import submit
from training.models import Checkpoint, Job, ModelKind, ModelSource, ModelVersion, Run

_REFUSED_SUFFIXES = frozenset({".py", ".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".h5", ".msgpack"})
_MOST_HEADER = 100_000_000  # bytes, the format's own limit


class UnknownModel(DomainError):
    """No such registered model, or no such directory."""

    code = "unknown_model"


class RefusedModel(DomainError):
    """The directory holds something that a model must not hold."""

    code = "refused_model"


class NameTaken(DomainError):
    """Another model has this name."""

    code = "name_taken"
    kind = Kind.CONFLICT


def register_directory(
    *,
    name: str,
    path: Path,
    kind: ModelKind,
    source: ModelSource,
    project: Project | None = None,
    base: ModelVersion | None = None,
    checkpoint: Checkpoint | None = None,
    metrics: dict[str, Any] | None = None,
    by: User | None = None,
    now: datetime,
) -> ModelVersion:
    """A row for a model directory. The same name with the same content again returns the first row.

    Raises:
        UnknownModel: no such directory, or no safetensors in it. RefusedModel: it holds code or a pickle.
        NameTaken: another model has the name.
    """
    directory = path.resolve()
    check_directory(directory)
    sha256 = directory_hash(directory)
    known = ModelVersion.objects.filter(project=project, name=name).first()
    if known is not None:
        if known.sha256 == sha256:
            return known
        raise NameTaken(f"There is another model named {name!r}. Choose a name that is free.")
    try:
        with write(), transaction.atomic():
            model = ModelVersion.objects.create(
                project=project,
                name=name,
                kind=kind,
                source=source,
                base=base,
                checkpoint=checkpoint,
                path=_stored(directory),
                sha256=sha256,
                parameters=count_parameters(directory),
                size_bytes=sum(file.stat().st_size for file in _files(directory)),
                metrics=metrics or {},
                created_at=now,
                created_by=by,
            )
            audit(project=project, by=by, action="model.registered", target=name, now=now, sha256=sha256)
    except IntegrityError:
        raise NameTaken(f"There is another model named {name!r}. Choose a name that is free.") from None
    return model


def register_local(*, name: str, path: str, by: User, now: datetime) -> ModelVersion:
    """Register a directory that the operator's WINNOW_MODEL_ROOTS allows.

    Raises:
        UnknownModel: the directory does not exist or lies outside the roots.
    """
    roots = [Path(settings.MODELS_DIR).resolve(), *settings.MODEL_ROOTS]
    try:
        directory = Path(path).resolve(strict=True)
    except OSError:
        raise UnknownModel(f"path: there is no directory {path!r}", details={"path": ["not found"]}) from None
    if not any(directory.is_relative_to(root) for root in roots):
        raise UnknownModel(
            f"path: {path!r} lies outside the directories that WINNOW_MODEL_ROOTS allows",
            details={"path": ["outside the allowed directories"]},
        )
    kind = ModelKind.REWARD if _is_reward_model(directory) else ModelKind.POLICY
    return register_directory(name=name, path=directory, kind=kind, source=ModelSource.LOCAL, by=by, now=now)


def register_result(job: Job, run: Run, directory: Path, *, now: datetime) -> ModelVersion:
    """Register what a `convert` job made; a second call returns the first row."""
    target = Path(settings.MODELS_DIR) / str(job.project.public_id) / str(job.public_id)
    made = directory / "model"
    if made.exists() and not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        made.rename(target)
    checkpoint = job.checkpoint
    assert checkpoint is not None, "a convert job names the checkpoint it promotes"
    trained = checkpoint.run
    return register_directory(
        name=job.config["name"],
        path=target,
        kind=ModelKind.REWARD if _is_reward_model(target) else ModelKind.POLICY,
        source=ModelSource.JOB,
        project=job.project,
        base=trained.job.model,
        checkpoint=checkpoint,
        metrics=(trained.result or {}).get("metrics", {}),
        by=job.created_by,
        now=now,
    )


def model_path(model: ModelVersion) -> Path:
    """The directory of a registered model."""
    path = Path(model.path)
    return path if path.is_absolute() else Path(settings.MODELS_DIR) / path


def visible(project: Project) -> list[ModelVersion]:
    """The models that a project may use: its own and those of the site, newest first; one query."""
    rows = ModelVersion.objects.filter(project=project) | ModelVersion.objects.filter(project__isnull=True)
    return list(rows.select_related("base", "checkpoint__run__job__snapshot").order_by("-created_at", "-pk"))


def find(project: Project, public_id: UUID | str, *, kind: ModelKind | None = None) -> ModelVersion:
    """A model that the project may use.

    Raises:
        UnknownModel: there is none, or it is of another kind.
    """
    rows = ModelVersion.objects.filter(project=project) | ModelVersion.objects.filter(project__isnull=True)
    model = rows.filter(public_id=public_id).first()
    if model is None:
        raise UnknownModel(f"model: there is no model {public_id}", details={"model": ["unknown"]})
    if kind is not None and model.kind != kind:
        raise UnknownModel(
            f"model: {model.name} is a {model.get_kind_display().lower()} model, but a {kind.label.lower()} is needed",
            details={"model": [f"not a {kind.label.lower()}"]},
        )
    return model


def check_directory(directory: Path) -> None:
    """Refuse a directory that is no model or that holds code.

    Raises:
        UnknownModel, RefusedModel: naming the file.
    """
    if not (directory / "config.json").is_file():
        raise UnknownModel(f"path: {directory} is no model directory: config.json is missing")
    files = list(_files(directory))
    refused = next((file for file in files if file.suffix.lower() in _REFUSED_SUFFIXES), None)
    if refused is not None:
        raise RefusedModel(f"path: {refused.name} is refused: a model directory holds safetensors and JSON, never code")
    if not any(file.suffix == ".safetensors" for file in files):
        raise UnknownModel(f"path: {directory} holds no .safetensors file")
    for file in directory.glob("*config.json"):
        if _mentions(_read_json(file), "auto_map"):
            raise RefusedModel(f"path: {file.name} asks for code of its own (auto_map), which is never run")


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise RefusedModel(f"path: {file.name} is not JSON") from None


def count_parameters(directory: Path) -> int:
    """Elements of all tensors, read from the headers of the safetensors files."""
    total = 0
    for file in directory.glob("*.safetensors"):
        with file.open("rb") as handle:
            length = int.from_bytes(handle.read(8), "little")
            if length > _MOST_HEADER:
                raise RefusedModel(f"path: {file.name} is no safetensors file")
            raw = handle.read(length)
        try:
            tensors = [tensor for name, tensor in json.loads(raw).items() if name != "__metadata__"]
            total += sum(math.prod(tensor["shape"]) for tensor in tensors)
        except (ValueError, TypeError, KeyError, AttributeError):
            raise RefusedModel(f"path: {file.name} is no safetensors file") from None
    return total


def _files(directory: Path) -> Iterator[Path]:
    return (file for file in sorted(directory.rglob("*")) if file.is_file())


def _stored(directory: Path) -> str:
    root = Path(settings.MODELS_DIR).resolve()
    return str(directory.relative_to(root)) if directory.is_relative_to(root) else str(directory)


def _is_reward_model(directory: Path) -> bool:
    architectures = _read_json(directory / "config.json").get("architectures") or []
    return any(str(name).endswith("ForSequenceClassification") for name in architectures)


def _mentions(value: Any, key: str) -> bool:
    if isinstance(value, dict):
        return key in value or any(_mentions(item, key) for item in value.values())
    return isinstance(value, list) and any(_mentions(item, key) for item in value)


def promote(*, checkpoint: Checkpoint, name: str, by: User | None, now: datetime) -> Job:
    """Queue the job that merges a checkpoint into a model directory and registers it under `name`.

    Raises:
        NameTaken: a model of the project has the name. Invalid: the name is empty or the files are gone.
    """
    job = checkpoint.run.job
    name = name.strip()
    if not name or len(name) > 120 or any(not character.isprintable() for character in name):
        raise Invalid(f"name: needs 1 to 120 printable characters, got {name!r}", details={"name": ["not usable"]})
    if checkpoint.files_pruned_at is not None:
        raise Invalid(
            f"checkpoint: the files of step {checkpoint.step} were pruned", details={"checkpoint": ["pruned"]}
        )
    # A name of the site's is taken too: the two could not be told apart in a list.
    if any(model.name == name for model in visible(job.project)):
        raise NameTaken(f"There is another model named {name!r}. Choose a name that is free.")
    return submit(
        project=job.project,
        method="convert",
        config={"method": "convert", "name": name},
        model=job.model,
        checkpoint=checkpoint,
        title=f"Promote {name}",
        priority=10,
        by=by,
        now=now,
    )
