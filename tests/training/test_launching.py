"""From a request to a queued job: defaults, overrides, and refusals that name the key."""

from __future__ import annotations

from uuid import uuid4

import pytest

from annotation.errors import Invalid
from tests import builders, world
from tests.builders import NOW
from training.jobs import BadConfig
from training.launching import SnapshotTooSmall, defaults, launch
from training.models import Job, Snapshot

pytestmark = pytest.mark.django_db
JOBS = "/api/v1/projects/helpful/jobs"


@pytest.fixture
def scene():
    return world.build()


def go(scene, **fields):
    values = {"project": scene.project, "method": "reward", "snapshot": scene.snapshot, "model": scene.policy}
    values |= {"overrides": {}, "by": None, "now": NOW} | fields
    return launch(**values)


def test_overrides_lie_over_the_defaults(scene):
    job = go(scene, overrides={"optim": {"learning_rate": 0.001}, "seed": 5})
    assert job.config["optim"]["learning_rate"] == 0.001
    assert job.config["seed"] == 5
    assert job.config["batch"] == defaults("reward", scene.policy)["batch"]
    assert job.title == "Reward model on v1"
    assert (job.snapshot, job.model, job.status) == (scene.snapshot, scene.policy, "queued")


def test_a_small_model_gets_another_learning_rate(scene):
    rate = defaults("dpo", scene.policy)["optim"]["learning_rate"]
    scene.policy.parameters = 7_000_000_000
    assert rate == 5 * defaults("dpo", scene.policy)["optim"]["learning_rate"]


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        ({"optim": {"learning_rte": 1}}, "optim.learning_rte"),
        ({"optim": {"learning_rate": -1.0}}, "optim.learning_rate"),
        ({"optim": {"learning_rate": "fast"}}, "optim.learning_rate"),
        ({"optim": 5}, "optim"),
        ({"nothing": 1}, "nothing"),
        ({"data": 5}, "data"),
        ({"data": None}, "data"),
        ({"data": {"snapshot": "/etc"}}, "data.snapshot"),
        ({"models": {"base": "/etc"}}, "models.base"),
        ({"models": None}, "models"),
        ({"method": "dpo"}, "method"),
        ({"dpo": {"beta": 0.1}}, "dpo"),
    ],
)
def test_a_bad_setting_is_refused_by_its_path(scene, overrides, key):
    jobs = Job.objects.count()
    olga = world.client(scene.people["olga"])
    body = {"method": "reward", "snapshot": str(scene.snapshot.public_id), "model": str(scene.policy.public_id)}
    answer = olga.post(JOBS, body | {"config": overrides})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_config"), answer.content
    assert list(answer.json()["details"]) == [key]
    assert Job.objects.count() == jobs


def test_unknown_inputs_have_their_own_codes(scene):
    olga = world.client(scene.people["olga"])
    body = {"method": "reward", "snapshot": str(scene.snapshot.public_id), "model": str(scene.policy.public_id)}

    def refused(**change):
        answer = olga.post(JOBS, body | change)
        assert answer.status_code == 400
        return answer.json()["code"]

    assert refused(model=str(uuid4())) == "unknown_model"
    assert refused(snapshot=str(uuid4())) == "unknown_snapshot"
    assert refused(method="magic") == "bad_config"
    assert refused(model="7") == "invalid"
    assert refused(config=[1]) == "invalid"
    assert refused(model=str(scene.foreign[0].public_id)) == "invalid"  # a reward model
    other = builders.project(slug="third", owner=scene.people["olga"])
    Snapshot.objects.update(project=other)
    assert refused() == "unknown_snapshot"


def test_a_snapshot_without_pairs_to_train_on_is_refused(scene):
    Snapshot.objects.update(counts={"train": 0, "validation": 0, "test": 4, "total": 4})
    with pytest.raises(SnapshotTooSmall, match="no training pairs"):
        go(scene, snapshot=Snapshot.objects.get())
    assert issubclass(SnapshotTooSmall, Invalid)


def test_an_unknown_method_names_those_there_are(scene):
    with pytest.raises(BadConfig, match="reward, dpo, sft, kto, ppo"):
        go(scene, method="sample")
