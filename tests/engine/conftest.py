"""Networks shared by the engine's tests: a zoo of unusual architectures, and torchvision's networks."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm


class Net(nn.Module):
    """A network whose forward pass is a given function."""

    def __init__(self, forward: Callable[..., Tensor], **modules: nn.Module | list[nn.Module]) -> None:
        super().__init__()
        for name, module in modules.items():
            if isinstance(module, list):
                self.add_module(f"{name}_list", nn.ModuleList(module))
            else:
                self.add_module(name, module)
        self._lists = {name: getattr(self, f"{name}_list") for name, made in modules.items() if isinstance(made, list)}
        self._forward = forward

    def forward(self, x: Tensor) -> Any:
        return self._forward(self, x)


def conv(i: int = 3, o: int = 6, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(i, o, 3, **options)


def functional(n: Net, x: Tensor) -> Tensor:
    x = F.max_pool2d(F.relu(n.a(x)), 2)
    return F.linear(F.avg_pool2d(torch.relu(F.conv2d(x, n.b.weight, n.b.bias)), 2).flatten(1), n.c.weight)


def in_place(n: Net, x: Tensor) -> Tensor:
    x = n.a(x)
    F.relu(x, inplace=True)
    return n.c(n.b(x).relu_().mean((2, 3)))


def twice(n: Net, x: Tensor) -> Tensor:
    return n.c(torch.relu(n.b(torch.relu(n.b(torch.relu(n.a(x)))))).mean((2, 3)))


def loud(net: Net) -> Net:
    """Triple the weights, so that the signal of the image does not fade against the biases layer by layer."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(3)
    return net


def shortcut(n: Net, x: Tensor) -> Tensor:
    x = torch.relu(n.a(x))
    identity = x
    x = n.b(x)
    x += identity
    return n.c(torch.relu(x).mean((2, 3)))


def added(n: Net, x: Tensor) -> Tensor:
    x = torch.relu(n.a(x))
    return n.c(torch.relu(torch.add(n.b(x), x, alpha=0.5)).mean((2, 3)))


def concatenated(n: Net, x: Tensor) -> Tensor:
    x = torch.relu(n.a(x))
    return n.c(n.d(torch.cat([n.b(x), x, F.max_pool2d(x, 3, 1, 1)], 1)).relu().mean((2, 3)))


def moved(n: Net, x: Tensor) -> Tensor:
    x = n.b(torch.relu(n.a(x))).permute(0, 2, 3, 1).contiguous()[:, 1:-1, ::2]
    first, second = x.transpose(1, 2).chunk(2, dim=-1)
    x = torch.stack([first, second.flip(1)], 1).unsqueeze(1).squeeze(1)
    return n.c(n.d(F.pad(x, (0, 1)).reshape(len(x), -1)))


def normed_alone(n: Net, x: Tensor) -> Tensor:
    return n.c(n.e(n.d(torch.relu(n.a(n.b(x)))).relu().mean((2, 3))))


def matrix(n: Net, x: Tensor) -> Tensor:
    return torch.relu(x.flatten(1) @ n.a.weight.T + n.a.bias) @ n.b.weight.t()


def squeeze_and_excite(n: Net, x: Tensor) -> Tensor:
    x = F.silu(n.a(x))
    gate = torch.sigmoid(n.d(F.relu(n.b(F.adaptive_avg_pool2d(x, 1)))))
    return n.c((gate * x).mean((2, 3)))


def branches(n: Net, x: Tensor) -> Tensor:
    outputs = [torch.relu(branch(x)) for branch in n._lists["paths"]]
    return n.c(sum(outputs[1:], outputs[0]).mean((2, 3)))


def normalized_inside(n: Net, x: Tensor) -> Tensor:
    x = (x - torch.tensor([0.4, 0.5, 0.6]).to(x).view(1, 3, 1, 1)) / torch.tensor([0.2, 0.25, 0.3]).to(x).view(3, 1, 1)
    return n.c(torch.relu(n.a(x)).mean((2, 3)))


def assigned(n: Net, x: Tensor) -> Tensor:
    x = torch.relu(n.a(x)) * 2
    canvas = torch.zeros(len(x), 6, 8, 8, dtype=x.dtype)
    canvas[:, :, :6, 1:7] = x
    x[:, 0] = 0.5
    return n.c(torch.relu(n.b(canvas)).mean((2, 3)) + x.mean((2, 3)))


def masked(n: Net, x: Tensor) -> Tensor:
    x = n.a(x)
    x = x * (x > 0.1).float() + torch.where(x < -0.1, x, torch.zeros_like(x)) * 0.2
    return n.c(x.masked_fill(x > 1, 1.0).mean((2, 3)))


