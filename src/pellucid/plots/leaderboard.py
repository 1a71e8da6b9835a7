"""Leaderboard of explanation methods: a table of methods by metrics, and the selectivity curves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pellucid.plots._canvas import DOTS_PER_INCH, MARGIN, SMALL, TEXT, Canvas
from pellucid.plots._text import shorten, text_width
from pellucid.plots.colours import INK, PALE

__all__ = ["Cell", "Column", "Curves", "Line", "leaderboard", "number_text", "positions"]

ROW_DOTS = 33
HEAD_DOTS = 62
CELL_DOTS = 116
GAP_DOTS = 12
"""Gap between the methods and the controls."""
CURVES_DOTS = 330
LEGEND_COLUMNS_DOTS = 250
DETAIL = 6.8
"""Font size in points of the options, notes and intervals."""
FADED = "#9aa2ad"
"""Color of values that are no better than a control."""
RULE = "#d7dbe0"
BAND = "#cfe3d6"
"""Color of the bars."""
BEST_BAND = "#8fc3a3"
"""Color of the best method's bar."""


@dataclass(frozen=True)
class Cell:
    """A mean with its confidence interval and its standing in the column; NaN if not measured."""

    value: float = np.nan
    low: float = np.nan
    high: float = np.nan
    is_best: bool = False
    is_tied: bool = False
    """True if not significantly different from the best."""
    is_beaten: bool = False
    """True if worse than a control."""
    is_trivial: bool = False
    """True for a control that wins by construction."""


@dataclass(frozen=True)
class Column:
    """A metric with its values."""

    name: str
    is_higher_better: bool
    cells: Sequence[Cell]
    """One cell per method."""


@dataclass(frozen=True)
class Curves:
    """Score as a function of the fraction of patches removed; the best method comes first."""

    by_method: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)
    """Arrays `share`, `most` and `least` of each method: fraction removed, and score with the most and the least
    relevant patches removed first."""
    meaning: str = "score"
    """Label of the vertical axis."""


@dataclass(frozen=True)
class Line:
    """A row of the table."""

    method: str
    """Name, followed by options in parentheses if they are not the default ones."""
    note: str = ""
    """Remark of a few words, shown below the name."""


def leaderboard(
    lines: Sequence[Line], columns: Sequence[Column], controls: int, curves: Curves | None, headline: tuple[str, str]
) -> Figure:
    """Draw a table of methods by metrics, with the last `controls` of them below a line, and the curves.

    The best value of a column is bold on a darker bar; ≈ marks values not significantly different from it; gray marks
    values worse than a control. The length of a bar shows the value's position between the worst and the best of its
    column.

    >>> cells = [Cell(0.5, 0.4, 0.6, is_best=True), Cell(1.0, 0.9, 1.1)]
    >>> lines = [Line("gradient"), Line("random")]
    >>> figure = leaderboard(lines, [Column("selectivity", False, cells)], 1, None, ("title", "subtitle"))
    >>> any(text.get_text() == "0.500" and text.get_weight() == "bold" for text in figure.texts)
    True
    """
    methods = [line.method for line in lines]
    names = [shorten(line.method, 44).partition("(")[0] for line in lines]
    details = [_detail(line) for line in lines]
    widths = [text_width(name, TEXT, DOTS_PER_INCH, bold=True) for name in names]
    widths += [text_width(detail, DETAIL, DOTS_PER_INCH) for detail in details]
    left = MARGIN + max(widths) + 18
    table = HEAD_DOTS + ROW_DOTS * len(names) + (GAP_DOTS if controls else 0)
    width = max(left + CELL_DOTS * len(columns) + MARGIN, 760 if curves else 480)
    below = CURVES_DOTS + 34 if curves else 0
    canvas = Canvas(width, table + below + MARGIN, *headline)
    axes = canvas.axes(0, 0, width, table)
    axes.set_xlim(0, width)
    # in dots from the top, like the canvas, so that bars and text share coordinates
    axes.set_ylim(table, 0)
    tops = [HEAD_DOTS + ROW_DOTS * row + (GAP_DOTS if row >= len(names) - controls else 0) for row in range(len(names))]
    _draw_names(canvas, list(zip(names, details, strict=True)), tops, left, len(names) - controls)
    for number, column in enumerate(columns):
        _draw_column(canvas, axes, column, tops, left + CELL_DOTS * number)
    right = left + CELL_DOTS * len(columns)
    _rule(axes, HEAD_DOTS - 5, right, INK)
    if controls:
        _rule(axes, tops[len(names) - controls] - GAP_DOTS / 2, right, INK)
    if curves:
        _draw_curves(canvas, curves, table + 26, width, set(methods[len(methods) - controls :]) if controls else set())
    return canvas.figure


