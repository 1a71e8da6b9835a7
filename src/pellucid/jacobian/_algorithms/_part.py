"""A chunk of images on its way to its Jacobian."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pellucid.engine.derivatives import derivatives
from pellucid.jacobian._missing import WAY_OUT
from pellucid.jacobian._plan import Plan

__all__ = ["Part", "gradients"]


@dataclass(eq=False)
class Part:
    """Some images of a problem, and where their rows go."""

    plan: Plan
    leaves: tuple[Tensor, ...]
    """The model's inputs for these images."""
    targets: tuple[Tensor, ...] | None = None
    """Where the rows go; None: these are all images, so their rows are a tensor of their own."""
    flat: Tensor | None = None
    """The outputs (batch, output) with their graph; None: not computed yet."""

    @property
    def differentiated(self) -> tuple[Tensor, ...]:
        """The leaves that rows are wanted of."""
        return tuple(self.leaves[place] for place in self.plan.problem.floats)

    @property
    def is_first(self) -> bool:
        """Whether the problem's first image is the first one here."""
        return self.leaves[0].data_ptr() == self.plan.problem.inputs[0].data_ptr()

    @property
    def rows(self) -> tuple[Tensor, ...]:
        """For each differentiated input (batch, output, *inputs), to be filled."""
        if self.targets is None:
            count = len(self.plan.wanted)
            self.targets = tuple(leaf.new_empty((len(leaf), count, *leaf.shape[1:])) for leaf in self.differentiated)
        return self.targets

    def run(self) -> Tensor:
        """The outputs (batch, output) with their graph; those of the problem's first images are watched and checked."""
        if self.flat is None:
            problem = self.plan.problem
            if self.is_first:
                self.flat = self.plan.verify(self.leaves)
            else:
                self.flat = problem.call(self.leaves).reshape(len(self.leaves[0]), -1)
        return self.flat


def gradients(
    outputs: Any, inputs: Sequence[Any], cotangent: Tensor, *, folded: bool = False, is_last: bool = False
) -> Sequence[Tensor | None]:
    """One backward pass; None for an input that the outputs do not depend on. The graph goes with the last pass.

    Raises `UnsupportedOperation` where an operation has no derivative, or the outputs depend on none of the inputs.
    """
    return derivatives(outputs, inputs, cotangent, way_out=WAY_OUT, retain_graph=not is_last, folded=folded)
