"""Who belongs to a project: roles, what a person reads and knows, and leaving.

A member who leaves keeps their row, and with it the pseudonym of their votes; they have no access from that moment on.
A project always has an owner who can sign in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from django.db import transaction

from annotation import assignment as assignments
from annotation.errors import DomainError, Invalid, Kind
from annotation.gate import write
from annotation.models import Assignment, AssignmentState, AuditAction, Membership, Project, Role, Token, User
from annotation.people import audit

MOST_TAGS = 40
_TAG = re.compile(r"[\w.+-]{1,40}")  # as comparisons have them: an audience is tags joined by blanks


class OwnersOnly(DomainError):
    """Roles are the owners' to give and to take."""

    code = "owners_only"
    kind = Kind.NOT_ALLOWED


class LastOwner(DomainError):
    """Without this person the project would have no owner."""

    code = "last_owner"
    kind = Kind.CONFLICT


class NoMember(DomainError):
    """The person has left; an invitation brings them back."""

    code = "no_member"
    kind = Kind.CONFLICT


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """What is to change; None leaves a thing as it is. `cap` is a pair so that it can be taken away: (None,)."""

    role: Role | None = None
    languages: list[str] | None = None
    skills: list[str] | None = None
    cap: tuple[int | None] | None = None

    def values(self) -> dict[str, object]:
        """By column."""
        found: dict[str, object] = {
            "role": None if self.role is None else self.role.value, "languages": self.languages, "skills": self.skills
        }  # fmt: skip
        found = {name: value for name, value in found.items() if value is not None}
        return found if self.cap is None else {**found, "cap": self.cap[0]}


def change(*, membership: Membership, to: Change, by: User, by_role: Role, now: datetime) -> Membership:
    """Change a member; what is already so changes nothing. Leases of who may not annotate any more are given back.

    Raises:
        OwnersOnly: a manager would change a role, or somebody who is no annotator.
        LastOwner: the only owner would become something else.
        NoMember: they have left.
    """
    with write(), transaction.atomic():
        member = _locked(membership)
        if member.left_at is not None:
            raise NoMember("This person has left the project; invite them again.")
        new = to.values()
        old = {name: value for name, value in _columns(member).items() if name in new and value != new[name]}
        if by_role is not Role.OWNER and ("role" in old or (old and Role(member.role) is not Role.ANNOTATOR)):
            raise OwnersOnly("Only an owner changes roles and members who are no annotators.")
        if "role" in old:
            _keep_an_owner(member)
        if old:
            Membership.objects.filter(pk=member.pk).update(**{name: new[name] for name in old})
            _note(
                member,
                by,
                AuditAction.MEMBER_CHANGED,
                now,
                **{name: {"old": old[name], "new": new[name]} for name in old},
            )
        member.refresh_from_db()
        if not Role(member.role).can_annotate:
            _give_back(member, now)
    return member


def remove(*, membership: Membership, by: User, now: datetime) -> bool:
    """End a membership at once: no access, open leases given back, tokens of the project revoked. Votes and the
    pseudonym stay. False if they had left already.

    Raises:
        LastOwner: the project would have no owner.
    """
    with write(), transaction.atomic():
        member = _locked(membership)
        if member.left_at is not None:
            return False
        _keep_an_owner(member)
        Membership.objects.filter(pk=member.pk).update(left_at=now)
        given_back = _give_back(member, now)
        tokens = Token.objects.filter(user=member.user_id, project=member.project_id, revoked_at=None)
        _note(
            member,
            by,
            AuditAction.MEMBER_REMOVED,
            now,
            given_back=given_back,
            tokens_revoked=tokens.update(revoked_at=now),
        )
    return True


def read_tags(values: Iterable[str], *, name: str) -> list[str]:
    """Languages or skills, sorted and once each.

    Raises:
        Invalid: naming the field, the value and what a tag is.
    """
    tags = sorted(set(values))
    for tag in tags:
        if not _TAG.fullmatch(tag):
            raise Invalid(
                f"{name}: a tag has 1 to 40 letters, digits or . + - _, got {tag!r}",
                details={name: [f"not a tag: {tag!r}"]},
            )
    if len(tags) > MOST_TAGS:
        raise Invalid(f"{name}: at most {MOST_TAGS} tags, got {len(tags)}", details={name: [f"at most {MOST_TAGS}"]})
    return tags


def _locked(membership: Membership) -> Membership:
    """The row as it is now; whoever changes the members of a project waits here."""
    Project.objects.select_for_update(no_key=True).get(pk=membership.project_id)
    return Membership.objects.select_related("project", "user").get(pk=membership.pk)


def _keep_an_owner(member: Membership) -> None:
    owners = Membership.objects.filter(
        project=member.project_id, role=Role.OWNER, left_at=None, user__is_active=True
    ).exclude(pk=member.pk)
    if Role(member.role) is Role.OWNER and not owners.exists():
        raise LastOwner("This is the project's only owner. Make somebody else an owner first.")


def _give_back(member: Membership, now: datetime) -> int:
    leases = Assignment.objects.filter(
        project=member.project_id, annotator=member.user_id, state=AssignmentState.LEASED
    )
    return assignments.end(assignments=list(leases), state=AssignmentState.RELEASED, now=now)


def _columns(member: Membership) -> dict[str, object]:
    return {"role": member.role, "languages": member.languages, "skills": member.skills, "cap": member.cap}


def _note(member: Membership, by: User, action: AuditAction, now: datetime, **details: object) -> None:
    audit(project=member.project, by=by, action=action, target=member.pseudonym, now=now, **details)
