"""Routes of training under /api/v1/."""

from __future__ import annotations

from django.urls import path

from training.api import (
    alarms,
    chat,
    curves,
    evaluations,
    experiments,
    jobs,
    launches,
    lineage,
    methods,
    models,
    overview,
    playground,
    rounds,
    schedules,
    snapshots,
    workers,
)

_PROJECT = "projects/<slug:slug>"
_JOB = f"{_PROJECT}/jobs/<uuid:public_id>"

urlpatterns = [
    path(f"{_PROJECT}/overview", overview.OverviewView.as_view()),
    path(f"{_PROJECT}/snapshots", snapshots.SnapshotsView.as_view()),
    path(f"{_PROJECT}/snapshots/preview", snapshots.SnapshotPreviewView.as_view()),
    path(f"{_PROJECT}/snapshots/<uuid:public_id>", snapshots.SnapshotView.as_view()),
    path(f"{_PROJECT}/snapshots/<uuid:public_id>/export", snapshots.SnapshotExportView.as_view()),
    path(f"{_PROJECT}/snapshots/<uuid:public_id>/sum", snapshots.SnapshotSumView.as_view()),
    path(f"{_PROJECT}/snapshots/<uuid:public_id>/card", snapshots.SnapshotCardView.as_view()),
    path(f"{_PROJECT}/snapshots/<uuid:public_id>/similarity", snapshots.SnapshotSimilarityView.as_view()),
    path(f"{_PROJECT}/snapshots/<uuid:public_id>/difference", snapshots.SnapshotDifferenceView.as_view()),
    path(f"{_PROJECT}/models", models.ModelsView.as_view()),
    path(f"{_PROJECT}/jobs", jobs.JobsView.as_view()),
    path(_JOB, jobs.JobView.as_view()),
    path(f"{_JOB}/metrics", jobs.JobMetricsView.as_view()),
    path(f"{_JOB}/samples", jobs.JobSamplesView.as_view()),
    path(f"{_JOB}/log", jobs.JobLogView.as_view()),
    path(f"{_JOB}/cancel", jobs.JobCancelView.as_view()),
    path(f"{_JOB}/retry", jobs.JobRetryView.as_view()),
    path(f"{_JOB}/promote", jobs.JobPromoteView.as_view()),
    path(f"{_PROJECT}/rounds", rounds.RoundsView.as_view()),
    path(f"{_PROJECT}/rounds/<uuid:public_id>", rounds.RoundView.as_view()),
    path(f"{_PROJECT}/chat", chat.ChatView.as_view()),
    path("metrics", overview.MetricsView.as_view()),
    *lineage.urlpatterns,
    *models.urlpatterns,
    *methods.urlpatterns,
    *launches.urlpatterns,
    *curves.urlpatterns,
    *workers.urlpatterns,
    *alarms.urlpatterns,
    *schedules.urlpatterns,
    *evaluations.urlpatterns,
    *playground.urlpatterns,
    *experiments.urlpatterns,
]
