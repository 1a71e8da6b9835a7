"""Forward mode: one tangent pass per input, for models with fewer inputs than outputs, such as decoders."""

from typing import Any
from warnings import catch_warnings, simplefilter

import torch
from torch import Tensor
from torch.func import jvp, vmap

from pellucid.jacobians._algorithms._part import Part
from pellucid.jacobians._algorithms.loop import loop
from pellucid.jacobians._plan import Plan

__all__ = ["forward", "pays_forward"]


def pays_forward(plan: Plan) -> bool:
    """Return True if there are fewer inputs than wanted outputs, and no cut has fewer units than inputs."""
    inputs, cut = plan.problem.input_count, plan.layout.cut
    return inputs < len(plan.wanted) and (cut is None or inputs <= cut.units)


def forward(part: Part) -> int:
    """Compute the columns of J, the outputs' derivatives along each input, in one batched tangent pass.

    Falls back to backward passes if an operation has no forward-mode derivative.
    """
    problem, wanted = part.plan.problem, list(part.plan.wanted)
    if part.is_first:
        part.run()  # runs the checks
    shared: Any = (0, None)  # the outputs are the same for every tangent
    try:
        with catch_warnings():
            simplefilter("ignore", FutureWarning)  # from torch.jit inside torch itself, at the first call
            for number, leaf in enumerate(part.differentiated):
                # `at=number` binds the current value of the loop variable
                call = vmap(lambda tangent, at=number: _tangent(part, at, tangent), out_dims=shared)
                columns, part.flat = call(_directions(leaf))
                part.rows[number].copy_(columns[:, :, wanted].movedim(0, -1).reshape(part.rows[number].shape))
    except (NotImplementedError, RuntimeError):
        return loop(part)
    return problem.input_count


def _tangent(part: Part, number: int, tangent: Tensor) -> tuple[Tensor, Tensor]:
    """Return the outputs' derivative along one direction of one input, and the outputs, both (batch, output)."""
    inputs = [leaf.detach() for leaf in part.leaves]
    place = part.plan.problem.floats[number]

    def call(moving: Tensor) -> Tensor:
        here = [*inputs[:place], moving, *inputs[place + 1 :]]
        return part.plan.problem.call(here).reshape(len(moving), -1)

    outputs, derivative = jvp(call, (inputs[place],), (tangent,))[:2]
    return derivative, outputs


def _directions(leaf: Tensor) -> Tensor:
    """Return the unit directions (input, batch, *inputs), one per input value, the same for all images."""
    count = leaf[0].numel()
    unit = torch.eye(count, dtype=leaf.dtype, device=leaf.device).view(count, 1, *leaf.shape[1:])
    return unit.expand(count, *leaf.shape)
