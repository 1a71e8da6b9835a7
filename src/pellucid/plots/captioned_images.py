"""Grid of images, each with a caption below it."""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from pellucid.core.errors import ShapeError
from pellucid.plots._canvas import MARGIN, SMALL, Canvas
from pellucid.plots._grid import Grid
from pellucid.plots.colours import PALE, gray_or_rgb
from pellucid.plots.labels import Label, draw_column_names, draw_row_label, label_width, shortened

__all__ = ["captioned_images"]

NARROWEST = 620
"""Minimum width in dots, so that the headline doesn't wrap too often."""
CAPTION_DOTS = 22
"""Height of a caption in dots."""


def captioned_images(
    images: np.ndarray,
    captions: Sequence[Sequence[str]],
    rows: Sequence[Label],
    columns: Sequence[str],
    headline: tuple[str, str],
) -> Figure:
    """Draw `images` (row, column, channel, height, width) in [0, 1] with captions; an image with NaN is left out.

    Every pixel is a square of whole dots; images larger than 96 pixels are downsampled. One channel is shown in gray,
    three in color, and any other number is averaged. Raises `ShapeError` if captions or labels do not match the images.

    >>> figure = captioned_images(np.zeros((1, 2, 1, 8, 8)), [["−0.1", "−2"]], [Label("a")], ["0", "1"], ("t", "s"))
    >>> len(figure.axes)
    2
    """
    _check(images, captions, rows, columns)
    shown, rows = gray_or_rgb(images), shortened(rows)
    left = MARGIN + 8 + max(map(label_width, rows))
    # 26 dots for the column names
    grid = Grid(left, 26, (images.shape[3], images.shape[4]), row_starts=(), column_starts=())
    down = grid.height + CAPTION_DOTS
    _, _, across, _ = grid.box(0, 0, (1, len(columns)))
    canvas = Canvas(max(NARROWEST, left + across + MARGIN), grid.top + len(rows) * down + MARGIN - 4, *headline)
    for row, label in enumerate(rows):
        top = grid.top + row * down  # not grid.corner, since the captions are higher than the gaps of the grid
        draw_row_label(canvas, label, left - 8, top + grid.height / 2)
        for column, caption in enumerate(captions[row]):
            x, _ = grid.corner(0, column)
            _draw(canvas, shown[row, column], (x, top, grid))
            style = {"size": SMALL, "ha": "center", "va": "top", "color": PALE}
            canvas.text(x + grid.width / 2, top + grid.height + 4, caption, **style)
    draw_column_names(canvas, grid, columns)
    return canvas.figure


def _check(
    images: np.ndarray, captions: Sequence[Sequence[str]], rows: Sequence[Label], columns: Sequence[str]
) -> None:
    shape, widths = images.shape[:2], [len(line) for line in captions]
    if (len(rows), len(columns)) != shape or widths != [shape[1]] * shape[0]:
        raise ShapeError(
            f"Expected labels and captions for a grid of {shape[0]}×{shape[1]} images, got {len(rows)} row labels, "
            f"{len(columns)} column labels and rows of {widths} captions. Pass one caption per image."
        )


def _draw(canvas: Canvas, image: np.ndarray, place: tuple[float, float, Grid]) -> None:
    if np.isnan(image).any():
        return
    x, y, grid = place
    picture = image[0] if len(image) == 1 else np.clip(image, 0, 1).transpose(1, 2, 0)
    # enlarged pixels stay sharp; downsampling has to average
    smoothing = "nearest" if grid.zoom >= 1 else "auto"
    axes = canvas.axes(x, y, grid.width, grid.height)
    axes.imshow(picture, cmap=colormaps["gray"], norm=Normalize(0, 1), interpolation=smoothing, aspect="auto")
