"""How fast the logit falls when the patches that an explanation names are removed (Montavon et al., 2018)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pellucid.evaluation import METRICS
from pellucid.evaluation._case import Case, Explainer, Output, check_images
from pellucid.evaluation._curves import area, counts_of, curve, patch_scores, pixel_places, places
from pellucid.evaluation._metric import Measured, Metric
from pellucid.evaluation._removal import Removal, Remover


@METRICS.register("selectivity")
@dataclass(frozen=True)
class Selectivity(Metric):
    """Area under f(x⁽⁰⁾), f(x⁽¹⁾), …, f(x⁽ᴷ⁾): the patch of the largest relevance goes first, the next one second…

    f is the explained logit, or its probability; the area is over the share of patches removed, by trapezoids.
    Beside it stand the area when the least relevant patch goes first, and both mean curves (`most`, `least`, over
    `share` of the patches).
    Lower is better. Weakness: images without patches are none the network was trained on, so that a fall may show its
    surprise, not the patch's part.

    Source: Montavon et al., "Methods for interpreting and understanding deep neural networks", 2018
    (explanation selectivity).
    """

    asks: ClassVar[str] = "does the logit fall fast when the most relevant patches are removed?"
    is_higher_better: ClassVar[bool] = False
    low: ClassVar[float] = float("-inf")
    high: ClassVar[float] = float("inf")

    patch_pixels: int = 4
    """Height and width of a patch."""
    steps: int = 16
    """Points of the curve after the first; more than there are patches: one patch a step."""
    removal: Removal = "zero"
    """What stands in a patch's place."""
    output: Output = "logit"
    """What f is."""
    is_recomputed: bool = False
    """Explain each image anew after each step, as the definition's loop has it, rather than once."""

    def measure(self, case: Case, method: Explainer) -> Measured:
        """(image,) areas."""
        check_images(case)
        most, counts = self._curve(case, method, sign=1)
        least, _ = self._curve(case, method, sign=-1)
        share = torch.tensor(counts, dtype=torch.float32, device="cpu") / counts[-1]
        return Measured(
            area(most, counts),
            {"least relevant first": area(least, counts)},
            {"share": share, "most": most.mean(0), "least": least.mean(0)},
        )

    def _curve(self, case: Case, method: Explainer, sign: int) -> tuple[Tensor, list[int]]:
        size = (case.images.shape[2], case.images.shape[3])
        scores = sign * patch_scores(method.pixels, self.patch_pixels)
        counts = counts_of(scores[0].numel(), self.steps)
        ranks = places(scores, case.generator("ties"))
        change = Remover(case.images, self.removal, case.draw("imputation", count=1)[0])
        if not self.is_recomputed:
            return curve(case, pixel_places(ranks, self.patch_pixels, size), counts, change, self.output), counts
        scored = []
        for count, following in zip(counts, [*counts[1:], counts[-1]], strict=True):
            images = change(pixel_places(ranks, self.patch_pixels, size) < count)
            scored.append(case.score(images, self.output))
            if following != count:
                again = sign * patch_scores(method(images, case.targets).sum(1), self.patch_pixels)
                ranks = _after(ranks, count, places(again, case.generator("ties")))
        return torch.stack(scored, 1), counts


def _after(ranks: Tensor, count: int, fresh: Tensor) -> Tensor:
    """The first `count` as they were, and the others in their fresh order."""
    units = ranks[0].numel()
    key = torch.where(ranks < count, ranks - units, fresh).flatten(1)
    return key.argsort(1).argsort(1).reshape(ranks.shape)
