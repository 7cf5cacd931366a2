"""Matrix products in fp32 on a CPU: by oneDNN where it is faster, to the same fp32 precision.

PyTorch gives fp32 products to MKL, which leaves the wide registers of other makers' processors unused: on an EPYC of
2024 112 GFLOP/s a core where oneDNN reaches 263 (its bf16 products go by oneDNN anyway, at 517). oneDNN takes its
operands as they lie, transposed or not, so the three products of a layer need no copies.

M rows, K inputs, N outputs.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


@functools.cache
def has_onednn() -> bool:
    """Whether products go by oneDNN on this machine: always or never, so that a run repeats bit by bit."""
    return (
        bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """a [M, K] times b [K, N], without gradient."""
    if _goes_by_onednn(a, b):
        found: Tensor = torch.ops.mkldnn._linear_pointwise(a, b.t(), None, "none", [], "")
        return found
    return a @ b


def _goes_by_onednn(a: Tensor, b: Tensor) -> bool:
    return a.device.type == "cpu" and a.dtype is b.dtype is torch.float32 and a.numel() > 0 and has_onednn()


class _Linear(torch.autograd.Function):
    """x [M, K], W [N, K], b [N] or None → x Wᵀ + b [M, N]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        gradient = gradients[0]
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            matmul(gradient, weight) if needs_x else None,
            matmul(gradient.t(), x) if needs_weight else None,
            gradient.sum(dim=0) if needs_bias else None,
        )


class Linear(nn.Linear):
    """A linear layer whose fp32 products on a CPU, forward and backward, go by oneDNN; any other as they always do."""

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight
        if torch.is_autocast_enabled(input.device.type) or not _goes_by_onednn(input, weight):
            return functional.linear(input, weight, self.bias)
        rows: Tensor = _Linear.apply(input.reshape(-1, input.shape[-1]), weight, self.bias)  # type: ignore[no-untyped-call]
        return rows.view(*input.shape[:-1], -1)


def use(model: nn.Module) -> None:
    """Let all plain linear layers of a model take their products here; their parameters stay what they are."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = Linear
