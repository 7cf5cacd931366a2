"""A model's card: what it was made of and how it behaved, from the rows that say so, and the same as a README."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Q

from training.models import Alarm, Checkpoint, Job, ModelKind, ModelVersion, RoundPolicy, Snapshot


@dataclass(frozen=True, kw_only=True, slots=True)
class CardAlarm:
    """An alarm of the job that a model came from. `acknowledged_at` and what follows are people's, where they acted."""

    name: str
    step: int | None
    evidence: list[Any]
    acknowledged_at: datetime | None = None
    note: str = ""
    done: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """The job, attempt and checkpoint that a model came from.

    Attributes:
        attempts: of the job up to this one. code_version: of the worker that ran it; empty where it is not known.
        config: complete, as the engine was given it.
    """

    job: Job
    checkpoint: Checkpoint
    snapshot: Snapshot | None
    attempts: int
    code_version: str
    config: dict[str, Any]
    started_at: datetime
    ended_at: datetime | None
    alarms: list[CardAlarm]


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """A model with its history; `training` is None for one that came from outside.

    Attributes:
        jobs, models, rounds: that start from it or use it.
    """

    model: ModelVersion
    training: Training | None
    jobs: int
    models: int
    rounds: int


def read_card(model: ModelVersion) -> Card:
    """The card of a model read by `registry.known`. Four queries."""
    return Card(
        model=model,
        training=_training(model),
        jobs=Job.objects.filter(Q(model=model) | Q(uses=model)).values("pk").distinct().count(),
        models=model.derived.count(),
        rounds=RoundPolicy.objects.filter(model=model).count(),
    )


def _training(model: ModelVersion) -> Training | None:
    checkpoint = model.checkpoint
    if checkpoint is None:
        return None
    run = checkpoint.run
    job = run.job
    return Training(
        job=job,
        checkpoint=checkpoint,
        snapshot=job.snapshot,
        attempts=run.attempt,
        code_version="" if run.worker is None else run.worker.version,
        config=job.config,
        started_at=job.started_at or run.started_at,
        ended_at=run.ended_at,
        alarms=list(_alarms(job, (run.result or {}).get("alarms", []))),
    )


def _alarms(job: Job, told: list[dict[str, Any]]) -> Iterator[CardAlarm]:
    """Those with a row, and those that only the engine's result tells of; one query."""
    rows = list(Alarm.objects.filter(job=job).order_by("step", "pk"))
    for row in rows:
        yield CardAlarm(
            name=row.name,
            step=row.step,
            evidence=row.evidence,
            acknowledged_at=row.acknowledged_at,
            note=row.note,
            done=tuple(item["action"] for item in row.done),
        )
    known = {row.name for row in rows}
    for item in told:
        if item["name"] not in known:
            yield CardAlarm(name=item["name"], step=item.get("step"), evidence=item.get("evidence", []))


# --- as a README ------------------------------------------------------------------------------------------------------


def readme(card: Card, *, is_adapter: bool) -> str:
    """README.md of a download, with the head that the Hugging Face Hub reads: values are JSON, which is YAML too."""
    model = card.model
    head: dict[str, Any] = {"library_name": "peft" if is_adapter else "transformers", "tags": ["winnow", *model.tags]}
    if model.licence:
        head["license"] = model.licence
    if model.base is not None:
        head["base_model"] = model.base.name
    if model.kind == ModelKind.POLICY:
        head["pipeline_tag"] = "text-generation"
    lines = ["---", *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in head.items()), "---", ""]
    lines += [f"# {model.name}", "", f"{model.get_kind_display()} model, sha256 `{model.sha256}`.", ""]
    lines += [*_told(card), *_how_to_load(model, is_adapter=is_adapter)]
    if model.metrics:
        lines += ["| metric | value |", "| --- | --- |"]
        lines += [f"| {name} | {value} |" for name, value in sorted(model.metrics.items())]
        lines.append("")
    return "\n".join([*lines, model.notes, ""] if model.notes else lines)


def _told(card: Card) -> list[str]:
    """Where it came from, in words."""
    training = card.training
    if training is None:
        return []
    snapshot, base = training.snapshot, card.model.base
    data = "" if snapshot is None else f" on snapshot v{snapshot.number} (sha256 `{snapshot.content_hash}`)"
    start = "" if base is None else f", from {base.name} (sha256 `{base.sha256}`)"
    version = f", by code version {training.code_version}" if training.code_version else ""
    lines = [
        f"Step {training.checkpoint.step} of job {training.job.number}: {training.job.method}{data}{start}{version}."
    ]
    if training.alarms:
        told = ", ".join(f"{item.name} (step {item.step})" for item in training.alarms)
        lines += ["", f"Alarms: {told}."]
    return [*lines, "", "```json", json.dumps(training.config, indent=1, ensure_ascii=False), "```", ""]


def _how_to_load(model: ModelVersion, *, is_adapter: bool) -> list[str]:
    is_reward = model.kind == ModelKind.REWARD
    kind = "AutoModelForSequenceClassification" if is_reward else "AutoModelForCausalLM"
    if not is_adapter:
        code = [f"from transformers import {kind}", "", f'model = {kind}.from_pretrained("this directory")']
    else:
        labels = ", num_labels=1" if is_reward else ""
        code = [
            "from peft import PeftModel",
            f"from transformers import {kind}",
            "",
            f'base = {kind}.from_pretrained("the base model"{labels})',
        ]
        if is_reward:
            code += [
                "from safetensors.torch import load_file",
                "",
                'base.score.weight.data = load_file("this directory/head.safetensors")["score.weight"]',
            ]
        code.append('model = PeftModel.from_pretrained(base, "this directory")')
    return ["```python", *code, "```", ""]
