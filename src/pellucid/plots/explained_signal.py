"""A signal over time, with its relevance as the background of the line."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable

from pellucid.plots._canvas import MARGIN, SMALL, Canvas
from pellucid.plots._explained import GAP, INSIDE, SHORTEST_BAR, Drawing, Explained
from pellucid.plots.colours import INK, PALE, scale_limit, signed_norm, signed_palette

__all__ = ["SIGNAL"]

CHANNEL_DOTS = 84
"""Height of a channel in dots."""
AXIS_DOTS = 20
"""Height of the time axis in dots."""
LEFT = 46
"""Width of the channel names in dots."""


def _height(row: Explained) -> float:
    return max(len(row.values) * CHANNEL_DOTS + AXIS_DOTS, SHORTEST_BAR + AXIS_DOTS)


def _draw(canvas: Canvas, row: Explained, top: float) -> None:
    limit = scale_limit(row.relevance)
    each = (_height(row) - AXIS_DOTS) / len(row.values)
    shown = None
    for channel, (values, relevance) in enumerate(zip(row.values, row.relevance, strict=True)):
        y = top + channel * each
        name = f"ch {channel}" if len(row.values) > 1 else "value"
        canvas.text(MARGIN, y + (each - 6) / 2, name, size=SMALL, color=PALE, va="center")
        axes = canvas.axes(MARGIN + LEFT, y, INSIDE - LEFT, each - 6)
        shown = _draw_channel(axes, values, relevance, limit)
        if channel == len(row.values) - 1:
            _draw_time(axes)
    assert shown is not None
    bar = (MARGIN + INSIDE + GAP, top, min(_height(row) - AXIS_DOTS - 6, 232))
    canvas.colour_bar(shown, bar, row.meaning, [-limit, 0, limit])


def _draw_channel(axes: Axes, values: np.ndarray, relevance: np.ndarray, limit: float) -> ScalarMappable:
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    margin = 0.08 * (high - low) or 0.5  # a constant signal runs through the middle
    extent = (-0.5, len(values) - 0.5, low - margin, high + margin)
    shown = axes.imshow(
        relevance[None], cmap=signed_palette(), norm=signed_norm(limit), extent=extent, aspect="auto",
        interpolation="nearest" if len(values) < 600 else "auto",
    )  # fmt: skip
    axes.plot(np.arange(len(values)), values, color=INK, linewidth=1.1, marker="." if len(values) == 1 else "")
    axes.set_xlim(extent[:2])
    axes.set_ylim(extent[2:])
    return shown


def _draw_time(axes: Axes) -> None:
    axes.set_axis_on()
    axes.yaxis.set_visible(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(axis="x", labelsize=SMALL, labelcolor=PALE, length=2, color=PALE)


SIGNAL = Drawing(_height, _draw)
"""Lines of the signal, with relevance as their color."""
