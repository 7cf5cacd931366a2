"""Jobs: submit, watch, stop, retry, promote."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.http import Http404
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, status
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from annotation.api.access import ProjectView, user_of
from annotation.api.pagination import CURSOR_PARAMETERS, page, whole_number
from annotation.models import TokenScope
from training import queries, registry
from training.api.serializers import (
    JobDetailSerializer,
    JobListSerializer,
    JobSerializer,
    LogSerializer,
    MetricPageSerializer,
    ObjectField,
    SamplePageSerializer,
)
from training.jobs import cancel, retry
from training.launching import launch
from training.models import Job, Snapshot


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
        cancel(job, by=user_of(request))
        return _job_answer(self, public_id, status.HTTP_200_OK)


class JobRetryView(ProjectView):
    """Try again."""

    write_scope = TokenScope.JOBS

    @extend_schema(operation_id="jobs_retry", request=None, responses=JobDetailSerializer)
    def post(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Queue a failed or cancelled job again; it goes on from its newest checkpoint."""
        retry(_job(self, public_id), by=user_of(request))
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
