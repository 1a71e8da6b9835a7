"""If autograd's derivative would be wrong or is missing, an error names the operation."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import jacrev, vmap

from pellucid.core.errors import PellucidError, ShapeError, UnsupportedOperation
from pellucid.jacobians import jacobian, jacobian_report

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
def test_the_operation_is_named(model: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(UnsupportedOperation, match=message):
        jacobian(model, X)
    with pytest.raises(UnsupportedOperation, match=message):
        jacobian(model, X[:1])


@pytest.mark.parametrize("model", [lambda x: x - x.mean(0), lambda x: x.flip(0), lambda x: x + torch.rand_like(x)])
def test_forward_mode_rejects_mixing_models_too(model: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(ShapeError, match="mixes the images"):
        jacobian(lambda x: model(x).repeat(1, 2), X)


@pytest.mark.parametrize("model", [lambda x: x - x.mean(0), lambda x: x.flip(0), lambda x: x + torch.rand_like(x)])
def test_mixing_or_random_models_are_rejected(model: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(ShapeError, match="mixes the images"):
        jacobian(model, X)


def test_constants_and_values_off_the_path_are_allowed() -> None:
    def model(x: Tensor) -> Tensor:
        x.detach().mean()  # computed but not used
        mask = (x > 0.5).float()
        order = x.argsort(1)
        return (x * mask).gather(1, order) + torch.zeros_like(x) + torch.arange(6.0)

    assert jacobian(model, X).shape == (4, 6, 6)


def test_a_function_without_backward_is_rejected() -> None:
    class Bare(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x * 1

    with pytest.raises((PellucidError, NotImplementedError)):
        jacobian(lambda x: Bare.apply(x), X)


def test_errors_of_the_model_are_passed_on() -> None:
    def broken(x: Tensor) -> Tensor:
        raise RuntimeError("a bug of the model")

    with pytest.raises(RuntimeError, match="a bug of the model"):
        jacobian(broken, X)


def test_a_shape_that_the_model_does_not_take_is_explained() -> None:
    with pytest.raises(ShapeError, match="Linear expects 5 features along the last axis") as raised:
        jacobian(nn.Linear(5, 2), X)
    assert "mat1 and mat2" in str(raised.value.__cause__)


def test_layers_that_cannot_mix_images_skip_the_check_at_later_calls() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 5), nn.Dropout(), nn.Tanh(), nn.Linear(5, 3))
    x = torch.rand(6, 2, 4)
    assert [jacobian_report(model, x).forwards for _ in range(3)] == [2, 1, 1]
    handle = model[1].register_forward_hook(lambda module, inputs, output: None)
    assert jacobian_report(model, x).forwards == 2  # a hook could mix the images
    handle.remove()
    assert jacobian_report(model, x).forwards == 1


def test_replaced_known_layers_are_detected() -> None:
    a, b, relu, x = nn.Linear(4, 4), nn.Linear(4, 3), nn.ReLU(), torch.randn(5, 4)
    model = nn.Sequential(a, relu, b)

    def check() -> None:
        expected = vmap(jacrev(lambda one: model(one[None])[0]))(x)
        torch.testing.assert_close(jacobian(model, x), expected)

    for _ in range(2):
        check()
    for change in (
        lambda: model.append(relu),  # the same layer twice
        lambda: model.insert(0, nn.Tanh()),
        lambda: model.__setitem__(1, nn.Linear(4, 4)),
        lambda: model.append(nn.Linear(3, 1)),  # a narrow end
        lambda: model.append(nn.Linear(1, 6)),
        lambda: model.__delitem__(2),
    ):
        change()
        for _ in range(2):
            check()
    with torch.autocast("cpu", torch.bfloat16):
        assert jacobian(model, x).dtype == torch.float32


@pytest.mark.parametrize(
    ("model", "x"),
    [
        (nn.Sequential(nn.Flatten(0), nn.Linear(8, 2), nn.Unflatten(0, (2, 1))), torch.rand(2, 4)),
        (nn.Sequential(nn.Linear(2, 2), nn.Unflatten(0, (2, 1))), torch.rand(2)),
        (nn.Sequential(nn.Linear(4, 4), nn.Softmax(0)), torch.rand(2, 4)),
        (nn.Sequential(nn.Linear(4, 4), nn.LayerNorm((2, 4))), torch.rand(2, 4)),
    ],
    ids=["flatten", "one axis", "softmax", "layer norm"],
)
def test_layers_that_mix_images_are_rejected_at_every_call(model: nn.Module, x: torch.Tensor) -> None:
    for _ in range(2):
        with pytest.raises((ShapeError, RuntimeError)):
            jacobian_report(model, x)


def test_a_replaced_forward_is_checked_again() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    x = torch.rand(5, 4)
    jacobian_report(model, x)
    model[1].forward = lambda values: values - values.mean(0)
    with pytest.raises(ShapeError, match="mixes the images of a batch"):
        jacobian_report(model, x)


def test_known_layers_that_work_in_place_leave_the_input_unchanged() -> None:
    model, x = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 3)), torch.randn(1, 4)
    before = x.clone()
    for _ in range(2):
        torch.testing.assert_close(jacobian(model, x)[0], model[1].weight * (x > 0))
    assert torch.equal(x, before)


def test_known_layers_keep_the_random_state_and_the_mode() -> None:
    model, x = nn.Sequential(nn.Linear(4, 3), nn.RReLU(), nn.Dropout(), nn.Linear(3, 2)).train(), torch.randn(1, 4)
    state = torch.get_rng_state()
    first = jacobian(model, x)
    assert torch.equal(torch.get_rng_state(), state)
    assert model[1].training
    assert model[0].weight.requires_grad
    assert torch.equal(jacobian(model, x), first)
