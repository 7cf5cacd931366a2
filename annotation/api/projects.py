"""The researcher's API of a project: settings, guidelines, overview of the annotation side, tables, imports."""

from __future__ import annotations

from typing import Any

from django.db.models import Count
from django.http import Http404
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_field
from rest_framework import serializers, status
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from annotation import queries
from annotation.api.access import NoStore, ProjectView, require_scope, user_of
from annotation.api.annotate import GuidelineSerializer
from annotation.api.pagination import CURSOR_PARAMETERS, page, whole_number
from annotation.api.parsing import FiniteFloatField, query_text
from annotation.api.task import FormSerializer, MessageSerializer
from annotation.feedback import read_form
from annotation.guideline import difference
from annotation.models import Aggregator, GuidelineVersion, OverlapRule, Project, Role, Token, TokenScope
from annotation.people import add_guideline, create_project
from annotation.project_settings import COLUMNS, change_settings, check
from annotation.statistics.estimates import Reason

MOST_CAP = 2_000_000_000
REASONS = tuple(item.value for item in Reason)  # why a figure is undefined
LINE_CHANGES = ("same", "added", "removed")  # of a guideline's line, from one version to another


class EstimateSerializer(serializers.Serializer[Any]):
    value = serializers.FloatField(allow_null=True)
    low = serializers.FloatField(allow_null=True)
    high = serializers.FloatField(allow_null=True)
    n = serializers.IntegerField()
    n_groups = serializers.IntegerField()
    reason = serializers.ChoiceField(choices=REASONS, allow_null=True)
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
    lease_minutes = serializers.IntegerField()
    aggregator = serializers.ChoiceField(choices=Aggregator.choices)
    dispute_below = serializers.FloatField()
    flag_limit = serializers.IntegerField()
    overlap = serializers.IntegerField()
    overlap_rule = serializers.ChoiceField(choices=OverlapRule.choices)
    min_votes = serializers.IntegerField()
    max_votes = serializers.IntegerField()
    stop_at = serializers.FloatField()
    full_share = serializers.FloatField()
    expert_votes = serializers.IntegerField()
    finish_started = serializers.BooleanField()
    person_cap = serializers.IntegerField(allow_null=True)
    vote_cap = serializers.IntegerField(allow_null=True)
    gold_share = serializers.FloatField()
    repeat_share = serializers.FloatField()
    repeat_after = serializers.IntegerField()
    min_reading_seconds = serializers.IntegerField()
    read_to_end = serializers.BooleanField()
    confirm_guideline = serializers.BooleanField()
    practice_items = serializers.IntegerField()
    qualification_items = serializers.IntegerField()
    pass_mark = serializers.FloatField()
    attempts_allowed = serializers.IntegerField()
    retry_hours = serializers.IntegerField()
    feedback_every = serializers.IntegerField()
    pause_below = serializers.FloatField(allow_null=True)
    pause_min_gold = serializers.IntegerField()
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


class SettingsSerializer(serializers.Serializer[Any]):
    """What can be set, when a project is made and later; what is left out stays as it is."""

    question = serializers.CharField(max_length=200, required=False)
    form = serializers.DictField(required=False, help_text="A whole feedback form: what is left out has its default.")
    lease_minutes = serializers.IntegerField(min_value=1, max_value=240, required=False)
    aggregator = serializers.ChoiceField(choices=Aggregator.choices, required=False)
    dispute_below = FiniteFloatField(min_value=0, max_value=1, required=False)
    flag_limit = serializers.IntegerField(min_value=1, max_value=99, required=False)
    overlap = serializers.IntegerField(min_value=1, max_value=99, required=False)
    overlap_rule = serializers.ChoiceField(choices=OverlapRule.choices, required=False)
    min_votes = serializers.IntegerField(min_value=1, max_value=99, required=False)
    max_votes = serializers.IntegerField(min_value=1, max_value=99, required=False)
    stop_at = FiniteFloatField(min_value=0.5, max_value=0.999, required=False)
    full_share = FiniteFloatField(min_value=0, max_value=1, required=False)
    expert_votes = serializers.IntegerField(min_value=0, max_value=20, required=False)
    finish_started = serializers.BooleanField(required=False)
    person_cap = serializers.IntegerField(min_value=1, max_value=MOST_CAP, required=False, allow_null=True)
    vote_cap = serializers.IntegerField(min_value=1, max_value=MOST_CAP, required=False, allow_null=True)
    gold_share = FiniteFloatField(min_value=0, max_value=0.5, required=False)
    repeat_share = FiniteFloatField(min_value=0, max_value=0.5, required=False)
    repeat_after = serializers.IntegerField(min_value=1, max_value=10_000, required=False)
    min_reading_seconds = serializers.IntegerField(min_value=0, max_value=600, required=False)
    read_to_end = serializers.BooleanField(required=False)
    confirm_guideline = serializers.BooleanField(required=False)
    practice_items = serializers.IntegerField(min_value=0, max_value=1000, required=False)
    qualification_items = serializers.IntegerField(min_value=0, max_value=1000, required=False)
    pass_mark = FiniteFloatField(min_value=0, max_value=1, required=False)
    attempts_allowed = serializers.IntegerField(min_value=1, max_value=99, required=False)
    retry_hours = serializers.IntegerField(min_value=0, max_value=8760, required=False)
    feedback_every = serializers.IntegerField(min_value=0, max_value=1_000_000, required=False)
    pause_below = FiniteFloatField(min_value=0, max_value=1, required=False, allow_null=True)
    pause_min_gold = serializers.IntegerField(min_value=1, max_value=1000, required=False)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        unknown = set(self.initial_data) - set(self.fields)
        if unknown:
            raise ValidationError({name: ["this setting does not exist"] for name in sorted(unknown)})
        return attrs


