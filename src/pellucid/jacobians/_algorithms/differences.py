"""Central differences in float64, with two forward passes per input. Slow; needs no derivatives."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter

import torch
from torch import Tensor, nn

from pellucid.core.errors import UnsupportedOperation
from pellucid.engine.batch_norm import SoundNorms
from pellucid.engine.wrapping import check_hidden_norms
from pellucid.jacobians._double import DoubleModel
from pellucid.jacobians._problem import Problem, untouched

__all__ = ["STEP", "differences"]

STEP = 2.0**-20
"""Step size for inputs in [0, 1]. A power of two, so that adding it to a float32 pixel is exact in float64; small
enough that few ReLUs switch within a step, and large enough for nine digits of precision."""

WARNING_SECONDS = 1.0
"""Estimated duration in seconds above which the cost is logged as a warning rather than at level INFO."""

LARGEST_BYTES = 30_000_000
"""Maximum size of the inputs, and of the outputs, of one forward pass."""

log = logging.getLogger("pellucid.jacobian")


def differences(problem: Problem, chunk: int | None) -> tuple[tuple[Tensor, ...], int, int]:
    r"""Compute J (batch, *outputs, *inputs) for each differentiated input as \((f(x+h) - f(x-h)) / 2h\), in float64.

    Also returns the images per pass and the number of passes: two for every input of every chunk, plus two of the first
    image, which must agree and estimate the cost.
    """
    with untouched(problem.model), torch.no_grad():
        check_hidden_norms(problem.model, *(tensor[:1] for tensor in problem.inputs))
        double = _in_double(problem)
        started = perf_counter()
        first = _first(double)
        seconds = perf_counter() - started
        _check_repeatable(double, first)
        shape = first.shape[1:]
        wanted = list(double.wanted(shape.numel())) if double.indices is not None else None
        row_bytes = 8 * max(shape.numel(), double.input_count)
        size = min(double.batch, chunk or max(1, LARGEST_BYTES // row_bytes))
        passes = 2 * double.input_count * -(-double.batch // size)
        _log_cost(double, passes, seconds * 2 * double.input_count * double.batch)
        rows = tuple(_by_input(double, place, size, wanted) for place in double.floats)
    return rows, size, passes + 2


def _in_double(problem: Problem) -> Problem:
    """Convert the problem to float64, with a copy of a module. A function is used unchanged."""
    if isinstance(problem.model, nn.Module):
        copy = DoubleModel(problem.model)
        return replace(problem, model=copy, inputs=tuple(copy.prepare(tensor) for tensor in problem.inputs))
    inputs = tuple(t.double() if t.is_floating_point() else t for t in problem.inputs)
    return replace(problem, inputs=inputs)


def _first(problem: Problem) -> Tensor:
    """Return the first image's outputs. Rejects batch statistics of the image, since all images change at once."""
    image = [tensor[:1] for tensor in problem.inputs]
    with SoundNorms(problem.model) as norms:
        try:
            output = problem.call(image)
        except ValueError:  # raised by torch for batch statistics of a single row
            if not norms.saw_batch_statistics:
                raise
            output = None
    if norms.saw_batch_statistics:  # statistics of the image or of a weight: a pass with gradients raises for the image
        with torch.enable_grad():
            graph = problem.call([leaf.requires_grad_() if leaf.is_floating_point() else leaf for leaf in image])
        output = graph.detach() if output is None else output
    assert output is not None
    return output


def _check_repeatable(problem: Problem, first: Tensor) -> None:
    """Raise `UnsupportedOperation` if another pass of the first image gives other outputs than `first`."""
    again = problem.call([tensor[:1] for tensor in problem.inputs])
    if not torch.allclose(first, again, rtol=1e-9, atol=1e-12, equal_nan=True):
        raise UnsupportedOperation(
            "the model returns different outputs each time it is run in eval mode, so their differences are noise; "
            "make it deterministic in eval mode."
        )


def _log_cost(problem: Problem, passes: int, seconds: float) -> None:
    """Log the cost in advance. The time is an upper bound, because batched images take less than single ones."""
    log.log(
        logging.WARNING if seconds > WARNING_SECONDS else logging.INFO,
        "finite differences: %s forward passes in float64 (2 x %s inputs) for %s images, at most about %.1f s. "
        'method="auto" needs only a few.',
        *(f"{passes:,}", f"{problem.input_count:,}", f"{problem.batch:,}"),
        seconds,
    )


def _by_input(problem: Problem, place: int, size: int, wanted: list[int] | None) -> Tensor:
    """Return J with respect to input number `place`: (batch, *outputs, *inputs)."""
    parts = [_slopes(problem, place, start, start + size, wanted) for start in range(0, problem.batch, size)]
    slopes, shape = torch.cat(parts).movedim(1, -1), problem.inputs[place].shape[1:]  # (batch, *outputs, input)
    return slopes.unflatten(-1, shape) if shape else slopes.squeeze(-1)


def _slopes(problem: Problem, place: int, start: int, stop: int, wanted: list[int] | None) -> Tensor:
    """Return central differences of a chunk of images along each value of one input."""
    inputs = [tensor[start:stop] for tensor in problem.inputs]
    slopes = []
    for index in range(inputs[place][0].numel()):
        step = torch.zeros_like(inputs[place]).flatten(1)
        # in all images at once, because they do not affect each other
        step[:, index] = STEP
        step = step.view_as(inputs[place])
        right, left = (problem.call(_perturbed(inputs, place, change)) for change in (step, -step))
        slope = (right - left) / (2 * STEP)
        slopes.append(slope if wanted is None else slope.flatten(1)[:, wanted])
    return torch.stack(slopes, 1)


def _perturbed(inputs: Sequence[Tensor], place: int, change: Tensor) -> list[Tensor]:
    return [tensor + change if at == place else tensor for at, tensor in enumerate(inputs)]
