"""Influential training images: those that most raised or lowered the scores of the gallery's predictions."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from pellucid.core.contracts import ImageSet
from pellucid.core.errors import ConfigError, ModelError, ShapeError, UnsupportedOperation
from pellucid.core.isolation import isolated
from pellucid.core.seeding import generator
from pellucid.data._splitting import stratified
from pellucid.diagnostics import Influence, Projection, trak
from pellucid.diagnostics._gradients import Gradients, last_parameters
from pellucid.engine.model import frozen
from pellucid.hooks import HOOKS, Artifact, Hook, Scene
from pellucid.hooks._budget import Allowance
from pellucid.hooks._hook import left_out
from pellucid.hooks._predictions import predictions_of
from pellucid.hooks._thumbnails import PAGE_SIDE, thumbnails
from pellucid.hooks.gallery import shown_images
from pellucid.plots._text import class_names
from pellucid.plots.influence import influence_figure

__all__ = ["InfluentialImages"]

MOST_PARAMETERS = 400_000
"""Maximum number of parameters to differentiate; of larger networks, the last layers are used."""
GRADIENT_VALUES = 2_000_000_000
"""Maximum number of gradient values over all training images, which bounds the time."""
PIXEL_VALUES = 50_000_000
"""Maximum number of pixels of all training images, which bounds the time for large images."""
FEWEST = 2
"""Minimum number of training images."""
SHOWN = 8
"""Number of explained images in the figure."""


@HOOKS.register("influence")
@dataclass(frozen=True)
class InfluentialImages(Hook):
    """Training images with the largest influence on predictions, by TRAK at the best checkpoint."""

    when: ClassVar[Literal["epoch", "end"]] = "end"
    is_slow: ClassVar[bool] = True
    default: ClassVar[bool] = False

    images: int = 100
    """Maximum number of test images: those of the gallery, then those with the largest losses."""
    count: int = 5
    """Number of proponents and of opponents for each image."""
    dimensions: int = 1024
    """Length of the projected gradients."""

    def run(self, scene: Scene) -> Iterable[Artifact]:
        """Yield a figure with the arrays `proponents` and `opponents` (image, rank), their scores, and `thumbnails`.

        The arrays hold indices of training images, −1 where fewer have the right sign, and the scores of TRAK for the
        predicted class. `thumbnails` (image, side, side, channel) are those of the training images `shown`, whose
        `shown_labels` are among the numbers. A stratified sample of the training images is scored if all would take too
        long; `scored` and `training_images` say how many of how many.
        """
        if scene.train is None or not len(scene.train):
            yield left_out(scene, "influence is a property of training images, and none were given.")
            return
        try:
            indices, sample, result = self._scores(scene)
        except (ConfigError, ModelError, ShapeError, UnsupportedOperation) as error:
            yield left_out(scene, str(error))
            return
        if result is None:
            if indices:
                yield left_out(scene, "the budget (--budget) does not cover the gradients of two training images.")
            return
        yield self._artifact(scene, indices, sample, result)

    def _scores(self, scene: Scene) -> tuple[list[int], Tensor, Influence | None]:
        """Return the explained images, the scored training images and their influence, if the budget covers it."""
        assert scene.train is not None
        allowance = Allowance(scene, "influence")
        indices = _explained(scene, allowance, self.images)
        names = last_parameters(scene.model, MOST_PARAMETERS)
        sample = torch.zeros(0, dtype=torch.int64)
        if not indices:
            return indices, sample, None
        count, dimensions = self._affordable(scene, allowance, len(indices), names)
        if count < min(FEWEST, len(scene.train)):
            return indices, sample, None
        sample = torch.arange(len(scene.train))
        if count < len(sample):
            draw = generator(scene.seed, "influence")
            sample = sample[stratified(scene.train.labels, count, draw, all_classes=True)]
        with allowance.spending():
            result = trak(
                scene.model, [scene.model.state_dict()], scene.train.pixels[sample], scene.train.labels[sample],
                scene.test.pixels[indices], scene.logits[indices].float().argmax(1),
                projection=Projection(dimensions, seed=scene.seed), parameters=names,
                # torch's counter takes the convolutions of a batch of weights for those of one, batch times
                batch_size=1 if allowance.is_limited else None,
            )  # fmt: skip
        return indices, sample, result

    def _affordable(
        self, scene: Scene, allowance: Allowance, explained: int, names: list[str] | None
    ) -> tuple[int, int]:
        """Return the number of training images, and of dimensions, that the limits and the budget cover."""
        assert scene.train is not None
        sizes = {name: value.numel() for name, value in scene.model.named_parameters()}
        parameters = sum(sizes.values()) if names is None else sum(sizes[name] for name in names)
        pixels = scene.train.pixels[:1].numel()
        most = min(len(scene.train), GRADIENT_VALUES // max(1, parameters), PIXEL_VALUES // pixels)
        if not allowance.is_limited:
            return max(most, min(FEWEST, len(scene.train))), self.dimensions
        dimensions = min(self.dimensions, 128)
        price = allowance.price(f"gradient of {names}", lambda: _one_gradient(scene, names))
        # the Gram matrix, and the products with the explained images
        price += allowance.passes(2 * min(dimensions, parameters) * (min(dimensions, parameters) + explained))
        return allowance.affordable(price, most + explained) - explained, dimensions

    def _artifact(self, scene: Scene, indices: list[int], sample: Tensor, result: Influence) -> Artifact:
        assert scene.train is not None
        ranked = {"proponents": result.proponents(self.count), "opponents": result.opponents(self.count)}
        arrays: dict[str, np.ndarray] = {}
        for (name, one), sign in zip(ranked.items(), (1, -1), strict=True):
            has_sign = one.scores * sign > 0
            arrays[name] = torch.where(has_sign, sample[one.indices], -1).numpy()
            arrays[f"{name}_scores"] = torch.where(has_sign, one.scores, 0.0).numpy()
        shown = np.unique(np.concatenate([arrays[name].ravel() for name in ranked]))
        shown = shown[shown >= 0]
        pictures = scene.train[torch.from_numpy(shown)]
        scored, total = len(sample), len(scene.train)
        which = f"all {total:,} training images" if scored == total else f"a sample of {scored:,} of {total:,} images"
        error = result.projection_error
        some = f" of the last {result.parameters:,} parameters" if _is_partial(scene, result) else ""
        note = f"projected gradients{some}, standard error {error:.0%}" if error else f"gradients{some}"
        title = f"{scene.title}: influential training images"
        numbers = {
            **predictions_of(scene, indices).numbers,
            "method": result.method,
            "scored": scored,
            "training_images": total,
            "parameters": result.parameters,
            "dimensions": min(self.dimensions, result.parameters) if not result.projection else
            min(result.projection.dimensions, result.parameters),
            "projection_error": error,
            "seed": scene.seed,
            "shown_labels": pictures.labels.tolist(),
        }  # fmt: skip
        return Artifact(
            caption=f"{title}: those that raised or lowered the score of the predicted class most, for {len(indices)} "
            f"test images, among {which} (TRAK, best checkpoint, {note}).",
            figure=_figure(scene, indices, arrays, f"{title} (TRAK)") if len(shown) else None,
            arrays={
                **arrays,
                "shown": shown,
                "thumbnails": thumbnails(pictures, PAGE_SIDE) if len(shown) else np.zeros((0, 1, 1, 1), np.uint8),
            },
            numbers=numbers,
        )


def _explained(scene: Scene, allowance: Allowance, most: int) -> list[int]:
    """Return the test images of the gallery, then those that it explains for two classes each."""
    if not len(scene.test):
        return []
    most = min(most, allowance.images(most) if scene.budget is None else max(1, scene.budget.images // 20))
    return shown_images(scene, most)


def _one_gradient(scene: Scene, names: list[str] | None) -> None:
    assert scene.train is not None
    with isolated(), frozen(scene.model):
        source = Gradients.of(scene.model, scene.model.state_dict(), names)
        list(source.batches(scene.train.pixels[:1], scene.train.labels[:1], "margin"))


def _is_partial(scene: Scene, result: Influence) -> bool:
    return result.parameters < sum(value.numel() for value in scene.model.parameters())


def _figure(scene: Scene, indices: list[int], arrays: dict[str, np.ndarray], title: str) -> Any:
    train = scene.train
    assert train is not None
    names, rows = class_names(scene.classes, 28), indices[:SHOWN]
    training, labels, scores = [], [], []
    for name in ("proponents", "opponents"):
        places = torch.from_numpy(arrays[name][: len(rows)].ravel()).clamp_min(0)
        training.append(_shown(train, places))
        labels.append([names[label] for label in train.labels[places].tolist()])
        scores.append(arrays[f"{name}_scores"][: len(rows)])
    predictions = scene.logits[rows].float().argmax(1).tolist()
    return influence_figure(
        scene.test.shown(rows).numpy(), [names[label] for label in predictions], training, labels, scores, title
    )


def _shown(images: ImageSet, places: Tensor) -> np.ndarray:
    return images.shown(places).numpy()
