"""Grad-CAM: compared with captum and the paper's formula; choice of the layer, notes and errors."""

import captum.attr
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from pellucid import create_analyzer
from pellucid.core.errors import ModelError, ShapeError, UnknownName

IMAGES = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1)).double()
TOLERANCE = {"rtol": 1e-9, "atol": 1e-14}


def vision(name: str, **options: object) -> nn.Module:
    torch.manual_seed(0)
    return getattr(torchvision.models, name)(weights=None, **options).double().eval()


def without_in_place(model: nn.Module) -> nn.Module:
    """Return the model without in-place operations, which would modify what captum's hooks read."""
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return model


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "layer"),
    [("resnet18", "layer4"), ("resnet18", "layer2.0"), pytest.param("vgg11_bn", "features.25", marks=pytest.mark.slow)],
)
def test_raw_maps_agree_with_captum(name, layer) -> None:
    model, targets = vision(name), torch.tensor([3, 0, 999])
    explanation = create_analyzer("grad_cam", model, layer=layer, relu=False).explain(IMAGES, targets)
    without_in_place(model)
    theirs = captum.attr.LayerGradCam(model, model.get_submodule(layer)).attribute(IMAGES, target=targets)
    torch.testing.assert_close(explanation.details["map"], theirs[:, 0].detach(), **TOLERANCE)
    large = captum.attr.LayerAttribution.interpolate(theirs.detach(), (64, 64), "bilinear")
    torch.testing.assert_close(explanation.relevance, large.expand_as(IMAGES), **TOLERANCE)


def by_formula(body: nn.Module, head: nn.Module, images: Tensor, target: int) -> Tensor:
    """Equations 1 and 2, loop by loop."""
    maps = body(images).detach().requires_grad_()
    slopes = torch.autograd.grad(head(maps)[:, target].sum(), maps)[0]
    result = torch.zeros(len(images), *maps.shape[2:]).double()
    for n in range(len(images)):
        for k in range(maps.shape[1]):
            result[n] += slopes[n, k].mean() * maps[n, k].detach()
    return result


def test_equals_the_formula_and_is_upsampled_to_the_image(network, images) -> None:
    plain = by_formula(network[:5], network[5:], images, 2)
    explanation = create_analyzer("grad_cam", network).explain(images, 2)
    torch.testing.assert_close(explanation.details["map"], plain, **TOLERANCE)
    large = F.interpolate(plain.clamp(min=0)[:, None], size=(10, 10), mode="bilinear", align_corners=False)
    torch.testing.assert_close(explanation.relevance, large, **TOLERANCE)
    assert explanation.notes[0] == "feature maps from the output of relu in '4': 8×3×3"
    has_empty_map = not bool((plain.flatten(1).amax(1) > 0).all())
    assert has_empty_map == any("ReLU set their map to zero" in note for note in explanation.notes)


@pytest.mark.parametrize(
    ("name", "layer", "shape"),
    [
        ("resnet18", "relu in 'layer4.1.relu'", (512, 2, 2)),
        ("vgg11_bn", "relu in 'features.27'", (512, 4, 4)),
        ("googlenet", "cat in 'inception5b'", (1024, 2, 2)),
        ("squeezenet1_1", "relu in 'classifier.2'", (1000, 3, 3)),
        ("convnext_tiny", "add_ in 'features.7.2'", (768, 2, 2)),
        ("swin_t", "layer_norm in 'norm'", (768, 2, 2)),
    ],
)
@pytest.mark.slow
def test_last_layer_with_feature_maps_is_found(name, layer, shape) -> None:
    model = vision(name, **({"init_weights": False} if name == "googlenet" else {}))
    explanation = create_analyzer("grad_cam", model).explain(IMAGES[:1], 1)
    assert explanation.notes[:1] == (f"feature maps from the output of {layer}: {'×'.join(map(str, shape))}",)


