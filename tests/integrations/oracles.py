"""Independent values for explanations: differences of forward passes, hooks, and masking by hand.

Nothing here uses pellucid. A function `f` maps inputs (batch, …) to one number or row per input, in float64.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Function = Callable[[Tensor], Tensor]

STEPS = (1e-7, 1e-8, 1e-6, 1e-9, 1e-5, 1e-4, 1e-3, 1e-2)
"""Steps of differences. One that crosses a kink is off, and so is one that drowns in rounding: a right derivative
agrees with the difference at some step, on one side or both, and a wrong one at none, up to coincidence."""


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Inner product per image, (batch,)."""
    return (a * b).flatten(1).sum(1)


class Differences:
    """Differences of f, a function of inputs (batch, …) to rows (batch, output), in one random direction."""

    def __init__(self, f: Function, x: Tensor) -> None:
        self._f, self._x = f, x
        generator = torch.Generator().manual_seed(5)
        self.direction = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        self._kept: dict[tuple[float, float], Tensor] = {}
        """Outputs at scale · x + step · direction."""

    def _slopes(self, step: float, scale: float, along: Tensor) -> list[Tensor]:
        """Slopes at scale · x along a direction, (batch, output): central, and on either side."""
        for signed in (0, step, -step):
            if (signed, scale) not in self._kept:
                self._kept[signed, scale] = self._f(scale * self._x + signed * along)
        below, here, above = (self._kept[signed, scale] for signed in (-step, 0, step))
        return [(above - below) / (2 * step), (above - here) / step, (here - below) / step]

    def error(self, gradient: Tensor, output: int, enough: float) -> float:
        """Error of the gradient of an output along the direction, relative to the gradient's length.

        Stops at the first step that agrees within `enough`.
        """
        slopes = (slope[:, output] for step in STEPS for slope in self._slopes(step, 1.0, self.direction))
        return _smallest(slopes, inner(gradient, self.direction), gradient, enough)

    def path_error(self, relevance: Tensor, output: int, steps: int, enough: float) -> float:
        """Error of integrated gradients from zero, by differences at the nodes of the path.

        For any v, ⟨R, v⟩ = Σ wₖ ∂f(aₖ x)/∂u with u = x ⊙ v.
        """
        nodes, weights = np.polynomial.legendre.leggauss(steps)
        along = self._x * self.direction

        def integrals(step: float) -> list[Tensor]:
            sides = zip(*(self._slopes(step, (float(node) + 1) / 2, along) for node in nodes), strict=True)
            return [
                sum(float(weight) / 2 * slope[:, output] for weight, slope in zip(weights, side, strict=True))
                for side in sides
            ]

        claimed = inner(relevance, self.direction)
        return _smallest((value for step in STEPS[:5] for value in integrals(step)), claimed, relevance, enough)


def _smallest(values: Iterable[Tensor], claimed: Tensor, map_: Tensor, enough: float) -> float:
    """Distance of the claimed numbers, (batch,), to the nearest of the values, relative to the length of the map."""
    best, size = torch.full_like(claimed, torch.inf), map_.flatten(1).norm(dim=1).clamp(min=1e-300)
    for value in values:
        best = torch.minimum(best, ((value - claimed).abs() / size).nan_to_num(torch.inf))
        if float(best.max()) <= enough:
            break
    return float(best.max())


