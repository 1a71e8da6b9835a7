"""Similarity of a network's layers, with each other and with the same layers after earlier epochs."""

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pellucid.core.contracts import ImageSet
from pellucid.diagnostics._representations import LEAST_IMAGES, images_for, linear_cka, read_layers
from pellucid.hooks._hook import Scene

__all__ = ["Similarity", "kernel_images", "similarity"]

MOST_IMAGES = 128
MOST_VALUES = 110_000
"""Maximum number of stored values per epoch and set of kernels, about 0.44 MB in float32."""
MOST_LAYERS = 24


@dataclass(frozen=True, eq=False)
class Similarity:
    """Linear CKA of layers over the same test images."""

    names: tuple[str, ...]
    cka: np.ndarray
    """(layer, layer)."""
    previous: np.ndarray | None
    """(layer,): CKA of each layer with itself after the previous epoch of the hook; None at its first."""
    first: np.ndarray | None
    """(layer,): the same with the first epoch of the hook."""
    first_epoch: int
    arrays: Mapping[str, np.ndarray]
    """Kernels for the comparison with the next epoch."""


def kernel_images(test: ImageSet, layers: int, most: int = MOST_IMAGES) -> torch.Tensor:
    """Return indices of test images, spread evenly over the test set, whose kernels are small enough to store."""
    layers = min(max(layers, 1), MOST_LAYERS)
    # n (n − 1) / 2 values per layer
    count = min(len(test), most, MOST_IMAGES, int(0.5 + math.sqrt(0.25 + 2 * MOST_VALUES / layers)))
    return torch.arange(count) * len(test) // max(count, 1)


def similarity(scene: Scene, layers: Sequence[str], indices: torch.Tensor) -> Similarity | None:
    """Compare the layers, given by their paths, over the test images `indices`; None for too few images or layers."""
    if len(indices) < LEAST_IMAGES or not layers:
        return None
    images = scene.test.floats(indices)
    most = images_for(scene.model, images)
    indices, images = indices[:most], images[:most]
    kernels = read_layers(scene.model, images, layers).kernels
    names = tuple(kernels)
    if not names:
        return None
    grams = list(kernels.values())
    rows, columns = np.triu_indices(len(indices), 1)
    # CKA ignores the scale; unit vectors make it a product, and the diagonal is zero
    vectors = np.stack([_unit(gram[rows, columns]) for gram in grams]).astype(np.float32)
    own: dict[str, np.ndarray] = {
        "kernels": vectors,
        "kernel_images": indices.numpy().astype(np.int64),
        "kernel_layers": np.array([zlib.crc32("\n".join(names).encode())], np.int64),
    }
    before = scene.previous if _fits(scene.previous, own) else None
    first = vectors if before is None else before["first_kernels"]
    epoch = scene.epoch if before is None else int(before["first_epoch"][0])
    arrays = {**own, "first_kernels": first, "first_epoch": np.array([epoch], np.int64)}
    return Similarity(
        names,
        linear_cka(grams, grams),
        None if before is None else _products(vectors, before["kernels"]),
        None if before is None else _products(vectors, first),
        epoch,
        arrays,
    )


def _unit(values: np.ndarray) -> np.ndarray:
    norm = float(np.sqrt((values * values).sum()))
    # NaN stays NaN
    return values / norm if norm != 0 else values


def _fits(previous: Mapping[str, np.ndarray] | None, own: Mapping[str, np.ndarray]) -> bool:
    """Return True if the arrays of an earlier epoch are about the same layers and images."""
    if previous is None or not {*own, "first_kernels", "first_epoch"} <= set(previous):
        return False
    is_same = all(np.array_equal(previous[name], own[name]) for name in ("kernel_images", "kernel_layers"))
    shapes = {previous[name].shape for name in ("kernels", "first_kernels")}
    return is_same and shapes == {own["kernels"].shape} and previous["first_epoch"].shape == (1,)


def _products(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Return the CKA of corresponding layers; NaN for layers with the same output for every image."""
    first, second = one.astype(np.float64), two.astype(np.float64)
    cka = np.minimum((first * second).sum(1), 1.0)
    is_constant = ~(first.any(1) & second.any(1))
    return np.where(is_constant, np.nan, cka)
