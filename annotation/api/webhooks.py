"""Webhooks and their deliveries: where a project's events go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast
from uuid import UUID

from django.db.models import Count, Q, QuerySet
from django.http import Http404
from django.urls import URLPattern, path
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from annotation import tasks, webhooks
from annotation.api.access import ManagerView, user_of
from annotation.api.pagination import CURSOR_PARAMETERS, page
from annotation.models import Delivery, Project, Webhook
from annotation.webhooks import Event

EVENTS = [event.value for event in Event]


class WebhookSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField(source="public_id")
    url = serializers.CharField()
    events = serializers.ListField(child=serializers.ChoiceField(choices=EVENTS))
    created_at = serializers.DateTimeField()
    created_by = serializers.CharField(source="created_by.name")
    paused_at = serializers.DateTimeField(allow_null=True)
    pause_reason = serializers.CharField()
    due = serializers.IntegerField(source="n_due", help_text="Deliveries that will be sent.")
    waiting = serializers.IntegerField(source="n_waiting", help_text="Given up, or kept while paused.")


class WebhookListSerializer(serializers.Serializer[Any]):
    items = WebhookSerializer(many=True)
    next = serializers.CharField(allow_null=True)


class NewWebhookSerializer(WebhookSerializer):
    secret = serializers.CharField(help_text="Signs the deliveries; shown this once.")


class WebhookCreateSerializer(serializers.Serializer[Any]):
    url = serializers.CharField(max_length=500)
    events = serializers.ListField(child=serializers.ChoiceField(choices=EVENTS), min_length=1)


class WebhookEventsSerializer(serializers.Serializer[Any]):
    events = serializers.ListField(child=serializers.ChoiceField(choices=EVENTS), min_length=1)


class WebhookResumeSerializer(serializers.Serializer[Any]):
    resend = serializers.BooleanField(default=False, help_text="Also send what was given up or waited.")


class DeliverySerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField(source="public_id")
    event = serializers.CharField()
    body = serializers.JSONField(help_text="What is sent.")
    tries = serializers.IntegerField()
    next_at = serializers.DateTimeField(allow_null=True)
    delivered_at = serializers.DateTimeField(allow_null=True)
    status = serializers.IntegerField(allow_null=True)
    error = serializers.CharField()
    created_at = serializers.DateTimeField()


class DeliveryListSerializer(serializers.Serializer[Any]):
    items = DeliverySerializer(many=True)
    next = serializers.CharField(allow_null=True)


def _rows(project: Project) -> QuerySet[Webhook]:
    """With how much is on its way and how much lies."""
    undelivered = Q(deliveries__delivered_at=None)
    rows: QuerySet[Webhook] = (
        Webhook.objects.filter(project=project)
        .select_related("created_by", "project")
        .annotate(
            n_due=Count("deliveries", filter=Q(deliveries__next_at__isnull=False)),
            n_waiting=Count("deliveries", filter=undelivered & Q(deliveries__next_at=None)),
        )
    )
    return rows


def _found(project: Project, public_id: UUID) -> Webhook:
    hook = _rows(project).filter(public_id=public_id, removed_at=None).first()
    if hook is None:
        raise Http404
    return hook


class WebhooksView(ManagerView):
    """The webhooks of a project. Addresses often hold a key, so they are for those who manage."""

    @extend_schema(operation_id="webhooks_list", responses=WebhookListSerializer)
    def get(self, request: Request, slug: str) -> Response:
        """All that are not removed, newest first."""
        rows = _rows(self.project).filter(removed_at=None).order_by("-pk")
        return Response({"items": WebhookSerializer(rows, many=True).data, "next": None})

    @extend_schema(
        operation_id="webhooks_create", request=WebhookCreateSerializer, responses={201: NewWebhookSerializer}
    )
    def post(self, request: Request, slug: str) -> Response:
        """Make one. Its secret is in this answer and nowhere else."""
        data = WebhookCreateSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        hook, secret = webhooks.create(
            project=self.project,
            url=data.validated_data["url"],
            events=[Event(name) for name in data.validated_data["events"]],
            by=user_of(request),
            now=timezone.now(),
        )
        body = WebhookSerializer(_found(self.project, hook.public_id)).data
        return Response({**body, "secret": secret}, status=status.HTTP_201_CREATED)


class WebhookView(ManagerView):
    """One webhook."""

    @extend_schema(operation_id="webhooks_change", request=WebhookEventsSerializer, responses=WebhookSerializer)
    def patch(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Change which events it gets."""
        hook = _found(self.project, public_id)
        data = WebhookEventsSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        events = [Event(name) for name in data.validated_data["events"]]
        webhooks.change_events(hook=hook, events=events, by=user_of(request), now=timezone.now())
        return Response(WebhookSerializer(hook).data)

    @extend_schema(operation_id="webhooks_remove", responses={204: None})
    def delete(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Remove it with what is on its way. Removing twice changes nothing."""
        hook = _rows(self.project).filter(public_id=public_id).first()
        if hook is None:
            raise Http404
        webhooks.remove(hook=hook, by=user_of(request), now=timezone.now())
        return Response(status=status.HTTP_204_NO_CONTENT)


class WebhookPingView(ManagerView):
    """A try."""

    @extend_schema(operation_id="webhooks_ping", request=None, responses={202: DeliverySerializer})
    def post(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Send a delivery of the event `ping`; the list of deliveries tells how it went."""
        made = webhooks.ping(hook=_found(self.project, public_id), by=user_of(request), now=timezone.now())
        tasks.wake_deliveries()
        return Response(DeliverySerializer(made).data, status=status.HTTP_202_ACCEPTED)


class WebhookPauseView(ManagerView):
    """No deliveries for a while."""

    @extend_schema(operation_id="webhooks_pause", request=None, responses=WebhookSerializer)
    def post(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Pause: events are kept and wait. Pausing twice changes nothing."""
        hook = _found(self.project, public_id)
        webhooks.pause(hook=hook, reason=f"Paused by {user_of(request)}.", by=user_of(request), now=timezone.now())
        return Response(WebhookSerializer(_found(self.project, public_id)).data)


class WebhookResumeView(ManagerView):
    """Deliveries again."""

    @extend_schema(operation_id="webhooks_resume", request=WebhookResumeSerializer, responses=WebhookSerializer)
    def post(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Resume; with `resend`, what was given up or waited is sent too."""
        hook = _found(self.project, public_id)
        data = WebhookResumeSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        webhooks.resume(hook=hook, resend=data.validated_data["resend"], by=user_of(request), now=timezone.now())
        tasks.wake_deliveries()
        return Response(WebhookSerializer(_found(self.project, public_id)).data)


class DeliveriesView(ManagerView):
    """What was sent to a webhook, and how it went."""

    @extend_schema(
        operation_id="deliveries_list",
        responses=DeliveryListSerializer,
        parameters=[OpenApiParameter("undelivered", bool), *CURSOR_PARAMETERS],
    )
    def get(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Deliveries of the last 30 days, newest first."""
        rows = Delivery.objects.filter(webhook=_found(self.project, public_id))
        if serializers.BooleanField().run_validation(request.query_params.get("undelivered", "false")):
            rows = rows.filter(delivered_at=None)
        return page(request, rows, _render)


class RedeliverView(ManagerView):
    """A delivery once more."""

    @extend_schema(operation_id="deliveries_repeat", request=None, responses={202: DeliverySerializer})
    def post(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Send a delivery again under its old id."""
        rows = Delivery.objects.filter(webhook__project=self.project)
        delivery = rows.filter(public_id=public_id).first()
        if delivery is None:
            raise Http404
        webhooks.redeliver(delivery=delivery, by=user_of(request), now=timezone.now())
        tasks.wake_deliveries()
        delivery.refresh_from_db()
        return Response(DeliverySerializer(delivery).data, status=status.HTTP_202_ACCEPTED)


def _render(rows: Sequence[Delivery]) -> list[Any]:
    return cast(list[Any], DeliverySerializer(rows, many=True).data)


urlpatterns: list[URLPattern] = [
    path("projects/<slug:slug>/webhooks", WebhooksView.as_view()),
    path("projects/<slug:slug>/webhooks/<uuid:public_id>", WebhookView.as_view()),
    path("projects/<slug:slug>/webhooks/<uuid:public_id>/ping", WebhookPingView.as_view()),
    path("projects/<slug:slug>/webhooks/<uuid:public_id>/pause", WebhookPauseView.as_view()),
    path("projects/<slug:slug>/webhooks/<uuid:public_id>/resume", WebhookResumeView.as_view()),
    path("projects/<slug:slug>/webhooks/<uuid:public_id>/deliveries", DeliveriesView.as_view()),
    path("projects/<slug:slug>/deliveries/<uuid:public_id>/repeat", RedeliverView.as_view()),
]
