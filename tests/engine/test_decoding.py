"""The decoder: each step gives the logits of a whole forward pass, whatever rows stand beside a row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tests.engine.tiny import tiny_model
from training.engine import models
from training.engine.decoding import Decoder
from training.engine.errors import ModelError
from training.engine.sections import Weights


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """For matrices this small a second thread only waits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("bias", [False, True])
def test_a_llama_step_is_the_models_own(bias: bool) -> None:
    config = LlamaConfig(
        vocab_size=90, hidden_size=48, intermediate_size=64, num_hidden_layers=3, num_attention_heads=6,
        num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.3, attention_bias=bias, mlp_bias=bias,
        rope_parameters={"rope_type": "llama3", "rope_theta": 5e4, "factor": 4.0, "low_freq_factor": 1.0,
                         "high_freq_factor": 4.0, "original_max_position_embeddings": 64},
    )  # fmt: skip
    torch.manual_seed(0)
    _check_decoder(models.prepare(LlamaForCausalLM(config)), vocabulary=90, own_code=False)


def test_other_architectures_are_decoded_by_their_own_code() -> None:
    config = Qwen3Config(
        vocab_size=90, hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=256, initializer_range=0.3,
    )  # fmt: skip
    torch.manual_seed(0)
    _check_decoder(models.prepare(Qwen3ForCausalLM(config)), vocabulary=90, own_code=True)


SMALL = {
    "vocab_size": 90, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.3,
}  # fmt: skip


def test_a_sliding_window_is_one_in_the_decoder_too() -> None:
    torch.manual_seed(0)
    model = models.prepare(MistralForCausalLM(MistralConfig(**SMALL, sliding_window=8)))
    _check_decoder(model, vocabulary=90, own_code=True)


def test_only_some_layers_may_have_a_window() -> None:
    kinds = ["full_attention", "sliding_attention"]
    config = Qwen2Config(**SMALL, use_sliding_window=True, sliding_window=8, max_window_layers=1, layer_types=kinds)
    torch.manual_seed(0)
    _check_decoder(models.prepare(Qwen2ForCausalLM(config)), vocabulary=90, own_code=True)


def test_a_model_that_the_cache_reads_otherwise_is_refused() -> None:
    """Gemma 2 caps its attention scores, here at a value that they often reach."""
    config = Gemma2Config(
        **SMALL, head_dim=16, sliding_window=8, attn_logit_softcapping=0.1, attn_implementation="eager"
    )
    torch.manual_seed(0)
    with pytest.raises(ModelError, match="Gemma2Model cannot be sampled from"):
        Decoder(models.prepare(Gemma2ForCausalLM(config)), room=64)


def test_a_model_whose_activations_are_computed_again_can_be_sampled_from() -> None:
    torch.manual_seed(0)
    model = models.prepare(Qwen2ForCausalLM(Qwen2Config(**SMALL)))
    models.recompute_activations(model)
    decoder: Decoder[list[int]] = Decoder(model, room=64, rows=1)
    ids = [1, 40, 60, 3]
    decoder.add([(ids, decoder.read([ids])[0])])
    assert all(module.training for module in model.modules())
    _, logits = decoder.step(lambda _: 7)
    assert (logits[0] - _last_logits(model, [*ids, 7])).abs().max() < 1e-4
    assert all(module.training for module in model.modules())


