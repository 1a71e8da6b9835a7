"""The images of the hook `out_of_distribution`: test images, training images, and sets unlike both."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from pellucid.core.contracts import to_floats
from pellucid.core.seeding import generator
from pellucid.core.types import Images
from pellucid.diagnostics import SHIFTS, shift_images
from pellucid.hooks._budget import Allowance
from pellucid.hooks._hook import Scene
from pellucid.hooks._outputs import images_per_pass

__all__ = ["ImageSample", "Sizes", "affordable_sizes", "choose_images"]

COMPARED_IMAGES = 200
"""Number of test images in which scikit-learn's digits are searched."""
SAME = 0.03
"""Root mean square difference, as a share of the pixel range, below which two images count as the same."""
DIGITS = "digits"
FEWEST = 5
"""Minimum number of images of each set under a budget."""
ENOUGH = 40
"""Number of images of each set for which a budget reduces the number of test images."""
TEST_SHARES = (1.0, 0.5, 0.25)
SHRINKING = 0.85
"""Factor by which the numbers of images are reduced until their cost is within the budget."""


@dataclass(frozen=True)
class Sizes:
    """Maximum numbers of images."""

    test: int
    """Test images, in-distribution and those from which the sets are made."""
    each_set: int
    """Images of each out-of-distribution set."""
    train: int


@dataclass(frozen=True, eq=False)
class ImageSample:
    """The chosen images; no test image is both in-distribution and the source of a modified copy."""

    scene: Scene
    test: Tensor
    """(image,): indices of the test images, ascending."""
    is_source: Tensor
    """(image,): True for the test images that are copied and modified; the others are in-distribution."""
    train: Tensor
    """(image,): indices of the training images; empty if there are none."""
    digits: Images | None = None
    """scikit-learn's digits in the shape and the pixel range of the data; None if they do not apply."""
    descriptions: Mapping[str, str] = field(default_factory=dict)
    """Description of each set, by name."""

    def parts(self, name: str) -> Iterator[Images]:
        """Yield the images of a set in parts that fit into memory."""
        if name == DIGITS:
            assert self.digits is not None
            yield from self.digits.split(images_per_pass(self.scene))
            return
        draws = generator(self.scene.seed, "out_of_distribution", name)
        test = self.scene.test
        for indices in self.test[self.is_source].split(images_per_pass(self.scene)):
            shifted = shift_images(test.floats(indices), name, draws, scale=test.scale)
            # images of bytes stay images of bytes
            yield (shifted * 255).round() / 255 if test.pixels.dtype == torch.uint8 else shifted

    def train_parts(self) -> Iterator[Images]:
        """Yield the training images in parts that fit into memory."""
        assert self.scene.train is not None
        for indices in self.train.split(images_per_pass(self.scene)):
            yield self.scene.train.floats(indices)

    def example(self, name: str) -> Any:
        """Return the first image of a set as it is drawn, (channel, height, width) in [0, 1], as a NumPy array."""
        low, high = self.scene.test.scale
        return ((next(self.parts(name))[0] - low) / (high - low)).clamp(0, 1).numpy()


def choose_images(scene: Scene, sizes: Sizes) -> ImageSample:
    """Choose images at random, from the seed: test sets may be sorted, or cycle through the classes."""
    draws = generator(scene.seed, "out_of_distribution", "images")
    # under a budget, the images whose embedding is shared with other hooks
    known = torch.arange(len(scene.test)) if scene.budget is None else scene.embedded
    test = known[torch.randperm(len(known), generator=draws)[: sizes.test].sort().values]
    is_source = torch.zeros(len(test), dtype=torch.bool)
    is_source[torch.randperm(len(test), generator=draws)[: min(sizes.each_set, len(test) // 2)]] = True
    train = torch.zeros(0, dtype=torch.int64)
    if scene.train is not None:
        train = torch.randperm(len(scene.train), generator=draws)[: sizes.train].sort().values
    digits, descriptions = _digits(scene, sizes.each_set), dict(SHIFTS)
    if digits is not None:
        descriptions[DIGITS] = "scikit-learn's digits"
    return ImageSample(scene, test, is_source, train, digits, descriptions)


def _digits(scene: Scene, at_most: int) -> Images | None:
    """Return scikit-learn's digits in the shape of the test images, or None for color images and for these digits."""
    # scikit-learn takes seconds to import
    from pellucid.data.digits import read_digits

    test, (low, high) = scene.test, scene.test.scale
    some = (test.floats(slice(0, COMPARED_IMAGES)) - low) / (high - low)
    if not (some == some[:, :1]).all():
        return None
    digits = to_floats(read_digits(*test.image_shape[1:]).pixels)
    nearest = torch.cdist(some[:, 0].flatten(1), digits.flatten(1)).amin(1) / digits[0].numel() ** 0.5
    if (nearest < SAME).any():
        return None
    chosen = torch.arange(min(at_most, len(digits))) * len(digits) // min(at_most, len(digits))
    return (low + (high - low) * digits[chosen]).expand(-1, test.image_shape[0], -1, -1)


def affordable_sizes(allowance: Allowance, wanted: Sizes, price: float, sets: int, features: int) -> Sizes | None:
    """Return the numbers of images that the budget covers; None if it covers hardly any.

    `price` is the cost of one image in forward passes, and `features` the size of the embedding, 0 without one. The
    embedding of the test images is paid for elsewhere, but their distances from the training images are not.
    """

    def cost(sizes: Sizes) -> float:
        queries = sizes.test + sets * sizes.each_set
        flops = 2 * features * (queries * (sizes.train + features + classes) + sizes.train * features)
        return (sizes.train + sets * sizes.each_set) * price + allowance.passes(flops)

    classes = allowance.scene.logits.shape[1]
    best = None
    for share in TEST_SHARES:
        test = max(1, round(wanted.test * share))
        sizes = replace(wanted, test=test)
        while sizes.each_set >= FEWEST and cost(sizes) > allowance.left:
            sizes = Sizes(test, int(sizes.each_set * SHRINKING), int(sizes.train * SHRINKING))
        if sizes.each_set >= FEWEST and (best is None or sizes.each_set > best.each_set):
            best = sizes
        if best is not None and best.each_set >= ENOUGH:
            break
    return best
