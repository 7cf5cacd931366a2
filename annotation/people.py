"""People and projects: accounts, membership, guidelines, tokens."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from django.contrib.auth.hashers import make_password
from django.db import IntegrityError, transaction
from django.db.models.functions import Now
from django.utils.text import slugify

from annotation.errors import DomainError, Invalid, Kind
from annotation.feedback import Form
from annotation.gate import write
from annotation.models import (
    AuditAction,
    AuditEvent,
    FormVersion,
    GuidelineVersion,
    Membership,
    Project,
    Role,
    Token,
    TokenScope,
    User,
)


class SlugTaken(DomainError):
    """Another project has this short name."""

    code = "slug_taken"
    kind = Kind.CONFLICT


class HasVotes(DomainError):
    """A setting cannot change any more, because work has been done under it."""

    code = "has_votes"
    kind = Kind.CONFLICT


def create_project(
    *,
    name: str,
    by: User,
    slug: str = "",
    guideline: str = "",
    overlap: int = 3,
    form: Form | None = None,
    now: datetime,
    **settings: object,
) -> Project:
    """A project with its first guideline version and `by` as its owner."""
    slug = slug or slugify(name)[:60]
    if not slug:
        raise Invalid(f"name: needs at least one letter or digit, got {name!r}", details={"name": ["has no letters"]})
    try:
        with write(), transaction.atomic():
            project = Project.objects.create(
                name=name,
                slug=slug,
                overlap=overlap,
                form=(form or Form()).as_dict(),
                created_by=by,
                created_at=now,
                **settings,
            )
            add_member(project=project, user=by, role=Role.OWNER, now=now)
            GuidelineVersion.objects.create(project=project, number=1, text=guideline, created_by=by, created_at=now)
            audit(project=project, by=by, action=AuditAction.PROJECT_CREATED, target=slug, now=now)
    except IntegrityError:
        raise SlugTaken(f"There is a project with the short name {slug!r} already.") from None
    return project


def change_form(*, project: Project, form: Form, by: User, now: datetime) -> int:
    """Give a project another feedback form; its number. The same form again changes nothing.

    Tasks that people hold keep the form that they were shown with.

    Raises:
        HasVotes: there are comparisons, and the kind or the number of completions would change.
    """
    with write(), transaction.atomic():
        locked = Project.objects.select_for_update(no_key=True).get(pk=project.pk)
        current = locked.feedback
        if form == current:
            return locked.form_number
        if (form.kind, form.size) != (current.kind, current.size) and locked.comparisons.exists():
            raise HasVotes(
                f"form.kind: this project has comparisons for a {current.kind} of {current.size}; "
                f"make another project for a {form.kind} of {form.size}.",
                details={"form.kind": ["cannot change once there are comparisons"]},
            )
        FormVersion.objects.create(
            project=locked, number=locked.form_number, form=locked.form, replaced_at=now, replaced_by=by
        )
        project.form, project.form_number = form.as_dict(), locked.form_number + 1
        Project.objects.filter(pk=project.pk).update(form=project.form, form_number=project.form_number)
        return project.form_number


def add_member(*, project: Project, user: User, role: Role, now: datetime, pseudonym: str = "") -> Membership:
    """Give a person a role; a second call changes the role. The pseudonym (for exports) is random: it tells
    nothing, and a project that is imported elsewhere keeps it."""
    membership = Membership.objects.filter(project=project, user=user).first()
    if membership is not None:
        Membership.objects.filter(pk=membership.pk).update(role=role, left_at=None)
        membership.role, membership.left_at = role, None
        return membership
    return Membership.objects.create(
        project=project, user=user, role=role, pseudonym=pseudonym or new_pseudonym(), created_at=now
    )


def new_pseudonym() -> str:
    """`person-` and 40 random bits in letters that are not mistaken for each other."""
    return "person-" + "".join(secrets.choice("abcdefghjkmnpqrstuvwxyz23456789") for _ in range(8))


def imported_annotators(*, project: Project, names: Iterable[str], now: datetime) -> dict[str, User]:
    """An account without sign-in for each annotator of an imported file, the same one at each import."""
    wanted = sorted(set(names))
    emails = {
        name: f"{hashlib.sha256(f'{project.public_id}/{name}'.encode()).hexdigest()[:24]}@imported.invalid"
        for name in wanted
    }
    password = make_password(None)
    User.objects.bulk_create(
        (
            User(email=emails[name], name=name[:120], is_active=False, password=password, created_at=now)
            for name in wanted
        ),
        ignore_conflicts=True,
        batch_size=500,
    )
    users: dict[str, User] = {}
    by_email = {email: name for name, email in emails.items()}
    addresses = list(by_email)
    for start in range(0, len(addresses), 500):
        for user in User.objects.filter(email__in=addresses[start : start + 500]):
            users[by_email[user.email]] = user
    members = Membership.objects.filter(project=project)
    known = set(members.values_list("user_id", flat=True))
    taken = set(members.values_list("pseudonym", flat=True))
    Membership.objects.bulk_create(
        (
            # An imported name may be somebody's pseudonym here: the address tells them apart.
            Membership(
                project=project,
                user=user,
                role=Role.ANNOTATOR,
                pseudonym=f"{name[:50]}-{user.email[:8]}" if name in taken else name,
                created_at=now,
            )
            for name, user in users.items()
            if user.pk not in known
        ),
        ignore_conflicts=True,
        batch_size=500,
    )
    return users


def add_guideline(*, project: Project, text: str, by: User, now: datetime) -> GuidelineVersion:
    """A new guideline version; the same text as the current one changes nothing."""
    with write(), transaction.atomic():
        Project.objects.select_for_update(no_key=True).get(pk=project.pk)
        current = GuidelineVersion.objects.filter(project=project).order_by("-number").first()
        if current is not None and current.text == text:
            return current
        number = (current.number if current else 0) + 1
        audit(project=project, by=by, action=AuditAction.GUIDELINE_ADDED, target=str(number), now=now)
        return GuidelineVersion.objects.create(project=project, number=number, text=text, created_by=by, created_at=now)


def create_token(
    *,
    user: User,
    name: str,
    scopes: Sequence[TokenScope],
    project: Project | None,
    expires_days: int | None,
    now: datetime,
) -> tuple[Token, str]:
    """A token and its secret, which is not kept and cannot be shown again."""
    secret = Token.new_secret()
    names = [scope.value for scope in scopes]
    with write(), transaction.atomic():
        token = Token.objects.create(
            user=user,
            name=name,
            scopes=names,
            project=project,
            secret_hash=Token.hash_secret(secret),
            created_at=now,
            expires_at=now + timedelta(days=expires_days) if expires_days else None,
        )
        audit(
            project=project,
            by=user,
            action=AuditAction.TOKEN_CREATED,
            target=str(token.public_id),
            now=now,
            scopes=names,
        )
    return token, secret


def revoke_token(*, token: Token, by: User, now: datetime) -> bool:
    """End a token at once. False if it was revoked already."""
    with write(), transaction.atomic():
        if not Token.objects.filter(pk=token.pk, revoked_at=None).update(revoked_at=now):
            return False
        audit(project=token.project, by=by, action=AuditAction.TOKEN_REVOKED, target=str(token.public_id), now=now)
    return True


def audit(
    *,
    project: Project | None,
    by: User | None,
    action: AuditAction,
    target: str = "",
    now: datetime | Now,
    **details: object,
) -> None:
    """Write down who did what; to be called inside the transaction of what was done."""
    AuditEvent.objects.create(
        project=project, by=by, action=action, target=target[:120], details=details, created_at=now
    )
