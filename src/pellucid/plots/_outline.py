"""Outlines of shapes on a uniform background, drawn over maps to show where they are in the image."""

import numpy as np
from contourpy import contour_generator
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from pellucid.plots.colours import gray_or_rgb

__all__ = ["draw_outlines", "outline", "outline_note"]

LARGEST = 128 * 128
"""Maximum number of pixels of an image with an outline; larger ones are photographs."""
UNEVEN = 16 / 255
"""Deviation of an edge pixel from the background, in [0, 1], up to which it belongs to the background."""
UNEVEN_SHARE = 0.2
"""Maximum share of edge pixels outside the background."""
FAINT = "#8b9299"
"""Color of outlines. They are opaque, with hard edges: blended ones would double the size of a PNG."""
FAINTEST = 48 / 255
"""Minimum contrast of a shape."""


def outline(image: np.ndarray) -> list[np.ndarray]:
    """Return the outline of the shape in an image (channel, height, width) in [0, 1], as lines of (x, y) in pixels.

    The shape is what contrasts with the median of the image's edge by at least half as much as its strongest pixel.
    Color images, and those without a uniform edge, have no outline. The center of the first pixel is (0, 0).

    >>> square = np.pad(np.ones((1, 2, 2)), [(0, 0), (1, 1), (1, 1)])
    >>> [line.min(0).tolist() + line.max(0).tolist() for line in outline(square)]
    [[0.5, 0.5, 2.5, 2.5]]
    """
    plain = gray_or_rgb(image)
    if len(plain) != 1 or plain[0].size > LARGEST or not np.isfinite(plain).all():
        return []
    gray = plain[0]
    edge = np.concatenate([gray[0], gray[-1], gray[:, 0], gray[:, -1]])
    ground = np.median(edge)
    contrast = np.abs(gray - ground)
    if (np.abs(edge - ground) > UNEVEN).mean() > UNEVEN_SHARE or contrast.max() < FAINTEST:
        return []
    # a border of background closes the lines of shapes that touch the edge
    lines = contour_generator(z=np.pad(contrast, 1)).lines(float(contrast.max()) / 2)
    return [np.asarray(line) - 1 for line in lines]


def draw_outlines(axes: Axes, images: np.ndarray, step: tuple[int, int]) -> None:
    """Draw the outlines of images (row, column, channel, height, width), `step` (down, across) pixels apart."""
    down, across = step
    # maps of one image in a row or column share its outline
    known: dict[bytes, list[np.ndarray]] = {}
    lines = []
    for (row, column), _ in np.ndenumerate(images[:, :, 0, 0, 0]):
        image, corner = images[row, column], (column * across, row * down)
        key = image.tobytes()
        if key not in known:
            known[key] = outline(image)
        lines += [line + corner for line in known[key]]
    if lines:
        axes.add_collection(LineCollection(lines, colors=FAINT, linewidths=0.5, antialiaseds=False), autolim=False)


def outline_note(images: np.ndarray) -> str:
    """Return a sentence on the outlines of images (image, channel, height, width), with a leading space.

    Empty if no image has one.
    """
    return " Thin line: outline of the test image." if any(map(outline, images)) else ""
