"""The playground: a researcher asks up to four policies, reads what they write, and may send it to annotators.

A question is put to a `serve` job that keeps the policies loaded (a session), so the first one waits for a worker and
for the model, and the next ones do not. Rows carry everything: `playground_relay`, in the worker, takes questions to
the engine and brings back what it writes; here nothing is computed. What is sent to annotators becomes completions and
comparisons like those of a round, with the question as their origin.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum

from django.db import transaction
from django.db.models import Prefetch, Q, QuerySet

from annotation.conversations import WRITTEN
from annotation.errors import DomainError, Invalid, Kind
from annotation.gate import write
from annotation.meetings import Rule, choose
from annotation.models import (
    AuditAction,
    Comparison,
    Completion,
    CompletionScore,
    Project,
    Prompt,
    User,
    content_hash,
    messages_hash,
)
from annotation.pairing import create_comparisons
from annotation.people import audit
from training import jobs, workers
from training.models import (
    TERMINAL,
    AnswerState,
    Job,
    JobStatus,
    ModelKind,
    ModelVersion,
    PlaygroundAnswer,
    PlaygroundQuestion,
    PlaygroundSession,
)
from training.registry import model_path
from training.rounds import source_of

MOST_POLICIES = 4
MOST_COMPLETIONS = 4
MOST_TOKENS = 2048
MOST_TURNS = 40
MOST_TEXT = 40_000  # characters of all turns
MOST_OPEN = 4
"""Questions of a project that are not answered yet."""
JOB_PRIORITY = 1000  # a person is waiting
OPEN = (AnswerState.WAITING, AnswerState.WRITING)
_ENGINE_PATIENCE = 86_400.0  # the relay ends a session; the engine by itself only when the relay forgot
STOPPED = "The model was stopped before it had answered. Ask again."


class PlaygroundBusy(DomainError):
    """As many questions of the project wait as may."""

    code = "playground_busy"
    kind = Kind.CONFLICT


class NotFinished(DomainError):
    """Some of the completions are still being written."""

    code = "not_finished"
    kind = Kind.CONFLICT


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How each policy samples. At temperature 0 the completions of one policy are all the same."""

    temperature: float = 1.0
    top_p: float = 0.95
    max_new_tokens: int = 256
    seed: int = 1

    def __post_init__(self) -> None:
        _require(0 <= self.temperature <= 5 and math.isfinite(self.temperature), "temperature", self.temperature, "0–5")
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "above 0, at most 1")
        _require(1 <= self.max_new_tokens <= MOST_TOKENS, "max_new_tokens", self.max_new_tokens, f"1–{MOST_TOKENS}")
        _require(0 <= self.seed < 2**31, "seed", self.seed, "0 to 2147483647")


def _require(holds: bool, name: str, value: object, rule: str) -> None:
    if not holds:
        raise Invalid(f"{name}: must be {rule}, got {value!r}", details={name: [f"must be {rule}"]})


# --- asking -----------------------------------------------------------------------------------------------------------


def ask(
    *,
    project: Project,
    messages: Sequence[Mapping[str, str]],
    policies: Sequence[ModelVersion],
    completions: int = 1,
    sampling: Sampling | None = None,
    reward: ModelVersion | None = None,
    by: User | None,
    now: datetime,
) -> PlaygroundQuestion:
    """Put a question to policies. A second call asks again.

    Args:
        completions: of each policy. reward: scores each of them.

    Raises:
        Invalid: no conversation that ends with the user, no policy or too many, a setting out of range.
        PlaygroundBusy: too many questions wait. QuotaReached: too many jobs of the project wait.
    """
    turns = _checked_turns(messages)
    _check_models(policies, reward)
    _require(1 <= completions <= MOST_COMPLETIONS, "completions", completions, f"1–{MOST_COMPLETIONS}")
    with write(), transaction.atomic():
        Project.objects.select_for_update(no_key=True).get(pk=project.pk)  # one session of these models, not two
        waiting = _waiting(project)
        if waiting >= MOST_OPEN:
            raise PlaygroundBusy(
                f"{waiting} questions of this project wait for their answers already. Read those, or stop one."
            )
        question = PlaygroundQuestion.objects.create(
            project=project,
            session=_session_for(project, policies, reward, by=by, now=now),
            messages=turns,
            completions=completions,
            sampling=asdict(sampling or Sampling()),
            reward=reward,
            created_at=now,
            created_by=by,
        )
        PlaygroundAnswer.objects.bulk_create(
            PlaygroundAnswer(question=question, model=policy, index=index)
            for policy in policies
            for index in range(completions)
        )
    return question


