"""Registered models: base models from outside, and checkpoints promoted by a `convert` job; what people say of them.

A registered directory holds safetensors and JSON only; anything that could run code is refused before it gets a row.
Its content is a fact, known by its hash. Licence, notes, tags, archived and current are people's to change: an archived
model is offered for nothing new and stays in every lineage; the current one is what its project goes on from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Q, QuerySet

from annotation.errors import DomainError, Invalid, Kind
from annotation.gate import write
from annotation.models import AuditAction, Project, User
from annotation.people import audit
from training.engine.files import directory_hash
from training.jobs import pruned, submit
from training.model_files import NoModel, check_directory, count_parameters, files, is_reward_model
from training.models import Checkpoint, Job, ModelKind, ModelSource, ModelVersion, Run

_MOST_TAGS = 20
_MOST_TAG = 40
_MOST_NOTES = 20_000


class UnknownModel(NoModel):
    """No such registered model, or none of the kind that is needed."""


class NameTaken(DomainError):
    """Another model has this name."""

    code = "name_taken"
    kind = Kind.CONFLICT


class ModelFilesGone(DomainError):
    """The directory of a model is not there."""

    code = "model_files_gone"
    kind = Kind.CONFLICT


class ModelChanged(DomainError):
    """The files of a model are no longer those that were registered."""

    code = "model_changed"
    kind = Kind.CONFLICT


class ModelIsCurrent(DomainError):
    """A model cannot be archived while its project goes on from it."""

    code = "model_is_current"
    kind = Kind.CONFLICT


class ModelArchived(DomainError):
    """An archived model is offered for nothing new."""

    code = "model_archived"
    kind = Kind.CONFLICT


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """What to change of a model's card; None leaves a field as it is."""

    licence: str | None = None
    notes: str | None = None
    tags: Sequence[str] | None = None
    archived: bool | None = None
    current: bool | None = None


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
    licence: str = "",
    make_it_current: bool = False,
    by: User | None = None,
    now: datetime,
) -> ModelVersion:
    """A row for a model directory. The same name with the same content again returns the first row.

    Args:
        licence: as an SPDX identifier where there is one; empty is that of the base.
        make_it_current: together with the row, so that a repeat does not undo what people chose since.

    Raises:
        NoModel: no such directory, or no safetensors in it. RefusedModel: it holds code or a pickle.
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
            if make_it_current and project is not None:
                _none_current(project, kind)
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
                size_bytes=sum(file.stat().st_size for file in files(directory)),
                metrics=metrics or {},
                licence=licence or (base.licence if base is not None else ""),
                is_current=make_it_current and project is not None,
                verified_at=now,
                created_at=now,
                created_by=by,
            )
            audit(project=project, by=by, action=AuditAction.MODEL_REGISTERED, target=name, now=now, sha256=sha256)
    except IntegrityError:
        raise NameTaken(f"There is another model named {name!r}. Choose a name that is free.") from None
    return model


def register_local(*, name: str, path: str, licence: str = "", by: User, now: datetime) -> ModelVersion:
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
    kind = ModelKind.REWARD if is_reward_model(directory) else ModelKind.POLICY
    licence = _one_line(licence, name="licence", most=120)
    return register_directory(
        name=name, path=directory, kind=kind, source=ModelSource.LOCAL, licence=licence, by=by, now=now
    )


def register_result(job: Job, run: Run, directory: Path, *, now: datetime) -> ModelVersion:
    """Register what a `convert` job made, as current if its request asked for that; a second call changes nothing."""
    target = Path(settings.MODELS_DIR) / str(job.project.public_id) / str(job.public_id)
    made = directory / "model"
    if made.exists() and not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        made.rename(target)
    # Read anew: a promotion asked for beforehand learns its checkpoint only when it starts.
    checkpoint = Checkpoint.objects.select_related("run__job__model").filter(jobs=job).first()
    assert checkpoint is not None, "a convert job that has run names the checkpoint it promotes"
    trained = checkpoint.run
    return register_directory(
        name=job.config["name"],
        path=target,
        kind=ModelKind.REWARD if is_reward_model(target) else ModelKind.POLICY,
        source=ModelSource.JOB,
        project=job.project,
        base=trained.job.model,
        checkpoint=checkpoint,
        metrics=(trained.result or {}).get("metrics", {}),
        make_it_current=job.inputs.get("current") is True,
        by=job.created_by,
        now=now,
    )


def model_path(model: ModelVersion) -> Path:
    """The directory of a registered model."""
    path = Path(model.path)
    return path if path.is_absolute() else Path(settings.MODELS_DIR) / path


def held_files(model: ModelVersion) -> list[tuple[str, int]]:
    """Names and sizes of a model's files; none when its directory is gone."""
    directory = model_path(model)
    return [(file.relative_to(directory).as_posix(), file.stat().st_size) for file in files(directory)]


