"""Stratified samples: every class gives its share, drawn from a seed."""

import torch

from pellucid.core.contracts import ImageSet
from pellucid.core.errors import DataError
from pellucid.core.types import Labels

__all__ = ["limited", "split_off_test", "split_off_validation", "stratified"]

TEST_SHARE = 5
"""One in so many images is a test image where a data set has no test images of its own."""
VALIDATION_SHARE = 12
"""One in so many training images chooses the best model, …"""
MOST_VALIDATION_IMAGES = 5000
"""… but never more than this."""


def stratified(
    labels: Labels, count: int, generator: torch.Generator, *, spared: int = 0, all_classes: bool = False
) -> torch.Tensor:
    """A mask over the images, true for `count` of them: each class gives its share.

    The images of a class of n stand in a random order, the i-th (from 0) at (i + 1/2) / n; the `count` images with the
    lowest numbers are taken. So a class's share deviates from the common share by at most half an image, and more
    images contain fewer. Fewer are taken where there are not so many: `spared` images of each class never
    are. With `all_classes`, the first image of each class is taken before any second.

    >>> labels = torch.tensor([0] * 6 + [1] * 3)
    >>> chosen = stratified(labels, 3, torch.Generator().manual_seed(0))
    >>> labels[chosen].tolist()
    [0, 0, 1]
    """
    order = torch.randperm(len(labels), generator=generator)
    order = order[labels[order].argsort(stable=True)]  # class by class, at random within each
    sizes = labels.bincount()
    starts = sizes.cumsum(0) - sizes
    classes = labels[order]
    rank = torch.arange(len(labels)) - starts[classes]
    place = (rank + 0.5).double() / sizes[classes]
    if all_classes:
        place = place.where(rank > 0, -1.0)
    allowed = rank < sizes[classes] - spared
    taken = order[allowed][place[allowed].argsort(stable=True)][: max(count, 0)]
    return torch.zeros(len(labels), dtype=torch.bool).index_fill_(0, taken, True)


def limited(images: ImageSet, limit: int | None, generator: torch.Generator) -> ImageSet:
    """At most `limit` of the images, every class in its share (and with one image at least, where the limit allows)."""
    if limit is None or limit >= len(images):
        return images
    return images[stratified(images.labels, limit, generator, all_classes=True)]


def split_off_test(images: ImageSet, generator: torch.Generator) -> tuple[ImageSet, ImageSet]:
    """Training images and a fifth (rounded down, at least one) for testing.

    A class with one image stays in training. Raises `DataError` where every class has one image only.
    """
    is_test = stratified(images.labels, max(len(images) // TEST_SHARE, 1), generator, spared=1, all_classes=True)
    if not is_test.any():
        raise DataError(
            "no image can be set apart for testing: no class has more than one image; "
            "add images, or give a data set with test images of its own."
        )
    return images[~is_test], images[is_test]


def split_off_validation(images: ImageSet, generator: torch.Generator) -> tuple[ImageSet, ImageSet]:
    """Training images and a twelfth (rounded down, at least 1, at most 5,000) that chooses the best model.

    A class with one image stays in training. Raises `DataError` where every class has one image only.
    """
    count = min(max(len(images) // VALIDATION_SHARE, 1), MOST_VALIDATION_IMAGES)
    is_validation = stratified(images.labels, count, generator, spared=1)
    if not is_validation.any():
        raise DataError(
            f"no image can be set apart for validation: no class has more than one of the {len(images)} training "
            "images; add images, or raise --limit-train."
        )
    return images[~is_validation], images[is_validation]
