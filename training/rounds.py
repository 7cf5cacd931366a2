"""Rounds: sample completions from policies and make fresh comparisons of them, as they are ready.

The prompts of a round are a function of its seed and time, so an attempt that is killed samples the same ones again;
completions and comparisons are keyed, so reading a line twice adds nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Exists, Max, OuterRef, Q, QuerySet

from annotation import asking, conversations
from annotation.errors import Invalid
from annotation.gate import write
from annotation.meetings import Candidate, Meeting, Rule, Strategy, candidates, choose
from annotation.models import (
    AuditAction,
    Comparison,
    Completion,
    Erasure,
    OverlapRule,
    Project,
    Prompt,
    Source,
    SourceKind,
    User,
    content_hash,
)
from annotation.pairing import audience_key, create_comparisons, sources_met
from annotation.people import audit
from annotation.statistics.acquisition import Objective
from training.jobs import submit
from training.models import Job, ModelKind, ModelVersion, Round, RoundPolicy, RoundPurpose
from training.registry import model_path

MOST_POLICIES = 4
NEEDS_SCORES = frozenset({Strategy.CLOSEST_SCORE, Strategy.DISAGREEMENT})  # which fresh completions do not have


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingPlan:
    """How a round samples: completions of each policy for each prompt, and the sampler's settings."""

    completions: int = 2
    temperature: float = 1.0
    top_p: float = 0.95
    max_new_tokens: int = 128
    seed: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyPlan:
    """What is different about one policy of a round.

    Attributes:
        weight: its share of each prompt's completions, as a ratio to the other weights. Each prompt then gets
            `SamplingPlan.completions` times the number of policies, dealt to them at random in these proportions.
        completions: of it for each prompt, in place of the round's. temperature: likewise.
    """

    weight: float | None = None
    completions: int | None = None
    temperature: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class MeetingPlan:
    """How the completions of a round meet, and who judges them. Kept with the round, as JSON.

    Attributes:
        per_prompt: most comparisons of a prompt; None: as the strategy says (`meetings.Rule`).
        against: public ids of sources whose completions are opponents: each comparison has one of them.
        rounds: public ids of earlier rounds, whose completions are opponents likewise.
        overlap: votes wanted; None: as the project says when the comparison is made.
        language: who may judge; None: the language of each prompt.
        prompts: public ids of those to sample for; None: so many, by a hash of the seed.
        categories, languages: only prompts of these. fresh: only prompts that nothing was compared for before.
        objective, control_share: of the strategy `information` (`meetings.Rule`).
    """

    strategy: Strategy = Strategy.CROSS_SOURCE
    per_prompt: int | None = None
    against: tuple[str, ...] = ()
    rounds: tuple[str, ...] = ()
    overlap: int | None = None
    priority: int = 0
    language: str | None = None
    skills: tuple[str, ...] = ()
    prompts: tuple[str, ...] | None = None
    categories: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    fresh: bool = False
    objective: Objective = Objective.ORDER
    control_share: float = 0.1

    def rule(self, *, size: int, seed: int) -> Rule:
        """How the completions of each prompt, or of all of them, are to meet."""
        return Rule(
            strategy=self.strategy, size=size, per_prompt=self.per_prompt, seed=seed, objective=self.objective,
            control_share=self.control_share,
        )  # fmt: skip

    @property
    def has_opponents(self) -> bool:
        """Whether completions from elsewhere take part."""
        return bool(self.against or self.rounds)


def read_plan(data: dict[str, Any]) -> MeetingPlan:
    """A plan from the round's JSON; what is left out has its default."""
    values: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in data.items()}
    values["strategy"] = Strategy(values.get("strategy", Strategy.CROSS_SOURCE))
    values["objective"] = Objective(values.get("objective", Objective.ORDER))
    return MeetingPlan(**values)


class NoPrompts(Invalid):
    """The project has no prompts to sample for."""

    code = "no_prompts"


