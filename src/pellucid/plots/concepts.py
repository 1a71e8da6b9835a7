"""Channels of a layer: maps of what passes through them, and the parts of images that they respond to."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from pellucid.core.errors import ShapeError
from pellucid.plots.colours import gray_or_rgb, scale_limit
from pellucid.plots.image_grid import Block, image_grid
from pellucid.plots.labels import Label

__all__ = ["concepts_figure", "enlarged", "references_figure"]

LARGEST = 96
"""Maximum side of a tile in pixels. Crops are enlarged or downsampled to the size of a tile."""
BORDER = 0.9
"""Gray of the border of crops that are not square, which differs from white pixels of the crop."""


def concepts_figure(
    image: np.ndarray,
    maps: np.ndarray,
    channels: Sequence[int],
    shares: Sequence[float],
    references: Sequence[Sequence[np.ndarray]],
    title: str,
    subtitle: str,
) -> Figure:
    """Draw an image, and one row per channel: its signed map, and its reference images.

    `image` is (channel, height, width) in [0, 1], `maps` are (row, channel, height, width) on one scale, and
    `references` has the crops of each row, (channel, height, width) each, which may differ in size. Raises `ShapeError`
    for inputs that are not images.

    >>> crop = np.ones((1, 4, 4))
    >>> figure = concepts_figure(np.zeros((1, 8, 8)), np.ones((1, 1, 8, 8)), [3], [0.4], [[crop]], "title", "subtitle")
    >>> len(figure.axes)
    4
    """
    if image.ndim != 3:
        raise ShapeError(f"Expected an image (channel, height, width), got {image.shape}; use the maps themselves.")
    side, pixels, planes = _side(image), gray_or_rgb(image), maps.sum(1)[:, None]
    # each pixel of an enlarged map keeps its value; only the outline is smooth
    shown = np.stack([enlarged(plane, side, is_signed=True) for plane in planes])
    outlined = enlarged(pixels, side, is_smooth=True)[None, None]
    blocks = [
        Block(enlarged(pixels, side)[None, None]),
        Block(shown[:, None], column=1, limit=scale_limit(planes), meaning="relevance", outlined=outlined),
    ]
    most = max(map(len, references), default=0)
    if most:
        blocks.append(Block(_tiles(references, most, side), column=2))
    percents = [f"{share:+.0%}".replace("-", "−") for share in shares]
    rows = [Label(f"channel {channel}", percent) for channel, percent in zip(channels, percents, strict=True)]
    columns = [Label("image"), Label("map"), *(Label(f"{rank + 1}") for rank in range(most))]
    return image_grid(blocks, rows, columns, (title, subtitle))


def references_figure(
    references: Sequence[Sequence[np.ndarray]], names: Sequence[str], uses: Sequence[str], title: str, subtitle: str
) -> Figure:
    """Draw the reference images of some channels, one row each; crops (channel, height, width) may differ in size.

    >>> figure = references_figure([[np.zeros((1, 5, 5))]], ["7"], ["for cats"], "t", "s")
    >>> len(figure.axes)
    1
    """
    most = max(map(len, references), default=0)
    if not most:
        raise ShapeError("None of these channels has a reference image; choose channels that are active.")
    first = next(crop for row in references for crop in row)
    side = _side(first)
    rows = [Label(f"channel {name}", use) for name, use in zip(names, uses, strict=True)]
    columns = [Label(f"{rank + 1}") for rank in range(most)]
    return image_grid([Block(_tiles(references, most, side))], rows, columns, (title, subtitle))


def _side(image: np.ndarray) -> int:
    """Return the side of a tile: the largest multiple of the image's longer side that fits."""
    longest = max(image.shape[-2:])
    return LARGEST // longest * longest or LARGEST


def _tiles(references: Sequence[Sequence[np.ndarray]], most: int, side: int) -> np.ndarray:
    """Return the crops as tiles (row, column, channel, side, side); white where a row has fewer."""
    crops = [[gray_or_rgb(crop) for crop in row] for row in references]
    channels = max((len(crop) for row in crops for crop in row), default=1)
    tiles = np.ones((len(crops), most, channels, side, side))
    for row, own in enumerate(crops):
        for column, crop in enumerate(own):
            tiles[row, column] = enlarged(crop, side)
    return tiles


def enlarged(image: np.ndarray, side: int, *, is_signed: bool = False, is_smooth: bool = False) -> np.ndarray:
    """Resize an image (channel, height, width) to a square of `side` pixels, with a border if it is not square.

    Pixels are repeated or averaged, or interpolated if `is_smooth`. The border of signed maps is 0, that of images is
    light gray.

    >>> enlarged(np.arange(4.0).reshape(1, 2, 2), 4)[0].tolist()
    [[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0], [2.0, 2.0, 3.0, 3.0], [2.0, 2.0, 3.0, 3.0]]
    """
    height, width = image.shape[-2:]
    scale = side / max(height, width)
    down, across = max(1, round(height * scale)), max(1, round(width * scale))
    method = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX
    if is_smooth:
        method = Image.Resampling.BILINEAR
    channels = [np.asarray(Image.fromarray(plane.astype(np.float32)).resize((across, down), method)) for plane in image]
    tile = np.full((len(image), side, side), 0.0 if is_signed else BORDER)
    top, left = (side - down) // 2, (side - across) // 2
    tile[:, top : top + down, left : left + across] = channels
    return tile
