"""The draw of a token: the inverse CDF, the cuts of the sampler's law, and the log-probabilities of both laws."""

from __future__ import annotations

import math

import pytest
import torch

from training.engine.drawing import Law, cut, draw, uniforms

LOGITS = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()
NEARLY_ONE = 1 - 2**-24


def _kept(probabilities: list[float], **law: float) -> list[float]:
    """μ of a small distribution."""
    logits = torch.tensor([probabilities]).log()
    weights = cut(logits - logits.max(), Law(**law))[0]  # type: ignore[arg-type]
    return (weights / weights.sum()).tolist()


def test_draws_follow_the_inverse_cdf() -> None:
    uniform = torch.tensor([0.0, 0.499, 0.501, 0.76, NEARLY_ONE])
    drawn = draw(LOGITS.repeat(5, 1), uniform, Law())
    assert drawn.tokens.tolist() == [0, 0, 1, 2, 3]
    assert drawn.logprobs.exp().tolist() == pytest.approx([0.5, 0.5, 0.25, 0.125, 0.125])
    assert torch.equal(drawn.sampler_logprobs, drawn.logprobs)


def test_a_law_changes_the_draw_and_not_the_policys_logprob() -> None:
    # 0.5 + 0.25 holds 0.75: two tokens, of weights 2/3 and 1/3.
    drawn = draw(LOGITS.repeat(3, 1), torch.tensor([0.6, 0.7, NEARLY_ONE]), Law(top_p=0.75))
    assert drawn.tokens.tolist() == [0, 1, 1]
    assert drawn.logprobs.exp().tolist() == pytest.approx([0.5, 0.25, 0.25])
    assert drawn.sampler_logprobs.exp().tolist() == pytest.approx([2 / 3, 1 / 3, 1 / 3])
    # At temperature ½ the weights are squared: 16, 4, 1, 1 of 22.
    drawn = draw(LOGITS.repeat(3, 1), torch.tensor([0.72, 0.74, 0.92]), Law(temperature=0.5))
    assert drawn.tokens.tolist() == [0, 1, 2]
    assert drawn.sampler_logprobs.exp().tolist() == pytest.approx([16 / 22, 4 / 22, 1 / 22])
    greedy = draw(LOGITS.repeat(3, 1), torch.rand(3), Law(temperature=0.0))
    assert greedy.tokens.tolist() == [0, 0, 0]
    assert greedy.logprobs.exp().tolist() == pytest.approx([0.5] * 3)
    assert greedy.sampler_logprobs.tolist() == [0.0] * 3


def test_each_cut_keeps_what_its_definition_says() -> None:
    probabilities = [0.4, 0.3, 0.2, 0.1]
    assert _kept(probabilities, top_k=2) == pytest.approx([4 / 7, 3 / 7, 0, 0])
    assert _kept(probabilities, top_k=9) == pytest.approx(probabilities)
    assert _kept(probabilities, top_p=0.65) == pytest.approx([4 / 7, 3 / 7, 0, 0])
    assert _kept(probabilities, min_p=0.6) == pytest.approx([4 / 7, 3 / 7, 0, 0])  # 0.2 is half of 0.4
    assert _kept([0.4, 0.2, 0.2, 0.2], top_k=2) == pytest.approx([0.4, 0.2, 0.2, 0.2])  # ties with the second stay


def test_the_cuts_come_in_their_order() -> None:
    # Temperature first: the squares 0.16, 0.09, 0.04, 0.01 put 0.04 below 0.3 of 0.16, though 0.2 is above 0.3 of 0.4.
    assert _kept([0.4, 0.3, 0.2, 0.1], temperature=0.5, min_p=0.3) == pytest.approx([16 / 25, 9 / 25, 0, 0])
    # top_k before top_p: of the first two 0.4 is 4/7 > 0.55, of all four it is 0.4 < 0.55.
    assert _kept([0.4, 0.3, 0.2, 0.1], top_k=2, top_p=0.55) == pytest.approx([1, 0, 0, 0])
    assert _kept([0.4, 0.3, 0.2, 0.1], top_p=0.55) == pytest.approx([4 / 7, 3 / 7, 0, 0])


