"""A project with some of everything, for tests that walk all routes; and the routes, from the schema.

`mark` makes the texts that an annotator must never see: the canary crawl plants a unique word in each.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from django.conf import settings
from django.utils import timezone
from drf_spectacular.generators import SchemaGenerator
from rest_framework.test import APIClient

from annotation import adjudication, conversations
from annotation import assignment as assignments
from annotation.consensus import settle_due
from annotation.conversations import read_chat
from annotation.exclusion import exclude
from annotation.feedback import Answer
from annotation.gold_texts import give_texts
from annotation.invitations import invite
from annotation.models import (
    Assignment,
    AuditEvent,
    Comparison,
    Completion,
    CompletionScore,
    Consensus,
    Conversation,
    ConversationTurn,
    Delivery,
    FeedbackGiven,
    Flag,
    FlagKind,
    Gold,
    GoldUse,
    ImportBatch,
    Invitation,
    Objection,
    Project,
    Prompt,
    Purpose,
    Role,
    User,
    Vote,
    Webhook,
)
from annotation.pairing import Pair
from annotation.voting import record_vote
from benchmarks.loop.results import write
from tests import builders, experiment
from training import playground
from training.alarms import raise_alarm
from training.evaluation import JudgeSpec, start_evaluation
from training.jobs import submit
from training.launching import launch
from training.models import (
    Alarm,
    AnswerState,
    Checkpoint,
    Evaluation,
    Job,
    JobStatus,
    JudgeKind,
    ModelKind,
    ModelSource,
    ModelVersion,
    PlaygroundQuestion,
    Round,
    Run,
    RunMetric,
    RunSample,
    Snapshot,
    Verdict,
)
from training.rounds import SamplingPlan, start_round
from training.snapshots import FreezeRule, freeze

NO_FIGURE = {"value": None, "low": None, "high": None, "n": 0, "reason": "no_votes"}
METHODS = ("get", "post", "put", "patch", "delete")


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """An operation of the schema."""

    method: str
    path: str
    name: str


def routes() -> Iterator[Route]:
    """Every operation that drf-spectacular finds."""
    schema = SchemaGenerator().get_schema(request=None, public=True)
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            if method in METHODS:
                yield Route(method=method, path=path, name=operation["operationId"])


def client(user: User | None = None, *, secret: str | None = None) -> APIClient:
    """A browser with a session, or a program with a token."""
    made = APIClient(raise_request_exception=False)
    if user is not None:
        made.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    if secret is not None:
        made.credentials(HTTP_AUTHORIZATION=f"Bearer {secret}")
    return made


@dataclass(kw_only=True)
class World:
    """Rows to ask for."""

    project: Project
    people: dict[str, User]
    leased: dict[str, Assignment]
    voted: dict[str, Vote]
    comparisons: list[Comparison]
    snapshot: Snapshot
    policy: ModelVersion
    round: Round
    queued: Job
    failed: Job
    alarm: Alarm
    evaluation: Evaluation
    question: PlaygroundQuestion
    hook: Webhook
    delivery: Delivery
    invitation: Invitation
    secret: str
    chats: dict[str, dict[str, Conversation]]
    disputed: Comparison
    gold: Gold
    practised: dict[str, Assignment]
    told: dict[str, FeedbackGiven]
    foreign: list[Any] = field(default_factory=list)

    def path(self, route: Route, *, person: str) -> str:
        """The address of a route with ids of rows that are there, the person's own where they have some."""
        leased = self.leased.get(person, self.leased["ann"])
        voted = self.voted.get(person, self.voted["ann"])
        public_id: object = {
            "annotate_vote": leased.public_id,
            "annotate_skip": leased.public_id,
            "annotate_flag": leased.public_id,
            "annotate_completion": leased.public_id,
            "annotate_retract": voted.public_id,
            **{
                f"annotate_conversation{end}": self.chats[kind].get(person, self.chats[kind]["ann"]).public_id
                for end, kind in (("", "ready"), ("_say", "empty"), ("_end", "empty"), ("_retry", "failed"))
            },
            "conversations_show": self.chats["ready"]["ann"].public_id,
            "tokens_revoke": uuid4(),
            **{f"rounds_{verb}": self.round.public_id for verb in ("show", "stop", "continue")},
            "snapshots_show": self.snapshot.public_id,
            "snapshots_export": self.snapshot.public_id,
            "snapshots_sum": self.snapshot.public_id,
            "snapshots_card": self.snapshot.public_id,
            "snapshots_difference": self.snapshot.public_id,
            "snapshots_similarity": self.snapshot.public_id,
            "jobs_cancel": self.queued.public_id,
            "jobs_change": self.queued.public_id,
            "members_change": self.people["ben"].public_id,
            "members_remove": self.people["ben"].public_id,
            **{f"members_{verb}": self.people["ben"].public_id for verb in ("exclusion", "exclude", "lineage")},
            "members_readmit": self.people["eve"].public_id,
            "models_lineage": self.policy.public_id,
            **{
                f"models_{verb}": self.foreign[0].public_id
                for verb in ("show", "change", "verify", "download", "votes")
            },
            "votes_lineage": self.voted["olga"].public_id,
            **{f"evaluations_{verb}": self.evaluation.public_id for verb in ("show", "judge")},
            **{f"playground_{verb}": self.question.public_id for verb in ("show", "stop", "send")},
            **{f"alarms_{verb}": self.alarm.public_id for verb in ("show", "acknowledge", "act")},
            **{f"prompts_{verb}": self.comparisons[0].prompt.public_id for verb in ("lineage", "erase")},
            "snapshots_lineage": self.snapshot.public_id,
            **{
                f"adjudication_{verb}": self.disputed.public_id
                for verb in ("show", "answer", "votes", "rule", "reopen", "escalate")
            },
            **{f"gold_{verb}": self.gold.public_id for verb in ("change", "retire")},
            **{f"annotators_{verb}": self.people["ben"].public_id for verb in ("show", "pause", "resume", "requalify")},
            "references_give": self.comparisons[0].public_id,
            "annotate_explanation": self.practised.get(person, self.practised["ann"]).public_id,
            "annotate_objection": Vote.objects.get(
                assignment=self.practised.get(person, self.practised["ann"])
            ).public_id,
            "annotate_feedback_read": self.told.get(person, self.told["ann"]).public_id,
            "invitations_revoke": self.invitation.public_id,
            "deliveries_list": self.hook.public_id,
            "deliveries_repeat": self.delivery.public_id,
            **{f"webhooks_{verb}": self.hook.public_id for verb in ("change", "remove", "ping", "pause", "resume")},
            "comparisons_show": self.comparisons[0].public_id,
            "imports_show": ImportBatch.objects.filter(project=self.project).earliest("pk").public_id,
            "imports_errors": ImportBatch.objects.filter(project=self.project).earliest("pk").public_id,
        }.get(route.name, self.failed.public_id)
        query = {
            "imports_create": "?kind=prompts",
            "jobs_compare": f"?ids={self.failed.public_id}",
            "jobs_tensorboard_archive": f"?ids={self.failed.public_id}",
        }.get(route.name, "")
        named = {"dataset": "votes", "number": 1, "experiment": "example", "setting": "small"}
        return route.path.format(slug=self.project.slug, public_id=public_id, **named) + query

    def body(self, route: Route) -> tuple[Any, str]:
        """A body that the route takes, with its content type."""
        if route.name == "imports_create":
            return '{"prompt": "Fresh?"}\n', "application/x-ndjson"
        body: Any = {
            "annotate_vote": {"choice": "left", "active_ms": 900},
            "annotate_skip": {"reason": "too_long"},
            "annotate_flag": {"kind": "other"},
            "annotate_objection": {"text": "Both are fine."},
            "annotate_completion": {"text": "I would say that it depends."},
            "annotate_queue": {"tab": "route", "n": 2},
            "annotate_heartbeat": {"tab": "tab"},
            "annotate_release": {"tab": "tab", "assignments": []},
            "session_sign_in": {"email": "nobody@example.org", "password": "wrong"},
            "tokens_create": {"name": "t", "scopes": ["read"]},
            "projects_create": {"name": "Another one"},
            "projects_change": {"question": "Which one?"},
            "guidelines_add": {"text": "Be kind."},
            "jobs_submit": self._wish,
            "jobs_estimate": self._wish,
            "jobs_chain": {"jobs": [self._wish]},
            "jobs_sweep": {**self._wish, "grid": {"seed": [1, 2]}},
            "jobs_clone": {"changes": {"seed": 2}},
            "jobs_change": {"priority": 1},
            "quota_change": {"running": 1, "queued": None},
            "jobs_promote": {"name": "promoted"},
            "evaluations_start": {
                "first": str(self.policy.public_id), "second": str(self.evaluation.second.public_id),
                "judges": [{"kind": "people"}],
            },
            "evaluations_judge": {"kind": "reward", "model": str(self.foreign[0].public_id)},
            "playground_ask": {
                "messages": [{"role": "user", "content": "Hello?"}], "policies": [str(self.policy.public_id)],
            },
            "playground_send": {"overlap": 1},
            "alarms_acknowledge": {"note": "The data are short."},
            "alarms_act": {"action": "pause"},
            "models_register": {"name": "m", "path": "/nowhere"},
            "models_change": {"notes": "Good at greeting.", "tags": ["greets"]},
            "rounds_start": {"policies": [str(self.policy.public_id)]},
            "schedule_change": {"is_on": True},
            "annotate_conversation_say": {"content": "Why is the sky blue, and not green?"},
            "annotate_conversation_end": {"rating": 5},
            "chat_change": {"enabled": True, "policies": [str(self.policy.public_id)]},
            "pairs_make": {"strategy": "all", "prompts": {"category": "none"}},
            "comparisons_prioritise": {"priority": 0},
            "members_change": {"languages": ["en"]},
            "members_exclude": {"reason": "asleep"},
            "prompts_erase": {"confirm": "another project", "reason": "a person asked"},
            "members_readmit": {"reason": "awake"},
            "adjudication_answer": {"choice": "a"},
            "adjudication_rule": {"choice": "a", "reason": "clearer"},
            "adjudication_reopen": {"reason": "look again"},
            "adjudication_escalate": {"reason": "beyond me"},
            "adjudication_send": {"comparisons": [str(self.comparisons[0].public_id)], "reason": "odd"},
            "annotate_guideline_confirm": {"number": 1},
            "annotate_practice": {"tab": "practice"},
            "annotate_qualification_next": {"tab": "practice"},
            "gold_give": {
                "prompt": [{"role": "user", "content": "2 + 2?"}], "completions": ["4", "5"], "answer": {"choice": "a"},
            },
            "gold_change": {"explanation": "Because."},
            "gold_construct": {"kinds": ["truncated"], "n": 1},
            **{f"annotators_{verb}": {"reason": "asleep"} for verb in ("pause", "resume", "requalify")},
            "references_give": {"answer": {"choice": "left"}},
            "invitations_create": {"role": "annotator"},
            "invitations_look": {"secret": self.secret},
            "invitations_accept": {"secret": self.secret, "email": "new@example.org", "password": "a long walk home"},
            "webhooks_create": {"url": "https://example.org/hook", "events": ["job.finished"]},
            "webhooks_resume": {"resend": True},
            "webhooks_change": {"events": ["comparison.settled"]},
        }.get(route.name, {})  # fmt: skip
        return body, "application/json"

    @property
    def _wish(self) -> dict[str, Any]:
        """A job that can be queued."""
        rows = {"snapshot": str(self.snapshot.public_id), "model": str(self.policy.public_id)}
        return {"method": "reward", **rows}

    def call(self, browser: APIClient, route: Route, *, person: str = "ann", method: str = "") -> Any:
        """Call a route as its schema says, or with another method."""
        verb = method or route.method
        path = self.path(route, person=person)
        if verb in {"get", "head"}:
            return getattr(browser, verb)(path)
        body, kind = self.body(route)
        headers = {"Idempotency-Key": str(uuid4())}
        data = body if kind != "application/json" else None
        if data is None:
            return browser.generic(verb.upper(), path, json.dumps(body), content_type=kind, headers=headers)
        return browser.generic(verb.upper(), path, data, content_type=kind, headers=headers)


