"""Whether the same function, written in two ways, is explained alike (Sundararajan et al., 2017)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from pellucid.evaluation import METRICS
from pellucid.evaluation._case import Case, Explainer
from pellucid.evaluation._metric import Measured, Metric
from pellucid.evaluation._rewritten import rewritings


@METRICS.register("implementation_invariance")
@dataclass(frozen=True)
class ImplementationInvariance(Metric):
    """max ‖R − R′‖₁ / (‖R‖₁ + ‖R′‖₁) over explanations R′ of the same function written in another way.

    The ways: each batch-norm folded into the convolution before it, and the last linear layer split in two. Both are
    checked to give the same logits. Lower is better: 0 for a method that sees the function alone, 1 for maps that
    share nothing. Weakness: passing for these two ways proves nothing for others.

    Source: Sundararajan et al., "Axiomatic attribution for deep networks", 2017 (the
    axiom of implementation invariance).
    """

    asks: ClassVar[str] = "is the same function, written in another way, explained alike?"
    is_higher_better: ClassVar[bool] = False
    won_by: ClassVar[frozenset[str]] = frozenset({"random", "constant", "sobel", "input"})

    def measure(self, case: Case, method: Explainer) -> Measured:
        """(image,) largest relative distances; each way's own stands beside it."""
        models: dict[str, nn.Module] = case.shared(self, lambda: rewritings(case.model, case.images, case.seed))
        own = method.relevance.flatten(1).double()
        apart = {}
        for name, model in models.items():
            other = method(case.images, case.targets, model).flatten(1).double()
            size = own.abs().sum(1) + other.abs().sum(1)
            apart[name] = (own - other).abs().sum(1) / size.clamp(min=1e-300)
        return Measured(torch.stack(list(apart.values())).amax(0), apart)
