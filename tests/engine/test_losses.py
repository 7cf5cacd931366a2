from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from training.engine import losses
from training.engine.config import DpoOptions, Labels, Link
from training.engine.dpo import first_loss, link_loss

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "nll": losses.preference_nll,
    "smoothed": lambda u, q: losses.smoothed_nll(u, q, epsilon=0.1),
    "robust": lambda u, q: losses.robust_nll(u, q, epsilon=0.2),
    "ipo": lambda u, q: losses.ipo(u, q, tau=0.1),
    "hinge": losses.hinge,
}
margins = st.floats(-20, 20)
shares = st.floats(0, 1)


def double(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_equal_finite_differences(name: str) -> None:
    loss = LOSSES[name]
    u = torch.linspace(-3.05, 3.05, 41, dtype=torch.float64, requires_grad=True)
    q = torch.linspace(0, 1, 41, dtype=torch.float64)
    loss(u, q).sum().backward()
    step = 1e-6
    with torch.no_grad():
        numeric = (loss(u + step, q) - loss(u - step, q)) / (2 * step)
    assert u.grad is not None
    assert float((u.grad - numeric).abs().max()) < 1e-6 * max(1.0, float(numeric.abs().max()))


@given(u=margins, q=shares)
def test_a_swapped_pair_with_a_swapped_label_is_the_same_pair(u: float, q: float) -> None:
    for loss in LOSSES.values():
        here, there = loss(double(u), double(q)), loss(double(-u), double(1 - q))
        assert math.isclose(float(here), float(there), rel_tol=1e-9, abs_tol=1e-9)


@given(q=st.floats(0.02, 0.98))
def test_the_soft_label_is_met_at_the_minimum(q: float) -> None:
    at = math.log(q / (1 - q))
    best = float(losses.preference_nll(double(at), double(q)))
    entropy = -q * math.log(q) - (1 - q) * math.log(1 - q)
    assert math.isclose(best, entropy, rel_tol=1e-9)
    for other in (at - 0.1, at + 0.1):
        assert float(losses.preference_nll(double(other), double(q))) > best


@given(q=shares)
def test_ipo_is_least_where_its_authors_say(q: float) -> None:
    tau = 0.1
    delta = torch.tensor([(q - 0.5) / tau], dtype=torch.float64, requires_grad=True)
    losses.ipo(delta, double(q), tau=tau).sum().backward()
    assert delta.grad is not None
    assert abs(float(delta.grad)) < 1e-8


@given(u=margins)
def test_the_robust_loss_is_unbiased_under_flips(u: float) -> None:
    epsilon = 0.2
    clean = float(losses.preference_nll(double(u), double(1.0)))
    kept = float(losses.robust_nll(double(u), double(1.0), epsilon=epsilon))
    flipped = float(losses.robust_nll(double(u), double(0.0), epsilon=epsilon))
    assert math.isclose((1 - epsilon) * kept + epsilon * flipped, clean, rel_tol=1e-9, abs_tol=1e-9)


def test_huge_margins_stay_finite() -> None:
    u = torch.tensor([-1e4, 1e4])
    assert bool(torch.isfinite(losses.preference_nll(u, torch.tensor([1.0, 1.0]))).all())


@pytest.mark.parametrize("link", list(Link))
def test_the_first_loss_does_not_depend_on_the_label(link: Link) -> None:
    epsilon = 0.1 if link in (Link.SMOOTHED, Link.ROBUST) else 0.0
    options = DpoOptions(link=link, epsilon=epsilon, labels=Labels.HARD)
    q = torch.tensor([0.0, 0.3, 0.5, 1.0], dtype=torch.float64)
    found = link_loss(options, torch.zeros(4, dtype=torch.float64), q)
    assert found.tolist() == pytest.approx([first_loss(options)] * 4, rel=1e-12)
