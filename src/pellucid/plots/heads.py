"""Attention heads: the relevance that each one carries, and attention rollout over images."""

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from pellucid.plots._canvas import BAR_DOTS, DOTS_PER_INCH, MARGIN, SMALL, TEXT, Canvas
from pellucid.plots._text import text_width
from pellucid.plots.colours import INK, gray_or_rgb, scale_limit, signed_norm, signed_palette

__all__ = ["heads_figure"]

CELL_DOTS, ROW_DOTS, TILE_DOTS, GAP_DOTS, NAME_DOTS = 46, 30, 112, 10, 60
LONGEST_NAME = 46


def heads_figure(
    shares: np.ndarray,
    layers: list[str],
    headline: tuple[str, str],
    images: np.ndarray | None = None,
    maps: np.ndarray | None = None,
) -> Figure:
    """Draw the share of relevance of each head, (layer, head), and the rollout of images below.

    `images` (image, channel, height, width) are in [0, 1]; `maps` (image, height, width) are at least 0. NaN in
    `shares` is a gap.

    >>> figure = heads_figure(np.array([[0.2, 0.1]]), ["block"], ("Heads", ""))
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['20%', '10%']
    """
    names = [name if len(name) <= LONGEST_NAME else f"…{name[1 - LONGEST_NAME :]}" for name in layers]
    left = MARGIN + max((text_width(name, TEXT, DOTS_PER_INCH) for name in names), default=0) + 12
    across, down = CELL_DOTS * shares.shape[1], ROW_DOTS * len(names)
    count = 0 if images is None or maps is None else len(images)
    tiles = count * (TILE_DOTS + GAP_DOTS)
    width = max(left + across + BAR_DOTS + MARGIN, MARGIN + NAME_DOTS + tiles + BAR_DOTS + 8, 560)
    below = 2 * (TILE_DOTS + GAP_DOTS) + 30 if count else 0
    canvas = Canvas(width, 26 + down + below + MARGIN, *headline)
    if shares.size:
        _draw_shares(canvas, shares, names, left)
    if images is not None and maps is not None and count:
        _draw_rollout(canvas, images, maps, 26 + down + 24)
    return canvas.figure


def _draw_shares(canvas: Canvas, shares: np.ndarray, names: list[str], left: float) -> None:
    across, down = CELL_DOTS * shares.shape[1], ROW_DOTS * len(names)
    for number, name in enumerate(names):
        canvas.text(left - 12, 26 + ROW_DOTS * (number + 0.5), name, ha="right", va="center")
    for head in range(shares.shape[1]):
        canvas.text(left + CELL_DOTS * (head + 0.5), 16, f"head {head}", size=SMALL, ha="center", va="center")
    axes = canvas.axes(left, 26, across, down)
    limit = scale_limit(shares)
    norm = signed_norm(limit)
    shown = np.ma.masked_invalid(shares)
    axes.imshow(shown, cmap=signed_palette(), norm=norm, aspect="auto", interpolation="nearest")
    for (row, column), value in np.ndenumerate(shares):
        if np.isfinite(value):
            colour = "white" if abs(value) > 0.7 * limit else INK
            axes.text(column, row, f"{value:.0%}", size=SMALL, color=colour, ha="center", va="center")
    bar = ScalarMappable(norm, signed_palette())
    bar.set_array(shares)
    canvas.colour_bar(bar, (left + across + 14, 26, max(down, 60)), "share of the logit", [-limit, 0, limit])


def _draw_rollout(canvas: Canvas, images: np.ndarray, maps: np.ndarray, top: float) -> None:
    shown = gray_or_rgb(images).clip(0, 1)
    norm = Normalize(0, float(maps.max()) or 1.0)
    canvas.text(MARGIN, top + TILE_DOTS / 2, "image", size=SMALL, va="center")
    canvas.text(MARGIN, top + 1.5 * TILE_DOTS + GAP_DOTS, "rollout", size=SMALL, va="center")
    for number, (image, rollout) in enumerate(zip(shown, maps, strict=True)):
        x = MARGIN + NAME_DOTS + number * (TILE_DOTS + GAP_DOTS)
        picture = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
        canvas.axes(x, top, TILE_DOTS, TILE_DOTS).imshow(picture, cmap="gray", vmin=0, vmax=1)
        canvas.axes(x, top + TILE_DOTS + GAP_DOTS, TILE_DOTS, TILE_DOTS).imshow(rollout, cmap="magma", norm=norm)
    bar = ScalarMappable(norm, "magma")
    bar.set_array(maps)
    place = (MARGIN + NAME_DOTS + len(maps) * (TILE_DOTS + GAP_DOTS) + 4, top + TILE_DOTS + GAP_DOTS, TILE_DOTS)
    canvas.colour_bar(bar, place, "share per token", [0, norm.vmax or 1.0])
