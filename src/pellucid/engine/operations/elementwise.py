"""Activations: elementwise functions."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from pellucid.engine.call import Call
from pellucid.engine.canonical import one_number
from pellucid.engine.operations.composed import extreme
from pellucid.engine.table import OPERATIONS, Entry, Traits, operation
from pellucid.engine.tape import Activation

__all__ = ["register_elementwise"]


def _activate(
    call: Call, input: Tensor, at_zero: float | int | Tensor, is_rectifier: bool, *, is_uniform: bool = True
) -> Tensor:
    """Record an activation; `is_uniform` is False if the function differs between channels."""
    value: Tensor = call.run()
    return call.record(
        Activation, "activation", value, [input], is_elementwise=is_uniform,
        x=input, y=value, replay=call.replay_on(input), at_zero=at_zero, is_rectifier=is_rectifier,
    )  # fmt: skip


def _only_first_depends(call: Call, others: tuple[object, ...]) -> None:
    if any(call.depends(value) for value in (*others, *call.kwargs.values())):
        call.refuse("has a second argument that depends on the image")


_activation = partial(operation, family="activation", is_elementwise=True)
_smooth = partial(_activation, is_smooth=True)
_clamp = partial(_activation, keeps_softmax=True)


@_smooth("relu", "leaky_relu", "elu", "gelu", "silu")
@_activation("relu6", "selu", "celu", "mish", "hardswish")
def rectifier(call: Call, input: Tensor, *others: object, **_kwargs: object) -> Tensor:
    """Record ReLU or a relative of it, which is 0 at 0."""
    _only_first_depends(call, others)
    return _activate(call, input, 0.0, is_rectifier=True)


@_smooth("tanh", is_gate=True)
@_activation("softsign", "tanhshrink", "hardshrink", "softshrink", "abs", "absolute", "__abs__", "square", "erf", "sin")
@_activation("atan", "arctan", "expm1", "asinh", "sinh", "arcsinh", "erfinv", "tan", "asin", "arcsin", "atanh",
             "arctanh", "deg2rad", "rad2deg")  # fmt: skip
def bounded_by_its_input(call: Call, input: Tensor, *others: object, **_kwargs: object) -> Tensor:
    """Record a function with f(0) = 0 and f(x)/x bounded."""
    _only_first_depends(call, others)
    return _activate(call, input, 0.0, is_rectifier=False)


@_smooth("sigmoid", is_gate=True)
@_smooth("softplus", "threshold")
@_activation("expit", "hardsigmoid", is_gate=True)
@_activation("logsigmoid", "hardtanh", "cos", "cosh", "erfc", "acos", "arccos", "sinc")
@_clamp("clamp", "clip", "clamp_min", "clamp_max")
def shifted(call: Call, input: Tensor, *others: object, **_kwargs: object) -> Tensor:
    """Record a function with f(0) ≠ 0, whose value at 0 is absorbed."""
    _only_first_depends(call, others)
    at_zero = call.replay_on(input)(input.new_zeros(1))
    at_minus_one = call.replay_on(input)(-input.new_ones(1))
    # clamp and its relatives are rectifiers if they clip at 0, as clamp(min=0) does
    is_rectifier = call.name == "softplus" or bool(((at_zero == 0) & (at_minus_one == 0)).all())
    return _activate(call, input, one_number(at_zero), is_rectifier)


_FACTORS = {"sqrt": 0.0, "rsqrt": math.nan, "reciprocal": math.nan, "exp": 1.0, "exp2": 1.0, "log": math.nan,
            "log2": math.nan, "log10": math.nan, "log1p": 0.0}  # fmt: skip
"""Functions that usually scale another value, with f(0); NaN if undefined at 0."""


@_smooth(*_FACTORS)
def factor(call: Call, input: Tensor) -> Tensor:
    """Record a function that is not bounded by its input. Relevance passes through it only if f(0) is defined."""
    return _factor(call, input, _FACTORS[call.name.rstrip("_")])  # without the underscore of in-place forms


def _factor(call: Call, input: Tensor, at_zero: float) -> Tensor:
    return call.record(
        Activation, "factor", value := call.run(), [input], is_elementwise=True,
        x=input, y=value, replay=call.replay_on(input), at_zero=at_zero, is_rectifier=False,
    )  # fmt: skip


@_activation("maximum", "minimum", "fmax", "fmin")
def bound(call: Call, input: Tensor, other: Tensor) -> Tensor:
    """Record the larger or smaller of a value and a constant."""
    x, constant = (input, other) if call.depends(input) else (other, input)
    if call.depends(constant):
        return extreme(call, input, other)
    at_zero = call.replay_on(x)(x.new_zeros(1))
    is_rectifier = call.name.rstrip("_") in ("maximum", "fmax") and bool((at_zero == 0).all())
    return _activate(call, x, one_number(at_zero), is_rectifier)


@_activation("prelu")
def prelu(call: Call, input: Tensor, weight: Tensor) -> Tensor:
    """Record a leaky ReLU with a learned slope per channel."""
    _only_first_depends(call, (weight,))
    return _activate(call, input, 0.0, is_rectifier=True, is_uniform=weight.numel() == 1)


@_activation("rrelu")
def rrelu(call: Call, input: Tensor, *_args: object, training: bool = False, **_kwargs: object) -> Tensor:
    """Record a leaky ReLU whose slope is random during training."""
    if training:
        call.refuse("draws random slopes in eval mode")
    return _activate(call, input, 0.0, is_rectifier=True)


@_activation("pow", "__pow__", "float_power")
def power(call: Call, input: Tensor, exponent: float | int | Tensor) -> Tensor:
    """Record x to a constant power; with an exponent below 1, it may only scale another value."""
    if not call.depends(input) or call.depends(exponent):
        call.refuse("has an exponent that depends on the image")
    if isinstance(exponent, Tensor):
        if exponent.numel() != 1:
            call.refuse("has more than one exponent")
        exponent = float(exponent)
    if not math.isfinite(exponent):
        call.refuse(f"has the exponent {exponent}")
    if exponent < 1:  # f(x)/x is unbounded near 0
        return _factor(call, input, 0.0 if exponent > 0 else math.nan)
    return _activate(call, input, 0.0, is_rectifier=False)


def register_elementwise(function: Callable[..., Tensor], *, is_rectifier: bool = False) -> None:
    """Register an elementwise function, so that the engine can propagate relevance through it.

    `function` is what the model calls, such as `torch.special.bessel_j1` (any function that torch dispatches to
    `__torch_function__`). f(0) is evaluated automatically; if f(0) is 0, f(x)/x must be bounded. `is_rectifier` makes
    Guided Backprop and Deconvnet treat it like ReLU.

    >>> register_elementwise(torch.special.bessel_j1)
    """

    def handler(call: Call, input: Tensor, *others: object, **_kwargs: object) -> Tensor:
        _only_first_depends(call, others)
        at_zero = float(call.replay_on(input)(torch.zeros(1, dtype=input.dtype, device=input.device)))
        return _activate(call, input, at_zero, is_rectifier)

    traits = Traits(family="activation", is_elementwise=True)
    OPERATIONS.enter(function, Entry(getattr(function, "__name__", repr(function)), handler, traits=traits))
