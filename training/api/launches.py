"""Before jobs and around them: what one would take, several at once, one again, and how many a project may have."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import transaction
from django.urls import URLPattern, path
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from annotation.api.access import OwnerView, ProjectView, user_of
from annotation.errors import DomainError
from annotation.gate import write
from annotation.models import TokenScope, User
from training import queries, quotas, sweeps
from training.api.serializers import JobDetailSerializer, JobListSerializer, JobSerializer, ObjectField
from training.api.wishes import WishSerializer, find_checkpoint, find_job, job_answer, read_wish
from training.estimates import estimate
from training.launching import MOST_PRIORITY, clone, prepare, queue
from training.models import Job

MOST_JOBS = 12


class JobEstimateBasisSerializer(serializers.Serializer[Any]):
    """What each figure was reckoned from; a figure that cannot be known has none."""

    steps = serializers.CharField(required=False)
    tokens = serializers.CharField(required=False)
    memory_bytes = serializers.CharField(required=False)
    seconds = serializers.CharField(required=False)


class JobEstimateSerializer(serializers.Serializer[Any]):
    """What a job would take. `notes` say what will be left out, or why the run would be refused."""

    steps = serializers.IntegerField(allow_null=True)
    iterations = serializers.IntegerField(allow_null=True)
    examples = serializers.IntegerField(allow_null=True)
    dropped = serializers.IntegerField(allow_null=True)
    tokens = serializers.IntegerField(allow_null=True)
    memory_bytes = serializers.IntegerField(allow_null=True)
    seconds = serializers.FloatField(allow_null=True)
    seconds_basis = serializers.CharField(source="basis.seconds", default="")
    basis = JobEstimateBasisSerializer()
    notes = serializers.ListField(child=serializers.CharField())


class JobEstimateView(ProjectView):
    """The dry run."""

    write_scope = TokenScope.READ

    @extend_schema(operation_id="jobs_estimate", request=WishSerializer, responses=JobEstimateSerializer)
    def post(self, request: Request, slug: str) -> Response:
        """Check a job as if it were submitted, and say what it would take; nothing is queued."""
        prepared = prepare(self.project, read_wish(self.project, request.data))
        return Response(JobEstimateSerializer(estimate(prepared)).data)


class ChainSerializer(serializers.Serializer[Any]):
    jobs = WishSerializer(many=True)


class JobChainView(ProjectView):
    """Several at once."""

    write_scope = TokenScope.JOBS

    @extend_schema(operation_id="jobs_chain", request=ChainSerializer, responses={201: JobListSerializer})
    def post(self, request: Request, slug: str) -> Response:
        """Queue jobs in this order, all or none. A later one names an earlier one's `promote_as` in its inputs."""
        bodies = request.data.get("jobs") if isinstance(request.data, dict) else None
        if not isinstance(bodies, list) or not 1 <= len(bodies) <= MOST_JOBS:
            raise ValidationError({"jobs": [f"must be a list of 1 to {MOST_JOBS} jobs"]})
        now = timezone.now()
        with write(), transaction.atomic():
            made = [self._queue(body, place, by=user_of(request), now=now) for place, body in enumerate(bodies)]
        return _list_answer(self, made)

    def _queue(self, body: Any, place: int, *, by: User, now: datetime) -> Job:
        try:
            return queue(prepare(self.project, read_wish(self.project, body)), by=by, now=now)
        except DomainError as error:  # said of one of several
            error.details = {f"jobs.{place}.{field}": said for field, said in error.details.items()}
            raise


class SweepSerializer(WishSerializer):
    """One job for each point of `grid`: values by the dotted path of a setting."""

    grid = ObjectField()


