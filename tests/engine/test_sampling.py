"""The decoder and its draws: same completions whatever the batch, the model's own log-probs, end tokens, top-p."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from tests.engine.tiny import tiny_model, tiny_tokenizer
from training.engine import models
from training.engine.config import parse_config
from training.engine.decoding import Decoder
from training.engine.errors import ModelError
from training.engine.sampling import Completion, Prompt, draw, generate, uniforms
from training.engine.text import Text, load_text

PROMPTS = [
    Prompt(id=f"p{i}", messages=[{"role": "user", "content": content}])
    for i, content in enumerate(["good dog", "What is the name of the red dog? " * 3, "a", "yes, and no", "the system"])
]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """For matrices this small a second thread only waits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def peaked(tmp_path: Path) -> tuple[Any, Text]:
    """A policy with strong preferences, so that a wrong position or mask changes its words."""
    directory = tiny_model(tmp_path / "peaked", spread=0.3)
    return models.load_policy(directory), load_text(directory)


def _sample(policy: tuple[Any, Text], prompts: list[Prompt] = PROMPTS, **options: Any) -> list[Completion]:
    options = {"seed": 1, "stream": "s", "completions": 3, "max_new_tokens": 24} | options
    return sorted(generate(*policy, prompts, **options), key=lambda c: (c.prompt_id, c.index))


def _logprobs(model: Any, prompt: list[int], completion: tuple[int, ...]) -> torch.Tensor:
    """log π of each completion token from one whole forward pass of the transformers model."""
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(completion)[:, None])[:, 0]


def test_completions_do_not_depend_on_batch_size_or_order(peaked: tuple[Any, Text]) -> None:
    alone = _sample(peaked, batch_size=1)
    assert len(alone) == 15
    assert len({c.token_ids for c in alone}) > 5
    assert len({len(c.token_ids) for c in alone}) > 1  # some end early, so rows leave and others enter
    shuffled = random.Random(0).sample(PROMPTS, len(PROMPTS))
    for batch_size in (3, 8, 64):
        for prompts in (PROMPTS, shuffled, list(reversed(PROMPTS))):
            others = _sample(peaked, prompts, batch_size=batch_size)
            assert [c.token_ids for c in others] == [c.token_ids for c in alone]
            assert [c.logprob for c in others] == pytest.approx([c.logprob for c in alone], abs=1e-4)


@pytest.mark.parametrize("temperature, top_p", [(1.0, 1.0), (0.7, 0.9), (0.0, 1.0)])
def test_tokens_are_those_of_a_plain_loop_over_the_whole_forward(
    peaked: tuple[Any, Text], temperature: float, top_p: float
) -> None:
    model, text = peaked
    for completion in _sample(peaked, temperature=temperature, top_p=top_p, completions=2, batch_size=4):
        prompt = next(p for p in PROMPTS if p.id == completion.prompt_id)
        ids, uniform = (
            text.prompt_ids(prompt.messages),
            uniforms(seed=1, stream="s", prompt_id=prompt.id, index=completion.index, count=24),
        )
        expected: list[int] = []
        for number in uniform:
            with torch.no_grad():
                logits = model(torch.tensor([ids + expected])).logits[:, -1]
            token, _ = draw(logits, torch.tensor([number]), temperature=temperature, top_p=top_p)
            expected.append(int(token))
            if expected[-1] in text.stop_ids:
                break
        assert list(completion.token_ids) == expected


def test_logprobs_are_those_of_the_training_forward_end_token_included(peaked: tuple[Any, Text]) -> None:
    model, text = peaked
    completions = _sample(peaked, temperature=1.5, top_p=0.98, batch_size=5, completions=8)
    assert {c.finish for c in completions} == {"end", "length"}
    for completion in completions:
        prompt = next(p for p in PROMPTS if p.id == completion.prompt_id)
        exact = _logprobs(model, text.prompt_ids(prompt.messages), completion.token_ids)
        assert completion.logprob == pytest.approx(exact.sum().item(), abs=1e-4)


def test_finish_tells_whether_the_end_token_came(peaked: tuple[Any, Text]) -> None:
    _, text = peaked
    for completion in _sample(peaked):
        ended = completion.token_ids[-1] == text.end_id
        assert completion.finish == ("end" if ended else "length")
        assert text.end_id not in completion.token_ids[:-1]
        assert ended or len(completion.token_ids) == 24
        assert "<|end|>" not in completion.text


