"""How many of the most relevant pixels are where they must be (Arras et al., 2022)."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from pellucid.evaluation import METRICS
from pellucid.evaluation._case import Case, Explainer
from pellucid.evaluation._curves import places
from pellucid.evaluation._metric import Measured, Metric
from pellucid.evaluation.relevance_mass import masks_of


@METRICS.register("relevance_rank")
@dataclass(frozen=True)
class RelevanceRank(Metric):
    """Of the K most relevant pixels, the share within the mask of K pixels; channels are added first.

    Higher is better, from 0 to 1; a random map has the mask's share of the area. Weakness: on an empty background, ties
    decide, and they are broken by lot.

    Source: Arras et al., "CLEVR-XAI", 2022 (relevance rank accuracy).
    """

    asks: ClassVar[str] = "are the most relevant pixels where they must be?"
    is_higher_better: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"masks"})

    def measure(self, case: Case, method: Explainer) -> Measured:
        """(image,) shares."""
        masks = masks_of(case)
        sizes = masks.sum(1)
        is_among = places(method.pixels, case.generator("ties")).flatten(1) < sizes[:, None]
        share = (is_among & masks).sum(1).double() / sizes.clamp(min=1)
        return Measured(torch.where(sizes > 0, share, torch.nan))
