"""Exports: prompts, completions, comparisons, votes, consensus and preferences as streams."""

from __future__ import annotations

from django.urls import URLPattern

urlpatterns: list[URLPattern] = []
