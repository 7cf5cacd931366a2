"""The demo project: our own prompts and guideline, and accounts with random passwords."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from annotation.importing.batches import import_lines
from annotation.importing.rows import ImportKind
from annotation.models import Project, Role, User
from annotation.people import add_member, create_project

HERE = Path(__file__).parent
SLUG = "demo"
OVERLAP = 2
PEOPLE = (
    ("owner", Role.OWNER, "Olga (owner)"),
    ("annotator-1", Role.ANNOTATOR, "Ann (annotator)"),
    ("annotator-2", Role.ANNOTATOR, "Ben (annotator)"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """A demo account."""

    email: str
    password: str
    role: Role


def create_accounts() -> tuple[list[Account], list[User]]:
    """The demo's people that do not exist yet, with random passwords, and all of its people in order."""
    made, users = [], []
    for name, role, shown in PEOPLE:
        email = f"{name}@demo.localhost"
        user = User.objects.filter(email=email).first()
        if user is None:
            password = "-".join(secrets.token_hex(2) for _ in range(4))
            user = User.objects.create_user(email, password, name=shown, is_staff=role is Role.OWNER)
            made.append(Account(email=email, password=password, role=role))
        users.append(user)
    return made, users


def create_demo_project(users: list[User], *, now: datetime) -> Project:
    """The demo project with its members and prompts; the second call returns the first one."""
    owner, *others = users
    project = Project.objects.filter(slug=SLUG).first()
    if project is None:
        project = create_project(
            name="Demo: helpful answers",
            slug=SLUG,
            by=owner,
            question="Which response is more helpful?",
            guideline=(HERE / "guideline.md").read_text(encoding="utf-8"),
            overlap=OVERLAP,
            now=now,
        )
    for user in others:
        add_member(project=project, user=user, role=Role.ANNOTATOR, now=now)
    if not project.prompts.exists():
        with (HERE / "prompts.jsonl").open("rb") as lines:
            import_lines(project=project, kind=ImportKind.PROMPTS, lines=lines, by=owner, name="demo prompts", now=now)
    return project
