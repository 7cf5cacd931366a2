"""Two policies side by side, by every kind of judge; and all policies in their order."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from django.http import Http404
from django.urls import URLPattern, path
from django.utils import timezone
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from annotation.api.access import ProjectView, user_of
from annotation.api.pagination import CURSOR_PARAMETERS, page
from annotation.api.parsing import FiniteFloatField
from annotation.api.ranking import StrengthSerializer
from annotation.errors import Invalid
from annotation.models import Project, TokenScope
from training import queries, registry
from training.api.serializers import ModelRefSerializer, person
from training.evaluation import MOST_JUDGES, JudgeSpec, add_verdict, start_evaluation
from training.models import Evaluation, JobStatus, JudgeKind, ModelKind, Verdict
from training.policy_ranking import policy_ranking
from training.rounds import MeetingPlan, SamplingPlan, completions_needed
from training.verdicts import side_by_side

# --- input ------------------------------------------------------------------------------------------------------------


class JudgeInputSerializer(serializers.Serializer[Any]):
    """People, a reward model, or a judge behind a server. What does not belong to the kind is refused."""

    kind = serializers.ChoiceField(choices=JudgeKind.choices)
    overlap = serializers.IntegerField(
        min_value=1, max_value=99, required=False, allow_null=True, help_text="Of people: votes wanted; as the project."
    )
    priority = serializers.IntegerField(min_value=-100, max_value=100, required=False, help_text="Of people.")
    model = serializers.CharField(
        max_length=200, required=False, help_text="Id of the reward model, or the name that the server knows."
    )
    url = serializers.CharField(
        max_length=400, required=False, help_text="Of a judge, such as https://host/v1; else the operator's."
    )
    prompt = serializers.CharField(
        max_length=20_000, required=False, help_text="Of a judge, with {prompt}, {first} and {second}; else the usual."
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        known = {
            JudgeKind.PEOPLE: {"overlap", "priority"},
            JudgeKind.REWARD: {"model"},
            JudgeKind.JUDGE: {"model", "url", "prompt"},
        }
        kind = JudgeKind(attrs["kind"])
        strange = sorted(set(attrs) - known[kind] - {"kind"})
        if strange:
            raise serializers.ValidationError({strange[0]: [f"is not for the kind {kind.value}"]})
        if kind is JudgeKind.REWARD and "model" not in attrs:
            raise serializers.ValidationError({"model": ["name the reward model by its id"]})
        return attrs


class SamplingInputSerializer(serializers.Serializer[Any]):
    completions = serializers.IntegerField(min_value=1, max_value=16, required=False)
    temperature = FiniteFloatField(min_value=0, max_value=5, required=False)
    top_p = FiniteFloatField(min_value=0.01, max_value=1, required=False)
    max_new_tokens = serializers.IntegerField(min_value=1, max_value=4096, required=False)
    seed = serializers.IntegerField(min_value=0, max_value=2**31 - 1, required=False)


class EvaluationCreateSerializer(serializers.Serializer[Any]):
    first = serializers.UUIDField()
    second = serializers.UUIDField()
    name = serializers.CharField(max_length=120, required=False, allow_blank=True)
    prompts = serializers.IntegerField(
        min_value=1, required=False, allow_null=True, help_text="How many, drawn by the seed; null: all."
    )
    prompt_ids = serializers.ListField(child=serializers.UUIDField(), required=False, min_length=1, max_length=5000)
    sampling = SamplingInputSerializer(required=False)
    judges = JudgeInputSerializer(many=True, min_length=1, max_length=MOST_JUDGES)  # type: ignore[call-arg]  # of lists


# --- output -----------------------------------------------------------------------------------------------------------


class EstimateFigureSerializer(serializers.Serializer[Any]):
    """A figure with its 95 % interval, clustered by prompt; of one prompt it is all there is."""

    value = serializers.FloatField()
    low = serializers.FloatField(allow_null=True)
    high = serializers.FloatField(allow_null=True)


class JudgeOutputSerializer(serializers.Serializer[Any]):
    url = serializers.CharField()
    model = serializers.CharField()
    prompt = serializers.CharField(allow_null=True)


class VerdictJobSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField(source="public_id")
    number = serializers.IntegerField()
    status = serializers.ChoiceField(choices=JobStatus.choices)
    step = serializers.IntegerField(source="last_step", allow_null=True)
    steps = serializers.IntegerField(allow_null=True)
    reason = serializers.CharField()


class VerdictSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField(source="public_id")
    kind = serializers.ChoiceField(choices=JudgeKind.choices)
    reward_model = ModelRefSerializer(allow_null=True)
    judge = serializers.SerializerMethodField()
    job = VerdictJobSerializer(allow_null=True)
    created_at = serializers.DateTimeField()

    @extend_schema_field(JudgeOutputSerializer(allow_null=True))
    def get_judge(self, verdict: Verdict) -> Any:
        return verdict.judge or None


class VerdictFiguresSerializer(serializers.Serializer[Any]):
    """What a judge says, from the side of the first policy. Null where it has said nothing."""

    pairs = serializers.IntegerField(help_text="That it judged.")
    prompts = serializers.IntegerField()
    answers = serializers.IntegerField(help_text="Votes, or answers: a judge is asked twice a pair.")
    win = EstimateFigureSerializer(allow_null=True)
    tie = EstimateFigureSerializer(allow_null=True)
    loss = EstimateFigureSerializer(allow_null=True)
    win_rate = EstimateFigureSerializer(allow_null=True, help_text="A tie is half a win.")
    win_rate_length_controlled = EstimateFigureSerializer(
        allow_null=True, help_text="Between completions of one length."
    )
    mean_tokens = serializers.ListField(child=serializers.FloatField(), allow_null=True, help_text="Of both policies.")
    unjudged = serializers.IntegerField(help_text="Pairs without a word of it (yet): too long, or nobody voted.")
    unreadable = serializers.IntegerField(help_text="Pairs of which an answer could not be read.")
    orders_agree = EstimateFigureSerializer(
        allow_null=True, help_text="Of a judge: how often both orders say the same."
    )
    first_place = EstimateFigureSerializer(
        allow_null=True, help_text="Of a judge: share of what it sees first; ½ is no bias."
    )
    people = serializers.IntegerField(allow_null=True, help_text="How many voted.")
    people_agree = EstimateFigureSerializer(allow_null=True, help_text="How often two people say the same of a pair.")
    people_agree_decided = EstimateFigureSerializer(allow_null=True, help_text="The same among votes that are no ties.")


class VerdictDetailSerializer(VerdictSerializer):
    figures = serializers.SerializerMethodField()

    @extend_schema_field(VerdictFiguresSerializer(allow_null=True))
    def get_figures(self, verdict: Verdict) -> Any:
        found = self.context["figures"][str(verdict.public_id)]
        return None if found is None else VerdictFiguresSerializer(found).data


class JudgesAgreeSerializer(serializers.Serializer[Any]):
    """How far two judges agree on the pairs that both judged."""

    pairs = serializers.IntegerField()
    decided = serializers.IntegerField(help_text="Pairs where neither says tie.")
    agree = EstimateFigureSerializer(
        allow_null=True, help_text="Share of the decided pairs where both take the same side."
    )
    kappa = EstimateFigureSerializer(allow_null=True, help_text="Cohen's, of win, tie and loss.")
    votes = EstimateFigureSerializer(
        allow_null=True, help_text="Share of the second one's single decided answers that the first agrees with."
    )


class VerdictsAgreeSerializer(JudgesAgreeSerializer):
    first = serializers.UUIDField(help_text="A verdict.")
    second = serializers.UUIDField(help_text="Another one; people's, if one of the two is.")


class EvaluationSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField(source="public_id")
    number = serializers.IntegerField()
    name = serializers.CharField()
    first = ModelRefSerializer()
    second = ModelRefSerializer()
    round = serializers.UUIDField(source="round.public_id")
    status = serializers.ChoiceField(source="round.job.status", choices=JobStatus.choices, help_text="Of its sampling.")
    prompts = serializers.IntegerField(source="round.prompts")
    verdicts = VerdictSerializer(many=True, source="verdicts.all")
    created_at = serializers.DateTimeField()
    created_by = serializers.SerializerMethodField()

    def get_created_by(self, evaluation: Evaluation) -> str | None:
        return person(evaluation.created_by)


class EvaluationDetailSerializer(EvaluationSerializer):
    """All verdicts side by side."""

    completions_wanted = serializers.SerializerMethodField()
    completions_done = serializers.SerializerMethodField()
    pairs = serializers.SerializerMethodField()
    identical = serializers.SerializerMethodField(help_text="Pairs with one text, which nobody judges.")
    trained_prompts = serializers.SerializerMethodField(
        help_text="How many of its prompts are in the data behind each policy, the first and the second; null: unknown."
    )
    verdicts = VerdictDetailSerializer(many=True, source="verdicts.all")
    agreement = serializers.SerializerMethodField()

    def get_completions_wanted(self, evaluation: Evaluation) -> int:
        return int(self.context["progress"].completions_wanted)

    def get_completions_done(self, evaluation: Evaluation) -> int:
        return int(self.context["progress"].completions_done)

    def get_pairs(self, evaluation: Evaluation) -> int:
        return int(self.context["pairs"])

    def get_identical(self, evaluation: Evaluation) -> int:
        return int(self.context["identical"])

    @extend_schema_field(serializers.ListField(child=serializers.IntegerField(allow_null=True)))
    def get_trained_prompts(self, evaluation: Evaluation) -> Any:
        return self.context["trained_prompts"]

    @extend_schema_field(VerdictsAgreeSerializer(many=True))
    def get_agreement(self, evaluation: Evaluation) -> Any:
        return VerdictsAgreeSerializer(self.context["agreement"], many=True).data


class EvaluationListSerializer(serializers.Serializer[Any]):
    items = EvaluationSerializer(many=True)
    next = serializers.CharField(allow_null=True)


class RankedPolicySerializer(StrengthSerializer):
    model = serializers.UUIDField(allow_null=True, help_text="Null for a source that is no registered model.")
    name = serializers.CharField()
    contests = serializers.IntegerField()
    component = serializers.IntegerField(help_text="Strengths compare within one component only.")


class PolicyRankingSerializer(serializers.Serializer[Any]):
    """By one kind of judge. People's rests on all their comparisons, those for training too."""

    kind = serializers.ChoiceField(choices=JudgeKind.choices)
    verdicts = serializers.IntegerField(allow_null=True, help_text="Behind it; null for people.")
    contests = serializers.IntegerField()
    prompts = serializers.IntegerField()
    policies = RankedPolicySerializer(many=True)
    warnings = serializers.ListField(child=serializers.CharField())


