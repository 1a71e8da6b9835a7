"""How soon recognition fails when the most relevant pixels are imputed away (ROAD; Rong et al., 2022)."""

from dataclasses import dataclass
from math import ceil
from typing import ClassVar, Literal

import torch

from pellucid.core.errors import ConfigError
from pellucid.evaluation import METRICS
from pellucid.evaluation._case import Case, Explainer, check_images
from pellucid.evaluation._curves import curve, places
from pellucid.evaluation._metric import Measured, Metric
from pellucid.evaluation._removal import Removal, Remover


@METRICS.register("road")
@dataclass(frozen=True)
class Road(Metric):
    """Accuracy after the most relevant pixels were removed by noisy linear imputation, mean over `shares`.

    Right is an image still given its explained class. Lower is better, from 0 to 1. No network is trained anew: the
    imputation leaves no trace of the mask that it could read. Weakness: what a smooth filling leaves of an image is
    still not what the network was trained on; on line drawings, much can be guessed from the neighbours.

    Source: Rong et al., "A consistent and efficient evaluation strategy for attribution methods", 2022.
    """

    asks: ClassVar[str] = "is the class lost soon when the most relevant pixels are imputed from the others?"
    is_higher_better: ClassVar[bool] = False

    shares: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    """How much of the image is removed."""
    order: Literal["most", "least"] = "most"
    """Which pixels go first; `least` is better the higher it is."""
    removal: Removal = "linear"
    """What stands in a pixel's place."""

    def __post_init__(self) -> None:
        check_shares(self.shares)

    def measure(self, case: Case, method: Explainer) -> Measured:
        """(image,) shares of the removals after which the class was still found."""
        check_images(case)
        sign = 1 if self.order == "most" else -1
        ranks = places(sign * method.pixels, case.generator("ties"))
        change = Remover(case.images, self.removal, case.draw("imputation", count=1)[0])
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
    """Raise `ConfigError` unless there are shares, all within 0 and 1."""
    if not shares or not all(0 <= share <= 1 for share in shares):
        raise ConfigError(f"shares is {shares}; give one share of the pixels or more, from 0 to 1.")
