"""The most relevant values of an input without positions, as bars."""

from math import log10

import numpy as np

from pellucid.plots._canvas import MARGIN, SMALL, TEXT, Canvas
from pellucid.plots._explained import INSIDE, Drawing, Explained
from pellucid.plots.colours import INK, PALE, signed_palette

__all__ = ["VALUES"]

MOST = 16
"""Maximum number of values."""
LINE_DOTS = 20
"""Height of a bar with its gap, in dots."""
NAME_DOTS = 190
"""Width of the names in dots."""
NUMBER_DOTS = 70
"""Width reserved for the numbers at the ends of the bars, in dots."""


def _height(row: Explained) -> float:
    is_cut = len(row.values) > MOST
    return min(len(row.values), MOST) * LINE_DOTS + LINE_DOTS * (1 + is_cut)


def _draw(canvas: Canvas, row: Explained, top: float) -> None:
    size = np.abs(np.nan_to_num(row.relevance))
    chosen = sorted(np.argsort(-size, kind="stable")[:MOST].tolist())
    limit = float(size.max()) or 1.0
    room = INSIDE - NAME_DOTS - 2 * NUMBER_DOTS
    axes = canvas.axes(MARGIN + NAME_DOTS, top, room + 2 * NUMBER_DOTS, len(chosen) * LINE_DOTS)
    reach = limit * (room + 2 * NUMBER_DOTS) / room
    axes.set_xlim(-reach, reach)
    axes.set_ylim(len(chosen) - 0.5, -0.5)
    relevance = row.relevance[chosen]
    against, before = signed_palette()(0.08), signed_palette()(0.92)
    axes.barh(range(len(chosen)), relevance, 0.72, color=[before if one > 0 else against for one in relevance])
    axes.axvline(0, color=PALE, linewidth=0.8)
    digits = len(str(len(row.values) - 1))
    for line, index in enumerate(chosen):
        name = f"value {index:>{digits}} = {row.values[index]:.4g}"
        canvas.text(MARGIN + NAME_DOTS - 8, top + (line + 0.5) * LINE_DOTS, name, size=TEXT, ha="right", va="center")
        own = float(row.relevance[index])
        axes.annotate(
            _signed(own, _decimals(limit)), (own, line), (4 if own >= 0 else -4, 0), textcoords="offset points",
            ha="left" if own >= 0 else "right", va="center", size=SMALL, color=INK,
        )  # fmt: skip
    y = top + len(chosen) * LINE_DOTS + 4
    canvas.text(
        MARGIN + NAME_DOTS + room / 2 + NUMBER_DOTS, y, row.meaning, size=SMALL, color=PALE, ha="center", va="top"
    )
    if len(row.values) > MOST:
        rest = float(np.nansum(row.relevance)) - float(np.nansum(relevance))
        text = f"The {MOST} most relevant of {len(row.values)} values; the others sum to {rest:.4g}."
        canvas.text(MARGIN, y + LINE_DOTS, text, size=SMALL, color=PALE, va="top")


def _signed(value: float, decimals: int) -> str:
    text = f"{value:+.{decimals}f}"
    return "0" if float(text) == 0 else text  # no sign, as in −0.00


def _decimals(limit: float) -> int:
    """Return the number of decimals that show three significant digits of the longest bar."""
    return min(12, max(0, 2 - int(np.floor(log10(limit)))))


VALUES = Drawing(_height, _draw)
"""Bars of a feature vector and its relevance."""
