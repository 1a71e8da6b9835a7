"""Derivatives equal central differences, for every memory format and batch size.

This also tests torch's own backward passes: that of batch norm is wrong for some strides.
"""

import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import pellucid
from pellucid import create_analyzer
from pellucid.core.errors import UnsupportedOperation
from pellucid.engine.batch_norm import NORMS, SoundNorms
from pellucid.engine.derivatives import check_graph, derivatives, listed, unseen_changes, zero_rows

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")
STEP = 2.0**-20


def layouts(x: Tensor) -> Iterator[Tensor]:
    """Yield the same values with different strides."""
    yield x.contiguous()
    if x.ndim == 4:
        yield x.contiguous(memory_format=torch.channels_last)
    if x.ndim > 2:
        yield x.transpose(1, -1).contiguous().transpose(1, -1)
        yield x.movedim(0, -1).contiguous().movedim(-1, 0)
    yield torch.stack([x, x], -1)[..., 0]


def expanded(x: Tensor) -> Tensor:
    """Repeat the first channel by a stride of zero."""
    return x[:, :1].expand_as(x)


def slopes_along(model: Callable[[Tensor], Tensor], x: Tensor, way: Tensor) -> Tensor:
    """Return central differences (batch, output) along the direction `way`."""
    with torch.no_grad():
        return (model(x + STEP * way) - model(x - STEP * way)).flatten(1) / (2 * STEP)


def check(model: nn.Module, x: Tensor, *, batches: tuple[int, ...] = (1, 2)) -> None:
    """Compare gradient and Jacobian with central differences, for each layout of the inputs."""
    way = torch.randn(x.shape, generator=torch.Generator().manual_seed(5), dtype=x.dtype)
    for count in batches:
        for images in (*layouts(x[:count]), expanded(x[:count])):
            along = way[:count]
            expected = slopes_along(model, images, along)
            allowed = {"rtol": 1e-5, "atol": 1e-7 * float(expected.abs().max()) + 1e-12}
            jacobian = pellucid.jacobian(model, images)
            product = (jacobian * along[:, None]).flatten(2).sum(2)
            torch.testing.assert_close(product, expected, **allowed)
            gradient = create_analyzer("gradient", model).analyze(images, 1)
            torch.testing.assert_close((gradient * along).flatten(1).sum(1), expected[:, 1], **allowed)


def test_gradients_of_the_zoo_are_central_differences(caged) -> None:
    model, images = caged
    check(model, images)


class Wired(nn.Module):
    """A convolution and a norm, followed by a head whose backward pass gives the norm a strided gradient."""

    def __init__(self, norm: nn.Module, way: Callable[[Tensor], Tensor], features: int) -> None:
        super().__init__()
        self.first, self.norm, self.way = nn.Conv2d(3, 6, 3), norm, way
        self.head = nn.Linear(features, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.way(self.norm(self.first(x))))


WAYS: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "tokens": (lambda x: x.flatten(2).transpose(1, 2).flatten(1), 96),
    "channels last": (lambda x: x.permute(0, 2, 3, 1).flatten(1), 96),
    "columns first": (lambda x: x.transpose(2, 3).flatten(1), 96),
    "windows": (lambda x: x.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 4, 5, 1).flatten(1), 96),
    "a mean": (lambda x: x.tanh().mean((2, 3)), 6),
    "a slice": (lambda x: x[:, :, ::2, 1].flatten(1), 12),
    "matrix product": (lambda x: (x.flatten(2).mT @ x.flatten(2)).flatten(1), 256),
}


def norms() -> dict[str, nn.Module]:
    return {
        "batch": nn.BatchNorm2d(6),
        "batch, plain": nn.BatchNorm2d(6, affine=False),
        "instance": nn.InstanceNorm2d(6, affine=True),
        "instance, running": nn.InstanceNorm2d(6, affine=True, track_running_stats=True),
        "group": nn.GroupNorm(3, 6),
        "layer": nn.LayerNorm([6, 4, 4]),
        "response": nn.LocalResponseNorm(3),
    }


def wired(norm: str, way: str) -> nn.Module:
    torch.manual_seed(0)
    model = Wired(norms()[norm], *WAYS[way])
    for module in model.modules():
        if getattr(module, "running_var", None) is not None:
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
        if getattr(module, "weight", None) is not None and not isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.normal_(module.weight)
    return model.double().eval()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("norm", norms())
