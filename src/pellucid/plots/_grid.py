"""Positions of the images in a grid, in dots."""

from collections.abc import Collection
from dataclasses import dataclass
from math import sqrt

__all__ = ["Grid"]

TILE_DOTS = 96
"""Target side of an image: images are enlarged by a whole number to at most this size, or downsampled to it."""
BLOCK_GAP = 12
"""Gap between blocks in dots."""


@dataclass(frozen=True)
class Grid:
    """Grid of equally sized images, with a gap between images and a wider one between blocks."""

    left: float
    top: float
    image_size: tuple[int, int]
    """Height and width in pixels."""
    row_starts: Collection[int]
    """First rows of the blocks."""
    column_starts: Collection[int]
    """First columns of the blocks."""

    @property
    def zoom(self) -> float:
        """Dots per image pixel: a whole number unless the image is downsampled."""
        # the geometric mean of the sides, so that wide and tall images get the same area
        share = TILE_DOTS / sqrt(self.image_size[0] * self.image_size[1])
        return float(int(share)) if share >= 1 else share

    @property
    def gap_pixels(self) -> int:
        """Gap between two images of a block, in image pixels."""
        # about 3 dots, in whole pixels: the gaps are pixels of the picture that holds the whole block
        return max(1, round(3 / self.zoom))

    @property
    def height(self) -> float:
        """Height of an image in dots."""
        return self.image_size[0] * self.zoom

    @property
    def width(self) -> float:
        """Width of an image in dots."""
        return self.image_size[1] * self.zoom

    def corner(self, row: int, column: int) -> tuple[float, float]:
        """Return the top left corner of an image.

        >>> grid = Grid(0, 0, (28, 28), row_starts={0}, column_starts={0, 1})
        >>> grid.corner(0, 1), grid.corner(1, 0)
        ((99.0, 0.0), (0.0, 87.0))
        """
        gap = self.gap_pixels * self.zoom
        # `0 < start` excludes the first block, which has no gap before it
        extra_x = sum(BLOCK_GAP for start in self.column_starts if 0 < start <= column)
        extra_y = sum(BLOCK_GAP for start in self.row_starts if 0 < start <= row)
        return self.left + column * (self.width + gap) + extra_x, self.top + row * (self.height + gap) + extra_y

    def box(self, row: int, column: int, shape: tuple[int, int]) -> tuple[float, float, float, float]:
        """Return left, top, width and height of a block of `shape` images."""
        left, top = self.corner(row, column)
        right, bottom = self.corner(row + shape[0] - 1, column + shape[1] - 1)
        return left, top, right + self.width - left, bottom + self.height - top
