"""The base class of attribution methods: a frozen dataclass of hyperparameters with an `attribute` method."""

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
"""The guarantees of an exact method: relevance sums to the logit, depends on the class, and needs no seed."""

_SMALL_IMAGE = 4096
"""Images with at most this many values count as small: 32×32 RGB (3072 values), with some room."""


@dataclass(frozen=True, eq=False)
class FittedState:
    """The saved state of a fitted method."""

    kind: str
    """Family of methods that can load this state."""
    tensors: Mapping[str, Tensor]
    facts: Mapping[str, str]

    def check_kind(self, kind: str) -> None:
        """Raise `ConfigError` if another kind of method saved this state."""
        if self.kind != kind:
            raise ConfigError(f"the fitted state is of kind {self.kind!r}; expected {kind!r}.")


@dataclass(frozen=True)
class Attribution(Options):
    """An attribution method. Its fields are its options, validated against their annotations on construction."""

    family: ClassVar[str]
    """Kind of method, such as gradient, relevance or control."""
    answers: ClassVar[str]
    """One-line statement of what the map shows."""
    promises: ClassVar[frozenset[str]] = frozenset({"class_specific", "deterministic"})
    """Guarantees that hold on every model: a subset of `complete` (relevance sums to the promised total),
    `class_specific` (maps of two classes differ by more than a factor) and `deterministic`."""
    needs_fit: ClassVar[bool] = False
    """True if `fit` must be called before the first explanation."""
    remedy: ClassVar[str] = (
        "Compute in float64 (model.double() and images.double()), where rounding is far smaller, or choose a method "
        "whose relevances cancel less, such as 'lrp.gamma'."
    )
    """Advice appended to the error or warning about a map that does not sum to the promised total."""
    images_at_once: ClassVar[int] = 32
    """Images per forward pass; doubled for small images. More need more memory, and are slower once they no longer fit
    into the cache."""

    def images_per_pass(self, images: Tensor) -> int:
        """Return the number of images per forward pass."""
        return max(1, self.images_at_once) * (2 if images[0].numel() <= _SMALL_IMAGE else 1)

    @property
    def is_ready(self) -> bool:
        """True if the method can explain: it is fitted, or needs no fit."""
        return not self.needs_fit

    def attribute(self, subject: Subject, images: Tensor, target: Target, *, is_certified: bool) -> Outcome:
        """Compute the relevance of one batch; absorbed shares are only recorded with `is_certified`."""
        raise NotImplementedError

    def attribute_each(
        self, subject: Subject, images: Tensor, targets: Sequence[Target], *, is_certified: bool
    ) -> list[Outcome]:
        """Return one outcome per target, for `target="all"`; methods override this to share work between targets.

        The `evaluations` of an outcome count only the passes that earlier outcomes did not already make.
        """
        outcomes, missing, differentiable = [], set[int](), set[int]()
        for target in targets:
            try:
                outcomes.append(self.attribute(subject, images, target, is_certified=is_certified))
            except MissingGradient as error:
                missing |= error.missing
                differentiable |= error.fine
        if missing:  # report every class without a gradient, not only the first
            differentiable.update(*(outcome.classes.tolist() for outcome in outcomes))
            raise MissingGradient(missing, differentiable)
        return outcomes

    def box(self) -> Box | None:
        """Return the input bounds that the method requires, or None."""
        return None

    def completeness(self, outcome: Outcome) -> Completeness | None:
        """Compare the sum of each map with the promised sum; None if the method promises no sum."""
        if outcome.promised is None:
            return None
        expected = outcome.promised - sum(outcome.absorbed.values(), torch.zeros_like(outcome.promised))
        residual = outcome.relevance.flatten(1).sum(1) - expected
        return Completeness(expected, residual, self.allowed_residual(outcome))

    def allowed_residual(self, outcome: Outcome) -> Tensor:
        """Largest acceptable residual per image, (batch,); for an exact method, what rounding explains."""
        return rounding_tolerance(outcome)

    def fitted(self, subject: Subject, loader: Iterable[Any]) -> "Attribution":
        """Return a copy of the method fitted on the data."""
        return replace(self)

    def state(self) -> FittedState:
        """Return the fitted state, for saving."""
        raise ConfigError("this method needs no fit, so it has no fitted state to save.")

    def restored(self, subject: Subject, state: FittedState) -> "Attribution":
        """Return a copy of the method with a saved state; `ConfigError` if it is from another method or model."""
        raise ConfigError(f"this method needs no fit and cannot load a fitted state of kind {state.kind!r}.")


_SHARE = {torch.float32: 1e-4, torch.float64: 1e-9}
"""Relative rounding error of the promised sum after about a hundred layers, with a generous margin."""
_NOISE = {torch.float32: 1e-5, torch.float64: 1e-12}
"""Rounding error of a sum whose terms cancel, relative to Σ|R|, with a margin."""
_MOST_NOISE = {torch.float32: 1e-2, torch.float64: 1e-4}
"""Cap on the allowance for canceling terms, relative to the promised sum; beyond it, the map is mostly rounding."""


def rounding_tolerance(outcome: Outcome) -> Tensor:
    """Residual that rounding explains, (batch,), for methods whose sum is otherwise exact.

    share · max(|promised|, max|f(x)| / 100) + min(noise · Σ|R|, cap · |promised|), where share, noise and cap are 1e-4,
    1e-5 and 1e-2 in float32, and 1e-9, 1e-12 and 1e-4 in float64. The term max|f(x)| covers promised sums near
    zero: they are differences of logits (a contrast, the change from a baseline) and inherit the logits' rounding.
    """
    assert outcome.promised is not None
    dtype, total = outcome.relevance.dtype, outcome.promised.abs()
    logits = outcome.logits.nan_to_num(0.0, 0.0, 0.0).abs().reshape(len(total), -1).amax(1)  # -inf marks masked classes
    noise = _NOISE[dtype] * outcome.relevance.flatten(1).abs().sum(1)
    return _SHARE[dtype] * torch.maximum(total, logits / 100) + torch.minimum(noise, _MOST_NOISE[dtype] * total)


def images_in(loader: Iterable[Any]) -> Iterator[Tensor]:
    """Yield the images of each batch of a loader, whose batches are images or tuples that start with images.

    Raises `ShapeError` for any other batch and `DataError` for an image with NaN or infinities.
    """
    seen = 0
    for batch in loader:
        images = batch if isinstance(batch, Tensor) else batch[0]
        if not isinstance(images, Tensor) or not images.is_floating_point() or images.ndim < 2:
            received = f"{tuple(images.shape)} {images.dtype}" if isinstance(images, Tensor) else type(images).__name__
            raise ShapeError(f"the loader yields {received}; expected float images in [0, 1] of shape (batch, …).")
        if len(images):
            check_inputs(images, "the loader's image", seen)
            seen += len(images)
            yield images.detach()


@dataclass(frozen=True)
class Method:
    """Description of an attribution method, for choosing one."""

    name: str
    family: str
    answers: str
    needs_fit: bool
    promises: frozenset[str]


def methods() -> list[Method]:
    """List all attribution methods, sorted by name, with what they show and guarantee.

    >>> next(method.family for method in methods() if method.name == "lrp.epsilon")
    'relevance'
    """
    return [
        Method(name, entry.family, entry.answers, entry.needs_fit, entry.promises)
        for name in METHODS
        for entry in [METHODS[name]]
    ]
