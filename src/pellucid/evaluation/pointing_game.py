"""Pointing game: the most relevant pixel should be inside the ground truth (Zhang et al., 2018)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F

from pellucid.core.ranges import Range
from pellucid.evaluation import METRICS, Case, Explainer, Measured, Metric
from pellucid.evaluation._case import KINDS, Kind
from pellucid.evaluation._curves import places
from pellucid.evaluation.relevance_mass import masks_of


@METRICS.register("pointing_game")
@dataclass(frozen=True)
class PointingGame(Metric):
    """1 if the most relevant pixel is in the mask or at most `tolerance` pixels away, else 0.

    Higher is better. Weakness: a single pixel decides; a map that is correct there and wrong elsewhere passes.

    Source: Zhang et al., "Top-down neural attention by excitation backprop", 2018 (the pointing game, with a tolerance
    of 15 pixels on photographs).
    """

    asks: ClassVar[str] = "is the most relevant pixel inside the ground truth?"
    is_higher_better: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"masks"})

    tolerance: Annotated[int, Range(0)] = 0
    """Margin, in pixels, by which the mask is dilated on each side."""

    @property
    def accepts(self) -> frozenset[Kind]:
        return frozenset(KINDS.values()) - ({"table"} if self.tolerance else frozenset())

    def measure(self, case: Case, method: Explainer) -> Measured:
        """Return the (image,) hits."""
        masks = masks_of(case)
        assert case.masks is not None
        wide = case.masks
        if self.tolerance:
            # max-pooling with stride 1 is a dilation
            pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[wide.ndim - 2]
            wide = pool(wide[:, None].float(), 2 * self.tolerance + 1, 1, self.tolerance)[:, 0] > 0
        is_first = places(method.pixels, case.generator("ties")) == 0
        hit = (is_first & wide).flatten(1).any(1).double()
        return Measured(torch.where(masks.any(1), hit, torch.nan))
