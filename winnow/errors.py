"""The one place where domain errors become HTTP: every error body is `{code, message, details}`."""

from __future__ import annotations

import logging
from typing import Any

from django.core.exceptions import PermissionDenied
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, JsonResponse
from rest_framework import exceptions, status
from rest_framework.response import Response

from annotation.errors import DomainError, Kind

_STATUS = {
    Kind.INVALID: status.HTTP_400_BAD_REQUEST,
    Kind.CONFLICT: status.HTTP_409_CONFLICT,
    Kind.NOT_ALLOWED: status.HTTP_403_FORBIDDEN,
    Kind.TOO_MANY: status.HTTP_429_TOO_MANY_REQUESTS,
    Kind.TOO_LARGE: status.HTTP_413_REQUEST_ENTITY_TOO_LARGE,
}
_CODES = {
    exceptions.NotAuthenticated: "not_signed_in",
    exceptions.AuthenticationFailed: "bad_token",
    exceptions.PermissionDenied: "not_allowed",
    exceptions.NotFound: "not_found",
    exceptions.MethodNotAllowed: "method_not_allowed",
    exceptions.UnsupportedMediaType: "unsupported_media_type",
    exceptions.ParseError: "malformed",
    exceptions.Throttled: "too_many_requests",
}
RETRY_SECONDS = 2

log = logging.getLogger(__name__)


def exception_handler(error: Exception, context: dict[str, Any]) -> Response | None:
    """DRF's hook: an error body of the one shape, or None for a bug (which stays a 500 in the log)."""
    if isinstance(error, DomainError):
        return Response(body(error.code, str(error), error.details), status=_STATUS[error.kind])
    if isinstance(error, Http404):
        error = exceptions.NotFound("There is nothing here that you may see.")
    elif isinstance(error, PermissionDenied):
        error = exceptions.PermissionDenied(str(error) or None)
    if isinstance(error, exceptions.ValidationError):
        details = error.detail if isinstance(error.detail, dict) else {"non_field_errors": error.detail}
        return Response(body("invalid", _first(details), details), status=error.status_code)
    if isinstance(error, exceptions.APIException):
        code = next((code for kind, code in _CODES.items() if isinstance(error, kind)), str(error.default_code))
        response = Response(body(code, _first(error.detail), {}), status=error.status_code)
        if isinstance(error, exceptions.NotAuthenticated):
            response.status_code = status.HTTP_401_UNAUTHORIZED
        return response
    if isinstance(error, OperationalError | InterfaceError):  # away, restarting, or a lock that was waited for in vain
        log.warning("the database did not answer a request", exc_info=error)
        message = "The database does not answer at the moment. Nothing was changed; try again."
        return Response(
            body("database_busy", message),
            status=status.HTTP_503_SERVICE_UNAVAILABLE,
            headers={"Retry-After": str(RETRY_SECONDS)},
        )
    return None


def body(code: str, message: str, details: Any = None) -> dict[str, Any]:
    """The error body that every endpoint answers with."""
    return {"code": code, "message": message, "details": details or {}}


def _first(detail: Any) -> str:
    """One readable line out of DRF's nested details, with the field's name in front."""
    if isinstance(detail, dict):
        name, inner = next(iter(detail.items()), ("", "The request is not valid."))
        return _first(inner) if name == "non_field_errors" else f"{name}: {_first(inner)}"
    if isinstance(detail, list):
        return _first(detail[0]) if detail else "The request is not valid."
    return str(detail)


def csrf_failure(request: HttpRequest, reason: str = "") -> JsonResponse:
    """Django's CSRF_FAILURE_VIEW in our shape."""
    return JsonResponse(body("csrf", "This request did not come from our own pages. Reload and try again."), status=403)


def not_found(request: HttpRequest, exception: Exception) -> JsonResponse:
    """handler404."""
    return JsonResponse(body("not_found", "There is nothing here that you may see."), status=404)


def server_error(request: HttpRequest) -> JsonResponse:
    """handler500: the fixed body; the log has the rest under the request's id."""
    return JsonResponse(body("server_error", "Something broke on our side. Nothing was changed."), status=500)


def bad_request(request: HttpRequest, exception: Exception) -> JsonResponse:
    """handler400: a host or a request that Django itself refuses."""
    return JsonResponse(body("bad_request", "The request was refused."), status=400)
