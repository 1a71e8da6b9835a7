"""Flow of relevance: a bar for each junction of a network, divided among the branches that meet there."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pellucid.plots._canvas import DOTS_PER_INCH, MARGIN, SMALL, TEXT, Canvas
from pellucid.plots._text import shorten, text_width
from pellucid.plots.colours import INK, PALE

__all__ = ["flow_figure"]

LONGEST_NAME = 40
"""Maximum length of a junction's name; longer names are cut at the start, because the end is more informative."""
MOST_JUNCTIONS = 40
"""Maximum number of junctions in the figure, those nearest to the output."""
ROW_DOTS, CHART_DOTS, AXIS_DOTS, LABEL_DOTS = 30, 460, 40, 260
RULE = "#d7dbe0"
COLOURS = ("#2f6f9f", "#b8671f", "#5b7d3f", "#a0527f", "#6a58a3", "#2a8484", "#8a5a2b", "#4c5a9e")
SKIP = "#707a85"
"""Color of skip connections."""
LEAST_LABEL = 0.12
"""Smallest part of the axis that a branch must cover to hold its share as text."""


def flow_figure(junctions: Mapping[str, Sequence[tuple[str, float]]], title: str) -> Figure:
    """Draw the shares of the branches of each junction, from the input (top) to the output.

    Positive shares extend to the right of zero and negative ones to the left, so that the ends add up to the share that
    passes the junction.

    >>> figure = flow_figure({"block: add": [("conv2", 0.8), ("skip", 0.2)]}, "Flow of relevance")
    >>> [text.get_text() for text in figure.texts][-2:]
    ['conv2', 'skip']
    """
    shown = dict(list(junctions.items())[-MOST_JUNCTIONS:])
    names = [name if len(name) <= LONGEST_NAME else f"…{name[1 - LONGEST_NAME :]}" for name in shown]
    left = MARGIN + max(100, *(text_width(name, TEXT, DOTS_PER_INCH, bold=True) for name in names)) + 12
    chart, width = ROW_DOTS * len(shown), left + CHART_DOTS + LABEL_DOTS + MARGIN
    more = f" The {MOST_JUNCTIONS} of {len(junctions)} junctions nearest to the output." * (len(shown) < len(junctions))
    subtitle = (
        "Share of the explained score that each branch carries where paths meet, from the input (top) to the output. "
        f"Right of zero is evidence for the target, left of zero evidence against it.{more}"
    )
    canvas = Canvas(width, 8 + chart + AXIS_DOTS, title, subtitle)
    axes = canvas.axes(left, 8, CHART_DOTS, chart)
    low, high = _draw_bars(axes, list(shown.values()))
    for number, (name, branches) in enumerate(zip(names, shown.values(), strict=True)):
        y = 8 + ROW_DOTS * (number + 0.5)
        canvas.text(left - 12, y, name, ha="right", va="center", color=INK, weight="bold")
        _draw_legend(canvas, branches, left + CHART_DOTS + 14, y)
    _draw_axis(axes, low, high, len(shown))
    return canvas.figure


def _colour(name: str, place: int) -> str:
    return SKIP if name.startswith("skip") else COLOURS[place % len(COLOURS)]


def _draw_legend(canvas: Canvas, branches: Sequence[tuple[str, float]], x: float, y: float) -> None:
    """Write the names of the branches, in their colors; of many, the first and the last."""
    shown = list(enumerate(branches))
    for place, (name, _) in shown if len(shown) <= 4 else (shown[0], shown[-1]):
        text = shorten(name, 24) if len(shown) <= 4 or place else f"{shorten(name, 24)} …"
        canvas.text(x, y, text, va="center", size=SMALL, weight="bold", color=_colour(name, place))
        x += text_width(text, SMALL, DOTS_PER_INCH, bold=True) + 14


def _draw_bars(axes: Axes, rows: Sequence[Sequence[tuple[str, float]]]) -> tuple[float, float]:
    """Stack the branches of each junction; return the limits of the axis."""
    ends = [(sum(min(share, 0) for _, share in row), sum(max(share, 0) for _, share in row)) for row in rows]
    low, high = min(0.0, *(end[0] for end in ends)), max(1.0, *(end[1] for end in ends))
    for number, row in enumerate(rows):
        starts = {True: 0.0, False: 0.0}
        for place, (name, share) in enumerate(row):
            start = starts[share >= 0]
            axes.barh(number, share, 0.62, start, color=_colour(name, place), edgecolor="white", linewidth=0.8)
            starts[share >= 0] = start + share
            if abs(share) >= LEAST_LABEL * (high - low):
                axes.text(
                    start + share / 2,
                    number,
                    f"{share:.0%}".replace("-", "−"),
                    size=SMALL,
                    color="white",
                    ha="center",
                    va="center",
                )
    return low, high


def _draw_axis(axes: Axes, low: float, high: float, count: int) -> None:
    axes.set_axis_on()
    room = 0.02 * (high - low)
    axes.set_xlim(low - room, high + room)
    axes.set_ylim(count - 0.5, -0.5)
    axes.set_yticks([])
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}".replace("-", "−"))
    axes.tick_params(axis="x", labelsize=SMALL, colors=PALE, length=0)
    axes.axvline(0, color=PALE, linewidth=1)
    axes.axvline(1, color=PALE, linewidth=1, linestyle=(0, (4, 3)))
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(RULE)
    axes.set_xlabel("share of the explained score", size=SMALL, color=PALE)
