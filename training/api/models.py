"""Registered models: lists, cards, what people say of them, verifying and downloads."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.http import Http404, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.urls import URLPattern, path
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, status
from rest_framework.exceptions import PermissionDenied, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from annotation.api.access import ProjectView, user_of
from annotation.api.parsing import query_choice
from training import downloads, registry
from training.api.serializers import (
    ModelListSerializer,
    ModelSerializer,
    ObjectField,
    SnapshotCountsSerializer,
    person,
)
from training.cards import Card, read_card
from training.downloads import Archive, Form
from training.models import ModelVersion


class ModelCreateSerializer(serializers.Serializer[Any]):
    name = serializers.CharField(max_length=120)
    path = serializers.CharField(max_length=1000, required=False)
    hub_id = serializers.CharField(max_length=200, required=False)
    licence = serializers.CharField(max_length=120, allow_blank=True, required=False)


class ModelsView(ProjectView):
    """Registered models that the project may use."""

    @extend_schema(
        operation_id="models_list",
        responses=ModelListSerializer,
        parameters=[OpenApiParameter("archived", str, enum=["no", "yes", "all"], description="Default no.")],
    )
    def get(self, request: Request, slug: str) -> Response:
        """The project's own models and those of the site, newest first; archived ones only if asked for."""
        wanted = query_choice(request, "archived", ["no", "yes", "all"], default="no")
        rows = registry.visible(self.project, archived=None if wanted == "all" else wanted == "yes")
        return Response({"items": ModelSerializer(rows, many=True).data, "next": None})

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
            name=data.validated_data["name"],
            path=data.validated_data["path"],
            licence=data.validated_data.get("licence", ""),
            by=user_of(request),
            now=timezone.now(),
        )
        return Response(ModelSerializer(model).data, status=status.HTTP_201_CREATED)


# --- one model --------------------------------------------------------------------------------------------------------


class ModelFileSerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    size_bytes = serializers.IntegerField(source="size")


class CardAlarmSerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    step = serializers.IntegerField(allow_null=True)
    evidence = serializers.ListField(child=ObjectField())
    acknowledged_at = serializers.DateTimeField(allow_null=True)
    note = serializers.CharField()
    done = serializers.ListField(child=serializers.CharField(), help_text="Actions that people took.")


class CardJobSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField(source="public_id")
    number = serializers.IntegerField()
    method = serializers.CharField()
    title = serializers.CharField()


class CardCheckpointSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField(source="public_id")
    step = serializers.IntegerField()
    sha256 = serializers.CharField()


class CardSnapshotSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField(source="public_id")
    number = serializers.IntegerField()
    name = serializers.CharField()
    content_hash = serializers.CharField()
    counts = SnapshotCountsSerializer()
    label_policy = ObjectField()


class TrainingSerializer(serializers.Serializer[Any]):
    job = CardJobSerializer()
    checkpoint = CardCheckpointSerializer()
    snapshot = CardSnapshotSerializer(allow_null=True)
    attempts = serializers.IntegerField(help_text="Of the job, up to the one that left the checkpoint.")
    code_version = serializers.CharField(help_text="Of the worker; empty where it is not known.")
    config = ObjectField()
    started_at = serializers.DateTimeField()
    ended_at = serializers.DateTimeField(allow_null=True)
    alarms = CardAlarmSerializer(many=True)


class UsesSerializer(serializers.Serializer[Any]):
    """What starts from a model or uses it."""

    jobs = serializers.IntegerField()
    models = serializers.IntegerField()
    rounds = serializers.IntegerField()


class ModelCardSerializer(ModelSerializer):
    """A model with everything that its page shows. Rendered from a `Card`."""

    notes = serializers.CharField()
    is_site = serializers.BooleanField(help_text="Of no project: every project sees it, operators change its card.")
    created_by = serializers.CharField(allow_null=True)
    files = ModelFileSerializer(many=True, help_text="Empty when its directory is gone.")
    training = TrainingSerializer(allow_null=True)
    uses = UsesSerializer()
    downloads = serializers.ListField(child=serializers.ChoiceField(choices=[form.value for form in Form]))

    def to_representation(self, card: Card) -> Any:
        model = card.model
        held = registry.held_files(model)
        forms = [Form.MERGED] if held else []
        if downloads.has_adapter(model):
            forms.append(Form.ADAPTER)
        return {
            **ModelSerializer(model).data,
            "notes": model.notes,
            "is_site": model.project_id is None,
            "created_by": person(model.created_by),
            "files": [{"name": name, "size_bytes": size} for name, size in held],
            "training": None if card.training is None else TrainingSerializer(card.training).data,
            "uses": UsesSerializer(card).data,
            "downloads": [form.value for form in forms],
        }


