"""The researcher's API of a project: settings, guidelines, overview of the annotation side, tables, imports."""

from __future__ import annotations

from typing import Any, cast

from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_field
from rest_framework import serializers, status
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from annotation import queries
from annotation.api.access import NoStore, ProjectView, require_scope, user_of
from annotation.api.annotate import FormSerializer, GuidelineSerializer, MessageSerializer
from annotation.api.pagination import CURSOR_PARAMETERS, page
from annotation.api.parsing import FiniteFloatField, JSONLinesParser, query_text
from annotation.feedback import read_form
from annotation.importing.batches import import_lines
from annotation.importing.rows import ImportKind
from annotation.models import Project, Role, Token, TokenScope
from annotation.pairing import change_overlap
from annotation.people import add_guideline, audit, change_form, create_project


class EstimateSerializer(serializers.Serializer[Any]):
    value = serializers.FloatField(allow_null=True)
    low = serializers.FloatField(allow_null=True)
    high = serializers.FloatField(allow_null=True)
    n = serializers.IntegerField()
    n_groups = serializers.IntegerField()
    reason = serializers.CharField(allow_null=True)
    method = serializers.CharField()


class AgreementSerializer(serializers.Serializer[Any]):
    percent = EstimateSerializer()
    alpha = EstimateSerializer()
    unanimous = EstimateSerializer()


class ProjectSerializer(serializers.Serializer[Any]):
    slug = serializers.CharField()
    name = serializers.CharField()
    question = serializers.CharField()
    form = serializers.SerializerMethodField()
    overlap = serializers.IntegerField()
    lease_minutes = serializers.IntegerField()
    dispute_below = serializers.FloatField()
    flag_limit = serializers.IntegerField()
    paused = serializers.SerializerMethodField()
    guideline = serializers.SerializerMethodField()
    my_role = serializers.SerializerMethodField()
    created_at = serializers.DateTimeField()

    @extend_schema_field(FormSerializer())
    def get_form(self, project: Project) -> Any:
        return FormSerializer(project.feedback.as_dict()).data

    def get_paused(self, project: Project) -> bool:
        return project.paused_at is not None

    @extend_schema_field(GuidelineSerializer(allow_null=True))
    def get_guideline(self, project: Project) -> Any:
        guideline = project.guidelines.order_by("-number").first()
        return None if guideline is None else GuidelineSerializer(guideline).data

    def get_my_role(self, project: Project) -> str:
        return str(self.context["role"])


class ProjectListSerializer(serializers.Serializer[Any]):
    items = ProjectSerializer(many=True)
    next = serializers.CharField(allow_null=True)


class ProjectCreateSerializer(serializers.Serializer[Any]):
    name = serializers.CharField(max_length=120)
    slug = serializers.SlugField(max_length=60, required=False)
    question = serializers.CharField(max_length=200, required=False)
    overlap = serializers.IntegerField(min_value=1, max_value=99, required=False)
    lease_minutes = serializers.IntegerField(min_value=1, max_value=240, required=False)
    form = serializers.DictField(required=False, help_text="A feedback form; what is left out has its default.")
    guideline = serializers.CharField(max_length=100_000, required=False, allow_blank=True, trim_whitespace=False)


class ProjectPatchSerializer(serializers.Serializer[Any]):
    name = serializers.CharField(max_length=120, required=False)
    question = serializers.CharField(max_length=200, required=False)
    form = serializers.DictField(required=False, help_text="A whole feedback form: what is left out has its default.")
    overlap = serializers.IntegerField(min_value=1, max_value=99, required=False)
    lease_minutes = serializers.IntegerField(min_value=1, max_value=240, required=False)
    dispute_below = FiniteFloatField(min_value=0, max_value=1, required=False)
    flag_limit = serializers.IntegerField(min_value=1, max_value=99, required=False)
    paused = serializers.BooleanField(required=False)


class GuidelineTextSerializer(serializers.Serializer[Any]):
    text = serializers.CharField(max_length=100_000, trim_whitespace=False)


class PromptSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField(source="public_id")
    messages = MessageSerializer(many=True)
    category = serializers.CharField()
    completions = serializers.IntegerField(source="n_completions")
    comparisons = serializers.IntegerField(source="n_comparisons")
    created_at = serializers.DateTimeField()


class PromptListSerializer(serializers.Serializer[Any]):
    items = PromptSerializer(many=True)
    next = serializers.CharField(allow_null=True)


class RowErrorSerializer(serializers.Serializer[Any]):
    line = serializers.IntegerField()
    field = serializers.CharField()
    value = serializers.CharField()
    message = serializers.CharField()


class ImportBatchSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField(source="public_id")
    kind = serializers.CharField()
    rows = serializers.IntegerField()
    imported = serializers.IntegerField()
    duplicates = serializers.IntegerField()
    skipped = serializers.IntegerField()
    errors = RowErrorSerializer(many=True)  # type: ignore[assignment]
    created_at = serializers.DateTimeField()


