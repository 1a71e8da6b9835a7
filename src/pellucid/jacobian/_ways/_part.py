"""A chunk of images on its way to its Jacobian."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pellucid.jacobian._plan import Plan

__all__ = ["Part", "gradients"]


@dataclass(frozen=True, eq=False)
class Part:
    """Some images of a problem, and where their rows go."""

    plan: Plan
    leaves: tuple[Tensor, ...]
    """The model's inputs for these images."""
    rows: tuple[Tensor, ...]
    """For each differentiated input (batch, output, *inputs), to be filled."""
    flat: Tensor | None = None
    """The outputs (batch, output) with their graph; None: not computed yet."""

    @property
    def differentiated(self) -> tuple[Tensor, ...]:
        """The leaves that rows are wanted of."""
        return tuple(self.leaves[place] for place in self.plan.problem.floats)

    def run(self) -> Tensor:
        """The outputs (batch, output) with their graph."""
        flat = self.flat
        if flat is None:
            flat = self.plan.problem.call(self.leaves).reshape(len(self.leaves[0]), -1)
            self.plan.check_alone(flat) if len(flat) > 1 and self.starts_first() else None
        return flat

    def starts_first(self) -> bool:
        """Whether the first image of the problem is the first one here."""
        return self.leaves[0].data_ptr() == self.plan.problem.inputs[0].data_ptr()


def gradients(outputs: Any, inputs: Sequence[Any], cotangent: Tensor, *, folded: bool = False) -> list[Tensor | None]:
    """One backward pass; None for an input that the outputs do not depend on. The graph stays for the next pass."""
    found = torch.autograd.grad(
        [outputs], list(inputs), [cotangent], retain_graph=True, allow_unused=True, is_grads_batched=folded
    )
    return list(found)
