"""Sampled Shapley values: what each patch adds when patches are revealed in random order (Castro et al., 2009)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pellucid.attribution import METHODS, Attribution, Outcome, Question, Subject
from pellucid.attribution._baselines import Baseline
from pellucid.attribution._hidden import FromLayer, from_layers
from pellucid.attribution._trials import Sizes, Trials, progress, sizes_of
from pellucid.core.options import Count
from pellucid.core.seeding import generator


@METHODS.register("shapley_sampling")
@dataclass(frozen=True)
class ShapleySampling(Attribution):
    """φₚ = mean over orders of f(p and all patches before it) − f(all patches before it); the rest is the baseline.

    Sums to f(x) − f(x₀), exactly and for every order (Castro et al., 2009; Štrumbelj and Kononenko, 2010). The players
    are patches with all their channels; a patch's value is divided evenly among its pixels and channels. The orders
    depend on the seed and are the same for every image; four times as many orders halve the error.
    """

    family: ClassVar[str] = "perturbation"
    reaches_layers: ClassVar[bool] = True
    unit: ClassVar[str] = "logits"
    answers: ClassVar[str] = "how much each patch adds to the logit, averaged over random orders of revealing patches"
    promises: ClassVar[frozenset[str]] = frozenset({"complete", "class_specific"})
    remedy: ClassVar[str] = "Compute in float64 (model.double() and images.double()), where rounding is far smaller."

    permutations: Count = 25
    """Number of random orders; each costs one evaluation per patch."""
    patch: Sizes = None
    """Patch size in pixels: one number, one per spatial axis, or one per axis with channels first; None: at most 14
    patches along the longest axis, or the channels of a hidden layer."""
    baseline: Baseline = 0.0
    """Baseline image: a number, a tensor that broadcasts to one image, or one row per image, (batch, …)."""
    seed: int = 0

    @from_layers
    def attribute_each(self, subject: Subject, images: Tensor, question: Question) -> list[Outcome]:
        trials = Trials(subject, images, question.targets, self.baseline)
        patches = self._all_patches(subject, images.shape[1:])
        count, source = int(patches.max()) + 1, generator(self.seed, "shapley_sampling")
        empty = trials.scores(trials.baseline[None])
        added = torch.zeros(*trials.score.shape, count, dtype=torch.float64, device=images.device)
        with progress("shapley_sampling", self.permutations * (count - 1)) as update:
            for number in range(self.permutations):
                order = torch.randperm(count, generator=source, device="cpu")
                # Along the path from nothing to everything, each score serves as the end of one step and the start of
                # the next.
                path = [empty]
                for start in range(1, count, trials.at_once):
                    sizes = torch.arange(start, min(start + trials.at_once, count), device="cpu")
                    # argsort of a permutation is its inverse: the rank of each patch in this order
                    is_shown = (order.argsort() < sizes[:, None])[:, patches].to(images.device)
                    path.append(trials.scores(torch.where(is_shown[:, None], images, trials.baseline)))
                    update(number * (count - 1) + int(sizes[-1]))
                # Differences of similar scores: float64 keeps their digits, and the sum telescopes exactly.
                steps = torch.cat([*path, trials.score[:, None]], 1).double().diff(dim=1)
                # A permutation repeats no index, so no addition is lost.
                added[..., order] += steps.movedim(1, -1)
        shares = (added / self.permutations / patches.flatten().bincount().to(added)).to(images)
        spent = self.permutations * (count - 1) + 1
        return trials.outcomes(shares[..., patches], spent, trials.score - empty[:, 0])

    def _all_patches(self, subject: Subject, shape: Sequence[int]) -> Tensor:
        """Patch index of each value, in the shape of an image or of a row of several inputs."""
        packing = subject.packing
        if isinstance(layer := subject.model, FromLayer):
            channel = (1, *layer.shape[1:])
            own = patches_of(layer.shape, channel) if self.patch is None else _patches(layer.shape, self.patch)
            # The columns of the image, which is held and so is its own baseline, are a player that adds nothing.
            held = torch.full((layer.image_shape.numel(),), int(own.max()) + 1, device="cpu")
            return torch.cat([own.flatten(), held])
        if packing is None:
            return _patches(shape, self.patch)
        rows, count = [], 0
        for part, patch in zip(packing.parts, packing.per_part(self.patch, "patch"), strict=True):
            rows.append(_patches(part.shape or (1,), patch).flatten() + count)
            count = int(rows[-1].max()) + 1
        return torch.cat(rows)


def _patches(shape: Sequence[int], patch: Sizes) -> Tensor:
    """Patch index of each value, in the shape of an image."""
    places = shape[1:] or shape  # an input without channels has only its one axis
    default = [-(-max(places) // 14)] * len(places)
    return patches_of(shape, sizes_of("patch", patch, default, shape, whole=shape[0]))


def patches_of(shape: Sequence[int], sides: Sequence[int]) -> Tensor:
    """Return the patch index of each input, counted row by row.

    >>> patches_of((2, 3), (2, 2))
    tensor([[0, 0, 1],
            [0, 0, 1]])
    """
    numbers = torch.zeros(tuple(shape), dtype=torch.int64, device="cpu")
    for axis, (size, side) in enumerate(zip(shape, sides, strict=True)):
        along = (torch.arange(size, device="cpu") // side).reshape(-1, *(1 for _ in shape[axis + 1 :]))
        numbers = numbers * -(-size // side) + along
    return numbers
