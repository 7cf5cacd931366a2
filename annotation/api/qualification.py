"""The annotator's way into a project: the guideline to confirm, practice, the qualification, own feedback."""

from __future__ import annotations

from django.urls import URLPattern

urlpatterns: list[URLPattern] = []
