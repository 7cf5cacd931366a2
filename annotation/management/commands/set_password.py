"""manage.py set_password EMAIL: a new random password for a person who lost theirs."""

from __future__ import annotations

import secrets
from argparse import ArgumentParser
from typing import Any

from axes.utils import reset
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction
from django.utils import timezone

from annotation.gate import write
from annotation.models import AuditAction, User
from annotation.people import audit


class Command(BaseCommand):
    """Give an account another password."""

    help = "Give an account a new random password, which is printed once. Sessions of the old one end."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("email")

    def handle(self, *args: Any, **options: Any) -> None:
        email = options["email"].lower()
        password = secrets.token_urlsafe(12)
        with write(), transaction.atomic():
            user = User.objects.select_for_update().filter(email=email).first()
            if user is None:
                raise CommandError(f"email: {email!r} has no account")
            if not user.is_active:
                raise CommandError(f"email: {email!r} cannot sign in (its votes were imported, or it was closed)")
            user.set_password(password)  # the session's hash changes with it, so old sessions end
            user.save(update_fields=["password"])
            audit(
                project=None, by=None, action=AuditAction.PASSWORD_RESET, target=str(user.public_id), now=timezone.now()
            )
            reset(username=email)
        self.stdout.write(f"{email}  {password}")
