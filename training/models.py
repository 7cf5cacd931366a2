"""The rows of training: snapshots, jobs, runs, checkpoints, registered models and rounds.

A job is the request and the only mutable state machine (`training.jobs` holds its transitions); a run is one attempt, a
fact that is closed once. Snapshots, runs and checkpoints are never edited.
"""

from __future__ import annotations

import uuid

from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from annotation.models import Project, Source, User


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


class Run(models.Model):
    """One attempt at a job: a fact, inserted at claim and closed once."""

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="runs")
    attempt = models.PositiveIntegerField()
    owner = models.UUIDField(unique=True)
    config_hash = models.CharField(max_length=64)
    host = models.CharField(max_length=200)
    resumed_from = models.ForeignKey("Checkpoint", on_delete=models.PROTECT, null=True, related_name="+")
    started_at = models.DateTimeField(default=timezone.now)
    ended_at = models.DateTimeField(null=True)
    exit_code = models.IntegerField(null=True)
    reason = models.TextField(blank=True)
    last_step = models.PositiveIntegerField(null=True)
    result = models.JSONField(null=True, help_text="The engine's result.json.")
    error_tail = models.TextField(blank=True, help_text="Last lines of standard error, secrets filtered.")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["job", "attempt"], name="run_attempt")]


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
    created_at = models.DateTimeField(default=timezone.now)
    created_by = models.ForeignKey(User, on_delete=models.PROTECT, null=True, related_name="+")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["project", "name"], name="model_name"),
            models.UniqueConstraint(fields=["name"], condition=Q(project__isnull=True), name="model_name_of_site"),
        ]

    def __str__(self) -> str:
        return self.name


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
    overlap = models.PositiveSmallIntegerField()
    created_at = models.DateTimeField(default=timezone.now)
    created_by = models.ForeignKey(User, on_delete=models.PROTECT, null=True, related_name="+")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["project", "number"], name="round_number")]


class RoundPolicy(models.Model):
    """A policy that a round samples, and the source that its completions get."""

    round = models.ForeignKey(Round, on_delete=models.CASCADE, related_name="round_policies")
    model = models.ForeignKey(ModelVersion, on_delete=models.PROTECT, related_name="+")
    source = models.ForeignKey(Source, on_delete=models.PROTECT, related_name="+")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["round", "model"], name="round_policy_once")]
