"""Rounds: sample completions from policies and make fresh comparisons of them, as they are ready.

The prompts of a round are a function of its seed and time, so an attempt that is killed samples the same ones again;
completions and comparisons are keyed, so reading a line twice adds nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from django.db import transaction
from django.db.models import Max

from annotation.errors import Invalid
from annotation.gate import write
from annotation.models import Completion, Project, Prompt, Source, SourceKind, User, content_hash
from annotation.pairing import choose_pairs, create_comparisons
from training.jobs import submit
from training.models import Job, ModelKind, ModelVersion, Round, RoundPolicy
from training.registry import model_path

MOST_POLICIES = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingPlan:
    """How a round samples: completions of each policy for each prompt, and the sampler's settings."""

    completions: int = 2
    temperature: float = 1.0
    top_p: float = 0.95
    max_new_tokens: int = 128
    seed: int = 1


class NoPrompts(Invalid):
    """The project has no prompts to sample for."""

    code = "no_prompts"


def start_round(
    *,
    project: Project,
    policies: Sequence[ModelVersion],
    plan: SamplingPlan,
    prompts: int | None = None,
    overlap: int | None = None,
    name: str = "",
    by: User | None,
    now: datetime,
) -> Round:
    """Queue a round. With one policy its completions meet each other; with several, those of different policies meet.

    Raises:
        NoPrompts: the project has none. Invalid: too few completions to compare, too many policies, not a policy.
    """
    _check(policies, plan)
    available = Prompt.objects.filter(project=project).count()
    if not available:
        raise NoPrompts("This project has no prompts yet: import some first.", details={"prompts": ["none"]})
    wanted = min(prompts or available, available)
    with write(), transaction.atomic():
        number = (Round.objects.filter(project=project).aggregate(last=Max("number"))["last"] or 0) + 1
        job = submit(
            project=project,
            method="sample",
            config={
                "method": "sample",
                "seed": plan.seed,
                "sampling": {
                    "completions": plan.completions,
                    "temperature": plan.temperature,
                    "top_p": plan.top_p,
                    "max_new_tokens": plan.max_new_tokens,
                },
            },
            title=name or f"Round {number}",
            model=policies[0],
            priority=5,
            by=by,
            now=now,
        )
        made = Round.objects.create(
            project=project,
            number=number,
            name=name,
            job=job,
            prompts=wanted,
            completions=plan.completions,
            sampling={
                "temperature": plan.temperature,
                "top_p": plan.top_p,
                "max_new_tokens": plan.max_new_tokens,
                "seed": plan.seed,
            },
            overlap=overlap or project.overlap,
            created_at=now,
            created_by=by,
        )
        for model in policies:
            RoundPolicy.objects.create(round=made, model=model, source=_source(project, model))
    return made


def _source(project: Project, model: ModelVersion) -> Source:
    """The source of a policy: one a model, also where a model of the site and one of the project share a name."""
    known = Source.objects.filter(project=project, kind=SourceKind.POLICY, model_id=model.public_id).first()
    if known is not None:
        return known
    taken = Source.objects.filter(project=project, kind=SourceKind.POLICY, name=model.name).exists()
    name = f"{model.name} ({str(model.public_id)[:8]})" if taken else model.name
    return Source.objects.create(project=project, kind=SourceKind.POLICY, name=name, model_id=model.public_id)


def _check(policies: Sequence[ModelVersion], plan: SamplingPlan) -> None:
    if not 1 <= len(policies) <= MOST_POLICIES:
        raise Invalid(
            f"policies: a round takes 1 to {MOST_POLICIES}, got {len(policies)}", details={"policies": ["count"]}
        )
    if len({model.pk for model in policies}) != len(policies):
        raise Invalid("policies: each may be named once", details={"policies": ["named twice"]})
    wrong = next((model for model in policies if model.kind != ModelKind.POLICY), None)
    if wrong is not None:
        raise Invalid(f"policies: {wrong.name} is a reward model, not a policy", details={"policies": ["not a policy"]})
    if len(policies) == 1 and plan.completions < 2:
        raise Invalid(
            f"completions: one policy needs at least 2 for each prompt, got {plan.completions}",
            details={"completions": ["at least 2 with one policy"]},
        )


def round_prompts(made: Round) -> list[Prompt]:
    """The prompts of a round, in sampling order: by a hash of its seed, among those there when it started."""
    rows = Prompt.objects.filter(project_id=made.project_id, created_at__lte=made.created_at)
    seed = made.sampling["seed"]
    ordered = sorted(rows, key=lambda row: hashlib.sha256(f"{seed}/{row.content_hash}".encode()).digest())
    return ordered[: made.prompts]


def write_prompts(job: Job, file: Path) -> None:
    """The prompts file of a round's job, in the engine's layout."""
    with file.open("w", encoding="utf-8") as handle:
        for prompt in round_prompts(job.round):
            record = {"id": str(prompt.public_id), "group": prompt.content_hash, "prompt": prompt.messages}
            handle.write(json.dumps(record, ensure_ascii=False) + "\n")


def sampling_policies(job: Job) -> list[dict[str, str]]:
    """The policies of a round's job for the engine's config; the name is the source's public id."""
    rows = RoundPolicy.objects.filter(round=job.round).select_related("model", "source").order_by("pk")
    return [{"name": str(row.source.public_id), "path": str(model_path(row.model))} for row in rows]


def ingest(job: Job, lines: Sequence[dict[str, Any]], *, now: datetime) -> int:
    """Store sampled completions, and compare the prompts that are complete. Lines seen before add nothing.

    Returns:
        How many comparisons were made.
    """
    made: Round = job.round
    prompts = {
        str(row.public_id): row for row in Prompt.objects.filter(public_id__in={line["prompt_id"] for line in lines})
    }
    sources = {
        str(row.source.public_id): row.source for row in RoundPolicy.objects.filter(round=made).select_related("source")
    }
    with write(), transaction.atomic():
        Completion.objects.bulk_create(
            (_completion(made, prompts[line["prompt_id"]], sources[line["policy"]], line, now) for line in lines),
            ignore_conflicts=True,
        )
    wanted = made.completions * len(sources)
    complete: dict[int, list[Completion]] = defaultdict(list)
    for completion in Completion.objects.filter(
        origin=made.public_id, prompt__in=[row.pk for row in prompts.values()]
    ).select_related("source"):
        complete[completion.prompt_id].append(completion)
    pairs = [
        pair
        for prompt in prompts.values()
        if len(complete[prompt.pk]) >= wanted
        for pair in choose_pairs(prompt, complete[prompt.pk])
    ]
    return len(
        create_comparisons(project=made.project, pairs=pairs, origin=made.public_id, overlap=made.overlap, now=now)
    )


def _completion(made: Round, prompt: Prompt, source: Source, line: dict[str, Any], now: datetime) -> Completion:
    text = line["text"].replace("\x00", "\ufffd")  # a policy may sample NUL, and PostgreSQL holds none
    return Completion(
        project_id=made.project_id,
        prompt=prompt,
        source=source,
        text=text,
        content_hash=content_hash(text),
        finish=line["finish"],
        sampling={**made.sampling, "seed": line["seed"]},
        tokens=line["tokens"],
        logprob=line["logprob"],
        origin=made.public_id,
        index=line["index"],
        created_at=now,
    )
