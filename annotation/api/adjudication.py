"""Disputes: the queue, the votes without names, rulings, re-openings, escalations."""

from __future__ import annotations

from django.urls import URLPattern

urlpatterns: list[URLPattern] = []
