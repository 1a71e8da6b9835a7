"""Inputs are converted, or refused with one typed error that says what was received."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import pellucid
from pellucid.core.errors import ConfigError, ModelError, PellucidError, ShapeError
from pellucid.engine.inputs import as_inputs, check_is_loader, check_is_model


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)).eval()


X = torch.rand(2, 1, 4, 4)
CALLS: dict[str, Callable[[nn.Module, object], object]] = {
    **{
        name: lambda model, x, name=name: pellucid.create_analyzer(name, model).analyze(x, 1)
        for name in ("gradient", "lrp.epsilon", "deeplift", "grad_cam", "occlusion", "input")
    },
    "jacobian": pellucid.jacobian,
    "spectrum": pellucid.jacobian_spectrum,
    "product": lambda model, x: pellucid.jacobian_product(model, x, x),
    "evaluate": lambda model, x: pellucid.evaluate(model, x, methods=["gradient"], metrics=["sparseness"]),
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
# `test_library_calls` passes other types to the remaining functions, without the type checker of the tests
any_type = pytest.mark.parametrize("call", [CALLS[name] for name in ("gradient", "lrp.epsilon", "occlusion", "input")])


@pytest.mark.parametrize(
    "given",
    [X.numpy(), X.double().numpy(), X.numpy()[:, :, ::-1][:, :, ::-1], np.asfortranarray(X.numpy()), X.tolist()],
    ids=["float32", "float64", "negative strides", "column-major", "list"],
)
def test_arrays_and_lists_are_converted(given) -> None:
    model = network()
    for name in ("gradient", "lrp.epsilon", "jacobian"):
        torch.testing.assert_close(CALLS[name](model, given), CALLS[name](model, X))
    assert as_inputs(X.numpy(), model.double()).dtype == torch.float64
    assert pellucid.jacobian(torch.sin, X[:, 0, 0].double().numpy()).dtype == torch.float64


@any_type
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "got None"),
        ("image.png", "got str 'image.png'"),
        (3, "got int 3"),
        (Image.new("RGB", (4, 4)), "got Image.*Convert the image"),
        (np.array([None, 1]), "got an array of object"),
        (np.array(["a"]), "got an array of <U1"),
        ([[1.0, 2.0], [3.0]], "different lengths"),
        ([], "no tensors"),
        ({}, "no tensors"),
        ({1, 2}, "got set"),
    ],
)
def test_other_types_are_refused(call, given, message) -> None:
    with pytest.raises(ShapeError, match=message):
        call(network(), given)


@every_call
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: X + 0j, "complex"),
        (lambda: X.to_sparse(), "sparse_coo.*to_dense"),
        (lambda: X.to("meta"), "meta device"),
        (lambda: torch.nested.nested_tensor([X[0], X[1]], layout=torch.jagged), "nested.*pad it"),
        (lambda: (X * 255).byte(), "uint8|integers"),
        (lambda: X[:0], r"\(0, 1, 4, 4\)|no images"),
        (lambda: torch.tensor(1.0), r"\(\)"),
    ],
    ids=["complex", "sparse", "meta", "nested", "bytes", "empty", "number"],
)
def test_unsuitable_tensors_are_refused_everywhere(call, make, message) -> None:
    with pytest.raises(PellucidError, match=message):
        call(network(), make())


@every_call
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.rand(2, 3, 4, 4), r"\(2, 3, 4, 4\).*Conv2d '0' expects \(batch, 1 channel, height, width\)"),
        (torch.rand(2, 1, 5, 5), r"\(2, 1, 5, 5\).*Linear '4' expects 16 features"),
        (X[0], r"x\[None\]|expected floats in \[0, 1\], \(image"),
    ],
    ids=["channels", "size", "batch axis"],
)
def test_a_shape_that_does_not_fit_is_explained_by_the_layer(call, x, message) -> None:
    with pytest.raises((ShapeError, ModelError), match=message):
        call(network(), x)


def test_dtypes_that_differ_are_named() -> None:
    for name in ("gradient", "lrp.epsilon", "deeplift", "grad_cam", "occlusion", "input"):
        with pytest.raises(ShapeError, match=r"The input is torch.float64 and the model torch.float32"):
            CALLS[name](network(), X.double())
    assert pellucid.jacobian(network(), X.double()).dtype == torch.float64  # converted


def test_an_error_of_the_model_for_another_reason_is_not_disguised() -> None:
    class MyError(ValueError):
        pass

    class Broken(nn.Module):
        def __init__(self, error: Exception) -> None:
            super().__init__()
            self.error = error

        def forward(self, x: Tensor) -> Tensor:
            raise self.error

    for error in (RuntimeError("out of coffee"), MyError("wrong shape"), KeyError("shape"), ZeroDivisionError()):
        for name in ("gradient", "lrp.epsilon", "jacobian"):
            with pytest.raises(type(error)) as raised:
                CALLS[name](Broken(error), X)
            assert raised.value is error
    checks = (AssertionError("height 4 is not 224"), ValueError("not enough values to unpack (expected 4, got 3)"))
    for error in checks:
        with pytest.raises(ShapeError, match=str(error)[:20]) as raised:
            CALLS["gradient"](Broken(error), X)
        assert raised.value.__cause__ is error


@pytest.mark.parametrize("model", [None, "resnet", lambda x: x, nn.Linear, 3, [nn.Linear(2, 2)]])
def test_models_that_are_no_modules_are_refused(model) -> None:
    with pytest.raises(ModelError, match="the model is .*; expected a torch.nn.Module. To fix this,"):
        check_is_model(model)
    check_is_model(torch.sin, allows_functions=True)


def test_jacobian_takes_dicts() -> None:
    def model(*, a: Tensor, b: Tensor, which: Tensor) -> Tensor:
        return a * b.sum(1, keepdim=True) + which[:, None]

    a, b, which = torch.rand(3, 2), torch.rand(3, 4), torch.arange(3)
    rows = pellucid.jacobian(model, {"a": a, "b": b, "which": which})
    torch.testing.assert_close(rows["a"], torch.diag_embed(b.sum(1, keepdim=True).expand(3, 2)))
    torch.testing.assert_close(rows["b"], a[:, :, None].expand(3, 2, 4))
    assert rows["which"] is None
    slow = pellucid.jacobian(model, {"a": a, "b": b, "which": which}, method="finite_difference")
    torch.testing.assert_close(slow["b"], rows["b"], rtol=1e-3, atol=1e-4)
    whole = pellucid.jacobian(lambda batch: batch["a"] ** 2, {"a": a})
    torch.testing.assert_close(whole["a"], torch.diag_embed(2 * a))
    with pytest.raises(ShapeError, match="the inputs are a, c, but the model takes"):
        pellucid.jacobian(model, {"a": a, "c": b})


def test_loaders_are_checked() -> None:
    for loader in (None, X, "images", {"a": X}, 3):
        with pytest.raises(ConfigError, match="expected a loader, or a list of batches"):
            check_is_loader(loader, "the loader")
