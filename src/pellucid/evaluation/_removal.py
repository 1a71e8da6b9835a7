"""Remove the information in pixels."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid.evaluation._case import KINDS, Kind

__all__ = ["IMPUTATION_NOISE", "Removal", "Remover", "kinds_of", "removed", "substitute"]

Removal = Literal["zero", "mean", "blur", "linear"]
"""Replacement for removed pixels: 0; the mean of the image's channel; the image blurred by a Gaussian whose standard
deviation is a tenth of the longer side; or a noisy linear imputation from the remaining pixels."""

BLUR_SHARE = 0.1
IMPUTATION_NOISE = 0.01
"""Standard deviation of the noise on imputed pixels, so that a network cannot recognize them by their smoothness."""
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-8}
"""Relative residual at which the solver stops; in single precision the rest is far below the noise."""
MOST_STEPS = 1000


def kinds_of(removal: Removal) -> frozenset[Kind]:
    """Return the kinds of input that a replacement suits: the features of a table have no neighbors and no mean.

    >>> "table" in kinds_of("zero"), "table" in kinds_of("blur")
    (True, False)
    """
    return frozenset(KINDS.values()) - (frozenset() if removal == "zero" else {"table"})


def substitute(images: Tensor, removal: Removal) -> Tensor:
    """Replace every pixel; not for `linear`, which depends on the remaining pixels.

    >>> substitute(torch.ones(1, 1, 2, 2), "zero").sum().item()
    0.0
    """
    if removal == "zero":
        return torch.zeros_like(images)
    if removal == "mean":
        return images.mean(_spatial(images), keepdim=True).expand_as(images)
    if removal == "blur":
        return _blurred(images)
    raise ValueError(f"{removal!r} depends on the remaining pixels")


def _spatial(images: Tensor) -> tuple[int, ...]:
    return tuple(range(2, images.ndim))


def _over_channels(mask: Tensor, images: Tensor) -> Tensor:
    """Add the channel axis to a mask, unless the images are a table."""
    return mask if images.ndim == 2 else mask[:, None]


def removed(images: Tensor, is_removed: Tensor, removal: Removal, noise: Tensor | None = None) -> Tensor:
    """Remove the pixels in `is_removed`, one per place, from the images.

    `noise`, like an image, with unit variance is added to linearly imputed pixels, times `IMPUTATION_NOISE`.
    """
    if removal != "linear":
        return torch.where(_over_channels(is_removed, images), substitute(images, removal), images)
    result = _imputed(images, is_removed)
    return result if noise is None else torch.where(is_removed[:, None], result + IMPUTATION_NOISE * noise, result)


@dataclass(frozen=True, eq=False)
class Remover:
    """Removes pixels from fixed images, for many masks."""

    images: Tensor
    removal: Removal
    noise: Tensor | None = None
    """As for `removed`."""

    @cached_property
    def empty(self) -> Tensor | None:
        """The images with every pixel replaced; None if a replacement depends on the remaining pixels."""
        return None if self.removal == "linear" else substitute(self.images, self.removal)

    @cached_property
    def matters(self) -> Tensor:
        """True for each place, (image, …), whose removal changes the image."""
        if self.empty is None:
            return torch.ones_like(self.images[:, 0], dtype=torch.bool)
        is_changed = self.empty != self.images
        return is_changed.any(1) if is_changed.ndim > 2 else is_changed

    def __call__(self, is_removed: Tensor, which: Tensor | slice = slice(None)) -> Tensor:
        """Remove the pixels in `is_removed`, one mask per image, from the images `which`."""
        if self.empty is None:
            return removed(self.images[which], is_removed, self.removal, self.noise)
        return torch.where(_over_channels(is_removed, self.images), self.empty[which], self.images[which])


def _blurred(images: Tensor) -> Tensor:
    # at least half a pixel, so that tiny images are blurred at all
    sigma = max(BLUR_SHARE * max(images.shape[2:]), 0.5)
    for axis in _spatial(images):
        # reflection padding must be smaller than the image
        reach = min(int(3 * sigma), images.shape[axis] - 1)
        steps = torch.arange(-reach, reach + 1, dtype=torch.float32, device=images.device)
        weights = torch.exp(-(steps**2) / (2 * sigma**2)).to(images)
        lines = images.movedim(axis, -1)
        padded = F.pad(lines.reshape(-1, 1, lines.shape[-1]), (reach, reach), mode="reflect")
        blurred = F.conv1d(padded, (weights / weights.sum())[None, None])
        images = blurred.reshape(lines.shape).movedim(-1, axis)
    return images.contiguous()


def _imputed(images: Tensor, is_removed: Tensor) -> Tensor:
    """Set each removed pixel to the weighted mean of its neighbors, by solving one linear system per image.

    With the weights of Rong et al. (2022): 1/6 for direct neighbors, 1/12 for diagonal ones; at the border, the weights
    of the existing neighbors are rescaled. The matrix (sums of neighbor weights on the diagonal, minus the weights
    elsewhere) is symmetric positive definite, so conjugate gradients solve it, here with the diagonal as
    preconditioner. An image without any remaining pixel becomes 0.
    """
    # half precision is too coarse for the solver, so such images are imputed in float32
    dtype = torch.promote_types(images.dtype, torch.float32)
    unknown = is_removed[:, None].to(dtype)
    pixels = images * (1 - unknown)
    total = _neighbor_sum(torch.ones_like(pixels))
    # the masks restrict the system to the removed pixels; the remaining ones form its right-hand side
    solution, residual = torch.zeros_like(pixels), unknown * _neighbor_sum(pixels)
    direction = residual / total
    axes = _spatial(images)
    size = (residual * direction).sum(axes, keepdim=True)
    # `size` is a squared norm
    goal, tiny = TOLERANCE[dtype] ** 2 * size, torch.finfo(dtype).tiny
    for _ in range(MOST_STEPS):
        if bool((size <= goal).all()):
            break
        pushed = _neighbor_sum(direction).neg_().addcmul_(total, direction).mul_(unknown)
        # images that have converged have size 0; the clamp avoids 0 / 0
        step = size / (direction * pushed).sum(axes, keepdim=True).clamp_(min=tiny)
        solution.addcmul_(step, direction)
        residual.addcmul_(step, pushed, value=-1)
        preconditioned = residual / total
        before, size = size, (residual * preconditioned).sum(axes, keepdim=True)
        direction.mul_(size / before.clamp(min=tiny)).add_(preconditioned)
    return (pixels + solution).to(images.dtype)


def _neighbor_sum(values: Tensor) -> Tensor:
    """Sum each pixel's neighbors with their weights: a separable (1, 2, 1) kernel, minus the pixel itself.

    In the plane, 2/12 for direct neighbors and 1/12 for diagonal ones; along a line, 1/2 for both neighbors.
    """
    count = values.ndim - 2
    both = F.pad(values, (1, 1) * count)
    for axis in _spatial(values):
        size = values.shape[axis]
        sides = both.narrow(axis, 0, size) + both.narrow(axis, 2, size)
        both = sides.add_(both.narrow(axis, 1, size), alpha=2)
    # the kernel sums to 4 along each axis, of which the pixel itself has 2
    return both.sub_(values, alpha=2**count).div_(4**count - 2**count)
