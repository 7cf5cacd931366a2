"""TRL itself takes what we export: real votes in, settled, exported, loaded by datasets, one step of two trainers."""

from __future__ import annotations

import itertools
import math
import os

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
pytest.importorskip("trl", reason="TRL is not installed (the extra `dev` has it)")
datasets = pytest.importorskip("datasets", reason="datasets is not installed (the extra `dev` has it)")

from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer  # noqa: E402
from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer  # noqa: E402

from annotation import exporting  # noqa: E402
from annotation.consensus import settle_due  # noqa: E402
from annotation.exporting import Dataset, Format, Layout  # noqa: E402
from annotation.importing.batches import import_lines  # noqa: E402
from annotation.importing.rows import ImportKind  # noqa: E402
from annotation.preferences import LabelPolicy  # noqa: E402
from tests import builders  # noqa: E402
from tests.builders import NOW  # noqa: E402
from tests.engine.tiny import tiny_model  # noqa: E402

pytestmark = pytest.mark.django_db
SETTINGS = {
    "max_steps": 1, "per_device_train_batch_size": 4, "max_length": 1024, "report_to": "none", "use_cpu": True,
    "bf16": False, "fp16": False, "save_strategy": "no", "disable_tqdm": True, "logging_steps": 1,
    "dataloader_num_workers": 0,
}  # fmt: skip


@pytest.fixture
def project(test_data):
    made = builders.project()
    with (test_data / "multi_annotator" / "pandalm.jsonl").open("rb") as lines:
        import_lines(project=made, kind=ImportKind.VOTES, lines=itertools.islice(lines, 24), by=None, now=NOW)
    while settle_due(now=NOW):
        pass
    return made


def load(project, directory, layout, file_format):
    """The export as `datasets.load_dataset` has it, unchanged."""
    path = directory / f"preferences-{layout.value}.{file_format.value}"
    policy = LabelPolicy(tie_rule="drop")
    found = exporting.rows(project, Dataset.PREFERENCES, layout=layout, policy=policy, now=NOW)
    with path.open("wb") as handle:
        handle.writelines(exporting.encode(found, exporting.columns(Dataset.PREFERENCES, layout=layout), file_format))
    builder = "parquet" if file_format is Format.PARQUET else "json"
    loaded = datasets.load_dataset(
        builder, data_files=str(path), split="train", cache_dir=str(directory / f"cache-{builder}-{layout.value}")
    )
    assert len(loaded) > 15
    return loaded


@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("file_format", [Format.JSONL, Format.PARQUET])
def test_the_export_loads_unchanged(project, tmp_path, layout, file_format):
    loaded = load(project, tmp_path, layout, file_format)
    row = loaded[0]
    assert {"prompt", "chosen", "rejected"} <= set(loaded.column_names)
    if layout is Layout.PLAIN:
        assert all(isinstance(row[name], str) for name in ("prompt", "chosen", "rejected"))
    else:
        assert [turn["role"] for turn in row["chosen"]] == ["assistant"]
        assert row["prompt"][-1]["role"] == "user"


@pytest.mark.parametrize("layout", Layout)
def test_the_reward_trainer_takes_a_step(project, tmp_path, layout):
    directory = tiny_model(tmp_path / "model", reward=True)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForSequenceClassification.from_pretrained(directory, num_labels=1)
    trainer = RewardTrainer(
        model=model,
        args=RewardConfig(output_dir=str(tmp_path / "out"), **SETTINGS),
        train_dataset=load(project, tmp_path, layout, Format.JSONL),
        processing_class=tokenizer,
    )
    loss = trainer.train().training_loss
    # A random model tells nothing: -log ½, give or take its noise.
    assert loss == pytest.approx(math.log(2), abs=0.1)


@pytest.mark.parametrize("layout", Layout)
def test_the_dpo_trainer_takes_a_step(project, tmp_path, layout):
    directory = tiny_model(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory)
    trainer = DPOTrainer(
        model=model,
        args=DPOConfig(output_dir=str(tmp_path / "out"), **SETTINGS),
        train_dataset=load(project, tmp_path, layout, Format.PARQUET),
        processing_class=tokenizer,
    )
    loss = trainer.train().training_loss
    assert loss == pytest.approx(math.log(2), abs=1e-4)  # policy and reference are the same before the first step