def build(mark: Callable[[str], str] = lambda name: name) -> World:
    """The project `helpful`: six comparisons, votes, flags, a snapshot, models, jobs and a round."""
    now = timezone.now()
    project = builders.project(overlap=2)
    people = {"olga": project.created_by, "stan": builders.user("stan")}
    for name, role in (
        ("ann", Role.ANNOTATOR), ("ada", Role.ADJUDICATOR), ("vera", Role.VIEWER), ("max", Role.MANAGER),
        ("ben", Role.ANNOTATOR), ("cid", Role.ANNOTATOR), ("eve", Role.ANNOTATOR),
    ):  # fmt: skip
        people[name] = builders.member(project, name, role)
    comparisons = builders.comparisons(project, 10)
    origin = comparisons[0].origin
    _plant_sources(project, mark)
    # Given, not leased: where a person's queue begins is drawn from ids, and both must vote on the same four.
    for name in ("ben", "cid"):
        for comparison in comparisons[:4]:
            item = assignments.give(
                project=project, annotator=people[name], comparison=comparison, tab="tab", purpose=Purpose.WANTED,
                now=now, rng=random.Random(0),
            )  # fmt: skip
            record_vote(
                assignment=item, annotator=people[name], key=uuid4(), now=now,
                answer=Answer(choice=item.side_of("a"), active_ms=1234567, rationale=mark(f"rationale of {name}")),
            )  # fmt: skip
    (turned_down,) = builders.lease(project, people["ben"], now=now, tab="flag")
    assignments.flag(assignment=turned_down, kind=FlagKind.HARMFUL, note=mark("flag note"), now=now)
    leased, voted = {}, {}
    for name in ("ann", "ada", "max", "olga"):
        first, second = builders.lease(project, people[name], wanted=2, now=now)
        answer = Answer(choice="left", active_ms=5)
        voted[name] = record_vote(assignment=first, annotator=people[name], key=uuid4(), answer=answer, now=now).vote
        leased[name] = second
    settle_due(now=now)
    Consensus.objects.filter(project=project, votes_a__gt=1).update(method=mark("consensus method"))
    snapshot = _snapshot(project, people["olga"], mark, now)
    policy, reward = _models(project, mark)
    round_ = start_round(
        project=project, policies=[policy], plan=SamplingPlan(), prompts=2, name=mark("round name"), by=None, now=now
    )
    write(experiment.result(title=mark("experiment")), settings.EXPERIMENTS_DIR)
    queued = launch(
        project=project, method="reward", snapshot=snapshot, model=policy, overrides={}, title=mark("job title"),
        by=people["olga"], now=now,
    )  # fmt: skip
    failed = _failed_job(project, snapshot, policy, mark, now)
    alarm = _alarm(queued, mark, now)
    evaluation = _evaluation(project, policy, mark, now)
    question = _question(project, policy, people["olga"], mark, now)
    ImportBatch.objects.create(project=project, kind="votes", name=mark("import name"), created_by=people["olga"])
    AuditEvent.objects.create(project=project, action="x", target=mark("audit target"), details={"note": mark("audit")})
    hook = Webhook.objects.create(
        project=project, url=f"https://example.org/{mark('webhook').replace(' ', '-')}", events=["job.finished"],
        secret=mark("webhook secret"), created_by=people["olga"],
    )  # fmt: skip
    delivery = Delivery.objects.create(webhook=hook, event="ping", body={"data": mark("delivery")})
    invitation, secret = invite(project=project, role=Role.ANNOTATOR, by=people["olga"], now=now)
    chats = _chats(project, people, policy, mark, now)
    disputed = _disputed(project, people, mark, now)
    gold, practised, told = _quality(project, people, mark, now)
    _plant_columns(project, people["ann"], mark, now)
    elsewhere = builders.project(slug="elsewhere", owner=people["olga"])
    elsewhere.name = mark("another project")
    elsewhere.save()
    return World(
        project=project, people=people, leased=leased, voted=voted, comparisons=comparisons, snapshot=snapshot,
        policy=policy, round=round_, queued=queued, failed=failed, alarm=alarm, evaluation=evaluation,
        question=question, hook=hook, delivery=delivery, invitation=invitation, secret=secret, chats=chats,
        disputed=disputed, gold=gold, practised=practised, told=told, foreign=[reward, origin, elsewhere],
    )  # fmt: skip


