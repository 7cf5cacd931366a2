"""Members of a project and invitations to it."""

from __future__ import annotations

from django.urls import URLPattern

urlpatterns: list[URLPattern] = []
