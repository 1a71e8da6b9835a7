"""A figure laid out in dots, with a headline on top and freely placed axes and text."""

from math import ceil
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from pellucid.plots._text import drawable, wrap
from pellucid.plots.colours import INK, PALE

__all__ = ["BAR_DOTS", "DOTS_PER_INCH", "LINE_DOTS", "MARGIN", "SMALL", "TEXT", "Canvas"]

DOTS_PER_INCH = 100
MARGIN = 14
"""Width of the borders in dots."""
BAR_DOTS = 92
"""Width reserved for a color bar with its ticks and label, in dots."""
TITLE, TEXT, SMALL = 12.0, 9.5, 8.0
"""Font sizes in points."""
LINE_DOTS = {TITLE: 22, TEXT: 18, SMALL: 15}
"""Line height in dots for each font size."""


class Canvas:
    """A white figure with a headline, whose parts are placed in dots from the top left corner below the headline.

    >>> canvas = Canvas(400, 300, "MNIST, epoch 1: nothing", "an empty canvas")
    >>> axes = canvas.axes(10, 10, 50, 50)
    >>> canvas.figure.get_size_inches()[0], len(canvas.figure.axes)
    (np.float64(4.0), 1)
    """

    def __init__(self, width: float, height: float, title: str, subtitle: str = "") -> None:
        """Create a figure `width` dots wide, with `height` dots below the headline."""
        room = width - 2 * MARGIN
        headline = [(line, TITLE, INK) for line in wrap(drawable(title), room, TITLE, DOTS_PER_INCH, bold=True)]
        headline += [(line, TEXT, PALE) for line in wrap(drawable(subtitle), room, TEXT, DOTS_PER_INCH)]
        # the headline is wrapped first, since its height determines the height of the figure
        self.top = MARGIN + sum(LINE_DOTS[size] for _, size, _ in headline) + MARGIN // 2
        # whole dots, so that pixels of images fall on pixels of the picture
        self.width, self.height = ceil(width), ceil(height) + self.top
        self.figure = Figure((self.width / DOTS_PER_INCH, self.height / DOTS_PER_INCH), dpi=DOTS_PER_INCH)
        # `text` measures from below the headline, so y is negative within it
        y = MARGIN - self.top
        for line, size, colour in headline:
            weight = "bold" if size == TITLE else "normal"
            self.text(MARGIN, y, line, size=size, color=colour, va="top", weight=weight)
            y += LINE_DOTS[size]

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        """Add frameless axes over a rectangle with its top left corner at (x, y), measured from below the headline."""
        # matplotlib measures in shares of the figure, from the bottom left
        axes = self.figure.add_axes(self._box(x, y, width, height))
        axes.set_axis_off()
        return axes

    def text(self, x: float, y: float, text: str, **style: Any) -> None:
        """Draw text at (x, y), without interpreting `$` as math."""
        style = {"size": TEXT, "color": INK, "parse_math": False, **style}
        left, bottom, _, _ = self._box(x, y, 0, 0)
        self.figure.text(left, bottom, drawable(text), **style)

    def frame(self, x: float, y: float, width: float, height: float, colour: str, line: float = 2.0) -> None:
        """Draw the outline of a rectangle."""
        left, bottom, across, up = self._box(x, y, width, height)
        box = Rectangle((left, bottom), across, up, fill=False, edgecolor=colour, linewidth=line)
        box.set_transform(self.figure.transFigure)
        self.figure.add_artist(box)

    def colour_bar(
        self, shown: ScalarMappable, box: tuple[float, float, float], meaning: str, ticks: list[float]
    ) -> None:
        """Draw a vertical color bar, `box[2]` dots high, with its top left corner at `box[:2]`.

        Its ends are pointed if some values exceed the scale.
        """
        x, y, height = box
        axes = self.axes(x, y, 11, height)
        axes.set_axis_on()
        # NaN marks gaps, which would make every comparison below False
        values: Any = np.ma.masked_invalid(np.ma.asarray(shown.get_array()))
        low, high = shown.get_clim()
        is_cut = bool((values < low).any() or (values > high).any())
        # pointed ends about 7 dots long, whatever the height of the bar
        ends: dict[str, Any] = {"extend": "both", "extendfrac": 7 / height} if is_cut else {}
        bar = self.figure.colorbar(shown, cax=axes, ticks=ticks, **ends)
        bar.ax.set_yticklabels([f"{tick:.2g}" if abs(tick) < 100 else f"{tick:,.0f}" for tick in ticks])
        bar.outline.set_visible(False)
        axes.tick_params(labelsize=SMALL, labelcolor=INK, length=2, color=PALE)
        self.text(x + BAR_DOTS - 24, y + height / 2, meaning, size=SMALL, rotation=90, va="center", ha="center")

    def _box(self, x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
        bottom = self.height - self.top - y - height
        return x / self.width, bottom / self.height, width / self.width, height / self.height
