"""API tokens for programs. A request carries a session or a token, never both."""

from __future__ import annotations

from typing import Any

from django.utils import timezone
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from annotation.models import Token, User

_SEEN_EVERY_SECONDS = 60


class TokenAuthentication(BaseAuthentication):
    """`Authorization: Bearer wnw_…`."""

    def authenticate(self, request: Request) -> tuple[User, Token] | None:
        header = get_authorization_header(request).split()
        if not header or header[0].lower() != b"bearer":
            return None
        if request.COOKIES.get("sessionid"):
            raise AuthenticationFailed("Send a token or a session cookie, not both.")
        if len(header) != 2:
            raise AuthenticationFailed("The Authorization header must be: Bearer wnw_…")
        now = timezone.now()
        token = (
            Token.objects.select_related("user", "project")
            .filter(secret_hash=Token.hash_secret(header[1].decode(errors="replace")))
            .first()
        )
        if token is None or not token.is_live(now) or not token.user.is_active:
            raise AuthenticationFailed("This token is unknown, expired or revoked.")
        if token.last_used_at is None or (now - token.last_used_at).total_seconds() > _SEEN_EVERY_SECONDS:
            Token.objects.filter(pk=token.pk).update(last_used_at=now)
        return token.user, token

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class TokenScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """How the schema describes the token."""

    target_class = "annotation.api.authentication.TokenAuthentication"
    name = "token"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "bearerFormat": "wnw_…"}
