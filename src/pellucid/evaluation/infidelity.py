"""Infidelity: the error of an explanation in predicting the effect of perturbations (Yeh et al., 2019)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from pellucid.core.options import Count, NotNegative, Range
from pellucid.evaluation import METRICS, Case, Explainer, Measured, Metric
from pellucid.evaluation._case import KINDS, Kind
from pellucid.evaluation._metric import TINY


@METRICS.register("infidelity")
@dataclass(frozen=True)
class Infidelity(Metric):
    """E[(β IᵀR − (f(x) − f(x − I)))²] over perturbations I, in squared logits.

    I is Gaussian noise, or the image itself within a random square (which removes the square). β is the optimal scale
    for R, image by image (`is_scaled`), as in the authors' code; otherwise β = 1. Lower is better, from 0. Weakness:
    IᵀR reads R as an effect per unit of pixel value, which favors gradients over maps that distribute a logit.

    Source: Yeh et al., "On the (in)fidelity and sensitivity of explanations", 2019 (explanation
    infidelity).
    """

    asks: ClassVar[str] = "does the map predict how a perturbation changes the logit?"
    is_higher_better: ClassVar[bool] = False
    high: ClassVar[float] = float("inf")

    perturbation: Literal["gaussian", "square"] = "gaussian"
    """Noise on all pixels, or removal of a square."""
    noise: NotNegative = 0.2
    """Standard deviation of the Gaussian noise."""
    side_share: Annotated[float | int, Range(0, 1, above=True)] = 0.25
    """Side of the square (interval, cube), as a share of the image's shorter side."""
    draws: Count = 64
    """Number of perturbations."""
    is_scaled: bool = True
    """Scale each map by its optimal factor."""

    @property
    def accepts(self) -> frozenset[Kind]:
        return frozenset(KINDS.values()) - ({"table"} if self.perturbation == "square" else frozenset())

    def measure(self, case: Case, method: Explainer) -> Measured:
        """Return the (image,) mean squared errors."""
        # the effects depend on the model alone: one method pays for all
        effects = case.shared(self, lambda: self._effects(case))
        relevance = method.relevance.flatten(1).double()
        # `_draws` starts from the same seed at each call, so these are the perturbations of `_effects`
        predicted = torch.stack(
            [(self._perturbation(case, one).flatten(1) * relevance).sum(1) for one in self._draws(case)], dim=1
        )
        if self.is_scaled:
            # least squares for one factor per image
            scale = (predicted * effects).sum(1) / predicted.square().sum(1).clamp(min=TINY)
            predicted = scale[:, None] * predicted
        return Measured((predicted - effects).square().mean(1))

    def _draws(self, case: Case) -> Tensor:
        """Draw (draw, *shape of an image): noise, or masks of squares."""
        if self.perturbation == "gaussian":
            return self.noise * case.draw("infidelity", count=self.draws)
        sizes = case.images.shape[2:]
        side = max(1, round(self.side_share * min(sizes)))
        random = case.generator("infidelity")
        masks = torch.zeros(self.draws, *case.images.shape[1:], dtype=case.images.dtype, device="cpu")
        for mask in masks:
            starts = [int(torch.randint(size - side + 1, (), generator=random, device="cpu")) for size in sizes]
            mask[(..., *(slice(start, start + side) for start in starts))] = 1
        return masks.to(case.images.device)

    def _perturbation(self, case: Case, draw: Tensor) -> Tensor:
        """Return the perturbation I of each image."""
        return draw * case.images if self.perturbation == "square" else draw.expand_as(case.images)

    def _effects(self, case: Case) -> Tensor:
        """Compute (image, draw): f(x) − f(x − I), the same for all methods."""
        own = case.read(case.logits).double()
        return torch.stack(
            [own - case.score(case.images - self._perturbation(case, one)).double() for one in self._draws(case)], dim=1
        )
