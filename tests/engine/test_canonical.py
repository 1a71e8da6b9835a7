"""Equal functions have equal maps: hand-written activations, softmax and norms versus those of torch."""

import math
import random
from collections.abc import Callable, Iterable
from dataclasses import fields

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid import create_analyzer
from pellucid.attribution import METHODS
from pellucid.core.errors import UnsupportedOperation
from pellucid.engine.relevance import record
from pellucid.engine.tape import Activation, Function, Product, Softmax
from pellucid.evaluation import Case, Explainer
from pellucid.evaluation.implementation_invariance import ImplementationInvariance

WIDTH = 16
WEIGHT, BIAS = torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(9)).double()

Map = Callable[[Tensor], Tensor]


def over_sum(e: Tensor) -> Tensor:
    return e / e.sum(-1, keepdim=True)


def by_groups(x: Tensor) -> Tensor:
    y = x.view(-1, 4, WIDTH // 4)
    c = y - y.mean(2, keepdim=True)
    return (c / (c.square().mean(2, keepdim=True) + 1e-5).sqrt()).view(-1, WIDTH) * WEIGHT + BIAS


def centered(x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True)


def clamped_by_masks(x: Tensor) -> Tensor:
    return x * ((x >= -1) & (x <= 1)).double() + (x > 1).double() - (x < -1).double()


def elu_in_place(x: Tensor) -> Tensor:
    y = torch.exp(x).sub_(1)
    return torch.where(x > 0, x, y)


ACTIVATIONS: dict[str, tuple[Map, Map]] = {
    "gelu, tanh form": (
        nn.GELU("tanh"),
        lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    ),
    "gelu, erf form": (F.gelu, lambda x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))),
    "silu, a product": (F.silu, lambda x: x * torch.sigmoid(x)),
    "silu, a quotient": (F.silu, lambda x: x / (1 + torch.exp(-x))),
    "hardswish": (F.hardswish, lambda x: x * F.relu6(x + 3) / 6),
    "hardswish, clamped": (F.hardswish, lambda x: x * ((x + 3).clamp(0, 6) / 6)),
    "hardsigmoid": (F.hardsigmoid, lambda x: F.relu6(x + 3) / 6),
    "softplus": (F.softplus, lambda x: torch.log(1 + torch.exp(x))),
    "softplus, stable": (F.softplus, lambda x: x.clamp(min=0) + torch.log1p(torch.exp(-x.abs()))),
    "mish": (F.mish, lambda x: x * torch.tanh(F.softplus(x))),
    "sigmoid": (torch.sigmoid, lambda x: 1 / (1 + torch.exp(-x))),
    "sigmoid, a power": (torch.sigmoid, lambda x: (1 + torch.exp(-x)) ** -1),
    "tanh": (torch.tanh, lambda x: (x.exp() - (-x).exp()) / (x.exp() + (-x).exp())),
    "tanh, a sigmoid": (torch.tanh, lambda x: 2 * torch.sigmoid(2 * x) - 1),
    "softsign": (F.softsign, lambda x: x / (1 + x.abs())),
    "relu, halves": (F.relu, lambda x: (x + x.abs()) / 2),
    "relu, a maximum": (F.relu, lambda x: torch.maximum(x, torch.zeros_like(x))),
    "relu, a mask": (F.relu, lambda x: x * (x > 0)),
    "relu, filled": (F.relu, lambda x: x.masked_fill(x < 0, 0)),
    "relu, where": (F.relu, lambda x: torch.where(x > 0, x, torch.zeros_like(x))),
    "relu6, where": (F.relu6, lambda x: torch.where(x > 6, 6.0, x.clamp(min=0))),
    "hardtanh, where": (F.hardtanh, lambda x: torch.where(x > 1, 1.0, torch.where(x < -1, -1.0, x))),
    "hardtanh, masks": (F.hardtanh, clamped_by_masks),
    "elu, where": (F.elu, elu_in_place),
    "elu, two parts": (F.elu, lambda x: x.clamp(min=0) + torch.expm1(x.clamp(max=0))),
    "leaky relu": (lambda x: F.leaky_relu(x, 0.1), lambda x: torch.where(x > 0, x, 0.1 * x)),
    "square": (torch.square, lambda x: x * x),
    "abs": (torch.abs, lambda x: (x * x).sqrt()),
}
OTHERS: dict[str, tuple[Map, Map]] = {
    "softmax": (lambda x: x.softmax(-1), lambda x: x.exp() / x.exp().sum(-1, keepdim=True)),
    "softmax, shifted": (lambda x: x.softmax(-1), lambda x: over_sum(torch.exp(x - x.amax(-1, keepdim=True)))),
    "softmax, scaled": (
        lambda x: (x / 4).softmax(1),
        lambda x: over_sum(torch.exp(x / 4 - (x / 4).max(1, keepdim=True).values)),
    ),
    "softmax, expanded": (
        lambda x: x.softmax(-1),
        lambda x: x.exp() * x.exp().sum(1)[:, None].reciprocal().expand_as(x),
    ),
    "layer norm": (
        lambda x: F.layer_norm(x, (WIDTH,), WEIGHT, BIAS),
        lambda x: centered(x) / torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + 1e-5) * WEIGHT + BIAS,
    ),
    "layer norm, a power": (
        lambda x: F.layer_norm(x, (WIDTH,), WEIGHT, BIAS),
        lambda x: centered(x) * (centered(x).pow(2).mean(-1, keepdim=True) + 1e-5) ** -0.5 * WEIGHT + BIAS,
    ),
    "layer norm, moments": (
        lambda x: F.layer_norm(x, (WIDTH,)),
        lambda x: centered(x) * ((x * x).mean(1, True) - x.mean(1, True) ** 2 + 1e-5).rsqrt(),
    ),
    "rms norm": (
        lambda x: F.rms_norm(x, (WIDTH,), WEIGHT, 1e-5),
        lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * WEIGHT,
    ),
    "rms norm, a root": (
        lambda x: F.rms_norm(x, (WIDTH,), None, 1e-5),
        lambda x: x / ((x * x).sum(-1, keepdim=True) / WIDTH + 1e-5).sqrt(),
    ),
    "rms norm, a norm": (
        lambda x: F.rms_norm(x, (WIDTH,), WEIGHT, 1e-5),
        lambda x: WEIGHT * (x / (x.norm(dim=-1, keepdim=True) ** 2 / WIDTH + 1e-5) ** 0.5),
    ),
    "rms norm, expanded": (
        lambda x: F.rms_norm(x, (WIDTH,), None, 1e-5),
        lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5).expand_as(x),
    ),
    "normalize": (F.normalize, lambda x: x / x.norm(dim=1, keepdim=True).clamp(min=1e-12)),
    "group norm": (lambda x: F.group_norm(x, 4, WEIGHT, BIAS), by_groups),
}


