"""Out-of-distribution detection: a table of AUROC by score and set of images, above the histograms of one score."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from pellucid.core.errors import ShapeError
from pellucid.plots._canvas import BAR_DOTS, DOTS_PER_INCH, MARGIN, SMALL, TEXT, Canvas
from pellucid.plots._text import shorten, text_width, wrap
from pellucid.plots.colours import INK, PALE, gray_or_rgb
from pellucid.plots.labels import Label, draw_row_label, label_width, shortened

__all__ = ["Column", "histogram_edges", "out_of_distribution"]

CELL_DOTS = 138
ROW_DOTS = 58
EXAMPLE_DOTS = 84
NAME_DOTS = 22
DETAIL_DOTS = 13
"""Height of a line of a column's description."""
HISTOGRAM_DOTS = 120
GAP_DOTS = 10
BINS = 30
TAIL = 0.005
"""Share of the values of each sample beyond either end of the histograms; the last bins count them."""
LOGARITHMIC = 100.0
"""Ratio of the ends of the histograms above which their axis is logarithmic."""
INSIDE, OUTSIDE = "#a8b0bb", "#c2410c"
PALETTE = "RdBu"
"""Red below chance, white at an AUROC of 0.5, and blue for perfect separation."""


@dataclass(frozen=True, eq=False)
class Column:
    """A set of out-of-distribution images: the quality of each score, and the values of the drawn one."""

    name: str
    cells: Sequence[tuple[float, float, float, float]]
    """AUROC, the ends of its interval, and FPR, for each score."""
    values: np.ndarray
    """Values of the score whose histograms are drawn."""
    detail: str = ""
    """Description below the name."""
    example: np.ndarray | None = None
    """An image of the set, (channel, height, width) in [0, 1]."""


def out_of_distribution(
    rows: Sequence[Label], columns: Sequence[Column], inside: tuple[str, np.ndarray], headline: tuple[str, str]
) -> Figure:
    """Draw a table of scores (rows) by sets of images (columns), and a histogram of one score below each column.

    Cells show AUROC with its interval and FPR. `inside` is the name of the score in the histograms and its values for
    the in-distribution images, in gray in each of them. Raises `ShapeError` if a column has not one cell per row.

    >>> columns = [Column("noise", [(0.9, 0.85, 0.93, 0.4)], np.arange(9.0))]
    >>> figure = out_of_distribution([Label("energy")], columns, ("energy", np.arange(9.0) - 5), ("title", "subtitle"))
    >>> any(text.get_text() == "0.900" for text in figure.texts)
    True
    """
    if wrong := [column.name for column in columns if len(column.cells) != len(rows)]:
        raise ShapeError(f"Expected {len(rows)} cells in the columns {', '.join(wrong)}. Pass one per row.")
    rows = shortened(rows)
    details = [wrap(shorten(one.detail, 90), CELL_DOTS - 12, SMALL - 1, DOTS_PER_INCH) for one in columns]
    lines = max(map(len, details), default=0)
    examples = [_example_size(column.example)[0] for column in columns if column.example is not None]
    head = NAME_DOTS + lines * DETAIL_DOTS + (ceil(max(examples)) + GAP_DOTS if examples else 0) + GAP_DOTS
    left = MARGIN + max(60, *map(label_width, rows), ceil(text_width("test images", SMALL, DOTS_PER_INCH)) + 18) + 12
    table = head + ROW_DOTS * len(rows)
    right = left + CELL_DOTS * len(columns)
    canvas = Canvas(max(right + BAR_DOTS + MARGIN, 560), table + HISTOGRAM_DOTS + 84, *headline)
    for number, (column, lined) in enumerate(zip(columns, details, strict=True)):
        _draw_head(canvas, column, lined, (left + CELL_DOTS * number, head - GAP_DOTS))
    _draw_cells(canvas, columns, (left, head))
    for row, label in enumerate(rows):
        draw_row_label(canvas, label, left - 12, head + ROW_DOTS * (row + 0.5))
    _draw_histograms(canvas, columns, inside, (left, table + 18))
    return canvas.figure


def _draw_head(canvas: Canvas, column: Column, details: Sequence[str], place: tuple[float, float]) -> None:
    """Draw name, description and example of a column, its bottom left corner at `place`."""
    x, bottom = place
    middle = x + CELL_DOTS / 2
    canvas.text(middle, 8, shorten(column.name, 17), ha="center", va="center", weight="bold")
    for line, text in enumerate(details):
        y = NAME_DOTS + DETAIL_DOTS * line
        canvas.text(middle, y, text, ha="center", va="center", size=SMALL - 1, color=PALE)
    if column.example is None:
        return
    image = gray_or_rgb(column.example)
    height, width = _example_size(image)
    axes = canvas.axes(middle - width / 2, bottom - height, width, height)
    shown = image[0] if len(image) == 1 else np.clip(image, 0, 1).transpose(1, 2, 0)
    smoothing = "nearest" if height >= image.shape[-2] else "auto"
    axes.imshow(shown, cmap=colormaps["gray"], norm=Normalize(0, 1), interpolation=smoothing, aspect="auto")


def _example_size(image: np.ndarray) -> tuple[float, float]:
    """Return the height and width of an example in dots."""
    height, width = image.shape[-2:]
    zoom = EXAMPLE_DOTS / max(height, width)
    # whole dots per pixel, so that all pixels of a small image are equal squares
    zoom = int(zoom) if zoom >= 3 else zoom
    return height * zoom, width * zoom


