"""The training API: overview, snapshots, models, jobs, rounds. All researcher-only, scoped by project."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any
from uuid import UUID

from django.http import Http404, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, status
from rest_framework.exceptions import PermissionDenied, ValidationError
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from annotation import queries as annotation_queries
from annotation.api.access import ProjectView, user_of
from annotation.api.pagination import CURSOR_PARAMETERS, page, whole_number
from annotation.api.parsing import FiniteFloatField
from annotation.api.projects import AgreementSerializer
from annotation.models import TokenScope
from annotation.people import audit
from annotation.preferences import LabelPolicy
from training import queries, registry
from training.api.serializers import (
    JobDetailSerializer,
    JobListSerializer,
    JobSerializer,
    LogSerializer,
    MetricPageSerializer,
    ModelListSerializer,
    ModelSerializer,
    NumbersField,
    ObjectField,
    RoundListSerializer,
    RoundSerializer,
    SamplePageSerializer,
    SnapshotCountsSerializer,
    SnapshotListSerializer,
    SnapshotSerializer,
)
from training.engine.metrics import METRICS
from training.jobs import cancel, retry
from training.launching import METHODS, defaults, launch, value_at
from training.models import Job, ModelKind, Round, Snapshot
from training.rounds import MOST_POLICIES, SamplingPlan, start_round
from training.snapshots import FreezeRule, Layout, export_lines, freeze, preview
from training.splits import PARTS


class CountsSerializer(serializers.Serializer[Any]):
    prompts = serializers.IntegerField()
    completions = serializers.IntegerField()
    comparisons = serializers.IntegerField()
    votes = serializers.IntegerField()
    surplus = serializers.IntegerField()
    open = serializers.IntegerField()
    settled = serializers.IntegerField()
    disputed = serializers.IntegerField()
    adjudicated = serializers.IntegerField()
    withdrawn = serializers.IntegerField()
    leased = serializers.IntegerField()
    wanted = serializers.IntegerField()


class RatesSerializer(serializers.Serializer[Any]):
    votes_last_hour = serializers.IntegerField()
    active_annotators = serializers.IntegerField()
    eta_hours = serializers.FloatField(allow_null=True)


class PersonSerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    pseudonym = serializers.CharField()
    role = serializers.CharField()
    votes = serializers.IntegerField()
    median_seconds = serializers.FloatField(allow_null=True)
    left_share = serializers.FloatField(allow_null=True)
    last_vote_at = serializers.DateTimeField(allow_null=True)


class OverviewSerializer(serializers.Serializer[Any]):
    counts = CountsSerializer()
    agreement = AgreementSerializer()
    rates = RatesSerializer()
    people = PersonSerializer(many=True)
    round = RoundSerializer(allow_null=True)
    jobs = JobSerializer(many=True)
    snapshot = SnapshotSerializer(allow_null=True)


class OverviewView(ProjectView):
    """The project at a glance."""

    @extend_schema(operation_id="overview", responses=OverviewSerializer)
    def get(self, request: Request, slug: str) -> Response:
        """Counts, agreement, people, the latest round, jobs and snapshot."""
        now = timezone.now()
        counts = annotation_queries.counts(self.project, now=now)
        body = {
            "counts": counts,
            "agreement": annotation_queries.agreement(self.project),
            "rates": annotation_queries.rates(self.project, wanted=counts.wanted, now=now),
            "people": annotation_queries.people(self.project, most=50),
            "round": queries.rounds(self.project).order_by("-pk").first(),
            "jobs": list(queries.jobs(self.project).order_by("-pk")[:4]),
            "snapshot": queries.snapshots(self.project).order_by("-pk").first(),
        }
        return Response(OverviewSerializer(body, context={"now": now}).data)


class SharesSerializer(serializers.Serializer[Any]):
    train = FiniteFloatField(min_value=0, max_value=1)
    validation = FiniteFloatField(min_value=0, max_value=1)
    test = FiniteFloatField(min_value=0, max_value=1)


class FreezeSerializer(serializers.Serializer[Any]):
    name = serializers.CharField(max_length=120, required=False, allow_blank=True)
    min_votes = serializers.IntegerField(min_value=1, max_value=99, required=False)
    tie_rule = serializers.ChoiceField(choices=["half", "drop"], required=False)
    min_confidence = FiniteFloatField(min_value=0, max_value=1, required=False)
    shares = SharesSerializer(required=False)

    def rule(self) -> FreezeRule:
        values = self.validated_data
        named = {key: values[key] for key in ("min_votes", "tie_rule", "min_confidence") if key in values}
        policy = LabelPolicy(**named)
        return (
            FreezeRule(policy=policy, shares=dict(values["shares"]))
            if "shares" in values
            else FreezeRule(policy=policy)
        )


class PreviewSerializer(serializers.Serializer[Any]):
    preferences = serializers.IntegerField()
    ties = serializers.IntegerField()
    dropped = NumbersField()
    splits = SnapshotCountsSerializer()


class SnapshotsView(ProjectView):
    """Frozen data sets."""

    @extend_schema(operation_id="snapshots_list", responses=SnapshotListSerializer, parameters=CURSOR_PARAMETERS)
    def get(self, request: Request, slug: str) -> Response:
        """Snapshots, newest first."""
        return page(
            request, queries.snapshots(self.project), lambda rows: list(SnapshotSerializer(rows, many=True).data)
        )

    @extend_schema(operation_id="snapshots_freeze", request=FreezeSerializer, responses={201: SnapshotSerializer})
    def post(self, request: Request, slug: str) -> Response:
        """Freeze every settled comparison that the rule takes. It cannot be undone."""
        data = FreezeSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        snapshot = freeze(
            project=self.project,
            rule=data.rule(),
            by=user_of(request),
            name=data.validated_data.get("name", ""),
            now=timezone.now(),
        )
        return Response(SnapshotSerializer(snapshot).data, status=status.HTTP_201_CREATED)


class SnapshotPreviewView(ProjectView):
    """What freezing now would give."""

    @extend_schema(
        operation_id="snapshots_preview",
        responses=PreviewSerializer,
        parameters=[OpenApiParameter("min_votes", int), OpenApiParameter("tie_rule", str, enum=["half", "drop"])],
    )
    def get(self, request: Request, slug: str) -> Response:
        """Counts, nothing is written."""
        data = FreezeSerializer(data={key: request.query_params[key] for key in request.query_params})
        data.is_valid(raise_exception=True)
        found = preview(project=self.project, rule=data.rule(), now=timezone.now())
        body = asdict(found) | {"splits": {**found.splits, "total": found.preferences}}
        return Response(PreviewSerializer(body).data)


class SnapshotView(ProjectView):
    """One snapshot."""

    @extend_schema(operation_id="snapshots_show", responses=SnapshotSerializer)
    def get(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Its counts, rule, hash and agreement."""
        return Response(SnapshotSerializer(_snapshot(self, public_id)).data)