def _evaluation(project: Project, policy: ModelVersion, mark, now) -> Evaluation:
    rival = ModelVersion.objects.create(
        project=project, name=mark("rival model"), kind=ModelKind.POLICY, source=ModelSource.JOB, path="rival",
        sha256="5" * 64, base=policy,
    )  # fmt: skip
    made = start_evaluation(
        project=project, first=policy, second=rival, judges=[JudgeSpec(kind=JudgeKind.PEOPLE, overlap=1)], prompts=2,
        name=mark("evaluation"), by=None, now=now,
    )  # fmt: skip
    judge = {"url": f"https://{mark('judge').replace(' ', '-')}", "model": mark("judge model"), "prompt": None}
    Verdict.objects.create(evaluation=made, kind=JudgeKind.JUDGE, judge=judge)
    return made


def _question(project, policy, olga, mark, now) -> PlaygroundQuestion:
    """What olga asked the playground, answered twice and not yet sent to annotators."""
    asked = [{"role": "user", "content": mark("playground prompt")}]
    made = playground.ask(project=project, messages=asked, policies=[policy], completions=2, by=olga, now=now)
    for answer in made.answers.all():
        text = mark(f"playground answer {answer.index}")
        done = {"state": AnswerState.DONE, "text": text, "tokens": 3, "logprob": -98765.4321, "finish": "end"}
        made.answers.filter(pk=answer.pk).update(**done)
    return made


