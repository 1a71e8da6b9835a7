"""Forest plot of the error rates of slices, with the images at the centers of clusters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from pellucid.plots._canvas import DOTS_PER_INCH, MARGIN, SMALL, TEXT, Canvas
from pellucid.plots._text import shorten, text_width
from pellucid.plots.colours import INK, PALE, WRONG, gray_or_rgb

__all__ = ["MOST_ROWS", "Strip", "slices_figure"]

MOST_ROWS = 30
"""Maximum number of slices in the figure."""
BETTER = "#1f6f8b"
"""Color of slices with significantly fewer errors than the rest."""
COLOURS = {"worse": WRONG, "better": BETTER, "": INK}
ROW_DOTS = 24
CHART_DOTS = 400
TEXT_DOTS = 150
"""Width of the error rate and its interval, next to the chart."""
COUNT_DOTS = 112
AXIS_DOTS = 46
TILE_DOTS = 56
RULE = "#d7dbe0"
TICK_DOTS = 36
"""Minimum distance between labels of the axis."""
TICKS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Error rates that can be labeled on the axis."""
GAP_DOTS = 4
"""Gap between the images of a strip."""


@dataclass(frozen=True)
class Strip:
    """A row of images below the chart."""

    name: str
    detail: str
    images: np.ndarray
    """(image, channel, height, width) in [0, 1]."""


def slices_figure(record: Mapping[str, Any], title: str, strips: Sequence[Strip] = ()) -> Figure:
    """Draw the worst slices of a record of `Slices.to_dict`, one row each, and rows of images below.

    The whiskers are the intervals, the dashed line is the error rate of all images.

    >>> row = {"column": "site", "value": "A", "images": 40, "errors": 4, "error_rate": 0.1, "low": 0.02, "high": 0.3}
    >>> record = {"slices": [row | {"verdict": ""}], "error_rate": 0.1, "confidence": 0.95, "looks": 1, "images": 80}
    >>> figure = slices_figure(record, "Slices")
    >>> any("site = A" in text.get_text() for text in figure.texts)
    True
    """
    rows = record["slices"][:MOST_ROWS]
    names = [shorten(f"{shorten(row['column'], 24)} = {row['value']}", 46) for row in rows]
    widest = max((text_width(name, TEXT, DOTS_PER_INCH, bold=True) for name in names), default=0)
    left = MARGIN + max(widest, 120) + COUNT_DOTS
    width = left + CHART_DOTS + TEXT_DOTS + MARGIN
    chart = ROW_DOTS * len(rows)
    below = sum(_strip_height(strip) for strip in strips) + (16.0 if strips else 0.0)
    canvas = Canvas(width, 22 + chart + AXIS_DOTS + below + MARGIN, title, _subtitle(record, len(rows)))
    _draw_texts(canvas, rows, names, left)
    _draw_intervals(canvas.axes(left, 22, CHART_DOTS, chart), rows, record["error_rate"])
    y = 22.0 + chart + AXIS_DOTS + 16
    for strip in strips:
        _draw_strip(canvas, strip, y, width)
        y += _strip_height(strip)
    return canvas.figure


def _subtitle(record: Mapping[str, Any], shown: int) -> str:
    looks = record["looks"]
    of = f" Shows the {shown} worst slices." if shown < looks else ""
    return (
        f"Error rate of each slice, with {record['confidence']:.0%} intervals that hold for all {looks} slices at once "
        f"(Clopper–Pearson, Bonferroni). Dashed: all {record['images']:,} images, {record['error_rate']:.2%}. Orange: "
        f"significantly more errors than the rest; blue: fewer (Fisher's exact test, Holm).{of}"
    )


def _draw_texts(canvas: Canvas, rows: Sequence[Mapping[str, Any]], names: Sequence[str], left: float) -> None:
    heading = {"size": SMALL, "color": PALE, "va": "center"}
    canvas.text(left - COUNT_DOTS, 8, "slice", ha="right", **heading)
    canvas.text(left - 12, 8, "errors / images", ha="right", **heading)
    canvas.text(left + CHART_DOTS + 16, 8, "error rate, interval", **heading)
    for number, (row, name) in enumerate(zip(rows, names, strict=True)):
        y, colour = 22 + ROW_DOTS * (number + 0.5), COLOURS[row["verdict"]]
        weight = "bold" if row["verdict"] == "worse" else "normal"
        canvas.text(left - COUNT_DOTS, y, name, ha="right", va="center", color=colour, weight=weight)
        counts = f"{row['errors']:,} / {row['images']:,}"
        canvas.text(left - 12, y, counts, ha="right", va="center", size=SMALL, color=PALE)
        rate = f"{row['error_rate']:.2%}  ({row['low']:.1%} … {row['high']:.1%})"
        canvas.text(left + CHART_DOTS + 16, y, rate, va="center", size=SMALL, color=colour)


