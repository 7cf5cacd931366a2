"""manage.py create_account EMAIL: a person with a random password, and their role in projects."""

from __future__ import annotations

import secrets
from argparse import ArgumentParser
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.core.validators import EmailValidator
from django.db import transaction
from django.utils import timezone

from annotation.gate import write
from annotation.models import AuditAction, Project, Role, User
from annotation.people import add_member, audit


class Command(BaseCommand):
    """Make an account."""

    help = "Make an account with a random password, which is printed once; or give an existing one a role in a project."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("email")
        parser.add_argument("--name", default="", help="Shown to researchers.")
        parser.add_argument("--operator", action="store_true", help="Operator of the site: registers models.")
        parser.add_argument("--project", help="Slug of a project to join.")
        parser.add_argument("--role", choices=Role.values, default=Role.ANNOTATOR.value)

    def handle(self, *args: Any, **options: Any) -> None:
        email = options["email"].lower()
        try:
            EmailValidator()(email)
        except ValidationError:
            raise CommandError(f"email: {email!r} is no e-mail address") from None
        project = None
        if options["project"]:
            project = Project.objects.filter(slug=options["project"]).first()
            if project is None:
                raise CommandError(f"project: there is no project {options['project']!r}")
        user = User.objects.filter(email=email).first()
        if user is None:
            password = secrets.token_urlsafe(12)
            user = User.objects.create_user(email, password, name=options["name"], is_staff=options["operator"])
            self.stdout.write(f"{email}  {password}")
        elif project is None:
            raise CommandError(f"email: {email} has an account already; name --project to give a role")
        if project is not None:
            now = timezone.now()
            with write(), transaction.atomic():
                member = add_member(project=project, user=user, role=Role(options["role"]), now=now)
                audit(
                    project=project, by=None, action=AuditAction.MEMBER_ADDED, target=member.pseudonym, now=now,
                    role=options["role"],
                )  # fmt: skip
            self.stderr.write(f"{email} is {options['role']} in {project.slug}")
