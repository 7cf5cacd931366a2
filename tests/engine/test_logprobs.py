from __future__ import annotations

import torch
from torch import Tensor

from training.engine.logprobs import target_logprobs


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


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
