"""Worker processes: who is alive, what each machine has, and what each runs."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.urls import URLPattern, path
from django.utils import timezone
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from annotation.api.access import NoStore, researched_projects
from training import workers
from training.jobs import phase
from training.models import Queue, Run, Worker

PHASES = ("starting", "stalled", "stopping")


class WorkerDeviceSerializer(serializers.Serializer[Any]):
    id = serializers.CharField()
    name = serializers.CharField()
    memory_bytes = serializers.IntegerField(allow_null=True)
    used_bytes = serializers.IntegerField(allow_null=True)
    load = serializers.FloatField(allow_null=True, help_text="0 to 1.")


class WorkerJobSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField(source="public_id")
    number = serializers.IntegerField()
    method = serializers.CharField()
    title = serializers.CharField()
    project = serializers.CharField(source="project.slug")
    project_name = serializers.CharField(source="project.name")


class WorkerRunSerializer(serializers.Serializer[Any]):  # context: the moment, and projects that the caller may see
    attempt = serializers.IntegerField()
    started_at = serializers.DateTimeField()
    step = serializers.IntegerField(source="job.last_step", allow_null=True)
    steps = serializers.IntegerField(source="job.steps", allow_null=True)
    phase = serializers.SerializerMethodField()
    job = serializers.SerializerMethodField()

    @extend_schema_field(serializers.ChoiceField(choices=PHASES, allow_null=True))
    def get_phase(self, run: Run) -> str | None:
        found = phase(run.job, self.context["now"])
        return None if found is None else found.value

    @extend_schema_field(WorkerJobSerializer(allow_null=True, help_text="null: of a project that you do not see."))
    def get_job(self, run: Run) -> Any:
        return WorkerJobSerializer(run.job).data if run.job.project_id in self.context["projects"] else None


class WorkerSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField(source="public_id")
    host = serializers.CharField()
    pid = serializers.IntegerField()
    queue = serializers.ChoiceField(choices=Queue.choices)
    state = serializers.SerializerMethodField()
    obstacle = serializers.CharField(help_text="Why it takes no jobs now, though it lives; empty: it does.")
    slots = serializers.IntegerField(help_text="Jobs that it runs at a time.")
    version = serializers.CharField()
    devices = WorkerDeviceSerializer(many=True)
    memory_bytes = serializers.IntegerField(allow_null=True)
    free_memory_bytes = serializers.IntegerField(allow_null=True)
    free_disk_bytes = serializers.IntegerField(allow_null=True)
    started_at = serializers.DateTimeField()
    heartbeat_at = serializers.DateTimeField()
    lost_at = serializers.DateTimeField(allow_null=True)
    ended_at = serializers.DateTimeField(allow_null=True)
    runs = WorkerRunSerializer(many=True, source="running")

    @extend_schema_field(serializers.ChoiceField(choices=["alive", "lost", "ended"]))
    def get_state(self, worker: Worker) -> str:
        return workers.state(worker, now=self.context["now"])


class WorkerQueueSerializer(serializers.Serializer[Any]):
    queue = serializers.ChoiceField(choices=Queue.choices)
    running = serializers.IntegerField(help_text="Jobs of all projects.")
    ready = serializers.IntegerField(help_text="Jobs that only wait for a worker.")
    waiting = serializers.IntegerField(help_text="Jobs that wait for another job or for their back-off.")
    workers = serializers.IntegerField(help_text="That are alive.")
    slots = serializers.IntegerField(help_text="Of workers that are alive and take jobs.")


class WorkerListSerializer(serializers.Serializer[Any]):
    items = WorkerSerializer(many=True)
    queues = WorkerQueueSerializer(many=True)
    next = serializers.CharField(allow_null=True)


class WorkersView(NoStore, APIView):
    """The workers of the whole site."""

    permission_classes = (IsAuthenticated,)

    @extend_schema(operation_id="workers_list", responses=WorkerListSerializer)
    def get(self, request: Request) -> Response:
        """Workers heard of within a day, the living first, with what each runs; and how long the queues are."""
        now = timezone.now()
        context = {"now": now, "projects": researched_projects(request)}
        rows = workers.listed(now)
        body = {"items": WorkerSerializer(rows, many=True, context=context).data, "queues": _queues(rows, now=now)}
        return Response({**body, "next": None})


def _queues(rows: list[Worker], *, now: datetime) -> list[dict[str, Any]]:
    lengths = workers.queue_lengths(now)
    answer = []
    for queue in Queue.values:
        there = [row for row in rows if row.queue == queue and workers.state(row, now=now) == "alive"]
        slots = sum(row.slots for row in there if not row.obstacle)
        answer.append({"queue": queue, **lengths[queue], "workers": len(there), "slots": slots})
    return answer


urlpatterns: list[URLPattern] = [path("workers", WorkersView.as_view())]
