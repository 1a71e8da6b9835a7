"""Positions of a hidden layer's values over the image: feature maps, with channels first or last, and patch tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Plane", "over_image", "plane_of"]

MOST_EXTRA = 8
"""Maximum number of tokens without a position, such as class and register tokens, which come first."""


@dataclass(frozen=True)
class Plane:
    """A layer's values as a grid over the image."""

    rows: int
    columns: int
    axis: int
    """Axis of the channels or features, without the batch."""
    extra: int = 0
    """Number of leading tokens that belong to no position."""


def plane_of(layer: Sequence[int], image: Sequence[int]) -> Plane | None:
    """Find out how values of shape `layer` lie over an image (channel, height, width); None if they do not.

    Both shapes are without the batch. Three axes are feature maps, with channels last if only that fits the sides of
    the image. Two axes are tokens of square patches, (token, feature), after at most eight tokens without a position,
    unless they could also be flattened feature maps, (channel, position).

    >>> plane_of((64, 28, 28), (3, 224, 224)), plane_of((56, 56, 96), (3, 224, 224)).axis
    (Plane(rows=28, columns=28, axis=0, extra=0), 2)
    >>> plane_of((197, 768), (3, 224, 224))
    Plane(rows=14, columns=14, axis=1, extra=1)
    """
    height, width = image[1:]
    if len(layer) == 3:
        first, last = layer[1:], layer[:2]
        is_last = not _fits(first, (height, width)) and _fits(last, (height, width))
        rows, columns = last if is_last else first
        return Plane(rows, columns, 2 if is_last else 0)
    if len(layer) != 2:
        return None
    if layer[1] in [rows * columns for rows, columns in _grids(height, width) if _is_power_of_two(height // rows)]:
        return None
    for extra in range(min(MOST_EXTRA + 1, layer[0])):
        for rows, columns in _grids(height, width):
            if rows * columns == layer[0] - extra:
                return Plane(rows, columns, 1, extra)
    return None


def _grids(height: int, width: int) -> list[tuple[int, int]]:
    """Return the grids of square patches that cover an image, with at least two rows and columns."""
    patches = range(2, min(height, width) // 2 + 1)
    return [(height // patch, width // patch) for patch in patches if height % patch == width % patch == 0]


def _is_power_of_two(value: int) -> bool:
    """Return True for the usual strides of convolutional networks."""
    return value & (value - 1) == 0


def _fits(grid: Sequence[int], sides: Sequence[int]) -> bool:
    """Return True if a grid divides both sides by the same factor, up to one row or column."""
    (rows, columns), (height, width) = grid, sides
    scale = max(height / rows, width / columns)
    return abs(height / scale - rows) <= 1 and abs(width / scale - columns) <= 1


def over_image(maps: np.ndarray, plane: Plane, shape: tuple[int, ...]) -> np.ndarray:
    """Return the sum over channels in the shape of an image, without blur; figures sum over the image's channels.

    >>> plane = plane_of((5, 3), (2, 4, 4))
    >>> over_image(np.arange(15.0).reshape(5, 3), plane, (2, 4, 4)).sum(0)[:, ::2].tolist()
    [[12.0, 21.0], [12.0, 21.0], [30.0, 39.0], [30.0, 39.0]]
    """
    total = maps.sum(plane.axis)[plane.extra :].reshape(plane.rows, plane.columns)
    rows, columns = (np.arange(side) * size // side for side, size in zip(shape[1:], total.shape, strict=True))
    return np.concatenate([total[rows][:, columns][None], np.zeros((shape[0] - 1, *shape[1:]), total.dtype)])
