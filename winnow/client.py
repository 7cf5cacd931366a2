"""A program's way to the API of a running Winnow: plain HTTP by the standard library, with a token or a session.

For the demo, the experiments and the tests, which see no more of the product than any program could.
"""

from __future__ import annotations

import http.cookiejar
import json
import urllib.error
import urllib.request
from typing import Any


class Refused(RuntimeError):
    """The API answered with an error; the message holds method, path, status and answer."""


class Client:
    """A program that talks to the API: JSON in, JSON out; refusals become `Refused`, which says what was asked."""

    def __init__(self, base: str, *, token: str = "") -> None:
        self._base, self._token = base, token
        self._cookies = http.cookiejar.CookieJar()
        # No proxy: the address is this machine's own.
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(self._cookies)
        )

    def call(self, method: str, path: str, body: Any = None, *, raw: bytes | None = None, key: str = "") -> Any:
        """One request; None for an empty answer."""
        text = self.text(method, path, body, raw=raw, key=key)
        return json.loads(text) if text else None

    def text(self, method: str, path: str, body: Any = None, *, raw: bytes | None = None, key: str = "") -> str:
        """The same for an answer that is no JSON, such as an export."""
        headers = {"Content-Type": "application/x-ndjson" if raw is not None else "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        csrf = next((cookie.value for cookie in self._cookies if cookie.name == "csrftoken"), None)
        if csrf:
            headers["X-CSRFToken"] = csrf
        if key:
            headers["Idempotency-Key"] = key
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self._base}/api/v1/{path}", data, headers, method=method)  # noqa: S310
        try:
            with self._opener.open(request, timeout=60) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            raise Refused(f"{method} {path} answered {error.code}: {error.read().decode()[:500]}") from None

    def sign_in(self, email: str, password: str) -> None:
        self.call("GET", "session")
        self.call("POST", "session", {"email": email, "password": password})
