"""Deep Taylor decomposition: compared with the z⁺ and z^B formulas, one pair of neurons at a time."""

import pytest
import torch
from torch import Tensor, nn

from pellucid import create_analyzer

STABILISER = 1e-6


@pytest.fixture(scope="module")
def dense() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 4)).double()


def z_plus(x: Tensor, weight: Tensor, arrived: Tensor) -> Tensor:
    """R_i = Σ_j (x_i w_ji)⁺ / Σ_k (x_k w_jk)⁺ · R_j."""
    shares = torch.zeros_like(x)
    for j, relevance in enumerate(arrived.tolist()):
        parts = [max(float(x[i] * weight[j, i]), 0) for i in range(len(x))]
        for i, part in enumerate(parts):
            shares[i] += part / (sum(parts) + STABILISER) * relevance
    return shares


def z_box(x: Tensor, weight: Tensor, arrived: Tensor, low: float, high: float) -> Tensor:
    """R_i = Σ_j q_ji / Σ_k q_jk · R_j, with q_ji = x_i w_ji − l w_ji⁺ − h w_ji⁻."""
    shares = torch.zeros_like(x)
    for j, relevance in enumerate(arrived.tolist()):
        row = weight[j].tolist()
        parts = [float(x[i]) * w - low * max(w, 0) - high * min(w, 0) for i, w in enumerate(row)]
        for i, part in enumerate(parts):
            shares[i] += part / (sum(parts) + STABILISER) * relevance
    return shares


@pytest.mark.parametrize("target", range(4))
def test_equals_the_formula(dense, target) -> None:
    images = torch.rand(5, 6, generator=torch.Generator().manual_seed(2)).double() * 2 - 1
    plain = create_analyzer("deep_taylor", dense).analyze(images, target)
    bounded = create_analyzer("deep_taylor.bounded", dense, low=-1, high=1.5).analyze(images, target)
    for n, x in enumerate(images):
        hidden, logit = dense[:2](x).detach(), float(dense(x).detach()[target])
        start = torch.zeros(4).double()
        start[target] = max(logit, 0)
        middle = z_plus(hidden, dense[2].weight.detach(), start)
        weight = dense[0].weight.detach()
        torch.testing.assert_close(plain[n], z_plus(x, weight, middle), rtol=1e-9, atol=1e-14)
        torch.testing.assert_close(bounded[n], z_box(x, weight, middle, -1, 1.5), rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("name", ["deep_taylor", "deep_taylor.bounded"])
def test_negative_logit_has_a_zero_map(dense, name) -> None:
    images = torch.rand(8, 6, generator=torch.Generator().manual_seed(2)).double()
    lowest, highest = dense(images).detach().min(1), dense(images).detach().max(1)
    assert (lowest.values < 0).all()
    assert (highest.values > 0).any()
    analyzer = create_analyzer(name, dense)
    assert not analyzer.analyze(images, lowest.indices).any()
    relevance = analyzer.analyze(images, highest.indices)
    assert not relevance[highest.values <= 0].any()
    assert relevance[highest.values > 0].any()
    assert (relevance >= 0).all()
