"""How much less a network can learn once the most relevant pixels are gone (ROAR; Hooker et al., 2019)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pellucid.evaluation import METRICS
from pellucid.evaluation._case import Case, Explainer, check_images
from pellucid.evaluation._curves import places
from pellucid.evaluation._metric import Measured, Metric
from pellucid.evaluation._removal import Removal, removed
from pellucid.evaluation.road import check_shares


@METRICS.register("roar")
@dataclass(frozen=True)
class Roar(Metric):
    """Accuracy of networks trained and tested on images whose most relevant pixels were removed, mean over `shares`.

    Of each training and test image, the share of its pixels with the largest relevance becomes the mean of its
    channel; a fresh network is trained on what is left. Right is a test image given its explained class; the drop of
    accuracy is the case's own less this. Lower is better, from 0 to 1. It needs training images, and takes one
    training a method and share: minutes. Weakness: a class may be read off the shape of the removed pixels, which
    hides a good explanation (Rong et al., 2022); the value has the spread of the trainings.

    Source: Hooker et al., "A benchmark for interpretability methods in deep neural networks", 2019.
    """

    asks: ClassVar[str] = "can a network trained anew do without the most relevant pixels?"
    is_higher_better: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset({"training"})

    shares: tuple[float, ...] = (0.5, 0.9)
    """How much of each image is removed."""
    removal: Removal = "mean"
    """What stands in a pixel's place."""

    def __post_init__(self) -> None:
        check_shares(self.shares)

    def measure(self, case: Case, method: Explainer) -> Measured:
        """(image,) shares of the trainings after which the image was still recognised."""
        check_images(case)
        assert case.training is not None
        assert case.retrain is not None
        images, labels = case.training
        learned = method(images, case.predict(images).argmax(1)).sum(1)
        right = []
        for share in self.shares:
            training = self._without(case, images, learned, share)
            logits = case.retrain(training, labels, self._without(case, case.images, method.pixels, share))
            right.append((logits.argmax(1).to(case.targets) == case.targets).double())
        told = torch.stack(right, 1)
        return Measured(
            told.mean(1),
            curves={"share": torch.tensor(self.shares, dtype=torch.float32, device="cpu"), "most": told.mean(0)},
        )

    def _without(self, case: Case, images: Tensor, pixels: Tensor, share: float) -> Tensor:
        ranks = places(pixels, case.generator("ties"))
        return removed(images, ranks < share * ranks[0].numel(), self.removal, case.draw("imputation", count=1)[0])
