"""Making comparisons of the completions that are there."""

from __future__ import annotations

from django.urls import URLPattern

urlpatterns: list[URLPattern] = []
