"""Two digits side by side; a frame marks the one that decides the class."""

import torch

from pellucid.data import DATASETS, ImageSet, RawData, Request
from pellucid.data._ground_truth import base_digits, each_part

__all__ = ["two_digits"]

CELL_PIXELS = 24
MARGIN = 2
"""Pixels cropped from each side of a digit image; they are empty."""


@DATASETS.register("two_digits")
def two_digits(request: Request) -> RawData:
    """Load 24×48 images of two independent digits, one of them framed. The class is the framed digit.

    The mask is the framed half of the image.
    """
    raw = base_digits(request, "two_digits")
    parts = []
    for digits, draws in each_part(raw, request.seed, "two_digits"):
        count = len(digits)
        cells = digits.pixels[:, :, MARGIN:-MARGIN, MARGIN:-MARGIN]
        other = torch.randint(count, (count,), generator=draws)
        is_left = torch.rand(count, generator=draws) < 0.5
        framed = cells.clone()
        framed[:, :, [0, -1], :] = 255
        framed[:, :, :, [0, -1]] = 255
        side = is_left[:, None, None, None]
        pixels = torch.cat([torch.where(side, framed, cells[other]), torch.where(side, cells[other], framed)], dim=3)
        masks = torch.zeros(count, CELL_PIXELS, 2 * CELL_PIXELS, dtype=torch.bool)
        masks[is_left, :, :CELL_PIXELS] = True
        masks[~is_left, :, CELL_PIXELS:] = True
        parts.append(ImageSet(pixels, digits.labels, masks))
    train, test = parts
    return RawData(train, test, classes=raw.classes, title="Two digits", default_epochs=6)
