"""Where the images of a grid stand, in dots."""

from collections.abc import Collection
from dataclasses import dataclass
from math import sqrt

__all__ = ["Grid"]

TILE_DOTS = 96
"""Images are drawn about as large as a square of this side: enlarged by a whole number, or reduced."""
BLOCK_GAP = 12
"""Dots between blocks."""


@dataclass(frozen=True)
class Grid:
    """Rows and columns of equal images, a gap between them, and a wider one before each new block."""

    left: float
    top: float
    image_size: tuple[int, int]
    """Height and width in pixels."""
    row_starts: Collection[int]
    """The rows at which a block begins."""
    column_starts: Collection[int]

    @property
    def zoom(self) -> float:
        """Dots per pixel: a whole number where the image is small enough."""
        share = TILE_DOTS / sqrt(self.image_size[0] * self.image_size[1])
        return float(int(share)) if share >= 1 else share

    @property
    def gap_pixels(self) -> int:
        """The gap between two images of a block, in pixels of the image."""
        return max(1, round(3 / self.zoom))

    @property
    def height(self) -> float:
        """Of an image, in dots."""
        return self.image_size[0] * self.zoom

    @property
    def width(self) -> float:
        """Of an image, in dots."""
        return self.image_size[1] * self.zoom

    def corner(self, row: int, column: int) -> tuple[float, float]:
        """The top left corner of an image.

        >>> grid = Grid(0, 0, (28, 28), row_starts={0}, column_starts={0, 1})
        >>> grid.corner(0, 1), grid.corner(1, 0)
        ((99.0, 0.0), (0.0, 87.0))
        """
        gap = self.gap_pixels * self.zoom
        extra_x = sum(BLOCK_GAP for start in self.column_starts if 0 < start <= column)
        extra_y = sum(BLOCK_GAP for start in self.row_starts if 0 < start <= row)
        return self.left + column * (self.width + gap) + extra_x, self.top + row * (self.height + gap) + extra_y

    def box(self, row: int, column: int, shape: tuple[int, int]) -> tuple[float, float, float, float]:
        """Left, top, width and height of a block of `shape` images."""
        left, top = self.corner(row, column)
        right, bottom = self.corner(row + shape[0] - 1, column + shape[1] - 1)
        return left, top, right + self.width - left, bottom + self.height - top
