"""The Jacobian of any model or function: the derivative of every output with respect to every input."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from torch import Tensor

from pellucid.core.cards import card, facts_html, table_html
from pellucid.core.errors import UnknownName, UnsupportedOperation
from pellucid.core.isolation import isolated
from pellucid.core.options import check_argument
from pellucid.core.showing import Shown
from pellucid.engine.derivatives import missing_derivative
from pellucid.jacobians._algorithms import ALGORITHMS, Part, choose
from pellucid.jacobians._algorithms.differences import differences
from pellucid.jacobians._algorithms.native import prepare_native
from pellucid.jacobians._exact import with_exact_masks
from pellucid.jacobians._finite import check_finite
from pellucid.jacobians._memory import recall, remember
from pellucid.jacobians._missing import WAY_OUT, check_rows
from pellucid.jacobians._plan import Plan, PlanOutdated, make_plan
from pellucid.jacobians._problem import Inputs, Model, Outputs, Problem, check_count

__all__ = ["METHODS", "JacobianReport", "jacobian", "jacobian_by_chunk", "jacobian_report"]

METHODS = ("auto", *ALGORITHMS, "finite_difference")
"""Names accepted by the `method` argument of `jacobian`."""


@dataclass(frozen=True, eq=False, repr=False)
class JacobianReport(Shown):
    """A Jacobian, with how it was computed and what it cost."""

    jacobian: Any
    """(batch, *outputs, *inputs); for several inputs these in their structure, with None for integer inputs."""
    method: str
    """Method used: a name from `METHODS`, followed by the optimizations applied, joined by plus signs: the kinds of
    convolution replaced by faster kernels, and "double" for a forward pass in float64."""
    chunk: int
    """Images per forward pass."""
    forwards: int
    """Number of forward passes: one per chunk, plus one on the first image alone if a chunk has several images. The
    extra pass runs only at the first call if the layers are known to keep the images of a batch apart."""
    backwards: int
    """Number of backward passes for the most expensive chunk, counting batched cotangents one by one: the number of
    outputs, or fewer with a cut. In forward mode the number of inputs; 0 for finite differences."""
    seconds: float
    """Wall-clock time."""

    def _repr_html_(self) -> str:
        """Return the algorithm and the size of the Jacobian of each input, as HTML for notebooks."""
        parts = list(_parts("", self.jacobian))
        rows = [
            [name or "all", "×".join(map(str, part.shape)), str(part.dtype).removeprefix("torch."), *_sizes(part)]
            for name, part in parts
        ]
        facts = [
            ("method", self.method),
            ("forward passes", self.forwards),
            ("backward passes", self.backwards),
            ("images per pass", self.chunk),
            ("seconds", f"{self.seconds:.3g}"),
        ]
        heading = ["input", "shape (batch × outputs × inputs)", "dtype", "mean ‖J‖ (Frobenius)", "largest |∂|"]
        return card("Jacobian", facts_html(facts), table_html(heading, rows))


def _parts(name: str, jacobian: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the path and the Jacobian of each input that has one."""
    if isinstance(jacobian, Tensor):
        yield name, jacobian
    elif isinstance(jacobian, Mapping | tuple | list):
        pairs = jacobian.items() if isinstance(jacobian, Mapping) else enumerate(jacobian)
        for key, value in pairs:
            yield from _parts(f"{name}.{key}" if name else str(key), value)


def _sizes(part: Tensor) -> tuple[str, str]:
    if not part.numel():
        return "–", "–"
    rows = part.detach().flatten(1)
    return f"{float(rows.norm(dim=1).mean()):.4g}", f"{float(rows.abs().max()):.4g}"


