"""aug-net's own network, against its Jacobian by TensorFlow."""

from pathlib import Path

import pytest
import torch

from jacobian.augnet import augnet
from pellucid.jacobian import jacobian_report


@pytest.mark.slow
def test_equals_tensorflow_in_float64(shared: Path) -> None:
    model, reference = augnet(shared)
    torch.testing.assert_close(model(reference["input"])[0], reference["prediction_f64"], rtol=0, atol=1e-11)
    report = jacobian_report(model, reference["input"])
    assert (report.method, report.forwards, report.backwards) == ("cut+fourier", 1, 6)
    error = (report.jacobian[0, :, 0] - reference["jacobian_f64"]).abs().max()
    assert float(error) < 1e-10


@pytest.mark.slow
def test_in_float32_only_masks_that_rounding_flips_differ(shared: Path) -> None:
    """Backward by FFT adds nothing to what plain autograd in float32 deviates; see docs/jacobian.md."""
    model, reference = augnet(shared)
    model, image = model.float(), reference["input"].float()
    ours = jacobian_report(model, image).jacobian[0, :, 0]
    plain = torch.autograd.functional.jacobian(model, image)[0, :, 0, 0]
    error, usual = ((found - reference["jacobian_f64"]).abs().max() for found in (ours, plain))
    assert float(error) < 2e-4
    assert float(error) < 1.2 * float(usual)
