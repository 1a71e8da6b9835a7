"""The float64 forward pass by FFT preserves zeros and ties, so that float32 agrees with float64."""

from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jacobians.models import reference
from pellucid.jacobians import jacobian, jacobian_report
from pellucid.jacobians._exact import ExactMasks


def network(*, bias: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    parts: list[nn.Module] = []
    for channels in (1, 4):
        parts += [nn.Conv2d(channels, 3 * channels, 16, padding=8, groups=channels, bias=bias)]
        parts += [nn.Conv2d(3 * channels, 4, 1, bias=bias), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*parts, nn.Flatten(), nn.LazyLinear(5))


def images(kind: str) -> Tensor:
    noise = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    if kind == "noise":
        return noise
    flat = torch.full_like(noise, 0.0 if kind == "black background" else 0.3)
    flat[:, :, 8:16, 10:20] = noise[:, :, 8:16, 10:20]
    return flat


@pytest.mark.parametrize("kind", ["noise", "black background", "gray background"])
@pytest.mark.parametrize("bias", [True, False])
def test_float32_agrees_with_float64(kind: str, bias: bool) -> None:
    model, x = network(bias=bias).eval(), images(kind)
    model(x)
    report = jacobian_report(model, x)
    assert "+double+fourier" in report.method
    assert report.jacobian.dtype == torch.float32
    exact = reference(deepcopy(model).double(), x.double())
    torch.testing.assert_close(report.jacobian.double(), exact, rtol=0, atol=1e-6 * float(exact.abs().max()))
    assert torch.equal(jacobian(model, x), report.jacobian)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_near_ties_of_a_max_pool_go_to_the_first() -> None:
    x = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    x[0, 0, 0, 1] = x[0, 0, 1, 0] = 1e-13  # a tie up to rounding
    x[0, 0, 3, 3] = 1.0
    with ExactMasks():
        _, indices = F.max_pool2d(x, 2, return_indices=True)
    assert indices.flatten().tolist() == [0, 2, 8, 15]


@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": 2},
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": 2, "ceil_mode": True},
        {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 0)},
        {"kernel_size": 3, "stride": 2, "padding": 1, "dilation": 2, "ceil_mode": True},
        {"kernel_size": 2, "stride": 3},
    ],
    ids=str,
)
def test_max_pool_selects_the_same_elements_as_torch(settings: dict[str, Any]) -> None:
    x = torch.randn(2, 3, 11, 13, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[0] = x[0].round()  # many ties
    values, indices = F.max_pool2d(x, return_indices=True, **settings)
    with ExactMasks():
        result, selected = F.max_pool2d(x, return_indices=True, **settings)
    assert torch.equal(values, result)
    assert torch.equal(indices, selected)


@pytest.mark.parametrize(("channels", "multiplier", "side", "padding"), [(1, 3, 20, 0), (2, 1, 15, 7), (3, 2, 16, 3)])
def test_convolution_by_fft_matches_the_direct_one(channels: int, multiplier: int, side: int, padding: int) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(channels, channels * multiplier, side, padding=padding, groups=channels).double()
    x = torch.rand(2, channels, 33, 31, dtype=torch.float64, requires_grad=True)
    direct = layer(x)
    (gradient,) = torch.autograd.grad(direct, x, torch.ones_like(direct))
    with ExactMasks():
        result = layer(x)
        (back,) = torch.autograd.grad(result, x, torch.ones_like(result))
    torch.testing.assert_close(result, direct, rtol=0, atol=1e-13)
    torch.testing.assert_close(back, gradient, rtol=0, atol=2e-5)  # the backward pass is in float32


class Comparing(nn.Sequential):
    """Compares values, so that the rounding of an FFT would matter."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).sort(1).values


class Alone(nn.Sequential):
    """Cannot be copied."""

    def __deepcopy__(self, memo: object) -> "Alone":
        raise TypeError("there is only one of me")


@pytest.mark.parametrize("kind", [Comparing, Alone])
def test_other_networks_stay_in_float32(kind: type[nn.Sequential]) -> None:
    model = kind(*network()).eval()
    model(images("noise"))
    report = jacobian_report(model, images("noise"))
    assert "+fourier" in report.method
    assert "double" not in report.method
    model.double()
    assert "double" not in jacobian_report(model, images("noise").double()).method
