"""Excitation Backprop: compared with the marginal winning probability, one pair of neurons at a time."""

import pytest
import torch
from torch import Tensor, nn

from pellucid import create_analyzer


def winning(x: Tensor, layer: nn.Linear, parents: Tensor, epsilon: float) -> Tensor:
    """P(i) = Σ_j P(i|j) P(j), P(i|j) = x_i w_ji⁺ / (Σ_k x_k w_jk⁺ + b_j⁺ + ε)."""
    children = torch.zeros_like(x)
    for j in range(layer.out_features):
        weight, bias = layer.weight[j].tolist(), layer.bias[j].item()
        excitation = sum(float(x[k]) * max(w, 0) for k, w in enumerate(weight)) + max(bias, 0) + epsilon
        for i, w in enumerate(weight):
            children[i] += float(x[i]) * max(w, 0) / excitation * parents[j]
    return children


@pytest.mark.parametrize("epsilon", [1e-6, 0.1])
def test_equals_the_marginal_winning_probability(epsilon) -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 4)]
    model = nn.Sequential(*layers).double()
    images = torch.rand(5, 6, generator=torch.Generator().manual_seed(2)).double()
    targets = torch.tensor([0, 1, 2, 3, 0])
    explanation = create_analyzer("excitation_backprop", model, epsilon=epsilon).explain(images, targets, strict=True)
    for n, x in enumerate(images):
        probability = torch.eye(4).double()[targets[n]]
        for depth in (4, 2, 0):
            probability = winning(model[:depth](x).detach(), model[depth], probability, epsilon)
        torch.testing.assert_close(explanation.relevance[n], probability, rtol=1e-9, atol=1e-14)
    rest = explanation.absorbed["bias"] + explanation.absorbed["stabiliser"]  # the probability that no pixel won
    torch.testing.assert_close(explanation.relevance.sum(1) + rest, torch.ones(5).double(), rtol=1e-12, atol=0)
