from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from tests.engine.tiny import tiny_model
from training.engine.logprobs import completion_logprobs, target_logprobs, token_logprobs
from training.engine.models import load_policy, load_reward_model, prepare, recompute_activations, score_head
from training.engine.packing import (
    Sharing,
    build_pack,
    hidden_states,
    plan_packs,
    read_in_packs_if_exact,
    use_packed_attention,
    use_padded_rows,
    with_blocks,
)
from training.engine.scoring import scores

CPU = torch.device("cpu")


def some_groups() -> list[Sharing]:
    draw = random.Random(5)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(draw.randrange(3, 280) for _ in range(count))

    return [
        Sharing(prompt=ids(7), completions=(ids(5), ids(9))),
        Sharing(prompt=ids(3), completions=(ids(1), ids(4), ids(12))),
        Sharing(prompt=ids(1), completions=(ids(6), ids(6))),
        Sharing(prompt=ids(20), completions=(ids(11),)),
    ]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Any:
    model = load_policy(tiny_model(tmp_path_factory.mktemp("policy") / "m", spread=0.3))
    use_packed_attention(model)
    return model


def alone(model: Any, groups: list[Sharing]) -> Tensor:
    """log p of every completion by the model's own forward pass, one sequence at a time."""
    found = []
    for group in groups:
        for completion in group.completions:
            ids = torch.tensor([group.prompt + completion])
            logp = model(input_ids=ids).logits[0].log_softmax(-1)
            first = len(group.prompt) - 1
            found.append(logp[range(first, first + len(completion)), list(completion)].sum())
    return torch.stack(found).double()


def gradients(model: Any, value: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    value.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def worst(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).abs().max() / theirs[name].abs().max()) for name in theirs)


def test_a_pack_gives_what_one_completion_at_a_time_gives(policy: Any) -> None:
    groups = some_groups()
    packed, single = completion_logprobs(policy, build_pack(groups, device=CPU)), alone(policy, groups)
    assert float(((packed - single) / single).detach().abs().max()) < 1e-5
    weights = torch.linspace(-1, 1, len(packed), dtype=torch.float64)
    ours = gradients(policy, (packed * weights).sum())
    assert worst(ours, gradients(policy, (single * weights).sum())) < 1e-5


def test_the_split_into_packs_changes_nothing(policy: Any) -> None:
    groups = some_groups()
    whole = gradients(policy, completion_logprobs(policy, build_pack(groups, device=CPU)).sum())
    policy.zero_grad()
    for group in groups:
        completion_logprobs(policy, build_pack([group], device=CPU)).sum().backward()
    split = {name: p.grad.clone() for name, p in policy.named_parameters()}
    assert worst(split, whole) < 1e-5


def test_no_token_sees_another_completion_or_prompt(policy: Any) -> None:
    groups = some_groups()
    changed = [*groups]
    first = groups[0]
    changed[0] = Sharing(prompt=first.prompt, completions=((9,) * 5, first.completions[1]))
    changed[2] = Sharing(prompt=(44,), completions=groups[2].completions)
    before = completion_logprobs(policy, build_pack(groups, device=CPU))
    after = completion_logprobs(policy, build_pack(changed, device=CPU))
    same = torch.isclose(before, after, rtol=0, atol=1e-12)
    assert same.tolist() == [False, True, True, True, True, False, False, True]


def test_a_reward_is_read_at_the_last_token(tmp_path: Path) -> None:
    model = load_reward_model(tiny_model(tmp_path / "m", spread=0.3), seed=1)
    use_packed_attention(model)
    groups = some_groups()
    packed = scores(model, build_pack(groups, device=CPU))
    single = torch.stack(
        [
            score_head(model)(model.model(input_ids=torch.tensor([g.prompt + c])).last_hidden_state[0, -1])[0]
            for g in groups
            for c in g.completions
        ]
    )
    assert torch.allclose(packed, single, rtol=1e-5, atol=1e-6)


def test_an_empty_completion_has_log_probability_zero(policy: Any) -> None:
    groups = [Sharing(prompt=(5, 6), completions=((), (7, 8))), Sharing(prompt=(5,), completions=((9,), ()))]
    pack = build_pack(groups, device=CPU)
    found = completion_logprobs(policy, pack)
    assert found[0] == found[3] == 0
    assert pack.last.tolist() == [1, 3, 5, 4]


