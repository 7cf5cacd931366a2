"""What the fault programme does inside the application, as programs with Django: a project, and jobs in its queue.

`python -m benchmarks.faults.site prepare` migrates an empty database and makes a project with a tiny model and a
planted snapshot; `… submit METHOD SEED SIZE` queues a training job and prints its row's number. Both print JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

SLUG = "faults"
MODELS = {"small": {"hidden": 256, "layers": 4}, "large": {"hidden": 768, "layers": 4}}
TRAIN_PAIRS = 128
# Tens of steps of a tenth of a second or more, so that a moment drawn at random mostly falls into the training.
BATCHES = {"small": {"pairs": 32, "epochs": 12}, "large": {"pairs": 16, "epochs": 500}}
CHECKPOINT_EVERY = 6


def prepare() -> dict[str, Any]:
    """Migrate, and make everything that a job needs; who asks for its end by a webhook that nobody reads."""
    from django.conf import settings  # noqa: PLC0415 - Django is set up by `main`
    from django.core.management import call_command  # noqa: PLC0415
    from django.utils import timezone  # noqa: PLC0415

    from annotation.models import Webhook  # noqa: PLC0415
    from annotation.webhooks import Event  # noqa: PLC0415
    from tests import builders  # noqa: PLC0415
    from tests.engine.planted import planted_snapshot  # noqa: PLC0415
    from tests.engine.tiny import tiny_model  # noqa: PLC0415
    from training.models import ModelKind, ModelSource, Snapshot  # noqa: PLC0415
    from training.registry import register_directory  # noqa: PLC0415

    call_command("migrate", verbosity=0, interactive=False)
    project = builders.project(slug=SLUG)
    for name, shape in MODELS.items():
        directory = tiny_model(Path(settings.MODELS_DIR) / name, **shape)
        register_directory(
            name=name, path=directory, kind=ModelKind.POLICY, source=ModelSource.LOCAL, now=timezone.now()
        )
    manifest = planted_snapshot(Path(settings.SNAPSHOTS_DIR) / "planted", train=TRAIN_PAIRS, ties=3)
    Snapshot.objects.create(
        project=project,
        number=1,
        content_hash=manifest.content_hash,
        path="planted",
        counts={"train": TRAIN_PAIRS, "total": TRAIN_PAIRS + 16},
        label_policy={},
        split={},
        created_by=project.created_by,
    )
    # Its deliveries are rows, one for each time that a job ended. Paused, so that nothing is ever sent.
    Webhook.objects.create(
        project=project,
        url="https://nobody.invalid/",
        events=[Event.JOB_FINISHED],
        secret="-",  # noqa: S106 - signs nothing
        created_by=project.created_by,
        paused_at=timezone.now(),
    )
    return {}


def submit(method: str, seed: int, size: str) -> dict[str, Any]:
    """Queue a training job."""
    from tests.engine.planted import planted_config  # noqa: PLC0415
    from training import jobs  # noqa: PLC0415
    from training.models import ModelVersion, Snapshot  # noqa: PLC0415

    config = planted_config(
        method,
        base=Path("-"),
        snapshot=Path("-"),
        batch=BATCHES[size],
        memory={"micro_tokens": 512},
        checkpoint={"every": CHECKPOINT_EVERY if size == "small" else 10_000},
        seed=seed,
    )
    del config["models"], config["data"]["snapshot"]
    snapshot = Snapshot.objects.get(project__slug=SLUG)
    job = jobs.submit(
        project=snapshot.project,
        method=method,
        config=config,
        snapshot=snapshot,
        model=ModelVersion.objects.get(name=size),
        title=f"{method} {seed}",
        by=None,
    )
    return {"job": job.pk}


def main(arguments: list[str]) -> None:
    """One of the commands."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("prepare")
    submitting = commands.add_parser("submit")
    submitting.add_argument("method")
    submitting.add_argument("seed", type=int)
    submitting.add_argument("size", choices=list(MODELS))
    chosen = vars(parser.parse_args(arguments))
    import django  # noqa: PLC0415 - and what needs it, only once the arguments are understood

    django.setup()
    print(json.dumps({"prepare": prepare, "submit": submit}[chosen.pop("command")](**chosen)))


if __name__ == "__main__":
    main(sys.argv[1:])