class KindsAgreeSerializer(JudgesAgreeSerializer):
    first = serializers.ChoiceField(choices=JudgeKind.choices)
    second = serializers.ChoiceField(choices=JudgeKind.choices)


class PolicyRankingsSerializer(serializers.Serializer[Any]):
    rankings = PolicyRankingSerializer(many=True)
    agreement = KindsAgreeSerializer(many=True, help_text="Of the kinds of judge, over all evaluations.")


# --- views ------------------------------------------------------------------------------------------------------------


def _evaluations(project: Project) -> QuerySet[Evaluation]:
    return (
        Evaluation.objects.filter(project=project)
        .select_related("project", "first", "second", "round__job", "created_by")
        .prefetch_related("verdicts__reward_model", "verdicts__job", "round__round_policies")
    )


def _spec(project: Project, values: dict[str, Any]) -> JudgeSpec:
    kind = JudgeKind(values["kind"])
    if kind is not JudgeKind.REWARD:
        return JudgeSpec(**{**values, "kind": kind})
    try:
        public_id = UUID(values["model"])
    except ValueError:
        given = values["model"]
        raise Invalid(f"model: {given!r} is no id of a model", details={"model": ["not an id"]}) from None
    return JudgeSpec(kind=kind, reward_model=registry.find(project, public_id, kind=ModelKind.REWARD))


