"""The gradient of the explained logit with respect to the pixels (Simonyan et al., 2014)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from pellucid.attribution import METHODS, Attribution, Outcome, Question, Subject, Target, for_each_target, sharing
from pellucid.attribution._baselines import Baseline, baseline_like
from pellucid.attribution._hidden import read
from pellucid.attribution._method import SLOPE
from pellucid.attribution._missing import check_gradients, gradients_of

VARIANTS = ("gradient", "gradient.baseline")
"""Names registered here; the registry reads them without importing this file."""


def slopes(subject: Subject, images: Tensor, targets: Sequence[Target]) -> list[Outcome]:
    """Compute the gradient of each explained score; all targets share one forward pass.

    Raises `UnsupportedOperation` if a score depends on the image but has no gradient.
    """
    keys = tuple(target.key for target in targets)
    if None in keys:  # custom scores cannot be compared with those of an earlier method
        return _slopes(subject, images, targets)
    return subject.once(("slopes", keys), images, lambda: _slopes(subject, images, targets))


def _slopes(subject: Subject, images: Tensor, targets: Sequence[Target]) -> list[Outcome]:
    # A copy: the caller's tensor must not start to require a gradient.
    leaf = images.detach().clone().requires_grad_()
    logits = subject.logits(leaf)
    gradients, plain = gradients_of(subject, logits, leaf, targets), logits.detach()
    outcomes = [Outcome(slope, plain, target.classes(plain)) for slope, target in zip(gradients, targets, strict=True)]
    check_gradients(subject, images, targets, [outcome.relevance for outcome in outcomes], plain)
    return sharing(outcomes)


def layer_slopes(
    subject: Subject,
    images: Tensor,
    question: Question,
    shown: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    *,
    with_values: bool = True,
) -> list[Outcome]:
    """Compute `shown(gradient, output, out)` for the output of each layer; all share one forward pass.

    `with_values=False` saves copies of the outputs, for functions that only read the gradient. If nobody reads the
    outputs afterwards, `out` is their memory, which may hold the result.

    Raises `UnsupportedOperation` if a score depends on a layer's output but has no gradient.
    """
    # A copy: the caller's tensor must not start to require a gradient.
    leaf = images.detach().clone().requires_grad_()
    reading = read(subject, leaf, question.layers, with_values=with_values)
    plain = reading.logits.detach()
    is_free = not question.is_certified and len(question.targets) == 1
    outcomes = []
    for target, own in zip(question.targets, reading.gradients(question.targets), strict=True):
        for slope, value in zip(own, reading.values or [None] * len(own), strict=True):
            relevance = shown(slope, slope if value is None else value, value if is_free else None)
            kept = None if is_free else value
            outcomes.append(Outcome(relevance, plain, target.classes(plain), activations=kept))
    return sharing(outcomes)


@dataclass(frozen=True)
class OneGradient(Attribution):
    """A method whose map depends only on the image and its gradient."""

    family: ClassVar[str] = "gradient"
    reaches_layers: ClassVar[bool] = True
    unit: ClassVar[str] = SLOPE

    needs_values: ClassVar[bool] = True
    """True if the map depends on the image or the layer's output, besides the gradient."""

    def shown(self, slope: Tensor, images: Tensor, out: Tensor | None = None) -> Tensor:
        """Compute the map from the gradient, and from the images or the layer's output; `out` may receive it."""
        raise NotImplementedError

    def attribute_each(self, subject: Subject, images: Tensor, question: Question) -> list[Outcome]:
        if question.layers:
            with_values = self.needs_values or question.is_certified
            return layer_slopes(subject, images, question, self.shown, with_values=with_values)
        outcomes = slopes(subject, images, question.targets)
        return [replace(outcome, relevance=self.shown(outcome.relevance, images)) for outcome in outcomes]


@METHODS.register("gradient")
@dataclass(frozen=True)
class Gradient(OneGradient):
    """∂ logit / ∂ pixel, in logits per unit of pixel value."""

    needs_values: ClassVar[bool] = False
    answers: ClassVar[str] = "how the explained logit would respond to a small change of each pixel"

    absolute: bool = False
    """Return absolute values (captum's Saliency)."""

    def shown(self, slope: Tensor, images: Tensor, out: Tensor | None = None) -> Tensor:
        return slope.abs() if self.absolute else slope


@METHODS.register("gradient.baseline")
@dataclass(frozen=True)
class GradientBaseline(Attribution):
    """Gradient at the image minus the gradient of the same logit at a baseline."""

    family: ClassVar[str] = "gradient"
    unit: ClassVar[str] = SLOPE
    answers: ClassVar[str] = "how the sensitivity to each pixel differs from that at a baseline"

    baseline: Baseline = 0.0
    """Baseline image: a number, a tensor that broadcasts to one image, or one row per image, (batch, …)."""

    @for_each_target
    def attribute_each(self, subject: Subject, images: Tensor, target: Target) -> Outcome:
        own = slopes(subject, images, [target])[0]
        empty = slopes(subject, baseline_like(self.baseline, images), [target.held(own.logits)])[0]
        return Outcome(
            own.relevance - empty.relevance, own.logits, own.classes, evaluations=torch.full_like(own.classes, 2)
        )
