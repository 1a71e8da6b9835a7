"""Every output by every input, of any model or function, at the cost of a few predictions."""

from contextlib import nullcontext
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from pellucid.core.errors import ShapeError, UnknownName, UnsupportedOperation
from pellucid.core.showing import Shown
from pellucid.jacobian._exact import with_exact_masks
from pellucid.jacobian._memory import recall, remember
from pellucid.jacobian._plan import Plan, PlanOutdated, make_plan
from pellucid.jacobian._problem import Model, Outputs, Problem, untouched
from pellucid.jacobian._ways import WAYS, Part, choose
from pellucid.jacobian._ways.differences import differences

__all__ = ["METHODS", "JacobianReport", "jacobian", "jacobian_report"]

METHODS = ("auto", *WAYS, "finite_difference")
"""The ways to compute a Jacobian."""

Inputs = Tensor | tuple[Tensor, ...]


@dataclass(frozen=True, eq=False, repr=False)
class JacobianReport(Shown):
    """A Jacobian, and how it was come by."""

    jacobian: Any
    """(batch, *outputs, *inputs); with several inputs a tuple of such, None for one of whole numbers."""
    method: str
    """The way that was taken: a name of `METHODS`; after plus signs, what was done another way: kinds of convolutions,
    and "double" for a forward pass in float64."""
    chunk: int
    """Images that shared one forward pass."""
    forwards: int
    """How often the model was run: once per chunk, and before that, where there are several images, on the first."""
    backwards: int
    """Passes through the whole network after that for the chunk that took most, cotangents folded together counted one
    by one: the number of outputs; fewer by a cut; in forward mode the number of inputs; none by finite differences."""
    seconds: float
    """Wall-clock time."""


def jacobian(
    model: Model, x: Inputs, outputs: Outputs = None, *, chunk: int | None = None, method: str = "auto"
) -> Any:
    r"""The derivative of every output with respect to every input, image by image: (batch, *outputs, *inputs).

    \(J_{ko} = \partial f_k / \partial x_o\), in units of output per unit of input, like `x` in dtype and device.

    Args:
        model: any module (run in eval mode and its own dtype, and handed back as it was) or function of tensors. The
            images of a batch must not depend on each other.
        x: (batch, …), or a tuple of such for a model of several inputs; then a tuple of Jacobians is returned. Inputs
            of whole numbers or booleans are passed on, and None stands in their place.
        outputs: indices into the flattened outputs, in that order: (batch, len(outputs), *inputs). Or the name of one
            entry of a dict, dataclass or tuple ("0", "1"…) of outputs; or {name: indices}.
        chunk: so many images share one forward pass; by default so many that no tensor passes 10 MB.
        method: "auto", a fixed rule from shapes, dtype and operations; or one of `METHODS`. "finite_difference" takes
            central differences in float64, at two forward passes per input; what that costs is told before it begins,
            in the log `pellucid.jacobian`.

    Raises `UnknownName` for another method or output, `ShapeError` for an output the model does not have and for images
    that depend on each other, `UnsupportedOperation` where autograd's derivative would be wrong or is missing: batch
    statistics, a detached path, an operation without a derivative.

    >>> from torch import nn
    >>> model = nn.Linear(3, 2)
    >>> jacobian(model, torch.rand(5, 3)).shape
    torch.Size([5, 2, 3])
    >>> torch.equal(jacobian(model, torch.rand(1, 3))[0], model.weight)
    True
    >>> jacobian(lambda x: {"square": x**2, "mean": x.mean(1)}, torch.ones(1, 2), "square")
    tensor([[[2., 0.],
             [0., 2.]]])
    """
    return jacobian_report(model, x, outputs, chunk=chunk, method=method).jacobian


