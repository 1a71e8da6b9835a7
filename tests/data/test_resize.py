"""Resized images keep their content and dtype."""

import numpy as np
import pytest
import torch
from PIL import Image

from pellucid.core.contracts import ImageSet
from pellucid.data._resize import resized, resized_set


@pytest.mark.parametrize("size", [(5, 9), (28, 14), (40, 50)])
def test_resizing_agrees_with_pillow(size: tuple[int, int]) -> None:
    pixels = torch.randint(0, 256, (2, 1, 20, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    outputs = resized(pixels, *size)
    for image, result in zip(pixels, outputs, strict=True):
        reference = Image.fromarray(image[0].numpy()).resize(size[::-1], Image.Resampling.BILINEAR)
        assert np.abs(result[0].numpy().astype(int) - np.asarray(reference).astype(int)).max() <= 1


def test_resizing_in_chunks_gives_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = torch.rand(7, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    whole = resized(pixels, 8, 6)
    monkeypatch.setattr("pellucid.data._resize.IMAGES_AT_ONCE", 3)
    assert torch.equal(resized(pixels, 8, 6), whole)
    assert whole.dtype == torch.float32


def test_the_same_size_returns_the_input() -> None:
    images = ImageSet(torch.zeros(1, 1, 4, 6, dtype=torch.uint8), torch.tensor([0]))
    assert resized_set(images, None) is images
    assert resized_set(images, 6).image_shape == (1, 6, 6)
    assert resized(images.pixels, 4, 6) is images.pixels