def transformer(n: Net, x: Tensor) -> Tensor:
    x = n.a(x).flatten(2).transpose(1, 2)
    x = torch.cat([n.d(torch.ones(1, dtype=x.dtype)).expand(len(x), 1, -1), x], 1)
    y = n.e(x)
    x = x + n.b(y, y, y, need_weights=False)[0]
    return n.c(F.gelu(n.e(x))[:, 0])


def activated(activation: Callable[[Tensor], Tensor]) -> Callable[[], Net]:
    def forward(n: Net, x: Tensor) -> Tensor:
        return n.c(activation(n.b(activation(n.a(x)))).mean((2, 3)))

    return lambda: Net(forward, a=conv(), b=conv(6, 6), c=nn.Linear(6, 4))


def sequential(*layers: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(*(layer() for layer in layers))


def head(features: int = 6) -> nn.Module:
    return nn.Sequential(nn.Flatten(2), Net(lambda n, x: x.mean(2)), nn.Linear(features, 4))


def pooled(pool: nn.Module) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(conv(padding=1), nn.ReLU(), pool, conv(6, 6, padding=1), nn.ReLU(), head())


def three() -> dict[str, nn.Module]:
    return {"a": conv(), "b": conv(6, 6, padding=1), "c": nn.Linear(6, 4)}


IMAGE = (3, 8, 8)
ZOO: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "functional": (lambda: Net(functional, a=conv(3, 6, padding=1), b=conv(6, 6, padding=1), c=nn.Linear(6, 4)), IMAGE),
    "in_place": (lambda: Net(in_place, **three()), IMAGE),
    "twice": (lambda: loud(Net(twice, **three())), IMAGE),
    "shortcut": (lambda: Net(shortcut, **three()), IMAGE),
    "added": (lambda: Net(added, **three()), IMAGE),
    "concatenated": (lambda: Net(concatenated, **three() | {"d": nn.BatchNorm2d(18), "c": nn.Linear(18, 4)}), IMAGE),
    "moved": (lambda: Net(moved, **three() | {"d": nn.Linear(96, 7), "c": nn.Linear(7, 4)}), IMAGE),
    "normed": (
        lambda: Net(
            normed_alone, b=nn.BatchNorm2d(3), a=conv(), d=nn.BatchNorm2d(6), e=nn.BatchNorm1d(6), c=nn.Linear(6, 4)
        ),
        IMAGE,
    ),
    "dense_normed": (
        sequential(nn.Flatten, lambda: nn.Linear(192, 9), lambda: nn.BatchNorm1d(9), nn.ReLU, lambda: nn.Linear(9, 4)),
        IMAGE,
    ),
    "conv_normed": (sequential(lambda: conv(bias=False), lambda: nn.BatchNorm2d(6), nn.ReLU, nn.Identity, head), IMAGE),
    "matrix": (lambda: Net(matrix, b=nn.Linear(9, 4), a=nn.Linear(192, 9)), IMAGE),
    "one_dimensional": (sequential(lambda: nn.Conv1d(2, 6, 3), nn.ReLU, lambda: nn.MaxPool1d(2), head), (2, 16)),
    "three_dimensional": (sequential(lambda: nn.Conv3d(1, 6, 3), nn.ReLU, lambda: nn.MaxPool3d(2), head), (1, 6, 6, 6)),
    "transposed": (
        sequential(lambda: nn.ConvTranspose2d(3, 6, 3, stride=2), lambda: nn.BatchNorm2d(6), nn.ReLU, head),
        IMAGE,
    ),
    "average_pool": (pooled(nn.AvgPool2d(3, stride=1, padding=1)), IMAGE),
    "max_pool": (pooled(nn.MaxPool2d(3, stride=2, padding=1)), IMAGE),
    "adaptive_average_pool": (pooled(nn.AdaptiveAvgPool2d(3)), IMAGE),
    "adaptive_max_pool": (pooled(nn.AdaptiveMaxPool2d(3)), IMAGE),
    "upsample": (pooled(nn.Upsample(scale_factor=2, mode="bilinear")), IMAGE),
    "same_padding": (sequential(lambda: nn.Conv2d(3, 6, 4, padding="same"), nn.ReLU, head), IMAGE),
    "squeeze_and_excite": (
        lambda: Net(squeeze_and_excite, a=conv(), b=nn.Conv2d(6, 2, 1), d=nn.Conv2d(2, 6, 1), c=nn.Linear(6, 4)),
        IMAGE,
    ),
    "branches": (lambda: Net(branches, paths=[conv(), conv(bias=False), conv()], c=nn.Linear(6, 4)), IMAGE),
    "weight_norm": (
        sequential(lambda: weight_norm(conv()), nn.ReLU, lambda: spectral_norm(conv(6, 6)), nn.ReLU, head),
        IMAGE,
    ),
    "normalized_inside": (lambda: Net(normalized_inside, a=conv(), c=nn.Linear(6, 4)), IMAGE),
    "assigned": (lambda: Net(assigned, **three()), IMAGE),
    "masked": (lambda: Net(masked, a=conv(), c=nn.Linear(6, 4)), IMAGE),
    "layer_norm": (
        sequential(conv, lambda: nn.GroupNorm(2, 6), nn.GELU, lambda: nn.InstanceNorm2d(6, affine=True), nn.ReLU, head),
        IMAGE,
    ),
    "transformer": (
        lambda: Net(
            transformer,
            a=nn.Conv2d(3, 8, 4, stride=4),
            d=nn.Linear(1, 8),
            e=nn.LayerNorm(8),
            b=nn.MultiheadAttention(8, 2, batch_first=True),
            c=nn.Linear(8, 4),
        ),
        IMAGE,
    ),
    "elu": (activated(F.elu), IMAGE),
    "tanh": (activated(torch.tanh), IMAGE),
    "sigmoid": (activated(torch.sigmoid), IMAGE),
    "softplus": (activated(F.softplus), IMAGE),
    "gelu": (activated(F.gelu), IMAGE),
    "silu": (activated(F.silu), IMAGE),
    "hardswish": (activated(F.hardswish), IMAGE),
    "leaky": (activated(lambda x: F.leaky_relu(x, 0.1)), IMAGE),
    "clamped": (activated(lambda x: x.clamp(min=0, max=0.5)), IMAGE),
}


