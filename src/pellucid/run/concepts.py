"""`pellucid.concepts`: reference images for the channels of a layer, found in a data set."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn

from pellucid.attribution import Analyzer, without_warnings
from pellucid.attribution._together import images_per_pass
from pellucid.core.errors import ConfigError, DataError, PellucidError, UnsupportedOperation
from pellucid.core.options import Range, check_argument
from pellucid.core.preprocessing import Preprocessing
from pellucid.core.terminal import track
from pellucid.data._each import Read, read_each
from pellucid.diagnostics import Concepts
from pellucid.diagnostics._references import Batch, collect
from pellucid.engine.inputs import check_is_model
from pellucid.engine.model import device_of, dtype_of, unwrap
from pellucid.engine.wrapping import Network
from pellucid.models._adapted import adapted
from pellucid.models._preprocessing import choose_preprocessing, find_classes
from pellucid.run.given import channels_of, receive
from pellucid.run.observation import check_precision
from pellucid.run.to_disk.request import ALL, LABEL, PREDICTED, analyzers_for, resolve_target
from pellucid.run.to_disk.source import Source, floats_of, labels_of

__all__ = ["concepts"]

METHODS = ("lrp.epsilon_plus_flat", "lrp.epsilon")
"""Methods that are tried in turn by default, until one applies to the model."""


def concepts(
    model: Network,
    data: Any,
    layer: str,
    *,
    method: str | Analyzer | None = None,
    target: int | str = "predicted",
    classes: Sequence[str] | None = None,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
    preprocess: Any = None,
    limit: int | None = None,
    count: int = 8,
    axis: int | None = None,
) -> Concepts:
    """Find out what the channels of a layer stand for: the images on which each is most relevant, and most active.

    Takes one forward pass per image, and one backward pass over the part of the network above the layer. Only the
    strongest images of each channel are remembered, so a data set of any size fits; it is read again for the references
    that are shown.

    Args:
        model: as for `explain`; it is neither changed nor copied.
        data: a data set with a length and items by index, a `DataLoader`, or a pair (images, labels), as for
            `explain_to_disk`; or images alone, (image, channel, height, width). Labels may be missing.
        layer: name of a layer, as in `model.named_modules()`; `"relu@1"` is the second call of a module.
        method: name of a method with rules, or an analyzer of this model. Default: "lrp.epsilon_plus_flat", or
            "lrp.epsilon" if that does not apply.
        target: the explained class of each image: "predicted", "label" (its class in the data), or one class, by
            index or name.
        classes: class names by index. Default: those of the model's library or of the data.
        mean: with `std`, the normalization of the model's input, as for `explain`.
        std: see `mean`.
        preprocess: preprocessing of files and PIL images, as for `explain`.
        limit: number of images, evenly spaced over the data set. Default: all.
        count: number of reference images per channel.
        axis: channel axis of the layer's output. Default: 1. Outputs with three axes may be (batch, channel, length),
            axis=1, or (batch, token, feature), axis=-1, and need it.

    Returns `Concepts`: `references(channel)`, `explain(images)`, `figure(channels)`.

    Raises `DataError` for data that cannot be used, `ConfigError` and `UnknownName` for invalid choices, and
    `UnsupportedOperation` if the method does not apply.

    Source: Achtibat et al., "From attribution maps to human-understandable explanations through concept relevance
    propagation", 2023.

    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    >>> found = concepts(model, torch.rand(20, 1, 8, 8), "1")
    >>> found.channels, found.references(int(found.mean_relevance.sum(0).argmax())).crops[0].shape
    (4, torch.Size([1, 3, 3]))
    """
    check_argument("concepts", "count", count, Annotated[int, Range(1)])
    check_argument("concepts", "limit", limit, Annotated[int, Range(1)] | None)
    check_argument("concepts", "target", target, int | str)
    inside = unwrap(model)
    check_is_model(inside)
    check_precision(inside)
    if isinstance(method, Analyzer) and unwrap(method.model) is not inside:
        raise ConfigError(f"{method!r} explains another model; create the analyzer with the model itself.")
    steps = choose_preprocessing(inside, mean=mean, std=std, preprocess=preprocess)
    names = classes if classes is not None else find_classes(inside)
    given = (data, torch.full((len(data),), -1)) if isinstance(data, Tensor | np.ndarray) else data
    channels = channels_of(inside, steps)
    source = Source.of(given, steps, names, channels if channels in (1, 3) else None, limit)
    if target == ALL:
        raise ConfigError("target='all' is not possible here; explain 'predicted', 'label' or one class.")
    if target == LABEL and not source.has_labels:
        raise ConfigError(f"target is 'label', but {source.images.name} has no labels; explain the predicted class.")
    undone = steps if isinstance(steps, Preprocessing) else Preprocessing()
    images = _Images(source, adapted(inside, undone))
    analyzer, outputs = _analyzer(images, layer, method, axis)
    names = source.matched.names
    if names is not None and len(names) < outputs:
        raise ConfigError(f"classes has {len(names)} names, but the model has {outputs} classes; give one per class.")
    images.target = resolve_target(target, names or (), outputs)
    with track(f"collecting references of {layer}", source.count) as tracker:
        collected = collect(analyzer, layer, images.batches(analyzer), count=count, axis=axis, advanced=tracker.update)
    return Concepts.of(
        collected,
        analyzer,
        layer,
        images.read,
        classes=names,
        notes=images.notes(),
        receive=lambda given: receive(inside, given, steps).inputs,
    )


@dataclass(eq=False)
class _Images:
    """The images of a data set, as inputs of the model."""

    source: Source
    model: nn.Module
    """The model as a function of displayed images."""
    target: int | str = PREDICTED
    skipped: Counter[str] = field(default_factory=Counter)
    """Number of images that were left out, by reason."""

    def batches(self, analyzer: Analyzer) -> Iterator[Batch]:
        """Yield the images in batches; those that cannot be read, or lack the label to explain, are left out."""
        size = images_per_pass([analyzer], self._floats([self.source.first]))
        for start in range(0, self.source.count, size):
            rows = range(start, min(start + size, self.source.count))
            reads = [read for read in self.source.read(rows) if self._is_usable(read)]
            if reads:
                indices = torch.tensor([read.index for read in reads])
                yield Batch(indices, self._floats(reads), self._targets(reads))

    def _is_usable(self, read: Read) -> bool:
        reason = "that cannot be read" if read.pixels is None else ""
        if not reason and self.target == LABEL and read.label is None:
            reason = "without a label"
        self.skipped[reason] += 1
        return not reason

    def _targets(self, reads: Sequence[Read]) -> Tensor | int | None:
        if isinstance(self.target, int):
            return self.target
        return torch.from_numpy(labels_of(reads)) if self.target == LABEL else None

    def _floats(self, reads: Sequence[Read]) -> Tensor:
        return floats_of(reads, dtype_of(self.model), device_of(self.model))

    def read(self, indices: Sequence[int]) -> Tensor:
        """Read images by their positions in the data set, in any order: (image, channel, height, width)."""
        source, wanted = self.source, sorted(set(indices))
        found = read_each(source.images, wanted, source.convert, source.image_shape, source.matched.index)
        by_index = {read.index: self._floats([read]) for read in found if read.pixels is not None}
        if missing := [index for index in wanted if index not in by_index]:
            raise DataError(f"image {missing[0]} of {source.images.name} cannot be read any more.")
        return torch.cat([by_index[index] for index in indices])

    def notes(self) -> tuple[str, ...]:
        """Say which images were left out."""
        return tuple(
            f"left out: {count:,} {'image' if count == 1 else 'images'} {reason}"
            for reason, count in self.skipped.items()
            if reason
        )


def _analyzer(images: _Images, layer: str, method: str | Analyzer | None, axis: int | None) -> tuple[Analyzer, int]:
    """Return the analyzer and the number of classes, after explaining the first image.

    By default, it is the first method that applies.
    """
    x = images._floats([images.source.first])
    refused: PellucidError | None = None
    for wanted in METHODS if method is None else (method,):
        (analyzer,) = analyzers_for(images.model, [wanted]).values()
        try:
            with without_warnings():
                logits = analyzer.explain_channels(x, layer, channels=1, axis=axis).at_layer.logits
        except UnsupportedOperation as error:
            refused = refused or error
        else:
            return analyzer, logits.shape[1] if logits.ndim == 2 else 1
    assert refused is not None
    raise refused
