"""Histogram of a quantity over images."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from pellucid.plots._canvas import SMALL, TEXT, Canvas
from pellucid.plots._text import shorten
from pellucid.plots.colours import INK, PALE

__all__ = ["draw_histogram"]

BINS = 48


def draw_histogram(
    canvas: Canvas,
    box: tuple[float, float, float, float],
    values: np.ndarray,
    meaning: str,
    marked: Sequence[float] = (),
) -> Axes:
    """Draw a histogram of `values` into `box` (left, top, width, height in dots), with a line at each marked value.

    >>> canvas = Canvas(400, 300, "title")
    >>> axes = draw_histogram(canvas, (40, 10, 300, 200), np.arange(100.0), "value", [50.0])
    >>> int(sum(bar.get_height() for bar in axes.patches))
    100
    """
    axes = canvas.axes(*box)
    axes.set_axis_on()
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    room = max(high - low, 1e-6 * abs(high), 1e-12)  # a positive range even if all values are equal
    counts, edges = np.histogram(finite, bins=BINS, range=(low, low + room))
    axes.bar(edges[:-1], counts, width=np.diff(edges), align="edge", color="#7c8da6", linewidth=0)
    for value in marked:
        axes.axvline(value, color=INK, linewidth=1.2, linestyle="--")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=SMALL, labelcolor=INK, color=PALE, length=3)
    axes.set_xlabel(shorten(meaning, 90), size=TEXT, color=INK, parse_math=False)
    axes.set_ylabel("images", size=TEXT, color=INK)
    return axes