class ProjectsView(NoStore, APIView):
    """The caller's projects as a researcher."""

    @extend_schema(operation_id="projects_list", responses=ProjectListSerializer)
    def get(self, request: Request) -> Response:
        """Projects where the caller may read the researcher's screens."""
        require_scope(request, TokenScope.READ)
        rows = user_of(request).memberships.filter(left_at=None).select_related("project").order_by("project__name")
        if isinstance(request.auth, Token) and request.auth.project_id is not None:
            rows = rows.filter(project_id=request.auth.project_id)
        items = [
            ProjectSerializer(row.project, context={"role": row.role}).data
            for row in rows
            if Role(row.role).can_research
        ]
        return Response({"items": items, "next": None})

    @extend_schema(operation_id="projects_create", request=ProjectCreateSerializer, responses={201: ProjectSerializer})
    def post(self, request: Request) -> Response:
        """Make a project; the caller becomes its owner."""
        require_scope(request, TokenScope.WRITE)
        if isinstance(request.auth, Token) and request.auth.project_id is not None:
            raise ValidationError({"name": ["this token belongs to one project and cannot make others"]})
        data = ProjectCreateSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        values = dict(data.validated_data)
        values["form"] = read_form(values.get("form", {}))
        project = create_project(by=user_of(request), now=timezone.now(), **values)
        body = ProjectSerializer(project, context={"role": Role.OWNER.value}).data
        return Response(body, status=status.HTTP_201_CREATED)


class ProjectDetailView(ProjectView):
    """One project's settings."""

    @extend_schema(operation_id="projects_show", responses=ProjectSerializer)
    def get(self, request: Request, slug: str) -> Response:
        """Settings and the current guideline."""
        return Response(ProjectSerializer(self.project, context={"role": self.role.value}).data)

    @extend_schema(operation_id="projects_change", request=ProjectPatchSerializer, responses=ProjectSerializer)
    def patch(self, request: Request, slug: str) -> Response:
        """Change settings. A new overlap applies to every comparison that is not frozen."""
        data = ProjectPatchSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        values, now = dict(data.validated_data), timezone.now()
        unknown = set(request.data) - set(data.fields)
        if unknown:
            raise ValidationError({name: ["this setting does not exist"] for name in sorted(unknown)})
        if "form" in values:
            change_form(project=self.project, form=read_form(values.pop("form")), by=user_of(request), now=now)
        if "overlap" in values:
            change_overlap(project=self.project, overlap=values.pop("overlap"), now=now)
        if "paused" in values:
            values["paused_at"] = (self.project.paused_at or now) if values.pop("paused") else None
        if values:
            Project.objects.filter(pk=self.project.pk).update(**values)
        audit(project=self.project, by=user_of(request), action="project.changed", now=now, fields=sorted(request.data))
        self.project.refresh_from_db()
        return self.get(request, slug)


class GuidelinesView(ProjectView):
    """Guideline versions."""

    @extend_schema(operation_id="guidelines_add", request=GuidelineTextSerializer, responses={201: GuidelineSerializer})
    def post(self, request: Request, slug: str) -> Response:
        """A new version; the same text again changes nothing."""
        data = GuidelineTextSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        version = add_guideline(
            project=self.project, text=data.validated_data["text"], by=user_of(request), now=timezone.now()
        )
        return Response(GuidelineSerializer(version).data, status=status.HTTP_201_CREATED)


class PromptsView(ProjectView):
    """The project's prompts."""

    @extend_schema(
        operation_id="prompts_list",
        responses=PromptListSerializer,
        parameters=[OpenApiParameter("q", str), OpenApiParameter("category", str), *CURSOR_PARAMETERS],
    )
    def get(self, request: Request, slug: str) -> Response:
        """Prompts, newest first."""
        rows = queries.prompts(
            self.project,
            search=query_text(request, "q"),
            category=query_text(request, "category"),
        )
        return page(request, rows, lambda found: list(PromptSerializer(found, many=True).data))


class ImportsView(ProjectView):
    """Imports of JSON Lines."""

    parser_classes = (JSONLinesParser,)

    @extend_schema(
        operation_id="imports_create",
        request={"application/x-ndjson": OpenApiTypes.STR},
        responses={201: ImportBatchSerializer},
        parameters=[
            OpenApiParameter("kind", str, enum=[kind.value for kind in ImportKind], required=True),
            OpenApiParameter("on_error", str, enum=["refuse", "skip"], description="Default refuse."),
        ],
    )
    def post(self, request: Request, slug: str) -> Response:
        """Import prompts or votes. With a bad row nothing is imported, unless `on_error=skip`."""
        kind = request.query_params.get("kind", "")
        on_error = request.query_params.get("on_error", "refuse")
        if kind not in {item.value for item in ImportKind}:
            raise ValidationError({"kind": [f"must be prompts or votes, got {kind!r}"]})
        if on_error not in {"refuse", "skip"}:
            raise ValidationError({"on_error": [f"must be refuse or skip, got {on_error!r}"]})
        body = cast(bytes, request.data or b"")  # without a body DRF gives an empty dict
        batch = import_lines(
            project=self.project,
            kind=ImportKind(kind),
            lines=body.splitlines(),
            by=user_of(request),
            skip_bad_rows=on_error == "skip",
            now=timezone.now(),
        )
        return Response(ImportBatchSerializer(batch).data, status=status.HTTP_201_CREATED)