class Apply(nn.Module):
    def __init__(self, function: Map) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def network(function: Map) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(8, WIDTH), Apply(function), nn.Linear(WIDTH, 12), nn.ReLU(), nn.Linear(12, 3)]
    return nn.Sequential(*layers).double().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(3, 1, 2, 4, generator=torch.Generator().manual_seed(3)).double()


def distances(images: Tensor, pair: str, names: Iterable[str]) -> dict[str, float]:
    """Return the distance of each method's maps: 0 for equal maps, 1 for disjoint ones."""
    of_torch, by_hand = map(network, {**ACTIVATIONS, **OTHERS}[pair])
    torch.testing.assert_close(of_torch(images), by_hand(images))
    case, metric = Case(of_torch, images, torch.tensor([0, 1, 2])), ImplementationInvariance()
    case.shared(metric, lambda: {"by hand": by_hand})
    analyzers = [create_analyzer(name, of_torch) for name in names]
    return {one.name: float(metric.measure(case, Explainer(one, case)).values.max()) for one in analyzers}


@pytest.mark.parametrize("pair", [*ACTIVATIONS, *OTHERS])
def test_equal_functions_have_equal_maps(images, pair) -> None:
    """Maps agree up to 1e-4, the effect of stabilizers at different operations."""
    assert max(distances(images, pair, ["lrp.epsilon", "deeplift", "guided_backprop"]).values()) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("pair", [*ACTIVATIONS, *OTHERS][::4])
def test_equal_functions_have_equal_maps_by_every_backward_method(images, pair) -> None:
    names = [
        name for name in METHODS if METHODS[name].family in ("relevance", "backward") and not METHODS[name].needs_fit
    ]
    bounded = [name for name in names if {"low", "high"} <= {field.name for field in fields(METHODS[name])}]
    assert len(names) > 20
    assert max(distances(images, pair, [name for name in names if name not in bounded]).values()) < 1e-4


@pytest.mark.parametrize("pair", OTHERS)
@pytest.mark.parametrize("name", ["lrp.epsilon", "deeplift"])
def test_maps_of_hand_written_functions_sum_to_the_promised_value(images, pair, name) -> None:
    explanation = create_analyzer(name, network(OTHERS[pair][1])).explain(images, 1, strict=True)
    assert explanation.residual.abs().max() < 1e-9


