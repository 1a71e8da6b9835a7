"""What callers rely on, with the native kernel: equal bits, an untouched model, hooks, threads and errors."""

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jacobians.models import zoo
from jacobians.networks import reference
from pellucid.core.errors import BuildError, ModelError, PellucidError, UnsupportedOperation
from pellucid.jacobians import jacobian, jacobian_report
from pellucid.jacobians._native.run import OUT_OF_MEMORY
from pellucid.jacobians._native.values import Images, Unsupported

pytestmark = pytest.mark.usefixtures("native")

IMAGES = torch.randn(7, 2, 8, 8, generator=torch.Generator().manual_seed(0))


class Residual(nn.Module):
    """Two convolutions, with a shortcut that is added in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.second(F.relu(self.first(x))))
        y += x
        return F.relu(y)


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(inplace=True), Residual(), nn.MaxPool2d(2), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(96, 20), nn.ReLU(), nn.Dropout(), nn.Linear(20, 5)).to(dtype)
    with torch.no_grad():
        model[2].norm.running_mean.normal_()
        model[2].norm.running_var.uniform_(0.5, 2)
    return model


def same(model: Callable[[Tensor], Tensor], images: Tensor, result: Tensor) -> None:
    expected = reference(model, images)
    torch.testing.assert_close(result.reshape(expected.shape), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_bits_for_equal_calls_any_chunk_and_images_one_by_one(dtype: torch.dtype) -> None:
    model, images = network(dtype), IMAGES.to(dtype)
    report = jacobian_report(model, images, method="native")
    assert report.method == "native"
    same(model.eval(), images, report.jacobian)
    for chunk in (None, 1, 2, 3, 6):
        assert torch.equal(jacobian(model, images, chunk=chunk, method="native"), report.jacobian)
    alone = [jacobian(model, image[None], method="native") for image in images]
    assert torch.equal(torch.cat(alone), report.jacobian)
    some = jacobian(model, images, [3, 0, 3], method="native")
    torch.testing.assert_close(some, report.jacobian[:, [3, 0, 3]])


@pytest.mark.parametrize("name", list(zoo()))
def test_the_networks_of_the_other_tests(name: str) -> None:
    model = zoo()[name]
    images = torch.rand(5, 1, 6, 6, generator=torch.Generator().manual_seed(1)).double()
    expected = reference(model, images, [1, 0, 1])
    for chunk in (None, 2):
        with suppress(UnsupportedOperation):
            result = jacobian(model, images, [1, 0, 1], chunk=chunk, method="native")
            torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("threads", [2, 3, 20])
def test_equal_bits_for_any_number_of_threads_of_torch(threads: int) -> None:
    model = network()
    expected = jacobian(model, IMAGES, method="native")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert torch.equal(jacobian(model, IMAGES, method="native"), expected)
    finally:
        torch.set_num_threads(before)


def test_several_python_threads_share_a_model() -> None:
    model = network()
    batches = [IMAGES[:3], IMAGES[3:], IMAGES[1:2], IMAGES] * 3
    expected = [jacobian(model, batch, method="native") for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda batch: jacobian(model, batch, method="native"), batches))
    assert all(map(torch.equal, results, expected))


def test_the_model_and_the_images_are_untouched() -> None:
    model, images = network().train(), IMAGES.clone().requires_grad_()
    calls: list[object] = []
    model[0].register_forward_hook(lambda *_: calls.append(0))
    model[5].weight.grad = torch.ones_like(model[5].weight)
    model[8].weight.requires_grad_(False)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(1)
    drawn = torch.get_rng_state()
    assert jacobian_report(model, images, method="native").method == "native"
    assert model.training
    assert model[2].norm.training
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(model[5].weight.grad, torch.ones_like(model[5].weight))
    assert [part.weight.requires_grad for part in (model[0], model[5], model[8])] == [True, True, False]
    assert images.grad is None
    assert torch.equal(images, IMAGES)
    assert len(model[0]._forward_hooks) == 1
    assert calls
    assert torch.equal(torch.get_rng_state(), drawn)


def test_weights_that_change_between_calls_are_read_anew() -> None:
    model = network().eval()
    for _ in range(3):
        same(model, IMAGES, jacobian(model, IMAGES, method="native"))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(-0.7)


class Hooked(nn.Module):
    """Doubles the gradient that arrives at a hidden value, in one of several ways."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.how = nn.Linear(4, 6), nn.Linear(6, 3), how
        if how == "module":
            self.first.register_full_backward_hook(lambda module, below, above: (2 * below[0],))
        elif how == "module before":
            self.second.register_full_backward_pre_hook(lambda module, above: (2 * above[0],))

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.first(x))
        if self.how == "tensor":
            hidden.register_hook(lambda gradient: 2 * gradient)
        elif self.how == "input":
            x = x * 1
            x.register_hook(lambda gradient: 2 * gradient)
            hidden = F.relu(self.first(x))
        elif self.how == "node":
            hidden.grad_fn.register_hook(lambda below, above: (2 * below[0],))
        elif self.how == "node before":
            hidden.grad_fn.register_prehook(lambda above: (2 * above[0],))
        return self.second(hidden)