@pytest.mark.parametrize(
    "law", [Law(), Law(temperature=0.7), Law(temperature=1.3, top_k=5, top_p=0.8, min_p=0.05), Law(top_p=0.3)]
)
def test_the_samplers_probabilities_of_the_tokens_it_can_draw_sum_to_one(law: Law) -> None:
    logits = torch.randn(1, 12, generator=torch.Generator().manual_seed(0)) * 2
    uniform = torch.linspace(0, NEARLY_ONE, 20_001)
    drawn = draw(logits.expand(len(uniform), -1), uniform, law)
    mass = dict(zip(drawn.tokens.tolist(), drawn.sampler_logprobs.exp().tolist(), strict=True))
    assert math.fsum(mass.values()) == pytest.approx(1.0, abs=1e-5)
    weights = cut(logits - logits.max(), law)[0]
    assert mass.keys() == set(weights.nonzero()[:, 0].tolist())
    for token, probability in mass.items():
        assert (drawn.tokens == token).double().mean().item() == pytest.approx(probability, abs=1e-3)


def test_top_p_over_a_flat_law_looks_past_the_first_thousand_tokens() -> None:
    uniform = torch.arange(500) / 500
    drawn = draw(torch.zeros(500, 5000), uniform, Law(top_p=0.5))
    assert len(set(drawn.tokens.tolist())) == 500  # spread evenly over 2,500 of 5,000 equal tokens


def test_no_token_of_weight_zero_is_drawn_at_the_edges_of_blocks() -> None:
    logits = torch.full((4, 1000), -math.inf)
    logits[:, [255, 256, 999]] = 0.0
    uniform = torch.tensor([0.0, 1 / 3, 2 / 3 + 1e-6, NEARLY_ONE])
    assert draw(logits, uniform, Law()).tokens.tolist() == [255, 256, 999, 999]


@pytest.mark.gpu
def test_draws_on_a_gpu_repeat_where_runs_must() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    logits = torch.randn(7, 3000, generator=torch.Generator().manual_seed(1)) * 3
    uniform = torch.rand(7, generator=torch.Generator().manual_seed(2))
    torch.use_deterministic_algorithms(mode=True)
    try:
        for law in (Law(), Law(temperature=0.8, top_k=50, top_p=0.9, min_p=0.01)):
            found = draw(logits.cuda(), uniform.cuda(), law)
            assert found.tokens.tolist() == draw(logits, uniform, law).tokens.tolist()
    finally:
        torch.use_deterministic_algorithms(mode=False)


def test_a_draw_does_not_depend_on_the_rows_beside_it() -> None:
    logits = torch.randn(7, 3000, generator=torch.Generator().manual_seed(1)) * 3
    uniform = torch.rand(7, generator=torch.Generator().manual_seed(2))
    for law in (Law(), Law(temperature=0.8, top_k=50, top_p=0.9, min_p=0.01)):
        together = draw(logits, uniform, law)
        for row in range(7):
            alone = draw(logits[row : row + 1], uniform[row : row + 1], law)
            assert alone.tokens.item() == together.tokens[row].item()
            assert alone.sampler_logprobs.item() == pytest.approx(together.sampler_logprobs[row].item(), abs=1e-5)


def test_draws_have_the_models_frequencies() -> None:
    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(0))
    numbers = uniforms(seed=3, stream="s", prompt_id="p", index=0, count=20_000)
    tokens = draw(logits.expand(20_000, -1), torch.from_numpy(numbers), Law()).tokens
    shares = torch.bincount(tokens, minlength=50) / 20_000
    expected = logits.softmax(-1)[0]
    assert ((shares - expected).abs() < 5 * (expected / 20_000).sqrt()).all()
