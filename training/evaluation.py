"""Evaluations: two policies on one set of prompts, a round that samples them, and jobs that judge what they wrote.

A round of an evaluation samples both policies; people compare its completions on the pages where they compare all
others, a reward model scores the same completions (`score`), and a judge behind a server is asked about the same pairs
(`judge`). What a job said is stored once, as the verdict's result; what people say is counted from votes whenever it is
asked for (`training.verdicts`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Max

from annotation import outbound
from annotation.errors import DomainError, Invalid, Kind
from annotation.gate import write
from annotation.models import AuditAction, Completion, Finish, Project, Prompt, User
from annotation.people import audit
from training import rounds, verdicts
from training.attempts import read_lines
from training.engine.config import JudgeConfig, ServerConfig
from training.engine.errors import ConfigError, SnapshotError
from training.engine.judging import check_template
from training.engine.win_rates import outcome_of_scores
from training.jobs import BadConfig, submit
from training.models import (
    Evaluation,
    Job,
    JudgeKind,
    ModelKind,
    ModelVersion,
    Round,
    RoundPurpose,
    Verdict,
)
from training.registry import model_path
from training.rounds import MeetingPlan, SamplingPlan, completions_needed, start_round

MOST_JUDGES = 8
JOB_PRIORITY = 4  # below rounds: people should not wait for a machine's opinion
_LINES = 1000


class VerdictTwice(DomainError):
    """The evaluation has a verdict of this judge."""

    code = "verdict_twice"
    kind = Kind.CONFLICT


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeSpec:
    """Who is to judge.

    Attributes:
        overlap, priority: of people's comparisons; None: as the project says.
        reward_model: for the kind `reward`.
        url, model, prompt: for the kind `judge`; an empty url or model is the operator's, None the built-in prompt.
    """

    kind: JudgeKind
    overlap: int | None = None
    priority: int = 0
    reward_model: ModelVersion | None = None
    url: str = ""
    model: str = ""
    prompt: str | None = None


# --- in ---------------------------------------------------------------------------------------------------------------


def start_evaluation(
    *,
    project: Project,
    first: ModelVersion,
    second: ModelVersion,
    judges: Sequence[JudgeSpec],
    plan: SamplingPlan | None = None,
    prompts: int | None = None,
    prompt_ids: Sequence[str] | None = None,
    name: str = "",
    by: User | None,
    now: datetime,
) -> Evaluation:
    """Queue the round of an evaluation, and the jobs of its judges behind it. A second call makes a second one.

    Args:
        plan: how both are sampled; None: once each for a prompt (or as often as a comparison of the project needs).
        prompts: how many; None: all, or those of `prompt_ids`.

    Raises:
        Invalid: a policy twice, no judge, or what a round refuses. BadConfig, Refused: a judge that cannot be asked.
    """
    if first.pk == second.pk:
        raise Invalid(f"second: {second.name} is the first policy too", details={"second": ["the same as first"]})
    if not 1 <= len(judges) <= MOST_JUDGES:
        raise Invalid(f"judges: 1 to {MOST_JUDGES}, got {len(judges)}", details={"judges": ["count"]})
    people = [spec for spec in judges if spec.kind is JudgeKind.PEOPLE]
    size = project.feedback.size
    if people and size < 2:
        raise Invalid(
            "judges: people of this project judge one completion at a time, so they compare no policies",
            details={"judges": ["people compare nothing here"]},
        )
    checked = [_checked(spec) for spec in judges]
    if len(set(map(_identity, checked))) < len(checked):
        raise Invalid("judges: each may be named once", details={"judges": ["named twice"]})
    meeting = MeetingPlan(
        overlap=people[0].overlap if people else 0,
        priority=people[0].priority if people else 0,
        prompts=None if prompt_ids is None else tuple(prompt_ids),
    )
    needed = completions_needed(size=size, policies=2, meeting=meeting)
    with write(), transaction.atomic():
        Project.objects.select_for_update(no_key=True).get(pk=project.pk)  # one number at a time
        number = (Evaluation.objects.filter(project=project).aggregate(last=Max("number"))["last"] or 0) + 1
        made = Evaluation.objects.create(
            project=project,
            number=number,
            name=name,
            first=first,
            second=second,
            round=start_round(
                project=project,
                policies=[first, second],
                plan=plan or SamplingPlan(completions=needed),
                meeting=meeting,
                prompts=prompts,
                name=name or f"Evaluation {number}",
                purpose=RoundPurpose.EVALUATION,
                by=by,
                now=now,
            ),
            created_at=now,
            created_by=by,
        )
        for spec in checked:
            _add(made, spec, by=by, now=now)
        if by is not None:
            audit(project=project, by=by, action=AuditAction.EVALUATION_STARTED, target=str(made.public_id), now=now)
    return made


def add_verdict(*, evaluation: Evaluation, spec: JudgeSpec, by: User | None, now: datetime) -> Verdict:
    """Have another judge look at the completions of an evaluation.

    Raises:
        VerdictTwice: it has a verdict of this judge. Invalid: people, whose comparisons are made as the round samples.
    """
    if spec.kind is JudgeKind.PEOPLE:
        raise Invalid(
            "kind: people judge as the round samples; name them when the evaluation is started",
            details={"kind": ["only at the start"]},
        )
    spec = _checked(spec)
    with write(), transaction.atomic():
        locked = Evaluation.objects.select_for_update(no_key=True, of=("self",)).get(pk=evaluation.pk)
        if _identity(spec) in {_identity_of(verdict) for verdict in locked.verdicts.select_related("reward_model")}:
            raise VerdictTwice("This evaluation has a verdict of this judge already.")
        return _add(locked, spec, by=by, now=now)


def _checked(spec: JudgeSpec) -> JudgeSpec:
    match spec.kind:
        case JudgeKind.PEOPLE:
            return spec
        case JudgeKind.REWARD:
            if spec.reward_model is None or spec.reward_model.kind != ModelKind.REWARD:
                raise Invalid("model: must be a reward model", details={"model": ["not a reward model"]})
            return spec
        case JudgeKind.JUDGE:
            return _checked_judge(spec)


def _checked_judge(spec: JudgeSpec) -> JudgeSpec:
    """With what the operator says where the request says nothing; held against the operator's list of addresses."""
    url = (spec.url or settings.JUDGE_URL).rstrip("/")
    is_own = url == settings.JUDGE_URL
    model = spec.model or (settings.JUDGE_MODEL if is_own else "")
    if not url:
        raise Invalid(
            "url: this site has no judge of its own (WINNOW_JUDGE_URL), so name one", details={"url": ["is needed"]}
        )
    if not model:
        raise Invalid(f"model: name the model that {url} is asked for", details={"model": ["is needed"]})
    outbound.check(_endpoint(url), allowed=settings.OUTBOUND)
    try:
        check_template(JudgeConfig(model=model, server=ServerConfig(url=url), prompt=spec.prompt))
    except ConfigError as error:
        raise BadConfig(error.message, details={"prompt": [error.message]}) from None
    return JudgeSpec(kind=spec.kind, url=url, model=model, prompt=spec.prompt)