def completions_needed(*, size: int, policies: int, meeting: MeetingPlan) -> int:
    """Completions of each policy that make at least one comparison of a prompt."""
    return max(1, math.ceil((size - meeting.has_opponents) / max(1, policies)))


def start_round(
    *,
    project: Project,
    policies: Sequence[ModelVersion],
    plan: SamplingPlan,
    policy_plans: Sequence[PolicyPlan] = (),
    meeting: MeetingPlan | None = None,
    prompts: int | None = None,
    turn: UUID | None = None,
    name: str = "",
    purpose: RoundPurpose = RoundPurpose.TRAINING,
    opened_for: ModelVersion | None = None,
    job_priority: int = 5,
    by: User | None,
    now: datetime,
) -> Round:
    """Queue a round. With one policy its completions meet each other; with several, those of different policies meet.

    Args:
        policy_plans: in the order of the policies; none: they are all alike.
        prompts: how many; None: all.
        turn: the turn of a conversation that it answers.

    Raises:
        NoPrompts: the project has none. Invalid: too few completions to compare, too many policies, not a policy, or
            opponents or prompts that the project does not have.
    """
    meeting = meeting or MeetingPlan()
    plans = list(policy_plans) or [PolicyPlan()] * len(policies)
    _check(policies, plans, plan)
    _check_meeting(project, policies, plans, plan, meeting)
    available = _prompts_of(project, meeting, at=now).count()
    if not available:
        raise _no_prompts(project)
    wanted = min(prompts or available, available)
    with write(), transaction.atomic():
        Project.objects.select_for_update(no_key=True).get(pk=project.pk)  # one number at a time
        number = (Round.objects.filter(project=project).aggregate(last=Max("number"))["last"] or 0) + 1
        job = submit(
            project=project,
            method="sample",
            config={
                "method": "sample",
                "seed": plan.seed,
                "sampling": {
                    "completions": most_of_one(plans, plan.completions),
                    "temperature": plan.temperature,
                    "top_p": plan.top_p,
                    "max_new_tokens": plan.max_new_tokens,
                },
            },
            title=name or f"Round {number}",
            model=policies[0],
            priority=job_priority,
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
            pairing=asdict(meeting),
            turn=turn,
            purpose=purpose,
            opened_for=opened_for,
            overlap=_shown_overlap(project, meeting),
            created_at=now,
            created_by=by,
        )
        for model, own in zip(policies, plans, strict=True):
            RoundPolicy.objects.create(round=made, model=model, source=source_of(project, model), **asdict(own))
        if by is not None:
            started, target = AuditAction.ROUND_STARTED, str(made.public_id)
            audit(project=project, by=by, action=started, target=target, now=now, prompts=wanted)
    return made


def _shown_overlap(project: Project, meeting: MeetingPlan) -> int:
    if meeting.overlap is not None:
        return meeting.overlap
    return project.min_votes if project.overlap_rule == OverlapRule.ADAPTIVE else project.overlap


def _prompts_of(project: Project, meeting: MeetingPlan, *, at: datetime) -> QuerySet[Prompt]:
    """The prompts that a plan speaks of, as things stood at a moment."""
    rows = Prompt.objects.filter(project=project, created_at__lte=at).exclude(erasure__created_at__lte=at)
    if meeting.prompts is not None:
        rows = rows.filter(public_id__in=meeting.prompts)
    if meeting.categories:
        rows = rows.filter(category__in=meeting.categories)
    if meeting.languages:
        rows = rows.filter(language__in=meeting.languages)
    if meeting.fresh:
        rows = rows.exclude(Exists(Comparison.objects.filter(prompt=OuterRef("pk"), created_at__lt=at)))
    return rows


def _no_prompts(project: Project) -> NoPrompts:
    if Prompt.objects.filter(project=project).exists():
        return NoPrompts("No prompt of this project fits what was asked for.", details={"prompts": ["none fits"]})
    return NoPrompts("This project has no prompts yet: import some first.", details={"prompts": ["none"]})


