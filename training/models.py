"""The rows of training: snapshots, jobs, workers, runs, checkpoints, registered models, rounds, evaluations, the
playground, alarms.

A job is the request and the only mutable state machine (`training.jobs` holds its transitions); a run is one attempt, a
fact that is closed once. Snapshots, runs and checkpoints are never edited; what was erased of a snapshot is a fact
beside it. Of a registered model only what people say of it (tags, notes, licence, archived, current) may change.
"""

from __future__ import annotations

import uuid
from typing import Any

from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from annotation.models import Erasure, Project, Source, User


class Snapshot(models.Model):
    """A frozen D = {(x, y_w, y_l)}: files under the snapshots directory, and the hash that says what they hold."""

    public_id = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="snapshots")
    number = models.PositiveIntegerField()
    name = models.CharField(max_length=120, blank=True)
    kind = models.CharField(max_length=16, default="preferences")
    content_hash = models.CharField(max_length=64)
    path = models.CharField(max_length=200, help_text="Below the snapshots directory.")
    counts = models.JSONField(help_text="Lines a split, and the total.")
    dropped = models.JSONField(default=dict, help_text="Comparisons left out, by reason.")
    ties = models.PositiveIntegerField(default=0)
    label_policy = models.JSONField()
    split = models.JSONField()
    agreement = models.JSONField(default=dict)
    created_at = models.DateTimeField(default=timezone.now)
    created_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["project", "number"], name="snapshot_number")]


class SnapshotErasure(models.Model):
    """Lines of a snapshot that were erased with a prompt: the tombstone of its files."""

    snapshot = models.ForeignKey(Snapshot, on_delete=models.CASCADE, related_name="erasures")
    erasure = models.ForeignKey(Erasure, on_delete=models.CASCADE, related_name="snapshots")
    lines = models.PositiveIntegerField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["snapshot", "erasure"], name="snapshot_erasure_once")]


class ModelKind(models.TextChoices):
    """What a registered model is for."""

    POLICY = "policy"
    REWARD = "reward"


class ModelSource(models.TextChoices):
    """Where a registered model came from."""

    PACKAGE = "package"
    LOCAL = "local"
    HUB = "hub"
    JOB = "job"


