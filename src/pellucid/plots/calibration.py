"""Reliability diagram with intervals, histogram of the confidences, and risk-coverage curve."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from pellucid.plots._canvas import MARGIN, SMALL, TEXT, Canvas
from pellucid.plots.colours import INK, PALE, WRONG

__all__ = ["Diagram", "calibration_figure"]

SIDE = 290
"""Side of the reliability diagram and of the risk-coverage curve, in dots."""
LEFT, BELOW = 76, 46
"""Room for the axis labels, in dots."""
HISTOGRAM = 84
"""Height of the histogram in dots."""
COLOURS = ("#1f6f8b", WRONG)
"""Colors of the diagrams."""
MARKS = ("o", "s")
GRID = "#e3e6e9"


@dataclass(frozen=True)
class Diagram:
    """A reliability diagram: one value per bin of confidences, NaN for empty bins."""

    edges: np.ndarray
    """Ends of the bins, one more than there are bins."""
    counts: np.ndarray
    """Number of images."""
    confidence: np.ndarray
    """Mean confidence."""
    accuracy: np.ndarray
    low: np.ndarray
    """Ends of the interval of the accuracy."""
    high: np.ndarray


def calibration_figure(
    diagrams: Mapping[str, Diagram], curve: Mapping[str, Sequence[float]] | None, headline: tuple[str, str]
) -> Figure:
    """Draw one or two reliability diagrams by name, with their histograms below, and a risk-coverage curve if given.

    The diagrams share their axes. `curve` has the lists `coverage`, `risk` and `best`, all from 0 to 1.

    >>> values = np.array([0.25, 0.8])
    >>> diagram = Diagram(np.array([0, 0.5, 1]), np.array([3, 9]), values, values, values - 0.1, values + 0.1)
    >>> figure = calibration_figure({"predicted": diagram}, None, ("title", "subtitle"))
    >>> [axes.get_xlabel() for axes in figure.axes]
    ['', 'confidence']
    """
    right = 2 * LEFT + SIDE + MARGIN
    width = (LEFT if curve is None else right) + SIDE + 2 * MARGIN
    canvas = Canvas(width, SIDE + 18 + HISTOGRAM + BELOW + (MARGIN if curve is not None else 30), *headline)
    _draw_diagrams(canvas.axes(LEFT, 4, SIDE, SIDE), diagrams)
    histogram = canvas.axes(LEFT, SIDE + 18, SIDE, HISTOGRAM)
    _draw_histograms(histogram, diagrams)
    # a single diagram needs no name
    handles = histogram.get_legend_handles_labels()[0] if len(diagrams) > 1 else []
    if curve is not None:
        axes = canvas.axes(right, 4, SIDE, SIDE)
        _draw_curve(axes, curve)
        handles += axes.get_legend_handles_labels()[0]
    if handles:
        # below the curve, where it covers nothing
        place = (right if curve is not None else LEFT) / canvas.width, 0.5 * MARGIN / canvas.height
        canvas.figure.legend(
            handles=handles,
            loc="lower left",
            bbox_to_anchor=place,
            ncols=2,
            fontsize=SMALL,
            frameon=False,
            labelcolor=INK,
        )
    return canvas.figure


def _draw_diagrams(axes: Axes, diagrams: Mapping[str, Diagram]) -> None:
    _prepare(axes, "", "accuracy")
    axes.plot([0, 1], [0, 1], color=PALE, linewidth=1, linestyle="--")
    for one, colour, mark in zip(diagrams.values(), COLOURS, MARKS, strict=False):
        filled = one.counts > 0
        x, y = one.confidence[filled], one.accuracy[filled]
        # rounding can put the end of an interval beyond the value
        errors = np.stack([y - one.low[filled], one.high[filled] - y]).clip(0)
        axes.errorbar(x, y, errors, color=colour, linestyle="none", elinewidth=1.1, capsize=2.5)
        # the area of a marker is proportional to the number of images, unless that is too small to see
        areas = np.maximum(110 * one.counts[filled] / one.counts.sum(), 9)
        axes.scatter(x, y, areas, color=colour, marker=mark, zorder=3, clip_on=False)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.01)
    axes.set_xticks(np.linspace(0, 1, 6), [""] * 6)
    axes.yaxis.set_major_formatter(FuncFormatter(_percent))


def _draw_histograms(axes: Axes, diagrams: Mapping[str, Diagram]) -> None:
    _prepare(axes, "confidence", "images")
    for (name, one), colour in zip(diagrams.items(), COLOURS, strict=False):
        # below the logarithmic axis where there are none
        axes.stairs(np.maximum(one.counts, 0.1), one.edges, baseline=0.1, color=colour, linewidth=1.4, label=name)
    most = max(int(one.counts.max()) for one in diagrams.values())
    axes.set_yscale("log")
    axes.set_ylim(0.5, 2 * most)
    axes.set_yticks([10.0**power for power in range(0, len(str(most)), 1 + len(str(most)) // 4)])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.minorticks_off()
    axes.set_xlim(0, 1)
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.xaxis.set_major_formatter(FuncFormatter(_percent))


def _draw_curve(axes: Axes, curve: Mapping[str, Sequence[float]]) -> None:
    _prepare(axes, "coverage (most confident images first)", "error rate")
    coverage, risk, best = (np.asarray(curve[name]) for name in ("coverage", "risk", "best"))
    axes.plot(coverage, best, color=PALE, linewidth=1.1, linestyle=":", label="best possible order")
    axes.axhline(risk[-1], color=PALE, linewidth=1, linestyle="--", label="random order")
    axes.plot(coverage, risk, color=COLOURS[0], linewidth=1.6, label="by confidence")
    axes.set_xlim(0, 1)
    # single errors among the first images do not stretch the axis
    top = max(1.25 * float(risk[-1]), float(np.quantile(risk, 0.95)), 1e-4)
    axes.set_ylim(0, min(top, 1.01))
    axes.xaxis.set_major_formatter(FuncFormatter(_percent))
    axes.yaxis.set_major_formatter(FuncFormatter(_percent))


def _prepare(axes: Axes, x: str, y: str) -> None:
    axes.set_axis_on()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(PALE)
    axes.tick_params(labelsize=SMALL, labelcolor=INK, color=PALE, length=3)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel(x, size=TEXT, color=INK)
    axes.set_ylabel(y, size=TEXT, color=INK)


def _percent(value: float, _: object = None) -> str:
    """Format a tick.

    >>> _percent(0.2), _percent(0.0125)
    ('20%', '1.25%')
    """
    return f"{100 * value:.4g}%"
