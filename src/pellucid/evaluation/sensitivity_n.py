"""Sensitivity-n: the relevance of pixel sets should predict the effect of removing them (Ancona et al., 2018)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid.core.errors import ConfigError
from pellucid.evaluation import METRICS, Case, Explainer, Measured, Metric
from pellucid.evaluation._case import Kind, per_place
from pellucid.evaluation._metric import TINY
from pellucid.evaluation._removal import Removal, Remover, kinds_of


@METRICS.register("sensitivity_n")
@dataclass(frozen=True)
class SensitivityN(Metric):
    """Pearson correlation of Σ_{i∈S} R_i and f(x) − f(x without S) over random sets S of n pixels, averaged over n.

    f is the explained logit. Higher is better, from −1 to 1. The sets are the same for all images and methods; the mean
    curve over n is kept (`correlation` over `share`). If removals change nothing, the correlation is 0. Weakness: for
    large n, all sets are similar, and the correlation measures noise.

    Source: Ancona et al., "Towards better understanding of gradient-based attribution methods", 2018
    (sensitivity-n).
    """

    asks: ClassVar[str] = "does the relevance of a random set of pixels predict the effect of removing it?"
    is_higher_better: ClassVar[bool] = True
    low: ClassVar[float] = -1.0

    shares: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
    """Values of n, as shares of all pixels."""
    sets: int = 50
    """Number of random sets for each n."""
    removal: Removal = "zero"
    """Replacement for removed pixels."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.shares or not all(0 < share < 1 for share in self.shares) or self.sets < 3:
            raise ConfigError(
                f"got shares={self.shares} and sets={self.sets}; expected shares between 0 and 1, and at least 3 sets."
            )

    @property
    def accepts(self) -> frozenset[Kind]:
        return kinds_of(self.removal)

    def measure(self, case: Case, method: Explainer) -> Measured:
        """Return the (image,) mean correlations."""
        correlations = []
        relevance = method.pixels.flatten(1).double()
        # the effects depend on the model alone: one method pays for all
        effects = case.shared(self, lambda: [self._effects(case, number) for number in range(len(self.shares))])
        for number in range(len(self.shares)):
            predicted = relevance @ self._sets(case, number).to(relevance).T
            correlations.append(correlation(predicted, effects[number]))
        curves = torch.stack(correlations, 1)
        return Measured(
            curves.mean(1),
            curves={
                "share": torch.tensor(self.shares, dtype=torch.float32, device="cpu"),
                "correlation": curves.mean(0),
            },
        )

    def _sets(self, case: Case, number: int) -> Tensor:
        """Draw (set, pixel): the pixels in each set."""
        pixels = per_place(case.images[:1]).numel()
        # never the empty or the full set, whose effects do not vary
        size = min(max(1, round(self.shares[number] * pixels)), pixels - 1)
        random = case.generator("sensitivity_n", number)
        sets = torch.zeros(self.sets, pixels, dtype=torch.bool, device="cpu")
        for one in sets:
            one[torch.randperm(pixels, generator=random, device="cpu")[:size]] = True
        return sets.to(case.images.device)

    def _effects(self, case: Case, number: int) -> Tensor:
        """Compute (image, set): f(x) − f(x without S), the same for all methods."""
        change = Remover(case.images, self.removal, case.draw("imputation", count=1)[0])
        own, shape = case.read(case.logits).double(), per_place(case.images).shape
        return torch.stack(
            [
                own - case.score(change(one.reshape(shape[1:]).expand(shape))).double()
                for one in self._sets(case, number)
            ],
            1,
        )


def correlation(first: Tensor, second: Tensor) -> Tensor:
    """Compute the (image,) Pearson correlations along the second axis; 0 if one side is constant."""
    first, second = first - first.mean(1, keepdim=True), second - second.mean(1, keepdim=True)
    return F.cosine_similarity(first, second, dim=1, eps=TINY)
