"""A backup that is taken while jobs run, and values that a database writes in its own way."""

from __future__ import annotations

import hashlib
import json
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from django.conf import settings as django_settings
from django.core.management import call_command
from django.db import connection

from tests import builders
from tests.builders import NOW
from tests.training import rows
from training.engine.files import directory_hash
from training.models import Checkpoint, Job, ModelVersion, Run, RunMetric
from winnow import backups, dumps

pytestmark = pytest.mark.django_db(transaction=True)

FIGURES = {
    "z": 1e22,
    "a": 1e-07,
    "minus": -0.0,
    "whole": 3.0,
    "text": "naïve ✓ \U0001f600 \u2028",
    "none": None,
    "list": [1, 2.5],
}


def checkpoint(run: Run, step: int) -> Checkpoint:
    """A whole checkpoint with its row, as the engine and the runner leave it."""
    place = Path(str(run.job.public_id)) / str(run.attempt) / "checkpoints" / f"step-{step}"
    directory = Path(django_settings.RUNS_DIR) / place
    directory.mkdir(parents=True)
    weights = f"weights of step {step}".encode()
    (directory / "state.safetensors").write_bytes(weights)
    entry = {"path": "state.safetensors", "bytes": len(weights), "sha256": hashlib.sha256(weights).hexdigest()}
    manifest = json.dumps({"format": "winnow-checkpoint", "version": 1, "step": step, "files": [entry]})
    (directory / "manifest.json").write_text(manifest)
    return Checkpoint.objects.create(
        run=run, step=step, path=str(place), sha256=hashlib.sha256(manifest.encode()).hexdigest(), size_bytes=99
    )


@pytest.fixture
def run_with_checkpoints() -> Run:
    builders.settled(rows.project(), 4)
    rows.submit()
    claimed = rows.claim()
    run = Run.objects.get(job_id=claimed.job_id)
    for step in (10, 20):
        checkpoint(run, step)
    when = NOW + timedelta(microseconds=123457)
    Job.objects.filter(pk=run.job_id).update(last_step_at=when)
    RunMetric.objects.create(run=run, seq=1, step=1, time=0.1 + 0.2, values=FIGURES, offset=7)
    return run


def wipe() -> None:
    call_command("flush", interactive=False, verbosity=0)
    for name in ("RUNS_DIR", "MODELS_DIR", "SNAPSHOTS_DIR"):
        shutil.rmtree(getattr(django_settings, name), ignore_errors=True)


def test_a_checkpoint_that_is_replaced_between_rows_and_files_is_left_out_and_noted(run_with_checkpoints, tmp_path):
    run = run_with_checkpoints
    old, new = run.checkpoints.order_by("step")
    runs = Path(django_settings.RUNS_DIR)
    half = runs / Path(new.path).parent / "step-30"
    half.mkdir()
    (half / "state.safetensors").write_bytes(b"not whole yet")

    def say(line: str) -> None:
        """Said after the rows and before the files."""
        if "rows of" in line:
            shutil.rmtree(runs / old.path)

    made = backups.make(tmp_path / "backups", now=NOW, say=say)
    kept = {path.parent.name for path in made.rglob("checkpoints/*/*")}
    assert kept == {"step-20"}
    wipe()
    restored = backups.restore(made, say=lambda _: None)
    assert (restored.checkpoints, restored.pruned) == (1, 1)
    assert Checkpoint.objects.get(pk=old.pk).files_pruned_at == NOW
    assert Checkpoint.objects.get(pk=new.pk).files_pruned_at is None


def test_every_value_comes_back_as_it_was(run_with_checkpoints, tmp_path):
    run, before = run_with_checkpoints, dumps.digests()
    job = Job.objects.get(pk=run.job_id)
    stored = RunMetric.objects.get()
    made = backups.make(tmp_path / "backups", now=NOW, say=lambda _: None)
    wipe()
    assert not Job.objects.exists()
    backups.restore(made, say=lambda _: None)
    assert dumps.digests() == before
    again = Job.objects.get(pk=job.pk)
    assert {field.attname: getattr(again, field.attname) for field in Job._meta.concrete_fields} == {
        field.attname: getattr(job, field.attname) for field in Job._meta.concrete_fields
    }
    assert again.last_step_at.microsecond == 123457
    assert (RunMetric.objects.get().values, RunMetric.objects.get().time) == (stored.values, 0.1 + 0.2)
    assert rows.submit().pk > job.pk  # the counter of keys goes on


def test_a_digest_sees_one_changed_value(run_with_checkpoints):
    before = {table.label: table for table in dumps.digests()}
    RunMetric.objects.update(values={**FIGURES, "a": 1.0000001e-07})
    after = {table.label: table for table in dumps.digests()}
    assert {label for label in before if before[label] != after[label]} == {"training.RunMetric"}
    assert after["training.RunMetric"].rows == before["training.RunMetric"].rows


def test_a_backup_names_a_missing_model_and_leaves_nothing_that_counts(tmp_path):
    rows.model("lost")
    with pytest.raises(backups.BackupError, match="lost is missing, though the database names it"):
        backups.make(tmp_path / "backups", now=NOW, say=lambda _: None)
    assert not list((tmp_path / "backups").glob("winnow-*"))


def test_a_model_elsewhere_is_named_and_not_copied(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "config.json").write_text("{}")
    lost = rows.model("far")
    ModelVersion.objects.filter(pk=lost.pk).update(path=str(elsewhere), sha256=directory_hash(elsewhere))
    said: list[str] = []
    made = backups.make(tmp_path / "backups", now=NOW, say=said.append)
    assert any(str(elsewhere) in line for line in said)
    wipe()
    shutil.rmtree(elsewhere)
    assert backups.restore(made, say=said.append).outside == [str(elsewhere)]


def test_writers_go_on_while_the_rows_are_read():
    """On SQLite a second connection writes in the middle of the reading, which does not see it."""
    if connection.vendor != "sqlite":
        pytest.skip("PostgreSQL's readers never keep writers waiting")
    with dumps.one_moment():
        before = dumps.digests()
        other = connection.copy()
        try:
            with other.cursor() as cursor:
                cursor.execute("INSERT INTO django_content_type (app_label, model) VALUES ('a', 'b')")
        finally:
            other.close()
        assert dumps.digests() == before
    assert dumps.digests() != before
