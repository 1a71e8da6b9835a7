"""Guided Backprop: compared with captum and with a manual layer-by-layer backward pass."""

import captum.attr
import pytest
import torch
from torch import Tensor

from pellucid import create_analyzer


@pytest.mark.filterwarnings("ignore")  # captum warns about setting hooks and gradients
def test_agrees_with_captum(network, images, targets) -> None:
    theirs = captum.attr.GuidedBackprop(network).attribute(images.clone().requires_grad_(), target=targets).detach()
    ours = create_analyzer("guided_backprop", network).analyze(images, targets)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-15)


def test_equals_a_manual_backward_pass(images, targets, activated, walk_back) -> None:
    """f′(x) max(R, 0) at rectifiers."""

    def step(inputs: Tensor, value: Tensor, signal: Tensor) -> Tensor:
        return torch.autograd.grad(value, inputs, signal.clamp(min=0))[0]

    maps = create_analyzer("guided_backprop", activated).analyze(images - 0.5, targets)
    for image, target, relevance in zip(images - 0.5, targets.tolist(), maps, strict=True):
        torch.testing.assert_close(relevance, walk_back(activated, image, target, step), rtol=1e-9, atol=1e-15)