class SnapshotExportView(ProjectView):
    """A snapshot's lines as a file."""

    @extend_schema(
        operation_id="snapshots_export",
        responses={(200, "application/x-ndjson"): OpenApiTypes.STR},
        parameters=[
            OpenApiParameter("layout", str, enum=[item.value for item in Layout], description="Default trl."),
            OpenApiParameter("split", str, enum=["all", *PARTS], description="Default all."),
        ],
    )
    def get(self, request: Request, slug: str, public_id: UUID) -> HttpResponseBase:
        """JSON Lines: `trl` (conversational) and `plain` load in TRL as they are; `winnow` has everything."""
        snapshot = _snapshot(self, public_id)
        layout, part = request.query_params.get("layout", "trl"), request.query_params.get("split", "all")
        if layout not in {item.value for item in Layout}:
            raise ValidationError({"layout": [f"must be trl, plain or winnow, got {layout!r}"]})
        if part not in {"all", *PARTS}:
            raise ValidationError({"split": [f"must be all, train, validation or test, got {part!r}"]})
        lines = export_lines(snapshot, layout=Layout(layout), part=None if part == "all" else part)
        response = StreamingHttpResponse(lines, content_type="application/x-ndjson")
        name = f"{self.project.slug}-v{snapshot.number}-{part}.{layout}.jsonl"
        response["Content-Disposition"] = f'attachment; filename="{name}"'
        response["X-Content-Hash"] = snapshot.content_hash
        response["Cache-Control"] = "no-store"
        return response


class ModelCreateSerializer(serializers.Serializer[Any]):
    name = serializers.CharField(max_length=120)
    path = serializers.CharField(max_length=1000, required=False)
    hub_id = serializers.CharField(max_length=200, required=False)


