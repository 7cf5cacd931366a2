"""Results of experiments: which there are, and one of them with all that it says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from django.conf import settings
from django.http import Http404
from django.urls import URLPattern, path
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from annotation.api.access import NoStore, researched_projects
from training import experiments
from training.api.serializers import ObjectField
from training.experiment_format import Across, Estimate, Kind, Scale, Setting, Table
from training.experiments import Origin

SETTINGS = [setting.value for setting in Setting]
ORIGINS = [origin.value for origin in Origin]
SCALES = [scale.value for scale in Scale]
KINDS = [kind.value for kind in Kind]
AXES = [axis.value for axis in Across]
_NUMBER, _TEXT = {"type": "number"}, {"type": "string"}
_ESTIMATE = {
    "type": "object",
    "properties": {"value": _NUMBER, "low": _NUMBER, "high": _NUMBER, "n": {"type": "integer"}},
    "required": ["value", "low", "high", "n"],
}
_ROW = {"type": "object", "additionalProperties": {"oneOf": [_TEXT, _NUMBER, _ESTIMATE, {"type": "null"}]}}


@extend_schema_field({"type": "object", "additionalProperties": _TEXT})
class TextsField(serializers.JSONField):
    """An object of texts."""


@extend_schema_field({"oneOf": [_NUMBER, _TEXT]})
class PlaceField(serializers.JSONField):
    """A number, or a name on a category axis."""


class ExperimentClaimSerializer(serializers.Serializer[Any]):
    claim = serializers.CharField()
    holds = serializers.BooleanField(allow_null=True, help_text="Null: the data decide neither way.")
    figure = serializers.CharField(help_text="What decides, in words.")


class ExperimentColumnSerializer(serializers.Serializer[Any]):
    key = serializers.CharField()
    label = serializers.CharField()  # type: ignore[assignment]  # DRF keeps fields apart
    unit = serializers.CharField(help_text="Empty for words and plain numbers.")


class ExperimentTableSerializer(serializers.Serializer[Any]):
    title = serializers.CharField()
    note = serializers.CharField()
    columns = ExperimentColumnSerializer(many=True)
    rows = serializers.SerializerMethodField()

    @extend_schema_field({"type": "array", "items": _ROW})
    def get_rows(self, table: Table) -> list[dict[str, Any]]:
        """Cells by the keys of their columns."""
        return [
            {key: asdict(cell) if isinstance(cell, Estimate) else cell for key, cell in row.items()}
            for row in table.rows
        ]


class ExperimentPointSerializer(serializers.Serializer[Any]):
    x = PlaceField()
    y = serializers.FloatField()
    low = serializers.FloatField(allow_null=True)
    high = serializers.FloatField(allow_null=True)


class ExperimentSeriesSerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    kind = serializers.ChoiceField(choices=KINDS)
    points = ExperimentPointSerializer(many=True)


class ExperimentXAxisSerializer(serializers.Serializer[Any]):
    label = serializers.CharField()  # type: ignore[assignment]
    scale = serializers.ChoiceField(choices=SCALES)


class ExperimentYAxisSerializer(serializers.Serializer[Any]):
    label = serializers.CharField()  # type: ignore[assignment]


class ExperimentLineSerializer(serializers.Serializer[Any]):
    axis = serializers.ChoiceField(choices=AXES, help_text="The axis that it crosses at `at`.")
    at = serializers.FloatField()
    label = serializers.CharField()  # type: ignore[assignment]


class ExperimentChartSerializer(serializers.Serializer[Any]):
    title = serializers.CharField()
    x = ExperimentXAxisSerializer()
    y = ExperimentYAxisSerializer()
    series = ExperimentSeriesSerializer(many=True)
    lines = ExperimentLineSerializer(many=True)


class ExperimentProvenanceSerializer(serializers.Serializer[Any]):
    commit = serializers.CharField()
    machine = ObjectField()
    versions = TextsField(help_text="Of packages, by name.")
    models = TextsField(help_text="SHA-256 by name.")
    data = TextsField(help_text="SHA-256 by file.")  # type: ignore[assignment]
    config = ObjectField()


class ExperimentVerdictsSerializer(serializers.Serializer[Any]):
    """Claims by what became of them."""

    held = serializers.IntegerField()
    failed = serializers.IntegerField()
    undecided = serializers.IntegerField()


class ExperimentSerializer(serializers.Serializer[Any]):
    """A line of the list."""

    experiment = serializers.CharField(source="result.experiment")
    setting = serializers.ChoiceField(choices=SETTINGS, source="result.setting")
    origin = serializers.ChoiceField(choices=ORIGINS, help_text="`here`: measured on this machine's own data.")
    title = serializers.CharField(source="result.title")
    question = serializers.CharField(source="result.question")
    finished_at = serializers.DateTimeField(source="result.finished")
    seconds = serializers.FloatField(source="result.seconds")
    verdicts = serializers.SerializerMethodField()

    @extend_schema_field(ExperimentVerdictsSerializer)
    def get_verdicts(self, shown: experiments.Shown) -> dict[str, int]:
        verdicts = shown.result.verdicts
        return {"held": verdicts[True], "failed": verdicts[False], "undecided": verdicts[None]}


class ExperimentDetailSerializer(ExperimentSerializer):
    command = serializers.CharField(source="result.command", help_text="Runs it again.")
    seeds = serializers.ListField(child=serializers.IntegerField(), source="result.seeds")
    reading = serializers.ListField(child=serializers.CharField(), source="result.reading")
    claims = ExperimentClaimSerializer(many=True, source="result.claims")
    charts = ExperimentChartSerializer(many=True, source="result.charts")
    tables = ExperimentTableSerializer(many=True, source="result.tables")
    provenance = ExperimentProvenanceSerializer(source="result.provenance")


class ExperimentBrokenSerializer(serializers.Serializer[Any]):
    """A file that is no result."""

    file = serializers.CharField()
    origin = serializers.ChoiceField(choices=ORIGINS)
    reason = serializers.CharField()


class ExperimentListSerializer(serializers.Serializer[Any]):
    items = ExperimentSerializer(many=True)
    broken = ExperimentBrokenSerializer(many=True)
    next = serializers.CharField(allow_null=True)


class ExperimentsView(NoStore, APIView):
    """The results that this site knows."""

    permission_classes = (IsAuthenticated,)

    @extend_schema(operation_id="experiments_list", responses=ExperimentListSerializer)
    def get(self, request: Request) -> Response:
        """Of each experiment and setting the newer result; and the files that could not be read, with the reason."""
        researched_projects(request)
        found = experiments.find(_directories())
        return Response(ExperimentListSerializer({"items": found.shown, "broken": found.broken, "next": None}).data)


class ExperimentView(NoStore, APIView):
    """One result."""

    permission_classes = (IsAuthenticated,)

    @extend_schema(operation_id="experiments_show", responses=ExperimentDetailSerializer)
    def get(self, request: Request, experiment: str, setting: str) -> Response:
        """All that it says: claims, charts, tables, and what would have to be the same for the same numbers."""
        researched_projects(request)
        shown = experiments.find_one(_directories(), experiment=experiment, setting=setting)
        if shown is None:
            raise Http404
        return Response(ExperimentDetailSerializer(shown).data)


def _directories() -> Mapping[Origin, Path]:
    return {Origin.SHIPPED: settings.SHIPPED_EXPERIMENTS_DIR, Origin.HERE: settings.EXPERIMENTS_DIR}


urlpatterns: list[URLPattern] = [
    path("experiments", ExperimentsView.as_view()),
    path("experiments/<slug:experiment>/<slug:setting>", ExperimentView.as_view()),
]