class JobStatus(models.TextChoices):
    """The five states of a job, the same words in API and screen."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


TERMINAL = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)


class Queue(models.TextChoices):
    """`gpu` starts the engine (on a machine without a GPU too); `cpu` works in seconds and loads no weights."""

    CPU = "cpu"
    GPU = "gpu"


class Job(models.Model):
    """A request to run the engine, and where it stands. Only `training.jobs` writes to it."""

    public_id = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="jobs")
    number = models.PositiveIntegerField()
    method = models.CharField(max_length=24)
    title = models.CharField(max_length=200, blank=True)
    config = models.JSONField(help_text="The engine's config; inputs named by public id, made paths when it starts.")
    snapshot = models.ForeignKey(Snapshot, on_delete=models.PROTECT, null=True, related_name="jobs")
    model = models.ForeignKey("ModelVersion", on_delete=models.PROTECT, null=True, related_name="jobs")
    checkpoint = models.ForeignKey("Checkpoint", on_delete=models.PROTECT, null=True, related_name="jobs")
    queue = models.CharField(max_length=3, choices=Queue, default=Queue.GPU)
    priority = models.SmallIntegerField(default=0)
    depends_on = models.ManyToManyField("self", symmetrical=False, blank=True, related_name="dependents")
    inputs = models.JSONField(
        default=dict, help_text='Further inputs by role: {"rewards": [{"model": id} or {"job": id}], ...}.'
    )
    uses: models.ManyToManyField[ModelVersion, Any] = models.ManyToManyField(
        "ModelVersion", blank=True, related_name="used_by", help_text="Models of `inputs`."
    )
    clone_of = models.ForeignKey("self", on_delete=models.SET_NULL, null=True, related_name="clones")
    sweep = models.UUIDField(null=True, db_index=True, help_text="Shared by the jobs of one grid.")
    status = models.CharField(max_length=9, choices=JobStatus, default=JobStatus.QUEUED)
    reason = models.TextField(blank=True)
    attempt = models.PositiveIntegerField(default=0, help_text="Only grows.")
    failures = models.PositiveIntegerField(default=0, help_text="Since the last new checkpoint.")
    attempts_before = models.PositiveIntegerField(default=0, help_text="At the last retry; caps count from it.")
    owner = models.UUIDField(null=True, help_text="Token of the attempt that holds the lease.")
    lease_expires_at = models.DateTimeField(null=True)
    nudged_at = models.DateTimeField(null=True)
    not_before_at = models.DateTimeField(null=True)
    cancel_requested_at = models.DateTimeField(null=True)
    checkpoint_requested_at = models.DateTimeField(null=True)
    last_step = models.PositiveIntegerField(null=True)
    last_step_at = models.DateTimeField(null=True)
    steps = models.PositiveIntegerField(null=True)
    progress = models.JSONField(
        default=dict, help_text="phase, tokens_per_second, eta_seconds as the engine last said."
    )
    created_at = models.DateTimeField(default=timezone.now)
    started_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    created_by = models.ForeignKey(User, on_delete=models.PROTECT, null=True, related_name="+")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["project", "number"], name="job_number"),
            models.CheckConstraint(
                condition=~Q(status="running") | Q(owner__isnull=False, lease_expires_at__isnull=False),
                name="job_running_has_lease",
            ),
        ]
        indexes = [
            models.Index(fields=["status", "nudged_at"], name="job_nudge"),
            models.Index(fields=["status", "lease_expires_at"], name="job_lease"),
            models.Index(F("queue"), F("priority").desc(), F("id"), condition=Q(status="queued"), name="job_claim"),
        ]


class Quota(models.Model):
    """How much of the workers a project may take; without a row, as much as there is."""

    project = models.OneToOneField(Project, on_delete=models.CASCADE, related_name="quota")
    running = models.PositiveSmallIntegerField(null=True, help_text="Most jobs of the gpu queue at one time.")
    queued = models.PositiveSmallIntegerField(null=True, help_text="Most jobs that wait.")


class Worker(models.Model):
    """A worker process, and when it was last heard of. What it runs is told by the open runs that name it."""

    public_id = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    host = models.CharField(max_length=200)
    pid = models.PositiveIntegerField()
    queue = models.CharField(max_length=3, choices=Queue)
    slots = models.PositiveSmallIntegerField(default=1)
    version = models.CharField(max_length=64, blank=True)
    devices = models.JSONField(default=list, help_text="GPUs: name, memory_bytes, used_bytes, load (0 to 1).")
    memory_bytes = models.PositiveBigIntegerField(null=True)
    free_memory_bytes = models.PositiveBigIntegerField(null=True)
    free_disk_bytes = models.PositiveBigIntegerField(null=True)
    started_at = models.DateTimeField(default=timezone.now)
    heartbeat_at = models.DateTimeField()
    lost_at = models.DateTimeField(null=True, help_text="When it was found silent; null again once it is heard of.")
    obstacle = models.CharField(max_length=200, blank=True, help_text="Why it takes no jobs now, though it lives.")
    ended_at = models.DateTimeField(null=True, help_text="An orderly end.")

    class Meta:
        indexes = [models.Index(fields=["ended_at", "heartbeat_at"], name="worker_alive")]


class Run(models.Model):
    """One attempt at a job: a fact, inserted at claim and closed once."""

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="runs")
    worker = models.ForeignKey(Worker, on_delete=models.PROTECT, null=True, related_name="runs")
    attempt = models.PositiveIntegerField()
    owner = models.UUIDField(unique=True)
    config_hash = models.CharField(max_length=64)
    host = models.CharField(max_length=200)
    resumed_from = models.ForeignKey("Checkpoint", on_delete=models.PROTECT, null=True, related_name="+")
    started_at = models.DateTimeField(default=timezone.now)
    ended_at = models.DateTimeField(null=True)
    exit_code = models.IntegerField(null=True)
    reason = models.TextField(blank=True)
    ending = models.CharField(max_length=8, blank=True, help_text="Of `jobs.Ending`.")
    last_step = models.PositiveIntegerField(null=True)
    result = models.JSONField(null=True, help_text="The engine's result.json.")
    error_tail = models.TextField(blank=True, help_text="Last lines of standard error, secrets filtered.")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["job", "attempt"], name="run_attempt")]
        indexes = [models.Index(fields=["ended_at"], name="run_ended")]


class RunMetric(models.Model):
    """One line of metrics.jsonl. `offset` is where the line ends in the file, so that a restart doubles nothing."""

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="metrics")
    seq = models.PositiveIntegerField()
    step = models.PositiveIntegerField()
    time = models.FloatField()
    values = models.JSONField()
    offset = models.PositiveBigIntegerField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["run", "seq"], name="run_metric_seq")]


class RunSample(models.Model):
    """One line of samples.jsonl."""

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="samples")
    seq = models.PositiveIntegerField()
    step = models.PositiveIntegerField()
    body = models.JSONField()
    offset = models.PositiveBigIntegerField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["run", "seq"], name="run_sample_seq")]


class Checkpoint(models.Model):
    """A whole checkpoint that a run left. The row stays when its files are pruned (`files_pruned_at`)."""

    public_id = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="checkpoints")
    step = models.PositiveIntegerField()
    path = models.CharField(max_length=300, help_text="Below the runs directory.")
    sha256 = models.CharField(max_length=64)
    size_bytes = models.PositiveBigIntegerField()
    is_best = models.BooleanField(default=False)
    created_at = models.DateTimeField(default=timezone.now)
    files_pruned_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["run", "step"], name="checkpoint_step")]


class ModelVersion(models.Model):
    """A registered model: a directory of safetensors under the models directory. Base models belong to no project."""

    public_id = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, null=True, related_name="models")
    name = models.CharField(max_length=120)
    kind = models.CharField(max_length=6, choices=ModelKind)
    source = models.CharField(max_length=8, choices=ModelSource)
    base = models.ForeignKey("self", on_delete=models.PROTECT, null=True, related_name="derived")
    checkpoint = models.ForeignKey(Checkpoint, on_delete=models.PROTECT, null=True, related_name="promoted")
    path = models.CharField(max_length=300, help_text="Absolute, or below the models directory.")
    sha256 = models.CharField(max_length=64)
    parameters = models.PositiveBigIntegerField(null=True)
    size_bytes = models.PositiveBigIntegerField(null=True)
    metrics = models.JSONField(default=dict)
    licence = models.CharField(max_length=120, blank=True)
    notes = models.TextField(blank=True, help_text="What people say of it on its card.")
    tags = models.JSONField(default=list)
    is_current = models.BooleanField(
        default=False, help_text="The policy, or reward model, that the project goes on from."
    )
    archived_at = models.DateTimeField(null=True)
    verified_at = models.DateTimeField(null=True, help_text="When its files were last read and had its hash.")
    created_at = models.DateTimeField(default=timezone.now)
    created_by = models.ForeignKey(User, on_delete=models.PROTECT, null=True, related_name="+")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["project", "name"], name="model_name"),
            models.UniqueConstraint(fields=["name"], condition=Q(project__isnull=True), name="model_name_of_site"),
            models.UniqueConstraint(fields=["project", "kind"], condition=Q(is_current=True), name="model_current"),
        ]

    def __str__(self) -> str:
        return self.name


class RoundPurpose(models.TextChoices):
    """What a round's comparisons are for. Those of an evaluation are never trained on."""

    TRAINING = "training"
    EVALUATION = "evaluation"


