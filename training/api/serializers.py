"""Output of the training API. Field by field; input serializers stand beside their views."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from annotation.api.projects import AgreementSerializer, EstimateSerializer
from annotation.api.task import MessageSerializer
from annotation.models import Project, User
from training import endings, queries
from training.freshness import rounds_freshness
from training.models import (
    Checkpoint,
    Job,
    JobStatus,
    ModelKind,
    ModelSource,
    ModelVersion,
    Round,
    RoundPurpose,
    Snapshot,
)

Numbers = {"type": "object", "additionalProperties": {"type": "number"}}
Anything = {"type": "object", "additionalProperties": {}}


@extend_schema_field(Numbers)
class NumbersField(serializers.JSONField):
    """An object of numbers."""


@extend_schema_field(Anything)
class ObjectField(serializers.JSONField):
    """An object of anything."""


def person(user: User | None) -> str | None:
    """How a person is named to researchers."""
    return None if user is None else (user.name or user.email)


class ModelRefSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField(source="public_id")
    name = serializers.CharField()


class SnapshotCountsSerializer(serializers.Serializer[Any]):
    train = serializers.IntegerField()
    validation = serializers.IntegerField()
    test = serializers.IntegerField()
    total = serializers.IntegerField()


class CeilingSerializer(serializers.Serializer[Any]):
    """The best accuracy against single votes that people's agreement allows: likely, and at most."""

    ceiling = EstimateSerializer()
    upper = EstimateSerializer()


class CeilingsSerializer(serializers.Serializer[Any]):
    """By held-out part. Null for a snapshot that was frozen before it was measured."""

    validation = CeilingSerializer()
    test = CeilingSerializer()


@extend_schema_field(CeilingsSerializer(allow_null=True))
class CeilingsField(serializers.Field[Any, Any, Any, Any]):
    """The human ceiling of a snapshot's held-out parts."""

    def to_representation(self, snapshot: Snapshot) -> Any:
        found = snapshot.agreement.get("ceiling")
        return None if found is None else CeilingsSerializer(found).data


class LeakSerializer(serializers.Serializer[Any]):
    """Share of held-out pairs with a prompt, or a completion, that the training part has too."""

    prompt = serializers.FloatField()
    completion = serializers.FloatField()


class SnapshotSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField(source="public_id")
    number = serializers.IntegerField()
    name = serializers.CharField()
    content_hash = serializers.CharField()
    kind = serializers.CharField()
    counts = SnapshotCountsSerializer()
    ties = serializers.IntegerField()
    dropped = NumbersField()
    label_policy = ObjectField()
    split = ObjectField()
    agreement = AgreementSerializer()
    ceiling = CeilingsField(source="*")
    leak = serializers.SerializerMethodField()
    created_at = serializers.DateTimeField()
    created_by = serializers.SerializerMethodField()
    jobs = serializers.SerializerMethodField()
    erased = serializers.SerializerMethodField()

    @extend_schema_field(LeakSerializer(allow_null=True))
    def get_leak(self, snapshot: Snapshot) -> Any:
        found = snapshot.agreement.get("leak")
        return None if found is None else LeakSerializer(found).data

    def get_created_by(self, snapshot: Snapshot) -> str | None:
        return person(snapshot.created_by)

    def get_jobs(self, snapshot: Snapshot) -> int:
        counted: int | None = vars(snapshot).get("n_jobs")  # annotated by `queries.snapshots`
        return snapshot.jobs.count() if counted is None else counted

    def get_erased(self, snapshot: Snapshot) -> int:
        """Lines that were erased for privacy since it was frozen; `counts` are those of then."""
        counted: int | None = vars(snapshot).get("n_erased")  # annotated by `queries.snapshots`
        return counted or 0


class SnapshotListSerializer(serializers.Serializer[Any]):
    items = SnapshotSerializer(many=True)
    next = serializers.CharField(allow_null=True)


class SnapshotRefSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField(source="public_id")
    number = serializers.IntegerField()
    name = serializers.CharField()


class ModelSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField(source="public_id")
    name = serializers.CharField()
    kind = serializers.ChoiceField(choices=ModelKind.choices)
    source = serializers.ChoiceField(choices=ModelSource.choices)  # type: ignore[assignment]  # DRF keeps fields apart
    base = ModelRefSerializer(allow_null=True)
    parameters = serializers.IntegerField(allow_null=True)
    size_bytes = serializers.IntegerField(allow_null=True)
    sha256 = serializers.CharField()
    metrics = NumbersField()
    licence = serializers.CharField()
    tags = serializers.ListField(child=serializers.CharField())
    is_current = serializers.BooleanField(help_text="The one of its kind that the project goes on from.")
    archived_at = serializers.DateTimeField(allow_null=True)
    verified_at = serializers.DateTimeField(allow_null=True, help_text="When its files were last read as registered.")
    created_at = serializers.DateTimeField()
    job = serializers.SerializerMethodField()
    snapshot = serializers.SerializerMethodField()
    step = serializers.SerializerMethodField()
    ceiling = serializers.SerializerMethodField()

    @extend_schema_field(serializers.UUIDField(allow_null=True))
    def get_job(self, model: ModelVersion) -> Any:
        return queries.lineage(model)["job"]

    @extend_schema_field(serializers.UUIDField(allow_null=True))
    def get_snapshot(self, model: ModelVersion) -> Any:
        return queries.lineage(model)["snapshot"]

    @extend_schema_field(serializers.IntegerField(allow_null=True))
    def get_step(self, model: ModelVersion) -> Any:
        return queries.lineage(model)["step"]

    @extend_schema_field(CeilingsSerializer(allow_null=True))
    def get_ceiling(self, model: ModelVersion) -> Any:
        checkpoint = model.checkpoint
        snapshot = None if checkpoint is None else checkpoint.run.job.snapshot
        return None if snapshot is None else CeilingsField().to_representation(snapshot)


class ModelListSerializer(serializers.Serializer[Any]):
    items = ModelSerializer(many=True)
    next = serializers.CharField(allow_null=True)


class RunSerializer(serializers.Serializer[Any]):
    attempt = serializers.IntegerField()
    started_at = serializers.DateTimeField()
    ended_at = serializers.DateTimeField(allow_null=True)
    exit_code = serializers.IntegerField(allow_null=True)
    reason = serializers.CharField()
    last_step = serializers.IntegerField(allow_null=True)


class CheckpointSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField(source="public_id")
    step = serializers.IntegerField()
    size_bytes = serializers.IntegerField()
    attempt = serializers.IntegerField(source="run.attempt")
    is_best = serializers.BooleanField()
    kept = serializers.SerializerMethodField()

    def get_kept(self, checkpoint: Checkpoint) -> bool:
        return checkpoint.files_pruned_at is None


class AbilitiesSerializer(serializers.Serializer[Any]):
    stop = serializers.BooleanField()
    retry = serializers.BooleanField()
    promote = serializers.BooleanField()


class JobRefSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField(source="public_id")
    number = serializers.IntegerField()
    method = serializers.CharField()
    title = serializers.CharField()
    status = serializers.ChoiceField(choices=JobStatus.choices)


class JobExplanationSerializer(serializers.Serializer[Any]):
    """Where a job stands in words; `resumes_from` is the step that the next attempt starts from."""

    what = serializers.CharField()
    next_step = serializers.CharField()
    resumes_from = serializers.IntegerField(allow_null=True)
    by_itself = serializers.BooleanField()