@pytest.mark.parametrize("how", ["module", "module before", "tensor", "input", "node", "node before"])
def test_backward_hooks_are_not_ignored(how: str) -> None:
    model, x = Hooked(how), torch.randn(5, 4)
    expected = reference(model, x)
    torch.testing.assert_close(expected, 2 * reference(Hooked("none"), x))
    for _ in range(2):
        torch.testing.assert_close(jacobian(model, x), expected)
        try:
            result = jacobian(model, x, method="native")
        except UnsupportedOperation:
            continue
        torch.testing.assert_close(result, expected)


def test_parameters_that_require_gradients_are_constants() -> None:
    """A function over a module, whose parameters cannot be frozen."""
    model = network()
    report = jacobian_report(lambda x: model.eval()(x), IMAGES, method="native")
    assert report.method == "native"
    same(model, IMAGES, report.jacobian)
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("how", ["tensor", "module"])
def test_a_hook_that_is_added_later_is_not_ignored(how: str) -> None:
    """The layout is cached by then."""
    model, x = Hooked("none"), torch.randn(5, 4)
    plain = jacobian(model, x)
    if how == "tensor":
        model.how = "tensor"
    else:
        model.first.register_full_backward_hook(lambda module, below, above: (2 * below[0],))
    torch.testing.assert_close(jacobian(model, x), 2 * plain)


@pytest.mark.parametrize("mode", ["autocast", "inference", "no_grad"])
def test_the_modes_of_the_caller_do_not_matter(mode: str) -> None:
    model = network()
    expected = jacobian(model, IMAGES, method="native")
    contexts: dict[str, Any] = {
        "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
        "inference": torch.inference_mode,
        "no_grad": torch.no_grad,
    }
    with contexts[mode]():
        result = jacobian(model, IMAGES, method="native")
    assert torch.equal(result, expected)


def test_a_graph_that_depends_on_the_chunk() -> None:
    """Only the first of all chunks is checked, and the others may have another graph."""

    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.Linear(4, 6)

        def forward(self, x: Tensor) -> Tensor:
            y = F.relu(self.layer(x))
            return y.cumsum(1) if x[0, 0] > 10 else y

    x = torch.randn(6, 4)
    x[3:, 0] = 20
    model = Branching()
    expected = torch.cat([reference(model, x[:3]), reference(model, x[3:])])
    for chunk in (3, 1):
        torch.testing.assert_close(jacobian(model, x, chunk=chunk, method="native"), expected)
    model.layer.weight.data[0] = 0
    expected = torch.cat([reference(model, x[:3]), reference(model, x[3:])])
    torch.testing.assert_close(jacobian(model, x, chunk=3), expected)


def test_weights_that_the_forward_pass_computes() -> None:
    """Such weights live as long as a chunk, and those of the next one may take their place in memory."""

    class Computed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.weight = nn.Parameter(torch.randn(8, 8, 3, 3))

        def forward(self, x: Tensor) -> Tensor:
            for scale in (1.0, -0.5) if x[0, 0, 0, 0] > 0 else (0.3, 2.0):
                x = F.relu(F.conv2d(x, self.weight * scale, padding=1))
            return x.mean((2, 3))

    x = torch.randn(6, 8, 5, 5)
    x[:, 0, 0, 0] = torch.tensor([1, -1, 1, -1, -1, 1])
    model = Computed()
    expected = torch.cat([reference(model, image[None]) for image in x])
    torch.testing.assert_close(jacobian(model, x, chunk=1, method="native"), expected)


def test_functions_of_tensors_that_require_gradients() -> None:
    weight, bias = torch.randn(3, 4, requires_grad=True), torch.randn(3, requires_grad=True)

    def model(x: Tensor) -> Tensor:
        return F.relu(F.linear(x, weight * 2, bias)) * bias

    x = torch.randn(5, 4)
    expected = reference(model, x)
    torch.testing.assert_close(jacobian(model, x), expected)
    with suppress(UnsupportedOperation):
        torch.testing.assert_close(jacobian(model, x, method="native"), expected)
    assert weight.grad is None