class Round(models.Model):
    """Sampling from policies for a new batch of comparisons. Progress is its job's and its completions'."""

    public_id = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="rounds")
    number = models.PositiveIntegerField()
    name = models.CharField(max_length=120, blank=True)
    job = models.OneToOneField(Job, on_delete=models.PROTECT, related_name="round")
    policies = models.ManyToManyField(ModelVersion, through="RoundPolicy", related_name="rounds")
    prompts = models.PositiveIntegerField(help_text="How many prompts are sampled.")
    completions = models.PositiveSmallIntegerField(help_text="Of each policy for each prompt.")
    sampling = models.JSONField(help_text="temperature, top_p, max_new_tokens, seed.")
    pairing = models.JSONField(default=dict, help_text="How its completions meet, as `rounds.MeetingPlan`.")
    turn = models.UUIDField(null=True, help_text="Public id of the conversation turn that it answers, if it does.")
    purpose = models.CharField(max_length=10, choices=RoundPurpose, default=RoundPurpose.TRAINING)
    opened_for = models.OneToOneField(
        ModelVersion,
        on_delete=models.PROTECT,
        null=True,
        related_name="opened_round",
        help_text="The promoted policy that the schedule opened it for: once each.",
    )
    overlap = models.PositiveSmallIntegerField()
    created_at = models.DateTimeField(default=timezone.now)
    created_by = models.ForeignKey(User, on_delete=models.PROTECT, null=True, related_name="+")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["project", "number"], name="round_number")]


