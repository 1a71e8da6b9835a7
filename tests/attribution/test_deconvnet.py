"""Deconvnet: against captum, and against a walk back through the layers, one at a time."""

import captum.attr
import pytest
import torch
from torch import Tensor

from pellucid import create_analyzer


@pytest.mark.filterwarnings("ignore")  # captum warns that it sets hooks and gradients
def test_agrees_with_captum(network, images, targets) -> None:
    theirs = captum.attr.Deconvolution(network).attribute(images.clone().requires_grad_(), target=targets).detach()
    ours = create_analyzer("deconvnet", network).analyze(images, targets)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-15)


def test_equals_a_walk_back_layer_by_layer(images, targets, activated, walk_back) -> None:
    """max(R, 0) at rectifiers, whatever their input was."""

    def step(came: Tensor, value: Tensor, signal: Tensor) -> Tensor:
        return signal.clamp(min=0)

    found = create_analyzer("deconvnet", activated).analyze(images - 0.5, targets)
    for image, target, relevance in zip(images - 0.5, targets.tolist(), found, strict=True):
        torch.testing.assert_close(relevance, walk_back(activated, image, target, step), rtol=1e-9, atol=1e-15)
