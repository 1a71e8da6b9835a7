"""Baselines: one value, one image for all, or one image per explained image; the same contract for every method."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pellucid.core.errors import ShapeError

__all__ = ["Baseline", "baseline_like", "check_baseline", "is_per_image"]

Baseline = float | int | Tensor | tuple[Any, ...] | Mapping[str, Any]
"""A number, a tensor that broadcasts to one image, or one row per image, (batch, …); for several inputs also these in
the structure of the inputs."""


def is_per_image(baseline: object, images: Tensor) -> bool:
    """True if a baseline has one row per image: as many axes as the images, and more than one row.

    >>> x = torch.zeros(3, 4)
    >>> is_per_image(torch.zeros(3, 4), x), is_per_image(torch.zeros(1, 4), x), is_per_image(torch.zeros(4), x)
    (True, False, False)
    """
    return isinstance(baseline, Tensor) and baseline.ndim == images.ndim and len(baseline) > 1


def check_baseline(method: Any, images: Tensor) -> None:
    """Raise `ShapeError` unless a method's baseline, if it has one, fits the images."""
    baseline = getattr(method, "baseline", None)
    if isinstance(baseline, tuple | list | Mapping):
        raise ShapeError(
            f"the baseline is a {type(baseline).__name__}, as for several inputs, but there is one, of shape "
            f"{tuple(images.shape)}; pass a number or a tensor."
        )
    if not isinstance(baseline, Tensor):
        return
    own, wanted = tuple(baseline.shape), tuple(images.shape)
    pairs = zip(reversed(own), reversed(wanted), strict=False)
    if baseline.ndim > images.ndim or any(size not in (1, whole) for size, whole in pairs):
        raise ShapeError(
            f"the baseline has shape {own} for inputs of shape {wanted}; pass a number, a tensor that broadcasts to "
            f"one input, {wanted[1:]}, or one baseline per input, {wanted}."
        )


def baseline_like(baseline: Baseline, images: Tensor) -> Tensor:
    """Expand a baseline to the shape of the images.

    >>> baseline_like(0.5, torch.zeros(2, 3)).shape
    torch.Size([2, 3])
    """
    return torch.as_tensor(baseline, dtype=images.dtype, device=images.device).expand_as(images)
