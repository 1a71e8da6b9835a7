"""Deletion: the probability should fall quickly as the most relevant pixels are deleted (Petsiuk et al., 2018)."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from pellucid.core.options import Count
from pellucid.evaluation import METRICS, Case, Explainer, Measured, Metric
from pellucid.evaluation._case import Kind, Output
from pellucid.evaluation._curves import area, counts_of, curve, places
from pellucid.evaluation._removal import Removal, Remover, kinds_of


@METRICS.register("deletion")
@dataclass(frozen=True)
class Deletion(Metric):
    """Area under the curve of the explained class's probability as pixels are set to zero, most relevant first.

    Lower is better, from 0 to 1. With one pixel per step and the logit, this is pixel flipping (Bach et al., 2015).
    Weakness: to many networks, single missing pixels are adversarial noise.

    Source: Petsiuk et al., "RISE", 2018 (the deletion metric).
    """

    asks: ClassVar[str] = "does the probability fall fast when the most relevant pixels are deleted?"
    is_higher_better: ClassVar[bool] = False

    steps: Count = 28
    """Number of steps of the curve."""
    removal: Removal = "zero"
    """Replacement for removed pixels."""
    output: Output = "probability"
    """Output of the explained class to measure."""

    @property
    def accepts(self) -> frozenset[Kind]:
        return kinds_of(self.removal)

    def measure(self, case: Case, method: Explainer) -> Measured:
        """Return the (image,) areas under the curves."""
        ranks = places(method.pixels, case.generator("ties"))
        counts = counts_of(ranks[0].numel(), self.steps)
        # only linear imputation uses the noise
        change = Remover(case.images, self.removal, case.draw("imputation", count=1)[0])
        scores = curve(case, ranks, counts, change, self.output)
        return Measured(
            area(scores, counts),
            curves={
                "share": torch.tensor(counts, dtype=torch.float32, device="cpu") / counts[-1],
                "most": scores.mean(0),
            },
        )
