"""Image corruptions of graded strength: noise, blur, rotation, shift and loss of contrast.

The idea of a table of corruptions at five strengths is that of Hendrycks and Dietterich, "Benchmarking neural network
robustness to common corruptions and perturbations", 2019. The corruptions here are simple ones, whose strength has a
unit and which fit images of any size and number of channels.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid.core.errors import ConfigError, DataError, ShapeError, UnknownName
from pellucid.core.finite import check_inputs
from pellucid.core.seeding import generator
from pellucid.core.types import Images
from pellucid.diagnostics._arguments import check_tensors

__all__ = ["CORRUPTIONS", "Corruption", "check_images", "corrupt"]

ROUNDING = 1e-4
"""Share of the pixel range by which pixels may exceed it."""
Draws = Iterator[torch.Generator]
"""One random generator per image."""


@dataclass(frozen=True)
class Corruption:
    """A corruption with its five strengths, from the weakest to the strongest."""

    strengths: tuple[float, float, float, float, float]
    unit: str
    """Meaning and unit of a strength."""
    label: str
    """The same in a few words, for an axis."""
    apply: Callable[[Tensor, float, Draws], Tensor]
    """Function of images in [0, 1], the strength and the generators of the images; values may leave [0, 1]."""


def corrupt(
    images: Images,
    name: str,
    strength: float,
    *,
    pixel_range: tuple[float, float] = (0.0, 1.0),
    seed: int = 0,
    first: int = 0,
) -> Images:
    """Return corrupted images (batch, channel, height, width), within the pixel range.

    A strength of 0 returns the images unchanged. The noise, the direction of a shift and that of a rotation are drawn
    from the seed and the position of each image, so they are the same at all strengths, and a batch gives the same as
    its parts. Pixels from outside the image repeat those of its border.

    Args:
        images: pixels within `pixel_range`.
        name: one of `CORRUPTIONS`.
        strength: in the corruption's unit, at least 0. `CORRUPTIONS[name].strengths` are the five default values.
        pixel_range: pixel values of black and white.
        seed: random seed.
        first: position of the first image in its data set.

    Raises:
        UnknownName: for an unknown corruption.
        ShapeError: for images of another shape.
        ConfigError: for a strength that is negative or not finite, or an empty pixel range.
        DataError: for pixels that are not finite or outside the pixel range.

    >>> images = torch.rand(2, 1, 8, 8)
    >>> corrupt(images, "noise", 0.3).shape
    torch.Size([2, 1, 8, 8])
    >>> torch.equal(corrupt(images, "blur", 0.0), images)
    True
    """
    if name not in CORRUPTIONS:
        raise UnknownName("corruption", name, CORRUPTIONS)
    if not 0 <= strength < math.inf:
        raise ConfigError(f"the strength of {name} is {strength}; expected a finite number of at least 0.")
    check_images(images, pixel_range)
    if images.ndim != 4:
        raise ShapeError(f"got images of shape {tuple(images.shape)}; expected (batch, channel, height, width).")
    if strength == 0 or not images.numel():
        return images.clone()
    low, high = pixel_range
    draws = (generator(seed, "corruption", name, first + place) for place in range(len(images)))
    changed = CORRUPTIONS[name].apply((images - low) / (high - low), strength, draws)
    # the second clamp removes the rounding of the scaling
    return (changed.clamp(0, 1) * (high - low) + low).clamp(low, high)


def check_images(images: Any, pixel_range: tuple[float, float] | None) -> None:
    """Raise an error unless images are finite and, up to rounding, within the pixel range, if there is one."""
    check_tensors(images=images)
    images = images.detach()
    if images.numel():
        check_inputs(images)
    if pixel_range is None:
        return
    low, high = pixel_range
    if not -math.inf < low < high < math.inf:
        raise ConfigError(f"the pixel range is {pixel_range}; expected two finite numbers, the lower one first.")
    room = ROUNDING * (high - low)
    if images.numel() and not (low - room <= float(images.min()) and float(images.max()) <= high + room):
        raise DataError(
            f"the pixels range from {float(images.min()):.4g} to {float(images.max()):.4g}, outside the pixel range "
            f"{low:g} to {high:g}; pass pixel_range=(lowest, highest) of your images."
        )


def _noise(images: Tensor, strength: float, draws: Draws) -> Tensor:
    # drawn on the CPU in float32, so that it is the same on every device
    noise = torch.stack([torch.randn(images.shape[1:], generator=draw, dtype=torch.float32) for draw in draws])
    return images + strength * noise.to(images)


def _blur(images: Tensor, strength: float, draws: Draws) -> Tensor:  # noqa: ARG001  (nothing is random)
    # a standard deviation relative to the shorter side treats images of all sizes alike
    sigma = strength * min(images.shape[2:])
    reach = max(1, math.ceil(3 * sigma))
    places = torch.arange(-reach, reach + 1, device=images.device, dtype=torch.float64)
    weights = torch.exp(-0.5 * (places / sigma).square())
    window = (weights / weights.sum()).to(images)
    planes = images.flatten(0, 1)[:, None]
    # one axis after the other, because the Gaussian is a product
    planes = F.conv2d(F.pad(planes, (0, 0, reach, reach), "replicate"), window.view(1, 1, -1, 1))
    planes = F.conv2d(F.pad(planes, (reach, reach, 0, 0), "replicate"), window.view(1, 1, 1, -1))
    return planes.view_as(images)


def _rotation(images: Tensor, strength: float, draws: Draws) -> Tensor:
    angle, (height, width) = strength * math.pi / 180, images.shape[2:]
    maps = []
    for draw in draws:
        side = 1.0 if float(torch.rand((), generator=draw, dtype=torch.float32)) < 0.5 else -1.0
        across, up = math.cos(angle), side * math.sin(angle)
        # grid_sample measures both axes from −1 to 1, so the angle has to be corrected for the shape of the image
        maps.append([[across, -up * height / width, 0.0], [up * width / height, across, 0.0]])
    return _resampled(images, maps)


def _shift(images: Tensor, strength: float, draws: Draws) -> Tensor:
    (height, width), maps = images.shape[2:], []
    # the same distance in pixels along both axes
    pixels = strength * min(height, width)
    for draw in draws:
        angle = 2 * math.pi * float(torch.rand((), generator=draw, dtype=torch.float32))
        # 2 is the width and height of the image in the units of grid_sample
        maps.append(
            [[1.0, 0.0, 2 * pixels * math.cos(angle) / width], [0.0, 1.0, 2 * pixels * math.sin(angle) / height]]
        )
    return _resampled(images, maps)


def _resampled(images: Tensor, maps: list[list[list[float]]]) -> Tensor:
    """Resample each image bilinearly, at the places that its 2×3 matrix maps the pixels to."""
    matrices = torch.tensor(maps, device=images.device, dtype=images.dtype)
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _contrast(images: Tensor, strength: float, draws: Draws) -> Tensor:  # noqa: ARG001  (nothing is random)
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + max(0.0, 1 - strength) * (images - mean)


CORRUPTIONS: Mapping[str, Corruption] = {
    "noise": Corruption(
        (0.05, 0.1, 0.15, 0.2, 0.3),
        "standard deviation of Gaussian noise, as a share of the pixel range",
        "standard deviation / pixel range",
        _noise,
    ),
    "blur": Corruption(
        (0.01, 0.02, 0.03, 0.04, 0.05),
        "standard deviation of a Gaussian blur, as a share of the shorter side",
        "standard deviation / shorter side",
        _blur,
    ),
    "rotation": Corruption(
        (10.0, 20.0, 30.0, 40.0, 50.0), "angle in degrees, in a random direction", "angle in degrees", _rotation
    ),
    "shift": Corruption(
        (0.05, 0.1, 0.15, 0.2, 0.25),
        "distance as a share of the shorter side, in a random direction",
        "distance / shorter side",
        _shift,
    ),
    "contrast": Corruption(
        (0.2, 0.35, 0.5, 0.65, 0.8),
        "share of the contrast lost: pixels move toward the image's mean",
        "share of the contrast lost",
        _contrast,
    ),
}
"""Corruptions by name."""