class Functional(nn.Module):
    """A network in functional style that pools by reshaping, with an in-place rectifier; its last maps are `maps`."""

    def __init__(self, last: str = "add") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 3)
        self.last = last

    def maps(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x), inplace=True)
        if self.last == "channels_last":
            return F.gelu(F.layer_norm((self.b(x) + x).permute(0, 2, 3, 1), (4,)) @ self.c.weight.T @ self.c.weight)
        y = self.b(x)
        y += x
        return y.relu_()

    def head(self, x: Tensor) -> Tensor:
        if self.last == "channels_last":
            return self.c(F.max_pool2d(x.permute(0, 3, 1, 2), 2).flatten(2).mean(2))
        return self.c(F.max_pool2d(x, 2).view(len(x), 4, -1).mean(-1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.maps(x))


@pytest.mark.parametrize("last", ["add", "channels_last"])
def test_functional_code_is_supported(images, last) -> None:
    model = Functional(last).double()
    explanation = create_analyzer("grad_cam", model).explain(images, 1)
    maps = model.maps(images).detach().requires_grad_()
    slope = torch.autograd.grad(model.head(maps)[:, 1].sum(), maps)[0]
    first = {"add": lambda x: x, "channels_last": lambda x: x.permute(0, 3, 1, 2)}[last]
    plain = (first(slope).mean((2, 3), keepdim=True) * first(maps)).sum(1)
    torch.testing.assert_close(explanation.details["map"], plain.detach(), **TOLERANCE)


@pytest.mark.parametrize("in_place", [True, False])
def test_later_in_place_operations_do_not_change_the_maps(images, in_place) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.ReLU(in_place), nn.Conv2d(4, 5, 3), nn.ReLU(in_place), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(180, 3)).double()
    for layer, after in (("2", 3), ("3", 4), ("0", 1), ("1", 2)):
        explanation = create_analyzer("grad_cam", model, layer=layer).explain(images, 1)
        plain = by_formula(
            model[:after], model[after:] if not in_place else without_in_place_copy(model)[after:], images, 1
        )
        torch.testing.assert_close(explanation.details["map"], plain, **TOLERANCE)


def without_in_place_copy(model: nn.Sequential) -> nn.Sequential:
    return nn.Sequential(*(nn.ReLU() if isinstance(module, nn.ReLU) else module for module in model))


def test_tokens_are_folded_with_and_without_reshape() -> None:
    torch.manual_seed(0)
    model = torchvision.models.VisionTransformer(64, 16, 2, 2, 32, 64, num_classes=5).double().eval()
    torch.nn.init.normal_(model.heads.head.weight)
    name = "encoder.layers.encoder_layer_1.ln_1"

    def to_maps(tokens: Tensor) -> Tensor:
        return tokens[:, 1:].transpose(1, 2).unflatten(2, (4, 4))

    values, slope = at_layer(model, name)
    plain = (to_maps(slope).mean((2, 3), keepdim=True) * to_maps(values)).sum(1)
    assert plain.shape == (1, 4, 4)
    for options in ({}, {"layer": name}, {"layer": name, "reshape": to_maps}):
        explanation = create_analyzer("grad_cam", model, **options).explain(IMAGES[:1], 1)
        torch.testing.assert_close(explanation.details["map"], plain, **TOLERANCE)


def at_layer(model: nn.Module, layer: str) -> tuple[Tensor, Tensor]:
    """Return a layer's output for the first image and the gradient of logit 1, read with a hook."""
    seen: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda *call: seen.append(call[-1]))
    logit = model(IMAGES[:1])[0, 1]
    handle.remove()
    return seen[0].detach(), torch.autograd.grad(logit, seen[0])[0]


def test_channel_axis_of_a_named_layer_is_found() -> None:
    """In a ConvNeXt block, channels are first, then last, then first again."""
    torch.manual_seed(0)
    block = torchvision.models.convnext.CNBlock(64, 1.0, 0.0)
    model = nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), block, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 3)
    )
    model.double()  # 64 channels at 64×64 positions: the shape is ambiguous
    for layer in ("1.block.0", "1.block.2", "1.block.4", "1"):
        values, slope = at_layer(model, layer)
        is_last = layer in ("1.block.2", "1.block.4")
        axes, axis = ((1, 2), 3) if is_last else ((2, 3), 1)
        plain = (slope.mean(axes, keepdim=True) * values).sum(axis)
        explanation = create_analyzer("grad_cam", model, layer=layer).explain(IMAGES[:1], 1)
        torch.testing.assert_close(explanation.details["map"], plain, **TOLERANCE)
        named = "last" if is_last else "first"
        again = create_analyzer("grad_cam", model, layer=layer, channels=named).explain(IMAGES[:1], 1)
        assert torch.equal(again.details["map"], explanation.details["map"])


