"""Balls around images in the norms L2 and L∞, clipped to the pixel range."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

__all__ = ["NORMS", "Ball", "Norm"]

Norm = Literal["l2", "linf"]
"""Norm of a change of the pixels: L2 is the root of the sum of squares, L∞ the largest change of a pixel."""
NORMS: tuple[Norm, ...] = ("l2", "linf")
"""All norms."""


@dataclass(frozen=True)
class Ball:
    """Geometry of changes with a bounded norm that keep the pixels in their range.

    Sizes are float64 on the CPU, since not every device has float64.
    """

    norm: Norm
    pixel_range: tuple[float, float] = (0.0, 1.0)

    def size(self, change: Tensor) -> Tensor:
        """Return the (batch,) norms of changes (batch, …)."""
        order = 2 if self.norm == "l2" else torch.inf
        return torch.linalg.vector_norm(change.flatten(1).cpu().double(), order, dim=1)

    def dual_size(self, gradient: Tensor) -> Tensor:
        """Return the (…,) dual norms of gradients (…, pixel): L2 for L2, and L1 for L∞."""
        return torch.linalg.vector_norm(gradient.cpu().double(), 2 if self.norm == "l2" else 1, dim=-1)

    def largest(self, images: Tensor) -> Tensor:
        """Return the (batch,) distances to the farthest corner of the pixel range."""
        low, high = self.pixel_range
        return self.size(torch.maximum(images - low, high - images))

    def steepest(self, images: Tensor, gradient: Tensor) -> Tensor:
        """Return the direction of norm 1 in which a function with this gradient grows fastest, within the range.

        Pixels at the end of the range that would leave it stay as they are. A gradient that is not finite counts as 0.
        """
        low, high = self.pixel_range
        is_blocked = ((images <= low) & (gradient < 0)) | ((images >= high) & (gradient > 0))
        slope = gradient.nan_to_num(0, 0, 0).masked_fill(is_blocked, 0)
        if self.norm == "linf":
            return slope.sign()
        # scaled by the largest entry first, because the squares of small gradients underflow
        slope = slope / _wide(slope.flatten(1).abs().amax(1), slope).clamp(min=torch.finfo(slope.dtype).tiny)
        return slope / _wide(torch.linalg.vector_norm(slope.flatten(1), dim=1), slope).clamp(min=1e-6)

    def project(self, images: Tensor, changed: Tensor, radius: Tensor) -> Tensor:
        """Return the changed images moved into the balls of `radius` (batch,) and into the pixel range."""
        change, room = changed - images, _wide(radius.to(images), images)
        if self.norm == "linf":
            change = torch.minimum(torch.maximum(change, -room), room)
        else:
            size = _wide(torch.linalg.vector_norm(change.flatten(1), dim=1), images)
            change = change * (room / size.clamp(min=torch.finfo(size.dtype).tiny)).clamp(max=1)
        # the clamp comes last and cannot lead out of the ball, because the center of the ball lies within the range
        return (images + change).clamp(*self.pixel_range)


def _wide(values: Tensor, images: Tensor) -> Tensor:
    """Give (batch,) values the axes of the images."""
    return values.view(-1, *(1 for _ in images.shape[1:]))
