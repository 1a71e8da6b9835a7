"""Shapley values by sampling: what each patch adds when patches come in random order (Castro et al., 2009)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pellucid.attribution import METHODS
from pellucid.attribution._explanation import Outcome
from pellucid.attribution._method import Attribution
from pellucid.attribution._subject import Subject
from pellucid.attribution._target import Target
from pellucid.attribution._trials import Trials, progress
from pellucid.core.errors import ConfigError
from pellucid.core.seeding import generator


@METHODS.register("shapley_sampling")
@dataclass(frozen=True)
class ShapleySampling(Attribution):
    """φₚ = mean over orders of f(x with p and all before it) − f(x with all before it); the rest is the baseline.

    Sums to f(x) − f(x₀), exactly and for every order (Castro et al., 2009; Štrumbelj and Kononenko, 2010). The players
    are square patches with all their channels; a patch's value is shared evenly among its pixels and channels. The
    orders are drawn from the seed and are the same for every image; as many more orders make the error smaller by
    their square root.
    """

    family: ClassVar[str] = "perturbation"
    answers: ClassVar[str] = "how much each patch adds to the logit, on average over all orders of revealing patches"
    promises: ClassVar[frozenset[str]] = frozenset({"complete", "class_specific"})

    permutations: int = 25
    """How many orders; each takes as many evaluations as there are patches."""
    patch: int | None = None
    """Pixels along a patch's side; None: so many that there are at most 14 patches along the longest axis."""
    baseline: float | int | Tensor = 0.0
    """The empty image: a number, or a tensor that broadcasts to the images."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.permutations < 1 or (self.patch is not None and self.patch < 1):
            raise ConfigError(
                f"permutations is {self.permutations} and patch {self.patch}; expected 1 or more of each."
            )

    def attribute(self, subject: Subject, images: Tensor, target: Target, *, is_certified: bool) -> Outcome:
        trials = Trials(subject, images, target, self.baseline)
        places = images.shape[2:] or images.shape[1:]
        patches = patches_of(places, self.patch or -(-max(places) // 14))
        count, source = int(patches.max()) + 1, generator(self.seed, "shapley_sampling")
        empty = trials.scores(trials.baseline[None])[0]
        added = torch.zeros(len(images), count, dtype=torch.float64, device=images.device)
        with progress("shapley_sampling", self.permutations * (count - 1)) as update:
            for number in range(self.permutations):
                order = torch.randperm(count, generator=source)
                way = [empty[None]]
                for start in range(1, count, trials.at_once):
                    sizes = torch.arange(start, min(start + trials.at_once, count))
                    is_shown = order.argsort() < sizes[:, None]
                    way.append(trials.scores(_revealed(trials, is_shown[:, patches])))
                    update(number * (count - 1) + int(sizes[-1]))
                steps = torch.cat([*way, trials.score[None]]).double().diff(dim=0)
                added[:, order] += steps.T
        pixels = torch.bincount(patches.flatten()) * (images[0].numel() // patches.numel())
        shares = (added / self.permutations / pixels.to(added)).to(images)[:, patches]
        relevance = shares.reshape(len(images), -1, *places).expand(images.shape).clone()
        promised = trials.score - empty
        evaluations = trials.spent(self.permutations * (count - 1) + 1)
        return Outcome(relevance, trials.logits, trials.classes, promised, evaluations=evaluations)


def patches_of(places: Sequence[int], side: int) -> Tensor:
    """The number of the patch that each pixel belongs to, row by row.

    >>> patches_of((2, 3), 2)
    tensor([[0, 0, 1],
            [0, 0, 1]])
    """
    numbers = torch.zeros(tuple(places), dtype=torch.int64)
    for axis, size in enumerate(places):
        along = (torch.arange(size) // side).reshape(-1, *(1 for _ in places[axis + 1 :]))
        numbers = numbers * -(-size // side) + along
    return numbers


def _revealed(trials: Trials, is_shown: Tensor) -> Tensor:
    """(copy, batch, …): the images where `is_shown` (copy, …places), the baseline elsewhere."""
    images = trials.images
    mask = is_shown.to(images.device)
    mask = mask[:, None, None] if images.ndim > 2 else mask[:, None]
    return torch.where(mask, images, trials.baseline)
