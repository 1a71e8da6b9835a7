"""Conductance against its definition, and through hidden units against captum."""

import captum.attr as captum
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pellucid import Unit, create_analyzer
from pellucid.core.errors import ConfigError


@pytest.fixture
def smooth() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Conv2d(4, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 5)]
    return nn.Sequential(*layers).double().eval()


@pytest.fixture
def x() -> Tensor:
    return torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_sums_to_the_change_of_the_logit_at_each_layer(smooth, x) -> None:
    explained = create_analyzer("conductance", smooth, steps=24).explain(x, 3, to=["0", "1", "3"], strict=True)
    change = (smooth(x) - smooth(torch.zeros_like(x)))[:, 3].detach()
    for one in explained.values():
        torch.testing.assert_close(one.expected, change)
        torch.testing.assert_close(one.relevance.flatten(1).sum(1), change, rtol=2e-3, atol=1e-4)


def test_converges_to_the_integral_of_the_definition(smooth, x) -> None:
    own = create_analyzer("conductance", smooth, steps=64).analyze(x, 3, to="1")
    places, weights = np.polynomial.legendre.leggauss(10)
    total = torch.zeros_like(own)
    for place, weight in zip((places + 1) / 2, weights / 2, strict=True):
        # dy/da by central differences
        after, before = (smooth[:2](x * (place + step)).detach() for step in (1e-5, -1e-5))
        leaf = smooth[:2](x * place).detach().requires_grad_()
        slope = torch.autograd.grad(smooth[2:](leaf)[:, 3].sum(), leaf)[0]
        total += weight * slope * (after - before) / 2e-5
    torch.testing.assert_close(own, total, rtol=1e-3, atol=1e-5)


def test_is_integrated_gradients_at_the_input(smooth, x) -> None:
    own = create_analyzer("conductance", smooth, steps=64).analyze(x, 3)
    whole = create_analyzer("integrated_gradients", smooth, steps=20).analyze(x, 3)
    torch.testing.assert_close(own, whole, rtol=1e-3, atol=1e-5)


def test_promises_no_sum_where_other_paths_bypass_the_layer(x) -> None:
    class Skipping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Linear(64, 64), nn.Linear(64, 2)

        def forward(self, images: Tensor) -> Tensor:
            rows = images.flatten(1)
            return self.head(rows + self.inner(rows).tanh())

    assert create_analyzer("conductance", Skipping().double()).explain(x, 1, to="inner").expected is None


def test_flow_through_a_unit_agrees_with_captum(smooth, x) -> None:
    own = create_analyzer("conductance", smooth, steps=8, through=Unit("1", 2, (1, 2))).analyze(x, 3)
    peer = captum.NeuronConductance(smooth, smooth[1])
    theirs = peer.attribute(x, (2, 1, 2), target=3, n_steps=8, method="gausslegendre")
    torch.testing.assert_close(own, theirs, rtol=1e-5, atol=1e-8)


def test_flows_through_all_channels_sum_to_integrated_gradients(smooth, x) -> None:
    whole = create_analyzer("integrated_gradients", smooth, steps=8).analyze(x, 3)
    parts = [
        create_analyzer("conductance", smooth, steps=8, through=Unit("1", channel, "mean")).analyze(x, 3)
        for channel in range(4)
    ]
    torch.testing.assert_close(sum(parts), whole)


def test_flow_through_a_unit_is_that_of_the_input(smooth, x) -> None:
    with pytest.raises(ConfigError, match="omit to="):
        create_analyzer("conductance", smooth, through=Unit("1", 2)).analyze(x, 3, to="1")
