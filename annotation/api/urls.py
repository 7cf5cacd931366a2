"""Routes of annotation under /api/v1/."""

from __future__ import annotations

from django.urls import path

from annotation.api import (
    adjudication,
    annotate,
    audit,
    comparisons,
    conversations,
    exclusion,
    exports,
    gold,
    imports,
    members,
    pairing,
    projects,
    qualification,
    quality,
    sessions,
    webhooks,
)

urlpatterns = [
    path("session", sessions.SessionView.as_view()),
    path("tokens", sessions.TokensView.as_view()),
    path("tokens/<uuid:public_id>", sessions.TokenView.as_view()),
    path("annotate/projects", annotate.AnnotateProjectsView.as_view()),
    path("annotate/projects/<slug:slug>/guideline", annotate.AnnotateGuidelineView.as_view()),
    path("annotate/projects/<slug:slug>/queue", annotate.QueueView.as_view()),
    path("annotate/projects/<slug:slug>/heartbeat", annotate.HeartbeatView.as_view()),
    path("annotate/projects/<slug:slug>/release", annotate.ReleaseView.as_view()),
    path("annotate/projects/<slug:slug>/votes", annotate.OwnVotesView.as_view()),
    path("annotate/assignments/<uuid:public_id>/completion", annotate.CompletionView.as_view()),
    path("annotate/assignments/<uuid:public_id>/vote", annotate.VoteView.as_view()),
    path("annotate/assignments/<uuid:public_id>/skip", annotate.SkipView.as_view()),
    path("annotate/assignments/<uuid:public_id>/flag", annotate.FlagView.as_view()),
    path("annotate/votes/<uuid:public_id>/retract", annotate.RetractView.as_view()),
    path("projects", projects.ProjectsView.as_view()),
    path("projects/<slug:slug>", projects.ProjectDetailView.as_view()),
    path("projects/<slug:slug>/guidelines", projects.GuidelinesView.as_view()),
    path("projects/<slug:slug>/guidelines/<int:number>", projects.GuidelineDifferenceView.as_view()),
    path("projects/<slug:slug>/prompts", projects.PromptsView.as_view()),
    *comparisons.urlpatterns,
    *qualification.urlpatterns,
    *conversations.urlpatterns,
    *gold.urlpatterns,
    *quality.urlpatterns,
    *adjudication.urlpatterns,
    *exclusion.urlpatterns,
    *imports.urlpatterns,
    *exports.urlpatterns,
    *pairing.urlpatterns,
    *members.urlpatterns,
    *webhooks.urlpatterns,
    *audit.urlpatterns,
]