class _PlainNorms(TorchFunctionMode):
    """Writes batch norms as products and sums, since torch differentiates some memory layouts wrongly on the CPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (_batch_norm if func is F.batch_norm else func)(*args, **(kwargs or {}))


def _batch_norm(
    x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor | None = None, bias: Tensor | None = None,
    training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    if training or mean is None:
        return F.batch_norm(x, mean, variance, weight, bias, training, momentum, eps)
    scale = (variance + eps).rsqrt() * (1 if weight is None else weight)
    shift = (0 if bias is None else bias) - mean * scale
    wide = (-1, *(1 for _ in x.shape[2:]))
    return x * scale.view(wide) + shift.view(wide)


def autograd(f: Function, x: Tensor) -> Tensor:
    """Gradient of the sum of f by autograd."""
    leaf = x.detach().clone().requires_grad_()
    with torch.enable_grad(), _PlainNorms():
        return torch.autograd.grad(f(leaf).sum(), leaf)[0]


class FloatWatch(TorchFunctionMode):
    """Notes whether any function returns float32."""

    def __init__(self) -> None:
        super().__init__()
        self.has_single = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        value = func(*args, **(kwargs or {}))
        if isinstance(value, Tensor) and value.dtype == torch.float32 and value.ndim > 1:
            self.has_single = True
        return value


class Embedded(TorchFunctionMode):
    """Looks up given embeddings, (batch, token, feature), in place of those of the token ids, (batch, token)."""

    def __init__(self, weight: Tensor, ids: Tensor, embeddings: Tensor) -> None:
        super().__init__()
        self._weight, self._ids, self._embeddings = weight, ids, embeddings

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.embedding and args[1].data_ptr() == self._weight.data_ptr():
            if args[0].shape == self._ids.shape and torch.equal(args[0], self._ids):
                return self._embeddings
            if torch.equal(args[0].T, self._ids):  # XLNet puts the tokens first
                return self._embeddings.transpose(0, 1)
            if torch.equal(args[0][:, 1:], self._ids[:, :-1]):  # decoders start with a token of their own
                start = func(args[0][:, :1], *args[1:], **(kwargs or {}))
                return torch.cat([start, self._embeddings[:, :-1]], 1)
        return func(*args, **(kwargs or {}))


# ── Guided Backprop ──────────────────────────────────────────────────────────────────────────────────────────────────

RECTIFIERS = {"relu", "relu6", "leaky_relu", "prelu", "elu", "selu", "celu", "gelu", "silu", "mish", "hardswish",
              "softplus", "rrelu"}  # fmt: skip
"""Functions of torch through which only positive signals pass."""
RECTIFIER_MODULES = {"QuickGELUActivation", "NewGELUActivation", "FastGELUActivation", "PytorchGELUTanh", "GELUTanh",
                     "BloomGelu", "QuickGELU", "HardSwish", "HardSwishMe", "HardMish", "Swish", "Mish", "StarReLU",
                     "AccurateGELUActivation", "GELUActivation"}  # fmt: skip
"""Modules that write a rectifier as several operations."""


class _Positive(torch.autograd.Function):
    """The identity, with a backward pass that keeps positive signals only."""

    @staticmethod
    def forward(context: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(context: Any, signal: Tensor) -> Tensor:
        return signal.clamp(min=0)


class _Guide(TorchFunctionMode):
    """Blocks negative signals behind every rectifier."""

    def __init__(self) -> None:
        super().__init__()
        self.depth = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", "")
        plain = name.rstrip("_")
        if self.depth or plain not in RECTIFIERS or not args[0].requires_grad:
            if (
                name in ("clamp", "clamp_min", "clamp_", "maximum", "hardtanh")
                and not self.depth
                and _clips(name, args, kwargs)
            ):
                return _Positive.apply(func(*args, **kwargs))
            return func(*args, **kwargs)
        is_in_place = bool(kwargs.pop("inplace", False)) or name.endswith("_")
        out_of_place = getattr(F, plain, None) or getattr(torch, plain)
        if name in ("hardswish", "silu", "mish", "relu", "relu6", "leaky_relu", "elu", "selu", "celu"):
            args = args[:1] if name in ("hardswish", "silu", "mish", "relu", "relu6") else args
        value = _Positive.apply(out_of_place(args[0].clone() if is_in_place else args[0], *args[1:], **kwargs))
        return args[0].copy_(value) if is_in_place else value  # whoever holds the tensor must see the new value


def _clips(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """True if a clamp is a ReLU up to an upper limit."""
    if not (isinstance(args[0], Tensor) and args[0].requires_grad):
        return False
    bounds = [value for value in (*args[1:], *kwargs.values()) if not isinstance(value, bool)]
    low = kwargs.get("min", kwargs.get("min_val", bounds[0] if bounds else None))
    return isinstance(low, (int, float)) and low == 0


@contextmanager
def guided(model: nn.Module) -> Iterator[None]:
    """Make autograd compute Guided Backprop for the model."""
    guide, handles = _Guide(), []

    def enter(_module: nn.Module, _inputs: Any) -> None:
        guide.depth += 1

    def leave(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        guide.depth -= 1
        return _Positive.apply(output)

    for module in model.modules():
        if type(module).__name__ in RECTIFIER_MODULES:
            handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        with guide:
            yield
    finally:
        for handle in handles:
            handle.remove()


# ── Grad-CAM ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Outputs(TorchFunctionMode):
    """Keeps the results of all calls of one function that have a gradient."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.seen = name, list[Tensor]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        value = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") == self.name and isinstance(value, Tensor) and value.requires_grad:
            self.seen.append(value.clone())
            return self.seen[-1].clone()  # later operations may work in place
        return value