def jacobian_report(
    model: Model, x: Inputs, outputs: Outputs = None, *, chunk: int | None = None, method: str = "auto"
) -> JacobianReport:
    """The same as `jacobian`, with the way it was computed and what it cost.

    >>> report = jacobian_report(torch.nn.Linear(3, 2), torch.rand(5, 3))
    >>> report.method, report.chunk, report.backwards
    ('loop', 5, 2)
    """
    if method not in METHODS:
        raise UnknownName("Jacobian method", method, METHODS)
    if chunk is not None and chunk < 1:
        raise ShapeError(f"chunk is {chunk}; at least one image must share a pass.")
    started = perf_counter()
    with torch.inference_mode(False):
        problem = Problem.of(model, x, outputs)
    if method == "finite_difference":
        found, size, forwards = differences(problem, chunk)
        return JacobianReport(_like(x, problem, found), method, size, forwards, 0, perf_counter() - started)
    with untouched(model), torch.inference_mode(False), torch.enable_grad():
        try:
            plan, rows, passes = _compute(problem, method, chunk)
        except (NotImplementedError, RuntimeError) as error:
            raise _named(error) from error
    shaped = tuple(row.unflatten(1, plan.result_shape) if plan.result_shape else row.squeeze(1) for row in rows)
    name, size = _name_and_size(plan, method, chunk)
    swapped = "".join(f"+{swap}" for swap in sorted(plan.swaps(size))) if name != "forward" else ""
    forwards = -(-problem.batch // size) + (size > 1)
    return JacobianReport(_like(x, problem, shaped), name + swapped, size, forwards, passes, perf_counter() - started)


def _compute(problem: Problem, method: str, chunk: int | None) -> tuple[Plan, tuple[Tensor, ...], int]:
    """The plan, the rows of all images, and the passes that the costliest chunk took."""
    plan = recall(problem, chunk)
    if plan is not None:
        try:
            return plan, *_fill(plan, method, chunk)
        except PlanOutdated:
            pass
    plan = make_plan(problem)
    plan = with_exact_masks(plan) if method != "forward" else plan
    rows, passes = _fill(plan, method, chunk)
    remember(problem, plan, chunk)
    return plan, rows, passes


def _name_and_size(plan: Plan, method: str, chunk: int | None) -> tuple[str, int]:
    """The way to take, and how many images share a pass."""
    return choose(plan) if method == "auto" else method, min(chunk or plan.chunk, plan.problem.batch)


def _fill(plan: Plan, method: str, chunk: int | None) -> tuple[tuple[Tensor, ...], int]:
    """The rows of all images, chunk by chunk, and the passes that the costliest chunk took."""
    problem, (name, size) = plan.problem, _name_and_size(plan, method, chunk)
    if size == problem.batch:
        return _rows_of(Part(plan, problem.part(0, size)), name)
    inputs = [problem.inputs[place] for place in problem.floats]
    rows = tuple(x.new_empty((len(x), len(plan.wanted), *x.shape[1:])) for x in inputs)
    passes = 0
    for start in range(0, problem.batch, size):
        stop = min(start + size, problem.batch)
        part = Part(plan, problem.part(start, stop), tuple(row[start:stop] for row in rows))
        passes = max(passes, _rows_of(part, name)[1])
    return rows, passes


def _rows_of(part: Part, name: str) -> tuple[tuple[Tensor, ...], int]:
    """A part's rows, and the passes they took."""
    plan = part.plan
    if plan.problem.batch == 1 and plan.first:  # run already
        part.leaves, part.flat = plan.first
    with plan.kernels if plan.swaps(len(part.leaves[0])) and name != "forward" else nullcontext():
        passes = WAYS[name].run(part)
    return part.rows, passes


def _like(x: Inputs, problem: Problem, found: tuple[Tensor, ...]) -> Any:
    """One Jacobian for one input, a tuple for a tuple; in the dtype and on the device of its input."""
    given = x if isinstance(x, tuple) else (x,)
    placed = {place: rows.to(given[place]) for place, rows in zip(problem.floats, found, strict=True)}
    return placed[0] if isinstance(x, Tensor) else tuple(placed.get(place) for place in range(len(given)))


def _named(error: Exception) -> Exception:
    """An error of autograd's that tells of a missing derivative, as ours; any other as it is."""
    text = str(error)
    if "derivative" in text and "not implemented" in text:
        return UnsupportedOperation(f'{text}; take method="finite_difference", which needs none.')
    return error