def test_rows_predict_the_tokens_that_follow() -> None:
    pack = build_pack([Sharing(prompt=(1, 2), completions=((3, 4), (5,)))], device=CPU)
    assert pack.ids.tolist() == [1, 2, 3, 4, 5]
    assert pack.positions.tolist() == [0, 1, 2, 3, 2]
    assert pack.rows.tolist() == [1, 2, 1]
    assert pack.targets.tolist() == [3, 4, 5]
    assert pack.owner.tolist() == [0, 0, 1]
    assert pack.tokens == 7


def test_tokens_that_are_not_scored_are_read_and_no_more(policy: Any) -> None:
    """A second turn in the middle of a completion: its tokens are context, and neither rows nor targets."""
    flags = ((True, False, False, True, True), (False,) * 9)
    first = some_groups()[0]
    pack = build_pack(
        [Sharing(prompt=first.prompt, completions=first.completions, scored=flags), some_groups()[1]], device=CPU
    )
    assert pack.lengths.tolist() == [3, 0, 1, 4, 12]
    assert pack.last.tolist()[:2] == [11, 20]
    assert pack.owner.tolist()[:4] == [0, 0, 0, 2]
    assert pack.rows.tolist()[:3] == [6, 9, 10]
    everything = token_logprobs(policy, build_pack([first], device=CPU))
    assert torch.allclose(token_logprobs(policy, pack)[:3], everything[[0, 3, 4]], atol=1e-5)
    sums = completion_logprobs(policy, pack)
    assert torch.allclose(sums[0], everything[[0, 3, 4]].double().sum(), atol=1e-5)
    assert sums[1] == 0


def test_an_empty_prompt_is_refused() -> None:
    """Its completions would be scored by the row of the group before it."""
    with pytest.raises(ValueError, match="prompt must have a token"):
        Sharing(prompt=(), completions=((2, 3),))


