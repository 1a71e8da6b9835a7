"""What metrics work with: a frozen model, its images, and the methods under test."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields
from functools import cached_property
from itertools import islice
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from pellucid.attribution import Analyzer
from pellucid.attribution.input import Control
from pellucid.core.errors import PellucidError, ShapeError
from pellucid.core.seeding import generator
from pellucid.engine.chunks import LARGEST_TENSOR_BYTES, images_per_chunk

__all__ = ["Case", "Explainer", "Output", "Retrain", "UselessExplanation", "check_images", "label_of"]

T = TypeVar("T")

IMAGES_AT_ONCE = 128
"""More images of a small network at once leave the cache, and each takes longer."""

Output = Literal["logit", "probability", "is_right"]
"""What of the explained class is read off the network; `is_right`: 1 where it is the largest."""
Retrain = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Training images, their labels, test images -> logits of the test images by a fresh network trained on the former."""


class UselessExplanation(PellucidError):
    """A relevance that cannot be measured: not finite, or not in the shape of the images."""


@dataclass(eq=False)
class Case:
    """Images, the classes that are explained, and the network; every draw follows from `seed` alone."""

    model: nn.Module
    """In eval mode, without parameter gradients."""
    images: Tensor
    """(image, channel, height, width) floats in [0, 1], on the model's device and in its dtype."""
    targets: Tensor
    """(image,): the class explained."""
    masks: Tensor | None = None
    """(image, height, width) booleans: where the relevance must be."""
    seed: int = 0
    training: tuple[Tensor, Tensor] | None = None
    """Images and labels that networks may be trained on anew."""
    retrain: Retrain | None = None
    _shared: dict[Any, Any] = field(default_factory=dict, repr=False)

    def shared(self, key: Any, make: Callable[[], T]) -> T:
        """What `make` returns, computed once for all methods."""
        if key not in self._shared:
            self._shared[key] = make()
        value: T = self._shared[key]
        return value

    def generator(self, *place: int | str) -> torch.Generator:
        """Random numbers for one place of the program: the same for all methods."""
        return generator(self.seed, "evaluation", *place)

    def draw(self, *place: int | str, count: int, is_uniform: bool = False) -> Tensor:
        """(count, channel, height, width): N(0, 1), or uniform in [−1, 1]; the same for every image."""
        source, shape = self.generator(*place), (count, *self.images.shape[1:])
        like: Any = {"generator": source, "dtype": torch.float32, "device": "cpu"}
        noise = torch.rand(shape, **like) * 2 - 1 if is_uniform else torch.randn(shape, **like)
        return noise.to(self.images)

    @cached_property
    def chunk(self) -> int:
        """So many images go through the model at once."""
        return min(images_per_chunk(self.model, self.images), IMAGES_AT_ONCE)

    def predict(self, images: Tensor, model: nn.Module | None = None) -> Tensor:
        """(batch, class): the logits, in chunks."""
        with torch.no_grad():
            return torch.cat([(model or self.model)(part.clone()) for part in images.split(self.chunk)])

    @cached_property
    def logits(self) -> Tensor:
        """(image, class): of the images themselves."""
        return self.predict(self.images)

    def read(self, logits: Tensor, output: Output = "logit", which: Tensor | slice = slice(None)) -> Tensor:
        """(image,): what `output` says, from the logits of (changed) images of this case, those of `which`."""
        targets = self.targets[which]
        if output == "is_right":
            return (logits.argmax(1) == targets).to(logits.dtype)
        values = logits.softmax(1) if output == "probability" else logits
        return values.gather(1, targets[:, None])[:, 0]

    def score(self, images: Tensor, output: Output = "logit") -> Tensor:
        """(image,): what the network says of the explained class on changed images of this case."""
        return self.read(self.predict(images), output)


class Explainer:
    """A method under test, on a case's model or on another one."""

    def __init__(self, analyzer: Analyzer, case: Case) -> None:
        self.analyzer, self.case = analyzer, case
        self.label = label_of(analyzer)

    def __call__(self, images: Tensor, targets: Tensor, model: nn.Module | None = None) -> Tensor:
        """The relevance, like the images; `UselessExplanation` where it is not finite or has another shape."""
        analyzer = self.analyzer
        if isinstance(analyzer.method, Control):
            relevance = analyzer.method.draw(images)  # whatever the network: it need not run
        else:
            analyzer = analyzer if model is None else Analyzer(analyzer.method, model, name=analyzer.name)
            relevance = analyzer.analyze(images, targets).detach()
        if relevance.shape != images.shape:
            raise UselessExplanation(
                f"{self.label} explains in the shape {tuple(relevance.shape)}, and the images are "
                f"{tuple(images.shape)}; choose a method that explains pixels."
            )
        if not torch.isfinite(relevance).all():
            raise UselessExplanation(
                f"{self.label} gives relevances that are not finite; check the model, or leave it out."
            )
        return relevance

    def near(self, variants: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Each variant of the case's images with its relevance; several are explained in one call."""
        images, targets = self.case.images, self.case.targets
        at_once = max(1, LARGEST_TENSOR_BYTES // (images.numel() * images.element_size()))
        if self._has_baselines:
            at_once = 1
        remaining = iter(variants)
        while group := list(islice(remaining, at_once)):
            relevance = self(torch.cat(group), targets.repeat(len(group)))
            yield from zip(group, relevance.split(len(images)), strict=True)

    @property
    def _has_baselines(self) -> bool:
        """Whether the method holds something for each image of a call."""
        baseline = getattr(self.analyzer.method, "baseline", None)
        return isinstance(baseline, Tensor) and baseline.ndim > 2 and len(baseline) > 1

    @cached_property
    def relevance(self) -> Tensor:
        """The relevance of the case's own images: computed once for all metrics."""
        return self(self.case.images, self.case.targets)

    @property
    def pixels(self) -> Tensor:
        """(image, height, width): that relevance, channels added."""
        return self.relevance.sum(1)


def check_images(case: Case) -> None:
    """Raise `ShapeError` unless the images are pictures: (image, channel, height, width)."""
    if case.images.ndim != 4:
        raise ShapeError(
            f"this metric removes or moves parts of pictures, (image, channel, height, width); "
            f"these images are {tuple(case.images.shape)}."
        )


def label_of(analyzer: Analyzer) -> str:
    """The method's name, with the options that are not its defaults.

    >>> from pellucid.attribution import create_analyzer
    >>> label_of(create_analyzer("integrated_gradients", nn.Linear(2, 2), steps=8))
    'integrated_gradients(steps=8)'
    """
    method = analyzer.method
    plain = type(method)()
    changed = [
        f"{option.name}={value}"
        for option in fields(method)
        for value in [getattr(method, option.name)]
        if option.init and isinstance(value, int | float | str | bool) and value != getattr(plain, option.name)
    ]
    return f"{analyzer.name}({', '.join(changed)})" if changed else analyzer.name
