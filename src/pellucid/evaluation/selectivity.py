"""Selectivity: the logit should fall quickly as the most relevant patches are removed (Montavon et al., 2018)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pellucid.core.options import Count
from pellucid.evaluation import METRICS, Case, Explainer, Measured, Metric
from pellucid.evaluation._case import Kind, Output, per_place
from pellucid.evaluation._curves import area, counts_of, curve, patch_scores, pixel_places, places
from pellucid.evaluation._removal import Removal, Remover, kinds_of


@METRICS.register("selectivity")
@dataclass(frozen=True)
class Selectivity(Metric):
    """Area under f(x⁽⁰⁾), f(x⁽¹⁾), …, f(x⁽ᴷ⁾), as patches are removed from the most to the least relevant.

    f is the explained logit or probability. The area is computed over the share of removed patches, by the trapezoidal
    rule. Secondary results are the area for removing the least relevant patches first, and both mean curves (`most` and
    `least`, over `share`). Lower is better. Weakness: images with missing patches are unlike the training data, so a
    drop may reflect the distribution shift instead of the patch's contribution.

    Source: Montavon et al., "Methods for interpreting and understanding deep neural networks", 2018
    (explanation selectivity).
    """

    asks: ClassVar[str] = "does the logit fall fast when the most relevant patches are removed?"
    is_higher_better: ClassVar[bool] = False
    low: ClassVar[float] = float("-inf")
    high: ClassVar[float] = float("inf")

    patch_pixels: Count = 4
    """Side length of a patch; a patch of a table is a single feature."""
    steps: Count = 16
    """Number of steps of the curve; at most one per patch."""
    removal: Removal = "zero"
    """Replacement for removed patches."""
    output: Output = "logit"
    """Output of the explained class to measure."""
    is_recomputed: bool = False
    """Recompute the explanation after each step, as in the definition's loop, instead of once."""

    @property
    def accepts(self) -> frozenset[Kind]:
        return kinds_of(self.removal)

    def measure(self, case: Case, method: Explainer) -> Measured:
        """Return the (image,) areas under the curves."""
        most, counts = self._curve(case, method, sign=1)
        least, _ = self._curve(case, method, sign=-1)
        share = torch.tensor(counts, dtype=torch.float32, device="cpu") / counts[-1]
        return Measured(
            area(most, counts),
            {"least relevant first": area(least, counts)},
            {"share": share, "most": most.mean(0), "least": least.mean(0)},
        )

    def _curve(self, case: Case, method: Explainer, sign: int) -> tuple[Tensor, list[int]]:
        size = method.pixels.shape[1:]
        side = self.patch_pixels if case.images.ndim > 2 else 1
        scores = sign * patch_scores(method.pixels, side)
        counts = counts_of(scores[0].numel(), self.steps)
        ranks = places(scores, case.generator("ties"))
        change = Remover(case.images, self.removal, case.draw("imputation", count=1)[0])
        if not self.is_recomputed:
            return curve(case, pixel_places(ranks, side, size), counts, change, self.output), counts
        outputs = []
        # nothing remains to be explained after the last point
        for count, following in zip(counts, [*counts[1:], counts[-1]], strict=True):
            images = change(pixel_places(ranks, side, size) < count)
            outputs.append(case.score(images, self.output))
            if following != count:
                scores = sign * patch_scores(per_place(method(images, case.targets)), side)
                ranks = _after(ranks, count, places(scores, case.generator("ties")))
        return torch.stack(outputs, 1), counts


def _after(ranks: Tensor, count: int, fresh: Tensor) -> Tensor:
    """Keep the first `count` ranks, and order the rest by `fresh`."""
    units = ranks[0].numel()
    # negative keys keep the removed units first, in their order
    key = torch.where(ranks < count, ranks - units, fresh).flatten(1)
    # argsort twice turns keys into ranks
    return key.argsort(1).argsort(1).reshape(ranks.shape)
