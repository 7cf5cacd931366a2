"""People and projects: accounts, membership, guidelines, tokens."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from django.contrib.auth.hashers import make_password
from django.db import IntegrityError, transaction
from django.utils.text import slugify

from annotation.errors import DomainError, Invalid, Kind
from annotation.gate import write
from annotation.models import AuditEvent, GuidelineVersion, Membership, Project, Role, Token, TokenScope, User


class SlugTaken(DomainError):
    """Another project has this short name."""

    code = "slug_taken"
    kind = Kind.CONFLICT


def create_project(
    *, name: str, by: User, slug: str = "", guideline: str = "", overlap: int = 3, now: datetime, **settings: object
) -> Project:
    """A project with its first guideline version and `by` as its owner."""
    slug = slug or slugify(name)[:60]
    if not slug:
        raise Invalid(f"name: needs at least one letter or digit, got {name!r}", details={"name": ["has no letters"]})
    try:
        with write(), transaction.atomic():
            project = Project.objects.create(
                name=name, slug=slug, overlap=overlap, created_by=by, created_at=now, **settings
            )
            add_member(project=project, user=by, role=Role.OWNER, now=now)
            GuidelineVersion.objects.create(project=project, number=1, text=guideline, created_by=by, created_at=now)
            audit(project=project, by=by, action="project.created", target=slug, now=now)
    except IntegrityError:
        raise SlugTaken(f"There is a project with the short name {slug!r} already.") from None
    return project


def add_member(*, project: Project, user: User, role: Role, now: datetime, pseudonym: str = "") -> Membership:
    """Give a person a role; a second call changes the role. The pseudonym (for exports) is numbered by joining."""
    membership = Membership.objects.filter(project=project, user=user).first()
    if membership is not None:
        Membership.objects.filter(pk=membership.pk).update(role=role)
        membership.role = role
        return membership
    taken = set(Membership.objects.filter(project=project).values_list("pseudonym", flat=True))
    free = (name for n in itertools.count(len(taken) + 1) if (name := f"person-{n:02d}") not in taken)
    return Membership.objects.create(
        project=project, user=user, role=role, pseudonym=pseudonym or next(free), created_at=now
    )


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
        return GuidelineVersion.objects.create(
            project=project, number=(current.number if current else 0) + 1, text=text, created_by=by, created_at=now
        )


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
    token = Token.objects.create(
        user=user,
        name=name,
        scopes=[scope.value for scope in scopes],
        project=project,
        secret_hash=Token.hash_secret(secret),
        created_at=now,
        expires_at=now + timedelta(days=expires_days) if expires_days else None,
    )
    audit(project=project, by=user, action="token.created", target=name, now=now)
    return token, secret


def audit(
    *, project: Project | None, by: User | None, action: str, target: str = "", now: datetime, **details: object
) -> None:
    """Write down who did what."""
    AuditEvent.objects.create(
        project=project, by=by, action=action, target=target[:120], details=details, created_at=now
    )
