"""Jobs: submit, watch, stop, retry, promote."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
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
    SamplePageSerializer,
)
from training.api.wishes import WishSerializer, find_job, job_answer, read_wish
from training.jobs import cancel, reprioritise, retry
from training.launching import MOST_PRIORITY, prepare, queue


class JobsView(ProjectView):
    """Jobs of the project."""

    write_scope = TokenScope.JOBS

    @extend_schema(
        operation_id="jobs_list",
        responses=JobListSerializer,
        parameters=[
            *CURSOR_PARAMETERS,
            OpenApiParameter("method", str, description="Only those of this method."),
            OpenApiParameter("status", str, description="Only those that stand so."),
            OpenApiParameter("sweep", OpenApiTypes.UUID, description="Only those of this grid."),
        ],
    )
    def get(self, request: Request, slug: str) -> Response:
        """Jobs, newest first."""
        context = {"now": timezone.now()}
        rows = queries.jobs(self.project)
        for name in ("method", "status", "sweep"):
            wanted = request.query_params.get(name)
            if wanted is not None:
                value = serializers.UUIDField().run_validation(wanted) if name == "sweep" else wanted
                rows = rows.filter(**{name: value})
        return page(request, rows, lambda found: list(JobSerializer(found, many=True, context=context).data))

    @extend_schema(operation_id="jobs_submit", request=WishSerializer, responses={201: JobDetailSerializer})
    def post(self, request: Request, slug: str) -> Response:
        """Queue a job. `config` holds what differs from the method's defaults; everything is checked here.

        Further models go into `inputs` by role, each as {"model": id}, {"job": id of a promotion} or {"name": name}.
        With `promote_as` the best checkpoint is registered under that name once the job has succeeded.
        """
        job = queue(
            prepare(self.project, read_wish(self.project, request.data)), by=user_of(request), now=timezone.now()
        )
        return job_answer(self, job.public_id, status.HTTP_201_CREATED)


class JobPrioritySerializer(serializers.Serializer[Any]):
    priority = serializers.IntegerField(min_value=-MOST_PRIORITY, max_value=MOST_PRIORITY)


class JobView(ProjectView):
    """One job."""

    write_scope = TokenScope.JOBS

    @extend_schema(operation_id="jobs_show", responses=JobDetailSerializer)
    def get(self, request: Request, slug: str, public_id: UUID) -> Response:
        """The job with its attempts, checkpoints, config and latest metrics."""
        return job_answer(self, public_id, status.HTTP_200_OK)

    @extend_schema(operation_id="jobs_change", request=JobPrioritySerializer, responses=JobDetailSerializer)
    def patch(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Move a job that waits forward (a higher priority) or back in its queue."""
        job = find_job(self, public_id)
        data = JobPrioritySerializer(data=request.data)
        data.is_valid(raise_exception=True)
        reprioritise(job, priority=data.validated_data["priority"], by=user_of(request))
        return job_answer(self, public_id, status.HTTP_200_OK)


class JobMetricsView(ProjectView):
    """The curve."""

    @extend_schema(
        operation_id="jobs_metrics",
        responses=MetricPageSerializer,
        parameters=[OpenApiParameter("after", int), OpenApiParameter("limit", int)],
    )
    def get(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Points after a cursor. A step that comes again (a later attempt) replaces the earlier one."""
        job = find_job(self, public_id)
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
        job = find_job(self, public_id)
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
        return Response({"lines": queries.log_lines(find_job(self, public_id))})


class JobCancelView(ProjectView):
    """Stop."""

    write_scope = TokenScope.JOBS

    @extend_schema(operation_id="jobs_cancel", request=None, responses=JobDetailSerializer)
    def post(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Stop the job after the step it is in; its last checkpoint stays usable."""
        job = find_job(self, public_id)
        cancel(job, by=user_of(request))
        return job_answer(self, public_id, status.HTTP_200_OK)


class JobRetryView(ProjectView):
    """Try again."""

    write_scope = TokenScope.JOBS

    @extend_schema(operation_id="jobs_retry", request=None, responses=JobDetailSerializer)
    def post(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Queue a failed or cancelled job again; it goes on from its newest checkpoint."""
        retry(find_job(self, public_id), by=user_of(request))
        return job_answer(self, public_id, status.HTTP_200_OK)


class PromoteSerializer(serializers.Serializer[Any]):
    name = serializers.CharField(max_length=120)
    checkpoint = serializers.UUIDField(required=False, allow_null=True)
    current = serializers.BooleanField(required=False, help_text="Once it is there, the project goes on from it.")


class JobPromoteView(ProjectView):
    """Make a model of a checkpoint."""

    write_scope = TokenScope.JOBS

    @extend_schema(operation_id="jobs_promote", request=PromoteSerializer, responses={202: JobDetailSerializer})
    def post(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Queue the merge of a checkpoint (the last one if none is named); the model is registered when it is done."""
        job = find_job(self, public_id)
        data = PromoteSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        wanted = data.validated_data.get("checkpoint")
        checkpoint = queries.best_checkpoint(job) if wanted is None else queries.checkpoint_of(job, wanted)
        if checkpoint is None:
            raise ValidationError(
                {"checkpoint": ["this job has no such checkpoint" if wanted else "this job has no checkpoint yet"]}
            )
        made = registry.promote(
            checkpoint=checkpoint,
            name=data.validated_data["name"],
            make_it_current=data.validated_data.get("current", False),
            by=user_of(request),
            now=timezone.now(),
        )
        return job_answer(self, made.public_id, status.HTTP_202_ACCEPTED)


def _cursor_answer(items: list[dict[str, Any]], *, after: int, terminal: bool) -> Response:
    return Response({"items": items, "next_after": items[-1]["seq"] if items else after, "terminal": terminal})
