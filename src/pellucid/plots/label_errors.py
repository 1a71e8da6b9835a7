"""Images with suspicious labels, each with the given label, the suggested one and the evidence below it."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from pellucid.core.errors import ShapeError
from pellucid.plots._canvas import DOTS_PER_INCH, LINE_DOTS, MARGIN, SMALL, TEXT, Canvas
from pellucid.plots._grid import Grid
from pellucid.plots._text import shorten, text_width
from pellucid.plots.colours import PALE, WRONG, gray_or_rgb

__all__ = ["SuspiciousImage", "suspicious_images"]

COLUMNS = 8
GAP = 18
"""Gap between columns in dots."""
NARROWEST = 620
"""Minimum width in dots, so that the headline doesn't wrap too often."""
NARROWEST_COLUMN = 96
"""Minimum width of a column in dots, so that the evidence fits."""


@dataclass(frozen=True)
class SuspiciousImage:
    """Text below one image."""

    given: str
    """Name of the given label."""
    suggested: str
    evidence: tuple[str, ...] = ()
    """Further lines."""


def suspicious_images(images: np.ndarray, texts: Sequence[SuspiciousImage], headline: tuple[str, str]) -> Figure:
    """Draw images (image, channel, height, width) in rows of eight, the given label above the suggested one.

    Pixels are in [0, 1]. One channel is shown in gray, three in color, and any other number is averaged. Images larger
    than 96 pixels are downsampled. Raises `ShapeError` if the numbers of images and texts differ.

    >>> figure = suspicious_images(np.zeros((1, 1, 8, 8)), [SuspiciousImage("cat", "dog", ("score 3.1",))], ("t", "s"))
    >>> [text.get_text() for text in figure.texts[2:]]
    ['cat', '→ dog', 'score 3.1']
    """
    if images.ndim != 4 or len(images) != len(texts) or not len(texts):
        raise ShapeError(
            f"Expected images (image, channel, height, width) with one text each, got shape {images.shape} and "
            f"{len(texts)} texts."
        )
    shown = gray_or_rgb(images)
    grid = Grid(0, 0, (images.shape[2], images.shape[3]), row_starts=(), column_starts=())
    column = max(grid.width, NARROWEST_COLUMN) + GAP
    lines = 2 + max(len(text.evidence) for text in texts)
    row = grid.height + 8 + lines * LINE_DOTS[SMALL] + 14
    columns = min(COLUMNS, len(texts))
    width = 2 * MARGIN + columns * column - GAP
    canvas = Canvas(max(NARROWEST, width), ceil(len(texts) / columns) * row + MARGIN, *headline)
    for number, text in enumerate(texts):
        corner = MARGIN + number % columns * column, number // columns * row
        _draw(canvas, shown[number], (*corner, grid))
        _write(canvas, text, (corner[0], corner[1] + grid.height + 5, column - 4))
    return canvas.figure


def _draw(canvas: Canvas, image: np.ndarray, place: tuple[float, float, Grid]) -> None:
    x, y, grid = place
    # an image with NaN has gaps, which are drawn in white
    picture = image[0] if len(image) == 1 else np.clip(np.nan_to_num(image, nan=1.0), 0, 1).transpose(1, 2, 0)
    # enlarged pixels stay sharp; downsampling has to average
    smoothing = "nearest" if grid.zoom >= 1 else "auto"
    axes = canvas.axes(x, y, grid.width, grid.height)
    palette = colormaps["gray"].with_extremes(bad="white")
    axes.imshow(picture, cmap=palette, norm=Normalize(0, 1), interpolation=smoothing, aspect="auto")


def _write(canvas: Canvas, text: SuspiciousImage, place: tuple[float, float, float]) -> None:
    x, y, width = place
    lines = [(text.given, TEXT, PALE), (f"→ {text.suggested}", TEXT, WRONG)]
    lines += [(line, SMALL, PALE) for line in text.evidence]
    for line, size, colour in lines:
        is_bold = colour == WRONG
        fitted = _fitting(line, size, width, bold=is_bold)
        canvas.text(x, y, fitted, size=size, color=colour, va="top", weight="bold" if is_bold else "normal")
        y += LINE_DOTS[SMALL] + 1


def _fitting(text: str, size: float, width: float, *, bold: bool) -> str:
    """Shorten `text` until it is at most `width` dots wide."""
    length = len(text)
    while length > 2 and text_width(shorten(text, length), size, DOTS_PER_INCH, bold=bold) > width:
        length -= 1
    return shorten(text, length)
