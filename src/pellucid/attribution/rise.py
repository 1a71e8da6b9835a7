"""RISE: the mean of random masks, weighted by the score of the masked image (Petsiuk et al., 2018)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from pellucid.attribution import METHODS, Attribution, Outcome, Question, Subject
from pellucid.attribution._baselines import Baseline
from pellucid.attribution._trials import Trials, progress
from pellucid.core.errors import ShapeError
from pellucid.core.options import Count, Share
from pellucid.core.seeding import generator


@METHODS.register("rise")
@dataclass(frozen=True)
class Rise(Attribution):
    """R = Σᵢ f(x ⊙ Mᵢ) Mᵢ / (masks · E[M]) (equation 6 of the paper), in logits, the same for all channels.

    A mask is a grid of cells, each kept with probability `keep_share`, upsampled with (bi)linear interpolation to one
    cell more than the image and cropped at random. The masks depend on the seed and are the same for every image.
    The paper weights by the class probability: `target=lambda logits: logits.softmax(1)[:, 3]`.
    """

    family: ClassVar[str] = "perturbation"
    takes_tokens: ClassVar[bool] = False
    is_model_agnostic: ClassVar[bool] = True
    unit: ClassVar[str] = "logits"
    answers: ClassVar[str] = "how high the explained logit is, on average, when each pixel is visible"
    promises: ClassVar[frozenset[str]] = frozenset({"class_specific"})
    takes_several_inputs: ClassVar[bool] = False

    masks: Count = 2000
    """Number of masks."""
    cells: Count = 7
    """Cells per mask along each spatial axis."""
    keep_share: Share = 0.5
    """Probability that a cell is visible."""
    centred: bool = True
    """Subtract the mean score over all masks from each score, so that irrelevant pixels have relevance near 0; False:
    as in the paper, where the mean adds to all pixels."""
    baseline: Baseline = 0.0
    """Value of hidden pixels: a number, a tensor that broadcasts to one image, or one row per image, (batch, …)."""
    seed: int = 0

    def attribute_each(self, subject: Subject, images: Tensor, question: Question) -> list[Outcome]:
        if not 3 <= images.ndim <= 5:
            raise ShapeError(f"the images are {tuple(images.shape)}; RISE needs one to three spatial axes.")
        trials = Trials(subject, images, question.targets, self.baseline)
        places, source = images.shape[2:], generator(self.seed, "rise")
        total = images.new_zeros(len(question.targets), len(images), *places)
        # The sums over all masks that centering needs.
        seen, scores = torch.zeros_like(images[0, 0]), trials.score * 0
        with progress("rise", self.masks) as update:
            for start in range(0, self.masks, trials.at_once):
                count = min(trials.at_once, self.masks - start)
                masks = torch.stack([self.mask(places, source) for _ in range(count)]).to(images)
                part = trials.scores(torch.lerp(trials.baseline, images, masks[:, None, None]))
                total += torch.tensordot(part, masks, dims=([1], [0]))
                seen, scores = seen + masks.sum(0), scores + part.sum(1)
                update(start + count)
        if self.centred:  # Σ (fᵢ − f̄) Mᵢ = Σ fᵢ Mᵢ − f̄ Σ Mᵢ, without keeping the masks
            total -= (scores / self.masks).reshape(*scores.shape, *(1 for _ in places)) * seen
        # A copy: expanded channels would share memory.
        maps = (total / (self.masks * self.keep_share))[:, :, None].expand(-1, *images.shape).clone()
        return trials.outcomes(maps, self.masks)

    def mask(self, places: Sequence[int], source: Generator) -> Tensor:
        """Draw one mask with values in [0, 1], in float64; each pixel's expectation is `keep_share`."""
        shape = (1, 1, *(self.cells for _ in places))
        grid = torch.rand(shape, generator=source, dtype=torch.float64, device="cpu")
        sides = [-(-size // self.cells) for size in places]  # rounded up, so that the cells cover the image
        shifts = [int(torch.randint(side, (1,), generator=source, device="cpu")) for side in sides]
        mode = ("linear", "bilinear", "trilinear")[len(places) - 1]
        # One cell more than the image, so that every random crop fits.
        large = F.interpolate(
            (grid < self.keep_share).double(),
            size=[(self.cells + 1) * side for side in sides],
            mode=mode,
            align_corners=False,
        )
        cut = tuple(slice(shift, shift + size) for shift, size in zip(shifts, places, strict=True))
        return large[0, 0][cut]
