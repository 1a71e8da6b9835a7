"""Score-CAM: its algorithm, channel by channel, with plain hooks."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from pellucid import create_analyzer
from pellucid.attribution.score_cam import masks_of
from pellucid.core.errors import ConfigError, ShapeError


def at(model: nn.Module, layer: str, images: Tensor) -> Tensor:
    seen: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda *call: seen.append(call[2].detach().clone()))
    with torch.no_grad():
        model(images)
    handle.remove()
    return seen[0]


def by_algorithm(model: nn.Module, maps: Tensor, image: Tensor, target: int, base: Tensor | None = None) -> Tensor:
    """Algorithm 1 for one image (channel, …); with `base`, weights are the increases themselves (equation 5)."""
    scores = []
    fill = torch.zeros_like(image) if base is None else base
    with torch.no_grad():
        for one in maps:
            large = F.interpolate(one[None, None], size=image.shape[1:], mode="bilinear", align_corners=False)[0, 0]
            low, high = float(large.min()), float(large.max())
            mask = (large - low) / (high - low) if high > low else 0 * large
            scores.append(float(model((mask * image + (1 - mask) * fill)[None])[0, target]))
        weights = torch.tensor(scores, dtype=maps.dtype)
        weights = weights.softmax(0) if base is None else weights - model(fill[None])[0, target]
    result = torch.zeros_like(maps[0])
    for weight, one in zip(weights, maps, strict=True):
        result += weight * one
    return result


@pytest.mark.parametrize("layer", ["0", "4"])
def test_equals_the_algorithm(network, images, layer) -> None:
    explanation = create_analyzer("score_cam", network, layer=layer).explain(images, 1)
    maps = at(network, layer, images)
    expected = torch.stack([by_algorithm(network, own, image, 1) for own, image in zip(maps, images, strict=True)])
    torch.testing.assert_close(explanation.details["map"], expected, rtol=1e-9, atol=1e-12)
    large = F.interpolate(expected.clamp(min=0)[:, None], size=(10, 10), mode="bilinear", align_corners=False)
    torch.testing.assert_close(explanation.relevance, large, rtol=1e-9, atol=1e-12)
    assert explanation.evaluations.tolist() == [maps.shape[1] + 1] * 4


def test_increases_and_a_baseline(network, images) -> None:
    base = torch.rand(1, 10, 10).double()
    options = {"layer": "4", "weights": "increase", "baseline": base}
    explanation = create_analyzer("score_cam", network, **options).explain(images, "all")
    maps = at(network, "4", images)
    for target in range(5):
        expected = [by_algorithm(network, own, x, target, base) for own, x in zip(maps, images, strict=True)]
        found = explanation.details["map"][:, target]
        torch.testing.assert_close(found, torch.stack(expected), rtol=1e-9, atol=1e-12)


def test_top_channels_have_the_largest_activations(network, images) -> None:
    maps = at(network, "0", images)
    found = create_analyzer("score_cam", network, layer="0", top_channels=2).explain(images, 1).details["map"]
    for own, image, one in zip(maps, images, found, strict=True):
        kept = sorted(range(len(own)), key=lambda k: -float(own[k].abs().mean()))[:2]
        torch.testing.assert_close(one, by_algorithm(network, own[kept], image, 1), rtol=1e-9, atol=1e-12)
    whole = create_analyzer("score_cam", network, layer="0").analyze(images, 1)
    for count in (6, 99):
        more = create_analyzer("score_cam", network, layer="0", top_channels=count).analyze(images, 1)
        torch.testing.assert_close(more, whole, rtol=1e-9, atol=1e-12)


def test_masks_reach_from_0_to_1() -> None:
    maps = torch.randn(2, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    maps[1, 2] = 0.7
    masks = masks_of(maps, torch.zeros(2, 1, 12, 12))
    assert masks.amin((2, 3)).eq(0).all()
    assert masks.amax((2, 3)).flatten().eq(1).tolist() == [k != 7 for k in range(10)]


def test_a_batch_of_a_residual_network_equals_its_images() -> None:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None).double().eval()
    images = torch.rand(2, 3, 16, 16).double()
    analyzer = create_analyzer("score_cam", model, layer="layer2", top_channels=3)
    many = analyzer.analyze(images, 3)
    alone = torch.cat([analyzer.analyze(image[None], 3) for image in images])
    torch.testing.assert_close(many, alone, rtol=1e-9, atol=1e-9 * float(many.abs().max()))


def test_invalid_options_are_reported(network, images) -> None:
    with pytest.raises(ConfigError, match="top_channels.*0"):
        create_analyzer("score_cam", network, top_channels=0)
    with pytest.raises(ConfigError, match="weights.*mean"):
        create_analyzer("score_cam", network, weights="mean")
    with pytest.raises(ShapeError, match="baseline has shape"):
        create_analyzer("score_cam", network, baseline=torch.zeros(3, 7)).analyze(images)
