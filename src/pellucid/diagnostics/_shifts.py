"""Out-of-distribution images, made from images of the data: rotated, inverted, noisy, and with shuffled patches."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid.core.errors import ConfigError, DataError, ShapeError
from pellucid.core.finite import check_inputs
from pellucid.core.types import Images
from pellucid.diagnostics._arguments import check_tensors

__all__ = ["SHIFTS", "shift_images"]

NOISE_SHARE = 0.3
"""Standard deviation of the noise, as a share of the pixel range."""
PATCHES = 4
"""Patches along each side; fewer for images with fewer pixels."""
ROUNDING = 1e-4
"""Share of the pixel range by which pixels may exceed it."""

SHIFTS: Mapping[str, str] = {
    "rotated": "rotated by 90° counterclockwise",
    "inverted": "black and white exchanged",
    "noisy": f"Gaussian noise with a standard deviation of {NOISE_SHARE:.0%} of the pixel range",
    "shuffled": f"{PATCHES}×{PATCHES} patches in random order",
}
"""Description of each shift, by name."""


def shift_images(
    images: Images, shift: str, draws: torch.Generator, *, scale: tuple[float, float] = (0.0, 1.0)
) -> Images:
    """Return modified copies of images, of the same shape and within the pixel range.

    - `rotated`: by 90° counterclockwise, then resized to the shape of the images if they are not square. Rotations by
      180° would turn a 6 into a 9.
    - `inverted`: reflected at the middle of the pixel range.
    - `noisy`: with Gaussian noise of 30% of the pixel range, clipped to the range.
    - `shuffled`: cut into 4×4 patches, in another random order for each image. Rows and columns beyond the last whole
      patch stay in place.

    Args:
        images: (batch, channel, height, width).
        shift: one of `SHIFTS`.
        draws: CPU generator of the random numbers.
        scale: lowest and highest pixel value.

    Raises `ConfigError` for an unknown shift or an empty pixel range, `ShapeError` for another shape or dtype, and
    `DataError` for pixels that are not finite or outside the pixel range.

    >>> images = torch.rand(2, 1, 8, 8)
    >>> draws = torch.Generator().manual_seed(0)
    >>> torch.equal(shift_images(images, "inverted", draws), 1 - images)
    True
    >>> torch.equal(shift_images(images, "rotated", draws).rot90(-1, (2, 3)), images)
    True
    """
    low, high = scale
    if not low < high:
        raise ConfigError(f"scale is {scale}; pass the lowest and the highest pixel value, in this order.")
    _check_images(images, low, high)
    match shift:
        case "rotated":
            return _rotated(images)
        case "inverted":
            return low + high - images
        case "noisy":
            # drawn on the CPU, so that the noise is the same for every device
            noise = torch.randn(images.shape, generator=draws, dtype=images.dtype, device="cpu").to(images.device)
            return (images + NOISE_SHARE * (high - low) * noise).clamp(low, high)
        case "shuffled":
            return _shuffled(images, draws)
    raise ConfigError(f"shift is {shift!r}; pass one of {', '.join(SHIFTS)}.")


def _check_images(images: Any, low: float, high: float) -> None:
    check_tensors(images=images)
    if images.ndim != 4 or not images.is_floating_point():
        raise ShapeError(
            f"got images of shape {tuple(images.shape)} and dtype {images.dtype}; expected floats of shape (batch, "
            "channel, height, width), for example images / 255 for bytes."
        )
    if not images.numel():
        return
    check_inputs(images)
    first, last, room = float(images.min()), float(images.max()), ROUNDING * (high - low)
    if first < low - room or last > high + room:
        raise DataError(
            f"the pixels range from {first:.4g} to {last:.4g}, outside the scale {low:g} to {high:g}; pass "
            "scale=(lowest, highest) of your images."
        )


def _rotated(images: Images) -> Images:
    rotated = images.rot90(1, (2, 3))
    if rotated.shape == images.shape:
        return rotated
    # in float32 at least, since half precision has no antialiasing on the CPU
    exact = rotated if rotated.dtype == torch.float64 else rotated.float()
    return F.interpolate(exact, size=images.shape[-2:], mode="bilinear", antialias=True).to(images.dtype)


def _shuffled(images: Images, draws: torch.Generator) -> Images:
    batch, channels, height, width = images.shape
    rows, columns = min(PATCHES, height), min(PATCHES, width)
    down, across = height // rows, width // columns
    whole = images[..., : rows * down, : columns * across]
    patches = whole.reshape(batch, channels, rows, down, columns, across).permute(0, 2, 4, 1, 3, 5)
    patches = patches.reshape(batch, rows * columns, channels, down, across)
    order = torch.rand(batch, rows * columns, generator=draws, dtype=torch.float32, device="cpu").argsort(1)
    image = torch.arange(batch, device="cpu")[:, None]
    mixed = patches[image.to(images.device), order.to(images.device)]
    mixed = mixed.reshape(batch, rows, columns, channels, down, across).permute(0, 3, 1, 4, 2, 5)
    result = images.clone()
    result[..., : rows * down, : columns * across] = mixed.reshape(whole.shape)
    return result


def is_gray(images: Tensor) -> bool:
    """Return True for images with one channel, or whose channels are all equal."""
    return bool((images == images[:, :1]).all())
