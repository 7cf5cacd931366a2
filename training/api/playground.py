"""The playground: ask policies, read what they write as it grows, stop it, send it to annotators."""

from __future__ import annotations

from typing import Any
from uuid import UUID

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
from annotation.api.task import MessageSerializer
from annotation.models import Finish, TokenScope
from training import playground, registry
from training.models import AnswerState, ModelKind, PlaygroundAnswer, PlaygroundQuestion
from training.playground import (
    MOST_COMPLETIONS,
    MOST_POLICIES,
    MOST_TOKENS,
    MOST_TURNS,
    Sampling,
    Stage,
)


class PlaygroundAskSerializer(serializers.Serializer[Any]):
    """A prompt of one or more turns, the policies, and how they sample; what is left out has its default."""

    messages = serializers.ListField(child=MessageSerializer(), min_length=1, max_length=MOST_TURNS)
    policies = serializers.ListField(child=serializers.UUIDField(), min_length=1, max_length=MOST_POLICIES)
    completions = serializers.IntegerField(
        min_value=1, max_value=MOST_COMPLETIONS, required=False, help_text="Of each policy; 1 if left out."
    )
    temperature = FiniteFloatField(min_value=0, max_value=5, required=False)
    top_p = FiniteFloatField(min_value=0.01, max_value=1, required=False)
    max_new_tokens = serializers.IntegerField(min_value=1, max_value=MOST_TOKENS, required=False)
    seed = serializers.IntegerField(min_value=0, max_value=2**31 - 1, required=False)
    reward = serializers.UUIDField(
        required=False, allow_null=True, help_text="A reward model, which scores every completion."
    )


class PlaygroundSendSerializer(serializers.Serializer[Any]):
    overlap = serializers.IntegerField(
        min_value=1, max_value=99, required=False, allow_null=True, help_text="Votes wanted; null: as the project says."
    )


class PlaygroundModelSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField(source="public_id")
    name = serializers.CharField()


class PlaygroundSamplingSerializer(serializers.Serializer[Any]):
    temperature = serializers.FloatField()
    top_p = serializers.FloatField()
    max_new_tokens = serializers.IntegerField()
    seed = serializers.IntegerField()


class PlaygroundAnswerSerializer(serializers.Serializer[Any]):
    """What one policy writes. `context["job"]` is the session's."""

    id = serializers.UUIDField(source="public_id")
    policy = PlaygroundModelSerializer(source="model")
    index = serializers.IntegerField()
    state = serializers.SerializerMethodField()
    text = serializers.CharField()
    tokens = serializers.IntegerField()
    logprob = serializers.FloatField(allow_null=True, help_text="Σ log π of its policy at temperature 1, nats.")
    score = serializers.FloatField(allow_null=True, help_text="Of the reward model; null where it gave none.")
    finish = serializers.SerializerMethodField()
    error = serializers.SerializerMethodField(help_text="Why it failed; empty where it did not.")

    @extend_schema_field(serializers.ChoiceField(choices=AnswerState.choices))
    def get_state(self, answer: PlaygroundAnswer) -> str:
        return playground.shown_state(answer, self.context["job"])[0].value

    @extend_schema_field(serializers.ChoiceField(choices=Finish.choices, allow_null=True))
    def get_finish(self, answer: PlaygroundAnswer) -> str | None:
        return answer.finish or None

    def get_error(self, answer: PlaygroundAnswer) -> str:
        return playground.shown_state(answer, self.context["job"])[1]


class PlaygroundQuestionSerializer(serializers.Serializer[Any]):
    """A question as the history shows it. `context["comparisons"]` counts those made, by public id."""

    id = serializers.UUIDField(source="public_id")
    created_at = serializers.DateTimeField()
    created_by = serializers.SerializerMethodField()
    messages = MessageSerializer(many=True)
    policies = serializers.SerializerMethodField()
    completions = serializers.IntegerField(help_text="Of each policy.")
    sampling = PlaygroundSamplingSerializer()
    reward = PlaygroundModelSerializer(allow_null=True)
    sent_at = serializers.DateTimeField(allow_null=True)
    comparisons = serializers.SerializerMethodField(help_text="Made of its completions; null before they were sent.")

    def get_created_by(self, question: PlaygroundQuestion) -> str | None:
        return None if question.created_by is None else question.created_by.name

    @extend_schema_field(PlaygroundModelSerializer(many=True))
    def get_policies(self, question: PlaygroundQuestion) -> Any:
        named = {answer.model_id: answer.model for answer in question.answers.all()}
        return PlaygroundModelSerializer(named.values(), many=True).data

    def get_comparisons(self, question: PlaygroundQuestion) -> int | None:
        if question.sent_at is None:
            return None
        return int(self.context["comparisons"].get(question.public_id, 0))


class PlaygroundListSerializer(serializers.Serializer[Any]):
    items = PlaygroundQuestionSerializer(many=True)
    next = serializers.CharField(allow_null=True)


