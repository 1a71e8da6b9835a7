"""Internal influence against its definition; `test_hidden` compares it with captum."""

import torch
from torch import nn

from pellucid import create_analyzer


def test_times_the_change_is_integrated_gradients_at_the_input(network, images, targets) -> None:
    baseline = 0.3
    own = create_analyzer("internal_influence", network, steps=9, baseline=baseline).analyze(images, targets)
    whole = create_analyzer("integrated_gradients", network, steps=9, baseline=baseline).analyze(images, targets)
    torch.testing.assert_close(own * (images - baseline), whole)


def test_is_the_mean_gradient_on_the_path_of_a_square() -> None:
    class Squared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 3, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x).square().sum(1, keepdim=True)

    model, x = Squared().double(), torch.rand(4, 3, dtype=torch.float64)
    # ∂/∂y Σ y² = 2y, and the mean of y(a) on the path from 0 is y / 2
    own = create_analyzer("internal_influence", model, steps=3).analyze(x, 0, to="inner")
    torch.testing.assert_close(own, model.inner(x).detach())
