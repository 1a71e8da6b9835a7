"""Several cotangents in one backward pass: fewer, larger operations, for networks so small that calling them costs."""

from warnings import catch_warnings, simplefilter

import torch

from pellucid.jacobian._plan import Plan
from pellucid.jacobian._ways._part import Part, gradients

__all__ = ["folded", "pays_folded"]

FOLDED_BYTES = 2_500_000
"""The largest folded tensor for which folding pays: beyond, operations are slower than the calls they save."""


def pays_folded(plan: Plan) -> bool:
    """Where calling costs more than computing: a small network, and few images."""
    size = plan.chunk * len(plan.wanted) * plan.largest
    return plan.is_foldable and len(plan.wanted) > 1 and size <= FOLDED_BYTES


def folded(part: Part) -> int:
    """All of J's rows at once, the cotangents stacked along a further axis; in groups where that would be large."""
    flat, wanted = part.run(), part.plan.wanted
    per_row = max(1, len(flat) * part.plan.largest)
    size = max(1, 4 * FOLDED_BYTES // per_row)
    units = torch.eye(flat.shape[1], dtype=flat.dtype, device=flat.device)
    if part.plan.problem.indices is not None:
        units = units[list(wanted)]
    for start in range(0, len(wanted), size):
        cotangents = units[start : start + size, None].expand(-1, len(flat), -1)
        with catch_warnings():
            simplefilter("ignore", UserWarning)  # that an operation has no batched form: slower, and right
            found = gradients(flat, part.differentiated, cotangents, folded=True)
        for rows, gradient in zip(part.rows, found, strict=True):
            rows[:, start : start + size] = 0 if gradient is None else gradient.movedim(0, 1)
    return len(wanted)
