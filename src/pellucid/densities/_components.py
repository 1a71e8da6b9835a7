"""Principal components of images, in float32."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Components", "principal_components"]

LARGEST_MATRIX = 2000
"""Largest side of a matrix whose eigenvectors are computed; the time grows with the third power."""

Points = Float[Tensor, "image dimension"]


@dataclass(frozen=True, eq=False)
class Components:
    """The directions of largest variance, with orthonormal rows, the largest first."""

    mean: Float[Tensor, " dimension"]
    directions: Float[Tensor, "component dimension"]
    variances: Float[Tensor, " component"]
    """Variance of the points along each direction."""

    def coordinates(self, points: Points) -> Float[Tensor, "image component"]:
        """Return the coordinates of the points along the directions."""
        return (points - self.mean) @ self.directions.T


def principal_components(points: Points, at_most: int) -> Components:
    """Compute up to `at_most` principal components of at least two points.

    There are fewer for few points or few dimensions: n points span n - 1 directions. If there are more than 2,000
    points and dimensions, the directions are those of the first 2,000 points; pass the points in random order.

    >>> line = torch.tensor([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]])
    >>> components = principal_components(line, 5)
    >>> components.directions[0].abs(), components.variances
    (tensor([0.6000, 0.8000]), tensor([25.,  0.]))
    """
    count, size = points.shape
    mean = points.mean(0, dtype=torch.float64).to(points.dtype)
    features = min(at_most, count - 1, size)
    if size <= LARGEST_MATRIX:
        centered = points - mean
        # ascending eigenvalues
        directions = torch.linalg.eigh(centered.T @ centered).eigenvectors.T.flip(0)[:features]
    else:
        centered = points[:LARGEST_MATRIX] - mean
        features = min(features, len(centered) - 1)
        combinations = torch.linalg.eigh(centered @ centered.T).eigenvectors.flip(1)[:, :features]
        # rounding leaves the combinations with the smallest variances neither of unit length nor orthogonal
        directions = torch.linalg.qr(centered.T @ combinations).Q.T
    directions = directions.contiguous()
    return Components(mean, directions, ((points - mean) @ directions.T).var(0))