def cam_error(f: Function, x: Tensor, operation: str, shape: tuple[int, ...], claimed: Tensor) -> float:
    """Error of a Grad-CAM map before ReLU and interpolation, for the best output of `operation` with this shape.

    `shape` is (channel, …) without the batch. The output may have its channels last, or be a sequence of tokens that
    ends with one for each position.
    """
    leaf = x.detach().clone().requires_grad_()
    with torch.enable_grad(), _PlainNorms(), _Outputs(operation) as outputs:
        score = f(leaf).sum()
    best = float("inf")
    for values in reversed(outputs.seen):
        slope = torch.autograd.grad(score, values, retain_graph=True, allow_unused=True)[0]
        for arrange in _arrangements(values, shape) if slope is not None else ():
            maps, weight = arrange(values), arrange(slope).flatten(2).mean(2)
            own = torch.einsum("nk,nk...->n...", weight, maps).detach()
            best = min(best, relative(claimed, own))
    return best


def _arrangements(values: Tensor, shape: tuple[int, ...]) -> Iterator[Function]:
    """Yield the ways to read an output as maps, (batch, channel, …)."""
    channels, *grid = shape
    for axis in {1, values.ndim - 1}:
        if tuple(values.movedim(axis, 1).shape[1:]) == shape:
            yield lambda value, axis=axis: value.movedim(axis, 1)
    places = math.prod(grid)
    if values.ndim == 3 and values.shape[2] == channels and values.shape[1] >= places:
        yield lambda value: value[:, -places:].transpose(1, 2).unflatten(2, grid)
    if values.ndim == 3 and values.shape[1] == channels and values.shape[2] >= places:
        yield lambda value: value[:, :, -places:].unflatten(2, grid)


# ── Occlusion ────────────────────────────────────────────────────────────────────────────────────────────────────────


def occluded(f: Function, x: Tensor, window: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Mean drop of f over all windows of zeros that cover each pixel; sizes are given for each spatial axis."""
    total, count, before = torch.zeros_like(x), torch.zeros_like(x), f(x)
    starts = [_starts(*sizes) for sizes in zip(x.shape[2:], window, stride, strict=True)]
    for corner in product(*starts):
        place = (slice(None), slice(None), *(slice(at, at + size) for at, size in zip(corner, window, strict=True)))
        hidden = x.clone()
        hidden[place] = 0
        total[place] += (before - f(hidden)).view(-1, *(1 for _ in x.shape[1:]))
        count[place] += 1
    return total / count


def _starts(side: int, window: int, stride: int) -> list[int]:
    starts = [0]
    while starts[-1] + window < side:
        starts.append(starts[-1] + stride)
    return starts


def relative(ours: Tensor, theirs: Tensor) -> float:
    """Largest distance of two maps of an image, relative to the length of the second."""
    distance = (ours - theirs).double().flatten(1).norm(dim=1)
    return float((distance / theirs.double().flatten(1).norm(dim=1).clamp(min=1e-300)).nan_to_num(torch.inf).max())
