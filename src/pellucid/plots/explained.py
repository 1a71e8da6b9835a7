"""Inputs next to their relevance, one row each: images, signals, volumes, tokens and other values."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from pellucid.core.errors import ShapeError
from pellucid.plots._canvas import DOTS_PER_INCH, LINE_DOTS, MARGIN, SMALL, TEXT, Canvas
from pellucid.plots._explained import WIDTH, Drawing, Explained
from pellucid.plots._text import drawable, wrap
from pellucid.plots.colours import PALE, WRONG
from pellucid.plots.explained_image import IMAGE
from pellucid.plots.explained_signal import SIGNAL
from pellucid.plots.explained_tokens import TOKENS
from pellucid.plots.explained_values import VALUES
from pellucid.plots.explained_volume import VOLUME

__all__ = ["Explained", "explained"]

DRAWINGS: dict[str, Drawing] = {"image": IMAGE, "signal": SIGNAL, "tokens": TOKENS, "values": VALUES, "volume": VOLUME}
ROW_GAP = 16
"""Gap between rows in dots."""


def explained(rows: Sequence[Explained], title: str = "", subtitle: str = "") -> Figure:
    """Draw each input next to its relevance, below the heading and text of its row.

    Signed relevance has a diverging scale, centered at zero, with a color bar in its unit; a scale that clips a few
    outliers has pointed ends. Raises `ShapeError` if there are no rows.

    >>> import numpy as np
    >>> row = Explained(np.zeros((3, 8, 8)), np.eye(8)[None].repeat(3, 0), unit="logits", heading="cat.jpg")
    >>> figure = explained([row], "title")
    >>> figure.axes[1].images[0].get_clim()
    (-3.0, 3.0)
    """
    if not rows:
        raise ShapeError("there is nothing to draw; pass at least one row.")
    texts = [_text(row) for row in rows]
    heights = [
        sum(LINE_DOTS[size] for _, size, _ in text) + DRAWINGS[row.kind].height(row)
        for row, text in zip(rows, texts, strict=True)
    ]
    canvas = Canvas(WIDTH, sum(heights) + ROW_GAP * (len(rows) - 1) + MARGIN, title, subtitle)
    top = 0.0
    for row, text, height in zip(rows, texts, heights, strict=True):
        y = top
        for line, size, style in text:
            canvas.text(MARGIN, y, line, size=size, va="top", **style)
            y += LINE_DOTS[size]
        DRAWINGS[row.kind].draw(canvas, row, y)
        top += height + ROW_GAP
    return canvas.figure


def _text(row: Explained) -> list[tuple[str, float, dict[str, str]]]:
    """Return the lines of text above a row, with font size and style."""
    room = WIDTH - 2 * MARGIN
    heading = wrap(drawable(row.heading), room, TEXT, DOTS_PER_INCH, bold=True)
    lines = [line for text in row.lines for line in wrap(drawable(text), room, SMALL, DOTS_PER_INCH)]
    return [
        *((line, TEXT, {"weight": "bold"}) for line in heading),
        *((line, SMALL, {"color": WRONG if row.is_warning else PALE}) for line in lines),
    ]
