"""Networks from a list of steps that prints as code, so that a failing example can be pasted into a test.

A step applies a layer of `LAYERS` to earlier values; value 0 is the input. Weights are drawn from the network's seed.

>>> Network((1, 4), (step("linear", 0, features=2), step("relu", 1)))
Network((1, 4), (step('linear', 0, features=2), step('relu', 1)), seed=0)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Size, Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ["FOREIGN", "LAYERS", "SMOOTH", "Network", "Step", "piece", "reference", "rounding", "step"]

SMALL_ERROR = 1e-9
"""Relative errors for measuring the effect of rounding: large enough for float64, small enough to meet no kink."""

Shape = Sequence[int]
"""Shape of one image's value, without the batch axis."""


@dataclass(frozen=True)
class Step:
    """One layer, the values it is applied to, and its settings."""

    layer: str
    sources: tuple[int, ...]
    settings: tuple[tuple[str, Any], ...] = ()

    def __repr__(self) -> str:
        settings = [f"{name}={value!r}" for name, value in self.settings]
        return f"step({', '.join([repr(self.layer), *map(str, self.sources), *settings])})"


def step(layer: str, *sources: int, **settings: Any) -> Step:
    return Step(layer, sources, tuple(settings.items()))


class Network(nn.Module):
    """Steps with random weights, in float64 but representable in float32, and in eval mode."""

    def __init__(self, shape: Shape, steps: Sequence[Step] = (), seed: int = 0) -> None:
        super().__init__()
        self.shape, self.seed, self.steps = Size(shape), seed, ()
        self.layers = nn.ModuleList()
        self.shapes = [self.shape]
        self.generator = Generator().manual_seed(seed)
        self.noise: Generator | None = None
        for each in steps:
            self.add(each)

    def __repr__(self) -> str:
        return f"Network({tuple(self.shape)}, {self.steps!r}, seed={self.seed})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "generator": None}  # a generator cannot be copied, and all weights are drawn

    def add(self, added: Step) -> None:
        """Append a step. Raises an error of torch if its layer does not fit the shapes of its sources."""
        sources = [self.shapes[place] for place in added.sources]
        settings = dict(added.settings)
        if added.layer == "again":  # the very same layer a second time
            layer = self.layers[settings["place"] - 1]
        else:
            layer = LAYERS[added.layer](sources[0], self.generator, **settings).float().double().eval()
        noise = Generator().manual_seed(0)
        probes = [torch.randn(5, *shape, generator=noise, dtype=torch.float64) for shape in sources]
        with torch.no_grad():
            result, alone = (layer(*(probe.clone() for probe in part)) for part in (probes, [p[4:] for p in probes]))
        if not result.numel() or result.shape[0] != 5 or not torch.allclose(result[4:], alone):
            raise ValueError("no values are left, or the images are mixed")
        if not result.isfinite().all():  # the backward pass of torch's own max pooling then writes out of bounds
            raise ValueError("a pooling window lies in the padding entirely")
        self.layers.append(layer)
        self.shapes.append(result.shape[1:])
        self.steps = (*self.steps, added)

    def remove_last(self) -> None:
        self.layers = self.layers[:-1]
        self.shapes, self.steps = self.shapes[:-1], self.steps[:-1]

    def forward(self, x: Tensor) -> Tensor:
        return self.values(x)[-1]

    def values(self, x: Tensor) -> list[Tensor]:
        """Return the input and the results of all steps."""
        values = [x]
        for layer, each in zip(self.layers, self.steps, strict=True):
            sources = [values[place] for place in each.sources]
            values.append(layer(*(self.rounded(value, each) for value in sources) if self.noise else sources))
        return values

    def rounded(self, value: Tensor, each: Step) -> Tensor:
        """Change a layer's source by random relative errors, unless it is modified in place."""
        if each.layer.endswith("_") or dict(each.settings).get("operation") == "multiply_":
            return value
        error = torch.rand(value.shape[1:], generator=self.noise, dtype=torch.float64) + 0.5
        sign = torch.randint(0, 2, value.shape[1:], generator=self.noise) * 2 - 1
        return value * (1 + SMALL_ERROR * sign * error)