def _endpoint(url: str) -> str:
    return f"{url}/chat/completions"


def _identity(spec: JudgeSpec) -> tuple[object, ...]:
    reward = None if spec.reward_model is None else spec.reward_model.pk
    return (spec.kind, reward, spec.url, spec.model, spec.prompt)


def _identity_of(verdict: Verdict) -> tuple[object, ...]:
    judge = verdict.judge
    return (
        JudgeKind(verdict.kind),
        verdict.reward_model_id,
        judge.get("url", ""),
        judge.get("model", ""),
        judge.get("prompt"),
    )


def _add(evaluation: Evaluation, spec: JudgeSpec, *, by: User | None, now: datetime) -> Verdict:
    """The row of a verdict, and its job, which waits for the round."""
    judge = {"url": spec.url, "model": spec.model, "prompt": spec.prompt} if spec.kind is JudgeKind.JUDGE else {}
    return Verdict.objects.create(
        evaluation=evaluation,
        kind=spec.kind,
        reward_model=spec.reward_model,
        judge=judge,
        job=_queue(evaluation, spec, by=by, now=now),
        created_at=now,
    )


def _queue(evaluation: Evaluation, spec: JudgeSpec, *, by: User | None, now: datetime) -> Job | None:
    data: dict[str, Any]
    match spec.kind:
        case JudgeKind.PEOPLE:
            return None
        case JudgeKind.REWARD:
            assert spec.reward_model is not None
            config: dict[str, Any] = {"method": "score"}
            data = {"prompts": "-", "completions": "-"}
            inputs: dict[str, Any] = {"models": {"reward": "-"}, "data": data}
            who, queue = spec.reward_model.name, "gpu"
        case JudgeKind.JUDGE:
            asked = {"model": spec.model, "server": {"url": spec.url}, "prompt": spec.prompt}
            config, inputs = {"method": "judge", "judge": asked}, {"data": {"pairs": "-"}}
            who, queue = spec.model, "cpu"  # it loads no weights, and a GPU should not wait for somebody's server
    return submit(
        project=evaluation.project,
        method=config["method"],
        config=config,
        stand_ins=inputs,
        model=spec.reward_model,
        depends_on=[evaluation.round.job],
        title=f"Evaluation {evaluation.number}: {who}"[:200],
        queue=queue,
        priority=JOB_PRIORITY,
        by=by,
        now=now,
    )


# --- what its jobs read and wrote -------------------------------------------------------------------------------------


