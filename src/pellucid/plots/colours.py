"""The colours of text, of classes and of signed values."""

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Colormap, Normalize, hsv_to_rgb

__all__ = ["INK", "PALE", "WRONG", "class_colours", "scale_limit", "signed_norm", "signed_palette"]

INK = "#1b1f24"
"""Plain text."""
PALE = "#6b7280"
"""Secondary text."""
WRONG = "#c2410c"
"""What is about an error."""

SHOWN_SHARE = 0.998
"""The share of the values that a signed scale shows unclipped: a few extreme ones would leave the rest pale."""


def class_colours(count: int) -> np.ndarray:
    """(class, 3): well-told colours in [0, 1], equal for equal counts.

    >>> class_colours(3).shape
    (3, 3)
    """
    if count <= 10:
        return np.array(colormaps["tab10"].colors[:count])  # type: ignore[attr-defined]
    hues = np.arange(count) / count
    values = np.where(np.arange(count) % 2, 0.62, 0.92)
    saturation = np.where(np.arange(count) % 3 == 1, 0.55, 0.85)
    return np.asarray(hsv_to_rgb(np.stack([hues, saturation, values], 1)))


def scale_limit(values: np.ndarray) -> float:
    """Where a signed scale ends so that 99.8 % of the values are shown unclipped; 1 where all are zero.

    >>> scale_limit(np.array([-2.0, 2.0])), scale_limit(np.zeros(4))
    (2.0, 1.0)
    """
    finite = np.abs(values[np.isfinite(values)])
    limit = float(np.quantile(finite, SHOWN_SHARE)) if finite.size else 0.0
    return limit or float(finite.max(initial=0.0)) or 1.0


def signed_norm(limit: float) -> Normalize:
    """A linear scale from −limit to limit, so that zero is in the middle."""
    return Normalize(-limit, limit)


def signed_palette() -> Colormap:
    """Blue for negative, white for zero, red for positive; grey where there is no value."""
    return colormaps["RdBu_r"].with_extremes(bad="#d4d7db")
