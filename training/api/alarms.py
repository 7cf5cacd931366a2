"""Alarms: what was raised, and what was done about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from django.http import Http404
from django.urls import URLPattern, path
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from annotation.api.access import ProjectView, user_of
from annotation.api.pagination import CURSOR_PARAMETERS, page
from annotation.api.parsing import FiniteFloatField
from annotation.models import TokenScope, User
from training import alarms, remedies
from training.api.serializers import NumbersField, person
from training.models import Alarm, Checkpoint, Job, JobStatus
from training.remedies import MOST_SAMPLES, USUAL_SAMPLES, Action, Wish

ACTIONS = [action.value for action in Action]


class AlarmJobSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField(source="public_id")
    number = serializers.IntegerField()
    method = serializers.CharField()
    title = serializers.CharField()
    status = serializers.ChoiceField(choices=JobStatus.choices)


class AlarmCheckpointSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField(source="public_id")
    step = serializers.IntegerField()


class AlarmReasonSerializer(serializers.Serializer[Any]):
    """Why an alarm rang: a sentence, and the figures behind it."""

    text = serializers.CharField()
    step = serializers.IntegerField(allow_null=True)
    figures = NumbersField()


class AlarmDoneSerializer(serializers.Serializer[Any]):
    """What was done about an alarm, and the job or round that it made."""

    action = serializers.ChoiceField(choices=ACTIONS)
    at = serializers.DateTimeField()
    by = serializers.CharField(allow_null=True)
    job = serializers.UUIDField(allow_null=True)
    round = serializers.UUIDField(allow_null=True)
    step = serializers.IntegerField(allow_null=True, help_text="Where it goes on from, or whose samples were taken.")
    budget = serializers.FloatField(allow_null=True)
    samples = serializers.IntegerField(allow_null=True)


class AlarmSerializer(serializers.Serializer[Any]):
    """An alarm with what a person needs to judge it. `people` in the context names who did what."""

    id = serializers.UUIDField(source="public_id")
    name = serializers.CharField()
    title = serializers.SerializerMethodField()
    measures = serializers.SerializerMethodField()
    limit = serializers.SerializerMethodField()
    remedy = serializers.SerializerMethodField()
    job = AlarmJobSerializer(allow_null=True)
    attempt = serializers.IntegerField(source="run.attempt", allow_null=True, default=None)
    step = serializers.IntegerField(allow_null=True)
    evidence = AlarmReasonSerializer(many=True)
    best_checkpoint = serializers.SerializerMethodField()
    checkpoint_before = serializers.SerializerMethodField()
    actions = serializers.SerializerMethodField()
    done = serializers.SerializerMethodField()
    raised_at = serializers.DateTimeField()
    acknowledged_at = serializers.DateTimeField(allow_null=True)
    acknowledged_by = serializers.SerializerMethodField()
    note = serializers.CharField()

    def get_title(self, alarm: Alarm) -> str:
        return alarms.CATALOGUE[alarm.name].title

    def get_measures(self, alarm: Alarm) -> str:
        return alarms.CATALOGUE[alarm.name].measures

    def get_limit(self, alarm: Alarm) -> str:
        return alarms.CATALOGUE[alarm.name].limit

    def get_remedy(self, alarm: Alarm) -> str:
        return alarms.CATALOGUE[alarm.name].remedy

    @extend_schema_field(AlarmCheckpointSerializer(allow_null=True))
    def get_best_checkpoint(self, alarm: Alarm) -> Any:
        return _checkpoint(alarms.best_checkpoint(alarm))

    @extend_schema_field(AlarmCheckpointSerializer(allow_null=True))
    def get_checkpoint_before(self, alarm: Alarm) -> Any:
        before = alarms.checkpoints_before(alarm)
        return _checkpoint(before[-1] if before else None)

    @extend_schema_field(serializers.ListField(child=serializers.ChoiceField(choices=ACTIONS)))
    def get_actions(self, alarm: Alarm) -> list[str]:
        return [action.value for action in remedies.offered(alarm)]

    @extend_schema_field(AlarmDoneSerializer(many=True))
    def get_done(self, alarm: Alarm) -> Any:
        people: dict[str, str | None] = self.context["people"]
        empty = dict.fromkeys(("job", "round", "step", "budget", "samples"))
        return [{**empty, **item, "by": people.get(item["by"])} for item in alarm.done]

    def get_acknowledged_by(self, alarm: Alarm) -> str | None:
        return person(alarm.acknowledged_by)


class AlarmListSerializer(serializers.Serializer[Any]):
    items = AlarmSerializer(many=True)
    next = serializers.CharField(allow_null=True)
    open = serializers.IntegerField(help_text="Of the project, not acknowledged.")
    open_by_name = NumbersField()


class AlarmNoteSerializer(serializers.Serializer[Any]):
    note = serializers.CharField(max_length=2000)


class AlarmActSerializer(serializers.Serializer[Any]):
    action = serializers.ChoiceField(choices=ACTIONS)
    budget = FiniteFloatField(
        required=False, allow_null=True, help_text="For lower_budget: nats a completion; half of the present one."
    )
    samples = serializers.IntegerField(
        min_value=1, max_value=MOST_SAMPLES, default=USUAL_SAMPLES, help_text="For ask_people: how many prompts."
    )
    overlap = serializers.IntegerField(
        min_value=1, max_value=99, required=False, allow_null=True, help_text="For ask_people: votes each."
    )
    note = serializers.CharField(
        max_length=2000, required=False, allow_blank=True, default="", help_text="Acknowledges the alarm too."
    )


class AlarmsView(ProjectView):
    """Alarms of the project, or of one of its jobs."""

    @extend_schema(
        operation_id="alarms_list",
        responses=AlarmListSerializer,
        parameters=[
            *CURSOR_PARAMETERS,
            OpenApiParameter("open", bool, description="true: not acknowledged; false: acknowledged."),
            OpenApiParameter("job", UUID),
        ],
    )
    def get(self, request: Request, slug: str) -> Response:
        """Alarms, newest first, and how many are open."""
        rows = alarms.alarms(self.project)
        is_open = request.query_params.get("open")
        if is_open not in {None, "true", "false"}:
            raise ValidationError({"open": [f"must be true or false, got {is_open!r}"]})
        if is_open is not None:
            rows = rows.filter(acknowledged_at__isnull=is_open == "true")
        job = request.query_params.get("job")
        if job is not None:
            rows = rows.filter(job__public_id=_uuid("job", job))
        return _list(self, request, rows)


class JobAlarmsView(ProjectView):
    """Alarms of a job."""

    @extend_schema(operation_id="jobs_alarms", responses=AlarmListSerializer, parameters=CURSOR_PARAMETERS)
    def get(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Those of all its runs, newest first."""
        job = Job.objects.filter(project=self.project, public_id=public_id).first()
        if job is None:
            raise Http404
        return _list(self, request, alarms.alarms(self.project).filter(job=job))


