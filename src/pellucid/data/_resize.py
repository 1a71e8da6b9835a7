"""Resize images."""

import torch
import torch.nn.functional as F

from pellucid.core.contracts import ImageSet, to_floats
from pellucid.core.errors import DataError

__all__ = ["cropped", "fitted", "resized", "resized_set"]

IMAGES_AT_ONCE = 1000
"""Limits the memory for float copies."""


def resized(pixels: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Resize (image, channel, height, width) pixels bilinearly, with antialiasing, keeping the dtype.

    >>> resized(torch.full((2, 1, 8, 8), 200, dtype=torch.uint8), 28, 28).unique()
    tensor([200], dtype=torch.uint8)
    """
    if pixels.shape[-2:] == (height, width):
        return pixels
    return torch.cat([_resized_part(part, height, width) for part in pixels.split(IMAGES_AT_ONCE)])


def fitted(pixels: torch.Tensor, size: int | None, crop: int | None) -> torch.Tensor:
    """Resize (image, channel, height, width) pixels to squares of `size`; with `crop`, the shorter side, and crop.

    Raises `DataError` if the crop is larger than the images.

    >>> fitted(torch.zeros(1, 3, 60, 40), 20, 16).shape
    torch.Size([1, 3, 16, 16])
    """
    if size is not None:
        height, width = pixels.shape[-2:]
        shorter = min(height, width)
        sides = (size, size) if crop is None else (int(size * height / shorter), int(size * width / shorter))
        pixels = resized(pixels, *sides)
    return pixels if crop is None else cropped(pixels, crop)


def cropped(pixels: torch.Tensor, crop: int) -> torch.Tensor:
    """Cut a centered square out of (…, height, width) pixels; raises `DataError` if it is larger than they are."""
    height, width = pixels.shape[-2:]
    if crop > min(height, width):
        raise DataError(
            f"--crop {crop} is larger than the images of {height}×{width} pixels; give a larger --image-size."
        )
    top, left = round((height - crop) / 2), round((width - crop) / 2)
    return pixels[..., top : top + crop, left : left + crop]


def resized_set(images: ImageSet, size: int | None) -> ImageSet:
    """Resize the images to squares of `size` pixels; None leaves them unchanged."""
    return images if size is None else ImageSet(resized(images.pixels, size, size), images.labels)


def _resized_part(pixels: torch.Tensor, height: int, width: int) -> torch.Tensor:
    floats = F.interpolate(to_floats(pixels), size=(height, width), mode="bilinear", antialias=True)
    # rounded, because a cast truncates, which would darken the images
    return floats.mul_(255).round_().to(torch.uint8) if pixels.dtype == torch.uint8 else floats