def _alarm(job: Job, mark, now) -> Alarm:
    evidence = [{"text": mark("alarm evidence"), "step": 1, "figures": {}}]
    alarm = raise_alarm(project=job.project, key="world", name="length_bias", evidence=evidence, job=job, now=now)
    assert alarm is not None
    Alarm.objects.filter(pk=alarm.pk).update(note=mark("alarm note"))
    return alarm


def _quality(project, people, mark, now) -> tuple[Gold, dict[str, Assignment], dict[str, FeedbackGiven]]:
    """Hidden gold that nobody has met, practice that is answered, and a feedback for each."""
    kinds = {"hidden": mark("gold explanation"), "practice": "The first is true."}
    made = {
        use: give_texts(
            project=project, messages=[{"role": "user", "content": f"Is this {use}?"}], texts=["Yes.", "It may be."],
            answer={"choice": "a"}, use=GoldUse(use), explanation=text, by=people["olga"], now=now,
        )
        for use, text in kinds.items()
    }  # fmt: skip
    practised, told = {}, {}
    for name in ("ann", "ada", "max", "olga"):
        practised[name] = assignments.give(
            project=project, annotator=people[name], comparison=made["practice"].comparison, tab="practice",
            purpose=Purpose.PRACTICE, repetition=0, now=now, rng=random.Random(0),
        )  # fmt: skip
        answer = Answer(choice="left", active_ms=5)
        record_vote(assignment=practised[name], annotator=people[name], key=uuid4(), answer=answer, now=now)
        figures = {"gold": NO_FIGURE, "consistency": NO_FIGURE, "median_seconds": None, "items": []}
        told[name] = FeedbackGiven.objects.create(project=project, annotator=people[name], votes=1, body=figures)
    against = builders.cast(made["practice"].comparison, people["ben"], "b", now=now)
    Objection.objects.create(gold=made["practice"], vote=against, text=mark("objection"), created_at=now)
    return made["hidden"], practised, told


