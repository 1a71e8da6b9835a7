"""Every output by every input, of any model or function, at the cost of a few predictions."""

from contextlib import nullcontext
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from torch import Tensor

from pellucid.core.errors import ShapeError, UnknownName
from pellucid.core.isolation import isolated
from pellucid.core.showing import Shown
from pellucid.engine.derivatives import missing_derivative
from pellucid.jacobian._exact import with_exact_masks
from pellucid.jacobian._finite import check_finite
from pellucid.jacobian._memory import recall, remember
from pellucid.jacobian._missing import WAY_OUT, check_rows
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
    """How often the model was run: once per chunk; and where a chunk has several images, on the first one alone: at the
    first call, and at every one unless the layers themselves leave no way from image to image."""
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

    Threads may share a model: calls take turns, and each returns what it would return alone. The result does not depend
    on the caller's autocast, inference or gradient mode.

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
    that depend on each other, `DataError` and `ModelError` (with the index of the first image) for an input, an output
    or a derivative that is not finite, `UnsupportedOperation` where autograd's derivative would be wrong or is missing:
    batch statistics, a detached path, an operation without a derivative.

    >>> import torch
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

    >>> import torch
    >>> report = jacobian_report(torch.nn.Linear(3, 2), torch.rand(5, 3))
    >>> report.method, report.chunk, report.backwards
    ('loop', 5, 2)
    """
    if method not in METHODS:
        raise UnknownName("Jacobian method", method, METHODS)
    if chunk is not None and chunk < 1:
        raise ShapeError(f"chunk is {chunk}; at least one image must share a pass.")
    with isolated():
        started = perf_counter()  # not before: another thread may have held the lock
        problem = Problem.of(model, x, outputs)
        if method == "finite_difference":
            found, size, forwards = differences(problem, chunk)
            check_finite(problem.inputs, None, found)
            return JacobianReport(_like(x, problem, found), method, size, forwards, 0, perf_counter() - started)
        try:
            with untouched(model):
                course, rows, passes = _compute(problem, method, chunk)
        except RuntimeError as error:
            raise missing_derivative(error, WAY_OUT) or error from error
        shape = course.plan.result_shape
        if len(shape) != 1:
            rows = tuple(row.unflatten(1, shape) if shape else row.squeeze(1) for row in rows)
        is_first_alone = course.chunk > 1 and (course.plan.first is not None or not problem.known_layers)
        forwards = -(-problem.batch // course.chunk) + is_first_alone
        found = _like(x, problem, rows)
        return JacobianReport(found, course.told, course.chunk, forwards, passes, perf_counter() - started)


@dataclass(eq=False)
class _Course:
    """A plan, and what was decided by it."""

    plan: Plan
    name: str
    """Of the way."""
    chunk: int
    """Images that share a pass."""

    @classmethod
    def of(cls, plan: Plan, method: str, chunk: int | None) -> "_Course":
        """The course that the public arguments ask for."""
        name = choose(plan) if method == "auto" else method
        return cls(plan, name, min(chunk or plan.chunk, plan.problem.batch))

    @property
    def told(self) -> str:
        """The way's name, and what is done another way."""
        swaps = self.plan.swaps(self.chunk) if self.name != "forward" else frozenset()
        return "+".join([self.name, *sorted(swaps)])


def _compute(problem: Problem, method: str, chunk: int | None) -> tuple[_Course, tuple[Tensor, ...], int]:
    """What was done, the rows of all images, and the passes that the costliest chunk took."""
    plan = recall(problem, chunk)
    if plan is not None:
        try:
            course = _Course.of(plan, method, chunk)
            return course, *_fill(course)
        except PlanOutdated:
            pass
    plan = make_plan(problem)
    plan = with_exact_masks(plan) if method != "forward" else plan
    course = _Course.of(plan, method, chunk)
    rows, passes = _fill(course)
    remember(problem, plan, chunk)
    return course, rows, passes


def _fill(course: _Course) -> tuple[tuple[Tensor, ...], int]:
    """The rows of all images, chunk by chunk, and the passes that the costliest chunk took."""
    plan, size = course.plan, course.chunk
    problem = plan.problem
    if size == problem.batch:
        return _rows_of(Part(plan, problem.part(0, size)), course)
    inputs = [problem.inputs[place] for place in problem.floats]
    rows = tuple(x.new_empty((len(x), len(plan.wanted), *x.shape[1:])) for x in inputs)
    passes = 0
    for start in range(0, problem.batch, size):
        stop = min(start + size, problem.batch)
        part = Part(plan, problem.part(start, stop), tuple(row[start:stop] for row in rows))
        passes = max(passes, _rows_of(part, course, start)[1])
    return rows, passes


def _rows_of(part: Part, course: _Course, first: int = 0) -> tuple[tuple[Tensor, ...], int]:
    """A part's rows, found finite, and the passes they took; `first` is the index of its first image."""
    plan = part.plan
    if plan.problem.batch == 1 and plan.first:  # run already
        part.leaves, part.flat = plan.first
    is_swapped = course.name != "forward" and plan.swaps(len(part.leaves[0]))
    with plan.kernels if is_swapped else nullcontext():
        passes = WAYS[course.name].run(part)
    inputs = plan.problem.inputs if first == 0 else ()  # all of them, with the first chunk
    rows = part.rows
    check_finite(inputs, part.flat, rows, wanted=plan.wanted, first=first)
    check_rows(plan.problem, part.leaves, rows, plan.wanted)
    return rows, passes


def _like(x: Inputs, problem: Problem, found: tuple[Tensor, ...]) -> Any:
    """One Jacobian for one input, a tuple for a tuple; in the dtype and on the device of its input."""
    given = x if isinstance(x, tuple) else (x,)
    placed = {place: rows.to(given[place]) for place, rows in zip(problem.floats, found, strict=True)}
    return placed[0] if isinstance(x, Tensor) else tuple(placed.get(place) for place in range(len(given)))
