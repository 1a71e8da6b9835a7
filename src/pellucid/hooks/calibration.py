"""Calibration: how far the confidence of predictions matches their accuracy."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid.diagnostics import (
    Calibration,
    CrossFittedTemperature,
    RiskCoverage,
    Temperature,
    calibration,
    cross_fit_temperature,
    fit_temperature,
    risk_coverage,
)
from pellucid.hooks import HOOKS, Artifact, Hook, Scene
from pellucid.hooks._hook import left_out

__all__ = ["CalibrationOfTestImages"]

FEWEST_FITTED = 30
"""Minimum number of images to which a temperature is fitted."""
KEPT = 0.9
"""Coverage whose error rate the caption states."""


@HOOKS.register("calibration")
@dataclass(frozen=True)
class CalibrationOfTestImages(Hook):
    """Reliability diagram, calibration error with a test, Brier score, temperature, and risk-coverage curve."""

    bins: int = 15
    """Number of bins of confidences, of equal width."""
    draws: int = 200
    """Number of sets of labels drawn from the predicted probabilities, for the null distribution."""

    def run(self, scene: Scene) -> Iterable[Artifact]:
        """Yield a figure with numbers.

        `predicted` are the values of `pellucid.diagnostics.Calibration` with the mean cross-entropy in nats (`loss`);
        `scaled` are the same with a temperature, or None. `temperature` has the `values` fitted to the validation
        images, or, without any, to each half of the test images, with their 95% intervals `low` and `high`, and a
        `note` if they are not determined. `risk_coverage` has `aurc`, `excess_aurc` and the curve.
        """
        logits, labels = scene.logits.double(), scene.test.labels
        if not len(logits):
            return
        if not logits.isfinite().all():
            count = int((~logits.isfinite().all(1)).sum())
            yield left_out(scene, f"the logits of {count:,} of {len(logits):,} test images are not finite.")
            return
        before = self._measure(scene, logits)
        temperature = _fit(scene)
        scaled = None if temperature is None or temperature.note else temperature.apply(logits)
        after = None if scaled is None else self._measure(scene, scaled)
        confidence, predictions = logits.softmax(1).max(1)
        curve = risk_coverage(confidence, predictions == labels)
        fitted = _described(scene, temperature)
        summary = f"{_summary(before)} {_effect(after, fitted)}"
        yield Artifact(
            caption=f"{scene.title}: calibration of {len(logits):,} test images. {summary} {_selected(curve)}",
            figure=before.figure(
                f"{scene.title}: calibration, ECE {_percent(before.ece)}",
                f"{summary} Bars: 95% binomial intervals; larger marks: more images.",
                after=after,
                risk_coverage=curve,
            ),
            numbers={
                "predicted": {**before.to_dict(), "loss": _loss(logits, labels)},
                "scaled": None
                if after is None or scaled is None
                else {**after.to_dict(), "loss": _loss(scaled, labels)},
                "temperature": fitted,
                "risk_coverage": {"aurc": curve.aurc, "excess_aurc": curve.excess_aurc, **curve.curve()},
            },
            scalars={
                "ece": before.ece,
                "brier": before.brier.score,
                "aurc": curve.aurc,
                **({"ece_scaled": after.ece} if after else {}),
                **({"temperature": fitted["values"][0]} if len(fitted["values"]) == 1 and after else {}),
            },
        )

    def _measure(self, scene: Scene, logits: Tensor) -> Calibration:
        return calibration(logits.softmax(1), scene.test.labels, bins=self.bins, draws=self.draws, seed=scene.seed)


def _fit(scene: Scene) -> Temperature | CrossFittedTemperature | None:
    """Fit a temperature to the validation images, or to halves of the test images; None with too few images."""
    if scene.validation is not None and scene.validation_logits is not None:
        logits, labels = scene.validation_logits, scene.validation.labels
        if len(labels) >= FEWEST_FITTED and logits.isfinite().all():
            return fit_temperature(logits, labels)
    if len(scene.test) >= 2 * FEWEST_FITTED:
        return cross_fit_temperature(scene.logits, scene.test.labels, seed=scene.seed)
    return None


def _described(scene: Scene, temperature: Temperature | CrossFittedTemperature | None) -> dict[str, Any]:
    """Return the temperature as JSON values."""
    parts: tuple[Temperature, ...]
    match temperature:
        case None:
            images = len(scene.test)
            note = f"{images} test images are too few to fit a temperature"
            return {"values": [], "low": [], "high": [], "images": [], "source": None, "note": note}
        case Temperature():
            parts, source = (temperature,), "validation"
        case _:
            parts, source = temperature.temperatures, "halves"
    return {
        "values": [one.value for one in parts],
        "low": [_finite(one.low) for one in parts],
        "high": [_finite(one.high) for one in parts],
        "images": [one.images for one in parts],
        "source": source,
        "note": temperature.note or None,
    }


def _summary(result: Calibration) -> str:
    """Return sentences on confidence, accuracy and calibration error."""
    p = f"p = {result.p:.2g}" if result.p > 1 / (1 + len(result.null)) else f"p ≤ {result.p:.2g}"
    return (
        f"Mean confidence {_percent(result.confidence)}, accuracy {_percent(result.accuracy)}; ECE "
        f"{_percent(result.ece)} ({_percent(result.expected_ece)} expected if calibrated, {p}), Brier score "
        f"{result.brier.score:.3g}."
    )


def _effect(after: Calibration | None, fitted: dict[str, Any]) -> str:
    """Return a sentence on the temperature and what it changes."""
    if after is None:
        return f"No temperature: {fitted['note']}."
    values = " and ".join(f"{value:.3g}" for value in fitted["values"])
    where = (
        f"Temperature {values}, fitted to {fitted['images'][0]:,} validation images"
        if fitted["source"] == "validation"
        else f"Temperatures {values}, each fitted to one half of the test images and applied to the other, without "
        "enough validation images"
    )
    return f"{where}: ECE {_percent(after.ece)}, Brier score {after.brier.score:.3g}."


def _selected(curve: RiskCoverage) -> str:
    return (
        f"Error rate {_percent(curve.error_rate)}, {_percent(curve.risk_at(KEPT))} among the {KEPT:.0%} most confident "
        f"(AURC {curve.aurc:.3g})."
    )


def _loss(logits: Tensor, labels: Tensor) -> float:
    return float(F.cross_entropy(logits, labels.to(torch.int64)))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _percent(share: float) -> str:
    """Format a share; small ones, and those just below 100%, with more digits.

    >>> _percent(0.987), _percent(0.0123), _percent(0.9999), _percent(1.0)
    ('98.7%', '1.23%', '99.99%', '100.0%')
    """
    digits = next((digits for digits in (1, 2, 3) if share == 1 or round(100 * share, digits) < 100), 4)
    return f"{share:.{digits}%}" if share >= 0.1 else f"{share:.2%}"
