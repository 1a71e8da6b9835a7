"""Networks whose Jacobians `jacobian.py` and `jacobian_cost.py` time."""

import os
import sys
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.jacobians import jacobian

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("PELLUCID_SHARED", ROOT.parent / "shared"))


def cnn() -> nn.Module:
    """Build a CNN: two 3×3 convolutions, max-pooling, dense layers of 128 and 10."""
    head = [nn.Flatten(), nn.Linear(9216, 128), nn.ReLU(), nn.Linear(128, 10)]
    return nn.Sequential(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), *head)


def mlp() -> nn.Module:
    """Build an MLP 784-300-100-10."""
    parts = [nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)]
    return nn.Sequential(nn.Flatten(), *parts)


def pooled_norms() -> nn.Module:
    """Build three 3×3 convolutions, each followed by max-pooling, batch norm and ReLU, and a linear layer."""
    parts: list[nn.Module] = []
    for inputs, outputs in ((1, 32), (32, 64), (64, 64)):
        parts += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.MaxPool2d(2), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(64 * 3 * 3, 10))


def vgg() -> nn.Module:
    """Build a VGG-like network: four blocks of two 3×3 convolutions."""
    parts: list[nn.Module] = []
    for inputs, outputs in ((3, 32), (32, 64), (64, 128), (128, 128)):
        parts += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
        parts += [nn.Conv2d(outputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(2048, 128), nn.ReLU(), nn.Linear(128, 10))


def resnet() -> nn.Module:
    """Build torchvision's ResNet-18 with 10 classes."""
    from torchvision.models import resnet18

    return resnet18(num_classes=10)


def own(name: str) -> nn.Module:
    """Build one of the networks in `pellucid.models` for MNIST."""
    from pellucid.models import MODELS

    return MODELS[name](channels=1, classes=10, image_size=(28, 28))


@cache
def regression() -> nn.Module:
    """Train the network of the example that fits a function, until the relative error of its Jacobian is below 5%."""
    example = load(ROOT / "examples" / "train_and_utilise.py")
    torch.manual_seed(0)
    model: nn.Module = example.build()
    example.train(model)
    x = torch.rand(1000, 4)
    true = example.true_jacobian(x)
    error = (jacobian(model, x) - true).norm() / true.norm()
    print(f"regression: relative error of the Jacobian {float(error):.1%}", file=sys.stderr)
    assert error < 0.05
    return model


def augnet() -> tuple[nn.Module, dict[str, Tensor]]:
    """Load aug-net's network in float64 and its reference arrays, as in the tests."""
    loaded: tuple[nn.Module, dict[str, Tensor]] = load(ROOT / "tests" / "jacobians" / "augnet.py").augnet(SHARED)
    return loaded


def load(path: Path) -> Any:
    """Import a Python file that is not part of a package."""
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
