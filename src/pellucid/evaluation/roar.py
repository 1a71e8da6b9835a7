"""ROAR: accuracy after retraining without the most relevant pixels (Hooker et al., 2019)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pellucid.engine.model import check_model
from pellucid.evaluation import METRICS, Case, Explainer, Measured, Metric
from pellucid.evaluation._case import Kind, per_place
from pellucid.evaluation._curves import places
from pellucid.evaluation._removal import Removal, kinds_of, removed
from pellucid.evaluation.road import check_shares


@METRICS.register("roar")
@dataclass(frozen=True)
class Roar(Metric):
    """Accuracy of networks trained and tested on images without their most relevant pixels, averaged over `shares`.

    In each training and test image, the given share of pixels with the largest relevance is set to the channel mean,
    and a reinitialized network is trained on the result. A test image counts as correct if it is assigned its explained
    class; the drop in accuracy is the original accuracy minus this value. Lower is better, from 0 to 1. It needs
    training images and one training per method and share, which takes minutes. Weakness: the shape of the removed area
    can reveal the class, which hides a good explanation (Rong et al., 2022); the value varies between trainings.

    Source: Hooker et al., "A benchmark for interpretability methods in deep neural networks", 2019.
    """

    asks: ClassVar[str] = "can a retrained network do without the most relevant pixels?"
    is_higher_better: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset({"training"})

    shares: tuple[float, ...] = (0.5, 0.9)
    """Shares of the pixels to remove."""
    removal: Removal = "mean"
    """Replacement for removed pixels."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_shares(self.shares)

    @property
    def accepts(self) -> frozenset[Kind]:
        return kinds_of(self.removal)

    def measure(self, case: Case, method: Explainer) -> Measured:
        """Return, for each image, the share of trainings after which it was still recognized."""
        check_model(case.model, "training")
        assert case.training is not None
        assert case.retrain is not None
        images, labels = case.training
        # training images are explained for their predicted class, test images for their target
        relevance = method(images, case.predict(images).argmax(1))
        correct = []
        for share in self.shares:
            training = self._without(case, images, per_place(relevance), share)
            logits = case.retrain(training, labels, self._without(case, case.images, method.pixels, share))
            correct.append((logits.argmax(1).to(case.targets) == case.targets).double())
        accuracy = torch.stack(correct, 1)
        shares = torch.tensor(self.shares, dtype=torch.float32, device="cpu")
        return Measured(accuracy.mean(1), curves={"share": shares, "most": accuracy.mean(0)})

    def _without(self, case: Case, images: Tensor, pixels: Tensor, share: float) -> Tensor:
        ranks = places(pixels, case.generator("ties"))
        return removed(images, ranks < share * ranks[0].numel(), self.removal, case.draw("imputation", count=1)[0])