class ProjectCreateSerializer(SettingsSerializer):
    name = serializers.CharField(max_length=120)
    slug = serializers.SlugField(max_length=60, required=False)
    guideline = serializers.CharField(max_length=100_000, required=False, allow_blank=True, trim_whitespace=False)


class ProjectPatchSerializer(SettingsSerializer):
    name = serializers.CharField(max_length=120, required=False)
    paused = serializers.BooleanField(required=False)


class GuidelineVersionSerializer(serializers.Serializer[Any]):
    number = serializers.IntegerField()
    text = serializers.CharField()
    created_at = serializers.DateTimeField()
    created_by = serializers.CharField(source="created_by.name")
    confirmed = serializers.IntegerField(source="n_readings", help_text="People who have confirmed it.")


class GuidelineVersionListSerializer(serializers.Serializer[Any]):
    items = GuidelineVersionSerializer(many=True)
    next = serializers.CharField(allow_null=True)


class GuidelineLineSerializer(serializers.Serializer[Any]):
    change = serializers.ChoiceField(choices=LINE_CHANGES)
    text = serializers.CharField()


class GuidelineDifferenceSerializer(serializers.Serializer[Any]):
    number = serializers.IntegerField()
    since = serializers.IntegerField()
    lines = GuidelineLineSerializer(many=True)


class GuidelineTextSerializer(serializers.Serializer[Any]):
    text = serializers.CharField(max_length=100_000, trim_whitespace=False)


class PromptSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField(source="public_id")
    messages = MessageSerializer(many=True)
    category = serializers.CharField()
    completions = serializers.IntegerField(source="n_completions")
    comparisons = serializers.IntegerField(source="n_comparisons")
    created_at = serializers.DateTimeField()
    erased_at = serializers.DateTimeField(allow_null=True, help_text="When its texts were erased for privacy.")


class PromptListSerializer(serializers.Serializer[Any]):
    items = PromptSerializer(many=True)
    next = serializers.CharField(allow_null=True)


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
        check({name: value for name, value in values.items() if name in COLUMNS})
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
        form = read_form(values.pop("form")) if "form" in values else None
        if "paused" in values:
            values["paused_at"] = (self.project.paused_at or now) if values.pop("paused") else None
        change_settings(project=self.project, values=values, form=form, by=user_of(request), now=now)
        return self.get(request, slug)


class GuidelinesView(ProjectView):
    """Guideline versions."""

    @extend_schema(
        operation_id="guidelines_list", responses=GuidelineVersionListSerializer, parameters=CURSOR_PARAMETERS
    )
    def get(self, request: Request, slug: str) -> Response:
        """All versions, newest first."""
        rows = GuidelineVersion.objects.filter(project=self.project).select_related("created_by")
        rows = rows.annotate(n_readings=Count("readings"))
        return page(request, rows, lambda found: list(GuidelineVersionSerializer(found, many=True).data))

    @extend_schema(operation_id="guidelines_add", request=GuidelineTextSerializer, responses={201: GuidelineSerializer})
    def post(self, request: Request, slug: str) -> Response:
        """A new version; the same text again changes nothing."""
        data = GuidelineTextSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        version = add_guideline(
            project=self.project, text=data.validated_data["text"], by=user_of(request), now=timezone.now()
        )
        return Response(GuidelineSerializer(version).data, status=status.HTTP_201_CREATED)


class GuidelineDifferenceView(ProjectView):
    """What changed in the guideline."""

    @extend_schema(
        operation_id="guidelines_difference",
        responses=GuidelineDifferenceSerializer,
        parameters=[OpenApiParameter("since", int, description="An earlier version; default the one before.")],
    )
    def get(self, request: Request, slug: str, number: int) -> Response:
        """The lines of a version beside those of an earlier one."""
        if number > MOST_CAP:
            raise Http404
        since = whole_number(request, "since", default=number - 1, low=0, high=10**9)
        texts = dict(self.project.guidelines.filter(number__in=(number, since)).values_list("number", "text"))
        if number not in texts or (since not in texts and since != 0):
            raise Http404
        lines = difference(texts.get(since, "").splitlines(), texts[number].splitlines())
        return Response(GuidelineDifferenceSerializer({"number": number, "since": since, "lines": list(lines)}).data)


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
