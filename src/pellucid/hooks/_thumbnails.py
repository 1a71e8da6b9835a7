"""Square thumbnails of images, for the report and the projector."""

import numpy as np
import torch
import torch.nn.functional as F

from pellucid.core.contracts import ImageSet

__all__ = ["PAGE_SIDE", "lossless_size", "squares", "thumbnails"]

PAGE_SIDE = 28
"""Maximum side of the report's thumbnails, in pixels."""
VALUES_AT_ONCE = 10_000_000


def thumbnails(images: ImageSet, side: int) -> np.ndarray:
    """Return thumbnails (image, side, side, channel) as bytes: images padded to squares and downsampled to `side`.

    Small images keep their size. Three channels stay in color; any other number is averaged to one.

    >>> thumbnails(ImageSet(torch.zeros(2, 1, 7, 12, dtype=torch.uint8), torch.zeros(2).long()), 28).shape
    (2, 12, 12, 1)
    """
    # in parts, because floats take four times the memory of the stored bytes
    at_once = max(1, min(200, VALUES_AT_ONCE // max(1, images.pixels[:1].numel())))
    small = [squares(images.shown(part), side) for part in torch.arange(len(images)).split(at_once)]
    return torch.cat(small).permute(0, 2, 3, 1).numpy()


def lossless_size(images: ImageSet, side: int) -> list[int] | None:
    """Return the height and width of images if `thumbnails` hold their exact pixels, apart from added borders.

    >>> lossless_size(ImageSet(torch.zeros(2, 1, 7, 12, dtype=torch.uint8), torch.zeros(2).long()), 28)
    [7, 12]
    """
    channels, height, width = images.image_shape
    is_bytes = images.pixels.dtype == torch.uint8 and images.scale == (0, 1)
    return [height, width] if is_bytes and channels in (1, 3) and max(height, width) <= side else None


def squares(images: torch.Tensor, side: int) -> torch.Tensor:
    """Return floats (image, channel, height, width) in [0, 1] as square bytes (image, channel, side, side).

    They are padded and downsampled as `thumbnails` does.
    """
    images = images if images.shape[1] == 3 else images.mean(1, keepdim=True)
    height, width = images.shape[-2:]
    across, down = max(height - width, 0), max(width - height, 0)
    # black borders keep the aspect ratio
    square = F.pad(images, (across // 2, across - across // 2, down // 2, down - down // 2))
    if square.shape[-1] > side:
        square = F.interpolate(square, size=(side, side), mode="area")
    return (square * 255).round().clamp(0, 255).to(torch.uint8)