def test_attention_drops_nothing_while_activations_are_recomputed() -> None:
    """Attention layers have a share of dropout of their own, and recomputing sets the flag that turns it on."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            attention_dropout=0.5,
            initializer_range=0.3,
        )
        model = prepare(LlamaForCausalLM(config))
    use_padded_rows(model)
    pack = build_pack([Sharing(prompt=(5, 6), completions=((7, 8), (9,)))], device=CPU)
    expected = hidden_states(model, pack)
    recompute_activations(model)
    assert model.training
    assert all(torch.equal(hidden_states(model, pack), expected) for _ in range(2))


def test_flags_that_do_not_fit_the_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="one flag for each token"):
        Sharing(prompt=(1,), completions=((2, 3),), scored=((True,),))


@pytest.mark.parametrize("seed", range(8))
def test_the_block_mask_of_the_bounds_is_that_of_the_rule(seed: int) -> None:
    rng = random.Random(seed)

    def ids(most: int) -> tuple[int, ...]:
        return (7,) * rng.choice([1, 128, rng.randint(1, most)])

    groups = [Sharing(prompt=ids(500), completions=tuple(ids(400) for _ in range(rng.randint(1, 4)))) for _ in range(3)]
    pack = with_blocks(build_pack(groups, device=CPU))
    found = pack.layout.blocks
    assert found is not None
    rows = len(pack.ids)
    wanted = create_block_mask(found.mask_mod, None, None, rows, rows, device="cpu")
    for ours, theirs in (
        ((found.kv_num_blocks, found.kv_indices), (wanted.kv_num_blocks, wanted.kv_indices)),
        ((found.full_kv_num_blocks, found.full_kv_indices), (wanted.full_kv_num_blocks, wanted.full_kv_indices)),
        ((found.q_num_blocks, found.q_indices), (wanted.q_num_blocks, wanted.q_indices)),
    ):
        assert torch.equal(ours[0], theirs[0])
        for number, mine, other in zip(theirs[0][0, 0].tolist(), ours[1][0, 0], theirs[1][0, 0], strict=True):
            assert torch.equal(mine[:number], other[:number])


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_the_block_mask_gives_what_the_loop_over_segments_gives(policy: Any) -> None:
    """Uncompiled on CPU, forward only: there is no backward pass of FlexAttention here."""
    groups = [*some_groups(), Sharing(prompt=(5, 6), completions=((), (7, 8), (9,)))]
    pack = build_pack(groups, device=CPU)
    with torch.no_grad():
        assert torch.allclose(hidden_states(policy, with_blocks(pack)), hidden_states(policy, pack), atol=1e-5)


def windowed_model(*, window: int) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        config = MistralConfig(
            vocab_size=300,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            sliding_window=window,
            initializer_range=0.3,
            attn_implementation="sdpa",
        )
        return prepare(MistralForCausalLM(config))


@pytest.mark.parametrize("window", [4, 64])
def test_a_model_whose_window_is_shorter_than_the_text_is_read_in_padded_rows(window: int) -> None:
    model, groups = windowed_model(window=window), some_groups()
    single = alone(model, groups)
    assert read_in_packs_if_exact(model, groups, tolerance=1e-5) == (window == 64)
    found = completion_logprobs(model, build_pack(groups, device=CPU))
    assert float(((found - single) / single).detach().abs().max()) < 1e-5
    weights = torch.linspace(-1, 1, len(found), dtype=torch.float64)
    ours = gradients(model, (found * weights).sum())
    assert worst(ours, gradients(model, (single * weights).sum())) < 1e-5


def test_a_model_that_reads_packs_gives_the_same_in_padded_rows(tmp_path: Path) -> None:
    model, groups = load_policy(tiny_model(tmp_path / "m", spread=0.3)), some_groups()
    pack = build_pack([*groups, Sharing(prompt=(5, 6), completions=((), (7, 8)))], device=CPU)
    assert read_in_packs_if_exact(model, groups, tolerance=1e-5)
    packed = hidden_states(model, pack)
    use_padded_rows(model)
    assert torch.allclose(hidden_states(model, pack), packed, atol=1e-5)


def test_autocast_changes_a_log_probability_by_its_rounding_only(policy: Any) -> None:
    groups = some_groups()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = token_logprobs(policy, build_pack(groups, device=CPU))
    exact = token_logprobs(policy, build_pack(groups, device=CPU))
    assert found.dtype is torch.float32
    assert float((found - exact).detach().abs().mean()) < 0.05 * float(exact.detach().abs().mean())
    found.sum().backward()
    assert all(p.grad is not None and p.grad.dtype is torch.float32 for p in policy.parameters())


@pytest.mark.parametrize("train_head", [True, False])
def test_the_chunked_head_equals_log_softmax(train_head: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.engine.logprobs.ROWS", 4)
    monkeypatch.setattr("training.engine.logprobs.TILE", 7)
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(10, 6, generator=generator, requires_grad=True)
    weight = torch.randn(23, 6, generator=generator, requires_grad=train_head)
    targets = torch.randint(0, 23, (10,), generator=generator)
    upstream = torch.randn(10, generator=generator)
    found = target_logprobs(hidden, weight, targets)
    (found * upstream).sum().backward()
    ours = hidden.grad, weight.grad
    hidden.grad = weight.grad = None
    expected = (hidden @ weight.T).log_softmax(-1)[range(10), targets]
    (expected * upstream).sum().backward()
    assert torch.allclose(found, expected, atol=1e-6)
    assert hidden.grad is not None
    assert ours[0] is not None
    assert torch.allclose(ours[0], hidden.grad, atol=1e-6)
    if train_head:
        assert ours[1] is not None
        assert weight.grad is not None
        assert torch.allclose(ours[1], weight.grad, atol=1e-6)


def test_packs_are_filled_and_hold_everything_once() -> None:
    sizes = [5, 30, 8, 8, 2, 100, 7]
    packs = plan_packs(sizes, micro_tokens=32)
    assert sorted(index for pack in packs for index in pack) == list(range(7))
    assert all(sum(sizes[index] for index in pack) <= 32 or len(pack) == 1 for pack in packs)
    assert packs == [[5], [1, 4], [2, 3, 6, 0]]
