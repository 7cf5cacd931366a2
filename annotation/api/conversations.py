"""Chatting with a model: the annotator's prompts, and the comparison of two completions at each turn.

What annotators see is listed by hand: no source, no model, no prompt id. A researcher sees conversations whole, with
pseudonyms.
"""

from __future__ import annotations

import random
from typing import Any
from uuid import UUID

from django.http import Http404
from django.urls import URLPattern, path
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, status
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from annotation import conversations
from annotation.api.access import AnnotatorProjectView, ProjectView, user_of
from annotation.api.pagination import CURSOR_PARAMETERS, page
from annotation.api.task import MessageSerializer, TaskSerializer, render_tasks
from annotation.conversations import BEST_RATING, MOST_MESSAGE, MOST_SYSTEM, read_chat
from annotation.inspection import pseudonyms
from annotation.models import Conversation, TurnState
from annotation.tasks import wake_sampling

TAB = "chat"


class ConversationStartSerializer(serializers.Serializer[Any]):
    system = serializers.CharField(max_length=MOST_SYSTEM, required=False, allow_blank=True)


class SaySerializer(serializers.Serializer[Any]):
    content = serializers.CharField(max_length=MOST_MESSAGE)


class EndSerializer(serializers.Serializer[Any]):
    rating = serializers.IntegerField(min_value=1, max_value=BEST_RATING)


class OwnConversationSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField(source="public_id")
    turns = serializers.IntegerField(source="n_turns")
    created_at = serializers.DateTimeField()
    last_at = serializers.DateTimeField(allow_null=True)
    ended_at = serializers.DateTimeField(allow_null=True)
    rating = serializers.IntegerField(allow_null=True)


class OwnConversationListSerializer(serializers.Serializer[Any]):
    enabled = serializers.BooleanField(help_text="Whether this project has a chat.")
    max_turns = serializers.IntegerField()
    items = OwnConversationSerializer(many=True)
    next = serializers.CharField(allow_null=True)


class ThreadSerializer(serializers.Serializer[Any]):
    """`state` is where the last turn stands; `write` means that the person may write."""

    id = serializers.UUIDField()
    messages = MessageSerializer(many=True)
    state = serializers.ChoiceField(choices=["write", "waiting", "ready", "failed", "ended"])
    error = serializers.CharField(allow_blank=True, help_text="Why the last turn failed.")
    task = TaskSerializer(allow_null=True, help_text="The two answers to judge, when they are ready.")
    turns = serializers.IntegerField()
    max_turns = serializers.IntegerField()
    waiting_since = serializers.DateTimeField(allow_null=True)
    ended_at = serializers.DateTimeField(allow_null=True)
    rating = serializers.IntegerField(allow_null=True)


class TurnSerializer(serializers.Serializer[Any]):
    number = serializers.IntegerField()
    prompt = serializers.UUIDField()
    message = serializers.CharField()
    state = serializers.ChoiceField(choices=TurnState.choices)
    error = serializers.CharField(allow_blank=True)
    comparison = serializers.UUIDField(allow_null=True)
    chosen = serializers.CharField(allow_null=True, help_text="The completion that continued the conversation.")
    source = serializers.CharField(allow_null=True)  # type: ignore[assignment]  # DRF's metaclass keeps fields apart
    created_at = serializers.DateTimeField()
    ready_at = serializers.DateTimeField(allow_null=True)


class ConversationSerializer(OwnConversationSerializer):
    annotator = serializers.CharField(help_text="Pseudonym.")
    system = serializers.CharField(allow_blank=True)


class ConversationListSerializer(serializers.Serializer[Any]):
    items = ConversationSerializer(many=True)
    next = serializers.CharField(allow_null=True)


class ConversationDetailSerializer(ConversationSerializer):
    thread = TurnSerializer(many=True)


class _OwnView(AnnotatorProjectView):
    """Views of the caller's own conversations; anybody else's are not found."""

    def own(self, public_id: UUID) -> Conversation:
        rows = Conversation.objects.select_related("project", "annotator")
        found = rows.filter(project=self.project, annotator=self.membership.user_id, public_id=public_id).first()
        if found is None:
            raise Http404
        return found

    def render(self, conversation: Conversation) -> Any:
        """The thread as it stands now."""
        conversation.refresh_from_db()
        found = conversations.thread(conversation, tab=TAB, now=timezone.now(), rng=random.SystemRandom())
        turn, task = found.turn, None
        if found.assignment is not None:
            (task,) = render_tasks(self.project, [found.assignment])
        state = "write" if turn is None or turn.state == TurnState.VOTED else turn.state
        body = {
            "id": conversation.public_id,
            "messages": found.messages,
            "state": state if conversation.ended_at is None else "ended",
            "error": turn.error if turn is not None else "",
            "task": task,
            "turns": 0 if turn is None else turn.number,
            "max_turns": read_chat(self.project.chat).max_turns,
            "waiting_since": turn.created_at if turn is not None and turn.state == TurnState.WAITING else None,
            "ended_at": conversation.ended_at,
            "rating": conversation.rating,
        }
        return ThreadSerializer(body).data


