"""Registered models, and the methods that train from them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, status
from rest_framework.exceptions import PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response

from annotation.api.access import ProjectView, user_of
from training import registry
from training.api.serializers import (
    ModelListSerializer,
    ModelSerializer,
    ObjectField,
)
from training.launching import METHODS, defaults, value_at


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
