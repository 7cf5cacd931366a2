"""Reward models that score together: alone or packed, with their own tokenizers, less their stored means."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from transformers import MistralConfig, MistralForSequenceClassification

from tests.engine.tiny import TEMPLATE, tiny_model
from training.engine import models
from training.engine.errors import Diverged, ModelError
from training.engine.packing import ATTENTION, PADDED, layout_of
from training.engine.scoring import Given, GivenCompletion, RewardModels, load_reward_models
from training.engine.sections import Combine, Dtype
from training.engine.text import load_text

torch.set_num_threads(1)

TEXTS = [("good", "end"), ("bad dog it is", "length"), ("", "end"), ("", "length"), ("yes", "end")]
ITEMS = [
    Given(
        id=f"p{number}",
        prompt=[{"role": "user", "content": "What is " + "the dog " * number}],
        completions=[GivenCompletion(text=text, finish=finish) for text, finish in TEXTS[number:]],
    )
    for number in range(3)
]


def reward(directory: Path, *, seed: int = 3, mean: float | None = None, template: str = TEMPLATE) -> str:
    tiny_model(directory, seed=seed, spread=0.3, reward=True, template=template)
    if mean is not None:
        (directory / "winnow.json").write_text(json.dumps({"reward": {"mean": mean, "std": 1.0}}))
    return str(directory)


def by_letters(directory: str) -> None:
    """Take the merges out of a tokenizer: every byte is a token of its own."""
    path = Path(directory) / "tokenizer.json"
    found = json.loads(path.read_text())
    found["model"]["merges"] = []
    path.write_text(json.dumps(found))


def load(*directories: str, **changes: object) -> RewardModels:
    return load_reward_models(directories, device="cpu", **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("micro_tokens", [1, 64, 4096])
def test_packed_scores_are_those_of_a_completion_alone(tmp_path: Path, micro_tokens: int) -> None:
    directory = reward(tmp_path / "r")
    model, text = models.load_reward_model(tmp_path / "r", seed=0), load_text(tmp_path / "r")
    expected = []
    for item in ITEMS:
        for completion in item.completions:
            ids = text.prompt_ids(item.prompt)
            ids += text.completion_ids(completion.text, finished=completion.finish == "end")
            expected.append(float(models.outputs(model, torch.tensor([ids]))[-1, 0]))
    assert len(set(expected)) == len(expected)
    found = load(directory, micro_tokens=micro_tokens)(ITEMS)
    assert found.dtype is torch.float64
    assert found.tolist() == pytest.approx(expected, abs=1e-5)


def test_every_score_is_less_the_mean_that_its_model_stored(tmp_path: Path) -> None:
    plain, centred = reward(tmp_path / "a"), reward(tmp_path / "b", mean=1.5)
    assert torch.allclose(load(plain)(ITEMS) - 1.5, load(centred)(ITEMS), atol=1e-6)


def test_several_models_give_their_mean_or_the_least(tmp_path: Path) -> None:
    directories = [reward(tmp_path / str(seed), seed=seed) for seed in (3, 4, 5)]
    each = torch.stack([load(directory)(ITEMS) for directory in directories])
    together = load(*directories)
    assert torch.equal(together.score(ITEMS), each)
    assert torch.equal(together(ITEMS), each.mean(dim=0))
    assert torch.equal(load(*directories, combine=Combine.WORST)(ITEMS), each.min(dim=0).values)


def test_token_ids_are_taken_over_from_the_same_tokenizer_only(tmp_path: Path) -> None:
    policy = load_text(tiny_model(tmp_path / "policy"))
    same, other = reward(tmp_path / "same"), reward(tmp_path / "other")
    by_letters(other)
    # Sampled ids need not be those of their text: here "good" was written letter by letter.
    letters = tuple(i for letter in "good" for i in policy.completion_ids(letter, finished=False))
    whole = tuple(policy.completion_ids("good", finished=True))
    assert len(whole) == 2
    prompt = [{"role": "user", "content": "What?"}]

    def item(*ids: int) -> Given:
        completion = GivenCompletion(text="good", finish="end", token_ids=ids)
        return Given(id="p", prompt=prompt, completions=[completion])

    models_of_both = load(same, other, own=policy)
    sampled, tokenised = models_of_both.score([item(*letters, policy.end_id), item(*whole)]).T
    assert abs(sampled[0] - tokenised[0]) > 1e-3
    assert sampled[1] == tokenised[1]
    text = load_text(Path(other))
    ids = text.prompt_ids(prompt) + text.completion_ids("good", finished=True)
    assert len(ids) > len(policy.prompt_ids(prompt)) + 5
    alone = models.outputs(models.load_reward_model(Path(other), seed=0), torch.tensor([ids]))[-1, 0]
    assert float(sampled[1]) == pytest.approx(float(alone), abs=1e-5)


def test_ids_that_a_stop_string_left_behind_are_not_read(tmp_path: Path) -> None:
    directory = reward(tmp_path / "r")
    text = load_text(tmp_path / "r")
    prompt = ITEMS[0].prompt
    drawn = tuple(text.completion_ids("good###", finished=False))
    stopped = Given(id="p", prompt=prompt, completions=[GivenCompletion(text="good", token_ids=drawn)])
    meant = Given(id="p", prompt=prompt, completions=[GivenCompletion(text="good")])
    assert torch.equal(load(directory, own=text)([stopped]), load(directory)([meant]))


def test_each_model_reads_with_its_own_template(tmp_path: Path) -> None:
    policy = load_text(tiny_model(tmp_path / "policy"))
    other = reward(
        tmp_path / "r",
        template=TEMPLATE.replace("'<|start|>' +", "'<|start|>the ' +").replace("<|start|>a", "<|start|>the a"),
    )
    text = load_text(tmp_path / "r")
    item = ITEMS[0]
    completion = item.completions[0]
    ids = text.prompt_ids(item.prompt) + text.completion_ids(completion.text, finished=True)
    alone = models.outputs(models.load_reward_model(tmp_path / "r", seed=0), torch.tensor([ids]))[-1, 0]
    found = load(other, own=policy)([Given(id="p", prompt=item.prompt, completions=[completion])])
    assert float(found) == pytest.approx(float(alone), abs=1e-5)


def test_bf16_is_near_and_the_head_stays_in_fp32(tmp_path: Path) -> None:
    directory = reward(tmp_path / "r")
    exact, rough = load(directory)(ITEMS), load(directory, dtype=Dtype.BF16)(ITEMS)
    assert 0 < float((exact - rough).abs().max()) < 0.1 * float(exact.abs().max())


def test_a_policy_directory_is_refused(tmp_path: Path) -> None:
    policy = tiny_model(tmp_path / "policy")
    with pytest.raises(ModelError, match=r"policy: is a policy, not a reward model"):
        load(str(policy))


def test_a_stored_mean_that_is_no_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"winnow.json: reward.mean must be a finite number, got nan"):
        load(reward(tmp_path / "r", mean=math.nan))


def test_a_completion_beyond_the_context_is_refused(tmp_path: Path) -> None:
    item = Given(id="p7", prompt=ITEMS[0].prompt, completions=[GivenCompletion(text="dog " * 600)])
    with pytest.raises(ModelError, match=r"p7 has .* tokens with its completion, .* has 512 positions"):
        load(reward(tmp_path / "r"))([item])


def test_a_score_that_is_not_finite_names_its_prompt(tmp_path: Path) -> None:
    found = load(reward(tmp_path / "r"))
    with torch.no_grad():
        models.score_head(found.members[0].model).weight.fill_(math.inf)
    with pytest.raises(Diverged, match="rollout/score is ") as refused:
        found(ITEMS[:1])
    assert set(refused.value.examples) == {"p0"}
    assert refused.value.__notes__[0].startswith("examples: p0, p0")


def test_a_longer_text_is_looked_at_anew(tmp_path: Path) -> None:
    """The shortest items fit into the model's window, so packs are exact for them; a longer one's are not."""
    text = load_text(tiny_model(tmp_path / "policy"))
    config = MistralConfig(
        vocab_size=len(text.tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, sliding_window=40, initializer_range=0.3, num_labels=1,
        eos_token_id=text.end_id, pad_token_id=text.pad_id,
    )  # fmt: skip
    torch.manual_seed(0)
    models.save_model(MistralForSequenceClassification(config), text, tmp_path / "r", winnow={})
    completions = [GivenCompletion(text="dog " * 30), GivenCompletion(text="good")]
    long = Given(id="long", prompt=ITEMS[0].prompt, completions=completions)
    (expected,) = load(str(tmp_path / "r")).score([long])
    found = load(str(tmp_path / "r"))
    found(ITEMS[:1])
    assert layout_of(found.members[0].model) == ATTENTION
    assert torch.allclose(found([long]), expected)
    assert layout_of(found.members[0].model) == PADDED


def test_no_completions_give_no_scores(tmp_path: Path) -> None:
    assert load(reward(tmp_path / "r"))([]).shape == (0,)
