"""Who am I, sign in, sign out, API tokens."""

from __future__ import annotations

from typing import Any

from axes.handlers.proxy import AxesProxyHandler
from django.contrib.auth import authenticate, login, logout
from django.http import Http404
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.views.decorators.csrf import csrf_protect, ensure_csrf_cookie
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers, status
from rest_framework.exceptions import PermissionDenied
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from annotation.api.access import NoStore, membership_of, require_scope, user_of
from annotation.errors import DomainError, Kind
from annotation.models import Membership, Role, Token, TokenScope, User
from annotation.people import create_token, revoke_token


class BadCredentials(DomainError):
    """The same answer for an unknown address and a wrong password."""

    code = "bad_credentials"


class TooManyAttempts(DomainError):
    """Sign-in is locked for this person and address."""

    code = "too_many_attempts"
    kind = Kind.TOO_MANY


class UserProjectSerializer(serializers.Serializer[Any]):
    slug = serializers.CharField(source="project.slug")
    name = serializers.CharField(source="project.name")
    role = serializers.ChoiceField(choices=Role.choices)
    can_annotate = serializers.SerializerMethodField()
    can_research = serializers.SerializerMethodField()
    can_manage = serializers.SerializerMethodField()
    can_adjudicate = serializers.SerializerMethodField()

    def get_can_annotate(self, row: Membership) -> bool:
        return Role(row.role).can_annotate

    def get_can_research(self, row: Membership) -> bool:
        return Role(row.role).can_research

    def get_can_manage(self, row: Membership) -> bool:
        return Role(row.role).can_manage

    def get_can_adjudicate(self, row: Membership) -> bool:
        return Role(row.role).can_adjudicate


class UserSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField(source="public_id")
    email = serializers.EmailField()
    name = serializers.CharField()
    is_operator = serializers.BooleanField(source="is_staff")
    projects = serializers.SerializerMethodField()

    @extend_schema_field(UserProjectSerializer(many=True))
    def get_projects(self, user: User) -> Any:
        rows = user.memberships.filter(left_at=None).select_related("project").order_by("project__name")
        if self.context.get("only_project") is not None:
            rows = rows.filter(project=self.context["only_project"])
        return UserProjectSerializer(rows, many=True).data


class SessionSerializer(serializers.Serializer[Any]):
    user = UserSerializer(allow_null=True)


class SignInSerializer(serializers.Serializer[Any]):
    email = serializers.CharField(max_length=254)
    password = serializers.CharField(max_length=512, trim_whitespace=False)


class SessionView(NoStore, APIView):
    """The session of the browser."""

    permission_classes = (AllowAny,)

    @extend_schema(operation_id="session_show", responses=SessionSerializer)
    @method_decorator(ensure_csrf_cookie)
    def get(self, request: Request) -> Response:
        """The signed-in user, or null. Sets the CSRF cookie."""
        user = request.user if isinstance(request.user, User) else None
        only = request.auth.project_id if isinstance(request.auth, Token) else None
        return Response(SessionSerializer({"user": user}, context={"only_project": only}).data)

    @extend_schema(operation_id="session_sign_in", request=SignInSerializer, responses=SessionSerializer)
    @method_decorator(csrf_protect)
    def post(self, request: Request) -> Response:
        """Sign in with e-mail address and password."""
        data = SignInSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        # By its field's name, `email`: under any other axes finds no name and would lock everybody at this address.
        credentials = {"email": data.validated_data["email"].lower(), "password": data.validated_data["password"]}
        user = authenticate(request._request, **credentials)
        if user is None:
            if AxesProxyHandler.is_locked(request._request, credentials):
                # Else its middleware puts a page of its own in the place of our answer.
                request._request.axes_locked_out = False  # type: ignore[attr-defined]
                raise TooManyAttempts("Too many attempts. Wait 15 minutes, then try again.")
            raise BadCredentials("That email and password don't match.")
        login(request._request, user)
        return Response(SessionSerializer({"user": user}).data)

    @extend_schema(operation_id="session_sign_out", responses={204: None})
    def delete(self, request: Request) -> Response:
        """Sign out."""
        logout(request._request)
        return Response(status=status.HTTP_204_NO_CONTENT)


class TokenSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField(source="public_id")
    name = serializers.CharField()
    scopes = serializers.ListField(child=serializers.ChoiceField(choices=TokenScope.choices))
    project = serializers.CharField(source="project.slug", allow_null=True, default=None)
    created_at = serializers.DateTimeField()
    expires_at = serializers.DateTimeField(allow_null=True)
    last_used_at = serializers.DateTimeField(allow_null=True)
    revoked_at = serializers.DateTimeField(allow_null=True)


class TokenListSerializer(serializers.Serializer[Any]):
    items = TokenSerializer(many=True)
    next = serializers.CharField(allow_null=True)


class NewTokenSerializer(TokenSerializer):
    secret = serializers.CharField()


class TokenCreateSerializer(serializers.Serializer[Any]):
    name = serializers.CharField(max_length=80)
    scopes = serializers.ListField(child=serializers.ChoiceField(choices=TokenScope.choices), min_length=1)
    project = serializers.SlugField(required=False, allow_null=True)
    expires_days = serializers.IntegerField(min_value=1, max_value=3650, required=False, allow_null=True)


class TokensView(NoStore, APIView):
    """The caller's tokens. A token cannot make tokens."""

    @extend_schema(operation_id="tokens_list", responses=TokenListSerializer)
    def get(self, request: Request) -> Response:
        """All tokens of the caller, newest first, revoked ones too."""
        require_scope(request, TokenScope.READ)
        rows = Token.objects.filter(user=user_of(request)).select_related("project").order_by("-pk")
        if isinstance(request.auth, Token) and request.auth.project_id is not None:
            rows = rows.filter(project_id=request.auth.project_id)
        return Response({"items": TokenSerializer(rows, many=True).data, "next": None})

    @extend_schema(operation_id="tokens_create", request=TokenCreateSerializer, responses={201: NewTokenSerializer})
    def post(self, request: Request) -> Response:
        """Make a token. Its secret is in this answer and nowhere else."""
        if isinstance(request.auth, Token):
            raise PermissionDenied("A token cannot make another one: sign in to do that.")
        data = TokenCreateSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        values = data.validated_data
        project = membership_of(request, values["project"]).project if values.get("project") else None
        token, secret = create_token(
            user=user_of(request),
            name=values["name"],
            scopes=[TokenScope(scope) for scope in values["scopes"]],
            project=project,
            expires_days=values.get("expires_days"),
            now=timezone.now(),
        )
        return Response({**TokenSerializer(token).data, "secret": secret}, status=status.HTTP_201_CREATED)


class TokenView(NoStore, APIView):
    """One token."""

    @extend_schema(operation_id="tokens_revoke", responses={204: None})
    def delete(self, request: Request, public_id: Any) -> Response:
        """Revoke a token; it stops working at once. Revoking twice changes nothing."""
        if isinstance(request.auth, Token):
            raise PermissionDenied("A token cannot revoke tokens: sign in to do that.")
        token = Token.objects.filter(user=user_of(request), public_id=public_id).select_related("project").first()
        if token is None:
            raise Http404
        revoke_token(token=token, by=user_of(request), now=timezone.now())
        return Response(status=status.HTTP_204_NO_CONTENT)
