"""Relevance mass accuracy: the share of positive relevance inside the ground truth (Arras et al., 2022)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pellucid.evaluation import METRICS, Case, Explainer, Measured, Metric
from pellucid.evaluation._metric import TINY


@METRICS.register("relevance_mass")
@dataclass(frozen=True)
class RelevanceMass(Metric):
    """Positive relevance inside the mask divided by all positive relevance, after summing over channels.

    Higher is better, from 0 to 1; a random map scores the mask's share of the area. NaN if no relevance is positive, or
    the mask is empty. Weakness: it needs a ground truth, and assumes that the network uses it.

    Source: Arras et al., "CLEVR-XAI", 2022 (relevance mass accuracy).
    """

    asks: ClassVar[str] = "how much of the positive relevance is inside the ground truth?"
    is_higher_better: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"masks"})

    def measure(self, case: Case, method: Explainer) -> Measured:
        """Return the (image,) shares."""
        masks = masks_of(case)
        positive = method.pixels.double().clamp(min=0).flatten(1)
        total = positive.sum(1)
        share = (positive * masks).sum(1) / total.clamp(min=TINY)
        return Measured(torch.where((total > 0) & masks.any(1), share, torch.nan))


def masks_of(case: Case) -> Tensor:
    """Return the masks as (image, pixel)."""
    assert case.masks is not None
    return case.masks.flatten(1)
