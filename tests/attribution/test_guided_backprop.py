"""Guided Backprop: compared with captum and with a manual layer-by-layer backward pass."""

import captum.attr
import pytest
import torch
from torch import Tensor, nn

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


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "change", [lambda r: 0.9 * r**2 - 0.4, lambda r: 1.5 * r - 3, lambda r: 3 - r, lambda r: r * r]
)
def test_sees_a_rectifier_that_is_squared_shifted_or_negated(change) -> None:
    class Changed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.relu, self.last = nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(change(self.relu(self.first(x))))

    torch.manual_seed(0)
    model, x = Changed().double().eval(), torch.randn(3, 12).double()
    theirs = captum.attr.GuidedBackprop(model).attribute(x.clone().requires_grad_(), target=2).detach()
    assert not torch.allclose(theirs, create_analyzer("gradient", model).analyze(x, 2))
    torch.testing.assert_close(create_analyzer("guided_backprop", model).analyze(x, 2), theirs, rtol=1e-9, atol=1e-15)
