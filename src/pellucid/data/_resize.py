"""Resize images."""

import torch
import torch.nn.functional as F

from pellucid.core.contracts import ImageSet, to_floats

__all__ = ["resized", "resized_set"]

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


def resized_set(images: ImageSet, size: int | None) -> ImageSet:
    """Resize the images to squares of `size` pixels; None leaves them unchanged."""
    return images if size is None else ImageSet(resized(images.pixels, size, size), images.labels)


def _resized_part(pixels: torch.Tensor, height: int, width: int) -> torch.Tensor:
    floats = F.interpolate(to_floats(pixels), size=(height, width), mode="bilinear", antialias=True)
    # rounded, because a cast truncates, which would darken the images
    return floats.mul_(255).round_().to(torch.uint8) if pixels.dtype == torch.uint8 else floats
