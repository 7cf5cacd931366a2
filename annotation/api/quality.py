"""The researcher's view of people: their records, pauses, exclusions, and agreement with a reference."""

from __future__ import annotations

from django.urls import URLPattern

urlpatterns: list[URLPattern] = []
