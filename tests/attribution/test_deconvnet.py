"""Deconvnet: against captum, and against a walk back through the layers, one at a time."""

import captum.attr
import pytest
import torch
from torch import Tensor, nn

from pellucid import create_analyzer

RECTIFIERS = (nn.ReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Softplus)
ACTIVATIONS = (*RECTIFIERS, nn.Tanh, nn.Sigmoid)


def walk_back(model: nn.Sequential, image: Tensor, target: int) -> Tensor:
    """R at the image: the derivative of each layer, and at rectifiers max(R, 0), whatever the input was."""
    walk, value = [], image[None]
    for layer in model:
        came = value.detach().requires_grad_()
        value = layer(came)
        walk.append((layer, came, value))
    signal = torch.zeros_like(value)
    signal[0, target] = 1
    for layer, came, value in reversed(walk):
        is_rectifier = isinstance(layer, RECTIFIERS)
        signal = signal.clamp(min=0) if is_rectifier else torch.autograd.grad(value, came, signal)[0]
    return signal[0]


@pytest.mark.filterwarnings("ignore")  # captum warns that it sets hooks and gradients
def test_agrees_with_captum(network, images, targets) -> None:
    theirs = captum.attr.Deconvolution(network).attribute(images.clone().requires_grad_(), target=targets).detach()
    ours = create_analyzer("deconvnet", network).analyze(images, targets)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_equals_a_walk_back_layer_by_layer(images, targets, activation) -> None:
    torch.manual_seed(1)
    layers = [nn.Conv2d(1, 4, 3, padding=1), activation(), nn.AvgPool2d(2), nn.Conv2d(4, 6, 3), activation()]
    layers += [nn.MaxPool2d(2, 1), nn.Flatten(), nn.Linear(24, 9), activation(), nn.Linear(9, 5)]
    model = nn.Sequential(*layers).double().eval()
    found = create_analyzer("deconvnet", model).analyze(images - 0.5, targets)
    for image, target, relevance in zip(images - 0.5, targets.tolist(), found, strict=True):
        torch.testing.assert_close(relevance, walk_back(model, image, target), rtol=1e-9, atol=1e-15)