def test_adapters_are_part_of_the_decoder_and_training_attention_is_left_alone(tmp_path: Path) -> None:
    model = models.add_lora(models.load_policy(tiny_model(tmp_path / "m", spread=0.3)), seed=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
    before = model.config._attn_implementation
    _check_decoder(model, vocabulary=300, own_code=False)
    assert model.config._attn_implementation == before


def test_an_adapted_policy_is_decoded_as_its_merged_model(tmp_path: Path) -> None:
    model = models.add_lora(models.load_policy(tiny_model(tmp_path / "m", spread=0.3)), seed=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
    found = []
    for policy in (model, models.merge_adapter(model, probe_ids=[1, 40, 60, 3, 99])):
        decoder: Decoder[str] = Decoder(policy, room=64, rows=1)
        decoder.add([("row", decoder.read([[1, 40, 60, 3, 99]])[0])])
        found.append(torch.cat([decoder.step(lambda _: 7)[1] for _ in range(3)]).log_softmax(-1))
    assert (found[0] - found[1]).abs().max() < 1e-5


@pytest.mark.parametrize("weights", [Weights.BF16, Weights.INT8])
def test_smaller_weights_stay_near_the_policy_and_leave_it_as_it_is(tmp_path: Path, weights: Weights) -> None:
    model = models.load_policy(tiny_model(tmp_path / "m", spread=0.1))
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    ids = [1, 40, 60, 3, 99]
    decoder: Decoder[str] = Decoder(model, room=32, rows=1, weights=weights)
    decoder.add([("row", decoder.read([ids])[0])])
    _, logits = decoder.step(lambda _: 7)
    exact = _last_logits(model, [*ids, 7])
    assert logits.dtype == torch.float32
    assert 0 < (logits[0] - exact).abs().max() < 0.1 * exact.std()  # 8 bits a weight: 0.4 % of the row's largest
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def test_a_beginning_that_prompts_share_is_read_once(tmp_path: Path) -> None:
    model = models.load_policy(tiny_model(tmp_path / "m", spread=0.3))
    system = list(range(20, 40))
    prompts = [[*system, 5], [*system, 6, 7, 8], [*system, *range(100, 130)]]
    decoder: Decoder[str] = Decoder(model, room=64, rows=1)
    together = decoder.read(prompts)
    assert {prefix.parts[0][0].data_ptr() for prefix in together} == {together[0].parts[0][0].data_ptr()}
    assert [prefix.length for prefix in together] == [21, 23, 50]
    for prompt, prefix in zip(prompts, together, strict=True):
        (alone,) = decoder.read([prompt])
        assert len(alone.parts) == 1
        assert (prefix.logits - _last_logits(model, prompt)).abs().max() < 1e-4
        keys = torch.cat([keys for keys, _ in prefix.parts], dim=1)
        assert (keys - alone.parts[0][0]).abs().max() < 1e-4


@pytest.mark.gpu
def test_on_a_gpu_each_step_is_the_models_own(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    model = models.load_policy(tiny_model(tmp_path / "m", spread=0.3), device="cuda")
    _check_decoder(model, vocabulary=300, own_code=False)


def test_under_autocast_the_decoder_stays_near_the_models_own(tmp_path: Path) -> None:
    model = models.load_policy(tiny_model(tmp_path / "m", spread=0.1))
    ids = [1, 40, 60, 3, 99]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        decoder: Decoder[list[int]] = Decoder(model, room=32, rows=2)
        decoder.add([([*ids, token], decoder.read([ids])[0]) for token in (7, 8)])
        rows, logits = decoder.step(lambda row: row[-1])
    for ids, row in zip(rows, logits, strict=True):
        exact = _last_logits(model, ids)
        assert (row - exact).abs().max() < 0.05 * exact.std()  # bf16 keeps 8 bits: 0.4 % a rounding


def _check_decoder(model: Any, *, vocabulary: int, own_code: bool) -> None:
    """Three rows of different lengths, one dropped and one added on the way, against whole forward passes."""
    generator = torch.Generator().manual_seed(5)
    rows = [torch.randint(vocabulary, (n,), generator=generator).tolist() for n in (9, 2, 30)]
    decoder: Decoder[list[int]] = Decoder(model, room=256, rows=8)
    assert decoder.steps_by_own_code == own_code
    read = decoder.read(rows)
    for row, prefix in zip(rows, read, strict=True):
        assert (prefix.logits - _last_logits(model, row)).abs().max() < 1e-4
    decoder.add(list(zip(rows, read, strict=True)))
    for step in range(80):  # longer than the headroom of a group
        if step == 5:
            decoder.drop(rows.pop(0))
        if step == 8:
            rows += [[3, 4, 5, 6], [1] * 40]
            decoder.add(list(zip(rows[-2:], decoder.read(rows[-2:]), strict=True)))
        for row in rows:
            row.append(int(torch.randint(vocabulary, (1,), generator=generator)))
        in_order, logits = decoder.step(lambda row: row[-1])
        assert {id(row) for row in in_order} == {id(row) for row in rows}
        if step > 12 and step % 11:
            continue
        for row, ours in zip(in_order, logits, strict=True):
            assert (ours - _last_logits(model, row)).abs().max() < 1e-4


def _last_logits(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=torch.tensor([ids], device=model.device)).logits[0, -1]
    return logits
