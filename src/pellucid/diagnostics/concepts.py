"""Concepts: reference images that show the meaning of a layer's channels, and explanations in terms of channels.

The method is that of Achtibat et al., "From attribution maps to human-understandable explanations through concept
relevance propagation", 2023: an image is explained by the channels that carry its relevance, and a channel by the
images of a data set on which it is most relevant (relevance maximization) or most active.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from torch import Tensor

from pellucid.attribution import Analyzer, ChannelExplanation, without_warnings
from pellucid.attribution._display import write_figure
from pellucid.attribution._target import Request
from pellucid.core.errors import ConfigError
from pellucid.core.options import Range, check_argument
from pellucid.core.showing import Shown
from pellucid.diagnostics._receptive import ReceptiveFields, receptive_fields
from pellucid.diagnostics._references import Collected, Ranking
from pellucid.engine.model import unwrap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ConceptExplanation", "Concepts", "References"]

By = Literal["relevance", "activation"]


@dataclass(frozen=True, eq=False, repr=False)
class References(Shown):
    """The images of a data set that show what a channel stands for, the strongest first."""

    channel: int
    by: By
    """How they were chosen."""
    indices: Tensor
    """(image,): positions in the data set."""
    values: Tensor
    """(image,): relevance of the channel, summed over positions, or its largest activation."""
    boxes: Tensor
    """(image, axis, 2): receptive field of the position with the largest value, as first and last index + 1 along each
    axis of the image after the channels."""
    images: Tensor
    """(image, channel, …): the whole images."""
    maps: Tensor | None = None
    """(image, channel, …): relevance that passes through the channel; None unless requested."""

    @property
    def crops(self) -> list[Tensor]:
        """The images, cropped to the receptive field: (channel, …) each, smaller at the edges of an image."""
        return [_cropped(image, box) for image, box in zip(self.images, self.boxes, strict=True)]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.indices)


def _cropped(image: Tensor, box: Tensor) -> Tensor:
    for axis, (start, stop) in enumerate(box.tolist(), start=1):
        image = image.narrow(axis, start, stop - start)
    return image


@dataclass(frozen=True, eq=False, repr=False)
class Concepts(Shown):
    """The channels of a layer, with the images of a data set that show what each stands for."""

    layer: str
    method: str
    images: int
    """Number of images of the data set."""
    channels: int
    """Number of channels of the layer."""
    relevance: Ranking = field(repr=False)
    """The images on which each channel is most relevant, (channel, rank)."""
    activation: Ranking = field(repr=False)
    """The images that activate each channel most, (channel, rank)."""
    mean_relevance: Tensor
    """(class, channel): mean relevance over the images explained for the class; 0 for classes without images."""
    explained: Tensor
    """(class,): number of images explained for each class."""
    classes: tuple[str, ...] | None = None
    """Class names by index; None if unknown."""
    notes: tuple[str, ...] = ()
    analyzer: Analyzer = field(repr=False, kw_only=True)
    read: Callable[[Sequence[int]], Tensor] = field(repr=False, kw_only=True)
    """Function that reads images of the data set, (image, channel, …), by their positions."""
    receive: Callable[[Any], Any] = field(default=lambda x: x, repr=False, kw_only=True)
    """Function that converts images passed to `explain` to the model's input."""
    axis: int = field(default=1, repr=False, kw_only=True)
    """Channel axis of the layer's output."""

    @classmethod
    def of(cls, collected: Collected, analyzer: Analyzer, layer: str, read: Any, **details: Any) -> "Concepts":
        """Return the concepts of a layer from its collected references; `details` are further fields."""
        notes: tuple[str, ...] = details.pop("notes", ())
        if collected.worst > 1:
            notes += (
                f"the relevance at {layer} misses its promised sum by up to {collected.worst:.3g} times the tolerance",
            )
        return cls(
            layer,
            collected.method,
            int(collected.images.sum()),
            len(collected.relevance.indices),
            collected.relevance,
            collected.activation,
            collected.mean_relevance,
            collected.images,
            notes=notes,
            analyzer=analyzer,
            read=read,
            axis=collected.axis,
            **details,
        )

    @cached_property
    def receptive_fields(self) -> ReceptiveFields:
        """The receptive field of each position of the layer, computed on first use."""
        return receptive_fields(unwrap(self.analyzer.model), self.read([0]), self.layer, axis=self.axis)

    def references(
        self, channel: int, by: By = "relevance", *, count: int | None = None, maps: bool = False
    ) -> References:
        """Return the images on which a channel is most relevant, or that activate it most, at most `count`.

        With `maps`, each comes with the relevance that passes through the channel, for the predicted class. Channels
        that are never relevant, or never active, have no references.

        Raises `ConfigError` for an unknown channel, and for a `count` below 1.
        """
        check_argument("references", "by", by, By)
        check_argument("references", "count", count, Annotated[int, Range(1)] | None)
        channel = _index(channel, self.channels, f"channel of {self.layer!r}")
        ranking = self.relevance if by == "relevance" else self.activation
        indices = ranking.indices[channel][: count or ranking.indices.shape[1]]
        indices = indices[indices >= 0]
        kept = slice(len(indices))
        images = self.read(indices.tolist()) if len(indices) else self.read([0])[:0]
        boxes = self.receptive_fields.boxes[ranking.positions[channel][kept]]
        found = References(channel, by, indices, ranking.values[channel][kept], boxes, images)
        if not maps or not len(indices):
            return found
        with without_warnings():
            through = self.analyzer.explain_channels(images, self.layer, channels=[channel], axis=self.axis)
        return replace(found, maps=through.maps[:, 0])

    def explain(self, images: Any, target: Request = None, *, channels: Any = 5) -> "ConceptExplanation":
        """Explain images by the channels of the layer that carry their relevance; see `Analyzer.explain_channels`.

        `target` may also be the name of a class.

        >>> import torch
        >>> from torch import nn
        >>> import pellucid
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
        >>> found = pellucid.concepts(model, (torch.rand(20, 1, 8, 8), torch.zeros(20).long()), "1")
        >>> why = found.explain(torch.rand(1, 1, 8, 8), channels=2)
        >>> why.through.maps.shape, sorted(why.references) == sorted(why.through.channels[0].tolist())
        (torch.Size([1, 2, 1, 8, 8]), True)
        """
        inputs = self.receive(images)
        if isinstance(target, str) and target != "all":
            target = self._class(target)
        through = self.analyzer.explain_channels(inputs, self.layer, target, channels=channels, axis=self.axis)
        shown = through.channels.flatten().unique().tolist()
        return ConceptExplanation(through, {channel: self.references(channel) for channel in shown}, self.classes)

    def top(self, label: int | str, count: int = 5) -> list[int]:
        """Return the channels with the largest mean relevance over the images explained as a class, largest first.

        Raises `ConfigError` for an unknown class.
        """
        check_argument("top", "count", count, Annotated[int, Range(1)])
        return self.mean_relevance[self._class(label)].argsort(descending=True, stable=True)[:count].tolist()

    def _class(self, given: int | str) -> int:
        if isinstance(given, str) and self.classes and given in self.classes:
            return self.classes.index(given)
        return _index(given, len(self.mean_relevance), "class")

    def figure(self, channels: Sequence[int], by: By = "relevance", *, count: int = 8) -> "Figure":
        """Draw the reference images of some channels, cropped to their receptive fields, one row per channel."""
        from pellucid.plots.concepts import references_figure

        if not hasattr(channels, "__len__") or not len(channels):
            raise ConfigError(f"channels is {channels!r}; expected a list of at least one channel, such as [0].")
        rows = [self.references(channel, by, count=count) for channel in channels]
        return references_figure(
            [[crop.cpu().numpy() for crop in row.crops] for row in rows],
            [str(row.channel) for row in rows],
            [self._use(row.channel) for row in rows],
            f"Channels of {self.layer}: images on which they are most {'relevant' if by == 'relevance' else 'active'}",
            f"{self.method}, {self.images:,} images. Cropped to the receptive field of the strongest position.",
        )

    def _use(self, channel: int) -> str:
        """Describe the classes for which a channel is relevant."""
        return used_for(self.mean_relevance[:, channel], self.explained, self.classes)


