"""Sampled Shapley values: what each segment adds when segments are revealed in random order (Castro et al., 2009)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pellucid.attribution import METHODS, Outcome, Question, Subject
from pellucid.attribution._baselines import Baseline
from pellucid.attribution._segments import Segmented, Shown, shared_evenly
from pellucid.attribution._trials import Trials, progress
from pellucid.core.options import Count
from pellucid.core.seeding import generator


@METHODS.register("shapley_sampling")
@dataclass(frozen=True)
class ShapleySampling(Segmented):
    """φₚ = mean over orders of f(p and all segments before it) − f(all segments before it); the rest is the baseline.

    Sums to f(x) − f(x₀), exactly and for every order (Castro et al., 2009; Štrumbelj and Kononenko, 2010). A segment's
    value is divided evenly among its pixels and channels. The orders depend on the seed and are the same for every
    image; four times as many orders halve the error.
    """

    reaches_layers: ClassVar[bool] = True
    answers: ClassVar[str] = "how much each segment adds to the logit, averaged over random orders of revealing them"
    promises: ClassVar[frozenset[str]] = frozenset({"complete", "class_specific"})

    permutations: Count = 25
    """Number of random orders; each costs one evaluation per segment."""
    baseline: Baseline = 0.0
    """Baseline image: a number, a tensor that broadcasts to one image, or one row per image, (batch, …)."""
    seed: int = 0

    def attribute_segments(self, subject: Subject, images: Tensor, question: Question, index: Tensor) -> list[Outcome]:
        trials = Trials(subject, images, question.targets, self.baseline)
        count, source = int(index.max()) + 1, generator(self.seed, "shapley_sampling")
        empty = trials.scores(trials.baseline[None])
        added = torch.zeros(*trials.score.shape, count, dtype=torch.float64, device=images.device)
        shown = Shown(trials, index, self.permutations * (count - 1))
        with progress("shapley_sampling", self.permutations * (count - 1)) as update:
            for number in range(self.permutations):
                order = torch.randperm(count, generator=source, device="cpu")
                # Along the path from nothing to everything, each score serves as the end of one step and the start of
                # the next. The argsort of a permutation is its inverse: the rank of each segment in this order.
                is_shown = order.argsort() < torch.arange(1, count, device="cpu")[:, None]
                done = number * (count - 1)
                path = [empty, trials.score[:, None]]
                if count > 1:
                    path.insert(1, shown.scores(is_shown, update, done))
                # Differences of similar scores: float64 keeps their digits, and the sum telescopes exactly.
                # A permutation repeats no index, so no addition is lost.
                added[..., order] += torch.cat(path, 1).double().diff(dim=1).movedim(1, -1)
        maps = shared_evenly(added / self.permutations, index).to(images)
        return trials.outcomes(maps, self.permutations * (count - 1) + 1, trials.score - empty[:, 0])