@pytest.mark.parametrize("pair", ACTIVATIONS)
def test_a_hand_written_activation_becomes_one_function_with_the_right_value_at_zero(images, pair) -> None:
    of_torch, by_hand = ACTIVATIONS[pair]
    nodes = record(network(by_hand), images).nodes
    (function,) = [node for node in nodes if isinstance(node, Activation)][:1]
    assert isinstance(function, Function) or pair == "relu, a maximum"
    assert function.at_zero == pytest.approx(float(of_torch(torch.zeros(1).double())), abs=1e-12)
    (expected,) = [node for node in record(network(of_torch), images).nodes if isinstance(node, Activation)][:1]
    assert function.is_rectifier == expected.is_rectifier


UNARY: list[Map] = [
    torch.tanh,
    torch.sigmoid,
    F.relu,
    torch.abs,
    lambda x: x * x,
    lambda x: torch.exp(-x.abs()),
    lambda x: torch.log1p(x.abs()),
    F.softplus,
    lambda x: x.clamp(-1, 1),
    lambda x: (x * x + 1).rsqrt(),
    lambda x: torch.sqrt(x.abs() + 0.5),
    lambda x: x.clone().mul_(2).relu_(),
    lambda x: x.masked_fill(x < 0, 0.5),
    lambda x: 2 - x,
    lambda x: x / 3,
    lambda x: x**3,
]
BINARY: list[Callable[[Tensor, Tensor], Tensor]] = [
    torch.add,
    torch.sub,
    torch.mul,
    lambda a, b: a / (1 + b.abs()),
    lambda a, b: torch.where(a > b, a, b),
    lambda a, b: a * (b > 0),
]


def drawn_function(draw: random.Random, depth: int) -> Map:
    """Draw a random expression in one variable."""
    if depth == 0:
        return lambda x: x
    if draw.random() < 0.6:
        outer, inner = draw.choice(UNARY), drawn_function(draw, depth - 1)
        return lambda x: outer(inner(x))
    join, left, right = draw.choice(BINARY), drawn_function(draw, depth - 1), drawn_function(draw, depth - 1)
    return lambda x: join(left(x), right(x))


@pytest.mark.parametrize("seed", range(16))
def test_a_random_expression_is_explained_as_one_function(seed) -> None:
    """Whatever its parts: R_x = R (f(x) − f(0)) / f(x), and Δf/Δx for DeepLIFT."""
    torch.manual_seed(seed)
    first, last, x = nn.Linear(5, 7).double(), nn.Linear(7, 3).double(), torch.randn(4, 5).double()
    draw = random.Random(seed)
    for _ in range(5):  # some expressions are linear, or a single operation
        function = drawn_function(draw, draw.randint(2, 4))
        model = nn.Sequential(first, Apply(function), last).requires_grad_(False)
        nodes = record(model, x).nodes
        if len(nodes) == 3 and isinstance(nodes[1], Function):
            break
    assert isinstance(nodes[1], Function)
    z, empty = first(x), first(torch.zeros(1, 5).double())
    y, at_zero, at_empty = function(z), function(torch.zeros(1, 7).double()), function(empty)
    arriving = y * last.weight[1]
    share = torch.where(y == 0, arriving, arriving * (y - at_zero) / y) if at_zero.any() else arriving
    expected = x * ((share / z) @ first.weight)
    relevance = create_analyzer("lrp.epsilon", model, epsilon=1e-13).analyze(x, 1)
    torch.testing.assert_close(relevance, expected, rtol=1e-5, atol=1e-6)
    multiplier = last.weight[1] * (y - at_empty) / (z - empty)
    relevance = create_analyzer("deeplift", model).analyze(x, 1)
    torch.testing.assert_close(relevance, x * (multiplier @ first.weight), rtol=1e-7, atol=1e-9)


