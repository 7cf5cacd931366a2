"""Registered models: what a directory must not hold, names, promotion and lineage."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import uuid4

import pytest

from annotation.errors import Invalid
from tests import builders, world
from tests.builders import NOW
from training.models import Checkpoint, Job, JobStatus, ModelKind, ModelSource, ModelVersion, Run
from training.queries import lineage
from training.registry import (
    NameTaken,
    RefusedModel,
    UnknownModel,
    directory_hash,
    find,
    model_path,
    promote,
    register_directory,
    register_local,
    register_result,
    visible,
)

pytestmark = pytest.mark.django_db


def safetensors(shapes: dict[str, list[int]]) -> bytes:
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes.items():
        size = 4
        for extent in shape:
            size *= extent
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    raw = json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + bytes(offset)


def directory(root: Path, name: str = "m", *, config: object = None, **files: bytes) -> Path:
    made = root / name
    made.mkdir(parents=True)
    (made / "config.json").write_text(json.dumps(config or {"architectures": ["LlamaForCausalLM"]}))
    (made / "model.safetensors").write_bytes(safetensors({"w": [2, 3], "b": [3], "scalar": []}))
    for file, content in files.items():
        (made / file).write_bytes(content)
    return made


def register(path: Path, name: str = "base", **fields) -> ModelVersion:
    return register_directory(
        name=name, path=path, **({"kind": ModelKind.POLICY, "source": ModelSource.LOCAL, "now": NOW} | fields)
    )


def test_a_directory_becomes_a_row_with_size_and_hash(tmp_path):
    model = register(directory(tmp_path))
    assert model.parameters == 2 * 3 + 3 + 1
    assert model.sha256 == directory_hash(tmp_path / "m")
    assert model_path(model) == (tmp_path / "m").resolve()
    assert register(tmp_path / "m").pk == model.pk
    with pytest.raises(NameTaken):
        register(directory(tmp_path, "other", **{"more.json": b"{}"}))


@pytest.mark.parametrize(
    "file",
    ["model.py", "Code.PY", "pytorch_model.bin", "x.pt", "x.PTH", "x.pkl", "x.pickle", "x.ckpt", "x.h5", "x.msgpack"],
)
def test_a_file_that_could_run_code_is_refused_at_any_depth(tmp_path, file):
    made = directory(tmp_path)
    (made / "deep" / "down").mkdir(parents=True)
    (made / "deep" / "down" / file).write_bytes(b"")
    with pytest.raises(RefusedModel, match=file):
        register(made)
    assert not ModelVersion.objects.exists()


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "generation_config.json"])
def test_a_config_that_asks_for_code_is_refused(tmp_path, file):
    made = directory(tmp_path)
    (made / file).write_text(json.dumps({"text_config": [{"auto_map": {"AutoModel": "x.Y"}}]}))
    with pytest.raises(RefusedModel, match="auto_map"):
        register(made)


def test_what_is_no_model_is_refused(tmp_path):
    made = directory(tmp_path)
    for content in (b"", b"\xff" * 20, (2**63).to_bytes(8, "little"), (2).to_bytes(8, "little") + b"[]",
                    (7).to_bytes(8, "little") + b'{"w":1}'):  # fmt: skip
        (made / "model.safetensors").write_bytes(content)
        with pytest.raises(RefusedModel, match="safetensors"):
            register(made)
    (made / "model.safetensors").unlink()
    with pytest.raises(UnknownModel, match="safetensors"):
        register(made)
    (made / "config.json").write_bytes(b"\xff{")
    (made / "model.safetensors").write_bytes(safetensors({}))
    with pytest.raises(RefusedModel, match="not JSON"):
        register(made)
    (made / "config.json").unlink()
    with pytest.raises(UnknownModel, match="config"):
        register(made)


def test_only_directories_below_the_allowed_roots_can_be_named(tmp_path, settings, data_dir):
    olga = builders.user("olga")
    settings.MODEL_ROOTS = (tmp_path / "roots",)
    inside, outside = directory(tmp_path / "roots"), directory(tmp_path / "elsewhere")
    (tmp_path / "roots" / "link").symlink_to(outside)
    assert register_local(name="in", path=str(inside), by=olga, now=NOW).kind == ModelKind.POLICY
    for path in (
        outside,
        tmp_path / "roots" / "link",
        tmp_path / "roots" / ".." / "elsewhere" / "m",
        "/etc",
        tmp_path / "nothing",
    ):
        with pytest.raises(UnknownModel):
            register_local(name="out", path=str(path), by=olga, now=NOW)
    reward = directory(tmp_path / "roots", "reward", config={"architectures": ["LlamaForSequenceClassification"]})
    assert register_local(name="rm", path=str(reward), by=olga, now=NOW).kind == ModelKind.REWARD


@pytest.fixture
def trained(tmp_path):
    """A finished job on a base model, with two checkpoints."""
    scene = world.build()
    Job.objects.filter(pk=scene.failed.pk).update(status=JobStatus.SUCCEEDED)
    scene.failed.refresh_from_db()
    Run.objects.filter(job=scene.failed).update(result={"metrics": {"test/accuracy": 0.7}})
    return scene


def test_promoting_queues_a_conversion_and_its_result_is_registered_with_its_lineage(trained, tmp_path):
    checkpoint = Checkpoint.objects.get()
    job = promote(checkpoint=checkpoint, name=" better ", by=trained.people["olga"], now=NOW)
    assert (job.method, job.config["name"], job.checkpoint, job.status) == ("convert", "better", checkpoint, "queued")
    run = Run.objects.create(job=job, attempt=1, owner=uuid4(), config_hash="", host="h")
    result = tmp_path / "result"
    directory(result, "model")
    model = register_result(job, run, result, now=NOW)
    assert register_result(job, run, result, now=NOW).pk == model.pk
    assert (model.project, model.base, model.checkpoint) == (trained.project, trained.policy, checkpoint)
    assert model.metrics == {"test/accuracy": 0.7}
    assert lineage(model) == {
        "job": trained.failed.public_id, "snapshot": trained.snapshot.public_id, "step": checkpoint.step,
    }  # fmt: skip
    assert lineage(trained.policy) == {"job": None, "snapshot": None, "step": None}
    assert model in visible(trained.project)
    shown = world.client(trained.people["vera"]).get("/api/v1/projects/helpful/models").json()["items"]
    (row,) = [item for item in shown if item["name"] == "better"]
    assert (row["job"], row["step"], row["base"]["name"]) == (str(trained.failed.public_id), 7, "policy model")
    produced = world.client(trained.people["vera"]).get(f"/api/v1/projects/helpful/jobs/{trained.failed.public_id}")
    assert [item["name"] for item in produced.json()["produced"]] == ["better"]


def test_a_name_in_use_or_unusable_cannot_be_promoted_to(trained):
    checkpoint = Checkpoint.objects.get()
    for name in ("reward model", "policy model"):  # the project's, and the site's
        with pytest.raises(NameTaken):
            promote(checkpoint=checkpoint, name=name, by=None, now=NOW)
    for name in ("", "  ", "x" * 121, "two\nlines", "esc\x1b[2J"):
        with pytest.raises(Invalid):
            promote(checkpoint=checkpoint, name=name, by=None, now=NOW)
    Checkpoint.objects.update(files_pruned_at=NOW)
    with pytest.raises(Invalid, match="pruned"):
        promote(checkpoint=Checkpoint.objects.get(), name="fine", by=None, now=NOW)


def test_promotion_through_the_api(trained):
    olga = world.client(trained.people["olga"])
    address = f"/api/v1/projects/helpful/jobs/{trained.failed.public_id}/promote"
    made = olga.post(address, {"name": "first"})
    assert (made.status_code, made.json()["method"]) == (202, "convert")
    assert olga.post(address, {"name": "reward model"}).json()["code"] == "name_taken"
    assert olga.post(address, {"name": "x", "checkpoint": str(uuid4())}).status_code == 400
    queued = f"/api/v1/projects/helpful/jobs/{trained.queued.public_id}/promote"
    assert "checkpoint" in olga.post(queued, {"name": "x"}).json()["details"]


def test_a_model_of_another_project_is_unknown(trained):
    other = builders.project(slug="third", owner=trained.people["olga"])
    reward = trained.foreign[0]
    assert find(trained.project, reward.public_id) == reward
    assert find(other, trained.policy.public_id) == trained.policy
    with pytest.raises(UnknownModel):
        find(other, reward.public_id)
    with pytest.raises(UnknownModel, match="policy is needed"):
        find(trained.project, reward.public_id, kind=ModelKind.POLICY)


def test_an_operator_registers_models_through_the_api(trained, tmp_path, settings):
    settings.MODEL_ROOTS = (tmp_path,)
    trained.people["olga"].is_staff = True
    trained.people["olga"].save()
    olga = world.client(trained.people["olga"])
    address = "/api/v1/projects/helpful/models"
    path = str(directory(tmp_path))
    assert olga.post(address, {"name": "mine", "path": path}).status_code == 201
    assert olga.post(address, {"name": "mine", "path": "/nowhere"}).json()["code"] == "unknown_model"
    assert olga.post(address, {"name": "mine", "hub_id": "a/b"}).json()["code"] == "unknown_model"
    assert olga.post(address, {"name": "mine"}).json()["code"] == "unknown_model"
