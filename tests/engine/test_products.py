"""Products by oneDNN: those of PyTorch to fp32's own precision, forward and backward, in whatever way they lie."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.engine.tiny import tiny_model
from training.engine import models, products

needs_onednn = pytest.mark.skipif(not products.has_onednn(), reason="no AVX-512, so products go by PyTorch's own way")


def _error(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).abs().max() / exact.abs().max())


@pytest.mark.parametrize("rows", [1, 7, 300])
@pytest.mark.parametrize("ways", ["plain", "first turned", "second turned", "both turned", "sliced"])
def test_a_product_has_the_precision_of_fp32(rows: int, ways: str) -> None:
    generator = torch.Generator().manual_seed(rows)
    a, b = torch.randn(rows, 96, generator=generator), torch.randn(96, 40, generator=generator)
    if ways in ("first turned", "both turned"):
        a = a.t().contiguous().t()
    if ways in ("second turned", "both turned"):
        b = b.t().contiguous().t()
    if ways == "sliced":
        a, b = torch.cat([a, a], dim=1)[:, 96:], torch.cat([b, b], dim=1)[:, :40]
    assert _error(products.matmul(a, b), a.double() @ b.double()) < 2e-6


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3, 5), (5,)])
def test_a_layer_has_the_values_and_gradients_of_the_exact_one(bias: bool, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(1)
    layer = nn.Linear(24, 17, bias=bias)
    exact = copy.deepcopy(layer).double()
    products.use(layer)
    x = torch.randn(*shape, 24, generator=generator, requires_grad=True)
    slope = torch.randn(*shape, 17, generator=generator)
    x64 = x.detach().double().requires_grad_(True)
    found, wanted = layer(x), exact(x64)
    found.backward(slope)
    wanted.backward(slope.double())
    assert found.shape == wanted.shape
    assert _error(found, wanted) < 2e-6
    assert x.grad is not None and x64.grad is not None
    assert _error(x.grad, x64.grad) < 2e-6
    for own, other in zip(layer.parameters(), exact.parameters(), strict=True):
        assert own.grad is not None and other.grad is not None
        assert _error(own.grad, other.grad) < 2e-6


@needs_onednn
def test_a_frozen_layer_gets_no_gradient_and_its_input_does() -> None:
    layer = nn.Linear(8, 8)
    products.use(layer)
    layer.requires_grad_(False)
    x = torch.randn(4, 8, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    assert layer.weight.grad is None


@needs_onednn
def test_every_linear_layer_of_a_loaded_model_takes_its_products_here(tmp_path: Path) -> None:
    model = models.add_lora(models.load_policy(tiny_model(tmp_path / "policy")), seed=0, rank=2, alpha=4)
    kinds = {type(module) for module in model.modules() if isinstance(module, nn.Linear)}
    assert kinds == {products.Linear}


def test_other_types_and_autocast_keep_to_pytorch() -> None:
    layer = nn.Linear(8, 4)
    plain = copy.deepcopy(layer)
    products.use(layer)
    x = torch.randn(3, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer(x), plain(x))
    assert torch.equal(layer.double()(x.double()), plain.double()(x.double()))
    empty = layer.float()(x[:0])
    assert empty.shape == (0, 4)
