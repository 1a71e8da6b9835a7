"""Taking the information out of pixels."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["IMPUTATION_NOISE", "Removal", "Remover", "removed", "substitute"]

Removal = Literal["zero", "mean", "blur", "linear"]
"""What stands in place of a removed pixel: 0; the mean of the image's channel; the image blurred by a Gaussian of a
tenth of its longer side; or a noisy linear imputation from the pixels that are left."""

BLUR_SHARE = 0.1
IMPUTATION_NOISE = 0.01
"""Standard deviation of the noise on imputed pixels, so that a network cannot tell them by their smoothness."""
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-8}
"""The share of the residual that is left by the solver; what is left in single precision is far below the noise."""
MOST_STEPS = 1000


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


@dataclass(frozen=True, eq=False)
class Remover:
    """Takes pixels out of some images, for many masks on the same images."""

    images: Tensor
    removal: Removal
    noise: Tensor | None = None
    """As for `removed`."""

    @cached_property
    def empty(self) -> Tensor | None:
        """The images with every pixel removed, where that tells what stands in each pixel's place."""
        return None if self.removal == "linear" else substitute(self.images, self.removal)

    @cached_property
    def matters(self) -> Tensor:
        """(image, height, width): whether the image without that pixel is another one."""
        if self.empty is None:
            return torch.ones_like(self.images[:, 0], dtype=torch.bool)
        return (self.empty != self.images).any(1)

    def __call__(self, is_removed: Tensor, which: Tensor | slice = slice(None)) -> Tensor:
        """The images `which` without the pixels in `is_removed`, a mask of each."""
        if self.empty is None:
            return removed(self.images[which], is_removed, self.removal, self.noise)
        return torch.where(is_removed[:, None], self.empty[which], self.images[which])


def _blurred(images: Tensor) -> Tensor:
    sigma = max(BLUR_SHARE * max(images.shape[2:]), 0.5)
    channels = images.shape[1]
    for axis in (2, 3):
        reach = min(int(3 * sigma), images.shape[axis] - 1)
        steps = torch.arange(-reach, reach + 1, dtype=torch.float32, device=images.device)
        weights = torch.exp(-(steps**2) / (2 * sigma**2)).to(images)
        shape = (1, 1, -1, 1) if axis == 2 else (1, 1, 1, -1)
        window = (weights / weights.sum()).reshape(shape).repeat(channels, 1, 1, 1)
        sides = (0, 0, reach, reach) if axis == 2 else (reach, reach, 0, 0)
        images = F.conv2d(F.pad(images, sides, mode="reflect"), window, groups=channels)
    return images


def _imputed(images: Tensor, is_removed: Tensor) -> Tensor:
    """Each removed pixel the weighted mean of its neighbours, removed or not: linear equations, solved for all at once.

    As Rong et al. (2022) weigh them: direct neighbours 1/6, diagonal ones 1/12; neighbours outside the image have no
    weight, and the others more. The matrix (weights of the neighbours on the diagonal, less the weights elsewhere) is
    symmetric and positive definite, so that conjugate gradients solve it. An image with no pixel left becomes 0.
    """
    dtype = torch.promote_types(images.dtype, torch.float32)
    unknown = is_removed[:, None].to(dtype)
    pixels = images * (1 - unknown)
    total = _neighbours(torch.ones_like(pixels))
    found, left = torch.zeros_like(pixels), unknown * _neighbours(pixels)
    way = left / total
    size = (left * way).sum((2, 3), keepdim=True)
    goal, tiny = TOLERANCE[dtype] ** 2 * size, torch.finfo(dtype).tiny
    for _ in range(MOST_STEPS):
        if bool((size <= goal).all()):
            break
        pushed = _neighbours(way).neg_().addcmul_(total, way).mul_(unknown)
        step = size / (way * pushed).sum((2, 3), keepdim=True).clamp_(min=tiny)
        found.addcmul_(step, way)
        left.addcmul_(step, pushed, value=-1)
        rest = left / total
        before, size = size, (left * rest).sum((2, 3), keepdim=True)
        way.mul_(size / before.clamp(min=tiny)).add_(rest)
    return (pixels + found).to(images.dtype)


def _neighbours(values: Tensor) -> Tensor:
    """The weighted sum of each pixel's neighbours: (1, 2, 1) by rows and by columns, less the pixel itself."""
    wide = F.pad(values, (1, 1, 1, 1))
    rows = (wide[..., :-2, :] + wide[..., 2:, :]).add_(wide[..., 1:-1, :], alpha=2)
    both = (rows[..., :-2] + rows[..., 2:]).add_(rows[..., 1:-1], alpha=2)
    return both.sub_(values, alpha=4).div_(12)
