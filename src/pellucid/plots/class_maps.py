"""Grid of nonnegative maps, with a histogram of a quantity over the images below."""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure

from pellucid.plots._canvas import BAR_DOTS, MARGIN, Canvas
from pellucid.plots._grid import Grid
from pellucid.plots.colours import scale_limit
from pellucid.plots.histogram import draw_histogram
from pellucid.plots.labels import Label, draw_column_names, draw_row_label, label_width, shortened

__all__ = ["class_maps"]

NARROWEST = 620
"""Minimum width in dots, so that the headline doesn't wrap too often."""
HISTOGRAM_DOTS = 150
"""Height of the histogram in dots."""


def class_maps(
    maps: np.ndarray,
    rows: Sequence[tuple[str, str]],
    columns: Sequence[str],
    spread: np.ndarray,
    headline: tuple[str, str],
) -> Figure:
    """Draw `maps` (row, column, height, width), white at zero and dark at the common limit; NaN is gray.

    `rows` are (name, detail) pairs; `spread` is drawn as a histogram with its median.

    >>> figure = class_maps(np.ones((1, 2, 8, 8)), [("a", "3")], ["a", "b"], np.arange(9.0), ("title", "subtitle"))
    >>> figure.axes[0].images[0].get_clim()
    (0.0, 1.0)
    """
    labels = shortened([Label(name, detail) for name, detail in rows])
    side = MARGIN + max(map(label_width, labels)) + 8
    # 26 dots for the column names
    grid = Grid(side, 26, (maps.shape[2], maps.shape[3]), row_starts={0}, column_starts={0})
    left, top, across, down = grid.box(0, 0, (maps.shape[0], maps.shape[1]))
    below = top + down + 34
    # 44 dots for the tick labels and the axis label of the histogram
    canvas = Canvas(max(NARROWEST, left + across + BAR_DOTS + MARGIN), below + HISTOGRAM_DOTS + 44 + MARGIN, *headline)
    limit = scale_limit(maps)
    axes = canvas.axes(left, top, across, down)
    shown = axes.imshow(
        _mosaic(maps, grid.gap_pixels),
        cmap=_palette(),
        norm=Normalize(0, limit),
        interpolation="nearest" if grid.zoom >= 1 else "auto",
        aspect="auto",
    )
    canvas.colour_bar(shown, (left + across + MARGIN, top, min(down, 300)), "mean |∂ logit / ∂ pixel|", [0, limit])
    for row, label in enumerate(labels):
        x, y = grid.corner(row, 0)
        draw_row_label(canvas, label, x - 8, y + grid.height / 2)
    draw_column_names(canvas, grid, columns)
    room = canvas.width - left - MARGIN - 20
    marked = [float(np.median(spread))] if spread.size else []
    meaning = "spectral norm ‖J‖₂, logits per unit of pixel"
    draw_histogram(canvas, (left, below, room, HISTOGRAM_DOTS), spread, meaning, marked)
    return canvas.figure


def _palette() -> Colormap:
    return colormaps["Reds"].with_extremes(bad="#d4d7db")


def _mosaic(maps: np.ndarray, gap: int) -> np.ndarray:
    """Arrange maps (row, column, height, width) in one picture, with gaps of NaN."""
    # one picture for all maps is drawn much faster than one axes per map
    spaced = np.pad(maps.astype(float), [(0, 0)] * 2 + [(0, gap), (0, gap)], constant_values=np.nan)
    # the last row and column need no gap after them
    return np.concatenate(np.concatenate(spaced, axis=1), axis=1)[:-gap, :-gap]
