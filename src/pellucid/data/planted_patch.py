"""Digits with a planted patch: a small pattern at a random position that alone decides the class."""

import torch

from pellucid.data import DATASETS, ImageSet, RawData, Request
from pellucid.data._ground_truth import base_digits, each_part, pasted

__all__ = ["PATCH_PIXELS", "patterns", "planted_patch"]

PATCH_PIXELS = 8
"""Side length of the patch."""


def patterns() -> torch.Tensor:
    """Return (class, row, column): horizontal, vertical, checkered and diagonal stripes, each half bright.

    >>> patterns().float().mean((1, 2)).tolist()
    [127.5, 127.5, 127.5, 127.5]
    """
    row, column = torch.meshgrid(torch.arange(PATCH_PIXELS), torch.arange(PATCH_PIXELS), indexing="ij")
    # each stripe is two pixels wide
    across, down = row // 2 % 2, column // 2 % 2
    slanted = (row + column) // 2 % 2
    shapes = [across, down, across ^ down, slanted]
    return torch.stack(shapes).to(torch.uint8) * 255


@DATASETS.register("planted_patch")
def planted_patch(request: Request) -> RawData:
    """Load random digits with one of four 8×8 patterns; the mask is the pattern's position (8% of the area).

    The digit and the positions carry no information about the class.
    """
    raw = base_digits(request, "planted_patch")
    shapes, parts = patterns(), []
    for digits, draws in each_part(raw, request.seed, "planted_patch"):
        count, (_, height, width) = len(digits), digits.image_shape
        labels = torch.randint(len(shapes), (count,), generator=draws)
        tops = torch.randint(height - PATCH_PIXELS + 1, (count,), generator=draws)
        lefts = torch.randint(width - PATCH_PIXELS + 1, (count,), generator=draws)
        pixels, masks = pasted(digits.pixels, shapes[labels], tops, lefts)
        parts.append(ImageSet(pixels, labels, masks))
    names = ("stripes across", "stripes down", "squares", "slanted stripes")
    train, test = parts
    return RawData(train, test, classes=names, title="Planted patch", default_epochs=2)
