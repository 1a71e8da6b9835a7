"""Completeness: the relevance should sum to the change of the logit (Sundararajan et al., 2017)."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from pellucid.evaluation import METRICS, Case, Explainer, Measured, Metric
from pellucid.evaluation._metric import TINY


@METRICS.register("completeness")
@dataclass(frozen=True)
class Completeness(Metric):
    """|ΣR − Δ| / (|ΣR| + |Δ|) with Δ = f(x) − f(x₀): 0 if the completeness axiom holds, at most 1.

    x₀ is the empty image; with `baseline=None`, Δ = f(x), the conservation of LRP (Bach et al., 2015), which differs by
    the biases. The quotient has no unit, so that images with large logits do not dominate the mean. Lower is better.
    Weakness: it ignores where the relevance is; f(x)/n at each of n pixels would be complete.

    Source: Sundararajan et al., "Axiomatic attribution for deep networks", 2017 (the
    axiom of completeness).
    """

    asks: ClassVar[str] = "does the map sum to the change of the logit?"
    is_higher_better: ClassVar[bool] = False

    baseline: float | int | None = 0.0
    """Pixel value of the empty image; None: Δ is the logit itself."""

    def measure(self, case: Case, method: Explainer) -> Measured:
        """Return the (image,) relative residuals."""
        expected = case.shared(self, lambda: self._expected(case))
        total = method.relevance.flatten(1).double().sum(1)
        size = total.abs() + expected.abs()
        # the clamp avoids 0 / 0 in the branch that `where` discards
        return Measured(torch.where(size > 0, (total - expected).abs() / size.clamp(min=TINY), 0.0))

    def _expected(self, case: Case) -> torch.Tensor:
        own = case.read(case.logits).double()
        if self.baseline is None:
            return own
        # the empty image is the same for all images, so one forward pass is enough
        empty = case.predict(torch.full_like(case.images[:1], float(self.baseline)))
        return own - case.read(empty.expand_as(case.logits)).double()
