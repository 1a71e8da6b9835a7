"""Tokens colored by relevance, as a figure."""

from collections.abc import Iterator

from matplotlib.patches import FancyBboxPatch

from pellucid.plots._canvas import DOTS_PER_INCH, MARGIN, SMALL, TEXT, Canvas
from pellucid.plots._explained import INSIDE, Drawing, Explained
from pellucid.plots._text import drawable, shorten, text_width
from pellucid.plots.colours import PALE, scale_limit
from pellucid.plots.tokens import token_colours

__all__ = ["MOST_TOKENS", "TOKENS"]

MOST_TOKENS = 256
"""Maximum number of tokens; the figure says so if there are more."""
LINE_DOTS = 27
"""Height of a line in dots."""


def _placed(row: Explained) -> Iterator[tuple[int, str, float, float, int]]:
    """Yield the index, text, left edge, width and line of each token."""
    assert row.tokens is not None
    x, line = 0.0, 0
    for index, token in enumerate(row.tokens[:MOST_TOKENS]):
        # in some vocabularies, a leading space marks the beginning of a word
        text = shorten(drawable(token.strip()) or "␣", 40)
        width = text_width(text, TEXT, DOTS_PER_INCH) + 10
        if x and x + width > INSIDE:
            x, line = 0.0, line + 1
        yield index, text, x, width, line
        x += width + 4


def _height(row: Explained) -> float:
    *_, last = list(_placed(row))[-1]
    return (last + 2) * LINE_DOTS


def _draw(canvas: Canvas, row: Explained, top: float) -> None:
    assert row.tokens is not None
    limit, line = scale_limit(row.relevance), 0
    axes = canvas.axes(MARGIN, top, INSIDE, _height(row))
    axes.set_xlim(0, INSIDE)
    axes.set_ylim(_height(row), 0)
    for index, text, x, width, line in _placed(row):
        ground, ink = token_colours(float(row.relevance[index]), limit)
        y = line * LINE_DOTS
        box = FancyBboxPatch(
            (x + 2, y + 4), width - 4, LINE_DOTS - 9, "round,pad=2", facecolor=ground, edgecolor="none"
        )
        axes.add_patch(box)
        canvas.text(MARGIN + x + width / 2, top + y + LINE_DOTS / 2, text, color=ink, ha="center", va="center")
    rest = f" The first {MOST_TOKENS} of {len(row.tokens)} tokens." if len(row.tokens) > MOST_TOKENS else ""
    legend = f"Color scale: {-limit:.3g} (blue) to {limit:.3g} (red), {row.meaning}.{rest}"
    canvas.text(MARGIN, top + (line + 1) * LINE_DOTS + 4, legend, size=SMALL, color=PALE, va="top")


TOKENS = Drawing(_height, _draw)
"""Tokens in the color of their relevance."""
