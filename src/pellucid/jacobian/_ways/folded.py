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
    flat, wanted = part.run(), torch.tensor(part.plan.wanted, device=part.leaves[0].device)
    per_row = max(1, len(flat) * part.plan.largest)
    for places in torch.arange(len(wanted)).split(max(1, 4 * FOLDED_BYTES // per_row)):
        cotangents = flat.new_zeros((len(places), *flat.shape))
        cotangents[torch.arange(len(places)), :, wanted[places]] = 1
        with catch_warnings():
            simplefilter("ignore", UserWarning)  # that an operation has no batched form: slower, and right
            found = gradients(flat, part.differentiated, cotangents, folded=True)
        for rows, gradient in zip(part.rows, found, strict=True):
            rows[:, places[0] : places[-1] + 1] = 0 if gradient is None else gradient.movedim(0, 1)
    return len(wanted)
