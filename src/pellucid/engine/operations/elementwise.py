"""Activations: functions of each element by itself."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pellucid.engine.recorder import Call
from pellucid.engine.table import OPERATIONS, Entry, operation
from pellucid.engine.tape import Activation

__all__ = ["register_elementwise"]

_RECTIFIERS = ("relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "hardswish")
_OTHERS = ("tanh", "softsign", "tanhshrink", "hardshrink", "softshrink", "abs", "absolute", "square", "erf", "sin",
           "atan", "arctan", "expm1", "asinh", "sinh", "__abs__")  # fmt: skip
_SHIFTED = ("sigmoid", "hardsigmoid", "softplus", "logsigmoid", "hardtanh", "clamp", "clip", "clamp_min", "clamp_max",
            "expit", "threshold", "sigmoid_")  # fmt: skip


def _activate(call: Call, input: Tensor, at_zero: float | int, is_rectifier: bool) -> Tensor:
    value: Tensor = call.run()
    return call.record(
        Activation, "activation", value, [input],
        x=input, y=value, replay=call.replay_on(input), at_zero=at_zero, is_rectifier=is_rectifier,
    )  # fmt: skip


def _only_first_depends(call: Call, others: tuple[object, ...]) -> None:
    if any(call.depends(value) for value in (*others, *call.kwargs.values())):
        call.refuse("has a second argument that depends on the image")


@operation(*_RECTIFIERS)
def rectifier(call: Call, input: Tensor, *others: object, **_kwargs: object) -> Tensor:
    """ReLU and its relatives, which are 0 at 0."""
    _only_first_depends(call, others)
    return _activate(call, input, 0.0, is_rectifier=True)


@operation(*_OTHERS)
def bounded_by_its_input(call: Call, input: Tensor, *others: object, **_kwargs: object) -> Tensor:
    """Functions with f(0) = 0 and f(x)/x bounded."""
    _only_first_depends(call, others)
    return _activate(call, input, 0.0, is_rectifier=False)


@operation(*_SHIFTED)
def shifted(call: Call, input: Tensor, *others: object, **_kwargs: object) -> Tensor:
    """Functions with f(0) ≠ 0: what they are at 0 is absorbed."""
    _only_first_depends(call, others)
    at_zero = call.replay_on(input)(input.new_zeros(1))
    if at_zero.numel() != 1:
        call.refuse("has bounds that differ between elements")
    is_rectifier = call.name == "softplus" or (at_zero == 0 and call.replay_on(input)(-torch.ones_like(at_zero)) == 0)
    return _activate(call, input, float(at_zero), bool(is_rectifier))


@operation("sqrt", "rsqrt", "reciprocal", "exp")
def factor(call: Call, input: Tensor) -> Tensor:
    """What is not bounded by its input near 0: it may scale another value, and no relevance rule is for it."""
    return _factor(call, input)


def _factor(call: Call, input: Tensor) -> Tensor:
    return call.record(
        Activation, "factor", value := call.run(), [input],
        x=input, y=value, replay=call.replay_on(input), at_zero=math.nan, is_rectifier=False,
    )  # fmt: skip


@operation("prelu")
def prelu(call: Call, input: Tensor, weight: Tensor) -> Tensor:
    """A leaky ReLU with a learned slope per channel."""
    _only_first_depends(call, (weight,))
    return _activate(call, input, 0.0, is_rectifier=True)


@operation("rrelu")
def rrelu(call: Call, input: Tensor, *_args: object, training: bool = False, **_kwargs: object) -> Tensor:
    """A leaky ReLU whose slope is random in training."""
    if training:
        call.refuse("draws random slopes")
    return _activate(call, input, 0.0, is_rectifier=True)


@operation("pow", "__pow__", "float_power")
def power(call: Call, input: Tensor, exponent: float | int | Tensor) -> Tensor:
    """X to a constant power; one below 1 may only scale another value."""
    if not call.depends(input) or call.depends(exponent):
        call.refuse("has an exponent that depends on the image")
    if isinstance(exponent, Tensor):
        if exponent.numel() != 1:
            call.refuse("has more than one exponent")
        exponent = float(exponent)
    if not math.isfinite(exponent):
        call.refuse(f"has the exponent {exponent}")
    if exponent < 1:
        return _factor(call, input)
    return _activate(call, input, 0.0, is_rectifier=False)


def register_elementwise(function: Callable[..., Tensor], *, is_rectifier: bool = False) -> None:
    """Let the engine follow one more function of each element by itself, at every place it is called.

    `function` is what the model calls, such as `torch.special.bessel_j1` (any function that torch sends through
    `__torch_function__`). f(0) is measured; f(x)/x must be bounded where f(0) is 0. `is_rectifier` lets Guided
    Backprop and Deconvnet treat it as they treat ReLU.

    >>> register_elementwise(torch.special.bessel_j1)
    """

    def handler(call: Call, input: Tensor, *others: object, **_kwargs: object) -> Tensor:
        _only_first_depends(call, others)
        at_zero = float(call.replay_on(input)(torch.zeros(1, dtype=input.dtype, device=input.device)))
        return _activate(call, input, at_zero, is_rectifier)

    OPERATIONS.enter(function, Entry(getattr(function, "__name__", repr(function)), handler))