class JobSweepView(ProjectView):
    """A grid."""

    write_scope = TokenScope.JOBS

    @extend_schema(operation_id="jobs_sweep", request=SweepSerializer, responses={201: JobListSerializer})
    def post(self, request: Request, slug: str) -> Response:
        """Queue a job for each point of a grid, at most 24, all or none; they share one `sweep`."""
        grid = request.data.get("grid") if isinstance(request.data, dict) else None
        if not isinstance(grid, dict):
            raise ValidationError({"grid": [f"must be an object of lists, got {grid!r}"]})
        prepared = sweeps.prepare_sweep(self.project, read_wish(self.project, request.data), grid)
        made = sweeps.launch_sweep(prepared, by=user_of(request), now=timezone.now())
        return _list_answer(self, made)


class CloneSerializer(serializers.Serializer[Any]):
    changes = ObjectField(required=False, help_text="Settings that differ from the job's.")
    title = serializers.CharField(max_length=200, required=False, allow_blank=True)
    checkpoint = serializers.UUIDField(required=False, allow_null=True, help_text="Of the job, to go on from.")
    priority = serializers.IntegerField(min_value=-MOST_PRIORITY, max_value=MOST_PRIORITY, required=False)


class JobCloneView(ProjectView):
    """Once more."""

    write_scope = TokenScope.JOBS

    @extend_schema(operation_id="jobs_clone", request=CloneSerializer, responses={201: JobDetailSerializer})
    def post(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Queue the job once more, with some settings changed, from its start or from one of its checkpoints."""
        job = find_job(self, public_id)
        data = CloneSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        values = data.validated_data
        changes = values.get("changes", {})
        if not isinstance(changes, dict):
            raise ValidationError({"changes": [f"must be an object, got {changes!r}"]})
        made = clone(
            job,
            changes=changes,
            title=values.get("title", ""),
            checkpoint=find_checkpoint(self.project, values.get("checkpoint")),
            priority=values.get("priority"),
            by=user_of(request),
            now=timezone.now(),
        )
        return job_answer(self, made.public_id, status.HTTP_201_CREATED)


class QuotaChangeSerializer(serializers.Serializer[Any]):
    """Null is no limit. `running` 0 holds every job of the project back."""

    running = serializers.IntegerField(allow_null=True, min_value=0, max_value=quotas.MOST)
    queued = serializers.IntegerField(allow_null=True, min_value=0, max_value=quotas.MOST)


class QuotaSerializer(QuotaChangeSerializer):
    """The quota, and what is taken of it now."""

    running_now = serializers.IntegerField()
    queued_now = serializers.IntegerField()


class QuotaView(OwnerView):
    """How much of the workers the project may take."""

    @extend_schema(operation_id="quota_show", responses=QuotaSerializer)
    def get(self, request: Request, slug: str) -> Response:
        """The most jobs that may run and wait, and how many do."""
        return Response(QuotaSerializer(quotas.read(self.project)).data)

    @extend_schema(operation_id="quota_change", request=QuotaChangeSerializer, responses=QuotaSerializer)
    def put(self, request: Request, slug: str) -> Response:
        """Set both limits (owners only). Jobs that run already go on."""
        data = QuotaChangeSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        use = quotas.change(project=self.project, **data.validated_data, by=user_of(request), now=timezone.now())
        return Response(QuotaSerializer(use).data)


def _list_answer(view: ProjectView, made: list[Job]) -> Response:
    """The jobs in the order they were made."""
    rows = queries.jobs(view.project).filter(pk__in=[job.pk for job in made]).order_by("pk")
    items = JobSerializer(rows, many=True, context={"now": timezone.now()}).data
    return Response({"items": items, "next": None}, status=status.HTTP_201_CREATED)


_JOBS = "projects/<slug:slug>/jobs"
urlpatterns: list[URLPattern] = [
    path(f"{_JOBS}/estimate", JobEstimateView.as_view()),
    path(f"{_JOBS}/chain", JobChainView.as_view()),
    path(f"{_JOBS}/sweep", JobSweepView.as_view()),
    path(f"{_JOBS}/<uuid:public_id>/clone", JobCloneView.as_view()),
    path("projects/<slug:slug>/quota", QuotaView.as_view()),
]