def _stored(directory: Path) -> str:
    root = Path(settings.MODELS_DIR).resolve()
    return str(directory.relative_to(root)) if directory.is_relative_to(root) else str(directory)


def known(project: Project) -> QuerySet[ModelVersion]:
    """The models that a project sees, archived ones too: its own and those of the site, with what a card shows."""
    rows = ModelVersion.objects.filter(Q(project=project) | Q(project__isnull=True))
    return rows.select_related(
        "base", "created_by", "checkpoint__run__worker", "checkpoint__run__job__snapshot", "checkpoint__run__job__model"
    )


def visible(project: Project, *, archived: bool | None = None) -> list[ModelVersion]:
    """The models that a project sees, newest first; one query.

    Args:
        archived: only those, or only the others.
    """
    rows = known(project)
    if archived is not None:
        rows = rows.filter(archived_at__isnull=not archived)
    return list(rows.order_by("-created_at", "-pk"))


def find(
    project: Project, public_id: UUID | str, *, kind: ModelKind | None = None, even_archived: bool = False
) -> ModelVersion:
    """A model that the project may use for something new.

    Args:
        even_archived: for what was asked for before the model went into the archive.

    Raises:
        UnknownModel: there is none, or it is of another kind. ModelArchived: it is in the archive.
    """
    rows = ModelVersion.objects.filter(Q(project=project) | Q(project__isnull=True))
    model = rows.filter(public_id=public_id).first()
    if model is None:
        raise UnknownModel(f"model: there is no model {public_id}", details={"model": ["unknown"]})
    if kind is not None and model.kind != kind:
        raise UnknownModel(
            f"model: {model.name} is a {model.get_kind_display().lower()} model, but a {kind.label.lower()} is needed",
            details={"model": [f"not a {kind.label.lower()}"]},
        )
    if model.archived_at is not None and not even_archived:
        raise ModelArchived(
            f"model: {model.name} is archived. Choose another one, or take it out of the archive first.",
            details={"model": ["archived"]},
        )
    return model


# --- what people say of a model ---------------------------------------------------------------------------------------


def change(model: ModelVersion, to: Change, *, by: User | None, now: datetime) -> ModelVersion:
    """Change a model's card; the same change again changes nothing. A project has one current model of a kind.

    Raises:
        Invalid: a text or tag that cannot be used, or the site's model as current. ModelIsCurrent: to be archived.
        ModelArchived: to be current.
    """
    values: dict[str, Any] = {}
    if to.licence is not None:
        values["licence"] = _one_line(to.licence, name="licence", most=120)
    if to.notes is not None:
        if len(to.notes) > _MOST_NOTES:
            raise Invalid(
                f"notes: at most {_MOST_NOTES} characters, got {len(to.notes)}", details={"notes": ["too long"]}
            )
        values["notes"] = to.notes
    if to.tags is not None:
        values["tags"] = read_tags(to.tags)
    with write(), transaction.atomic():
        if model.project is not None and to.current:
            _none_current(model.project, ModelKind(model.kind), but=model)
        found = ModelVersion.objects.select_for_update(no_key=True).get(pk=model.pk)
        values |= _standing(found, to, now=now)
        changed = {name: value for name, value in values.items() if vars(found)[name] != value}
        if changed:
            ModelVersion.objects.filter(pk=found.pk).update(**changed)
            said = {name: value for name, value in changed.items() if name in {"licence", "tags", "is_current"}}
            audit(
                project=found.project,
                by=by,
                action=AuditAction.MODEL_CHANGED,
                target=found.name,
                now=now,
                model=str(found.public_id),
                fields=sorted(changed),
                **said,
            )
    model.refresh_from_db()
    return model


def _none_current(project: Project, kind: ModelKind, *, but: ModelVersion | None = None) -> None:
    """Make room for a current model; the lock lets one be made at a time."""
    Project.objects.select_for_update(no_key=True).get(pk=project.pk)
    others = ModelVersion.objects.filter(project=project, kind=kind, is_current=True)
    others.exclude(pk=0 if but is None else but.pk).update(is_current=False)


