"""Decode images of any mode to uint8: grayscale or RGB."""

from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from pellucid.core.errors import DataError
from pellucid.core.files import is_shortage
from pellucid.core.raster import TooLarge, open_raster

__all__ = ["gray_or_rgb", "picture_pixels", "read_picture"]

GRAY_MODES = {"1", "L", "LA"}
ALPHA_MODES = {"LA", "RGBA", "PA"}
MOST_OF_16_BITS = 65535


def picture_pixels(image: Image.Image, size: int | None = None) -> torch.Tensor:
    """Return the image, upright, as uint8 (channel, height, width): one channel for grayscale modes, otherwise three.

    With `size`, it is scaled to a square. Transparent areas are composited over white. 16-bit grayscale is scaled to 8
    bits. A palette counts as grayscale if all colors in use are gray. Raises `DataError` for grayscale values that are
    neither 8-bit nor 16-bit.
    """
    image = gray_or_rgb(image)
    if size is not None:
        # only now, because the indices of a palette image cannot be interpolated
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    array = np.array(image)
    return torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1).copy())


def read_picture(source: Path | BytesIO, most_pixels: int, place: str) -> Image.Image:
    """Decode an image, upright, in mode L or RGB; raises a `DataError` that names `place` if that fails.

    Raises the error of the system if it is short of memory or of open files, which is no fault of the image.
    """
    try:
        with open_raster(source, most_pixels) as opened:
            return gray_or_rgb(opened)
    # of any kind, because what Pillow raises for a damaged file depends on the format and on the damage
    except Exception as error:
        if is_shortage(error):
            raise
        reason = str(error) or type(error).__name__
        remedy = "raise --max-megapixels, or shrink" if isinstance(error, TooLarge) else "repair"
        raise DataError(f"{place} cannot be read as an image ({reason}); {remedy} or remove it.") from error


def gray_or_rgb(image: Image.Image) -> Image.Image:
    """Return the image, upright, in mode L or RGB; for details see `picture_pixels`."""
    image = ImageOps.exif_transpose(image)  # photos are stored unrotated, with the orientation in the metadata
    # PNG files can mark one color as transparent without an alpha channel
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        return image
    # I, I;16, I;16B and so on: integers of more than 8 bits
    if image.mode == "F" or image.mode.startswith("I"):
        return _from_16_bits(image)
    is_gray = image.mode in GRAY_MODES or (image.mode in ("P", "PA") and _palette_is_gray(image))
    if image.mode in ALPHA_MODES or "transparency" in image.info:
        rgba = image.convert("RGBA")
        page = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(page, rgba)
    # via RGB: a direct conversion to L would skip the palette or the composited background
    return image.convert("RGB").convert("L") if is_gray else image.convert("RGB")


def _from_16_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > MOST_OF_16_BITS:
        raise DataError(
            f"values of mode {image.mode} from {values.min():g} to {values.max():g} are not 8-bit or 16-bit grayscale"
        )
    # Pillow would clip 16-bit values to 255 instead of scaling them
    return Image.fromarray(np.round(values / (MOST_OF_16_BITS / 255)).astype(np.uint8))


def _palette_is_gray(image: Image.Image) -> bool:
    # compares pixels, because unused palette entries can be colored
    colors = np.asarray(image.convert("RGBA"))[..., :3]
    return bool((colors == colors[..., :1]).all())
