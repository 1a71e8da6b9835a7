"""The native kernel computes the derivative of autograd, in random networks of its grammar and in others."""

import ctypes
from collections import Counter
from copy import deepcopy
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from torch import Tensor

from jacobians.drawing import VALUES, Case, cases, drawn
from jacobians.networks import FOREIGN, LAYERS, SMOOTH, Network, piece, reference, rounding, step
from pellucid.core.errors import UnsupportedOperation
from pellucid.jacobians import JacobianReport, jacobian, jacobian_report
from pellucid.jacobians._native import build

pytestmark = [pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning"), pytest.mark.usefixtures("native")]

EPS = torch.finfo(torch.float32).eps


def natively(case: Case, images: Tensor, chunk: int | None = None) -> JacobianReport:
    """Compute a case with the native kernel, or by the other ways if no part of the network is supported."""
    network = case.network if images.dtype == torch.float64 else deepcopy(case.network).float()
    try:
        return jacobian_report(network, images, case.outputs, chunk=chunk, method="native")
    except UnsupportedOperation:
        return jacobian_report(network, images, case.outputs, chunk=chunk)


def check(case: Case, *, is_repeated: bool = True) -> JacobianReport:
    """Compare a case with autograd, and with a second call if asked for, and return its Jacobian in float64."""
    images = case.images()
    expected = reference(case.network, images, case.outputs)
    report = natively(case, images)
    _check_close(report.jacobian.reshape(expected.shape), expected)
    if is_repeated:
        assert torch.equal(natively(case, images).jacobian, report.jacobian)
    _check_chunk(case, images, report)
    _check_float32(case, expected)
    return report


def _check_close(result: Tensor, expected: Tensor) -> None:
    assert float((result - expected).abs().max()) <= 1e-10 * max(1.0, float(expected.abs().max()))


def _check_chunk(case: Case, images: Tensor, whole: JacobianReport) -> None:
    """A chunk of any size gives equal bits if the kernel alone computes, and torch's forward pass breaks no tie."""
    parts = zip(*(piece(case.network, part) for part in images.split(case.chunk)), strict=True)
    if not all(map(torch.equal, map(torch.cat, parts), piece(case.network, images))):
        return
    result = natively(case, images, case.chunk).jacobian
    if whole.method == "native" and not any(each.layer in {**SMOOTH, **FOREIGN} for each in case.network.steps):
        assert torch.equal(result, whole.jacobian)
    else:
        _check_close(result, whole.jacobian)


def _check_float32(case: Case, expected: Tensor) -> None:
    """The error in float32 is at most twice that of autograd, if both passes are on the same linear piece."""
    single, images = deepcopy(case.network).float(), case.images(torch.float32)
    if not all(map(torch.equal, piece(single, images), piece(case.network, case.images()))):
        return
    of_torch = float((reference(single, images, case.outputs) - expected).norm())
    error = float((natively(case, images).jacobian.reshape(expected.shape) - expected).norm())
    # autograd's error can be zero by chance, in networks as small as these
    if error > 2 * of_torch + EPS * float(expected.norm()):
        least = EPS * rounding(case.network, case.images(), case.outputs, expected)
        assert error <= 2 * max(of_torch, least), (error, of_torch, least)


FOUND = {
    "division by a number": Case(Network((4, 2), (step("constant", 0, operation="divide", broadcast="number"),))),
    "cotangent returned by autograd": Case(
        Network((3, 1), (step("conv", 0, channels=3, kernel=(3,), padding=1), step("cumsum", 1))), batch=2
    ),
    "rows of tokens between the parts": Case(
        Network(
            (2, 7, 1),
            (
                step("add", 0, 0),
                step("left_product", 1),
                step("flatten", 2, start_dim=1),
                step("linear", 3, features=3),
            ),
        ),
        batch=9,
    ),
    "a number as a factor, while a convolution is replaced": Case(
        Network(
            (3, 1, 2),
            (
                step("conv", 0, channels=6, kernel=(1, 2), padding=2, groups=3),
                step("constant", 1, operation="multiply", broadcast="number"),
            ),
        ),
        batch=4,
        outputs=(0, 5),
    ),
}
"""Networks that were computed wrong once."""


@pytest.mark.parametrize("name", FOUND)
def test_networks_that_were_wrong_once(name: str) -> None:
    assert "native" in check(FOUND[name]).method


@drawn(60)
@given(case=cases())
def test_networks_of_the_grammar(case: Case) -> None:
    check(case)


@drawn(50)
@given(case=cases(foreign=True))
def test_networks_with_a_layer_outside_the_grammar(case: Case) -> None:
    check(case)


@drawn(40)
@given(case=cases(smooth=False, values=VALUES))
def test_ties_are_broken_as_by_torch(case: Case) -> None:
    """Constant images and rounded values hit many kinks exactly, where each piece has another derivative."""
    for dtype in (torch.float64, torch.float32):
        images, network = case.images(dtype), deepcopy(case.network).to(dtype)
        expected = reference(network, images, case.outputs)
        result = natively(case, images).jacobian.reshape(expected.shape)
        tolerance = 1e-10 if dtype == torch.float64 else 1e-4
        assert float((result - expected).abs().max()) <= tolerance * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("is_channels_last", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": 2},
        {"kernel_size": 3, "stride": 1, "padding": 1},
        {"kernel_size": 3, "stride": 2, "padding": 1, "dilation": 2, "ceil_mode": True},
        {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 0)},
        {"kernel_size": 2, "stride": 3, "ceil_mode": True},
    ],
    ids=str,
)
def test_each_tied_input_gets_the_derivative_as_in_torch(
    settings: dict[str, int], is_channels_last: bool, dtype: torch.dtype
) -> None:
    images = torch.randn(4, 2, 7, 6, generator=torch.Generator().manual_seed(0)).round().to(dtype)
    images[0], images[1] = 0, 0.3
    if is_channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    weight = torch.ones(2, 1, 1, 1, dtype=dtype)

    def model(x: Tensor) -> Tensor:
        return F.max_pool2d(F.relu(F.conv2d(x, weight, groups=2)), **settings)

    expected = reference(model, images)
    result = jacobian(model, images, method="native")
    assert torch.equal(result.reshape(expected.shape), expected)