def jacobian(
    model: Model, x: Inputs, outputs: Outputs = None, *, chunk: int | None = None, method: str = "auto"
) -> Any:
    r"""Compute the derivative of every output with respect to every input, per image: (batch, *outputs, *inputs).

    \(J_{ko} = \partial f_k / \partial x_o\), in units of output per unit of input, with the dtype and device of `x`.

    Threads may share a model: calls run one at a time, and each returns what it would return alone. The result does not
    depend on the caller's autocast, inference or gradient mode.

    Args:
        model: any module or function of tensors. A module runs in eval mode and in its own dtype, and its state is
            restored afterwards. The images of a batch must not depend on each other.
        x: (batch, …), or several of these: a tuple for positional arguments, a dict for keyword arguments. The result
            then has the same structure. Integer and boolean inputs are passed to the model but not differentiated;
            their entry is None. NumPy arrays and nested lists of numbers are converted to tensors.
        outputs: indices into the flattened outputs, which select and order them: (batch, len(outputs), *inputs). For
            a model with several outputs, one of them by its key, field or position (as text, "0"), by a path into
            nested outputs ("aux.scores", ("aux", 1)), or by a function of the outputs; or {name: indices}.
        chunk: images per forward pass. By default, as many as keep every tensor below 10 MB.
        method: "auto", a fixed rule based on shapes, dtype and operations, or one of `METHODS`. "finite_difference"
            uses central differences in float64, with two forward passes per input, and logs its cost to the logger
            `pellucid.jacobian` before it starts.

    Raises:
        UnknownName: for an unknown method or output name.
        ShapeError: for an output index out of range, or images that depend on each other.
        DataError: for an input that is not finite; the message gives the index of the first such image.
        ModelError: for an output or derivative that is not finite, likewise.
        UnsupportedOperation: if autograd's derivative would be wrong or is missing, because of batch statistics, a
            detached path or an operation without a derivative.

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
    """Compute a Jacobian like `jacobian`, and report the method used and its cost.

    >>> import torch
    >>> report = jacobian_report(torch.nn.Linear(3, 2), torch.rand(5, 3))
    >>> report.method, report.chunk, report.backwards
    ('loop', 5, 2)
    """
    if type(method) is not str:
        check_argument("jacobian", "method", method, str)
    if method not in METHODS:
        raise UnknownName("Jacobian method", method, METHODS)
    chunk = check_count("chunk", chunk, "images per forward pass")
    with isolated():
        started = perf_counter()  # inside `isolated()`, so that waiting for another thread's lock does not count
        problem = Problem.of(model, x, outputs)
        if method == "finite_difference":
            with problem.explained_errors():
                rows, size, forwards = differences(problem, chunk)
            check_finite(problem.inputs, None, rows)
            return JacobianReport(_arrange_like(x, problem, rows), method, size, forwards, 0, perf_counter() - started)
        with _explained(problem):
            schedule, rows, passes = _compute(problem, method, chunk)
        rows = _shaped(rows, schedule.plan)
        is_first_alone = schedule.chunk > 1 and (schedule.plan.first is not None or not problem.known_layers)
        # the negations round the number of chunks up
        forwards = -(-problem.batch // schedule.chunk) + is_first_alone
        result = _arrange_like(x, problem, rows)
        return JacobianReport(result, schedule.label, schedule.chunk, forwards, passes, perf_counter() - started)


def jacobian_by_chunk(
    model: Model, x: Tensor, outputs: Outputs, take: Callable[[int, Tensor], None], *, chunk: int | None = None
) -> None:
    """Compute a Jacobian like `jacobian`, passing each chunk to `take` while it is in the processor's cache.

    `take(first, part)` receives the index of a chunk's first image and its Jacobian (batch, *outputs, *inputs), whose
    memory the next chunk reuses. By default, a chunk has as many images as keep that below 20 MB.
    """
    chunk = check_count("chunk", chunk, "images per forward pass")
    with isolated():
        problem = Problem.of(model, x, outputs)

        def take_rows(plan: Plan, first: int, rows: tuple[Tensor, ...]) -> None:
            take(first, _arrange_like(x, problem, _shaped(rows, plan)))

        with _explained(problem):
            _compute(problem, "auto", chunk, take_rows)


@contextmanager
def _explained(problem: Problem) -> Iterator[None]:
    """Run a problem's model with its state restored afterwards, and turn errors of torch into those of `jacobian`."""
    try:
        with problem.explained_errors(), problem.untouched():
            yield
    except RuntimeError as error:
        raise missing_derivative(error, WAY_OUT) or error from error


def _shaped(rows: tuple[Tensor, ...], plan: Plan) -> tuple[Tensor, ...]:
    """Give the axis of outputs the shape of one image's outputs."""
    shape = plan.result_shape
    if len(shape) == 1:
        return rows
    # an empty shape is one number per image, whose rows have no output axis
    return tuple(row.unflatten(1, shape) if shape else row.squeeze(1) for row in rows)


Take = Callable[[Plan, int, tuple[Tensor, ...]], None]
"""A function of the plan, a chunk's first image and its rows."""


