"""Relevance maps of images for several classes: computed for one method, and packed for the gallery."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pellucid.attribution import Analyzer
from pellucid.hooks._quantised import fitting_size, quantised, shrunk

__all__ = ["ClassMaps", "explain_classes", "stored_maps"]

VALUES_PER_CALL = 1_600_000
"""Approximate number of input values explained at once, which bounds memory."""


@dataclass(frozen=True, eq=False)
class ClassMaps:
    """Relevance of one method (image, class, height, width), with the sums of each map, (image, class)."""

    relevance: np.ndarray
    expected: np.ndarray | None
    residual: np.ndarray | None
    allowed: np.ndarray | None
    """Largest residual within the method's tolerance."""


def explain_classes(analyzer: Analyzer, images: Tensor, classes: np.ndarray, *, is_all: bool = False) -> ClassMaps:
    """Compute the maps of images for the `classes` of each, (image, class), summed over channels.

    With `is_all`, `classes` are all classes in their order, and the target "all" lets them share forward passes.
    """
    size = max(1, VALUES_PER_CALL // images[0].numel())
    parts = []
    for start in range(0, len(images), size):
        part, own = images[start : start + size], classes[start : start + size]
        targets = ["all"] if is_all else [_target(column) for column in own.T]
        explained = [analyzer.explain(part, target) for target in targets]
        axis = 2 if is_all else 1  # the channels: relevance is (image, class, channel, …) for "all"
        maps = [one.relevance.sum(axis).cpu().float() for one in explained]
        sums = [(one.expected, one.residual, one.allowed) for one in explained]
        parts.append(
            (maps[0], *sums[0])
            if is_all
            else (torch.stack(maps, 1), *(_stacked(side) for side in zip(*sums, strict=True)))
        )
    relevance, *sides = (_joined(side) for side in zip(*parts, strict=True))
    assert relevance is not None
    return ClassMaps(relevance, *sides)


def _target(column: np.ndarray) -> int | Tensor:
    """Return one class for all images, or one per image."""
    return int(column[0]) if (column == column[0]).all() else torch.from_numpy(column.astype(np.int64))


def _stacked(values: tuple[Tensor | None, ...]) -> Tensor | None:
    """Stack one tensor per class to (image, class); None if the method promises no sum."""
    present = [value for value in values if value is not None]
    return torch.stack(present, 1) if present else None


def _joined(values: tuple[Tensor | None, ...]) -> np.ndarray | None:
    present = [value.cpu() for value in values if value is not None]
    return torch.cat(present).numpy() if present else None


def stored_maps(
    explained: Mapping[str, ClassMaps],
    images: np.ndarray,
    classes: np.ndarray,
    logits: Tensor,
    *,
    limits: tuple[int, int],
    size: tuple[int, int] | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Pack maps by method, downsampled and quantized, with the numbers that belong to them.

    `images` are (image, channel, height, width) in [0, 1], `classes` (image, class), and `limits` the maximum number of
    values of all maps together and the maximum length of the longer side of the stored images. `size` is the height and
    width of the stored maps; None for the largest that fits.
    """
    height, width = images.shape[-2:]
    # all maps share one limit, so many methods or classes make each map smaller
    size = size or fitting_size((height, width), len(explained) * classes.size, limits[0])
    source = _source(images, limits[1])
    is_small = source.shape[-2:] == size == (height, width)
    own = logits.float().numpy()
    rows = np.arange(len(classes))[:, None]
    numbers = {
        "methods": list(explained),
        "logits": own[rows, classes].tolist(),
        "probabilities": logits.float().softmax(1).numpy()[rows, classes].tolist(),
        "expected": {name: _listed(one.expected) for name, one in explained.items()},
        "residual": {name: _listed(one.residual) for name, one in explained.items()},
        "allowed": {name: _listed(one.allowed) for name, one in explained.items()},
        "total": {
            name: None if one.expected is None else _listed(one.relevance.sum((2, 3), dtype=np.float64))
            for name, one in explained.items()
        },
        "shrunk_from": None if is_small else [height, width],
    }
    return {"source": source, **_packed(explained.values(), classes.shape, size)}, numbers


def _packed(maps: Iterable[ClassMaps], shape: tuple[int, ...], size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Downsample the maps to `size` and quantize them; `shape` is (image, class), used if no method applies."""
    packed = [quantised(shrunk(one.relevance, size)) for one in maps]
    if not packed:
        return {"maps": np.zeros((0, *shape, *size), np.int8), "scales": np.zeros((0, *shape), np.float32)}
    values, scales = zip(*packed, strict=True)
    return {"maps": np.stack(values), "scales": np.stack(scales)}


def _source(images: np.ndarray, most: int) -> np.ndarray:
    """Return the images (image, channel, height, width) as bytes, larger ones downsampled by averaging areas."""
    height, width = images.shape[-2:]
    share = min(1.0, most / max(height, width))
    size = max(1, round(height * share)), max(1, round(width * share))
    means = shrunk(images, size) * (size[0] * size[1] / (height * width))  # `shrunk` preserves sums, images need means
    return np.rint(means * 255).clip(0, 255).astype(np.uint8)


def _listed(values: np.ndarray | None) -> list[list[float]] | None:
    # Seven digits: all that float32 holds, without the noise digits of its conversion to float64.
    return None if values is None else [[float(f"{value:.7g}") for value in row] for row in values]
