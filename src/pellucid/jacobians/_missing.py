"""Detection of outputs whose derivative is missing rather than zero."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pellucid.core.errors import UnsupportedOperation
from pellucid.engine.derivatives import listed, slope_or_none, unseen_changes, zero_rows
from pellucid.jacobians._problem import Problem

__all__ = ["WAY_OUT", "check_rows", "check_zeros", "no_derivative", "zero_outputs"]

WAY_OUT = 'use method="finite_difference", which needs only forward passes, in float64.'
"""Advice at the end of errors about missing derivatives."""
MOST_NAMED = 256
"""Maximum number of outputs to check one by one for an error message, since each costs a backward pass."""


def check_rows(problem: Problem, leaves: Sequence[Tensor], rows: Sequence[Tensor], wanted: Sequence[int]) -> None:
    """Raise `UnsupportedOperation` if an output changes with an input although its row for that input is exactly zero.

    `rows` contains (batch, output, *inputs) for each differentiated input; `leaves` are all inputs of these images.
    Cheap unless rows are zero: otherwise only a few entries of each are read.
    """
    if problem.known_layers:  # these layers of torch all have derivatives
        return
    for place, row in zip(problem.floats, rows, strict=True):
        is_zero = zero_rows(row, 2)
        if is_zero is not None:
            check_zeros(problem, leaves, place, is_zero, wanted)


def check_zeros(problem: Problem, leaves: Sequence[Tensor], place: int, is_zero: Tensor, wanted: Sequence[int]) -> None:
    """Raise `UnsupportedOperation` if outputs with zero rows change with input number `place`.

    `is_zero` marks the zero rows (batch, output).
    """
    is_unseen = unseen_changes(_flat(problem, leaves, place, wanted), leaves[place], is_zero).any(0)
    if not bool(is_unseen.any()):
        return
    missing = [index for index, unseen in zip(wanted, is_unseen.tolist(), strict=True) if unseen]
    differentiable = [index for index, unseen in zip(wanted, is_unseen.tolist(), strict=True) if not unseen]
    where = f"input {place}" if len(problem.floats) > 1 else "the input"
    raise UnsupportedOperation(f"{no_derivative(missing, where)}{_others(differentiable)}; {WAY_OUT}")


def _flat(problem: Problem, leaves: Sequence[Tensor], place: int, wanted: Sequence[int]) -> Callable[[Tensor], Tensor]:
    """Return the wanted outputs (batch, output) as a function of input number `place` alone."""

    def call(x: Tensor) -> Tensor:
        inputs = [x if at == place else leaf.detach() for at, leaf in enumerate(leaves)]
        return problem.call(inputs).reshape(len(x), -1)[:, list(wanted)]

    return call


def no_derivative(missing: Sequence[int], where: str = "the input") -> str:
    """Return the first part of the error message for outputs without a derivative."""
    is_one = len(missing) == 1
    return (
        f"output{'' if is_one else 's'} {listed(missing)} change{'s' if is_one else ''} with {where}, but "
        f"{'has' if is_one else 'have'} no derivative: a detached value or an operation without a derivative cuts off "
        "every path, so rows of zeros would be wrong"
    )


def _others(differentiable: Sequence[int]) -> str:
    """Return the part of the message that lists outputs with a derivative, if any."""
    if not differentiable:
        return ""
    indices = ", ".join(map(str, differentiable[:12])) + ", …" * (len(differentiable) > 12)
    return f". To differentiate only the others, pass outputs=[{indices}]"


def zero_outputs(problem: Problem, leaves: Sequence[Tensor], output: Tensor) -> list[int]:
    """Return the indices of flattened outputs that change with the inputs but have no derivative, for error messages.

    Returns an empty list for more than `MOST_NAMED` outputs.
    """
    flat = output.reshape(len(output), -1)
    count, indices = flat.shape[1], set[int]()
    if count > MOST_NAMED:
        return []
    for place in problem.floats:
        slopes = [slope_or_none(column.sum(), leaves[place]) for column in flat.unbind(1)]
        # None (no path) counts as zero here, since `unseen_changes` tells missing from zero
        rows = torch.stack([torch.zeros_like(leaves[place]) if slope is None else slope for slope in slopes], 1)
        is_zero = zero_rows(rows, 2)
        if is_zero is not None:
            call = _flat(problem, leaves, place, range(count))
            indices.update(unseen_changes(call, leaves[place], is_zero).any(0).nonzero().flatten().tolist())
    return sorted(indices)