class PlaygroundDetailSerializer(PlaygroundQuestionSerializer):
    """A question with its answers, and where it stands."""

    stage = serializers.SerializerMethodField()
    ahead = serializers.SerializerMethodField(help_text="While it waits: jobs that run or come before it.")
    workers = serializers.SerializerMethodField(help_text="While it waits: workers of its queue that are alive.")
    job = serializers.UUIDField(source="session.job.public_id", help_text="That keeps the models loaded.")
    answers = serializers.SerializerMethodField()

    @extend_schema_field(serializers.ChoiceField(choices=[stage.value for stage in Stage]))
    def get_stage(self, question: PlaygroundQuestion) -> str:
        return str(self.context["standing"].stage.value)

    def get_ahead(self, question: PlaygroundQuestion) -> int:
        return int(self.context["standing"].ahead)

    def get_workers(self, question: PlaygroundQuestion) -> int:
        return int(self.context["standing"].workers)

    @extend_schema_field(PlaygroundAnswerSerializer(many=True))
    def get_answers(self, question: PlaygroundQuestion) -> Any:
        context = {"job": question.session.job}
        return PlaygroundAnswerSerializer(question.answers.all(), many=True, context=context).data


class PlaygroundView(ProjectView):
    """The playground of a project."""

    write_scope = TokenScope.JOBS

    @extend_schema(operation_id="playground_list", responses=PlaygroundListSerializer, parameters=CURSOR_PARAMETERS)
    def get(self, request: Request, slug: str) -> Response:
        """What was asked, newest first."""

        def render(rows: Any) -> list[Any]:
            context = {"comparisons": playground.comparisons_of(rows)}
            return list(PlaygroundQuestionSerializer(rows, many=True, context=context).data)

        return page(request, playground.questions(self.project), render)

    @extend_schema(
        operation_id="playground_ask", request=PlaygroundAskSerializer, responses={201: PlaygroundDetailSerializer}
    )
    def post(self, request: Request, slug: str) -> Response:
        """Ask policies. Read the question again and again while it is not over: the texts grow."""
        data = PlaygroundAskSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        values = data.validated_data
        named = {key: values[key] for key in ("temperature", "top_p", "max_new_tokens", "seed") if key in values}
        reward = values.get("reward")
        made = playground.ask(
            project=self.project,
            messages=values["messages"],
            policies=[registry.find(self.project, item, kind=ModelKind.POLICY) for item in values["policies"]],
            completions=values.get("completions", 1),
            sampling=Sampling(**named),
            reward=None if reward is None else registry.find(self.project, reward, kind=ModelKind.REWARD),
            by=user_of(request),
            now=timezone.now(),
        )
        return _answer(self, made.public_id, status.HTTP_201_CREATED)


class PlaygroundQuestionView(ProjectView):
    """One question."""

    @extend_schema(operation_id="playground_show", responses=PlaygroundDetailSerializer)
    def get(self, request: Request, slug: str, public_id: UUID) -> Response:
        """What its policies have written so far, and where it stands."""
        return _answer(self, public_id, status.HTTP_200_OK)


class PlaygroundStopView(ProjectView):
    """Stop."""

    write_scope = TokenScope.JOBS

    @extend_schema(operation_id="playground_stop", request=None, responses=PlaygroundDetailSerializer)
    def post(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Stop what is still being written. The models stay loaded for the next question."""
        playground.stop(_question(self, public_id), now=timezone.now())
        return _answer(self, public_id, status.HTTP_200_OK)


class PlaygroundSendView(ProjectView):
    """To annotators."""

    @extend_schema(
        operation_id="playground_send", request=PlaygroundSendSerializer, responses=PlaygroundDetailSerializer
    )
    def post(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Make comparisons of the completions, once; their origin is the question."""
        data = PlaygroundSendSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        question = _question(self, public_id)
        playground.send(question, by=user_of(request), overlap=data.validated_data.get("overlap"), now=timezone.now())
        return _answer(self, public_id, status.HTTP_200_OK)


def _question(view: ProjectView, public_id: UUID) -> PlaygroundQuestion:
    found = playground.questions(view.project).filter(public_id=public_id).first()
    if found is None:
        raise Http404
    return found


def _answer(view: ProjectView, public_id: UUID, code: int) -> Response:
    found = _question(view, public_id)
    context = {
        "standing": playground.standing(found, now=timezone.now()),
        "comparisons": playground.comparisons_of([found]),
    }
    return Response(PlaygroundDetailSerializer(found, context=context).data, status=code)


_PLAYGROUND = "projects/<slug:slug>/playground"
urlpatterns: list[URLPattern] = [
    path(_PLAYGROUND, PlaygroundView.as_view()),
    path(f"{_PLAYGROUND}/<uuid:public_id>", PlaygroundQuestionView.as_view()),
    path(f"{_PLAYGROUND}/<uuid:public_id>/stop", PlaygroundStopView.as_view()),
    path(f"{_PLAYGROUND}/<uuid:public_id>/send", PlaygroundSendView.as_view()),
]
