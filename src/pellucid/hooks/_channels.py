"""Channels of a layer, packed for the report: their reference images, and their relevance in explained images."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pellucid.attribution import Analyzer, without_warnings
from pellucid.core.contracts import ImageSet
from pellucid.diagnostics._receptive import ReceptiveFields
from pellucid.diagnostics._references import Collected
from pellucid.engine.conditional import sums_by_channel
from pellucid.hooks._channel_layers import ChannelLayer
from pellucid.hooks._quantised import fitting_size, quantised, shrunk
from pellucid.hooks._thumbnails import squares

__all__ = ["RANKINGS", "Explained", "References", "explain_channels", "listed", "pack_references"]

VALUES_PER_CALL = 1_600_000
"""Approximate number of input values explained at once, which bounds memory."""
LARGEST_MAPS = 1_200_000
"""Maximum number of values over all maps of a layer; larger maps are downsampled."""
LARGEST_CROPS = 1_500_000
"""Maximum number of values over all reference images of a layer, which bounds the size of the report."""
CROP_SIDE = 32
"""Maximum side of a reference image, in pixels."""
COUNTS = (8, 6, 4)
"""Numbers of reference images per channel, tried in turn until those of all channels fit."""
RANKINGS = ("relevance", "activation")


@dataclass(frozen=True, eq=False)
class Explained:
    """Relevance of a layer's channels in some images, for some classes of each."""

    relevance: np.ndarray
    """(image, class, channel)."""
    totals: np.ndarray
    """(image, class): relevance that the explanation started with, such as the logit."""
    channels: np.ndarray
    """(image, class, map): channels with the largest absolute relevance, largest first."""
    maps: np.ndarray
    """(image, class, map, height, width): relevance that passes through each, summed over the image's channels."""

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays of the artifact, with maps as bytes."""
        size = self.maps.shape[-2:]
        values, scales = quantised(shrunk(self.maps, fitting_size(size, self.channels.size, LARGEST_MAPS)))
        return {
            "relevance": self.relevance,
            "map_channels": self.channels.astype(np.int32),
            "maps": values,
            "scales": scales,
        }


def explain_channels(
    analyzer: Analyzer, layer: ChannelLayer, images: Tensor, classes: np.ndarray, count: int
) -> Explained:
    """Explain `images` for the `classes` of each, (image, class), by the channels of a layer; `count` get a map."""
    count = min(count, layer.channels)
    size = max(1, VALUES_PER_CALL // max(1, images[:1].numel()))
    columns: list[list[Tensor]] = [[], [], [], []]
    with without_warnings():  # sums are checked by `collect`
        for start in range(0, len(images), size):
            part, own = images[start : start + size], torch.from_numpy(classes[start : start + size]).long()
            found = [_through(analyzer, layer, part, target, count) for target in own.unbind(1)]
            for column, values in zip(columns, zip(*found, strict=True), strict=True):
                column.append(torch.stack(values, 1).cpu())
    if not len(images):
        shape = (0, classes.shape[1])
        sizes: list[tuple[int, ...]] = [(layer.channels,), (), (count,), (count, *images.shape[2:])]
        return Explained(*(np.zeros((*shape, *one), np.float32) for one in sizes))
    relevance, totals, channels, maps = (torch.cat(column).numpy() for column in columns)
    return Explained(relevance.astype(np.float32), totals.astype(np.float64), channels, maps.astype(np.float32))


def _through(
    analyzer: Analyzer, layer: ChannelLayer, images: Tensor, target: Tensor, count: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    sums = sums_by_channel(analyzer.explain(images, target, to=layer.name).relevance, layer.axis)
    strongest = sums.abs().argsort(dim=1, descending=True, stable=True)[:, :count]
    found = analyzer.explain_channels(images, layer.name, target, channels=strongest, axis=layer.axis)
    return found.relevance, found.total, found.channels, found.maps.sum(2)


@dataclass(frozen=True, eq=False)
class References:
    """Reference images of the channels of a layer that the report shows."""

    channels: np.ndarray
    """Indices of the channels, those with the largest mean |relevance| first."""
    arrays: dict[str, np.ndarray]
    """`crops` (crop, side, side, channel) and, for each ranking, `…_indices`, `…_values`, `…_boxes` and `…_crops`."""

    def crops(self, row: int) -> list[np.ndarray]:
        """Return the reference images of the channel in a row by relevance, (channel, side, side) each, in [0, 1]."""
        rows = self.arrays["relevance_crops"][row]
        return [crop.transpose(2, 0, 1) / 255 for crop in self.arrays["crops"][rows[rows >= 0]]]


def pack_references(
    collected: Collected, fields: ReceptiveFields, images: ImageSet, explained: Explained
) -> References:
    """Crop the reference images of a layer's channels to receptive fields, as many as `LARGEST_CROPS` allows."""
    reach = int((fields.boxes[..., 1] - fields.boxes[..., 0]).max())
    side = min(reach, CROP_SIDE)
    values = side * side * (3 if images.image_shape[0] == 3 else 1)
    every = len(collected.relevance.indices)
    fitting = [(one, LARGEST_CROPS // (len(RANKINGS) * one * values)) for one in COUNTS]
    count, most = next((pair for pair in fitting if pair[1] >= every), fitting[-1])
    chosen = _chosen(collected, explained, max(1, most))
    arrays: dict[str, np.ndarray] = {}
    crops: dict[tuple[int, ...], int] = {}
    for name in RANKINGS:
        ranking = getattr(collected, name)
        indices, own = (one[chosen, :count].numpy() for one in (ranking.indices, ranking.values))
        boxes = fields.boxes[ranking.positions[chosen, :count]].numpy()
        keys = [(int(index), *box.ravel().tolist()) for index, box in
                zip(indices.ravel(), boxes.reshape(-1, *boxes.shape[2:]), strict=True)]  # fmt: skip
        rows = [-1 if key[0] < 0 else crops.setdefault(key, len(crops)) for key in keys]
        arrays |= {
            f"{name}_indices": indices.astype(np.int32),
            f"{name}_values": own.astype(np.float32),
            f"{name}_boxes": boxes.astype(np.int32),
            f"{name}_crops": np.array(rows, np.int32).reshape(indices.shape),
        }
    return References(chosen.numpy(), {**arrays, "crops": _cropped(images, list(crops), reach, side)})


def _chosen(collected: Collected, explained: Explained, most: int) -> Tensor:
    """Return at most `most` channels: first those with maps of many images, then those with large mean |relevance|."""
    weight = (collected.mean_relevance.abs() * collected.images[:, None]).sum(0)
    uses = Counter(explained.channels.astype(int).ravel().tolist())
    order: list[int] = weight.argsort(descending=True, stable=True).tolist()
    kept = set(sorted(order, key=lambda channel: -uses[channel])[:most])
    return torch.tensor([channel for channel in order if channel in kept], dtype=torch.int64)


def _cropped(images: ImageSet, crops: list[tuple[int, ...]], reach: int, side: int) -> np.ndarray:
    """Return crops as bytes (crop, side, side, channel), all on one scale, black beyond the borders of the image.

    Each crop is the index of an image with the first and last index + 1 along its height and width. `reach` is the
    side of the largest receptive field.
    """
    channels = 3 if images.image_shape[0] == 3 else 1
    found = np.zeros((len(crops), side, side, channels), np.uint8)
    for row, (index, *box) in enumerate(crops):
        image = images.shown([index])[0]
        padded = torch.zeros(len(image), reach, reach)
        (top, bottom), (left, right) = box[:2], box[2:]
        down, across = _place(top, bottom, image.shape[1], reach), _place(left, right, image.shape[2], reach)
        padded[:, down : down + bottom - top, across : across + right - left] = image[:, top:bottom, left:right]
        found[row] = squares(padded[None], side)[0].permute(1, 2, 0).numpy()
    return found


def _place(start: int, stop: int, size: int, reach: int) -> int:
    """Return where a crop starts in its receptive field, which extends beyond the border of the image that it touches.

    >>> _place(0, 3, 9, 5), _place(6, 9, 9, 5), _place(0, 9, 9, 11)
    (2, 0, 1)
    """
    missing = reach - (stop - start)
    if (start == 0) == (stop == size):
        return missing // 2
    return missing if start == 0 else 0


def listed(values: np.ndarray) -> list[Any]:
    """Return numbers for JSON with seven digits; None for NaN and infinity."""
    return [[float(f"{one:.7g}") if np.isfinite(one) else None for one in row] for row in values]
