"""What the network still says when parts of an image go, in an order given by an explanation."""

import torch
from torch import Tensor

from pellucid.evaluation._case import Case, Output
from pellucid.evaluation._removal import Remover

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
    shuffle = torch.randperm(flat.shape[1], generator=draws, device="cpu").to(flat.device)
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


def curve(
    case: Case, ranks: Tensor, counts: list[int], change: Remover, output: Output, *, is_back: bool = False
) -> Tensor:
    """(image, point): the score without the pixels whose rank is below each count; with `is_back`, with them alone.

    `ranks` is (image, height, width). A changed image that was scored before, at another point or for another method,
    is not run again.
    """
    points = torch.bucketize(ranks, torch.tensor(counts, device=ranks.device), right=True)  # at which each pixel goes
    prints = _prints(case, points, len(counts), change.matters, is_back)
    wanted, places = prints.T.reshape(-1).unique(return_inverse=True)
    known = case.shared(("scores", change.removal, output), _Scores)
    found, is_known = known.look_up(wanted, case.images.dtype)
    first = torch.empty_like(wanted).scatter_(0, places, torch.arange(len(places), device=places.device))
    order = first[~is_known].sort()  # by point, then by image
    scores = []
    for part in order.values.split(case.chunk):
        image, point = part % len(ranks), part // len(ranks)
        is_gone = points[image] <= point[:, None, None]
        images = change(~is_gone if is_back else is_gone, image)
        scores.append(case.read(case.predict(images), output, image))
    if scores:
        found[(~is_known).nonzero()[:, 0][order.indices]] = torch.cat(scores)
        known.keep(wanted[~is_known], found[~is_known])
    return found[places].view(len(counts), len(ranks)).T


def _prints(case: Case, points: Tensor, count: int, matters: Tensor, is_back: bool) -> Tensor:
    """(image, point): a whole number that tells changed images apart, the sum of one drawn for each pixel that is gone.

    Pixels that do not matter count as 0, so that equal images have equal numbers; that two others share one of the
    2⁶⁴ is as good as impossible. Overflow is meant.
    """
    size = points[0].numel()
    draws, count_of_draws = case.generator("prints"), (size + len(points),)
    drawn = torch.randint(-(2**63), 2**63 - 1, count_of_draws, generator=draws, device="cpu")
    drawn = drawn.to(points.device)
    weights = drawn[:size] * matters.flatten(1)
    steps = weights.new_zeros(len(points), count + 1).scatter_add_(1, points.flatten(1), weights)
    gone = steps[:, :-1].cumsum(1)
    return drawn[size:, None] + (weights.sum(1, keepdim=True) - gone if is_back else gone)


class _Scores:
    """The scores of changed images by their prints, in order."""

    prints: Tensor | None = None
    values: Tensor

    def look_up(self, wanted: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The scores, and which of them are known."""
        if self.prints is None:
            return wanted.new_zeros(len(wanted), dtype=dtype), torch.zeros_like(wanted, dtype=torch.bool)
        place = torch.searchsorted(self.prints, wanted).clamp(max=len(self.prints) - 1)
        return self.values[place], self.prints[place] == wanted

    def keep(self, prints: Tensor, values: Tensor) -> None:
        """Add scores that were unknown."""
        if self.prints is not None:
            prints, values = torch.cat([self.prints, prints]), torch.cat([self.values, values])
        self.prints, order = prints.sort()
        self.values = values[order]


def area(values: Tensor, counts: list[int]) -> Tensor:
    """(image,): the area under (image, point) curves by trapezoids, the whole way being 1.

    >>> area(torch.tensor([[1.0, 0.5, 0.0]]), [0, 5, 10])
    tensor([0.5000])
    """
    way = torch.tensor(counts, dtype=values.dtype, device=values.device)
    return torch.trapezoid(values, way, dim=1) / (counts[-1] - counts[0])
