"""Grid of images and signed maps, with labels and color bars."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, cos, radians, sin

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from pellucid.core.errors import ShapeError
from pellucid.plots._canvas import BAR_DOTS, DOTS_PER_INCH, MARGIN, SMALL, TEXT, Canvas
from pellucid.plots._grid import Grid
from pellucid.plots._outline import draw_outlines
from pellucid.plots._text import shorten, text_width
from pellucid.plots.colours import INK, signed_norm, signed_palette
from pellucid.plots.labels import Label, draw_row_label, label_width, shortened

__all__ = ["Block", "Mark", "image_grid"]

NARROWEST = 620
"""Minimum width in dots, so that the headline doesn't wrap too often."""
SLANT = 35.0
"""Rotation, in degrees, of column names that are too wide for their columns."""
LABEL_DOTS = 40
"""Height of the column labels in dots."""


@dataclass(frozen=True, eq=False)
class Block:
    """A block of adjacent images that share one color scale."""

    images: np.ndarray
    """Array (row, column, channel, height, width): 1 or 3 channels in [0, 1], or 1 signed channel."""
    row: int = 0
    """Row of the block's first image in the grid."""
    column: int = 0
    """Column of the block's first image in the grid."""
    limit: float | None = None
    """End of the color scale of signed values, −limit to limit with zero white; None: pixels from 0 to 1."""
    meaning: str = ""
    """Label of the color bar; an empty one draws no color bar."""
    outlined: np.ndarray | None = None
    """Images of the same layout, or broadcastable to it, whose outlines the maps carry."""


@dataclass(frozen=True)
class Mark:
    """A frame around one image of the grid."""

    row: int
    column: int
    colour: str = INK


def image_grid(
    blocks: Sequence[Block],
    rows: Sequence[Label],
    columns: Sequence[Label],
    headline: tuple[str, str],
    marks: Sequence[Mark] = (),
) -> Figure:
    """Draw blocks of images with row and column labels, a headline (title and subtitle) and color bars.

    Every pixel is a square of whole dots; images larger than 96 pixels are downsampled. Each block is drawn as one
    array. Raises `ShapeError` if the blocks differ in image size.

    >>> signed = np.linspace(-1, 1, 2 * 28 * 28).reshape(1, 2, 1, 28, 28)
    >>> block = Block(signed, limit=1.0, meaning="value")
    >>> figure = image_grid([block], [Label("row")], [Label("a"), Label("b")], ("title", "subtitle"))
    >>> figure.axes[0].images[0].get_clim()
    (-1.0, 1.0)
    """
    sizes = {block.images.shape[-2:] for block in blocks}
    if len(sizes) != 1:
        raise ShapeError(f"Expected blocks of one image size, got the sizes {sorted(sizes)}. Resize the images first.")
    rows = shortened(rows)
    grid = Grid(
        left=MARGIN + max(map(label_width, rows), default=0) + 8,
        # 14 dots less without a second line
        top=LABEL_DOTS if any(label.detail for label in columns) else LABEL_DOTS - 14,
        image_size=sizes.pop(),
        row_starts={block.row for block in blocks},
        column_starts={block.column for block in blocks},
    )
    slanted = _slanted_dots(columns, grid.width)
    grid = replace(grid, top=grid.top + slanted)
    left, top, width, height = grid.box(0, 0, (len(rows), len(columns)))
    # room for the color bars only if there are any
    bars = BAR_DOTS + MARGIN if any(block.meaning for block in blocks) else MARGIN
    needed = left + width + max(bars, _overhang(columns, grid) if slanted else 0)
    canvas = Canvas(max(NARROWEST, needed), top + height + MARGIN, *headline)
    for block in blocks:
        x, y, across, down = grid.box(block.row, block.column, (block.images.shape[0], block.images.shape[1]))
        shown = _draw(canvas.axes(x, y, across, down), block, grid)
        if block.meaning:
            ticks = [0.0, 1.0] if block.limit is None else [-block.limit, 0, block.limit]
            canvas.colour_bar(shown, (left + width + MARGIN, y, down), block.meaning, ticks)
    for row, label in enumerate(rows):
        x, y = grid.corner(row, 0)
        draw_row_label(canvas, label, x - 8, y + grid.height / 2)
    _draw_column_labels(canvas, grid, columns, is_slanted=slanted > 0)
    for mark in marks:
        x, y = grid.corner(mark.row, mark.column)
        # just outside the image, so that the frame covers no pixels
        canvas.frame(x - 1, y - 1, grid.width + 2, grid.height + 2, mark.colour)
    return canvas.figure


