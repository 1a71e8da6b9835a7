"""Statistics of layers, one row each: activations, lost units, effective rank, gradients, and similarity."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from pellucid.plots._canvas import BAR_DOTS, DOTS_PER_INCH, MARGIN, SMALL, TEXT, Canvas
from pellucid.plots._text import text_width
from pellucid.plots.colours import INK, PALE, WRONG

__all__ = ["MOST_ROWS", "layers_figure"]

MOST_ROWS = 40
"""Maximum number of layers in the figure, spread evenly over the depth."""
ROW_DOTS, AXIS_DOTS, HEAD_DOTS, GAP_DOTS = 24, 44, 24, 40
PANEL_DOTS = (210, 150, 150, 170)
LONGEST_TITLE = 42
SATURATED = "#6a58a3"
RANK, PALE_RANK = "#2f6f9f", "#a9c1d8"
RULE = "#d7dbe0"
CELL_DOTS = (10, 26)
"""Smallest and largest side of a cell of the matrix."""

Row = Mapping[str, Any]


def layers_figure(
    record: Mapping[str, Any],
    title: str,
    summary: str = "",
    similarity: tuple[Sequence[str], np.ndarray] | None = None,
) -> Figure:
    """Draw a record of `LayerStatistics.to_dict`, from the input (top) to the output.

    `similarity` are titles of layers, and the CKA (layer, layer) of each pair, NaN where it is undefined.

    >>> row = {"title": "0 (ReLU)", "is_activation": True, "units": 8, "dead": 2, "saturated": None, "rank_bound": 8}
    >>> row |= {"effective_rank": 3.5, "gradient_norm": 0.1, "quantiles": [0, 0, 0, 1, 2], "minimum": 0, "maximum": 2}
    >>> figure = layers_figure({"layers": [row], "images": 100, "active_bound": 0.03}, "Layers")
    >>> any("2 of 8" in text.get_text() for axes in figure.axes for text in axes.texts)
    True
    """
    rows = _shown(record["layers"])
    titles = [_cut(row["title"]) for row in rows]
    widest = max((text_width(name, TEXT, DOTS_PER_INCH, bold=True) for name in titles), default=0)
    left = MARGIN + max(widest, 80) + 12
    height = ROW_DOTS * len(rows)
    count = 0 if similarity is None else len(similarity[0])
    cell = min(max(height / count, CELL_DOTS[0]), CELL_DOTS[1]) if count else 0.0
    names = [] if similarity is None else [_cut(name) for name in similarity[0]]
    named = max((text_width(name, SMALL, DOTS_PER_INCH) for name in names), default=0)
    width = left + sum(PANEL_DOTS) + len(PANEL_DOTS) * GAP_DOTS
    width += named + 12 + cell * count + BAR_DOTS if count else 0
    canvas = Canvas(
        width + MARGIN,
        HEAD_DOTS + max(height, cell * count + 6) + AXIS_DOTS,
        title,
        _subtitle(record, len(rows), summary),
    )
    for number, (name, row) in enumerate(zip(titles, rows, strict=True)):
        y = HEAD_DOTS + ROW_DOTS * (number + 0.5)
        weight = "normal" if row["is_activation"] else "bold"
        canvas.text(left - 12, y, name, ha="right", va="center", weight=weight)
    x = left
    for (heading, draw), across in zip(PANELS, PANEL_DOTS, strict=True):
        canvas.text(x, 8, heading, size=SMALL, color=PALE, va="center")
        _prepare(axes := canvas.axes(x, HEAD_DOTS, across, height), len(rows))
        draw(axes, rows)
        x += across + GAP_DOTS
    if similarity is not None and count:
        _draw_similarity(canvas, (x, named, cell), names, similarity[1])
    return canvas.figure


def _shown(rows: Sequence[Row]) -> list[Row]:
    count = min(len(rows), MOST_ROWS)
    return [rows[round(n * (len(rows) - 1) / max(count - 1, 1))] for n in range(count)]


def _cut(name: str) -> str:
    """Shorten a name at its start, because the end of a path is more informative."""
    return name if len(name) <= LONGEST_TITLE else f"…{name[1 - LONGEST_TITLE :]}"


def _subtitle(record: Mapping[str, Any], shown: int, summary: str) -> str:
    of = f" Shows {shown} of {len(record['layers'])} layers." if shown < len(record["layers"]) else ""
    return (
        f"{summary + ' ' if summary else ''}{record['images']:,} images; bold: layers with weights, read before the "
        f"activation. A dead unit is zero for all images (95% confidence: active for fewer than "
        f"{record['active_bound']:.1%} of images).{of}"
    )


def _prepare(axes: Axes, count: int) -> None:
    axes.set_axis_on()
    axes.set_ylim(count - 0.5, -0.5)
    axes.set_yticks([])
    axes.grid(axis="x", color=RULE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(PALE)
    axes.tick_params(labelsize=SMALL, labelcolor=INK, color=PALE, length=3)


def _signed_root(values: Any) -> Any:
    return np.sign(values) * np.sqrt(np.abs(values))


def _signed_square(values: Any) -> Any:
    return np.sign(values) * np.square(values)


def _draw_activations(axes: Axes, rows: Sequence[Row]) -> None:
    """Draw the range from the 1% to the 99% quantile, the middle half and the median."""
    known = [(number, row["quantiles"]) for number, row in enumerate(rows) if None not in row["quantiles"]]
    limit = max((abs(value) for _, row in known for value in row), default=0.0) or 1.0
    axes.set_xscale("function", functions=(_signed_root, _signed_square))
    low = -limit if any(row[0] < 0 for _, row in known) else 0.0
    axes.set_xlim(1.06 * low, 1.06 * limit)
    axes.axvline(0, color=PALE, linewidth=1)
    for is_activation, colour in ((False, INK), (True, PALE)):
        own = [(number, row) for number, row in known if rows[number]["is_activation"] == is_activation]
        if own:
            places = [number for number, _ in own]
            first, lower, middle, upper, last = zip(*(row for _, row in own), strict=True)
            axes.hlines(places, first, last, color=colour, linewidth=1.1)
            axes.hlines(places, lower, upper, color=colour, linewidth=6, alpha=0.55)
            axes.plot(middle, places, "o", color=colour, markersize=4, clip_on=False)
    for number in set(range(len(rows))) - {number for number, _ in known}:
        axes.text(0, number, "NaN or infinite", size=SMALL, color=WRONG, va="center")
    step = float(f"{limit:.1g}")
    ticks = [-step, -step / 4, 0.0, step / 4, step] if low else [0.0, step / 4, step]
    axes.set_xticks(ticks, [f"{tick:.2g}" for tick in ticks])
    axes.set_xticks([], minor=True)


def _draw_lost(axes: Axes, rows: Sequence[Row]) -> None:
    """Draw the shares of dead and of saturated units of activations."""
    axes.set_xlim(0, 1)
    active = [(number, row) for number, row in enumerate(rows) if row["is_activation"]]
    shares = [[(row[name] or 0) / max(row["units"], 1) for _, row in active] for name in ("dead", "saturated")]
    places = np.array([number for number, _ in active], float)
    axes.barh(places - 0.18, shares[0], 0.3, color=WRONG)
    axes.barh(places + 0.18, shares[1], 0.3, color=SATURATED)
    for (number, row), share in zip(active, np.max(shares, axis=0, initial=0), strict=True):
        dead, saturated = row["dead"], row["saturated"]
        parts = [f"{dead:,} of {row['units']:,}"] if dead else []
        parts += [f"{saturated:,} sat."] if saturated else []
        place: dict[str, Any] = {"x": share + 0.03} if share < 0.5 else {"x": share - 0.03, "ha": "right"}
        text, colour = ", ".join(parts) or "0", (INK if share < 0.5 else "white") if parts else PALE
        axes.text(y=number, s=text, size=SMALL, color=colour, va="center", **place)
    axes.set_xticks([0, 0.5, 1], ["0%", "50%", "100%"])


def _draw_rank(axes: Axes, rows: Sequence[Row]) -> None:
    """Draw the effective rank as a share of its bound."""
    axes.set_xlim(0, 1)
    shares = [(row["effective_rank"] or 0) / max(row["rank_bound"], 1) for row in rows]
    colours = [RANK if not row["is_activation"] else PALE_RANK for row in rows]
    axes.barh(np.arange(len(rows)), shares, 0.62, color=colours)
    for number, (row, share) in enumerate(zip(rows, shares, strict=True)):
        rank, bound = row["effective_rank"], row["rank_bound"]
        text = "–" if rank is None else f"{rank:.1f} of {bound}"
        is_inside = share >= 0.5
        colour = "white" if is_inside and not row["is_activation"] else INK
        place: dict[str, Any] = {"x": share - 0.03, "ha": "right"} if is_inside else {"x": share + 0.03}
        axes.text(y=number, s=text, size=SMALL, color=colour, va="center", **place)
    axes.set_xticks([0, 0.5, 1], ["0%", "50%", "100%"])


def _draw_gradients(axes: Axes, rows: Sequence[Row]) -> None:
    """Draw the gradient norms on a logarithmic scale."""
    known = [(number, row["gradient_norm"]) for number, row in enumerate(rows) if row["gradient_norm"]]
    if not known:
        axes.set_xticks([])
        axes.text(0.5, 0.5, "no gradients", size=SMALL, color=PALE, ha="center", transform=axes.transAxes)
        return
    axes.set_xscale("log")
    values = [value for _, value in known]
    # whole decades around the values
    low, high = np.floor(np.log10(min(values))), np.ceil(np.log10(max(values)))
    high = max(high, low + 1)
    axes.set_xlim(10**low, 10**high)
    layers = [(number, value) for number, value in known if not rows[number]["is_activation"]]
    if layers:
        axes.plot([value for _, value in layers], [number for number, _ in layers], color=RULE, linewidth=1.4, zorder=1)
    for is_activation, face in ((False, INK), (True, "white")):
        own = [(value, number) for number, value in known if rows[number]["is_activation"] == is_activation]
        axes.plot(
            *np.array(own or np.zeros((0, 2))).T, "o", color=INK, markerfacecolor=face, markersize=5, clip_on=False
        )
    step = max(1, int(np.ceil((high - low) / 4)))
    ticks = [10.0**power for power in np.arange(low, high + 1, step)]
    axes.set_xticks(ticks, [f"{tick:g}" if 1e-3 <= tick <= 1e3 else f"1e{np.log10(tick):.0f}" for tick in ticks])
    axes.set_xticks([], minor=True)


PANELS: tuple[tuple[str, Callable[[Axes, Sequence[Row]], None]], ...] = (
    ("outputs: 1%–99%, middle half, median", _draw_activations),
    ("dead units (saturated)", _draw_lost),
    ("effective rank (of its bound)", _draw_rank),
    ("‖∂ loss / ∂ output‖ (log scale)", _draw_gradients),
)


def _draw_similarity(canvas: Canvas, place: tuple[float, float, float], names: Sequence[str], cka: np.ndarray) -> None:
    """Draw the matrix of similarities, with the names of its rows on the left."""
    x, named, cell = place
    side = cell * len(names)
    canvas.text(x, 8, "similarity of the layers' outputs (linear CKA)", size=SMALL, color=PALE, va="center")
    for number, name in enumerate(names):
        canvas.text(x + named, HEAD_DOTS + cell * (number + 0.5), name, size=SMALL, ha="right", va="center")
    left = x + named + 8
    axes = canvas.axes(left, HEAD_DOTS, side, side)
    palette = colormaps["viridis"].with_extremes(bad=RULE)
    # unbiased estimates can be slightly negative, which means 0
    axes.imshow(np.ma.masked_invalid(cka.clip(0, 1)), cmap=palette, norm=Normalize(0, 1), interpolation="nearest")
    if cell >= CELL_DOTS[1] - 4:
        for row, line in enumerate(cka):
            for column, value in enumerate(line):
                if np.isfinite(value):
                    colour = "black" if value > 0.55 else "white"
                    text = "1" if value > 0.995 else f"{max(value, 0):.2f}"[1:]
                    axes.text(column, row, text, size=SMALL - 1, color=colour, ha="center", va="center")
    shown = ScalarMappable(Normalize(0, 1), palette)
    shown.set_array(np.zeros(1))
    canvas.colour_bar(shown, (left + side + 14, HEAD_DOTS, max(side, 60)), "CKA", [0, 0.5, 1])
