"""Accuracy of each class over the time of training, the times at which classes are learned, and forgetting events."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pellucid.plots._canvas import MARGIN, SMALL, TEXT, Canvas
from pellucid.plots._text import class_names, text_width
from pellucid.plots.colours import INK, PALE, class_colours

__all__ = ["Learned", "learning_curves"]

CURVES = 480, 300
"""Width and height of the curves in dots."""
TIMES = 330
"""Width of the learning times in dots."""
BARS = 110
"""Height of the bars of forgetting events in dots."""


@dataclass(frozen=True, eq=False)
class Learned:
    """Learning of the shown classes; arrays (time, class) and (class,)."""

    names: Sequence[str]
    times: np.ndarray
    """(time,): numbers of finished epochs."""
    accuracy: np.ndarray
    low: np.ndarray
    high: np.ndarray
    learned: np.ndarray
    """(class,): rows of `times`, −1 for never; so are the ends of the interval."""
    earliest: np.ndarray
    latest: np.ndarray
    threshold: float


def learning_curves(learned: Learned, events: Sequence[tuple[str, int]], headline: tuple[str, str]) -> Figure:
    """Draw the accuracy of each class over time, its learning time with an interval, and counts of forgetting events.

    >>> one, row = np.array([[0.5], [1.0]]), np.array([1])
    >>> learned = Learned(["cat"], np.array([0.5, 1.0]), one, one, one, row, row, np.array([-1]), 0.9)
    >>> figure = learning_curves(learned, [("0", 8), ("1", 2)], ("title", "subtitle"))
    >>> [len(axes.lines) > 0 for axes in figure.axes]
    [True, True, False]
    """
    names = class_names(learned.names, 20)
    width, height = CURVES
    label_dots = max((text_width(name, TEXT, 100) for name in names), default=0)
    left = MARGIN + 56 + width + 40 + label_dots
    canvas = Canvas(left + TIMES + MARGIN + 10, height + 60 + (BARS + 60 if events else 0), *headline)
    colours = class_colours(len(names))
    _draw_curves(canvas.axes(MARGIN + 56, 8, width, height), learned, colours)
    _draw_times(canvas.axes(left, 8, TIMES, height), learned, names, colours)
    if events:
        _draw_events(canvas.axes(MARGIN + 56, height + 76, width, BARS), events)
    return canvas.figure


def _draw_curves(axes: Axes, learned: Learned, colours: np.ndarray) -> None:
    for number, colour in enumerate(colours):
        # a single moment needs a marker to be seen
        axes.plot(learned.times, learned.accuracy[:, number], color=colour, linewidth=1.4, marker="o", markersize=2.5)
        axes.fill_between(
            learned.times, learned.low[:, number], learned.high[:, number], color=colour, alpha=0.09, linewidth=0
        )
    axes.axhline(learned.threshold, color=PALE, linewidth=1, linestyle="--")
    axes.set_ylim(max(0.0, np.nanmin(learned.low, initial=1.0) - 0.02), 1.005)
    _style(axes, "epochs trained", "accuracy on the sampled images of a class")
    axes.set_xlim(0, learned.times[-1] * 1.02)


def _draw_times(axes: Axes, learned: Learned, names: Sequence[str], colours: np.ndarray) -> None:
    """Draw one row per class: a dot at its learning time and a line over the interval, with an arrow if it is open."""
    end = float(learned.times[-1]) * 1.05
    for row, colour in enumerate(colours):
        if learned.earliest[row] < 0:
            axes.text(end, row, "not learned", size=SMALL, color=PALE, ha="right", va="center")
            continue
        is_open = learned.latest[row] < 0
        stop = end if is_open else float(learned.times[learned.latest[row]])
        axes.plot([learned.times[learned.earliest[row]], stop], [row, row], color=colour, linewidth=2.5, alpha=0.55)
        if is_open:
            axes.plot([stop], [row], marker=">", color=colour, markersize=5, alpha=0.55, clip_on=False)
        if learned.learned[row] >= 0:
            axes.plot([learned.times[learned.learned[row]]], [row], marker="o", color=colour, markersize=5.5)
    _style(axes, f"epochs until at least {learned.threshold:.0%} of the class stays correct", "")
    axes.set_xlim(0, end)
    axes.set_ylim(max(len(names), 1) - 0.5, -0.5)
    axes.set_yticks(range(len(names)), list(names), parse_math=False)
    axes.tick_params(axis="y", labelsize=TEXT, length=0)
    axes.grid(axis="x", color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)


def _draw_events(axes: Axes, events: Sequence[tuple[str, int]]) -> None:
    counts = [count for _, count in events]
    bars = axes.bar(range(len(events)), counts, width=0.7, color="#7c8da6", linewidth=0)
    axes.bar_label(bars, [f"{count:,}" for count in counts], size=SMALL, color=INK, padding=2)
    axes.set_xticks(range(len(events)), [name for name, _ in events])
    axes.set_ylim(0, max(*counts, 1) * 1.2)
    _style(axes, "forgetting events per sampled image", "images")


def _style(axes: Axes, across: str, up: str) -> None:
    axes.set_axis_on()
    axes.set_xlabel(across, size=TEXT, color=INK)
    axes.set_ylabel(up, size=TEXT, color=INK)
    axes.tick_params(labelsize=SMALL, labelcolor=INK, color=PALE, length=3)
    axes.spines[["top", "right"]].set_visible(False)
