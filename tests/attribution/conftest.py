"""Shared fixtures for method tests: a small network with max-pooling and biases, and images for it, in float64."""

import gc
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn


@pytest.fixture(scope="session")
def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(72, 16), nn.ReLU(), nn.Linear(16, 5)).double().eval()


@pytest.fixture(scope="session")
def images() -> Tensor:
    return torch.rand(4, 1, 10, 10, generator=torch.Generator().manual_seed(1)).double()


@pytest.fixture(scope="session")
def targets() -> Tensor:
    return torch.tensor([0, 1, 4, 2])


class Squares(nn.Module):
    """Logit c is Σ_i a_ci x_i² / 2, whose gradient a_c ⊙ x is linear."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor([[1.0, -2.0, 0.5, 3.0], [2.0, 1.0, -1.0, 0.0]]).double())

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).square() @ self.a.T / 2


@pytest.fixture(scope="session")
def squares() -> Squares:
    return Squares()


class Counting(nn.Module):
    """A linear model that records the batch size of each call and, occasionally, the bytes of live tensors."""

    def __init__(self, places: int = 16) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(places, 3).double()
        self.sizes: list[int] = []
        self.bytes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        if len(self.sizes) in (10, 250):  # scanning all objects is slow
            living = [thing for thing in gc.get_objects() if type(thing) is Tensor and _has_storage(thing)]
            storages = [thing.untyped_storage() for thing in living]
            self.bytes.append(sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values()))
        return self.linear(x.flatten(1))


def _has_storage(tensor: Tensor) -> bool:
    """False for tensors of other tests that hold no values of their own: sparse, meta, fake or inside transforms."""
    return tensor.layout == torch.strided and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)


@pytest.fixture
def counting() -> Counting:
    return Counting()


RECTIFIERS = (nn.ReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Softplus)


@pytest.fixture(params=[*RECTIFIERS, nn.Tanh, nn.Sigmoid])
def activated(request: pytest.FixtureRequest) -> nn.Sequential:
    """A network with one kind of activation and both kinds of pooling."""
    torch.manual_seed(1)
    kind = request.param
    layers = [nn.Conv2d(1, 4, 3, padding=1), kind(), nn.AvgPool2d(2), nn.Conv2d(4, 6, 3), kind()]
    layers += [nn.MaxPool2d(2, 1), nn.Flatten(), nn.Linear(24, 9), kind(), nn.Linear(9, 5)]
    return nn.Sequential(*layers).double().eval()


Step = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Function from (layer input, layer output, signal at the output) to the signal at the input."""


@pytest.fixture(scope="session")
def walk_back() -> Callable[[nn.Sequential, Tensor, int, Step], Tensor]:
    """Backpropagate a signal layer by layer, with the derivative of each layer and a custom step at rectifiers."""

    def walk(model: nn.Sequential, image: Tensor, target: int, at_rectifiers: Step) -> Tensor:
        stages, value = [], image[None]
        for layer in model:
            inputs = value.detach().requires_grad_()
            value = layer(inputs)
            stages.append((layer, inputs, value))
        signal = torch.zeros_like(value)
        signal[0, target] = 1
        for layer, inputs, value in reversed(stages):
            step = at_rectifiers if isinstance(layer, RECTIFIERS) else derivative
            signal = step(inputs, value, signal)
        return signal[0]

    return walk


def derivative(inputs: Tensor, value: Tensor, signal: Tensor) -> Tensor:
    return torch.autograd.grad(value, inputs, signal)[0]
