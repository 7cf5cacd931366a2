"""Weights as a decoder holds them: the products of the layers they came from, within what each format keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from tests.engine.tiny import tiny_model
from training.engine import models
from training.engine.held_weights import has_plain_weight, hold, joined, plain_weight
from training.engine.sections import Weights


def _numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rows", [1, 3, 32, 200])
@pytest.mark.parametrize("bias", [None, _numbers(40, seed=2)])
def test_a_held_product_is_the_layers_own(rows: int, bias: Tensor | None) -> None:
    x, weight = _numbers(rows, 48), _numbers(40, 48, seed=1)
    exact = linear(x, weight, bias)
    with torch.no_grad():
        assert (hold(weight, bias, weights=Weights.FP32, rows=rows)(x) - exact).abs().max() < 1e-4
        assert (hold(weight, bias, weights=Weights.BF16, rows=rows)(x) - exact).abs().max() < 0.02 * exact.abs().max()


def test_int8_keeps_each_weight_within_half_a_step_of_its_row() -> None:
    weight = _numbers(40, 48) * torch.logspace(-3, 2, 40)[:, None]  # rows of very different size
    with torch.no_grad():
        held = hold(weight, None, weights=Weights.INT8, rows=8)(
            torch.eye(48)
        ).T  # bf16 holds 0, 1 and integers up to 256
    assert ((held - weight).abs() <= weight.abs().amax(1, keepdim=True) / 127 / 2 * 1.001).all()


def test_int8_is_the_same_product_for_few_rows_and_for_many() -> None:
    product = hold(_numbers(40, 48), None, weights=Weights.INT8, rows=8)
    x = _numbers(200, 48, seed=3)
    with torch.no_grad():
        many, few = product(x), torch.cat([product(rows) for rows in x.split(8)])
    assert (many - few).abs().max() <= 2**-7 * many.abs().max()  # one rounding to bf16 may fall otherwise


def test_joined_layers_give_their_outputs_side_by_side() -> None:
    for biases in ((True, True, True), (False, False, False), (True, False, True)):
        layers = [nn.Linear(48, n, bias=bias) for n, bias in zip((40, 8, 8), biases, strict=True)]
        x = _numbers(5, 48)
        with torch.no_grad():
            together = joined(layers, weights=Weights.FP32, rows=8)(x)
            assert (together - torch.cat([layer(x) for layer in layers], dim=-1)).abs().max() < 1e-5


def test_the_weight_under_an_adapter_is_that_of_base_and_adapters_that_are_on(tmp_path: Path) -> None:
    model = _adapted(tmp_path)
    layer = models.trunk(model).layers[0].self_attn.q_proj
    x = _numbers(4, 32)
    assert has_plain_weight(layer)
    with torch.no_grad():
        weight, bias = plain_weight(layer)
        assert bias is None
        assert (linear(x, weight) - layer(x)).abs().max() < 1e-5
        with models.adapters_off(model):
            assert torch.equal(plain_weight(layer)[0], layer.base_layer.weight)


def test_a_layer_that_is_no_plain_product_is_known_as_such() -> None:
    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    assert has_plain_weight(nn.Linear(3, 3))
    assert not has_plain_weight(Doubled(3, 3))


def _adapted(tmp_path: Path) -> Any:
    model = models.add_lora(models.load_policy(tiny_model(tmp_path / "m", spread=0.3)), seed=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
    return model
