"""CAM: exact if the network ends in pooling and a linear layer, in any implementation; refused otherwise."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from pellucid import create_analyzer
from pellucid.core.errors import ShapeError, UnsupportedOperation

Head = Callable[[Tensor, nn.Linear], Tensor]
HEADS: dict[str, Head] = {
    "module": lambda x, c: c(torch.flatten(nn.AdaptiveAvgPool2d(1)(x), 1)),
    "functional": lambda x, c: c(F.adaptive_avg_pool2d(x, (1, 1)).squeeze(3).squeeze(2)),
    "window": lambda x, c: c(F.avg_pool2d(x, 8).reshape(len(x), -1)),
    "mean": lambda x, c: c(F.dropout(x.mean((-1, -2)), training=False)),
    "two means": lambda x, c: c(x.mean(3).mean(2)),
    "flattened": lambda x, c: F.linear(x.flatten(2).mean(-1), c.weight, c.bias),
    "sum": lambda x, c: x.sum((2, 3)) / 64 @ c.weight.T + c.bias,
    "class maps": lambda x, c: F.conv2d(x, c.weight[:, :, None, None], c.bias).mean((2, 3)),
    "scaled": lambda x, c: 2 * c(x.mean((2, 3), keepdim=True).flatten(1)) + 1,
    "channels last": lambda x, c: c(F.relu(x.permute(0, 2, 3, 1)).mean((1, 2))),
}


class WithHead(nn.Module):
    def __init__(self, head: Head) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c, self.head = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 5), head
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.b(self.a(x))), self.c)


@pytest.mark.parametrize("head", HEADS)
def test_map_is_exact_for_every_implementation_of_the_head(images, targets, head) -> None:
    model = WithHead(HEADS[head])
    explanation = create_analyzer("cam", model).explain(images, targets)
    maps = F.relu(model.b(model.a(images))).detach()
    scale = 2 if head == "scaled" else 1
    plain = torch.einsum("bkij,bk->bij", maps, scale * model.c.weight.detach()[targets])
    constant = scale * model.c.bias.detach()[targets] + (head == "scaled")
    if head == "class maps":
        plain, constant = plain + constant[:, None, None], 0 * constant
    torch.testing.assert_close(explanation.details["map"], plain, rtol=1e-9, atol=1e-12)
    own = explanation.logits.gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(explanation.details["map"].mean((1, 2)) + constant, own, rtol=1e-9, atol=1e-12)
    large = F.interpolate(plain[:, None], size=(10, 10), mode="bilinear", align_corners=False)
    torch.testing.assert_close(explanation.relevance, large, rtol=1e-9, atol=1e-12)
    only = create_analyzer("cam", model, relu=True).analyze(images, targets)
    assert bool((only >= 0).all())
    assert not bool((explanation.relevance >= 0).all())


def test_map_is_grad_cam_times_the_number_of_positions(images) -> None:
    model = WithHead(HEADS["module"])
    ours = create_analyzer("cam", model).explain(images, 1).details["map"]
    theirs = create_analyzer("grad_cam", model).explain(images, 1).details["map"]
    torch.testing.assert_close(ours, 64 * theirs, rtol=1e-9, atol=1e-12)


def test_resnet_18_is_supported() -> None:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None).double().eval()
    images = torch.rand(2, 3, 64, 64).double()
    explanation = create_analyzer("cam", model).explain(images, 7)
    torch.testing.assert_close(
        explanation.details["map"].mean((1, 2)) + model.fc.bias[7].detach(),
        explanation.logits[:, 7],
        rtol=1e-9,
        atol=1e-12,
    )
    assert explanation.notes == ("feature maps from the input of adaptive_avg_pool2d in 'avgpool': 512×2×2",)


PLACES = torch.arange(256).double()
REFUSED: dict[str, tuple[Head, str]] = {
    "hidden": (lambda x, c: c(F.relu(x.mean((2, 3)))), "found relu in the model itself"),
    "flattened": (lambda x, c: F.linear(x.flatten(1), c.weight.repeat(1, 64) * PLACES), "differently"),
    "largest": (lambda x, c: c(x.amax((2, 3))), "found amax in the model itself"),
    "some places": (lambda x, c: c(x[:, :, :4].mean((2, 3))), "differently"),
    "two": (lambda x, c: c(x.mean((2, 3))) + c(x.amax((2, 3))), "found add in the model itself"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_heads_are_refused_naming_the_operation(images, name) -> None:
    head, message = REFUSED[name]
    model = WithHead(head)
    with pytest.raises(UnsupportedOperation, match=message) as caught:
        create_analyzer("cam", model).analyze(images)
    assert "'grad_cam'" in str(caught.value)


def test_non_spatial_inputs_are_refused() -> None:
    with pytest.raises(ShapeError, match="spatial axes"):
        create_analyzer("cam", nn.Linear(4, 3)).analyze(torch.rand(2, 4))
    with pytest.raises(UnsupportedOperation, match="grad_cam"):
        create_analyzer("cam", nn.Sequential(nn.Flatten(), nn.Linear(100, 3)).double()).analyze(
            torch.rand(2, 1, 10, 10).double()
        )


class Caching(nn.Module):
    """A network that computes a constant in its first forward pass only, with two convolutions that look alike."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 5)
        self.steps, self.kept = 1, None

    def forward(self, x: Tensor) -> Tensor:
        if self.kept is None:
            self.kept = torch.ones(1).to(x)
            for _ in range(self.steps):
                self.kept = self.kept * 0.5
        return self.head(self.second(self.first(x * self.kept)).mean((2, 3)))


@pytest.mark.parametrize("steps", [1, 2, 3, 40])
def test_a_cache_filled_by_the_first_pass_does_not_change_the_layer(steps: int) -> None:
    torch.manual_seed(0)
    model, x = Caching().double().eval(), torch.rand(2, 3, 8, 8).double()
    model.steps = steps
    maps = create_analyzer("grad_cam", model, relu=False).explain(x, 1).details["map"]
    values = model.second(model.first(x * model.kept)).detach().requires_grad_()
    slope = torch.autograd.grad(model.head(values.mean((2, 3)))[:, 1].sum(), values)[0]
    torch.testing.assert_close(maps, (slope.mean((2, 3), keepdim=True) * values).sum(1).detach())
