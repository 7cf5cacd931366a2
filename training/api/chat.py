"""The chat of a project: whether people may write prompts by talking to a model, and to which."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from annotation.api.access import ProjectView, user_of
from annotation.api.parsing import FiniteFloatField
from annotation.conversations import MOST_POLICIES, MOST_TURNS, read_chat
from training.chat import change_chat


class ChatSamplingSerializer(serializers.Serializer[Any]):
    temperature = FiniteFloatField(min_value=0.1, max_value=5, required=False)
    top_p = FiniteFloatField(min_value=0.01, max_value=1, required=False)
    max_new_tokens = serializers.IntegerField(min_value=1, max_value=4096, required=False)


class ChatChangeSerializer(serializers.Serializer[Any]):
    """What is left out has its default."""

    enabled = serializers.BooleanField(required=False)
    policies = serializers.ListField(child=serializers.UUIDField(), required=False, max_length=MOST_POLICIES)
    server = serializers.BooleanField(required=False)
    max_turns = serializers.IntegerField(min_value=1, max_value=MOST_TURNS, required=False)
    sampling = ChatSamplingSerializer(required=False)


class ChatSerializer(serializers.Serializer[Any]):
    enabled = serializers.BooleanField()
    policies = serializers.ListField(child=serializers.UUIDField())
    server = serializers.BooleanField()
    max_turns = serializers.IntegerField()
    sampling = ChatSamplingSerializer()
    server_model = serializers.CharField(allow_null=True, help_text="What the site's model server would be asked for.")


class ChatView(ProjectView):
    """The chat of a project."""

    @extend_schema(operation_id="chat_show", responses=ChatSerializer)
    def get(self, request: Request, slug: str) -> Response:
        """Its settings."""
        model = settings.SAMPLER_MODEL if settings.SAMPLER_URL else None
        return Response(ChatSerializer({**read_chat(self.project.chat).as_dict(), "server_model": model}).data)

    @extend_schema(operation_id="chat_change", request=ChatChangeSerializer, responses=ChatSerializer)
    def put(self, request: Request, slug: str) -> Response:
        """Set them all; what is left out has its default."""
        data = ChatChangeSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        values = {**data.validated_data, "policies": [str(item) for item in data.validated_data.get("policies", [])]}
        change_chat(project=self.project, chat=read_chat(values), by=user_of(request), now=timezone.now())
        return self.get(request, slug)
