"""Input times gradient: compared with captum and a closed form; sums to the logit where documented."""

import captum.attr
import pytest
import torch
from torch import nn

from pellucid import create_analyzer


@pytest.mark.filterwarnings("ignore")  # captum warns about setting gradients
def test_agrees_with_captum(network, images, targets) -> None:
    theirs = captum.attr.InputXGradient(network).attribute(images.clone().requires_grad_(), target=targets).detach()
    ours = create_analyzer("input_x_gradient", network).analyze(images, targets)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-15)


def test_equals_the_closed_form(squares) -> None:
    x = torch.tensor([0.5, -1.0, 2.0, 0.1]).double()
    relevance = create_analyzer("input_x_gradient", squares).analyze(x.view(1, 1, 2, 2), 1).flatten()
    torch.testing.assert_close(relevance, squares.a[1].detach() * x**2, rtol=1e-12, atol=0)


def test_sums_to_the_logit_without_biases(images) -> None:
    torch.manual_seed(2)
    layers = [nn.Conv2d(1, 3, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(48, 5, bias=False)]
    model = nn.Sequential(*layers).double()
    sums = create_analyzer("input_x_gradient", model).analyze(images, 2).flatten(1).sum(1)
    torch.testing.assert_close(sums, model(images)[:, 2].detach(), rtol=1e-9, atol=1e-12)