class Norm(torch.autograd.Function):
    """Batch normalization with running statistics."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mean: Tensor, variance: Tensor, settings: dict[str, Any]) -> Tensor:
        weight = settings["weight"]
        ctx.scale = (variance + settings["eps"]).rsqrt() * (1 if weight is None else weight)
        return F.batch_norm(x, mean, variance, **settings)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return gradient * ctx.scale.view(-1, *[1] * (gradient.ndim - 2)), None, None, None


class SoundNorms(TorchFunctionMode):
    """Replaces autograd's derivative of batch normalization, which is wrong for some layouts with axes of length 1."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        weights = [kwargs.get("weight"), kwargs.get("bias")] if func is F.batch_norm else [args]
        if all(weight is None or (isinstance(weight, Tensor) and weight.is_leaf) for weight in weights):
            return Norm.apply(*args, kwargs)
        return func(*args, **(kwargs or {}))


def reference(model: Callable[[Tensor], Tensor], x: Tensor, outputs: Sequence[int] | None = None) -> Tensor:
    """Compute the Jacobian (batch, output, *input) by one backward pass of autograd per output."""
    leaf = x.detach().requires_grad_()
    with SoundNorms():
        flat = model(leaf.clone()).reshape(len(x), -1)
    rows = []
    for index in range(flat.shape[1]) if outputs is None else outputs:
        (row,) = torch.autograd.grad(flat[:, index].sum(), leaf, retain_graph=True, allow_unused=True)
        rows.append(torch.zeros_like(leaf) if row is None else row)
    return torch.stack(rows, 1)


def rounding(network: Network, x: Tensor, outputs: Sequence[int] | None, exact: Tensor) -> float:
    """Estimate the norm of the Jacobian's error if each use of a value had a relative error of 1.

    It exceeds the norm of the Jacobian where terms cancel: x - x has derivative 0, but an error of the order of 1.
    """
    network.noise = Generator().manual_seed(0)
    errors = [float((reference(network, x, outputs) - exact).norm()) / SMALL_ERROR for _ in range(2)]
    network.noise = None
    return max(errors)


class Fixed(nn.Module):
    """A function of tensors and of constants."""

    def __init__(self, function: Callable[..., Tensor], *constants: Tensor) -> None:
        super().__init__()
        self.function, self.constants = function, nn.ParameterList(constants)

    def forward(self, *values: Tensor) -> Tensor:
        return self.function(*values, *self.constants)


def randomized(module: nn.Module, generator: Generator, kind: str = "dense") -> nn.Module:
    """Draw a module's weights, in double; `kind` "dead" silences it, "sparse" sets half of the weights to zero."""
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if not tensor.is_floating_point():
            continue
        drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        if tensor.ndim > 1:
            drawn *= (2 / max(1, prod(tensor.shape[1:]))) ** 0.5
            drawn *= torch.rand(tensor.shape, generator=generator) < 0.5 if kind == "sparse" else 1
        elif name.endswith("bias") and kind == "dead":
            drawn -= 100
        elif name.endswith("running_var"):
            drawn = drawn.abs() + 0.2
        tensor.data = drawn
    return module


def _conv(shape: Shape, generator: Generator, channels: int, weights: str = "dense", **settings: Any) -> nn.Module:
    layer = nn.Conv2d if len(shape) == 3 else nn.Conv1d
    module = randomized(layer(shape[0], channels, settings.pop("kernel"), **settings), generator, weights)
    return module.to(memory_format=torch.channels_last) if weights == "channels_last" else module


def _linear(shape: Shape, generator: Generator, features: int, bias: bool = True, weights: str = "dense") -> nn.Module:
    module = randomized(nn.Linear(shape[-1], features, bias=bias), generator, weights)
    if weights == "transposed":
        module.weight.data = module.weight.data.t().contiguous().t()
    return module


