"""Scatter plot of an embedding, colored by class, with misclassified points circled."""

from collections.abc import Sequence
from math import sqrt
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from pellucid.plots._canvas import DOTS_PER_INCH, MARGIN, SMALL, TEXT, Canvas
from pellucid.plots._text import class_names, text_width
from pellucid.plots.colours import INK, PALE, class_colours

__all__ = ["move_points", "scatter"]

SIDE = 720
"""Side of the plot in dots."""
MANY_ERRORS = 150
"""Maximum number of full-sized rings; with more errors, rings are smaller so that they don't hide the points."""
NAMED_CLASSES = 40
"""Maximum number of classes listed in the legend."""
NAMED_POINTS = 3
"""Minimum number of points for a class name in the plot; the name would hide fewer."""


def scatter(
    points: np.ndarray,
    labels: np.ndarray,
    predictions: np.ndarray,
    classes: Sequence[str],
    headline: tuple[str, str],
    extent: np.ndarray | None = None,
) -> Figure:
    """Draw `points` (point, 2) in the color of their label; errors get a ring in the color of the prediction.

    Class names are placed near the median of their points. Both axes have the same scale. The limits include all of
    `extent` (point, 2), by default the points themselves.

    >>> points, labels = np.random.default_rng(0).normal(size=(6, 2)), np.array([0, 1, 0, 1, 0, 1])
    >>> figure = scatter(points, labels, labels, ["cat", "dog"], ("title", "subtitle"))
    >>> len(figure.axes[0].collections[0].get_offsets())
    6
    """
    names = class_names(classes, 20)
    colours, wrong = class_colours(len(names)), labels != predictions
    canvas = Canvas(MARGIN + SIDE + 24 + _key_width(names) + MARGIN, SIDE + MARGIN, *headline)
    axes = canvas.axes(MARGIN, 0, SIDE, SIDE)
    # points that cover about the same area together, however many they are
    size = float(np.clip(14000 / max(len(points), 1), 10, 60))
    axes.scatter(points[:, 0], points[:, 1], s=size, c=colours[labels], linewidths=0, alpha=0.85)
    _ring(axes, points[wrong], colours[predictions[wrong]], size * (0.5 if wrong.sum() > MANY_ERRORS else 1))
    _square_limits(axes, points if extent is None else extent)
    _name_clusters(axes, points, labels, names)
    listed = range(len(names)) if len(names) <= NAMED_CLASSES else range(0)
    _draw_key(canvas, [names[label] for label in listed], colours, int(wrong.sum()))
    return canvas.figure


def move_points(
    figure: Figure, points: np.ndarray, labels: np.ndarray, predictions: np.ndarray, classes: Sequence[str]
) -> None:
    """Move the points of a `scatter` figure with their rings and class names; its limits and all else stay.

    `labels`, `predictions` and `classes` are those that the figure was drawn with.

    >>> points, labels = np.random.default_rng(0).normal(size=(6, 2)), np.array([0, 1, 0, 1, 0, 1])
    >>> figure = scatter(points, labels, labels, ["cat", "dog"], ("title", "subtitle"))
    >>> move_points(figure, points + 1, labels, labels, ["cat", "dog"])
    >>> bool((figure.axes[0].collections[0].get_offsets() == points + 1).all())
    True
    """
    axes, wrong = figure.axes[0], labels != predictions
    # the points, then the two outlines of the rings
    for collection, places in zip(axes.collections, (points, points[wrong], points[wrong]), strict=True):
        collection.set_offsets(places)
    for name in list(axes.texts):
        name.remove()
    _name_clusters(axes, points, labels, class_names(classes, 20))


def _ring(axes: Axes, points: np.ndarray, colours: np.ndarray, size: float) -> None:
    """Draw a ring around each point in its color, set off by a thin dark outline."""
    x, y = points.T
    # marker sizes are areas in points², so the square root is proportional to the diameter
    width = min(1.7, sqrt(size) / 2.2)
    axes.scatter(
        x, y, s=size * 4, facecolors="none", edgecolors=[tuple(colour) for colour in colours], linewidths=width
    )
    axes.scatter(x, y, s=size * 6.5, facecolors="none", edgecolors=INK, linewidths=width / 3)


def _square_limits(axes: Axes, points: np.ndarray) -> None:
    low, high = (points.min(0), points.max(0)) if len(points) else (np.zeros(2), np.ones(2))
    # a margin of 4%; the floor keeps the limits apart if all points are equal
    middle, half = (low + high) / 2, max(float((high - low).max()) / 2 * 1.04, 1e-9)
    axes.set_xlim(middle[0] - half, middle[0] + half)
    axes.set_ylim(middle[1] - half, middle[1] + half)


def _name_clusters(axes: Axes, points: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> None:
    """Write each class's name at the median of its points, within the plot.

    Large classes come first; names that would overlap an earlier one are omitted, as are those of classes with one or
    two points.
    """
    size = TEXT + 2 if len(names) <= NAMED_CLASSES else SMALL
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    # dots per unit of the data
    dots = SIDE / (right - left)
    style: dict[str, Any] = {"ha": "center", "va": "center", "weight": "bold", "color": INK, "parse_math": False}
    outline = [withStroke(linewidth=3, foreground="white")]
    placed: list[tuple[float, float, float]] = []
    present, counts = np.unique(labels, return_counts=True)
    # large classes first, since a name that would overlap an earlier one is omitted
    # the slice drops the classes with too few points, which come last in this order
    for label in present[np.argsort(-counts, kind="stable")][: int((counts >= NAMED_POINTS).sum())]:
        half = text_width(names[label], size, DOTS_PER_INCH, bold=True) / 2
        across, up = (half + 3) / dots, size / dots
        # the median, unlike the mean, stays within the main cluster if some points are far away
        x, y = np.median(points[labels == label], axis=0)
        x, y = np.clip(x, left + across, right - across), np.clip(y, bottom + up, top - up)
        if any(abs(x - u) * dots < half + other and abs(y - v) * dots < 2 * size for u, v, other in placed):
            continue
        placed.append((x, y, half))
        axes.text(x, y, names[label], size=size, path_effects=outline, **style)


def _key_width(names: Sequence[str]) -> float:
    listed = names if len(names) <= NAMED_CLASSES else ()
    # the final 0 keeps `max` from receiving a single number, which it would reject, if no class is listed
    return max(150.0, *(text_width(name, TEXT, DOTS_PER_INCH) + 24 for name in listed), 0)


def _draw_key(canvas: Canvas, names: Sequence[str], colours: np.ndarray, errors: int) -> None:
    """Draw the legend on the right: a dot per class, and the meaning of the rings."""
    left, line = MARGIN + SIDE + 24, min(20.0, (SIDE - 80) / max(len(names), 1))
    width = canvas.width - left
    axes = canvas.axes(left, 0, width, SIDE)
    axes.set_xlim(0, width)
    axes.set_ylim(SIDE, 0)
    rows = 10 + line * np.arange(len(names))
    axes.scatter(np.full(len(names), 8), rows, s=36, c=colours[: len(names)], linewidths=0)
    for name, y in zip(names, rows, strict=True):
        canvas.text(left + 22, y, name, va="center", size=TEXT if line > 15 else SMALL)
    below = 10 + line * len(names) + 14
    _ring(axes, np.array([[8.0, below]]), colours[:1], 14)
    canvas.text(left + 22, below, f"{errors} misclassified", size=SMALL, color=PALE, va="center")
    canvas.text(left + 22, below + 14, "(ring color: prediction)", size=SMALL, color=PALE, va="center")
