"""Encode a figure as a PNG."""

import io

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

__all__ = ["to_png"]


def to_png(figure: Figure) -> bytes:
    """Return the figure as a PNG; equal figures give equal bytes."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", metadata={"Software": None})  # without matplotlib's version in the bytes
    return buffer.getvalue()