class ModelChangeSerializer(serializers.Serializer[Any]):
    licence = serializers.CharField(max_length=120, allow_blank=True, required=False)
    notes = serializers.CharField(max_length=20_000, allow_blank=True, required=False, trim_whitespace=False)
    tags = serializers.ListField(child=serializers.CharField(max_length=40), max_length=20, required=False)
    archived = serializers.BooleanField(required=False)
    current = serializers.BooleanField(required=False)


class ModelView(ProjectView):
    """One model."""

    def found(self, public_id: UUID) -> ModelVersion:
        """The model, archived or not; else 404."""
        model = registry.known(self.project).filter(public_id=public_id).first()
        if model is None:
            raise Http404
        return model

    def answer(self, public_id: UUID) -> Response:
        """The card as it is now."""
        return Response(ModelCardSerializer(read_card(self.found(public_id))).data)

    @extend_schema(operation_id="models_show", responses=ModelCardSerializer)
    def get(self, request: Request, slug: str, public_id: UUID) -> Response:
        """The model's card: data, config, code version, metrics, alarms, licence, notes, files."""
        return self.answer(public_id)

    @extend_schema(operation_id="models_change", request=ModelChangeSerializer, responses=ModelCardSerializer)
    def patch(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Change licence, notes and tags; archive it or not; make it the one that the project goes on from."""
        model = self.found(public_id)
        data = ModelChangeSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        unknown = set(request.data) - set(data.fields)
        if unknown:
            raise ValidationError({name: ["cannot be changed"] for name in sorted(unknown)})
        if model.project_id is None and not user_of(request).is_staff:
            raise PermissionDenied("Only an operator changes the card of a model that every project sees.")
        registry.change(model, registry.Change(**data.validated_data), by=user_of(request), now=timezone.now())
        return self.answer(public_id)


class ModelVerifyView(ModelView):
    """Verifying."""

    http_method_names = ("post", "options")

    @extend_schema(operation_id="models_verify", request=None, responses=ModelCardSerializer)
    def post(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Read all files again and compare them with the model's hash; 409 says what is wrong."""
        registry.verify(self.found(public_id), by=user_of(request), now=timezone.now())
        return self.answer(public_id)


class ModelDownloadView(ModelView):
    """Taking it away."""

    http_method_names = ("get", "head", "options")

    @extend_schema(
        operation_id="models_download",
        responses={(200, item.content_type): OpenApiTypes.BINARY for item in Archive},
        parameters=[
            OpenApiParameter("form", str, enum=[item.value for item in Form], description="Default merged."),
            OpenApiParameter("as", str, enum=[item.value for item in Archive], description="Default zip."),
        ],
    )
    def get(self, request: Request, slug: str, public_id: UUID) -> HttpResponseBase:  # type: ignore[override]
        """A standard Hugging Face directory as one file; the stream breaks off if a file is not what was registered."""
        model = self.found(public_id)
        form = Form(query_choice(request, "form", [item.value for item in Form], default=Form.MERGED.value))
        archive = Archive(query_choice(request, "as", [item.value for item in Archive], default=Archive.ZIP.value))
        made = downloads.prepare(model, form)
        response = StreamingHttpResponse(downloads.stream(made, archive), content_type=archive.content_type)
        response["Content-Disposition"] = f'attachment; filename="{made.folder}.{archive.value}"'
        response["X-Content-Type-Options"] = "nosniff"
        response["X-Content-Hash"] = model.sha256
        if archive is Archive.TAR:
            response["Content-Length"] = str(made.tar_size)
        return response


_ONE = "projects/<slug:slug>/models/<uuid:public_id>"
urlpatterns: list[URLPattern] = [
    path(_ONE, ModelView.as_view()),
    path(f"{_ONE}/verify", ModelVerifyView.as_view()),
    path(f"{_ONE}/download", ModelDownloadView.as_view()),
]
