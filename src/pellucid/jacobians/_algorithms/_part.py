"""A chunk of images whose Jacobian is being computed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pellucid.engine.derivatives import derivatives
from pellucid.jacobians._missing import WAY_OUT
from pellucid.jacobians._plan import Plan, flattened

__all__ = ["Part", "gradients"]


@dataclass(eq=False)
class Part:
    """A chunk of a problem's images, and the tensors that receive their rows."""

    plan: Plan
    leaves: tuple[Tensor, ...]
    """The model's inputs for these images."""
    targets: tuple[Tensor, ...] | None = None
    """Tensors that receive the rows; None to allocate them, if the chunk contains all images."""
    flat: Tensor | None = None
    """The outputs (batch, output) with their graph; None if not computed yet."""
    is_first: bool = True
    """True if the chunk begins with the problem's first image."""

    @property
    def differentiated(self) -> tuple[Tensor, ...]:
        """Leaves to differentiate with respect to."""
        return tuple(self.leaves[place] for place in self.plan.problem.floats)

    @property
    def rows(self) -> tuple[Tensor, ...]:
        """Rows (batch, output, *inputs) for each differentiated input, to be filled in place."""
        if self.targets is None:
            count = len(self.plan.wanted)
            self.targets = tuple(leaf.new_empty((len(leaf), count, *leaf.shape[1:])) for leaf in self.differentiated)
        return self.targets

    def run(self) -> Tensor:
        """Return the outputs (batch, output) with their graph. The problem's first chunk runs with all checks."""
        if self.flat is None:
            problem = self.plan.problem
            if self.is_first:
                self.flat = self.plan.verify(self.leaves)
            else:
                self.flat = flattened(problem.call(self.leaves))
        return self.flat


def gradients(
    outputs: Any, inputs: Sequence[Any], cotangent: Tensor, *, folded: bool = False, is_last: bool = False
) -> Sequence[Tensor | None]:
    """Run one backward pass. Returns None for inputs that the outputs do not depend on. The last pass frees the graph.

    Raises `UnsupportedOperation` if an operation has no derivative or the outputs depend on none of the inputs.
    """
    return derivatives(outputs, inputs, cotangent, way_out=WAY_OUT, retain_graph=not is_last, folded=folded)