def test_every_end_id_of_the_generation_config_stops(peaked: tuple[Any, Text]) -> None:
    model, text = peaked
    often = _sample(peaked)[0].token_ids[2]
    many = dataclasses.replace(text, stop_ids=text.stop_ids | {often})
    for completion in _sample((model, many)):
        assert not set(completion.token_ids[:-1]) & many.stop_ids
    assert any(c.token_ids[-1] == often and c.finish == "end" for c in _sample((model, many)))


def test_streams_and_seeds_are_independent_and_repeatable(peaked: tuple[Any, Text]) -> None:
    first = [c.token_ids for c in _sample(peaked)]
    assert first == [c.token_ids for c in _sample(peaked)]
    assert first != [c.token_ids for c in _sample(peaked, stream="other")]
    assert first != [c.token_ids for c in _sample(peaked, seed=2)]


def test_a_longer_limit_begins_with_the_same_tokens(peaked: tuple[Any, Text]) -> None:
    for short, long in zip(_sample(peaked, max_new_tokens=5), _sample(peaked, max_new_tokens=24), strict=True):
        assert long.token_ids[: len(short.token_ids)] == short.token_ids
    assert np.array_equal(
        uniforms(seed=1, stream="s", prompt_id="p", index=0, count=7),
        uniforms(seed=1, stream="s", prompt_id="p", index=0, count=200)[:7],
    )


def test_what_is_done_is_left_out_and_a_stop_gives_up_the_rest(peaked: tuple[Any, Text]) -> None:
    whole = {(c.prompt_id, c.index): c for c in _sample(peaked)}
    done = {("p0", 0), ("p0", 1), ("p0", 2), ("p3", 1)}
    rest = _sample(peaked, done=done)
    assert {(c.prompt_id, c.index) for c in rest} == whole.keys() - done
    assert all(whole[c.prompt_id, c.index].token_ids == c.token_ids for c in rest)
    assert _sample(peaked, done=set(whole)) == []
    counts: list[int] = []

    def three_steps(count: int) -> bool:
        counts.append(count)
        return len(counts) < 3

    stopped = _sample(peaked, batch_size=4, after_tokens=three_steps)
    assert len(counts) == 3
    assert all(whole[c.prompt_id, c.index] == c for c in stopped)


def test_a_prompt_as_long_as_the_context_is_refused_and_a_nearly_full_one_cut(tmp_path: Path) -> None:
    directory = tiny_model(tmp_path / "m")
    policy = models.load_policy(directory), load_text(directory)
    text = policy[1]
    messages = [{"role": "user", "content": "x" * (505 - len(text.prompt_ids([{"role": "user", "content": ""}])))}]
    assert len(text.prompt_ids(messages)) == 505
    near = _sample(policy, [Prompt(id="near", messages=messages)], completions=1)
    assert len(near[0].token_ids) <= 512 - 505
    with pytest.raises(ModelError, match="full has 512 tokens"):
        _sample(policy, [Prompt(id="full", messages=[{"role": "user", "content": messages[0]["content"] + "x" * 7}])])


def test_draws_follow_the_inverse_cdf() -> None:
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log().repeat(5, 1)
    uniform = torch.tensor([0.0, 0.499, 0.501, 0.76, 1 - 2**-24])
    tokens, logprobs = draw(logits, uniform, temperature=1.0, top_p=1.0)
    assert tokens.tolist() == [0, 0, 1, 2, 3]
    assert logprobs.exp().tolist() == pytest.approx([0.5, 0.5, 0.25, 0.125, 0.125])


def test_temperature_and_top_p_change_the_draw_and_not_the_logprob() -> None:
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log().repeat(3, 1)
    uniform = torch.tensor([0.6, 0.7, 1 - 2**-24])
    # 0.5 + 0.25 holds 0.75: two tokens, of weights 2/3 and 1/3.
    tokens, logprobs = draw(logits, uniform, temperature=1.0, top_p=0.75)
    assert tokens.tolist() == [0, 1, 1]
    assert logprobs.exp().tolist() == pytest.approx([0.5, 0.25, 0.25])
    # At temperature ½ the weights are squared: 16, 4, 1, 1 of 22.
    tokens, _ = draw(logits, torch.tensor([0.72, 0.74, 0.92]), temperature=0.5, top_p=1.0)
    assert tokens.tolist() == [0, 1, 2]
    assert draw(logits, uniform, temperature=0.0, top_p=1.0)[0].tolist() == [0, 0, 0]


def test_top_p_over_a_flat_law_looks_past_the_first_thousand_tokens() -> None:
    logits = torch.zeros(1, 5000)
    kept = {int(draw(logits, torch.tensor([u / 500]), temperature=1.0, top_p=0.5)[0]) for u in range(500)}
    assert len(kept) == 500  # spread evenly over 2,500 of 5,000 equal tokens


