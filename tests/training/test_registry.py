"""Registered models: what a directory must not hold, names, promotion and lineage."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest

from annotation.errors import Invalid
from annotation.models import AuditEvent
from tests import builders, world
from tests.builders import NOW
from tests.training.test_job_races import at_once
from training.cards import read_card
from training.engine.files import directory_hash
from training.jobs import submit
from training.model_files import NoModel, RefusedModel
from training.models import Checkpoint, Job, JobStatus, ModelKind, ModelSource, ModelVersion, Run
from training.queries import lineage
from training.registry import (
    NameTaken,
    UnknownModel,
    find,
    known,
    make_current,
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
    with pytest.raises(NoModel, match="safetensors"):
        register(made)
    (made / "config.json").write_bytes(b"\xff{")
    (made / "model.safetensors").write_bytes(safetensors({}))
    with pytest.raises(RefusedModel, match="not JSON"):
        register(made)
    (made / "config.json").unlink()
    with pytest.raises(NoModel, match="config"):
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
    made = olga.post(address, {"name": "mine", "path": path, "licence": "MIT"})
    assert (made.status_code, made.json()["licence"]) == (201, "MIT")
    assert olga.post(address, {"name": "mine", "path": "/nowhere"}).json()["code"] == "unknown_model"
    assert olga.post(address, {"name": "mine", "hub_id": "a/b"}).json()["code"] == "unknown_model"
    assert olga.post(address, {"name": "mine"}).json()["code"] == "unknown_model"


# --- what people say of a model ---------------------------------------------------------------------------------------


def own(scene, name: str, kind: ModelKind = ModelKind.POLICY, **fields) -> ModelVersion:
    return ModelVersion.objects.create(
        project=scene.project, name=name, kind=kind, source=ModelSource.JOB, path=name, sha256="5" * 64, **fields
    )


def test_a_card_is_changed_field_by_field_and_says_who_did_it(trained):
    model = own(trained, "mine", base=trained.policy)
    olga = world.client(trained.people["olga"])
    address = f"/api/v1/projects/helpful/models/{model.public_id}"
    answer = olga.patch(address, {"licence": " MIT ", "notes": "Two\nlines.", "tags": ["b", " a", "b"]}).json()
    assert (answer["licence"], answer["notes"], answer["tags"]) == ("MIT", "Two\nlines.", ["b", "a"])
    assert olga.patch(address, {"tags": []}).json()["notes"] == "Two\nlines."
    before = AuditEvent.objects.filter(action="model.changed").count()
    assert olga.patch(address, {"tags": [], "licence": "MIT"}).status_code == 200
    events = AuditEvent.objects.filter(action="model.changed")
    assert (events.count(), before) == (2, 2), "a change of nothing is no event"
    assert (events.first().by, events.first().details["fields"]) == (
        trained.people["olga"],
        ["licence", "notes", "tags"],
    )
    for body, field in (
        ({"tags": ["x\ny"]}, "tags"), ({"tags": [""]}, "tags"), ({"tags": [str(i) for i in range(21)]}, "tags"),
        ({"licence": "x\x1by"}, "licence"), ({"sha256": "0"}, "sha256"), ({"notes": 5 * 4001 * "x"}, "notes"),
        ({"archived": "perhaps"}, "archived"),
    ):  # fmt: skip
        refused = olga.patch(address, body)
        assert (refused.status_code, list(refused.json()["details"])) == (400, [field]), body
    model.refresh_from_db()
    assert (model.sha256, model.tags, model.licence) == ("5" * 64, [], "MIT")


def test_a_model_of_the_site_is_changed_by_operators_only_and_is_never_current(trained):
    olga = world.client(trained.people["olga"])
    address = f"/api/v1/projects/helpful/models/{trained.policy.public_id}"
    assert olga.get(address).json()["is_site"] is True
    assert olga.patch(address, {"notes": "x"}).status_code == 403
    trained.people["olga"].is_staff = True
    trained.people["olga"].save()
    assert olga.patch(address, {"notes": "x"}).json()["notes"] == "x"
    refused = olga.patch(address, {"current": True})
    assert (refused.status_code, refused.json()["details"]) == (400, {"current": ["a model of the site"]})


def test_one_model_of_a_kind_is_current_and_that_one_is_not_archived(trained):
    first, second, reward = own(trained, "first"), own(trained, "second"), own(trained, "judge", ModelKind.REWARD)
    olga = world.client(trained.people["olga"])
    address = "/api/v1/projects/helpful/models"
    for model in (first, reward, second, second):
        assert olga.patch(f"{address}/{model.public_id}", {"current": True}).json()["is_current"] is True
    current = set(ModelVersion.objects.filter(is_current=True).values_list("name", flat=True))
    assert current == {"second", "judge"}
    refused = olga.patch(f"{address}/{second.public_id}", {"archived": True})
    assert (refused.status_code, refused.json()["code"]) == (409, "model_is_current")
    both = olga.patch(f"{address}/{second.public_id}", {"archived": True, "current": False}).json()
    assert (both["is_current"], both["archived_at"] is None) == (False, False)
    refused = olga.patch(f"{address}/{second.public_id}", {"current": True})
    assert (refused.status_code, refused.json()["code"]) == (409, "model_archived")
    again = olga.patch(f"{address}/{second.public_id}", {"archived": True}).json()
    assert again["archived_at"] == both["archived_at"]
    back = olga.patch(f"{address}/{second.public_id}", {"archived": False, "current": True}).json()
    assert (back["is_current"], back["archived_at"]) == (True, None)
    make_current(first, by=None, now=NOW)
    assert [row.name for row in ModelVersion.objects.filter(is_current=True, kind=ModelKind.POLICY)] == ["first"]


def test_an_archived_model_is_offered_for_nothing_new_and_stays_in_lineage(trained):
    checkpoint = Checkpoint.objects.get()
    model = own(trained, "old", base=trained.policy, checkpoint=checkpoint, archived_at=NOW)
    olga = world.client(trained.people["olga"])
    address = "/api/v1/projects/helpful"
    names = {
        wanted: {item["name"] for item in olga.get(f"{address}/models{wanted}").json()["items"]}
        for wanted in ("", "?archived=yes", "?archived=all")
    }
    assert "old" not in names[""] and names["?archived=yes"] == {"old"} and names["?archived=all"] > names[""]
    assert olga.get(f"{address}/models?archived=maybe").status_code == 400
    asked = {"method": "dpo", "snapshot": str(trained.snapshot.public_id), "model": str(model.public_id)}
    for path, body in (("jobs", asked), ("rounds", {"policies": [str(model.public_id)]})):
        refused = olga.post(f"{address}/{path}", body, format="json")
        assert (refused.status_code, refused.json()["code"]) == (409, "model_archived"), path
    assert find(trained.project, model.public_id, even_archived=True) == model
    with pytest.raises(NameTaken):
        promote(checkpoint=checkpoint, name="old", by=None, now=NOW)
    forward = olga.get(f"{address}/snapshots/{trained.snapshot.public_id}/lineage").json()
    assert [(item["name"], item["archived_at"] is None) for item in forward["models"]] == [("old", False)]
    assert olga.get(f"{address}/models/{model.public_id}/lineage").json()["snapshots"] != []


def test_verifying_reads_the_files_again(trained, tmp_path):
    path = directory(tmp_path)
    model = register(path, "mine", project=trained.project)
    assert model.verified_at == NOW
    olga = world.client(trained.people["olga"])
    address = f"/api/v1/projects/helpful/models/{model.public_id}"
    assert olga.post(f"{address}/verify").json()["verified_at"] > NOW.isoformat()
    weights = path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + b"\x01")
    refused = olga.post(f"{address}/verify")
    assert (refused.status_code, refused.json()["code"]) == (409, "model_changed")
    assert refused.json()["details"] == {"expected": model.sha256, "found": directory_hash(path)}
    assert olga.get(address).json()["verified_at"] is None
    weights.write_bytes(whole)
    assert olga.post(f"{address}/verify").json()["verified_at"] is not None
    path.rename(tmp_path / "away")
    refused = olga.post(f"{address}/verify")
    assert (refused.status_code, refused.json()["code"]) == (409, "model_files_gone")
    assert olga.get(address).json()["verified_at"] is None
    said = list(AuditEvent.objects.filter(target="mine").order_by("pk").values_list("action", flat=True))
    assert said[1:] == ["model.verified", "model.not_verified", "model.verified", "model.not_verified"]


def test_a_promotion_takes_over_the_licence_and_makes_current_what_asked_for_it(trained, tmp_path):
    ModelVersion.objects.filter(pk=trained.policy.pk).update(licence="Apache-2.0")
    before = own(trained, "before", is_current=True)
    olga = world.client(trained.people["olga"])
    asked = {"name": "next", "current": True}
    made = olga.post(f"/api/v1/projects/helpful/jobs/{trained.failed.public_id}/promote", asked, format="json").json()
    job = Job.objects.get(public_id=made["id"])
    run = Run.objects.create(job=job, attempt=1, owner=uuid4(), config_hash="", host="h")
    directory(tmp_path / "result", "model")
    model = register_result(job, run, tmp_path / "result", now=NOW)
    before.refresh_from_db()
    model.refresh_from_db()
    assert (model.is_current, before.is_current, model.licence) == (True, False, "Apache-2.0")
    make_current(before, by=None, now=NOW)
    again = register_result(job, run, tmp_path / "result", now=NOW)
    assert (again.pk, again.is_current) == (model.pk, False), "a repeat does not undo what people chose since"


def test_a_promotion_that_was_promised_learns_its_checkpoint_later(trained, tmp_path):
    """The worker holds the job as it was claimed, without a checkpoint; the row has it by now."""
    job = submit(
        project=trained.project, method="convert", config={"name": "promised"}, depends_on=[trained.failed], by=None,
        now=NOW,
    )  # fmt: skip
    held = Job.objects.select_related("project").get(pk=job.pk)
    assert held.checkpoint is None
    Job.objects.filter(pk=job.pk).update(checkpoint=Checkpoint.objects.get())
    run = Run.objects.create(job=job, attempt=1, owner=uuid4(), config_hash="", host="h")
    directory(tmp_path / "result", "model")
    model = register_result(held, run, tmp_path / "result", now=NOW)
    assert (model.checkpoint, model.base) == (Checkpoint.objects.get(), trained.policy)


def test_the_list_and_the_card_have_a_fixed_number_of_queries(trained, django_assert_num_queries):
    before, derived = len(visible(trained.project)), trained.policy.derived.count()
    for i in range(5):
        own(trained, f"m{i}", base=trained.policy, checkpoint=Checkpoint.objects.get())
    with django_assert_num_queries(1):
        assert len(visible(trained.project)) == before + 5
    model = own(trained, "mine", base=trained.policy, checkpoint=Checkpoint.objects.get())
    with django_assert_num_queries(5):
        card = read_card(known(trained.project).get(pk=model.pk))
        assert (card.training.job, card.training.snapshot) == (trained.failed, trained.snapshot)
        assert (card.jobs, card.models, card.rounds) == (0, 0, 0)
    assert read_card(known(trained.project).get(pk=trained.policy.pk)).models == derived + 6


@pytest.mark.django_db(transaction=True)
def test_of_several_that_are_made_current_at_once_one_is():
    project = builders.project()
    models = [
        ModelVersion.objects.create(
            project=project, name=f"m{i}", kind=ModelKind.POLICY, source=ModelSource.JOB, path=f"m{i}", sha256="0" * 64
        )
        for i in range(6)
    ]
    results = at_once(*(partial(make_current, model, by=None, now=NOW) for model in models))
    assert len(results) == 6, "nobody was refused"
    assert ModelVersion.objects.filter(is_current=True).count() == 1
