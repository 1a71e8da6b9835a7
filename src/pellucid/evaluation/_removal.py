"""Taking the information out of pixels."""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["IMPUTATION_NOISE", "Removal", "removed", "remover", "substitute"]

Removal = Literal["zero", "mean", "blur", "linear"]
"""What stands in place of a removed pixel: 0; the mean of the image's channel; the image blurred by a Gaussian of a
tenth of its longer side; or a noisy linear imputation from the pixels that are left."""

BLUR_SHARE = 0.1
IMPUTATION_NOISE = 0.01
"""Standard deviation of the noise on imputed pixels, so that a network cannot tell them by their smoothness."""
WEIGHTS = ((1 / 12, 1 / 6, 1 / 12), (1 / 6, 0.0, 1 / 6), (1 / 12, 1 / 6, 1 / 12))
"""Of a pixel's neighbours, by Rong et al. (2022, section 5.1)."""
TOLERANCE, MOST_STEPS = 1e-8, 1000
"""The share of the residual that is left by the solver, and the steps it may take."""


def substitute(images: Tensor, removal: Removal) -> Tensor:
    """The images with every pixel removed; not for `linear`, which depends on what is left.

    >>> substitute(torch.ones(1, 1, 2, 2), "zero").sum().item()
    0.0
    """
    if removal == "zero":
        return torch.zeros_like(images)
    if removal == "mean":
        return images.mean((2, 3), keepdim=True).expand_as(images)
    if removal == "blur":
        return _blurred(images)
    raise ValueError(f"{removal!r} has no substitute of its own")


def removed(images: Tensor, is_removed: Tensor, removal: Removal, noise: Tensor | None = None) -> Tensor:
    """The images without the pixels in `is_removed`, (image, height, width).

    `noise` (channel, height, width) of unit variance is added to linearly imputed pixels, times `IMPUTATION_NOISE`.
    """
    if removal != "linear":
        return torch.where(is_removed[:, None], substitute(images, removal), images)
    result = _imputed(images, is_removed)
    return result if noise is None else torch.where(is_removed[:, None], result + IMPUTATION_NOISE * noise, result)


def remover(images: Tensor, removal: Removal, noise: Tensor | None = None) -> Callable[[Tensor], Tensor]:
    """A function from masks to `removed` images, for many masks on the same images."""
    if removal == "linear":
        return lambda is_removed: removed(images, is_removed, removal, noise)
    empty = substitute(images, removal)
    return lambda is_removed: torch.where(is_removed[:, None], empty, images)


def _blurred(images: Tensor) -> Tensor:
    sigma = max(BLUR_SHARE * max(images.shape[2:]), 0.5)
    channels = images.shape[1]
    for axis in (2, 3):
        reach = min(int(3 * sigma), images.shape[axis] - 1)
        weights = torch.exp(-(torch.arange(-reach, reach + 1) ** 2) / (2 * sigma**2)).to(images)
        shape = (1, 1, -1, 1) if axis == 2 else (1, 1, 1, -1)
        window = (weights / weights.sum()).reshape(shape).repeat(channels, 1, 1, 1)
        sides = (0, 0, reach, reach) if axis == 2 else (reach, reach, 0, 0)
        images = F.conv2d(F.pad(images, sides, mode="reflect"), window, groups=channels)
    return images


def _imputed(images: Tensor, is_removed: Tensor) -> Tensor:
    """Each removed pixel the weighted mean of its neighbours, removed or not: linear equations, solved for all at once.

    Rong et al. (2022, eq. 7): direct neighbours weigh 1/6, diagonal ones 1/12; neighbours outside the image have no
    weight, and the others more. The matrix (weights of the neighbours on the diagonal, less the weights elsewhere) is
    symmetric and positive definite, so that conjugate gradients solve it. An image with no pixel left becomes 0.
    """
    unknown = is_removed[:, None].to(torch.float64)
    pixels = images.double() * (1 - unknown)
    window = torch.tensor(WEIGHTS, dtype=torch.float64, device=images.device)[None, None]

    def neighbours(values: Tensor) -> Tensor:
        return F.conv2d(values.flatten(0, 1)[:, None], window, padding=1).reshape(values.shape)

    total = neighbours(torch.ones_like(pixels[:1]))
    found = torch.zeros_like(pixels)
    left = unknown * neighbours(pixels)
    way, size = left / total, (left * left / total).sum((2, 3), keepdim=True)
    goal = TOLERANCE**2 * size
    for _ in range(MOST_STEPS):
        if bool((size <= goal).all()):
            break
        pushed = unknown * (total * way - neighbours(way))
        step = size / (way * pushed).sum((2, 3), keepdim=True).clamp(min=1e-300)
        found = found + step * way
        left = left - step * pushed
        before, size = size, (left * left / total).sum((2, 3), keepdim=True)
        way = left / total + size / before.clamp(min=1e-300) * way
    return (pixels + found).to(images.dtype)
