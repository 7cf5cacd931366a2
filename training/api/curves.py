"""Curves of jobs, thinned for the screen, compared and exported."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

from django.http import Http404, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.urls import URLPattern, path
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from annotation.api.access import ProjectView
from annotation.api.pagination import whole_number
from annotation.api.parsing import query_text
from annotation.api.task import MessageSerializer
from training import curves, queries
from training.api.serializers import NumbersField, person
from training.curves import MAIN, MOST_JOBS, MOST_NAMES
from training.models import Job, JobStatus

_NAMES = OpenApiParameter("names", str, description=f"Metrics, with commas between them, {MOST_NAMES} at most.")
_POINTS = OpenApiParameter("points", int, description="Most points of a curve, 10 to 5000, default 500.")
_IDS = OpenApiParameter("ids", str, required=True, description=f"Jobs, with commas between them, {MOST_JOBS} at most.")
_BINARY = OpenApiTypes.BINARY
MARKS = ("resumed", "diverged", "alarm")


class CurveSerializer(serializers.Serializer[Any]):
    """Three columns of one length. `points` is how many there were before thinning."""

    name = serializers.CharField()
    points = serializers.IntegerField()
    steps = serializers.ListField(child=serializers.IntegerField())
    times = serializers.ListField(child=serializers.FloatField())
    values = serializers.ListField(child=serializers.FloatField())


class MarkSerializer(serializers.Serializer[Any]):
    """`name` is that of the metric that was not finite, or of the alarm."""

    step = serializers.IntegerField()
    kind = serializers.ChoiceField(choices=MARKS)
    attempt = serializers.IntegerField(allow_null=True)
    name = serializers.CharField()
    text = serializers.CharField()


class CurvesSerializer(serializers.Serializer[Any]):
    """Points in `first_step` to `last_step` replace those that an earlier answer gave there.

    Reading on from `next_after`, here or by the metrics' own cursor, misses nothing.
    """

    curves = CurveSerializer(many=True)
    marks = MarkSerializer(many=True)
    next_after = serializers.IntegerField()
    first_step = serializers.IntegerField(allow_null=True)
    last_step = serializers.IntegerField(allow_null=True)
    stride = serializers.IntegerField(help_text="Above 1: the run is so long that every so manieth line was read.")


class JobCurvesSerializer(CurvesSerializer):
    terminal = serializers.BooleanField()


class ComparedJobSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField(source="public_id")
    number = serializers.IntegerField()
    title = serializers.CharField()
    method = serializers.CharField()
    status = serializers.ChoiceField(choices=JobStatus.choices)
    step = serializers.IntegerField(source="last_step", allow_null=True)
    steps = serializers.IntegerField(allow_null=True)
    started_at = serializers.DateTimeField(allow_null=True)
    ended_at = serializers.DateTimeField(allow_null=True)
    created_by = serializers.SerializerMethodField()
    curves = CurvesSerializer()
    finals = NumbersField()

    def get_created_by(self, row: dict[str, Any]) -> str | None:
        return person(row["created_by"])


@extend_schema_field({})
class AnyField(serializers.JSONField):
    """Anything."""


class DifferenceSerializer(serializers.Serializer[Any]):
    key = serializers.CharField()
    values = serializers.ListField(child=AnyField(allow_null=True))


class WrittenSerializer(serializers.Serializer[Any]):
    step = serializers.IntegerField()
    completion = serializers.CharField(source="body.completion", default="")
    score = serializers.FloatField(source="body.score", allow_null=True, default=None)


class SideBySideSerializer(serializers.Serializer[Any]):
    """What each job wrote for one prompt at its last evaluation, in the order of the jobs."""

    prompt = MessageSerializer(many=True)
    samples = serializers.ListField(child=WrittenSerializer(allow_null=True))


class JobsComparedSerializer(serializers.Serializer[Any]):
    """Jobs in the order asked for. `differences` are the keys of the config that are not alike in all, `alike` counts
    the others."""

    jobs = ComparedJobSerializer(many=True)
    differences = DifferenceSerializer(many=True)
    alike = serializers.IntegerField()
    samples = SideBySideSerializer(many=True)


class JobCurvesView(ProjectView):
    """Curves for the screen."""

    @extend_schema(
        operation_id="jobs_curves",
        responses=JobCurvesSerializer,
        parameters=[_NAMES, _POINTS, OpenApiParameter("after", int, description="`next_after` of an earlier answer.")],
    )
    def get(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Every metric of the job, or those named, thinned so that no spike is lost, and what happened at which step.

        For a page that opens, and for one that comes back after a break: `after` gives what it missed, thinned too.
        """
        job = _job(self, public_id)
        terminal = queries.is_terminal(job)  # read before the rows: a job that ends in between is asked once more
        found = curves.curves(
            job,
            names=_names(request),
            points=_points(request),
            after=whole_number(request, "after", default=0, low=0, high=2**53),
        )
        return Response(JobCurvesSerializer(_curves_body(found) | {"terminal": terminal}).data)


