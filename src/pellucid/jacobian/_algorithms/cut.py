"""Through the narrowest layer: as many backward passes below it as it has active units, instead of one per output."""

import torch
from torch import Tensor

from pellucid.jacobian._algorithms._part import Part, gradients
from pellucid.jacobian._algorithms.loop import loop
from pellucid.jacobian._graph import Cut, narrowest_cut
from pellucid.jacobian._plan import Plan

__all__ = ["cut", "pays_cut"]


def pays_cut(plan: Plan) -> bool:
    """Where some layer that all paths pass has fewer units than there are outputs."""
    return plan.layout.cut is not None


def cut(part: Part) -> int:
    r"""\(J = \frac{\partial f}{\partial h} \frac{\partial h}{\partial x}\), h being the cut.

    The first factor A (output, unit) takes a backward pass of the few operations above the cut per output. A unit whose
    column of A is zero is inactive (its ReLU is off), and needs no row of the second factor: image by image, the p-th
    pass carries the p-th active unit.
    """
    flat = part.run()
    place = _same_cut(part, flat)
    if place is None:
        return loop(part)
    upper = _upper(part, flat, place)  # (batch, output, unit)
    is_active = (upper != 0).any(1)
    counts = is_active.sum(1)
    passes = int(counts.max())
    # (batch, pass): the active units come first
    order = is_active.int().argsort(dim=1, descending=True, stable=True)[:, :passes]
    factors = upper.gather(2, order[:, None].expand(-1, upper.shape[1], -1))
    lower = [rows.new_zeros((len(rows), passes, *rows.shape[2:]), dtype=flat.dtype) for rows in part.rows]
    images = torch.arange(len(flat), device=flat.device)
    for number in range(passes):
        cotangent = flat.new_zeros((len(flat), place.units))
        cotangent[images, order[:, number]] = (number < counts).to(flat.dtype)
        for found, store in zip(
            gradients(place.edge, part.differentiated, cotangent.view(place.shape)), lower, strict=True
        ):
            if found is not None:
                store[:, number] = found
    for rows, store in zip(part.rows, lower, strict=True):
        rows.copy_(torch.bmm(factors, store.flatten(2)).view(rows.shape))
    return passes


def _same_cut(part: Part, flat: Tensor) -> Cut | None:
    """The cut in this chunk's graph, if it is the first image's, with an axis of images in front.

    The shape of the first image alone and the chunk's must differ in the first axis only: this tells an axis of images
    from one that happens to be as long.
    """
    found = narrowest_cut(flat, part.differentiated, fewer_than=len(part.plan.wanted))
    planned = part.plan.layout.cut
    if found is None or planned is None:
        return None
    is_same = (found.place, found.name, found.shape[1:]) == (planned.place, planned.name, planned.shape[1:])
    return found if is_same else None


def _upper(part: Part, flat: Tensor, place: Cut) -> Tensor:
    """(batch, output, unit): the derivative of the wanted outputs by the cut's units."""
    columns, cotangent = [], flat.new_zeros(flat.shape)
    for index in part.plan.wanted:
        cotangent[:, index] = 1
        (found,) = gradients(flat, [place.edge], cotangent)
        columns.append(flat.new_zeros((len(flat), place.units)) if found is None else found.reshape(len(flat), -1))
        cotangent[:, index] = 0
    return torch.stack(columns, 1)
