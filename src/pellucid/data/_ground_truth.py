"""What the data sets have in common in which it is known where the class is."""

import torch
from torch import Tensor

from pellucid.core.contracts import ImageSet
from pellucid.core.errors import ConfigError, DataError
from pellucid.core.seeding import generator
from pellucid.data import DATASETS
from pellucid.data._source import RawData, Request

__all__ = ["BASES", "base_digits", "pasted"]

BASES = ("mnist", "digits")
"""Whose digits are used, named behind the colon; the first by default."""


def base_digits(request: Request, name: str) -> RawData:
    """The digits to build on: MNIST's, or with `NAME:digits` those that need no download.

    Raises `ConfigError` for another base, and `DataError` for images that are not 28×28 grey bytes.
    """
    base = request.argument or BASES[0]
    if base not in BASES:
        raise ConfigError(
            f"--dataset {name}:{base} is built on no digits there are; use {name}:mnist or {name}:digits."
        )
    if request.image_size not in (None, 28):
        raise DataError(f"{name} is made of digits of 28×28 pixels; leave --image-size out.")
    return DATASETS[base](Request(request.folder, mirrors=request.mirrors, image_size=None, seed=request.seed))


def pasted(pixels: Tensor, patches: Tensor, tops: Tensor, lefts: Tensor) -> tuple[Tensor, Tensor]:
    """The images with a patch of their own at a place of their own, and the masks of the places.

    `pixels` is (image, 1, height, width), `patches` (image, rows, columns), `tops` and `lefts` (image,).
    """
    count, rows, columns = patches.shape
    image = torch.arange(count)[:, None, None]
    down = tops[:, None, None] + torch.arange(rows)[:, None]
    across = lefts[:, None, None] + torch.arange(columns)
    result, masks = pixels.clone(), torch.zeros(count, *pixels.shape[2:], dtype=torch.bool)
    result[image, 0, down, across] = patches
    masks[image, down, across] = True
    return result, masks


def each_part(raw: RawData, seed: int, name: str) -> list[tuple[ImageSet, torch.Generator]]:
    """Training and test digits, each with random numbers of its own."""
    return [(part, generator(seed, name, kind)) for kind, part in (("train", raw.train), ("test", raw.test))]
