"""The Jacobian of aug-net's network, compared with TensorFlow's."""

from pathlib import Path

import pytest
import torch

from jacobians.augnet import augnet
from pellucid.jacobians import jacobian_report


@pytest.mark.slow
def test_equals_tensorflow_in_float64(shared: Path) -> None:
    model, reference = augnet(shared)
    torch.testing.assert_close(model(reference["input"])[0], reference["prediction_f64"], rtol=0, atol=1e-11)
    report = jacobian_report(model, reference["input"])
    assert (report.method, report.forwards, report.backwards) == ("cut+fourier", 1, 6)
    error = (report.jacobian[0, :, 0] - reference["jacobian_f64"]).abs().max()
    assert float(error) < 1e-10


@pytest.mark.slow
def test_float32_selects_the_same_kinks_as_float64(shared: Path) -> None:
    """Plain autograd in float32 flips seven max-pool windows and is off by 1.5e-4, as is TensorFlow."""
    model, reference = augnet(shared)
    model, image = model.float(), reference["input"].float()
    report = jacobian_report(model, image)
    assert (report.method, report.backwards) == ("cut+double+fourier", 6)
    plain = torch.autograd.functional.jacobian(model, image)[0, :, 0, 0]
    error, plain_error = (
        float((result - reference["jacobian_f64"]).abs().max()) for result in (report.jacobian[0, :, 0], plain)
    )
    assert error < 1e-6 < 1e-5 < plain_error