def test_signals_and_volumes_are_supported() -> None:
    for convolution, places in ((nn.Conv1d, (20,)), (nn.Conv3d, (5, 6, 7))):
        torch.manual_seed(0)
        model = nn.Sequential(convolution(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)).double()
        x = torch.rand(2, 2, *places).double()
        model(x)
        explanation = create_analyzer("grad_cam", model).explain(x, 1)
        torch.testing.assert_close(explanation.details["map"], by_flat_formula(model, x), **TOLERANCE)
        assert explanation.relevance.shape == x.shape


def by_flat_formula(model: nn.Sequential, x: Tensor) -> Tensor:
    maps = model[:2](x).detach()
    weights = model[3].weight.detach()[1].reshape(maps.shape[1:]).flatten(1).mean(1)
    return torch.einsum("bk...,k->b...", maps, weights)


def test_invalid_layers_and_images_are_reported(network, images) -> None:
    analyzer = create_analyzer("grad_cam", vision("squeezenet1_1"), layer="feature.3")
    with pytest.raises(UnknownName, match=r"'feature.3'; did you mean 'features.3'.*Available: features, feat"):
        analyzer.analyze(IMAGES)
    resnet = vision("resnet18")
    for layer, why in (("layer4.1.relu", "used 2 times"), ("fc", r"\(1, 1000\)|with 4 axes")):
        with pytest.raises(ModelError, match=why):
            create_analyzer("grad_cam", resnet, layer=layer).analyze(IMAGES[:1])
    with pytest.raises(ModelError, match="no operation outputs feature maps"):
        create_analyzer("grad_cam", nn.Sequential(nn.Flatten(), nn.Linear(100, 3)).double()).analyze(images)
    with pytest.raises(ShapeError, match="spatial axes"):
        create_analyzer("grad_cam", nn.Linear(4, 3)).analyze(torch.rand(2, 4))


class TwoBranches(nn.Module):
    """Two branches that meet after pooling: the last maps do not determine the logits."""

    def __init__(self, is_detached: bool = False) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(1, 4, 3), nn.Conv2d(1, 4, 3), nn.Linear(8, 3)
        self.is_detached = is_detached

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.a(x).relu(), self.b(x).relu()
        second = second.detach() if self.is_detached else second
        return self.c(torch.cat([first.mean((2, 3)), second.mean((2, 3))], 1))


def test_bypassed_maps_are_refused(images) -> None:
    with pytest.raises(ModelError, match="do not determine the logits: mean"):
        create_analyzer("grad_cam", TwoBranches().double()).analyze(images)
    create_analyzer("grad_cam", TwoBranches().double(), layer="a").analyze(images)
    with pytest.raises(ModelError, match="layer 'b' through a differentiable path"):
        create_analyzer("grad_cam", TwoBranches(is_detached=True).double(), layer="b").analyze(images)


def test_hooks_are_removed_after_an_error(network, images) -> None:
    def broken(logits: Tensor) -> Tensor:
        raise OSError("a failing custom score")

    analyzer = create_analyzer("grad_cam", network, layer="2")
    with pytest.raises(OSError, match="custom score"):
        analyzer.analyze(images, broken)
    analyzer.analyze(images)
    assert not any(module._forward_hooks for module in network.modules())


def test_output_maps_are_refused() -> None:
    segmenter = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1)).double().eval()

    def score(maps: Tensor) -> Tensor:
        return maps[:, 1].sum((1, 2))

    with pytest.raises(ModelError, match=r"consists of maps, \(2, 64, 64\).*layer='…'"):
        create_analyzer("grad_cam", segmenter).analyze(IMAGES, score)
    assert create_analyzer("grad_cam", segmenter, layer="1").analyze(IMAGES, score).shape == IMAGES.shape
