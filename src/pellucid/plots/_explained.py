"""One row of an explanation figure: an input next to its relevance."""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

import numpy as np

from pellucid.core.errors import ShapeError
from pellucid.plots._canvas import BAR_DOTS, MARGIN, Canvas

__all__ = ["GAP", "INSIDE", "PANEL", "SHORTEST_BAR", "WIDTH", "Drawing", "Explained", "pooled"]

PANEL = 232
"""Width of a panel in dots; there are three in a row."""
GAP = 14
"""Gap between panels in dots."""
INSIDE = 3 * PANEL + 2 * GAP
"""Width of a row without its color bar, in dots."""
WIDTH = MARGIN + INSIDE + GAP + BAR_DOTS
"""Width of the figure in dots."""
SHORTEST_BAR = 120
"""Minimum height of a color bar in dots, so that its label fits."""

NAMES = {1: "values", 2: "signal", 3: "image", 4: "volume"}


@dataclass(frozen=True, eq=False)
class Explained:
    """An input with its relevance, and the text of its row.

    Raises `ShapeError` if the shapes do not fit.
    """

    values: np.ndarray
    """The input: (feature,), a signal (channel, time), an image (channel, height, width), or a volume (channel, depth,
    height, width). For tokens their ids, (token,)."""
    relevance: np.ndarray
    """Signed relevance, in the shape of the input."""
    unit: str = ""
    """Unit of the relevance; empty if its scale has no meaning."""
    heading: str = ""
    lines: tuple[str, ...] = ()
    """Text below the heading."""
    is_warning: bool = False
    """True to draw the text as a warning."""
    scale: tuple[float, float] = (0.0, 1.0)
    """Values drawn as black and white."""
    tokens: tuple[str, ...] | None = None
    """Text of the tokens; None for anything else."""

    def __post_init__(self) -> None:
        if self.values.shape != self.relevance.shape or self.values.ndim not in NAMES or not self.values.size:
            raise ShapeError(
                f"Expected values and relevance of one shape with 1 to 4 axes, got {self.values.shape} and "
                f"{self.relevance.shape}."
            )
        if self.tokens is not None and self.relevance.shape != (len(self.tokens),):
            raise ShapeError(
                f"Expected one number per token, got {self.relevance.shape} for {len(self.tokens)} tokens."
            )

    @property
    def kind(self) -> str:
        """The kind of input: tokens, values, signal, image or volume."""
        return "tokens" if self.tokens is not None else NAMES[self.values.ndim]

    @property
    def meaning(self) -> str:
        """Label of the color bar."""
        return self.unit or "relevance (no unit)"

    def shown(self, values: np.ndarray) -> np.ndarray:
        """Map values of the input to 0…1, black to white."""
        low, high = self.scale
        return np.clip((np.nan_to_num(values) - low) / ((high - low) or 1.0), 0, 1)


@dataclass(frozen=True)
class Drawing:
    """Functions that draw one kind of input."""

    height: Callable[[Explained], float]
    """Height of a row in dots."""
    draw: Callable[[Canvas, Explained, float], None]
    """Function that draws a row below a vertical position, from the left margin."""


def pooled(planes: np.ndarray, most: int) -> tuple[np.ndarray, int]:
    """Average (…, height, width) over squares, so that no side exceeds `most`; also return the side of the squares.

    Squares at the right and bottom may reach beyond the edge, where only the pixels inside count.

    >>> small, side = pooled(np.arange(6.0).reshape(1, 2, 3), 2)
    >>> small.tolist(), side
    ([[[2.0, 3.5]]], 2)
    """
    side = max(1, ceil(max(planes.shape[-2:]) / most))
    if side == 1:
        return planes, 1
    height, width = planes.shape[-2:]
    starts = np.arange(0, height, side), np.arange(0, width, side)
    sums = np.add.reduceat(np.add.reduceat(planes.astype(float), starts[0], axis=-2), starts[1], axis=-1)
    counts = np.outer(np.diff([*starts[0], height]), np.diff([*starts[1], width]))
    return sums / counts, side