def _draw_cells(canvas: Canvas, columns: Sequence[Column], place: tuple[float, float]) -> None:
    x, y = place
    values = np.array([[cell[0] for cell in column.cells] for column in columns]).T
    width, height = CELL_DOTS * len(columns), ROW_DOTS * len(values)
    axes = canvas.axes(x, y, width, height)
    axes.imshow(values, cmap=colormaps[PALETTE], norm=Normalize(0, 1), interpolation="nearest", aspect="auto")
    for lines, ends, across in ((axes.hlines, values.shape[1], len(values)), (axes.vlines, len(values), len(columns))):
        lines(np.arange(1, across) - 0.5, -0.5, ends - 0.5, colors="white", linewidths=2)
    scale = ScalarMappable(Normalize(0, 1), colormaps[PALETTE])
    scale.set_array(values)
    canvas.colour_bar(scale, (x + width + MARGIN, y, height), "AUROC", [0.0, 0.5, 1.0])
    for number, column in enumerate(columns):
        for row, (auroc, low, high, fpr) in enumerate(column.cells):
            # the ends of the palette are dark
            ink = "white" if abs(auroc - 0.5) > 0.33 else INK
            middle, center = x + CELL_DOTS * (number + 0.5), y + ROW_DOTS * (row + 0.5)
            style = {"ha": "center", "va": "center", "color": ink}
            canvas.text(middle, center - 14, _area(auroc), weight="bold", **style)
            canvas.text(middle, center + 3, f"{_area(low)} … {_area(high)}", size=SMALL - 1, **style)
            canvas.text(middle, center + 17, f"FPR {fpr:.1%}", size=SMALL - 1, **style)


def _area(value: float) -> str:
    """Format an area with three digits, or four if it would be rounded to 1.

    >>> _area(0.5), _area(0.9996), _area(0.99999), _area(1.0)
    ('0.500', '0.9996', '0.9999', '1.000')
    """
    return f"{value:.3f}" if value == 1 or value < 0.9995 else f"{min(value, 0.9999):.4f}"


def histogram_edges(samples: Sequence[np.ndarray], bins: int = BINS) -> tuple[np.ndarray, bool]:
    """Return the edges of the bins that several samples share, and True if they are spaced logarithmically.

    Half a percent of each sample may lie beyond either end.

    >>> edges, is_logarithmic = histogram_edges([np.arange(1.0, 101.0), np.arange(1.0, 101.0) * 1000])
    >>> bool(edges[0] < 2), bool(edges[-1] > 90_000), is_logarithmic
    (True, True, True)
    """
    low = min(float(np.quantile(values, TAIL)) for values in samples)
    high = max(float(np.quantile(values, 1 - TAIL)) for values in samples)
    if low > 0 and high / low > LOGARITHMIC:
        return np.geomspace(low, high, bins + 1), True
    room = max(high - low, 1e-6 * abs(high), 1e-12)  # a positive range even if all values are equal
    return np.linspace(low, low + room, bins + 1), False


def _draw_histograms(
    canvas: Canvas, columns: Sequence[Column], inside: tuple[str, np.ndarray], place: tuple[float, float]
) -> None:
    name, known = inside
    x, y = place
    edges, is_logarithmic = histogram_edges([known, *(column.values for column in columns)])
    shares = [_shares(values, edges) for values in (known, *(column.values for column in columns))]
    top = 1.05 * max(float(one.max()) for one in shares)
    panels: list[Axes] = []
    for number in range(len(columns)):
        axes = canvas.axes(x + CELL_DOTS * number + 6, y, CELL_DOTS - 12, HISTOGRAM_DOTS)
        axes.set_axis_on()
        axes.stairs(shares[0], edges, fill=True, color=INSIDE)
        axes.stairs(shares[number + 1], edges, color=OUTSIDE, linewidth=1.4)
        axes.set_xscale("log" if is_logarithmic else "linear")
        axes.set_xlim(edges[0], edges[-1])
        axes.set_ylim(0, top)
        axes.set_yticks([])
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(labelsize=SMALL - 1, labelcolor=INK, color=PALE, length=3)
        if is_logarithmic:
            axes.minorticks_off()
            axes.set_xticks(_powers(edges))
        else:
            axes.locator_params(axis="x", nbins=3)
        panels.append(axes)
    right = x - 12
    canvas.text(right, y + 12, "test images", size=SMALL, color="#5b6470", ha="right", va="center", weight="bold")
    canvas.text(right, y + 28, "other images", size=SMALL, color=OUTSIDE, ha="right", va="center", weight="bold")
    canvas.text(right, y + HISTOGRAM_DOTS - 6, "share of images", size=SMALL, color=PALE, ha="right", va="center")
    under = x + CELL_DOTS * len(columns) / 2
    meaning = f"{name}: higher is less like the training images"
    canvas.text(under, y + HISTOGRAM_DOTS + 42, meaning, size=TEXT, color=INK, ha="center", va="center")


def _shares(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    # values beyond the ends count in the last bins
    return np.histogram(values.clip(edges[0], edges[-1]), bins=edges)[0] / len(values)


def _powers(edges: np.ndarray) -> np.ndarray:
    """Return at most three powers of ten within the edges, evenly spaced."""
    first, last = ceil(np.log10(edges[0])), int(np.floor(np.log10(edges[-1])))
    step = max(1, ceil((last - first + 1) / 3))
    return 10.0 ** np.arange(first, last + 1, step)
