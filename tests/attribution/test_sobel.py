"""The control `sobel`: compared with the formula of the filters, pixel by pixel."""

import pytest
import torch
from torch import nn

from pellucid import create_analyzer
from pellucid.core.errors import ShapeError


def test_equals_the_formula_pixel_by_pixel() -> None:
    images = torch.rand(2, 3, 5, 6, generator=torch.Generator().manual_seed(0)).double()
    expected = torch.zeros_like(images)
    for place in torch.ones(images.shape).nonzero().tolist():
        image, channel, row, column = place

        def pixel(down: int, right: int, plane=images[image, channel], row=row, column=column) -> float:
            return float(plane[min(max(row + down, 0), 4), min(max(column + right, 0), 5)])  # replicate padding

        across = sum(weight * (pixel(k, 1) - pixel(k, -1)) for k, weight in ((-1, 1), (0, 2), (1, 1)))
        down = sum(weight * (pixel(1, k) - pixel(-1, k)) for k, weight in ((-1, 1), (0, 2), (1, 1)))
        expected[tuple(place)] = (across**2 + down**2) ** 0.5
    torch.testing.assert_close(create_analyzer("sobel", nn.Flatten()).analyze(images), expected, rtol=1e-12, atol=1e-14)


def test_ramp_has_a_constant_edge_strength() -> None:
    ramp = torch.arange(6.0).expand(1, 2, 5, 6) / 8
    edges = create_analyzer("sobel", nn.Flatten()).analyze(ramp)
    torch.testing.assert_close(edges[..., 1:-1], torch.ones(1, 2, 5, 4))  # 8 · 1/8
    assert edges.shape == ramp.shape


def test_non_images_are_refused() -> None:
    with pytest.raises(ShapeError, match="batch, channel, height, width"):
        create_analyzer("sobel", nn.Flatten()).analyze(torch.rand(2, 3, 4))
