"""For each channel of a layer, the images on which it is most relevant, and those that activate it most."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pellucid.attribution import Analyzer, without_warnings
from pellucid.core.errors import ConfigError
from pellucid.engine.conditional import sums_by_channel
from pellucid.engine.units import channel_axis

__all__ = ["Batch", "Collected", "Ranking", "collect"]

By = Literal["relevance", "activation"]


class Batch(NamedTuple):
    """Some images of a data set."""

    indices: Tensor
    """(image,): positions in the data set."""
    images: Tensor
    """(image, …): inputs of the model."""
    target: Tensor | int | None
    """The explained class of each image; None: the predicted one."""


@dataclass(frozen=True, eq=False)
class Ranking:
    """The images with the largest values of each channel, (channel, rank), the largest first.

    Only positive values count; a channel with fewer such images has index −1 at the remaining ranks.
    """

    indices: Tensor
    """Positions of the images in the data set."""
    values: Tensor
    positions: Tensor
    """Position of the largest value in the layer's output, counted in row-major order."""

    def merged(self, other: "Ranking") -> "Ranking":
        """Combine two rankings of different images; of equal values, those of this ranking come first."""
        count = self.indices.shape[1]
        values = torch.cat([self.values, other.values], 1)
        order = values.argsort(dim=1, descending=True, stable=True)[:, :count]
        pairs = ((self.indices, other.indices), (self.values, other.values), (self.positions, other.positions))
        return Ranking(*(torch.cat(pair, 1).gather(1, order) for pair in pairs))


@dataclass(frozen=True, eq=False)
class Collected:
    """What the channels of a layer respond to, over a data set."""

    relevance: Ranking
    """The images on which the relevance of the channel, summed over positions, is largest."""
    activation: Ranking
    """The images with the largest activation of the channel at one position."""
    mean_relevance: Tensor
    """(class, channel): mean relevance over the images explained for the class; 0 for classes without images."""
    images: Tensor
    """(class,): number of images explained for each class."""
    axis: int
    """Channel axis of the layer's output."""
    shape: tuple[int, ...]
    """Shape of the layer's output for one image."""
    method: str
    worst: float = 0.0
    """Largest residual of the relevance at the layer, relative to its tolerance; above 1, a sum was missed."""


@dataclass(eq=False)
class _Sums:
    """Relevance by class, added up over batches."""

    relevance: Tensor
    images: Tensor
    worst: float = field(default=0.0)


def collect(
    analyzer: Analyzer,
    layer: str,
    batches: Iterable[Batch],
    *,
    count: int = 8,
    axis: int | None = None,
    advanced: Callable[[int], None] | None = None,
) -> Collected:
    """Rank the images of a data set by the relevance and by the activation of each channel of a layer.

    Takes one forward pass per image, and one backward pass over the part of the network above the layer. `count` is the
    number of images kept per channel, and `axis` the channel axis of the layer's output, as in `Unit`. `advanced` is
    called with the number of images that are done. Positions with the largest relevance, or activation, locate the
    part of the image that the channel responds to.

    Raises `ConfigError` if there are no images.
    """
    rankings: dict[By, Ranking] = {}
    sums: _Sums | None = None
    done, shape, own_axis = 0, (), 1
    for batch in batches:
        with without_warnings():  # the worst residual is returned
            explained = analyzer.explain(batch.images, batch.target, to=layer)
        assert explained.activations is not None
        own_axis, shape = channel_axis(explained.relevance, layer, axis), tuple(explained.relevance.shape[1:])
        relevance, activation = (
            values.movedim(own_axis, 1).reshape(len(values), values.shape[own_axis], -1)
            for values in (explained.relevance, explained.activations)
        )
        by_channel = sums_by_channel(explained.relevance, own_axis)
        own: dict[By, Ranking] = {
            "relevance": _ranking(by_channel, relevance.argmax(2), batch.indices, count),
            "activation": _ranking(activation.amax(2), activation.argmax(2), batch.indices, count),
        }
        rankings = {by: rankings[by].merged(one) if rankings else one for by, one in own.items()}
        classes = explained.logits.shape[1] if explained.logits.ndim == 2 else 1
        if sums is None:
            sums = _Sums(by_channel.new_zeros(classes, by_channel.shape[1]), by_channel.new_zeros(classes))
        sums.relevance.index_add_(0, explained.target.clamp(min=0), by_channel)
        sums.images.index_add_(0, explained.target.clamp(min=0), torch.ones_like(by_channel[:, 0]))
        if explained.residual is not None and explained.allowed is not None:
            sums.worst = max(sums.worst, float((explained.residual.abs() / explained.allowed).max()))
        done += len(batch.indices)
        if advanced is not None:
            advanced(done)
    if sums is None:
        raise ConfigError("got no images; pass at least one.")
    means = (sums.relevance / sums.images.clamp(min=1)[:, None]).cpu()
    counts = sums.images.cpu().long()
    return Collected(
        rankings["relevance"], rankings["activation"], means, counts, own_axis, shape, analyzer.name, sums.worst
    )


def _ranking(values: Tensor, positions: Tensor, indices: Tensor, count: int) -> Ranking:
    """Rank the images of one batch: `values` and `positions` are (image, channel)."""
    values, positions = values.T.cpu(), positions.T.cpu()
    order = values.argsort(dim=1, descending=True, stable=True)[:, :count]
    padding = (0, count - order.shape[1])
    kept = values.gather(1, order)
    is_positive = kept > 0
    found = indices.cpu()[order].masked_fill(~is_positive, -1)
    fields = (found, kept.masked_fill(~is_positive, 0), positions.gather(1, order).masked_fill(~is_positive, 0))
    fills = (-1, 0, 0)
    pad = torch.nn.functional.pad
    return Ranking(*(pad(one, padding, value=fill) for one, fill in zip(fields, fills, strict=True)))