class JobSerializer(serializers.Serializer[Any]):
    """A job as lists show it. `context["now"]` is the moment for which the phase is derived."""

    id = serializers.UUIDField(source="public_id")
    number = serializers.IntegerField()
    method = serializers.CharField()
    title = serializers.CharField()
    status = serializers.ChoiceField(choices=JobStatus.choices)
    phase = serializers.SerializerMethodField()
    queue = serializers.CharField()
    priority = serializers.IntegerField()
    depends_on = JobRefSerializer(many=True)
    clone_of = JobRefSerializer(allow_null=True)
    sweep = serializers.UUIDField(allow_null=True)
    alarms = serializers.SerializerMethodField()
    snapshot = SnapshotRefSerializer(allow_null=True)
    model = ModelRefSerializer(allow_null=True)
    round = serializers.SerializerMethodField()
    attempt = serializers.IntegerField()
    failures = serializers.IntegerField()
    step = serializers.IntegerField(source="last_step", allow_null=True)
    steps = serializers.IntegerField(allow_null=True)
    activity = serializers.SerializerMethodField()
    eta_seconds = serializers.SerializerMethodField()
    tokens_per_second = serializers.SerializerMethodField()
    heartbeat_at = serializers.DateTimeField(source="last_step_at", allow_null=True)
    created_at = serializers.DateTimeField()
    started_at = serializers.DateTimeField(allow_null=True)
    ended_at = serializers.DateTimeField(allow_null=True)
    reason = serializers.CharField()
    created_by = serializers.SerializerMethodField()

    @extend_schema_field(serializers.ChoiceField(choices=["starting", "stalled", "stopping"], allow_null=True))
    def get_phase(self, job: Job) -> str | None:
        return queries.job_phase(job, now=self.context["now"])

    @extend_schema_field(serializers.UUIDField(allow_null=True))
    def get_round(self, job: Job) -> Any:
        return job.round.public_id if job.method == "sample" else None

    def get_alarms(self, job: Job) -> int:
        """Those that nobody has acknowledged."""
        counted: int = vars(job)["open_alarms"]  # annotated by `queries.jobs`
        return counted

    def get_activity(self, job: Job) -> str | None:
        activity: str | None = job.progress.get("phase")
        return activity

    def get_eta_seconds(self, job: Job) -> float | None:
        return job.progress.get("eta_seconds") if job.status == JobStatus.RUNNING else None

    def get_tokens_per_second(self, job: Job) -> float | None:
        return job.progress.get("tokens_per_second") if job.status == JobStatus.RUNNING else None

    def get_created_by(self, job: Job) -> str | None:
        return person(job.created_by)


class JobDetailSerializer(JobSerializer):
    """A job as its page shows it."""

    config = ObjectField()
    inputs = ObjectField()
    explanation = serializers.SerializerMethodField()
    ceiling = CeilingsField(source="snapshot", allow_null=True, help_text="Of the snapshot's held-out parts.")
    runs = RunSerializer(many=True)
    checkpoints = serializers.SerializerMethodField()
    metrics = serializers.SerializerMethodField()
    produced = serializers.SerializerMethodField()
    error_tail = serializers.SerializerMethodField()
    can = serializers.SerializerMethodField()

    @extend_schema_field(JobExplanationSerializer)
    def get_explanation(self, job: Job) -> Any:
        return JobExplanationSerializer(endings.explain(job, now=self.context["now"])).data

    @extend_schema_field(CheckpointSerializer(many=True))
    def get_checkpoints(self, job: Job) -> Any:
        rows = [item for run in job.runs.all() for item in run.checkpoints.all()]
        return CheckpointSerializer(rows, many=True).data

    @extend_schema_field(Numbers)
    def get_metrics(self, job: Job) -> Any:
        return queries.latest_metrics(job)

    @extend_schema_field(ModelSerializer(many=True))
    def get_produced(self, job: Job) -> Any:
        return ModelSerializer(queries.produced(job), many=True).data

    def get_error_tail(self, job: Job) -> str | None:
        return queries.failure_tail(job)

    @extend_schema_field(AbilitiesSerializer)
    def get_can(self, job: Job) -> Any:
        return queries.abilities(job)


class JobListSerializer(serializers.Serializer[Any]):
    items = JobSerializer(many=True)
    next = serializers.CharField(allow_null=True)


class RoundSamplingSerializer(serializers.Serializer[Any]):
    temperature = serializers.FloatField()
    top_p = serializers.FloatField()
    max_new_tokens = serializers.IntegerField()
    seed = serializers.IntegerField()


class RoundPairingSerializer(serializers.Serializer[Any]):
    strategy = serializers.CharField(default="cross_source")
    per_prompt = serializers.IntegerField(allow_null=True, default=None)
    against = serializers.ListField(child=serializers.UUIDField(), default=list)
    rounds = serializers.ListField(child=serializers.UUIDField(), default=list)
    categories = serializers.ListField(child=serializers.CharField(), default=list)
    languages = serializers.ListField(child=serializers.CharField(), default=list)
    fresh = serializers.BooleanField(default=False)
    overlap = serializers.IntegerField(allow_null=True, default=None)
    objective = serializers.CharField(default="order")
    control_share = serializers.FloatField(default=0.1)
    priority = serializers.IntegerField(default=0)
    language = serializers.CharField(allow_null=True, default=None)
    skills = serializers.ListField(child=serializers.CharField(), default=list)


class RoundPolicySerializer(serializers.Serializer[Any]):
    """A policy with what is its own of the sampling; null is as the round says."""

    id = serializers.UUIDField(source="model.public_id")
    name = serializers.CharField(source="model.name")
    weight = serializers.FloatField(allow_null=True)
    completions = serializers.IntegerField(allow_null=True)
    temperature = serializers.FloatField(allow_null=True)