def write_inputs(job: Job, directory: Path) -> dict[str, Any]:
    """Write the files that a verdict's job reads to `directory`, always the same; their paths, for its config.

    Raises:
        SnapshotError: the round has no completions. Refused: the judge's server may not be asked (any more).
    """
    verdict = Verdict.objects.select_related("evaluation__round__job", "reward_model").get(job=job)
    made: Round = verdict.evaluation.round
    if not Completion.objects.filter(origin=made.public_id).exists():
        raise SnapshotError("the round of this evaluation has no completions")
    if verdict.kind == JudgeKind.JUDGE:
        pairs = directory / "pairs.jsonl"
        _write_pairs(verdict.evaluation, pairs)
        return {"data": {"pairs": str(pairs)}, "judge": {**job.config["judge"], "server": _server(job)}}
    prompts, completions = directory / "prompts.jsonl", directory / "completions-to-score.jsonl"
    rounds.write_prompts(made.job, prompts)
    _write_completions(made, completions)
    assert verdict.reward_model is not None
    return {
        "models": {"reward": str(model_path(verdict.reward_model))},
        "data": {"prompts": str(prompts), "completions": str(completions)},
    }


def _server(job: Job) -> dict[str, Any]:
    """The judge's server with the addresses that were checked just now, and the key if it is the operator's own.

    A key goes to the operator's server alone: a researcher who names another address gets none sent there.
    """
    server = job.config["judge"]["server"]
    target = outbound.check(_endpoint(server["url"]), allowed=settings.OUTBOUND)
    found = outbound.addresses(target)
    is_own = server["url"] == settings.JUDGE_URL
    key_file = settings.JUDGE_KEY_FILE if is_own and settings.JUDGE_KEY_FILE else None
    return {**server, "addresses": [str(address) for address in found], "key_file": key_file}


def _write_pairs(evaluation: Evaluation, file: Path) -> None:
    compared = verdicts.load_pairs([evaluation])[evaluation.pk]
    texts = dict(Completion.objects.filter(origin=evaluation.round.public_id).values_list("pk", "text"))
    prompts = Prompt.objects.filter(pk__in={pair.prompt for pair in compared.pairs}, erasure=None)
    asked = dict(prompts.values_list("pk", "messages"))
    with file.open("w", encoding="utf-8") as handle:
        for pair in compared.pairs:
            if pair.prompt not in asked:  # its texts were erased
                continue
            record = {
                "id": f"{pair.first}-{pair.second}",
                "prompt": asked[pair.prompt],
                "a": texts[pair.first],
                "b": texts[pair.second],
            }
            handle.write(json.dumps(record, ensure_ascii=False) + "\n")


def _write_completions(made: Round, file: Path) -> None:
    rows = Completion.objects.filter(origin=made.public_id, prompt__erasure=None).order_by("pk")
    columns = ("source__public_id", "prompt__public_id", "index", "text", "finish")
    with file.open("w", encoding="utf-8") as handle:
        for source, prompt, index, text, finish in rows.values_list(*columns).iterator():
            record = {
                "policy": str(source),
                "prompt_id": str(prompt),
                "index": index,
                "text": text,
                "finish": "length" if finish == Finish.LENGTH else "end",
            }
            handle.write(json.dumps(record, ensure_ascii=False) + "\n")


def keep_result(job: Job, directory: Path) -> bool:
    """Store what a verdict's job said, with its figures; whether this call did. A second call changes nothing."""
    verdict = Verdict.objects.select_related("evaluation__round", "evaluation__project").get(job=job)
    compared = verdicts.load_pairs([verdict.evaluation])[verdict.evaluation_id]
    if verdict.kind == JudgeKind.JUDGE:
        said = _judged(directory / "verdicts.jsonl")
    else:
        said = _scored(verdict.evaluation.round, directory / "scores.jsonl", compared)
    result = verdicts.machine_result(compared, said)
    return bool(Verdict.objects.filter(pk=verdict.pk, result__isnull=True).update(result=result))


def _records(file: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    offset = 0
    while lines := read_lines(file, offset=offset, limit=_LINES):
        found += [line.record for line in lines if line.record is not None]
        offset = lines[-1].end
    return found


def _judged(file: Path) -> list[verdicts.Said]:
    """What the judge said of each pair; a pair with an answer that cannot be read is `outcome` None."""
    found = []
    for record in _records(file):
        first, second = map(int, record["id"].split("-"))
        said = (record["ab"], record["ba"])
        found.append(verdicts.Said(first=first, second=second, outcome=record["q"], orders=said))
    return found


def _scored(made: Round, file: Path, compared: verdicts.Compared) -> list[verdicts.Said]:
    """Who of each pair has the higher score; a pair with a completion that was too long to score is not there."""
    columns = ("source__public_id", "prompt__public_id", "index", "pk")
    keys = {
        (str(source), str(prompt), index): pk
        for source, prompt, index, pk in Completion.objects.filter(origin=made.public_id).values_list(*columns)
    }
    scores = {
        keys[record["policy"], record["prompt_id"], record["index"]]: float(record["score"])
        for record in _records(file)
    }
    return [
        verdicts.Said(
            first=pair.first,
            second=pair.second,
            outcome=outcome_of_scores(scores[pair.first], scores[pair.second]),
            margin=scores[pair.first] - scores[pair.second],
        )
        for pair in compared.pairs
        if pair.first in scores and pair.second in scores
    ]
