"""From a request to a queued job: defaults, overrides and inputs, all checked before the row exists.

A job waits for the promotions that it names as inputs (`references`), so a reward model and the PPO that needs it are
queued at one time.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import transaction

from annotation import outbound
from annotation.errors import Invalid
from annotation.gate import write
from annotation.models import Project, User
from training import forms, registry
from training.engine.errors import ConfigError
from training.engine.presets import MACHINES, PRESETS, merge
from training.forms import METHODS, Method, value_at
from training.jobs import BadConfig, checked, pruned, submit, with_inputs
from training.models import Checkpoint, Job, JobStatus, ModelKind, ModelVersion, Snapshot
from training.references import read_reference, read_round

MOST_PRIORITY = 100
PROMOTION_PRIORITY = 10
JUDGE_URL = "online_dpo.judge.server.url"
_NEEDED_KIND = {"rewards": ModelKind.REWARD, "held_out": ModelKind.REWARD}
# What may differ from the config that made the checkpoint which a job goes on from (`engine.starting.check_same_run`).
_FREE = ("memory", "eval", "checkpoint", "data.allow_drop", "stop.grace_seconds", "stop.on_alarm", "kl.budget")


class SnapshotTooSmall(Invalid):
    """The snapshot has no training pairs."""

    code = "snapshot_too_small"


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """What a person asks for.

    Attributes:
        overrides: what differs from the defaults.
        inputs: further models by role: a list of `references` each; `base` where `model` is None;
            for `score` also {"round": id}.
        after: jobs that must have succeeded before it starts, besides those that its inputs name.
        checkpoint: of a run of the same method, that it goes on from.
        promote_as: name under which its best checkpoint will be registered; `make_current`: as the project's own.
    """

    method: str
    snapshot: Snapshot | None = None
    model: ModelVersion | None = None
    overrides: Mapping[str, Any]
    inputs: Mapping[str, Any] | None = None
    after: Sequence[Job] = ()
    checkpoint: Checkpoint | None = None
    preset: str = ""
    machine: str = ""
    title: str = ""
    priority: int = 0
    promote_as: str = ""
    make_current: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A wish that has been checked: what becomes the job's row.

    Attributes:
        inputs: as `Job.inputs` holds them; `uses` are the models among them.
        waits_for: jobs that it depends on; `with_model` says whether there will be a base model.
    """

    project: Project
    wish: Wish
    method: Method
    config: dict[str, Any]
    inputs: dict[str, Any]
    uses: tuple[ModelVersion, ...]
    waits_for: tuple[Job, ...]
    with_model: bool

    @property
    def stand_ins(self) -> dict[str, Any]:
        """For the paths of its inputs, while the config is checked."""
        counts = {role: len(self.inputs.get(role, ())) for role in self.method.roles}
        return forms.stand_ins(self.method.name, counts=counts, with_model=self.with_model)

    @property
    def complete(self) -> dict[str, Any]:
        """The config as the engine would read it, with stand-ins for its inputs."""
        return with_inputs({**self.config, "method": self.method.name}, self.stand_ins)

    @property
    def title(self) -> str:
        if self.wish.title:
            return self.wish.title
        snapshot = self.wish.snapshot
        return self.method.title if snapshot is None else f"{self.method.title} on v{snapshot.number}"


def defaults(method: str, model: ModelVersion | None, *, preset: str = "", machine: str = "") -> dict[str, Any]:
    """The complete config of a method for a base model (its size sets the learning rate)."""
    parameters = None if model is None else model.parameters
    return forms.defaults(method, parameters=parameters, preset=preset, machine=machine)


# --- checking ---------------------------------------------------------------------------------------------------------