def test_hand_written_biases_and_batch_norms_belong_to_their_layer() -> None:
    """relu(x @ W + b) is nn.Linear and a ReLU, not a function relu(x + b) that passes all relevance on to x @ W."""
    torch.manual_seed(0)
    convolution, norm, head = nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.Linear(6, 3)
    norm.running_var.uniform_(0.5, 2)
    for tensor in (norm.running_mean, norm.weight, norm.bias):
        nn.init.normal_(tensor)
    for layer in (convolution, norm, head):
        layer.double().eval().requires_grad_(False)
    mean, variance, scale, shift, bias = (
        tensor.view(-1, 1, 1)
        for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias, convolution.bias)
    )

    def of_modules(x: Tensor) -> Tensor:
        return head(F.relu(norm(convolution(x))).mean((2, 3)))

    def by_hand(x: Tensor) -> Tensor:
        z = F.conv2d(x, convolution.weight) + bias
        z = (z - mean) / torch.sqrt(variance + norm.eps) * scale + shift
        return F.relu(z).mean((2, 3)) @ head.weight.T + head.bias

    x = torch.rand(3, 2, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    for name in ("lrp.epsilon", "lrp.gamma", "lrp.alpha_2_beta_1", "lrp.w_square", "deeplift"):
        found, expected = (create_analyzer(name, Apply(f)).explain(x, 1) for f in (by_hand, of_modules))
        torch.testing.assert_close(found.relevance, expected.relevance, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(found.expected, expected.expected, rtol=1e-9, atol=1e-12)


def test_guided_backprop_recognizes_a_rectifier_of_a_negated_value(images) -> None:
    model = network(lambda x: torch.relu(1 - x))
    linear, head = model[1], model[3:]
    hidden = linear(images.flatten(1)).detach()
    leaf = torch.relu(1 - hidden).requires_grad_()
    inner = torch.relu(head[0](leaf))
    slope = head[2].weight[1].clamp(min=0) * (inner > 0)
    cotangent = (slope @ head[0].weight).clamp(min=0) * (hidden < 1)
    expected = (-cotangent @ linear.weight).view_as(images)
    torch.testing.assert_close(create_analyzer("guided_backprop", model).analyze(images, 1), expected)


def test_a_gate_that_is_also_used_elsewhere_keeps_its_relevance(images) -> None:
    """A sigmoid that gates its own input and is also an output."""

    def forward(x: Tensor) -> Tensor:
        gate = torch.sigmoid(x)
        return torch.cat([x * gate, gate], 1)

    def expected(x: Tensor) -> Tensor:
        return torch.cat([F.silu(x), torch.sigmoid(x)], 1)

    for name in ("lrp.epsilon", "deeplift"):
        maps = []
        for function in (forward, expected):
            torch.manual_seed(0)
            model = nn.Sequential(nn.Flatten(), nn.Linear(8, 16), Apply(function), nn.Linear(32, 3)).double()
            maps.append(create_analyzer(name, model).explain(images, 1, strict=True).relevance)
        torch.testing.assert_close(*maps, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("swapped", [False, True])
def test_the_factor_that_is_broadcast_is_the_gate(images, swapped) -> None:
    """The smaller of two factors passes relevance on unchanged and receives none."""
    torch.manual_seed(0)
    first, scale, head = nn.Linear(8, 6).double(), nn.Linear(8, 1).double(), nn.Linear(6, 3).double()

    def forward(x: Tensor) -> Tensor:
        factors = (scale(x), first(x)) if swapped else (first(x), scale(x))
        return head(factors[0] * factors[1])

    x = images.flatten(1)
    # without biases in the way, relevance is that of the linear map that the gate leaves
    for layer in (first, scale, head):
        layer.bias.data.zero_()
    weights = (scale(x) * (head.weight[1] @ first.weight)).detach()
    found = create_analyzer("lrp.epsilon", nn.Sequential(nn.Flatten(), Apply(forward)), epsilon=1e-12)
    torch.testing.assert_close(found.analyze(images, 1).flatten(1), x * weights, rtol=1e-6, atol=1e-9)


def test_a_mask_of_another_value_is_a_constant(images) -> None:
    """A product gated by a comparison of another value is not a function of its own signal."""
    torch.manual_seed(0)
    other, first, head = (nn.Linear(8, 8).double() for _ in range(3))
    model = nn.Sequential(nn.Flatten(), Apply(lambda x: head(first(x) * (other(x) > 0))))
    mask = (other(images.flatten(1)) > 0).double()
    fixed = nn.Sequential(nn.Flatten(), Apply(lambda x: head(first(x) * mask[: len(x)])))
    for name in ("lrp.epsilon", "lrp.gamma"):
        maps = [create_analyzer(name, m).analyze(images, 1) for m in (model, fixed)]
        torch.testing.assert_close(*maps)
        alone = [create_analyzer(name, model).analyze(images[n : n + 1], 1) for n in range(len(images))]
        torch.testing.assert_close(torch.cat(alone), maps[0])


@pytest.mark.parametrize("depth", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_deeplift_through_hand_written_norms_equals_deeplift_through_torch_norms(depth, dtype) -> None:
    """Llama's blocks: with the average rule, each norm inflated the sum by a factor of a thousand."""

    def build(norm: Map) -> nn.Module:
        torch.manual_seed(0)
        ups, downs = ([nn.Linear(*size) for _ in range(depth)] for size in ((16, 32), (32, 16)))
        head = nn.Linear(16, 3)

        def forward(x: Tensor) -> Tensor:
            for up, down in zip(ups, downs, strict=True):
                x = x + down(F.silu(up(norm(x))))
            return head(norm(x))

        model = Apply(forward)
        model.parts = nn.ModuleList([*ups, *downs, head])
        return model.to(dtype).eval()

    x = torch.rand(2, 16, generator=torch.Generator().manual_seed(1)).to(dtype)
    by_hand = build(lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))
    of_torch = build(lambda x: F.rms_norm(x, (16,), None, 1e-6))
    found, expected = (create_analyzer("deeplift", m).explain(x, 1, strict=True) for m in (by_hand, of_torch))
    change = (by_hand(x) - by_hand(torch.zeros_like(x)))[:, 1].detach()
    precision = 1e-9 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(found.relevance, expected.relevance, rtol=precision, atol=precision)
    torch.testing.assert_close(found.relevance.sum(1), change, rtol=10 * precision, atol=10 * precision)


def test_a_similar_quotient_is_not_mistaken_for_a_softmax(images) -> None:
    """exp(x) / Σ exp(2x) resembles a softmax but is not one."""
    tape = record(network(lambda x: x.exp() / (2 * x).exp().sum(-1, keepdim=True)), images)
    assert not any(isinstance(node, Softmax) for node in tape.nodes)
    assert any(isinstance(node, Product) and node.is_normalization for node in tape.nodes)


def test_a_hand_written_softmax_at_the_end_is_refused_like_any_other() -> None:
    model = nn.Sequential(nn.Linear(4, 3), Apply(lambda x: over_sum(x.exp())))
    with pytest.raises(UnsupportedOperation, match="ends in a softmax"):
        create_analyzer("lrp.epsilon", model).analyze(torch.rand(2, 4))
    plain = create_analyzer("lrp.epsilon", model[0]).analyze(torch.rand(2, 4), 1)
    assert plain.shape == (2, 4)


def test_a_large_epsilon_does_not_affect_pooling_and_sums() -> None:
    """Compare with the ε rule in kernel layers only, as autograd functions (Bach et al., 2015)."""

    class Damped(torch.autograd.Function):
        @staticmethod
        def forward(ctx, layer, x):
            ctx.layer, ctx.x = layer, x
            return layer(x)

        @staticmethod
        def backward(ctx, relevance):
            with torch.enable_grad():
                x = ctx.x.detach().requires_grad_()
                z = ctx.layer(x)
                s = relevance / (z + 0.3 * torch.where(z >= 0, 1.0, -1.0)).detach()
                return None, x.detach() * torch.autograd.grad(z, x, s)[0]

    class Plain(Damped):
        @staticmethod
        def backward(ctx, relevance):
            with torch.enable_grad():
                x = ctx.x.detach().requires_grad_()
                z = ctx.layer(x)
                s = relevance / (z + 1e-12).detach()
                return None, x.detach() * torch.autograd.grad(z, x, s)[0]

    torch.manual_seed(0)
    first, second, head = nn.Conv2d(1, 4, 3).double(), nn.Conv2d(4, 4, 3, padding=1).double(), nn.Linear(4, 3).double()

    def forward(x: Tensor) -> Tensor:
        h = F.avg_pool2d(first(x), 2)
        h = h + second(h)
        return head(h.mean((2, 3)))

    x = torch.rand(2, 1, 10, 10).double()
    leaf = x.clone().requires_grad_()
    h = Plain.apply(lambda x: F.avg_pool2d(x, 2), Damped.apply(first, leaf))
    branch = Damped.apply(second, h)
    total = (h + branch).detach()
    # the plain rule for a sum: each term receives its share of the relevance
    joined = _Sum.apply(h, branch, total)
    logits = Damped.apply(head, Plain.apply(lambda x: x.mean((2, 3)), joined))
    expected = torch.autograd.grad(logits, leaf, F.one_hot(torch.tensor([1, 1]), 3) * logits.detach())[0]
    model = Apply(forward)
    model.parts = nn.ModuleList([first, second, head])
    found = create_analyzer("lrp.epsilon", model, epsilon=0.3).analyze(x, 1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, b, total):
        ctx.shares = a / total, b / total
        return a + b

    @staticmethod
    def backward(ctx, relevance):
        return relevance * ctx.shares[0], relevance * ctx.shares[1], None
