"""Outputs whose derivative is missing, told apart from those whose derivative is zero."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pellucid.core.errors import UnsupportedOperation
from pellucid.engine.derivatives import listed, slope_or_none, unseen_changes, zero_rows
from pellucid.jacobian._problem import Problem

__all__ = ["WAY_OUT", "check_rows", "check_zeros", "no_derivative", "zero_outputs"]

WAY_OUT = 'take method="finite_difference", which differentiates what the model computes, in float64.'
"""How errors about missing derivatives end."""
MOST_NAMED = 256


def check_rows(problem: Problem, leaves: Sequence[Tensor], rows: Sequence[Tensor], wanted: Sequence[int]) -> None:
    """Raise `UnsupportedOperation` where an output changes with an input by which its row is exactly zero.

    `rows` hold (batch, output, *inputs) for each differentiated input, `leaves` all inputs of these images. Costs a
    look at a few entries of each row unless they are zero.
    """
    if problem.known_layers:  # torch's own, all of which have derivatives
        return
    for place, own in zip(problem.floats, rows, strict=True):
        is_zero = zero_rows(own, 2)
        if is_zero is not None:
            check_zeros(problem, leaves, place, is_zero, wanted)


def check_zeros(problem: Problem, leaves: Sequence[Tensor], place: int, is_zero: Tensor, wanted: Sequence[int]) -> None:
    """Raise `UnsupportedOperation` for outputs (batch, output) that change with the input at `place` unseen."""
    is_unseen = unseen_changes(_flat(problem, leaves, place, wanted), leaves[place], is_zero).any(0)
    if not bool(is_unseen.any()):
        return
    missing = [index for index, unseen in zip(wanted, is_unseen.tolist(), strict=True) if unseen]
    fine = [index for index, unseen in zip(wanted, is_unseen.tolist(), strict=True) if not unseen]
    where = f"input {place}" if len(problem.floats) > 1 else "the input"
    raise UnsupportedOperation(f"{no_derivative(missing, where)}{_others(fine)}; {WAY_OUT}")


def _flat(problem: Problem, leaves: Sequence[Tensor], place: int, wanted: Sequence[int]) -> Callable[[Tensor], Tensor]:
    """The wanted outputs (batch, output) as a function of the input at `place`."""

    def call(x: Tensor) -> Tensor:
        inputs = [x if at == place else leaf.detach() for at, leaf in enumerate(leaves)]
        return problem.call(inputs).reshape(len(x), -1)[:, list(wanted)]

    return call


def no_derivative(missing: Sequence[int], where: str = "the input") -> str:
    """The error's first part."""
    is_one = len(missing) == 1
    return (
        f"output{'' if is_one else 's'} {listed(missing)} change{'s' if is_one else ''} with {where}, but "
        f"{'has' if is_one else 'have'} no derivative: a detached value or an operation without a derivative cuts off "
        "every path, and rows of zeros would be wrong"
    )


def _others(fine: Sequence[int]) -> str:
    if not fine:
        return ""
    return (
        f". For the derivative of the others, pass outputs=[{', '.join(map(str, fine[:12]))}{', …' * (len(fine) > 12)}]"
    )


def zero_outputs(problem: Problem, leaves: Sequence[Tensor], output: Tensor) -> list[int]:
    """Indices of the flattened outputs that change with the inputs and have no derivative; for an error's text.

    Not asked of more than `MOST_NAMED` outputs, each of which costs a backward pass.
    """
    flat = output.reshape(len(output), -1)
    count, found = flat.shape[1], set[int]()
    if count > MOST_NAMED:
        return []
    for place in problem.floats:
        slopes = [slope_or_none(column.sum(), leaves[place]) for column in flat.unbind(1)]
        rows = torch.stack([torch.zeros_like(leaves[place]) if slope is None else slope for slope in slopes], 1)
        is_zero = zero_rows(rows, 2)
        if is_zero is not None:
            call = _flat(problem, leaves, place, range(count))
            found.update(unseen_changes(call, leaves[place], is_zero).any(0).nonzero().flatten().tolist())
    return sorted(found)
