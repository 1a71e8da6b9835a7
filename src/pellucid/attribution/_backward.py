"""Base classes of methods that run the model forward unchanged and replace the backward pass."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from torch import Tensor

from pellucid.attribution._explanation import Outcome, sharing
from pellucid.attribution._method import COMPLETE, Attribution
from pellucid.attribution._subject import Subject
from pellucid.attribution._target import Target, weighted
from pellucid.engine.box import Bound, Box
from pellucid.engine.composites import Composite, box_of, override
from pellucid.engine.relevance import Propagation

__all__ = ["Backward", "Bounded", "Relevance"]


@dataclass(frozen=True)
class Backward(Attribution):
    """A method defined by a composite of propagation rules."""

    def composite(self) -> Composite:
        """Return the assignment of rules to operations."""
        raise NotImplementedError

    def box(self) -> Box | None:
        return self._box

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

    def attribute(self, subject: Subject, images: Tensor, target: Target, *, is_certified: bool) -> Outcome:
        return self.attribute_each(subject, images, [target], is_certified=is_certified)[0]

    def attribute_each(
        self, subject: Subject, images: Tensor, targets: Sequence[Target], *, is_certified: bool
    ) -> list[Outcome]:
        results = subject.propagate(
            images,
            self._steps,
            lambda logits: [self.start(logits, target) for target in targets],
            is_certified=is_certified,
        )
        return sharing([self._outcome(*pair, is_certified) for pair in zip(results, targets, strict=True)])

    def _outcome(self, result: Propagation, target: Target, is_certified: bool) -> Outcome:
        is_complete = "complete" in self.promises and is_certified
        return Outcome(
            relevance=result.relevance,
            logits=result.logits,
            classes=target.classes(result.logits),
            promised=result.seed.reshape(len(result.seed), -1).sum(1) if is_complete else None,
            absorbed={**result.account.absorbed} if is_complete and result.account else {},
            absorbed_by=dict(result.account.by_place) if is_complete and result.account else {},
        )


@dataclass(frozen=True)
class Relevance(Backward):
    """A method that distributes the explained logit over the inputs.

    The initial relevance is logit · slope of the score: for a class target, the logit of that class.
    """

    family: ClassVar[str] = "relevance"
    promises: ClassVar[frozenset[str]] = COMPLETE

    rules: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    """Custom rules, which take precedence: by kind of operation (`convolution`), for the layers that see the image
    (`first`), or by a pattern of module names (`features.*`)."""

    def own_composite(self) -> Composite:
        """Return the method's composite without custom rules."""
        raise NotImplementedError

    def composite(self) -> Composite:
        return override(self.own_composite(), self.rules)

    def start(self, logits: Tensor, target: Target) -> Tensor:
        return weighted(logits, target.slope(logits))


@dataclass(frozen=True)
class Bounded(Relevance):
    """A method with the z^B rule, which needs the lower and upper bound of its inputs.

    Inputs outside these bounds raise `ConfigError`. The defaults suit images in [0, 1].
    """

    low: Bound = 0.0
    """Lowest pixel value: one number, one per channel, or a tensor that broadcasts to one image. For images normalized
    by the loader, (0 - mean) / std. For tokens, the lowest value of the embedding, or one per feature."""
    high: Bound = 1.0
    """Highest pixel value, in the same form: (1 - mean) / std for images normalized by the loader."""

    def __post_init__(self) -> None:
        box = Box.of(self.low, self.high)
        for name in ("low", "high"):  # a canonical form that can be compared and hashed
            object.__setattr__(self, name, getattr(box, name))
        super().__post_init__()
