"""Einsum: a contraction with a constant, a product of two values that depend on the image, or a sum or permutation."""

from collections.abc import Sequence
from string import ascii_letters
from typing import Any

import torch
from torch import Tensor

from pellucid.engine.linear_maps import Contraction, LinearFunction
from pellucid.engine.operations.sums import gate_among
from pellucid.engine.recorder import BatchMixed, Call
from pellucid.engine.table import operation
from pellucid.engine.tape import Affine, Product

__all__ = ["einsum"]


@operation("einsum")
def einsum(call: Call, equation: Any, *operands: Any) -> Tensor:
    """Record an einsum of one or two factors."""
    factors: Sequence[Tensor] = operands[0] if isinstance(operands[0], (tuple, list)) else operands
    if not isinstance(equation, str) or len(factors) > 2:
        call.refuse(
            "has more than two factors or no equation string",
            "write it as einsums of an equation and two factors, or choose a gradient method.",
        )
    sources, target = _letters(equation, [factor.ndim for factor in factors])
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
