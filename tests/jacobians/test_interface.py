"""All kinds of inputs and outputs."""

import logging
from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from jacobians.models import reference, zoo
from pellucid.core.errors import ShapeError, UnknownName
from pellucid.jacobians import jacobian, jacobian_report
from pellucid.jacobians._algorithms import differences

X = torch.rand(4, 3, generator=torch.Generator().manual_seed(0))
SQUARE = torch.diag_embed(2 * X)
Pair = namedtuple("Pair", ["square", "cube"])


@dataclass
class Both:
    square: Tensor
    cube: Tensor


@pytest.mark.parametrize(
    "kind", [lambda a, b: {"square": a, "cube": b}, Pair, Both], ids=["dict", "named", "dataclass"]
)
def test_an_output_is_selected_by_name(kind: object) -> None:
    def model(x: Tensor) -> object:
        return kind(x**2, x**3)

    torch.testing.assert_close(jacobian(model, X, "square"), SQUARE)
    torch.testing.assert_close(jacobian(model, X, {"square": [2]}), SQUARE[:, [2]])
    with pytest.raises(ShapeError, match="'square', 'cube'; name one"):
        jacobian(model, X)
    with pytest.raises(UnknownName, match="did you mean 'square'"):
        jacobian(model, X, "squared")


def test_entries_of_a_tuple_are_named_by_position() -> None:
    torch.testing.assert_close(jacobian(lambda x: (x, x**2), X, "1"), SQUARE)
    torch.testing.assert_close(jacobian(lambda x: (x**2,), X), SQUARE)
    with pytest.raises(ShapeError, match="Omit the name"):
        jacobian(lambda x: x, X, "1")
    with pytest.raises(ShapeError, match="returned str"):
        jacobian(lambda x: "no tensor", X)
    with pytest.raises(ShapeError, match="name one entry"):
        jacobian(lambda x: (x, x), X, {"0": None, "1": None})


@pytest.mark.parametrize("method", ["auto", "loop", "folded", "forward", "cut", "finite_difference"])
def test_several_inputs(method: str) -> None:
    other, which = torch.rand(4, 2), torch.arange(4)

    def model(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return a.sum(1, keepdim=True) * b + c[:, None]

    result = jacobian(model, (X, other, which), method=method)
    assert result[2] is None
    torch.testing.assert_close(result[0], other[:, :, None].expand(4, 2, 3))
    torch.testing.assert_close(result[1], X.sum(1)[:, None, None] * torch.eye(2))
    assert result[0].dtype == torch.float32
    unused = jacobian(lambda a, b: a**2, (X, other), method=method)
    assert not unused[1].any()


def test_invalid_inputs_are_rejected() -> None:
    with pytest.raises(ShapeError, match="one batch size"):
        jacobian(lambda a, b: a, (X, X[:2]))
    with pytest.raises(ShapeError, match="only integers"):
        jacobian(lambda a: a, torch.arange(3)[:, None])
    with pytest.raises(ShapeError, match="chunk is 0"):
        jacobian(lambda a: a, X, chunk=0)
    with pytest.raises(ShapeError, match="no images"):
        jacobian(lambda a: a, X[:0])


def test_a_function_uses_the_dtype_of_the_input_and_a_module_its_own() -> None:
    assert jacobian(torch.sin, X.double()).dtype == torch.float64
    torch.testing.assert_close(jacobian(torch.sin, X.double()), torch.diag_embed(X.double().cos()))
    assert jacobian(nn.Linear(3, 2), X.double()).dtype == torch.float64
    assert jacobian(nn.Linear(3, 2).double(), X).dtype == torch.float32


def test_bfloat16() -> None:
    model = zoo()["mlp"].float()
    images = torch.rand(3, 1, 6, 6)
    exact = reference(model, images)
    torch.testing.assert_close(jacobian(model.bfloat16(), images), exact, rtol=0.1, atol=0.05)
    assert jacobian(model, images.bfloat16()).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(jacobian(model.float(), images), exact, rtol=0.1, atol=0.05)


def test_a_bound_method_of_a_module_runs_in_eval_mode() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout()).train()
    assert torch.equal(jacobian(model.forward, X)[0], model[0].weight)
    assert model.training


@pytest.mark.usefixtures("generic")
def test_the_report_states_the_cost() -> None:
    model = zoo()["convolution"].float()
    report = jacobian_report(model, torch.rand(5, 1, 6, 6), chunk=2)
    assert (report.chunk, report.forwards, report.backwards) == (2, 4, 3)
    assert report.seconds > 0
    again = jacobian_report(model, torch.rand(1, 1, 6, 6), method="finite_difference")
    assert (again.method, again.forwards, again.backwards) == ("finite_difference", 74, 0)


def test_the_cost_of_finite_differences_is_logged_in_advance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, calls = zoo()["mlp"], []
    monkeypatch.setattr(differences.log, "log", lambda level, text, *values: calls.append((level, text % values)))
    monkeypatch.setattr(differences, "WARNING_SECONDS", 0.0)
    report = jacobian_report(model, torch.rand(5, 1, 6, 6), chunk=2, method="finite_difference")
    ((level, text),) = calls
    assert level == logging.WARNING
    assert "216 forward passes in float64 (2 x 36 inputs) for 5 images" in text
    assert report.forwards == 218