def most_of_one(plans: Sequence[PolicyPlan], completions: int) -> int:
    """Most completions that one policy writes for a prompt."""
    total = sum(plan.weight or 0.0 for plan in plans)
    if total:
        return max(math.ceil(completions * len(plans) * (plan.weight or 0.0) / total) for plan in plans)
    return max(plan.completions or completions for plan in plans)


def completions_of_prompt(made: Round, rows: Iterable[RoundPolicy]) -> int:
    """How many a prompt gets in all; with weights too, since dealing changes only who writes them."""
    return sum(row.completions or made.completions for row in rows)


def deal(made: Round, prompt: Prompt, rows: Sequence[RoundPolicy]) -> dict[str, int]:
    """Completions of a prompt that each policy writes, by the public id of its source.

    By weight it is a systematic sample: one uniform number, drawn by seed and prompt, is laid over the cumulated
    shares. So a policy gets its expected number rounded down or up, in the mean exactly its share, and the total is
    the same for every prompt.
    """
    if any(row.weight is None for row in rows):
        return {str(row.source.public_id): row.completions or made.completions for row in rows}
    slots, whole = made.completions * len(rows), sum(row.weight or 0.0 for row in rows)
    digest = hashlib.sha256(f"deal/{made.sampling['seed']}/{prompt.content_hash}".encode()).digest()
    begin = int.from_bytes(digest[:6], "big") / 2**48
    dealt: dict[str, int] = {}
    cumulated, before = 0.0, 0
    for place, row in enumerate(rows, start=1):
        cumulated += row.weight or 0.0
        upto = slots if place == len(rows) else math.floor(slots * cumulated / whole + begin)
        dealt[str(row.source.public_id)] = upto - before
        before = upto
    return dealt


def _check_meeting(
    project: Project,
    policies: Sequence[ModelVersion],
    plans: Sequence[PolicyPlan],
    plan: SamplingPlan,
    meeting: MeetingPlan,
) -> None:
    size = project.feedback.size
    needed = completions_needed(size=size, policies=len(policies), meeting=meeting)
    if sum(own.completions or plan.completions for own in plans) < needed * len(policies):
        raise Invalid(
            f"completions: {size} completions meet in this project, so {len(policies)} policies need at least {needed} "
            f"each for a prompt, got {plan.completions}",
            details={"completions": [f"at least {needed}"]},
        )
    if meeting.strategy in NEEDS_SCORES:
        raise Invalid(
            "strategy: fresh completions have no scores; choose another one, and pair by score when they are scored",
            details={"strategy": ["needs scores"]},
        )
    if meeting.strategy.spans_prompts:
        asking.check_rule(meeting.rule(size=size, seed=plan.seed), size=size)
        if len(policies) < 2 and not meeting.has_opponents:
            raise Invalid(
                "strategy: information compares sources, and one policy without opponents is a single one",
                details={"strategy": ["needs two policies, or opponents"]},
            )
    if size == 1 and meeting.has_opponents:
        raise Invalid("against: one completion at a time is judged here", details={"against": ["nobody meets"]})
    audience_key(language=meeting.language or "", skills=meeting.skills)
    _check_known("against", meeting.against, Source.objects.filter(project=project))
    _check_known("rounds", meeting.rounds, Round.objects.filter(project=project, turn=None))
    _check_known("prompt_ids", meeting.prompts or (), Prompt.objects.filter(project=project))


def _check_known(name: str, ids: Sequence[str], rows: QuerySet[Any]) -> None:
    known = {str(found) for found in rows.filter(public_id__in=ids).values_list("public_id", flat=True)}
    missing = sorted(set(ids) - known)
    if missing:
        raise Invalid(f"{name}: this project has no {missing[0]}", details={name: [f"unknown: {', '.join(missing)}"]})


