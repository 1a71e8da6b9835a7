"""Backward passes through the narrowest layer: one per active unit of that layer instead of one per output."""

import torch
from torch import Tensor

from pellucid.jacobians._algorithms._part import Part, gradients
from pellucid.jacobians._algorithms.loop import loop
from pellucid.jacobians._graph import Cut, narrowest_cut
from pellucid.jacobians._plan import Plan

__all__ = ["cut", "pays_cut"]


def pays_cut(plan: Plan) -> bool:
    """Return True if a value on all paths has fewer units than there are outputs."""
    return plan.layout.cut is not None


def cut(part: Part) -> int:
    r"""Compute \(J = \frac{\partial f}{\partial h} \frac{\partial h}{\partial x}\), where h is the cut.

    The first factor (output, unit) takes one cheap backward pass per output, through the operations above the cut. A
    unit whose column in it is zero is inactive (its ReLU is off) and needs no row of the second factor. The p-th pass
    below the cut therefore carries the p-th active unit of each image.
    """
    flat = part.run()
    chunk_cut = _cut_of_chunk(part, flat)
    if chunk_cut is None:  # the cut does not separate this chunk's images
        return loop(part)
    upper = _upper_factor(part, flat, chunk_cut)  # (batch, output, unit)
    is_active = (upper != 0).any(1)
    counts = is_active.sum(1)
    passes = int(counts.max())
    # (batch, pass): the active units come first
    order = is_active.int().argsort(dim=1, descending=True, stable=True)[:, :passes]
    factors = upper.gather(2, order[:, None].expand(-1, upper.shape[1], -1))
    lower = [rows.new_zeros((len(rows), passes, *rows.shape[2:]), dtype=flat.dtype) for rows in part.rows]
    images = torch.arange(len(flat), device=flat.device)
    for number in range(passes):
        cotangent = flat.new_zeros((len(flat), chunk_cut.units))
        # zero for images with fewer active units than passes
        cotangent[images, order[:, number]] = (number < counts).to(flat.dtype)
        for gradient, store in zip(
            gradients(chunk_cut.edge, part.differentiated, cotangent.view(chunk_cut.shape)), lower, strict=True
        ):
            if gradient is not None:
                store[:, number] = gradient
    for rows, store in zip(part.rows, lower, strict=True):
        rows.copy_(torch.bmm(factors, store.flatten(2)).view(rows.shape))
    return passes


def _cut_of_chunk(part: Part, flat: Tensor) -> Cut | None:
    """Return the cut of this chunk's graph if it is the planned one and its first axis is the batch.

    Its shape may differ from that for the first image alone only in the first axis. This distinguishes the batch axis
    from another axis that happens to have the same length.
    """
    narrowest = narrowest_cut(flat, part.differentiated, fewer_than=len(part.plan.wanted))
    planned = part.plan.layout.cut
    if narrowest is None or planned is None:
        return None
    is_same = (narrowest.place, narrowest.name, narrowest.shape[1:]) == (planned.place, planned.name, planned.shape[1:])
    return narrowest if is_same else None


def _upper_factor(part: Part, flat: Tensor, chunk_cut: Cut) -> Tensor:
    """Return the derivative of the wanted outputs by the cut's units (batch, output, unit)."""
    columns, cotangent = [], flat.new_zeros(flat.shape)
    for index in part.plan.wanted:
        cotangent[:, index] = 1
        # from the output down to the cut only, which is cheap
        (gradient,) = gradients(flat, [chunk_cut.edge], cotangent)
        # a copy, because autograd may return the cotangent itself
        column = flat.new_zeros((len(flat), chunk_cut.units)) if gradient is None else gradient.clone()
        columns.append(column.reshape(len(flat), -1))
        cotangent[:, index] = 0
    return torch.stack(columns, 1)
