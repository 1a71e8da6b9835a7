"""Networks of many kinds, with random weights, for tests of programs."""

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid.core.preprocessing import Preprocessing
from pellucid.models import MODELS
from pellucid.models._adapted import adapted

__all__ = ["ACTIVATIONS", "CLASSES", "NETWORKS", "random_images", "random_network"]

CLASSES = 5


class Residual(nn.Module):
    """Functional calls, a residual sum, groups, dilation, named padding, and poolings with unusual windows."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding="same", dilation=2)
        self.second = nn.Conv2d(6, 6, (3, 5), padding="same", groups=2)
        self.last = nn.Linear(6 * 4 * 5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.first(x))
        x = x + F.silu(self.second(x))
        x = F.avg_pool2d(x, 3, 2, 1, ceil_mode=True)
        return self.last(F.adaptive_max_pool2d(x, (4, 5)).flatten(1))


class Branches(nn.Module):
    """Branches joined before a batch norm, asymmetric padding, a constant, a crop and a global mean."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(1, 3, 3, padding=1, bias=False)
        self.right = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(7)
        self.last = nn.Conv2d(7, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad((x - 0.2) / 0.3, (1, 2, 0, 1))
        x = torch.sigmoid(self.norm(torch.cat([self.left(x), self.right(x)], 1)))
        return self.last(x[:, :, 1:]).mean((2, 3))


class HandWritten(nn.Module):
    """Formulas instead of layers: GELU by tanh, a softplus, a permutation, upsampling and a scale per channel."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 2, 3, 3) / 3)
        self.matrix = nn.Parameter(torch.randn(4 * 6 * 8, CLASSES) / 14)
        self.scale = nn.Parameter(torch.rand(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.conv2d(x, self.weight, stride=2, padding=1)
        x = 0.5 * x * (1 + torch.tanh(0.7978845608 * (x + 0.044715 * x**3)))
        x = F.interpolate(x, scale_factor=2, mode="bilinear") * self.scale
        x = F.softplus(F.max_pool2d(x, (3, 2), (2, 1), (1, 0), ceil_mode=True))[:, :, :6, :8]
        return x.permute(0, 2, 3, 1).reshape(len(x), -1) @ self.matrix


class FlattenedFirst(nn.Module):
    """Elementwise operations on the flattened image: a shift, a function, and a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(60)
        self.last = nn.Linear(60, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(F.relu(x.flatten(1)) + (x.flatten(1) - 0.5))
        return self.last(F.relu(x.view(-1, 3, 20)).flatten(1))


def _layers(*layers: nn.Module, size: tuple[int, int, int]) -> tuple[nn.Module, tuple[int, int, int]]:
    """End a chain of layers with a linear layer of `CLASSES` units."""
    body = nn.Sequential(*layers, nn.Flatten())
    with torch.no_grad():
        units = body.eval()(torch.zeros(1, *size)).shape[1]
    return nn.Sequential(body, nn.Linear(units, CLASSES)), size


def _library(name: str, size: tuple[int, int, int]) -> tuple[nn.Module, tuple[int, int, int]]:
    return MODELS[name](channels=size[0], classes=CLASSES, image_size=size[1:]), size


ACTIVATIONS = (
    nn.ReLU(), nn.LeakyReLU(0.2), nn.ReLU6(), nn.ELU(0.7), nn.CELU(1.3), nn.SELU(), nn.GELU(), nn.GELU("tanh"),
    nn.SiLU(), nn.Mish(), nn.Softplus(2.0), nn.Sigmoid(), nn.Tanh(), nn.Hardswish(), nn.Hardsigmoid(), nn.Softsign(),
    nn.PReLU(), nn.Hardtanh(-0.5, 0.75),
)  # fmt: skip

NETWORKS: dict[str, Callable[[], tuple[nn.Module, tuple[int, int, int]]]] = {
    **{name: lambda name=name: _library(name, (1, 28, 28)) for name in ("small_cnn", "cnn", "mlp", "basic")},
    "small_cnn in color": lambda: _library("small_cnn", (3, 33, 41)),
    "normalized": lambda: (
        adapted(_library("small_cnn", (3, 16, 16))[0], Preprocessing((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))), (3, 16, 16),
    ),
    "residual": lambda: (Residual(), (3, 13, 17)),
    "flattened first": lambda: (FlattenedFirst(), (3, 4, 5)),
    "branches": lambda: (Branches(), (1, 9, 8)),
    "hand-written": lambda: (HandWritten(), (2, 11, 13)),
    "depthwise": lambda: _layers(
        nn.Conv2d(4, 8, (3, 1), (1, 2), (1, 0), groups=4, bias=False), nn.BatchNorm2d(8), nn.LeakyReLU(),
        nn.AvgPool2d(2, count_include_pad=False, padding=1), nn.Dropout(), nn.BatchNorm2d(8), nn.Tanh(),
        size=(4, 9, 12),
    ),
    "no bias": lambda: _layers(nn.Conv2d(1, 4, 5, bias=False), nn.ReLU(), nn.MaxPool2d(3, 2, 1), size=(1, 14, 10)),
    "pooled": lambda: _layers(
        nn.ZeroPad2d((0, 1, 2, 0)), nn.MaxPool2d(3, 1, 1, dilation=2), nn.Conv2d(3, 5, 3, dilation=(2, 1)), nn.ReLU(),
        nn.AdaptiveAvgPool2d((3, 2)), size=(3, 12, 11),
    ),
    "one layer": lambda: _layers(size=(1, 4, 4)),
    **{
        repr(one): lambda one=one: _layers(
            nn.Conv2d(2, 4, 3, 2), copy.deepcopy(one), nn.MaxPool2d(2, 1), size=(2, 11, 12)
        )
        for one in ACTIVATIONS
    },
}  # fmt: skip
"""Functions that build a network and its input shape, by name."""


def random_network(name: str, seed: int = 0) -> tuple[nn.Module, tuple[int, int, int]]:
    """Build a network in eval mode with random weights and random statistics of its batch norms."""
    torch.manual_seed(seed)
    model, size = NETWORKS[name]()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
            nn.init.normal_(part.weight, 1, 0.3)
            nn.init.normal_(part.bias, 0, 0.3)
    return model.eval(), size


def random_images(size: tuple[int, int, int], count: int) -> Tensor:
    """Return noise with flat black areas, where max-pooling meets equal values."""
    images = torch.rand(count, *size, generator=torch.Generator().manual_seed(1))
    images[:, :, : size[1] // 3] = 0
    return images