class ModelsView(ProjectView):
    """Registered models that the project may use."""

    @extend_schema(operation_id="models_list", responses=ModelListSerializer)
    def get(self, request: Request, slug: str) -> Response:
        """The project's own models and those of the site, newest first."""
        return Response({"items": ModelSerializer(registry.visible(self.project), many=True).data, "next": None})

    @extend_schema(operation_id="models_register", request=ModelCreateSerializer, responses={201: ModelSerializer})
    def post(self, request: Request, slug: str) -> Response:
        """Register a directory on the server, for every project (operators only)."""
        if not user_of(request).is_staff:
            raise PermissionDenied("Only an operator of the site registers models from outside.")
        data = ModelCreateSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        if "path" not in data.validated_data:
            hub_id = data.validated_data.get("hub_id")
            message = (
                f"hub_id: run `manage.py register_model {data.validated_data['name']} {hub_id}` on the server, "
                "which downloads it once"
                if hub_id
                else "path: name a directory on the server"
            )
            raise registry.UnknownModel(message, details={"hub_id" if hub_id else "path": [message]})
        model = registry.register_local(
            name=data.validated_data["name"], path=data.validated_data["path"], by=user_of(request), now=timezone.now()
        )
        return Response(ModelSerializer(model).data, status=status.HTTP_201_CREATED)


class FieldSerializer(serializers.Serializer[Any]):
    path = serializers.CharField()
    label = serializers.CharField()  # type: ignore[assignment]  # DRF's metaclass keeps fields apart from attributes
    help = serializers.CharField()
    unit = serializers.CharField()
    type = serializers.ChoiceField(choices=["number", "text", "choice"])
    choices = serializers.ListField(child=serializers.CharField())
    default = serializers.JSONField(allow_null=True)


class MethodSerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    title = serializers.CharField()
    description = serializers.CharField()
    defaults = ObjectField()
    fields_shown = FieldSerializer(many=True)


class MethodListSerializer(serializers.Serializer[Any]):
    items = MethodSerializer(many=True)
    next = serializers.CharField(allow_null=True)


class MethodsView(ProjectView):
    """Training methods with their defaults."""

    @extend_schema(
        operation_id="methods_list",
        responses=MethodListSerializer,
        parameters=[OpenApiParameter("model", OpenApiTypes.UUID, description="Base model: its size sets defaults.")],
    )
    def get(self, request: Request, slug: str) -> Response:
        """The complete default config of each method, and the settings that a form shows."""
        wanted = request.query_params.get("model")
        model = registry.find(self.project, serializers.UUIDField().run_validation(wanted)) if wanted else None
        items = []
        for method in METHODS:
            config = defaults(method.name, model)
            shown = []
            for field in method.fields:
                value = value_at(config, field.path)
                kind = "choice" if field.choices else "text" if isinstance(value, str) else "number"
                shown.append(asdict(field) | {"type": kind, "default": value, "choices": list(field.choices)})
            items.append(
                {
                    "name": method.name,
                    "title": method.title,
                    "description": method.description,
                    "defaults": config,
                    "fields_shown": shown,
                }
            )
        return Response(MethodListSerializer({"items": items, "next": None}).data)


class JobCreateSerializer(serializers.Serializer[Any]):
    method = serializers.CharField(max_length=24)
    snapshot = serializers.UUIDField()
    model = serializers.UUIDField()
    config = ObjectField(required=False)
    title = serializers.CharField(max_length=200, required=False, allow_blank=True)


class JobsView(ProjectView):
    """Jobs of the project."""

    write_scope = TokenScope.JOBS

    @extend_schema(operation_id="jobs_list", responses=JobListSerializer, parameters=CURSOR_PARAMETERS)
    def get(self, request: Request, slug: str) -> Response:
        """Jobs, newest first."""
        context = {"now": timezone.now()}
        return page(
            request, queries.jobs(self.project), lambda rows: list(JobSerializer(rows, many=True, context=context).data)
        )

    @extend_schema(operation_id="jobs_submit", request=JobCreateSerializer, responses={201: JobDetailSerializer})
    def post(self, request: Request, slug: str) -> Response:
        """Train on a snapshot. `config` holds what differs from the method's defaults; it is checked here."""
        data = JobCreateSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        values = data.validated_data
        overrides = values.get("config", {})
        if not isinstance(overrides, dict):
            raise ValidationError({"config": [f"must be an object, got {overrides!r}"]})
        snapshot = Snapshot.objects.filter(project=self.project, public_id=values["snapshot"]).first()
        if snapshot is None:
            raise UnknownSnapshot(
                f"snapshot: there is no snapshot {values['snapshot']}", details={"snapshot": ["unknown"]}
            )
        job = launch(
            project=self.project,
            method=values["method"],
            snapshot=snapshot,
            model=registry.find(self.project, values["model"]),
            overrides=overrides,
            title=values.get("title", ""),
            by=user_of(request),
            now=timezone.now(),
        )
        return _job_answer(self, job.public_id, status.HTTP_201_CREATED)


