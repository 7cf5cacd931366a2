"""The statistics of a project's votes: agreement, people, ranking of systems, bias, and what to do next.

Each answer says in `definition` what it counts, and is downloaded with that definition as JSON or as CSV.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from django.http import Http404
from django.http.response import HttpResponseBase
from django.urls import URLPattern, path
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request

from annotation.api.access import ProjectView
from annotation.api.comparisons import ComparisonSerializer
from annotation.api.pagination import CURSOR_PARAMETERS
from annotation.api.projects import EstimateSerializer
from annotation.feedback import FeedbackKind
from annotation.models import Aggregator

Method = TypeVar("Method", bound=Callable[..., Any])
DOWNLOAD = OpenApiParameter("as", str, enum=["json", "csv"], description="As a file, with the definition in it.")


class StatisticSerializer(EstimateSerializer):
    """A number with its interval, or the reason why there is none."""

    se = serializers.FloatField(allow_null=True)
    level = serializers.FloatField()
    warnings = serializers.ListField(child=serializers.CharField())


class ClassShareSerializer(serializers.Serializer[Any]):
    name = serializers.CharField(help_text="a, tie, b; of ratings a point.")
    share = StatisticSerializer()


class AgreementFiguresSerializer(serializers.Serializer[Any]):
    comparisons = serializers.IntegerField(help_text="With a vote in it.")
    items = serializers.IntegerField(help_text="Pairs, or rated completions.")
    votes = serializers.IntegerField()
    people = serializers.IntegerField()
    prompts = serializers.IntegerField(help_text="Groups that the intervals are clustered by.")
    percent = StatisticSerializer()
    unanimous = StatisticSerializer()
    alpha = StatisticSerializer(help_text="Krippendorff, nominal.")
    alpha_ordinal = StatisticSerializer()
    alpha_interval = StatisticSerializer(allow_null=True, help_text="Of ratings only: on their points.")
    fleiss = StatisticSerializer()
    ac1 = StatisticSerializer(help_text="Gwet.")
    ac2 = StatisticSerializer(help_text="Gwet, ordinal weights.")
    classes = ClassShareSerializer(many=True)
    both_bad = StatisticSerializer(help_text="Share of the votes; they count as ties.")


class AgreementRowSerializer(AgreementFiguresSerializer):
    key = serializers.CharField(help_text="Criterion, batch, guideline version or start of the window.")
    title = serializers.CharField()
    started_at = serializers.DateTimeField(allow_null=True)
    ended_at = serializers.DateTimeField(allow_null=True)


class HeldOutSerializer(serializers.Serializer[Any]):
    method = serializers.CharField()
    log_loss = serializers.FloatField(help_text="Of hidden votes, nats a vote; lower is better.")


class CeilingSerializer(serializers.Serializer[Any]):
    best = StatisticSerializer(help_text="Best accuracy that a model can reach against single votes.")
    upper = serializers.FloatField(allow_null=True, help_text="No spread of opinion allows more.")
    agreement = StatisticSerializer(help_text="Of decisive votes, from which it follows.")


class AgreementReportSerializer(serializers.Serializer[Any]):
    definition = serializers.CharField()
    kind = serializers.ChoiceField(choices=[kind.value for kind in FeedbackKind])
    full_overlap_only = serializers.BooleanField(help_text="Measured on the random slice that gets all votes.")
    split = serializers.ChoiceField(choices=["criterion", "batch", "guideline", "time"], allow_null=True)
    overall = AgreementFiguresSerializer()
    rows = AgreementRowSerializer(many=True)
    skipped = serializers.IntegerField()
    cannot_judge = serializers.IntegerField(help_text="Of the skipped.")
    aggregator = serializers.ChoiceField(choices=Aggregator.choices)
    held_out = HeldOutSerializer(many=True)
    ceiling = CeilingSerializer()


class StatisticsPersonSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    name = serializers.CharField()
    pseudonym = serializers.CharField()
    votes = serializers.IntegerField()


class _NumbersField(serializers.ListField):
    """A matrix of numbers, null where there is none."""

    child = serializers.ListField(child=serializers.FloatField(allow_null=True))


class MatrixReportSerializer(serializers.Serializer[Any]):
    """Square matrices in the order of `people`; null where `reason` says why."""

    definition = serializers.CharField()
    weights = serializers.ChoiceField(choices=["identity", "linear", "quadratic", "ordinal"])
    min_common = serializers.IntegerField()
    total_people = serializers.IntegerField()
    people = StatisticsPersonSerializer(many=True)
    kappa = _NumbersField()
    se = _NumbersField()
    n_common = serializers.ListField(child=serializers.ListField(child=serializers.IntegerField()))
    reason = serializers.ListField(child=serializers.ListField(child=serializers.CharField(allow_null=True)))


class PersonSummarySerializer(StatisticsPersonSerializer):
    excluded = serializers.BooleanField()
    accuracy = StatisticSerializer(help_text="P(a vote is right), by the joint fit.")
    agreement = StatisticSerializer(help_text="With the answer of the others, the own vote left out.")
    kappa = StatisticSerializer(help_text="Of own votes against the answer of the others.")
    tie_share = StatisticSerializer()
    left_share = StatisticSerializer()
    side_bias = StatisticSerializer(help_text="Logits towards the left side, relative to what others say.")
    consistency = StatisticSerializer()
    side_driven = StatisticSerializer()
    gold = StatisticSerializer()
    reference = StatisticSerializer(help_text="Agreement with researchers' references.")
    reference_kappa = StatisticSerializer()
    median_seconds = serializers.FloatField(allow_null=True)
    flags = serializers.ListField(child=serializers.CharField(), help_text="accuracy, position, length, format.")


class PeopleReportSerializer(serializers.Serializer[Any]):
    definition = serializers.CharField()
    lower_quartile = serializers.FloatField(allow_null=True, help_text="Of the people's accuracy.")
    people = PersonSummarySerializer(many=True)


class StrengthSerializer(serializers.Serializer[Any]):
    """Of one system; null where the model gives none."""

    strength = serializers.FloatField(allow_null=True, help_text="Natural-log odds, sum zero over systems.")
    se = serializers.FloatField(allow_null=True)
    low = serializers.FloatField(allow_null=True)
    high = serializers.FloatField(allow_null=True)
    rank = serializers.IntegerField(allow_null=True)
    rank_low = serializers.IntegerField(allow_null=True)
    rank_high = serializers.IntegerField(allow_null=True)
    elo = serializers.FloatField(allow_null=True, help_text="Display only: 1000 + 400/ln 10 times the strength.")


class RankedSystemSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    name = serializers.CharField()
    votes = serializers.FloatField()
    comparisons = serializers.IntegerField()
    component = serializers.IntegerField(help_text="Strengths compare within one component only.")
    plain = StrengthSerializer()
    controlled = StrengthSerializer(allow_null=True)
    adjusted = StrengthSerializer(allow_null=True)


class ControlEffectSerializer(serializers.Serializer[Any]):
    control = serializers.ChoiceField(choices=["side", "length", "style"])
    effect = StatisticSerializer(help_text="Logits towards the left one; of length and style a doubling.")


class RankingFitSerializer(serializers.Serializer[Any]):
    converged = serializers.BooleanField()
    log_likelihood = serializers.FloatField(allow_null=True)
    tie_parameter = serializers.FloatField(allow_null=True)
    reason = serializers.CharField(allow_null=True)
    warnings = serializers.ListField(child=serializers.CharField())


class WinRatesSerializer(serializers.Serializer[Any]):
    """Square matrices in the order of `systems`: how often the row's system won against the column's."""

    rate = _NumbersField()
    low = _NumbersField()
    high = _NumbersField()
    n = _NumbersField()
    model = _NumbersField()


class EloPointSerializer(serializers.Serializer[Any]):
    votes = serializers.IntegerField(help_text="Votes so far.")
    rating = serializers.FloatField()


class EloCurveSerializer(serializers.Serializer[Any]):
    system = serializers.CharField()
    points = EloPointSerializer(many=True)


class RankingReportSerializer(serializers.Serializer[Any]):
    definition = serializers.CharField()
    model = serializers.CharField()
    criterion = serializers.CharField(allow_null=True)
    controls = serializers.ListField(child=serializers.CharField())
    votes = serializers.IntegerField()
    left_out = serializers.IntegerField(help_text="Votes between completions of one system, or unknown to the model.")
    prompts = serializers.IntegerField()
    people = serializers.IntegerField()
    both_bad = StatisticSerializer()
    systems = RankedSystemSerializer(many=True)
    fit = RankingFitSerializer()
    controlled_fit = RankingFitSerializer(allow_null=True)
    effects = ControlEffectSerializer(many=True)
    win_rates = WinRatesSerializer()
    elo = EloCurveSerializer(many=True, help_text="Display only: depends on the order of the votes.")


class PooledEffectSerializer(serializers.Serializer[Any]):
    bias = serializers.ChoiceField(choices=["position", "length", "format"])
    effect = StatisticSerializer(help_text="Logits; of length and format a doubling.")
    tau = serializers.FloatField(allow_null=True, help_text="Spread of people around it (SD), logits.")


class PersonEffectSerializer(serializers.Serializer[Any]):
    bias = serializers.ChoiceField(choices=["position", "length", "format"])
    effect = StatisticSerializer()
    flagged = serializers.BooleanField()


class DriftWindowSerializer(serializers.Serializer[Any]):
    votes = serializers.IntegerField()
    started_at = serializers.DateTimeField()
    ended_at = serializers.DateTimeField()
    agreement = StatisticSerializer()


class PersonBiasSerializer(StatisticsPersonSerializer):
    effects = PersonEffectSerializer(many=True)
    drift = StatisticSerializer(help_text="Slope of the logit of agreement with the others, a hundred votes.")
    drift_flagged = serializers.BooleanField()
    windows = DriftWindowSerializer(many=True)


class ConsistencySerializer(serializers.Serializer[Any]):
    same = StatisticSerializer(help_text="Of silent repeats: the same class again.")
    kappa = StatisticSerializer()
    side_driven = StatisticSerializer(help_text="Of repeats decisive both times: the same side again.")
    accuracy = StatisticSerializer(help_text="Implied for independent errors between two answers.")


class BiasReportSerializer(serializers.Serializer[Any]):
    definition = serializers.CharField()
    votes = serializers.IntegerField(help_text="Decisive votes with a known screen.")
    prompts = serializers.IntegerField()
    reason = serializers.CharField(allow_null=True)
    warnings = serializers.ListField(child=serializers.CharField())
    effects = PooledEffectSerializer(many=True)
    consistency = ConsistencySerializer()
    people = PersonBiasSerializer(many=True)


class DividedVoteSerializer(serializers.Serializer[Any]):
    annotator = serializers.CharField(help_text="Pseudonym.")
    choice = serializers.CharField(allow_blank=True)
    both_bad = serializers.BooleanField()
    strength = serializers.FloatField(allow_null=True, help_text="1: a clearly, −1: b clearly.")
    answer = serializers.DictField(help_text="The rest of the answer, in stored order.")
    reasons = serializers.ListField(child=serializers.CharField())
    rationale = serializers.CharField(allow_blank=True)
    active_ms = serializers.IntegerField(allow_null=True)
    created_at = serializers.DateTimeField()


class DividedComparisonSerializer(ComparisonSerializer):
    share = serializers.FloatField(allow_null=True)
    top_share = serializers.FloatField(allow_null=True, help_text="Share of the votes for the leading class.")
    posterior = serializers.FloatField(allow_null=True, help_text="Model confidence in the leading class.")
    ballots = DividedVoteSerializer(many=True, help_text="Counted votes, the oldest first.")


class DividedListSerializer(serializers.Serializer[Any]):
    definition = serializers.CharField()
    items = DividedComparisonSerializer(many=True)
    next = serializers.CharField(allow_null=True)


class AdviceReportSerializer(serializers.Serializer[Any]):
    definition = serializers.CharField()
    advice = serializers.CharField(help_text="A code, or empty where the figures allow none.")
    words = serializers.CharField()
    agreement = StatisticSerializer(help_text="Of two people on a pair.")
    self_consistency = StatisticSerializer(help_text="Of a person with themselves.")
    ceiling = CeilingSerializer()
    accuracy = serializers.FloatField(allow_null=True, help_text="Of the model that was asked about.")
    share_of_ceiling = serializers.FloatField(allow_null=True)


def _report(name: str, shape: Any, *parameters: OpenApiParameter) -> Callable[[Method], Method]:
    """The schema of a report that is also a download."""
    decorate: Callable[[Method], Method] = extend_schema(
        operation_id=f"statistics_{name}",
        responses={(200, "application/json"): shape, (200, "text/csv"): OpenApiTypes.STR},
        parameters=[*parameters, DOWNLOAD],
    )
    return decorate


class AgreementView(ProjectView):
    """Agreement."""

    @_report(
        "agreement", AgreementReportSerializer,
        OpenApiParameter("split", str, enum=["criterion", "batch", "guideline", "time"]),
        OpenApiParameter(
            "window", str, enum=["day", "week", "month", "votes"], description="Of time; votes: tenths. Default week."
        ),
    )  # fmt: skip
    def get(self, request: Request, slug: str) -> HttpResponseBase:
        """How far people agree, with class shares and the ceiling; split by criterion, batch, guideline or time."""
        raise Http404


class MatrixView(ProjectView):
    """Agreement of every two people."""

    @_report(
        "matrix", MatrixReportSerializer,
        OpenApiParameter("weights", str, enum=["identity", "linear", "quadratic", "ordinal"]),
        OpenApiParameter("min_common", int, description="Pairs that two people need in common; default 20."),
        OpenApiParameter("most", int, description="The busiest so many people; 2 to 200, default 60."),
    )  # fmt: skip
    def get(self, request: Request, slug: str) -> HttpResponseBase:
        """Cohen's κ of every two annotators, with what they have in common."""
        raise Http404


