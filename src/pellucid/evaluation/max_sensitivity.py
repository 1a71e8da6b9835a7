"""The most that an explanation changes within a small ball around its image (Yeh et al., 2019)."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from pellucid.evaluation import METRICS
from pellucid.evaluation._case import Case, Explainer
from pellucid.evaluation._metric import Measured, Metric


@METRICS.register("max_sensitivity")
@dataclass(frozen=True)
class MaxSensitivity(Metric):
    """max ‖R(x′) − R(x)‖₂ / ‖R(x)‖₂ over draws of x′ with ‖x′ − x‖∞ ≤ `radius`.

    Lower is better, from 0. The division by ‖R(x)‖ is that of the authors' code, not of their equation: without it
    a map could become better by being multiplied. Draws find less than the true maximum. Weakness: a map that ignores
    its image wins.

    Source: Yeh et al., "On the (in)fidelity and sensitivity of explanations", 2019 (max-sensitivity).
    """

    asks: ClassVar[str] = "how much does the map change under the worst of small noises?"
    is_higher_better: ClassVar[bool] = False
    high: ClassVar[float] = float("inf")
    won_by: ClassVar[frozenset[str]] = frozenset({"constant"})

    radius: float = 0.02
    """The largest change of a pixel."""
    draws: int = 10
    """How many x′ are tried."""

    def measure(self, case: Case, method: Explainer) -> Measured:
        """(image,) largest relative changes."""
        own = method.relevance
        size = own.flatten(1).double().norm(dim=1)
        worst = torch.zeros_like(size)
        noises = case.draw("max_sensitivity", count=self.draws, is_uniform=True)
        for _, relevance in method.near(case.images + self.radius * noise for noise in noises):
            worst = torch.maximum(worst, (relevance - own).flatten(1).double().norm(dim=1))
        return Measured(worst / size.clamp(min=1e-300))
