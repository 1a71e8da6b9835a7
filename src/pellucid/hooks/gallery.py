"""Relevance maps of test images for every method and class, for the report's interactive gallery."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np

from pellucid.engine.model import dtype_of
from pellucid.hooks import HOOKS, Artifact, Hook, Scene
from pellucid.hooks._budget import Allowance
from pellucid.hooks._class_maps import ClassMaps, explain_classes, stored_maps
from pellucid.hooks._methods import (
    FAST_OPTIONS,
    Selection,
    affordable_methods,
    bounded_options,
    create_fitted,
    explain_each,
)
from pellucid.hooks._predictions import by_loss, predictions_of

__all__ = ["Gallery"]

LARGEST_MAPS = 4_000_000
"""Maximum number of values over all maps, which bounds the size of the report; larger maps are downsampled."""
LARGEST_SOURCE = 128
"""Maximum length of the longer side of the source images, in pixels."""

WANTED = 16
"""Number of maps per method for which a budget leaves out the most expensive methods."""


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
        arrays, stored = stored_maps(
            explained,
            scene.test.shown(indices).numpy(),
            np.tile(classes, (len(indices), 1)),
            scene.logits[indices],
            limits=(LARGEST_MAPS, LARGEST_SOURCE),
        )
        size, before = arrays["maps"].shape[-2:], scene.test.image_shape[1:]
        note = f", maps downsampled from {before[0]}×{before[1]} to {size[0]}×{size[1]} with their sums preserved"
        numbers: dict[str, Any] = {
            **predictions_of(scene, indices).numbers,
            **stored,
            "classes": classes,
            "options": {name: options(name) for name in explained if options(name)},
            "refused": selection.refused | inapplicable,
            **selection.numbers,
        }
        yield Artifact(
            caption=f"{scene.title}: {len(indices)} test images explained by {len(explained)} methods for "
            f"{len(classes)} classes{'' if size == before else note}.{_choice(scene, classes)}{selection.note}",
            arrays=arrays,
            numbers=numbers,
        )

    def _affordable(self, scene: Scene, allowance: Allowance, selection: Selection) -> tuple[list[int], list[int]]:
        """Return the images and classes to explain: as many maps as the budget covers, more images than classes."""
        images, classes = allowance.images(self.images), allowance.classes(self.classes)
        most = allowance.affordable(selection.price, images * classes, len(selection.prices) * classes)
        if not selection.prices:
            return [], []
        if most >= images * classes:
            return _chosen(scene, images, classes)
        best: tuple[list[int], list[int]] = [], []
        # an image needs the maps of its true and predicted class, so few classes allow only few images
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
) -> tuple[dict[str, ClassMaps], dict[str, str]]:
    """Return the maps by method, and the reason for each method that does not apply."""
    images = scene.test.floats(indices).to(scene.device, dtype_of(scene.model))
    table = np.tile(classes, (len(indices), 1))

    def explain(name: str) -> ClassMaps:
        analyzer = create_fitted(scene, name, **_options(scene, name))
        return explain_classes(analyzer, images, table, is_all=len(classes) == len(scene.classes))

    return explain_each(names, explain)
