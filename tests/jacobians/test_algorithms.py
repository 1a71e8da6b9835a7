"""Every algorithm computes the right derivative for every kind of layer."""

from itertools import pairwise

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from jacobians.models import reference, zoo
from pellucid.jacobians import jacobian, jacobian_report
from pellucid.jacobians._jacobian import METHODS

IMAGES = torch.rand(6, 1, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
NAMES = list(zoo())
GENERIC = [name for name in METHODS if name != "native"]
"""Methods that apply to all networks and need no compiler."""

pytestmark = pytest.mark.usefixtures("generic")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", [name for name in GENERIC if name != "finite_difference"])
def test_every_algorithm_agrees_with_torch_func(name: str, method: str) -> None:
    model = zoo()[name]
    expected = reference(model, IMAGES)
    for chunk in (None, 1, 4):
        report = jacobian_report(model, IMAGES, chunk=chunk, method=method)
        torch.testing.assert_close(report.jacobian, expected, rtol=1e-9, atol=1e-12)
        assert report.method.startswith(method if method != "auto" else "")


@pytest.mark.parametrize("name", NAMES)
def test_equal_calls_give_equal_bits_and_batching_changes_nothing(name: str) -> None:
    model = zoo()[name]
    whole = jacobian(model, IMAGES)
    assert torch.equal(whole, jacobian(model, IMAGES))
    one_by_one = torch.cat([jacobian(model, image[None]) for image in IMAGES])
    torch.testing.assert_close(whole, one_by_one, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("name", ["narrow", "convolution", "unflattened", "decoder"])
@pytest.mark.parametrize("method", GENERIC)
def test_some_outputs_in_any_order(name: str, method: str) -> None:
    model = zoo()[name]
    whole = reference(model, IMAGES).reshape(6, -1, 1, 6, 6)
    some = jacobian(model, IMAGES, [2, 0, 2], method=method)
    torch.testing.assert_close(some, whole[:, [2, 0, 2]], rtol=1e-5, atol=1e-7)


def test_auto_chooses_the_fastest_algorithm() -> None:
    chosen = {name: jacobian_report(model, IMAGES).method for name, model in zoo().items()}
    assert chosen["narrow"] == "cut"
    assert chosen["mlp"] == "folded"
    assert chosen["convolution"] == "folded+one_channel"
    assert chosen["multiplier"].startswith("cut") is False
    assert "multiplier" in chosen["multiplier"]
    many = torch.rand(9000, 1, 6, 6, dtype=torch.float64)
    assert jacobian_report(zoo()["convolution"], many).method == "loop+one_channel"
    few_inputs = nn.Sequential(nn.Linear(2, 30), nn.Tanh())
    assert jacobian_report(few_inputs, torch.rand(3, 2)).method == "forward"


def test_forward_mode_falls_back_to_rows_without_a_forward_derivative() -> None:
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return 2 * x

        @staticmethod
        def backward(ctx: object, gradient: Tensor) -> Tensor:
            return 2 * gradient

    result = jacobian(lambda x: Doubled.apply(x), torch.rand(3, 4), method="forward")
    assert torch.equal(result, 2 * torch.eye(4).expand(3, 4, 4))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batch=st.integers(1, 5),
    widths=st.lists(st.integers(1, 12), min_size=2, max_size=5),
    activation=st.sampled_from([nn.ReLU, nn.Tanh, nn.GELU, nn.Identity]),
    method=st.sampled_from([name for name in GENERIC if name != "finite_difference"]),
    has_shortcut=st.booleans(),
    seed=st.integers(0, 99),
)
def test_random_networks(
    batch: int, widths: list[int], activation: type[nn.Module], method: str, has_shortcut: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    layers = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), activation())]
    inner = nn.Sequential(*layers).double()
    skip = nn.Linear(widths[0], widths[-1]).double()
    x = torch.rand(batch, widths[0], dtype=torch.float64)

    def model(images: Tensor) -> Tensor:
        return inner(images) + skip(images) if has_shortcut else inner(images)

    torch.testing.assert_close(jacobian(model, x, method=method), reference(model, x), rtol=1e-9, atol=1e-12)
