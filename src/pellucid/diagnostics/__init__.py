"""Diagnostics of a trained classifier: what the training data taught it, and how far its predictions can be trusted.

All functions take and return tensors; the hooks and sections of the same names apply them to a run.

- `_calibration`: calibration of predicted probabilities, with `_reliability` (bins and intervals), `_resampled` (the
  null distribution), `_brier` (Brier score) and `_predicted` (checks of what it is given)
- `_risk_coverage`: error rate as a function of the share of images that are kept
- `_temperature`: temperature scaling

>>> import torch
>>> from pellucid.diagnostics import fit_temperature
>>> temperature = fit_temperature(torch.tensor([[4.0, 0.0]]).repeat(4, 1), torch.tensor([0, 0, 0, 1]))
>>> round(temperature.value, 2)
3.64
"""

from typing import TYPE_CHECKING

from pellucid.core.lazy import lazy_exports

if TYPE_CHECKING:
    from pellucid.diagnostics._brier import BrierScore, brier_score
    from pellucid.diagnostics._calibration import Calibration, ClassCalibration, calibration
    from pellucid.diagnostics._reliability import ReliabilityBins
    from pellucid.diagnostics._risk_coverage import RiskCoverage, risk_coverage
    from pellucid.diagnostics._temperature import (
        CrossFittedTemperature,
        Temperature,
        cross_fit_temperature,
        fit_temperature,
    )

__all__ = [
    "BrierScore",
    "Calibration",
    "ClassCalibration",
    "CrossFittedTemperature",
    "ReliabilityBins",
    "RiskCoverage",
    "Temperature",
    "brier_score",
    "calibration",
    "cross_fit_temperature",
    "fit_temperature",
    "risk_coverage",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "BrierScore": "._brier",
        "Calibration": "._calibration",
        "ClassCalibration": "._calibration",
        "CrossFittedTemperature": "._temperature",
        "ReliabilityBins": "._reliability",
        "RiskCoverage": "._risk_coverage",
        "Temperature": "._temperature",
        "brier_score": "._brier",
        "calibration": "._calibration",
        "cross_fit_temperature": "._temperature",
        "fit_temperature": "._temperature",
        "risk_coverage": "._risk_coverage",
    },
)
