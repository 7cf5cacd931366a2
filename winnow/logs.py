"""Structured logs: one line an event, JSON for machines, text on a terminal; secrets never reach either.

`RequestLogMiddleware` gives every request an id that the error panel shows and the log repeats. Bodies, cookies and
authorisation headers are never logged.
"""

from __future__ import annotations

import logging
import logging.config
import secrets
import time
from collections.abc import Callable, MutableMapping
from typing import Any

import structlog
from django.http import HttpRequest, HttpResponse

from annotation.redaction import redact


def _redact_event(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = redact(value)
    return event


def logging_config(*, level: str, style: str, tty: bool) -> None:
    """Set up structlog and the standard library's loggers to share one format on standard error."""
    text = style == "text" or (style == "auto" and tty)
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if text else "iso", utc=not text),
        structlog.processors.format_exc_info,
        _redact_event,
    ]
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=tty, pad_event_to=28) if text else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {
                "line": {
                    "()": structlog.stdlib.ProcessorFormatter,
                    "foreign_pre_chain": [structlog.stdlib.ExtraAdder(), *shared],
                    "processors": [structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
                }
            },
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
            "root": {"handlers": ["stderr"], "level": level},
            "loggers": {
                "django.request": {"level": "ERROR"},
                "django.server": {"level": "WARNING"},
                "gunicorn.access": {"level": "WARNING"},
                "axes": {"level": "WARNING"},  # at INFO it writes e-mail addresses
                "celery.worker.strategy": {"level": "WARNING"},
                "celery.app.trace": {"level": "WARNING"},
            },
        }
    )


class RequestLogMiddleware:
    """Give each request an id (`X-Request-Id`), and log method, path, status and milliseconds."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response
        self._log = structlog.get_logger("winnow.request")

    def __call__(self, request: HttpRequest) -> HttpResponse:
        request_id = secrets.token_hex(4)
        structlog.contextvars.bind_contextvars(request=request_id)
        started = time.perf_counter()
        try:
            response = self._get_response(request)
        finally:
            structlog.contextvars.unbind_contextvars("request")
        response["X-Request-Id"] = request_id
        if request.path.startswith("/api/"):
            milliseconds = round((time.perf_counter() - started) * 1000, 1)
            self._log.debug(
                "request", method=request.method, path=request.path, status=response.status_code, ms=milliseconds
            )
        return response
