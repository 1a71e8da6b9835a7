"""Relevance maps of test images for every method and class, for the report's interactive gallery."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np

from pellucid.attribution import Analyzer
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
from pellucid.hooks._pairs import MOST_PAIRS, choose_pairs, classes_of_pairs
from pellucid.hooks._predictions import by_loss, predictions_of

__all__ = ["Gallery", "choose_images", "shown_images"]

LARGEST_MAPS = 4_000_000
"""Maximum number of values over all maps, which bounds the size of the report; larger maps are downsampled."""
LARGEST_SOURCE = 128
"""Maximum length of the longer side of the source images, in pixels."""

PAIRS_OPTIONS = {**FAST_OPTIONS, "integrated_gradients": {"tolerance": 0.05, "steps": 30}}
"""Options of the artifact `pairs`: the paths of integrated gradients end earlier, since it takes half of the time."""

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
        """Yield the arrays `source`, `maps` and `scales` with numbers; then, as `pairs`, the same for more images.

        `source` is (image, channel, height, width) uint8; `maps` is (method, image, class, height, width) int8, summed
        over channels; `scales` is (method, image, class) float32, the relevance that 127 represents. For each method,
        `expected`, `residual`, `allowed` and `total` are the promised sum of each map, the difference, the largest
        difference within the method's tolerance, and the actual sum (image × class; None for methods that promise no
        sum). `refused` maps the methods that do not apply to the model to the reason. Large images are downsampled by
        area, and maps such that their sums are preserved; `shrunk_from` is then the original height and width.

        The artifact `pairs` has up to 200 misclassified images (those with the largest loss first) and a seeded sample
        of correct ones, as far as they are not in the main artifact. `classes` are the two classes of each image: the
        predicted one, and the true one or the runner-up. `losses` are cross-entropies in nats.
        """
        allowance, options = Allowance(scene, "gallery"), partial(_options, scene)
        if not len(scene.test):
            return
        selection = affordable_methods(scene, allowance, options, WANTED)
        # under a budget, the main artifact would otherwise use all of it
        kept_back = allowance.left / 3 if allowance.is_limited else 0.0
        allowance.left -= kept_back
        indices, classes = self._affordable(scene, allowance, selection)
        if not indices:
            if allowance.is_limited:
                yield selection.artifact(scene)
            return
        explainer = _Explainer(scene, allowance, selection)
        arrays, numbers = explainer.explain(indices, np.tile(classes, (len(indices), 1)))
        allowance.left += kept_back
        size, before = arrays["maps"].shape[-2:], scene.test.image_shape[1:]
        note = f", maps downsampled from {before[0]}×{before[1]} to {size[0]}×{size[1]} with their sums preserved"
        yield Artifact(
            caption=f"{scene.title}: {len(indices)} test images explained by {len(numbers['methods'])} methods for "
            f"{len(classes)} classes{'' if size == before else note}.{_choice(scene, classes)}{selection.note}",
            arrays=arrays,
            numbers={**numbers, "classes": classes},
        )
        more = self._pairs(scene, allowance, selection, indices, arrays["maps"])
        if more:
            arrays, numbers = explainer.explain(more, classes_of_pairs(scene, more), PAIRS_OPTIONS, size)
            yield Artifact(
                caption=f"{scene.title}: {len(more)} more test images, misclassified ones first, explained by "
                f"{len(numbers['methods'])} methods for two classes each.",
                name="pairs",
                arrays=arrays,
                numbers=numbers,
            )

    def _pairs(
        self, scene: Scene, allowance: Allowance, selection: Selection, known: list[int], maps: np.ndarray
    ) -> list[int]:
        """Return the images to explain for two classes each, as many as the limits on maps and on cost allow."""
        if not len(maps) or scene.logits.shape[1] < 2:
            return []
        # fewer images rather than smaller maps than those of the main artifact
        room = LARGEST_MAPS // (2 * len(maps) * int(np.prod(maps.shape[-2:])))
        most = allowance.affordable(2 * selection.price, min(MOST_PAIRS, room), 2 * len(maps))
        return choose_pairs(scene, known, most)

    def _affordable(self, scene: Scene, allowance: Allowance, selection: Selection) -> tuple[list[int], list[int]]:
        """Return the images and classes to explain: as many maps as the budget covers, more images than classes."""
        images, classes = allowance.images(self.images), allowance.classes(self.classes)
        most = allowance.affordable(selection.price, images * classes, len(selection.prices) * classes)
        if not selection.prices:
            return [], []
        if most >= images * classes:
            return choose_images(scene, images, classes)
        best: tuple[list[int], list[int]] = [], []
        # an image needs the maps of its true and predicted class, so few classes allow only few images
        for count in range(min(2, len(scene.classes)), min(classes, len(scene.classes), most) + 1):
            option = choose_images(scene, min(images, most // count), count)
            best = max(best, option, key=lambda one: (len(one[0]) * len(one[1]), -abs(len(one[0]) - 2 * len(one[1]))))
        return best


def _options(scene: Scene, name: str, fast: Mapping[str, Mapping[str, Any]] = FAST_OPTIONS) -> Mapping[str, Any]:
    return fast.get(name, {}) if scene.budget is None else bounded_options(scene, name)


def _choice(scene: Scene, classes: list[int]) -> str:
    if len(classes) >= len(scene.classes):
        return ""
    return f" Shows {len(classes)} of {len(scene.classes):,} classes: those of these images, then the most probable."


def choose_images(scene: Scene, images: int, at_most: int) -> tuple[list[int], list[int]]:
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


def shown_images(scene: Scene, most: int) -> list[int]:
    """Return at most `most` of the explained test images: first those for many classes, then those for two each."""
    if most < 1 or not len(scene.test):
        return []
    first, _ = choose_images(scene, min(20, most), 10)
    return [*first, *choose_pairs(scene, first, most - len(first))]


@dataclass(frozen=True, eq=False)
class _Explainer:
    """Computes the maps of both artifacts with the same analyzers, since some are expensive to fit."""

    scene: Scene
    allowance: Allowance
    selection: Selection
    analyzers: dict[str, Analyzer] = field(default_factory=dict)

    def explain(
        self,
        indices: list[int],
        classes: np.ndarray,
        fast: Mapping[str, Mapping[str, Any]] = FAST_OPTIONS,
        size: tuple[int, int] | None = None,
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return the arrays and numbers of an artifact.

        `classes` is (image, class), `fast` has the options of methods without a budget, and `size` is that of the maps.
        """
        scene = self.scene
        images = scene.test.floats(indices).to(scene.device, dtype_of(scene.model))
        is_all = classes.shape[1] == len(scene.classes) and bool((classes == np.arange(classes.shape[1])).all())

        options = {name: _options(scene, name, fast) for name in self.selection.prices}

        def explain(name: str) -> ClassMaps:
            key = f"{name} {sorted(options[name].items())}"
            self.analyzers[key] = self.analyzers.get(key) or create_fitted(scene, name, **options[name])
            return explain_classes(self.analyzers[key], images, classes, is_all=is_all)

        with self.allowance.spending():
            explained, inapplicable = explain_each(self.selection.prices, explain)
        source, limits = scene.test.shown(indices).numpy(), (LARGEST_MAPS, LARGEST_SOURCE)
        arrays, numbers = stored_maps(explained, source, classes, scene.logits[indices], limits=limits, size=size)
        return arrays, {
            **predictions_of(scene, indices).numbers,
            "losses": by_loss(scene)[1][indices].tolist(),
            **numbers,
            "classes": classes.tolist(),
            "options": {name: options[name] for name in explained if options[name]},
            "refused": self.selection.refused | inapplicable,
            **self.selection.numbers,
        }