class PeopleView(ProjectView):
    """What the statistics say of each person."""

    @_report("people", PeopleReportSerializer)
    def get(self, request: Request, slug: str) -> HttpResponseBase:
        """Accuracy, agreement, ties, side bias, consistency, gold and speed of each annotator, with flags."""
        raise Http404


class RankingView(ProjectView):
    """Ranking of systems."""

    @_report(
        "ranking", RankingReportSerializer,
        OpenApiParameter(
            "model", str,
            enum=["rao_kupper", "davidson", "bradley_terry", "crowd_bt", "plackett_luce", "rank_centrality"],
        ),
        OpenApiParameter("controls", str, description="Some of side, length, style, people, with commas."),
        OpenApiParameter("criterion", str, description="Rank by this criterion instead of the main question."),
    )  # fmt: skip
    def get(self, request: Request, slug: str) -> HttpResponseBase:
        """Strengths of the sources, plain and controlled, with intervals, ranks and win rates."""
        raise Http404


class BiasView(ProjectView):
    """Bias and consistency."""

    @_report("bias", BiasReportSerializer)
    def get(self, request: Request, slug: str) -> HttpResponseBase:
        """Effects of position, length and format on votes, pooled and by person; drift and self-consistency."""
        raise Http404


class WorstView(ProjectView):
    """Divided comparisons."""

    @_report(
        "worst", DividedListSerializer,
        OpenApiParameter("by", str, enum=["confidence", "division"], description="Default confidence."),
        *CURSOR_PARAMETERS,
    )  # fmt: skip
    def get(self, request: Request, slug: str) -> HttpResponseBase:
        """Comparisons with the least clear outcome first, their votes side by side."""
        raise Http404


class AdviceView(ProjectView):
    """Advice."""

    @_report(
        "advice", AdviceReportSerializer,
        OpenApiParameter("accuracy", float, description="Of a model against votes, 0 to 1."),
    )  # fmt: skip
    def get(self, request: Request, slug: str) -> HttpResponseBase:
        """More votes, more pairs, or a better guideline, with the figures that say so."""
        raise Http404


_STATISTICS = "projects/<slug:slug>/statistics"

urlpatterns: list[URLPattern] = [
    path(f"{_STATISTICS}/agreement", AgreementView.as_view()),
    path(f"{_STATISTICS}/matrix", MatrixView.as_view()),
    path(f"{_STATISTICS}/people", PeopleView.as_view()),
    path(f"{_STATISTICS}/ranking", RankingView.as_view()),
    path(f"{_STATISTICS}/bias", BiasView.as_view()),
    path(f"{_STATISTICS}/worst", WorstView.as_view()),
    path(f"{_STATISTICS}/advice", AdviceView.as_view()),
]
