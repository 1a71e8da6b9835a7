"""Regularizers of synthesized images: smoothness, robustness and diversity."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pellucid.core.types import Images

__all__ = ["blurred", "similarity", "total_variation", "warped"]


def total_variation(images: Images) -> Float[Tensor, " batch"]:
    """Compute the sum of absolute differences of neighboring pixels (Rudin, Osher and Fatemi, 1992, anisotropic).

    >>> total_variation(torch.eye(2).view(1, 1, 2, 2))
    tensor([4.])
    """
    down, across = images.diff(dim=2).abs(), images.diff(dim=3).abs()
    return down.sum((1, 2, 3)) + across.sum((1, 2, 3))


def blurred(images: Images, pixels: float) -> Images:
    """Blur `images` by a Gaussian with standard deviation `pixels` and replicated borders; keeps the value range.

    >>> bool(blurred(torch.ones(1, 1, 5, 5), 1.0).allclose(torch.ones(1, 1, 5, 5)))
    True
    """
    if not pixels:
        return images
    height, width = images.shape[-2:]
    # A 2-D Gaussian is separable. As matrices of a few kilobytes, both factors are several times faster than
    # convolutions of single channels, and even more so their derivatives.
    return _blur_matrix(height, pixels).to(images) @ images @ _blur_matrix(width, pixels).to(images).mT


def _blur_matrix(side: int, pixels: float) -> Float[Tensor, "to from"]:
    """Return the matrix that blurs a row of `side` pixels; pixels beyond its ends repeat the outermost ones."""
    # a Gaussian is negligible beyond three standard deviations
    radius = min(math.ceil(3 * pixels), side)
    offsets = torch.arange(-radius, radius + 1, device="cpu")
    weights = (-offsets.double().square() / (2 * pixels**2)).exp()
    sources = (torch.arange(side, device="cpu")[:, None] + offsets).clamp(0, side - 1)
    matrix = torch.zeros(side, side, dtype=torch.float64, device="cpu")
    return matrix.scatter_add_(1, sources, (weights / weights.sum()).expand(side, -1))


def warped(
    images: Images, shift_share: float, rotation_degrees: float, scale_share: float, draws: torch.Generator
) -> Images:
    """Shift, rotate and scale each image at random within these limits, with replicated borders.

    Shares are relative to the image's side. Bilinear interpolation keeps the value range.
    """
    if not (shift_share or rotation_degrees or scale_share):
        return images
    uniform = torch.rand(4, len(images), generator=draws, dtype=images.dtype, device="cpu").to(images.device) * 2 - 1
    shift, angle, scale = 2 * shift_share * uniform[:2], math.radians(rotation_degrees) * uniform[2], uniform[3]
    # `affine_grid` normalizes both axes to [-1, 1]; the aspect ratio makes the rotation rigid in pixels
    aspect = images.shape[3] / images.shape[2]
    along, turn = angle.cos() * (1 + scale_share * scale), angle.sin() * (1 + scale_share * scale)
    rows = [torch.stack([along, -turn / aspect, shift[0]], 1), torch.stack([turn * aspect, along, shift[1]], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def similarity(images: Images, groups: int, size: int) -> Float[Tensor, " batch"]:
    """Compute the mean cosine similarity of each image to the others in its group; 0 for groups of one.

    The images are ordered as (group, member, …).

    >>> similarity(torch.ones(4, 1, 2, 2), groups=2, size=2)
    tensor([1., 1., 1., 1.])
    """
    if size == 1:
        return images.new_zeros(len(images))
    unit = F.normalize(images.reshape(groups, size, -1), dim=2)
    # minus the similarity of each image to itself, which is 1
    return ((unit @ unit.mT).sum(2) - 1).div(size - 1).reshape(-1)
