"""manage.py setup_demo: the demo project, its accounts, and its first round of sampling. Safe to repeat."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from annotation.demo.project import create_accounts, create_demo_project
from training.models import ModelVersion
from training.rounds import SamplingPlan, start_round

BASE_MODEL = "smollm2-135m-instruct"
FIRST_ROUND = SamplingPlan(completions=2, temperature=0.7, top_p=0.95, max_new_tokens=128, seed=1)


class Command(BaseCommand):
    """Set the demo up."""

    help = "Make the demo project, accounts for an owner and two annotators, and start sampling. Safe to repeat."

    def handle(self, *args: Any, **options: Any) -> None:
        accounts, users = create_accounts()
        if accounts:
            file = settings.DATA_DIR / "accounts.txt"
            file.touch(mode=0o600)
            with file.open("a", encoding="utf-8") as handle:
                handle.writelines(f"{item.email}  {item.password}  ({item.role})\n" for item in accounts)
        project = create_demo_project(users, now=timezone.now())
        if project.rounds.exists():
            return
        model = ModelVersion.objects.filter(project=None, name=BASE_MODEL).first()
        if model is None:
            raise CommandError(f"The base model {BASE_MODEL} is not registered yet: run `manage.py fetch_base_model`.")
        start_round(
            project=project, policies=[model], plan=FIRST_ROUND, name="First round", by=users[0], now=timezone.now()
        )
        self.stdout.write(f"Demo project ready: {project.prompts.count()} prompts, sampling starts with the workers.")
