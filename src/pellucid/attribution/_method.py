"""What every method is: frozen knobs and one verb."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.attribution import METHODS
from pellucid.attribution._explanation import Completeness, Outcome
from pellucid.attribution._finite import check_inputs
from pellucid.attribution._missing import MissingGradient
from pellucid.attribution._subject import Subject
from pellucid.attribution._target import Target
from pellucid.core.errors import ConfigError, ShapeError
from pellucid.core.options import Options
from pellucid.engine.box import Box

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
class Attribution(Options):
    """A way to explain; its fields are its options, checked against their annotations when it is built."""

    family: ClassVar[str]
    """What kind of method it is: gradient, relevance, control."""
    answers: ClassVar[str]
    """The question it answers, in one line."""
    promises: ClassVar[frozenset[str]] = frozenset({"class_specific", "deterministic"})
    """Of `complete`, `class_specific` (maps of two classes differ by more than a factor) and `deterministic`, what
    holds on every model."""
    needs_fit: ClassVar[bool] = False
    """Whether `fit` must see data before the first explanation."""
    remedy: ClassVar[str] = (
        "Compute in float64 (model.double() and images.double()), where rounding is far smaller, or use rules under "
        "which relevances cancel less, such as γ and z⁺."
    )
    """What helps where the sum is missed, for the user."""
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

    def box(self) -> Box | None:
        """The bounds that the method needs its inputs to keep; None where it needs none."""
        return None

    def completeness(self, outcome: Outcome) -> Completeness | None:
        """What the maps sum to, beside what was promised; None where nothing was."""
        if outcome.promised is None:
            return None
        expected = outcome.promised - sum(outcome.absorbed.values(), torch.zeros_like(outcome.promised))
        residual = outcome.relevance.flatten(1).sum(1) - expected
        return Completeness(expected, residual, self.allowed_residual(outcome))

    def allowed_residual(self, outcome: Outcome) -> Tensor:
        """(batch,): the residual that the method's tolerance allows; of an exact method, what rounding explains."""
        return rounding_tolerance(outcome)

    def fitted(self, subject: Subject, loader: Iterable[Any]) -> "Attribution":
        """The method with what it learned from data."""
        return replace(self)

    def state(self) -> FittedState:
        """What `fitted` learned, for saving."""
        raise ConfigError("this method learns nothing from data, so there is nothing to save.")

    def restored(self, subject: Subject, state: FittedState) -> "Attribution":
        """The method with what was learned before; `ConfigError` where it belongs to another method or model."""
        raise ConfigError(f"this method learns nothing from data; {state.kind!r} is what another one has learned.")


_SHARE = {torch.float32: 1e-4, torch.float64: 1e-9}
"""Of the promised sum: what rounding leaves of it on the way through some hundred layers, with room to spare."""
_NOISE = {torch.float32: 1e-5, torch.float64: 1e-12}
"""Of Σ|R|: what rounding leaves of summands that cancel, some hundred units of the last place."""
_MOST_NOISE = {torch.float32: 1e-2, torch.float64: 1e-4}
"""Of the promised sum, the most that cancelling summands may add: beyond it, the map is mostly rounding."""


def rounding_tolerance(outcome: Outcome) -> Tensor:
    """(batch,): the residual that rounding explains, for methods whose sum is exact otherwise.

    share · max(|promised|, max|f(x)| / 100) + min(noise · Σ|R|, cap · |promised|), where share, noise and cap are 1e-4,
    1e-5 and 1e-2 in float32, and 1e-9, 1e-12 and 1e-4 in float64. max|f(x)| stands for promised sums near zero, which
    are differences of logits (a contrast, the change from a baseline) and inherit their rounding.
    """
    assert outcome.promised is not None
    dtype, total = outcome.relevance.dtype, outcome.promised.abs()
    logits = outcome.logits.nan_to_num(0.0, 0.0, 0.0).abs().reshape(len(total), -1).amax(1)  # classes ruled out: -inf
    noise = _NOISE[dtype] * outcome.relevance.flatten(1).abs().sum(1)
    return _SHARE[dtype] * torch.maximum(total, logits / 100) + torch.minimum(noise, _MOST_NOISE[dtype] * total)


def images_in(loader: Iterable[Any]) -> Iterator[Tensor]:
    """The images of each batch of a loader, whose batches are images or tuples that begin with them.

    Raises `ShapeError` for other batches, and `DataError` for an image that is not finite.
    """
    seen = 0
    for batch in loader:
        images = batch if isinstance(batch, Tensor) else batch[0]
        if not isinstance(images, Tensor) or not images.is_floating_point() or images.ndim < 2:
            came = f"{tuple(images.shape)} {images.dtype}" if isinstance(images, Tensor) else type(images).__name__
            raise ShapeError(f"the loader yields {came}; expected batches of floats in [0, 1], (batch, …).")
        if len(images):
            check_inputs(images, "the loader's image", seen)
            seen += len(images)
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
