"""Sums, products, quotients and contractions of values and constants, and sums, means and maxima over axes."""

from collections.abc import Callable, Sequence
from functools import partial
from string import ascii_letters
from typing import Any

import torch
from torch import Tensor

from pellucid.engine.axes import BatchMixed
from pellucid.engine.call import Call
from pellucid.engine.linear_maps import Contraction, Diagonal, FrozenMaximum, LinearFunction
from pellucid.engine.table import operation
from pellucid.engine.tape import Addition, Affine, Maximum, Product

__all__ = ["add", "divide", "einsum", "gate_among", "largest", "multiply", "reduce", "subtract"]


Number = float | int | Tensor


def _tensor(value: Number, like: Tensor) -> Tensor:
    return value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=like.dtype, device=like.device)


def _add(call: Call, first: Number, second: Number, signs: tuple[float | int, float | int]) -> Tensor:
    value: Tensor = call.run()
    terms = (_tensor(first, value), _tensor(second, value))
    return call.record(Addition, "add", value, terms, is_elementwise=True, terms=terms, z=value, signs=signs)


_each = partial(operation, family="arithmetic", is_elementwise=True)
_linear = partial(_each, keeps_image=True, is_smooth=True)


@_linear("add", keeps_softmax=True)
@_linear("__add__", "__radd__")
def add(call: Call, input: Number, other: Number, *, alpha: float | int = 1) -> Tensor:
    """Record input + alpha · other."""
    return _add(call, input, other, (1, alpha))


@_linear("sub", "subtract", "__sub__")
def subtract(call: Call, input: Number, other: Number, *, alpha: float | int = 1) -> Tensor:
    """Record input − alpha · other."""
    return _add(call, input, other, (1, -alpha))


@_linear("rsub", "__rsub__")
def subtract_from(call: Call, input: Number, other: Number, *, alpha: float | int = 1) -> Tensor:
    """Record other − alpha · input."""
    return _add(call, input, other, (-alpha, 1))


def _scale(call: Call, x: Tensor, weight: Tensor) -> Tensor:
    """Record x times a constant: a diagonal map, or one that also repeats x if the constant is larger than x."""
    value: Tensor = call.run()
    if value.shape == x.shape:
        return call.record(
            Affine, "scale", value, [x], is_elementwise=True, x=x, z=value, weight=weight, bias=None, map=Diagonal()
        )
    repeat = LinearFunction(call.replay_on(x))
    return call.record(Affine, "average", value, [x], x=x, z=value, weight=None, bias=None, map=repeat)


@_linear("mul", "multiply", "__mul__", "__rmul__")
def multiply(call: Call, input: Number, other: Number) -> Tensor:
    """Record a product with a constant, or of two values that depend on the image."""
    if not (call.depends(input) and call.depends(other)):
        x, constant = (input, other) if call.depends(input) else (other, input)
        assert isinstance(x, Tensor)
        return _scale(call, x, _tensor(constant, x))
    assert isinstance(input, Tensor)
    assert isinstance(other, Tensor)
    value: Tensor = call.run()
    gate = gate_among(call, input, other)
    return call.record(
        Product, "product", value, [input, other], is_elementwise=True,
        a=input, b=other, z=value, multiply=torch.mul, gate=gate,
    )  # fmt: skip


def gate_among(call: Call, a: Tensor, b: Tensor) -> int | None:
    """Return which factor is a gate: the output of a sigmoid, softmax or root, or the factor that is broadcast."""
    gates = [_is_gate(call, tensor) for tensor in (a, b)]
    if gates[0] != gates[1]:
        return gates.index(True)
    if a.numel() != b.numel():
        return 0 if a.numel() < b.numel() else 1
    return None


def _is_gate(call: Call, tensor: Tensor) -> bool:
    slot = call.recorder.slot(tensor)
    # newest first: after a step back through a move, only older nodes can match
    for node in reversed(call.recorder.nodes):
        if node.output == slot:
            if node.kind != "move" or len(node.inputs) != 1:
                return node.kind == "factor" or node.traits.is_gate
            slot = node.inputs[0]
    return False


@_linear("div", "divide", "true_divide", "__truediv__")
def divide(call: Call, input: Number, other: Number, *, rounding_mode: str | None = None) -> Tensor:
    """Record a quotient; a denominator that depends on the image counts as a factor that scales the numerator."""
    if rounding_mode is not None:
        call.refuse("rounds its result")
    if call.depends(other):
        return _divide(call, input, other)
    assert isinstance(input, Tensor)
    denominator = _tensor(other, input)
    if not denominator.is_floating_point():
        denominator = denominator.to(input.dtype)  # the reciprocal of an integer tensor would be float32
    return _scale(call, input, denominator.reciprocal())


