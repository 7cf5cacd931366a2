"""Chatting with a model: the annotator's prompts, and the comparison of two completions at each turn."""

from __future__ import annotations

from django.urls import URLPattern

urlpatterns: list[URLPattern] = []
