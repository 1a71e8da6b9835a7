"""The input of a metric: a frozen model, its images, and the method under test."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields
from functools import cached_property
from itertools import islice
from types import UnionType
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from pellucid.attribution import Analyzer
from pellucid.attribution._baselines import is_per_image
from pellucid.attribution.input import Control
from pellucid.core.errors import PellucidError
from pellucid.core.seeding import generator
from pellucid.engine.model import LARGEST_TENSOR_BYTES, images_per_chunk

__all__ = [
    "KINDS",
    "Case",
    "Explainer",
    "Kind",
    "Output",
    "Retrain",
    "UselessExplanation",
    "label_of",
    "per_place",
    "with_options",
]

T = TypeVar("T")

IMAGES_AT_ONCE = 128
"""Larger batches of a small network exceed the cache and take longer per image."""

Output = Literal["logit", "probability", "is_right"]
"""Output of the explained class to measure; `is_right` is 1 if that class has the largest logit, else 0."""
Kind = Literal["table", "signal", "image", "volume"]
"""Kind of input by its axes: (batch, feature), (batch, channel, time), (batch, channel, height, width) or (batch,
channel, depth, height, width)."""
KINDS: dict[int, Kind] = {2: "table", 3: "signal", 4: "image", 5: "volume"}
"""The kinds by their number of axes."""
Retrain = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Maps training images, their labels and test images to the test logits of a network retrained on the first two."""


class UselessExplanation(PellucidError):
    """An explanation that cannot be measured: not finite, or not shaped like the images."""


# not frozen: the targets are set after the first forward pass
@dataclass(eq=False)
class Case:
    """The images, the explained classes and the network of an evaluation; all draws depend only on `seed`."""

    model: nn.Module
    """In eval mode, without parameter gradients."""
    images: Tensor
    """(image, channel, height, width) floats in [0, 1], on the model's device and in its dtype; or signals, volumes or
    tables (see `Kind`)."""
    targets: Tensor
    """(image,): the explained classes."""
    masks: Tensor | None = None
    """(image, height, width) booleans: the ground truth of where the relevance should be; one per place of other kinds
    of input."""
    seed: int = 0
    training: tuple[Tensor, Tensor] | None = None
    """Images and labels to retrain networks on."""
    retrain: Retrain | None = None
    _shared: dict[Any, Any] = field(default_factory=dict, repr=False)

    def shared(self, key: Any, make: Callable[[], T]) -> T:
        """Return the result of `make`, computed once and shared by all methods."""
        if key not in self._shared:
            self._shared[key] = make()
        value: T = self._shared[key]
        return value

    def generator(self, *place: int | str) -> torch.Generator:
        """Return the random generator for one use in the program; it is the same for all methods."""
        return generator(self.seed, "evaluation", *place)

    def draw(self, *place: int | str, count: int, is_uniform: bool = False) -> Tensor:
        """Draw (count, *shape of an image) noise, N(0, 1) or uniform in [−1, 1]; the same for every image."""
        # drawn on the CPU in float32, so that the noise is the same for every device and dtype
        source, shape = self.generator(*place), (count, *self.images.shape[1:])
        like: Any = {"generator": source, "dtype": torch.float32, "device": "cpu"}
        noise = torch.rand(shape, **like) * 2 - 1 if is_uniform else torch.randn(shape, **like)
        return noise.to(self.images)

    @cached_property
    def chunk(self) -> int:
        """Number of images per forward pass."""
        return min(images_per_chunk(self.model, self.images), IMAGES_AT_ONCE)

    def predict(self, images: Tensor, model: nn.Module | None = None) -> Tensor:
        """Compute the (batch, class) logits, in chunks."""
        with torch.no_grad():
            # cloned, because a model may modify its input in place
            return torch.cat([(model or self.model)(part.clone()) for part in images.split(self.chunk)])

    @cached_property
    def logits(self) -> Tensor:
        """(image, class): the logits of the unmodified images."""
        return self.predict(self.images)

    def read(self, logits: Tensor, output: Output = "logit", which: Tensor | slice = slice(None)) -> Tensor:
        """Select the explained class's (image,) `output` from the logits of the (modified) images `which`."""
        targets = self.targets[which]
        if output == "is_right":
            return (logits.argmax(1) == targets).to(logits.dtype)
        values = logits.softmax(1) if output == "probability" else logits
        return values.gather(1, targets[:, None])[:, 0]

    def score(self, images: Tensor, output: Output = "logit") -> Tensor:
        """Compute the explained class's (image,) `output` for modified images of this case."""
        return self.read(self.predict(images), output)


