"""Open pictures of unknown origin: raster formats only, and no larger than a limit."""

import warnings
from io import BytesIO
from pathlib import Path

from PIL import Image

from pellucid.core.errors import DataError

__all__ = ["FORMATS", "MOST_PIXELS", "open_raster"]

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Formats that Pillow decodes itself. For others, such as EPS, it starts a program, whatever the file's name says."""

MOST_PIXELS = 50_000_000
"""Maximum width times height; a small file can claim billions of pixels."""


def open_raster(source: Path | BytesIO, most_pixels: int = MOST_PIXELS) -> Image.Image:
    """Open a picture without decoding its pixels.

    Raises `DataError` for a picture of more than `most_pixels`, and `UnidentifiedImageError` for one of another format.

    >>> import io
    >>> file = io.BytesIO()
    >>> Image.new("L", (3, 2)).save(file, "PNG")
    >>> open_raster(file).size
    (3, 2)
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is lower, and an error
        picture = Image.open(source, formats=FORMATS)
    if picture.width * picture.height > most_pixels:
        picture.close()
        raise DataError(
            f"a picture of {picture.width}×{picture.height} pixels; at most {most_pixels / 1e6:g} megapixels are read"
        )
    return picture
