"""From a request to a training job: defaults for the base model, the caller's overrides, and a check before the row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from annotation.errors import Invalid
from annotation.models import Project, User
from training.engine.errors import ConfigError
from training.engine.presets import default_config, merge
from training.jobs import BadConfig, submit
from training.models import Job, ModelKind, ModelVersion, Snapshot

_TAKEN = ("models", "method")


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """A setting that the form shows by name; every other key of the config can be set too, by its path."""

    path: str
    label: str
    help: str
    unit: str = ""
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """A training method that people may launch."""

    name: str
    title: str
    description: str
    fields: tuple[Field, ...]


_SHARED = (
    Field(path="batch.epochs", label="Epochs", help="Passes over the training pairs.", unit="passes"),
    Field(path="batch.pairs", label="Pairs per step", help="Pairs in one optimizer step.", unit="pairs"),
    Field(path="optim.learning_rate", label="Learning rate", help="Highest rate, after the warm-up."),
    Field(
        path="adapter.rank", label="LoRA rank", help="Size of the low-rank update; adapter: null trains all weights."
    ),
    Field(
        path="data.target",
        label="Label",
        help="share: the share of votes, which stays near one half when people split. posterior: the majority.",
        choices=("share", "posterior"),
    ),
    Field(path="data.max_tokens", label="Longest pair", help="Longer ones are dropped and counted.", unit="tokens"),
    Field(path="stop.max_steps", label="Stop after", help="Empty: all epochs.", unit="steps"),
    Field(path="checkpoint.every", label="Checkpoint every", help="The last step always has one.", unit="steps"),
    Field(path="seed", label="Seed", help="Order of the data and first weights."),
)
METHODS = (
    Method(
        name="reward",
        title="Reward model",
        description="Learns to score completions so that those people prefer score higher (Bradley–Terry).",
        fields=_SHARED,
    ),
    Method(
        name="dpo",
        title="DPO",
        description="Trains the policy on the preferences directly, held near the base model by beta.",
        fields=(
            Field(path="dpo.beta", label="Beta", help="Strength of the pull towards the base model."),
            *_SHARED,
        ),
    ),
)


class SnapshotTooSmall(Invalid):
    """The snapshot has no training pairs."""

    code = "snapshot_too_small"


def defaults(method: str, model: ModelVersion | None) -> dict[str, Any]:
    """The complete config of a method for a base model (its size sets the learning rate)."""
    return default_config(method, parameters=None if model is None else model.parameters)


def launch(
    *,
    project: Project,
    method: str,
    snapshot: Snapshot,
    model: ModelVersion,
    overrides: Mapping[str, Any],
    title: str = "",
    by: User | None,
    now: datetime,
) -> Job:
    """Queue a training job.

    Raises:
        BadConfig: unknown method or key, or a value out of range; names key and value.
        SnapshotTooSmall: no pair to train on. Invalid: the base model is no policy.
    """
    if method not in {item.name for item in METHODS}:
        known = ", ".join(item.name for item in METHODS)
        raise BadConfig(f"method must be one of {known}, got {method!r}", details={"method": ["unknown"]})
    for key in _TAKEN:
        if key in overrides:
            raise BadConfig(f"{key} is set by the job itself, not in config", details={key: ["set by the job"]})
    data = overrides.get("data", {})
    if not isinstance(data, Mapping):
        raise BadConfig(f"data must be an object, got {data!r}", details={"data": ["must be an object"]})
    if "snapshot" in data:
        raise BadConfig("data.snapshot is set by the job itself", details={"data.snapshot": ["set by the job"]})
    if model.kind != ModelKind.POLICY:
        raise Invalid(
            f"model: {model.name} is a reward model; training starts from a policy", details={"model": ["not a policy"]}
        )
    if not snapshot.counts.get("train"):
        raise SnapshotTooSmall(
            f"snapshot: v{snapshot.number} has no training pairs ({snapshot.counts.get('total', 0)} in all). "
            "Freeze more preferences, or give the train part a larger share.",
            details={"snapshot": ["no training pairs"]},
        )
    try:
        config = merge(defaults(method, model), overrides)
    except ConfigError as error:
        raise BadConfig(error.message, details={error.key: [error.message]}) from None
    name = next(item.title for item in METHODS if item.name == method)
    return submit(
        project=project,
        method=method,
        config=config,
        snapshot=snapshot,
        model=model,
        title=title or f"{name} on v{snapshot.number}",
        by=by,
        now=now,
    )


def value_at(config: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path of a config, None where a section is off."""
    value: Any = config
    for part in path.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(part)
    return value