def source_of(project: Project, model: ModelVersion) -> Source:
    """The source of a policy: one a model, also where a model of the site and one of the project share a name."""
    known = Source.objects.filter(project=project, kind=SourceKind.POLICY, model_id=model.public_id).first()
    if known is not None:
        return known
    taken = Source.objects.filter(project=project, kind=SourceKind.POLICY, name=model.name).exists()
    name = f"{model.name} ({str(model.public_id)[:8]})" if taken else model.name
    return Source.objects.create(project=project, kind=SourceKind.POLICY, name=name, model_id=model.public_id)


def _check(policies: Sequence[ModelVersion], plans: Sequence[PolicyPlan], plan: SamplingPlan) -> None:
    if not 1 <= len(policies) <= MOST_POLICIES:
        raise Invalid(
            f"policies: a round takes 1 to {MOST_POLICIES}, got {len(policies)}", details={"policies": ["count"]}
        )
    if len({model.pk for model in policies}) != len(policies):
        raise Invalid("policies: each may be named once", details={"policies": ["named twice"]})
    wrong = next((model for model in policies if model.kind != ModelKind.POLICY), None)
    if wrong is not None:
        raise Invalid(f"policies: {wrong.name} is a reward model, not a policy", details={"policies": ["not a policy"]})
    if len(plans) != len(policies):
        raise Invalid(
            f"mix: {len(policies)} policies need as many plans, got {len(plans)}", details={"mix": ["one a policy"]}
        )
    weights = [own.weight for own in plans if own.weight is not None]
    if weights and (len(weights) < len(plans) or any(own.completions is not None for own in plans)):
        raise Invalid(
            "weight: give every policy one, or none; beside weights no policy has a number of completions of its own",
            details={"weight": ["every policy or none, and without completions"]},
        )
    if any(not 0 < weight < math.inf for weight in weights):
        raise Invalid(f"weight: must be above 0, got {min(weights)}", details={"weight": ["must be above 0"]})


def round_prompts(made: Round) -> list[Prompt]:
    """The prompts of a round, in sampling order: by a hash of its seed, among those there when it started.

    Without those that were erased since, in whose place no other comes.
    """
    rows = _prompts_of(made.project, read_plan(made.pairing), at=made.created_at)
    gone = set(Erasure.objects.filter(project=made.project_id).values_list("prompt_id", flat=True))
    seed = made.sampling["seed"]
    ordered = sorted(rows, key=lambda row: hashlib.sha256(f"{seed}/{row.content_hash}".encode()).digest())
    return [row for row in ordered[: made.prompts] if row.pk not in gone]


def write_prompts(job: Job, file: Path) -> None:
    """The prompts file of a round's job, in the engine's layout."""
    rows = _policies_of(job.round)
    is_mixed = any(row.weight is not None or row.completions is not None for row in rows)
    with file.open("w", encoding="utf-8") as handle:
        for prompt in round_prompts(job.round):
            record = {"id": str(prompt.public_id), "group": prompt.content_hash, "prompt": prompt.messages}
            if is_mixed:
                record["completions"] = deal(job.round, prompt, rows)
            handle.write(json.dumps(record, ensure_ascii=False) + "\n")


def _policies_of(made: Round) -> list[RoundPolicy]:
    return list(RoundPolicy.objects.filter(round=made).select_related("model", "source").order_by("pk"))


def sampling_policies(job: Job) -> list[dict[str, Any]]:
    """The policies of a round's job for the engine's config; the name is the source's public id."""
    return [
        {"name": str(row.source.public_id), "path": str(model_path(row.model))}
        | ({} if row.temperature is None else {"temperature": row.temperature})
        for row in _policies_of(job.round)
    ]


def ingest(job: Job, lines: Sequence[dict[str, Any]], *, now: datetime) -> int:
    """Store sampled completions, and compare the prompts that are complete. Lines seen before add nothing.

    Returns:
        How many comparisons were made.
    """
    made: Round = job.round
    asked = Prompt.objects.filter(public_id__in={line["prompt_id"] for line in lines}, erasure=None)
    prompts = {str(row.public_id): row for row in asked}
    lines = [line for line in lines if line["prompt_id"] in prompts]  # the others were erased while it sampled
    policies = {str(row.source.public_id): row for row in _policies_of(made)}
    with write(), transaction.atomic():
        Completion.objects.bulk_create(
            (_completion(made, prompts[line["prompt_id"]], policies[line["policy"]], line, now) for line in lines),
            ignore_conflicts=True,
        )
    wanted = completions_of_prompt(made, policies.values())
    return _compare(made, list(prompts.values()), wanted=wanted, now=now)