class RoundPolicy(models.Model):
    """A policy that a round samples, and the source that its completions get. Null: as the round says for all."""

    round = models.ForeignKey(Round, on_delete=models.CASCADE, related_name="round_policies")
    model = models.ForeignKey(ModelVersion, on_delete=models.PROTECT, related_name="+")
    source = models.ForeignKey(Source, on_delete=models.PROTECT, related_name="+")
    weight = models.FloatField(null=True, help_text="Its share of each prompt's completions, as a ratio.")
    completions = models.PositiveSmallIntegerField(null=True, help_text="Of it for each prompt.")
    temperature = models.FloatField(null=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["round", "model"], name="round_policy_once")]


class Opponent(models.TextChoices):
    """Whom a newly promoted policy meets in the round that the schedule opens."""

    ITSELF = "itself"
    PREVIOUS = "previous"
    BASE = "base"


class RoundSchedule(models.Model):
    """That a project opens a round by itself after each promotion of a policy, and how that round samples."""

    project = models.OneToOneField(Project, on_delete=models.CASCADE, related_name="round_schedule")
    is_on = models.BooleanField(default=True)
    opponent = models.CharField(max_length=8, choices=Opponent, default=Opponent.PREVIOUS)
    prompts = models.PositiveIntegerField(null=True, help_text="How many; null: all.")
    sampling = models.JSONField(default=dict, help_text="As `rounds.SamplingPlan`; the seed grows with each round.")
    pairing = models.JSONField(default=dict, help_text="As `rounds.MeetingPlan`.")
    since = models.DateTimeField(help_text="Policies promoted before it open nothing.")
    problem = models.TextField(blank=True, help_text="Why the policy that is due has no round yet.")
    updated_at = models.DateTimeField(default=timezone.now)
    updated_by = models.ForeignKey(User, on_delete=models.PROTECT, null=True, related_name="+")


class Evaluation(models.Model):
    """Two policies on one set of prompts. Its round samples them; its verdicts say who wins, each by its own judge."""

    public_id = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="evaluations")
    number = models.PositiveIntegerField()
    name = models.CharField(max_length=120, blank=True)
    first = models.ForeignKey(ModelVersion, on_delete=models.PROTECT, related_name="+")
    second = models.ForeignKey(ModelVersion, on_delete=models.PROTECT, related_name="+")
    round = models.OneToOneField(Round, on_delete=models.PROTECT, related_name="evaluation")
    created_at = models.DateTimeField(default=timezone.now)
    created_by = models.ForeignKey(User, on_delete=models.PROTECT, null=True, related_name="+")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["project", "number"], name="evaluation_number")]


class JudgeKind(models.TextChoices):
    """Who says which of two completions is better."""

    PEOPLE = "people"
    REWARD = "reward"
    JUDGE = "judge"


class Verdict(models.Model):
    """One judge's view of an evaluation. People's is counted from votes; the others come from a job, stored once."""

    public_id = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    evaluation = models.ForeignKey(Evaluation, on_delete=models.CASCADE, related_name="verdicts")
    kind = models.CharField(max_length=6, choices=JudgeKind)
    reward_model = models.ForeignKey(ModelVersion, on_delete=models.PROTECT, null=True, related_name="+")
    judge = models.JSONField(default=dict, help_text="Of a judge behind a server: its address and model.")
    job = models.OneToOneField(Job, on_delete=models.PROTECT, null=True, related_name="verdict")
    result = models.JSONField(null=True, help_text="Figures, and by prompt who won; null until the job has ended.")
    created_at = models.DateTimeField(default=timezone.now)


