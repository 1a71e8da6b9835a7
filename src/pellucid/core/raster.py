"""Open pictures of unknown origin: raster formats only, and no larger than a limit."""

from io import BytesIO
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from pellucid.core.errors import DataError
from pellucid.core.files import read_regular

__all__ = ["FORMATS", "MOST_PIXELS", "TooLarge", "open_raster"]

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Formats that Pillow decodes itself. For others, such as EPS, it starts a program, whatever the file's name says."""

MOST_PIXELS = 50_000_000
"""Maximum width times height; a small file can claim billions of pixels."""


class TooLarge(DataError):
    """A picture with more pixels than allowed."""


def open_raster(source: Path | BytesIO, most_pixels: int = MOST_PIXELS) -> Image.Image:
    """Open a picture without decoding its pixels.

    Raises `TooLarge` for a picture of more than `most_pixels`, `UnidentifiedImageError` for one of another format, and
    `OSError` for a file that cannot be read or is no regular file.

    >>> import io
    >>> file = io.BytesIO()
    >>> Image.new("L", (3, 2)).save(file, "PNG")
    >>> open_raster(file).size
    (3, 2)
    """
    if isinstance(source, Path):
        source = BytesIO(read_regular(source))
    pillows_limit = Image.MAX_IMAGE_PIXELS
    try:
        Image.MAX_IMAGE_PIXELS = None  # ours replaces it: usually lower, and higher if the user says so
        picture = Image.open(source, formats=FORMATS)
    except UnidentifiedImageError as error:
        raise UnidentifiedImageError(f"not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file") from error
    finally:
        Image.MAX_IMAGE_PIXELS = pillows_limit
    if picture.width * picture.height > most_pixels:
        picture.close()
        raise TooLarge(
            f"a picture of {picture.width}×{picture.height} pixels; at most {most_pixels / 1e6:g} megapixels are read"
        )
    return picture
