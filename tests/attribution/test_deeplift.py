"""DeepLIFT: equal to captum where the rules agree, and complete where captum is not."""

import captum.attr
import pytest
import torch
from torch import Tensor, nn

from pellucid import create_analyzer
from pellucid.core.errors import ShapeError


def network(activation: type[nn.Module], *between: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    head = [nn.Flatten(), nn.LazyLinear(9), activation(), nn.Linear(9, 5)]
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), activation(), nn.Conv2d(4, 6, 3), *between, activation(), *head
    )
    model.double().eval()(torch.zeros(1, 1, 12, 12).double())
    return model


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 1, 12, 12, generator=torch.Generator().manual_seed(1)).double()


@pytest.mark.filterwarnings("ignore")  # captum warns about its hooks
@pytest.mark.parametrize("baseline", [0.0, 0.4])
def test_agrees_with_captum_on_relu_networks_without_max_pooling(images, baseline) -> None:
    model = network(nn.ReLU, nn.BatchNorm2d(6), nn.AvgPool2d(2))
    targets = torch.tensor([0, 3, 1])
    theirs = captum.attr.DeepLift(model).attribute(images.clone(), baselines=baseline, target=targets).detach()
    ours = create_analyzer("deeplift", model, baseline=baseline).analyze(images, targets)
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < 1e-6


@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Sigmoid, nn.Tanh])
@pytest.mark.parametrize(
    "between", [nn.MaxPool2d(2), nn.MaxPool2d(3, 1, 1), nn.AdaptiveMaxPool2d(3), nn.LayerNorm([6, 10, 10])], ids=repr
)
def test_is_complete_with_every_activation_and_pooling(images, activation, between) -> None:
    model = network(activation, between)
    explanation = create_analyzer("deeplift", model, baseline=0.2).explain(images, 1, strict=True)
    expected = (model(images) - model(0 * images + 0.2))[:, 1].detach()
    torch.testing.assert_close(explanation.relevance.flatten(1).sum(1), expected, rtol=1e-9, atol=1e-12)
    single = create_analyzer("deeplift", model.float(), baseline=0.2).explain(images.float(), 1)
    assert (single.residual.abs() <= single.allowed).all()


def test_baseline_is_a_single_image(images) -> None:
    model = network(nn.ReLU)
    one = create_analyzer("deeplift", model, baseline=torch.full((1, 1, 12, 12), 0.3).double()).analyze(images)
    torch.testing.assert_close(one, create_analyzer("deeplift", model, baseline=0.3).analyze(images))
    with pytest.raises(ShapeError, match="one image for all"):
        create_analyzer("deeplift", model, baseline=images).analyze(images)
