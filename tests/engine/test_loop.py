"""What every run shares: memory that runs out, recomputed activations, alarms with their evidence."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import MistralConfig, MistralForCausalLM

from tests.engine.engine_runs import error_of, places, result_of, run_here
from tests.engine.planted import planted_config, planted_snapshot
from tests.engine.sampled_runs import sampled_config, sampled_places
from tests.engine.tiny import tiny_model
from training.engine import loop, reward
from training.engine.models import save_model
from training.engine.packing import ATTENTION, PADDED, Pack, layout_of
from training.engine.text import load_text

_ = places, sampled_places


def _weights(out: Path) -> dict[str, Tensor]:
    return load_file(out / result_of(out)["checkpoints"]["last"]["path"] / "adapter" / "adapter_model.safetensors")


@pytest.mark.parametrize("adapter", [None, {"rank": 4, "alpha": 8}], ids=["all weights", "LoRA"])
def test_recomputed_activations_give_the_same_weights(
    adapter: dict[str, int] | None, places: dict[str, Path], tmp_path: Path
) -> None:
    saved = {}
    for recompute in ("off", "on"):
        config = planted_config("reward", **places, batch={"epochs": 1}, adapter=adapter)
        config["memory"]["recompute"] = recompute
        assert run_here(config, tmp_path / recompute) == 0
        folder = tmp_path / recompute / result_of(tmp_path / recompute)["checkpoints"]["last"]["path"]
        name = "model/model.safetensors" if adapter is None else "adapter/adapter_model.safetensors"
        saved[recompute] = load_file(folder / name)
    for name, tensor in saved["off"].items():
        assert torch.equal(tensor, saved["on"][name]), name


def test_a_batch_that_does_not_fit_is_repeated_with_recomputed_activations(
    places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = planted_config("reward", **places, batch={"epochs": 1})
    assert run_here(config, tmp_path / "roomy") == 0
    scores, passes = reward.scores, []

    def runs_out_once(model: Any, pack: Pack) -> Tensor:
        """A GPU's allocator gives up in the third pass that trains."""
        if torch.is_grad_enabled():
            passes.append(pack)
            if len(passes) == 3:
                raise torch.OutOfMemoryError("not enough memory")
        return scores(model, pack)

    monkeypatch.setattr(reward, "scores", runs_out_once)
    assert run_here(config, tmp_path / "narrow") == 0
    assert len(passes) > 3
    for name, tensor in _weights(tmp_path / "roomy").items():
        assert torch.equal(tensor, _weights(tmp_path / "narrow")[name]), name


def test_memory_that_runs_out_ends_the_run_where_recomputing_is_off(
    places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def runs_out(_model: Any, _pack: Pack) -> Tensor:
        raise torch.OutOfMemoryError("not enough memory")

    config = planted_config("reward", **places, memory={"recompute": "off"}, eval={"every": 100})
    monkeypatch.setattr(reward, "scores", runs_out)
    assert run_here(config, tmp_path / "out") == 1
    assert result_of(tmp_path / "out")["status"] == "failed"


def test_every_prompt_of_an_epoch_is_asked_once() -> None:
    plan = loop.plan_rollouts(10, prompts=4, iterations=5, seed=3)
    flat = [index for iteration in plan for index in iteration]
    assert [len(iteration) for iteration in plan] == [4] * 5
    assert sorted(flat[:10]) == list(range(10)) == sorted(flat[10:20])
    assert flat[:10] != flat[10:20]


@pytest.mark.parametrize(("window", "layout"), [(4, PADDED), (None, ATTENTION)])
def test_a_model_that_cannot_read_packs_is_trained_in_padded_rows(
    window: int | None, layout: str, places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = load_text(places["base"])
    config = MistralConfig(
        vocab_size=len(text.tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=window,
        eos_token_id=text.end_id,
        pad_token_id=text.pad_id,
    )
    torch.manual_seed(0)
    save_model(MistralForCausalLM(config), text, tmp_path / "model", winnow={})
    seen: set[str] = set()
    scores = reward.scores

    def noting(model: Any, pack: Pack) -> Tensor:
        seen.add(layout_of(model))
        return scores(model, pack)

    monkeypatch.setattr(reward, "scores", noting)
    asked = planted_config("reward", base=tmp_path / "model", snapshot=places["snapshot"])
    assert run_here(asked, tmp_path / "out") == 0
    # The check of the split reads a batch in padded rows too.
    assert seen == {layout, PADDED}
    assert result_of(tmp_path / "out")["metrics"]["test/accuracy"] == 1.0


def test_a_resume_is_refused_where_an_input_has_another_content(places: dict[str, Path], tmp_path: Path) -> None:
    config = planted_config("reward", **places, batch={"epochs": 2})
    assert run_here({**config, "stop": {**config["stop"], "max_steps": 4}}, tmp_path / "other") == 0
    assert run_here(config, tmp_path / "out") == 0
    before = (tmp_path / "out" / "result.json").read_bytes()
    other = tiny_model(tmp_path / "other model", seed=9)
    assert run_here({**config, "models": {"base": str(other)}}, tmp_path / "out") == 2
    assert "models.base has the hash" in error_of(tmp_path / "out")["message"]
    planted_snapshot(tmp_path / "other snapshot", train=30)
    data = {**config["data"], "snapshot": str(tmp_path / "other snapshot")}
    assert run_here({**config, "data": data}, tmp_path / "out") == 2
    assert "data.snapshot has the hash" in error_of(tmp_path / "out")["message"]
    # What the refused attempts found there is still there.
    assert (tmp_path / "out" / "result.json").read_bytes() == before
    shutil.move(places["base"], tmp_path / "moved")
    try:
        assert run_here({**config, "models": {"base": str(tmp_path / "moved")}}, tmp_path / "out") == 0
    finally:
        shutil.move(tmp_path / "moved", places["base"])


def test_a_run_that_samples_ends_after_the_steps_asked_for(sampled_places: dict[str, Path], tmp_path: Path) -> None:
    batch = {"iterations": 6, "completions": 16, "minibatch": 8, "inner_epochs": 2}
    options = {"inner_kl_target": None}
    config = sampled_config("ppo", sampled_places, batch=batch, stop={"max_steps": 6}, ppo=options)
    assert run_here(config, tmp_path / "out") == 0
    result = result_of(tmp_path / "out")
    assert (result["status"], result["step"]) == ("done", 6)
    # 16 of 24 prompts an iteration of 4 steps.
    assert result["metrics"]["train/epoch"] == pytest.approx(6 / 4 * 16 / 24)
