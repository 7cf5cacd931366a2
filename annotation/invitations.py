"""Links that make one person a member: single use, seven days, and only the sha256 of the secret is kept.

Whoever has the link may use it, unless it is bound to an address; so it is sent like a password.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum

from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import IntegrityError, transaction

from annotation.errors import DomainError, Invalid, Kind
from annotation.gate import write
from annotation.members import read_tags
from annotation.models import AuditAction, Invitation, Membership, Project, Role, User
from annotation.people import add_member, audit

LIFETIME = timedelta(days=7)
MOST_OPEN = 500


class State(StrEnum):
    """Where an invitation stands."""

    OPEN = "open"
    USED = "used"
    REVOKED = "revoked"
    EXPIRED = "expired"


class InvitationOver(DomainError):
    """The invitation cannot be used any more; the message says why and whom to ask."""

    code = "invitation_over"
    kind = Kind.CONFLICT


class AlreadyMember(DomainError):
    """The person belongs to the project; an invitation changes no role."""

    code = "already_member"
    kind = Kind.CONFLICT


class AccountExists(DomainError):
    """There is an account with this address: its person signs in and then accepts."""

    code = "account_exists"
    kind = Kind.CONFLICT


class TooManyInvitations(DomainError):
    """So many open invitations are a mistake."""

    code = "too_many_invitations"
    kind = Kind.CONFLICT


def invite(
    *,
    project: Project,
    role: Role,
    by: User,
    now: datetime,
    email: str = "",
    languages: Sequence[str] = (),
    skills: Sequence[str] = (),
) -> tuple[Invitation, str]:
    """An invitation and its secret, which is not kept and cannot be shown again."""
    secret = "wni_" + secrets.token_urlsafe(32)
    with write(), transaction.atomic():
        Project.objects.select_for_update(no_key=True).get(pk=project.pk)
        live = Invitation.objects.filter(project=project, accepted_at=None, revoked_at=None, expires_at__gt=now)
        if live.count() >= MOST_OPEN:
            raise TooManyInvitations(f"This project has {MOST_OPEN} open invitations; revoke some first.")
        invitation = Invitation.objects.create(
            project=project,
            role=role,
            email=email.lower(),
            languages=read_tags(languages, name="languages"),
            skills=read_tags(skills, name="skills"),
            secret_hash=_hash(secret),
            created_by=by,
            created_at=now,
            expires_at=now + LIFETIME,
        )
        _note(invitation, by, AuditAction.INVITATION_CREATED, now, role=role.value, email=email)
    return invitation, secret


def revoke(*, invitation: Invitation, by: User, now: datetime) -> bool:
    """Make a link worthless. False if it was used or revoked already."""
    with write(), transaction.atomic():
        rows = Invitation.objects.filter(pk=invitation.pk, accepted_at=None, revoked_at=None)
        if not rows.update(revoked_at=now):
            return False
        _note(invitation, by, AuditAction.INVITATION_REVOKED, now)
    return True


def look(*, secret: str) -> Invitation | None:
    """The invitation of a secret, whatever its state."""
    rows = Invitation.objects.select_related("project", "created_by", "accepted_by")
    return rows.filter(secret_hash=_hash(secret)).first()


def state_of(invitation: Invitation, *, now: datetime) -> State:
    """A used one stays used, whatever came later."""
    if invitation.accepted_at is not None:
        return State.USED
    if invitation.revoked_at is not None:
        return State.REVOKED
    return State.OPEN if invitation.expires_at > now else State.EXPIRED


def accept(*, invitation: Invitation, user: User, now: datetime) -> Membership:
    """Make a person with an account a member; who left comes back with the old pseudonym. The same person again gets
    the membership that they have.

    Raises:
        InvitationOver: used, revoked, expired, or bound to another address.
        AlreadyMember: they belong to the project by other means.
    """
    if invitation.accepted_by_id == user.pk:
        mine = Membership.objects.filter(project=invitation.project, user=user, left_at=None).first()
        if mine is not None:
            return mine
    _must_be_for(invitation, user.email)
    with write(), transaction.atomic():
        return _join(invitation, user, now)


def accept_as_new(*, invitation: Invitation, email: str, name: str, password: str, now: datetime) -> User:
    """Make an account for a new person and make them a member, both or neither.

    Args:
        email: may be left out where the invitation is bound to an address.

    Raises:
        InvitationOver, AccountExists; Invalid: the address or the password will not do, naming each reason.
    """
    email = (email or invitation.email).lower()
    _must_be_for(invitation, email)
    user = User(email=email, name=name.strip(), created_at=now)
    _check_person(user, password)
    user.set_password(password)
    try:
        with write(), transaction.atomic():
            _use(invitation, now)
            user.save(force_insert=True)
            _join(invitation, user, now, is_used=True)
    except IntegrityError:
        raise AccountExists(
            "There is an account with this e-mail address: sign in, then open the link again."
        ) from None
    return user


def _join(invitation: Invitation, user: User, now: datetime, *, is_used: bool = False) -> Membership:
    Project.objects.select_for_update(no_key=True).get(pk=invitation.project_id)
    if Membership.objects.filter(project=invitation.project, user=user, left_at=None).exists():
        raise AlreadyMember("You belong to this project already. An owner can change your role.")
    if not is_used:
        _use(invitation, now)
    Invitation.objects.filter(pk=invitation.pk).update(accepted_by=user)
    member = add_member(project=invitation.project, user=user, role=Role(invitation.role), now=now)
    Membership.objects.filter(pk=member.pk).update(
        languages=invitation.languages or member.languages, skills=invitation.skills or member.skills
    )
    _note(invitation, user, AuditAction.INVITATION_ACCEPTED, now, role=invitation.role, member=member.pseudonym)
    member.refresh_from_db()
    return member


def _use(invitation: Invitation, now: datetime) -> None:
    """By one write, so that of two people with one link one gets in."""
    rows = Invitation.objects.filter(pk=invitation.pk, accepted_at=None, revoked_at=None, expires_at__gt=now)
    if not rows.update(accepted_at=now):
        invitation.refresh_from_db(fields=["accepted_at", "revoked_at", "expires_at"])
        state = state_of(invitation, now=now)
        raise InvitationOver(f"This invitation is {state}. Ask {invitation.created_by} for a new one.")


def _must_be_for(invitation: Invitation, email: str) -> None:
    if invitation.email and invitation.email != email.lower():
        raise InvitationOver(
            f"This invitation is for another e-mail address. Ask {invitation.created_by} for your own.",
            details={"email": ["is not the invited one"]},
        )


def _check_person(user: User, password: str) -> None:
    try:
        validate_email(user.email)
    except ValidationError:
        raise Invalid(f"email: must be an address, got {user.email!r}", details={"email": ["is no address"]}) from None
    try:
        validate_password(password, user)
    except ValidationError as error:
        raise Invalid(f"password: {' '.join(error.messages)}", details={"password": error.messages}) from None


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _note(invitation: Invitation, by: User, action: AuditAction, now: datetime, **details: object) -> None:
    audit(project=invitation.project, by=by, action=action, target=str(invitation.public_id), now=now, **details)
