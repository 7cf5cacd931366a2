"""Snapshots: freeze, preview, list, card, difference, export."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any
from uuid import UUID

from django.http import Http404, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, status
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from annotation.api.access import ProjectView, user_of
from annotation.api.pagination import CURSOR_PARAMETERS, page
from annotation.api.parsing import FiniteFloatField
from annotation.api.task import MessageSerializer
from annotation.models import Aggregator
from annotation.preferences import LabelPolicy
from training import queries
from training.api.serializers import (
    JobRefSerializer,
    ModelRefSerializer,
    NumbersField,
    SnapshotCountsSerializer,
    SnapshotListSerializer,
    SnapshotRefSerializer,
    SnapshotSerializer,
)
from training.models import Snapshot
from training.snapshot_contents import Change, card, difference, export_name, export_sum
from training.snapshot_similarity import similarity_of
from training.snapshots import FreezeRule, Layout, export_lines, freeze, preview
from training.splits import PARTS

CHANGES = tuple(item.value for item in Change)


class SharesSerializer(serializers.Serializer[Any]):
    train = FiniteFloatField(min_value=0, max_value=1)
    validation = FiniteFloatField(min_value=0, max_value=1)
    test = FiniteFloatField(min_value=0, max_value=1)


class FreezeSerializer(serializers.Serializer[Any]):
    name = serializers.CharField(max_length=120, required=False, allow_blank=True)
    aggregator = serializers.ChoiceField(
        choices=Aggregator.choices, required=False, help_text="How votes become labels; default the project's."
    )
    min_votes = serializers.IntegerField(min_value=1, max_value=99, required=False)
    tie_rule = serializers.ChoiceField(choices=["half", "drop"], required=False)
    min_confidence = FiniteFloatField(min_value=0, max_value=1, required=False)
    margin = serializers.BooleanField(required=False, help_text="Carry how strongly people preferred; scales only.")
    shares = SharesSerializer(required=False)

    def rule(self) -> FreezeRule:
        values = self.validated_data
        named = {key: values[key] for key in ("min_votes", "tie_rule", "min_confidence", "margin") if key in values}
        if "aggregator" in values:
            named["aggregator"] = Aggregator(values["aggregator"])
        policy = LabelPolicy(**named)
        return (
            FreezeRule(policy=policy, shares=dict(values["shares"]))
            if "shares" in values
            else FreezeRule(policy=policy)
        )


class PreviewSerializer(serializers.Serializer[Any]):
    preferences = serializers.IntegerField()
    ties = serializers.IntegerField()
    dropped = NumbersField()
    splits = SnapshotCountsSerializer()


class NamedCountSerializer(serializers.Serializer[Any]):
    name = serializers.CharField(help_text="Empty where nothing was given.")
    n = serializers.IntegerField()


class CertaintySerializer(serializers.Serializer[Any]):
    """Preferences whose label has a probability in [low, high); the last one holds 1 as well."""

    low = serializers.FloatField()
    high = serializers.FloatField()
    n = serializers.IntegerField()


class SourcePairSerializer(serializers.Serializer[Any]):
    chosen = serializers.CharField()
    rejected = serializers.CharField()
    n = serializers.IntegerField()


class SnapshotCardSerializer(serializers.Serializer[Any]):
    """Lengths are characters. Named counts are the most frequent twenty."""

    preferences = serializers.IntegerField()
    comparisons = serializers.IntegerField()
    multi_turn = serializers.IntegerField(help_text="Preferences whose prompt has several turns.")
    votes = serializers.IntegerField()
    by_votes = serializers.IntegerField(help_text="Labels that votes gave.")
    by_ruling = serializers.IntegerField(help_text="Labels that adjudicators gave.")
    mean_prompt = serializers.FloatField(allow_null=True)
    mean_chosen = serializers.FloatField(allow_null=True)
    mean_rejected = serializers.FloatField(allow_null=True)
    longer_wins = serializers.FloatField(allow_null=True, help_text="Share, where the lengths differ.")
    certainty = CertaintySerializer(many=True)
    categories = NamedCountSerializer(many=True)
    languages = NamedCountSerializer(many=True)
    licences = NamedCountSerializer(many=True)
    sources = SourcePairSerializer(many=True)


class ChangedPreferenceSerializer(serializers.Serializer[Any]):
    id = serializers.CharField()
    change = serializers.ChoiceField(choices=CHANGES)
    prompt = MessageSerializer(many=True)
    chosen = serializers.CharField()
    rejected = serializers.CharField()
    prob_before = serializers.FloatField(allow_null=True, help_text="Of what is chosen here; null: was not in it.")
    prob_after = serializers.FloatField(allow_null=True)


class SnapshotDifferenceSerializer(serializers.Serializer[Any]):
    since = SnapshotRefSerializer(allow_null=True, help_text="Null: there is none before, so everything is new.")
    snapshot = SnapshotRefSerializer()
    added = serializers.IntegerField()
    removed = serializers.IntegerField()
    flipped = serializers.IntegerField(help_text="Another side is chosen, or a tie came or went.")
    same = serializers.IntegerField()
    items = ChangedPreferenceSerializer(many=True, source="shown")


class SimilarityDecileSerializer(serializers.Serializer[Any]):
    """A tenth of the pairs by their length-normalised CHES, 1 the lowest; all but the bounds are means."""

    decile = serializers.IntegerField()
    pairs = serializers.IntegerField()
    low = serializers.FloatField()
    high = serializers.FloatField()
    ches_normalised = serializers.FloatField()
    ches = serializers.FloatField()
    cosine = serializers.FloatField()
    tokens = serializers.FloatField(help_text="Of a completion.")


class SimilarPairSerializer(serializers.Serializer[Any]):
    id = serializers.CharField()
    comparison = serializers.UUIDField(allow_null=True)
    prompt = MessageSerializer(many=True)
    chosen = serializers.CharField()
    rejected = serializers.CharField()
    ches = serializers.FloatField()
    ches_normalised = serializers.FloatField()
    cosine = serializers.FloatField(help_text="Of the summed states.")
    tokens_chosen = serializers.IntegerField()
    tokens_rejected = serializers.IntegerField()


class MeasuredSimilaritySerializer(serializers.Serializer[Any]):
    """How alike the two completions of each pair are to a policy (CHES, Razin et al. 2024)."""

    job = JobRefSerializer()
    model = ModelRefSerializer(source="job.model", allow_null=True)
    part = serializers.ChoiceField(choices=PARTS)
    measured_at = serializers.DateTimeField()
    pairs = serializers.IntegerField()
    too_long = serializers.IntegerField(help_text="Left out: longer than the job's data.max_tokens.")
    deciles = SimilarityDecileSerializer(many=True)
    highest = SimilarPairSerializer(many=True)


class SimilarityJobSerializer(JobRefSerializer):
    model = ModelRefSerializer(allow_null=True)
    reason = serializers.CharField()


class SnapshotSimilaritySerializer(serializers.Serializer[Any]):
    latest = SimilarityJobSerializer(
        allow_null=True, help_text="The newest job that measures it; null: none was asked."
    )
    measured = MeasuredSimilaritySerializer(allow_null=True, help_text="By the newest job that succeeded.")


class ExportSumSerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    lines = serializers.IntegerField()
    size_bytes = serializers.IntegerField()
    sha256 = serializers.CharField()


_EXPORT = [
    OpenApiParameter("layout", str, enum=[item.value for item in Layout], description="Default trl."),
    OpenApiParameter("split", str, enum=["all", *PARTS], description="Default all."),
]


def _export_asked(request: Request) -> tuple[Layout, str | None]:
    """Layout and part; no part is all of them."""
    layout, part = request.query_params.get("layout", "trl"), request.query_params.get("split", "all")
    if layout not in {item.value for item in Layout}:
        raise ValidationError({"layout": [f"must be trl, plain or winnow, got {layout!r}"]})
    if part not in {"all", *PARTS}:
        raise ValidationError({"split": [f"must be all, train, validation or test, got {part!r}"]})
    return Layout(layout), None if part == "all" else part


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise ValidationError({"since": [f"must be the id of a snapshot, got {text!r}"]}) from None


class SnapshotsView(ProjectView):
    """Frozen data sets."""

    @extend_schema(operation_id="snapshots_list", responses=SnapshotListSerializer, parameters=CURSOR_PARAMETERS)
    def get(self, request: Request, slug: str) -> Response:
        """Snapshots, newest first."""
        return page(
            request, queries.snapshots(self.project), lambda rows: list(SnapshotSerializer(rows, many=True).data)
        )

    @extend_schema(operation_id="snapshots_freeze", request=FreezeSerializer, responses={201: SnapshotSerializer})
    def post(self, request: Request, slug: str) -> Response:
        """Freeze every settled comparison that the rule takes. It cannot be undone."""
        data = FreezeSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        snapshot = freeze(
            project=self.project,
            rule=data.rule(),
            by=user_of(request),
            name=data.validated_data.get("name", ""),
            now=timezone.now(),
        )
        return Response(SnapshotSerializer(snapshot).data, status=status.HTTP_201_CREATED)


class SnapshotPreviewView(ProjectView):
    """What freezing now would give."""

    @extend_schema(
        operation_id="snapshots_preview",
        responses=PreviewSerializer,
        parameters=[
            OpenApiParameter("aggregator", str, enum=Aggregator.values),
            OpenApiParameter("min_votes", int),
            OpenApiParameter("tie_rule", str, enum=["half", "drop"]),
        ],
    )
    def get(self, request: Request, slug: str) -> Response:
        """Counts, nothing is written."""
        data = FreezeSerializer(data={key: request.query_params[key] for key in request.query_params})
        data.is_valid(raise_exception=True)
        found = preview(project=self.project, rule=data.rule(), now=timezone.now())
        body = asdict(found) | {"splits": {**found.splits, "total": found.preferences}}
        return Response(PreviewSerializer(body).data)


class SnapshotView(ProjectView):
    """One snapshot."""

    @extend_schema(operation_id="snapshots_show", responses=SnapshotSerializer)
    def get(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Its counts, rule, hash and agreement."""
        return Response(SnapshotSerializer(_snapshot(self, public_id)).data)


