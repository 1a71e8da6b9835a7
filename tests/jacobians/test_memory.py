"""Caching a model's layout saves time but changes neither results nor errors."""

import importlib
import warnings
from collections.abc import Callable
from types import MethodType
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from jacobians.models import reference, zoo
from pellucid.core.errors import ShapeError, UnsupportedOperation
from pellucid.jacobians import _jacobian, jacobian, jacobian_report

pytestmark = pytest.mark.usefixtures("generic")

X = torch.rand(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
IMAGES = torch.rand(3, 1, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class Switched(nn.Module):
    """A model whose behavior can be changed between calls."""

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
def test_a_second_call_skips_planning_and_gives_equal_bits(name: str) -> None:
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
def test_a_changed_model_is_rejected_at_the_next_call(
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
def test_a_model_that_starts_to_mix_images_is_rejected(change: Callable[..., Tensor]) -> None:
    model = Switched()
    jacobian(model, X)
    model.change = change if change is not torch.cumsum else lambda x: x + x.cumsum(0).flip(0)
    with pytest.raises(ShapeError, match="mixes the images"):
        jacobian(model, X)


def test_a_detached_value_is_detected_under_an_equal_signature() -> None:
    """The calls and their order are the same, but the detached value is now used."""
    model = Switched()
    model.change = lambda x: (x.detach() * 1, x * x)[1]
    jacobian(model, X)
    model.change = lambda x: x.detach() * 1 + 0 * (x * x)
    with pytest.raises(UnsupportedOperation, match="detach cuts"):
        jacobian(model, X)


def test_a_changed_layer_is_planned_again() -> None:
    model = nn.Sequential(nn.Linear(6, 3), nn.ReLU(), nn.Linear(3, 6)).double()
    assert jacobian_report(model, X).method == "cut"
    model[0], model[2] = nn.Linear(6, 12).double(), nn.Linear(12, 6).double()
    report = jacobian_report(model, X)
    assert report.method == "folded"
    torch.testing.assert_close(report.jacobian, reference(model, X))
    model.insert(1, nn.Tanh())
    torch.testing.assert_close(jacobian(model, X), reference(model, X))


def test_the_cache_is_bounded_and_dies_with_its_model() -> None:
    from pellucid.jacobians import _memory

    before = len(_memory._LAYOUTS)
    model = Switched()
    jacobian(model, X)
    for size in range(1, 2 * _memory.MAX_LAYOUTS):
        jacobian(model, X[:1].expand(size, 6))
    assert len(_memory._LAYOUTS) == before + 1
    assert len(_memory._LAYOUTS[id(model)][1]) <= _memory.MAX_LAYOUTS
    del model
    assert len(_memory._LAYOUTS) == before


def test_methods_of_one_module_are_cached_separately() -> None:
    class Two(nn.Module):
        def first(self, x: Tensor) -> Tensor:
            return x**2

        def second(self, x: Tensor) -> Tensor:
            return x**3

    model = Two()
    for _ in range(2):
        torch.testing.assert_close(jacobian(model.first, X), torch.diag_embed(2 * X))
        torch.testing.assert_close(jacobian(model.second, X), torch.diag_embed(3 * X**2))


@pytest.mark.parametrize("as_method", [False, True])
def test_random_draws_of_a_model_do_not_change_the_global_state(as_method: bool) -> None:
    class Drawing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            np.random.rand(), torch.rand(1)
            return x**2

    model = nn.Sequential(Drawing())
    if as_method:  # a bound method not defined by the class of its module
        model = MethodType(lambda layer, x: Drawing()(layer(x)), nn.Linear(6, 6).double())
    expected = np.random.get_state(legacy=False), torch.get_rng_state()
    for _ in range(2):
        jacobian(model, X)
        np.testing.assert_equal(np.random.get_state(legacy=False), expected[0])
        assert torch.equal(torch.get_rng_state(), expected[1])


def test_warnings_about_missing_batching_rules_are_suppressed() -> None:
    """Other warnings pass through, at the first call and later."""
    folded = importlib.import_module("pellucid.jacobians._algorithms.folded")
    model, real = nn.Linear(6, 4).double(), folded.gradients

    def warning(kind: type[Warning]) -> Callable[..., object]:
        def gradients(*arguments: object, **options: object) -> object:
            warnings.warn("there is a performance drop", kind, stacklevel=1)
            return real(*arguments, **options)

        return gradients

    for kind, expected in ((UserWarning, 0), (FutureWarning, 1)):
        for _ in range(3):
            with patch.object(folded, "gradients", warning(kind)), warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                jacobian(model, X, method="folded")
            assert len(caught) == expected


@pytest.mark.parametrize("model", [Switched(), nn.Linear(6, 2).double()], ids=["module", "known layer"])
def test_copies_of_one_image_that_share_memory(model: nn.Module) -> None:
    """Every chunk then begins at the address of the first one."""
    images = X[:1].expand(5, 6)
    for _ in range(2):
        result = jacobian(model, images, chunk=2)
        torch.testing.assert_close(result, reference(model, images))


def test_chunks_are_nearly_equal() -> None:
    wide = nn.Sequential(nn.Linear(6, 1000), nn.Linear(1000, 2)).double()
    with patch("pellucid.jacobians._plan.LARGEST_BYTES", 3 * 8000):
        assert jacobian_report(wide, X).chunk == 2
        assert jacobian_report(wide, X[:3]).chunk == 3
