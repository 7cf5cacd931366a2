from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from training.engine import logprobs
from training.engine.logprobs import entropy, target_logprobs, target_statistics, vocabulary_kl


def drawn(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logprobs, "ROWS", 4)
    monkeypatch.setattr(logprobs, "TILE", 7)


def test_fp64_stays_fp64() -> None:
    """Exact checks read a table of logits by one-hot rows: the result is the table's log-softmax to its last digits."""
    table = drawn(5, 7, seed=1).requires_grad_()
    states, targets = torch.tensor([3, 0, 3]), torch.tensor([6, 2, 1])
    found = target_logprobs(torch.eye(5, dtype=torch.float64)[states], table.T.contiguous(), targets)
    expected = table.log_softmax(1)[states, targets]
    assert found.dtype is torch.float64
    assert float((found - expected).detach().abs().max()) < 1e-14
    upstream = drawn(3, seed=2)
    (ours,) = torch.autograd.grad((found * upstream).sum(), table)
    (theirs,) = torch.autograd.grad((expected * upstream).sum(), table)
    assert float((ours - theirs).abs().max()) < 1e-14


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("kept_bytes", [0, 2**20])
def test_a_trained_head_has_one_gradient_whether_its_exponentials_were_kept_or_not(
    kept_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logprobs, "KEPT_BYTES", kept_bytes)
    hidden, weight = drawn(10, 6, seed=1).requires_grad_(), (8 * drawn(23, 6, seed=2)).requires_grad_()
    targets, upstream = torch.arange(10) * 2, drawn(10, seed=3)
    ours = torch.autograd.grad((target_logprobs(hidden, weight, targets) * upstream).sum(), (hidden, weight))
    logp = functional.linear(hidden, weight).log_softmax(1)[range(10), targets]
    theirs = torch.autograd.grad((logp * upstream).sum(), (hidden, weight))
    for found, expected in zip(ours, theirs, strict=True):
        assert torch.allclose(found, expected, atol=1e-12)


def test_a_tied_head_adds_to_the_gradient_of_the_embedding() -> None:
    weight = drawn(9, 4, seed=1).requires_grad_()
    ids, targets = torch.tensor([1, 5, 1]), torch.tensor([2, 1, 8])
    hidden = functional.embedding(ids, weight).tanh()
    (ours,) = torch.autograd.grad(target_logprobs(hidden, weight, targets).sum(), weight)
    hidden = functional.embedding(ids, weight).tanh()
    (theirs,) = torch.autograd.grad((hidden @ weight.T).log_softmax(1)[range(3), targets].sum(), weight)
    assert torch.allclose(ours, theirs, atol=1e-12)


@pytest.mark.usefixtures("small_chunks")
def test_autocast_multiplies_in_bf16_and_sums_in_fp32() -> None:
    hidden = drawn(10, 64, seed=1, dtype=torch.float32).requires_grad_()
    weight = (drawn(23, 64, seed=2, dtype=torch.float32) / 8).requires_grad_()
    targets = torch.arange(10)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = target_logprobs(hidden, weight, targets)
    ours = torch.autograd.grad(found.sum(), (hidden, weight))
    rounded = (hidden.detach().bfloat16().float() @ weight.detach().bfloat16().float().T).bfloat16().float()
    assert found.dtype is torch.float32
    assert torch.allclose(found, rounded.log_softmax(1)[range(10), targets], atol=1e-5)
    theirs = torch.autograd.grad((hidden @ weight.T).log_softmax(1)[range(10), targets].sum(), (hidden, weight))
    for found, expected in zip(ours, theirs, strict=True):
        assert found.dtype is torch.float32
        assert float((found - expected).norm() / expected.norm()) < 0.02  # a bf16 number is within 2⁻⁹ of its value


