"""Backup and restore as an operator runs them: all is wiped, and every row, hash and file is there again."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from winnow.env import BASE_DIR

DERIVED = {"cache", "backups", "static", "broker", "lock", "secret_key", "tick.alive", "jobs"}


def environ_of(data: Path, url: str = "") -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WINNOW_", "PYTEST"))}
    chosen = {"WINNOW_DATA_DIR": str(data), "WINNOW_DATABASE_URL": url, "WINNOW_THREADS": "1"}
    return kept | chosen | {"DJANGO_SETTINGS_MODULE": "winnow.settings"}


def run(environ: dict[str, str], *command: str, fails: bool = False) -> str:
    done = subprocess.run(
        [sys.executable, *command], cwd=BASE_DIR, env=environ, capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stderr if fails else done.stdout


def manage(environ: dict[str, str], *command: str, fails: bool = False) -> str:
    return run(environ, "manage.py", *command, fails=fails)


def backup(environ: dict[str, str], parent: Path) -> Path:
    """The directory that the command says it has written."""
    made = Path(manage(environ, "backup", str(parent)).rpartition("Backup: ")[2].strip())
    assert made.parent == parent
    return made


def files_of(data: Path) -> dict[str, str]:
    """sha256 of everything below a data directory that is not derived or the database itself."""
    found = {}
    for path in (path for path in sorted(data.rglob("*")) if path.is_file()):
        parts = path.relative_to(data).parts
        if parts[0] not in DERIVED and "tmp" not in parts and not path.name.startswith("winnow.sqlite3"):
            found["/".join(parts)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def tables_of(made: Path) -> list[dict]:
    return json.loads((made / "manifest.json").read_text())["tables"]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> tuple[Path, Path]:
    """A data directory with votes, a snapshot, a real run with its checkpoints and a promoted model; and its backup."""
    root = tmp_path_factory.mktemp("site")
    environ = environ_of(root / "data")
    manage(environ, "migrate", "--verbosity", "0")
    run(environ, "-m", "tests.deployment.seed", "--trained")
    return root / "data", backup(environ, root / "backups")


@pytest.fixture
def copy(site, tmp_path) -> Path:
    """A backup that a test may damage."""
    return Path(shutil.copytree(site[1], tmp_path / "copy"))


def test_what_is_wiped_comes_back_row_by_row_and_file_by_file(site, tmp_path):
    data, made = site
    before = files_of(data)
    assert {name.partition("/")[0] for name in before} >= {"snapshots", "models", "runs"}
    assert any(name.endswith("manifest.json") and "/checkpoints/step-" in name for name in before)
    counts = {table["label"]: table["rows"] for table in tables_of(made)}
    assert counts["annotation.Vote"] == 180
    assert counts["training.Snapshot"] == 1
    assert counts["training.Checkpoint"] >= 2
    assert counts["training.ModelVersion"] == 2
    wiped = tmp_path / "new"
    environ = environ_of(wiped)
    said = manage(environ, "restore", str(made))
    assert "Restored and verified" in said
    assert "1 snapshots, 2 models" in said
    assert files_of(wiped) == before
    assert tables_of(backup(environ, tmp_path / "again")) == tables_of(made)


@pytest.mark.services
def test_it_goes_from_sqlite_to_postgresql_and_back_without_a_change(site, tmp_path, postgres_url):
    """Also the counters of keys: the restored database takes new rows."""
    data, made = site
    there = environ_of(tmp_path / "there", postgres_url)
    manage(there, "restore", str(made))
    on_postgres = backup(there, tmp_path / "from-postgres")
    assert tables_of(on_postgres) == tables_of(made)
    assert json.loads((on_postgres / "manifest.json").read_text())["database"] == "postgresql"
    manage(there, "create_account", "new@example.org")
    back = environ_of(tmp_path / "back")
    manage(back, "restore", str(on_postgres))
    assert tables_of(backup(back, tmp_path / "from-sqlite")) == tables_of(made)
    assert files_of(tmp_path / "back") == files_of(data)
    manage(back, "create_account", "new@example.org")


def test_a_restored_job_can_be_promoted_again(site, tmp_path):
    """The checkpoint is one that the engine reads, and the rows lead to it."""
    environ = environ_of(tmp_path / "new")
    manage(environ, "restore", str(site[1]))
    script = """
