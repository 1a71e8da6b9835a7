"""Risk-coverage curve: the error rate on the most confident images, as a function of their share."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.core.errors import DataError, ShapeError
from pellucid.core.finite import bad_value, first_bad_row
from pellucid.diagnostics._arguments import check_tensors

__all__ = ["RiskCoverage", "risk_coverage"]

MOST_POINTS = 400
"""Maximum number of points of a drawn curve."""


@dataclass(frozen=True, eq=False)
class RiskCoverage:
    """Error rate ("risk") among the most confident images, for each number of images that are kept."""

    risk: Float[Tensor, " image"]
    """Error rate among the i + 1 most confident images, 0 to 1. This is its mean over all orders of images of equal
    confidence."""
    aurc: float
    """Area under the curve: the mean of `risk` (Geifman and El-Yaniv, 2017). Lower is better."""
    excess_aurc: float
    """Its difference from that of the best possible order, in which all errors have the lowest confidences (Geifman,
    Uziel and El-Yaniv, 2019); 0 is best."""

    @property
    def coverage(self) -> Float[Tensor, " image"]:
        """Share of the images that are kept, 1/n to 1."""
        return torch.arange(1, len(self.risk) + 1, dtype=torch.float64, device="cpu") / len(self.risk)

    @property
    def error_rate(self) -> float:
        """Error rate at full coverage, which is also the mean `aurc` of a random order."""
        return float(self.risk[-1])

    def risk_at(self, coverage: float) -> float:
        """Return the error rate among the most confident images, whose share is at least `coverage`."""
        if not 0 < coverage <= 1:
            raise DataError(f"coverage is {coverage}; expected a share above 0 and at most 1.")
        # without rounding, 0.9 × 10 would need 10 images
        return float(self.risk[max(1, -int(-round(coverage * len(self.risk), 6) // 1)) - 1])

    def curve(self) -> dict[str, list[float]]:
        """Return up to 400 points of the curve: `coverage`, `risk` and `best`, the risk of the best possible order."""
        count = len(self.risk)
        points = torch.arange(1, min(count, MOST_POINTS) + 1, device="cpu") * count // min(count, MOST_POINTS) - 1
        best = _best_risk(count, round(self.error_rate * count))
        parts = {"coverage": self.coverage, "risk": self.risk, "best": best}
        return {name: [float(f"{one:.6g}") for one in values[points].tolist()] for name, values in parts.items()}


def risk_coverage(confidence: Tensor, is_correct: Tensor) -> RiskCoverage:
    """Compute the risk-coverage curve from the confidence of each prediction (image,), and whether it is correct.

    The confidence can be any score that is higher for more reliable predictions. A classifier that may abstain keeps
    its most confident predictions; the curve shows the error rate among them. It depends only on the order of the
    scores. Images of equal confidence are treated as in random order, so the result does not depend on the order of the
    images. Raises `ShapeError` or `DataError` for invalid values.

    >>> curve = risk_coverage(torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([True, True, False, True]))
    >>> [round(one, 3) for one in curve.risk.tolist()], round(curve.aurc, 4), round(curve.excess_aurc, 4)
    ([0.0, 0.0, 0.333, 0.25], 0.1458, 0.0833)
    """
    _check(confidence, is_correct)
    scores, wrong = confidence.detach().double().cpu(), 1 - is_correct.detach().cpu().double()
    values, group = scores.unique(return_inverse=True)
    group = len(values) - 1 - group  # the most confident first
    sizes, errors = torch.bincount(group), torch.bincount(group, wrong)
    # within a group of equal confidences, the expected number of errors grows linearly
    found = torch.repeat_interleave(errors / sizes, sizes).cumsum(0)
    count = len(scores)
    kept = torch.arange(1, count + 1, dtype=torch.float64, device="cpu")
    risk = (found / kept).clamp(0, 1)
    best = _best_risk(count, round(float(wrong.sum())))
    return RiskCoverage(risk, float(risk.mean()), max(0.0, float((risk - best).mean())))


def _best_risk(count: int, errors: int) -> Tensor:
    """Return the curve of the best order: all correct predictions first."""
    kept = torch.arange(1, count + 1, dtype=torch.float64, device="cpu")
    return (kept - (count - errors)).clamp(min=0) / kept


def _check(confidence: Any, is_correct: Any) -> None:
    check_tensors(confidence=confidence, is_correct=is_correct)
    if confidence.ndim != 1 or not len(confidence) or not confidence.is_floating_point():
        raise ShapeError(
            f"confidence has shape {tuple(confidence.shape)} and dtype {confidence.dtype}; pass one float per image."
        )
    if is_correct.shape != confidence.shape or is_correct.dtype != torch.bool:
        raise ShapeError(
            f"is_correct has shape {tuple(is_correct.shape)} and dtype {is_correct.dtype} for {len(confidence)} "
            "confidences; pass one bool per image, e.g. predictions == labels."
        )
    if first_bad_row(confidence) is not None:
        raise DataError(f"confidence holds {bad_value(confidence)}; every value must be finite. Remove the image.")
