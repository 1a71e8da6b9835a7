"""Simple Taylor decomposition: the first-order expansion of the explained logit around a nearby root."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from pellucid.attribution import METHODS, Attribution, Outcome, Subject, Target, for_each_target
from pellucid.attribution._baselines import Baseline, baseline_like
from pellucid.attribution.gradient import slopes
from pellucid.core.options import Count
from pellucid.core.ranges import Range


@METHODS.register("simple_taylor")
@dataclass(frozen=True)
class SimpleTaylor(Attribution):
    """R = ∂f(x̃) ⊙ (x − x̃), in logits (Bach et al., 2015, equation 12; Montavon et al., 2018, section 4.2).

    x̃ is the root of the explained logit nearest to x on the segment from x to the baseline: the first change of sign
    among `places` equal steps, refined by `halvings` bisections. If there is none, x̃ is the baseline, and the
    explanation's `details["root_found"]` and notes say so.
    """

    family: ClassVar[str] = "gradient"
    unit: ClassVar[str] = "logits"
    answers: ClassVar[str] = "how much each pixel raises the explained logit above zero, to first order"

    baseline: Baseline = 0.0
    """Baseline image: a number, a tensor that broadcasts to one image, or one row per image, (batch, …)."""
    places: Count = 16
    """Steps from the image to the baseline that are searched for a change of sign."""
    halvings: Annotated[int, Range(0)] = 20
    """Number of bisections of the step with the change of sign."""

    @for_each_target
    def attribute_each(self, subject: Subject, images: Tensor, target: Target) -> Outcome:
        logits, (same,) = subject.predict(images, [target])
        direction = baseline_like(self.baseline, images) - images
        wide = (-1, *(1 for _ in images.shape[1:]))

        def score(share: Tensor) -> Tensor:
            with torch.no_grad():
                return same.scores(subject.logits(images + direction * share.view(wide)))

        share, is_found = self._root(score, same.scores(logits).detach())
        at_root = slopes(subject, images + direction * share.view(wide), [same])[0]
        # x − x̃ = −share · direction
        relevance = at_root.relevance * (-direction * share.view(wide))
        missing = int((~is_found).sum())
        note = "for some images, the explained logit has no root on the line to the baseline; x̃ is the baseline there"
        return Outcome(
            relevance, logits, same.classes(logits),
            # + 2: the passes of the image and of the root
            evaluations=torch.full((len(images),), self.places + self.halvings + 2, device=images.device),
            details={"root_found": is_found}, notes=(note,) if missing else (),
        )  # fmt: skip

    def _root(self, score: Callable[[Tensor], Tensor], at_image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the position of the nearest root, as a fraction of the line to the baseline, and if there is one."""
        low, high = torch.zeros_like(at_image), torch.ones_like(at_image)
        is_found = at_image == 0
        high[is_found] = 0  # the image itself is a root
        for step in range(1, self.places + 1):
            place = torch.full_like(at_image, step / self.places)
            is_new = ~is_found & (torch.sign(score(place)) != torch.sign(at_image))
            low[is_new], high[is_new] = (step - 1) / self.places, step / self.places
            is_found |= is_new
        for _ in range(self.halvings):
            middle = (low + high) / 2
            is_beyond = torch.sign(score(middle)) != torch.sign(at_image)
            high = torch.where(is_found & is_beyond, middle, high)
            low = torch.where(is_found & ~is_beyond, middle, low)
        # `high` rather than the middle: there the sign is known to have changed.
        return torch.where(is_found, high, torch.ones_like(high)), is_found
