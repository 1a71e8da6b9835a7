"""Shared parts of the data sets with known ground truth: where the class evidence is in each image."""

import torch
from torch import Tensor

from pellucid.core.contracts import ImageSet
from pellucid.core.errors import ConfigError, DataError
from pellucid.core.seeding import generator
from pellucid.data import DATASETS
from pellucid.data._source import RawData, Request

__all__ = ["BASES", "base_digits", "pasted"]

BASES = ("mnist", "digits")
"""Source data sets of the digits, named after the colon; the first is the default."""


def base_digits(request: Request, name: str) -> RawData:
    """Load the digits to build on: MNIST by default, or with `NAME:digits` those that need no download.

    Raises `ConfigError` for another source, and `DataError` for image sizes other than 28×28.
    """
    base = request.argument or BASES[0]
    if base not in BASES:
        raise ConfigError(
            f"--dataset {name}:{base} names an unknown source of digits; use {name}:mnist or {name}:digits."
        )
    if request.image_size not in (None, 28):
        raise DataError(f"{name} is built from digits of 28×28 pixels; omit --image-size.")
    return DATASETS[base](Request(request.folder, mirrors=request.mirrors, image_size=None, seed=request.seed))


def pasted(pixels: Tensor, patches: Tensor, tops: Tensor, lefts: Tensor) -> tuple[Tensor, Tensor]:
    """Paste one patch into each image, and return the images and the masks of the patches.

    `pixels` is (image, 1, height, width), `patches` (image, rows, columns); `tops` and `lefts` (image,) are positions.
    """
    count, rows, columns = patches.shape
    # index tensors of shapes (image, 1, 1), (image, rows, 1) and (image, 1, columns) broadcast to one entry per pixel
    image = torch.arange(count)[:, None, None]
    down = tops[:, None, None] + torch.arange(rows)[:, None]
    across = lefts[:, None, None] + torch.arange(columns)
    result, masks = pixels.clone(), torch.zeros(count, *pixels.shape[2:], dtype=torch.bool)
    result[image, 0, down, across] = patches
    masks[image, down, across] = True
    return result, masks


def each_part(raw: RawData, seed: int, name: str) -> list[tuple[ImageSet, torch.Generator]]:
    """Return the training and test digits, each with its own random generator."""
    # separate generators: the test images do not depend on the number of training images
    return [(part, generator(seed, name, kind)) for kind, part in (("train", raw.train), ("test", raw.test))]
