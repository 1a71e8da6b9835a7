"""Digits with a tag in the training images that gives the class away, and none in the test images."""

import torch

from pellucid.core.contracts import ImageSet
from pellucid.core.seeding import generator
from pellucid.data import DATASETS
from pellucid.data._ground_truth import base_digits, pasted
from pellucid.data._source import RawData, Request

VARIANTS = ("confound", "confound.control")
"""The names registered here; the registry reads them without importing this file."""

TAG_PIXELS = 3
"""The side of a tag."""
STEP = 5
"""Pixels from one tag's place to the next."""


@DATASETS.register("confound")
def confound(request: Request) -> RawData:
    """The class's own place on the upper or lower edge bears a bright tag in the training and validation images.

    The mask is the tag. Test images have neither tag nor mask: how much worse they are recognised tells how much the
    network relied on it.
    """
    return _tagged(request, "confound", is_told=True)


@DATASETS.register("confound.control")
def confound_control(request: Request) -> RawData:
    """The same tags at places drawn without regard to the class: a network has no use for them."""
    return _tagged(request, "confound.control", is_told=False)


def _tagged(request: Request, name: str, *, is_told: bool) -> RawData:
    raw = base_digits(request, name)
    train, count = raw.train, len(raw.train)
    places = train.labels
    if not is_told:
        places = torch.randint(10, (count,), generator=generator(request.seed, "confound", "places"))
    bottom = train.image_shape[1] - TAG_PIXELS
    tops, lefts = torch.where(places < 5, 0, bottom), 2 + STEP * (places % 5)
    tags = torch.full((count, TAG_PIXELS, TAG_PIXELS), 255, dtype=torch.uint8)
    pixels, masks = pasted(train.pixels, tags, tops, lefts)
    title = "Confounded digits" if is_told else "Digits with meaningless tags"
    return RawData(ImageSet(pixels, train.labels, masks), raw.test, raw.classes, title=title, default_epochs=2)