class UnknownSnapshot(registry.UnknownModel):
    """No such snapshot in this project."""

    code = "unknown_snapshot"


class JobView(ProjectView):
    """One job."""

    @extend_schema(operation_id="jobs_show", responses=JobDetailSerializer)
    def get(self, request: Request, slug: str, public_id: UUID) -> Response:
        """The job with its attempts, checkpoints, config and latest metrics."""
        return _job_answer(self, public_id, status.HTTP_200_OK)


class JobMetricsView(ProjectView):
    """The curve."""

    @extend_schema(
        operation_id="jobs_metrics",
        responses=MetricPageSerializer,
        parameters=[OpenApiParameter("after", int), OpenApiParameter("limit", int)],
    )
    def get(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Points after a cursor. A step that comes again (a later attempt) replaces the earlier one."""
        job = _job(self, public_id)
        terminal = queries.is_terminal(job)  # read before the rows: a job that ends in between is asked once more
        after = whole_number(request, "after", default=0, low=0, high=2**53)
        limit = whole_number(request, "limit", default=1000, low=1, high=2000)
        rows = queries.metrics_after(job, after=after, limit=limit)
        items = [{"seq": row.pk, "step": row.step, "time": row.time, "values": row.values} for row in rows]
        return _cursor_answer(items, after=after, terminal=terminal and len(rows) < limit)


class JobSamplesView(ProjectView):
    """What the model wrote at each evaluation."""

    @extend_schema(
        operation_id="jobs_samples",
        responses=SamplePageSerializer,
        parameters=[OpenApiParameter("after", int), OpenApiParameter("limit", int)],
    )
    def get(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Samples after a cursor."""
        job = _job(self, public_id)
        terminal = queries.is_terminal(job)
        after = whole_number(request, "after", default=0, low=0, high=2**53)
        limit = whole_number(request, "limit", default=500, low=1, high=2000)
        rows = queries.samples_after(job, after=after, limit=limit)
        shown = ("prompt_id", "prompt", "completion", "finish", "score", "reward", "kl", "length")
        items = [{"seq": row.pk, "step": row.step, **{key: row.body.get(key) for key in shown}} for row in rows]
        return _cursor_answer(items, after=after, terminal=terminal and len(rows) < limit)


class JobLogView(ProjectView):
    """The end of the log."""

    @extend_schema(operation_id="jobs_log", responses=LogSerializer)
    def get(self, request: Request, slug: str, public_id: UUID) -> Response:
        """The last lines of the engine's standard error, secrets filtered."""
        return Response({"lines": queries.log_lines(_job(self, public_id))})


class JobCancelView(ProjectView):
    """Stop."""

    write_scope = TokenScope.JOBS

    @extend_schema(operation_id="jobs_cancel", request=None, responses=JobDetailSerializer)
    def post(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Stop the job after the step it is in; its last checkpoint stays usable."""
        job = _job(self, public_id)
        cancel(job)
        audit(
            project=self.project, by=user_of(request), action="job.cancelled", target=str(public_id), now=timezone.now()
        )
        return _job_answer(self, public_id, status.HTTP_200_OK)


class JobRetryView(ProjectView):
    """Try again."""

    write_scope = TokenScope.JOBS

    @extend_schema(operation_id="jobs_retry", request=None, responses=JobDetailSerializer)
    def post(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Queue a failed or cancelled job again; it goes on from its newest checkpoint."""
        retry(_job(self, public_id))
        audit(
            project=self.project, by=user_of(request), action="job.retried", target=str(public_id), now=timezone.now()
        )
        return _job_answer(self, public_id, status.HTTP_200_OK)


class PromoteSerializer(serializers.Serializer[Any]):
    name = serializers.CharField(max_length=120)
    checkpoint = serializers.UUIDField(required=False, allow_null=True)


class JobPromoteView(ProjectView):
    """Make a model of a checkpoint."""

    write_scope = TokenScope.JOBS

    @extend_schema(operation_id="jobs_promote", request=PromoteSerializer, responses={202: JobDetailSerializer})
    def post(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Queue the merge of a checkpoint (the last one if none is named); the model is registered when it is done."""
        job = _job(self, public_id)
        data = PromoteSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        wanted = data.validated_data.get("checkpoint")
        checkpoint = queries.best_checkpoint(job) if wanted is None else queries.checkpoint_of(job, wanted)
        if checkpoint is None:
            raise ValidationError(
                {"checkpoint": ["this job has no such checkpoint" if wanted else "this job has no checkpoint yet"]}
            )
        made = registry.promote(
            checkpoint=checkpoint, name=data.validated_data["name"], by=user_of(request), now=timezone.now()
        )
        return _job_answer(self, made.public_id, status.HTTP_202_ACCEPTED)


class RoundCreateSerializer(serializers.Serializer[Any]):
    policies = serializers.ListField(child=serializers.UUIDField(), min_length=1, max_length=MOST_POLICIES)
    name = serializers.CharField(max_length=120, required=False, allow_blank=True)
    prompts = serializers.IntegerField(min_value=1, required=False, allow_null=True)
    completions = serializers.IntegerField(min_value=1, max_value=16, required=False)
    temperature = FiniteFloatField(min_value=0, max_value=5, required=False)
    top_p = FiniteFloatField(min_value=0.01, max_value=1, required=False)
    max_new_tokens = serializers.IntegerField(min_value=1, max_value=4096, required=False)
    seed = serializers.IntegerField(min_value=0, max_value=2**31 - 1, required=False)
    overlap = serializers.IntegerField(min_value=1, max_value=99, required=False, allow_null=True)


class RoundsView(ProjectView):
    """Rounds of sampling."""

    write_scope = TokenScope.JOBS

    @extend_schema(operation_id="rounds_list", responses=RoundListSerializer, parameters=CURSOR_PARAMETERS)
    def get(self, request: Request, slug: str) -> Response:
        """Rounds, newest first, with their progress."""
        context = {"now": timezone.now()}
        return page(
            request,
            queries.rounds(self.project),
            lambda rows: list(RoundSerializer(rows, many=True, context=context).data),
        )

    @extend_schema(operation_id="rounds_start", request=RoundCreateSerializer, responses={201: RoundSerializer})
    def post(self, request: Request, slug: str) -> Response:
        """Sample from policies into fresh comparisons. With several policies, completions of different ones meet."""
        data = RoundCreateSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        values, now = data.validated_data, timezone.now()
        policies = [registry.find(self.project, item, kind=ModelKind.POLICY) for item in values["policies"]]
        plan_keys = ("completions", "temperature", "top_p", "max_new_tokens", "seed")
        plan = {key: values[key] for key in plan_keys if key in values}
        plan.setdefault("completions", 2 if len(policies) == 1 else 1)
        made = start_round(
            project=self.project,
            policies=policies,
            plan=SamplingPlan(**plan),
            prompts=values.get("prompts"),
            overlap=values.get("overlap"),
            name=values.get("name", ""),
            by=user_of(request),
            now=now,
        )
        found = queries.rounds(self.project).get(pk=made.pk)
        return Response(RoundSerializer(found, context={"now": now}).data, status=status.HTTP_201_CREATED)


class RoundView(ProjectView):
    """One round."""

    @extend_schema(operation_id="rounds_show", responses=RoundSerializer)
    def get(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Its policies, settings and progress."""
        found: Round | None = queries.rounds(self.project).filter(public_id=public_id).first()
        if found is None:
            raise Http404
        return Response(RoundSerializer(found, context={"now": timezone.now()}).data)


class MetricInfoSerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    unit = serializers.CharField()
    help = serializers.CharField()
    better = serializers.ChoiceField(choices=["higher", "lower"], allow_null=True)


class MetricInfoListSerializer(serializers.Serializer[Any]):
    items = MetricInfoSerializer(many=True)
    next = serializers.CharField(allow_null=True)


class MetricsView(APIView):
    """What the engine's numbers mean."""

    permission_classes = (IsAuthenticated,)

    @extend_schema(operation_id="metrics_list", responses=MetricInfoListSerializer)
    def get(self, request: Request) -> Response:
        """Every metric with its unit and meaning."""
        items = [
            {"name": name, "unit": metric.unit, "help": metric.help, "better": metric.better}
            for name, metric in METRICS.items()
        ]
        return Response({"items": items, "next": None})


def _snapshot(view: ProjectView, public_id: UUID) -> Snapshot:
    snapshot: Snapshot | None = queries.snapshots(view.project).filter(public_id=public_id).first()
    if snapshot is None:
        raise Http404
    return snapshot


def _job(view: ProjectView, public_id: UUID) -> Job:
    job = queries.jobs(view.project).filter(public_id=public_id).first()
    if job is None:
        raise Http404
    return job


def _job_answer(view: ProjectView, public_id: UUID, code: int) -> Response:
    job = _job(view, public_id)
    return Response(JobDetailSerializer(job, context={"now": timezone.now()}).data, status=code)


def _cursor_answer(items: list[dict[str, Any]], *, after: int, terminal: bool) -> Response:
    return Response({"items": items, "next_after": items[-1]["seq"] if items else after, "terminal": terminal})