class Explainer:
    """A method under test, applied to a case's model or to another one."""

    def __init__(self, analyzer: Analyzer, case: Case) -> None:
        self.analyzer, self.case = analyzer, case
        self.label = label_of(analyzer)

    def __call__(self, images: Tensor, targets: Tensor, model: nn.Module | None = None) -> Tensor:
        """Return the relevance, shaped like the images; raise `UselessExplanation` for invalid maps."""
        analyzer = self.analyzer
        if isinstance(analyzer.method, Control):
            relevance = analyzer.method.draw(images)  # controls ignore the network, so skip its forward pass
        else:
            # metrics that rewrite or reinitialize the model explain the changed copy
            analyzer = analyzer if model is None else Analyzer(analyzer.method, model, name=analyzer.name)
            relevance = analyzer.analyze(images, targets).detach()
        if relevance.shape != images.shape:
            raise UselessExplanation(
                f"{self.label} returns maps of shape {tuple(relevance.shape)} for images of shape "
                f"{tuple(images.shape)}; choose a method that explains pixels."
            )
        if not torch.isfinite(relevance).all():
            raise UselessExplanation(
                f"{self.label} returns relevance that is not finite; check the model, or omit the method."
            )
        return relevance

    def near(self, variants: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield each variant of the case's images with its relevance; several are explained per call."""
        images, targets = self.case.images, self.case.targets
        # as many variants as fit in the memory limit for one tensor
        at_once = max(1, LARGEST_TENSOR_BYTES // (images.numel() * images.element_size()))
        if self.has_baselines:
            at_once = 1
        remaining = iter(variants)
        while group := list(islice(remaining, at_once)):
            relevance = self(torch.cat(group), targets.repeat(len(group)))
            yield from zip(group, relevance.split(len(images)), strict=True)

    @property
    def has_baselines(self) -> bool:
        """True if the method holds one baseline per image, so that batches of variants would not match it."""
        return is_per_image(getattr(self.analyzer.method, "baseline", None), self.case.images)

    @cached_property
    def relevance(self) -> Tensor:
        """The relevance of the case's images, computed once for all metrics."""
        return self(self.case.images, self.case.targets)

    @property
    def pixels(self) -> Tensor:
        """(image, height, width): the relevance summed over channels; one value per place of other kinds of input."""
        return per_place(self.relevance)


def per_place(values: Tensor) -> Tensor:
    """Sum values over the channels: one per time, pixel or voxel. The features of a table are places themselves.

    >>> per_place(torch.ones(1, 3, 2)), per_place(torch.ones(1, 3))
    (tensor([[3., 3.]]), tensor([[1., 1., 1.]]))
    """
    return values.sum(1) if values.ndim > 2 else values


def label_of(analyzer: Analyzer) -> str:
    """Return the method's name with its non-default options, except tensors and other long ones.

    >>> from pellucid.attribution import create_analyzer
    >>> label_of(create_analyzer("integrated_gradients", nn.Linear(2, 2), steps=8))
    'integrated_gradients(steps=8)'
    """
    return with_options(analyzer.name, analyzer.method, int | float | str | bool)


def with_options(name: str, options: Any, kinds: type | UnionType = object) -> str:
    """Append the non-default options of these kinds to a name; `options` is a dataclass."""
    defaults = type(options)()
    values = {option.name: getattr(options, option.name) for option in fields(options) if option.init}
    changed = [
        f"{option}={value}"
        for option, value in values.items()
        if isinstance(value, kinds) and value != getattr(defaults, option)
    ]
    return f"{name}({', '.join(changed)})" if changed else name
