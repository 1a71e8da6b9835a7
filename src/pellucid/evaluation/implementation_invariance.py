"""Implementation invariance: equivalent networks should have the same explanation (Sundararajan et al., 2017)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from pellucid.evaluation import METRICS, Case, Explainer, Measured, Metric
from pellucid.evaluation._metric import TINY
from pellucid.evaluation._rewritten import rewritings


@METRICS.register("implementation_invariance")
@dataclass(frozen=True)
class ImplementationInvariance(Metric):
    """max ‖R − R′‖₁ / (‖R‖₁ + ‖R′‖₁) over explanations R′ of equivalent networks.

    The equivalents have each batch norm folded into the preceding convolution, or the last linear layer split in two;
    both are checked to give the same logits. Lower is better: 0 for a method that depends only on the function, 1 for
    maps without overlap. Weakness: passing for these two rewritings proves nothing about others.

    Source: Sundararajan et al., "Axiomatic attribution for deep networks", 2017 (the
    axiom of implementation invariance).
    """

    asks: ClassVar[str] = "do equivalent networks have the same explanation?"
    is_higher_better: ClassVar[bool] = False
    won_by: ClassVar[frozenset[str]] = frozenset({"random", "constant", "sobel", "input"})

    def measure(self, case: Case, method: Explainer) -> Measured:
        """Return the (image,) largest relative distances, with those of each rewriting as secondary values."""
        models: dict[str, nn.Module] = case.shared(self, lambda: rewritings(case.model, case.images, case.seed))
        own = method.relevance.flatten(1).double()
        distances = {}
        for name, model in models.items():
            other = method(case.images, case.targets, model).flatten(1).double()
            size = own.abs().sum(1) + other.abs().sum(1)
            distances[name] = (own - other).abs().sum(1) / size.clamp(min=TINY)
        return Measured(torch.stack(list(distances.values())).amax(0), distances)
