"""All routes: the API, its schema, health, the admin where it is wanted, and the browser's application for the rest."""

from __future__ import annotations

from django.conf import settings
from django.contrib import admin
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import URLPattern, URLResolver, include, path, re_path
from drf_spectacular.views import SpectacularJSONAPIView

from winnow import errors, frontend, health


def nothing(request: HttpRequest) -> HttpResponse:
    """An address of ours that does not exist: 404 in the one shape, and never the application's page."""
    raise Http404


urlpatterns: list[URLPattern | URLResolver] = [
    path("api/v1/schema", SpectacularJSONAPIView.as_view(permission_classes=[]), name="schema"),
    path("api/v1/", include("annotation.api.urls")),
    path("api/v1/", include("training.api.urls")),
    path("healthz", health.healthz),
    path("readyz", health.readyz),
    *([path("admin/", admin.site.urls)] if settings.ENV.admin else []),
    re_path(r"^(?:api|static|admin|schema)(?:/|$)", nothing),
    re_path(r"", frontend.index),
]

handler400 = errors.bad_request
handler404 = errors.not_found
handler500 = errors.server_error
