"""Grad-CAM++: the weights of the paper, loop by loop, from derivatives of the exponential score."""

import pytest
import torch
from torch import Tensor, nn

from pellucid import create_analyzer


def by_formula(body: nn.Module, head: nn.Module, image: Tensor, target: int) -> Tensor:
    """Equations 10, 11 and 19 with Y = exp(S), divided by the factor exp(S)."""
    maps = body(image[None]).detach().requires_grad_()
    score = head(maps)[0, target]
    slope = torch.autograd.grad(score, maps)[0][0]
    factor, maps = score.exp().detach(), maps[0].detach()
    result = torch.zeros(maps.shape[1:]).double()
    for k in range(len(maps)):
        first, second, third = (factor * slope[k] ** power for power in (1, 2, 3))
        below = 2 * second + maps[k].sum() * third
        alpha = torch.where(second > 0, second / torch.where(second > 0, below, 1.0), 0.0)
        result += (alpha * first.clamp(min=0)).sum() * maps[k]
    return result / factor


def test_equals_the_formula(network, images) -> None:
    explanation = create_analyzer("grad_cam_pp", network).explain(images, 3)
    for image, plain in zip(images, explanation.details["map"], strict=True):
        torch.testing.assert_close(plain, by_formula(network[:5], network[5:], image, 3), rtol=1e-9, atol=1e-14)
    assert not any("negative" in note for note in explanation.notes)


def test_one_of_two_equal_objects_does_not_halve_the_weight() -> None:
    """Maps of ones at one or two positions with equal effect: the weight per position stays about the same."""
    head = nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(16, 1, bias=False)).double()
    head[2].weight.data.fill_(1.0)
    for count in (1, 2, 8):
        image = torch.zeros(1, 1, 4, 4).double()
        image.view(-1)[:count] = 1
        largest = create_analyzer("grad_cam_pp", head, layer="0").explain(image, 0).details["map"].max()
        torch.testing.assert_close(float(largest), 16 / (2 + count))


def test_negative_maps_add_a_note(network, images) -> None:
    explanation = create_analyzer("grad_cam_pp", network, layer="3").explain(1000 * images, 3)
    assert any("negative values" in note for note in explanation.notes)
    assert bool(explanation.relevance.isfinite().all())


@pytest.mark.parametrize("relu", [True, False])
def test_relu_is_an_option(network, images, relu) -> None:
    explanation = create_analyzer("grad_cam_pp", network, layer="0", relu=relu).explain(images, 3)
    assert bool((explanation.details["map"] < 0).any())
    assert bool((explanation.relevance < 0).any()) != relu
