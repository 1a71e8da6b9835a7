"""Relevance maps of test images for every method and class, for the report's interactive gallery."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from pellucid.attribution import Analyzer
from pellucid.engine.model import dtype_of
from pellucid.hooks import HOOKS, Artifact, Hook, Scene
from pellucid.hooks._budget import Allowance
from pellucid.hooks._methods import (
    FAST_OPTIONS,
    Selection,
    affordable_methods,
    bounded_options,
    create_fitted,
    explain_each,
)
from pellucid.hooks._predictions import by_loss, predictions_of
from pellucid.hooks._quantised import fitting_size, quantised, shrunk

__all__ = ["Gallery"]

LARGEST_MAPS = 4_000_000
"""Maximum number of values over all maps, which bounds the size of the report; larger maps are downsampled."""
LARGEST_SOURCE = 128
"""Maximum length of the longer side of the source images, in pixels."""
VALUES_PER_CALL = 1_600_000
"""Approximate number of input values explained at once, which bounds memory."""

WANTED = 16
"""Number of maps per method for which a budget leaves out the most expensive methods."""


@dataclass(frozen=True)
class _Maps:
    """Relevance of one method (image, class, height, width), with the expected sum and the residual of each map."""

    relevance: np.ndarray
    expected: np.ndarray | None
    residual: np.ndarray | None


@HOOKS.register("gallery")
@dataclass(frozen=True)
class Gallery(Hook):
    """Relevance maps of test images by several methods for up to ten classes, quantized to bytes."""

    when: ClassVar[Literal["epoch", "end"]] = "end"

    images: int = 20
    """Maximum number of images: one half are the first images of their classes, the others have the largest losses."""
    classes: int = 10
    """Maximum number of classes. If there are more, the labels and predictions of the images and the most probable
    others are shown."""

    def run(self, scene: Scene) -> Iterable[Artifact]:
        """Yield the arrays `source`, `maps` and `scales` with numbers.

        `source` is (image, channel, height, width) uint8; `maps` is (method, image, class, height, width) int8, summed
        over channels; `scales` is (method, image, class) float32, the relevance that 127 represents. For each method,
        `expected`, `residual` and `total` are the promised sum of each map, the difference and the actual sum
        (image × class; None for methods that promise no sum). `refused` maps the methods that do not apply to the model
        to the reason. Large images are downsampled by area, and maps such that their sums are preserved; `shrunk_from`
        is then the original height and width.
        """
        allowance, options = Allowance(scene, "gallery"), partial(_options, scene)
        if not len(scene.test):
            return
        selection = affordable_methods(scene, allowance, options, WANTED)
        indices, classes = self._affordable(scene, allowance, selection)
        if not indices:
            if allowance.is_limited:
                yield selection.artifact(scene)
            return
        with allowance.spending():
            explained, inapplicable = _explain(scene, selection.prices, indices, classes)
        *_, height, width = scene.test.image_shape
        # all maps share one budget, so many methods or classes make each map smaller
        size = fitting_size((height, width), len(explained) * len(indices) * len(classes), LARGEST_MAPS)
        source = _source(scene, indices)
        is_small = source.shape[-2:] == size == (height, width)
        note = f", maps downsampled from {height}×{width} to {size[0]}×{size[1]} with their sums preserved"
        logits = scene.logits[indices].float()
        numbers: dict[str, Any] = {
            **predictions_of(scene, indices).numbers,
            "methods": list(explained),
            "classes": classes,
            "logits": logits[:, classes].tolist(),
            "probabilities": logits.softmax(1)[:, classes].tolist(),
            "expected": {name: _listed(one.expected) for name, one in explained.items()},
            "residual": {name: _listed(one.residual) for name, one in explained.items()},
            "total": {
                name: None if one.expected is None else _listed(one.relevance.sum((2, 3), dtype=np.float64))
                for name, one in explained.items()
            },
            "shrunk_from": None if is_small else [height, width],
            "options": {name: options(name) for name in explained if options(name)},
            "refused": selection.refused | inapplicable,
            **selection.numbers,
        }
        yield Artifact(
            caption=f"{scene.title}: {len(indices)} test images explained by {len(explained)} methods for "
            f"{len(classes)} classes{'' if size == (height, width) else note}.{_choice(scene, classes)}{selection.note}",
            arrays={"source": source, **_packed(explained.values(), (len(indices), len(classes)), size)},
            numbers=numbers,
        )

    def _affordable(self, scene: Scene, allowance: Allowance, selection: Selection) -> tuple[list[int], list[int]]:
        """Return the images and classes to explain: as many maps as can be afforded, and more images than classes."""
        images, classes = allowance.images(self.images), allowance.classes(self.classes)
        most = allowance.affordable(selection.price, images * classes, len(selection.prices) * classes)
        if not selection.prices:
            return [], []
        if most >= images * classes:
            return _chosen(scene, images, classes)
        best: tuple[list[int], list[int]] = [], []
        # an image needs the maps of its true and predicted class, so few classes can allow for few images only
        for count in range(min(2, len(scene.classes)), min(classes, len(scene.classes), most) + 1):
            option = _chosen(scene, min(images, most // count), count)
            best = max(best, option, key=lambda one: (len(one[0]) * len(one[1]), -abs(len(one[0]) - 2 * len(one[1]))))
        return best


def _options(scene: Scene, name: str) -> Mapping[str, Any]:
    return FAST_OPTIONS.get(name, {}) if scene.budget is None else bounded_options(scene, name)


def _choice(scene: Scene, classes: list[int]) -> str:
    if len(classes) >= len(scene.classes):
        return ""
    return f" Shows {len(classes)} of {len(scene.classes):,} classes: those of these images, then the most probable."


def _packed(maps: Iterable[_Maps], shape: tuple[int, int], size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Downsample the maps to `size` and quantize them; `shape` is (image, class), used if no method applies."""
    packed = [quantised(shrunk(one.relevance, size)) for one in maps]
    if not packed:
        return {"maps": np.zeros((0, *shape, *size), np.int8), "scales": np.zeros((0, *shape), np.float32)}
    values, scales = zip(*packed, strict=True)
    return {"maps": np.stack(values), "scales": np.stack(scales)}