@dataclass(eq=False)
class _Schedule:
    """A plan with the algorithm and chunk size chosen for it."""

    plan: Plan
    name: str
    """Name of the algorithm."""
    chunk: int
    """Images per forward pass."""

    @classmethod
    def of(cls, plan: Plan, method: str, chunk: int | None, *, is_streamed: bool = False) -> "_Schedule":
        """Choose the algorithm and chunk size for the public arguments."""
        name = choose(plan) if method == "auto" else method
        if name == "native":
            try:
                prepare_native(plan)
            except UnsupportedOperation:
                if method != "auto":
                    raise
                name = choose(plan)
        default = plan.streamed_chunk if is_streamed else plan.chunk
        return cls(plan, name, min(chunk or default, plan.problem.batch))

    @property
    def label(self) -> str:
        """Name of the algorithm and of the optimizations applied, for `JacobianReport.method`."""
        native = self.plan.layout.native
        name = self.name
        if name == "native" and (native is None or not native.is_whole):
            name = "loop" if native is None else "loop+native"
        return "+".join([name, *sorted(self.swaps)])

    @property
    def swaps(self) -> frozenset[str]:
        """Optimizations of torch's operations."""
        if self.name == "forward":
            return frozenset()
        swaps = self.plan.swaps(self.chunk)
        # the others concern the backward pass only
        return swaps & {"multiplier"} if self.name == "native" else swaps


def _compute(
    problem: Problem, method: str, chunk: int | None, take: Take | None = None
) -> tuple[_Schedule, tuple[Tensor, ...], int]:
    """Return the schedule, the rows of all images, and the number of passes of the most expensive chunk.

    With `take`, each chunk's rows are passed to it instead, and none are returned.
    """
    is_streamed = take is not None
    plan = recall(problem, chunk)
    if plan is not None:
        try:
            schedule = _Schedule.of(plan, method, chunk, is_streamed=is_streamed)
            return schedule, *_fill(schedule, take)
        except PlanOutdated:  # the model has changed since its layout was cached
            pass
    plan = make_plan(problem)
    plan = with_exact_masks(plan) if method != "forward" else plan
    schedule = _Schedule.of(plan, method, chunk, is_streamed=is_streamed)
    rows, passes = _fill(schedule, take)
    remember(problem, plan, chunk)
    return schedule, rows, passes


def _fill(schedule: _Schedule, take: Take | None) -> tuple[tuple[Tensor, ...], int]:
    """Compute the rows of all images chunk by chunk, and the number of passes of the most expensive chunk."""
    plan, size = schedule.plan, schedule.chunk
    problem = plan.problem
    if size == problem.batch:
        rows, passes = _rows_of(Part(plan, problem.part(0, size)), schedule)
        if take is None:
            return rows, passes
        take(plan, 0, rows)
        return (), passes
    inputs = [problem.inputs[place] for place in problem.floats]
    stored = problem.batch if take is None else size
    rows = tuple(x.new_empty((stored, len(plan.wanted), *x.shape[1:])) for x in inputs)
    passes = 0
    for start in range(0, problem.batch, size):
        stop = min(start + size, problem.batch)
        place = start if take is None else 0
        rows_of_part = tuple(row[place : place + stop - start] for row in rows)
        part = Part(plan, problem.part(start, stop), rows_of_part, is_first=start == 0)
        passes = max(passes, _rows_of(part, schedule, start)[1])
        if take is not None:
            take(plan, start, rows_of_part)
    return (rows if take is None else ()), passes


def _rows_of(part: Part, schedule: _Schedule, first: int = 0) -> tuple[tuple[Tensor, ...], int]:
    """Compute and check one chunk's rows, and return them with the number of passes; `first` is its first image."""
    plan = part.plan
    if plan.problem.batch == 1 and plan.first:  # the plan has run this image already
        part.leaves, part.flat = plan.first
    with plan.kernels if schedule.swaps and plan.kernels else nullcontext():
        passes = ALGORITHMS[schedule.name].run(part)
    inputs = plan.problem.inputs if first == 0 else ()  # all inputs are checked together with the first chunk
    rows = part.rows
    check_finite(inputs, part.flat, rows, wanted=plan.wanted, first=first)
    check_rows(plan.problem, part.leaves, rows, plan.wanted)
    return rows, passes


def _arrange_like(x: Any, problem: Problem, rows: tuple[Tensor, ...]) -> Any:
    """Arrange the rows like `x`, each with the dtype and device of its input."""
    several = problem.several
    given = several.tensors if several is not None else (x if isinstance(x, Tensor) else problem.inputs[0],)
    # the model may have run in another dtype than that of the inputs
    placed = {place: row.to(given[place]) for place, row in zip(problem.floats, rows, strict=True)}
    return placed[0] if several is None else several.arranged(placed)
