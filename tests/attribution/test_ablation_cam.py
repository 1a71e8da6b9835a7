"""Ablation-CAM: its formula with plain hooks, whether or not the layers above can run on their own."""

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from pellucid import create_analyzer
from pellucid.attribution import ablation_cam

TOLERANCE = {"rtol": 1e-8, "atol": 1e-12}


def by_hooks(model: nn.Module, layer: str, images: Tensor, target: int, axis: int = 1) -> tuple[Tensor, Tensor]:
    """Return the drop of the logit without each channel, (channel, batch), and the layer's output."""
    seen: list[Tensor] = []
    module = model.get_submodule(layer)

    def logit(change: Callable[[Tensor], Tensor]) -> Tensor:
        handle = module.register_forward_hook(lambda *call: change(call[2]))
        with torch.no_grad():
            result = model(images)[:, target]
        handle.remove()
        return result

    def keep(output: Tensor) -> Tensor:
        seen.append(output.clone())
        return output

    score = logit(keep)

    def without(channel: int) -> Callable[[Tensor], Tensor]:
        def change(output: Tensor) -> Tensor:
            output = output.clone()
            output.select(axis, channel).zero_()
            return output

        return change

    drops = [score - logit(without(channel)) for channel in range(seen[0].shape[axis])]
    return torch.stack(drops), seen[0]


@pytest.fixture(params=["recorded", "complete"])
def way(request, monkeypatch) -> str:
    """Run the layers above on their own even for few channels, or never."""
    if request.param == "complete":
        monkeypatch.setattr(ablation_cam, "upper_part", None)
        monkeypatch.setattr(ablation_cam, "_COPIES", 10**6)
    else:
        monkeypatch.setattr(ablation_cam, "_COPIES", 1)
    return request.param


@pytest.mark.parametrize("layer", ["0", "3", "4"])
def test_equals_the_formula(network, images, layer, way) -> None:
    explanation = create_analyzer("ablation_cam", network, layer=layer, relu=False).explain(images, 1)
    drops, maps = by_hooks(network, layer, images, 1)
    expected = torch.einsum("kb,bk...->b...", drops, maps)
    torch.testing.assert_close(explanation.details["map"], expected, **TOLERANCE)
    assert bool((create_analyzer("ablation_cam", network, layer=layer).analyze(images, 1) >= 0).all())


@pytest.mark.parametrize("layer", ["0", "1", "1.bn1", "2.conv2", "2.downsample", "2"])
def test_residual_networks(layer, way) -> None:
    torch.manual_seed(0)
    down = nn.Sequential(nn.Conv2d(8, 12, 1, stride=2), nn.BatchNorm2d(12))
    blocks = [BasicBlock(8, 8), BasicBlock(8, 12, 2, down), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4)]
    model = nn.Sequential(nn.Conv2d(3, 8, 3), *blocks).double().eval()
    images = torch.rand(2, 3, 12, 12).double()
    found = create_analyzer("ablation_cam", model, layer=layer).explain(images, 3).details["map"]
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    drops, maps = by_hooks(model, layer, images, 3)
    expected = torch.einsum("kb,bk...->b...", drops, maps)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9 * float(expected.abs().max()))


def test_layers_below_run_only_a_few_times() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 16, 3)).double()
    rows: list[int] = []
    model[0].register_forward_hook(lambda *call: rows.append(len(call[2])))
    create_analyzer("ablation_cam", model).analyze(torch.rand(1, 1, 6, 6).double(), 1)
    assert sum(rows) < 40  # 64 without recording, and a few for the search


class Awkward(nn.Module):
    """Layers above that can't run on their own, or not without care."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Conv2d(1, 40, 3), nn.Conv2d(40, 8, 3), nn.Linear(8, 3)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "writes below":
            shared = x.clone()
            y = self.a(x).relu()
            shared.add_(y.mean(1, keepdim=True).mean((2, 3), keepdim=True))
            return self.c(self.b(self.a(shared).relu()).mean((2, 3)))
        y = self.a(x).relu()
        if self.how == "branches" and float(y[:, :20].sum()) < float(y[:, 20:].sum()):
            y = 2 * y
        if self.how == "counts":
            buffer = torch.zeros(len(x), 40, 1, 1, dtype=x.dtype)
            buffer += y.amax((2, 3), keepdim=True)
            y = y + buffer
        if self.how == "numpy":
            y = y + torch.from_numpy(y.detach().numpy().mean(1, keepdims=True))
        return self.c(self.b(y).relu_().mean((2, 3)))


@pytest.mark.parametrize("how", ["plain", "branches", "counts", "numpy", "writes below"])
def test_awkward_networks_equal_the_formula(how, images) -> None:
    model = Awkward(how).double()
    layer = "a"
    if how == "writes below":
        model.a = nn.Sequential(model.a)  # the layer is used twice: name the other one
        layer = "b"
    x = images[:1]  # a branch decided by the batch would not be one image's
    drops, maps = by_hooks(model, layer, x, 1)
    found = create_analyzer("ablation_cam", model, layer=layer).explain(x, 1).details["map"]
    torch.testing.assert_close(found, torch.einsum("kb,bk...->b...", drops, maps), **TOLERANCE)


def test_tokens_of_the_image_lose_the_feature_and_class_tokens_keep_it() -> None:
    torch.manual_seed(0)
    model = torchvision.models.VisionTransformer(32, 16, 2, 2, 32, 64, num_classes=5).double().eval()
    nn.init.normal_(model.heads.head.weight)
    images, layer = torch.rand(2, 3, 32, 32).double(), "encoder.layers.encoder_layer_1.ln_1"
    found = create_analyzer("ablation_cam", model).explain(images, 1).details["map"]
    seen: list[Tensor] = []

    def hook(channel: int | None) -> Callable[..., Tensor]:
        def change(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
            output = output.clone()
            seen.append(output.clone())
            if channel is not None:
                output[:, 1:, channel] = 0
            return output

        return change

    scores = []
    for channel in [None, *range(32)]:
        handle = model.get_submodule(layer).register_forward_hook(hook(channel))
        with torch.no_grad():
            scores.append(model(images)[:, 1])
        handle.remove()
    drops = torch.stack([scores[0] - score for score in scores[1:]], 1)
    expected = torch.einsum("bk,btk->bt", drops, seen[0][:, 1:]).view(2, 2, 2)
    torch.testing.assert_close(found, expected, **TOLERANCE)


def test_models_that_mix_images_run_one_by_one(images) -> None:
    class Mixing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.c = nn.Conv2d(1, 40, 3), nn.Linear(40, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x).relu()
            return self.c((y - y.mean(0, keepdim=True) / 2).mean((2, 3)))

    model = Mixing().double()
    found = create_analyzer("ablation_cam", model, layer="a").explain(images, 1).details["map"]
    for image, one in zip(images, found, strict=True):
        drops, maps = by_hooks(model, "a", image[None], 1)
        torch.testing.assert_close(one, torch.einsum("kb,bk...->b...", drops, maps)[0], **TOLERANCE)
