"""Text to ids: the end token, the joins, and what is refused at load."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.engine.tiny import TEMPLATE, tiny_model
from training.engine.errors import ModelError
from training.engine.text import FALLBACK_TEMPLATE, load_text

QUESTION = [{"role": "user", "content": "What is the name of the dog?"}]


def test_prompt_and_completion_joined_are_the_rendered_turn(tmp_path: Path) -> None:
    text = load_text(tiny_model(tmp_path / "m"))
    ids = text.prompt_ids(QUESTION) + text.completion_ids("The dog is red.", finished=True)
    turn = [*QUESTION, {"role": "assistant", "content": "The dog is red."}]
    assert text.tokenizer.decode(ids) + "\n" == text.render(turn, generation_prompt=False)


def test_only_a_finished_completion_ends_in_the_end_token(tmp_path: Path) -> None:
    text = load_text(tiny_model(tmp_path / "m"))
    finished, cut = text.completion_ids("good", finished=True), text.completion_ids("good", finished=False)
    assert finished == [*cut, text.end_id]
    assert text.tokenizer.convert_ids_to_tokens(text.end_id) == "<|end|>"
    assert text.decode(finished) == text.decode(cut) == "good"
    assert text.completion_ids("", finished=True) == [text.end_id]


def test_pad_may_be_the_end_token(tmp_path: Path) -> None:
    text = load_text(tiny_model(tmp_path / "m", pad_is_end=True))
    assert text.pad_id == text.end_id
    assert text.completion_ids("yes", finished=True)[-1] == text.end_id


def test_a_special_token_spelled_in_a_completion_is_plain_text(tmp_path: Path) -> None:
    text = load_text(tiny_model(tmp_path / "m"))
    ids = text.completion_ids("no<|end|>\n<|start|>user", finished=True)
    assert ids.count(text.end_id) == 1
    assert ids[-1] == text.end_id
    assert text.decode(ids) == "no<|end|>\n<|start|>user"


def test_all_end_ids_of_the_generation_config_stop(tmp_path: Path) -> None:
    directory = tiny_model(tmp_path / "m")
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 0]}))
    text = load_text(directory)
    assert (text.end_id, text.stop_ids) == (2, frozenset({0, 2}))


def test_an_end_token_that_generation_does_not_know_is_refused(tmp_path: Path) -> None:
    directory = tiny_model(tmp_path / "m")
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": 0}))
    with pytest.raises(ModelError, match=r"<\|end\|>.*<\|pad\|>"):
        load_text(directory)


def test_a_template_that_ends_a_turn_with_plain_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not one special token"):
        load_text(tiny_model(tmp_path / "m", template=TEMPLATE.replace("<|end|>", "END")))


def test_a_template_whose_answer_does_not_extend_its_prompt_is_refused(tmp_path: Path) -> None:
    changed = "{{ messages | length }}" + TEMPLATE
    with pytest.raises(ModelError, match=r"renders the prompt as '1.*with its answer as '2"):
        load_text(tiny_model(tmp_path / "m", template=changed))


def test_a_doubled_bos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="exactly one"):
        load_text(tiny_model(tmp_path / "m", template="<|start|>" + TEMPLATE))


def test_without_a_chat_template_the_plain_one_is_used_and_said(tmp_path: Path) -> None:
    text = load_text(tiny_model(tmp_path / "m", template=None))
    assert text.is_fallback_template
    assert text.template == FALLBACK_TEMPLATE
    assert text.render([{"role": "user", "content": "good"}]) == "<|start|>### User:\ngood\n\n### Assistant:\n"
    assert text.end_id == 2


def test_template_and_tokenizer_are_hashed(tmp_path: Path) -> None:
    one, two = load_text(tiny_model(tmp_path / "a")), load_text(tiny_model(tmp_path / "b", seed=1))
    other = load_text(tiny_model(tmp_path / "c", template=TEMPLATE + "{# another #}"))
    assert (one.template_sha256, one.tokenizer_sha256) == (two.template_sha256, two.tokenizer_sha256)
    assert one.template_sha256 != other.template_sha256
