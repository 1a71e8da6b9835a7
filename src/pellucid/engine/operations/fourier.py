"""Fourier transforms, and the few operations on complex numbers that networks use between them.

A transform is a linear map. The relevance of a complex value has one more axis, for the real and the imaginary part, as
in `torch.view_as_real`; so all rules apply to real numbers. Operations on complex numbers that are not here are refused.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from pellucid.engine.axes import BatchMixed
from pellucid.engine.call import Call
from pellucid.engine.linear_maps import LinearFunction
from pellucid.engine.table import operation
from pellucid.engine.tape import Affine, Move

__all__ = ["fourier", "part", "parts"]

_LAST = ("fft", "ifft", "rfft", "irfft", "hfft", "ihfft")
_ALL = ("fftn", "ifftn", "rfftn", "irfftn")
_TWO = ("fft2", "ifft2", "rfft2", "irfft2")
_complex = partial(operation, takes_complex=True)


def parts(value: Tensor) -> Tensor:
    """Return a complex tensor as real numbers, with real and imaginary part along a last axis; others unchanged."""
    return torch.view_as_real(value) if value.is_complex() else value


@_complex(*(getattr(torch.fft, name) for name in (*_LAST, *_ALL, *_TWO)))
def fourier(call: Call, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Record a discrete Fourier transform or its inverse."""
    name = call.name.removeprefix("fft_")  # as torch calls them
    value, axis = call.run(), call.recorder.batch_axis(input)
    everywhere: Any = range(input.ndim)
    dims = kwargs.get("dim", args[1] if len(args) > 1 else None)
    if dims is None:
        dims = -1 if name in _LAST else (-2, -1) if name in _TWO else everywhere
    if call.recorder.batch > 1 and axis in {dim % input.ndim for dim in ([dims] if isinstance(dims, int) else dims)}:
        raise BatchMixed
    is_complex, replay = input.is_complex(), call.replay_on(input)

    def transformed(x: Tensor) -> Tensor:
        return parts(replay(torch.view_as_complex(x.contiguous()) if is_complex else x))

    function = LinearFunction(transformed)
    x, z = parts(input), parts(value)
    return call.record(Affine, "average", value, [input], axis, x=x, z=z, weight=None, bias=None, map=function)


@_complex("real", "imag", "Tensor.real.__get__", "Tensor.imag.__get__")
def part(call: Call, input: Tensor) -> Tensor:
    """Record the real or the imaginary part."""
    if not input.is_complex():
        return input
    place = 0 if call.name == "real" else 1
    value = torch.view_as_real(input)[..., place]

    def pull(relevance: Tensor) -> list[Tensor]:
        zero = torch.zeros_like(relevance)
        return [torch.stack([relevance, zero] if place == 0 else [zero, relevance], -1)]

    return call.record(Move, "move", value, [input], call.recorder.batch_axis(input), pull=pull)


@_complex("view_as_real", "view_as_complex", "resolve_conj")
def same_numbers(call: Call, input: Tensor) -> Tensor:
    """Record the change between a complex value and its two parts."""
    return call.record(Move, "move", call.run(), [input], call.recorder.batch_axis(input), pull=lambda r: [r])


@_complex("complex")
def from_parts(call: Call, real: Tensor, imag: Tensor) -> Tensor:
    """Record a complex value built from its real and its imaginary part."""
    with call.recorder:
        return torch.view_as_complex(torch.stack(torch.broadcast_tensors(real, imag), -1))


@operation("complex::abs", "complex::absolute")
def magnitude(call: Call, input: Tensor) -> Tensor:
    """Record the magnitude of a complex value."""
    with call.recorder:
        return torch.view_as_real(input).square().sum(-1).sqrt()


@operation("complex::mul", "complex::multiply", "complex::__mul__", "complex::__rmul__")
def product(call: Call, input: Any, other: Any) -> Tensor:
    """Record a product of complex or real factors from the products of their parts."""
    with call.recorder:
        (a, b), (c, d) = _pair(input), _pair(other)
        real, imaginary = a * c, a * d if d is not None else None
        if b is not None:
            imaginary = b * c if imaginary is None else imaginary + b * c
            real = real if d is None else real - b * d
        return torch.complex(real, imaginary)


@operation("complex::add", "complex::__add__", "complex::__radd__")
def total(call: Call, input: Any, other: Any, *, alpha: float = 1) -> Tensor:
    """Record a sum of complex values."""
    if alpha != 1 or not all(isinstance(value, Tensor) and value.is_complex() for value in (input, other)):
        call.refuse("adds a real number to complex ones")
    with call.recorder:
        return torch.view_as_complex(torch.view_as_real(input) + torch.view_as_real(other))


def _pair(value: Any) -> tuple[Any, Any]:
    """Return the real and the imaginary part; None for the imaginary part of a real value."""
    if isinstance(value, Tensor) and value.is_complex():
        numbers = torch.view_as_real(value)
        return numbers[..., 0], numbers[..., 1]
    return (value.real, value.imag) if isinstance(value, complex) else (value, None)
