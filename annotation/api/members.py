"""Members of a project and invitations to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast
from uuid import UUID

from django.contrib.auth import login
from django.http import Http404
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.views.decorators.csrf import csrf_protect
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, status
from rest_framework.exceptions import PermissionDenied, ValidationError
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from annotation import invitations, members
from annotation.api.access import ManagerView, NoStore, OwnerView, ProjectView, user_of
from annotation.api.pagination import CURSOR_PARAMETERS, page
from annotation.models import Invitation, Membership, Role, Token, User

IMPORTED = "@imported.invalid"
BACKEND = "django.contrib.auth.backends.ModelBackend"


class MemberSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField(source="user.public_id")
    name = serializers.CharField(source="user.name")
    email = serializers.SerializerMethodField(help_text="For those who manage; null for imported annotators.")
    role = serializers.ChoiceField(choices=Role.choices)
    pseudonym = serializers.CharField()
    languages = serializers.ListField(child=serializers.CharField())
    skills = serializers.ListField(child=serializers.CharField())
    cap = serializers.IntegerField(allow_null=True)
    created_at = serializers.DateTimeField()
    paused_at = serializers.DateTimeField(allow_null=True)
    excluded_at = serializers.DateTimeField(allow_null=True)
    left_at = serializers.DateTimeField(allow_null=True)

    def get_email(self, row: Membership) -> str | None:
        hidden = not self.context["can_manage"] or row.user.email.endswith(IMPORTED)
        return None if hidden else row.user.email


class MemberListSerializer(serializers.Serializer[Any]):
    items = MemberSerializer(many=True)
    next = serializers.CharField(allow_null=True)


class MemberChangeSerializer(serializers.Serializer[Any]):
    role = serializers.ChoiceField(choices=Role.choices, required=False)
    languages = serializers.ListField(child=serializers.CharField(), required=False)
    skills = serializers.ListField(child=serializers.CharField(), required=False)
    cap = serializers.IntegerField(min_value=0, max_value=10_000_000, required=False, allow_null=True)


class InvitationSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField(source="public_id")
    role = serializers.ChoiceField(choices=Role.choices)
    email = serializers.CharField()
    languages = serializers.ListField(child=serializers.CharField())
    skills = serializers.ListField(child=serializers.CharField())
    state = serializers.SerializerMethodField()
    created_at = serializers.DateTimeField()
    created_by = serializers.CharField(source="created_by.name")
    expires_at = serializers.DateTimeField()
    accepted_at = serializers.DateTimeField(allow_null=True)
    accepted_by = serializers.CharField(source="accepted_by.name", allow_null=True, default=None)

    def get_state(self, row: Invitation) -> str:
        return invitations.state_of(row, now=timezone.now()).value


class InvitationListSerializer(serializers.Serializer[Any]):
    items = InvitationSerializer(many=True)
    next = serializers.CharField(allow_null=True)


class NewInvitationSerializer(InvitationSerializer):
    secret = serializers.CharField(help_text="For the link; shown this once.")


class InviteSerializer(serializers.Serializer[Any]):
    role = serializers.ChoiceField(choices=Role.choices, default=Role.ANNOTATOR.value)
    email = serializers.EmailField(required=False, allow_blank=True, help_text="If given, only they may accept.")
    languages = serializers.ListField(child=serializers.CharField(), required=False)
    skills = serializers.ListField(child=serializers.CharField(), required=False)


class SecretSerializer(serializers.Serializer[Any]):
    secret = serializers.CharField(max_length=100)


class InvitedProjectSerializer(serializers.Serializer[Any]):
    slug = serializers.CharField()
    name = serializers.CharField()


class InvitedSerializer(serializers.Serializer[Any]):
    project = InvitedProjectSerializer()
    role = serializers.ChoiceField(choices=Role.choices)
    email = serializers.CharField(help_text="The address that it is bound to, or empty.")
    invited_by = serializers.CharField()
    expires_at = serializers.DateTimeField()
    state = serializers.ChoiceField(choices=[state.value for state in invitations.State])


class AcceptSerializer(SecretSerializer):
    email = serializers.CharField(max_length=254, required=False, allow_blank=True)
    name = serializers.CharField(max_length=120, required=False, allow_blank=True)
    password = serializers.CharField(max_length=512, required=False, trim_whitespace=False)


class AcceptedSerializer(serializers.Serializer[Any]):
    project = serializers.CharField()
    role = serializers.ChoiceField(choices=Role.choices)


class MembersView(ProjectView):
    """Who belongs to the project."""

    @extend_schema(
        operation_id="members_list",
        responses=MemberListSerializer,
        parameters=[
            OpenApiParameter("left", bool, description="Also those who have left."),
            *CURSOR_PARAMETERS,
        ],
    )
    def get(self, request: Request, slug: str) -> Response:
        """Members, newest first."""
        rows = Membership.objects.filter(project=self.project).select_related("user")
        if not serializers.BooleanField().run_validation(request.query_params.get("left", "false")):
            rows = rows.filter(left_at=None)

        def render(found: Sequence[Membership]) -> list[Any]:
            return [_member(row, self.role) for row in found]

        return page(request, rows, render)


class MemberView(ProjectView):
    """One member, by the id of the person."""

    @extend_schema(operation_id="members_change", request=MemberChangeSerializer, responses=MemberSerializer)
    def patch(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Change languages, skills or cap; an owner also the role, and those of members who are no annotators."""
        found = _found(self.project.pk, public_id)
        data = MemberChangeSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        unknown = set(request.data) - set(data.fields)
        if unknown:
            raise ValidationError({name: ["cannot be changed here"] for name in sorted(unknown)})
        values = data.validated_data
        change = members.Change(
            role=Role(values["role"]) if "role" in values else None,
            languages=members.read_tags(values["languages"], name="languages") if "languages" in values else None,
            skills=members.read_tags(values["skills"], name="skills") if "skills" in values else None,
            cap=(values["cap"],) if "cap" in values else None,
        )
        changed = members.change(
            membership=found, to=change, by=user_of(request), by_role=self.role, now=timezone.now()
        )
        return Response(_member(changed, self.role))