def _compare(made: Round, prompts: Sequence[Prompt], *, wanted: int, now: datetime) -> int:
    """Comparisons of the prompts that have all their completions, once: what a strategy chooses may depend on what
    else is there, so a prompt that the round has compared is left alone."""
    plan = read_plan(made.pairing)
    if plan.overlap == 0:  # an evaluation that no people judge
        return 0
    with write(), transaction.atomic():
        compared = set(
            Comparison.objects.filter(origin=made.public_id, prompt__in=prompts).values_list("prompt_id", flat=True)
        )
        fresh = [prompt for prompt in prompts if prompt.pk not in compared]
        own: dict[int, list[Completion]] = defaultdict(list)
        for completion in Completion.objects.filter(origin=made.public_id, prompt__in=fresh).select_related("source"):
            own[completion.prompt_id].append(completion)
        ready = [prompt for prompt in fresh if len(own[prompt.pk]) >= wanted]
        others = _opponents(made, plan, ready)
        rule = plan.rule(size=made.project.feedback.size, seed=made.sampling["seed"])
        met = sources_met(made.project) if ready and plan.strategy is Strategy.BALANCED else None
        meetings: list[Meeting] = []
        weighed: list[Candidate] = []
        for prompt in ready:
            opponents = others[prompt.pk]
            if plan.has_opponents and not opponents:
                continue
            keys = {item.pk for item in opponents}
            pool = [*own[prompt.pk], *opponents]
            if plan.strategy.spans_prompts:
                weighed += candidates(prompt, pool, rule, against=keys)
            else:
                meetings += choose(prompt, pool, rule, against=keys, met=met)
        meetings += asking.choose_across(made.project, weighed, rule, is_whole=False)
        if made.turn is not None:
            return _answer_turn(made, meetings, now=now)
        return len(
            create_comparisons(
                project=made.project,
                pairs=meetings,
                origin=made.public_id,
                overlap=plan.overlap,
                priority=plan.priority,
                language=plan.language,
                skills=plan.skills,
                now=now,
            )
        )


def _opponents(made: Round, plan: MeetingPlan, prompts: Sequence[Prompt]) -> dict[int, list[Completion]]:
    found: dict[int, list[Completion]] = defaultdict(list)
    if plan.has_opponents:
        rows = Completion.objects.filter(
            Q(source__public_id__in=plan.against) | Q(origin__in=plan.rounds), prompt__in=prompts
        )
        for completion in rows.exclude(origin=made.public_id).select_related("source"):
            found[completion.prompt_id].append(completion)
    return found


def _answer_turn(made: Round, meetings: Sequence[Meeting], *, now: datetime) -> int:
    assert made.turn is not None
    return sum(conversations.answer(turn=made.turn, origin=made.public_id, met=met, now=now) for met in meetings[:1])


def _completion(made: Round, prompt: Prompt, policy: RoundPolicy, line: dict[str, Any], now: datetime) -> Completion:
    temperature = made.sampling["temperature"] if policy.temperature is None else policy.temperature
    text = line["text"].replace("\x00", "\ufffd")  # a policy may sample NUL, and PostgreSQL holds none
    return Completion(
        project_id=made.project_id,
        prompt=prompt,
        source=policy.source,
        text=text,
        content_hash=content_hash(text),
        finish=line["finish"],
        sampling={**made.sampling, "temperature": temperature, "seed": line["seed"]},
        tokens=line["tokens"],
        logprob=line["logprob"],
        origin=made.public_id,
        index=line["index"],
        for_evaluation=made.purpose == RoundPurpose.EVALUATION,
        created_at=now,
    )
