"""Labels of the rows and columns of a grid of images."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

from pellucid.plots._canvas import DOTS_PER_INCH, SMALL, TEXT, Canvas
from pellucid.plots._grid import Grid
from pellucid.plots._text import shorten, text_width
from pellucid.plots.colours import PALE

__all__ = ["Label", "draw_column_names", "draw_row_label", "label_width", "shortened"]

CHARACTER_DOTS = 8
"""Approximate width of a bold character in dots."""


@dataclass(frozen=True)
class Label:
    """Label of a row or column: a line of text, and a smaller line below it with its own color."""

    text: str
    detail: str = ""
    detail_colour: str = PALE


def shortened(labels: Sequence[Label]) -> list[Label]:
    """Shorten the lines of row labels, so that one long name does not push the images aside."""
    return [replace(label, text=shorten(label.text, 28), detail=shorten(label.detail, 36)) for label in labels]


def label_width(label: Label) -> int:
    """Return the width of a label in whole dots."""
    widths = text_width(label.text, TEXT, DOTS_PER_INCH, bold=True), text_width(label.detail, SMALL, DOTS_PER_INCH)
    return ceil(max(widths))


def draw_row_label(canvas: Canvas, label: Label, right: float, middle: float) -> None:
    """Draw the label of a row, flush right; a single line is centered."""
    shift = 8 if label.detail else 0
    canvas.text(right, middle - shift, label.text, ha="right", va="center", weight="bold")
    canvas.text(right, middle + shift, label.detail, ha="right", va="center", size=SMALL, color=label.detail_colour)


def draw_column_names(canvas: Canvas, grid: Grid, names: Sequence[str]) -> None:
    """Draw a name above each column, shortened to its width."""
    for column, name in enumerate(names):
        x, _ = grid.corner(0, column)
        name = shorten(name, max(2, int(grid.width / CHARACTER_DOTS)))
        canvas.text(x + grid.width / 2, grid.top - 6, name, ha="center", weight="bold")