def _rule(axes: Axes, y: float, right: float, colour: str) -> None:
    axes.plot([MARGIN, right], [y, y], color=colour, linewidth=0.9)


def _detail(line: Line) -> str:
    """Return the small text below a method's name: its options and the note."""
    options = line.method.partition("(")[2].removesuffix(")").replace("=", " ")
    return shorten("; ".join(filter(None, (options, line.note))), 60)


def _draw_names(
    canvas: Canvas, names: Sequence[tuple[str, str]], tops: Sequence[float], left: float, controls_from: int
) -> None:
    for row, ((name, detail), top) in enumerate(zip(names, tops, strict=True)):
        is_control = row >= controls_from
        style = {"color": PALE, "style": "italic"} if is_control else {"weight": "bold"}
        middle = top + ROW_DOTS / 2 - (5 if detail else 0)
        canvas.text(left - 14, middle, name, ha="right", va="center", **style)
        if detail:
            canvas.text(left - 14, middle + 13, detail, ha="right", va="center", size=DETAIL, color=PALE)


def _draw_column(canvas: Canvas, axes: Axes, column: Column, tops: Sequence[float], left: float) -> None:
    middle = left + CELL_DOTS / 2
    name, _, options = column.name.partition("(")
    for line, part in enumerate(_halves(name)):
        canvas.text(middle, 14 + 15 * line, part, ha="center", va="center", weight="bold", size=SMALL + 1)
    canvas.text(
        middle,
        46,
        ("higher is better" if column.is_higher_better else "lower is better")
        + (f"; {options.removesuffix(')').replace('=', ' ')}" if options else ""),
        ha="center",
        va="center",
        size=SMALL - 1,
        color=PALE,
    )
    shares = positions([cell.value for cell in column.cells], column.is_higher_better)
    for cell, share, top in zip(column.cells, shares, tops, strict=True):
        y = top + ROW_DOTS / 2
        if np.isnan(cell.value):
            canvas.text(middle, y, "–", ha="center", va="center", color=FADED)
            continue
        colour = "#e9ebee" if cell.is_beaten or cell.is_trivial else (BEST_BAND if cell.is_best else BAND)
        # 6 dots are free on each side of a cell
        axes.barh(y, max(share, 0.0) * (CELL_DOTS - 12), height=ROW_DOTS - 5, left=left + 6, color=colour, linewidth=0)
        text = number_text(cell.value) + (" ≈" if cell.is_tied else "")
        ink = FADED if cell.is_beaten or cell.is_trivial else INK
        canvas.text(
            middle, y - 6, text, ha="center", va="center", color=ink, weight="bold" if cell.is_best else "normal"
        )
        spread = f"{number_text(cell.low)} … {number_text(cell.high)}"
        canvas.text(middle, y + 8, spread, ha="center", va="center", color=FADED if ink == FADED else PALE, size=DETAIL)


def positions(values: Sequence[float], is_higher_better: bool) -> list[float]:
    """Return each value's position between the column's worst (0) and best (1); NaN stays NaN.

    >>> positions([2.0, 3.0, 4.0], is_higher_better=False)
    [1.0, 0.5, 0.0]
    """
    array = np.array(values, float)
    finite = array[np.isfinite(array)]
    if not finite.size or finite.max() == finite.min():
        return [0.0] * len(array)
    # relative to the column, because the metrics have different ranges and some have none
    shares = (array - finite.min()) / (finite.max() - finite.min())
    return [float(share) for share in (shares if is_higher_better else 1 - shares)]


