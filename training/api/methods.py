"""The engine's methods as forms: what may be set, what it means, and what each method must be given."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from django.urls import URLPattern, path
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from annotation.api.access import ProjectView
from training import registry
from training.api.serializers import ObjectField
from training.engine.presets import MACHINES
from training.forms import METHODS, Field, Method, value_at
from training.launching import defaults
from training.models import ModelVersion

FIELD_TYPES = ["number", "integer", "boolean", "text", "choice", "texts", "section"]


class FieldSerializer(serializers.Serializer[Any]):
    """A setting. A `section` may be null; `low` and `high` are bounds, refused themselves where excluded."""

    path = serializers.CharField()
    label = serializers.CharField()  # type: ignore[assignment]  # DRF's metaclass keeps fields apart from attributes
    help = serializers.CharField()
    unit = serializers.CharField()
    type = serializers.ChoiceField(choices=FIELD_TYPES)
    section = serializers.CharField()
    optional = serializers.BooleanField()
    choices = serializers.ListField(child=serializers.CharField())
    choice_help = serializers.ListField(child=serializers.CharField())
    low = serializers.FloatField(allow_null=True)
    low_excluded = serializers.BooleanField()
    high = serializers.FloatField(allow_null=True)
    high_excluded = serializers.BooleanField()
    default = serializers.JSONField(allow_null=True)


class PresetSerializer(serializers.Serializer[Any]):
    """A published setting, and what it changes."""

    name = serializers.CharField()
    help = serializers.CharField()
    overrides = ObjectField()


class InputRoleSerializer(serializers.Serializer[Any]):
    """Further models that a method takes: how many at least and at most."""

    role = serializers.CharField()
    kind = serializers.ChoiceField(choices=["policy", "reward"])
    least = serializers.IntegerField()
    most = serializers.IntegerField()


class MethodSerializer(serializers.Serializer[Any]):
    """`fields_shown` are the settings that matter most, `fields_more` all others."""

    name = serializers.CharField()
    title = serializers.CharField()
    description = serializers.CharField()
    kinds = serializers.ListField(child=serializers.CharField())
    needs_snapshot = serializers.BooleanField()
    needs_model = serializers.BooleanField()
    trains = serializers.BooleanField()
    roles = InputRoleSerializer(many=True)
    defaults = ObjectField()
    fields_shown = FieldSerializer(many=True)
    fields_more = FieldSerializer(many=True)
    presets = PresetSerializer(many=True)


class MachineSerializer(serializers.Serializer[Any]):
    """Precision and memory settings that fit a kind of machine."""

    name = serializers.CharField()
    overrides = ObjectField()


class MethodListSerializer(serializers.Serializer[Any]):
    items = MethodSerializer(many=True)
    machines = MachineSerializer(many=True)
    next = serializers.CharField(allow_null=True)


class MethodsView(ProjectView):
    """Methods with their settings and defaults."""

    @extend_schema(
        operation_id="methods_list",
        responses=MethodListSerializer,
        parameters=[OpenApiParameter("model", OpenApiTypes.UUID, description="Base model: its size sets defaults.")],
    )
    def get(self, request: Request, slug: str) -> Response:
        """Every method that may be launched: its inputs, its complete default config, its settings and presets."""
        wanted = request.query_params.get("model")
        model = registry.find(self.project, serializers.UUIDField().run_validation(wanted)) if wanted else None
        answer = {
            "items": [_method(method, model) for method in METHODS.values()],
            "machines": [{"name": name, "overrides": overrides} for name, overrides in MACHINES.items()],
            "next": None,
        }
        return Response(MethodListSerializer(answer).data)


def _method(method: Method, model: ModelVersion | None) -> dict[str, Any]:
    config = defaults(method.name, model)
    shown = [(field, _field(field, value_at(config, field.path))) for field in method.fields]
    return {
        "name": method.name,
        "title": method.title,
        "description": method.description,
        "kinds": list(method.kinds),
        "needs_snapshot": method.needs_snapshot,
        "needs_model": method.needs_model,
        "trains": method.trains,
        "roles": [
            {
                "role": role,
                "kind": "reward" if role in ("rewards", "held_out") else "policy",
                "least": least,
                "most": most,
            }
            for role, (least, most) in method.roles.items()
        ],
        "defaults": config,
        "fields_shown": [item for field, item in shown if field.is_main],
        "fields_more": [item for field, item in shown if not field.is_main],
        "presets": [{"name": item.name, "help": item.help, "overrides": item.overrides} for item in method.presets],
    }


def _field(field: Field, value: Any) -> dict[str, Any]:
    """A part that may be null has for its value whether it is there."""
    return {**asdict(field), **asdict(field.bounds), "default": value is not None if field.type == "section" else value}


urlpatterns: list[URLPattern] = [path("projects/<slug:slug>/methods", MethodsView.as_view())]