import django; django.setup()
from django.core.management import call_command
from django.utils import timezone
from training.models import Checkpoint, ModelVersion
from training.registry import model_path, promote
best = Checkpoint.objects.latest("step")
job = promote(checkpoint=best, name="again", by=None, now=timezone.now())
call_command("run_job", str(job.public_id))
first, second = ModelVersion.objects.filter(checkpoint=best).order_by("pk")
weights = [(model_path(model) / "model.safetensors").read_bytes() for model in (first, second)]
assert weights[0] == weights[1], "the same checkpoint gives the same model"
"""
    run(environ, "-c", script)


@pytest.mark.parametrize(
    "victim", ["database/annotation.Vote.jsonl.gz", "files/snapshots", "files/runs", "files/models"]
)
def test_a_damaged_backup_is_refused_before_anything_is_written(copy, tmp_path, victim):
    path = copy / victim
    file = (
        path
        if path.is_file()
        else max((item for item in path.rglob("*") if item.is_file()), key=lambda f: f.stat().st_size)
    )
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    environ = environ_of(tmp_path / "new")
    for arguments in (["--check"], []):
        said = manage(environ, "restore", str(copy), *arguments, fails=True)
        assert "another sha256" in said
        assert file.name in said
    assert files_of(tmp_path / "new") == {}
    assert "annotation_user" not in tables_in(tmp_path / "new")


def tables_in(data: Path) -> str:
    if not (data / "winnow.sqlite3").exists():
        return ""
    with sqlite3.connect(data / "winnow.sqlite3") as connection:
        return str(connection.execute("SELECT name FROM sqlite_master").fetchall())


def test_a_lost_file_and_a_lost_manifest_are_named(copy, tmp_path):
    environ = environ_of(tmp_path / "new")
    lost = next(path for path in (copy / "files" / "models").rglob("*.safetensors"))
    lost.unlink()
    assert f"{lost} is missing" in manage(environ, "restore", str(copy), fails=True)
    (copy / "manifest.json").unlink()
    assert "is no backup" in manage(environ, "restore", str(copy), fails=True)


def test_rows_that_were_changed_with_their_hashes_do_not_load(copy, tmp_path):
    """The digest of a table is of its rows: a forged file with a fitting sha256 is rolled back."""
    file = copy / "database" / "annotation.User.jsonl.gz"
    text = gzip.decompress(file.read_bytes()).decode().replace("olga@example.org", "eve@example.org")
    file.write_bytes(gzip.compress(text.encode()))
    manifest = json.loads((copy / "manifest.json").read_text())
    for item in manifest["dumped"]:
        if item["path"] == file.name:
            item |= {"size": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    environ = environ_of(tmp_path / "new")
    assert "annotation.User" in manage(environ, "restore", str(copy), fails=True)
    count = "import django; django.setup(); from annotation.models import User; print(User.objects.count())"
    assert run(environ, "-c", count).strip() == "0"


def test_a_manifest_cannot_name_files_outside(copy, tmp_path):
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"][0]["path"] = "runs/../../../evil"
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert "outside of the backup" in manage(environ_of(tmp_path / "new"), "restore", str(copy), fails=True)


def test_nothing_is_overwritten(site, tmp_path):
    _, made = site
    environ = environ_of(tmp_path / "new")
    in_the_way = next((made / "files" / "models").rglob("config.json"))
    target = tmp_path / "new" / in_the_way.relative_to(made / "files")
    target.parent.mkdir(parents=True)
    target.write_text("{}")
    assert "is in the way" in manage(environ, "restore", str(made), fails=True)
    assert target.read_text() == "{}"
    target.unlink()
    manage(environ, "restore", str(made))
    assert "people already" in manage(environ, "restore", str(made), fails=True)


def test_a_backup_of_another_set_of_migrations_is_refused_by_name(copy, tmp_path):
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["migrations"]["training"].append("9999_of_tomorrow")
    (copy / "manifest.json").write_text(json.dumps(manifest))
    said = manage(environ_of(tmp_path / "new"), "restore", str(copy), fails=True)
    assert "training.9999_of_tomorrow" in said
