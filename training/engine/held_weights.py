"""How a decoder holds a model's weights: adapters merged, sisters joined into one product, laid out for few rows.

Weights are copied once for each decoder, so a decoder sees none of the changes that training makes after it was begun.
Knows layers and weights; nothing of attention, rows or text.

M rows, N outputs, K inputs of a product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn
from torch.nn.functional import linear

from training.engine import products
from training.engine.sections import Weights

Product = Callable[[Tensor], Tensor]
"""[M, K] fp32 → x Wᵀ + b [M, N], fp32 on CPU."""

_PLAIN = (nn.Linear, products.Linear)
_INT8_ROWS = 16  # above, the integers made bf16 for one product cost less than what the int8 kernel loses
_PACKED_FOR = 32  # rows that the layout is chosen for; with any other number it is within a tenth of its best


def has_plain_weight(layer: Any) -> bool:
    """Whether the layer is x Wᵀ + b with a W that can be written down: a plain one, or one under LoRA."""
    if type(layer) is LoraLinear:
        return type(layer.base_layer) in _PLAIN and not layer.lora_variant
    return type(layer) in _PLAIN


def plain_weight(layer: Any) -> tuple[Tensor, Tensor | None]:
    """W [N, K] and b of a layer, with the adapters that are on: W + Σ scale·B·A, in the weight's precision."""
    if type(layer) is not LoraLinear:
        return layer.weight.detach(), None if layer.bias is None else layer.bias.detach()
    weight, bias = plain_weight(layer.base_layer)
    if not layer.disable_adapters and not layer.merged:
        for name in layer.active_adapters:
            if name in layer.lora_A:
                weight = weight + layer.get_delta_weight(name).detach()
    return weight, bias


def joined(layers: Sequence[Any], *, weights: Weights, rows: int) -> Product:
    """One product for layers of the same input; its outputs stand beside each other in their order."""
    parts = [plain_weight(layer) for layer in layers]
    bias = None
    if any(b is not None for _, b in parts):
        bias = torch.cat([weight.new_zeros(len(weight)) if b is None else b for weight, b in parts])
    return hold(torch.cat([weight for weight, _ in parts]), bias, weights=weights, rows=rows)


def hold(weight: Tensor, bias: Tensor | None, *, weights: Weights, rows: int) -> Product:
    """The product with W [N, K] and b, held as `weights` says, laid out for about `rows` rows in a step.

    int8 is weight-only with one scale a row of W (an output): W ≈ round(W/s)·s, s = max|W|/127.
    """
    match weights, weight.device.type, _can_pack():
        case (Weights.INT8, "cpu", _):
            return _int8(weight, bias)
        case (Weights.INT8, _, _):
            scale = _row_scale(weight)
            return _plain((weight / scale).round().mul(scale).bfloat16(), bias)
        case (_, "cpu", True):
            return _packed(weight, bias, dtype=torch.bfloat16 if weights is Weights.BF16 else weight.dtype)
        case _:
            return _plain(weight.bfloat16() if weights is Weights.BF16 else weight, bias)


def _can_pack() -> bool:
    return bool(torch._C._has_mkldnn)


def _packed(weight: Tensor, bias: Tensor | None, *, dtype: torch.dtype) -> Product:
    """In oneDNN's blocked layout: for 8 rows twice as fast as the plain product, for 32 rows 1.5 times (fp32)."""
    held = torch.ops.mkldnn._reorder_linear_weight(weight.to(dtype).contiguous(), _PACKED_FOR)
    run, out = torch.ops.mkldnn._linear_pointwise, weight.dtype
    bias = None if bias is None else bias.to(dtype)

    def product(x: Tensor) -> Tensor:
        found: Tensor = run(x.to(dtype), held, bias, "none", [], "").to(out)
        return found

    return product


def _plain(weight: Tensor, bias: Tensor | None) -> Product:
    bias = None if bias is None else bias.to(weight.dtype)
    return lambda x: linear(x.to(weight.dtype), weight, bias).float()


def _row_scale(weight: Tensor) -> Tensor:
    return weight.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127  # [N, 1]


def _int8(weight: Tensor, bias: Tensor | None) -> Product:
    scale = _row_scale(weight)
    held = (weight / scale).round().to(torch.int8)
    ones = torch.ones(len(weight), dtype=torch.bfloat16)
    scale, run = scale[:, 0], torch.ops.aten._weight_int8pack_mm

    def product(x: Tensor) -> Tensor:
        x = x.bfloat16()
        # bf16 holds integers up to 256: both ways take the same numbers. The kernel's own scales would be bf16.
        few: Tensor = run(x, held, ones) if len(x) <= _INT8_ROWS else linear(x, held.bfloat16())
        found = few.float() * scale
        return found if bias is None else found + bias

    return product