FAULTS = {
    "an entry": lambda rows: rows.index_put((torch.tensor(0), torch.tensor(0)), rows[0, 0] + 1e-9),
    "an image": lambda rows: rows.roll(1, 0),
    "an output": lambda rows: rows.roll(1, 1),
    "an axis": lambda rows: rows.flip(-1),
    "the sign": lambda rows: -rows,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_comparison_detects_faults(fault: str) -> None:
    steps = (step("conv", 0, channels=3, kernel=(2, 2)), step("max_pool", 1, kernel_size=2), step("relu", 2))
    case = Case(Network((2, 5, 5), steps), batch=3)
    assert check(case).method == "native"
    exact = jacobian_report

    def faulty(*arguments: object, **options: object) -> JacobianReport:
        report = exact(*arguments, **options)
        object.__setattr__(report, "jacobian", FAULTS[fault](report.jacobian))
        return report

    with patch.dict(globals(), jacobian_report=faulty), pytest.raises(AssertionError):
        check(case)


@pytest.mark.parametrize("fault", [lambda rows: rows * (1 + 1e-5), lambda rows: rows.half().float()])
def test_the_comparison_detects_rounding_in_float32(fault: object) -> None:
    case = Case(Network((3, 4, 4), (step("conv", 0, channels=3, kernel=(2, 2)), step("relu", 1))), batch=2)
    images = case.images()
    expected = reference(case.network, images)
    _check_float32(case, expected)

    def rounded(case: Case, images: Tensor) -> JacobianReport:
        report = jacobian_report(deepcopy(case.network).float(), images)
        object.__setattr__(report, "jacobian", fault(report.jacobian))
        return report

    with patch.dict(globals(), natively=rounded), pytest.raises(AssertionError):
        _check_float32(case, expected)


@pytest.fixture
def checked(compiler: str) -> ctypes.CDLL:
    """The kernel with an assertion at every index."""
    return build.load(build.compiled(checked=True))


@pytest.mark.slow
@pytest.mark.parametrize(("foreign", "examples", "share"), [(False, 600, 0.95), (True, 400, 0.4)])
def test_a_thousand_networks(foreign: bool, examples: int, share: float, checked: ctypes.CDLL) -> None:
    """Each is computed with the normal and the checked build. Most must really run natively, at least in part."""
    methods: Counter[str] = Counter()

    @drawn(examples)
    @given(case=cases(foreign=foreign))
    def compare(case: Case) -> None:
        report = check(case, is_repeated=False)
        methods[report.method] += 1
        with patch.object(build._state, "found", checked):
            dtype = torch.float32 if case.batch % 2 else torch.float64
            asserted = natively(case, case.images(dtype)).jacobian.double()
        # kinks aside, which may be on another piece in float32
        if dtype == torch.float64:
            torch.testing.assert_close(asserted, report.jacobian, rtol=1e-12, atol=1e-12)

    compare()
    natively_at_all = methods["native"] + foreign * methods["loop+native"]
    assert natively_at_all >= share * methods.total(), methods


@pytest.mark.slow
def test_the_drawn_networks_contain_every_layer() -> None:
    used: Counter[str] = Counter()

    @drawn(600)
    @given(case=cases())
    def count(case: Case) -> None:
        used.update({each.layer for each in case.network.steps})

    count()
    assert not set(LAYERS) - set(FOREIGN) - set(used)
