"""Eigen-CAM: compared with power iteration, exact small cases, and the rule for the sign."""

import pytest
import torch
from torch import Tensor, nn

from pellucid import create_analyzer
from pellucid.attribution.eigen_cam import first_component


def by_power_iteration(maps: Tensor, centred: bool) -> Tensor:
    """Project each image's maps onto the dominant eigenvector of Σᵢ aᵢ aᵢᵀ, found by repeated multiplication."""
    result = []
    for image in maps:
        rows = image.flatten(1).T
        rows = rows - rows.mean(0) if centred else rows
        vector = torch.ones(rows.shape[1]).double() + torch.arange(rows.shape[1]) / 7
        for _ in range(3000):
            vector = rows.T @ (rows @ vector)
            vector = vector / vector.norm()
        result.append((rows @ (vector if vector.sum() > 0 else -vector)).view(image.shape[1:]))
    return torch.stack(result)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("layer", ["0", "1", "4"])
def test_equals_power_iteration(network, images, layer, centred) -> None:
    explanation = create_analyzer("eigen_cam", network, layer=layer, centred=centred).explain(images)
    maps = network[: int(layer) + 1](images).detach()
    torch.testing.assert_close(explanation.details["map"], by_power_iteration(maps, centred), rtol=1e-6, atol=1e-9)
    assert bool((explanation.details["explained_share"] > 1 / maps.shape[1]).all())
    assert bool((explanation.details["explained_share"] <= 1).all())


def test_map_has_no_negative_values_after_a_relu(network, images) -> None:
    explanation = create_analyzer("eigen_cam", network).explain(images, "all")
    assert bool((explanation.details["map"] >= -1e-12).all())
    assert torch.equal(explanation.relevance[:, 0], explanation.relevance[:, 3])


@pytest.mark.parametrize("seed", range(5))
def test_positive_where_the_activations_are_high(seed) -> None:
    values = torch.randn(6, 5, 4, 3, generator=torch.Generator().manual_seed(seed)).double()
    maps, share, is_balanced = first_component(values)
    assert bool(((maps * values.sum(1)).flatten(1).sum(1) > 0).all())
    assert not bool(is_balanced.any())
    # σ₁² is the squared length of the projection
    torch.testing.assert_close(share, maps.flatten(1).square().sum(1) / values.flatten(1).square().sum(1))
    torch.testing.assert_close(first_component(3 * values)[0], 3 * maps)


def test_exact_cases() -> None:
    one, zero = torch.tensor([1.0, 2.0, 2.0]), torch.zeros(3)
    values = torch.stack([torch.stack(pair) for pair in ((one, zero), (-one, -one), (zero, zero))])
    maps, share, _ = first_component(values)
    torch.testing.assert_close(maps, torch.tensor([[1.0, 2, 2], [-(2**0.5), -2 * 2**0.5, -2 * 2**0.5], [0, 0, 0]]))
    torch.testing.assert_close(share, torch.tensor([1.0, 1.0, 0.0]))
    assert first_component(torch.stack([one, -one])[None])[2].tolist() == [True]


def test_arbitrary_signs_are_noted() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Flatten(), nn.Linear(18, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1))
    notes = create_analyzer("eigen_cam", model, layer="0").explain(torch.rand(1, 1, 3, 3)).notes
    assert any("sign of their map is arbitrary" in note for note in notes)


def test_no_gradient_is_needed(images) -> None:
    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 3, 3), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x).detach().mean((2, 3)))

    model = Detached().double()
    expected = by_power_iteration(model.a(images).detach(), centred=False)
    found = create_analyzer("eigen_cam", model, layer="a").explain(images).details["map"]
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