def _plant_columns(project, ann, mark, now) -> None:
    """Hidden gold that ann holds and that she has voted on; scores, ids and what imports bring, in every column."""
    golden = builders.hidden_gold(project, 2, start=95)
    Gold.objects.filter(comparison__in=golden).update(
        explanation=mark("explanation of own gold"), answer={"choice": "a", "note": mark("gold answer")}
    )
    given = [
        assignments.give(
            project=project, annotator=ann, comparison=item, tab="tab", purpose=Purpose.GOLD, now=now,
            rng=random.Random(0),
        )
        for item in golden
    ]  # fmt: skip
    record_vote(assignment=given[0], annotator=ann, key=uuid4(), answer=Answer(choice="left"), now=now)
    completions = Completion.objects.filter(project=project)
    CompletionScore.objects.bulk_create(
        CompletionScore(completion=item, scorer=mark("scorer"), value=-4321.1234) for item in completions
    )
    completions.update(external_id=mark("completion id"))
    Prompt.objects.filter(project=project).update(meta={"note": mark("meta")})
    Comparison.objects.filter(project=project).update(external_id=mark("comparison id"))
    Consensus.objects.filter(project=project).update(details={"strength": mark("consensus details")}, stopped="full")


def _disputed(project, people, mark, now) -> Comparison:
    """A comparison that was sent to adjudication, where everybody who may rule has answered; and eve is excluded."""
    (made,) = builders.comparisons(project, 1, start=90)
    adjudication.send([made], by=people["olga"], reason=mark("request for a ruling"), now=now)
    for name in ("ada", "max", "olga"):
        adjudication.answer_first(comparison=made, user=people[name], data={"choice": "a"}, now=now)
    exclude(project=project, user=people["eve"], by=people["olga"], reason=mark("why excluded"), now=now)
    return made


