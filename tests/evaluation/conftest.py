"""Fixtures for metrics: a linear model, a small network, and methods with given maps."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pellucid.attribution import create_analyzer
from pellucid.evaluation import Case, Explainer


class Given(Explainer):
    """A method whose map is a given function of images and targets."""

    def __init__(self, case: Case, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__(create_analyzer("constant", case.model), case)
        self.function, self.label = function, "given"

    def __call__(self, images: Tensor, targets: Tensor, model: nn.Module | None = None) -> Tensor:
        return self.function(images, targets)


@pytest.fixture(scope="session")
def given() -> type[Given]:
    return Given


@pytest.fixture(scope="session")
def by_name() -> Callable[..., Explainer]:
    """Create a registered method for a case."""

    def make(case: Case, name: str, **options: Any) -> Explainer:
        return Explainer(create_analyzer(name, case.model, **options), case)

    return make


@pytest.fixture(scope="session")
def make_case() -> Callable[..., Case]:
    """Create a case from a model and random images, explaining the predicted classes."""

    def make(model: nn.Module, count: int = 3, size: tuple[int, int] = (6, 6), **more: Any) -> Case:
        draws = torch.Generator().manual_seed(1)
        images = torch.rand(count, more.pop("channels", 1), *size, generator=draws, dtype=torch.float64)
        model = model.double().eval().requires_grad_(False)
        return Case(model, images, model(images).argmax(1), **more)

    return make


@pytest.fixture
def linear(make_case: Callable[..., Case]) -> Case:
    """A model with logits w·x + b on 6×6 images."""
    torch.manual_seed(0)
    return make_case(nn.Sequential(nn.Flatten(), nn.Linear(36, 3)))


@pytest.fixture
def network(make_case: Callable[..., Case]) -> Case:
    """Two convolutions with a batch norm, and a linear layer, on 8×8 images."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    )
    model[1].running_mean.normal_(0, 0.2)
    model[1].running_var.uniform_(0.5, 2)
    nn.init.constant_(model[3].bias, 0.5)  # so that no image has a zero gradient
    return make_case(model, size=(8, 8))


@pytest.fixture
def masked(network: Case) -> Case:
    """The network's case with masks of 2×4 pixels for the first two of its three images."""
    network.masks = torch.zeros(3, 8, 8, dtype=torch.bool)
    network.masks[:2, :2, :4] = True
    return network


@pytest.fixture(scope="session")
def quantus() -> tuple[Case, dict[str, np.ndarray]]:
    """A network, images and maps with the results of Quantus 0.6.0, from `benchmarks/evaluation.py --reference`."""
    kept = dict(np.load(Path(__file__).parent / "quantus.npz"))
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    model.load_state_dict({key[8:]: torch.from_numpy(kept[key]) for key in kept if key.startswith("weights.")})
    model.eval().requires_grad_(False)
    return Case(model, torch.from_numpy(kept["images"]), torch.from_numpy(kept["targets"])), kept
