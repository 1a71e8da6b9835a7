"""The native kernel computes the derivative of autograd, in random networks of its grammar and in others."""

from copy import deepcopy

import pytest
import torch
from hypothesis import given
from torch import Tensor

from jacobians.drawing import Case, cases, drawn
from jacobians.networks import FOREIGN, SMOOTH, piece, reference
from pellucid.core.errors import UnsupportedOperation
from pellucid.jacobians import JacobianReport, jacobian_report

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")

EPS = torch.finfo(torch.float32).eps


def natively(case: Case, images: Tensor, chunk: int | None = None) -> JacobianReport:
    """Compute a case with the native kernel, or by the other ways if no part of the network is supported."""
    network = case.network if images.dtype == torch.float64 else deepcopy(case.network).float()
    try:
        return jacobian_report(network, images, case.outputs, chunk=chunk, method="native")
    except UnsupportedOperation:
        return jacobian_report(network, images, case.outputs, chunk=chunk)


def check(case: Case) -> str:
    """Compare a case with autograd, and return the method used."""
    images = case.images()
    expected = reference(case.network, images, case.outputs)
    report = natively(case, images)
    result = report.jacobian.reshape(expected.shape)
    assert float((result - expected).abs().max()) <= 1e-10 * max(1.0, float(expected.abs().max()))
    assert torch.equal(natively(case, images).jacobian, report.jacobian)
    _check_chunks(case, report)
    _check_float32(case, expected)
    return report.method


def _check_chunks(case: Case, whole: JacobianReport) -> None:
    """Chunks of any size give equal bits, as far as torch's forward pass does."""
    images, network = case.images(), case.network
    is_linear = not any(each.layer in SMOOTH or each.layer in FOREIGN for each in network.steps)
    for chunk in {1, 2, case.batch - 1} & set(range(1, case.batch)):
        parts = zip(*(piece(network, part) for part in images.split(chunk)), strict=True)
        if not all(map(torch.equal, map(torch.cat, parts), piece(network, images))):
            continue  # rounding has decided a tie, in torch's own forward pass
        result = natively(case, images, chunk).jacobian
        if is_linear and whole.method == "native":
            assert torch.equal(result, whole.jacobian), chunk
        else:
            torch.testing.assert_close(result, whole.jacobian, rtol=1e-10, atol=1e-10)


def _check_float32(case: Case, expected: Tensor) -> None:
    """The error in float32 is at most twice that of autograd, if both passes are on the same linear piece."""
    single, images = deepcopy(case.network).float(), case.images(torch.float32)
    if not all(map(torch.equal, piece(single, images), piece(case.network, case.images()))):
        return
    of_torch = float((reference(single, images, case.outputs) - expected).norm())
    error = float((natively(case, images).jacobian.reshape(expected.shape) - expected).norm())
    # autograd's error can be zero by chance; no result is expected to be better than its last bits
    assert error <= 2 * of_torch + 2 * EPS * float(expected.norm()), (error, of_torch)


@drawn(90)
@given(cases())
def test_networks_of_the_grammar(case: Case) -> None:
    check(case)


@drawn(60)
@given(cases(foreign=True))
def test_networks_with_a_layer_outside_the_grammar(case: Case) -> None:
    check(case)
