"""Who may call what: every project view gets its project from here, scoped by membership.

A stranger gets 404, a member without the role 403 before any object is looked up, a token without the scope 403.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar

from django.http import Http404
from rest_framework.exceptions import PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from annotation.models import Membership, Project, Role, Token, TokenScope, User


def user_of(request: Request) -> User:
    """The signed-in user."""
    assert isinstance(request.user, User)
    return request.user


def require_scope(request: Request, scope: TokenScope) -> None:
    """Refuse a token that lacks the scope; a session has them all."""
    token = request.auth
    if isinstance(token, Token) and scope.value not in token.scopes:
        raise PermissionDenied(
            f"This token lacks the scope {scope.value!r}; it has {', '.join(token.scopes) or 'none'}."
        )


def membership_of(request: Request, slug: str) -> Membership:
    """The caller's membership in a project; 404 for strangers and for tokens of another project."""
    rows = Membership.objects.select_related("project").filter(user=user_of(request), project__slug=slug, left_at=None)
    if isinstance(request.auth, Token) and request.auth.project_id is not None:
        rows = rows.filter(project_id=request.auth.project_id)
    membership = rows.first()
    if membership is None:
        raise Http404
    return membership


def researched_projects(request: Request) -> Collection[int]:
    """Projects where the caller may read what researchers read, for pages of the whole site; 403 if there is none."""
    require_scope(request, TokenScope.READ)
    rows = Membership.objects.filter(user=user_of(request), left_at=None)
    if isinstance(request.auth, Token) and request.auth.project_id is not None:
        rows = rows.filter(project_id=request.auth.project_id)
    projects = {project for project, role in rows.values_list("project_id", "role") if Role(role).can_research}
    if not projects:
        raise PermissionDenied("This page is for researchers of a project.")
    return projects


class NoStore:
    """Answers that no cache keeps."""

    def finalize_response(self, request: Request, response: Response, *args: Any, **kwargs: Any) -> Response:
        response = super().finalize_response(request, response, *args, **kwargs)  # type: ignore[misc]
        response["Cache-Control"] = "no-store"
        return response


class ProjectView(NoStore, APIView):
    """A researcher's view: `self.project` is one where the caller may read, and for unsafe methods may manage.

    `write_scope` is the token scope that unsafe methods need.
    """

    write_scope: ClassVar[TokenScope] = TokenScope.WRITE
    project: Project
    role: Role

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        membership = membership_of(request, kwargs["slug"])
        self.project, self.role = membership.project, Role(membership.role)
        if not self.role.can_research:
            raise PermissionDenied("This page is for researchers; your role here is to annotate.")
        if request.method in {"GET", "HEAD", "OPTIONS"}:
            require_scope(request, TokenScope.READ)
            return
        if not self.role.can_manage:
            raise PermissionDenied("Your role here reads only.")
        require_scope(request, self.write_scope)


class ManagerView(ProjectView):
    """A view that holds what only managers and owners may know, such as addresses with keys in them."""

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        if not self.role.can_manage:
            raise PermissionDenied("This page is for those who manage the project.")


class OwnerView(ProjectView):
    """A view whose unsafe methods are the owner's alone, such as who the members are."""

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        if request.method not in {"GET", "HEAD", "OPTIONS"} and self.role is not Role.OWNER:
            raise PermissionDenied("Only an owner of the project can do this.")


class AdjudicatorView(NoStore, APIView):
    """A view for those who decide disputes: adjudicators, managers and owners."""

    project: Project
    role: Role

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        membership = membership_of(request, kwargs["slug"])
        self.project, self.role = membership.project, Role(membership.role)
        if not self.role.can_adjudicate:
            raise PermissionDenied("Disputes are decided by adjudicators; ask an owner for that role.")
        is_read = request.method in {"GET", "HEAD", "OPTIONS"}
        require_scope(request, TokenScope.READ if is_read else TokenScope.WRITE)


class AnnotatorProjectView(NoStore, APIView):
    """An annotator's view of a project, with their membership."""

    project: Project
    membership: Membership

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        membership = membership_of(request, kwargs["slug"])
        if not Role(membership.role).can_annotate:
            raise PermissionDenied("Your role here reads only; ask an owner to let you annotate.")
        require_scope(request, TokenScope.READ if request.method == "GET" else TokenScope.WRITE)
        self.project, self.membership = membership.project, membership