def test_draws_have_the_models_frequencies() -> None:
    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(0))
    numbers = uniforms(seed=3, stream="s", prompt_id="p", index=0, count=20_000)
    tokens, _ = draw(logits.expand(20_000, -1), torch.from_numpy(numbers), temperature=1.0, top_p=1.0)
    shares = torch.bincount(tokens, minlength=50) / 20_000
    expected = logits.softmax(-1)[0]
    assert ((shares - expected).abs() < 5 * (expected / 20_000).sqrt()).all()


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


def test_adapters_are_part_of_the_decoder_and_training_attention_is_left_alone(tmp_path: Path) -> None:
    model = models.add_lora(models.load_policy(tiny_model(tmp_path / "m", spread=0.3)), seed=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
    before = model.config._attn_implementation
    _check_decoder(model, vocabulary=300, own_code=False)
    assert model.config._attn_implementation == before


def test_under_autocast_the_decoder_stays_near_the_models_own(tmp_path: Path) -> None:
    model = models.load_policy(tiny_model(tmp_path / "m", spread=0.1))
    ids = [1, 40, 60, 3, 99]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        decoder = Decoder(model, rows=2, room=32)
        for _ in range(2):
            decoder.add(decoder.read([ids])[0])
        logits = decoder.step([7, 8])
    for row, token in zip(logits, (7, 8), strict=True):
        exact = _last_logits(model, [*ids, token])
        assert (row - exact).abs().max() < 0.05 * exact.std()  # bf16 keeps 8 bits: 0.4 % a rounding


def _check_decoder(model: Any, *, vocabulary: int, own_code: bool) -> None:
    """Three rows of different lengths, one dropped and one added on the way, against whole forward passes."""
    generator = torch.Generator().manual_seed(5)
    rows = [torch.randint(vocabulary, (n,), generator=generator).tolist() for n in (9, 2, 30)]
    decoder = Decoder(model, rows=3, room=64)
    assert decoder.steps_by_own_code == own_code
    for row, prefix in zip(rows, decoder.read(rows), strict=True):
        assert (prefix.logits - _last_logits(model, row)).abs().max() < 1e-4
        decoder.add(prefix)
    for step in range(12):
        if step == 5:
            decoder.drop(0)
            rows[0] = rows.pop()
        if step == 8:
            rows.append([3, 4, 5, 6])
            decoder.add(decoder.read([rows[-1]])[0])
        new = torch.randint(vocabulary, (len(rows),), generator=generator).tolist()
        for row, token in zip(rows, new, strict=True):
            row.append(token)
        logits = decoder.step(new)
        for row, ours in zip(rows, logits, strict=True):
            assert (ours - _last_logits(model, row)).abs().max() < 1e-4


def _last_logits(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=torch.tensor([ids])).logits[0, -1]
    return logits


def test_the_tokenizer_of_the_tests_has_a_pad_of_its_own() -> None:
    tokenizer = tiny_tokenizer()
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


@pytest.mark.real_model
def test_smollm2_answers_and_its_logprobs_are_those_of_the_forward(real_model: Path) -> None:
    model, text = models.load_policy(real_model), load_text(real_model)
    assert text.pad_id == text.end_id  # the case that masks made by pad id get wrong
    prompts = [
        Prompt(id=q, messages=[{"role": "user", "content": q}])
        for q in ("What is the capital of France?", "Say hello in one word.", "Name three fruits.")
    ]
    answers = list(generate(model, text, prompts, seed=1, stream="t", temperature=0.0, max_new_tokens=40, batch_size=3))
    assert any(a.finish == "end" for a in answers)
    assert "Paris" in next(a.text for a in answers if "France" in a.prompt_id)
    for answer in answers:
        prompt_ids = text.prompt_ids([{"role": "user", "content": answer.prompt_id}])
        exact = _logprobs(model, prompt_ids, answer.token_ids)
        assert torch.isfinite(exact).all()
        assert answer.logprob == pytest.approx(exact.sum().item(), abs=1e-3)
        if answer.finish == "end":
            assert text.completion_ids(answer.text, finished=True) == list(answer.token_ids)


def test_a_sample_config_has_the_fields_that_sampling_reads() -> None:
    raw = {"method": "sample", "models": {"policies": [{"name": "a", "path": "m"}]}, "data": {"prompts": "p.jsonl"}}
    assert parse_config(raw).method == "sample"
