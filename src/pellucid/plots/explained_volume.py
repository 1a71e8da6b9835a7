"""The most relevant slices of a volume, next to their relevance."""

import numpy as np

from pellucid.plots._canvas import MARGIN, SMALL, Canvas
from pellucid.plots._explained import GAP, INSIDE, Drawing, Explained, pooled
from pellucid.plots.colours import PALE, gray_or_rgb, scale_limit
from pellucid.plots.explained_image import draw_gray_or_rgb, draw_signed

__all__ = ["VOLUME", "largest_slices"]

SLICES = 4
"""Maximum number of slices."""
SIDE = (INSIDE - (SLICES - 1) * GAP) // SLICES
"""Width of a slice in dots."""
TALLEST = 240
"""Maximum height of a slice in dots."""
NAME_DOTS = 17
"""Height of the slice titles in dots."""


def largest_slices(relevance: np.ndarray) -> list[int]:
    """Return the depths of at most four slices of (channel, depth, height, width) with the largest Σ|R|, in order.

    >>> largest_slices(np.array([0.0, 3, 1, 5, 2, 4]).reshape(1, 6, 1, 1))
    [1, 3, 4, 5]
    """
    sizes = np.abs(relevance.sum(0)).sum((1, 2))
    return sorted(np.argsort(-sizes, kind="stable")[:SLICES].tolist())


def _size(height: int, width: int) -> tuple[float, float]:
    zoom = min(SIDE / width, TALLEST / height)
    zoom = int(zoom) if zoom >= 1 else zoom
    return max(height * zoom, 8), max(width * zoom, 8)


def _height(row: Explained) -> float:
    return NAME_DOTS + 2 * _size(*row.values.shape[-2:])[0] + 6


def _draw(canvas: Canvas, row: Explained, top: float) -> None:
    down, across = _size(*row.values.shape[-2:])
    chosen = largest_slices(row.relevance)
    planes, _ = pooled(row.relevance.sum(0, dtype=float)[chosen], 2 * SIDE)
    # one scale for all slices, because they belong to one map
    limit, shown = scale_limit(planes), None
    below = top + NAME_DOTS + down + 6
    for number, depth in enumerate(chosen):
        x = MARGIN + number * (SIDE + GAP)
        name = f"slice {depth} of {row.values.shape[1]}"
        canvas.text(x, top + 2, name, size=SMALL, color=PALE, va="top")
        picture = row.shown(gray_or_rgb(pooled(row.values[:, depth], 2 * SIDE)[0]))
        draw_gray_or_rgb(canvas.axes(x, top + NAME_DOTS, across, down), picture)
        shown = draw_signed(canvas.axes(x, below, across, down), planes[number], limit)
    assert shown is not None
    bar = (MARGIN + INSIDE + GAP, top + NAME_DOTS, 2 * down + 6)
    canvas.colour_bar(shown, bar, row.meaning, [-limit, 0, limit])


VOLUME = Drawing(_height, _draw)
"""Most relevant slices of a volume."""