def _chats(project, people, policy, mark, now) -> dict[str, dict[str, Conversation]]:
    """For each annotator a conversation that is empty, one whose two answers are there, and one whose turn failed."""
    olga, chat = people["olga"], read_chat({"enabled": True, "policies": [str(policy.public_id)]})
    conversations.change_chat(project=project, chat=chat, by=olga, now=now)
    made: dict[str, dict[str, Conversation]] = {"empty": {}, "ready": {}, "failed": {}}
    for name in ("ann", "ada", "max", "olga"):
        for kind, found in made.items():
            found[name] = Conversation.objects.create(project=project, annotator=people[name], created_at=now)
            if kind == "empty":
                continue
            prompt = builders.prompt(project, f"What {name} asks when it is {kind}")
            turn = ConversationTurn.objects.create(
                conversation=found[name], number=1, prompt=prompt, origin=uuid4(), created_at=now
            )
            if kind == "failed":
                conversations.give_up(turn, origin=turn.origin, error="The model is away.")
                continue
            texts = ("A first answer.", "Something else altogether.")
            own = [builders.completion(prompt, text, by=mark("chat source"), index=i) for i, text in enumerate(texts)]
            met = Pair(prompt=prompt, a=own[0], b=own[1])
            assert conversations.answer(turn=turn.public_id, origin=turn.origin, met=met, now=now)
    return made


def _plant_sources(project: Project, mark: Callable[[str], str]) -> None:
    for source in project.sources.all():
        source.name = mark(f"source {source.pk}")
        source.save()
    Completion.objects.filter(project=project).update(
        sampling={"note": mark("sampling")}, logprob=-98765.4321, tokens=7654321
    )
    Prompt.objects.filter(project=project).update(category=mark("category"), external_id=mark("external id"))


def _snapshot(project, olga, mark, now) -> Snapshot:
    """A frozen snapshot of the comparisons on which ben and cid agree."""
    made = freeze(
        project=project,
        rule=FreezeRule(shares={"train": 1.0, "validation": 0.0, "test": 0.0}),
        by=olga,
        name=mark("snapshot name"),
        now=now,
    )
    Comparison.objects.filter(votes__annotator__name__in=("ann", "ada", "max", "olga")).update(frozen_at=None)
    return made


