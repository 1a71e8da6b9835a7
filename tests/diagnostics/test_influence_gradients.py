"""Per-sample gradients compared with autograd, image by image."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pellucid.diagnostics import _gradients
from pellucid.diagnostics._gradients import Gradients, last_parameters, margin_of
from pellucid.engine.model import frozen


def network() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    ).double()
    model[1].running_mean.normal_()
    return model


@pytest.mark.parametrize("objective", ["margin", "loss"])
@pytest.mark.parametrize("values", [10**9, 1])
def test_gradients_equal_autograd_of_single_images(
    objective: str, values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_gradients, "GRADIENT_VALUES", values)  # one batch, or one image at a time
    model, other = network().eval(), network().eval()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1)
    images, labels = torch.rand(5, 2, 6, 6), torch.tensor([0, 2, 1, 1, 0])
    with frozen(model):
        batches = list(Gradients.of(model, other.state_dict()).batches(images, labels, objective))
    assert len(batches) == (1 if values > 1 else 5)
    gradients, logits = (torch.cat([batch[part] for batch in batches]) for part in (1, 2))
    for row in range(5):
        own = other(images[[row]].double())
        p = own.softmax(1)[0, labels[row]]
        value = (p / (1 - p)).log() if objective == "margin" else F.cross_entropy(own, labels[[row]])
        expected = torch.cat([one.flatten() for one in torch.autograd.grad(value, list(other.parameters()))])
        torch.testing.assert_close(gradients[row], expected)
        torch.testing.assert_close(logits[row], own[0].detach())


def test_margin_is_finite_for_certain_predictions() -> None:
    logits = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True)
    value = margin_of(logits, torch.tensor([[1.0, 0.0, 0.0]]))
    value.sum().backward()
    assert value.item() == pytest.approx(200 - torch.tensor(2.0).log().item())
    torch.testing.assert_close(logits.grad, torch.tensor([[1.0, -0.5, -0.5]]))


def test_last_parameters_fit_the_limit() -> None:
    model = network()
    assert last_parameters(model, 10**6) is None
    assert last_parameters(model, 60) == ["1.weight", "1.bias", "5.weight", "5.bias"]
    assert last_parameters(model, 1) == ["5.bias"]
