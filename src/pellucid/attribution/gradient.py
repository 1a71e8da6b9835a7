"""The gradient of the explained logit by the pixels (Simonyan et al., 2014)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pellucid.attribution import METHODS
from pellucid.attribution._explanation import Outcome
from pellucid.attribution._method import Attribution
from pellucid.attribution._subject import Subject
from pellucid.attribution._target import Target

VARIANTS = ("gradient", "gradient.baseline")
"""The names registered here; the registry reads them without importing this file."""


def slopes(subject: Subject, images: Tensor, target: Target) -> Outcome:
    """The gradient of the explained score, with the logits it was taken at."""
    leaf = images.detach().clone().requires_grad_()
    logits = subject.logits(leaf)
    slope = torch.autograd.grad(target.scores(logits).sum(), leaf, materialize_grads=True)[0]
    logits = logits.detach()
    return Outcome(slope, logits, target.classes(logits))


@METHODS.register("gradient")
@dataclass(frozen=True)
class Gradient(Attribution):
    """∂ logit / ∂ pixel, in logits per unit of pixel."""

    family: ClassVar[str] = "gradient"
    answers: ClassVar[str] = "how the explained logit would react to a small change of each pixel"

    absolute: bool = False
    """Its size without its sign (what captum calls Saliency)."""

    def attribute(self, subject: Subject, images: Tensor, target: Target, *, is_certified: bool) -> Outcome:
        outcome = slopes(subject, images, target)
        return changed(outcome, torch.Tensor.abs) if self.absolute else outcome


@METHODS.register("gradient.baseline")
@dataclass(frozen=True)
class GradientBaseline(Attribution):
    """The gradient at the image less the gradient, of the same logit, at a baseline."""

    family: ClassVar[str] = "gradient"
    answers: ClassVar[str] = "how the reaction to each pixel differs from that on the empty image"

    baseline: float | int | Tensor = 0.0
    """The empty image: a number, or a tensor that broadcasts to the images."""

    def attribute(self, subject: Subject, images: Tensor, target: Target, *, is_certified: bool) -> Outcome:
        own = slopes(subject, images, target)
        same = target if target.score is not None else Target(own.classes)
        empty = slopes(subject, baseline_like(self.baseline, images), same)
        return Outcome(
            own.relevance - empty.relevance, own.logits, own.classes, evaluations=torch.full_like(own.classes, 2)
        )


def baseline_like(baseline: float | int | Tensor, images: Tensor) -> Tensor:
    """The baseline in the shape of `images`."""
    return torch.as_tensor(baseline, dtype=images.dtype, device=images.device).expand_as(images)


def changed(outcome: Outcome, change: Callable[[Tensor], Tensor]) -> Outcome:
    """The outcome with another map, which promises no sum."""
    return Outcome(change(outcome.relevance), outcome.logits, outcome.classes, evaluations=outcome.evaluations)
