"""Confusion matrix with recall and precision in the margins."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from pellucid.plots._canvas import BAR_DOTS, DOTS_PER_INCH, MARGIN, SMALL, TEXT, Canvas
from pellucid.plots._text import class_names, text_width
from pellucid.plots.colours import INK, PALE

__all__ = ["confusion_matrix"]

SMALLEST = 6.5
"""Minimum font size in points; numbers that would need a smaller one are omitted."""
FINE_LINES = 25
"""Maximum number of classes with full line width between cells; more classes get thinner lines."""
NARROWEST = 600
"""Minimum width in dots, so that the headline doesn't wrap too often."""


def confusion_matrix(
    counts: np.ndarray,
    classes: Sequence[str],
    recall: np.ndarray,
    precision: np.ndarray,
    headline: tuple[str, str],
    *,
    has_others: bool = False,
) -> Figure:
    """Draw `counts` (truth, prediction), with `recall` in the right margin and `precision` in the bottom margin.

    Correct predictions are blue by their share of the row. Errors are orange by their number, on their own scale
    that ends at the largest one, so that rare errors are visible; the margins are blue. With `has_others`, the last row
    and column sum up all other classes, and the scale of the errors disregards them. Cells show their numbers if there
    is room: three digits up to about 50 classes, recall and precision up to about 60. An undefined value (NaN) is shown
    as "–".

    >>> counts = np.array([[9, 1], [0, 5]])
    >>> figure = confusion_matrix(counts, ["cat", "dog"], np.array([0.9, 1]), np.array([1, 5 / 6]), ("title", ""))
    >>> [layer.get_array().tolist() for layer in figure.axes[0].images]
    [[[0.9, None], [None, 1.0]], [[None, 1.0], [None, None]]]
    """
    place = _Layout.of(classes)
    canvas = Canvas(max(place.width, NARROWEST), place.height, *headline)
    # empty cells are NaN, which is drawn transparent
    share = np.where(counts > 0, counts / np.maximum(counts.sum(1, keepdims=True), 1), np.nan)
    is_right = np.eye(len(counts), dtype=bool)
    errors = np.where(is_right | (counts == 0), np.nan, counts)
    named = errors[:-1, :-1] if has_others else errors
    most = float(np.nanmax(named)) if np.isfinite(named).any() else 1.0
    matrix = place.box(share.shape)
    axes = canvas.axes(*matrix)
    # two layers on the same axes, because an image has only one palette
    right = _cells(axes, np.where(is_right, share, np.nan), colormaps["Blues"], 1.0)
    wrong = _cells(axes, errors, _ORANGES, most)
    texts = [[f"{count}" if count else "" for count in row] for row in counts]
    parts = [(matrix, np.where(is_right, share, errors / most), texts)]
    for values in (recall[:, None], precision[None]):
        parts.append((place.box(values.shape), values, [[_percent(value) for value in row] for row in values]))
        _cells(canvas.axes(*parts[-1][0]), values, colormaps["Blues"], 1.0)
    for part in parts:
        _write(canvas, *part)
    _write_names(canvas, place)
    x, height = place.edge_x + place.margin + MARGIN, min(place.side, 260.0)
    canvas.colour_bar(right, (x, place.top, height), "correct: share of the row", [0, 0.5, 1.0])
    if np.isfinite(errors).any():
        ticks = sorted({0.0, most // 2, most})
        canvas.colour_bar(wrong, (x + BAR_DOTS - 12, place.top, height), "errors: number of images", ticks)
    return canvas.figure


_ORANGES = ListedColormap(colormaps["Oranges"](np.linspace(0.15, 1, 256)))
"""Palette of the errors, without its palest colors, so that a single error is visible."""


@dataclass(frozen=True)
class _Layout:
    """Positions and sizes of the parts, in dots."""

    names: list[str]
    cell: float
    """Side of a cell."""
    size: float
    """Font size of the names, in points."""
    left: float
    top: float
    is_upright: bool
    """True if the column names are vertical."""

    @classmethod
    def of(cls, classes: Sequence[str]) -> "_Layout":
        # The matrix is about 860 dots wide, with cells of 9 to 64 dots (96 for two or three classes).
        cell = float(np.clip(860 // len(classes), 9, 64 if len(classes) > 3 else 96))
        size = TEXT if cell >= 16 else 6.0
        names = class_names(classes, 20)
        widest = max(text_width(name, size, DOTS_PER_INCH) for name in names)
        is_upright = widest > cell - 6
        top = 20 + (widest if is_upright else 14) + 8
        left = MARGIN + max(22 + widest, text_width("precision", SMALL, DOTS_PER_INCH)) + 8
        return cls(names, cell, size, left, top, is_upright)

    @property
    def is_written(self) -> bool:
        """True if recall and precision are written; they run along the cells, so only the cells' height matters."""
        # `_size` limits the text to half of the cell's height
        return self.cell / 2 >= SMALLEST

    @property
    def side(self) -> float:
        return self.cell * len(self.names)

    @property
    def margin(self) -> float:
        """Width of the recall column and height of the precision row."""
        return max(self.cell, 50.0) if self.is_written else 22.0

    @property
    def edge_x(self) -> float:
        """Left edge of the recall column."""
        return self.left + self.side + 8

    @property
    def edge_y(self) -> float:
        """Top edge of the precision row."""
        return self.top + self.side + 8

    def box(self, shape: tuple[int, int]) -> tuple[float, float, float, float]:
        """Return left, top, width and height of the part of this shape: the matrix, recall column or precision row."""
        is_column, is_row = shape[1] < shape[0], shape[0] < shape[1]
        return (
            self.edge_x if is_column else self.left,
            self.edge_y if is_row else self.top,
            self.margin if is_column else self.side,
            self.margin if is_row else self.side,
        )

    @property
    def width(self) -> float:
        return self.edge_x + self.margin + 2 * BAR_DOTS + MARGIN

    @property
    def height(self) -> float:
        return self.edge_y + self.margin + MARGIN


def _cells(axes: Axes, values: np.ndarray, palette: Colormap, most: float) -> AxesImage:
    """Draw cells, colored from 0 to `most`, with fine lines between them; NaN is transparent."""
    colours = palette.with_extremes(bad=(0, 0, 0, 0))
    masked = np.ma.masked_invalid(values)
    shown = axes.imshow(masked, cmap=colours, norm=Normalize(0, most), interpolation="nearest", aspect="auto")
    rows, columns = values.shape
    style: dict[str, Any] = {"colors": "#d4d7db", "linewidths": 0.7 if max(rows, columns) <= FINE_LINES else 0.3}
    # imshow centers cells on integers, so their edges are at halves
    axes.hlines(np.arange(rows + 1) - 0.5, -0.5, columns - 0.5, **style)
    axes.vlines(np.arange(columns + 1) - 0.5, -0.5, rows - 0.5, **style)
    return shown


def _write(
    canvas: Canvas, box: tuple[float, float, float, float], darkness: np.ndarray, texts: Sequence[Sequence[str]]
) -> None:
    """Write text in each cell, white on dark and dark on light; vertical in narrow cells, none in small cells."""
    x, y, width, height = box
    down, across = height / len(texts), width / len(texts[0])
    longest = max(len(text) for line in texts for text in line)
    level, upright = _size(longest, across, down), _size(longest, down, across)
    # vertical only if that makes the text large enough
    size, rotation = (upright, 90) if level < SMALLEST <= upright and across < down else (level, 0)
    if size < SMALLEST:
        return
    for row, line in enumerate(texts):
        for column, text in enumerate(line):
            # dark cells need light text
            colour = "white" if darkness[row, column] > 0.6 else INK
            middle = (x + (column + 0.5) * across, y + (row + 0.5) * down)
            style = {"va": "center", "rotation": 90} if rotation else {"va": "center_baseline"}
            canvas.text(*middle, text, size=size, color=colour, ha="center", **style)


def _size(length: int, along: float, across: float) -> float:
    """Return the font size at which `length` digits fit a cell of `along`×`across` dots (along and across the text)."""
    # A digit is about 0.88 dots wide per point at 100 dpi, hence the factor 1.15.
    return min(TEXT, 1.15 * along / max(length, 1), across / 2)


def _write_names(canvas: Canvas, place: _Layout) -> None:
    for index, name in enumerate(place.names):
        offset = (index + 0.5) * place.cell
        canvas.text(place.left - 6, place.top + offset, name, size=place.size, ha="right", va="center")
        rotation = 90 if place.is_upright else 0
        canvas.text(place.left + offset, place.top - 6, name, size=place.size, ha="center", rotation=rotation)
    half = place.side / 2
    strong = {"color": PALE, "size": TEXT, "ha": "center", "va": "center"}
    canvas.text(MARGIN + 6, place.top + half, "true class", rotation=90, **strong)
    canvas.text(place.left + half, 8, "prediction", **strong)
    canvas.text(place.edge_x + place.margin / 2, place.top - 6, "recall", size=SMALL, color=PALE, ha="center")
    canvas.text(
        place.left - 6, place.edge_y + place.margin / 2, "precision", size=SMALL, color=PALE, ha="right", va="center"
    )


def _percent(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.1%}"