class RoundAbilitiesSerializer(serializers.Serializer[Any]):
    stop = serializers.BooleanField()
    go_on = serializers.BooleanField()


class RoundSerializer(serializers.Serializer[Any]):
    """A round. `context["now"]` is the moment of its progress; a list computes that for all rows first (`of_all`)."""

    id = serializers.UUIDField(source="public_id")
    number = serializers.IntegerField()
    name = serializers.CharField()
    policies = serializers.SerializerMethodField()
    sampling = RoundSamplingSerializer()
    pairing = RoundPairingSerializer()
    prompts = serializers.IntegerField()
    completions = serializers.IntegerField()
    overlap = serializers.IntegerField()
    completions_wanted = serializers.IntegerField(source="progress.completions_wanted")
    completions_done = serializers.IntegerField(source="progress.completions_done")
    failed = serializers.IntegerField(source="progress.failed")
    comparisons = serializers.IntegerField(source="progress.comparisons")
    rate_per_minute = serializers.FloatField(source="progress.rate_per_minute", allow_null=True)
    eta_seconds = serializers.FloatField(source="progress.eta_seconds", allow_null=True)
    status = serializers.ChoiceField(source="job.status", choices=JobStatus.choices)
    job = serializers.UUIDField(source="job.public_id")
    error = serializers.CharField(source="job.reason")
    purpose = serializers.ChoiceField(choices=RoundPurpose.choices)
    opened_for = ModelRefSerializer(allow_null=True)
    share_from_current = serializers.FloatField(source="freshness.share_from_current", allow_null=True)
    age_days = serializers.FloatField(source="freshness.age_days")
    can = serializers.SerializerMethodField()
    created_at = serializers.DateTimeField()

    @classmethod
    def of_all(cls, project: Project, rounds: Sequence[Round], *, now: datetime) -> list[Any]:
        """Rows of a list, in a number of queries that does not grow with it."""
        context = {
            "now": now,
            "progress": queries.rounds_progress(rounds, now=now),
            "freshness": rounds_freshness(project, rounds, now=now),
        }
        return list(cls(rounds, many=True, context=context).data)

    @extend_schema_field(RoundPolicySerializer(many=True))
    def get_policies(self, made: Round) -> Any:
        return RoundPolicySerializer(made.round_policies.all(), many=True).data

    @extend_schema_field(RoundAbilitiesSerializer)
    def get_can(self, made: Round) -> Any:
        found = queries.abilities_of_round(made)
        return RoundAbilitiesSerializer(found).data

    def to_representation(self, made: Round) -> Any:
        now = self.context["now"]
        progress = self.context.get("progress") or queries.rounds_progress([made], now=now)
        fresh = self.context.get("freshness") or rounds_freshness(made.project, [made], now=now)
        made.progress, made.freshness = progress[made.pk], fresh[made.pk]  # type: ignore[attr-defined]
        return super().to_representation(made)


class RoundListSerializer(serializers.Serializer[Any]):
    items = RoundSerializer(many=True)
    next = serializers.CharField(allow_null=True)


class MetricPointSerializer(serializers.Serializer[Any]):
    seq = serializers.IntegerField()
    step = serializers.IntegerField()
    time = serializers.FloatField()
    values = NumbersField()


class MetricPageSerializer(serializers.Serializer[Any]):
    items = MetricPointSerializer(many=True)
    next_after = serializers.IntegerField()
    terminal = serializers.BooleanField()


class SampleSerializer(serializers.Serializer[Any]):
    seq = serializers.IntegerField()
    step = serializers.IntegerField()
    prompt_id = serializers.CharField()
    prompt = MessageSerializer(many=True)
    completion = serializers.CharField()
    finish = serializers.CharField(allow_null=True)
    score = serializers.FloatField(allow_null=True)
    reward = serializers.FloatField(allow_null=True)
    kl = serializers.FloatField(allow_null=True)
    length = serializers.IntegerField(allow_null=True)


class SamplePageSerializer(serializers.Serializer[Any]):
    items = SampleSerializer(many=True)
    next_after = serializers.IntegerField()
    terminal = serializers.BooleanField()


class LogSerializer(serializers.Serializer[Any]):
    lines = serializers.ListField(child=serializers.CharField())
