"""Test images explained by every method for every class, to be leafed through."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from pellucid.attribution import Analyzer
from pellucid.attribution._explanation import without_warnings
from pellucid.core.contracts import Artifact
from pellucid.core.errors import PellucidError
from pellucid.engine.freezing import dtype_of
from pellucid.evaluation import DEFAULT_METHODS
from pellucid.hooks import HOOKS
from pellucid.hooks._answers import answers, by_loss
from pellucid.hooks._hook import Hook, Scene
from pellucid.hooks._methods import THRIFTY, ready
from pellucid.hooks._quantised import fitting_size, quantised, shrunk

__all__ = ["Gallery"]

LARGEST_MAPS = 4_000_000
"""At most so many values of all maps together; larger maps are shrunk."""
LARGEST_SOURCE = 128
"""Pixels of the longer side, at most, of the images beside the maps."""
VALUES_PER_CALL = 1_600_000
"""Images of about so many values are explained at once."""


@dataclass(frozen=True)
class _Maps:
    """What one method says: relevance (image, class, height, width), and what each map should and does sum to."""

    relevance: np.ndarray
    expected: np.ndarray | None
    residual: np.ndarray | None


@HOOKS.register("gallery")
@dataclass(frozen=True)
class Gallery(Hook):
    """Maps of test images by several methods, for up to ten classes each, as bytes with their scales."""

    when: ClassVar[Literal["epoch", "end"]] = "end"

    images: int = 20
    """At most so many: half of them firsts of their classes, then those with the largest loss."""
    classes: int = 10
    """At most so many classes: all, or those that the images belong to or are taken for, and the likeliest others."""

    def run(self, scene: Scene) -> Iterable[Artifact]:
        """The arrays `source`, `maps` and `scales`, and the numbers.

        `source` (image, channel, height, width) uint8; `maps` (method, image, class, height, width) int8, channels
        summed; `scales` (method, image, class) float32, the relevance that 127 stands for. `expected`, `residual` and
        `total` hold for each method what each map should sum to, the difference, and its sum (image × class; None
        where the method promises no sum). `refused` tells which methods do not apply to the model, and why. Large
        images are shrunk by area, maps so that their sums stay; `shrunk_from` is then their height and width.
        """
        indices, classes = _chosen(scene, self.images, self.classes)
        if not indices:
            return
        told = answers(scene, indices)
        found, refused = _explain(scene, indices, classes)
        *_, height, width = scene.test.image_shape
        size = fitting_size((height, width), len(found) * len(indices) * len(classes), LARGEST_MAPS)
        packed = [quantised(shrunk(one.relevance, size)) for one in found.values()]
        empty = (0, len(indices), len(classes))
        source = _source(scene, indices)
        is_small = source.shape[-2:] == size == (height, width)
        note = f", maps shrunk from {height}×{width} to {size[0]}×{size[1]} with their sums kept"
        logits = scene.logits[indices].float()
        numbers: dict[str, Any] = {
            **told.numbers,
            "methods": list(found),
            "classes": classes,
            "logits": logits[:, classes].tolist(),
            "probabilities": logits.softmax(1)[:, classes].tolist(),
            "expected": {name: _listed(one.expected) for name, one in found.items()},
            "residual": {name: _listed(one.residual) for name, one in found.items()},
            "total": {
                name: None if one.expected is None else _listed(one.relevance.sum((2, 3), dtype=np.float64))
                for name, one in found.items()
            },
            "shrunk_from": None if is_small else [height, width],
            "options": {name: THRIFTY[name] for name in found if name in THRIFTY},
            "refused": refused,
        }
        yield Artifact(
            caption=f"{scene.title}: {len(indices)} test images explained by {len(found)} methods for "
            f"{len(classes)} classes{'' if size == (height, width) else note}.",
            arrays={
                "source": source,
                "maps": np.stack([values for values, _ in packed]) if packed else np.zeros((*empty, *size), np.int8),
                "scales": np.stack([scales for _, scales in packed]) if packed else np.zeros(empty, np.float32),
            },
            numbers=numbers,
        )


def _chosen(scene: Scene, images: int, at_most: int) -> tuple[list[int], list[int]]:
    """Test images and classes, such that each image's true and predicted class is among the classes.

    Half of the images are firsts of their classes, spread over the classes; the others have the largest losses.
    """
    predictions = scene.logits.argmax(1).tolist()
    firsts = scene.first_of_each_class(len(scene.classes))
    half = min(images // 2, len(firsts))
    spread = [firsts[n * len(firsts) // half] for n in range(half)]
    chosen: list[int] = []
    used: Counter[int] = Counter()
    for index in dict.fromkeys([*spread, *by_loss(scene)[0]]):
        own = {int(scene.test.labels[index]), predictions[index]}
        if len(used.keys() | own) <= at_most:
            chosen.append(index)
            used.update(own)
        if len(chosen) == images:
            break
    if not chosen:
        return [], []
    if len(scene.classes) <= at_most:
        return chosen, list(range(len(scene.classes)))
    likeliest = scene.logits[chosen].float().softmax(1).mean(0).argsort(descending=True, stable=True).tolist()
    by_use = [label for label, _ in used.most_common()]
    return chosen, list(dict.fromkeys([*by_use, *likeliest]))[:at_most]


def _explain(scene: Scene, indices: list[int], classes: list[int]) -> tuple[dict[str, _Maps], dict[str, str]]:
    """The maps by method, and why the other methods do not apply."""
    images = scene.test.floats(indices).to(scene.device, dtype_of(scene.model))
    found, refused = {}, {}
    for name in scene.methods or DEFAULT_METHODS:
        try:
            with without_warnings():  # the residuals stand in the numbers
                analyzer = ready(scene, name, **THRIFTY.get(name, {}))
                found[name] = _maps(analyzer, images, classes, is_all=len(classes) == len(scene.classes))
        except PellucidError as error:
            refused[name] = str(error)
    return found, refused


def _maps(analyzer: Analyzer, images: torch.Tensor, classes: list[int], *, is_all: bool) -> _Maps:
    """The maps of every image for every class: in as few runs of the network as the method needs."""
    size = max(1, VALUES_PER_CALL // images[0].numel())
    parts = []
    for part in images.split(size):
        explained = [analyzer.explain(part, "all")] if is_all else [analyzer.explain(part, label) for label in classes]
        axis = 2 if is_all else 1
        own = [one.relevance.sum(axis).cpu().float() for one in explained]
        sums = [(one.expected, one.residual) for one in explained]
        parts.append(
            (own[0], *sums[0])
            if is_all
            else (torch.stack(own, 1), *(_stacked(side) for side in zip(*sums, strict=True)))
        )
    relevance, expected, residual = (_joined(side) for side in zip(*parts, strict=True))
    assert relevance is not None
    return _Maps(relevance, expected, residual)


def _stacked(values: tuple[torch.Tensor | None, ...]) -> torch.Tensor | None:
    """One per class to (image, class)."""
    present = [value for value in values if value is not None]
    return torch.stack(present, 1) if present else None


def _joined(values: tuple[torch.Tensor | None, ...]) -> np.ndarray | None:
    present = [value.cpu() for value in values if value is not None]
    return torch.cat(present).numpy() if present else None


def _source(scene: Scene, indices: list[int]) -> np.ndarray:
    """(image, channel, height, width) bytes; larger images are shrunk to the mean of each area."""
    images = scene.test.floats(indices).numpy()
    height, width = images.shape[-2:]
    share = min(1.0, LARGEST_SOURCE / max(height, width))
    size = max(1, round(height * share)), max(1, round(width * share))
    means = shrunk(images, size) * (size[0] * size[1] / (height * width))
    return np.rint(means * 255).clip(0, 255).astype(np.uint8)


def _listed(values: np.ndarray | None) -> list[list[float]] | None:
    return None if values is None else [[float(f"{value:.7g}") for value in row] for row in values]