class EvaluationsView(ProjectView):
    """Evaluations."""

    write_scope = TokenScope.JOBS

    @extend_schema(operation_id="evaluations_list", responses=EvaluationListSerializer, parameters=CURSOR_PARAMETERS)
    def get(self, request: Request, slug: str) -> Response:
        """Evaluations, newest first, with who judges and how far that is."""
        rows = _evaluations(self.project)
        return page(request, rows, lambda found: list(EvaluationSerializer(found, many=True).data))

    @extend_schema(
        operation_id="evaluations_start",
        request=EvaluationCreateSerializer,
        responses={201: EvaluationDetailSerializer},
    )
    def post(self, request: Request, slug: str) -> Response:
        """Sample two policies on the same prompts and have them judged. Its comparisons are never trained on."""
        data = EvaluationCreateSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        values = data.validated_data
        ids = values.get("prompt_ids")
        sampling = dict(values.get("sampling") or {})
        if sampling:
            size = self.project.feedback.size
            sampling.setdefault("completions", completions_needed(size=size, policies=2, meeting=MeetingPlan()))
        made = start_evaluation(
            project=self.project,
            first=registry.find(self.project, values["first"], kind=ModelKind.POLICY),
            second=registry.find(self.project, values["second"], kind=ModelKind.POLICY),
            judges=[_spec(self.project, item) for item in values["judges"]],
            plan=SamplingPlan(**sampling) if sampling else None,
            prompts=values.get("prompts"),
            prompt_ids=None if ids is None else [str(item) for item in ids],
            name=values.get("name", ""),
            by=user_of(request),
            now=timezone.now(),
        )
        return Response(_shown(self.project, made.public_id), status=status.HTTP_201_CREATED)


