"""What every method is: frozen knobs and one verb."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.attribution import METHODS
from pellucid.attribution._explanation import Outcome
from pellucid.attribution._missing import MissingGradient
from pellucid.attribution._subject import Subject
from pellucid.attribution._target import Target
from pellucid.core.errors import ConfigError, ShapeError

__all__ = ["COMPLETE", "Attribution", "FittedState", "Method", "images_in", "methods"]

COMPLETE = frozenset({"complete", "class_specific", "deterministic"})
"""Sums to the logit, depends on the class explained, and has the same answer each time whatever the seed."""

_SMALL_IMAGE = 4096
"""The numbers of an image of 32×32 pixels in colour, and a little more."""


@dataclass(frozen=True, eq=False)
class FittedState:
    """What a method learned from data, as it is saved."""

    kind: str
    """The family of methods that can use it."""
    tensors: Mapping[str, Tensor]
    facts: Mapping[str, str]

    def check_kind(self, kind: str) -> None:
        """`ConfigError` where this was learned by another kind of method."""
        if self.kind != kind:
            raise ConfigError(f"this is what a method of the kind {self.kind!r} has learned; expected {kind!r}.")


@dataclass(frozen=True)
class Attribution:
    """A way to explain; its fields are its options."""

    family: ClassVar[str]
    """What kind of method it is: gradient, relevance, control."""
    answers: ClassVar[str]
    """The question it answers, in one line."""
    promises: ClassVar[frozenset[str]] = frozenset({"class_specific", "deterministic"})
    """Of `complete`, `class_specific` (maps of two classes differ by more than a factor) and `deterministic`, what
    holds on every model."""
    needs_fit: ClassVar[bool] = False
    """Whether `fit` must see data before the first explanation."""
    images_at_once: ClassVar[int] = 32
    """Images computed together; more need more memory, and are slower where they leave the cache. Small ones go in
    twice as many."""

    def images_per_pass(self, images: Tensor) -> int:
        """How many of these images are computed together."""
        return max(1, self.images_at_once) * (2 if images[0].numel() <= _SMALL_IMAGE else 1)

    @property
    def is_ready(self) -> bool:
        """Whether nothing is left to be fitted."""
        return not self.needs_fit

    def attribute(self, subject: Subject, images: Tensor, target: Target, *, is_certified: bool) -> Outcome:
        """Relevance for one batch; the books are only kept with `is_certified`."""
        raise NotImplementedError

    def attribute_each(
        self, subject: Subject, images: Tensor, targets: Sequence[Target], *, is_certified: bool
    ) -> list[Outcome]:
        """One outcome per target, for `target="all"`: a method that can share work between targets does it here.

        Each outcome's `evaluations` count what it cost beyond those before it.
        """
        outcomes, missing, fine = [], set[int](), set[int]()
        for target in targets:
            try:
                outcomes.append(self.attribute(subject, images, target, is_certified=is_certified))
            except MissingGradient as error:
                missing |= error.missing
                fine |= error.fine
        if missing:  # name all classes, not the first one alone
            fine.update(*(outcome.classes.tolist() for outcome in outcomes))
            raise MissingGradient(missing, fine)
        return outcomes

    def allowed_residual(self, outcome: Outcome) -> Tensor:
        """(batch,): 1e-4 · max(|promised|, Σ|R| / 100) in float32, 1e-9 · max(|promised|, Σ|R|) in float64."""
        assert outcome.promised is not None
        size, total = outcome.relevance.flatten(1).abs().sum(1), outcome.promised.abs()
        if outcome.relevance.dtype == torch.float64:
            return 1e-9 * torch.maximum(total, size)
        return 1e-4 * torch.maximum(total, size / 100)

    def fitted(self, subject: Subject, loader: Iterable[Any]) -> "Attribution":
        """The method with what it learned from data."""
        return replace(self)

    def state(self) -> FittedState:
        """What `fitted` learned, for saving."""
        raise ConfigError("this method learns nothing from data, so there is nothing to save.")

    def restored(self, subject: Subject, state: FittedState) -> "Attribution":
        """The method with what was learned before; `ConfigError` where it belongs to another method or model."""
        raise ConfigError(f"this method learns nothing from data; {state.kind!r} is what another one has learned.")


def images_in(loader: Iterable[Any]) -> Iterator[Tensor]:
    """The images of each batch of a loader, whose batches are images or tuples that begin with them."""
    for batch in loader:
        images = batch if isinstance(batch, Tensor) else batch[0]
        if not isinstance(images, Tensor) or not images.is_floating_point() or images.ndim < 2:
            came = f"{tuple(images.shape)} {images.dtype}" if isinstance(images, Tensor) else type(images).__name__
            raise ShapeError(f"the loader yields {came}; expected batches of floats in [0, 1], (batch, …).")
        if len(images):
            yield images.detach()


@dataclass(frozen=True)
class Method:
    """What a method is, for choosing one."""

    name: str
    family: str
    answers: str
    needs_fit: bool
    promises: frozenset[str]


def methods() -> list[Method]:
    """Every method there is, sorted by name, with what it answers and promises.

    >>> next(method.family for method in methods() if method.name == "lrp.epsilon")
    'relevance'
    """
    return [
        Method(name, entry.family, entry.answers, entry.needs_fit, entry.promises)
        for name in METHODS
        for entry in [METHODS[name]]
    ]
