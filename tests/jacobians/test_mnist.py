"""A train network on 1,000 MNIST images: float32 compared with float64."""

import gzip
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pellucid.jacobians import jacobian


def read(path: Path, offset: int) -> Tensor:
    return torch.from_numpy(np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=offset).copy())


def train(images: Tensor, labels: Tensor) -> nn.Module:
    torch.manual_seed(0)
    head = [nn.Flatten(), nn.Linear(16 * 144, 32), nn.ReLU(), nn.Linear(32, 10)]
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.MaxPool2d(2), *head)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for part, targets in zip(images.split(100), labels.split(100), strict=True):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(part), targets).backward()
        optimizer.step()
    return model.eval()


def activation_pattern(model: nn.Sequential, x: Tensor) -> Tensor:
    """Return the side of every ReLU and the winner of every max-pool window for each image."""
    sides = []
    for layer in model:
        if isinstance(layer, nn.MaxPool2d):
            x, winners = nn.functional.max_pool2d(x, layer.kernel_size, return_indices=True)
            sides.append(winners.flatten(1))
        else:
            x = layer(x)
            sides += [(x > 0).flatten(1).long()] if isinstance(layer, nn.ReLU) else []
    return torch.cat(sides, 1)


@pytest.mark.slow
def test_float32_agrees_with_float64_except_at_kinks(mnist_files: Path) -> None:
    pixels = read(mnist_files / "t10k-images-idx3-ubyte.gz", 16).view(-1, 1, 28, 28).float() / 255
    model = train(pixels[2000:8000], read(mnist_files / "t10k-labels-idx1-ubyte.gz", 8)[2000:8000].long())
    x, double = pixels[:1000], deepcopy(model).double()
    single, exact = jacobian(model, x), jacobian(double, x.double())
    error = (single - exact).abs().flatten(1).amax(1) / exact.abs().flatten(1).amax(1)
    others = (error > 1e-5).nonzero().flatten()
    assert len(others) <= 5, f"images {others.tolist()} differ by {error[others].tolist()}"
    with torch.no_grad():
        differ = (activation_pattern(model, x[others]) != activation_pattern(double, x[others].double())).any(1)
    assert differ.all(), f"images {others[~differ].tolist()} differ without a kink"