def test_a_norm_with_a_strided_gradient(norm: str, way: str) -> None:
    x = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    check(wired(norm, way), x)


@pytest.mark.parametrize("way", ["tokens", "matrix product"])
@pytest.mark.parametrize("norm", ["batch", "instance", "instance, running"])
@pytest.mark.parametrize("method", ["loop", "folded", "forward", "cut"])
def test_every_jacobian_method_handles_strided_gradients(norm: str, way: str, method: str) -> None:
    model, x = wired(norm, way), torch.rand(1, 3, 6, 6, dtype=torch.float64)
    along = torch.randn_like(x)
    expected = slopes_along(model, x, along)
    found = (pellucid.jacobian(model, x, method=method) * along[:, None]).flatten(2).sum(2)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(pellucid.jacobian_product(model, x, along), expected, rtol=1e-5, atol=1e-7)
    weights = torch.randn(1, 3, dtype=x.dtype)
    transposed = pellucid.transposed_product(model, x, weights)
    torch.testing.assert_close((transposed * along).sum(), (weights * expected).sum(), rtol=1e-5, atol=1e-7)
    assert float(pellucid.check_jacobian(model, x).error.max()) < 1e-6


@pytest.mark.parametrize("chunk", [1, 2])
def test_all_chunks_are_correct(chunk: int) -> None:
    model, x = wired("batch", "tokens"), torch.rand(4, 3, 6, 6, dtype=torch.float64)
    along = torch.randn_like(x)
    found = (pellucid.jacobian(model, x, chunk=chunk) * along[:, None]).flatten(2).sum(2)
    torch.testing.assert_close(found, slopes_along(model, x, along), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["smoothgrad", "integrated_gradients", "expected_gradients", "guided_backprop"])
def test_other_gradient_methods_differentiate_norms_correctly(name: str) -> None:
    """Without rectifiers, Guided Backprop equals the gradient; so does a path of a single point."""
    x = torch.rand(1, 3, 6, 6, dtype=torch.float64)
    for norm in ("batch", "instance"):
        model = wired(norm, "tokens")
        gradient = torch.autograd.functional.jacobian(lambda x, m=model: _by_hand(m, x)[:, 1].sum(), x)
        match name:
            case "smoothgrad":
                found = create_analyzer(name, model, samples=1, noise_share=1e-9).analyze(x, 1)
            case "integrated_gradients":
                found = create_analyzer(name, model, steps=2, baseline=x - 1e-7).analyze(x, 1) / 1e-7
            case "expected_gradients":
                analyzer = create_analyzer(name, model, samples=1, references=x - 1e-7)
                found = analyzer.analyze(x, 1) / 1e-7
            case _:
                found = create_analyzer(name, model).analyze(x, 1)
        torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-6)


def _by_hand(model: Wired, x: Tensor) -> Tensor:
    """Run the network with its norm written out."""
    h, norm = model.first(x), model.norm
    if isinstance(norm, nn.BatchNorm2d):
        mean, variance = norm.running_mean[:, None, None], norm.running_var[:, None, None]
    else:
        mean, variance = h.mean((2, 3), keepdim=True), h.var((2, 3), correction=0, keepdim=True)
    h = (h - mean) / (variance + norm.eps).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]
    return model.head(model.way(h))


