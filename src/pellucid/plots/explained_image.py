"""An image next to its relevance map, without and with the image's outline."""

from functools import cache
from typing import Literal

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgb
from PIL import Image, ImageFilter

from pellucid.plots._canvas import MARGIN, SMALL, Canvas
from pellucid.plots._explained import GAP, INSIDE, PANEL, SHORTEST_BAR, Drawing, Explained, pooled
from pellucid.plots.colours import INK, PALE, gray_or_rgb, scale_limit, signed_norm, signed_palette

__all__ = ["IMAGE", "draw_gray_or_rgb", "draw_signed"]

TALLEST = 320
"""Maximum height of a panel in dots."""
LARGEST = 2 * PANEL
"""Maximum side of a drawn map in pixels; larger ones are averaged over squares of pixels."""
NAME_DOTS = 17
"""Height of the panel titles in dots."""


def _size(height: int, width: int) -> tuple[float, float]:
    """Return the height and width of a panel in dots: whole dots per pixel unless the image is downsampled."""
    zoom = min(PANEL / width, TALLEST / height)
    zoom = int(zoom) if zoom >= 1 else zoom
    # a line of pixels would be too thin to see
    return max(height * zoom, 8), max(width * zoom, 8)


def _height(row: Explained) -> float:
    return NAME_DOTS + max(_size(*row.values.shape[-2:])[0], SHORTEST_BAR)


def _draw(canvas: Canvas, row: Explained, top: float) -> None:
    down, across = _size(*row.values.shape[-2:])
    plane, side = pooled(row.relevance.sum(0, dtype=float), LARGEST)
    picture = row.shown(gray_or_rgb(pooled(row.values, LARGEST)[0]))
    detail = f", means of {side}×{side} pixels" if side > 1 else ", summed over channels" * (len(row.relevance) > 1)
    names = ("image", f"relevance{detail}", "relevance, image outline")
    places = [MARGIN + column * (PANEL + GAP) for column in range(3)]
    for x, name in zip(places, names, strict=True):
        canvas.text(x, top + 2, name, size=SMALL, color=PALE, va="top")
    axes = [canvas.axes(x, top + NAME_DOTS, across, down) for x in places]
    draw_gray_or_rgb(axes[0], picture)
    limit = scale_limit(plane)
    shown = draw_signed(axes[1], plane, limit)
    draw_signed(axes[2], plane, limit)
    _draw_outline(axes[2], picture, (round(2 * down), round(2 * across)))
    bar = (MARGIN + INSIDE + GAP, top + NAME_DOTS, max(down, SHORTEST_BAR))
    canvas.colour_bar(shown, bar, row.meaning, [-limit, 0, limit])


def draw_gray_or_rgb(axes: Axes, picture: np.ndarray) -> None:
    """Draw (channel, height, width) in [0, 1], gray or in color."""
    shown = picture[0] if len(picture) == 1 else picture.transpose(1, 2, 0)
    axes.imshow(
        shown, cmap=colormaps["gray"], norm=Normalize(0, 1), interpolation=_smoothing(axes, shown), aspect="auto"
    )


def draw_signed(axes: Axes, plane: np.ndarray, limit: float) -> ScalarMappable:
    """Draw a signed map (height, width) from −limit to limit, white at zero."""
    smoothing = _smoothing(axes, plane)
    return axes.imshow(plane, cmap=signed_palette(), norm=signed_norm(limit), interpolation=smoothing, aspect="auto")


def _smoothing(axes: Axes, shown: np.ndarray) -> Literal["nearest", "auto"]:
    # enlarged pixels stay sharp; downsampling has to average
    dots = axes.get_window_extent().width
    return "nearest" if shown.shape[1] <= dots + 0.5 else "auto"


def _draw_outline(axes: Axes, picture: np.ndarray, size: tuple[int, int]) -> None:
    """Draw the edges of an image (channel, height, width) in [0, 1] as dark lines over the axes."""
    strength = _outline(picture, size)
    lines = np.empty((*strength.shape, 4))
    lines[..., :3], lines[..., 3] = to_rgb(INK), strength
    height, width = picture.shape[-2:]
    # the map's pixels are centered at whole numbers
    axes.imshow(lines, extent=(-0.5, width - 0.5, height - 0.5, -0.5), interpolation="auto", aspect="auto")


def _outline(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the edge strength, 0 to 1, at `size` (height, width): the gradient norm on its ridges."""
    (height, width), (old_height, old_width) = size, picture.shape[-2:]
    # smoothed at the resolution of the lines, so that neither pixels nor grain become edges
    smooth = _enlargement(old_height, height) @ picture @ _enlargement(old_width, width).T
    slopes = np.array([np.gradient(smooth, axis=axis) if smooth.shape[axis] > 1 else smooth * 0 for axis in (1, 2)])
    # the channel that changes most at each pixel, because some edges change color but not brightness
    steepest = np.hypot(*slopes).argmax(0)
    down, across = np.take_along_axis(slopes, steepest[None, None], 1)[:, 0]
    length = np.hypot(down, across)
    strongest = float(np.quantile(length, 0.99))
    if strongest < 1e-6:  # a constant image has no edges
        return np.zeros_like(length)
    ridges = np.where(_is_ridge(length, down, across), length / strongest, 0.0)
    lines = np.clip(1.5 * (ridges - 0.2), 0, 0.85)
    # ridges are one pixel wide, half a dot
    thick = Image.fromarray((255 * lines).astype(np.uint8)).filter(ImageFilter.MaxFilter(3))
    return np.asarray(thick, float) / 255


@cache
def _enlargement(old: int, new: int) -> np.ndarray:
    """Return the matrix (new, old) that resamples an axis with a Gaussian, 0.7 old or 2.5 new pixels wide."""
    centers = (np.arange(new) + 0.5) * old / new - 0.5
    width = max(0.7, 2.5 * old / new)
    weights = np.exp(-(((centers[:, None] - np.arange(old)) / width) ** 2) / 2)
    return weights / weights.sum(1, keepdims=True)


def _is_ridge(length: np.ndarray, down: np.ndarray, across: np.ndarray) -> np.ndarray:
    """Return True where the gradient is longest along its own direction, rounded to one of four."""
    padded = np.pad(length, 1, mode="edge")
    height, width = length.shape

    def beside(step: tuple[int, int]) -> np.ndarray:
        return padded[1 + step[0] : 1 + step[0] + height, 1 + step[1] : 1 + step[1] + width]

    # sectors of 45°: horizontal, diagonal, vertical, other diagonal
    sector = np.round(np.arctan2(down, across) / (np.pi / 4)).astype(int) % 4
    steps = ((0, 1), (1, 1), (1, 0), (1, -1))
    ahead = np.choose(sector, [beside(step) for step in steps])
    behind = np.choose(sector, [beside((-step[0], -step[1])) for step in steps])
    return (length >= ahead) & (length > behind)


IMAGE = Drawing(_height, _draw)
"""An image, its relevance, and the relevance under the outline of the image."""