def _draw(axes: Axes, block: Block, grid: Grid) -> AxesImage:
    # a color picture has no color for NaN, so its gaps are white
    mosaic = _mosaic(block.images, grid.gap_pixels, fill=1.0 if block.images.shape[2] == 3 else np.nan)
    # enlarged pixels stay sharp; downsampling has to average
    smoothing = "nearest" if grid.zoom >= 1 else "auto"
    if block.limit is None:
        palette, norm = colormaps["gray"].with_extremes(bad="white"), Normalize(0, 1)
    else:
        palette, norm = signed_palette(), signed_norm(block.limit)
    shown = axes.imshow(mosaic, cmap=palette, norm=norm, interpolation=smoothing, aspect="auto")
    if block.outlined is not None:
        rows, columns, _, height, width = block.images.shape
        images = np.broadcast_to(block.outlined, (rows, columns, *block.outlined.shape[2:]))
        draw_outlines(axes, images, (height + grid.gap_pixels, width + grid.gap_pixels))
    return shown


def _mosaic(images: np.ndarray, gap: int, fill: float) -> np.ndarray:
    """Arrange images (row, column, channel, height, width) in one picture, separated by `gap` pixels of `fill`."""
    spaced = np.pad(images.astype(float), [(0, 0)] * 3 + [(0, gap), (0, gap)], constant_values=fill)
    # the last row and column need no gap after them
    picture = np.concatenate(np.concatenate(spaced, axis=2), axis=2)[:, :-gap, :-gap]
    # matplotlib expects gray images without a channel axis, and color images with it last
    return picture[0] if len(picture) == 1 else np.clip(picture, 0, 1).transpose(1, 2, 0)


def _slanted_dots(columns: Sequence[Label], width: float) -> int:
    """Return the height of slanted column names in whole dots, or 0 if horizontal names fit."""
    widest = max(map(_name_width, columns), default=0)
    # Names up to 30% too wide are shortened instead, which is easier to read than a slanted name.
    return ceil(widest * sin(radians(SLANT))) if widest > 1.3 * width else 0


def _overhang(columns: Sequence[Label], grid: Grid) -> float:
    """Return how far slanted names extend beyond the last column, plus the margin."""
    last = grid.corner(0, len(columns) - 1)[0] + grid.width
    middles = (grid.corner(0, column)[0] + grid.width / 2 for column in range(len(columns)))
    ends = (at + _name_width(label) * cos(radians(SLANT)) for at, label in zip(middles, columns, strict=True))
    return max(ends) - last + MARGIN


def _name_width(label: Label) -> float:
    return text_width(shorten(label.text, 32), TEXT, DOTS_PER_INCH, bold=True)


def _draw_column_labels(canvas: Canvas, grid: Grid, columns: Sequence[Label], *, is_slanted: bool) -> None:
    for column, label in enumerate(columns):
        x, _ = grid.corner(0, column)
        middle = x + grid.width / 2
        name, detail = (_fitting(text, size, grid.width) for text, size in ((label.text, TEXT), (label.detail, SMALL)))
        base = grid.top - (20 if any(other.detail for other in columns) else 6)
        if is_slanted:
            style = {"rotation": SLANT, "rotation_mode": "anchor", "ha": "left", "weight": "bold"}
            canvas.text(middle - 8, base, shorten(label.text, 32), **style)
        else:
            canvas.text(middle, base, name, ha="center", weight="bold")
        canvas.text(middle, grid.top - 6, detail, ha="center", size=SMALL, color=label.detail_colour)


def _fitting(text: str, size: float, width: float) -> str:
    """Shorten `text` until it is at most `width` dots wide."""
    for length in range(len(text), 2, -1):
        if text_width(shorten(text, length), size, DOTS_PER_INCH, bold=size == TEXT) <= width:
            return shorten(text, length)
    return shorten(text, 2)
