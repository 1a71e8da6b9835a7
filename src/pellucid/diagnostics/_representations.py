"""Similarity of layers, of one network or of two, by linear centered kernel alignment (CKA).

Kornblith et al. (2019) define linear CKA, which rotations and a uniform rescaling of the features leave unchanged, so
that layers of different width and different networks can be compared. With few images and many features, the original
estimator is biased toward 1; this is the unbiased one of Song et al. (2012), as used by Nguyen et al. (2021).
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from pellucid.engine.activations import layer_outputs
from pellucid.engine.model import device_of

__all__ = ["Layers", "centered_gram", "images_for", "linear_cka", "read_layers"]

MOST_LAYERS = 24
"""Maximum number of layers per network, spread evenly over its depth."""
MOST_VALUES = 48_000_000
"""Maximum number of activations held at once, which bounds memory."""
IMAGES_AT_ONCE = 100
ROUNDING = 1e-6
"""Variation relative to the largest feature below which a layer counts as constant."""
LEAST_IMAGES = 4
"""Minimum number of images for which the unbiased estimator is defined."""


@dataclass(frozen=True, eq=False)
class Layers:
    """The layers of a network, as their kernels over the same images."""

    kernels: Mapping[str, np.ndarray]
    """Centered Gram matrix (image, image) of each layer, in the order of execution."""
    of: int
    """Number of layers with weights, including those left out."""


def read_layers(model: nn.Module, images: Tensor, wanted: Collection[str] | None = None) -> Layers:
    """Compute the kernels of up to 24 layers with weights over `images`; `wanted` limits the layers to these names.

    Raises `ValueError` for fewer than four images.
    """
    outputs = layer_outputs(model, images[:2].to(device_of(model)), wanted)
    sizes = {name: output.shape[1] for name, output in outputs.items()}
    names = list(sizes)
    count = min(len(names), MOST_LAYERS)
    # evenly over the depth, with the first and the last
    chosen = [names[round(n * (len(names) - 1) / max(count - 1, 1))] for n in range(count)]
    kernels: dict[str, np.ndarray] = {}
    for group in _groups({name: sizes[name] for name in chosen}, len(images)):
        for name, features in _features(model, images, group).items():
            kernels[name] = centered_gram(features)
    return Layers({name: kernels[name] for name in chosen if name in kernels}, len(names))


def _groups(sizes: Mapping[str, int], images: int) -> Iterator[list[str]]:
    """Split the layers into groups whose activations fit into memory together."""
    group: list[str] = []
    for name, size in sizes.items():
        if group and images * (size + sum(sizes[one] for one in group)) > MOST_VALUES:
            yield group
            group = []
        group.append(name)
    if group:
        yield group


def images_for(model: nn.Module, images: Tensor) -> int:
    """Return how many of `images` the largest layer allows within the memory limit; at least four."""
    outputs = layer_outputs(model, images[:2].to(device_of(model)))
    largest = max((output.shape[1] for output in outputs.values()), default=1)
    return max(LEAST_IMAGES, min(len(images), MOST_VALUES // largest))


def _features(model: nn.Module, images: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    parts: dict[str, list[Tensor]] = {name: [] for name in names}
    for batch in images.split(IMAGES_AT_ONCE):
        for name, output in layer_outputs(model, batch.to(device_of(model)), names).items():
            parts[name].append(output.cpu())
    return {name: torch.cat(outputs) for name, outputs in parts.items() if sum(map(len, outputs)) == len(images)}


def centered_gram(features: Tensor) -> np.ndarray:
    """Return the U-centered Gram matrix (image, image) of `features` (image, feature), in float64.

    The diagonal is zero, and so is the sum of each row (Székely and Rizzo, 2014). Products of two such matrices give
    the unbiased estimate of the Hilbert-Schmidt independence criterion.
    """
    count = len(features)
    if count < LEAST_IMAGES:
        raise ValueError(f"CKA needs at least {LEAST_IMAGES} images, got {count}")
    # CKA ignores the mean and the scale of the features; without them, float32 suffices for the product
    largest = features.float().abs().max()
    plain = features.float() - features.float().mean(0)
    # what rounding alone can cause is no variation
    plain = torch.where(plain.abs().max() > ROUNDING * largest, plain, torch.zeros_like(plain))
    plain = plain / plain.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
    gram = (plain @ plain.T).double().numpy()
    np.fill_diagonal(gram, 0.0)
    rows = gram.sum(1)
    gram = gram - (rows[:, None] + rows[None]) / (count - 2) + rows.sum() / ((count - 1) * (count - 2))
    np.fill_diagonal(gram, 0.0)
    return gram


def linear_cka(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> np.ndarray:
    """Compute the linear CKA of each layer of one network with each of another, from their `centered_gram`.

    1 for layers that are equal up to a rotation and a scale, about 0 for unrelated ones (the estimate can be slightly
    negative). NaN for a layer that gives the same output for every image.

    >>> features = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    >>> rotation = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(1)))[0]
    >>> round(float(linear_cka([centered_gram(features)], [centered_gram(3 * features @ rotation)])[0, 0]), 4)
    1.0
    """
    one, two = (np.stack([gram.ravel() for gram in grams]) for grams in (first, second))
    norms = np.sqrt((one * one).sum(1))[:, None] * np.sqrt((two * two).sum(1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(norms > 0, np.minimum((one @ two.T) / norms, 1.0), np.nan)
