"""Activation functions that the interpreters know, recognized by their values and derivatives.

A model may call `nn.GELU`, `F.gelu` or its own formula; the same values are the same function.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pellucid.engine.linear_maps import vjp

__all__ = ["FUNCTIONS", "PROBES", "recognized"]

PROBES = np.concatenate(
    [np.linspace(-8.9, 8.9, 143), [-1e4, -300.0, -30.0, -2.0, -1.0, 0.0, 1.0, 6.0, 30.0, 300.0, 1e4]]
)
"""Points at which a function is compared, among them kinks at 0 and 6, and some beyond the ends of wide clamps. The
derivative at the kinks of hard-swish, ±3, differs between versions of torch."""
TOLERANCE = 2e-5

Values = np.ndarray
Options = dict[str, Any]


def _sigmoid(x: Values) -> Values:
    return 0.5 * (1 + np.tanh(x / 2))


def _erf(x: Values) -> Values:
    return np.vectorize(math.erf, otypes=[float])(x)


def _relu(x: Values, slope: float = 0.0) -> tuple[Values, Values]:
    return np.where(x > 0, x, slope * x), np.where(x > 0, 1.0, slope)


def _clamp(x: Values, low: float | None, high: float | None, is_inclusive: bool) -> tuple[Values, Values]:
    lower, upper = -np.inf if low is None else low, np.inf if high is None else high
    inside = (x >= lower) & (x <= upper) if is_inclusive else (x > lower) & (x < upper)
    return np.clip(x, lower, upper), inside.astype(float)


def _elu(x: Values, alpha: float, scale: float, rate: float) -> tuple[Values, Values]:
    below = np.exp(rate * np.minimum(x, 0))
    return (
        np.where(x > 0, scale * x, scale * alpha * (below - 1)),
        np.where(x > 0, scale, scale * alpha * rate * below),
    )


def _gelu(x: Values) -> tuple[Values, Values]:
    share = 0.5 * (1 + _erf(x / math.sqrt(2)))
    return x * share, share + x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def _gelu_tanh(x: Values) -> tuple[Values, Values]:
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    slope = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x**2)
    tanh = np.tanh(inner)
    return 0.5 * x * (1 + tanh), 0.5 * (1 + tanh) + 0.5 * x * (1 - tanh**2) * slope


def _swish(x: Values, beta: float) -> tuple[Values, Values]:
    gate = _sigmoid(beta * x)
    return x * gate, gate + beta * x * gate * (1 - gate)


def _mish(x: Values) -> tuple[Values, Values]:
    tanh = np.tanh(np.logaddexp(0, x))
    return x * tanh, tanh + x * (1 - tanh**2) * _sigmoid(x)


def _softplus(x: Values, beta: float) -> tuple[Values, Values]:
    return np.logaddexp(0, beta * x) / beta, _sigmoid(beta * x)


def _logistic(x: Values) -> tuple[Values, Values]:
    gate = _sigmoid(x)
    return gate, gate * (1 - gate)


def _tanh(x: Values) -> tuple[Values, Values]:
    tanh = np.tanh(x)
    return tanh, 1 - tanh**2


def _hardswish(x: Values) -> tuple[Values, Values]:
    gate = np.clip(x / 6 + 0.5, 0, 1)
    return x * gate, np.where(x <= -3, 0.0, np.where(x < 3, x / 3 + 0.5, 1.0))


def _hardsigmoid(x: Values) -> tuple[Values, Values]:
    return np.clip(x / 6 + 0.5, 0, 1), np.where((x > -3) & (x < 3), 1 / 6, 0.0)


def _softsign(x: Values) -> tuple[Values, Values]:
    return x / (1 + np.abs(x)), 1 / (1 + np.abs(x)) ** 2


def _absolute(x: Values) -> tuple[Values, Values]:
    return np.abs(x), np.sign(x)


def _square(x: Values) -> tuple[Values, Values]:
    return x * x, 2 * x


FUNCTIONS: Mapping[str, Callable[..., tuple[Values, Values]]] = {
    "relu": _relu,
    "clamp": _clamp,
    "elu": _elu,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "swish": _swish,
    "mish": _mish,
    "softplus": _softplus,
    "sigmoid": _logistic,
    "tanh": _tanh,
    "hardswish": _hardswish,
    "hardsigmoid": _hardsigmoid,
    "softsign": _softsign,
    "absolute": _absolute,
    "square": _square,
}
"""Functions by name: (x, **options) to values and derivatives."""


def recognized(function: Callable[[Tensor], Tensor], like: Tensor) -> tuple[str, Options] | None:
    """Return the name and the options of an elementwise function; None if no known one has its values.

    `like` is the recorded input, whose number of axes the function may rely on.
    """
    x = torch.as_tensor(PROBES, dtype=like.dtype, device=like.device).view(-1, *(1 for _ in like.shape))
    try:
        with torch.no_grad():
            value = function(x)
            y = value.double().numpy(force=True).reshape(len(PROBES), -1)
            slope = vjp(function, x, torch.ones_like(value)).double().numpy(force=True).reshape(len(PROBES), -1)
    except RuntimeError:
        return None  # it needs several channels, as a slope per channel does
    # several columns: constants per channel were broadcast
    if y.shape[1] != 1 or not np.isfinite(y).all():
        return None
    values, slopes = y[:, 0], slope[:, 0]
    for name, options in _candidates(values):
        own = FUNCTIONS[name](PROBES, **options)
        if all(_close(*pair) for pair in zip(own, (values, slopes), strict=True)):
            return name, options
    return None


def _close(own: Values, expected: Values) -> bool:
    return bool((np.abs(own - expected) <= TOLERANCE * (1 + np.abs(expected))).all())


def _candidates(values: Values) -> list[tuple[str, Options]]:
    """Return each function with the options that fit a few of its values; `recognized` compares all of them."""

    def at(x: float) -> float:
        return float(values[int(np.argmin(np.abs(PROBES - x)))])

    found: list[tuple[str, Options]] = [(name, {}) for name in _WITHOUT_OPTIONS]
    found.append(("relu", {"slope": _rounded(-at(-1))}))
    ends = [at(-30), at(30)]
    low, high = (None if abs(end) == 30 else _rounded(end) for end in ends)
    found += [("clamp", {"low": low, "high": high, "is_inclusive": inclusive}) for inclusive in (False, True)]
    gate = at(1)
    if 0 < gate < 1:
        found.append(("swish", {"beta": _rounded(math.log(gate / (1 - gate)))}))
    if at(0) > 0:
        found.append(("softplus", {"beta": _rounded(math.log(2) / at(0))}))
    if at(-1) < 0 and 1 < at(-2) / at(-1) < 2:
        rate = -math.log(at(-2) / at(-1) - 1)
        alpha = at(-1) / (math.exp(-rate) - 1) / at(1) if at(1) else 0.0
        found.append(("elu", {"alpha": _rounded(alpha), "scale": _rounded(at(1)), "rate": _rounded(rate)}))
    return found


_WITHOUT_OPTIONS = ("gelu", "gelu_tanh", "mish", "sigmoid", "tanh", "hardswish", "hardsigmoid", "softsign",
                    "absolute", "square")  # fmt: skip


def _rounded(value: float) -> float:
    """Round to seven digits, which turns a float32 0.01 into 0.01."""
    return float(f"{value:.7g}") + 0.0  # −0 becomes 0
