"""A job's inputs when it starts: promised models and checkpoints that have come true, as directories and files.

What was promised is fixed in the job's row by its first attempt (`jobs.record_inputs`), so that a later attempt trains
on the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from django.conf import settings

from annotation import outbound
from annotation.models import Completion
from training import forms, registry
from training.engine.errors import ConfigError
from training.engine.records import iter_lines
from training.jobs import record_inputs
from training.models import Checkpoint, Job, ModelVersion
from training.snapshots import snapshot_path

PROMPTS, COMPLETIONS = "prompts.jsonl", "given.jsonl"


def checkpoint_to_promote(job: Job) -> Checkpoint:
    """What a promotion makes a model of: the checkpoint it names, else the best one of the job that it waited for.

    Raises:
        ConfigError: that job has left none, or more than one job is waited for.
    """
    if job.checkpoint is None:
        trained = list(job.depends_on.all())
        if len(trained) != 1:
            raise _missing("checkpoint", "the job names no checkpoint")
        rows = Checkpoint.objects.filter(run__job=trained[0], files_pruned_at=None)
        best = rows.select_related("run__job__model").order_by("-is_best", "-step", "-pk").first()
        if best is None:
            raise _missing("checkpoint", f"job {trained[0].number} has left no checkpoint to promote")
        record_inputs(job, checkpoint=best, model=best.run.job.model)
    assert job.checkpoint is not None, "just recorded"
    return job.checkpoint


def engine_inputs(job: Job, directory: Path) -> dict[str, Any]:
    """The `models` and `data` of the engine's config; files that are made for the job go into `directory`.

    Raises:
        ConfigError: the job names no input that its method needs, or a promotion has left no model.
    """
    method = forms.METHODS[job.method]
    if job.model is None and "base" in job.inputs:
        base = _model(job, job.inputs["base"])
        record_inputs(job, model=base, uses=[base])
    if method.needs_model and job.model is None:
        raise _missing("model", "the job names no model")
    if method.needs_snapshot and job.snapshot is None:
        raise _missing("snapshot", "the job names no snapshot")
    roles = {role: [_model(job, raw) for raw in job.inputs.get(role, ())] for role in method.roles}
    record_inputs(job, uses=[model for found in roles.values() for model in found])
    if job.method == "score":
        if not roles["rewards"]:
            raise _missing("inputs.rewards", "the job names no reward model")
        _write_given(job, directory)
    return forms.engine_inputs(
        job.method,
        base=None if job.model is None else str(registry.model_path(job.model)),
        roles={role: [str(registry.model_path(model)) for model in found] for role, found in roles.items()},
        snapshot=None if job.snapshot is None else str(snapshot_path(job.snapshot)),
        prompts=str(directory / PROMPTS),
        completions=str(directory / COMPLETIONS),
    )


def fill_places(request: dict[str, Any]) -> None:
    """Put in the places on this machine and in its network that a request of a person never names."""
    if "reference_cache" in request.get("memory", {}):
        request["memory"]["reference_cache"] = str(settings.CACHE_DIR / "reference")
    judge = (request.get("online_dpo") or {}).get("judge")
    if judge:
        # The name is looked up once, here, and the engine connects to what was checked, whatever the name means later.
        target = outbound.check(judge["server"]["url"], allowed=settings.OUTBOUND)
        found = outbound.addresses(target)
        judge["server"]["addresses"] = [str(address) for address in found]
        # A key goes to the operator's server alone: a researcher who names another address gets none sent there.
        is_own = judge["server"]["url"] == settings.JUDGE_URL
        judge["server"]["key_file"] = settings.JUDGE_KEY_FILE if is_own and settings.JUDGE_KEY_FILE else None


def _model(job: Job, raw: Mapping[str, str]) -> ModelVersion:
    """The model that a stored reference means: registered, or what a promotion has made."""
    if "model" in raw:
        return registry.find(job.project, raw["model"], even_archived=True)
    promotion = Job.objects.get(project=job.project, public_id=raw["job"])
    made = ModelVersion.objects.filter(
        project=job.project, name=promotion.config["name"], checkpoint=promotion.checkpoint_id
    ).first()
    if made is None:
        raise _missing("inputs", f"job {promotion.number}, a promotion, has registered no model")
    return made


def _missing(key: str, message: str) -> ConfigError:
    return ConfigError(key=key, value=None, message=message)


# --- completions to score ---------------------------------------------------------------------------------------------


def _write_given(job: Job, directory: Path) -> None:
    """The prompts and completions that a `score` job reads, of a round or of a snapshot."""
    prompts: dict[str, dict[str, Any]] = {}
    with (directory / COMPLETIONS).open("w", encoding="utf-8") as file:
        for prompt, completion in _of_round(job) if "round" in job.inputs else _of_snapshot(job):
            prompts.setdefault(prompt["id"], prompt)
            file.write(json.dumps({"prompt_id": prompt["id"], **completion}, ensure_ascii=False) + "\n")
    lines = "".join(json.dumps(prompt, ensure_ascii=False) + "\n" for prompt in prompts.values())
    (directory / PROMPTS).write_text(lines, encoding="utf-8")
    if not prompts:
        raise _missing("inputs", "there is no completion to score")


def _of_round(job: Job) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Every completion of a round in the order they came; `policy` is its source's public id."""
    there = Completion.objects.filter(origin=job.inputs["round"], project=job.project, prompt__erasure=None)
    rows = there.select_related("prompt", "source")
    for row in rows.order_by("pk").iterator(chunk_size=1000):
        prompt = {
            "id": str(row.prompt.public_id),
            "group": row.prompt.content_hash,
            "prompt": row.prompt.messages,
        }
        said = {"index": row.index, "policy": str(row.source.public_id), "text": row.text, "finish": row.finish}
        yield prompt, said


def _of_snapshot(job: Job) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Every completion of every line; a line's own id stands for its prompt."""
    assert job.snapshot is not None, "a score job has a round or a snapshot"
    directory = snapshot_path(job.snapshot)
    for part in ("train", "validation", "test"):
        for line in iter_lines(directory, part):
            prompt = {key: line[key] for key in ("id", "group", "prompt")}
            for index, (text, finish) in enumerate(_completions(line)):
                yield prompt, {"index": index, "text": text, "finish": finish}


def _completions(line: Mapping[str, Any]) -> list[tuple[str, str]]:
    if "chosen" in line:
        return [(line[side], line.get(f"{side}_finish", "end")) for side in ("chosen", "rejected")]
    if "completions" in line:
        texts: list[str] = line["completions"]
        return list(zip(texts, line.get("finishes", ["end"] * len(texts)), strict=True))
    return [(line["completion"], line.get("finish", "end"))]