def _divide(call: Call, numerator: Number, denominator: Number) -> Tensor:
    assert isinstance(denominator, Tensor)
    # a handler runs outside the function mode: entering it again records these operations instead of the quotient
    with call.recorder:
        inverse = denominator.reciprocal()
        return inverse if isinstance(numerator, (int, float)) and numerator == 1 else numerator * inverse


@_each("__rtruediv__", "__rdiv__")
def divide_constant(call: Call, input: Tensor, other: Number) -> Tensor:
    """Record a constant divided by a value that depends on the image."""
    return _divide(call, other, input)


@_linear("neg", "negative", "__neg__")
def negate(call: Call, input: Tensor) -> Tensor:
    """Record a negation."""
    return _scale(call, input, _tensor(-1.0, input))


@operation("sum", "mean", family="reduction", is_smooth=True, channels="kept")
def reduce(
    call: Call,
    input: Tensor,
    dim: int | Sequence[int] | None = None,
    keepdim: bool = False,
    **_kwargs: object,
) -> Tensor:
    """Record a sum or mean over axes."""
    value: Tensor = call.run()
    axis = _axis_after(call, input, dim, keepdim)
    function = LinearFunction(call.replay_on(input))
    return call.record(Affine, "average", value, [input], axis, x=input, z=value, weight=None, bias=None, map=function)