@pytest.mark.parametrize("place", [0, 5, 8])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_raise(value: float, place: int) -> None:
    model = network()
    model[place].weight.data.flatten()[0] = value
    with pytest.raises(PellucidError, match="finite|NaN|nan|inf"):
        jacobian(model, IMAGES, method="native")


def test_an_infinite_weight_of_an_inactive_unit() -> None:
    """Autograd multiplies the weight by zero, which gives NaN; the kernel skips the unit, as is right."""
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 4))
    model[0].weight.data[0, 0] = -torch.inf
    x = torch.rand(5, 3)
    with pytest.raises(ModelError):
        jacobian(model, x, method="loop")
    result = jacobian(model, x, method="native")
    model[0].weight.data[0, 0] = -1e9
    same(model, x, result)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_images_that_are_not_finite_raise(value: float) -> None:
    images = IMAGES.clone()
    images[4, 1, 2, 3] = value
    for chunk in (None, 2):
        with pytest.raises(PellucidError, match="4"):
            jacobian(network(), images, chunk=chunk, method="native")


def test_an_infinite_slope_times_zero_raises() -> None:
    x = torch.rand(5, 3)
    x[3] = 0
    for chunk in (None, 1, 2):
        with pytest.raises(ModelError, match="derivative at image 3"):
            jacobian(lambda x: x.square().sum(1, keepdim=True).sqrt().expand(-1, 2), x, chunk=chunk)


def test_an_infinite_derivative_raises() -> None:
    with pytest.raises(ModelError, match="finite|NaN|nan|inf"):
        jacobian(lambda x: x * 1e38 * 1e38, torch.zeros(2, 3), method="native")


def test_a_pooling_window_in_the_padding_does_no_harm() -> None:
    """Torch stores an index outside of the image for it."""

    def model(x: Tensor) -> Tensor:
        return F.relu(F.max_pool2d(x, 2, stride=1, padding=1, dilation=3)).flatten(1)

    images = torch.rand(3, 2, 2, 2)
    try:
        result = jacobian(model, images, method="native")
    except PellucidError:
        return
    assert ((result == 0) | (result == 1)).all()


@pytest.mark.parametrize(
    ("model", "x", "name"),
    [
        (lambda x: x.softmax(1), torch.rand(2, 3), "Softmax"),
        (lambda x: x.sort(1).values, torch.rand(2, 3), "Sort"),
        (lambda x, y: x + y, (torch.rand(2, 3), torch.rand(2, 3)), "input"),
        (nn.Linear(3, 2).bfloat16(), torch.rand(2, 3), "float"),
    ],
    ids=["softmax", "sort", "two inputs", "bfloat16"],
)
def test_the_error_names_what_is_not_supported(model: Any, x: Any, name: str) -> None:
    with pytest.raises(UnsupportedOperation, match=name):
        jacobian(model, x, method="native")
    jacobian(model, x)


def test_without_the_kernel_native_raises_and_auto_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = jacobian(network(), IMAGES)
    monkeypatch.setenv("PELLUCID_NATIVE", "0")
    with pytest.raises(BuildError, match="PELLUCID_NATIVE"):
        jacobian(network(), IMAGES, method="native")
    report = jacobian_report(network(), IMAGES)
    assert "native" not in report.method
    torch.testing.assert_close(report.jacobian, expected)


def test_the_kernel_is_chosen_where_it_pays() -> None:
    assert jacobian_report(network(), IMAGES).method == "native"
    assert jacobian_report(network(), IMAGES, [0]).method != "native"


def test_values_that_32_bits_cannot_count_are_left_to_the_generic_ways() -> None:
    values = torch.zeros(2, 1, requires_grad=True).expand(2, 2**31)
    images = Images(2, torch.float32, frozenset())
    with pytest.raises(Unsupported, match="elements per image"):
        images.size(values.grad_fn)
    assert images.size(values[:, 1:-1].grad_fn) == 2**31 - 2


def test_a_lack_of_memory_is_reported(native: ctypes.CDLL) -> None:
    """A program that begins with a number of slots for which no memory suffices."""
    words, message = (ctypes.c_int64 * 9)(1, 1, 0, 0, 0, 0, 0, 0, 2**50), ctypes.create_string_buffer(64)
    first, last, size = ctypes.c_int64(0), ctypes.c_int64(1), ctypes.c_int64(len(words))
    assert native.pellucid_run_float(words, size, first, last, None, message, ctypes.c_int64(64)) == OUT_OF_MEMORY
    assert message.value == b"not enough memory"
