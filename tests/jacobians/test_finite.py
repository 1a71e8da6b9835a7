"""Inputs, outputs and derivatives that are not finite are rejected, with the index of the first image."""

import pytest
import torch
from torch import Tensor, nn

from pellucid.core.errors import DataError, ModelError
from pellucid.jacobians import (
    jacobian,
    jacobian_class_means,
    jacobian_product,
    jacobian_report,
    jacobian_spectrum,
    transposed_product,
)

METHODS = ["auto", "forward", "cut", "folded", "loop", "finite_difference"]


def mlp(outputs: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, outputs)).double()


def some(count: int = 7) -> Tensor:
    return torch.rand(count, 6, generator=torch.Generator().manual_seed(0)).double()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("chunk", [None, 2])
def test_inputs_must_be_finite(method, value, chunk) -> None:
    x = some()
    x[5, 2] = value
    with pytest.raises(DataError, match=f"x contains {'NaN' if value != value else 'inf'} at index 2 in image 5"):
        jacobian(mlp(), x, method=method, chunk=chunk)


@pytest.mark.parametrize("method", METHODS[:-1])
@pytest.mark.parametrize("chunk", [None, 2])
def test_outputs_must_be_finite_even_if_the_derivative_is(method, chunk) -> None:
    x = some()
    x[5] = 2

    def model(x: Tensor) -> Tensor:
        return torch.cat(
            [x, x.sum(1, keepdim=True) + torch.where(x.detach().sum(1, keepdim=True) > 11, torch.inf, 0.0)], 1
        )

    with pytest.raises(ModelError, match="outputs for image 5 contain inf at index 6"):
        jacobian(model, x, method=method, chunk=chunk)
    torch.testing.assert_close(jacobian(model, x, [0, 1], method=method, chunk=chunk)[:, :, :2],
                               torch.eye(2).double().expand(7, 2, 2))  # fmt: skip


def test_a_non_finite_bias_is_detected_in_known_layers() -> None:
    model = mlp()
    with torch.no_grad():
        model[2].bias[3] = torch.nan
    for _ in range(2):  # the second call uses the cached layout
        with pytest.raises(ModelError, match="outputs for image 0 contain NaN at index 3"):
            jacobian(model, some())
    assert bool(jacobian(model, some(), [0, 2]).isfinite().all())


def norm(x: Tensor) -> Tensor:
    return x.square().sum(1, keepdim=True).sqrt() * torch.ones(1, 3, dtype=torch.float64)


@pytest.mark.parametrize("method", ["loop", "folded", "forward", "cut"])
@pytest.mark.parametrize("chunk", [None, 2])
def test_the_derivative_must_be_finite(method, chunk) -> None:
    x = some()
    x[[4, 6]] = 0
    with pytest.raises(ModelError, match=r"the derivative at image 4 contains NaN .*square root"):
        jacobian_report(norm, x, method=method, chunk=chunk)


def test_products_spectra_and_class_means_name_the_same_image() -> None:
    x = some(50)
    x[44] = 0
    for call in (
        lambda: transposed_product(norm, x, torch.ones(50, 3).double()),
        lambda: jacobian_product(norm, x, x),
        lambda: jacobian_spectrum(norm, x, chunk=3),
        lambda: jacobian_class_means(norm, [(part, torch.zeros(len(part)).long()) for part in x.split(8)], 1),
    ):
        with pytest.raises(ModelError, match="derivative at image 44"):
            call()


def test_numbers_whose_sum_overflows_are_finite() -> None:
    result = jacobian(lambda x: x * 2, torch.full((9, 4), 1e38))
    torch.testing.assert_close(result, 2 * torch.eye(4).expand(9, 4, 4))