@operation("cumsum", "diff", family="arithmetic", is_smooth=True)
def running_sum(call: Call, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Record the sums of the first values along an axis, or the differences of neighbors."""
    if any(call.depends(value) for value in (*args, *kwargs.values())):
        call.refuse("has a second value that depends on the image")
    value: Tensor = call.run()
    named = dict(zip(("dim",) if call.name == "cumsum" else ("n", "dim"), args, strict=False)) | kwargs
    if call.recorder.batch > 1 and named.get("dim", -1) % input.ndim == call.recorder.batch_axis(input):
        raise BatchMixed
    function = LinearFunction(call.replay_on(input))
    return call.record(Affine, "average", value, [input], x=input, z=value, weight=None, bias=None, map=function)


@operation("logsumexp", family="reduction")
def log_of_sum(call: Call, input: Tensor, dim: Any, keepdim: bool = False) -> Tensor:
    """Record log Σ eˣ = Σ p x + H(p) with p = softmax(x): a mean with fixed weights, and the entropy as its bias."""
    value: Tensor = call.run()
    axis = _axis_after(call, input, dim, keepdim)
    axes = (dim,) if isinstance(dim, int) else tuple(dim) or tuple(range(input.ndim))
    wide = value if keepdim else torch.logsumexp(input, axes, True)
    weights = (input - wide).exp()
    # where p is 0, x may be −∞
    x = input.masked_fill(weights == 0, 0)
    bias = -torch.special.xlogy(weights, weights).sum(axes, keepdim)
    linear_map = FrozenMaximum(weights, axes, keepdim, input)
    return call.record(Affine, "average", value, [input], axis, x=x, z=value, weight=None, bias=bias, map=linear_map)


@operation("amax", family="reduction", channels="kept")
@operation("max", family="reduction")
def largest(call: Call, input: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Record the maximum along axes, or of all values; `max` along one axis also returns the indices."""
    if any(isinstance(value, Tensor) for value in (*args, *kwargs.values())):
        with call.recorder:
            return torch.maximum(input, *args, **kwargs)
    result = call.run()
    dim, keepdim = _dim_and_keepdim(*args, **kwargs)
    axis = _axis_after(call, input, dim, keepdim)
    pooled = tuple(range(input.ndim)) if dim in (None, ()) else (dim,) if isinstance(dim, int) else tuple(dim)
    pooled = tuple(sorted(number % input.ndim for number in pooled))
    # `amax`, and `max` of all values, return no indices
    indices = input.movedim(pooled, tuple(range(-len(pooled), 0))).flatten(-len(pooled)).argmax(-1)
    value = result if isinstance(result, Tensor) else result.values
    replay: Callable[[Tensor], Any] = call.replay_on(input)
    value = call.record(
        Maximum, "max", value, [input], axis, x=input, y=value, indices=indices.view(value.shape), pooled=pooled,
        replay=replay if isinstance(result, Tensor) else lambda x: replay(x).values,
    )  # fmt: skip
    # torch's named tuples take a single sequence
    return value if isinstance(result, Tensor) else type(result)((value, result.indices))


def _dim_and_keepdim(dim: Any = None, keepdim: bool = False) -> tuple[Any, bool]:
    return dim, keepdim


def _axis_after(call: Call, x: Tensor, dim: int | Sequence[int] | None, keepdim: bool) -> int:
    """Return the batch axis after a reduction over `dim`."""
    if call.recorder.batch == 1:
        return 0
    axis = call.recorder.batch_axis(x)
    dims = range(x.ndim) if dim is None else [dim] if isinstance(dim, int) else dim
    # an empty `dim` also reduces all axes
    dropped = {number % x.ndim for number in dims} or set(range(x.ndim))
    if axis in dropped:
        raise BatchMixed
    return axis if keepdim else axis - sum(number < axis for number in dropped)


@operation("einsum", family="arithmetic")
def einsum(call: Call, equation: Any, *operands: Any) -> Tensor:
    """Record an einsum of one or two factors."""
    factors: Sequence[Tensor] = operands[0] if isinstance(operands[0], (tuple, list)) else operands
    if not isinstance(equation, str):
        call.refuse("has no equation string", "write it with an equation, or choose a gradient method.")
    sources, target = _letters(equation, [factor.ndim for factor in factors])
    if len(factors) > 2:
        return _einsum_by_pairs(call, factors, sources, target)
    # if it keeps all letters, an einsum of one factor is a permutation
    if sorted(sources[0]) == sorted(target) and len(factors) == 1:
        with call.recorder:
            return factors[0].permute([sources[0].index(letter) for letter in target])
    axis = _batch_axis(call, factors, sources, target)
    written = f"{','.join(sources)}->{target}"

    def multiply(*moved: Tensor) -> Tensor:
        return torch.einsum(written, *moved)

    value = multiply(*factors)
    if len(factors) == 1:
        x = factors[0]
        return call.record(
            Affine, "average", value, [x], axis, x=x, z=value, weight=None, bias=None, map=LinearFunction(multiply)
        )
    a, b = factors
    is_contracting = bool(set("".join(sources)) - set(target))
    if call.depends(a) and call.depends(b):
        gate = None if is_contracting else gate_among(call, a, b)
        return call.record(Product, "product", value, [a, b], axis, a=a, b=b, z=value, multiply=multiply, gate=gate)
    x, weight = (a, b) if call.depends(a) else (b, a)
    is_second = x is b
    contraction = Contraction(lambda x, w: multiply(w, x) if is_second else multiply(x, w))
    kind = "dense" if is_contracting else "average"
    return call.record(Affine, kind, value, [x], axis, x=x, z=value, weight=weight, bias=None, map=contraction)


def _einsum_by_pairs(call: Call, factors: Sequence[Tensor], sources: Sequence[str], target: str) -> Tensor:
    """Record an einsum of more than two factors as products of two, from left to right."""
    rest = "".join(sources[2:]) + target
    kept = "".join(sorted(letter for letter in set(sources[0] + sources[1]) if letter in rest))
    with call.recorder:
        first = torch.einsum(f"{sources[0]},{sources[1]}->{kept}", *factors[:2])
        return torch.einsum(f"{','.join((kept, *sources[2:]))}->{target}", first, *factors[2:])


def _letters(equation: str, dimensions: Sequence[int]) -> tuple[list[str], str]:
    """Return the axis letters of each factor and of the result, with an ellipsis and an implicit target written out."""
    left, arrow, target = equation.replace(" ", "").partition("->")
    sources = left.split(",")
    spare = [letter for letter in ascii_letters if letter not in equation]
    widths = [
        dimension - len(source.replace("...", "")) if "..." in source else 0
        for source, dimension in zip(sources, dimensions, strict=True)
    ]
    wide = "".join(spare[: max(widths)])
    # the axes of an ellipsis broadcast, so they align on the right
    sources = [source.replace("...", wide[len(wide) - width :]) for source, width in zip(sources, widths, strict=True)]
    if not arrow:  # the implicit target: letters that occur once, in alphabetical order
        together = "".join(sources)
        target = "..." + "".join(sorted(letter for letter in set(together) - set(wide) if together.count(letter) == 1))
    return sources, target.replace("...", wide)


def _batch_axis(call: Call, factors: Sequence[Tensor], sources: Sequence[str], target: str) -> int:
    if call.recorder.batch == 1:
        return 0
    letters = {
        source[call.recorder.batch_axis(factor)]
        for factor, source in zip(factors, sources, strict=True)
        if call.depends(factor)
    }
    letter = letters.pop()
    if letters or target.count(letter) != 1:
        raise BatchMixed
    return target.index(letter)
