"""What the child is given: the config with the paths of its inputs, and its command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.training.rows import claim, model, project, snapshot, submit
from training import attempts, jobs, runner
from training.engine.config import parse_config
from training.engine.errors import ConfigError
from training.models import Job, Run

pytestmark = pytest.mark.django_db


def test_a_training_job_gets_its_model_its_snapshot_and_the_shared_cache(settings, tmp_path):
    config = {"data": {"max_tokens": 99}, "dpo": {"beta": 0.2}}
    job = submit(method="dpo", config=config, model=model(), snapshot=snapshot())
    request = runner.build_request(job, tmp_path)
    assert request["models"] == {"base": str(settings.MODELS_DIR / "base")}
    assert (request["data"]["snapshot"], request["data"]["max_tokens"]) == (str(settings.SNAPSHOTS_DIR / "s1"), 99)
    assert request["memory"]["reference_cache"] == str(settings.CACHE_DIR / "reference")
    assert parse_config(json.loads(json.dumps(request))).dpo.beta == 0.2
    reward = runner.build_request(submit(model=model("b"), snapshot=job.snapshot), tmp_path)
    assert "reference_cache" not in reward["memory"]


def test_a_job_without_the_input_that_its_method_needs_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="the job names no model"):
        runner.build_request(submit(snapshot=snapshot()), tmp_path)
    with pytest.raises(ConfigError, match="the job names no checkpoint"):
        runner.build_request(submit(method="convert", config={"name": "m"}), tmp_path)


def test_a_promotion_gets_the_checkpoint_and_the_model_that_it_was_trained_from(settings, tmp_path):
    trained = submit(model=model(), snapshot=snapshot())
    claimed = claim(job_id=trained.pk)
    checkpoint = jobs.record_checkpoint(
        claimed, run_id=claimed.run_id, step=5, path="x/1/checkpoints/step-5", sha256="0", size_bytes=1
    )
    job = submit(method="convert", config={"name": "better"}, checkpoint=checkpoint)
    assert runner.build_request(job, tmp_path) == {
        "method": "convert",
        "name": "better",
        "models": {
            "source": str(settings.RUNS_DIR / "x/1/checkpoints/step-5"),
            "base": str(settings.MODELS_DIR / "base"),
        },
    }
    (settings.RUNS_DIR / "x/1/checkpoints/step-5/model").mkdir(parents=True)  # all weights were trained
    assert runner.build_request(job, tmp_path)["models"]["base"] is None
    later = submit(method="convert", config={"name": "again"}, checkpoint=checkpoint)
    kept = attempts.start_directory(settings.RUNS_DIR, later.public_id, 5)  # so that nobody prunes it meanwhile
    assert runner.build_request(later, tmp_path)["models"] == {"source": str(kept), "base": None}


def test_the_command_line_of_each_method(tmp_path):
    tail = [str(tmp_path / "request.json"), "--out", str(tmp_path), "--supervised", "--lease", "15.0"]
    for method, verb in (("reward", "run"), ("dpo", "run"), ("sample", "sample"), ("convert", "convert")):
        job = Job(method=method, project_id=1)
        assert runner.engine_command(job, tmp_path, None, 15.0) == [
            sys.executable,
            "-m",
            "training.engine",
            verb,
            *tail,
        ]
    assert runner.engine_command(job, tmp_path, Path("old"), 15.0)[-2:] == ["--resume", "old"]


def test_only_whole_lines_are_read_and_from_where_the_last_one_ended(tmp_path):
    file = tmp_path / "metrics.jsonl"
    assert attempts.read_lines(file, offset=0, limit=9) == []
    file.write_bytes(b'{"a": 1}\n{"b": "\\u0000\\ud800"}\n[]\n{"c": 1e999}\n{"half')
    lines = attempts.read_lines(file, offset=0, limit=9)
    assert [line.record for line in lines] == [{"a": 1}, {"b": "\ufffd\ufffd"}, None, None]
    assert attempts.read_lines(file, offset=lines[-1].end, limit=9) == []
    assert [line.record for line in attempts.read_lines(file, offset=lines[0].end, limit=1)] == [lines[1].record]


@pytest.mark.parametrize(
    "files",
    [
        [],
        [{"path": "../x", "bytes": 1, "sha256": "0"}],
        [{"path": "/x", "bytes": 1, "sha256": "0"}],
        [{"path": "x"}],
        {},
    ],
)
def test_a_manifest_that_lists_nothing_or_leads_outside_is_none(tmp_path, files):
    directory = tmp_path / "checkpoints" / "step-3"
    directory.mkdir(parents=True)
    (directory / attempts.MANIFEST).write_text(json.dumps({"files": files}))
    assert attempts.checkpoints(tmp_path) == []
    assert not attempts.verifies(directory, alive=lambda: None)


def test_runs_are_numbered_by_attempt_below_their_job(tmp_path):
    job = submit()
    for number in (1, 2, 10):
        attempts.attempt_directory(tmp_path, job.public_id, number).mkdir(parents=True)
    found = list(attempts.earlier_attempts(tmp_path, job.public_id, before=10))
    assert [number for number, _ in found] == [2, 1]
    assert project().jobs.count() == 1 and not Run.objects.exists()