def _draw_intervals(axes: Axes, rows: Sequence[Mapping[str, Any]], overall: float) -> None:
    axes.set_axis_on()
    axes.set_ylim(len(rows) - 0.5, -0.5)
    highest = min(1.0, max(1.04 * max((row["high"] for row in rows), default=0), overall, 1e-3))
    # a square root makes room for the narrow intervals of large slices beside the wide ones of small slices
    axes.set_xscale("function", functions=(_root, np.square))
    axes.set_xlim(0, highest)
    axes.axvline(overall, color=PALE, linewidth=1.1, linestyle=(0, (4, 3)), zorder=1)
    for number, row in enumerate(rows):
        colour = COLOURS[row["verdict"]]
        axes.plot([row["low"], row["high"]], [number, number], color=colour, linewidth=1.6, solid_capstyle="butt")
        axes.plot([row["error_rate"]], [number], "o", color=colour, markersize=5, clip_on=False, zorder=3)
    axes.set_yticks([])
    ticks = [0.0]
    for tick in TICKS:
        if tick <= highest and (np.sqrt(tick) - np.sqrt(ticks[-1])) / np.sqrt(highest) * CHART_DOTS >= TICK_DOTS:
            ticks.append(tick)
    axes.set_xticks(ticks, [f"{100 * tick:.3g}%" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.grid(axis="x", color=RULE, linewidth=0.7, zorder=0)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(PALE)
    axes.tick_params(labelsize=SMALL, labelcolor=INK, color=PALE, length=3)
    axes.set_xlabel("error rate (square-root scale)", size=SMALL, color=INK)


def _tile_size(strip: Strip) -> tuple[float, float]:
    """Return the height and width of an image in dots; small images are enlarged by whole numbers."""
    height, width = strip.images.shape[-2:]
    share = TILE_DOTS / max(height, width)
    zoom = float(int(share)) if share >= 1 else share
    return height * zoom, width * zoom


def _strip_height(strip: Strip) -> float:
    return _tile_size(strip)[0] + 34


def _draw_strip(canvas: Canvas, strip: Strip, y: float, width: float) -> None:
    height, across = _tile_size(strip)
    canvas.text(MARGIN, y + 4, shorten(strip.name, 40), weight="bold", va="center")
    offset = text_width(shorten(strip.name, 40), TEXT, DOTS_PER_INCH, bold=True) + 12
    room = int((width - 2 * MARGIN - offset) / 6)
    canvas.text(MARGIN + offset, y + 4, shorten(strip.detail, max(8, room)), size=SMALL, color=PALE, va="center")
    count = min(len(strip.images), int((width - 2 * MARGIN) // (across + GAP_DOTS)))
    if not count:
        return
    shown = gray_or_rgb(strip.images[:count])
    # one picture, because axes take long to create
    gap = max(1, round(GAP_DOTS * shown.shape[3] / across))
    padded = np.pad(shown, [(0, 0), (0, 0), (0, 0), (0, gap)], constant_values=1.0)
    joined = np.concatenate(list(padded.clip(0, 1)), axis=2)[:, :, :-gap]
    picture = joined[0] if len(joined) == 1 else joined.transpose(1, 2, 0)
    dots = across / shown.shape[3]
    axes = canvas.axes(MARGIN, y + 16, joined.shape[2] * dots, height)
    smoothing = "nearest" if dots >= 1 else "auto"
    axes.imshow(picture, cmap=colormaps["gray"], norm=Normalize(0, 1), interpolation=smoothing, aspect="auto")


def _root(values: np.ndarray) -> np.ndarray:
    """Return square roots; matplotlib also asks for those of small negative numbers."""
    return np.sqrt(np.maximum(values, 0))
