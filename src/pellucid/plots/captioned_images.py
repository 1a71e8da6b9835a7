"""Grid of images, each with a caption below it."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from pellucid.core.errors import ShapeError
from pellucid.plots._canvas import DOTS_PER_INCH, MARGIN, SMALL, TEXT, Canvas
from pellucid.plots._grid import Grid
from pellucid.plots._text import shorten, text_width
from pellucid.plots.colours import PALE
from pellucid.plots.image_grid import Label

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
    shape = images.shape[:2]
    if (
        (len(rows), len(columns)) != shape
        or any(len(line) != shape[1] for line in captions)
        or len(captions) != shape[0]
    ):
        raise ShapeError(
            f"Expected labels and captions for a grid of {shape[0]}×{shape[1]} images, got {len(rows)} row labels, "
            f"{len(columns)} column labels and rows of {[len(line) for line in captions]} captions. Pass one caption "
            "per image."
        )
    shown = images if images.shape[2] == 3 else images.mean(2, keepdims=True)
    rows = [replace(label, text=shorten(label.text, 28), detail=shorten(label.detail, 36)) for label in rows]
    left = (
        MARGIN
        + 8
        + max(
            max(text_width(label.text, TEXT, DOTS_PER_INCH, bold=True), text_width(label.detail, SMALL, DOTS_PER_INCH))
            for label in rows
        )
    )
    grid = Grid(left, 26, (images.shape[3], images.shape[4]), row_starts=(), column_starts=())
    down = grid.height + CAPTION_DOTS
    _, _, across, _ = grid.box(0, 0, (1, shape[1]))
    canvas = Canvas(max(NARROWEST, left + across + MARGIN), grid.top + shape[0] * down + MARGIN - 4, *headline)
    for row, label in enumerate(rows):
        top = grid.top + row * down
        middle, shift = top + grid.height / 2, 8 if label.detail else 0
        canvas.text(left - 8, middle - shift, label.text, ha="right", va="center", weight="bold")
        canvas.text(
            left - 8, middle + shift, label.detail, ha="right", va="center", size=SMALL, color=label.detail_colour
        )
        for column in range(shape[1]):
            x, _ = grid.corner(0, column)
            _draw(canvas, shown[row, column], (x, top, grid))
            canvas.text(
                x + grid.width / 2,
                top + grid.height + 4,
                captions[row][column],
                size=SMALL,
                ha="center",
                va="top",
                color=PALE,
            )
    for column, name in enumerate(columns):
        x, _ = grid.corner(0, column)
        name = shorten(name, max(2, int(grid.width / 8)))
        canvas.text(x + grid.width / 2, grid.top - 6, name, ha="center", weight="bold")
    return canvas.figure


def _draw(canvas: Canvas, image: np.ndarray, place: tuple[float, float, Grid]) -> None:
    if np.isnan(image).any():
        return
    x, y, grid = place
    picture = image[0] if len(image) == 1 else np.clip(image, 0, 1).transpose(1, 2, 0)
    smoothing = "nearest" if grid.zoom >= 1 else "auto"
    axes = canvas.axes(x, y, grid.width, grid.height)
    axes.imshow(picture, cmap=colormaps["gray"], norm=Normalize(0, 1), interpolation=smoothing, aspect="auto")
