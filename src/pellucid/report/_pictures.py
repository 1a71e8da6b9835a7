"""Lossless pictures embedded in the page as `data:` URIs."""

import io
import warnings
from base64 import b64encode
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, UnidentifiedImageError

from pellucid.core.errors import DataError
from pellucid.core.raster import open_raster
from pellucid.storage.pictures import pixels_per_dot

__all__ = ["Picture", "pack_picture", "remember_picture", "sprite"]

MOST_WEBP_PIXELS = 16_383
"""Maximum width and height in the WebP format."""


@dataclass(frozen=True)
class Picture:
    """A picture as a `data:` URI, with the size at which it is shown, in CSS pixels."""

    uri: str
    width: int
    height: int


_KNOWN: dict[bytes, Picture] = {}
"""Pictures that were encoded elsewhere, by the content of their files."""


def remember_picture(content: bytes, picture: Picture) -> None:
    """Keep what `pack_picture` has returned for `content` in another process, for all pages of this one."""
    _KNOWN[content] = picture


def pack_picture(content: bytes, scale: float = 1.0, *, is_draft: bool = False) -> Picture:
    """Encode a picture for the page, as lossless WebP if that is smaller than the file itself.

    A draft looks the same, but is encoded in a quarter of the time and takes up to twice the space.
    Results are cached, because the page is rewritten after every epoch. Raises `OSError` or `ValueError` if `content`
    is not a picture that browsers can show.
    """
    known = _KNOWN.get(content) if scale == 1 else None
    return known or _packed(content, scale, is_draft)


@lru_cache(maxsize=512)
def _packed(content: bytes, scale: float, is_draft: bool) -> Picture:
    with warnings.catch_warnings():
        # a tiny file can decode to gigabytes; Pillow only warns at first
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with _opened(content) as picture:
            kind, width, height = str(picture.format).lower(), *picture.size
            if kind not in ("png", "webp", "jpeg", "gif"):  # checked before loading: decoding EPS would run a program
                raise ValueError(f"browsers cannot show {kind.upper()} files")
            picture.load()
            # shown as large as the figure was laid out
            dots = pixels_per_dot(picture)
            shown = picture.convert("RGB") if _is_opaque(picture) else picture
            if scale < 1:
                shown = shown.resize((max(1, round(width * scale)), max(1, round(height * scale))))
            if max(shown.size) > MOST_WEBP_PIXELS:
                return Picture(_uri(kind, content), width // dots, height // dots)
            packed = io.BytesIO()
            # for lossless WebP, `quality` is the effort of the compression
            shown.save(packed, "WEBP", lossless=True, quality=25, method=0 if is_draft else 1)
    webp = packed.getvalue()
    # with the original size, so that a downsized picture covers the same area of the page
    if scale < 1 or len(webp) < len(content):
        return Picture(_uri("webp", webp), width // dots, height // dots)
    return Picture(_uri(kind, content), width // dots, height // dots)


def _opened(content: bytes) -> Image.Image:
    try:
        return open_raster(io.BytesIO(content))
    except UnidentifiedImageError as error:
        raise ValueError("not a picture") from error
    except DataError as error:
        raise ValueError(str(error)) from error


def _is_opaque(picture: Image.Image) -> bool:
    """Return True for an RGBA picture without transparency, whose alpha channel would waste time and space."""
    return picture.mode == "RGBA" and picture.getchannel("A").getextrema()[0] == 255


def sprite(thumbnails: np.ndarray, across: int = 32) -> str:
    """Arrange thumbnails (image, side, side, channel) in one PNG, `across` per row, and return it as a `data:` URI.

    >>> sprite(np.zeros((3, 2, 2, 1), np.uint8))[:22]
    'data:image/png;base64,'
    """
    count, side, _, channels = thumbnails.shape
    # division that rounds up
    rows = max(-(-count // across), 1)
    grid = np.zeros((rows * across, side, side, channels), np.uint8)
    grid[:count] = thumbnails
    mosaic = (
        grid.reshape(rows, across, side, side, channels).swapaxes(1, 2).reshape(rows * side, across * side, channels)
    )
    return _packed_mosaic(mosaic.tobytes(), mosaic.shape)


@lru_cache(maxsize=128)
def _packed_mosaic(content: bytes, shape: tuple[int, int, int]) -> str:
    # bytes instead of an array, because the cache needs hashable arguments
    mosaic = np.frombuffer(content, np.uint8).reshape(shape)
    packed = io.BytesIO()
    Image.fromarray(mosaic[..., 0] if shape[2] == 1 else mosaic).save(packed, "PNG")
    return _uri("png", packed.getvalue())


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{b64encode(content).decode()}"
