"""Sparseness: the relevance should concentrate on few pixels (Chalasani et al., 2020)."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from pellucid.evaluation import METRICS, Case, Explainer, Measured, Metric
from pellucid.evaluation._metric import TINY


@METRICS.register("sparseness")
@dataclass(frozen=True)
class Sparseness(Metric):
    """Gini index of |R|: 0 if all pixels are equal, close to 1 if a single pixel has all relevance.

    1 − 2 Σ_k (|R|₍ₖ₎ / ‖R‖₁) · (d − k + ½) / d, with |R|₍₁₎ ≤ … ≤ |R|₍d₎. Higher is better if concise explanations are
    the goal. Weakness: it does not depend on the network; on images with an empty background, every map that is
    multiplied by the image is sparse (the controls `input` and `sobel` are therefore excluded).

    Source: Chalasani et al., "Concise explanations of neural networks using adversarial training", 2020.
    """

    asks: ClassVar[str] = "is the relevance concentrated on few pixels?"
    is_higher_better: ClassVar[bool] = True
    won_by: ClassVar[frozenset[str]] = frozenset({"input", "sobel"})

    def measure(self, case: Case, method: Explainer) -> Measured:
        """Return the (image,) Gini indices."""
        sizes = method.relevance.flatten(1).abs().double().sort(1).values
        count = sizes.shape[1]
        weights = (count - torch.arange(1, count + 1, device=sizes.device).double() + 0.5) / count
        total = sizes.sum(1)
        return Measured(torch.where(total > 0, 1 - 2 * (sizes @ weights) / total.clamp(min=TINY), 0.0))