def _batch_norm(shape: Shape, generator: Generator, affine: bool = True, zeros: bool = False) -> nn.Module:
    kind = nn.BatchNorm2d if len(shape) == 3 else nn.BatchNorm1d
    module = randomized(kind(shape[0], affine=affine), generator)
    if zeros and affine:
        module.weight.data[::2] = 0
    return module


def _constant(shape: Shape, generator: Generator, operation: str, broadcast: str) -> nn.Module:
    """An affine map by a constant, of one of several broadcast shapes."""
    full = (1, *shape)
    sizes: dict[str, Shape] = {
        "number": (),
        "tensor": (),
        "channel": (full[1], *[1] * (len(full) - 2)),
        "last": full[-1:],
        "image": full[1:],
        "first": full,
    }
    value = torch.randn(sizes[broadcast], generator=generator, dtype=torch.float64)
    value = torch.where(value < 0, value - 0.3, value + 0.3)  # away from zero, for the division
    if broadcast == "number":
        number = round(float(value), 3)
        return Fixed(lambda x: _CONSTANT_OPERATIONS[operation](x, number))
    return Fixed(_CONSTANT_OPERATIONS[operation], value)


_CONSTANT_OPERATIONS: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "multiply": lambda x, c: x * c,
    "add": lambda x, c: x + c,
    "subtract": lambda x, c: x - c,
    "subtract_from": lambda x, c: c - x,
    "divide": lambda x, c: x / c,
    "multiply_": lambda x, c: x.clone().mul_(c),
}


def _of(function: Callable[..., Tensor]) -> Callable[..., nn.Module]:
    """Return a maker of a layer without weights, whose settings are the arguments of `function`."""
    return lambda shape, generator, **settings: Fixed(lambda *values: function(*values, **settings))


def _by_rank(one: Callable[..., Tensor], two: Callable[..., Tensor]) -> Callable[..., nn.Module]:
    return lambda shape, generator, **settings: Fixed(lambda x: (two if len(shape) == 3 else one)(x, **settings))


def _shuffle(x: Tensor, groups: int) -> Tensor:
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


PIECEWISE_LINEAR: dict[str, Callable[..., nn.Module]] = {
    "relu": _of(F.relu),
    "relu_": _of(lambda x: F.relu(x, inplace=True)),
    "leaky_relu": _of(F.leaky_relu),
    "hardtanh": _of(F.hardtanh),
    "relu6": _of(F.relu6),
    "clamp": _of(torch.clamp),
    "abs": _of(torch.abs),
    "identity": _of(lambda x: nn.Identity()(x)),
    "dropout": _of(lambda x: F.dropout(x, 0.5, training=False)),
    "conv": _conv,
    "linear": _linear,
    "batch_norm": _batch_norm,
    "constant": _constant,
    "negative": _of(torch.neg),
    "max_pool": _by_rank(F.max_pool1d, F.max_pool2d),
    "avg_pool": _by_rank(F.avg_pool1d, F.avg_pool2d),
    "adaptive_avg_pool": _by_rank(F.adaptive_avg_pool1d, F.adaptive_avg_pool2d),
    "mean": _of(torch.mean),
    "sum": _of(torch.sum),
    "add": _of(lambda *values, alpha=1: torch.add(*values, alpha=alpha) if len(values) == 2 else sum(values)),
    "add_": _of(lambda x, y: x.add_(y)),
    "subtract": _of(lambda x, y: x - y),
    "concatenate": _of(lambda *values, axis: torch.cat(values, axis)),
    "flatten": _of(torch.flatten),
    "view": _of(lambda x, sizes: x.reshape(len(x), *sizes)),
    "unsqueeze": _of(torch.unsqueeze),
    "squeeze": _of(torch.squeeze),
    "transpose": _of(lambda x, a, b: x.transpose(a, b)),
    "permute": _of(lambda x, axes: x.permute(0, *axes)),
    "contiguous": _of(lambda x: x.contiguous()),
    "slice": _of(lambda x, axis, start, stop, by=1: x[(slice(None),) * axis + (slice(start, stop, by),)]),
    "select": _of(torch.select),
    "split": _of(lambda x, size, axis, part: x.split(size, axis)[part]),
    "swap": _of(lambda x, axis: torch.cat(x.chunk(2, axis)[::-1], axis)),
    "shuffle": _of(_shuffle),
    "again": _of(lambda x: x),  # handled by `Network.add`
}
"""Makers of the layers of the grammar, apart from smooth activations: (shape, generator, **settings) -> module."""

