"""Stratified sampling: every class is represented in proportion to its size."""

import torch

from pellucid.core.contracts import ImageSet
from pellucid.core.errors import DataError
from pellucid.core.types import Labels

__all__ = ["chosen_by_limit", "limited", "mask_of_test", "split_off_validation", "stratified"]

TEST_SHARE = 5
"""One in this many images becomes a test image if a data set has no test set."""
VALIDATION_SHARE = 12
"""One in this many training images becomes a validation image, …"""
MOST_VALIDATION_IMAGES = 5000
"""… up to this number."""


def stratified(
    labels: Labels, count: int, generator: torch.Generator, *, spared: int = 0, all_classes: bool = False
) -> torch.Tensor:
    """Return a boolean mask that selects `count` images, stratified by class.

    The images of a class of size n are shuffled, and the i-th (from 0) gets the key (i + 1/2) / n; the `count` images
    with the smallest keys are selected. Each class count therefore deviates from its proportional share by at most half
    an image, and the selection for a smaller count is contained in that for a larger one. `spared` images of each class
    are never selected, so the result may have fewer than `count` images. With `all_classes`, the first image of every
    class comes before any second.

    >>> labels = torch.tensor([0] * 6 + [1] * 3)
    >>> chosen = stratified(labels, 3, torch.Generator().manual_seed(0))
    >>> labels[chosen].tolist()
    [0, 0, 1]
    """
    order = torch.randperm(len(labels), generator=generator)
    order = order[labels[order].argsort(stable=True)]  # grouped by class, shuffled within each
    sizes = labels.bincount()
    # positions within each class, without a loop over the classes
    starts = sizes.cumsum(0) - sizes
    classes = labels[order]
    rank = torch.arange(len(labels)) - starts[classes]
    place = (rank + 0.5).double() / sizes[classes]
    if all_classes:
        # -1 sorts the first image of each class before all others
        place = place.where(rank > 0, -1.0)
    allowed = rank < sizes[classes] - spared
    taken = order[allowed][place[allowed].argsort(stable=True)][: max(count, 0)]
    return torch.zeros(len(labels), dtype=torch.bool).index_fill_(0, taken, True)


def limited(images: ImageSet, limit: int | None, generator: torch.Generator) -> ImageSet:
    """Return at most `limit` images, stratified, with at least one image per class if the limit allows."""
    chosen = chosen_by_limit(images.labels, limit, generator)
    return images if len(chosen) == len(images) else images[chosen]


def chosen_by_limit(labels: Labels, limit: int | None, generator: torch.Generator) -> torch.Tensor:
    """Return the ascending indices of the images that `limited` keeps."""
    if limit is None or limit >= len(labels):
        return torch.arange(len(labels))
    return stratified(labels, limit, generator, all_classes=True).nonzero().flatten()


def mask_of_test(labels: Labels, generator: torch.Generator) -> torch.Tensor:
    """Return the mask of a fifth of the images (rounded down, at least one) for testing.

    A class with a single image stays in the training set. Raises `DataError` if every class has only one image.
    """
    is_test = stratified(labels, max(len(labels) // TEST_SHARE, 1), generator, spared=1, all_classes=True)
    if not is_test.any():
        raise DataError(
            "cannot split off a test set: no class has more than one image; "
            "add images, or use a data set with a separate test set."
        )
    return is_test


def split_off_validation(images: ImageSet, generator: torch.Generator) -> tuple[ImageSet, ImageSet]:
    """Split off a twelfth of the images (rounded down, at least 1, at most 5,000) for validation and model selection.

    A class with a single image stays in the training set. Raises `DataError` if every class has only one image.
    """
    count = min(max(len(images) // VALIDATION_SHARE, 1), MOST_VALIDATION_IMAGES)
    is_validation = stratified(images.labels, count, generator, spared=1)
    if not is_validation.any():
        raise DataError(
            f"cannot split off a validation set: no class has more than one of the {len(images)} training images; "
            "add images, or raise --limit-train."
        )
    return images[~is_validation], images[is_validation]