def prepare(project: Project, wish: Wish) -> Prepared:
    """Check everything that can be known before the job starts.

    Raises:
        BadConfig: unknown method, key or preset, a value out of range, an input that the method has not, or lacks.
        SnapshotTooSmall: nothing to train on. Invalid: a model or snapshot of the wrong kind, a name that is taken.
        UnknownModel: an input that this project does not have.
    """
    method = METHODS.get(wish.method)
    if method is None:
        known = ", ".join(METHODS)
        raise BadConfig(f"method must be one of {known}, got {wish.method!r}", details={"method": ["unknown"]})
    _check_preset(method, wish)
    refuse_inputs(wish.overrides)
    if abs(wish.priority) > MOST_PRIORITY:
        message = f"priority must be between -{MOST_PRIORITY} and {MOST_PRIORITY}, got {wish.priority}"
        raise Invalid(message, details={"priority": [message]})
    base, inputs, uses, waits_for = _resolve(project, method, wish)
    _check_snapshot(method, wish, inputs)
    model = wish.model or base
    try:
        config = merge(defaults(method.name, model, preset=wish.preset, machine=wish.machine), wish.overrides)
    except ConfigError as error:
        raise BadConfig(error.message, details={error.key: [error.message]}) from None
    prepared = Prepared(
        project=project,
        wish=wish,
        method=method,
        config=config,
        inputs=inputs,
        uses=uses,
        waits_for=waits_for,
        with_model=wish.model is not None or "base" in inputs,
    )
    _check_judge(config)
    checked(prepared.complete)
    if wish.checkpoint is not None:
        _check_continues(wish.checkpoint, prepared)
    if wish.promote_as:
        if not method.trains:
            raise Invalid(
                f"promote_as: {method.title} trains nothing that could be promoted",
                details={"promote_as": ["trains nothing"]},
            )
        registry.free_name(project, wish.promote_as)
    return prepared


def refuse_inputs(overrides: Mapping[str, Any]) -> None:
    """Refuse overrides that name what the job itself fills in.

    Raises:
        BadConfig: naming the key.
    """
    if "method" in overrides:
        raise BadConfig("method is set by the job itself, not in config", details={"method": ["set by the job"]})
    for section in ("models", "data"):
        if section in overrides and not isinstance(overrides[section], Mapping):
            message = f"{section} must be an object, got {overrides[section]!r}"
            raise BadConfig(message, details={section: ["must be an object"]})
    named = {f"models.{name}" for name in overrides.get("models", {})} - {"models.combine"}
    named |= {path for path in forms.INPUT_PATHS if value_at(overrides, path) not in (None, "", [])}
    for path in sorted(named):
        raise BadConfig(f"{path} is set by the job itself, not in config", details={path: ["set by the job"]})


def _check_preset(method: Method, wish: Wish) -> None:
    if wish.preset and (wish.preset not in PRESETS or PRESETS[wish.preset].method != method.name):
        known = ", ".join(preset.name for preset in method.presets) or "none"
        message = f"preset must be one of those of {method.name} ({known}), got {wish.preset!r}"
        raise BadConfig(message, details={"preset": [message]})
    if wish.machine and wish.machine not in MACHINES:
        message = f"machine must be one of {', '.join(MACHINES)}, got {wish.machine!r}"
        raise BadConfig(message, details={"machine": [message]})


def _check_snapshot(method: Method, wish: Wish, inputs: Mapping[str, Any]) -> None:
    snapshot = wish.snapshot
    if snapshot is None:
        if method.needs_snapshot:
            _missing("snapshot", f"{method.title} reads a snapshot of {' or '.join(method.kinds)}; name one")
        if method.name == "score" and "round" not in inputs:
            _missing("snapshot", "Score reads the completions of a snapshot, or of inputs.round; name one of them")
        return
    if snapshot.kind not in method.kinds:
        wanted = " or ".join(method.kinds) or "no snapshot"
        message = f"snapshot: v{snapshot.number} holds {snapshot.kind}, but {method.title} reads {wanted}"
        raise Invalid(message, details={"snapshot": [f"holds {snapshot.kind}, not {wanted}"]})
    if method.name == "evaluate":
        _check_evaluated(wish, snapshot, inputs)
        return
    if method.trains and not snapshot.counts.get("train"):
        raise SnapshotTooSmall(
            f"snapshot: v{snapshot.number} has no training pairs ({snapshot.counts.get('total', 0)} in all). "
            "Freeze more preferences, or give the train part a larger share.",
            details={"snapshot": ["no training pairs"]},
        )


def _check_evaluated(wish: Wish, snapshot: Snapshot, inputs: Mapping[str, Any]) -> None:
    part = value_at(wish.overrides, "data.part") or "test"
    if not snapshot.counts.get(str(part)):
        raise SnapshotTooSmall(
            f"snapshot: v{snapshot.number} has no {part} part to evaluate on",
            details={"snapshot": [f"no {part} part"]},
        )
    if wish.model is None and "base" not in inputs and snapshot.kind != "preferences":
        message = f"snapshot: reward models alone are evaluated on preferences, but v{snapshot.number} holds "
        raise Invalid(message + snapshot.kind, details={"snapshot": ["not preferences"]})
    if "reference" in inputs and wish.model is None and "base" not in inputs:
        _missing("model", "a reference is held beside a policy; name the policy as model")