SMOOTH: dict[str, Callable[..., nn.Module]] = {
    "elu": _of(F.elu),
    "tanh": _of(torch.tanh),
    "sigmoid": _of(torch.sigmoid),
    "gelu": _of(F.gelu),
    "silu": _of(F.silu),
    "softplus": _of(F.softplus),
}
"""Activations whose derivative depends on the value, and so on how torch rounds the forward pass."""


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 2 * gradient


def _instance_norm(x: Tensor) -> Tensor:
    """With running statistics, torch folds the batch into the channels."""
    mean = torch.linspace(-0.5, 0.5, x.shape[1], dtype=x.dtype)
    return F.instance_norm(x, mean, 1 + mean**2, use_input_stats=False)


def _set_part(x: Tensor) -> Tensor:
    """Overwrite a part in place, for which autograd has a node of its own."""
    y = x * 1
    y[:, :1] = 3 * x[:, -1:]
    y[:, -1:].relu_()
    return y


def _time_first(x: Tensor) -> Tensor:
    return F.relu(x.transpose(0, 1)).transpose(0, 1)


def _merged(x: Tensor) -> Tensor:
    """Merge the batch with the next axis for a while."""
    return (2 * F.relu(x.flatten(0, 1))).unflatten(0, x.shape[:2])


def _attention(x: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(x, x * 0.5, x)


FOREIGN: dict[str, Callable[..., nn.Module]] = {
    "softmax": _of(lambda x: x.softmax(-1)),
    "layer_norm": _of(lambda x: F.layer_norm(x, x.shape[1:])),
    "attention": _of(_attention),
    "function": _of(Doubled.apply),
    "sort": _of(lambda x: x.sort(-1).values),
    "gate": _of(lambda x: x * torch.sigmoid(x.mean(-1, keepdim=True))),
    "square": _of(lambda x: x * x),
    "power": _of(lambda x: x**2),
    "mask": _of(lambda x: x * (x > 0.1).to(x.dtype)),
    "where": _of(lambda x: torch.where(x > 0, x, 0.3 * x)),
    "masked_fill": _of(lambda x: x.masked_fill(x < -0.2, 0.5)),
    "maximum": _of(lambda x: torch.maximum(x, 0.4 * x.flip(-1))),
    "amax": _of(lambda x: x.amax(-1, keepdim=True)),
    "cumsum": _of(lambda x: x.cumsum(-1)),
    "fraction": _of(lambda x: x / (1 + x.abs())),
    "centered": _of(lambda x: x - x.mean(-1, keepdim=True)),
    "broadcast": _of(lambda x: x.sum(-1, keepdim=True) + x),
    "expand": _of(lambda x: x[..., :1].expand(x.shape) + x),
    "repeat": _of(lambda x: x.repeat(*[1] * (x.ndim - 1), 2)),
    "pad": _of(lambda x: F.pad(x, (1, 2))),
    "circular": _of(lambda x: x.roll(1, -1)),
    "gather": _of(lambda x: x[:, [0, -1, 0]]),
    "upsampled": _of(lambda x: F.interpolate(x, scale_factor=2.0)),
    "transposed_conv": _of(lambda x: F.conv_transpose1d(x, torch.ones(x.shape[1], 2, 2, dtype=x.dtype), stride=2)),
    "conv3d": _of(lambda x: F.conv3d(x[:, None], torch.ones(2, 1, 1, 1, 2, dtype=x.dtype), padding=(0, 0, 1))[:, 1]),
    "adaptive_max_pool": _of(lambda x: F.adaptive_max_pool1d(x, 2)),
    "instance_norm": _of(_instance_norm),
    "left_product": _of(lambda x: torch.ones(2, x.shape[-2], dtype=x.dtype) @ x),
    "right_product": _of(lambda x: x @ torch.ones(x.shape[-1], 2, dtype=x.dtype)),
    "einsum": _of(lambda x: torch.einsum("n...a,ab->n...b", x, torch.ones(x.shape[-1], 2, dtype=x.dtype))),
    "set_part": _of(_set_part),
    "time_first": _of(_time_first),
    "merged": _of(_merged),
    "cast": _of(lambda x: F.relu(x.to(torch.float64)).to(x.dtype)),
    "prelu": _of(lambda x: F.prelu(x, torch.full((1,), 0.3, dtype=x.dtype))),
    "hardswish": _of(F.hardswish),
    "mish": _of(F.mish),
    "sine": _of(torch.sin),
    "exponential": _of(lambda x: torch.exp(-x * x)),
    "threshold": _of(lambda x: F.threshold(x, 0.2, -1.0)),
    "checkpoint": _of(lambda x: torch.utils.checkpoint.checkpoint(torch.tanh, x, use_reentrant=False)),
}
"""Layers outside the grammar. A network that contains them must be computed right all the same."""

LAYERS = {**PIECEWISE_LINEAR, **SMOOTH, **FOREIGN}

KINKS: dict[str, Callable[..., tuple[float, ...]]] = {
    "relu": lambda: (0,),
    "relu_": lambda: (0,),
    "leaky_relu": lambda negative_slope=0.01: (0,),
    "hardtanh": lambda min_val=-1.0, max_val=1.0: (min_val, max_val),
    "relu6": lambda: (0, 6),
    "clamp": lambda **limits: tuple(limits.values()),
    "abs": lambda: (0,),
    "elu": lambda alpha=1.0: (0,),
    "mask": lambda: (0.1,),
    "where": lambda: (0,),
    "masked_fill": lambda: (-0.2,),
    "fraction": lambda: (0,),
    "set_part": lambda: (0,),
    "time_first": lambda: (0,),
    "merged": lambda: (0,),
    "cast": lambda: (0,),
    "prelu": lambda: (0,),
    "hardswish": lambda: (-3, 3),
    "threshold": lambda: (0.2,),
    "softplus": lambda beta=1.0, threshold=20.0: (threshold / beta,),
}
"""Positions at which a layer's derivative jumps, by its settings."""


def piece(network: Network, x: Tensor) -> list[Tensor]:
    """Return which linear piece each kinked layer is on; networks on equal pieces have comparable derivatives."""
    with torch.no_grad():
        values = network.values(x.clone())  # the first layer may write into it
    pieces = []
    for each in network.steps:
        value = values[each.sources[0]]
        if each.layer == "again":
            each = network.steps[dict(each.settings)["place"] - 1]
        settings = dict(each.settings)
        if each.layer in KINKS:
            pieces += [(value > kink).int() + (value >= kink).int() for kink in KINKS[each.layer](**settings)]
        elif each.layer == "max_pool":
            pool = F.max_pool2d if value.ndim == 4 else F.max_pool1d
            pieces.append(pool(value, return_indices=True, **settings)[1])
        elif each.layer == "adaptive_max_pool":
            pieces.append(F.adaptive_max_pool1d(value, 2, return_indices=True)[1])
        elif each.layer == "sort":
            pieces.append(value.argsort(-1))
        elif each.layer == "maximum":
            pieces.append((value > 0.4 * value.flip(-1)).int() + (value >= 0.4 * value.flip(-1)).int())
        elif each.layer == "amax":
            pieces.append(value == value.amax(-1, keepdim=True))
    return pieces
