"""Gradients are summed at the first layer's output only if the image enters through that layer alone."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pellucid.engine.first_layer import entrance_of


class Net(nn.Module):
    """A convolution and a head; `way` selects how the image enters."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.conv = nn.Conv2d(2, 4, 3, bias=way != "without bias")
        self.dense = nn.Linear(4 * 16, 3)
        self.flat = nn.Linear(2 * 36, 64)
        self.register_buffer("mean", torch.full((1, 2, 1, 1), 0.3))
        self.register_buffer("deviation", torch.full((1, 2, 1, 1), 0.7))
        self.script = torch.jit.script(_doubled) if way == "a scripted side branch" else None

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(self.layer(x).relu().flatten(1))

    def layer(self, x: Tensor) -> Tensor:
        match self.way:
            case "a flattened image":
                return self.flat(x.flatten(1))
            case "a normalized image":
                return self.conv((x - self.mean) / self.deviation)
            case "normalized by its own deviation":
                return self.conv(x / x.detach().std())
            case "a square":
                return self.conv(x * x)
            case "a rectified image":
                return self.conv((x - 0.5).relu())
            case "used twice":
                return self.conv(x) + x[:, :1, 1:-1, 1:-1]
            case "used twice by one layer":
                return self.conv(x) + self.conv(x.flip(3))
            case "a scripted side branch":
                assert self.script is not None
                return self.conv(x) + self.script(x)
            case "weights from the image":
                return F.conv2d(x, self.conv.weight * x.detach().mean())
            case "a checkpoint":
                return checkpoint(self.conv, x, use_reentrant=False)
        return self.conv(x)


def _doubled(x: Tensor) -> Tensor:
    return 2 * x[:, :1, 1:-1, 1:-1]


ONE_WAY = ["plain", "without bias", "a flattened image", "a normalized image", "a checkpoint"]
OTHERS = ["a square", "a rectified image", "used twice", "used twice by one layer", "a scripted side branch"]
OTHERS += ["normalized by its own deviation", "weights from the image"]


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("way", ONE_WAY + OTHERS)
def test_gradients_are_summed_at_the_first_layer(way) -> None:
    torch.manual_seed(0)
    model = Net(way).double().requires_grad_(False)
    total: Tensor | float = 0.0
    plain = torch.zeros(5, 2, 6, 6).double()
    entrances = []
    for _ in range(3):
        leaf = torch.rand(5, 2, 6, 6).double().requires_grad_()
        plain += torch.autograd.grad(model(leaf.clone())[:, 1].sum(), leaf)[0]
        score = model(leaf.clone())[:, 1].sum()
        entrances.append(entrance_of(score, leaf, model))
        if entrances[-1] is not None:
            total = total + entrances[-1].gradient(score)
    if way in OTHERS:
        assert entrances == [None] * 3
    else:
        assert len({entrance.key for entrance in entrances}) == 1
        torch.testing.assert_close(entrances[0].to_image(total), plain)