def _halves(name: str) -> list[str]:
    """Split a metric's name into two lines; the first is empty for a short name.

    >>> _halves("parameter_randomisation"), _halves("sparseness")
    (['parameter', 'randomisation'], ['', 'sparseness'])
    """
    name = shorten(name, 34)
    head, _, tail = name.partition("_")
    return [head, tail.replace("_", " ")] if tail and len(name) > 13 else ["", name.replace("_", " ")]


def number_text(value: float) -> str:
    """Format a number with about three significant digits.

    >>> number_text(0.5), number_text(12.345), number_text(-0.00004), number_text(-2500)
    ('0.500', '12.3', '−0.000', '−2.5e+03')
    """
    digits = 3 if abs(value) < 10 else 1
    return (f"{value:.2g}" if abs(value) >= 1000 else f"{value:.{digits}f}").replace("-", "−")


def _draw_curves(canvas: Canvas, curves: Curves, top: float, width: float, controls: set[str]) -> None:
    """Draw two panels, for the most and the least relevant patches removed first, with one legend."""
    legend = LEGEND_COLUMNS_DOTS
    # 62 dots beside each panel: 50 for its tick labels, 12 as a gap
    across = (width - 2 * MARGIN - legend - 2 * 62) / 2
    styles = _styles(list(curves.by_method), controls)
    panels = []
    for number, (part, title) in enumerate((("most", "most relevant first"), ("least", "least relevant first"))):
        axes = canvas.axes(MARGIN + 50 + number * (across + 62), top + 18, across, CURVES_DOTS - 50)
        axes.set_axis_on()
        for name, lines in curves.by_method.items():
            axes.plot(lines["share"], lines[part], label=shorten(name.partition("(")[0], 34), **styles[name])
        axes.set_xlim(0, 1)
        axes.axhline(0, color=RULE, linewidth=0.8, zorder=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=SMALL, labelcolor=INK, color=PALE, length=3)
        axes.set_xlabel("fraction of patches removed", size=SMALL, color=INK)
        axes.set_title(f"Selectivity: {title}", size=TEXT, color=INK, loc="left", weight="bold")
        panels.append(axes)
    panels[0].set_ylabel(curves.meaning, size=SMALL, color=INK)
    lows, highs = zip(*(axes.get_ylim() for axes in panels), strict=True)
    for axes in panels:
        axes.set_ylim(min(lows), max(highs))  # one scale, so that the panels can be compared
    handles, labels = panels[0].get_legend_handles_labels()
    box = canvas.axes(width - MARGIN - legend + 10, top + 10, legend - 10, CURVES_DOTS - 20)
    box.legend(
        handles,
        labels,
        loc="upper left",
        fontsize=SMALL - 0.5,
        frameon=False,
        title="steepest first",
        title_fontsize=SMALL,
    )


def _styles(names: Sequence[str], controls: set[str]) -> dict[str, dict[str, Any]]:
    """Return the line style of each method: colors for methods, gray dashes for controls."""
    own = [name for name in names if name not in controls]
    styles = {name: {"color": colour, "linewidth": 1.6} for name, colour in zip(own, _colours(len(own)), strict=False)}
    dashes = zip(sorted(controls), cycle(("-", "--", ":", "-.")), strict=False)
    return {**styles, **{name: {"color": FADED, "linewidth": 1.1, "linestyle": dash} for name, dash in dashes}}


def _colours(count: int) -> np.ndarray:
    """Return colors (curve, 3) from dark violet to red, so that methods of similar rank get similar colors."""
    from matplotlib import colormaps

    return np.asarray(colormaps["turbo"](np.linspace(0.05, 0.92, max(count, 1))))[:, :3]
