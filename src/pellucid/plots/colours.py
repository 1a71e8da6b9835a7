"""Colors of text, classes and signed values."""

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Colormap, Normalize, hsv_to_rgb

__all__ = ["INK", "PALE", "WRONG", "class_colours", "gray_or_rgb", "scale_limit", "signed_norm", "signed_palette"]

INK = "#1b1f24"
"""Plain text."""
PALE = "#6b7280"
"""Secondary text."""
WRONG = "#c2410c"
"""Text about an error."""

SHOWN_SHARE = 0.998
"""Quantile of absolute values at which a signed scale ends; clipping a few outliers keeps the other values visible."""


def class_colours(count: int) -> np.ndarray:
    """Return distinct RGB colors (class, 3) in [0, 1], the same for the same count.

    >>> class_colours(3).shape
    (3, 3)
    """
    if count <= 10:
        return np.array(colormaps["tab10"].colors[:count])  # type: ignore[attr-defined]
    # Evenly spaced hues, with alternating brightness and saturation to separate neighbors.
    hues = np.arange(count) / count
    # periods of 2 and 3: the combination repeats only after six classes
    values = np.where(np.arange(count) % 2, 0.62, 0.92)
    saturation = np.where(np.arange(count) % 3 == 1, 0.55, 0.85)
    return np.asarray(hsv_to_rgb(np.stack([hues, saturation, values], 1)))


def gray_or_rgb(images: np.ndarray) -> np.ndarray:
    """Return images (…, channel, height, width) with one or three channels; any other number is averaged.

    >>> gray_or_rgb(np.zeros((2, 4, 8, 8))).shape, gray_or_rgb(np.zeros((3, 8, 8))).shape
    ((2, 1, 8, 8), (3, 8, 8))
    """
    return images if images.shape[-3] == 3 else images.mean(-3, keepdims=True)


def scale_limit(values: np.ndarray) -> float:
    """Return the limit of a signed color scale that clips at most 0.2% of the values; 1 if all values are zero.

    >>> scale_limit(np.array([-2.0, 2.0])), scale_limit(np.zeros(4))
    (2.0, 1.0)
    """
    finite = np.abs(values[np.isfinite(values)])
    limit = float(np.quantile(finite, SHOWN_SHARE)) if finite.size else 0.0
    # the quantile is 0 if fewer than 0.2% of the values are nonzero; then the maximum is the limit
    return limit or float(finite.max(initial=0.0)) or 1.0


def signed_norm(limit: float) -> Normalize:
    """Return a linear scale from −limit to limit, with zero in the middle."""
    return Normalize(-limit, limit)


def signed_palette() -> Colormap:
    """Return a colormap with blue for negative values, white for zero, red for positive values and gray for NaN."""
    return colormaps["RdBu_r"].with_extremes(bad="#d4d7db")
