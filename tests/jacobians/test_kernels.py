"""Replaced convolutions give the same results, forward and backward."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from jacobians.models import reference
from pellucid.jacobians import jacobian_report

pytestmark = pytest.mark.usefixtures("generic")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("layer", "swap"),
    [
        (nn.Conv2d(3, 9, 3, groups=3, padding=1), "multiplier"),
        (nn.Conv2d(3, 6, (3, 2), groups=3), "multiplier"),
        (nn.Conv2d(3, 3, 15, groups=3, padding=7), "fourier"),
        (nn.Conv2d(3, 6, (16, 15), groups=3, padding=(3, 0)), "fourier"),
        (nn.Conv2d(1, 12, 3, stride=2, padding=1, dilation=2), "one_channel"),
        (nn.Conv2d(1, 40, 5, padding=2), "one_channel"),
        (nn.Conv2d(3, 3, 3, groups=3), None),
        (nn.Conv2d(3, 3, 15, groups=3, dilation=2, padding=14), None),
        (nn.Conv2d(3, 2, 7), None),
    ],
    ids=str,
)
def test_each_kind_of_convolution_is_replaced_exactly(layer: nn.Conv2d, swap: str | None, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer.reset_parameters()
    model = nn.Sequential(layer, nn.Softplus(), nn.AdaptiveAvgPool2d(2), nn.Flatten()).to(dtype)
    x = torch.rand(4, layer.in_channels, 19, 17, dtype=dtype)
    report = jacobian_report(model, x, [0, 3, 5])
    is_doubled = swap == "fourier" and dtype == torch.float32
    assert report.method.partition("+")[2] == ("double+" if is_doubled else "") + (swap or "")
    tolerance = 1e-12 if dtype == torch.float64 else 2e-6
    torch.testing.assert_close(report.jacobian, reference(model, x)[:, [0, 3, 5]], rtol=0, atol=tolerance)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batch=st.integers(1, 5),
    groups=st.integers(1, 3),
    multiplier=st.integers(1, 3),
    kernel=st.tuples(st.integers(1, 17), st.integers(1, 17)),
    padding=st.integers(0, 3),
    stride=st.integers(1, 2),
)
def test_depthwise_convolutions_of_any_size(
    batch: int, groups: int, multiplier: int, kernel: tuple[int, int], padding: int, stride: int
) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(groups, groups * multiplier, kernel, padding=padding, stride=stride, groups=groups)
    model = nn.Sequential(layer, nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten()).double()
    x = torch.rand(batch, groups, 18, 17, dtype=torch.float64)
    report = jacobian_report(model, x, [0, 1])
    torch.testing.assert_close(report.jacobian, reference(model, x)[:, [0, 1]], rtol=0, atol=1e-12)


def test_max_pool_ties_on_a_flat_background_are_preserved() -> None:
    """A flat image ties everywhere, and the gradient goes to the first element of each tie."""
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 6, 15, groups=2, padding=7)
    model = nn.Sequential(layer, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    x = torch.full((1, 2, 24, 24), 0.3)
    report = jacobian_report(model, x, [150, 151, 500])
    assert "fourier" in report.method
    torch.testing.assert_close(report.jacobian, reference(model, x)[:, [150, 151, 500]], rtol=0, atol=1e-6)