class OwnConversationsView(_OwnView):
    """The caller's conversations."""

    @extend_schema(
        operation_id="annotate_conversations", responses=OwnConversationListSerializer, parameters=CURSOR_PARAMETERS
    )
    def get(self, request: Request, slug: str) -> Response:
        """Own conversations, newest first, and whether the project has a chat at all."""
        rows = conversations.conversations(self.project, annotator=user_of(request))
        chat = read_chat(self.project.chat)
        found = page(request, rows, lambda items: list(OwnConversationSerializer(items, many=True).data))
        found.data |= {"enabled": chat.enabled, "max_turns": chat.max_turns}
        return found

    @extend_schema(
        operation_id="annotate_conversation_start",
        request=ConversationStartSerializer,
        responses={201: ThreadSerializer},
    )
    def post(self, request: Request, slug: str) -> Response:
        """Start a conversation; one that is still empty is given again."""
        data = ConversationStartSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        made = conversations.start(
            membership=self.membership, system=data.validated_data.get("system", ""), now=timezone.now()
        )
        return Response(self.render(made), status=status.HTTP_201_CREATED)


class OwnConversationView(_OwnView):
    """One conversation."""

    @extend_schema(operation_id="annotate_conversation", responses=ThreadSerializer)
    def get(self, request: Request, slug: str, public_id: UUID) -> Response:
        """What was said, where the last turn stands, and the two answers to judge when they are ready."""
        return Response(self.render(self.own(public_id)))


class SayView(_OwnView):
    """A message."""

    @extend_schema(
        operation_id="annotate_conversation_say",
        request=SaySerializer,
        responses={201: ThreadSerializer},
        parameters=[
            OpenApiParameter("Idempotency-Key", UUID, OpenApiParameter.HEADER, required=True, description="Made once.")
        ],
    )
    def post(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Write on; the answer comes later. The same key again changes nothing."""
        conversation = self.own(public_id)
        data = SaySerializer(data=request.data)
        data.is_valid(raise_exception=True)
        conversations.say(
            conversation=conversation,
            membership=self.membership,
            content=data.validated_data["content"],
            key=_idempotency_key(request),
            now=timezone.now(),
        )
        wake_sampling()
        return Response(self.render(conversation), status=status.HTTP_201_CREATED)


def _idempotency_key(request: Request) -> UUID:
    value = request.headers.get("Idempotency-Key", "")
    try:
        return UUID(value)
    except ValueError:
        raise ValidationError({"Idempotency-Key": [f"this header must be a UUID, got {value!r}"]}) from None


class RetryView(_OwnView):
    """Another try."""

    @extend_schema(operation_id="annotate_conversation_retry", request=None, responses=ThreadSerializer)
    def post(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Ask for two answers again, after sampling failed or the answers were skipped."""
        conversation = self.own(public_id)
        conversations.retry(conversation=conversation, now=timezone.now())
        wake_sampling()
        return Response(self.render(conversation))


class EndView(_OwnView):
    """The end."""

    @extend_schema(operation_id="annotate_conversation_end", request=EndSerializer, responses=ThreadSerializer)
    def post(self, request: Request, slug: str, public_id: UUID) -> Response:
        """End a conversation with a rating of the whole, from 1 to 7."""
        conversation = self.own(public_id)
        data = EndSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        conversations.end(conversation=conversation, rating=data.validated_data["rating"], now=timezone.now())
        return Response(self.render(conversation))


class ConversationsView(ProjectView):
    """Conversations of a project, for researchers."""

    @extend_schema(
        operation_id="conversations_list", responses=ConversationListSerializer, parameters=CURSOR_PARAMETERS
    )
    def get(self, request: Request, slug: str) -> Response:
        """Conversations, newest first."""
        rows = conversations.conversations(self.project)

        def render(found: Any) -> list[Any]:
            names = pseudonyms(self.project, [row.annotator_id for row in found])
            return [ConversationSerializer(_head(row, names)).data for row in found]

        return page(request, rows, render)


class ConversationView(ProjectView):
    """One conversation, for researchers."""

    @extend_schema(operation_id="conversations_show", responses=ConversationDetailSerializer)
    def get(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Its turns with their comparisons and the completions that went on."""
        row = conversations.conversations(self.project).filter(public_id=public_id).first()
        if row is None:
            raise Http404
        last = conversations.last_turn(row)
        if last is not None:
            conversations.refresh(last)
        names = pseudonyms(self.project, [row.annotator_id])
        turns = row.turns.select_related("prompt", "comparison", "chosen__source").order_by("number")
        thread = [
            {
                "number": turn.number,
                "prompt": turn.prompt.public_id,
                "message": turn.prompt.messages[-1]["content"],
                "state": turn.state,
                "error": turn.error,
                "comparison": turn.comparison.public_id if turn.comparison else None,
                "chosen": turn.chosen.text if turn.chosen else None,
                "source": turn.chosen.source.name if turn.chosen else None,
                "created_at": turn.created_at,
                "ready_at": turn.ready_at,
            }
            for turn in turns
        ]
        return Response(ConversationDetailSerializer({**_head(row, names), "thread": thread}).data)


def _head(row: Any, names: dict[int, str]) -> dict[str, Any]:
    return {
        "public_id": row.public_id,
        "annotator": names.get(row.annotator_id, ""),
        "system": row.system,
        "n_turns": row.n_turns,
        "created_at": row.created_at,
        "last_at": row.last_at,
        "ended_at": row.ended_at,
        "rating": row.rating,
    }


_OWN = "annotate/projects/<slug:slug>/conversations"
urlpatterns: list[URLPattern] = [
    path(_OWN, OwnConversationsView.as_view()),
    path(f"{_OWN}/<uuid:public_id>", OwnConversationView.as_view()),
    path(f"{_OWN}/<uuid:public_id>/messages", SayView.as_view()),
    path(f"{_OWN}/<uuid:public_id>/retry", RetryView.as_view()),
    path(f"{_OWN}/<uuid:public_id>/end", EndView.as_view()),
    path("projects/<slug:slug>/conversations", ConversationsView.as_view()),
    path("projects/<slug:slug>/conversations/<uuid:public_id>", ConversationView.as_view()),
]
