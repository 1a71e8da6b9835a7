"""Mean ranks of methods with their intervals, as points on a line."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pellucid.plots._canvas import DOTS_PER_INCH, LINE_DOTS, MARGIN, SMALL, TEXT, Canvas
from pellucid.plots._text import shorten, text_width
from pellucid.plots.colours import INK, PALE

__all__ = ["RankLine", "ranking"]

ROW_DOTS = 26
GAP_DOTS = 14
"""Gap between the remaining and the dropped methods."""
SCALE_DOTS = 420
AXIS_DOTS = 44
CHOSEN = "#1f7a4d"
"""Color of the recommended method."""
GRID = "#e3e6ea"


@dataclass(frozen=True)
class RankLine:
    """The mean rank of a method, from 1 (best), with its interval."""

    method: str
    rank: float
    low: float
    high: float
    note: str = ""
    """Short note to the right of the interval."""
    is_chosen: bool = False
    is_faded: bool = False
    """True for a method that left the race early."""


def ranking(lines: Sequence[RankLine], headline: tuple[str, str]) -> Figure:
    """Draw one row per method: a point at its mean rank, a line for its interval, and its note.

    Dropped methods are gray, below a line: they were ranked on fewer images, among more methods.

    >>> figure = ranking([RankLine("gradient", 1.5, 1.2, 1.8, is_chosen=True)], ("title", "subtitle"))
    >>> len(figure.axes)
    1
    """
    names = [shorten(line.method, 44) for line in lines]
    left = MARGIN + max((text_width(name, TEXT, DOTS_PER_INCH, bold=True) for name in names), default=0) + 18
    notes = max((text_width(line.note, SMALL, DOTS_PER_INCH) for line in lines), default=0)
    remaining = sum(not line.is_faded for line in lines)
    tops = [ROW_DOTS * row + (GAP_DOTS if row >= remaining else 0) for row in range(len(lines))]
    height = (tops[-1] if tops else 0) + ROW_DOTS
    canvas = Canvas(left + SCALE_DOTS + 24 + notes + MARGIN, height + AXIS_DOTS + MARGIN, *headline)
    axes = canvas.axes(left, 0, SCALE_DOTS, height)
    axes.set_axis_on()
    highest = max([2.0, *(line.high for line in lines)])
    axes.set_xlim(0.8, highest + 0.2)
    axes.set_ylim(height, 0)
    _draw_scale(canvas, axes, left, height)
    for line, name, top in zip(lines, names, tops, strict=True):
        middle = top + ROW_DOTS / 2
        ink = CHOSEN if line.is_chosen else PALE if line.is_faded else INK
        axes.plot([line.low, line.high], [middle, middle], color=ink, linewidth=2, solid_capstyle="butt")
        axes.plot([line.rank], [middle], marker="o", markersize=7, color=ink)
        weight = "bold" if line.is_chosen else "normal"
        canvas.text(left - 14, middle, name, color=ink, ha="right", va="center", weight=weight)
        canvas.text(left + SCALE_DOTS + 16, middle, line.note, size=SMALL, color=ink, va="center")
    if 0 < remaining < len(lines):
        axes.axhline(tops[remaining] - GAP_DOTS / 2, color=PALE, linewidth=0.8)
    return canvas.figure


def _draw_scale(canvas: Canvas, axes: Axes, left: float, height: float) -> None:
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(PALE)
    axes.set_yticks([])
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=SMALL, labelcolor=INK, length=3, color=PALE)
    label = "mean rank (1: best), with 95% interval"
    canvas.text(left + SCALE_DOTS / 2, height + LINE_DOTS[SMALL] + 12, label, size=SMALL, ha="center", va="center")