def _checked_turns(messages: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    _require(1 <= len(messages) <= MOST_TURNS, "messages", len(messages), f"1–{MOST_TURNS} turns")
    for number, turn in enumerate(messages):
        role, content = turn["role"], turn["content"]
        expected = (
            ("system", "user")
            if number == 0
            else ("assistant",)
            if messages[number - 1]["role"] == "user"
            else ("user",)
        )
        _require(role in expected, f"messages[{number}].role", role, " or ".join(expected))
        _require(bool(content.strip()), f"messages[{number}].content", content, "a text that is not empty")
    _require(messages[-1]["role"] == "user", "messages", messages[-1]["role"], "ended by the user's turn")
    length = sum(len(turn["content"]) for turn in messages)
    _require(length <= MOST_TEXT, "messages", length, f"at most {MOST_TEXT} characters in all")
    return [{"role": turn["role"], "content": turn["content"]} for turn in messages]


def _check_models(policies: Sequence[ModelVersion], reward: ModelVersion | None) -> None:
    _require(1 <= len(policies) <= MOST_POLICIES, "policies", len(policies), f"1–{MOST_POLICIES}")
    ids = [policy.pk for policy in policies]
    _require(len(set(ids)) == len(ids), "policies", [policy.name for policy in policies], "named once each")
    for policy in policies:
        _require(policy.kind == ModelKind.POLICY, "policies", policy.name, "policies")
    if reward is not None:
        _require(reward.kind == ModelKind.REWARD, "reward", reward.name, "a reward model")


def _waiting(project: Project) -> int:
    rows = PlaygroundAnswer.objects.filter(question__project=project, state__in=OPEN)
    return rows.exclude(question__session__job__status__in=TERMINAL).values("question").distinct().count()


def _session_for(
    project: Project, policies: Sequence[ModelVersion], reward: ModelVersion | None, *, by: User | None, now: datetime
) -> PlaygroundSession:
    """The session that has these models loaded, or a new one; those that nobody asks any more are closed for it."""
    wanted = {str(policy.public_id) for policy in policies}
    for session in _open_sessions(project).select_for_update(of=("self",)):
        scorer = next((item["model"] for item in session.job.inputs.get("rewards", ())), None)
        loaded = {item["model"] for item in session.job.inputs["policies"]}
        if wanted <= loaded and (reward is None or scorer == str(reward.public_id)):
            return session
        if not has_open_answers(session):
            PlaygroundSession.objects.filter(pk=session.pk).update(closed_at=now)
            if session.job.status == JobStatus.QUEUED:
                jobs.cancel(session.job)
    return PlaygroundSession.objects.create(project=project, job=_submit(project, policies, reward, by=by, now=now))


def _open_sessions(project: Project) -> QuerySet[PlaygroundSession]:
    return (
        PlaygroundSession.objects.filter(project=project, closed_at=None, job__cancel_requested_at=None)
        .exclude(job__status__in=TERMINAL)
        .select_related("job")
        .order_by("-pk")
    )


def has_open_answers(session: PlaygroundSession) -> bool:
    """Whether anything that was asked of a session is not answered yet."""
    return PlaygroundAnswer.objects.filter(question__session=session, state__in=OPEN).exists()


def _submit(
    project: Project, policies: Sequence[ModelVersion], reward: ModelVersion | None, *, by: User | None, now: datetime
) -> Job:
    inputs = {"policies": [{"model": str(policy.public_id)} for policy in policies]}
    if reward is not None:
        inputs["rewards"] = [{"model": str(reward.public_id)}]
    return jobs.submit(
        project=project,
        method="serve",
        config={"method": "serve", "idle_seconds": _ENGINE_PATIENCE},
        stand_ins={"models": {"policies": [{"name": "-", "path": "-"}]}},
        model=policies[0],
        inputs=inputs,
        uses=[*policies, *([] if reward is None else [reward])],
        title=f"Playground: {', '.join(policy.name for policy in policies)}"[:200],
        priority=JOB_PRIORITY,
        by=by,
        now=now,
    )


def engine_models(job: Job) -> dict[str, object]:
    """The `models` of a session's config; each policy's name there is its public id."""
    used = {str(model.public_id): model for model in job.uses.all()}
    policies = [used[item["model"]] for item in job.inputs["policies"]]
    rewards = [used[item["model"]] for item in job.inputs.get("rewards", ())]
    return {
        "policies": [{"name": str(policy.public_id), "path": str(model_path(policy))} for policy in policies],
        "reward": next((str(model_path(reward)) for reward in rewards), None),
    }


def stop(question: PlaygroundQuestion, *, now: datetime) -> None:
    """Stop what is still being written; the text so far stays. A second call changes nothing."""
    with write(), transaction.atomic():
        PlaygroundQuestion.objects.filter(pk=question.pk, stopped_at=None).update(stopped_at=now)
        question.answers.filter(state=AnswerState.WAITING).update(state=AnswerState.STOPPED)


# --- where it stands --------------------------------------------------------------------------------------------------


class Stage(StrEnum):
    """What the screen says of a question. Derived, never stored."""

    WAITING = "waiting"  # for a worker
    STARTING = "starting"  # the models are being loaded
    ANSWERING = "answering"
    OVER = "over"


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """Where a question stands. While it waits: jobs before it, and workers of the queue that are alive."""

    stage: Stage
    ahead: int = 0
    workers: int = 0


def questions(project: Project) -> QuerySet[PlaygroundQuestion]:
    """Questions with all that a page of them shows."""
    answers = PlaygroundAnswer.objects.select_related("model").order_by("pk")
    return (
        PlaygroundQuestion.objects.filter(project=project)
        .select_related("session__job", "reward", "created_by", "sent_by")
        .prefetch_related(Prefetch("answers", queryset=answers))
    )


def is_open(answer: PlaygroundAnswer, job: Job) -> bool:
    """Whether more may come. What a job that has ended left open never comes."""
    return answer.state in OPEN and job.status not in TERMINAL


def shown_state(answer: PlaygroundAnswer, job: Job) -> tuple[AnswerState, str]:
    """The state of an answer and why it failed, as it is read: a session that has ended answers nothing more."""
    if answer.state in OPEN and job.status in TERMINAL:
        return AnswerState.FAILED, job.reason if job.status == JobStatus.FAILED else STOPPED
    return AnswerState(answer.state), answer.error


def standing(question: PlaygroundQuestion, *, now: datetime) -> Standing:
    """Where it stands; two queries while it waits, else none beyond `questions`."""
    job = question.session.job
    if not any(is_open(answer, job) for answer in question.answers.all()):
        return Standing(stage=Stage.OVER)
    if job.status == JobStatus.QUEUED:
        first = Q(priority__gt=job.priority) | Q(priority=job.priority, pk__lt=job.pk)
        running = Job.objects.filter(status=JobStatus.RUNNING, queue=job.queue)
        ahead = jobs.claimable(now=now).filter(first, queue=job.queue).count() + running.count()
        return Standing(stage=Stage.WAITING, ahead=ahead, workers=workers.alive(now).filter(queue=job.queue).count())
    loading = job.progress.get("phase") in (None, "loading")
    return Standing(stage=Stage.STARTING if loading else Stage.ANSWERING)


def comparisons_of(found: Sequence[PlaygroundQuestion]) -> dict[object, int]:
    """How many comparisons were made of questions, by public id; one query."""
    origins = [question.public_id for question in found if question.sent_at is not None]
    counted: dict[object, int] = {}
    for origin in Comparison.objects.filter(origin__in=origins).values_list("origin", flat=True) if origins else ():
        counted[origin] = counted.get(origin, 0) + 1
    return counted


# --- to annotators ----------------------------------------------------------------------------------------------------


def send(question: PlaygroundQuestion, *, by: User, overlap: int | None = None, now: datetime) -> int:
    """Make comparisons of what was written; how many there are. A second call makes none and returns the same.

    The prompt, the completions (policy, settings, seed, log-probability, score) and the comparisons have the question
    as their origin. Completions of different policies meet; with one policy its own do.

    Args:
        overlap: votes wanted; None: as the project says.

    Raises:
        NotFinished: some are still being written. Invalid: there are no two different completions to compare.
    """
    with write(), transaction.atomic():
        row = PlaygroundQuestion.objects.select_for_update(of=("self",)).get(pk=question.pk)
        if row.sent_at is None:
            answers = list(row.answers.select_related("model").order_by("pk"))
            if any(is_open(answer, row.session.job) for answer in answers):
                raise NotFinished("Some completions are still being written. Wait for them, or stop them first.")
            _compare(row, [answer for answer in answers if answer.state == AnswerState.DONE], overlap, by=by, now=now)
            PlaygroundQuestion.objects.filter(pk=row.pk).update(sent_at=now, sent_by=by)
            made = Comparison.objects.filter(origin=row.public_id).count()
            target = str(row.public_id)
            audit(
                project=row.project, by=by, action=AuditAction.PLAYGROUND_SENT, target=target, now=now, comparisons=made
            )
        return Comparison.objects.filter(origin=row.public_id).count()


def _compare(
    question: PlaygroundQuestion, answers: Sequence[PlaygroundAnswer], overlap: int | None, *, by: User, now: datetime
) -> None:
    project = question.project
    prompt = Prompt.objects.get_or_create(
        project=project,
        content_hash=messages_hash(question.messages),
        defaults={"messages": question.messages, "category": WRITTEN, "author": by, "created_at": now},
    )[0]
    sources = {answer.model_id: source_of(project, answer.model) for answer in answers}
    made = Completion.objects.bulk_create(
        Completion(
            project=project,
            prompt=prompt,
            source=sources[answer.model_id],
            text=answer.text,
            content_hash=content_hash(answer.text),
            finish=answer.finish,
            sampling=question.sampling,
            tokens=answer.tokens,
            logprob=answer.logprob,
            origin=question.public_id,
            index=answer.index,
            created_at=now,
        )
        for answer in answers
    )
    if question.reward is not None:
        scorer = str(question.reward.public_id)
        CompletionScore.objects.bulk_create(
            CompletionScore(completion=completion, scorer=scorer, value=answer.score)
            for completion, answer in zip(made, answers, strict=True)
            if answer.score is not None
        )
    met = choose(prompt, made, Rule(size=project.feedback.size, seed=question.sampling["seed"]))
    if not met:
        raise Invalid(
            f"completions: a comparison needs {project.feedback.size} that differ and are not empty",
            details={"completions": ["no two differ"]},
        )
    fresh = create_comparisons(project=project, pairs=met, origin=question.public_id, overlap=overlap, now=now)
    if not fresh:
        raise Invalid(
            "completions: this project compares the same texts already", details={"completions": ["compared already"]}
        )
