"""Pictures inside the page: small, and exact to the pixel."""

import io
from base64 import b64encode
from functools import lru_cache

import numpy as np
from PIL import Image

__all__ = ["data_uri", "sprite"]


@lru_cache(maxsize=512)
def data_uri(png: bytes) -> str:
    """A picture as a `data:` URI: lossless WebP where that is smaller than the PNG itself.

    Kept, because the page is written again after every epoch. Raises `OSError` for what is no picture.
    """
    with Image.open(io.BytesIO(png)) as picture:
        picture.load()
        packed = io.BytesIO()
        picture.save(packed, "WEBP", lossless=True, quality=50, method=2)
    webp = packed.getvalue()
    return _uri("webp", webp) if len(webp) < len(png) else _uri("png", png)


def sprite(thumbnails: np.ndarray, across: int = 32) -> str:
    """(image, side, side, channel) bytes as one PNG, `across` to a row, as a `data:` URI.

    >>> sprite(np.zeros((3, 2, 2, 1), np.uint8))[:22]
    'data:image/png;base64,'
    """
    count, side, _, channels = thumbnails.shape
    rows = max(-(-count // across), 1)
    grid = np.zeros((rows * across, side, side, channels), np.uint8)
    grid[:count] = thumbnails
    mosaic = (
        grid.reshape(rows, across, side, side, channels).swapaxes(1, 2).reshape(rows * side, across * side, channels)
    )
    packed = io.BytesIO()
    Image.fromarray(mosaic[..., 0] if channels == 1 else mosaic).save(packed, "PNG", optimize=True)
    return _uri("png", packed.getvalue())


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{b64encode(content).decode()}"
