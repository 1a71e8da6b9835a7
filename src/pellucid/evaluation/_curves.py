"""What the network still says when parts of an image go, in an order given by an explanation."""

from collections.abc import Callable

import torch
from torch import Tensor

from pellucid.evaluation._case import Case, Output

__all__ = ["area", "counts_of", "curve", "patch_scores", "pixel_places", "places"]


def patch_scores(pixels: Tensor, side: int) -> Tensor:
    """(image, patch row, patch column): the sum over patches of `side` × `side` pixels; smaller ones at the far edges.

    >>> patch_scores(torch.ones(1, 3, 4), 2)
    tensor([[[4., 4.],
             [2., 2.]]])
    """
    for axis in (1, 2):
        group = torch.arange(pixels.shape[axis], device=pixels.device) // side
        shape = list(pixels.shape)
        shape[axis] = int(group[-1]) + 1
        pixels = pixels.new_zeros(shape).index_add_(axis, group, pixels)
    return pixels


def places(scores: Tensor, draws: torch.Generator) -> Tensor:
    """The rank of each score within its image, 0 for the largest; ties are broken by a drawn order.

    `scores` is (image, rows, columns); the result is of its shape.
    """
    flat = scores.flatten(1)
    shuffle = torch.randperm(flat.shape[1], generator=draws).to(flat.device)
    order = shuffle[flat[:, shuffle].argsort(dim=1, descending=True, stable=True)]
    ranks = torch.empty_like(order)
    ranks.scatter_(1, order, torch.arange(flat.shape[1], device=flat.device).expand_as(order))
    return ranks.reshape(scores.shape)


def pixel_places(ranks: Tensor, side: int, size: tuple[int, int]) -> Tensor:
    """(image, height, width): for each pixel, the rank of its patch."""
    rows, columns = (torch.arange(length, device=ranks.device) // side for length in size)
    return ranks[:, rows][:, :, columns]


def counts_of(units: int, steps: int) -> list[int]:
    """How many units are gone at each point of a curve: from none to all, in about equal steps.

    >>> counts_of(10, 4), counts_of(3, 25)
    ([0, 2, 5, 8, 10], [0, 1, 2, 3])
    """
    return sorted({round(units * step / steps) for step in range(steps + 1)})


def curve(case: Case, ranks: Tensor, counts: list[int], change: Callable[[Tensor], Tensor], output: Output) -> Tensor:
    """(image, point): the score after `change` of the pixels whose rank is below each count.

    `ranks` is (image, height, width); `change` makes images of such a mask of the changed pixels. An image that a step
    leaves as it was, such as one that loses empty pixels, is not run again.
    """
    shown, logits, scores = case.images, case.logits, []
    for count in counts:
        images = change(ranks < count)
        is_new = (images != shown).flatten(1).any(1)
        if bool(is_new.any()):
            logits = logits.clone()
            logits[is_new] = case.predict(images[is_new])
        shown = images
        scores.append(case.read(logits, output))
    return torch.stack(scores, dim=1)


def area(values: Tensor, counts: list[int]) -> Tensor:
    """(image,): the area under (image, point) curves by trapezoids, the whole way being 1.

    >>> area(torch.tensor([[1.0, 0.5, 0.0]]), [0, 5, 10])
    tensor([0.5000])
    """
    way = torch.tensor(counts, dtype=values.dtype, device=values.device)
    return torch.trapezoid(values, way, dim=1) / (counts[-1] - counts[0])