def _check_judge(config: Mapping[str, Any]) -> None:
    """A judge is asked only where the operator lets this server send to."""
    if value_at(config, "online_dpo.labeller") == "judge" and not value_at(config, "online_dpo.judge"):
        message = "online_dpo.judge must name a model and a server for labeller judge"
        raise BadConfig(message, details={"online_dpo.judge": [message]})
    url = value_at(config, JUDGE_URL)
    if isinstance(url, str):
        try:
            outbound.check(url, allowed=settings.OUTBOUND)
        except outbound.Refused as error:
            raise BadConfig(f"{JUDGE_URL}: {error}", details={JUDGE_URL: [str(error)]}) from None


def _check_continues(checkpoint: Checkpoint, prepared: Prepared) -> None:
    """The engine would refuse it an hour later: a checkpoint goes on only under the config that made it."""
    job = checkpoint.run.job
    if checkpoint.files_pruned_at is not None:
        raise pruned(checkpoint)
    if (job.method, job.model_id, job.snapshot_id) != (
        prepared.method.name,
        None if prepared.wish.model is None else prepared.wish.model.pk,
        None if prepared.wish.snapshot is None else prepared.wish.snapshot.pk,
    ):
        message = f"checkpoint: it is of job {job.number}, with another method, model or snapshot"
        raise Invalid(message, details={"checkpoint": ["of another method, model or snapshot"]})
    ours, theirs = flat(prepared.config), flat(job.config)
    for path in sorted(ours.keys() | theirs.keys()):
        free = any(path == name or path.startswith(f"{name}.") for name in _FREE)
        if path != "method" and not free and ours.get(path) != theirs.get(path):
            message = f"{path} must stay {theirs.get(path)!r} to go on from the checkpoint, got {ours.get(path)!r}"
            raise BadConfig(message, details={path: [message]})


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A config by dotted path."""
    found: dict[str, Any] = {}
    for key, item in config.items():
        path = f"{prefix}{key}"
        found |= flat(item, f"{path}.") if isinstance(item, Mapping) and item else {path: item}
    return found


def _missing(field: str, message: str) -> None:
    raise Invalid(f"{field}: {message}", details={field: [message]})


# --- inputs -----------------------------------------------------------------------------------------------------------


def _resolve(
    project: Project, method: Method, wish: Wish
) -> tuple[ModelVersion | None, dict[str, Any], tuple[ModelVersion, ...], tuple[Job, ...]]:
    """The base model of a promised base, the inputs as the row holds them, the models in them, and what to wait for."""
    raw = dict(wish.inputs or {})
    uses: list[ModelVersion] = []
    waits_for = list(wish.after)
    inputs: dict[str, Any] = {}
    base: ModelVersion | None = None
    if wish.model is not None:
        if "base" in raw:
            _missing("inputs.base", "either model or inputs.base, not both")
        if wish.model.kind != ModelKind.POLICY:
            raise Invalid(
                f"model: {wish.model.name} is a reward model; {method.title} takes a policy",
                details={"model": ["not a policy"]},
            )
        if method.name == "score":
            _missing("model", "Score takes no policy; name the reward model in inputs.rewards")
    elif "base" in raw and method.name != "score":
        reference, model, job = read_reference(project, "inputs.base", raw.pop("base"), ModelKind.POLICY)
        inputs["base"] = reference
        base = model if model is not None else job.model if job is not None else None
        uses += [] if model is None else [model]
        waits_for += [] if job is None else [job]
    elif method.needs_model:
        _missing("model", f"{method.title} starts from a policy; name it")
    if method.name == "score" and "round" in raw:
        inputs["round"] = str(read_round(project, raw.pop("round")).public_id)
    unknown = next((role for role in raw if role not in method.roles), None)
    if unknown is not None:
        known = ", ".join(method.roles) or "no further models"
        message = f"{method.title} has no input {unknown!r}; it takes {known}"
        raise BadConfig(message, details={f"inputs.{unknown}": [message]})
    for role, (least, most) in method.roles.items():
        given = raw.get(role) or []
        given = [given] if isinstance(given, Mapping) else given
        if not isinstance(given, list) or not least <= len(given) <= most:
            kind = _NEEDED_KIND.get(role, ModelKind.POLICY)
            count = f"{least}" if least == most else f"{least} to {most}"
            what = "reward models" if kind is ModelKind.REWARD else "policies"
            message = f"{method.title} takes {count} {what} as {role}, got {given!r}"
            raise BadConfig(message, details={f"inputs.{role}": [message]})
        found = [
            read_reference(project, f"inputs.{role}", item, _NEEDED_KIND.get(role, ModelKind.POLICY)) for item in given
        ]
        if found:
            inputs[role] = [reference for reference, _, _ in found]
        uses += [model for _, model, _ in found if model is not None]
        waits_for += [job for _, _, job in found if job is not None]
    lost = next((job for job in waits_for if job.status in (JobStatus.FAILED, JobStatus.CANCELLED)), None)
    if lost is not None:
        message = f"job {lost.number} ({lost.method}) has {lost.status}, so nothing can wait for it"
        raise Invalid(f"after: {message}", details={"after": [message]})
    return base, inputs, tuple(uses), tuple(dict.fromkeys(waits_for))


# --- queueing ---------------------------------------------------------------------------------------------------------


def queue(
    prepared: Prepared,
    *,
    clone_of: Job | None = None,
    sweep: uuid.UUID | None = None,
    by: User | None,
    now: datetime,
) -> Job:
    """Queue the job and, where it was asked for, its promotion, both or neither. A second call makes a second job."""
    wish = prepared.wish
    with write(), transaction.atomic():
        job = submit(
            project=prepared.project,
            method=prepared.method.name,
            config=prepared.config,
            snapshot=wish.snapshot,
            model=wish.model,
            checkpoint=wish.checkpoint,
            depends_on=prepared.waits_for,
            inputs=prepared.inputs,
            uses=prepared.uses,
            stand_ins=prepared.stand_ins,
            clone_of=clone_of,
            sweep=sweep,
            title=prepared.title,
            priority=wish.priority,
            by=by,
            now=now,
        )
        if wish.promote_as:
            _promise(job, wish, by=by, now=now)
    return job


def _promise(job: Job, wish: Wish, *, by: User | None, now: datetime) -> Job:
    """The promotion of the best checkpoint of a job that has none yet; it is chosen when the promotion starts."""
    name = registry.free_name(job.project, wish.promote_as)
    return submit(
        project=job.project,
        method="convert",
        config={"method": "convert", "name": name},
        model=job.model,
        depends_on=[job],
        inputs={"current": True} if wish.make_current else {},
        title=f"Promote {name}",
        priority=max(PROMOTION_PRIORITY, wish.priority),
        by=by,
        now=now,
    )


def launch(
    *,
    project: Project,
    method: str,
    snapshot: Snapshot | None,
    model: ModelVersion | None,
    overrides: Mapping[str, Any],
    title: str = "",
    by: User | None,
    now: datetime,
) -> Job:
    """Queue a job that needs nothing but a snapshot and a base model; raises as `prepare`."""
    wish = Wish(method=method, snapshot=snapshot, model=model, overrides=overrides, title=title)
    return queue(prepare(project, wish), by=by, now=now)


def clone_wish(job: Job, changes: Mapping[str, Any]) -> Wish:
    """What would queue the job once more, with some settings changed.

    Raises:
        BadConfig: the job is a round's or a promotion, or a change names an input.
    """
    if job.method not in METHODS:
        message = f"job {job.number} is a {job.method} job; start another round or promotion instead"
        raise BadConfig(message, details={"method": [message]})
    refuse_inputs(changes)
    config = {name: value for name, value in job.config.items() if name != "method"}
    return Wish(
        method=job.method,
        snapshot=job.snapshot,
        model=None if "base" in job.inputs else job.model,
        overrides=merge(config, changes),
        inputs={role: refs for role, refs in job.inputs.items() if role != "current"},
        priority=job.priority,
    )


def clone(
    job: Job,
    *,
    changes: Mapping[str, Any],
    title: str = "",
    checkpoint: Checkpoint | None = None,
    priority: int | None = None,
    by: User | None,
    now: datetime,
) -> Job:
    """Queue the job once more with some settings changed, from its start or from one of its checkpoints.

    Raises:
        As `prepare`; BadConfig: the change is one that the checkpoint does not go on under.
    """
    wish = clone_wish(job, changes)
    wish = replace(wish, title=title or f"{job.title or job.method} (again)"[:200], checkpoint=checkpoint)
    if priority is not None:
        wish = replace(wish, priority=priority)
    if checkpoint is not None and job.model is not None:  # a promised base has come true
        rest = {role: refs for role, refs in (wish.inputs or {}).items() if role != "base"}
        wish = replace(wish, model=job.model, inputs=rest)
    return queue(prepare(job.project, wish), clone_of=job, by=by, now=now)