class PlaygroundSession(models.Model):
    """A `serve` job that keeps models loaded for a project's playground. Once it is closed nothing more is asked."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="playground_sessions")
    job = models.OneToOneField(Job, on_delete=models.PROTECT, related_name="playground_session")
    closed_at = models.DateTimeField(null=True)


class PlaygroundQuestion(models.Model):
    """What a researcher asked of some policies, and whether the completions were sent to annotators."""

    public_id = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="playground_questions")
    session = models.ForeignKey(PlaygroundSession, on_delete=models.PROTECT, related_name="questions")
    messages = models.JSONField(help_text='[{"role": "user", "content": "…"}, …]')
    completions = models.PositiveSmallIntegerField(help_text="Of each policy.")
    sampling = models.JSONField(help_text="temperature, top_p, max_new_tokens, seed.")
    reward = models.ForeignKey(ModelVersion, on_delete=models.PROTECT, null=True, related_name="+")
    created_at = models.DateTimeField(default=timezone.now)
    created_by = models.ForeignKey(User, on_delete=models.PROTECT, null=True, related_name="+")
    stopped_at = models.DateTimeField(null=True)
    sent_at = models.DateTimeField(null=True, help_text="When its completions became comparisons.")
    sent_by = models.ForeignKey(User, on_delete=models.PROTECT, null=True, related_name="+")


class AnswerState(models.TextChoices):
    """Where an answer of the playground stands."""

    WAITING = "waiting"
    WRITING = "writing"
    DONE = "done"
    STOPPED = "stopped"
    FAILED = "failed"


class PlaygroundAnswer(models.Model):
    """What one policy writes for a question, as it grows. `error` says why it failed."""

    public_id = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    question = models.ForeignKey(PlaygroundQuestion, on_delete=models.CASCADE, related_name="answers")
    model = models.ForeignKey(ModelVersion, on_delete=models.PROTECT, related_name="+")
    index = models.PositiveSmallIntegerField()
    state = models.CharField(max_length=7, choices=AnswerState, default=AnswerState.WAITING)
    text = models.TextField(blank=True)
    tokens = models.PositiveIntegerField(default=0)
    logprob = models.FloatField(null=True, help_text="Σ log π(y | x) of its policy, nats; null until it is done.")
    score = models.FloatField(null=True, help_text="What the question's reward model said.")
    finish = models.CharField(max_length=6, blank=True, help_text="Of `annotation.models.Finish`, when it is done.")
    error = models.TextField(blank=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["question", "model", "index"], name="playground_answer_once")]
        indexes = [
            models.Index(fields=["question"], condition=Q(state__in=["waiting", "writing"]), name="playground_open")
        ]


class Alarm(models.Model):
    """Something that a person should look at: raised once, acknowledged once, with what was done about it."""

    public_id = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="alarms")
    job = models.ForeignKey(Job, on_delete=models.CASCADE, null=True, related_name="alarms")
    run = models.ForeignKey(Run, on_delete=models.CASCADE, null=True, related_name="alarms")
    name = models.CharField(max_length=64)
    step = models.PositiveIntegerField(null=True)
    evidence = models.JSONField(default=list, help_text="Why it rang: text, step, and figures by metric.")
    key = models.CharField(max_length=200, help_text="Names its cause, so that it is raised once.")
    raised_at = models.DateTimeField(default=timezone.now)
    acknowledged_at = models.DateTimeField(null=True)
    acknowledged_by = models.ForeignKey(User, on_delete=models.PROTECT, null=True, related_name="+")
    note = models.TextField(blank=True)
    done = models.JSONField(default=list, help_text="What was done: action, at, by, and the job or round it made.")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["project", "key"], name="alarm_once")]


class LabelWatch(models.Model):
    """Up to which fit of a project's votes alarms about its labels were looked for. A worker takes it by lease."""

    project = models.OneToOneField(Project, on_delete=models.CASCADE, related_name="label_watch")
    fit_number = models.PositiveIntegerField(default=0)
    lease_expires_at = models.DateTimeField(null=True)