def _models(project: Project, mark: Callable[[str], str]) -> tuple[ModelVersion, ModelVersion]:
    policy = ModelVersion.objects.create(
        name=mark("policy model"), kind=ModelKind.POLICY, source=ModelSource.PACKAGE, path="base", sha256="1" * 64,
        parameters=135_000_000,
    )  # fmt: skip
    reward = ModelVersion.objects.create(
        project=project, name=mark("reward model"), kind=ModelKind.REWARD, source=ModelSource.JOB, path="reward",
        sha256="2" * 64, base=policy, metrics={"test/accuracy": 0.7},
    )  # fmt: skip
    return policy, reward


def _failed_job(project, snapshot, policy, mark, now) -> Job:
    job = submit(
        project=project, method="reward", config={"optim": {"learning_rate": 1e-4}}, snapshot=snapshot, model=policy,
        title=mark("failed job"), by=None, now=now,
    )  # fmt: skip
    run = Run.objects.create(
        job=job, attempt=1, owner=uuid4(), config_hash="3" * 64, host=mark("host"), started_at=now, ended_at=now,
        exit_code=1, reason=mark("run reason"), error_tail=mark("error tail"),
    )  # fmt: skip
    Checkpoint.objects.create(run=run, step=7, path="x/step-7", sha256="4" * 64, size_bytes=10)
    RunMetric.objects.create(run=run, seq=1, step=1, time=1.0, values={"train/loss": 0.693}, offset=10)
    body = {
        "prompt_id": "p",
        "prompt": [{"role": "user", "content": "Hm?"}],
        "completion": mark("sample"),
        "finish": "end",
    }
    RunSample.objects.create(run=run, seq=1, step=1, body=body, offset=10)
    Job.objects.filter(pk=job.pk).update(
        status=JobStatus.FAILED,
        reason=mark("job reason"),
        attempt=1,
        started_at=now,
        ended_at=now + timedelta(seconds=1),
    )
    job.refresh_from_db()
    return job


def hidden_ids(world: World) -> dict[str, str]:
    """Ids, hashes and numbers of rows that an annotator never learns of."""
    found: dict[str, str] = {}
    for comparison in world.comparisons:
        found |= {
            f"comparison {comparison.pk}": str(comparison.public_id),
            f"pair hash {comparison.pk}": comparison.pair_hash,
            f"rank {comparison.pk}": str(comparison.rank),
            f"origin {comparison.pk}": str(comparison.origin),
        }
    for row in Completion.objects.filter(project=world.project):
        found |= {f"completion {row.pk}": str(row.public_id), f"text hash {row.pk}": row.content_hash}
    for row in Prompt.objects.filter(project=world.project):
        found |= {f"prompt {row.pk}": str(row.public_id), f"prompt hash {row.pk}": row.content_hash}
    for row in world.project.sources.all():
        found[f"source {row.pk}"] = str(row.public_id)
    for row in Vote.objects.filter(project=world.project).exclude(annotator=world.people["ann"]):
        found |= {f"vote {row.pk}": str(row.public_id), f"vote key {row.pk}": str(row.key)}
    for row in Assignment.objects.filter(project=world.project).exclude(annotator=world.people["ann"]):
        found[f"assignment {row.pk}"] = str(row.public_id)
    for name, person in world.people.items():
        if name != "ann":
            found |= {f"email of {name}": person.email, f"id of {name}": str(person.public_id)}
    found |= {"score": "4321.1234", "log-probability": "98765.4321", "tokens": "7654321", "milliseconds": "1234567"}
    found |= {"snapshot hash": world.snapshot.content_hash, "project id": str(world.project.public_id)}
    assert Flag.objects.exists()
    assert all(isinstance(UUID(value), UUID) for key, value in found.items() if key.startswith("vote key"))
    return found