class SnapshotCardView(ProjectView):
    """What is in a snapshot."""

    @extend_schema(operation_id="snapshots_card", responses=SnapshotCardSerializer)
    def get(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Sources, languages, licences, lengths, and how sure the labels are, counted from its lines."""
        return Response(SnapshotCardSerializer(card(_snapshot(self, public_id))).data)


class SnapshotSimilarityView(ProjectView):
    """Which pairs of a snapshot are too alike to be learned from safely."""

    @extend_schema(operation_id="snapshots_similarity", responses=SnapshotSimilaritySerializer)
    def get(self, request: Request, slug: str, public_id: UUID) -> Response:
        """What the newest `evaluate` job with `evaluate.similarity` has found: tenths, and the pairs most alike."""
        return Response(SnapshotSimilaritySerializer(similarity_of(_snapshot(self, public_id))).data)


class SnapshotDifferenceView(ProjectView):
    """A snapshot against an earlier one."""

    @extend_schema(
        operation_id="snapshots_difference",
        responses=SnapshotDifferenceSerializer,
        parameters=[
            OpenApiParameter("since", UUID, description="Another snapshot; default the one before, if there is one."),
            OpenApiParameter("change", str, enum=CHANGES, description="List only these."),
        ],
    )
    def get(self, request: Request, slug: str, public_id: UUID) -> Response:
        """How many preferences came, went and flipped, and the first hundred of them, flips first."""
        after = _snapshot(self, public_id)
        since, change = request.query_params.get("since", ""), request.query_params.get("change", "")
        if change not in {"", *Change}:
            raise ValidationError({"change": [f"must be flipped, added or removed, got {change!r}"]})
        before = (
            _snapshot(self, _uuid(since))
            if since
            else queries.snapshots(self.project).filter(number__lt=after.number).order_by("-number").first()
        )
        found = difference(before, after, only=Change(change) if change else None)
        return Response(SnapshotDifferenceSerializer({"since": before, "snapshot": after, **asdict(found)}).data)


class SnapshotSumView(ProjectView):
    """What a downloaded export must be."""

    @extend_schema(operation_id="snapshots_sum", responses=ExportSumSerializer, parameters=_EXPORT)
    def get(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Lines, bytes and sha256 of the file that the export with the same parameters gives."""
        layout, part = _export_asked(request)
        return Response(ExportSumSerializer(export_sum(_snapshot(self, public_id), layout=layout, part=part)).data)


class SnapshotExportView(ProjectView):
    """A snapshot's lines as a file."""

    @extend_schema(
        operation_id="snapshots_export",
        responses={(200, "application/x-ndjson"): OpenApiTypes.STR},
        parameters=_EXPORT,
    )
    def get(self, request: Request, slug: str, public_id: UUID) -> HttpResponseBase:
        """JSON Lines: `trl` (conversational) and `plain` load in TRL as they are; `winnow` has everything."""
        snapshot = _snapshot(self, public_id)
        layout, part = _export_asked(request)
        lines = export_lines(snapshot, layout=layout, part=part)
        response = StreamingHttpResponse(lines, content_type="application/x-ndjson")
        name = export_name(snapshot, layout=layout, part=part)
        response["Content-Disposition"] = f'attachment; filename="{name}"'
        response["X-Content-Hash"] = snapshot.content_hash
        response["Cache-Control"] = "no-store"
        return response


def _snapshot(view: ProjectView, public_id: UUID) -> Snapshot:
    snapshot: Snapshot | None = queries.snapshots(view.project).filter(public_id=public_id).first()
    if snapshot is None:
        raise Http404
    return snapshot
