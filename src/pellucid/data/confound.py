"""Digits with a confounder: a tag in the training images gives the class away, and the test images have none."""

import torch

from pellucid.core.seeding import generator
from pellucid.data import DATASETS, ImageSet, RawData, Request
from pellucid.data._ground_truth import base_digits, pasted

VARIANTS = ("confound", "confound.control")
"""The registered names; the registry reads them without importing this module."""

TAG_PIXELS = 3
"""Side length of a tag."""
STEP = 5
"""Horizontal distance between tag positions, in pixels."""


@DATASETS.register("confound")
def confound(request: Request) -> RawData:
    """Mark each training and validation image with a bright tag, at a position on the border that encodes its class.

    The mask is the tag. Test images have neither tag nor mask, so the drop in test accuracy measures how much the
    network relies on the tag.
    """
    return _tagged(request, "confound", is_informative=True)


@DATASETS.register("confound.control")
def confound_control(request: Request) -> RawData:
    """Add the same tags at positions independent of the class, so that a network cannot use them."""
    return _tagged(request, "confound.control", is_informative=False)


def _tagged(request: Request, name: str, *, is_informative: bool) -> RawData:
    raw = base_digits(request, name)
    train, count = raw.train, len(raw.train)
    places = train.labels
    if not is_informative:
        places = torch.randint(10, (count,), generator=generator(request.seed, "confound", "places"))
    bottom = train.image_shape[1] - TAG_PIXELS
    # columns 2, 7, …, 22: five tags with gaps of two pixels fit into 28 columns
    # classes 0-4 on the upper border, 5-9 on the lower, from left to right
    tops, lefts = torch.where(places < 5, 0, bottom), 2 + STEP * (places % 5)
    tags = torch.full((count, TAG_PIXELS, TAG_PIXELS), 255, dtype=torch.uint8)
    pixels, masks = pasted(train.pixels, tags, tops, lefts)
    title = "Confounded digits" if is_informative else "Digits with uninformative tags"
    return RawData(ImageSet(pixels, train.labels, masks), raw.test, raw.classes, title=title, default_epochs=2)
