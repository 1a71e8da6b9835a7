"""Insertion: the probability should rise quickly as the most relevant pixels return (Petsiuk et al., 2018)."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from pellucid.core.options import Count
from pellucid.evaluation import METRICS, Case, Explainer, Measured, Metric
from pellucid.evaluation._case import Kind, Output
from pellucid.evaluation._curves import area, counts_of, curve, places
from pellucid.evaluation._removal import Removal, Remover, kinds_of


@METRICS.register("insertion")
@dataclass(frozen=True)
class Insertion(Metric):
    """Area under the curve of the explained class's probability as pixels replace a blurred image, most relevant first.

    Higher is better, from 0 to 1. Weakness: if the blurred image is still recognized, the curve starts high for every
    method.

    Source: Petsiuk et al., "RISE", 2018 (the insertion metric).
    """

    asks: ClassVar[str] = "does the probability rise fast when the most relevant pixels return?"
    is_higher_better: ClassVar[bool] = True

    steps: Count = 28
    """Number of steps of the curve."""
    removal: Removal = "blur"
    """Replacement for missing pixels at the start."""
    output: Output = "probability"
    """Output of the explained class to measure."""

    @property
    def accepts(self) -> frozenset[Kind]:
        return kinds_of(self.removal)

    def measure(self, case: Case, method: Explainer) -> Measured:
        """Return the (image,) areas under the curves."""
        ranks = places(method.pixels, case.generator("ties"))
        counts = counts_of(ranks[0].numel(), self.steps)
        change = Remover(case.images, self.removal, case.draw("imputation", count=1)[0])
        scores = curve(case, ranks, counts, change, self.output, is_back=True)
        return Measured(
            area(scores, counts),
            curves={
                "share": torch.tensor(counts, dtype=torch.float32, device="cpu") / counts[-1],
                "most": scores.mean(0),
            },
        )
