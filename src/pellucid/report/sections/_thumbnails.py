"""Thumbnails of test images, packed for the page as exact bytes."""

import zlib
from base64 import b64encode
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

__all__ = ["checked_thumbnails", "deflated", "exact_size", "thumbnail_data"]


def checked_thumbnails(values: np.ndarray, count: int) -> np.ndarray:
    """Return square thumbnails (image, side, side, channel) of bytes; raises `ValueError` for anything else."""
    shape = values.shape
    if values.dtype != np.uint8 or len(shape) != 4 or shape[1] != shape[2] or shape[3] not in (1, 3):
        raise ValueError(f"its thumbnails have dtype {values.dtype} and shape {shape}")
    if len(values) != count:
        raise ValueError(f"it has {len(values)} thumbnails for {count} images")
    return values


def exact_size(record: Mapping[str, Any], thumbnails: np.ndarray) -> tuple[int, int] | None:
    """Return the height and width of the images if the record says that the thumbnails hold their exact pixels."""
    size = record.get("lossless_size")
    if size is None:
        return None
    height, width = (int(side) for side in size)
    if max(height, width) != thumbnails.shape[1] or min(height, width) < 1:
        raise ValueError(f"images of {height}×{width} pixels do not fit thumbnails of shape {thumbnails.shape[1:3]}")
    return height, width


def thumbnail_data(images: Mapping[int, np.ndarray], size: tuple[int, int] | None) -> dict[str, Any] | None:
    """Return the data for `thumbnails.js`, with each image once; None without images or for images of several shapes.

    `images` are thumbnails by their index in the test set, `size` is the height and width of the images if the
    thumbnails are exact.

    >>> data = thumbnail_data({7: np.zeros((2, 2, 1), np.uint8)}, None)
    >>> data["indices"], data["side"], data["channels"]
    ([7], 2, 1)
    """
    if len({image.shape for image in images.values()}) != 1:
        return None
    stacked = np.stack(list(images.values()))
    return {
        "indices": list(images),
        "side": stacked.shape[1],
        "channels": stacked.shape[3],
        "size": size,
        "bytes": deflated(stacked.tobytes()),
    }


@lru_cache(maxsize=128)
def deflated(content: bytes) -> str:
    """Compress bytes with zlib and encode them in base64; cached, because the page is rewritten after every epoch.

    >>> deflated(bytes(3))
    'eJxjYGAAAAADAAE='
    """
    # the highest level takes ten times as long and saves 2% on digits
    return b64encode(zlib.compress(content, 6)).decode()
