"""scikit-learn's digits: 1,797 handwritten digits (Alpaydin and Kaynak, 1998), available without a download."""

import torch
from sklearn.datasets import load_digits

from pellucid.core.seeding import generator
from pellucid.data import DATASETS, ImageSet, RawData, Request
from pellucid.data._resize import resized
from pellucid.data._splitting import mask_of_test

__all__ = ["digits", "read_digits"]

BRIGHTEST = 16.0
"""The 8×8 originals count inked pixels in blocks of 4×4: 0…16."""


@DATASETS.register("digits")
def digits(request: Request) -> RawData:
    """Load 1,438 training and 359 test images, upscaled from 8×8 to 28×28 (or `request.image_size`) grayscale bytes.

    The test fifth is stratified and drawn from `request.seed`. Random shifts by up to one pixel of 28 are enabled,
    because they help on a training set this small.
    """
    size = 28 if request.image_size is None else request.image_size
    images = read_digits(size, size)
    is_test = mask_of_test(images.labels, generator(request.seed, "digits", "test"))
    return RawData(
        images[~is_test],
        images[is_test],
        tuple("0123456789"),
        title="scikit-learn digits",
        shift_share=1 / 28,
        default_epochs=10,
        test_positions=is_test.nonzero().flatten(),
        test_total=len(images),
    )


def read_digits(height: int, width: int) -> ImageSet:
    """Return all 1,797 digits in the order of scikit-learn, resized to grayscale bytes (image, 1, height, width).

    >>> len(read_digits(8, 8)), read_digits(8, 8).image_shape
    (1797, (1, 8, 8))
    """
    bunch = load_digits()
    # resize before rounding to bytes, to keep the precision of the 17 gray levels
    shares = torch.from_numpy(bunch.images).float().div(BRIGHTEST).unsqueeze(1)
    pixels = resized(shares, height, width).mul(255).round().to(torch.uint8)
    return ImageSet(pixels, torch.from_numpy(bunch.target).long())
