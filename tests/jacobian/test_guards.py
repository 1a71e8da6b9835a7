"""Where autograd's derivative would be wrong or is missing, an error says so by name."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid.core.errors import PellucidError, ShapeError, UnsupportedOperation
from pellucid.jacobian import jacobian

X = torch.rand(4, 6, generator=torch.Generator().manual_seed(0))


def no_grad_half(x: Tensor) -> Tensor:
    with torch.no_grad():
        scale = x.sum(1, keepdim=True)
    return x * scale


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda x: x * x.detach(), "detach cuts"),
        (lambda x: x * x.data.exp(), "data cuts"),
        (no_grad_half, "sum cuts"),
        (lambda x: x.argmax(1, keepdim=True).float(), "argmax has no derivative"),
        (lambda x: x.round().int(), "int has no derivative"),
        (lambda x: x * x.max().item(), "item takes"),
        (lambda x: F.dropout(x), "dropout is on"),
        (lambda x: F.batch_norm(x, None, None, training=True), "batch statistics.*called as a function"),
        (nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6, track_running_stats=False)), r"batch statistics.*1 \(Batch"),
    ],
)
def test_refused_by_name(model: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(UnsupportedOperation, match=message):
        jacobian(model, X)
    with pytest.raises(UnsupportedOperation, match=message):
        jacobian(model, X[:1])


@pytest.mark.parametrize("model", [lambda x: x - x.mean(0), lambda x: x.flip(0), lambda x: x + torch.rand_like(x)])
def test_forward_mode_refuses_as_the_others_do(model: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(ShapeError, match="mixes the images"):
        jacobian(lambda x: model(x).repeat(1, 2), X)


@pytest.mark.parametrize("model", [lambda x: x - x.mean(0), lambda x: x.flip(0), lambda x: x + torch.rand_like(x)])
def test_images_that_depend_on_each_other_or_on_chance_are_told(model: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(ShapeError, match="mixes the images"):
        jacobian(model, X)


def test_what_is_constant_or_not_on_the_path_is_no_fault() -> None:
    def model(x: Tensor) -> Tensor:
        x.detach().mean()  # looked at, and not used
        mask = (x > 0.5).float()
        order = x.argsort(1)
        return (x * mask).gather(1, order) + torch.zeros_like(x) + torch.arange(6.0)

    assert jacobian(model, X).shape == (4, 6, 6)


def test_an_operation_without_derivative_is_named() -> None:
    class Bare(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x * 1

    with pytest.raises((PellucidError, NotImplementedError)):
        jacobian(lambda x: Bare.apply(x), X)


def test_an_error_of_the_model_comes_through() -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        jacobian(nn.Linear(5, 2), X)
