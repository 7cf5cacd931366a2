"""The researcher's gold: comparisons whose answer is known."""

from __future__ import annotations

from django.urls import URLPattern

urlpatterns: list[URLPattern] = []