class AlarmView(ProjectView):
    """One alarm."""

    @extend_schema(operation_id="alarms_show", responses=AlarmSerializer)
    def get(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Rule, evidence, what can be done, and what was."""
        return _answer(self, public_id)


class AlarmAcknowledgeView(ProjectView):
    """Acknowledge."""

    @extend_schema(operation_id="alarms_acknowledge", request=AlarmNoteSerializer, responses=AlarmSerializer)
    def post(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Say what was found; once."""
        alarm = _alarm(self, public_id)
        data = AlarmNoteSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        alarms.acknowledge(alarm=alarm, note=data.validated_data["note"], by=user_of(request), now=timezone.now())
        return _answer(self, public_id)


class AlarmActView(ProjectView):
    """Do what the alarm offers."""

    write_scope = TokenScope.JOBS

    @extend_schema(operation_id="alarms_act", request=AlarmActSerializer, responses=AlarmSerializer)
    def post(self, request: Request, slug: str, public_id: UUID) -> Response:
        """pause: stop the job, resumable. lower_budget: go on from the checkpoint before, with a smaller KL budget.
        ask_people: a round with the completions that have the highest scores. Each once.
        """
        alarm = _alarm(self, public_id)
        data = AlarmActSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        values = data.validated_data
        wish = Wish(
            action=Action(values["action"]),
            budget=values.get("budget"),
            samples=values["samples"],
            overlap=values.get("overlap"),
            note=values["note"],
        )
        remedies.act(alarm=alarm, wish=wish, by=user_of(request), now=timezone.now())
        return _answer(self, public_id)


def _checkpoint(found: Checkpoint | None) -> Any:
    return None if found is None else AlarmCheckpointSerializer(found).data


def _uuid(name: str, value: str) -> UUID:
    try:
        return UUID(value)
    except ValueError:
        raise ValidationError({name: [f"must be a UUID, got {value!r}"]}) from None


def _alarm(view: ProjectView, public_id: UUID) -> Alarm:
    alarm = alarms.alarms(view.project).filter(public_id=public_id).first()
    if alarm is None:
        raise Http404
    return alarm


def _render(rows: Sequence[Alarm]) -> list[Any]:
    who = {item["by"] for alarm in rows for item in alarm.done}
    people = {str(user.public_id): person(user) for user in User.objects.filter(public_id__in=who)} if who else {}
    return list(AlarmSerializer(rows, many=True, context={"people": people}).data)


def _answer(view: ProjectView, public_id: UUID) -> Response:
    return Response(_render([_alarm(view, public_id)])[0])


def _list(view: ProjectView, request: Request, rows: Any) -> Response:
    response = page(request, rows, _render)
    counts = alarms.open_counts(view.project)
    response.data |= {"open": sum(counts.values()), "open_by_name": counts}
    return response


_PROJECT = "projects/<slug:slug>"
urlpatterns: list[URLPattern] = [
    path(f"{_PROJECT}/alarms", AlarmsView.as_view()),
    path(f"{_PROJECT}/alarms/<uuid:public_id>", AlarmView.as_view()),
    path(f"{_PROJECT}/alarms/<uuid:public_id>/acknowledge", AlarmAcknowledgeView.as_view()),
    path(f"{_PROJECT}/alarms/<uuid:public_id>/act", AlarmActView.as_view()),
    path(f"{_PROJECT}/jobs/<uuid:public_id>/alarms", JobAlarmsView.as_view()),
]