@pytest.mark.parametrize("shape", [(1, 4), (1, 4, 5), (1, 4, 1, 6), (1, 4, 3, 5), (2, 4, 3, 5), (1, 4, 2, 3, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sound_norms_return_what_torch_returns(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Check value, layout and derivative for every function that is a batch or instance norm."""
    generator = torch.Generator().manual_seed(0)
    mean, bias, weight = (torch.randn(4, generator=generator, dtype=dtype) for _ in range(3))
    variance = torch.rand(4, generator=generator, dtype=dtype) + 0.5
    aten = torch.ops.aten
    functions: list[Callable[[Tensor], Tensor]] = [
        lambda x: F.batch_norm(x, mean, variance, weight, bias),
        lambda x: F.batch_norm(x, mean, variance, bias=bias, eps=1e-3),
        lambda x: torch.batch_norm(x, weight, bias, mean, variance, False, 0.1, 1e-5, False),
        lambda x: aten.batch_norm.default(x, weight, bias, mean, variance, False, 0.1, 1e-5, False),
        lambda x: aten.native_batch_norm(x, weight, bias, mean, variance, False, 0.1, 1e-5)[0],
        lambda x: aten._native_batch_norm_legit_no_training.default(x, weight, bias, mean, variance, 0.1, 1e-5)[0],
    ]
    if len(shape) > 2:
        functions += [
            lambda x: F.instance_norm(x, mean, variance, weight, bias, use_input_stats=False),
            lambda x: F.instance_norm(x, weight=weight, bias=bias),
            lambda x: torch.instance_norm(x, weight, bias, None, None, True, 0.1, 1e-5, False),
        ]
    for function in functions:
        for x in layouts(torch.randn(shape, generator=generator, dtype=dtype)):
            expected, leaf = function(x), x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
            with SoundNorms(None):
                found = function(leaf)
            torch.testing.assert_close(found.detach(), expected)
            assert found.is_contiguous() or not expected.is_contiguous()
            cotangent = torch.randn(shape, generator=generator, dtype=dtype)
            slopes = [torch.autograd.grad(found, leaf, c, retain_graph=True)[0] for c in layouts(cotangent)]
            for slope in slopes[1:]:
                torch.testing.assert_close(slope, slopes[0])
            if dtype == torch.float64:
                way = torch.randn(shape, generator=generator, dtype=dtype)
                along = (slopes_along(function, x.contiguous(), way) * cotangent.flatten(1)).sum()
                torch.testing.assert_close((slopes[0] * way).sum(), along, rtol=1e-6, atol=1e-6)


def test_other_calls_are_unchanged() -> None:
    x, calls = torch.rand(2, 4, 3, dtype=torch.float64), []
    norm = nn.BatchNorm1d(4).double().eval()
    with SoundNorms(norm), torch.no_grad():
        calls.append(norm(x.requires_grad_()))
    torch.testing.assert_close(calls[0], norm(x))
    with SoundNorms(norm), pytest.raises(ValueError, match="more than 1"):
        F.instance_norm(torch.rand(1, 4, 1, requires_grad=True))
    assert F.batch_norm in NORMS


stages = st.lists(
    st.tuples(
        st.sampled_from(["batch", "instance", "group", "layer", "none"]),
        st.sampled_from(["relu", "gelu", "tanh", "max", "average", "softmax"]),
        st.sampled_from(["plain", "tokens", "channels_last", "residual", "concat", "flip", "attention"]),
    ),
    min_size=1,
    max_size=4,
)


class Stage(nn.Module):
    """A convolution, a norm, an activation, and a wiring that changes strides."""

    def __init__(self, norm: str, activation: str, wiring: str) -> None:
        super().__init__()
        self.conv, self.mix = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.norm = {
            "batch": nn.BatchNorm2d(4),
            "instance": nn.InstanceNorm2d(4, affine=True),
            "group": nn.GroupNorm(2, 4),
            "layer": nn.LayerNorm([4, 6, 6]),
            "none": nn.Identity(),
        }[norm]
        self.activation, self.wiring = activation, wiring

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        match self.activation:
            case "max":
                y = F.max_pool2d(y, 3, 1, 1)
            case "average":
                y = F.avg_pool2d(y, 3, 1, 1)
            case "softmax":
                y = y.softmax(1) * 4
            case name:
                y = getattr(torch, name, None) and getattr(torch, name)(y) if name != "gelu" else F.gelu(y)
        match self.wiring:
            case "tokens":
                return y.flatten(2).transpose(1, 2).reshape(len(y), 6, 6, 4).permute(0, 3, 1, 2)
            case "channels_last":
                return y.contiguous(memory_format=torch.channels_last)
            case "residual":
                return x + y
            case "concat":
                return self.mix(torch.cat([x, y], 1))
            case "flip":
                return y.transpose(2, 3).flip(1)
            case "attention":
                tokens = y.flatten(2).mT
                return F.scaled_dot_product_attention(tokens, tokens, tokens).mT.unflatten(2, (6, 6))
        return y


def random_network(plans: list[tuple[str, str, str]], seed: int) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(2, 4, 3, padding=1), *(Stage(*plan) for plan in plans)]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight)
    return model.double().eval(), torch.rand(2, 2, 6, 6, dtype=torch.float64)


def drawn(examples: int) -> settings:
    return settings(
        max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )


@drawn(6)
@given(plans=stages, seed=st.integers(0, 99))
def test_some_random_networks(plans, seed) -> None:
    check(*random_network(plans, seed))


@pytest.mark.slow
@drawn(80)
@given(plans=stages, seed=st.integers(0, 10**6))
def test_80_random_networks(plans, seed) -> None:
    check(*random_network(plans, seed))


# ── missing derivatives ──────────────────────────────────────────────────────────────────────────────────────────────


def test_zero_rows_are_found_wherever_other_rows_are_nonzero() -> None:
    maps = torch.zeros(4, 3, 5, 7)
    assert zero_rows(maps).tolist() == [True] * 4
    maps[1, 2, 4, 6], maps[2, 0, 0, 0], maps[3] = 1e-30, torch.nan, 1
    assert zero_rows(maps).tolist() == [True, False, False, False]
    assert zero_rows(maps[1:]) is None
    assert zero_rows(maps, 2).tolist() == [[True] * 3, [True, True, False], [False, True, True], [False] * 3]
    assert zero_rows(torch.tensor([[0.0, 2.0]]), 2).tolist() == [[True, False]]


def test_missing_derivatives_are_distinguished_from_constants_kinks_and_plateaus() -> None:
    x = torch.rand(3, 5, generator=torch.Generator().manual_seed(0))
    x[1] = 0

    def outputs(x: Tensor) -> Tensor:
        detached, flat, kinked = x.detach().square().sum(1), torch.zeros(len(x)), F.relu(x).sum(1) * (x.sum(1) == 0)
        return torch.stack([x.sum(1), detached, flat, kinked, x.square().sum(1), F.relu(x - 5).sum(1)], 1)

    everything = torch.ones(3, 6, dtype=torch.bool)
    everything[:, 0] = False
    state = torch.get_rng_state()
    unseen = unseen_changes(outputs, x, everything)
    assert torch.equal(torch.get_rng_state(), state)
    assert unseen.tolist() == [[False, True, False, False, False, False]] * 3


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_an_operator_without_a_formula_is_named() -> None:
    layer = torch.ao.nn.quantized.dynamic.Linear(4, 2)
    x = torch.rand(3, 4, requires_grad=True)
    with pytest.raises(UnsupportedOperation, match="quantized::linear_dynamic.*before quantization.*do this"):
        check_graph(torch.cat([x[:, :2], layer(x)], 1), "do this")
    with pytest.raises(UnsupportedOperation, match="igammac: input.*do this"):
        derivatives(torch.special.gammaincc(x + 1, x).sum(), [x], way_out="do this")
    check_graph(x.exp(), "do this")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert derivatives(x.sum(), [x], way_out="")[0].equal(torch.ones(3, 4))


def test_indices_are_listed_as_text() -> None:
    assert listed([7]) == "7"
    assert listed([]) == ""
    assert listed([1, 2]) == "1 and 2"


class Remembered(nn.Module):
    """A network whose activations are overwritten, or recomputed in the backward pass."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.first, self.act, self.last = nn.Linear(4, 5), nn.ReLU(inplace=how == "hooks"), nn.Linear(5, 3)
        if how == "hooks":
            self.first.register_full_backward_hook(lambda *_: None)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "checkpoint":
            return self.last(
                checkpoint(lambda y: F.relu(nn.functional.normalize(self.first(y))), x, use_reentrant=True)
            )
        hidden = self.act(self.first(x))
        if self.how == "overwritten":
            hidden += 1
        return self.last(hidden)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("overwritten", "overwrites a value that its gradient needs; replace in-place operations"),
        ("hooks", "has backward hooks, and overwrites the output of a module that has one; remove the hooks"),
        ("checkpoint", "recomputes activations during the backward pass"),
    ],
)
@pytest.mark.parametrize("name", ["gradient", "integrated_gradients"])
def test_derivatives_that_torch_cannot_compute_come_with_advice(how, message, name) -> None:
    with pytest.raises(UnsupportedOperation, match=message):
        create_analyzer(name, Remembered(how)).analyze(torch.rand(3, 4), 1)
    with pytest.raises(UnsupportedOperation, match=message if how != "hooks" else "hooks"):
        pellucid.jacobian(Remembered(how), torch.rand(3, 4))
