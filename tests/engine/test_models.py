"""Model directories: what is refused, what is loaded, adapters, reward heads, saving."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tests.engine.tiny import tiny_model
from training.engine import models
from training.engine.errors import ModelError
from training.engine.files import directory_hash
from training.engine.text import load_text

IDS = [1, 5, 77, 200, 33, 2]


class _Touch:
    """Unpickled, it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


def _logits(model: object) -> torch.Tensor:
    return models.outputs(model, torch.tensor([IDS]))


def test_a_policy_loads_in_fp32_with_dropout_off_and_every_row_trainable(tmp_path: Path) -> None:
    model = models.load_policy(tiny_model(tmp_path / "m", pad_is_end=True))
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.get_input_embeddings().padding_idx is None
    counts = models.count_parameters(model)
    assert counts.total == counts.trainable == sum(p.numel() for p in model.parameters())
    assert models.lm_head_weight(model) is model.get_input_embeddings().weight


def test_code_and_pickles_are_refused_and_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    for name, content in {
        "modeling_own.py": f"open({str(marker)!r}, 'w')".encode(),
        "pytorch_model.bin": pickle.dumps(_Touch(marker)),
        "extra/optimizer.pt": pickle.dumps(_Touch(marker)),
    }.items():
        directory = tiny_model(tmp_path / name.replace("/", "-"))
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_bytes(content)
        with pytest.raises(ModelError, match="refused"):
            models.load_policy(directory)
    assert not marker.exists()


@pytest.mark.parametrize("where", ["config.json", "tokenizer_config.json", "generation_config.json"])
def test_auto_map_is_refused_anywhere(tmp_path: Path, where: str) -> None:
    directory = tiny_model(tmp_path / "m")
    settings = json.loads((directory / where).read_text())
    (directory / where).write_text(json.dumps({**settings, "inner": [{"auto_map": {"AutoModel": "own.Model"}}]}))
    with pytest.raises(ModelError, match="auto_map"):
        models.load_policy(directory)


def test_links_adapters_and_quantised_directories_are_refused(tmp_path: Path) -> None:
    linked = tiny_model(tmp_path / "linked")
    (linked / "notes.txt").symlink_to(tmp_path / "elsewhere")
    adapter = tiny_model(tmp_path / "adapter")
    (adapter / "adapter_config.json").write_text("{}")
    quantised = tiny_model(tmp_path / "quantised")
    config = json.loads((quantised / "config.json").read_text())
    (quantised / "config.json").write_text(json.dumps({**config, "quantization_config": {"bits": 4}}))
    empty = tiny_model(tmp_path / "empty")
    (empty / "model.safetensors").unlink()
    for directory, what in {linked: "link", adapter: "adapter", quantised: "quantised", empty: "safetensors"}.items():
        with pytest.raises(ModelError, match=what):
            models.load_policy(directory)


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    directory = tiny_model(tmp_path / "m", layers=1)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    with pytest.raises(ModelError, match=r"layers\.1\..* is missing"):
        models.load_policy(directory)


def test_the_content_hash_is_of_names_and_bytes(tmp_path: Path) -> None:
    one, two = tiny_model(tmp_path / "a"), tiny_model(tmp_path / "b")
    assert directory_hash(one) == directory_hash(two)
    assert directory_hash(one) != directory_hash(tiny_model(tmp_path / "c", seed=1))
    (two / "model.safetensors").rename(two / "other.safetensors")
    assert directory_hash(one) != directory_hash(two)


def test_an_adapted_model_starts_as_its_base_and_can_be_switched_off(tmp_path: Path) -> None:
    model = models.load_policy(tiny_model(tmp_path / "m"))
    base = _logits(model)
    adapted = models.add_lora(model, seed=1)
    assert torch.equal(_logits(adapted), base)
    trainable = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert len(trainable) == 2 * 7 * 2  # A and B of seven linear layers, two blocks
    assert all("lora_" in name for name in trainable)
    _disturb(adapted)
    assert not torch.allclose(_logits(adapted), base)
    with models.adapters_off(adapted):
        assert torch.equal(_logits(adapted), base)


