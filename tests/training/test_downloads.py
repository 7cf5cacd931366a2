"""Models to take away: what is in the archive, that others load it, and that nothing damaged passes for whole."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
import tracemalloc
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from annotation.models import Project
from tests import builders, world
from tests.builders import NOW
from tests.engine.moved import moved_checkpoint
from tests.engine.tiny import tiny_model
from tests.training import rows
from tests.training.test_registry import directory
from training import runner
from training.downloads import Archive, BrokenOff, Form, prepare, stream
from training.engine import convert, models
from training.models import Alarm, Checkpoint, Job, JobStatus, ModelKind, ModelSource, ModelVersion, Run
from training.registry import ModelChanged, model_path, register_directory, register_local
from training.runner import Timing

IDS = torch.tensor([[1, 5, 77, 200, 33, 2]])
TIMING = Timing(lease_seconds=60.0, heartbeat_seconds=1.0, hang_seconds=300)


def trained(project: Project, base: ModelVersion, settings, *, kind: str) -> tuple[Checkpoint, Any]:
    """The rows of a job that left such a checkpoint."""
    folder = settings.RUNS_DIR / "x" / "1" / "checkpoints"
    path, model = moved_checkpoint(folder, model_path(base), kind=kind)
    method = "reward" if kind == "reward" else "dpo"
    job = rows.submit(project=project, method=method, config={}, model=base)
    Job.objects.filter(pk=job.pk).update(status=JobStatus.SUCCEEDED)
    told = [{"name": "length_bias", "step": 5, "evidence": []}, {"name": "displacement", "step": 6, "evidence": []}]
    result = {"metrics": {"test/accuracy": 0.75}, "alarms": told}
    run = Run.objects.create(job=job, attempt=2, owner=uuid4(), config_hash="", host="h", result=result)
    Alarm.objects.create(
        project=project, job=job, run=run, name="length_bias", step=5, key="k", note="seen", acknowledged_at=NOW
    )
    made = Checkpoint.objects.create(
        run=run, step=7, path=path.relative_to(settings.RUNS_DIR).as_posix(), sha256="0" * 64, size_bytes=1
    )
    return made, model


def base_model(settings, **kinds: bool) -> ModelVersion:
    place = tiny_model(settings.MODELS_DIR / "tiny", **kinds)
    return register_directory(
        name="tiny", path=place, kind=ModelKind.POLICY, source=ModelSource.LOCAL, licence="Apache-2.0", now=NOW
    )


def body(answer: Any) -> bytes:
    assert answer.status_code == 200, answer.content
    return b"".join(answer.streaming_content)


def unzipped(data: bytes, target: Path) -> Path:
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        assert packed.testzip() is None
        packed.extractall(target)
    (folder,) = target.iterdir()
    return folder


@pytest.mark.django_db(transaction=True)
def test_a_promoted_policy_is_downloaded_and_loaded_by_transformers_and_its_adapter_by_peft(tmp_path, settings):
    """The whole way: promotion by the real engine in its own process, then two requests."""
    project = builders.project()
    base = base_model(settings)
    found, adapted = trained(project, base, settings, kind="policy")
    olga = world.client(project.created_by)
    address = f"/api/v1/projects/{project.slug}"
    asked = olga.post(f"{address}/jobs/{found.run.job.public_id}/promote", {"name": "Better / one", "current": True})
    assert asked.status_code == 202
    assert rows.Runner(runner.production_hooks(), timing=TIMING).join() == JobStatus.SUCCEEDED
    model = ModelVersion.objects.get(name="Better / one")
    assert (model.is_current, model.licence, model.base) == (True, "Apache-2.0", base)
    assert model.verified_at is not None

    answer = olga.get(f"{address}/models/{model.public_id}/download")
    assert answer["Content-Disposition"] == 'attachment; filename="Better-one.zip"'
    assert (answer["Content-Type"], answer["X-Content-Hash"]) == ("application/zip", model.sha256)
    folder = unzipped(body(answer), tmp_path / "merged")
    assert folder.name == "Better-one"
    subprocess.run(["sha256sum", "--check", "--quiet", "winnow.sha256"], cwd=folder, check=True)
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        meant = models.outputs(adapted, IDS)
        assert (loaded(IDS).logits - meant).abs().max() < models.MERGE_TOLERANCE
    assert AutoTokenizer.from_pretrained(folder).decode([5]) == AutoTokenizer.from_pretrained(model_path(base)).decode(
        [5]
    )

    answer = olga.get(f"{address}/models/{model.public_id}/download?form=adapter&as=zip")
    folder = unzipped(body(answer), tmp_path / "adapter")
    original = AutoModelForCausalLM.from_pretrained(model_path(base))
    with torch.no_grad():
        assert (original(IDS).logits - meant).abs().max() > 100 * models.MERGE_TOLERANCE
        again = PeftModel.from_pretrained(original, folder)
        assert (again(IDS).logits - meant).abs().max() < models.MERGE_TOLERANCE

    shown = olga.get(f"{address}/models/{model.public_id}").json()
    assert shown["downloads"] == ["merged", "adapter"]
    assert shown["training"]["job"]["number"] == found.run.job.number
    assert shown["training"]["config"]["method"] == "dpo"
    assert shown["training"]["attempts"] == 2
    assert [(item["name"], item["note"]) for item in shown["training"]["alarms"]] == [
        ("length_bias", "seen"), ("displacement", ""),
    ]  # fmt: skip
    assert shown["metrics"] == {"test/accuracy": 0.75}
    assert {item["name"] for item in shown["files"]} == {path.name for path in model_path(model).iterdir()}


@pytest.mark.django_db
def test_a_reward_models_adapter_comes_with_its_head(tmp_path, settings):
    project = builders.project()
    base = base_model(settings, tied=False)
    found, adapted = trained(project, base, settings, kind="reward")
    made = settings.MODELS_DIR / "rm"
    convert.convert(settings.RUNS_DIR / found.path, made, base=model_path(base), name="rm")
    model = register_directory(
        name="rm", path=made, kind=ModelKind.REWARD, source=ModelSource.JOB, project=project, base=base,
        checkpoint=found, now=NOW,
    )  # fmt: skip
    olga = world.client(project.created_by)
    address = f"/api/v1/projects/{project.slug}/models/{model.public_id}/download"
    meant = models.outputs(adapted, IDS)
    whole = AutoModelForSequenceClassification.from_pretrained(unzipped(body(olga.get(address)), tmp_path / "m"))
    with torch.no_grad():
        assert (whole(IDS, attention_mask=torch.ones_like(IDS)).logits[:, 0] - meant[-1]).abs().max() < 1e-4
    folder = unzipped(body(olga.get(f"{address}?form=adapter")), tmp_path / "a")
    start = AutoModelForSequenceClassification.from_pretrained(model_path(base), num_labels=1)
    start.score.weight.data = load_file(folder / "head.safetensors")["score.weight"]
    again = PeftModel.from_pretrained(start, folder)
    with torch.no_grad():
        assert (again(IDS, attention_mask=torch.ones_like(IDS)).logits[:, 0] - meant[-1]).abs().max() < 1e-4
    text = (folder / "README.md").read_text()
    assert 'license: "Apache-2.0"' in text and 'base_model: "tiny"' in text and "head.safetensors" in text


@pytest.mark.django_db
def test_an_adapter_is_refused_where_there_is_none(tmp_path, settings):
    project = builders.project()
    base = base_model(settings)
    found, _ = trained(project, base, settings, kind="policy")
    made = directory(settings.MODELS_DIR, "made")
    model = register_directory(
        name="m", path=made, kind=ModelKind.POLICY, source=ModelSource.JOB, project=project, checkpoint=found, now=NOW
    )
    olga = world.client(project.created_by)
    address = f"/api/v1/projects/{project.slug}/models"
    refused = olga.get(f"{address}/{base.public_id}/download?form=adapter")
    assert (refused.status_code, refused.json()["code"]) == (400, "no_adapter")
    assert olga.get(f"{address}/{base.public_id}/download?form=other").json()["details"] == {
        "form": ["must be one of merged, adapter, got 'other'"]
    }
    assert olga.get(f"{address}/{base.public_id}").json()["downloads"] == ["merged"]
    assert olga.get(f"{address}/{model.public_id}").json()["downloads"] == ["merged", "adapter"]
    adapter = settings.RUNS_DIR / found.path / "adapter" / "adapter_config.json"
    adapter.write_text(adapter.read_text() + " ")
    with pytest.raises(BrokenOff, match="not what its checkpoint holds"):
        list(stream(prepare(model, Form.ADAPTER), Archive.ZIP))
    (settings.RUNS_DIR / found.path / "manifest.json").unlink()
    refused = olga.get(f"{address}/{model.public_id}/download?form=adapter")
    assert (refused.status_code, refused.json()["code"]) == (400, "no_adapter")
    Checkpoint.objects.update(files_pruned_at=NOW)
    assert "pruned" in olga.get(f"{address}/{model.public_id}/download?form=adapter").json()["message"]
    assert olga.get(f"{address}/{model.public_id}").json()["downloads"] == ["merged"]


def registered(root: Path, name: str = "m", **files: bytes) -> ModelVersion:
    made = directory(root, name, **files)
    (made / "deep").mkdir()
    (made / "deep" / "more.json").write_text("{}")
    return register_directory(
        name=name, path=made, kind=ModelKind.POLICY, source=ModelSource.LOCAL, now=datetime(1970, 5, 1, tzinfo=UTC)
    )


@pytest.mark.django_db
def test_a_tar_says_its_length_and_lists_every_file_with_its_hash(tmp_path):
    project = builders.project()
    model = registered(tmp_path, **{"empty.json": b"", "a" * 150 + ".json": b"[]"})
    olga = world.client(project.created_by)
    answer = olga.get(f"/api/v1/projects/{project.slug}/models/{model.public_id}/download?as=tar")
    data = body(answer)
    assert int(answer["Content-Length"]) == len(data)
    with tarfile.open(fileobj=io.BytesIO(data)) as packed:
        packed.extractall(tmp_path / "out", filter="data")
        assert {member.mtime for member in packed} == {int(model.created_at.timestamp())}
    listed = dict(reversed(line.split("  ", 1)) for line in (tmp_path / "out/m/winnow.sha256").read_text().splitlines())
    files = {path.relative_to(tmp_path / "out/m").as_posix(): path for path in (tmp_path / "out/m").rglob("*.*")}
    assert set(files) == {*listed, "winnow.sha256"} and "deep/more.json" in listed and "README.md" in listed
    for name, digest in listed.items():
        assert hashlib.sha256(files[name].read_bytes()).hexdigest() == digest


@pytest.mark.django_db
@pytest.mark.parametrize("archive", list(Archive))
def test_a_changed_file_breaks_the_stream_off_before_its_end(tmp_path, archive):
    model = registered(tmp_path)
    whole = b"".join(stream(prepare(model, Form.MERGED), archive))
    weights = tmp_path / "m" / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    sent = b""
    with pytest.raises(BrokenOff, match="not those registered"):
        for piece in stream(prepare(model, Form.MERGED), archive):
            sent += piece
    assert 0 < len(sent) < len(whole)
    if archive is Archive.ZIP:
        with pytest.raises(zipfile.BadZipFile):
            zipfile.ZipFile(io.BytesIO(sent))
    weights.write_bytes(raw + b"x")
    with pytest.raises(ModelChanged, match="bytes"):
        prepare(model, Form.MERGED)


@pytest.mark.django_db
def test_files_that_are_gone_or_lead_elsewhere_are_not_sent(tmp_path, settings):
    project = builders.project()
    olga = world.client(project.created_by)
    model = registered(tmp_path)
    address = f"/api/v1/projects/{project.slug}/models/{model.public_id}/download"
    (tmp_path / "secret.json").write_text(json.dumps({}))
    (tmp_path / "m" / "deep" / "more.json").unlink()
    (tmp_path / "m" / "deep" / "more.json").symlink_to(tmp_path / "secret.json")
    assert olga.get(address).json()["code"] == "refused_model"
    (tmp_path / "m").rename(tmp_path / "away")
    refused = olga.get(address)
    assert (refused.status_code, refused.json()["code"]) == (409, "model_files_gone")
    assert olga.get(address.removesuffix("/download")).json()["files"] == []


@pytest.mark.django_db
def test_a_large_model_is_sent_without_being_held(tmp_path, settings):
    """64 MB of weights; what Python holds meanwhile stays below 8."""
    settings.MODEL_ROOTS = (tmp_path,)
    made = directory(tmp_path)
    with (made / "big.safetensors").open("wb") as file:
        header = json.dumps({"w": {"dtype": "U8", "shape": [1 << 26], "data_offsets": [0, 1 << 26]}}).encode()
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + (1 << 26))
    model = register_local(name="big", path=str(made), by=builders.user("olga"), now=NOW)
    for archive in Archive:
        tracemalloc.start()
        sent = sum(len(piece) for piece in stream(prepare(model, Form.MERGED), archive))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert sent > 1 << 26
        assert peak < 8 << 20
