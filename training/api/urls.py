"""Routes of training under /api/v1/."""

from __future__ import annotations

from django.urls import path

from training.api import views

_PROJECT = "projects/<slug:slug>"
_JOB = f"{_PROJECT}/jobs/<uuid:public_id>"

urlpatterns = [
    path(f"{_PROJECT}/overview", views.OverviewView.as_view()),
    path(f"{_PROJECT}/snapshots", views.SnapshotsView.as_view()),
    path(f"{_PROJECT}/snapshots/preview", views.SnapshotPreviewView.as_view()),
    path(f"{_PROJECT}/snapshots/<uuid:public_id>", views.SnapshotView.as_view()),
    path(f"{_PROJECT}/snapshots/<uuid:public_id>/export", views.SnapshotExportView.as_view()),
    path(f"{_PROJECT}/models", views.ModelsView.as_view()),
    path(f"{_PROJECT}/methods", views.MethodsView.as_view()),
    path(f"{_PROJECT}/jobs", views.JobsView.as_view()),
    path(_JOB, views.JobView.as_view()),
    path(f"{_JOB}/metrics", views.JobMetricsView.as_view()),
    path(f"{_JOB}/samples", views.JobSamplesView.as_view()),
    path(f"{_JOB}/log", views.JobLogView.as_view()),
    path(f"{_JOB}/cancel", views.JobCancelView.as_view()),
    path(f"{_JOB}/retry", views.JobRetryView.as_view()),
    path(f"{_JOB}/promote", views.JobPromoteView.as_view()),
    path(f"{_PROJECT}/rounds", views.RoundsView.as_view()),
    path(f"{_PROJECT}/rounds/<uuid:public_id>", views.RoundView.as_view()),
    path("metrics", views.MetricsView.as_view()),
]