QUICK = ("functional", "in_place", "shortcut", "transformer")
"""The networks that every test run covers; the others are marked slow."""


def alive(model: nn.Module, shape: tuple[int, ...], seed: int = 0) -> nn.Module:
    """Return the model in float64 with batch statistics of random images and no constant parameters.

    Without this, the logits of an untrained network barely depend on the image.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if float(parameter.abs().max()) == 0 or "layer_scale" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.momentum = None
                module.weight.copy_(torch.rand(module.weight.shape, generator=generator) + 0.5)
                module.bias.copy_(torch.randn(module.bias.shape, generator=generator) * 0.1)
        model.train()
        model(torch.rand(16, *shape, generator=generator))
    return model.eval().double()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "animal" in metafunc.fixturenames:
        slow = pytest.mark.slow
        metafunc.parametrize("animal", [pytest.param(name, marks=() if name in QUICK else slow) for name in ZOO])
    if "vision_name" in metafunc.fixturenames:
        # grouped by network, since building one takes seconds
        metafunc.parametrize("vision_name", list(VISION), scope="module")


@pytest.fixture
def caged(animal: str) -> tuple[nn.Module, Tensor]:
    """A network of the zoo and three images of different brightness, since averages of pure noise barely differ."""
    factory, shape = ZOO[animal]
    torch.manual_seed(3)
    images = torch.rand(3, *shape, generator=torch.Generator().manual_seed(1)).double()
    brightness = torch.tensor([0.3, 0.65, 1.0]).double().view(3, *[1] * len(shape))
    return alive(factory(), shape), images * brightness


def narrow_vgg() -> nn.Module:
    """Return a VGG-11 with a hidden size of 64 instead of 4096, whose weights would take a gigabyte in float64."""
    model = torchvision.models.vgg11_bn(num_classes=10, init_weights=False)
    first, second, last = (place for place, layer in enumerate(model.classifier) if isinstance(layer, nn.Linear))
    model.classifier[first] = nn.Linear(model.classifier[first].in_features, 64)
    model.classifier[second], model.classifier[last] = nn.Linear(64, 64), nn.Linear(64, 10)
    return model


VISION: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: torchvision.models.resnet18(num_classes=10),
    "vgg11_bn": narrow_vgg,
    "densenet": lambda: torchvision.models.DenseNet(32, (3, 6, 12, 8), num_classes=10),  # half of a DenseNet-121
    "mobilenet_v3_small": lambda: torchvision.models.mobilenet_v3_small(num_classes=10),
    "efficientnet_b0": lambda: torchvision.models.efficientnet_b0(num_classes=10),
    "googlenet": lambda: torchvision.models.googlenet(num_classes=10, init_weights=False, aux_logits=False),
}
_KEPT: dict[str, nn.Module] = {}


def vision(name: str) -> tuple[nn.Module, Tensor]:
    """Return a torchvision network in float64 and two images for it."""
    if name not in _KEPT:
        _KEPT.clear()
        torch.manual_seed(0)
        _KEPT[name] = alive(VISION[name](), (3, 64, 64))
    return _KEPT[name], torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)).double()


@pytest.fixture
def seen(vision_name: str) -> tuple[nn.Module, Tensor]:
    """A torchvision network and two images for it."""
    return vision(vision_name)


@pytest.fixture(scope="session")
def resnet() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return alive(torchvision.models.resnet18(num_classes=10), (3, 32, 32)), images.double()
