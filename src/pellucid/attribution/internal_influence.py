"""Internal influence: the mean gradient at a hidden layer along the path from a baseline (Leino et al., 2018)."""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from pellucid.attribution import METHODS, Attribution, Outcome, Question, Subject, sharing
from pellucid.attribution._baselines import Baseline, baseline_like
from pellucid.attribution._hidden import activations
from pellucid.attribution._method import SLOPE
from pellucid.attribution._paths import Gradients
from pellucid.attribution.integrated_gradients import MOST_NODES, Quadrature, nodes
from pellucid.core.ranges import Range


@METHODS.register("internal_influence")
@dataclass(frozen=True)
class InternalInfluence(Attribution):
    """∫ ∂f/∂y da over the straight path of inputs x₀ + a(x − x₀), where y is a layer's output, or the input.

    The influence of a distribution of interest, here the uniform one on the path (Leino et al., 2018, definition 1).
    Integrated gradients at the input are the input's influence times x − x₀.
    """

    family: ClassVar[str] = "gradient"
    reaches_layers: ClassVar[bool] = True
    unit: ClassVar[str] = SLOPE
    answers: ClassVar[str] = "how sensitive the logit is to each unit of a hidden layer, on the way from a baseline"

    steps: Annotated[int, Range(2, MOST_NODES)] = 64
    """Points on the path."""
    quadrature: Quadrature = "gauss_legendre"
    """Quadrature rule of the points on the path."""
    baseline: Baseline = 0.0
    """Baseline image: a number, a tensor that broadcasts to one image, or one row per image, (batch, …)."""

    @property
    def gradients_per_image(self) -> int:
        return self.steps

    def attribute_each(self, subject: Subject, images: Tensor, question: Question) -> list[Outcome]:
        baseline = baseline_like(self.baseline, images)
        logits, held = subject.predict(images, question.targets)
        gradients = Gradients(subject, baseline, held, layers=question.layers)
        for place, weight in zip(*nodes(self.quadrature, self.steps), strict=True):
            gradients.add(images - baseline, weight, scale=place)
        spent = torch.full((len(images),), self.steps + 1, device=images.device)
        values = activations(subject, images, question.layers)
        places = replace(question, targets=tuple(held)).places
        return sharing(
            [
                Outcome(
                    gradients.total(number),
                    logits,
                    target.classes(logits),
                    evaluations=spent,
                    activations=values[layer],
                )
                for number, (target, layer) in enumerate(places)
            ]
        )
