"""The base classes of attribution methods: frozen dataclasses of hyperparameters that implement `attribute_each`."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, wraps
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from pellucid.attribution import COMPLETE
from pellucid.attribution._explanation import Completeness, Outcome, sharing
from pellucid.attribution._fitting import FittedState
from pellucid.attribution._missing import MissingGradient
from pellucid.attribution._subject import Subject
from pellucid.attribution._target import Question, Target, weighted
from pellucid.core.errors import ConfigError
from pellucid.core.options import Options
from pellucid.engine.box import Box
from pellucid.engine.composites import Composite, box_of, override
from pellucid.engine.relevance import Propagation

__all__ = ["SLOPE", "Attribution", "Backward", "Relevance", "for_each_target"]

SLOPE = "logits per unit of {input}"
"""Unit of a derivative of a logit."""

_SMALL_IMAGE = 4096
"""Images with at most this many values count as small: 32×32 RGB (3072 values), with some room."""


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
    unit: ClassVar[str] = ""
    """Unit of the map of a logit, with `{input}` in place of the unit of an input value; empty if it has none."""
    takes_several_inputs: ClassVar[bool] = True
    """True if the method explains models with several inputs, whose values it receives as rows, (batch, value);
    `Subject.packing` knows which values belong to which input."""
    reaches_layers: ClassVar[bool] = False
    """True if the method defines relevance at hidden layers: `attribute_each` then returns one outcome per target and
    layer, in the order of `question.places`, if `question.layers` is not empty."""
    takes_tokens: ClassVar[bool] = True
    """True if the method explains models of token ids, whose embeddings, (1, token, feature), it receives."""
    is_model_agnostic: ClassVar[bool] = False
    """True if the method only needs the model's outputs, so that it also explains a `pellucid.function` of arrays."""
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
        # Small images leave the cache half empty, and each pass has a fixed cost.
        return max(1, self.images_at_once) * (2 if images[0].numel() <= _SMALL_IMAGE else 1)

    @property
    def gradients_per_image(self) -> int:
        """Number of points at which the gradient of a class is computed."""
        return 1

    @property
    def is_ready(self) -> bool:
        """True if the method can explain: it is fitted, or needs no fit."""
        return not self.needs_fit

    def attribute_each(self, subject: Subject, images: Tensor, question: Question) -> list[Outcome]:
        """Compute the relevance of one batch: one outcome per target of the question, and per layer if it names any.

        This is the only method that a subclass has to implement, either for all targets at once, to share work between
        them, or for a single target, decorated with `for_each_target`. The `evaluations` of an outcome count only the
        passes that earlier outcomes did not already make (see `sharing`).
        """
        raise NotImplementedError

    def box(self) -> Box | None:
        """Return the input bounds that the method requires, or None."""
        return None

    def completeness(self, outcome: Outcome) -> Completeness | None:
        """Compare the sum of each map with the promised sum; None if the method promises no sum."""
        if outcome.promised is None:
            return None
        # Absorbed shares come from each rule's own formula, so a wrong rule shows up as a residual.
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
    dtype, total = outcome.precision or outcome.relevance.dtype, outcome.promised.abs()
    logits = outcome.logits.nan_to_num(0.0, 0.0, 0.0).abs().reshape(len(total), -1).amax(1)  # -inf marks masked classes
    noise = _NOISE[dtype] * outcome.relevance.flatten(1).abs().sum(1)
    return _SHARE[dtype] * torch.maximum(total, logits / 100) + torch.minimum(noise, _MOST_NOISE[dtype] * total)


M = TypeVar("M", bound=Attribution)


