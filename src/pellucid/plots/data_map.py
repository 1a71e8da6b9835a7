"""Data map of training images: confidence by variability, with images of its corners."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from pellucid.plots._canvas import DOTS_PER_INCH, MARGIN, SMALL, TEXT, Canvas
from pellucid.plots._text import shorten, text_width
from pellucid.plots.colours import INK, PALE

__all__ = ["Corner", "data_map"]

SIDE = 430
"""Side of the map in dots."""
TILE = 72
"""Side of a thumbnail in dots."""
GAP = 12
"""Gap between thumbnails in dots."""
ROW = 140
"""Height of a row of thumbnails with its heading and captions, in dots."""


@dataclass(frozen=True, eq=False)
class Corner:
    """Images of one corner of the map."""

    name: str
    thumbnails: np.ndarray
    """(image, side, side, channel): bytes, with one or three channels."""
    captions: Sequence[tuple[str, str]]
    """Two lines per image."""


def data_map(
    points: np.ndarray, correctness: np.ndarray, corners: Sequence[Corner], headline: tuple[str, str]
) -> Figure:
    """Draw `points` (image, 2: variability, confidence) in the color of their correctness, and a row per corner.

    >>> points, tiles = np.array([[0.1, 0.9], [0.4, 0.5]]), np.zeros((1, 4, 4, 1), np.uint8)
    >>> figure = data_map(points, np.array([1.0, 0.5]), [Corner("easy", tiles, [("7", "90%")])], ("title", "subtitle"))
    >>> len(figure.axes[0].collections[0].get_offsets())
    2
    """
    most = max((len(corner.thumbnails) for corner in corners), default=0)
    left = MARGIN + 56 + SIDE + 110
    canvas = Canvas(left + max(most * (TILE + GAP), 200), max(SIDE + 56, ROW * len(corners) + 8), *headline)
    axes = canvas.axes(MARGIN + 56, 8, SIDE, SIDE)
    _draw_points(canvas, axes, points, correctness)
    for row, corner in enumerate(corners):
        _draw_corner(canvas, corner, (left, row * ROW))
    return canvas.figure


def _draw_points(canvas: Canvas, axes: Axes, points: np.ndarray, correctness: np.ndarray) -> None:
    axes.set_axis_on()
    # the least correct on top, since they are rare
    order = np.argsort(-correctness, kind="stable")
    size = float(np.clip(20_000 / max(len(points), 1), 5, 40))
    style: dict[str, Any] = {
        "s": size,
        "cmap": colormaps["viridis"],
        "norm": Normalize(0, 1),
        "alpha": 0.7,
        "linewidths": 0,
    }
    shown = axes.scatter(points[order, 0], points[order, 1], c=correctness[order], **style)
    axes.set_xlim(-0.01, 0.51)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("variability (standard deviation of the probability of the label)", size=TEXT, color=INK)
    axes.set_ylabel("confidence (mean probability of the label)", size=TEXT, color=INK)
    axes.tick_params(labelsize=SMALL, labelcolor=INK, color=PALE, length=3)
    axes.spines[["top", "right"]].set_visible(False)
    box = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}
    for x, y, name in ((0.09, 0.95, "easy"), (0.46, 0.5, "ambiguous"), (0.09, 0.05, "hard")):
        axes.text(x, y, name, size=TEXT, weight="bold", color=INK, ha="center", va="center", bbox=box)
    canvas.colour_bar(
        shown, (MARGIN + 56 + SIDE + 14, 8, SIDE), "correctness (share of correct predictions)", [0.0, 0.5, 1.0]
    )


def _draw_corner(canvas: Canvas, corner: Corner, place: tuple[float, float]) -> None:
    """Draw a heading and the thumbnails in one picture, with captions below."""
    left, top = place
    canvas.text(left, top + 4, corner.name, weight="bold", va="top")
    count, side, _, channels = corner.thumbnails.shape
    if not count:
        canvas.text(left, top + 26, "no images", color=PALE, va="top", size=SMALL)
        return
    for number, (thumbnail, lines) in enumerate(zip(corner.thumbnails, corner.captions, strict=True)):
        x = left + number * (TILE + GAP)
        axes = canvas.axes(x, top + 24, TILE, TILE)
        picture = thumbnail if channels == 3 else thumbnail[..., 0]
        smoothing = "nearest" if side <= TILE else "auto"
        axes.imshow(picture, cmap=colormaps["gray"], norm=Normalize(0, 255), interpolation=smoothing, aspect="auto")
        for line, text in enumerate(lines):
            style = {"size": SMALL, "ha": "center", "va": "top", "color": INK if line == 0 else PALE}
            canvas.text(x + TILE / 2, top + 24 + TILE + 4 + 13 * line, _fitting(text), **style)


def _fitting(text: str) -> str:
    """Shorten a caption to the width of a thumbnail."""
    for length in range(len(text), 2, -1):
        if text_width(shorten(text, length), SMALL, DOTS_PER_INCH) <= TILE + GAP - 2:
            return shorten(text, length)
    return shorten(text, 2)
