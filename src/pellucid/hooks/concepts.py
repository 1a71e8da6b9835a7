"""Channels of hidden layers: what each stands for, and how much it contributes to explained images."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pellucid.attribution import Analyzer
from pellucid.core.errors import PellucidError, UnsupportedOperation
from pellucid.diagnostics._receptive import ReceptiveFields, receptive_fields
from pellucid.diagnostics._references import Batch, Collected, collect
from pellucid.diagnostics.concepts import used_for
from pellucid.engine.model import dtype_of
from pellucid.hooks import HOOKS, Artifact, Hook, Scene
from pellucid.hooks._budget import TOO_EXPENSIVE, Allowance
from pellucid.hooks._channel_layers import ChannelLayer, choose_layers
from pellucid.hooks._channels import RANKINGS, Explained, References, explain_channels, listed, pack_references
from pellucid.hooks._hook import VALUES_PER_PASS, left_out
from pellucid.hooks._methods import create_fitted
from pellucid.hooks._pairs import classes_of_pairs
from pellucid.hooks._predictions import predictions_of
from pellucid.hooks.gallery import shown_images
from pellucid.plots._text import class_names
from pellucid.plots.concepts import references_figure

__all__ = ["ChannelConcepts"]

METHODS = ("lrp.epsilon_plus_flat", "lrp.epsilon")
"""Attribution methods, tried in turn until one applies to the model."""
PIXEL_VALUES = 30_000_000
"""Maximum number of pixels of all test images, which bounds the time for large images."""
IMAGES_AT_ONCE = 500
ROWS = 12
"""Number of channels in the figure."""
PARTS = ("", "earlier")
"""Names of the artifacts of the two layers."""


@HOOKS.register("concepts")
@dataclass(frozen=True)
class ChannelConcepts(Hook):
    """Reference images and class relevance of the channels of two layers (concept relevance propagation)."""

    when: ClassVar[Literal["epoch", "end"]] = "end"
    is_slow: ClassVar[bool] = True
    default: ClassVar[bool] = False

    images: int = 60
    """Maximum number of explained test images: those of the gallery, then those with the largest losses."""
    maps: int = 6
    """Number of channels of each explained image and class that get a map."""

    def run(self, scene: Scene) -> Iterable[Artifact]:
        """Yield a figure with arrays and numbers for each of at most two layers.

        The main artifact is about the last layer with positions (see `choose_layers`), `earlier` about one before it.
        The test images are explained for their predicted class. For each of the stored `channels` (row,), those with
        the largest mean |relevance| first, and for each ranking, `relevance` (summed over positions) and `activation`
        (the largest of all positions):

        - `…_indices` (row, rank) are test images, −1 where fewer have a positive value; `…_values` are the values.
        - `…_labels` and `…_predictions` are the true and the predicted classes of these images, −1 as above.
        - `…_boxes` (row, rank, axis, 2) are receptive fields of the strongest position: first and last index + 1.
        - `…_crops` (row, rank) are rows of `crops` (crop, side, side, channel), the images cropped to these boxes.

        `mean_relevance` (class, row) is the mean over the images predicted as a class. The images `indices` are
        explained for the `classes` of each, (image, class): `channel_relevance` (image, class, channel) has all
        channels, `map_channels` (image, class, map) those with the largest |relevance|, and `maps` (image, class, map,
        height, width) int8 what passes through each to the pixels, with 127 for the value in `scales` (image, class,
        map). `totals` are the explained logits; a channel's share is its relevance divided by that. `class_images` has
        the number of images of each class, and `images` that of all.
        """
        if len(scene.test) < 2:
            if len(scene.test):
                yield left_out(scene, "layers are compared on two test images, and there is only one.")
            return
        try:
            yield from self._explained(scene)
        except PellucidError as error:
            yield left_out(scene, str(error))

    def _explained(self, scene: Scene) -> list[Artifact]:
        allowance = Allowance(scene, "concepts")
        with allowance.spending():
            layers = choose_layers(scene.model, _different(scene).to(scene.device))
        if not layers:
            return [left_out(scene, "the model has no hidden layer through which all evidence passes.")]
        refused: UnsupportedOperation | None = None
        for name in METHODS:
            try:
                work = _Work(scene, allowance, create_fitted(scene, name), tuple(layers), self)
                return list(work.artifacts())
            except UnsupportedOperation as error:
                refused = refused or error
        assert refused is not None
        raise refused


def _different(scene: Scene) -> Tensor:
    """Return two test images with different logits, if there are any."""
    logits = scene.logits.float().nan_to_num()
    other = int((logits - logits[:1]).abs().amax(1).argmax())
    return scene.test.floats([0, other if other else 1])


@dataclass(frozen=True, eq=False)
class _Work:
    """Explains the channels of the chosen layers by one method."""

    scene: Scene
    allowance: Allowance
    analyzer: Analyzer
    layers: tuple[ChannelLayer, ...]
    hook: ChannelConcepts

    def artifacts(self) -> Iterator[Artifact]:
        """Yield one artifact per layer, within the budget."""
        explained, count = self._affordable()
        if not count:
            yield left_out(self.scene, TOO_EXPENSIVE.format(name=self.analyzer.name))
            return
        indices = torch.arange(count, device="cpu") * len(self.scene.test) // count
        for part, layer in zip(PARTS, self.layers, strict=False):
            with self.allowance.spending():
                collected = collect(self.analyzer, layer.name, self._batches(indices), count=8, axis=layer.axis)
                through = explain_channels(
                    self.analyzer, layer, self._floats(explained), self._classes(explained), self.hook.maps
                )
                fields = self._fields(layer)
            yield self._artifact(part, layer, explained, (collected, through, fields))

    def _affordable(self) -> tuple[list[int], int]:
        """Return the images to explain by single channels, and the number of images to search for references."""
        scene, allowance = self.scene, self.allowance
        most = max(2, min(len(scene.test), PIXEL_VALUES // max(1, scene.test.pixels[:1].numel())))
        if not allowance.is_limited:
            return shown_images(scene, self.hook.images), most
        prices = [self._prices(layer) for layer in self.layers]
        price, maps = (sum(column) for column in zip(*prices, strict=True))
        reserved = self._field_passes if self._has_fields else 0.0
        budget = max(0.0, allowance.left - reserved)
        explained = shown_images(scene, int(min(self.hook.images, budget / 3 / max(maps, 1)))) if budget else []
        allowance.left -= reserved + maps * len(explained)
        count = allowance.affordable(price, most, 4 * len(self.layers))
        allowance.left += reserved + maps * len(explained)
        return explained, count

    def _prices(self, layer: ChannelLayer) -> tuple[float, float]:
        """Return the cost of searching one image for references of a layer, and of explaining one by its channels."""
        batch = Batch(torch.zeros(1, dtype=torch.int64), self._floats([0]), self.scene.logits[:1].argmax(1))
        key = f"{self.analyzer.name} through {layer.name}"

        def explain() -> Explained:
            return explain_channels(self.analyzer, layer, batch.images, self._classes([0]), self.hook.maps)

        return (
            self.allowance.price(key, lambda: collect(self.analyzer, layer.name, [batch], axis=layer.axis)),
            self.allowance.price(f"{key}, {self.hook.maps} maps", explain),
        )

    @property
    def _field_passes(self) -> float:
        """Upper limit of the cost of finding receptive fields, in forward passes: one per row and column and side."""
        return 2.2 * len(self.layers) * sum(self.scene.test.image_shape[1:])

    @cached_property
    def _has_fields(self) -> bool:
        return not self.allowance.is_limited or self._field_passes <= self.allowance.left / 4

    def _fields(self, layer: ChannelLayer) -> ReceptiveFields:
        image = self._floats([0])
        if self._has_fields:
            return receptive_fields(self.scene.model, image, layer.name, axis=layer.axis)
        count = torch.Size(layer.positions).numel()
        whole = torch.tensor([[0, size] for size in image.shape[2:]], dtype=torch.int64, device="cpu")
        note = "The budget (--budget) does not cover finding receptive fields; images are shown as a whole."
        return ReceptiveFields(whole.repeat(count, 1, 1), layer.positions, note)

    def _floats(self, indices: list[int] | Tensor) -> Tensor:
        return self.scene.test.floats(indices).to(self.scene.device, dtype_of(self.scene.model))

    def _batches(self, indices: Tensor) -> Iterator[Batch]:
        size = max(1, min(IMAGES_AT_ONCE, VALUES_PER_PASS // max(1, self.scene.test.pixels[:1].numel())))
        predictions = self.scene.logits.argmax(1)
        for part in indices.split(size):
            yield Batch(part, self._floats(part), predictions[part].to(self.scene.device))

    def _classes(self, indices: list[int]) -> np.ndarray:
        """Return the predicted class of each image, and its true class or the runner-up."""
        several = min(2, self.scene.logits.shape[1])
        return classes_of_pairs(self.scene, indices)[:, :several] if indices else np.zeros((0, several), np.int64)

    def _artifact(
        self, part: str, layer: ChannelLayer, explained: list[int], found: tuple[Collected, Explained, ReceptiveFields]
    ) -> Artifact:
        collected, through, fields = found
        scene, count = self.scene, int(collected.images.sum())
        stored = pack_references(collected, fields, scene.test, through)
        title = f"{scene.title}: channels of layer {layer.name}"
        of_all = "all" if count == len(scene.test) else f"{count:,} of"
        details = (
            f"{layer.sizes}, explained by {self.analyzer.name} for the predicted class of {of_all} "
            f"{len(scene.test):,} test images. {fields.note}"
        ).strip()
        numbers: dict[str, Any] = {
            **predictions_of(scene, explained).numbers,
            "classes": self._classes(explained).tolist(),
            "totals": listed(through.totals),
            "layer": layer.name,
            "shape": list(layer.shape),
            "axis": layer.axis,
            "method": self.analyzer.name,
            "images": count,
            "class_images": collected.images.tolist(),
            "image_shape": list(scene.test.image_shape),
            "is_whole": fields.are_whole,
            "worst_residual": float(f"{collected.worst:.3g}"),
            "note": fields.note,
        }
        arrays = through.arrays()
        arrays["channel_relevance"] = arrays.pop("relevance")
        arrays |= {
            "channels": stored.channels.astype(np.int32),
            "mean_relevance": collected.mean_relevance[:, stored.channels].float().numpy(),
            **stored.arrays,
            **_outcomes(scene, stored),
        }
        return Artifact(
            caption=f"{title}: {details}",
            name=part,
            figure=_figure(scene, collected, stored, title, details),
            arrays=arrays,
            numbers=numbers,
        )


def _outcomes(scene: Scene, stored: References) -> dict[str, np.ndarray]:
    """Return the true and the predicted classes of the reference images; −1 where there is no image."""
    classes = {"labels": scene.test.labels.numpy(), "predictions": scene.logits.argmax(1).numpy()}
    found = {}
    for ranking in RANKINGS:
        indices = stored.arrays[f"{ranking}_indices"]
        for name, values in classes.items():
            found[f"{ranking}_{name}"] = np.where(indices < 0, -1, values[indices]).astype(np.int32)
    return found


def _figure(scene: Scene, collected: Collected, stored: References, title: str, details: str) -> Figure | None:
    """Draw the reference images of the channels with the largest mean relevance for any class."""
    means = collected.mean_relevance
    best = means[:, stored.channels].amax(0).argsort(descending=True, stable=True)
    rows = [(row, crops) for row in best.tolist() if (crops := stored.crops(row))][:ROWS]
    if not rows:
        return None
    names = class_names(scene.classes, 28) if len(scene.classes) == len(means) else None
    channels = [int(stored.channels[row]) for row, _ in rows]
    return references_figure(
        [crops for _, crops in rows],
        [str(channel) for channel in channels],
        [used_for(means[:, channel], collected.images, names) for channel in channels],
        f"{title}, and the test images on which each is most relevant",
        f"Cropped to the receptive field of the strongest position. {details[:1].upper()}{details[1:]}",
    )
