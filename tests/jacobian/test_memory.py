"""What is remembered of a model saves time and changes nothing: neither results nor what is refused."""

from collections.abc import Callable
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from jacobian.models import reference, zoo
from pellucid.core.errors import ShapeError, UnsupportedOperation
from pellucid.jacobian import _jacobian, jacobian, jacobian_report

X = torch.rand(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
IMAGES = torch.rand(3, 1, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class Switched(nn.Module):
    """Does what it is told at this call."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 5).double()
        self.change: Callable[[Tensor], Tensor] = torch.clone

    def forward(self, x: Tensor) -> Tensor:
        return self.change(torch.tanh(self.layer(x)))


def frozen_scale(x: Tensor) -> Tensor:
    with torch.no_grad():
        scale = x.clone()
    return x * scale


@pytest.mark.parametrize("name", list(zoo()))
def test_a_second_call_plans_nothing_and_gives_equal_bits(name: str) -> None:
    model = zoo()[name]
    for images in (IMAGES, IMAGES[:1]):
        first = jacobian_report(model, images)
        with patch.object(_jacobian, "make_plan", side_effect=AssertionError):
            second = jacobian_report(model, images)
            other = jacobian(model, images.flip(0) + 0.1)
        assert torch.equal(first.jacobian, second.jacobian)
        assert first.method == second.method
        torch.testing.assert_close(other, reference(model, images.flip(0) + 0.1), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.detach().clone(), "detach cuts"),
        (lambda x: x * x.detach(), "detach cuts"),
        (frozen_scale, "clone cuts"),
        (lambda x: x * x.max().item(), "item takes"),
        (lambda x: nn.functional.dropout(x), "dropout is on"),
    ],
)
def test_a_model_that_changes_its_ways_is_refused_at_the_next_call(
    batch: int, change: Callable[[Tensor], Tensor], message: str
) -> None:
    model = Switched()
    jacobian(model, X[:batch])
    jacobian(model, X[:batch])
    model.change = change
    with pytest.raises(UnsupportedOperation, match=message):
        jacobian(model, X[:batch])
    model.change = torch.clone
    torch.testing.assert_close(jacobian(model, X[:batch]), reference(model, X[:batch]))


@pytest.mark.parametrize("change", [lambda x: x - x.mean(0), lambda x: x.flip(0).clone(), torch.cumsum])
def test_images_that_begin_to_depend_on_each_other_are_told(change: Callable[..., Tensor]) -> None:
    model = Switched()
    jacobian(model, X)
    model.change = change if change is not torch.cumsum else lambda x: x + x.cumsum(0).flip(0)
    with pytest.raises(ShapeError, match="mixes the images"):
        jacobian(model, X)


def test_equal_functions_of_other_values_need_no_new_plan() -> None:
    """What was detached and is now used: the same calls in the same order, of other values."""
    model = Switched()
    model.change = lambda x: (x.detach() * 1, x * x)[1]
    jacobian(model, X)
    model.change = lambda x: x.detach() * 1 + 0 * (x * x)
    with pytest.raises(UnsupportedOperation, match="detach cuts"):
        jacobian(model, X)


def test_a_changed_layer_is_planned_anew() -> None:
    model = nn.Sequential(nn.Linear(6, 3), nn.ReLU(), nn.Linear(3, 6)).double()
    assert jacobian_report(model, X).method == "cut"
    model[0], model[2] = nn.Linear(6, 12).double(), nn.Linear(12, 6).double()
    report = jacobian_report(model, X)
    assert report.method == "folded"
    torch.testing.assert_close(report.jacobian, reference(model, X))
    model.insert(1, nn.Tanh())
    torch.testing.assert_close(jacobian(model, X), reference(model, X))


def test_what_is_remembered_dies_with_its_model() -> None:
    from pellucid.jacobian import _memory

    before = len(_memory._LAYOUTS)
    model = Switched()
    jacobian(model, X)
    for size in range(1, 2 * _memory.AT_MOST):
        jacobian(model, X[:1].expand(size, 6))
    assert len(_memory._LAYOUTS) == before + 1
    assert len(_memory._LAYOUTS[id(model)][1]) <= _memory.AT_MOST
    del model
    assert len(_memory._LAYOUTS) == before


def test_methods_of_one_module_are_told_apart() -> None:
    class Two(nn.Module):
        def first(self, x: Tensor) -> Tensor:
            return x**2

        def second(self, x: Tensor) -> Tensor:
            return x**3

    model = Two()
    for _ in range(2):
        torch.testing.assert_close(jacobian(model.first, X), torch.diag_embed(2 * X))
        torch.testing.assert_close(jacobian(model.second, X), torch.diag_embed(3 * X**2))