@pytest.mark.parametrize("kept_bytes", [0, 2**20])
def test_bf16_keeps_the_gradients_of_confident_tokens(kept_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row is its target's word, so that p of the target is near 1; Σ_v p_v W_v alone would be rounded by 2⁻⁹."""
    monkeypatch.setattr(logprobs, "KEPT_BYTES", kept_bytes)
    monkeypatch.setattr(logprobs, "TILE", 16)
    targets = torch.arange(0, 48, 3)
    words = drawn(48, 64, seed=2).bfloat16().double()
    weight = (words / words.norm(dim=1, keepdim=True)).bfloat16().double().requires_grad_()
    hidden = (12 * weight[targets]).detach().bfloat16().double().requires_grad_()
    logp = (hidden @ weight.T).log_softmax(1)[range(len(targets)), targets]
    assert 0.997 < float(logp.detach().exp().mean()) < 0.9999
    exact = torch.autograd.grad(logp.sum(), (hidden, weight))
    inputs = (hidden.detach().float().requires_grad_(), weight.detach().float().requires_grad_())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = target_logprobs(*inputs, targets)
    for ours, theirs in zip(torch.autograd.grad(found.sum(), inputs), exact, strict=True):
        assert float((ours - theirs).norm() / theirs.norm()) < 0.03


@pytest.mark.usefixtures("small_chunks")
def test_entropy_and_top_words_are_those_of_the_softmax() -> None:
    hidden, weight = drawn(10, 6, seed=1).requires_grad_(), drawn(23, 6, seed=2).requires_grad_()
    logp = (hidden @ weight.T).log_softmax(1)
    targets = logp.argmax(1)
    targets[3] = (targets[3] + 1) % 23
    found = target_statistics(hidden, weight, targets)
    assert torch.equal(found.correct, torch.arange(10) != 3)
    expected = -(logp.exp() * logp).sum(1)
    assert torch.allclose(found.entropy, expected, atol=1e-12)
    assert not found.entropy.requires_grad
    upstream = drawn(10, seed=3)
    ours = torch.autograd.grad((entropy(hidden, weight) * upstream).sum(), (hidden, weight))
    theirs = torch.autograd.grad((expected * upstream).sum(), (hidden, weight))
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(ours, theirs, strict=True))


def test_a_uniform_row_has_the_entropy_of_its_vocabulary() -> None:
    found = target_statistics(torch.zeros(1, 3), torch.ones(11, 3), torch.tensor([4]))
    assert float(found.entropy) == pytest.approx(math.log(11))


@pytest.mark.usefixtures("small_chunks")
def test_the_kl_of_whole_vocabularies_and_its_gradient_are_those_of_the_sum() -> None:
    hidden, weight = drawn(10, 6, seed=1).requires_grad_(), drawn(23, 6, seed=2).requires_grad_()
    other_hidden, other_weight = drawn(10, 4, seed=3).requires_grad_(), drawn(23, 4, seed=4)
    logp, reference = (hidden @ weight.T).log_softmax(1), (other_hidden @ other_weight.T).log_softmax(1)
    expected = (logp.exp() * (logp - reference.detach())).sum(1)
    found = vocabulary_kl(hidden, weight, other_hidden, other_weight)
    assert torch.allclose(found, expected, atol=1e-12)
    assert bool((found > 0).all())
    upstream = drawn(10, seed=5)
    ours = torch.autograd.grad((found * upstream).sum(), (hidden, weight, other_hidden), allow_unused=True)
    assert ours[2] is None
    theirs = torch.autograd.grad((expected * upstream).sum(), (hidden, weight))
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(ours[:2], theirs, strict=True))
    assert float(vocabulary_kl(hidden, weight, hidden, weight).detach().abs().max()) < 1e-15


def test_no_rows_give_no_numbers() -> None:
    weight = drawn(5, 3, seed=1)
    hidden, targets = drawn(0, 3, seed=1), torch.zeros(0, dtype=torch.long)
    assert target_logprobs(hidden, weight, targets).shape == (0,)
    assert entropy(hidden, weight).shape == vocabulary_kl(hidden, weight, hidden, weight).shape == (0,)
    assert target_statistics(hidden, weight, targets).correct.shape == (0,)
