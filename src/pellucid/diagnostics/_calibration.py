"""Calibration of predicted probabilities: reliability diagram, calibration error with a test, and Brier score."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pellucid.core.options import Range, check_argument
from pellucid.diagnostics._brier import BrierScore, brier_score
from pellucid.diagnostics._predicted import check_probabilities
from pellucid.diagnostics._reliability import ReliabilityBins, reliability_bins
from pellucid.diagnostics._resampled import calibration_errors, exceedance, family_wise

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pellucid.diagnostics._risk_coverage import RiskCoverage

__all__ = ["Calibration", "ClassCalibration", "calibration"]


@dataclass(frozen=True, eq=False)
class ClassCalibration:
    """Calibration of the probability of each class, over all images."""

    counts: Int64[Tensor, " class"]
    """Number of images of the class."""
    expected_counts: Float[Tensor, " class"]
    """Sum of the probabilities of the class: the number of its images that the model expects."""
    ece: Float[Tensor, " class"]
    """Expected calibration error of the class's probability."""
    expected_ece: Float[Tensor, " class"]
    """Its mean under the null hypothesis."""
    p: Float[Tensor, " class"]
    """p-value of each class, adjusted for the number of classes (max-T, Westfall and Young, 1993)."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """Calibration of a classifier's probabilities on labeled images.

    The null hypothesis of all p-values is that the probabilities are calibrated: that each label is a draw from the
    predicted probabilities of its image.
    """

    images: int
    accuracy: float
    confidence: float
    """Mean confidence."""
    bins: ReliabilityBins
    """The reliability diagram."""
    ece: float
    """Expected calibration error of the confidences, 0 (best) to 1."""
    null: Float[Tensor, " draw"]
    """Calibration errors under the null hypothesis, in ascending order."""
    p: float
    """p-value of the calibration error."""
    brier: BrierScore
    classes: ClassCalibration

    @property
    def expected_ece(self) -> float:
        """Mean of the calibration error under the null hypothesis; above 0, because each bin has few images."""
        return float(self.null.mean())

    @property
    def critical_ece(self) -> float:
        """The 95% quantile of the calibration error under the null hypothesis."""
        return float(self.null.quantile(0.95))

    def figure(
        self,
        title: str = "Calibration",
        subtitle: str = "",
        *,
        after: "Calibration | None" = None,
        risk_coverage: "RiskCoverage | None" = None,
    ) -> "Figure":
        """Draw the reliability diagram above a histogram of the confidences.

        `after` is drawn into the same axes, such as the calibration with a temperature. `risk_coverage` is drawn next
        to them.
        """
        from pellucid.plots.calibration import Diagram, calibration_figure

        def diagram(one: Calibration) -> Diagram:
            return Diagram(**{name: value.numpy() for name, value in vars(one.bins).items()})

        curve = None if risk_coverage is None else risk_coverage.curve()
        diagrams = {"predicted": diagram(self)}
        if after is not None:
            diagrams["with temperature"] = diagram(after)
        return calibration_figure(diagrams, curve, (title, subtitle))

    def to_dict(self) -> dict[str, Any]:
        """Return all values as JSON values; those of empty bins are None."""
        bins = {name: _listed(value) for name, value in vars(self.bins).items()}
        classes = {name: _listed(value) for name, value in vars(self.classes).items()}
        return {
            "images": self.images,
            "accuracy": self.accuracy,
            "confidence": self.confidence,
            "ece": self.ece,
            "expected_ece": self.expected_ece,
            "critical_ece": self.critical_ece,
            "draws": len(self.null),
            "p": self.p,
            "brier": self.brier.to_dict(),
            "bins": bins,
            "classes": {**classes, "brier": _listed(self.brier.scores)},
        }


def calibration(
    probabilities: Tensor,
    labels: Tensor,
    *,
    bins: int = 15,
    draws: int = 1000,
    seed: int = 0,
) -> Calibration:
    """Measure how well predicted probabilities match the labels.

    The confidence of an image is its largest probability. The expected calibration error is the plug-in estimate
    Σ n_b/n |accuracy_b − confidence_b| over `bins` bins of equal width (Naeini et al., 2015; Guo et al., 2017). It is
    above 0 even for a calibrated model, so it comes with its distribution under calibration: `draws` sets of labels are
    drawn from the predicted probabilities themselves (consistency resampling, Bröcker and Smith, 2007; Vaicenavicius et
    al., 2019), and p = (1 + number of draws with at least the observed error) / (1 + draws). The test has its nominal
    level at any number of images and bins, because nothing is estimated.

    The error of each class is that of its probability over all images (Kull et al., 2019). The p-values of the classes
    are adjusted together: each class's error, standardized by its own mean and standard deviation under calibration, is
    compared with the largest one of each draw.

    `probabilities` (image, class) sum to 1 in each row, `labels` (image,) are class indices, and `draws` is at least
    19, which allows for p = 0.05. Raises `ShapeError` or `DataError` for anything that is not a distribution with a
    label.

    >>> probabilities = torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.3, 0.7], [0.5, 0.5]])
    >>> result = calibration(probabilities, torch.tensor([0, 0, 1, 1]), bins=5)
    >>> round(result.confidence, 3), result.accuracy, round(result.ece, 3), result.p > 0.05
    (0.7, 0.75, 0.3, True)
    """
    check_probabilities(probabilities, labels)
    check_argument("calibration", "bins", bins, Annotated[int, Range(1, 1000)])
    check_argument("calibration", "draws", draws, Annotated[int, Range(19)])
    check_argument("calibration", "seed", seed, Annotated[int, Range(0)])
    values, labels = probabilities.detach().double().cpu(), labels.detach().long().cpu()
    confidence, predictions = values.max(1)
    is_correct = predictions == labels
    overall, each = calibration_errors(values, labels, bins, draws, seed)
    return Calibration(
        images=len(values),
        accuracy=float(is_correct.double().mean()),
        confidence=float(confidence.mean()),
        bins=reliability_bins(confidence, is_correct, bins),
        ece=float(overall[0]),
        null=overall[1:].sort().values,
        p=exceedance(overall),
        brier=brier_score(values, labels, bins),
        classes=ClassCalibration(
            counts=torch.bincount(labels, minlength=values.shape[1]),
            expected_counts=values.sum(0),
            ece=each[0],
            expected_ece=each[1:].mean(0),
            p=family_wise(each),
        ),
    )


def _listed(values: Tensor) -> list[int | float | None]:
    """Return the values as JSON values, with six significant digits; NaN becomes None."""
    if not values.is_floating_point():
        return values.tolist()
    return [None if value != value else float(f"{value:.6g}") for value in values.tolist()]