def for_each_target(
    explain: Callable[[M, Subject, Tensor, Target], Outcome],
) -> Callable[[M, Subject, Tensor, Question], list[Outcome]]:
    """Turn a function that explains one target into the method `attribute_each`, which explains several."""

    @wraps(explain)
    def attribute_each(self: M, subject: Subject, images: Tensor, question: Question) -> list[Outcome]:
        outcomes, missing, differentiable = [], set[int](), set[int]()
        for target in question.targets:
            try:
                outcomes.append(explain(self, subject, images, target))
            except MissingGradient as error:
                missing |= error.missing
                differentiable |= error.fine
        if missing:  # report every class without a gradient, not only the first
            differentiable.update(*(outcome.classes.tolist() for outcome in outcomes))
            raise MissingGradient(missing, differentiable)
        return outcomes

    return attribute_each


@dataclass(frozen=True)
class Backward(Attribution):
    """A method that runs the model forward unchanged and replaces the backward pass by a composite of rules."""

    family: ClassVar[str] = "backward"
    reaches_layers: ClassVar[bool] = True
    promises: ClassVar[frozenset[str]] = frozenset({"deterministic"})
    unit: ClassVar[str] = SLOPE

    def composite(self) -> Composite:
        """Return the assignment of rules to operations."""
        raise NotImplementedError

    def box(self) -> Box | None:
        return self._box

    # `cached_property` writes to `__dict__` directly, which works on a frozen dataclass.
    @cached_property
    def _steps(self) -> Composite:
        """The composite, built once: the options are frozen."""
        return self.composite()

    @cached_property
    def _box(self) -> Box | None:
        return box_of(self._steps)

    def start(self, logits: Tensor, target: Target) -> Tensor:
        """Return the initial relevance at the logits, in their shape: the slope of the explained score."""
        return target.slope(logits)

    def attribute_each(self, subject: Subject, images: Tensor, question: Question) -> list[Outcome]:
        # Without a promised sum, nobody reads the account of what was absorbed.
        question = replace(question, is_certified=question.is_certified and "complete" in self.promises)
        results = subject.propagate(
            # The initial relevance depends on the logits, so it is computed after the recorded forward pass.
            images,
            self._steps,
            lambda logits: [self.start(logits, target) for target in question.targets],
            question,
        )
        pairs = zip(results, question.places, strict=True)
        return sharing([_outcome_of(result, target, at_layer=bool(layer)) for result, (target, layer) in pairs])


def _outcome_of(result: Propagation, target: Target, *, at_layer: bool) -> Outcome:
    account, bypassed = result.account, result.bypassed
    # The sum of the initial relevance is what arrives at the input or is absorbed on the way.
    promised = None if account is None else result.seed.reshape(len(result.seed), -1).sum(1)
    if at_layer and promised is not None:  # at a layer, the rest takes another path
        promised = None if bypassed is None else promised - bypassed
    details = {} if bypassed is None else {"bypassed": bypassed}
    if (through := result.conditional) is not None:
        details |= {"channels": through.channels, "maps": through.maps}
        details |= {} if through.absorbed is None else {"absorbed": through.absorbed}
    return Outcome(
        relevance=result.relevance,
        logits=result.logits,
        classes=target.classes(result.logits),
        promised=promised,
        details=details,
        flow=result.flow,
        activations=result.activations,
        notes=(result.note,) if result.note else (),
        absorbed={} if account is None else {**account.absorbed},
        absorbed_by={} if account is None else dict(account.by_place),
        precision=result.precision,
    )


@dataclass(frozen=True)
class Relevance(Backward):
    """A method that distributes the explained logit over the inputs.

    The initial relevance is logit · slope of the score: for a class target, the logit of that class.
    """

    family: ClassVar[str] = "relevance"
    promises: ClassVar[frozenset[str]] = COMPLETE
    unit: ClassVar[str] = "logits"

    rules: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    """Custom rules, which take precedence: by kind of operation (`convolution`), for the layers that see the image
    (`first`), or by a pattern of module names (`features.*`)."""

    @cached_property
    def _steps(self) -> Composite:
        return override(self.composite(), self.rules)

    def start(self, logits: Tensor, target: Target) -> Tensor:
        return weighted(logits, target.slope(logits))
