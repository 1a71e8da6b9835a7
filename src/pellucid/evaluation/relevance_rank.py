"""Relevance rank accuracy: the share of the most relevant pixels inside the ground truth (Arras et al., 2022)."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from pellucid.evaluation import METRICS, Case, Explainer, Measured, Metric
from pellucid.evaluation._curves import places
from pellucid.evaluation.relevance_mass import masks_of


@METRICS.register("relevance_rank")
@dataclass(frozen=True)
class RelevanceRank(Metric):
    """Share of the K most relevant pixels inside the mask of K pixels, after summing over channels.

    Higher is better, from 0 to 1; a random map scores the mask's share of the area. Weakness: on an empty background,
    ties decide, and they are broken at random.

    Source: Arras et al., "CLEVR-XAI", 2022 (relevance rank accuracy).
    """

    asks: ClassVar[str] = "are the most relevant pixels inside the ground truth?"
    is_higher_better: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"masks"})

    def measure(self, case: Case, method: Explainer) -> Measured:
        """Return the (image,) shares."""
        masks = masks_of(case)
        sizes = masks.sum(1)
        is_among = places(method.pixels, case.generator("ties")).flatten(1) < sizes[:, None]
        share = (is_among & masks).sum(1).double() / sizes.clamp(min=1)
        return Measured(torch.where(sizes > 0, share, torch.nan))
