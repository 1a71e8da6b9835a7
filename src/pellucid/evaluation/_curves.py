"""Perturbation curves: the model's output as parts of an image are removed in the order of their relevance."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pellucid.evaluation._case import Case, Output
from pellucid.evaluation._removal import Remover

__all__ = ["area", "counts_of", "curve", "patch_scores", "pixel_places", "places"]


def patch_scores(pixels: Tensor, side: int) -> Tensor:
    """Sum over patches of `side` pixels along each axis, to one value per patch; border patches may be smaller.

    >>> patch_scores(torch.ones(1, 3, 4), 2)
    tensor([[[4., 4.],
             [2., 2.]]])
    """
    for axis in range(1, pixels.ndim):
        group = torch.arange(pixels.shape[axis], device=pixels.device) // side
        shape = list(pixels.shape)
        shape[axis] = int(group[-1]) + 1
        # index_add also covers the smaller patches at the border
        pixels = pixels.new_zeros(shape).index_add_(axis, group, pixels)
    return pixels


def places(scores: Tensor, draws: torch.Generator) -> Tensor:
    """Return the rank of each score within its image, 0 for the largest; ties are broken at random.

    `scores` and the result are (image, …).
    """
    flat = scores.flatten(1)
    # a stable sort of shuffled scores breaks ties in random order
    shuffle = torch.randperm(flat.shape[1], generator=draws, device="cpu").to(flat.device)
    order = shuffle[flat[:, shuffle].argsort(dim=1, descending=True, stable=True)]
    ranks = torch.empty_like(order)
    ranks.scatter_(1, order, torch.arange(flat.shape[1], device=flat.device).expand_as(order))
    return ranks.reshape(scores.shape)


def pixel_places(ranks: Tensor, side: int, size: Sequence[int]) -> Tensor:
    """Return the rank of each pixel's patch, (image, *size)."""
    for axis, length in enumerate(size, start=1):
        ranks = ranks.index_select(axis, torch.arange(length, device=ranks.device) // side)
    return ranks


def counts_of(units: int, steps: int) -> list[int]:
    """Return the number of removed units at each point of a curve: from none to all, in about equal steps.

    >>> counts_of(10, 4), counts_of(3, 25)
    ([0, 2, 5, 8, 10], [0, 1, 2, 3])
    """
    return sorted({round(units * step / steps) for step in range(steps + 1)})


def curve(
    case: Case, ranks: Tensor, counts: list[int], change: Remover, output: Output, *, is_back: bool = False
) -> Tensor:
    """Compute (image, point): the output without the pixels ranked below each count, or with only them if `is_back`.

    `ranks` is (image, …), one per place. A modified image that was scored before, at another point or by another
    method, is not evaluated again.
    """
    # the point of the curve at which each pixel is removed
    # right=True: a pixel is removed at the first count that exceeds its rank
    points = torch.bucketize(ranks, torch.tensor(counts, device=ranks.device), right=True)
    hashes = _hashes(case, points, len(counts), change.matters, is_back)
    wanted, entries = hashes.T.reshape(-1).unique(return_inverse=True)
    known = case.shared(("scores", change.removal, output), _ScoreCache)
    scores, is_known = known.look_up(wanted, case.images.dtype)
    # an arbitrary (image, point) with each unique hash stands for all of them
    first = torch.empty_like(wanted).scatter_(0, entries, torch.arange(len(entries), device=entries.device))
    order = first[~is_known].sort()  # by point, then by image
    computed = []
    # an empty tensor splits into one empty part, which some models reject
    for part in order.values.split(case.chunk) if len(order.values) else ():
        image, point = part % len(ranks), part // len(ranks)
        is_gone = points[image] <= point.view(-1, *(1 for _ in points.shape[1:]))
        images = change(~is_gone if is_back else is_gone, image)
        computed.append(case.read(case.predict(images), output, image))
    if computed:
        # `order.indices` undoes the sorting
        scores[(~is_known).nonzero()[:, 0][order.indices]] = torch.cat(computed)
        known.keep(wanted[~is_known], scores[~is_known])
    return scores[entries].view(len(counts), len(ranks)).T


def _hashes(case: Case, points: Tensor, count: int, matters: Tensor, is_back: bool) -> Tensor:
    """Return (image, point): 64-bit hashes of the modified images.

    Each pixel has a random integer, and the hash is the sum over the removed pixels (Zobrist hashing); integer overflow
    is intended. Pixels whose removal changes nothing count as 0, so that equal images have equal hashes. Collisions
    among 2⁶⁴ values are negligible.
    """
    # one integer per pixel and one per image, so that equal masks of different images differ
    size = points[0].numel()
    shape, draws = (size + len(points),), case.generator("prints")
    drawn = torch.randint(-(2**63), 2**63 - 1, shape, generator=draws, device="cpu")
    drawn = drawn.to(points.device)
    weights = drawn[:size] * matters.flatten(1)
    # the extra column collects the pixels that no point of the curve removes
    steps = weights.new_zeros(len(points), count + 1).scatter_add_(1, points.flatten(1), weights)
    gone = steps[:, :-1].cumsum(1)
    return drawn[size:, None] + (weights.sum(1, keepdim=True) - gone if is_back else gone)


class _ScoreCache:
    """Scores of modified images, sorted by hash."""

    hashes: Tensor | None = None
    values: Tensor

    def look_up(self, wanted: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return the scores, and which of them are known."""
        if self.hashes is None:
            return wanted.new_zeros(len(wanted), dtype=dtype), torch.zeros_like(wanted, dtype=torch.bool)
        # a hash above all known ones has the position len(self.hashes)
        place = torch.searchsorted(self.hashes, wanted).clamp(max=len(self.hashes) - 1)
        return self.values[place], self.hashes[place] == wanted

    def keep(self, hashes: Tensor, values: Tensor) -> None:
        """Add new scores."""
        if self.hashes is not None:
            hashes, values = torch.cat([self.hashes, hashes]), torch.cat([self.values, values])
        self.hashes, order = hashes.sort()
        self.values = values[order]


def area(values: Tensor, counts: list[int]) -> Tensor:
    """Compute the area under (image, point) curves by the trapezoidal rule, over an x axis scaled to [0, 1].

    >>> area(torch.tensor([[1.0, 0.5, 0.0]]), [0, 5, 10])
    tensor([0.5000])
    """
    x = torch.tensor(counts, dtype=values.dtype, device=values.device)
    return torch.trapezoid(values, x, dim=1) / (counts[-1] - counts[0])