def _chosen(scene: Scene, images: int, at_most: int) -> tuple[list[int], list[int]]:
    """Choose test images and classes so that each image's true and predicted classes are included.

    Half of the images are the first of their class, spread evenly over the classes; the others have the largest losses.
    """
    predictions = scene.logits.argmax(1).tolist()
    # half of the images are typical, the other half shows what goes wrong
    firsts = scene.first_of_each_class(len(scene.classes))
    half = min(images // 2, len(firsts))
    spread = [firsts[n * len(firsts) // half] for n in range(half)]
    chosen: list[int] = []
    used: Counter[int] = Counter()
    for index in dict.fromkeys([*spread, *by_loss(scene)[0]]):
        own = {int(scene.test.labels[index]), predictions[index]}
        # an image is only useful if the maps of its true and predicted class are shown
        if len(used.keys() | own) <= at_most:
            chosen.append(index)
            used.update(own)
        if len(chosen) == images:
            break
    if not chosen:
        return [], []
    if len(scene.classes) <= at_most:
        return chosen, list(range(len(scene.classes)))
    # fill up with the classes that the network considers most for these images
    likeliest = scene.logits[chosen].float().softmax(1).mean(0).argsort(descending=True, stable=True).tolist()
    by_use = [label for label, _ in used.most_common()]
    return chosen, list(dict.fromkeys([*by_use, *likeliest]))[:at_most]


def _explain(
    scene: Scene, names: Iterable[str], indices: list[int], classes: list[int]
) -> tuple[dict[str, _Maps], dict[str, str]]:
    """Return the maps by method, and the reason for each method that does not apply."""
    images = scene.test.floats(indices).to(scene.device, dtype_of(scene.model))

    def explain(name: str) -> _Maps:
        analyzer = create_fitted(scene, name, **_options(scene, name))
        return _maps(analyzer, images, classes, is_all=len(classes) == len(scene.classes))

    return explain_each(names, explain)


def _maps(analyzer: Analyzer, images: torch.Tensor, classes: list[int], *, is_all: bool) -> _Maps:
    """Compute the maps of every image for every class, with the target "all" where possible to share forward passes."""
    size = max(1, VALUES_PER_CALL // images[0].numel())
    parts = []
    for part in images.split(size):
        explained = [analyzer.explain(part, "all")] if is_all else [analyzer.explain(part, label) for label in classes]
        axis = 2 if is_all else 1  # the channels: relevance is (image, class, channel, …) for "all"
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
    """Stack one tensor per class to (image, class); None if the method promises no sum."""
    present = [value for value in values if value is not None]
    return torch.stack(present, 1) if present else None


def _joined(values: tuple[torch.Tensor | None, ...]) -> np.ndarray | None:
    present = [value.cpu() for value in values if value is not None]
    return torch.cat(present).numpy() if present else None


def _source(scene: Scene, indices: list[int]) -> np.ndarray:
    """Return the images (image, channel, height, width) as bytes, larger ones downsampled by averaging areas."""
    images = scene.test.shown(indices).numpy()
    height, width = images.shape[-2:]
    share = min(1.0, LARGEST_SOURCE / max(height, width))
    size = max(1, round(height * share)), max(1, round(width * share))
    means = shrunk(images, size) * (size[0] * size[1] / (height * width))  # `shrunk` preserves sums, images need means
    return np.rint(means * 255).clip(0, 255).astype(np.uint8)


def _listed(values: np.ndarray | None) -> list[list[float]] | None:
    # Seven digits: all that float32 holds, without the noise digits of its conversion to float64.
    return None if values is None else [[float(f"{value:.7g}") for value in row] for row in values]
