"""Taking the information out of pixels."""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import coo_array
from scipy.sparse.linalg import spsolve
from torch import Tensor

__all__ = ["IMPUTATION_NOISE", "Removal", "removed", "remover", "substitute"]

Removal = Literal["zero", "mean", "blur", "linear"]
"""What stands in place of a removed pixel: 0; the mean of the image's channel; the image blurred by a Gaussian of a
tenth of its longer side; or a noisy linear imputation from the pixels that are left."""

BLUR_SHARE = 0.1
IMPUTATION_NOISE = 0.01
"""Standard deviation of the noise on imputed pixels, so that a network cannot tell them by their smoothness."""
NEIGHBOURS = [
    (down, across, 1 / 12 if down and across else 1 / 6)
    for down in (-1, 0, 1)
    for across in (-1, 0, 1)
    if down or across
]
"""Offsets and weights by Rong et al. (2022, section 5.1)."""


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
    masks = is_removed.cpu().numpy()
    filled = np.stack([_imputed(image, mask) for image, mask in zip(images.cpu().double().numpy(), masks, strict=True)])
    result = torch.from_numpy(filled).to(images)
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


def _imputed(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Each removed pixel the weighted mean of its neighbours, removed or not: a sparse system of linear equations.

    Rong et al. (2022, eq. 7): direct neighbours weigh 1/6, diagonal ones 1/12; neighbours outside the image have no
    weight, and the others more. Where no pixel is left, all become 0.
    """
    height, width = mask.shape
    if not mask.any():
        return image
    if mask.all():
        return np.zeros_like(image)
    rows, columns = mask.nonzero()
    number = np.full((height, width), -1)
    number[rows, columns] = np.arange(len(rows))
    total, known = np.zeros(len(rows)), np.zeros((len(rows), len(image)))
    entries: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for down, across, weight in NEIGHBOURS:
        y, x = rows + down, columns + across
        inside = ((y >= 0) & (y < height) & (x >= 0) & (x < width)).nonzero()[0]
        total[inside] += weight
        there = number[y[inside], x[inside]]
        is_known = there < 0
        at = inside[is_known]
        known[at] += weight * image[:, y[at], x[at]].T
        unknown = inside[~is_known]
        entries.append((unknown, there[~is_known], np.full(len(unknown), -weight)))
    entries.append((np.arange(len(rows)), np.arange(len(rows)), total))
    i, j, values = (np.concatenate(part) for part in zip(*entries, strict=True))
    solved = spsolve(coo_array((values, (i, j)), shape=(len(rows), len(rows))).tocsc(), known)
    result = image.copy()
    result[:, rows, columns] = solved.reshape(len(rows), len(image)).T
    return result