def _standing(found: ModelVersion, to: Change, *, now: datetime) -> dict[str, Any]:
    """Archived and current as they are to be; never both."""
    values: dict[str, Any] = {}
    archived = found.archived_at is not None if to.archived is None else to.archived
    current = found.is_current if to.current is None else to.current
    if current and found.project_id is None:
        raise Invalid(
            f"current: {found.name} is the site's, for every project; only a model of the project can be current",
            details={"current": ["a model of the site"]},
        )
    if current and archived and to.current:
        raise ModelArchived(f"current: {found.name} is archived. Take it out of the archive first.")
    if current and archived:
        raise ModelIsCurrent(
            f"archived: {found.name} is current. Make another one current first, or this one not.",
            details={"archived": ["is current"]},
        )
    if to.archived is not None and archived != (found.archived_at is not None):
        values["archived_at"] = now if archived else None
    if to.current is not None:
        values["is_current"] = current
    return values


def make_current(model: ModelVersion, *, by: User | None, now: datetime) -> ModelVersion:
    """Let the project go on from this model; the one before is current no more. A second call changes nothing.

    Raises:
        Invalid: a model of the site. ModelArchived: it is in the archive.
    """
    return change(model, Change(current=True), by=by, now=now)


def read_tags(tags: Sequence[str]) -> list[str]:
    """Tags without doubles, in their order.

    Raises:
        Invalid: names the tag.
    """
    read = list(dict.fromkeys(_one_line(tag, name="tags", most=_MOST_TAG) for tag in tags))
    if "" in read:
        raise Invalid("tags: a tag must not be empty", details={"tags": ["empty"]})
    if len(read) > _MOST_TAGS:
        raise Invalid(f"tags: at most {_MOST_TAGS}, got {len(read)}", details={"tags": ["too many"]})
    return read


def _one_line(text: str, *, name: str, most: int) -> str:
    text = text.strip()
    if len(text) > most or any(not character.isprintable() for character in text):
        raise Invalid(
            f"{name}: at most {most} printable characters, got {text[: most + 1]!r}", details={name: ["not usable"]}
        )
    return text


def verify(model: ModelVersion, *, by: User | None, now: datetime) -> ModelVersion:
    """Read all files of a model again and compare them with its hash; what was found stays on the card.

    Raises:
        ModelFilesGone, ModelChanged: the model then counts as not verified.
    """
    directory = model_path(model)
    found = directory_hash(directory) if directory.is_dir() else None
    good = found == model.sha256
    with write(), transaction.atomic():
        ModelVersion.objects.filter(pk=model.pk).update(verified_at=now if good else None)
        action = AuditAction.MODEL_VERIFIED if good else AuditAction.MODEL_NOT_VERIFIED
        audit(project=model.project, by=by, action=action, target=model.name, now=now, found=found)
    if found is None:
        raise ModelFilesGone(
            f"The files of {model.name} are not there any more. Restore them from a backup.",
            details={"expected": model.sha256},
        )
    if not good:
        raise ModelChanged(
            f"The files of {model.name} are not those that were registered (sha256 {found[:12]}…, expected "
            f"{model.sha256[:12]}…). Restore them from a backup.",
            details={"expected": model.sha256, "found": found},
        )
    model.refresh_from_db()
    return model


def free_name(project: Project, name: str) -> str:
    """The name as it will be stored, if a new model of the project may have it.

    Raises:
        Invalid: it is empty, too long or not printable. NameTaken: another model has it, or a promotion on its way.
    """
    name = name.strip()
    if not name or len(name) > 120 or any(not character.isprintable() for character in name):
        raise Invalid(f"name: needs 1 to 120 printable characters, got {name!r}", details={"name": ["not usable"]})
    on_its_way = Job.objects.filter(
        project=project, method="convert", status__in=("queued", "running"), config__name=name
    )
    # A name of the site's is taken too: the two could not be told apart in a list.
    if any(model.name == name for model in visible(project)) or on_its_way.exists():
        raise NameTaken(f"There is another model named {name!r}. Choose a name that is free.")
    return name


def promote(*, checkpoint: Checkpoint, name: str, make_it_current: bool = False, by: User | None, now: datetime) -> Job:
    """Queue the job that merges a checkpoint into a model directory and registers it under `name`.

    Args:
        make_it_current: once it is registered.

    Raises:
        NameTaken: a model of the project has the name. Invalid: the name is empty or the files are gone.
    """
    job = checkpoint.run.job
    name = free_name(job.project, name)
    if checkpoint.files_pruned_at is not None:
        raise pruned(checkpoint)
    return submit(
        project=job.project,
        method="convert",
        config={"method": "convert", "name": name},
        model=job.model,
        checkpoint=checkpoint,
        inputs={"current": True} if make_it_current else {},
        title=f"Promote {name}",
        priority=10,
        by=by,
        now=now,
    )
