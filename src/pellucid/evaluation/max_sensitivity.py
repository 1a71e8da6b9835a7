"""Max-sensitivity: the largest change of an explanation within a small ball around the image (Yeh et al., 2019)."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from pellucid.core.options import Count, NotNegative
from pellucid.evaluation import METRICS, Case, Explainer, Measured, Metric
from pellucid.evaluation._metric import TINY


@METRICS.register("max_sensitivity")
@dataclass(frozen=True)
class MaxSensitivity(Metric):
    """max ‖R(x′) − R(x)‖₂ / ‖R(x)‖₂ over random x′ with ‖x′ − x‖∞ ≤ `radius`.

    Lower is better, from 0. The division by ‖R(x)‖ follows the authors' code, not their equation; without it, rescaling
    a map would change its score. Random draws underestimate the true maximum. Weakness: a map that ignores its image
    wins.

    Source: Yeh et al., "On the (in)fidelity and sensitivity of explanations", 2019 (max-sensitivity).
    """

    asks: ClassVar[str] = "how much does the map change under the worst small noise?"
    is_higher_better: ClassVar[bool] = False
    high: ClassVar[float] = float("inf")
    won_by: ClassVar[frozenset[str]] = frozenset({"constant"})

    radius: NotNegative = 0.02
    """Largest change of a pixel."""
    draws: Count = 10
    """Number of draws of x′."""

    def measure(self, case: Case, method: Explainer) -> Measured:
        """Return the (image,) largest relative changes."""
        own = method.relevance
        size = own.flatten(1).double().norm(dim=1)
        worst = torch.zeros_like(size)
        noises = case.draw("max_sensitivity", count=self.draws, is_uniform=True)
        for _, relevance in method.near(case.images + self.radius * noise for noise in noises):
            worst = torch.maximum(worst, (relevance - own).flatten(1).double().norm(dim=1))
        return Measured(worst / size.clamp(min=TINY))
