"""What a pass of the first images tells: sizes, operations, and whether the derivative can be right."""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.linalg import vector_norm

from pellucid.core.errors import ShapeError, UnsupportedOperation
from pellucid.engine.derivatives import check_graph, listed
from pellucid.jacobian._graph import Cut, narrowest_cut
from pellucid.jacobian._kernels import SMALL_BATCH, KernelSwap
from pellucid.jacobian._missing import WAY_OUT, zero_outputs
from pellucid.jacobian._problem import Problem
from pellucid.jacobian._watch import PathWatch

__all__ = ["LARGEST_BYTES", "Layout", "Plan", "PlanOutdated", "Signature", "make_plan"]

LARGEST_BYTES = 10_000_000
"""No tensor of a chunk passes this: a third of what allocators hand out again without asking the system for pages."""

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-2}
"""How far an image's outputs alone and among others may differ, as a share of their size. Rounding, and no more."""


Signature = tuple[object, ...]
"""The functions that a forward pass called, in order, with shape and dtype of what each returned."""


class PlanOutdated(Exception):
    """The model no longer does what it did when its layout was remembered."""


@dataclass(frozen=True)
class Layout:
    """What decides how a Jacobian is computed, and never what it is: a wrong one would cost time, nothing else."""

    shape: torch.Size
    """Of one image's outputs."""
    largest: int
    """Bytes of the largest tensor of one image's forward pass."""
    is_foldable: bool
    """No attention or recurrence, whose way back has no batched form."""
    swapped: frozenset[str]
    """What is done another way: convolutions; "double": the forward pass is in float64."""
    swapped_in_batches: frozenset[str]
    """The same, from `SMALL_BATCH` images on."""
    cut: Cut | None
    """The narrowest layer that all paths of the first image pass."""


@dataclass(eq=False)
class Plan:
    """What is known of a problem before its first chunk; the first chunk's pass proves it, at every call."""

    problem: Problem
    layout: Layout
    wanted: tuple[int, ...]
    """Indices into the flattened outputs."""
    first: tuple[tuple[Tensor, ...], Tensor] | None = None
    """The first image's inputs, as leaves, and its flat outputs with their graph; None: not run yet."""
    signature: Signature | None = None
    """Of the first chunk's pass; None: not known yet."""
    is_quiet: bool = False
    """Whether it is known that folding warns of nothing."""
    kernels: KernelSwap = field(default_factory=KernelSwap, repr=False)

    def swaps(self, chunk: int) -> frozenset[str]:
        """The convolutions that are done another way in chunks of so many images."""
        layout = self.layout
        return layout.swapped | layout.swapped_in_batches if chunk >= SMALL_BATCH else layout.swapped

    @property
    def chunk(self) -> int:
        """So many images at once: as many as memory's bound allows, in chunks as equal as can be."""
        most = max(1, LARGEST_BYTES // max(self.layout.largest, 1))
        return -(-self.problem.batch // -(-self.problem.batch // most))

    @property
    def result_shape(self) -> torch.Size:
        """Of one image's wanted outputs."""
        return self.layout.shape if self.problem.indices is None else torch.Size([len(self.wanted)])

    def prove(self, leaves: tuple[Tensor, ...]) -> Tensor:
        """Run the problem's first images, watched: their outputs (batch, output) with their graph.

        Raises what `make_plan` raises, `ShapeError` for images that depend on each other, and `PlanOutdated` where the
        pass is not the one that was remembered.
        """
        if self.signature is not None and self.problem.known_layers:  # these were watched, and cannot do anything else
            output = self.problem.call(leaves)
            return output.reshape(len(output), -1)
        output, signature = _watched(self.problem, leaves)
        if self.signature not in (None, signature):
            raise PlanOutdated
        self.signature = signature
        flat = output.reshape(len(output), -1)
        if len(flat) > 1 and not self.problem.known_layers:
            self._check_alone(flat.detach()[0])
        return flat

    def _check_alone(self, among: Tensor) -> None:
        """Raise `ShapeError` where the first image's outputs among others are not what they are alone."""
        alone = self.problem.call(self.problem.part(0, 1)) if self.first is None else self.first[1]
        alone = alone.detach().flatten()
        if alone.shape != among.shape:
            raise ShapeError(f"the outputs have shape {tuple(among.shape)} in a batch and {tuple(alone.shape)} alone.")
        error, scale = float(vector_norm(alone - among, torch.inf)), float(vector_norm(alone, torch.inf))
        if error > TOLERANCE.get(among.dtype, 0.1) * scale + torch.finfo(among.dtype).tiny:
            raise ShapeError(
                f"the first image's outputs change by {error:.1e} when other images stand beside it: the model "
                "mixes the images of a batch, or draws random numbers. Make it treat each alone, or pass chunk=1."
            )


def make_plan(problem: Problem, kernels: KernelSwap | None = None) -> Plan:
    """Run the first image, watched, with its convolutions done by `kernels`. For where gradients are enabled.

    Raises `UnsupportedOperation` for what would make the derivative wrong, `ShapeError` for outputs without a row per
    image or an index the model does not have.
    """
    leaves, kernels = problem.part(0, 1), kernels or KernelSwap()
    kernels.is_planning = True
    with kernels:
        output, signature = _watched(problem, leaves)
    kernels.is_planning = False
    flat = output.reshape(1, -1)
    wanted = problem.wanted(flat.shape[1])
    layout = Layout(
        shape=output.shape[1:],
        largest=max(kernels.largest, *(tensor[0].numel() * tensor.element_size() for tensor in problem.inputs)),
        is_foldable=kernels.is_foldable,
        swapped=frozenset(kernels.swapped),
        swapped_in_batches=frozenset(kernels.swapped_in_batches),
        cut=narrowest_cut(flat, tuple(leaves[place] for place in problem.floats), fewer_than=len(wanted)),
    )
    return Plan(problem, layout, wanted, (leaves, flat), signature if problem.batch == 1 else None, kernels=kernels)


def _watched(problem: Problem, leaves: tuple[Tensor, ...]) -> tuple[Tensor, Signature]:
    """The chosen output of one pass that has been watched, and what it called."""
    copies = [leaf.clone() for leaf in leaves]  # since the model may work in place
    with PathWatch(problem.model) as watch:
        returned = problem.model(*copies)
    output = problem.chosen(returned, leaves)
    try:
        watch.check(output)
    except UnsupportedOperation as error:
        missing = zero_outputs(problem, leaves, output) if output.requires_grad else []
        if not missing:
            raise
        raise UnsupportedOperation(f"{error} Without any derivative: outputs {listed(missing)}.") from None
    check_graph(output, WAY_OUT)
    return output, (*watch.calls, output.shape)