class JobsCompareView(ProjectView):
    """Several jobs side by side."""

    @extend_schema(operation_id="jobs_compare", responses=JobsComparedSerializer, parameters=[_IDS, _NAMES, _POINTS])
    def get(self, request: Request, slug: str) -> Response:
        """Curves, final metrics, the config keys that differ, and completions for the same prompts."""
        jobs = _jobs(self, request)
        found = curves.compare(jobs, names=_names(request, default=MAIN), points=_points(request))
        body = {
            "jobs": [
                {**{name: vars(job)[name] for name in _SHOWN}, "created_by": job.created_by}
                | {"curves": _curves_body(own), "finals": finals}
                for job, own, finals in zip(jobs, found.curves, found.finals, strict=True)
            ],
            "differences": found.differences,
            "alike": found.alike,
            "samples": found.samples,
        }
        return Response(JobsComparedSerializer(body).data)


class JobCsvView(ProjectView):
    """All metrics as CSV."""

    @extend_schema(operation_id="jobs_metrics_csv", responses={(200, "text/csv"): OpenApiTypes.STR})
    def get(self, request: Request, slug: str, public_id: UUID) -> HttpResponseBase:
        """Every step once, from the latest attempt that has it, with one column for each metric."""
        job = _job(self, public_id)
        return _file(curves.csv_file(job), f"{self.project.slug}-job-{job.number}.csv", "text/csv")


class JobTensorBoardView(ProjectView):
    """All metrics for TensorBoard."""

    @extend_schema(operation_id="jobs_tensorboard", responses={(200, "application/octet-stream"): _BINARY})
    def get(self, request: Request, slug: str, public_id: UUID) -> HttpResponseBase:
        """An event file; put it into a directory of its own and start `tensorboard --logdir` above it."""
        job = _job(self, public_id)
        return _file(curves.event_file(job), curves.event_file_name(job), "application/octet-stream")


class JobsTensorBoardView(ProjectView):
    """Several jobs for TensorBoard."""

    @extend_schema(
        operation_id="jobs_tensorboard_archive", responses={(200, "application/zip"): _BINARY}, parameters=[_IDS]
    )
    def get(self, request: Request, slug: str) -> HttpResponseBase:
        """A ZIP with a directory for each job, to be unpacked below `tensorboard --logdir`."""
        jobs = _jobs(self, request)
        return _file(curves.event_archive(jobs), f"{self.project.slug}-tensorboard.zip", "application/zip")


_SHOWN = ("public_id", "number", "title", "method", "status", "last_step", "steps", "started_at", "ended_at")


def _curves_body(found: curves.Curves) -> dict[str, Any]:
    names = ("curves", "marks", "next_after", "first_step", "last_step", "stride")
    values = (found.curves, found.marks, found.next_after, found.first_step, found.last_step, found.stride)
    return dict(zip(names, values, strict=True))


def _file(pieces: Iterator[bytes], name: str, content_type: str) -> HttpResponseBase:
    response = StreamingHttpResponse(pieces, content_type=content_type)
    response["Content-Disposition"] = f'attachment; filename="{name}"'
    response["X-Content-Type-Options"] = "nosniff"
    return response


def _names(request: Request, *, default: Sequence[str] = ()) -> list[str]:
    names = list(dict.fromkeys(name for name in query_text(request, "names").split(",") if name))
    if len(names) > MOST_NAMES:
        raise ValidationError({"names": [f"at most {MOST_NAMES}, got {len(names)}"]})
    return names or list(default)


def _points(request: Request) -> int:
    return whole_number(request, "points", default=500, low=10, high=5000)


def _job(view: ProjectView, public_id: UUID) -> Job:
    job = Job.objects.filter(project=view.project, public_id=public_id).first()
    if job is None:
        raise Http404
    return job


def _jobs(view: ProjectView, request: Request) -> list[Job]:
    """The jobs of `ids`, in that order.

    Raises:
        ValidationError: none, too many, or one that this project does not have.
    """
    given = list(dict.fromkeys(item for item in query_text(request, "ids").split(",") if item))
    if not 1 <= len(given) <= MOST_JOBS:
        raise ValidationError({"ids": [f"name 1 to {MOST_JOBS} jobs, got {len(given)}"]})
    try:
        ids = [UUID(item) for item in given]
    except ValueError:
        raise ValidationError({"ids": [f"must be ids of jobs with commas between them, got {given!r}"]}) from None
    rows = Job.objects.filter(project=view.project, public_id__in=ids)
    found = {job.public_id: job for job in rows.select_related("snapshot", "model", "created_by")}
    missing = [str(item) for item in ids if item not in found]
    if missing:
        raise ValidationError({"ids": [f"this project has no job {missing[0]}"]})
    return [found[item] for item in ids]


_JOBS = "projects/<slug:slug>/jobs"

urlpatterns: list[URLPattern] = [
    path(f"{_JOBS}/compare", JobsCompareView.as_view()),
    path(f"{_JOBS}/tensorboard", JobsTensorBoardView.as_view()),
    path(f"{_JOBS}/<uuid:public_id>/curves", JobCurvesView.as_view()),
    path(f"{_JOBS}/<uuid:public_id>/metrics.csv", JobCsvView.as_view()),
    path(f"{_JOBS}/<uuid:public_id>/tensorboard", JobTensorBoardView.as_view()),
]
