"""Tests of attribution/_over_image.py: hidden layers are drawn where their values are in the image."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pellucid.attribution import create_analyzer
from pellucid.attribution._over_image import over_image, plane_of


@pytest.mark.parametrize(
    ("layer", "image", "expected"),
    [
        ((64, 28, 28), (3, 224, 224), (28, 28, 0, 0)),
        ((56, 56, 96), (3, 224, 224), (56, 56, 2, 0)),  # channels last
        ((56, 56, 56), (3, 224, 224), (56, 56, 0, 0)),  # ambiguous: channels first
        ((8, 5, 7), (1, 19, 28), (5, 7, 0, 0)),  # sides rounded up
        ((5, 7, 8), (1, 19, 28), (5, 7, 2, 0)),
        ((16, 14, 28), (1, 28, 28), (14, 28, 0, 0)),  # two strides: channels first by default
        ((197, 768), (3, 224, 224), (14, 14, 1, 1)),
        ((197, 1024), (3, 224, 224), (14, 14, 1, 1)),
        ((201, 384), (3, 224, 224), (14, 14, 1, 5)),  # with registers
        ((32, 10), (1, 16, 32), (4, 8, 1, 0)),  # not square
    ],
)
def test_layers_are_placed_by_their_shape(layer, image, expected) -> None:
    plane = plane_of(layer, image)
    assert plane is not None
    assert (plane.rows, plane.columns, plane.axis, plane.extra) == expected


@pytest.mark.parametrize(
    "layer",
    [
        (64, 49),  # 64 tokens of 28×28 pixels, or 64 channels of 7×7 positions
        (150, 32),  # no grid of patches
        (3, 10),
        (100,),
        (4, 8, 8, 8),
    ],
)
def test_other_layers_have_no_place(layer) -> None:
    assert plane_of(layer, (3, 224, 224)) is None


@pytest.mark.parametrize("is_last", [False, True])
def test_values_land_on_their_pixels(is_last) -> None:
    maps = np.random.default_rng(0).normal(size=(6, 4, 8))
    given = np.moveaxis(maps, 0, -1) if is_last else maps
    plane = plane_of(given.shape, (3, 16, 32))
    assert plane is not None
    shown = over_image(given, plane, (3, 16, 32))
    for row, column in np.ndindex(16, 32):
        assert shown[:, row, column].sum() == pytest.approx(maps[:, row // 4, column // 4].sum())


def test_tokens_land_on_their_patches() -> None:
    maps = np.random.default_rng(0).normal(size=(2 + 8, 5))
    plane = plane_of(maps.shape, (1, 8, 16))
    assert plane is not None
    shown = over_image(maps, plane, (1, 8, 16))[0]
    assert shown[5, 9] == pytest.approx(maps[2 + 1 * 4 + 2].sum())
    np.testing.assert_allclose(shown[::4, ::4].ravel(), maps[2:].sum(1))


class Patches(nn.Module):
    """Embeds patches of 4×4 pixels, and puts a class token in front."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.head = nn.Conv2d(1, 6, 4, stride=4), nn.Linear(6, 6), nn.Linear(6, 3)
        self.token = nn.Parameter(torch.randn(1, 1, 6))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        return self.head(self.mix(torch.cat([self.token.expand(len(x), -1, -1), tokens], 1)).sum(1))


def test_tokens_are_drawn_over_the_image() -> None:
    torch.manual_seed(0)
    explanation = create_analyzer("lrp.epsilon", Patches().eval()).explain(torch.rand(1, 1, 16, 16), 0, to="mix")
    figure = explanation.figure()
    axes = [one for one in figure.axes if one.images]
    grid = explanation.relevance[0, 1:].sum(1).reshape(4, 4)
    shown = torch.tensor(np.asarray(axes[1].images[0].get_array()))
    torch.testing.assert_close(shown[::4, ::4].float(), grid, rtol=1e-4, atol=1e-6)
    text = "\n".join(one.get_text() for one in figure.texts)
    first, total = (f"{float(value):.4g}" for value in (explanation.relevance[0, 0].sum(), explanation.relevance.sum()))
    assert f"Output of mix; {first} of the map's sum, {total}, is at the first token" in text


def test_three_channels_of_a_volume_are_no_colors() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv3d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(192, 2))
    explained = create_analyzer("lrp.epsilon", model).explain(torch.rand(1, 1, 6, 6, 6), 1, to=["0", "1"])
    figure = explained.figure()
    pictures = [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images]
    assert all(picture.ndim == 2 for picture in pictures)
    activations = explained["0"].activations[0].mean(0)
    scaled = (activations - activations.min()) / (activations.max() - activations.min())
    np.testing.assert_allclose(pictures[0], scaled[0], atol=1e-5)
    text = " ".join(one.get_text() for one in figure.texts)
    assert "Activations are averaged over channels and drawn from each layer's smallest" in text
    assert "Input values" not in text
