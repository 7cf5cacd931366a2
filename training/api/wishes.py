"""What a person asks of the workers, as a request says it; and a job, as every answer about one shows it."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.http import Http404
from django.utils import timezone
from rest_framework import serializers
from rest_framework.exceptions import ValidationError
from rest_framework.response import Response

from annotation.api.access import ProjectView
from annotation.models import Project
from training import queries, registry
from training.api.serializers import JobDetailSerializer, ObjectField
from training.launching import MOST_PRIORITY, Wish
from training.models import Checkpoint, Job, Snapshot


class UnknownSnapshot(registry.UnknownModel):
    """No such snapshot in this project."""

    code = "unknown_snapshot"


class WishSerializer(serializers.Serializer[Any]):
    """A job to be. `GET methods` says what each method must be given."""

    method = serializers.CharField(max_length=24)
    snapshot = serializers.UUIDField(required=False, allow_null=True)
    model = serializers.UUIDField(required=False, allow_null=True)
    config = ObjectField(required=False)
    inputs = ObjectField(required=False, help_text="Further models by role, a list of references each.")
    after = serializers.ListField(child=serializers.UUIDField(), required=False, help_text="Jobs to wait for.")
    checkpoint = serializers.UUIDField(required=False, allow_null=True, help_text="To go on from.")
    preset = serializers.CharField(max_length=40, required=False, allow_blank=True)
    machine = serializers.CharField(max_length=40, required=False, allow_blank=True)
    title = serializers.CharField(max_length=200, required=False, allow_blank=True)
    priority = serializers.IntegerField(min_value=-MOST_PRIORITY, max_value=MOST_PRIORITY, required=False)
    promote_as = serializers.CharField(max_length=120, required=False, allow_blank=True)
    make_current = serializers.BooleanField(required=False)


def read_wish(project: Project, body: Any) -> Wish:
    """The rows that a request means.

    Raises:
        ValidationError: the body does not fit. UnknownSnapshot, UnknownModel: a row that this project does not have.
    """
    data = WishSerializer(data=body)
    data.is_valid(raise_exception=True)
    values = data.validated_data
    for name in ("config", "inputs"):
        if not isinstance(values.get(name, {}), dict):
            raise ValidationError({name: [f"must be an object, got {values[name]!r}"]})
    return Wish(
        method=values["method"],
        snapshot=_snapshot(project, values.get("snapshot")),
        model=None if values.get("model") is None else registry.find(project, values["model"]),
        overrides=values.get("config", {}),
        inputs=values.get("inputs", {}),
        after=find_jobs(project, values.get("after", [])),
        checkpoint=find_checkpoint(project, values.get("checkpoint")),
        **{
            name: values[name]
            for name in ("preset", "machine", "title", "priority", "promote_as", "make_current")
            if name in values
        },
    )


def _snapshot(project: Project, public_id: UUID | None) -> Snapshot | None:
    if public_id is None:
        return None
    found = Snapshot.objects.filter(project=project, public_id=public_id).first()
    if found is None:
        raise UnknownSnapshot(f"snapshot: there is no snapshot {public_id}", details={"snapshot": ["unknown"]})
    return found


def find_jobs(project: Project, public_ids: list[UUID]) -> tuple[Job, ...]:
    """Jobs of the project; 400 names one that it does not have."""
    found = {job.public_id: job for job in Job.objects.filter(project=project, public_id__in=public_ids)}
    lost = next((public_id for public_id in public_ids if public_id not in found), None)
    if lost is not None:
        raise ValidationError({"after": [f"there is no job {lost}"]})
    return tuple(found[public_id] for public_id in dict.fromkeys(public_ids))


def find_checkpoint(project: Project, public_id: UUID | None) -> Checkpoint | None:
    """A checkpoint of the project; 400 if it has none such."""
    if public_id is None:
        return None
    rows = Checkpoint.objects.filter(run__job__project=project, public_id=public_id)
    found = rows.select_related("run__job").first()
    if found is None:
        raise ValidationError({"checkpoint": [f"there is no checkpoint {public_id}"]})
    return found


def find_job(view: ProjectView, public_id: UUID) -> Job:
    """A job of the view's project, else 404."""
    job = queries.jobs(view.project).filter(public_id=public_id).first()
    if job is None:
        raise Http404
    return job


def job_answer(view: ProjectView, public_id: UUID, code: int) -> Response:
    """A job as its page shows it."""
    job = find_job(view, public_id)
    return Response(JobDetailSerializer(job, context={"now": timezone.now()}).data, status=code)
