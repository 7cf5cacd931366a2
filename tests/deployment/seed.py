"""As a program inside of an installation: a project to train on and to vote in, and tokens for the API; prints JSON.

python -m tests.deployment.seed [--trained]    `--trained`: also a snapshot, a reward model trained on it, promoted
"""

from __future__ import annotations

import json
import sys

import django

REWARD = {
    "batch": {"pairs": 8, "epochs": 1},
    "optim": {"learning_rate": 1e-3},
    "checkpoint": {"every": 2},
    "seed": 1,
}

if __name__ == "__main__":
    django.setup()

    from django.conf import settings
    from django.core.management import call_command
    from django.utils import timezone

    from annotation.models import TokenScope, User
    from annotation.people import create_token
    from tests import builders
    from tests.engine.tiny import tiny_model
    from training.launching import launch
    from training.models import Checkpoint, ModelVersion
    from training.registry import promote
    from training.snapshots import FreezeRule, freeze

    now = timezone.now()
    project = builders.project(slug="helpful")
    builders.settled(project, 60)
    builders.comparisons(project, 20, start=1000)
    builders.member(project, "ann")
    tokens = {}
    for name in ("olga", "ann", "voter-0", "voter-1", "voter-2"):
        scopes = [TokenScope.READ, TokenScope.WRITE, TokenScope.JOBS]
        person = User.objects.get(name=name)
        tokens[name] = create_token(user=person, name="t", scopes=scopes, project=None, expires_days=1, now=now)[1]
    call_command("register_model", "tiny", str(tiny_model(settings.MODELS_DIR / "tiny")), verbosity=0)
    model = ModelVersion.objects.get(name="tiny")
    if "--trained" in sys.argv:
        snapshot = freeze(project=project, rule=FreezeRule(), by=project.created_by, now=now)
        job = launch(
            project=project, method="reward", snapshot=snapshot, model=model, overrides=REWARD, title="",
            by=project.created_by, now=now,
        )  # fmt: skip
        call_command("run_job", str(job.public_id))
        best = Checkpoint.objects.filter(run__job=job, files_pruned_at=None).latest("step")
        call_command("run_job", str(promote(checkpoint=best, name="judge", by=project.created_by, now=now).public_id))
    print(json.dumps({"tokens": tokens, "model": str(model.public_id)}))
