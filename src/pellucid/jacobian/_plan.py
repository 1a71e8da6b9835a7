"""What one pass of the first image tells: sizes, operations, and whether the derivative can be right."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from pellucid.core.errors import ShapeError
from pellucid.jacobian._graph import Cut, narrowest_cut
from pellucid.jacobian._kernels import SMALL_BATCH, KernelSwap
from pellucid.jacobian._problem import Problem
from pellucid.jacobian._watch import PathWatch

__all__ = ["LARGEST_BYTES", "Plan", "make_plan"]

LARGEST_BYTES = 10_000_000
"""No tensor of a chunk passes this: a third of what allocators hand out again without asking the system for pages."""

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-2}
"""How far an image's outputs alone and among others may differ, as a share of their size. Rounding, and no more."""


@dataclass(frozen=True, eq=False)
class Plan:
    """What is known of a problem before its first chunk."""

    problem: Problem
    shape: torch.Size
    """Of one image's outputs."""
    wanted: tuple[int, ...]
    """Indices into the flattened outputs."""
    largest: int
    """Bytes of the largest tensor of one image's forward pass."""
    is_foldable: bool
    """No attention or recurrence, whose way back has no batched form."""
    swapped: frozenset[str]
    """Convolutions that are done another way."""
    swapped_in_batches: frozenset[str]
    """The same, from `SMALL_BATCH` images on."""
    cut: Cut | None
    first: tuple[tuple[Tensor, ...], Tensor] | None = None
    """The first image's inputs, as leaves, and its flat outputs with their graph."""
    kernels: KernelSwap = field(default_factory=KernelSwap, repr=False)

    def swaps(self, chunk: int) -> frozenset[str]:
        """The convolutions that are done another way in chunks of so many images."""
        return self.swapped | self.swapped_in_batches if chunk >= SMALL_BATCH else self.swapped

    @property
    def chunk(self) -> int:
        """So many images at once."""
        return max(1, min(self.problem.batch, LARGEST_BYTES // max(self.largest, 1)))

    @property
    def result_shape(self) -> torch.Size:
        """Of one image's wanted outputs."""
        return self.shape if self.problem.indices is None else torch.Size([len(self.wanted)])

    def check_alone(self, flat: Tensor) -> None:
        """Raise `ShapeError` where the first image's outputs among others are not what they are alone."""
        if self.first is None:
            return
        alone, among = self.first[1].detach()[0], flat.detach()[0]
        if alone.shape != among.shape:
            raise ShapeError(f"the outputs have shape {tuple(among.shape)} in a batch and {tuple(alone.shape)} alone.")
        error = (alone - among).abs().amax()
        if error > TOLERANCE.get(flat.dtype, 0.1) * alone.abs().amax() + torch.finfo(flat.dtype).tiny:
            raise ShapeError(
                f"the first image's outputs change by {float(error):.1e} when other images stand beside it: the model "
                "mixes the images of a batch, or draws random numbers. Make it treat each alone, or pass chunk=1."
            )


def make_plan(problem: Problem) -> Plan:
    """Run the first image, watched. To be called where gradients are enabled.

    Raises `UnsupportedOperation` for what would make the derivative wrong, `ShapeError` for outputs without a row per
    image or an index the model does not have.
    """
    leaves, kernels = problem.part(0, 1), KernelSwap()
    with kernels, PathWatch(problem.model) as watch:
        output = problem.call(leaves)
    watch.check(output)
    flat = output.reshape(1, -1)
    wanted = problem.wanted(flat.shape[1])
    wanted_leaves = tuple(leaves[place] for place in problem.floats)
    return Plan(
        problem=problem,
        shape=output.shape[1:],
        wanted=wanted,
        largest=max(kernels.largest, *(tensor[0].numel() * tensor.element_size() for tensor in problem.inputs)),
        is_foldable=kernels.is_foldable,
        swapped=frozenset(kernels.swapped),
        swapped_in_batches=frozenset(kernels.swapped_in_batches),
        cut=narrowest_cut(flat, wanted_leaves, fewer_than=len(wanted)),
        first=(leaves, flat),
        kernels=kernels,
    )
