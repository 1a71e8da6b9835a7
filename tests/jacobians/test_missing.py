"""Outputs without a derivative raise an error that names them, while true zero rows are returned as zeros."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid.core.errors import UnsupportedOperation
from pellucid.jacobians import (
    check_jacobian,
    jacobian,
    jacobian_product,
    jacobian_report,
    jacobian_spectrum,
    transposed_product,
)

X = torch.rand(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class WithoutBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x * 1

    @staticmethod
    def backward(ctx, *cotangents: Tensor) -> None:
        return None

    @staticmethod
    def jvp(ctx, *tangents: Tensor) -> None:
        return None


class Marked(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        y = x * 1
        ctx.mark_non_differentiable(y)
        return y

    @staticmethod
    def backward(ctx, cotangent: Tensor) -> Tensor:
        return cotangent


@torch.library.custom_op("pellucid_tests::halved", mutates_args=())
def halved(x: Tensor) -> Tensor:
    return x / 2


def partly(x: Tensor) -> Tensor:
    return torch.cat([x[:, :2].exp(), WithoutBackward.apply(x[:, 2:])], 1)


@pytest.mark.parametrize("method", ["auto", "loop", "folded", "cut"])
def test_outputs_without_a_derivative_are_named(method: str) -> None:
    with pytest.raises(UnsupportedOperation, match=r"outputs 2, 3 and 4 change.*outputs=\[0, 1\].*finite_difference"):
        jacobian(partly, X, method=method)
    with pytest.raises(UnsupportedOperation, match=r"output 3 changes.*outputs=\[1, 0\]"):
        jacobian(partly, X, outputs=[1, 3, 0], method=method, chunk=1)
    result = jacobian(partly, X, outputs=[1, 0], method=method)
    torch.testing.assert_close(result[:, 0, 1], X[:, 1].exp())
    wide = jacobian(partly, X, method="finite_difference")
    torch.testing.assert_close(wide[:, 3, 3], torch.ones(3, dtype=X.dtype))


def test_products_name_outputs_without_a_derivative_too() -> None:
    with pytest.raises(UnsupportedOperation, match="outputs 2, 3 and 4"):
        jacobian_product(partly, X, torch.ones_like(X))
    with pytest.raises(UnsupportedOperation, match="outputs 2 and 4"):
        transposed_product(partly, X, torch.tensor([0.0, 0, 1, 0, 2]).expand(3, -1))
    with pytest.raises(UnsupportedOperation, match=r"outputs 200, 201,.*200 in all"):
        jacobian_spectrum(lambda x: torch.cat([x.exp(), WithoutBackward.apply(x)], 1), torch.rand(2, 200), count=1)
    weights = torch.tensor([2.0, 0, 0, 0, 0]).expand(3, -1)
    torch.testing.assert_close(transposed_product(partly, X, weights)[:, 0], 2 * X[:, 0].exp())
    unit = torch.zeros_like(X)
    unit[:, 1] = 1
    torch.testing.assert_close(jacobian_product(partly, X, unit, outputs=[0, 1])[:, 1], X[:, 1].exp())


@pytest.mark.parametrize("cut", [Marked.apply, lambda x: x.detach()])
def test_a_detached_path_is_named_with_its_outputs(cut: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(UnsupportedOperation, match=r"cuts the output off.*outputs 1 and 2"):
        jacobian(lambda x: torch.cat([x[:, :1], cut(x[:, 1:3])], 1), X)


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (WithoutBackward.apply, "no derivative of the outputs"),
        (halved, "halved.*no autograd formula"),
        (lambda x: torch.special.gammaincc(x + 1, x), "igammac: input"),
    ],
)
def test_a_model_without_any_derivative_is_rejected(model: Callable[[Tensor], Tensor], text: str) -> None:
    for call in (
        lambda: jacobian(model, X),
        lambda: jacobian_product(model, X, X),
        lambda: transposed_product(model, X, X),
        lambda: jacobian_spectrum(model, X),
    ):
        with pytest.raises(UnsupportedOperation, match=f"{text}.*finite_difference"):
            call()
    assert jacobian(model, X, method="finite_difference").abs().amax() > 0.1


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor", "ignore:.*is deprecated")
def test_a_quantized_layer_is_named() -> None:
    layer, x = torch.ao.nn.quantized.dynamic.Linear(5, 2), X.float()
    with pytest.raises(UnsupportedOperation, match=r"the model is a quantized Linear.*before quantization"):
        jacobian(layer, x)
    for model in (lambda x: torch.cat([x, layer(x)], 1), lambda x: x[:, :2] + layer(x)):
        with pytest.raises(UnsupportedOperation, match=r"quantized::linear_dynamic.*before quantization"):
            jacobian(model, x)


class Halved(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return halved(x)


def test_check_jacobian_names_the_operation() -> None:
    with pytest.raises(UnsupportedOperation, match="halved"):
        check_jacobian(Halved(), X)


def test_unused_inputs_have_zero_rows() -> None:
    other = torch.rand(3, 2, dtype=X.dtype)
    first, second = jacobian(lambda x, y: torch.cat([x.sin(), y * 2], 1), (X, other))
    assert (first[:, 5:] == 0).all()
    assert (second[:, :5] == 0).all()
    torch.testing.assert_close(second[:, 5:], 2 * torch.eye(2, dtype=X.dtype).expand(3, 2, 2))
    unused = jacobian(lambda x, y: x.sin(), (X, other))[1]
    assert (unused == 0).all()
    with pytest.raises(UnsupportedOperation, match="outputs 5 and 6 change with input 1"):
        jacobian(lambda x, y: torch.cat([x.sin(), WithoutBackward.apply(y)], 1), (X, other))


@pytest.mark.parametrize("method", ["auto", "loop", "folded", "cut", "forward"])
def test_constants_and_kinks_have_zero_rows(method: str) -> None:
    """Constants, inactive ReLUs, the square of zero, and a black image in a network without biases."""

    def model(x: Tensor) -> Tensor:
        return torch.cat([x.sum(1, keepdim=True), torch.ones(len(x), 1).to(x), F.relu(x - 9), x.square()], 1)

    result = jacobian(model, torch.cat([X, torch.zeros_like(X[:1])]), method=method)
    assert (result[:, 1:7] == 0).all()
    assert (result[3, 7:] == 0).all()
    torch.testing.assert_close(result[:3, 7:], 2 * torch.diag_embed(X))
    layers = nn.Sequential(nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 3, 2, bias=False), nn.ReLU(), nn.Flatten()).double()
    assert (jacobian(layers, torch.zeros_like(X), method=method) == 0).all()


def test_a_constant_with_the_dtype_or_shape_of_the_input_is_allowed() -> None:
    """`constant.to(x)` uses the input only for its dtype."""

    def model(x: Tensor) -> Tensor:
        mean = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5])
        return (x - mean.to(x)) * torch.full((1, 5), 2.0).type_as(x).expand_as(x)

    report = jacobian_report(model, X)
    torch.testing.assert_close(report.jacobian, 2 * torch.eye(5, dtype=X.dtype).expand(3, 5, 5))
