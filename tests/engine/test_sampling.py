"""Completions: the same whatever the batch, with the model's own log-probs; end tokens, stop strings, limits."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.engine.tiny import tiny_model, tiny_tokenizer
from training.engine import models
from training.engine.config import parse_config
from training.engine.drawing import Law, cut, draw, uniforms
from training.engine.errors import ModelError
from training.engine.sampling import Completion, Prompt, generate
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
            drawn = draw(logits, torch.tensor([number]), Law(temperature=temperature, top_p=top_p))
            expected.append(int(drawn.tokens))
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
        assert completion.token_logprobs == pytest.approx(exact.tolist(), abs=1e-4)
        assert completion.logprob == pytest.approx(exact.sum().item(), abs=1e-4)


def test_the_samplers_logprob_is_that_of_the_law_drawn_from(peaked: tuple[Any, Text]) -> None:
    model, text = peaked
    law = Law(temperature=1.5, top_k=12, top_p=0.9, min_p=0.02)
    for c in _sample(peaked, temperature=1.5, top_k=12, top_p=0.9, min_p=0.02):
        prompt = text.prompt_ids(next(p for p in PROMPTS if p.id == c.prompt_id).messages)
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *c.token_ids]])).logits[0, len(prompt) - 1 : -1]
        weights = cut(logits - logits.amax(-1, keepdim=True), law)
        exact = (weights / weights.sum(-1, keepdim=True)).gather(1, torch.tensor(c.token_ids)[:, None]).log()
        assert c.sampler_logprob == pytest.approx(exact.sum().item(), abs=1e-3)
    for c in _sample(peaked):
        assert c.sampler_logprob == pytest.approx(c.logprob, abs=1e-5)


def test_a_stop_string_cuts_the_text_and_ends_the_completion(peaked: tuple[Any, Text]) -> None:
    whole = _sample(peaked, completions=8)
    longest = max(whole, key=lambda c: len(c.text))
    stop = longest.text[5:8]  # three characters of a byte-level vocabulary: across the borders of its tokens
    assert len(stop) == 3
    stopped = _sample(peaked, completions=8, stop=(stop, "no such text at all"))
    assert any(stop in before.text for before in whole)
    for before, after in zip(whole, stopped, strict=True):
        if stop not in before.text:
            assert after.token_ids == before.token_ids and after.text == before.text
            continue
        assert after.text == before.text[: before.text.index(stop)]
        assert after.finish == "end"
        # The tokens that spelled it are there, and none after them.
        assert after.token_ids == before.token_ids[: len(after.token_ids)]
        assert len(after.token_logprobs) == len(after.token_ids)
        assert stop in peaked[1].decode(after.token_ids)
        assert stop not in peaked[1].decode(after.token_ids[:-1])


def test_prompts_given_as_ids_are_not_rendered(peaked: tuple[Any, Text]) -> None:
    given = [Prompt(id=p.id, messages=[], ids=tuple(peaked[1].prompt_ids(p.messages))) for p in PROMPTS]
    assert _sample(peaked, given) == _sample(peaked)


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
