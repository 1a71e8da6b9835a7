"""Pictures of any mode as bytes: grey or red, green, blue."""

import numpy as np
import torch
from PIL import Image, ImageOps

from pellucid.core.errors import DataError

__all__ = ["picture_pixels"]

GREY_MODES = {"1", "L", "LA"}
ALPHA_MODES = {"LA", "RGBA", "PA"}
MOST_OF_16_BITS = 65535


def picture_pixels(image: Image.Image, size: int | None = None) -> torch.Tensor:
    """The picture, upright, as bytes, (channel, height, width): one channel if its mode is grey, else three.

    Scaled to a square of `size` pixels where that is given. What is transparent is laid over white, as on a page.
    16-bit greys are scaled to 8 bits. A palette is grey if all its colours in use are. Raises `DataError` for
    greys that are neither 8-bit nor 16-bit.
    """
    image = _grey_or_rgb(image)
    if size is not None:
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    array = np.array(image)
    return torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1).copy())


def _grey_or_rgb(image: Image.Image) -> Image.Image:
    """The picture in mode L or RGB."""
    image = ImageOps.exif_transpose(image)
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        return image
    if image.mode == "F" or image.mode.startswith("I"):
        return _from_16_bits(image)
    is_grey = image.mode in GREY_MODES or (image.mode in ("P", "PA") and _palette_is_grey(image))
    if image.mode in ALPHA_MODES or "transparency" in image.info:
        coloured = image.convert("RGBA")
        page = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(page, coloured)
    return image.convert("RGB").convert("L") if is_grey else image.convert("RGB")


def _from_16_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > MOST_OF_16_BITS:
        raise DataError(
            f"values of mode {image.mode} from {values.min():g} to {values.max():g} are no 8 or 16-bit greys"
        )
    return Image.fromarray(np.round(values / (MOST_OF_16_BITS / 255)).astype(np.uint8))


def _palette_is_grey(image: Image.Image) -> bool:
    colours = np.asarray(image.convert("RGBA"))[..., :3]
    return bool((colours == colours[..., :1]).all())