def test_an_adapter_saved_and_loaded_is_the_same_and_names_no_base(tmp_path: Path) -> None:
    directory = tiny_model(tmp_path / "m")
    adapted = models.add_lora(models.load_policy(directory), seed=1, rank=4, alpha=8)
    _disturb(adapted)
    models.save_adapter(adapted, tmp_path / "adapter")
    assert {p.name for p in (tmp_path / "adapter").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert str(tmp_path) not in (tmp_path / "adapter" / "adapter_config.json").read_text()
    again = models.load_adapter(models.load_policy(directory), tmp_path / "adapter")
    assert torch.equal(_logits(again), _logits(adapted))
    with pytest.raises(ModelError, match="does not fit"):
        models.load_adapter(models.load_policy(tiny_model(tmp_path / "n", hidden=16)), tmp_path / "adapter")


def test_an_adapter_of_the_last_layers_leaves_the_others_alone_and_can_be_saved(tmp_path: Path) -> None:
    directory = tiny_model(tmp_path / "m")
    adapted = models.add_lora(models.load_policy(directory), seed=1, last_layers=1)
    trained = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert len(trained) == 7 * 2
    assert all(".layers.1." in name for name in trained)
    _disturb(adapted)
    models.save_adapter(adapted, tmp_path / "adapter")
    again = models.load_adapter(models.load_policy(directory), tmp_path / "adapter")
    assert torch.equal(_logits(again), _logits(adapted))
    everywhere = models.add_lora(models.load_policy(directory), seed=1, last_layers=9)
    assert models.count_parameters(everywhere).trainable == 2 * models.count_parameters(adapted).trainable


def test_merging_keeps_the_logits(tmp_path: Path) -> None:
    adapted = models.add_lora(models.load_policy(tiny_model(tmp_path / "m")), seed=1)
    _disturb(adapted)
    before = _logits(adapted)
    merged = models.merge_adapter(adapted, probe_ids=IDS)
    assert (_logits(merged) - before).abs().max() < models.MERGE_TOLERANCE
    assert not any("lora" in name for name, _ in merged.named_parameters())


def test_a_merge_that_moves_the_logits_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapted = models.add_lora(models.load_policy(tiny_model(tmp_path / "m")), seed=1)
    _disturb(adapted)
    monkeypatch.setattr(models, "MERGE_TOLERANCE", 0.0)
    with pytest.raises(ModelError, match="moved an output"):
        models.merge_adapter(adapted, probe_ids=IDS)


def test_a_fresh_reward_head_is_drawn_from_its_seed(tmp_path: Path) -> None:
    directory = tiny_model(tmp_path / "m", tied=False)
    one, two, other = (models.load_reward_model(directory, seed=seed) for seed in (1, 1, 2))
    weights = [models.score_head(m).weight for m in (one, two, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert models.score_head(one).bias is None
    wide = models.load_reward_model(tiny_model(tmp_path / "w", hidden=256, layers=1), seed=1)
    assert models.score_head(wide).weight.std().item() == pytest.approx(257**-0.5, rel=0.15)  # 256 draws: ±4 %


def test_a_saved_reward_model_loads_elsewhere_and_reads_the_end_token(tmp_path: Path) -> None:
    """transformers scores the last id that is not pad; with pad = end that was one token too early."""
    base = tiny_model(tmp_path / "m", pad_is_end=True)
    model, text = models.load_reward_model(base, seed=3), load_text(base)
    digest = models.save_model(model, text, tmp_path / "r", winnow={"score_mean": 0.5})
    assert digest == directory_hash(tmp_path / "r")
    assert models.is_reward_model(tmp_path / "r")
    assert not list(tmp_path.glob(".partial*"))
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "r")
    pad = AutoTokenizer.from_pretrained(tmp_path / "r").pad_token_id
    assert theirs.config.num_labels == 1
    assert pad == theirs.config.pad_token_id != text.end_id
    short = [1, 77, 2]
    scores = theirs(torch.tensor([IDS, short + [pad] * (len(IDS) - len(short))])).logits[:, 0]
    ours = [models.outputs(model, torch.tensor([ids]))[-1, 0].item() for ids in (IDS, short)]
    assert scores.tolist() == pytest.approx(ours, abs=1e-5)
    facts = json.loads((tmp_path / "r" / "winnow.json").read_text())
    assert (facts["kind"], facts["score_mean"]) == ("reward", 0.5)
    assert load_text(tmp_path / "r").end_id == text.end_id
    again = models.load_reward_model(tmp_path / "r", seed=9)
    assert torch.equal(models.score_head(again).weight, models.score_head(model).weight)


def test_a_directory_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    directory = tiny_model(tmp_path / "m")
    with pytest.raises(ModelError, match="exists"):
        models.save_model(models.load_policy(directory), load_text(directory), directory, winnow={})


def _disturb(model: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