def _index(given: Any, count: int, what: str) -> int:
    """Return an integer of any type as an index below `count`; raises `ConfigError` for anything else."""
    try:
        index = -1 if isinstance(given, bool) else operator.index(given)
    except TypeError:
        index = -1
    if not 0 <= index < count:
        raise ConfigError(f"{given!r} is no {what}; give an index from 0 to {count - 1}.")
    return index


def used_for(relevance: Tensor, images: Tensor, classes: Sequence[str] | None) -> str:
    """Name the classes, at most three, for which a channel's mean relevance is at least half of the largest.

    >>> import torch
    >>> used_for(torch.tensor([0.1, 2.0, 1.5]), torch.tensor([3, 3, 3]), ["cat", "dog", "cow"])
    'for dog, cow'
    """
    means = relevance.masked_fill(images == 0, 0)
    largest = float(means.max())
    if largest <= 0:
        return "no evidence for any class"
    order = means.argsort(descending=True, stable=True)[:3].tolist()
    names = [classes[one] if classes else str(one) for one in order if float(means[one]) >= largest / 2]
    return f"for {'' if classes else 'class '}{', '.join(names)}"


@dataclass(frozen=True, eq=False, repr=False)
class ConceptExplanation(Shown):
    """Images explained by channels of a layer, with reference images that show what each channel stands for."""

    through: ChannelExplanation
    """Relevance of the channels, and the map of each."""
    references: Mapping[int, References] = field(repr=False)
    """Reference images of each channel."""
    classes: tuple[str, ...] | None = field(default=None, repr=False)

    def figure(self, image: int = 0, *, count: int = 5) -> "Figure":
        """Draw one explained image: for each channel its map, its share of the logit, and its reference images."""
        from pellucid.plots.concepts import concepts_figure

        through = self.through
        check_argument("figure", "count", count, Annotated[int, Range(1)])
        image = _index(image, len(through.channels), "image")
        channels = through.channels[image].tolist()
        label = int(through.target[image])
        name = "the score" if label < 0 else self.classes[label] if self.classes else f"class {label}"
        return concepts_figure(
            through.inputs[image].detach().cpu().numpy(),
            through.maps[image].detach().cpu().numpy(),
            channels,
            through.shares[image].tolist(),
            [[crop.cpu().numpy() for crop in self.references[channel].crops[:count]] for channel in channels],
            f"Why {name}: channels of {through.layer}",
            f"{through.method}. Maps: relevance that passes through each channel, with its share of the score. "
            "Right: the parts of images of the data set on which the channel is most relevant.",
        )

    def save(self, path: str | Path, *, image: int = 0) -> Path:
        """Write the figure as `.png`, `.pdf` or `.svg`, by the suffix of `path`, and return the path.

        An existing file is replaced atomically. Raises `ConfigError` for another suffix, and `WriteError` if the file
        cannot be written.
        """
        from pellucid.plots.encoding import encode

        return write_figure(path, lambda kind: encode(self.figure(image), kind), ("png", "pdf", "svg"))