class EvaluationView(ProjectView):
    """One evaluation."""

    @extend_schema(operation_id="evaluations_show", responses=EvaluationDetailSerializer)
    def get(self, request: Request, slug: str, public_id: UUID) -> Response:
        """All verdicts side by side, with intervals, and how far the judges agree."""
        return Response(_shown(self.project, public_id))


class EvaluationJudgesView(ProjectView):
    """The judges of an evaluation."""

    write_scope = TokenScope.JOBS

    @extend_schema(
        operation_id="evaluations_judge", request=JudgeInputSerializer, responses={201: EvaluationDetailSerializer}
    )
    def post(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Have one more reward model or judge look at the same completions."""
        evaluation = _evaluations(self.project).filter(public_id=public_id).first()
        if evaluation is None:
            raise Http404
        data = JudgeInputSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        spec = _spec(self.project, data.validated_data)
        add_verdict(evaluation=evaluation, spec=spec, by=user_of(request), now=timezone.now())
        return Response(_shown(self.project, public_id), status=status.HTTP_201_CREATED)


def _shown(project: Project, public_id: UUID) -> Any:
    evaluation = _evaluations(project).filter(public_id=public_id).first()
    if evaluation is None:
        raise Http404
    found = side_by_side(evaluation)
    progress = queries.rounds_progress([evaluation.round], now=timezone.now())[evaluation.round.pk]
    return EvaluationDetailSerializer(evaluation, context={**found, "progress": progress}).data


class PolicyRankingView(ProjectView):
    """All policies in their order."""

    @extend_schema(operation_id="policies_ranking", responses=PolicyRankingsSerializer)
    def get(self, request: Request, slug: str) -> Response:
        """By each kind of judge, people's over comparisons for training too, and how far the kinds agree."""
        return Response(PolicyRankingsSerializer(policy_ranking(self.project)).data)


_EVALUATIONS = "projects/<slug:slug>/evaluations"

urlpatterns: list[URLPattern] = [
    path(_EVALUATIONS, EvaluationsView.as_view()),
    path(f"{_EVALUATIONS}/<uuid:public_id>", EvaluationView.as_view()),
    path(f"{_EVALUATIONS}/<uuid:public_id>/judges", EvaluationJudgesView.as_view()),
    path("projects/<slug:slug>/policies/ranking", PolicyRankingView.as_view()),
]
