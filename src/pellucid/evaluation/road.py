"""ROAD: accuracy should fall quickly as the most relevant pixels are removed by imputation (Rong et al., 2022)."""

from dataclasses import dataclass
from math import ceil
from typing import ClassVar, Literal

import torch

from pellucid.core.errors import ConfigError
from pellucid.evaluation import METRICS, Case, Explainer, Measured, Metric
from pellucid.evaluation._case import Kind
from pellucid.evaluation._curves import curve, places
from pellucid.evaluation._removal import Removal, Remover, kinds_of


@METRICS.register("road")
@dataclass(frozen=True)
class Road(Metric):
    """Accuracy after removing the most relevant pixels by noisy linear imputation, averaged over `shares`.

    An image counts as correct if it is still assigned its explained class. Lower is better, from 0 to 1. No retraining
    is needed, because the imputation hides the shape of the mask. Weakness: smoothly imputed images are still unlike
    the training data; on line drawings, much can be inferred from neighboring pixels.

    Source: Rong et al., "A consistent and efficient evaluation strategy for attribution methods", 2022.
    """

    asks: ClassVar[str] = "is the class lost early when the most relevant pixels are imputed from the others?"
    is_higher_better: ClassVar[bool] = False

    shares: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    """Shares of the pixels to remove."""
    order: Literal["most", "least"] = "most"
    """Pixels to remove first; with `least`, higher is better."""
    removal: Removal = "linear"
    """Replacement for removed pixels."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_shares(self.shares)

    @property
    def accepts(self) -> frozenset[Kind]:
        return kinds_of(self.removal)

    def measure(self, case: Case, method: Explainer) -> Measured:
        """Return, for each image, the share of removals after which the class was still predicted."""
        sign = 1 if self.order == "most" else -1
        ranks = places(sign * method.pixels, case.generator("ties"))
        change = Remover(case.images, self.removal, case.draw("imputation", count=1)[0])
        # rounded up, so that every share above 0 removes a pixel; ascending, as `curve` requires
        counts = [ceil(share * ranks[0].numel()) for share in sorted(self.shares)]
        right = curve(case, ranks, counts, change, "is_right").double()
        return Measured(
            right.mean(1),
            curves={
                "share": torch.tensor(sorted(self.shares), dtype=torch.float32, device="cpu"),
                self.order: right.mean(0),
            },
        )


def check_shares(shares: tuple[float, ...]) -> None:
    """Raise `ConfigError` unless there is at least one share, and all are between 0 and 1."""
    if not shares or not all(0 <= share <= 1 for share in shares):
        raise ConfigError(f"got shares={shares}; expected at least one share of the pixels, from 0 to 1.")
