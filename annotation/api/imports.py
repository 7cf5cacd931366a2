"""Imports: files in, their progress, their refused rows."""

from __future__ import annotations

from django.urls import URLPattern

urlpatterns: list[URLPattern] = []