class MemberRemoveView(OwnerView):
    """The end of a membership."""

    @extend_schema(operation_id="members_remove", request=None, responses={204: None})
    def post(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Remove a member: no access from now on; votes and pseudonym stay. Removing twice changes nothing."""
        members.remove(membership=_found(self.project.pk, public_id), by=user_of(request), now=timezone.now())
        return Response(status=status.HTTP_204_NO_CONTENT)


class InvitationsView(OwnerView, ManagerView):
    """Invitations to the project."""

    @extend_schema(operation_id="invitations_list", responses=InvitationListSerializer, parameters=CURSOR_PARAMETERS)
    def get(self, request: Request, slug: str) -> Response:
        """All of them, newest first."""
        rows = Invitation.objects.filter(project=self.project).select_related("created_by", "accepted_by")
        return page(request, rows, lambda found: cast(list[Any], InvitationSerializer(found, many=True).data))

    @extend_schema(
        operation_id="invitations_create", request=InviteSerializer, responses={201: NewInvitationSerializer}
    )
    def post(self, request: Request, slug: str) -> Response:
        """Invite a person. The secret is in this answer and nowhere else; it belongs into a link for that person."""
        data = InviteSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        values = dict(data.validated_data)
        invitation, secret = invitations.invite(
            project=self.project, role=Role(values.pop("role")), by=user_of(request), now=timezone.now(), **values
        )
        body = InvitationSerializer(invitation).data
        return Response({**body, "secret": secret}, status=status.HTTP_201_CREATED)


class InvitationView(OwnerView):
    """One invitation."""

    @extend_schema(operation_id="invitations_revoke", responses={204: None})
    def delete(self, request: Request, slug: str, public_id: UUID) -> Response:
        """Revoke it; a used one stays used. Revoking twice changes nothing."""
        invitation = Invitation.objects.filter(project=self.project, public_id=public_id).first()
        if invitation is None:
            raise Http404
        invitations.revoke(invitation=invitation, by=user_of(request), now=timezone.now())
        return Response(status=status.HTTP_204_NO_CONTENT)


class InvitationLookView(NoStore, APIView):
    """What a link is for. The secret comes in the body, so that no log of addresses holds it."""

    permission_classes = (AllowAny,)

    @extend_schema(operation_id="invitations_look", request=SecretSerializer, responses=InvitedSerializer)
    def post(self, request: Request) -> Response:
        """The project, the role, and whether the invitation still holds."""
        data = SecretSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        invitation = _of_secret(data.validated_data["secret"])
        body = {
            "project": invitation.project,
            "role": invitation.role,
            "email": invitation.email,
            "invited_by": str(invitation.created_by),
            "expires_at": invitation.expires_at,
            "state": invitations.state_of(invitation, now=timezone.now()).value,
        }
        return Response(InvitedSerializer(body).data)


class InvitationAcceptView(NoStore, APIView):
    """Coming in by a link."""

    permission_classes = (AllowAny,)

    @extend_schema(operation_id="invitations_accept", request=AcceptSerializer, responses=AcceptedSerializer)
    @method_decorator(csrf_protect)
    def post(self, request: Request) -> Response:
        """Join: as the one who is signed in, or as a new person with address and password, who is then signed in."""
        if isinstance(request.auth, Token):
            raise PermissionDenied("A token cannot accept an invitation: sign in to do that.")
        data = AcceptSerializer(data=request.data)
        data.is_valid(raise_exception=True)
        values, now = data.validated_data, timezone.now()
        invitation = _of_secret(values["secret"])
        if isinstance(request.user, User):
            invitations.accept(invitation=invitation, user=request.user, now=now)
        else:
            if not values.get("password"):
                raise ValidationError({"password": ["needed for a new account; or sign in first"]})
            user = invitations.accept_as_new(
                invitation=invitation,
                email=values.get("email", ""),
                name=values.get("name", ""),
                password=values["password"],
                now=now,
            )
            login(request._request, user, backend=BACKEND)
        return Response(AcceptedSerializer({"project": invitation.project.slug, "role": invitation.role}).data)


def _of_secret(secret: str) -> Invitation:
    invitation = invitations.look(secret=secret)
    if invitation is None:
        raise Http404
    return invitation


def _found(project_id: int, public_id: UUID) -> Membership:
    rows = Membership.objects.select_related("user", "project")
    found = rows.filter(project=project_id, user__public_id=public_id).first()
    if found is None:
        raise Http404
    return found


def _member(row: Membership, role: Role) -> Any:
    return MemberSerializer(row, context={"can_manage": role.can_manage}).data


urlpatterns: list[URLPattern] = [
    path("projects/<slug:slug>/members", MembersView.as_view()),
    path("projects/<slug:slug>/members/<uuid:public_id>", MemberView.as_view()),
    path("projects/<slug:slug>/members/<uuid:public_id>/remove", MemberRemoveView.as_view()),
    path("projects/<slug:slug>/invitations", InvitationsView.as_view()),
    path("projects/<slug:slug>/invitations/<uuid:public_id>", InvitationView.as_view()),
    path("invitations/look", InvitationLookView.as_view()),
    path("invitations/accept", InvitationAcceptView.as_view()),
]
